//! Side-by-side measurements: the same load on several servers, in turn, in one run (docs/benchmarks.md).
//!
//! [`SETS`] says what is compared with what; [`subject`] starts it, `tengate-bench` measures it, [`table`] puts medians
//! and spread together.

mod subject;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};
use subject::{Running, Subject};

/// Loads that are put on subjects in turn. The first subject is what the others are compared with.
struct Set {
    name: &'static str,
    title: &'static str,
    subjects: &'static [Subject],
    loads: &'static [Load],
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
const HOLD: &[&str] = &["bytes_per_client", "kernel_bytes_per_client"];
const CHURN: &[&str] = &["handshakes_per_second", "server_cpu_us_per_handshake"];

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

macro_rules! broadcast {
    ($clients:literal, $rounds:literal) => {
        Load {
            name: concat!("broadcast, 64 B, ", $clients, " clients"),
            arguments: &["fanout", "--clients", $clients, "--bytes", "64", "--rounds", $rounds],
            figures: FANOUT,
        }
    };
}

macro_rules! churn {
    ($close:literal, $figures:expr) => {
        Load {
            name: concat!("connect, handshake, ", $close),
            arguments: &["churn", "--clients", "64", "--close", $close, "--seconds", "4"],
            figures: $figures,
        }
    };
}

const SETS: &[Set] = &[
    Set {
        name: "php",
        title: "Beside GatewayWorker: one gateway process or shard, one worker",
        subjects: &[Subject::AllPhp, Subject::TengatePhpWorker, Subject::ONE_SHARD],
        loads: &[
            echo!("64"),
            echo!("1000"),
            broadcast!("1000", "100"),
            churn!("reset", CHURN),
            Load {
                name: "idle clients with a uid each, 15000",
                arguments: &["hold", "--clients", "15000"],
                figures: HOLD,
            },
        ],
    },
    Set {
        name: "floor",
        title: "Beside the floor: a bare echo server and a bare loop of write()",
        subjects: &[Subject::Floor, Subject::ONE_SHARD],
        loads: &[
            echo!("1"),
            echo!("64"),
            echo!("1000"),
            echo!("10000"),
            broadcast!("1000", "100"),
            broadcast!("10000", "50"),
        ],
    },
    Set {
        name: "handshakes",
        title: "Handshakes beside nginx's requests, a connection each",
        subjects: &[Subject::Nginx, Subject::Floor, Subject::ONE_SHARD],
        loads: &[churn!("reset", CHURN), churn!("clean", CHURN)],
    },
    Set {
        name: "shards",
        title: "More shards than cores, and shards on cores of their own",
        subjects: &[
            Subject::Tengate { shards: 2, pinned: true },
            Subject::Tengate { shards: 2, pinned: false },
            Subject::Tengate { shards: 8, pinned: false },
        ],
        loads: &[echo!("64"), echo!("1000"), broadcast!("1000", "100"), churn!("reset", CHURN)],
    },
    Set {
        name: "hold",
        title: "18 000 idle clients with a uid each",
        subjects: &[Subject::ONE_SHARD],
        loads: &[Load {
            name: "idle clients, 18000",
            arguments: &["hold", "--clients", "18000"],
            figures: HOLD,
        }],
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
    let options = Options::parse(arguments)?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bin", "tengate", "--bin", "tengate-bench"])
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the release build failed");
    let folder = target().join("bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
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
            options.sets =
                SETS.iter().filter(|set| options.peers.is_some() || !set.needs_php()).collect();
        }
        if options.peers.is_none() && options.sets.iter().any(|set| set.needs_php()) {
            bail!(
                "php needs --peers DIR, a folder with checkouts of GatewayWorker, workerman and coroutine"
            );
        }
        Ok(options)
    }
}

impl Set {
    fn needs_php(&self) -> bool {
        self.subjects.iter().any(|subject| subject.needs_php())
    }
}

/// By load, subject and round.
type Reports = Vec<Vec<Vec<Value>>>;

fn measure_set(set: &Set, options: &Options) -> Result<Reports> {
    let mut reports = vec![vec![Vec::new(); set.subjects.len()]; set.loads.len()];
    for (load, of_load) in set.loads.iter().zip(&mut reports) {
        for round in 1..=options.rounds {
            say(&format!("{}: {}, round {round} of {}", set.name, load.name, options.rounds));
            for (subject, of_subject) in set.subjects.iter().zip(of_load.iter_mut()) {
                let running = subject.start(options.peers.as_deref())?;
                of_subject.push(measure(&running, load)?);
            }
        }
    }
    Ok(reports)
}

fn measure(running: &Running, load: &Load) -> Result<Value> {
    let mut command = Command::new(binary("tengate-bench"));
    let (mode, options) = load.arguments.split_first().context("a load has a mode")?;
    command.arg(mode).arg(&running.url).args(options).arg("--json");
    for pid in &running.server_pids {
        command.args(["--pid", &pid.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} failed on {}", load.name, running.name);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let figures: Vec<String> =
        load.figures.iter().map(|figure| format!("{figure} {}", report[*figure])).collect();
    say(&format!("  {}: {}", running.name, figures.join(", ")));
    Ok(report)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}
