//! The network of a test, and the processes at its ends.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tengate_io::af_xdp::Mode;

/// The gateway's end of the veth, in its namespace.
pub(crate) const INTERFACE: &str = "gate";
pub(crate) const GATEWAY_V4: &str = "10.77.0.1";
pub(crate) const GATEWAY_V6: &str = "fd77::1";
pub(crate) const PEER_V4: &str = "10.77.0.2";
const PEER_V6: &str = "fd77::2";

/// What the kernel's end leaves to a device that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// No checksums: enough in native mode.
    NoChecksums,
    /// Nor segmentation: the generic code gets frames longer than the MTU otherwise.
    None,
}

impl Offloads {
    pub(crate) fn of(mode: Mode) -> Self {
        if mode == Mode::Native { Self::NoChecksums } else { Self::None }
    }
}

/// Two namespaces with a veth between them; gone when it goes.
#[derive(Debug)]
pub(crate) struct Network {
    test: String,
    gateway: String,
    peer: String,
}

impl Network {
    /// `None`, and the reason printed, when this may not make one.
    pub(crate) fn new(test: &str, queues: u16, offloads: Offloads) -> Option<Self> {
        let name = |end| format!("tengate-{}-{}-{end}", std::process::id(), short(test));
        let network = Self { test: test.to_owned(), gateway: name("g"), peer: name("p") };
        if let Err(reason) = run("ip", &["netns", "add", &network.gateway]) {
            skip(&format!("needs root and iproute2 to make network namespaces: {reason}"));
            return None;
        }
        let Self { gateway, peer, .. } = &network;
        ip(&["netns", "add", peer]);
        let queues = queues.to_string();
        let queues = ["numtxqueues", &queues, "numrxqueues", &queues];
        let mut link = vec!["link", "add", "name", INTERFACE];
        link.extend(queues);
        link.extend(["netns", gateway, "type", "veth", "peer", "name", "peer"]);
        link.extend(queues);
        link.extend(["netns", peer]);
        ip(&link);
        for (namespace, interface, v4, v6) in
            [(gateway, INTERFACE, GATEWAY_V4, GATEWAY_V6), (peer, "peer", PEER_V4, PEER_V6)]
        {
            let (v4, v6) = (format!("{v4}/24"), format!("{v6}/64"));
            ip(&["-n", namespace, "address", "add", &v4, "dev", interface]);
            ip(&["-n", namespace, "address", "add", &v6, "dev", interface, "nodad"]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&["-n", namespace, "link", "set", interface, "up"]);
        }
        network.peer_runs(&["ethtool", "-K", "peer", "tx", "off"]);
        if offloads == Offloads::None {
            network.peer_runs(&["ethtool", "-K", "peer", "tso", "off", "gso", "off"]);
        }
        // A sender that waited in vain for an acknowledgement changes its hash, and a veth chooses the queue by that: the
        // connection would move to a shard that does not know it.
        network.peer_runs(&["sh", "-c", "echo 0 > /proc/sys/net/core/txrehash"]);
        Some(network)
    }

    /// Runs a command at the gateway's end.
    pub(crate) fn gateway_runs(&self, command: &[&str]) {
        ip(&[&["netns", "exec", &self.gateway], command].concat());
    }

    /// Runs a command at the other end.
    pub(crate) fn peer_runs(&self, command: &[&str]) {
        ip(&[&["netns", "exec", &self.peer], command].concat());
    }

    pub(crate) fn start_gateway(&self, role: &str) -> Role {
        self.start(&self.gateway, role, &[])
    }

    /// At the gateway's end, under another command that gets this program as its last arguments.
    pub(crate) fn start_gateway_under(&self, role: &str, command: &[&str]) -> Role {
        self.start(&self.gateway, role, command)
    }

    pub(crate) fn start_peer(&self, role: &str) -> Role {
        self.start(&self.peer, role, &[])
    }

    fn start(&self, namespace: &str, role: &str, command: &[&str]) -> Role {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .args(command)
            .arg(env::current_exe().unwrap())
            .args(["--exact", &self.test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        Role { child, stdin, stdout, name: role.to_owned() }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.peer] {
            run("ip", &["netns", "del", namespace]).ok();
        }
    }
}

/// One process, seen from the test.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    name: String,
}

impl Role {
    /// The next line the role says.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.strip_prefix(SAYS) {
                return said.trim().to_owned();
            }
            line.clear();
        }
        panic!("{} ended without a word", self.name);
    }

    pub(crate) fn expect(&mut self, word: &str) {
        assert_eq!(self.hear(), word, "{}", self.name);
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub(crate) fn succeed(mut self) {
        assert!(self.child.wait().unwrap().success(), "{} failed", self.name);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // What is left of a failed test.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The role of this process; none for the test itself.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

#[expect(clippy::print_stdout, reason = "how a role speaks with its test")]
pub(crate) fn say(line: &str) {
    // The test runner has begun a line of its own.
    println!("\n{SAYS}{line}");
}

/// Says that a test or a part of it did not run, past the runner, which keeps what `eprintln` says to itself.
pub(crate) fn skip(reason: &str) {
    std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
}

pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn ip(arguments: &[&str]) {
    run("ip", arguments).unwrap_or_else(|reason| panic!("ip {}: {reason}", arguments.join(" ")));
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A few letters of a test's name: names of namespaces are files, and should be short.
fn short(test: &str) -> String {
    let hash = test.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
    format!("{hash:x}")
}

const ROLE: &str = "TENGATE_TEST_ROLE";
const SAYS: &str = "says: ";
