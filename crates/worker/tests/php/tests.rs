//! A register and a gateway in PHP, a worker and an outside client in Rust.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use tengate_worker::php::{Array, Key, Value};
use tengate_worker::{
    BusinessWorker, CallError, Client, ClientId, Context, EventResult, Events, Gateway,
};
use tengate_worker::{Payload, WebsocketRequest, Worker};
use tokio::runtime::{Builder, Runtime};
use tungstenite::{Message, WebSocket};

const SECRET_KEY: &str = "between us";

#[test]
fn a_rust_worker_and_an_outside_client_work_with_php() {
    let Some(peers) = env::var_os("TENGATE_PHP_PEERS") else {
        println!(
            "SKIPPED: TENGATE_PHP_PEERS names no folder with GatewayWorker, workerman and coroutine"
        );
        return;
    };
    let php = Php::start(Path::new(&peers));
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (notes_in, notes) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = BusinessWorker::builder()
        .name("Probe")
        .register(php.register())
        .secret_key(SECRET_KEY)
        .build();
    let running = runtime.spawn(worker.unwrap().run_until(Probe { notes: notes_in }, async {
        let _ = stopped.await;
    }));
    let cluster = Cluster { php, runtime, notes };

    cluster.expect("start Probe:0");
    let mut clients = [cluster.connect("/a?room=7", true), cluster.connect("/b", false)];
    cluster.sessions_survive_pipelined_messages(&mut clients[0]);
    let outside = Client::builder().register(cluster.php.register()).secret_key(SECRET_KEY).build();
    let [one, two] = [clients[0].id, clients[1].id];
    cluster.runtime.block_on(check_names(&outside, one, two));
    cluster.runtime.block_on(check_sessions(&outside, one, two));
    cluster.sends_arrive(&outside, &mut clients);
    cluster.clients_are_closed(&outside, clients);

    stop.send(()).unwrap();
    cluster.runtime.block_on(running).unwrap();
    cluster.expect("stop Probe:0");
}

#[test]
fn a_wrong_secret_key_is_told_from_other_failures() {
    let Some(peers) = env::var_os("TENGATE_PHP_PEERS") else {
        println!(
            "SKIPPED: TENGATE_PHP_PEERS names no folder with GatewayWorker, workerman and coroutine"
        );
        return;
    };
    let php = Php::start(Path::new(&peers));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let outside = Client::builder().register(php.register()).secret_key("guessed").build();
    let error = runtime.block_on(outside.get_all_client_id_count()).unwrap_err();
    assert!(matches!(error, CallError::Register { .. }), "{error}");
}

async fn check_names(outside: &Gateway, one: ClientId, two: ClientId) {
    outside.bind_uid(one, "ann").await.unwrap();
    outside.bind_uid(two, 33).await.unwrap();
    outside.join_group(one, "g").await.unwrap();
    outside.join_group(two, "g").await.unwrap();
    outside.join_group(two, 42).await.unwrap();
    let both = BTreeSet::from([one, two]);
    let uids = BTreeSet::from(["ann".to_owned(), "33".to_owned()]);

    assert_eq!(outside.get_client_id_by_uid("ann").await, Ok(vec![one]));
    assert_eq!(outside.get_uid_by_client_id(two).await, Ok(Some("33".to_owned())));
    assert_eq!(outside.get_all_uid_list().await, Ok(uids.clone()));
    assert_eq!(outside.get_all_uid_count().await, Ok(2));
    assert_eq!(outside.get_uid_list_by_group("g").await, Ok(uids));
    assert_eq!(outside.get_uid_count_by_group("42").await, Ok(1));
    assert_eq!(outside.is_uid_online(33).await, Ok(true));
    assert_eq!(outside.is_uid_online("nobody").await, Ok(false));
    let online = BTreeMap::from([("ann".to_owned(), true), ("nobody".to_owned(), false)]);
    assert_eq!(outside.is_uids_online(["ann", "nobody"]).await, Ok(online));
    let clients = outside.batch_get_client_id_by_uid(["ann"]).await.unwrap();
    assert_eq!(clients.get("ann"), Some(&vec![one]));

    assert_eq!(outside.get_all_client_id_list().await, Ok(both.clone()));
    assert_eq!(outside.get_all_client_id_count().await, Ok(2));
    assert_eq!(outside.get_client_id_list_by_group("g").await, Ok(both.clone()));
    assert_eq!(outside.get_client_id_count_by_group("g").await, Ok(2));
    let counts = outside.batch_get_client_id_count_by_group(["g", "42"]).await.unwrap();
    assert_eq!(counts, BTreeMap::from([("g".to_owned(), 2), ("42".to_owned(), 1)]));
    let groups = BTreeSet::from(["g".to_owned(), "42".to_owned()]);
    assert_eq!(outside.get_all_group_id_list().await, Ok(groups));
    let members = outside.get_all_group_client_id_list().await.unwrap();
    assert_eq!(
        members,
        BTreeMap::from([("g".to_owned(), both), ("42".to_owned(), BTreeSet::from([two]))])
    );
    let counts = outside.get_all_group_uid_count().await.unwrap();
    assert_eq!(counts, BTreeMap::from([("g".to_owned(), 2), ("42".to_owned(), 1)]));

    outside.leave_group(one, "g").await.unwrap();
    outside.ungroup(42).await.unwrap();
    outside.unbind_uid(two, 33).await.unwrap();
    let counts = outside.get_all_group_client_id_count().await.unwrap();
    assert_eq!(counts, BTreeMap::from([("g".to_owned(), 1)]));
    assert_eq!(outside.get_uid_by_client_id(two).await, Ok(None));
}

async fn check_sessions(outside: &Gateway, one: ClientId, two: ClientId) {
    let session = |entries: &[(&str, Value)]| -> Array {
        entries.iter().map(|(key, value)| (Key::from(*key), value.clone())).collect()
    };
    let inner = session(&[("x", 1.into())]);
    outside.set_session(two, session(&[("deep", inner.into()), ("k", "v".into())])).await.unwrap();
    let change = session(&[("deep", session(&[("y", 2.into())]).into())]);
    outside.update_session(two, change).await.unwrap();
    let deep = session(&[("x", 1.into()), ("y", 2.into())]);
    let expected = session(&[("deep", deep.into()), ("k", "v".into())]);
    assert_eq!(outside.get_session(two).await, Ok(Some(expected.clone())));
    assert_eq!(outside.get_all_client_sessions().await.unwrap().get(&two), Some(&expected));
    let sessions = outside.get_client_sessions_by_group("g").await.unwrap();
    assert_eq!(sessions.into_keys().collect::<Vec<_>>(), [two]);
    assert_eq!(outside.is_online(one).await, Ok(true));
    let gone = ClientId { connection_id: 0x00ff_ffff, ..one };
    assert_eq!(outside.is_online(gone).await, Ok(false));
    assert_eq!(outside.get_session(gone).await, Ok(None));
}

/// Business code that tells the test what happens.
struct Probe {
    notes: mpsc::Sender<String>,
}

impl Events for Probe {
    async fn on_worker_start(&self, worker: &Worker) -> EventResult {
        self.note(format!("start {}:{}", worker.name(), worker.id()));
        Ok(())
    }

    async fn on_connect(&self, ctx: &mut Context) -> EventResult {
        self.note(format!("connect {}", ctx.client_id()));
        Ok(())
    }

    async fn on_websocket_connect(
        &self,
        ctx: &mut Context,
        request: &WebsocketRequest,
    ) -> EventResult {
        let uri = request.server("REQUEST_URI").cloned().unwrap_or(Value::Null);
        self.note(format!("websocket {} {:?}", text(&uri), request.query("room").map(text)));
        ctx.session_mut().insert("uri".into(), uri);
        Ok(())
    }

    async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
        if message != b"count" {
            ctx.send(message).await?;
            return Ok(());
        }
        let count = match ctx.session().get(&"count".into()) {
            Some(Value::Int(count)) => count + 1,
            _ => 1,
        };
        ctx.session_mut().insert("count".into(), count.into());
        ctx.send(count.to_string()).await?;
        Ok(())
    }

    async fn on_close(&self, ctx: &mut Context) -> EventResult {
        let uri = ctx.session().get(&"uri".into()).map(text);
        self.note(format!("close {} {uri:?}", ctx.client_id()));
        Ok(())
    }

    async fn on_worker_stop(&self, worker: &Worker) -> EventResult {
        self.note(format!("stop {}:{}", worker.name(), worker.id()));
        Ok(())
    }
}

impl Probe {
    fn note(&self, note: String) {
        self.notes.send(note).expect("the test listens to the end");
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Str(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Array(_) => {
            format!("{value:?}")
        }
    }
}

/// Everything that runs, and what business code noted.
struct Cluster {
    php: Php,
    runtime: Runtime,
    notes: mpsc::Receiver<String>,
}

/// A websocket client and its name in the cluster.
struct Browser {
    socket: WebSocket<TcpStream>,
    id: ClientId,
}

impl Cluster {
    fn note(&self) -> String {
        self.notes.recv_timeout(PATIENCE).expect("an event in time")
    }

    fn expect(&self, note: &str) {
        assert_eq!(self.note(), note);
    }

    /// Connects; the first time as often as it takes until the gateway is up and has its worker.
    fn connect(&self, path: &str, retry: bool) -> Browser {
        let url = format!("ws://127.0.0.1:{}{path}", self.php.client_port);
        let tries = if retry { 500 } else { 1 };
        let socket = (0..tries)
            .find_map(|_| {
                let stream =
                    retried(|| TcpStream::connect(("127.0.0.1", self.php.client_port)).ok());
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                tungstenite::client(url.as_str(), stream).ok()
            })
            .expect("a handshake")
            .0;
        let connected = self.note();
        let id = connected.strip_prefix("connect ").and_then(|id| id.parse().ok());
        let query = path.split_once("room=").map(|(_, room)| room);
        self.expect(&format!("websocket {path} {query:?}"));
        Browser { socket, id: id.expect("a connect with a client_id") }
    }

    fn sessions_survive_pipelined_messages(&self, client: &mut Browser) {
        let counts: Vec<String> = (1..=50).map(|count: u32| count.to_string()).collect();
        for _ in &counts {
            client.socket.write(Message::text("count")).unwrap();
        }
        client.socket.flush().unwrap();
        for count in &counts {
            assert_eq!(client.heard(), *count);
        }
    }

    fn sends_arrive(&self, outside: &Gateway, clients: &mut [Browser; 2]) {
        let [one, two] = [clients[0].id, clients[1].id];
        self.runtime.block_on(async {
            outside.send_to_all("all").await.unwrap();
            outside.send_to_all_except(&[two], "one: all but two").await.unwrap();
            outside.send_to_clients(&[one, two], "both").await.unwrap();
            outside.send_to_uid(["ann", "nobody"], "one: uid").await.unwrap();
            outside.join_group(one, "g").await.unwrap();
            outside.send_to_group("g", "group").await.unwrap();
            outside.send_to_group_except("g", &[two], "one: group but two").await.unwrap();
            outside.send_to_client(one, Payload::raw(b"\x81\x08one: raw")).await.unwrap();
            outside.send_to_client(two, "end").await.unwrap();
        });
        for message in [
            "all",
            "one: all but two",
            "both",
            "one: uid",
            "group",
            "one: group but two",
            "one: raw",
        ] {
            assert_eq!(clients[0].heard(), message);
        }
        for message in ["all", "both", "group", "end"] {
            assert_eq!(clients[1].heard(), message);
        }
    }

    fn clients_are_closed(&self, outside: &Gateway, [mut one, mut two]: [Browser; 2]) {
        self.runtime.block_on(outside.close_client_with(one.id, "bye")).unwrap();
        assert_eq!(one.heard(), "bye");
        assert!(
            one.socket.read().is_err() || one.socket.read().is_err(),
            "closed after the last message"
        );
        self.expect(&format!("close {} {:?}", one.id, Some("/a?room=7")));
        self.runtime.block_on(outside.destroy_client(two.id)).unwrap();
        assert!(two.socket.read().is_err());
        self.expect(&format!("close {} None", two.id));
    }
}

impl Browser {
    fn heard(&mut self) -> String {
        self.socket.read().unwrap().into_text().unwrap().to_string()
    }
}

/// A register and a gateway in PHP, until dropped.
struct Php {
    folder: PathBuf,
    register_port: u16,
    client_port: u16,
}

impl Php {
    fn start(peers: &Path) -> Self {
        let [register_port, client_port, inner_port] = free_ports();
        let folder =
            env::temp_dir().join(format!("tengate-php-{}-{register_port}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let script = BOOT
            .replace("@PEERS@", peers.to_str().expect("a folder's name in UTF-8"))
            .replace("@SECRET@", SECRET_KEY)
            .replace("@REGISTER@", &register_port.to_string())
            .replace("@CLIENT@", &client_port.to_string())
            .replace("@INNER@", &inner_port.to_string());
        fs::write(folder.join("start.php"), script).unwrap();
        let php = Self { folder, register_port, client_port };
        php.run(&["start", "-d"]);
        retried(|| TcpStream::connect(("127.0.0.1", register_port)).ok());
        php
    }

    fn register(&self) -> String {
        format!("127.0.0.1:{}", self.register_port)
    }

    fn run(&self, arguments: &[&str]) {
        let mut php = Command::new("php");
        php.arg("start.php").args(arguments).current_dir(&self.folder);
        let status = php.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("php runs").success(), "php start.php {arguments:?}");
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        self.run(&["stop"]);
        // What is left behind is a few small files in the folder for such.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ports nobody listens on; all held at once, so that they differ.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Asks again and again, for a bounded time, until there is an answer.
fn retried<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let (_never, nothing) = mpsc::channel::<()>();
    (0..500)
        .find_map(|_| {
            let answer = ask();
            if answer.is_none() {
                let _ = nothing.recv_timeout(Duration::from_millis(20));
            }
            answer
        })
        .expect("PHP is up in time")
}

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

const BOOT: &str = r#"<?php
spl_autoload_register(function (string $class): void {
    $roots = [
        'GatewayWorker\\' => '@PEERS@/GatewayWorker/src/',
        'Workerman\\Coroutine\\' => '@PEERS@/coroutine/src/',
        'Workerman\\' => '@PEERS@/workerman/src/',
    ];
    foreach ($roots as $prefix => $root) {
        $file = $root . str_replace('\\', '/', substr($class, strlen($prefix))) . '.php';
        if (str_starts_with($class, $prefix) && is_file($file)) {
            require $file;
            return;
        }
    }
});
Workerman\Worker::$pidFile = __DIR__ . '/pid';
Workerman\Worker::$logFile = __DIR__ . '/log';
$register = new GatewayWorker\Register('text://127.0.0.1:@REGISTER@');
$register->secretKey = '@SECRET@';
$gateway = new GatewayWorker\Gateway('websocket://127.0.0.1:@CLIENT@');
$gateway->lanIp = '127.0.0.1';
$gateway->startPort = @INNER@;
$gateway->registerAddress = '127.0.0.1:@REGISTER@';
$gateway->secretKey = '@SECRET@';
Workerman\Worker::runAll();
"#;
