//! PHP BusinessWorkers and GatewayClient on our register and gateway.
//!
//! Needs PHP and a folder with checkouts of GatewayWorker, workerman and coroutine, named by `TENGATE_PHP_PEERS`; without
//! it the test says that it is skipped. With a checkout of GatewayClient beside them that one is used, else the same class of
//! GatewayWorker.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::client::{Client, Load};
use common::cluster::{Cluster, SECRET_KEY};
use common::patience::until;
use common::stderr;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PEERS: &str = "TENGATE_PHP_PEERS";

#[test]
fn php_workers_and_an_outside_client_serve_our_gateway() {
    let Some(peers) = env::var_os(PEERS) else {
        println!("SKIPPED: {PEERS} names no folder with GatewayWorker, workerman and coroutine");
        return;
    };
    let cluster = Cluster::new();
    let _register = cluster.register();
    let gateway = cluster.gateway(0);
    let php = Php { cluster: &cluster, peers };
    let _workers = php.start_workers();
    cluster.wait_for_workers(&gateway, &["Php:0", "Php:1"]);
    let mut ann = Client::connect(&gateway.client);
    let mut bob = Client::connect(&gateway.client);
    let ids = [&mut ann, &mut bob].map(|client| client.ask("id")["id ".len()..].to_owned());

    use_sessions_uids_and_groups(&mut ann, &mut bob);
    call_from_outside(&php, &ids, &mut ann, &mut bob);
    kill_a_worker(&gateway.client, &mut ann);
    cluster.wait_for_workers(&gateway, &["Php:0", "Php:1"]);

    // What the gateway keeps of a client does not go with a worker.
    let session = "session {\"path\":\"\\/\",\"name\":\"Ann\"}";
    assert_eq!(ann.ask("session"), session);
    bob.send("tell ann again");
    assert_eq!(ann.receive(), "again");
    let [id, _] = &ids;
    php.outside(&json!([["closeClient", id, "bye"]]));
    assert_eq!((ann.receive().as_str(), ann.message()), ("bye", None));
    assert_eq!(bob.receive(), "Ann left");
    assert_eq!(bob.ask("online ann"), "online 0");
}

fn use_sessions_uids_and_groups(ann: &mut Client, bob: &mut Client) {
    assert_eq!(ann.ask("session"), "session {\"path\":\"\\/\"}");
    assert_eq!(ann.ask("remember name Ann"), "remember ok");
    assert_eq!(ann.ask("session"), "session {\"path\":\"\\/\",\"name\":\"Ann\"}");
    assert_eq!(bob.ask("session"), "session {\"path\":\"\\/\"}");

    ann.send("be ann");
    until("Ann is known", || (bob.ask("online ann") == "online 1").then_some(()));
    bob.send("tell ann hello there");
    assert_eq!(ann.receive(), "hello there");

    ann.send("join 42");
    bob.send("join 42");
    until("both are in", || (bob.ask("members 42") == "members 2").then_some(()));
    ann.send("group 42 we two");
    assert_eq!([ann.receive(), bob.receive()], ["we two", "we two"]);
    bob.send("all of you");
    assert_eq!([ann.receive(), bob.receive()], ["of you", "of you"]);
}

fn call_from_outside(php: &Php<'_>, ids: &[String; 2], ann: &mut Client, bob: &mut Client) {
    let [ann_id, bob_id] = ids;
    let results = php.outside(&json!([
        ["getAllClientIdCount"],
        ["getClientIdByUid", "ann"],
        ["isOnline", ann_id],
        ["getSession", ann_id],
        ["getAllGroupIdList"],
        ["getUidListByGroup", 42],
        ["updateSession", bob_id, { "name": "Bob" }],
        ["getSession", bob_id],
    ]));
    assert_eq!(results[0], 2);
    assert_eq!(results[1], json!([ann_id]));
    assert_eq!(results[2], 1);
    assert_eq!(results[3], json!({ "path": "/", "name": "Ann" }));
    assert_eq!(results[4], json!({ "42": 42 }));
    assert_eq!(results[5], json!({ "ann": "ann" }));
    assert_eq!(results[7], json!({ "path": "/", "name": "Bob" }));

    php.outside(&json!([
        ["sendToClient", ann_id, "to a client"],
        ["sendToUid", "ann", "to a uid"],
        ["sendToGroup", 42, "to a group"],
        ["sendToAll", "to all but one", null, [ann_id]],
        ["sendToAll", "to everybody"],
    ]));
    // GatewayClient may open a connection for each call, and then nothing orders them.
    let for_ann = ["to a client", "to a group", "to a uid", "to everybody"];
    assert_eq!(BTreeSet::from(for_ann.map(|_| ann.receive())), for_ann.map(str::to_owned).into());
    let for_bob = ["to a group", "to all but one", "to everybody"];
    assert_eq!(BTreeSet::from(for_bob.map(|_| bob.receive())), for_bob.map(str::to_owned).into());
}

/// `kill -9` for the worker that serves Ann, under load.
fn kill_a_worker(address: &str, ann: &mut Client) {
    let load = Load::start(address, 8);
    load.wait_for_answers(20);
    let killed = ann.ask("echo 1").rsplit(' ').next().unwrap().to_owned();
    kill_process(Pid::from_raw(killed.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    until("the killed process is gone", || {
        (!Path::new(&format!("/proc/{killed}")).exists()).then_some(())
    });
    load.wait_for_answers(100);
    for account in load.finish() {
        assert_eq!(account.ended, None);
        assert!(account.answers.keys().any(|pid| *pid != killed), "{account:?}");
    }
}

/// Runs our PHP programs beside a cluster.
struct Php<'a> {
    cluster: &'a Cluster,
    peers: OsString,
}

/// Workerman's master process; its workers end with it.
struct Workers(Child);

impl Php<'_> {
    fn start_workers(&self) -> Workers {
        let log = std::fs::File::create(self.cluster.place.path("php.out")).unwrap();
        let mut command = self.command("worker.php");
        command.args(["start", "-q"]).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        Workers(command.stderr(log).spawn().unwrap())
    }

    /// The results of calls that a program makes which is no worker.
    fn outside(&self, calls: &Value) -> Value {
        let output = self.command("outside.php").arg(calls.to_string()).output().unwrap();
        let printed = common::stdout(&output);
        serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{error}: {printed} {}", stderr(&output)))
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("php");
        command
            .arg(format!("{}/tests/php/{script}", env!("CARGO_MANIFEST_DIR")))
            .env(PEERS, &self.peers)
            .env("FOLDER", self.cluster.place.path(""))
            .env("REGISTER", self.cluster.register_address())
            .env("SECRET_KEY", SECRET_KEY);
        command
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Killed, it would leave its workers behind.
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}
