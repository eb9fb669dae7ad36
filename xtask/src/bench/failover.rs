//! What clients notice when a part of a cluster is killed or restarted (docs/benchmarks.md#when-parts-fail).
//!
//! Each fault has a cluster of its own, whose clients send numbered messages on a schedule and count what comes back.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::subject::{free_run, pause, wait_for};
use super::table::Spread;
use super::{binary, build, folder};
use crate::say;

/// What is done to a cluster while its clients talk.
#[derive(Clone, Copy)]
struct Fault {
    name: &'static str,
    title: &'static str,
    strike: fn(&mut Cluster) -> Result<()>,
}

const FAULTS: &[Fault] = &[
    Fault { name: "nothing", title: "nothing", strike: |_| Ok(()) },
    Fault {
        name: "kill-dispatcher",
        title: "`kill -9` of the clients' home dispatcher, started again after 2 s",
        strike: |cluster| {
            let home = cluster.home()?;
            cluster.replace_killed(home)
        },
    },
    Fault {
        name: "kill-worker",
        title: "`kill -9` of one of three workers, started again after 2 s",
        strike: |cluster| cluster.replace_killed(Part::Worker(0)),
    },
    Fault {
        name: "roll-dispatchers",
        title: "SIGTERM and start of both dispatchers, one after the other",
        strike: |cluster| cluster.roll(&DISPATCHERS.map(Part::Dispatcher)),
    },
    Fault {
        name: "roll-workers",
        title: "SIGTERM and start of all workers, one after the other",
        strike: |cluster| cluster.roll(&WORKERS.map(Part::Worker)),
    },
    Fault {
        name: "kill-gateway",
        title: "`kill -9` of another gateway, started again after 2 s",
        strike: |cluster| cluster.replace_killed(Part::Gateway(2)),
    },
    Fault {
        name: "kill-register",
        title: "`kill -9` of the register, started again after 2 s",
        strike: |cluster| cluster.replace_killed(Part::Register),
    },
];

/// A process of the cluster, in the order they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Register,
    Dispatcher(u16),
    Gateway(u16),
    Worker(u16),
}

const DISPATCHERS: [u16; 2] = [0, 1];
/// Clients are on the first one.
const GATEWAYS: [u16; 3] = [0, 1, 2];
const WORKERS: [u16; 3] = [0, 1, 2];

/// Whether workers acknowledge events.
#[derive(Clone, Copy)]
enum Workers {
    Acknowledging,
    Plain,
}

/// What the command line asks for.
struct Options {
    faults: Vec<Fault>,
    rounds: usize,
}

/// A cluster that is up. Dropping it kills it.
struct Cluster {
    /// The first of its ports.
    port: u16,
    workers: Workers,
    /// Of its logs.
    folder: PathBuf,
    running: BTreeMap<Part, Child>,
}

/// The figures of the table, and what it calls them.
const FIGURES: &[(&str, &str)] = &[
    ("sent", "sent"),
    ("lost", "lost"),
    ("repeated", "repeated"),
    ("out_of_order", "out of order"),
    ("closed", "closed"),
    ("silence_ms", "longest silence, ms"),
    ("client_silence_ms_max", "of a single client, ms"),
];

/// Strikes with each fault `--rounds` times, with both kinds of workers, and prints a table of medians.
///
/// # Errors
/// An unknown fault, a cluster that does not come up, or one that is not whole again after the fault.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    build(false)?;
    fs::create_dir_all(folder())?;
    let mut rows = Vec::new();
    for fault in options.faults {
        for workers in [Workers::Acknowledging, Workers::Plain] {
            let mut reports = Vec::new();
            for round in 1..=options.rounds {
                say(&format!(
                    "failover: {}, {} workers, round {round} of {}",
                    fault.name,
                    workers.name(),
                    options.rounds
                ));
                let report = measure(fault, workers, round)?;
                let figures: Vec<String> =
                    FIGURES.iter().map(|(key, _)| format!("{key} {}", report[*key])).collect();
                say(&format!("  {}", figures.join(", ")));
                reports.push(report);
            }
            rows.push((fault, workers, reports));
        }
    }
    let table = table(&rows)?;
    let kept: Vec<Value> = rows
        .iter()
        .map(|(fault, workers, rounds)| {
            json!({ "fault": fault.name, "workers": workers.name(), "rounds": rounds })
        })
        .collect();
    fs::write(folder().join("failover.md"), &table)?;
    fs::write(folder().join("failover.json"), serde_json::to_string_pretty(&kept)?)?;
    say(&format!("\n{table}\nbench: kept in {}", folder().display()));
    Ok(())
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { faults: Vec::new(), rounds: 3 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if *argument == "--rounds" {
                options.rounds = rest.next().context("--rounds needs a number")?.parse()?;
                continue;
            }
            let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
            let fault = FAULTS.iter().find(|fault| fault.name == *argument);
            options.faults.push(*fault.with_context(|| {
                format!("no fault is called {argument}; there are {}", names.join(", "))
            })?);
        }
        if options.faults.is_empty() {
            options.faults = FAULTS.to_vec();
        }
        ensure!(options.rounds > 0, "--rounds must be at least 1");
        Ok(options)
    }
}

/// One fault in a fresh cluster: the clients' report.
fn measure(fault: Fault, workers: Workers, round: usize) -> Result<Value> {
    let folder = folder().join(format!("failover/{}-{}-{round}", fault.name, workers.name()));
    let mut cluster = Cluster::start(workers, folder)?;
    let mut clients = Command::new(binary("tengate-bench"))
        .args(["outage", &format!("ws://{}", cluster.client_address(0)), "--json"])
        .args(["--clients", CLIENTS, "--rate", RATE, "--seconds", SECONDS])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // The first line says that every client has been answered once and that the schedule begins.
    let mut said = BufReader::new(clients.stderr.take().context("a pipe was asked for")?);
    let mut first = String::new();
    said.read_line(&mut first)?;
    pause(BEFORE);
    let struck = (fault.strike)(&mut cluster);
    let in_time = matches!(clients.try_wait(), Ok(None));
    let output = clients.wait_with_output()?;
    said.read_to_string(&mut first)?;
    ensure!(output.status.success(), "the clients failed: {first}");
    struck.with_context(|| format!("{}, see {}", fault.name, cluster.folder.display()))?;
    ensure!(in_time, "{}: the cluster was not whole again before the load's end", fault.name);
    cluster.wait_until_whole()?;
    fs::write(cluster.folder.join("report.json"), &output.stdout)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Workers {
    const fn name(self) -> &'static str {
        match self {
            Self::Acknowledging => "acknowledging",
            Self::Plain => "plain",
        }
    }
}

impl Cluster {
    fn start(workers: Workers, folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let mut cluster =
            Self { port: free_run(PORTS)?, workers, folder, running: BTreeMap::new() };
        cluster.spawn(Part::Register)?;
        let register = cluster.register_address();
        wait_for("the register", || Ok(TcpStream::connect(&register).is_ok()))?;
        let dispatchers = DISPATCHERS.map(Part::Dispatcher).into_iter();
        let gateways = GATEWAYS.map(Part::Gateway).into_iter();
        for part in dispatchers.chain(gateways).chain(WORKERS.map(Part::Worker)) {
            cluster.spawn(part)?;
        }
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    fn register_address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn dispatcher_address(&self, number: u16) -> String {
        format!("127.0.0.1:{}", self.port + 1 + number)
    }

    fn client_address(&self, gateway: u16) -> String {
        format!("127.0.0.1:{}", self.port + 3 + 2 * gateway)
    }

    fn inner_address(&self, gateway: u16) -> String {
        format!("127.0.0.1:{}", self.port + 4 + 2 * gateway)
    }

    fn spawn(&mut self, part: Part) -> Result<()> {
        let register = self.register_address();
        let mut command = Command::new(binary("tengate"));
        match part {
            Part::Register => {
                command.args(["register", "--listen", &register]);
            }
            Part::Dispatcher(number) => {
                let listen = self.dispatcher_address(number);
                command.args(["dispatcher", "--listen", &listen, "--register", &register]);
            }
            Part::Gateway(number) => {
                let client = format!("websocket://{}", self.client_address(number));
                command
                    .args(["gateway", "--mode", "dispatched", "--shards", "2"])
                    .args(["--client", &client, "--inner", &self.inner_address(number)])
                    .args(["--register", &register])
                    .env("TENGATE_GATEWAY__PIN_CORES", "false");
            }
            Part::Worker(number) => {
                command = Command::new(binary("tengate-bench"));
                command.args(["worker", "--register", &register, "--id", &number.to_string()]);
                if matches!(self.workers, Workers::Acknowledging) {
                    command.arg("--acknowledge");
                }
            }
        }
        let log = self.folder.join(format!("{}.log", part.name()));
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let run_dir = self.run_dir(part);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&run_dir)?;
        let child = command
            .env("TENGATE_RUN_DIR", run_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        self.running.insert(part, child);
        Ok(())
    }
    fn kill(&mut self, part: Part) -> Result<()> {
        let mut child = self.running.remove(&part).context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops a process in order and waits for its end.
    fn terminate(&mut self, part: Part) -> Result<()> {
        let mut child = self.running.remove(&part).context("it does not run")?;
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        ensure!(status.success(), "{} cannot be told to stop", part.name());
        let ended = wait_for(&part.name(), || Ok(child.try_wait()?.is_some()));
        child.kill()?;
        child.wait()?;
        ended.with_context(|| format!("{} does not stop", part.name()))
    }

    fn replace_killed(&mut self, part: Part) -> Result<()> {
        self.kill(part)?;
        pause(AWAY);
        self.spawn(part)?;
        self.wait_until_whole()
    }

    /// Restarts one after the other, each when the cluster is whole again.
    fn roll(&mut self, parts: &[Part]) -> Result<()> {
        for part in parts {
            self.terminate(*part)?;
            self.spawn(*part)?;
            self.wait_until_whole()?;
        }
        Ok(())
    }

    /// The dispatcher that is the home of the clients' gateway.
    fn home(&self) -> Result<Part> {
        let status = self.status(Part::Gateway(0))?;
        let homes = status["shards"].as_array().context("a gateway has shards")?.iter();
        let home = homes.filter_map(|shard| shard["home"].as_str()).next();
        let home = home.context("the gateway has no home")?;
        let number = DISPATCHERS.into_iter().find(|one| self.dispatcher_address(*one) == home);
        Ok(Part::Dispatcher(number.with_context(|| format!("{home} is no dispatcher of ours"))?))
    }

    /// Until every gateway is at home where the register wants it, and every dispatcher is some gateway's home and has all
    /// gateways and workers.
    fn wait_until_whole(&self) -> Result<()> {
        wait_for("the whole cluster", || {
            let topology =
                self.ask(Part::Register, &["topology", "--register", &self.register_address()]);
            let Ok(topology) = topology else { return Ok(false) };
            let (mut at_home, mut homes) = (0, BTreeSet::new());
            for gateway in topology["gateways"].as_array().into_iter().flatten() {
                let is_home =
                    gateway["home"].is_string() && gateway["home"] == gateway["home_wish"];
                at_home += usize::from(is_home);
                homes.extend(gateway["home"].as_str());
            }
            Ok(at_home == GATEWAYS.len()
                && homes.len() == DISPATCHERS.len()
                && DISPATCHERS.iter().all(|number| self.is_linked(Part::Dispatcher(*number))))
        })
    }

    /// Whether a dispatcher has all gateways and workers, by its own account: the register hears of changes later.
    fn is_linked(&self, dispatcher: Part) -> bool {
        self.status(dispatcher).is_ok_and(|status| {
            let shard = &status["shards"][0];
            shard["gateways"].as_array().map_or(0, Vec::len) == GATEWAYS.len()
                && shard["workers"].as_object().map_or(0, serde_json::Map::len) == WORKERS.len()
        })
    }

    fn status(&self, part: Part) -> Result<Value> {
        let mut processes = self.ask(part, &["status"])?;
        let process = processes.get_mut(0).map(Value::take);
        process.with_context(|| format!("{} does not answer", part.name()))
    }

    fn ask(&self, part: Part, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(binary("tengate"))
            .args(arguments)
            .arg("--json")
            .env("TENGATE_RUN_DIR", self.run_dir(part))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Of the process's admin socket, whose path must be short.
    fn run_dir(&self, part: Part) -> PathBuf {
        let own = format!("tengate-failover-{}", std::process::id());
        std::env::temp_dir().join(own).join(format!("{}-{}", self.port, part.name()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (part, mut child) in core::mem::take(&mut self.running) {
            drop(child.kill());
            drop(child.wait());
            drop(fs::remove_dir_all(self.run_dir(part)));
        }
    }
}

impl Part {
    fn name(self) -> String {
        match self {
            Self::Register => "register".to_owned(),
            Self::Dispatcher(number) => format!("dispatcher-{number}"),
            Self::Gateway(number) => format!("gateway-{number}"),
            Self::Worker(number) => format!("worker-{number}"),
        }
    }
}

fn table(rows: &[(Fault, Workers, Vec<Value>)]) -> Result<String> {
    let mut table = String::from("### When parts fail\n\n| what is done | workers |");
    for (_, title) in FIGURES {
        write!(table, " {title} |")?;
    }
    writeln!(table, "\n|---|---|{}", "---|".repeat(FIGURES.len()))?;
    for (fault, workers, reports) in rows {
        write!(table, "| {} | {} |", fault.title, workers.name())?;
        for (key, _) in FIGURES {
            let figures = reports.iter().filter_map(|report| report[*key].as_f64());
            let spread = Spread::of(figures).with_context(|| format!("no report has {key}"))?;
            write!(table, " {} |", spread.show_whole())?;
        }
        table.push('\n');
    }
    Ok(table)
}

const CLIENTS: &str = "200";
const RATE: &str = "2000";
/// Long enough for the slowest fault.
const SECONDS: &str = "20";
/// How long clients talk undisturbed.
const BEFORE: Duration = Duration::from_secs(2);
/// How long a killed process is away.
const AWAY: Duration = Duration::from_secs(2);
/// The register's, two dispatchers', and two of each gateway.
const PORTS: u16 = 9;
