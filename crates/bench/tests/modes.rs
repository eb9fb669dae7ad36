//! Runs the program in every mode against a small server, and checks what it counts. No figure that depends on time is
//! looked at, but that it is there.

#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use std::process::{Command, Output};

use common::{Server, Speech};
use serde_json::Value;

#[test]
fn a_closed_loop_counts_every_echo_in_all_three_protocols() {
    let protocols = [("ws", Speech::Websocket), ("text", Speech::Text), ("frame", Speech::Frame)];
    for (scheme, speech) in protocols {
        let server = Server::start(speech);
        let url = format!("{scheme}://{}", server.address);
        let report = json(&["echo", &url, "--clients", "3", "--seconds", "0.3", "--warmup", "0"]);
        assert!(report["messages"].as_u64().unwrap() >= 1, "{scheme}: {report}");
        assert_eq!(report["server_cpu_us_per_message"], Value::Null);
        for figure in ["messages_per_second", "latency_us_p50", "latency_us_p99", "latency_us_max"]
        {
            assert!(report[figure].as_f64().unwrap() > 0.0, "{scheme}: {figure}");
        }
        assert_eq!(server.connections(), 3);
    }
}

#[test]
fn an_open_loop_sends_its_whole_schedule_in_one_process_and_in_several() {
    let server = Server::start(Speech::Websocket);
    for processes in ["1", "3"] {
        let load = ["--clients", "5", "--rate", "1000", "--seconds", "0.3", "--warmup", "0.01"];
        let url = server.url();
        let options = [&["echo", &url, "--processes", processes], &load[..]].concat();
        let report = json(&options);
        assert_eq!((&report["messages"], &report["unanswered"]), (&300.into(), &0.into()));
        assert!(report["generator_lag"]["latency_us_max"].as_f64().unwrap() > 0.0);
    }
    // A client that answers no ping would be closed by a gateway; each has answered its own before its first echo.
    assert_eq!((server.connections(), server.pongs()), (10, 10));
}

#[test]
fn a_fanout_delivers_to_everyone_a_group_or_a_uid() {
    // Twelve clients in two processes: six each, so groups of four and of two.
    let cases = [("all", "1", 3 * 12), ("group", "1", 2 * (2 + 4 + 2)), ("uid", "2", 2 * 3 * 6)];
    for (to, at_once, deliveries) in cases {
        let server = Server::start(Speech::Websocket);
        let url = server.url();
        let load = ["--clients", "12", "--processes", "2", "--rounds", "3", "--group-size", "4"];
        let options = [&["fanout", &url, "--to", to, "--at-once", at_once], &load[..]].concat();
        let report = json(&options);
        assert_eq!(report["deliveries"], deliveries, "{to}");
        assert!(report["deliveries_per_second"].as_f64().unwrap() > 0.0);
        assert!(report["last_receiver"]["latency_us_p50"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn churn_opens_and_closes_and_opens_again() {
    let cases = [
        ("ws", Speech::Websocket, "clean"),
        ("ws", Speech::Websocket, "reset"),
        ("text", Speech::Text, "clean"),
        ("http", Speech::Http, "clean"),
        ("http", Speech::Http, "reset"),
    ];
    for (scheme, speech, close) in cases {
        let server = Server::start(speech);
        let url = format!("{scheme}://{}", server.address);
        let load = ["--clients", "2", "--seconds", "0.1", "--warmup", "0"];
        let options =
            [&["churn", &url, "--close", close, "--source", "127.0.0.2-127.0.0.5"], &load[..]];
        let report = json(&options.concat());
        let handshakes = report["handshakes"].as_u64().unwrap();
        assert!(handshakes >= 2, "{scheme}, {close}: {report}");
        assert!(server.connections() >= handshakes);
        assert_eq!(report["failed"], 0, "{scheme}, {close}");
    }
}

#[test]
fn all_clients_come_back_from_a_storm_and_refused_ones_try_again() {
    let server = Server::start(Speech::Websocket);
    server.refuse(20, 4);
    let url = server.url();
    let load = ["--clients", "20", "--at-once", "5", "--retry", "0.01"];
    let report = json(&[&["storm", &url], &load[..]].concat());
    assert_eq!((&report["refused"], &report["timed_out"]), (&4.into(), &0.into()));
    assert!(report["seconds_until_all_are_back"].as_f64().unwrap() > 0.0);
    assert_eq!(server.connections(), 44);
}

#[test]
fn slow_readers_get_later_what_the_server_kept() {
    let server = Server::start(Speech::Websocket);
    let url = server.url();
    let load = ["--clients", "10", "--slow-percent", "20", "--processes", "2", "--bytes", "20"];
    let options = [&["slow", &url, "--rate", "200", "--seconds", "0.2"], &load[..]].concat();
    let report = json(&options);
    let expected = [
        ("broadcasts", 40),
        ("slow_clients", 2),
        ("deliveries", 40 * 8),
        ("missed", 0),
        ("closed", 0),
        ("slow_closed", 0),
        ("slow_deliveries", 40 * 2),
        ("slow_missed", 0),
    ];
    for (figure, count) in expected {
        assert_eq!(report[figure], count, "{figure}");
    }
}

#[test]
fn an_outage_counts_every_message_of_a_server_that_answers_all_and_of_one_that_is_gone() {
    let server = Server::start(Speech::Websocket);
    let load = ["--clients", "5", "--rate", "1000", "--seconds", "0.3"];
    let report = json(&[&["outage", &server.url()], &load[..]].concat());
    for (figure, count) in [("sent", 300), ("answered", 300), ("lost", 0), ("repeated", 0)] {
        assert_eq!(report[figure], count, "{figure}");
    }
    for figure in ["out_of_order", "unasked", "closed", "unsent"] {
        assert_eq!(report[figure], 0, "{figure}");
    }
    assert_eq!(report["lost_between_ms"], Value::Null);
    for figure in ["silence_ms", "client_silence_ms_p99", "latency_us_p50"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}");
    }

    let server = Server::start(Speech::Text);
    server.answer_at_most(2 + 6);
    let url = format!("text://{}", server.address);
    let load = ["--clients", "2", "--rate", "1000", "--seconds", "0.1", "--bytes", "25"];
    let report = json(&[&["outage", &url], &load[..]].concat());
    // Both first messages are answered and six of the numbered ones; then the server closes each at its next message.
    assert_eq!((&report["answered"], &report["closed"]), (&6.into(), &2.into()));
    let [sent, lost, unsent] =
        ["sent", "lost", "unsent"].map(|figure| report[figure].as_u64().unwrap());
    assert_eq!((sent - lost, sent + unsent), (6, 100));
}

#[test]
fn held_clients_are_measured_in_memory_and_echo_meanwhile() {
    let server = Server::start(Speech::Frame);
    let url = format!("frame://{}", server.address);
    let pid = std::process::id().to_string();
    let load = ["--clients", "20", "--settle", "0", "--processes", "2", "--pid", &pid];
    let report = json(&[&["hold", &url, "--seconds", "0.1", "--rate", "500"], &load[..]].concat());
    assert_eq!((&report["messages"], &report["unanswered"]), (&50.into(), &0.into()));
    for figure in ["bytes_per_client", "kernel_bytes_per_client", "handshakes_per_second"] {
        assert!(report[figure].as_f64().is_some_and(|value| value >= 0.0), "{figure}");
    }
    // Each process warms up with two, then holds ten.
    assert_eq!(server.connections(), 24);
}

#[test]
fn a_result_can_be_a_table_a_markdown_table_and_a_picture() {
    let server = Server::start(Speech::Websocket);
    let url = server.url();
    let picture = std::env::temp_dir().join(format!("tengate-bench-{}.svg", std::process::id()));
    let load = ["echo", &url, "--clients", "1", "--seconds", "0.05", "--warmup", "0"];
    let table = run(&[&load[..], &["--svg", picture.to_str().unwrap()]].concat());
    assert!(stdout(&table).starts_with("echo, 1 clients, 64 B"), "{}", stdout(&table));
    assert!(std::fs::read_to_string(&picture).unwrap().contains("<polyline"));
    std::fs::remove_file(&picture).unwrap();
    let markdown = run(&[&load[..], &["--markdown"]].concat());
    assert!(stdout(&markdown).contains("|---|---|\n| rate | "), "{}", stdout(&markdown));
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let server = Server::start(Speech::Websocket);
    let (url, http) = (server.url(), format!("http://{}", server.address));
    let pid_max = u32::MAX.to_string();
    let cases = [
        (vec!["echo", "ws://127.0.0.1:1", "--clients", "1"], "is the server running"),
        (vec!["echo", &http], "only churn knows http"),
        (vec!["echo", "wss://127.0.0.1:1"], "wss:// is unknown"),
        (vec!["echo", &url, "--clients", "0"], "--clients must be at least 1"),
        (vec!["echo", &url, "--clients", "2", "--pid", &pid_max], "given by --pid"),
        (vec!["echo", &url, "--processes", "2", "--clients", "1"], "--processes"),
        (vec!["fanout", &url, "--bytes", "3"], "at least 17"),
        (vec!["outage", &url, "--bytes", "24"], "at least 25"),
        (vec!["outage", &url, "--processes", "2"], "outage has one process"),
        (vec!["slow", &url, "--clients", "10", "--slow-percent", "100"], "too many slow clients"),
        (vec!["churn", &url, "--source", "192.0.2.1", "--clients", "1"], "--source 192.0.2.1"),
    ];
    for (arguments, reason) in cases {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
}

impl Server {
    fn url(&self) -> String {
        format!("ws://{}", self.address)
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tengate-bench")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}
