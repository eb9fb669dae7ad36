//! Storm: all clients are cut off at once, and all come back at once.

use core::ops::AddAssign;
use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, Percentiles, float, nanos, now_nanos, seconds};
use crate::load::Load;
use crate::parts::{self, Part, Share};
use crate::plot;
use crate::process::Spent;
use crate::report::{self, Words};

/// Whom to cut off, and how they come back.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Handshakes under way at the same time, in all processes together; all of them if not given.
    #[arg(long)]
    at_once: Option<usize>,
    /// How long a client waits for its connection and handshake before it gives up and tries again, in seconds.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// How long a client waits after an attempt that failed, in seconds.
    #[arg(long, default_value_t = 0.1)]
    retry: f64,
    /// How long all may take to come back, in seconds.
    #[arg(long, default_value_t = 120.0)]
    patience: f64,
    /// Draw the latencies, from the median to the slowest, into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    clients: usize,
    processes: usize,
    at_once: usize,
    /// From the cut until each client is open again.
    #[serde(flatten)]
    latency: Percentiles,
    seconds_until_all_are_back: f64,
    handshakes_per_second: f64,
    /// Attempts the server refused or ended early.
    refused: u64,
    /// Attempts that took too long.
    timed_out: u64,
    server_cpu_us_per_handshake: Option<f64>,
    #[serde(flatten)]
    spent: Spent,
}

/// The clients of one process.
struct Storm {
    clients: Clients,
    at_once: usize,
    timeout_nanos: u64,
    retry_nanos: u64,
    patience_nanos: u64,
}

#[derive(Serialize, Deserialize)]
enum Step {
    Connect,
    CutAndReturn,
}

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    latencies: Latencies,
    refused: u64,
    timed_out: u64,
    nanos: u64,
}

/// The clients on their way back.
struct Return {
    /// Those that may connect, each from an instant on; in the order of the instants.
    ready: VecDeque<(u64, usize)>,
    /// Attempts, in the order of their time-outs; some may have ended.
    attempts: VecDeque<(u64, usize)>,
    /// The time-out of the attempt of each client that has one under way, else 0.
    under_way: Vec<u64>,
    under_way_count: usize,
    tally: Tally,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    let at_once = options.at_once.unwrap_or(load.clients);
    ensure!(at_once >= load.processes, "--at-once must be at least 1 for each process");
    ensure!(
        options.timeout > 0.0 && options.retry >= 0.0 && options.patience > 0.0,
        "times must be above 0"
    );
    let Some(mut crew) = parts::start(load, |share| Storm::new(options, at_once, share))? else {
        return Ok(());
    };
    crew.step_with_bar(&Step::Connect, "connecting", load.clients)?;
    let meter = load.meter(crew.pids())?;
    let tally = crew.step_with_bar(&Step::CutAndReturn, "returning", load.clients)?;
    let spent = meter.stop()?;
    let handshakes = tally.latencies.count();
    let micros = spent.micros_per(handshakes);
    let result = Report {
        mode: "storm",
        clients: load.clients,
        processes: load.processes,
        at_once,
        latency: tally.latencies.percentiles(),
        seconds_until_all_are_back: seconds(tally.nanos),
        handshakes_per_second: float(handshakes) / seconds(tally.nanos),
        refused: tally.refused,
        timed_out: tally.timed_out,
        server_cpu_us_per_handshake: micros,
        spent,
    };
    let words = words(&result);
    if let Some(path) = &options.svg {
        plot::write(path, words.title(), &[("back after", &tally.latencies)])?;
    }
    report::print(&load.style, &words, &result)
}

fn words(result: &Report) -> Words {
    let title =
        format!("storm, {} clients cut off, {} handshakes at once", result.clients, result.at_once);
    Words::new(title)
        .number("all back after", result.seconds_until_all_are_back, "s")
        .number("rate", result.handshakes_per_second, "handshakes/s")
        .latency("each back after", &result.latency)
        .trouble("refused and tried again", result.refused)
        .trouble("timed out and tried again", result.timed_out)
        .spent("server per handshake", &result.spent, result.server_cpu_us_per_handshake)
}

impl Storm {
    fn new(options: &Options, at_once: usize, share: Share) -> Result<Self> {
        Ok(Self {
            clients: options.load.clients(share)?,
            at_once: share.of(at_once),
            timeout_nanos: nanos(options.timeout),
            retry_nanos: nanos(options.retry),
            patience_nanos: nanos(options.patience),
        })
    }

    fn cut_and_return(&mut self, progress: &mut dyn FnMut(u64)) -> Result<Tally> {
        let count = self.clients.len();
        let start = now_nanos();
        (0..count).for_each(|client| self.clients.reset(client));
        let mut returning = Return {
            ready: (0..count).map(|client| (start, client)).collect(),
            attempts: VecDeque::new(),
            under_way: vec![0; count],
            under_way_count: 0,
            tally: Tally::default(),
        };
        while returning.tally.latencies.count() < count as u64 {
            let now = now_nanos();
            ensure!(
                now - start < self.patience_nanos,
                "{} of {count} clients are back after {:.0} s, --patience; {} attempts were refused, {} timed out",
                returning.tally.latencies.count(),
                seconds(self.patience_nanos),
                returning.tally.refused,
                returning.tally.timed_out
            );
            self.give_up(&mut returning, now);
            self.try_again(&mut returning, now)?;
            let wake =
                returning.wake(now + TURN_NANOS_MAX, returning.under_way_count < self.at_once);
            let retry_nanos = self.retry_nanos;
            self.clients.turn_until(wake, |client, _, event| {
                match event {
                    Event::Open => {
                        returning.end_attempt(client);
                        returning.tally.latencies.record(now_nanos() - start);
                        progress(returning.tally.latencies.count());
                    }
                    Event::Message(_) => {}
                    Event::Gone(ending) if ending.was_open => return Err(ending.into_error()),
                    Event::Gone(_) => returning.refuse(client, now_nanos() + retry_nanos),
                }
                Ok(())
            })?;
        }
        returning.tally.nanos = now_nanos() - start;
        Ok(returning.tally)
    }

    /// Ends attempts that have taken too long.
    fn give_up(&mut self, returning: &mut Return, now: u64) {
        while let Some(&(timeout, client)) = returning.attempts.front()
            && timeout <= now
        {
            returning.attempts.pop_front();
            if returning.under_way[client] == timeout {
                self.clients.reset(client);
                returning.end_attempt(client);
                returning.tally.timed_out += 1;
                returning.ready.push_back((now + self.retry_nanos, client));
            }
        }
    }

    /// Begins attempts that may begin; some of them, so that handshakes go on meanwhile.
    fn try_again(&mut self, returning: &mut Return, now: u64) -> Result<()> {
        let under_way_count_max = self.at_once.min(returning.under_way_count + CONNECTS_PER_TURN);
        while returning.under_way_count < under_way_count_max
            && let Some(&(_, client)) = returning.ready.front().filter(|(from, _)| *from <= now)
        {
            returning.ready.pop_front();
            returning.begin_attempt(client, now + self.timeout_nanos);
            if self.clients.connect(client)?.is_some() {
                returning.refuse(client, now + self.retry_nanos);
            }
        }
        Ok(())
    }
}

impl Return {
    fn begin_attempt(&mut self, client: usize, timeout: u64) {
        self.under_way[client] = timeout;
        self.under_way_count += 1;
        self.attempts.push_back((timeout, client));
    }

    fn end_attempt(&mut self, client: usize) {
        self.under_way[client] = 0;
        self.under_way_count -= 1;
    }

    fn refuse(&mut self, client: usize, retry_at: u64) {
        self.end_attempt(client);
        self.tally.refused += 1;
        self.ready.push_back((retry_at, client));
    }

    /// When there is something to do even if nothing happens, at most `latest`.
    fn wake(&self, latest: u64, may_begin: bool) -> u64 {
        let timeout = self.attempts.front().map_or(latest, |(timeout, _)| *timeout);
        let retry = self.ready.front().filter(|_| may_begin).map_or(latest, |(from, _)| *from);
        latest.min(timeout).min(retry)
    }
}

impl Part for Storm {
    type Step = Step;
    type Tally = Tally;

    fn step(&mut self, step: &Step, progress: &mut dyn FnMut(u64)) -> Result<Tally> {
        match step {
            Step::Connect => {
                self.clients.open(progress)?;
                Ok(Tally::default())
            }
            Step::CutAndReturn => self.cut_and_return(progress),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.latencies += other.latencies;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.nanos = self.nanos.max(other.nanos);
    }
}

/// Connections begun between two looks at those under way.
const CONNECTS_PER_TURN: usize = 16;
const TURN_NANOS_MAX: u64 = crate::latency::NANOS_PER_SECOND / 2;
