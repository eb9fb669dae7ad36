//! What is measured: how it starts, where it listens, which processes are its server.

use core::sync::atomic::{AtomicU16, Ordering};
use core::time::Duration;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Placement, binary, folder};
use crate::root;

/// A server that loads are put on.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    /// PHP's register, gateway and worker, a process each.
    AllPhp,
    /// Our register and gateway with PHP's worker.
    TengatePhpWorker,
    /// Our register and gateway, and a worker on our SDK.
    Tengate { shards: u16, pinned: bool },
    /// The same with a dispatcher between gateway and worker; both count as the server.
    Dispatched,
    /// The bare server of `tengate-bench floor`.
    Floor,
    /// nginx with one worker process; it answers a request and closes.
    Nginx,
    /// Our register and gateway with one shard, and the lean worker.
    OnPath(DataPath),
}

/// A gateway's `data_path`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataPath {
    Kernel,
    /// A memif: memory that the generator shares.
    Dpdk,
}

/// What a gateway on a [`DataPath`] is told beyond where it listens.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// What pools are sized for.
    pub(crate) clients: u32,
    /// Time between heartbeats; 0 for none.
    pub(crate) ping_seconds: u32,
}

/// A gateway's `--mode`.
#[derive(Clone, Copy)]
enum Mode {
    Direct,
    Dispatched,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Dispatched => "dispatched",
        }
    }
}

/// A subject that is up. Dropping it stops it.
pub(crate) struct Running {
    pub(super) name: &'static str,
    pub(crate) url: String,
    /// What server costs are read of.
    pub(crate) server_pids: Vec<u32>,
    /// The generator's device, and the gateway's admin socket.
    pub(crate) past_kernel: Option<(String, PathBuf)>,
    /// Sockets and configuration, taken away at the end.
    scratch: Option<PathBuf>,
    children: Vec<Child>,
}

impl Subject {
    pub(super) const ONE_SHARD: Self = Self::Tengate { shards: 1, pinned: true };

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AllPhp => "all PHP",
            Self::TengatePhpWorker => "tengate, PHP worker",
            Self::Tengate { shards: 1, .. } => "tengate",
            Self::Tengate { shards: 2, pinned: true } => "2 shards, pinned",
            Self::Tengate { shards: 2, pinned: false } => "2 shards, not pinned",
            Self::Tengate { shards: 8, .. } => "8 shards",
            Self::Tengate { .. } => "tengate, several shards",
            Self::Dispatched => "dispatched",
            Self::Floor => "floor",
            Self::Nginx => "nginx",
            Self::OnPath(path) => path.name(),
        }
    }

    pub(super) const fn needs_php(self) -> bool {
        matches!(self, Self::AllPhp | Self::TengatePhpWorker)
    }

    pub(super) const fn needs_dpdk(self) -> bool {
        matches!(self, Self::OnPath(DataPath::Dpdk))
    }

    /// Whether so many clients can connect to it: on the kernel's path each is a descriptor.
    pub(super) fn holds(self, clients: u64) -> Result<bool> {
        Ok(!matches!(self, Self::OnPath(DataPath::Kernel)) || clients + 100 <= descriptors_max()?)
    }

    pub(super) fn start(self, peers: Option<&Path>, placement: Placement) -> Result<Running> {
        let port = free_run(4)?;
        let scheme = if matches!(self, Self::Nginx) { "http" } else { "ws" };
        let mut running = Running {
            name: self.name(),
            url: format!("{scheme}://127.0.0.1:{port}"),
            server_pids: Vec::new(),
            past_kernel: None,
            scratch: None,
            children: Vec::new(),
        };
        match self {
            Self::OnPath(path) => {
                let wanted = Wanted { clients: CLIENTS_MAX, ping_seconds: 0 };
                return Running::on_path(path, wanted);
            }
            Self::AllPhp => {
                running.start(php(peers)?.env("PORT", port.to_string()))?;
                let title = format!("BenchGateway websocket://127.0.0.1:{port}");
                wait_for("PHP's gateway", || Ok(!processes(&title)?.is_empty()))?;
                running.server_pids = processes(&title)?;
                if matches!(placement, Placement::WorkerApart) {
                    running.server_pids.iter().try_for_each(|pid| move_to(0, *pid))?;
                    let workers = processes(&format!("BenchWorker-{port}"))?;
                    workers.iter().try_for_each(|pid| move_to(1, *pid))?;
                }
            }
            Self::TengatePhpWorker => {
                let register = running.start_tengate(port, 1, true, Mode::Direct)?;
                let mut worker = php(peers)?;
                running.start(worker.env("REGISTER", register).env("PORT", port.to_string()))?;
                if matches!(placement, Placement::WorkerApart) {
                    let title = format!("BenchWorker-{port}");
                    wait_for("PHP's worker", || Ok(!processes(&title)?.is_empty()))?;
                    processes(&title)?.iter().try_for_each(|pid| move_to(1, *pid))?;
                }
            }
            Self::Tengate { shards, pinned } => {
                let register = running.start_tengate(port, shards, pinned, Mode::Direct)?;
                running.start_worker(placement, &register)?;
            }
            Self::Dispatched => {
                let register = running.start_tengate(port, 1, true, Mode::Dispatched)?;
                let listen = format!("127.0.0.1:{}", port + 3);
                let mut dispatcher = Command::new(binary("tengate"));
                dispatcher.args(["dispatcher", "--listen", &listen, "--register", &register]);
                let pid = running.start(&mut dispatcher)?;
                running.server_pids.push(pid);
                running.start_worker(placement, &register)?;
            }
            Self::Floor => {
                let listen = format!("127.0.0.1:{port}");
                let mut floor = on_core(0, &binary("tengate-bench"));
                let pid = running.start(floor.args(["floor", "--listen", &listen]))?;
                running.server_pids = vec![pid];
            }
            Self::Nginx => running.start_nginx(port)?,
        }
        wait_for(running.name, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        if !matches!(self, Self::Floor | Self::Nginx) {
            // Nobody tells when the worker has found the gateway.
            pause(Duration::from_secs(3));
        }
        Ok(running)
    }
}

impl DataPath {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Dpdk => "dpdk",
        }
    }
}

impl Running {
    /// Register, gateway and lean worker; the gateway's shard on core 0, the worker on core 1 beside the generator.
    pub(crate) fn on_path(path: DataPath, wanted: Wanted) -> Result<Self> {
        let port = free_run(4)?;
        let [client, register, inner] =
            [port, port + 1, port + 2].map(|port| format!("127.0.0.1:{port}"));
        let scratch = std::env::temp_dir().join(format!("tengate-{}-{port}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let (memif, run_dir) = (scratch.join("memif"), scratch.join("run"));
        let config = scratch.join("tengate.toml");
        let (url, listen) = match path {
            DataPath::Kernel => (format!("ws://{client}"), client),
            DataPath::Dpdk => (format!("ws://{GATEWAY}:{port}"), format!("0.0.0.0:{port}")),
        };
        fs::write(&config, configuration(path, wanted, &listen, &memif))?;
        let mut running = Self {
            name: path.name(),
            url,
            server_pids: Vec::new(),
            past_kernel: None,
            scratch: Some(scratch),
            children: Vec::new(),
        };
        running.start(Command::new(binary("tengate")).args(["register", "--listen", &register]))?;
        let log = fs::File::create(folder().join("gateway.log"))?;
        let mut gateway = Command::new(binary("tengate"));
        gateway.arg("gateway").arg("--config").arg(&config).arg("--run-dir").arg(&run_dir);
        gateway.args(["--inner", &inner, "--register", &register, "--shards", "1"]);
        let pid = running.start_with(&mut gateway, log.into())?;
        running.server_pids = vec![pid];
        let admin = run_dir.join(format!("gateway-{pid}.sock"));
        let what = format!("the gateway (its log: {}/gateway.log)", folder().display());
        // The memif itself has no file; it is there before the admin socket is.
        wait_for(&what, || Ok(admin.exists()))?;
        if path == DataPath::Dpdk {
            let device =
                format!("net_memif0,role=client,rsize={RING_LOG},socket={}", memif.display());
            running.past_kernel = Some((device, admin));
        }
        let mut worker = on_core(1, &binary("tengate-bench"));
        running.start(worker.args(["worker", "--lean", "--register", &register]))?;
        // Nobody tells when the worker has found the gateway.
        pause(Duration::from_secs(3));
        Ok(running)
    }

    fn start(&mut self, command: &mut Command) -> Result<u32> {
        self.start_with(command, Stdio::null())
    }

    fn start_with(&mut self, command: &mut Command, log: Stdio) -> Result<u32> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    /// Register and gateway; returns the register's address.
    fn start_tengate(
        &mut self,
        port: u16,
        shards: u16,
        pinned: bool,
        mode: Mode,
    ) -> Result<String> {
        let [client, register, inner] =
            [port, port + 1, port + 2].map(|port| format!("127.0.0.1:{port}"));
        let config = folder().join(if pinned { "pinned.toml" } else { "free.toml" });
        fs::write(&config, format!("[gateway]\npin_cores = {pinned}\n"))?;
        self.start(Command::new(binary("tengate")).args(["register", "--listen", &register]))?;
        let pid = self.start(
            Command::new(binary("tengate"))
                .arg("gateway")
                .arg("--config")
                .arg(config)
                .args(["--client", &format!("websocket://{client}"), "--inner", &inner])
                .args(["--register", &register, "--shards", &shards.to_string()])
                .args(["--mode", mode.name()]),
        )?;
        self.server_pids = vec![pid];
        Ok(register)
    }

    fn start_worker(&mut self, placement: Placement, register: &str) -> Result<()> {
        let mut worker = match placement {
            Placement::WorkerApart => on_core(1, &binary("tengate-bench")),
            Placement::Free | Placement::GeneratorApart | Placement::ShardAlone => {
                Command::new(binary("tengate-bench"))
            }
        };
        self.start(worker.args(["worker", "--register", register]))?;
        Ok(())
    }

    fn start_nginx(&mut self, port: u16) -> Result<()> {
        let folder = folder().join(format!("nginx-{port}"));
        fs::create_dir_all(&folder)?;
        let config = folder.join("nginx.conf");
        fs::write(&config, nginx_config(port))?;
        let master = self
            .start(
                Command::new("nginx")
                    .arg("-p")
                    .arg(&folder)
                    .arg("-c")
                    .arg(&config)
                    .arg("-e")
                    .arg("stderr"),
            )
            .context("nginx cannot be started; is the package nginx-light installed?")?;
        wait_for("nginx's worker process", || Ok(!children_of(master)?.is_empty()))?;
        self.server_pids = children_of(master)?;
        self.server_pids.iter().try_for_each(|pid| move_to(0, *pid))
    }
}

/// One worker process, nothing logged, a response of a few bytes as short as a websocket's 101, every connection closed
/// after it.
fn nginx_config(port: u16) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 16384; multi_accept on; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 0;\n  client_body_temp_path b;\n  proxy_temp_path p;\n\
         \x20 fastcgi_temp_path f;\n  uwsgi_temp_path u;\n  scgi_temp_path s;\n\
         \x20 server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"ok\"; }} }}\n}}\n"
    )
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.children {
            let stopped = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            if stopped.is_ok() {
                // A process that does not stop is not worth waiting for.
                let deadline = now() + Duration::from_secs(5);
                while now() < deadline && matches!(child.try_wait(), Ok(None)) {
                    pause(Duration::from_millis(50));
                }
            }
            drop(child.kill());
            drop(child.wait());
        }
        if let Some(scratch) = &self.scratch {
            // What cannot be removed lies among temporary files.
            drop(fs::remove_dir_all(scratch));
        }
    }
}

fn configuration(path: DataPath, wanted: Wanted, listen: &str, memif: &Path) -> String {
    let Wanted { clients, ping_seconds } = wanted;
    let number_bits = if clients > CLIENTS_OF_22_BITS { 24 } else { 22 };
    let past_kernel = match path {
        DataPath::Kernel => String::new(),
        DataPath::Dpdk => format!(
            "[gateway.netstack]\naddresses = [\"{GATEWAY}/16\"]\nconnections_target = {clients}\n\
             [gateway.dpdk]\ndevice = \"net_memif0,role=server,rsize={RING_LOG},socket={}\"\npages = \"ordinary\"\n",
            memif.display()
        ),
    };
    let heartbeat = match ping_seconds {
        0 => String::new(),
        seconds => format!(
            "ping_interval = \"{seconds}s\"\nping_not_response_limit = 2\nping_websocket = true\n"
        ),
    };
    format!(
        "[gateway]\ndata_path = \"{}\"\nnumber_bits = {number_bits}\n{past_kernel}\
         [[gateway.client]]\nprotocol = \"websocket\"\nlisten = \"{listen}\"\n{heartbeat}",
        path.name()
    )
}

/// Descriptors a process may open at most.
pub(crate) fn descriptors_max() -> Result<u64> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).context("no open files")?;
    Ok(if hard == "unlimited" { u64::MAX } else { hard.parse()? })
}

/// The gateway's own address on the memif.
const GATEWAY: &str = "10.1.0.1";
/// Frames of a memif's ring, as a power of two: what arrives while the scheduler has the other side wait finds room.
const RING_LOG: u8 = 12;
/// As many as any set has.
const CLIENTS_MAX: u32 = 110_000;
const CLIENTS_OF_22_BITS: u32 = (1 << 22) - 1;

/// PHP at its fastest: precompiled and with its JIT.
fn php(peers: Option<&Path>) -> Result<Command> {
    let Some(peers) = peers else { bail!("PHP needs --peers") };
    let mut command = Command::new("php");
    for setting in ["opcache.enable_cli=1", "opcache.jit=1255", "opcache.jit_buffer_size=64M"] {
        command.args(["-d", setting]);
    }
    command
        .arg(root().join("crates/bench/php/start.php"))
        .arg("start")
        .env("TENGATE_PHP_PEERS", peers);
    Ok(command)
}

/// A program that stays on one core.
pub(crate) fn on_core(core: u16, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program);
    command
}

/// Has a running process stay on one core.
fn move_to(core: u16, pid: u32) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "--pid", &core.to_string(), &pid.to_string()]);
    let moved = command.stdout(Stdio::null()).status().context("taskset cannot be started")?;
    ensure!(moved.success(), "process {pid} cannot be moved to core {core}");
    Ok(())
}

/// Asks again until it is so.
pub(super) fn wait_for(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = now() + Duration::from_secs(10);
    while !ready()? {
        ensure!(now() < deadline, "{what} does not come up");
        pause(Duration::from_millis(50));
    }
    Ok(())
}

/// Processes whose command line holds `title`.
fn processes(title: &str) -> Result<Vec<u32>> {
    pids(|folder| {
        let line = fs::read(folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).split_whitespace().collect::<Vec<_>>().join(" ");
        line.contains(title)
    })
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let wanted = format!("PPid:\t{parent}");
    pids(|folder| {
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        status.lines().any(|line| line == wanted)
    })
}

fn pids(is_wanted: impl Fn(&PathBuf) -> bool) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if is_wanted(&entry.path()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The first of `count` ports in a row that nobody listens on, below those the kernel gives to connecting clients: PHP
/// does not listen where a client's old connection still lingers.
pub(super) fn free_run(count: u16) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        ensure!(first < 32_000, "no {count} free ports in a row between 20000 and 32000");
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(is_free) {
            return Ok(first);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for processes that tell nobody when they are ready"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for processes that tell nobody when they are ready"
)]
pub(super) fn pause(time: Duration) {
    thread::sleep(time);
}
