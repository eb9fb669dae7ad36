//! Side-by-side measurements: the same load on several servers, in turn, in one run (docs/benchmarks.md).
//!
//! [`SETS`] says what is compared with what; [`subject`] starts it, `tengate-bench` measures it, [`table`] puts medians
//! and spread together.

mod failover;
pub(crate) mod subject;
mod table;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};
use subject::{DataPath, Running, Subject};
pub(crate) use tables::has_dpdk;

/// Loads that are put on subjects in turn. The first subject is what the others are compared with.
struct Set {
    name: &'static str,
    title: &'static str,
    subjects: &'static [Subject],
    placement: Placement,
    loads: &'static [Load],
}

/// Where processes run. A message that wakes its receiver on another core costs several times one that stays, so what the
/// scheduler happens to choose would be most of some figures.
#[derive(Clone, Copy)]
enum Placement {
    /// Where the scheduler puts them; shards are pinned as ever.
    Free,
    /// The server on core 0, the generator on core 1, the worker free.
    GeneratorApart,
    /// The gateway on core 0, the worker on core 1, the generator free.
    WorkerApart,
    /// The gateway's shard on core 0, generator and worker on core 1.
    ShardAlone,
}

/// One measurement: `tengate-bench` arguments without the address, and the figures of its report that are compared.
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
    figures: &'static [&'static str],
}

const ECHO: &[&str] =
    &["messages_per_second", "server_cpu_us_per_message", "latency_us_p50", "latency_us_p99"];
const FANOUT: &[&str] = &["deliveries_per_second", "server_cpu_us_per_delivery"];
const HOLD: &[&str] = &["bytes_per_client", "kernel_bytes_per_client", "server_busy_share_holding"];
const LATENCY: &[&str] = &[
    "messages_per_second",
    "latency_us_p50",
    "latency_us_p99",
    "latency_us_p99_9",
    "latency_us_max",
    "server_cpu_us_per_message",
];
const STORM: &[&str] = &[
    "seconds_until_all_are_back",
    "latency_us_p50",
    "latency_us_p99",
    "server_cpu_us_per_handshake",
];
const SLOW: &[&str] = &[
    "deliveries_per_second",
    "latency_us_p50",
    "latency_us_p99",
    "missed",
    "slow_missed",
    "resident_bytes_growth",
];
const CHURN: &[&str] = &["handshakes_per_second", "server_cpu_us_per_handshake"];

const CHURN_LOAD: Load = Load {
    name: "connect, handshake, reset, 256 at a time",
    arguments: &["churn", "--clients", "256", "--close", "reset", "--seconds", "4"],
    figures: CHURN,
};

/// Closed loop, 64 bytes, for as long as [`Options`] says.
macro_rules! echo {
    ($clients:literal) => {
        Load {
            name: concat!("echo, 64 B, ", $clients, " clients"),
            arguments: &["echo", "--clients", $clients, "--bytes", "64", "--seconds", "4"],
            figures: ECHO,
        }
    };
}

/// Open loop, 64 bytes, messages due on a schedule.
macro_rules! open_loop {
    ($clients:literal, $rate:literal) => {
        Load {
            name: concat!("open loop, 64 B, ", $clients, " clients, ", $rate, " messages/s"),
            arguments: &[
                "echo",
                "--clients",
                $clients,
                "--bytes",
                "64",
                "--rate",
                $rate,
                "--seconds",
                "5",
            ],
            figures: LATENCY,
        }
    };
}

macro_rules! fanout {
    ($to:literal, $clients:literal, $rounds:literal) => {
        Load {
            name: concat!("to ", $to, ", 64 B, ", $clients, " clients"),
            arguments: &[
                "fanout",
                "--to",
                $to,
                "--clients",
                $clients,
                "--bytes",
                "64",
                "--rounds",
                $rounds,
            ],
            figures: FANOUT,
        }
    };
}

/// From four addresses: connecting gets slow when half the ports of one are taken.
macro_rules! hold {
    ($clients:literal) => {
        Load {
            name: concat!("idle clients with a uid each, ", $clients),
            arguments: &[
                "hold",
                "--clients",
                $clients,
                "--seconds",
                "5",
                "--source",
                "127.0.0.2-127.0.0.5",
            ],
            figures: HOLD,
        }
    };
}

macro_rules! churn {
    ($close:literal) => {
        Load {
            name: concat!("connect, handshake, ", $close),
            arguments: &[
                "churn",
                "--clients",
                "64",
                "--close",
                $close,
                "--seconds",
                "4",
                "--source",
                "127.0.0.2-127.0.0.17",
            ],
            figures: CHURN,
        }
    };
}

const GROUP_LOAD: Load = Load {
    name: "to groups of 100, ten at once, 64 B, 1000 clients",
    arguments: &[
        "fanout",
        "--to",
        "group",
        "--group-size",
        "100",
        "--at-once",
        "10",
        "--clients",
        "1000",
        "--bytes",
        "64",
        "--rounds",
        "100",
    ],
    figures: FANOUT,
};

const STORM_LOAD: Load = Load {
    name: "5000 clients cut at once",
    arguments: &["storm", "--clients", "5000", "--source", "127.0.0.2-127.0.0.5"],
    figures: STORM,
};

const SLOW_LOAD: Load = Load {
    name: "4 KiB broadcasts, 100 a second, 1 % of 200 clients do not read",
    arguments: &["slow", "--clients", "200", "--rate", "100", "--bytes", "4096", "--seconds", "10"],
    figures: SLOW,
};

const SETS: &[Set] = &[
    Set {
        name: "php",
        title: "Beside GatewayWorker",
        subjects: &[Subject::AllPhp, Subject::TengatePhpWorker, Subject::ONE_SHARD],
        placement: Placement::WorkerApart,
        loads: &[
            echo!("64"),
            echo!("1000"),
            fanout!("all", "1000", "100"),
            GROUP_LOAD,
            churn!("reset"),
            hold!("15000"),
        ],
    },
    Set {
        name: "latency",
        title: "Latency of messages that are due on a schedule",
        subjects: &[Subject::AllPhp, Subject::TengatePhpWorker, Subject::ONE_SHARD],
        placement: Placement::Free,
        loads: &[open_loop!("1000", "2000"), open_loop!("1000", "20000")],
    },
    Set {
        name: "trouble",
        title: "Reconnect storms and slow readers",
        subjects: &[Subject::AllPhp, Subject::ONE_SHARD],
        placement: Placement::Free,
        loads: &[STORM_LOAD, SLOW_LOAD],
    },
    Set {
        name: "floor",
        title: "Beside the floor",
        subjects: &[Subject::Floor, Subject::ONE_SHARD],
        placement: Placement::GeneratorApart,
        loads: &[
            echo!("1"),
            echo!("64"),
            echo!("1000"),
            echo!("10000"),
            fanout!("all", "1000", "100"),
            fanout!("all", "10000", "50"),
        ],
    },
    Set {
        name: "handshakes",
        title: "Handshakes beside nginx's requests, a connection each",
        subjects: &[Subject::Nginx, Subject::Floor, Subject::ONE_SHARD],
        placement: Placement::GeneratorApart,
        loads: &[churn!("reset"), churn!("clean")],
    },
    Set {
        name: "shards",
        title: "Shards, cores and pinning",
        subjects: &[
            Subject::Tengate { shards: 2, pinned: false },
            Subject::Tengate { shards: 2, pinned: true },
            Subject::Tengate { shards: 8, pinned: false },
        ],
        placement: Placement::Free,
        loads: &[echo!("64"), echo!("1000"), fanout!("all", "1000", "100"), churn!("reset")],
    },
    Set {
        name: "dispatcher",
        title: "With and without a dispatcher",
        subjects: &[Subject::ONE_SHARD, Subject::Dispatched],
        placement: Placement::Free,
        loads: &[
            echo!("1"),
            echo!("64"),
            echo!("1000"),
            open_loop!("1000", "2000"),
            open_loop!("1000", "20000"),
            fanout!("all", "1000", "100"),
            GROUP_LOAD,
            churn!("reset"),
        ],
    },
    Set {
        name: "bypass",
        title: "Past the kernel",
        subjects: &[Subject::OnPath(DataPath::Kernel), Subject::OnPath(DataPath::Dpdk)],
        placement: Placement::ShardAlone,
        loads: &[
            echo!("1000"),
            echo!("10000"),
            echo!("100000"),
            fanout!("all", "10000", "50"),
            CHURN_LOAD,
        ],
    },
    Set {
        name: "hold",
        title: "Idle clients",
        subjects: &[Subject::ONE_SHARD],
        placement: Placement::Free,
        loads: &[hold!("18000")],
    },
];

/// What the command line asks for.
struct Options {
    sets: Vec<&'static Set>,
    peers: Option<PathBuf>,
    rounds: usize,
}

/// Runs the named sets, or all; every load on every subject, `--rounds` times in turn. Tables are printed, and kept with
/// the raw figures in `target/bench`.
///
/// # Errors
/// No peers, or a cluster or a load that fails.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if let ["tables", rest @ ..] = arguments {
        return tables::run(rest);
    }
    if let ["failover", rest @ ..] = arguments {
        return failover::run(rest);
    }
    let options = Options::parse(arguments)?;
    build(options.sets.iter().any(|set| set.needs_dpdk()))?;
    let folder = folder();
    fs::create_dir_all(folder.join("latencies")).with_context(|| folder.display().to_string())?;
    for set in &options.sets {
        let reports = measure_set(set, &options)?;
        let table = table::markdown(set, &reports)?;
        fs::write(folder.join(format!("{}.md", set.name)), &table)?;
        fs::write(folder.join(format!("{}.json", set.name)), table::json(set, &reports)?)?;
        say(&format!("\n{table}"));
    }
    say(&format!("bench: kept in {}", folder.display()));
    Ok(())
}

/// Makes both programs as they are released.
pub(crate) fn build(with_dpdk: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--package", "tengate", "--package"]);
    command.args(["tengate-bench", "--bins"]);
    if with_dpdk {
        command.args(["--features", "tengate/dpdk,tengate-bench/dpdk"]);
    }
    let status = command.current_dir(root()).status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { sets: Vec::new(), peers: None, rounds: 3 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--peers" => {
                    let folder = rest.next().context("--peers needs a folder")?;
                    let folder = Path::new(folder).canonicalize();
                    options.peers = Some(folder.context("--peers: no such folder")?);
                }
                "--rounds" => {
                    options.rounds = rest.next().context("--rounds needs a number")?.parse()?;
                }
                name => {
                    let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
                    let set = SETS.iter().find(|set| set.name == name);
                    options.sets.push(set.with_context(|| {
                        format!("no set is called {name}; there are {}", names.join(", "))
                    })?);
                }
            }
        }
        if options.sets.is_empty() {
            let has_dpdk = has_dpdk();
            let is_possible = |set: &&Set| {
                (options.peers.is_some() || !set.needs_php()) && (has_dpdk || !set.needs_dpdk())
            };
            options.sets = SETS.iter().filter(is_possible).collect();
        }
        if options.peers.is_none() && options.sets.iter().any(|set| set.needs_php()) {
            bail!(
                "php needs --peers DIR, a folder with checkouts of GatewayWorker, workerman and coroutine"
            );
        }
        Ok(options)
    }
}

impl Load {
    fn clients(&self) -> Result<u64> {
        let at = self.arguments.iter().position(|argument| *argument == "--clients");
        Ok(self.arguments[at.context("a load has clients")? + 1].parse()?)
    }

    fn is_open_loop(&self) -> bool {
        self.arguments[0] == "echo" && self.arguments.contains(&"--rate")
    }
}

impl Set {
    fn needs_php(&self) -> bool {
        self.subjects.iter().any(|subject| subject.needs_php())
    }

    fn needs_dpdk(&self) -> bool {
        self.subjects.iter().any(|subject| subject.needs_dpdk())
    }
}

/// By load, subject and round.
type Reports = Vec<Vec<Vec<Value>>>;

fn measure_set(set: &Set, options: &Options) -> Result<Reports> {
    let mut reports = vec![vec![Vec::new(); set.subjects.len()]; set.loads.len()];
    for (number, (load, of_load)) in set.loads.iter().zip(&mut reports).enumerate() {
        let mut curves = Vec::new();
        for round in 1..=options.rounds {
            say(&format!("{}: {}, round {round} of {}", set.name, load.name, options.rounds));
            for (index, subject) in set.subjects.iter().enumerate() {
                if !subject.holds(load.clients()?)? {
                    say(&format!("  {}: more clients than descriptors", subject.name()));
                    continue;
                }
                let running = subject.start(options.peers.as_deref(), set.placement)?;
                let kept = format!("latencies/{}-{number}-{index}-{round}.json", set.name);
                let keep = load.is_open_loop().then(|| folder().join(kept));
                of_load[index].push(measure(&running, set.placement, load, keep.as_deref())?);
                curves.extend(keep.map(|path| format!("{}={}", running.name, path.display())));
            }
        }
        if !curves.is_empty() {
            plot(load, &curves, &folder().join(format!("{}-{number}.svg", set.name)))?;
        }
    }
    Ok(reports)
}

/// The latencies of all rounds, a curve for each subject.
fn plot(load: &Load, curves: &[String], path: &Path) -> Result<()> {
    let mut command = Command::new(binary("tengate-bench"));
    command.args(["plot", "--title", load.name, "--svg"]).arg(path).args(curves);
    ensure!(command.status()?.success(), "no plot of {}", load.name);
    Ok(())
}

fn measure(
    running: &Running,
    placement: Placement,
    load: &Load,
    keep: Option<&Path>,
) -> Result<Value> {
    let mut command = match placement {
        Placement::GeneratorApart | Placement::ShardAlone => {
            subject::on_core(1, &binary("tengate-bench"))
        }
        Placement::Free | Placement::WorkerApart => Command::new(binary("tengate-bench")),
    };
    let (mode, options) = load.arguments.split_first().context("a load has a mode")?;
    if let Some(path) = keep {
        command.arg(mode).arg("--keep").arg(path);
    } else {
        command.arg(mode);
    }
    command.arg(&running.url).args(options).arg("--json");
    for pid in &running.server_pids {
        command.args(["--pid", &pid.to_string()]);
    }
    if let Some((device, admin)) = &running.past_kernel {
        command.args(["--device", device, "--admin"]).arg(admin);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} failed on {}", load.name, running.name);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let figures: Vec<String> =
        load.figures.iter().map(|figure| format!("{figure} {}", report[*figure])).collect();
    say(&format!("  {}: {}", running.name, figures.join(", ")));
    Ok(report)
}

/// Where everything that a run leaves is.
pub(crate) fn folder() -> PathBuf {
    target().join("bench")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

pub(crate) fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}
