//! The same clients, workers and promises on every data path: a gateway past the kernel, and Linux at the other end.
//!
//! Each test has network namespaces of its own, and needs root for them; without it says that it is skipped.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one module of tests")]
#![expect(clippy::unwrap_used, reason = "in a test, a failure should stop it")]

mod common;

use core::fmt::Write as _;
use core::time::Duration;
use std::io::Read as _;
use std::net::TcpStream;

use common::client::{Client, Load};
use common::cluster::{Cluster, GatewayProcess, WorkerProcess};
use common::netns::{self, Namespace};
use common::patience::until;
use common::worker;
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn this_binary_is_a_worker_when_started_as_one() {
    worker::run_if_asked();
}

#[cfg(feature = "dpdk")]
#[test]
fn clients_are_served_over_dpdk() {
    netns::inside("clients_are_served_over_dpdk", || serve(&Path::dpdk(1)));
}

#[cfg(feature = "dpdk")]
#[test]
fn clients_are_served_over_dpdk_by_two_shards() {
    netns::inside("clients_are_served_over_dpdk_by_two_shards", || serve(&Path::dpdk(2)));
}

#[cfg(feature = "dpdk")]
#[test]
fn trouble_with_clients_over_dpdk_stays_with_them() {
    netns::inside("trouble_with_clients_over_dpdk_stays_with_them", || trouble(Path::dpdk(2)));
}

#[test]
fn clients_are_served_over_af_xdp() {
    netns::inside("clients_are_served_over_af_xdp", || serve(&Path::af_xdp(1)));
}

#[test]
fn clients_are_served_over_af_xdp_by_two_shards() {
    netns::inside("clients_are_served_over_af_xdp_by_two_shards", || serve(&Path::af_xdp(2)));
}

#[test]
fn trouble_with_clients_over_af_xdp_stays_with_them() {
    netns::inside("trouble_with_clients_over_af_xdp_stays_with_them", || {
        trouble(Path::af_xdp(2));
    });
}

/// A cluster whose gateway is past the kernel, and the namespace it is in if that is not the clients'.
struct Path {
    cluster: Cluster,
    gateway: GatewayProcess,
    worker: WorkerProcess,
    shards: u64,
    _namespace: Option<Namespace>,
}

impl Path {
    /// Over a TAP interface that DPDK makes: Linux is at its other end, in the same namespace.
    #[cfg(feature = "dpdk")]
    fn dpdk(shards: u64) -> Self {
        let sections = format!(
            "data_path = \"dpdk\"\nshards = {shards}\npin_cores = false\n\
             [gateway.dpdk]\ndevice = \"net_tap0,iface=tap0\"\npages = \"ordinary\"\n{NETSTACK}"
        );
        Self::start(Cluster::new(), &sections, shards, None, netns::prepare_tap)
    }

    /// Over a pair of virtual interfaces with a queue for each shard, the gateway's end in a namespace of its own.
    fn af_xdp(shards: u64) -> Self {
        let namespace = Namespace::new();
        netns::veth(&namespace, shards);
        let mut cluster = Cluster::new();
        cluster.place.move_to(namespace.pid());
        let sections = format!(
            "data_path = \"af_xdp\"\nshards = {shards}\npin_cores = false\n\
             [gateway.af_xdp]\ninterface = \"in\"\n{NETSTACK}"
        );
        Self::start(cluster, &sections, shards, Some(namespace), || {})
    }

    fn start(
        cluster: Cluster,
        sections: &str,
        shards: u64,
        namespace: Option<Namespace>,
        prepare: impl FnOnce(),
    ) -> Self {
        let mut register = cluster.register();
        let mut gateway = cluster.gateway_on(sections, CLIENTS);
        gateway.process.wait_for("announced to the register");
        gateway.client = "10.1.0.1:8282".to_owned();
        prepare();
        let worker = WorkerProcess::start(&cluster, "worker");
        cluster.wait_for_workers(&gateway, &["worker:0"]);
        // It is on nobody's path any more, and takes nothing with it.
        register.signal(Signal::TERM);
        register.wait_for("stopped");
        Self { cluster, gateway, worker, shards, _namespace: namespace }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.gateway.client)
    }

    /// A gauge or counter of the gateway, over all shards.
    fn count(&self, group: &str, name: &str) -> u64 {
        let status = self.cluster.status(&self.gateway.process).expect("the gateway answers");
        let shards = status["shards"].as_array().unwrap().iter();
        shards.map(|shard| shard[group][name].as_u64().unwrap_or(0)).sum()
    }
}

const CLIENTS: &str = "[[gateway.client]]\nlisten = \"0.0.0.0:8282\"\nmessage_bytes_max = \"4MiB\"\n\
    send_to_client_buffer_bytes = \"32MiB\"\n\
    [[gateway.client]]\nprotocol = \"text\"\nlisten = \"0.0.0.0:8283\"\n";
const NETSTACK: &str = "[gateway.netstack]\naddresses = [\"10.1.0.1/24\", \"fd00::1/64\"]\n\
    connections_target = 20000\n";

/// Everything that goes well.
fn serve(path: &Path) {
    let mut clients: Vec<Client> = (0..CLIENTS_COUNT).map(|_| path.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("echo {number}")), format!("echo {number} worker"));
    }
    send_to_many(&mut clients);
    let mut six = Client::connect("[fd00::1]:8282");
    assert_eq!(six.ask("echo 6"), "echo 6 worker");
    large_messages(&mut clients[0]);
    let mut line = TcpStream::connect("10.1.0.1:8283").unwrap();
    line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::io::Write::write_all(&mut line, b"echo 7\n").unwrap();
    let mut answer = [0; 14];
    line.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"echo 7 worker\n");
    let load = Load::start(&path.gateway.client, 20);
    load.wait_for_answers(500);
    for account in load.finish() {
        assert!(account.lost.is_empty(), "{account:?}");
    }
    if path.shards > 1 {
        let status = path.cluster.status(&path.gateway.process).unwrap();
        let accepted = |shard: &Value| shard["counters"]["accepted"].as_u64().unwrap();
        let each: Vec<u64> = status["shards"].as_array().unwrap().iter().map(accepted).collect();
        assert!(each.iter().all(|count| *count > 2), "clients are on all shards: {each:?}");
    }
    assert_eq!(path.count("drops", "frame_malformed"), 0);
}

/// One copy for many receivers, by group, by uid and to everybody.
fn send_to_many(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        assert_eq!(client.ask("join all"), "join ok");
    }
    let count = clients.len();
    assert_eq!(clients[0].ask("count all"), format!("count {count}"));
    for text in ["short", &"long ".repeat(20_000)] {
        clients[0].send(&format!("group all {text}"));
        for client in clients.iter_mut() {
            assert_eq!(client.receive(), text);
        }
    }
    assert_eq!(clients[1].ask("bind somebody"), "bind ok");
    clients[0].send("uid somebody hello");
    assert_eq!(clients[1].receive(), "hello");
    clients[0].send("all everybody");
    for client in clients.iter_mut() {
        assert_eq!(client.receive(), "everybody");
    }
}

/// Messages of many segments, larger than windows, both ways.
fn large_messages(client: &mut Client) {
    let mut large = String::new();
    for number in 0..300_000 {
        write!(large, "{number} ").unwrap();
    }
    let id = client.ask("id");
    let id = id.strip_prefix("id ").unwrap();
    client.send(&format!("tell {id} {large}"));
    assert_eq!(client.receive(), large);
    assert_eq!(client.receive(), "tell ok");
}

/// Clients that do not read, that vanish, and a gateway that stops.
fn trouble(path: Path) {
    // What a client's kernel takes for it is then much less than the floods below.
    std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 262144").unwrap();
    let mut slow = path.connect();
    slow.send("flood 2000 8000");
    let mut others: Vec<Client> = (0..10).map(|_| path.connect()).collect();
    for (number, client) in others.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("echo {number}")), format!("echo {number} worker"));
    }
    until("the flood waits for its client", || {
        (path.count("stack", "pool_used_bytes") > 4 << 20).then_some(())
    });
    let filler = "x".repeat(8000);
    for number in 0..2000 {
        assert_eq!(slow.receive(), format!("{number} {filler}"));
    }
    until("the memory is free again", || {
        (path.count("stack", "pool_used_bytes") < 1 << 20).then_some(())
    });
    vanish(&path);
    stop(path, slow);
}

/// A client that is killed: its reset comes in the middle of what it is sent.
fn vanish(path: &Path) {
    let mut victim = path.connect();
    let id = victim.ask("id");
    let id = id.strip_prefix("id ").unwrap();
    victim.send("flood 2000 8000");
    // It does not read: closing the socket with unread bytes sends a reset.
    until("the flood is on its way", || {
        (path.count("stack", "pool_used_bytes") > 1 << 20).then_some(())
    });
    drop(victim);
    until("the gateway has noticed", || {
        let mut asker = path.connect();
        (asker.ask(&format!("online {id}")) == "online false").then_some(())
    });
    until("its memory is free", || {
        (path.count("stack", "pool_used_bytes") < 1 << 20).then_some(())
    });
}

/// A stop delivers what is queued, tells the worker of every client, and ends well.
fn stop(mut path: Path, mut last: Client) {
    let id = last.ask("id");
    let id = id.strip_prefix("id ").unwrap().to_owned();
    let before = path.count("counters", "deliveries");
    last.send("flood 1000 8000");
    let filler = "x".repeat(8000);
    assert_eq!(last.receive(), format!("0 {filler}"));
    until("the flood is in the gateway", || {
        (path.count("counters", "deliveries") >= before + 1000).then_some(())
    });
    path.gateway.process.signal(Signal::TERM);
    for number in 1..1000 {
        let Some(message) = last.message() else {
            panic!("message {number} is missing: {:?}", path.gateway.process.finish());
        };
        assert_eq!(message, format!("{number} {filler}"));
    }
    assert_eq!(last.message(), None);
    path.worker.wait_for_line(&format!("closed {id}"));
    let (code, log) = path.gateway.process.finish();
    assert_eq!(code, Some(0), "{log}");
}

/// Clients that are connected at once.
const CLIENTS_COUNT: usize = 40;
