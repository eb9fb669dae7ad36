//! The same calls of real PHP workers on every data path, and the same bytes for clients (docs/testing.md#php-on-every-data-path).
//!
//! Each case has network and process namespaces of its own and takes them along when it ends: our register and gateway, PHP's
//! BusinessWorkers, and the script that is the clients. Past the kernel a relay stands between script and gateway, because the
//! script knows 127.0.0.1 only.

use core::fmt;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{root, say};

/// One comparison.
#[derive(Clone, Copy)]
struct Case {
    path: DataPath,
    shards: u16,
    mode: Mode,
    /// PHP's worker processes.
    workers: u16,
    has_secret: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DataPath {
    Kernel,
    Dpdk,
    AfXdp,
}

#[derive(Clone, Copy)]
enum Mode {
    Direct,
    Dispatched,
}

/// On each path: shards, mode, workers, secret key.
const CASES: [(u16, Mode, u16, bool); 5] = [
    (1, Mode::Direct, 1, false),
    (2, Mode::Direct, 2, false),
    (1, Mode::Dispatched, 1, false),
    (2, Mode::Dispatched, 2, false),
    (2, Mode::Direct, 1, true),
];
const PATHS: [DataPath; 3] = [DataPath::Kernel, DataPath::Dpdk, DataPath::AfXdp];

/// Where the script looks for clients' port and register, as its variables say it.
const SCRIPT_CLIENT: (&str, &str) = ("GWP", "8282");
const SCRIPT_REGISTER: (&str, &str) = ("REGP", "1236");
const REGISTER: &str = "127.0.0.1:1236";
const INNER: &str = "127.0.0.1:2900";
const DISPATCHER: &str = "127.0.0.1:3900";
/// The script's address, and the clients' past the kernel: the transcript has the first wherever it saw the second.
const LOOPBACK: &str = "127.0.0.1";
const CLIENT: &str = "10.1.0.2";
const GATEWAY: &str = "10.1.0.1:8282";
const SECRET: &str = "between us";
/// Longest wait for a device.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs every case, `--rounds` times, and prints what differs from the recording of the PHP programs.
///
/// # Errors
/// Something is missing, or a case differs.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["inside", path, shards, mode, workers, secret] => {
            inside(Case::decode(path, shards, mode, workers, secret)?)
        }
        ["relay"] => relay(),
        _ => outside(&Options::parse(arguments)?),
    }
}

/// What the command line asks for.
struct Options {
    /// Checkouts of the PHP programs.
    peers: PathBuf,
    /// Script, worker and how they start.
    compat: PathBuf,
    golden: PathBuf,
    paths: Vec<DataPath>,
    is_release: bool,
    rounds: usize,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let (mut peers, mut compat, mut golden) = (None, None, None);
        let (mut paths, mut is_release, mut rounds) = (PATHS.to_vec(), false, 1);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument} needs a value"));
            let existing = |name: &str| Path::new(name).canonicalize().context(name.to_owned());
            match *argument {
                "--peers" => peers = Some(existing(value()?)?),
                "--compat" => compat = Some(existing(value()?)?),
                "--golden" => golden = Some(existing(value()?)?),
                "--path" => {
                    let name = *value()?;
                    if name != "all" {
                        paths = vec![DataPath::decode(name)?];
                    }
                }
                "--release" => is_release = true,
                "--rounds" => rounds = value()?.parse()?,
                other => bail!("compat does not know {other}"),
            }
        }
        let peers = peers.context("compat needs --peers, a folder with checkouts of GatewayWorker, workerman and coroutine")?;
        let compat = compat.context("compat needs --compat, the folder of drive.py")?;
        let golden = golden.unwrap_or_else(|| compat.join("../golden/ws.transcript"));
        Ok(Self { peers, compat, golden, paths, is_release, rounds })
    }
}

impl DataPath {
    fn decode(name: &str) -> Result<Self> {
        let path = PATHS.into_iter().find(|path| path.name() == name);
        path.with_context(|| format!("there is no data path {name}"))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Dpdk => "dpdk",
            Self::AfXdp => "af_xdp",
        }
    }
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Dispatched => "dispatched",
        }
    }
}

impl Case {
    fn decode(path: &str, shards: &str, mode: &str, workers: &str, secret: &str) -> Result<Self> {
        let mode = match mode {
            "direct" => Mode::Direct,
            "dispatched" => Mode::Dispatched,
            other => bail!("there is no mode {other}"),
        };
        Ok(Self {
            path: DataPath::decode(path)?,
            shards: shards.parse()?,
            mode,
            workers: workers.parse()?,
            has_secret: secret == "secret",
        })
    }

    /// As [`Case::decode`] reads it.
    fn encode(self) -> [String; 5] {
        [
            self.path.name().to_owned(),
            self.shards.to_string(),
            self.mode.name().to_owned(),
            self.workers.to_string(),
            if self.has_secret { "secret" } else { "open" }.to_owned(),
        ]
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.encode().join(" | "))
    }
}

/// Builds the programs and goes through the cases.
fn outside(options: &Options) -> Result<()> {
    build(options)?;
    let golden = fs::read_to_string(&options.golden)
        .with_context(|| options.golden.display().to_string())?;
    say("\n| path | shards | mode | PHP workers | secret key | s | transcript |");
    say("|---|---|---|---|---|---|---|");
    let mut different = 0;
    for round in 0..options.rounds {
        for path in &options.paths {
            for (number, (shards, mode, workers, has_secret)) in CASES.into_iter().enumerate() {
                let case = Case { path: *path, shards, mode, workers, has_secret };
                let name = format!("{}-{round}-{}-{number}", std::process::id(), path.name());
                let folder = std::env::temp_dir().join(format!("tengate-compat-{name}"));
                let began = now();
                let found = compare(case, &folder, options, &golden)?;
                let seconds = began.elapsed().as_secs();
                let verdict = match &found {
                    None => "equal".to_owned(),
                    Some(difference) => format!("{difference}; logs in {}", folder.display()),
                };
                say(&format!("| {case} | {seconds} | {verdict} |"));
                if found.is_none() {
                    fs::remove_dir_all(&folder)?;
                }
                different += usize::from(found.is_some());
            }
        }
    }
    ensure!(different == 0, "{different} cases differ from {}", options.golden.display());
    Ok(())
}

fn build(options: &Options) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "-p", "tengate"]).current_dir(root());
    if options.is_release {
        cargo.arg("--release");
    }
    if options.paths.contains(&DataPath::Dpdk) {
        cargo.args(["--features", "dpdk"]);
    }
    ensure!(cargo.status()?.success(), "tengate cannot be built");
    Ok(())
}

/// Runs one case in namespaces of its own; the first difference from the recording.
fn compare(case: Case, folder: &Path, options: &Options, golden: &str) -> Result<Option<String>> {
    fs::create_dir_all(folder)?;
    let events = folder.join("events");
    fs::write(&events, "")?;
    let profile = if options.is_release { "release" } else { "debug" };
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), PathBuf::from);
    let secret = if case.has_secret { SECRET } else { "" };
    // Processes that the case leaves end with its first one.
    let status = Command::new("unshare")
        .args(["--net", "--pid", "--mount-proc", "--fork", "--kill-child"])
        .arg(std::env::current_exe()?)
        .args(["compat", "inside"])
        .args(case.encode())
        .envs([SCRIPT_CLIENT, SCRIPT_REGISTER, ("SECRET", secret), ("ROLES", "worker")])
        .env("BWN", case.workers.to_string())
        .env("PEERS", &options.peers)
        .env("RUNDIR", folder)
        .env("TENGATE_RUN_DIR", folder.join("run"))
        .env("EVLOG", events)
        .env(PROGRAM, target.join(profile).join("tengate"))
        .env(SCRIPTS, &options.compat)
        .stdin(Stdio::null())
        .status()
        .context("unshare cannot be started; is util-linux installed?")?;
    if !status.success() {
        return Ok(Some(format!("failed: {status}")));
    }
    let transcript = fs::read_to_string(folder.join(TRANSCRIPT))?;
    let transcript = transcript.replace(&format!("\"{CLIENT}\""), &format!("\"{LOOPBACK}\""));
    Ok(difference(golden, &transcript))
}

/// The first line that is not the same.
fn difference(golden: &str, transcript: &str) -> Option<String> {
    if golden == transcript {
        return None;
    }
    let (mut theirs, mut ours) = (golden.lines(), transcript.lines());
    for number in 1.. {
        let (their, our) = (theirs.next(), ours.next());
        if their == our && their.is_some() {
            continue;
        }
        let show = |line: Option<&str>| line.map_or_else(|| "nothing".to_owned(), excerpt);
        return Some(format!("line {number}: PHP `{}`, here `{}`", show(their), show(our)));
    }
    None
}

/// The beginning of a line.
fn excerpt(line: &str) -> String {
    line.chars().take(300).collect()
}

/// The cluster, the clients, and what they saw.
fn inside(case: Case) -> Result<()> {
    let folder = PathBuf::from(variable("RUNDIR")?);
    tool("ip", "link set lo up")?;
    let mut cluster = Cluster { folder, children: Vec::new() };
    cluster.start("register", &["register", "--listen", REGISTER])?;
    let clients = match case.path {
        DataPath::Kernel | DataPath::Dpdk => None,
        DataPath::AfXdp => Some(cluster.pair(case.shards)?),
    };
    fs::write(cluster.folder.join("gateway.toml"), configuration(case))?;
    let config = cluster.folder.join("gateway.toml").display().to_string();
    cluster.start("gateway", &["gateway", "--config", &config])?;
    if case.path == DataPath::Dpdk {
        wait_for("the TAP", || tool("ip", "link show tap0").is_ok())?;
        tool("ip", &format!("addr add {CLIENT}/24 dev tap0"))?;
        tool("ip", "link set tap0 up")?;
    }
    if let Mode::Dispatched = case.mode {
        cluster
            .start("dispatcher", &["dispatcher", "--listen", DISPATCHER, "--register", REGISTER])?;
    }
    if case.path != DataPath::Kernel {
        cluster.relay(clients)?;
    }
    let scripts = PathBuf::from(variable(SCRIPTS)?);
    let mut worker = Command::new("php");
    cluster.spawn("php", worker.arg(scripts.join("start.php")).arg("start"))?;
    let transcript = File::create(cluster.folder.join(TRANSCRIPT))?;
    // Python keeps what it has compiled beside its scripts.
    let mut clients = Command::new("python3");
    clients.arg("-B").arg(scripts.join("drive.py")).stdout(transcript);
    let status = clients.status().context("python3 cannot be started")?;
    ensure!(status.success(), "the clients failed: {status}");
    cluster.are_alive()
}

/// What the gateway is told, beside its secret key.
fn configuration(case: Case) -> String {
    let (shards, mode, path) = (case.shards, case.mode.name(), case.path.name());
    let port = SCRIPT_CLIENT.1;
    let gateway = format!(
        "[gateway]\nmode = \"{mode}\"\nshards = {shards}\npin_cores = false\nregister_address = \"{REGISTER}\"\n\
         data_path = \"{path}\"\n[gateway.inner]\nlisten = \"{INNER}\"\n\
         [[gateway.client]]\nlisten = \"0.0.0.0:{port}\"\n"
    );
    let netstack =
        "[gateway.netstack]\naddresses = [\"10.1.0.1/24\"]\nconnections_target = 10000\n";
    match case.path {
        DataPath::Kernel => gateway,
        DataPath::Dpdk => format!(
            "{gateway}[gateway.dpdk]\ndevice = \"net_tap0,iface=tap0\"\npages = \"ordinary\"\n{netstack}"
        ),
        DataPath::AfXdp => format!("{gateway}[gateway.af_xdp]\ninterface = \"in\"\n{netstack}"),
    }
}

/// The processes of a case. Each has a log.
struct Cluster {
    folder: PathBuf,
    children: Vec<(&'static str, Child)>,
}

impl Cluster {
    fn start(&mut self, name: &'static str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(variable(PROGRAM)?);
        command.args(arguments);
        let secret = variable("SECRET")?;
        if !secret.is_empty() {
            command.env("TENGATE_SECRET_KEY", secret);
        }
        self.spawn(name, &mut command)
    }

    fn spawn(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        self.children.push((name, child.with_context(|| format!("{name} cannot be started"))?));
        Ok(())
    }

    /// A pair of virtual interfaces, with a queue for each shard, and a namespace for the clients' end: who is in it.
    fn pair(&mut self, shards: u16) -> Result<u32> {
        let mut keeper = Command::new("unshare");
        // It ends with this process, whose end of the pipe closes then.
        keeper.args(["--net", "cat"]).stdin(Stdio::piped());
        self.spawn("keeper", &mut keeper)?;
        let pid = self.children.last().context("a keeper")?.1.id();
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let ours = namespace("self");
        wait_for("the clients' namespace", || {
            let theirs = namespace(&pid.to_string());
            theirs.is_some() && theirs != ours
        })?;
        let queues = format!("numtxqueues {shards} numrxqueues {shards}");
        tool("ip", &format!("link add in {queues} type veth peer name out {queues} netns {pid}"))?;
        let theirs = |line: &str| tool("nsenter", &format!("--net=/proc/{pid}/ns/net {line}"));
        // A checksum that is left to the device is never made on the way through a pair.
        tool("ethtool", "-K in tx off")?;
        theirs("ethtool -K out tx off")?;
        theirs(&format!("ip addr add {CLIENT}/24 dev out"))?;
        theirs("ip link set out up")?;
        tool("ip", "addr add 10.1.0.1/24 dev in")?;
        tool("ip", "link set in up")?;
        Ok(pid)
    }

    /// Takes the script's connections and makes each anew, where the clients are.
    fn relay(&mut self, clients: Option<u32>) -> Result<()> {
        let listener = TcpListener::bind((LOOPBACK, SCRIPT_CLIENT.1.parse::<u16>()?))?;
        let program = std::env::current_exe()?;
        let mut relay = match clients {
            None => Command::new(program),
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
                command
            }
        };
        self.spawn("relay", relay.args(["compat", "relay"]).stdin(OwnedFd::from(listener)))
    }

    /// Whether nobody ended before the clients had.
    fn are_alive(&mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("{name} has ended: {status}");
            }
        }
        Ok(())
    }
}

/// Serves the listener that is its standard input.
fn relay() -> Result<()> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    for client in listener.incoming() {
        let client = client?;
        // A client that comes before the gateway loses its connection, and comes again.
        let Ok(gateway) = TcpStream::connect_timeout(&GATEWAY.parse()?, PATIENCE) else { continue };
        for stream in [&client, &gateway] {
            stream.set_nodelay(true)?;
        }
        let (other_client, other_gateway) = (client.try_clone()?, gateway.try_clone()?);
        thread::spawn(move || pass_on(other_client, other_gateway));
        thread::spawn(move || pass_on(gateway, client));
    }
    Ok(())
}

/// Passes bytes on until their end, and that too.
fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut block = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut block) {
        if to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    // Either end may have gone before.
    drop(to.shutdown(Shutdown::Write));
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is missing"))
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let deadline = now() + PATIENCE;
    while !is_there() {
        ensure!(now() < deadline, "{what} does not come");
        thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a program with arguments that have no spaces.
fn tool(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{program} {arguments}: {}", said.trim());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "tells how long a case took, and gives up waiting")]
fn now() -> Instant {
    Instant::now()
}

/// Variables that tell the process inside where our program and the scripts are.
const PROGRAM: &str = "COMPAT_PROGRAM";
const SCRIPTS: &str = "COMPAT_SCRIPTS";
/// What clients saw, in a case's folder.
const TRANSCRIPT: &str = "transcript";
