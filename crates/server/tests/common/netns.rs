//! Network namespaces of a test's own: nothing outside is touched, and the kernel removes them with the processes in them.

use std::process::{Child, Command, Stdio};

/// Says inside that the test is where it should be.
const INSIDE: &str = "TENGATE_TEST_INSIDE_NAMESPACE";

/// Runs `scenario` in a network namespace of its own, which has an interface `lo` that is up: this test binary is started again
/// there for the test called `test`. Without the privileges it says so and runs nothing.
///
/// # Panics
/// When the scenario does.
#[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
pub(crate) fn inside(test: &str, scenario: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return scenario();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("{test} is skipped: network namespaces need root");
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "yes")
        .status()
        .expect("unshare of util-linux is there");
    assert!(status.success(), "{test} failed in its namespace; see above");
}

/// One more namespace, beside the one the test is in.
pub(crate) struct Namespace {
    /// Lives in it until its input ends, which is when the test does.
    keeper: Child,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let keeper =
            Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let namespace = Self { keeper };
        super::patience::until("the namespace is there", || {
            let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
            let theirs = of(&namespace.pid().to_string())?;
            (Some(theirs) != of("self")).then_some(())
        });
        namespace.ip("link set lo up");
        namespace
    }

    /// A process that is in it.
    pub(crate) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) {
        run(Command::new("nsenter").args(entering(self.pid())).arg("ip"), arguments);
    }

    /// Runs `ethtool` in it.
    pub(crate) fn ethtool(&self, arguments: &str) {
        run(Command::new("nsenter").args(entering(self.pid())).arg("ethtool"), arguments);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A pair of virtual interfaces with as many queues as `shards`: `out` here, with the addresses of clients, 10.1.0.2 and fd00::2,
/// and `in` in `namespace`, with 10.1.0.1 and fd00::1.
pub(crate) fn veth(namespace: &Namespace, shards: u64) {
    let queues = format!("numtxqueues {shards} numrxqueues {shards}");
    let pid = namespace.pid();
    ip(&format!("link add out {queues} type veth peer name in {queues} netns {pid}"));
    // A checksum that is left to the device is never made on the way through a pair.
    ethtool("-K out tx off");
    namespace.ethtool("-K in tx off");
    ip("addr add 10.1.0.2/24 dev out");
    ip("-6 addr add fd00::2/64 dev out nodad");
    namespace.ip("addr add 10.1.0.1/24 dev in");
    namespace.ip("-6 addr add fd00::1/64 dev in nodad");
    namespace.ip("link set in up");
    ip("link set out up");
}

/// Gives Linux its end of the TAP that a gateway over DPDK has just made: 10.1.0.2 and fd00::2.
pub(crate) fn prepare_tap() {
    super::patience::until("the TAP is there", || has_interface("tap0").then_some(()));
    ip("addr add 10.1.0.2/24 dev tap0");
    ip("-6 addr add fd00::2/64 dev tap0 nodad");
    ip("link set tap0 up");
}

/// What `nsenter` takes to run a program in the namespace of a process.
pub(crate) fn entering(pid: u32) -> [String; 1] {
    [format!("--net=/proc/{pid}/ns/net")]
}

/// Runs `ip` in the test's own namespace.
pub(crate) fn ip(arguments: &str) {
    run(&mut Command::new("ip"), arguments);
}

/// Runs `ethtool` there.
pub(crate) fn ethtool(arguments: &str) {
    run(&mut Command::new("ethtool"), arguments);
}

/// Whether an interface is there.
pub(crate) fn has_interface(name: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(["link", "show", name]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command, arguments: &str) {
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", super::stderr(&output));
}
