//! Very many clients held at once, with heartbeats and echoes: what each takes, what an echo waits, whether any is lost
//! (docs/benchmarks.md).

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::bench::subject::{DataPath, Running, Wanted, descriptors_max, on_core};
use crate::bench::{binary, build, folder, has_dpdk};
use crate::say;

/// What the command line asks for.
struct Options {
    clients: u32,
    path: DataPath,
    seconds: u32,
    /// Echoes a second of all clients together.
    rate: u32,
    /// Seconds between a client's heartbeats; 0 for none.
    ping: u32,
    /// Clients that connect and shake hands at the same time.
    opening: u32,
}

/// Starts a register, a gateway and a worker, connects the clients, holds them, and prints a table. The report stays in
/// `target/bench`.
///
/// # Errors
/// What does not fit into this machine, a cluster that does not start, or clients that cannot connect.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    options.check()?;
    // With the feature wherever it can be, so that one path after the other needs no build between.
    build(options.path == DataPath::Dpdk || has_dpdk())?;
    fs::create_dir_all(folder())?;
    let wanted = Wanted { clients: options.pools(), ping_seconds: options.ping };
    say(&format!("hold: starting a gateway for {} clients", options.clients));
    let running = Running::on_path(options.path, wanted)?;
    let report = measure(&options, &running)?;
    fs::write(folder().join("hold.json"), serde_json::to_string_pretty(&report)?)?;
    print(&options, &report);
    Ok(())
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            clients: 100_000,
            path: DataPath::Dpdk,
            seconds: 60,
            rate: 1000,
            ping: 55,
            opening: 1000,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let value = rest.next().with_context(|| format!("{argument} needs a value"))?;
            let number = || value.parse().with_context(|| format!("{argument} {value}"));
            match *argument {
                "--clients" => options.clients = number()?,
                "--seconds" => options.seconds = number()?,
                "--rate" => options.rate = number()?,
                "--ping" => options.ping = number()?,
                "--opening" => options.opening = number()?,
                "--path" => {
                    let paths = [DataPath::Kernel, DataPath::Dpdk];
                    let path = paths.into_iter().find(|path| path.name() == *value);
                    options.path = path.context("--path is kernel or dpdk")?;
                }
                other => bail!("hold knows no {other}"),
            }
        }
        ensure!(options.clients > 0 && options.seconds > 0, "--clients and --seconds are above 0");
        ensure!(options.rate > 0 && options.opening > 0, "--rate and --opening are above 0");
        Ok(options)
    }

    /// Refuses what this machine has no memory or no descriptors for.
    fn check(&self) -> Result<()> {
        let clients = u64::from(self.clients);
        let each = match self.path {
            DataPath::Kernel => {
                let max = descriptors_max()?;
                ensure!(
                    clients + SPARE_DESCRIPTORS <= max,
                    "on the kernel's path every client is a descriptor, and a process may open {max}: raise \
                     `ulimit -n`, hold fewer, or take --path dpdk"
                );
                KERNEL_BYTES
            }
            DataPath::Dpdk => GATEWAY_BYTES + GENERATOR_BYTES,
        };
        let (needed, free) = (clients * each + FIXED_BYTES, available_bytes()?);
        ensure!(
            needed <= free,
            "{} clients need about {} MiB in gateway and generator together, and {} MiB are free",
            self.clients,
            needed >> 20,
            free >> 20
        );
        Ok(())
    }

    /// What the gateway's pools are sized for: some that left may not be gone for it yet.
    fn pools(&self) -> u32 {
        self.clients + self.clients / 8 + 1000
    }
}

fn measure(options: &Options, running: &Running) -> Result<Value> {
    let mut command = on_core(1, &binary("tengate-bench"));
    command.args(["hold", &running.url, "--json", "--clients", &options.clients.to_string()]);
    command.args(["--seconds", &options.seconds.to_string(), "--rate", &options.rate.to_string()]);
    command.args(["--opening", &options.opening.to_string()]);
    for pid in &running.server_pids {
        command.args(["--pid", &pid.to_string()]);
    }
    match &running.past_kernel {
        Some((device, admin)) => {
            command.args(["--device", device, "--admin"]).arg(admin);
        }
        None => {
            command.args(["--source", "127.0.0.2-127.0.0.5"]);
        }
    }
    // Its bars are for whoever waits here.
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the clients could not be held");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
fn print(options: &Options, report: &Value) {
    let number = |figure: &str| report[figure].as_f64().unwrap_or(f64::NAN);
    let mib = |figure: &str| number(figure) / f64::from(1 << 20);
    let grown = number("resident_bytes_after") - number("resident_bytes_at_start");
    let rows = [
        ("data path", options.path.name().to_owned()),
        ("clients, each with a uid", options.clients.to_string()),
        ("lost", format!("{:.0}", number("lost"))),
        ("handshakes/s", format!("{:.0}", number("handshakes_per_second"))),
        ("gateway µs/handshake", format!("{:.1}", number("server_cpu_us_per_handshake"))),
        ("gateway bytes/client, all growth", format!("{:.0}", grown / f64::from(options.clients))),
        ("the same after a tenth came and went", format!("{:.0}", number("bytes_per_client"))),
        ("gateway at start, pools and all", format!("{:.0} MiB", mib("resident_bytes_at_start"))),
        ("gateway with them", format!("{:.0} MiB", mib("resident_bytes_after"))),
        ("kernel bytes/client, both ends", format!("{:.0}", number("kernel_bytes_per_client"))),
        ("generator bytes/client", format!("{:.0}", number("generator_bytes_per_client"))),
        ("held for", format!("{} s, a heartbeat each in {} s", options.seconds, options.ping)),
        (
            "gateway busy meanwhile",
            format!("{:.1} % of a core", number("server_busy_share_holding") * 100.0),
        ),
        ("echoes", format!("{}/s, {:.0} in all", options.rate, number("messages"))),
        ("echoes without an answer", format!("{:.0}", number("unanswered"))),
        ("echo p50", format!("{:.0} µs", number("latency_us_p50"))),
        ("echo p99", format!("{:.0} µs", number("latency_us_p99"))),
        ("echo p99.9", format!("{:.0} µs", number("latency_us_p99_9"))),
    ];
    println!("| hold | |\n|---|---|");
    for (what, value) in rows {
        println!("| {what} | {} |", value.replace("NaN", "–"));
    }
}

/// Memory that processes can still have.
fn available_bytes() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.context("no MemAvailable")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// Of a client with a uid, connection and all, with room for tables that grow.
const GATEWAY_BYTES: u64 = 600;
const GENERATOR_BYTES: u64 = 350;
/// Both ends of a socket in the kernel, the gateway's and the generator's own.
const KERNEL_BYTES: u64 = 11_000;
/// Pools and programs.
const FIXED_BYTES: u64 = 512 << 20;
const SPARE_DESCRIPTORS: u64 = 100;
