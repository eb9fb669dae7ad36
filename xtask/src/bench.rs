//! Side-by-side measurements: the same load on PHP's GatewayWorker and on tengate, in turn, in one run
//! (docs/benchmarks.md).

use core::fmt::Write as _;
use core::sync::atomic::{AtomicU16, Ordering};
use core::time::Duration;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};

/// A cluster that can be measured: how it starts, and how its gateway's processes are found.
struct Cluster {
    name: &'static str,
    children: Vec<Child>,
    gateway_pids: Vec<u32>,
    port: u16,
}

/// One measurement: `tengate-bench` arguments, and the figures of its report that are compared.
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
    figures: &'static [&'static str],
}

const LOADS: &[Load] = &[
    Load {
        name: "routed echo, 64 B, 64 clients",
        arguments: &["echo", "--clients", "64", "--seconds", "4"],
        figures: &[
            "messages_per_second",
            "server_cpu_us_per_message",
            "latency_us_p50",
            "latency_us_p99",
        ],
    },
    Load {
        name: "routed echo, 64 B, 1000 clients",
        arguments: &["echo", "--clients", "1000", "--seconds", "4"],
        figures: &[
            "messages_per_second",
            "server_cpu_us_per_message",
            "latency_us_p50",
            "latency_us_p99",
        ],
    },
    Load {
        name: "broadcast, 64 B, 1000 clients",
        arguments: &["fanout", "--clients", "1000", "--rounds", "100"],
        figures: &["deliveries_per_second", "server_cpu_us_per_delivery"],
    },
    Load {
        name: "15 000 idle clients with a uid each",
        arguments: &["hold", "--clients", "15000"],
        figures: &["bytes_per_client", "handshakes_per_second"],
    },
];

const TABLE_HEAD: &str = "\
| load | figure | all PHP | tengate, PHP worker | ratio | tengate, Rust worker | ratio |\n|---|---|---|---|---|---|---|\n";

/// Runs every load on both, `--rounds` times in turn, and prints a table.
///
/// # Errors
/// No peers, or a cluster or a load that fails.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (peers, rounds) = match arguments {
        ["--peers", peers] => (Path::new(peers).canonicalize()?, 3),
        ["--peers", peers, "--rounds", rounds] => {
            (Path::new(peers).canonicalize()?, rounds.parse()?)
        }
        _ => bail!(
            "bench needs --peers DIR, a folder with checkouts of GatewayWorker, workerman and coroutine"
        ),
    };
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "tengate", "--bin", "tengate-bench"])
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the release build failed");
    let mut table = String::from(TABLE_HEAD);
    for load in LOADS {
        let (mut php, mut mixed, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            say(&format!("bench: {}, round {round} of {rounds}", load.name));
            php.push(measure(Cluster::php(&peers)?, load)?);
            mixed.push(measure(Cluster::tengate(Some(&peers))?, load)?);
            ours.push(measure(Cluster::tengate(None)?, load)?);
        }
        for figure in load.figures {
            let [php, mixed, ours] = [&php, &mixed, &ours].map(|reports| spread(reports, figure));
            writeln!(
                table,
                "| {} | {figure} | {} | {} | {:.2} | {} | {:.2} |",
                load.name,
                show(&php),
                show(&mixed),
                mixed[1] / php[1],
                show(&ours),
                ours[1] / php[1]
            )?;
        }
    }
    say(&table);
    Ok(())
}

fn measure(cluster: Cluster, load: &Load) -> Result<Value> {
    let mut command = Command::new(binary("tengate-bench"));
    let (mode, options) = load.arguments.split_first().context("a load has a mode")?;
    command.arg(mode).arg(format!("ws://127.0.0.1:{}", cluster.port)).args(options).arg("--json");
    for pid in &cluster.gateway_pids {
        command.args(["--pid", &pid.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} failed on {}", load.name, cluster.name);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    say(&format!("  {}: {report}", cluster.name));
    Ok(report)
}

/// Least, median and greatest of a figure.
fn spread(reports: &[Value], figure: &str) -> [f64; 3] {
    let mut values: Vec<f64> =
        reports.iter().filter_map(|report| report[figure].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(0), at(values.len() / 2), at(values.len().saturating_sub(1))]
}

fn show([least, median, greatest]: &[f64; 3]) -> String {
    let digits = usize::from(*median < 100.0);
    format!("**{median:.digits$}** [{least:.digits$}…{greatest:.digits$}]")
}

impl Cluster {
    fn php(peers: &Path) -> Result<Self> {
        let port = free_run(3)?;
        let child =
            php(peers).env("PORT", port.to_string()).spawn().context("php cannot be started")?;
        let mut cluster =
            Self { name: "php", children: vec![child], gateway_pids: Vec::new(), port };
        cluster.wait()?;
        let title = format!("BenchGateway websocket://127.0.0.1:{port}");
        cluster.gateway_pids = processes(&title)?;
        ensure!(!cluster.gateway_pids.is_empty(), "no process is called {title}");
        Ok(cluster)
    }

    /// With a PHP worker from `peers`, or with one in Rust.
    fn tengate(peers: Option<&Path>) -> Result<Self> {
        let port = free_run(3)?;
        let [client, register, inner] =
            [port, port + 1, port + 2].map(|port| format!("127.0.0.1:{port}"));
        let start = |command: &mut Command| -> Result<Child> {
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("{command:?}"))
        };
        let tengate = || Command::new(binary("tengate"));
        let client = format!("websocket://{client}");
        let mut children = vec![start(tengate().args(["register", "--listen", &register]))?];
        children.push(start(tengate().args([
            "gateway",
            "--client",
            &client,
            "--inner",
            &inner,
            "--register",
            &register,
            "--shards",
            "1",
        ]))?);
        let gateway_pids = vec![children[1].id()];
        let (name, worker) = match peers {
            Some(peers) => (
                "mixed",
                start(php(peers).env("REGISTER", &register).env("PORT", port.to_string()))?,
            ),
            None => {
                let mut command = Command::new(binary("tengate-bench"));
                ("tengate", start(command.args(["worker", "--register", &register]))?)
            }
        };
        children.push(worker);
        let cluster = Self { name, children, gateway_pids, port };
        cluster.wait()?;
        Ok(cluster)
    }

    /// Waits until the gateway listens, and a moment longer for its worker.
    fn wait(&self) -> Result<()> {
        let deadline = now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(now() < deadline, "{} does not listen on port {}", self.name, self.port);
            pause(Duration::from_millis(50));
        }
        pause(Duration::from_secs(3));
        Ok(())
    }
}

impl Drop for Cluster {
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
    }
}

/// PHP at its fastest: precompiled and with its JIT.
fn php(peers: &Path) -> Command {
    let mut command = Command::new("php");
    command
        .args([
            "-d",
            "opcache.enable_cli=1",
            "-d",
            "opcache.jit=1255",
            "-d",
            "opcache.jit_buffer_size=64M",
        ])
        .arg(root().join("crates/bench/php/start.php"))
        .arg("start")
        .env("TENGATE_PHP_PEERS", peers)
        .stdout(Stdio::null());
    command
}

/// Processes whose command line holds `title`.
fn processes(title: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(title) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The first of `count` ports in a row that nobody listens on, below those the kernel gives to connecting clients: PHP
/// does not listen where a client's old connection still lingers.
fn free_run(count: u16) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        ensure!(first < 32_000, "no {count} free ports in a row between 20000 and 32000");
        let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(is_free) {
            return Ok(first);
        }
    }
}

fn binary(name: &str) -> std::path::PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    target.join("release").join(name)
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
fn pause(time: Duration) {
    thread::sleep(time);
}
