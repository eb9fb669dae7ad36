//! A register, gateways and workers, each a process of its own, on a loopback address of its own.

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU8, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::patience::{PATIENCE, until};
use super::{Place, Running, stderr, stdout};

/// An address of 127.0.0.0/8 that no other test uses. Its ports stay free while their owner is restarted, because
/// outgoing connections come from 127.0.0.1.
pub(crate) fn loopback() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high & 63, low, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The programs of one cluster, at fixed ports.
pub(crate) struct Cluster {
    pub(crate) place: Place,
    ip: Ipv4Addr,
}

/// A dispatcher process and where it is found.
pub(crate) struct DispatcherProcess {
    pub(crate) process: Running,
    /// Where workers connect, and what the register announces.
    pub(crate) address: String,
}

/// A gateway process and where it is found.
pub(crate) struct GatewayProcess {
    pub(crate) process: Running,
    /// Where clients connect.
    pub(crate) client: String,
    /// Where workers connect, and what the register announces.
    pub(crate) inner: String,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self { place: Place::new(), ip: loopback() }
    }

    pub(crate) fn register_address(&self) -> String {
        format!("{}:1236", self.ip)
    }

    pub(crate) fn register(&self) -> Running {
        let address = self.register_address();
        let args = ["register", "--listen", &address, "--secret-key", SECRET_KEY];
        let mut register = self.place.start(&args);
        register.wait_for("the register listens");
        register
    }

    /// The gateway of this number, from 0 to 9, with two shards, announced to the register.
    pub(crate) fn gateway(&self, number: u16) -> GatewayProcess {
        self.gateway_of(number, 2)
    }

    /// As [`Cluster::gateway`], with this many shards.
    pub(crate) fn gateway_of(&self, number: u16, shards: u16) -> GatewayProcess {
        let mut gateway = self.start_gateway(number, shards, "direct");
        gateway.process.wait_for("announced to the register");
        gateway
    }

    /// The gateway of this number in dispatched mode, with two shards and a lease.
    pub(crate) fn dispatched_gateway(&self, number: u16) -> GatewayProcess {
        let mut gateway = self.start_gateway(number, 2, "dispatched");
        gateway.process.wait_for("clients are welcome");
        gateway
    }

    /// The dispatcher of this number, from 0 to 9, announced to the register.
    pub(crate) fn dispatcher(&self, number: u16) -> DispatcherProcess {
        self.dispatcher_with(number, &[])
    }

    /// As [`Cluster::dispatcher`], with more arguments.
    pub(crate) fn dispatcher_with(&self, number: u16, more: &[&str]) -> DispatcherProcess {
        let address = format!("{}:{}", self.ip, 3900 + number);
        let register = self.register_address();
        let key = ["--secret-key", SECRET_KEY];
        let args = ["dispatcher", "--listen", &address, "--register", &register];
        let mut process = self.place.start(&[&args[..], &key, more].concat());
        process.wait_for("announced to the register");
        DispatcherProcess { process, address }
    }

    /// A gateway that has just been started; `mode` as in the configuration.
    pub(crate) fn start_gateway(&self, number: u16, shards: u16, mode: &str) -> GatewayProcess {
        let client = format!("{}:{}", self.ip, 8280 + number);
        let inner = format!("{}:{}", self.ip, 2900 + number);
        let register = self.register_address();
        let config = format!(
            "[gateway]\nmode = \"{mode}\"\nshards = {shards}\nregister_address = \"{register}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             [gateway.inner]\nlisten = \"{inner}\"\n\
             [[gateway.client]]\nlisten = \"{client}\"\nsend_to_client_buffer_bytes = \"{QUEUE_MIB}MiB\"\n"
        );
        let config = self.place.file(&format!("gateway-{number}.toml"), &config);
        let process = self.place.start(&["gateway", "--config", config.to_str().unwrap()]);
        GatewayProcess { process, client, inner }
    }

    /// A gateway with `clients`, the listeners of its configuration, and more sections behind.
    pub(crate) fn gateway_on(&self, gateway: &str, clients: &str) -> GatewayProcess {
        let inner = format!("{}:2900", self.ip);
        let register = self.register_address();
        let config = format!(
            "[gateway]\nregister_address = \"{register}\"\nsecret_key = \"{SECRET_KEY}\"\n{gateway}\n\
             [gateway.inner]\nlisten = \"{inner}\"\n{clients}\n"
        );
        let config = self.place.file("gateway.toml", &config);
        let process = self.place.start(&["gateway", "--config", config.to_str().unwrap()]);
        GatewayProcess { process, client: String::new(), inner }
    }

    /// What `tengate status --json` says of this process, or `None` when it does not know it.
    pub(crate) fn status(&self, process: &Running) -> Option<Value> {
        find(self.json("status"), process)
    }

    /// What `tengate connections --json` says of this process.
    pub(crate) fn connections(&self, process: &Running) -> Option<Value> {
        find(self.json("connections"), process)
    }

    /// Waits until every shard of the gateway knows exactly these workers.
    pub(crate) fn wait_for_workers(&self, gateway: &GatewayProcess, keys: &[&str]) {
        until(&format!("the gateway's workers are {keys:?}"), || {
            let status = self.status(&gateway.process)?;
            let mut shards = status["shards"].as_array().unwrap().iter();
            let knows = |shard: &Value| {
                let known = shard["workers"].as_object().unwrap();
                known.len() == keys.len()
                    && keys.iter().all(|key| known.keys().any(|known| known.ends_with(key)))
            };
            shards.all(knows).then_some(())
        });
    }

    /// What `tengate topology --json` says.
    pub(crate) fn topology(&self) -> Value {
        let register = self.register_address();
        let args = ["topology", "--json", "--register", &register, "--secret-key", SECRET_KEY];
        let output = self.place.output(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// Waits until every gateway is at home where the register wants it, at one of these dispatchers, every dispatcher is
    /// linked to every gateway, and every worker to every dispatcher.
    pub(crate) fn wait_for_links(
        &self,
        gateways: &[&GatewayProcess],
        dispatchers: &[&DispatcherProcess],
        workers: usize,
    ) {
        until("the cluster is linked", || {
            let topology = self.topology();
            let list = |value: &Value| value.as_array().unwrap().clone();
            let homes = list(&topology["gateways"]);
            let at_home = homes.iter().filter(|gateway| {
                gateway["home"] == gateway["home_wish"]
                    && dispatchers.iter().any(|one| gateway["home"] == one.address.as_str())
            });
            let linked = list(&topology["dispatchers"]);
            let complete = linked.iter().filter(|dispatcher| {
                list(&dispatcher["gateways"]).len() == gateways.len()
                    && list(&dispatcher["workers"]).len() == workers
            });
            (at_home.count() == gateways.len() && complete.count() == dispatchers.len())
                .then_some(())
        });
    }

    /// The addresses that the register announces, sorted.
    pub(crate) fn announced(&self) -> Vec<String> {
        let mut stream = TcpStream::connect(self.register_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = json!({ "event": "worker_connect", "secret_key": SECRET_KEY });
        stream.write_all(format!("{hello}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        let addresses = answer["addresses"].as_array().unwrap();
        let mut addresses: Vec<String> =
            addresses.iter().map(|address| address.as_str().unwrap().to_owned()).collect();
        addresses.sort();
        addresses
    }

    /// Waits until the register announces these gateways and no others.
    pub(crate) fn wait_for_announced(&self, gateways: &[&GatewayProcess]) {
        let mut wanted: Vec<&str> = gateways.iter().map(|gateway| gateway.inner.as_str()).collect();
        wanted.sort_unstable();
        until(&format!("the register announces {wanted:?}"), || {
            (self.announced() == wanted).then_some(())
        });
    }

    fn json(&self, command: &str) -> Vec<Value> {
        let output = self.place.output(&[command, "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }
}

fn find(answers: Vec<Value>, process: &Running) -> Option<Value> {
    answers.into_iter().find(|answer| answer["pid"] == process.pid())
}

/// How many descriptors a process has open, without the Unix sockets over which `tengate status` asks: those go some time
/// after the answer.
pub(crate) fn descriptor_count(pid: u32) -> usize {
    let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let inodes: BTreeSet<&str> =
        tcp.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let counts = |target: &str| match target.strip_prefix("socket:[") {
        Some(inode) => inodes.contains(inode.trim_end_matches(']')),
        None => true,
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // One that is closed in between has no target any more.
    let targets = descriptors.filter_map(|one| std::fs::read_link(one.unwrap().path()).ok());
    targets.filter(|target| counts(&target.to_string_lossy())).count()
}

/// What every program of a cluster knows.
pub(crate) const SECRET_KEY: &str = "between us";

/// What may wait for one client: more than the kernel takes for a client that does not read.
pub(crate) const QUEUE_MIB: usize = 32;

/// A worker process, killed when the test ends. What it prints is kept by line.
pub(crate) struct WorkerProcess {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: BTreeMap<String, usize>,
}

impl WorkerProcess {
    /// Starts this test binary again, with its worker instead of its tests; see `worker::run_if_asked`.
    pub(crate) fn start(cluster: &Cluster, name: &str) -> Self {
        let mut command = cluster.place.program(std::env::current_exe().unwrap());
        command
            .args(["--exact", super::worker::TEST_NAME, "--nocapture"])
            .env(super::worker::REGISTER_VARIABLE, cluster.register_address())
            .env(super::worker::NAME_VARIABLE, name);
        Self::spawn(command)
    }

    /// Runs any command whose output is lines.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, seen: BTreeMap::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and nothing is left of it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has printed this line.
    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        until(&format!("the worker prints {wanted:?}; it printed {:?}", self.seen), || {
            for line in self.lines.try_iter() {
                *self.seen.entry(line).or_default() += 1;
            }
            self.seen.contains_key(wanted).then_some(())
        });
    }

    /// How often it has printed this line, of what was waited for.
    pub(crate) fn count_of(&self, line: &str) -> usize {
        self.seen.get(line).copied().unwrap_or(0)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
