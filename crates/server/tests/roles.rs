//! Register, gateway and start, running as users run them.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use common::{Place, Running, free_addresses, mode, stderr, stdout};
use rustix::process::Signal;
use serde_json::Value;

/// Nothing here takes long; a hanging test should end with what it waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until `text` has come.
fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut chunk).unwrap();
        all.extend_from_slice(&chunk[..count]);
        let seen = String::from_utf8_lossy(&all).into_owned();
        if seen.contains(text) {
            return seen;
        }
        assert_ne!(count, 0, "the connection ended without {text:?}: {seen}");
    }
}

fn open_websocket(address: &str) -> TcpStream {
    let mut stream = connect(address);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// One masked text frame, with a mask of zeros; at most 125 bytes.
fn send_text(stream: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).unwrap();
}

fn json(place: &Place, command: &str) -> Value {
    let output = place.output(&[command, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

struct Cluster {
    place: Place,
    register: Running,
    gateway: Running,
    client: String,
}

fn cluster() -> Cluster {
    let place = Place::new();
    let [register_address, client, inner] = free_addresses();
    let mut register =
        place.start(&["register", "--listen", &register_address, "--secret-key", "s"]);
    register.wait_for("the register listens");
    let url = format!("text://{client}");
    let args =
        ["--inner", &inner, "--register", &register_address, "--shards", "2", "--secret-key", "s"];
    let mut gateway = place.start(&[&["gateway", "--client", &url][..], &args].concat());
    gateway.wait_for("announced to the register");
    Cluster { place, register, gateway, client }
}

#[test]
fn status_shows_every_process_of_the_box() {
    let cluster = cluster();
    let processes = json(&cluster.place, "status");
    let roles: Vec<&str> = processes
        .as_array()
        .unwrap()
        .iter()
        .map(|process| process["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["gateway", "register"]);
    assert_eq!(processes[0]["pid"], cluster.gateway.pid());
    assert_eq!(processes[0]["registers"][0]["connected"], true);
    assert_eq!(processes[0]["shards"].as_array().unwrap().len(), 2);
    assert_eq!(processes[1]["shards"][0]["counters"]["gateways"], 1);

    let page = stdout(&cluster.place.output(&["status"]));
    let rows: Vec<Vec<&str>> = page.lines().map(|line| line.split_whitespace().collect()).collect();
    let pid = cluster.gateway.pid().to_string();
    let listening = format!("text://{}", cluster.client);
    let of_gateway = rows
        .iter()
        .filter(|row| row.first() == Some(&pid.as_str()) && row.get(2) == Some(&&*listening));
    assert_eq!(of_gateway.count(), 2, "{page}");
    assert!(page.contains("GLOBAL STATUS") && page.contains("PROCESS STATUS"), "{page}");
}

#[test]
fn connections_lists_clients_and_links() {
    let cluster = cluster();
    let mut client = connect(&cluster.client);
    client.write_all(b"hello\n").unwrap();
    let local = client.local_addr().unwrap().to_string();
    // The shard reads the message before it answers, or lists the connection without it: either way it is listed once
    // the kernel has handed it over, which the status's count of accepted connections shows.
    loop {
        let processes = json(&cluster.place, "status");
        let shards = processes[0]["shards"].as_array().unwrap();
        if shards.iter().any(|shard| shard["clients"] == 1) {
            break;
        }
    }
    let listed = json(&cluster.place, "connections");
    let all: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|process| process["connections"].as_array().unwrap())
        .collect();
    let row = all.iter().find(|row| row["foreign"] == local.as_str()).unwrap();
    assert_eq!(
        (row["protocol"].as_str(), row["status"].as_str()),
        (Some("Text"), Some("ESTABLISHED"))
    );
    let page = stdout(&cluster.place.output(&["connections"]));
    let header = "PID      Worker          CID       Trans   Protocol        ipv4   ipv6   Recv-Q";
    assert!(page.contains(header) && page.contains(&local), "{page}");
}

#[test]
fn admin_sockets_are_for_their_user_only_and_go_with_their_process() {
    let Cluster { place, register, gateway, .. } = cluster();
    let socket = place.run_dir().join(format!("gateway-{}.sock", gateway.pid()));
    assert_eq!((mode(&place.run_dir()), mode(&socket)), (0o700, 0o600));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.finish().0, Some(0));
    assert!(!socket.exists());

    // A killed process leaves its socket; the next question removes it.
    let socket = place.run_dir().join(format!("register-{}.sock", register.pid()));
    register.signal(Signal::KILL);
    assert_eq!(register.finish().0, None);
    assert!(socket.exists());
    let output = place.output(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no tengate process runs"), "{}", stderr(&output));
    assert!(!socket.exists());
}

#[test]
fn a_run_directory_open_to_others_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.run_dir()).unwrap();
    std::fs::set_permissions(place.run_dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let [listen] = free_addresses();
    for args in [&["register", "--listen", &listen][..], &["status"]] {
        let output = place.output(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&output).contains("is open to other users; chmod 700"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_taken_port_is_a_runtime_failure_that_says_what_to_do() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = place.output(&["register", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("the port is taken") && stderr(&output).contains("ss -ltnp"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn sighup_takes_over_what_it_can_and_names_the_rest() {
    let place = Place::new();
    let [client, inner, register] = free_addresses();
    let config = |rest: &str, keys: &str| {
        let gateway = format!("[gateway]\nshards = 1\nregister_address = \"{register}\"\n{keys}\n");
        format!(
            "{gateway}[gateway.inner]\nlisten = \"{inner}\"\n[[gateway.client]]\nlisten = \"{client}\"\n{rest}\n"
        )
    };
    let path = place.file("t.toml", &config("", ""));
    let mut gateway = place.start(&["gateway", "--config", "t.toml"]);
    gateway.wait_for("cannot be reached");

    std::fs::write(
        &path,
        config(
            "ping_interval = 50\nping_data = \"p\"\nslow_client = \"close\"",
            "pin_cores = false",
        ),
    )
    .unwrap();
    gateway.signal(Signal::HUP);
    let changed = gateway.wait_for("configuration reloaded");
    for key in
        ["gateway.client.ping_data", "gateway.client.ping_interval", "gateway.client.slow_client"]
    {
        assert!(changed.contains(key), "{key}: {changed}");
    }
    let restart = gateway.wait_for("need a restart");
    assert!(restart.contains("gateway.pin_cores") && !restart.contains("ping"), "{restart}");

    std::fs::write(&path, config("", "shrds = 1")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.wait_for("did you mean `shards`?");
    gateway.wait_for("nothing is reloaded");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.finish().0, Some(0));
}

#[test]
fn start_runs_a_chat_with_its_page_and_stops_in_order() {
    let place = Place::new();
    let [register, inner, client, page] = free_addresses();
    place.file(
        "t.toml",
        &format!(
            "[register]\nlisten = \"{register}\"\n[gateway]\nregister_address = \"{register}\"\n\
             [gateway.inner]\nlisten = \"{inner}\"\n[[gateway.client]]\nlisten = \"{client}\"\n[demo]\npage_listen = \"{page}\"\n"
        ),
    );
    let mut start = place.start(&["start", "--config", "t.toml"]);
    start.wait_for(&format!("open http://{page}/?gateway={client}"));

    let mut http = connect(&page);
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    http.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.contains("<!doctype html>"), "{response}");
    for header in [
        "content-security-policy: default-src 'none'",
        "content-type: text/html",
        "cache-control: no-cache",
    ] {
        assert!(head.contains(header), "{header}\n{head}");
    }

    let mut websocket = open_websocket(&client);
    read_until(&mut websocket, "\r\n\r\n");
    send_text(
        &mut websocket,
        r#"{"type":"join","name":"Ann","token":"0123456789abcdef","room":"lobby"}"#,
    );
    read_until(&mut websocket, r#"{"type":"joined","name":"Ann","room":"lobby"}"#);

    start.signal(Signal::TERM);
    let mut rest = Vec::new();
    websocket.read_to_end(&mut rest).unwrap();
    let (code, log) = start.finish();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[test]
fn log_lines_can_be_json() {
    let place = Place::new();
    let [listen] = free_addresses();
    let mut register = place.start(&["register", "--listen", &listen, "--log-format", "json"]);
    let line: Value = serde_json::from_str(&register.wait_for("the register listens")).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["address"].as_str()),
        (Some("INFO"), Some(listen.as_str()))
    );
}
