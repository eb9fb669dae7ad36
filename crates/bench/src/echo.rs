//! Echo: every message comes back to its client. Closed loop, one in flight a client; or open loop, at a constant rate.

use core::ops::AddAssign;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Percentiles, float, nanos, now_nanos, seconds};
use crate::load::Load;
use crate::pace::{self, Paced, Schedule};
use crate::parts::{self, Part, Share};
use crate::plot;
use crate::process::Spent;
use crate::report::{self, Words};

/// What to send where, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long to send before measuring, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Open loop: messages a second of all clients together, sent when they are due even if answers are late. A latency
    /// then counts from the instant the message was due, so a stall counts for all that was to be sent meanwhile. Without
    /// it every client waits for an answer before it sends again.
    #[arg(long)]
    rate: Option<f64>,
    /// Draw the latencies, from the median to the slowest, into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Keep the latencies in this file, for `tengate-bench plot`.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    clients: usize,
    processes: usize,
    bytes: usize,
    seconds: f64,
    /// What was asked for, in an open loop.
    rate: Option<f64>,
    messages: u64,
    messages_per_second: f64,
    #[serde(flatten)]
    latency: Percentiles,
    /// Open loop: messages that were not answered within ten seconds after the last was sent.
    unanswered: Option<u64>,
    /// Open loop: how late the generator itself was.
    generator_lag: Option<Percentiles>,
    server_cpu_us_per_message: Option<f64>,
    #[serde(flatten)]
    spent: Spent,
}

/// The clients of one process.
struct Echo {
    clients: Clients,
    share: Share,
    message: Vec<u8>,
    rate: Option<f64>,
    /// Of each client's message in flight; 0 while there is none.
    sent_at: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
enum Step {
    Connect,
    /// For so many seconds.
    Run(f64),
}

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    paced: Paced,
    nanos: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    ensure!(options.bytes > 0, "--bytes must be at least 1");
    ensure!(options.seconds > 0.0 && options.warmup >= 0.0, "--seconds must be above 0");
    ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be above 0");
    let Some(mut crew) = parts::start(load, |share| Echo::new(options, share))? else {
        return Ok(());
    };
    crew.step_with_bar(&Step::Connect, "connecting", load.clients)?;
    if options.warmup > 0.0 {
        crew.step(&Step::Run(options.warmup))?;
    }
    let meter = load.meter(crew.pids())?;
    let step = Step::Run(options.seconds);
    let tally = crew.step_with_clock(&step, "echoing", options.seconds)?;
    let spent = meter.stop()?;
    let paced = tally.paced;
    let is_open = options.rate.is_some();
    ensure!(paced.lost == 0, "the server closed {} clients' connections", paced.lost);
    let messages = paced.latencies.count();
    let micros = spent.micros_per(messages);
    let result = Report {
        mode: "echo",
        clients: load.clients,
        processes: load.processes,
        bytes: options.bytes,
        seconds: seconds(tally.nanos),
        rate: options.rate,
        messages,
        messages_per_second: float(paced.answered_in_time) / seconds(tally.nanos),
        latency: paced.latencies.percentiles(),
        unanswered: is_open.then(|| paced.sent - messages),
        generator_lag: is_open.then(|| paced.lag.percentiles()),
        server_cpu_us_per_message: micros,
        spent,
    };
    let words = words(&result);
    if let Some(path) = &options.svg {
        let curves = [("echo", &paced.latencies), ("generator late by", &paced.lag)];
        plot::write(path, words.title(), &curves)?;
    }
    if let Some(path) = &options.keep {
        plot::keep(path, &paced.latencies)?;
    }
    report::print(&load.style, &words, &result)
}

fn words(result: &Report) -> Words {
    let looped = result.rate.map_or_else(
        || "one in flight each".to_owned(),
        |rate| format!("{rate} messages/s on schedule"),
    );
    let title = format!("echo, {} clients, {} B, {looped}", result.clients, result.bytes);
    let mut words = Words::new(title)
        .number("rate", result.messages_per_second, "messages/s")
        .latency("latency", &result.latency)
        .trouble("unanswered", result.unanswered.unwrap_or(0));
    if let Some(lag) = &result.generator_lag {
        words = words.latency("generator late by", lag);
    }
    words.spent("server per message", &result.spent, result.server_cpu_us_per_message)
}

impl Echo {
    fn new(options: &Options, share: Share) -> Result<Self> {
        let clients = options.load.clients(share)?;
        let mut message = Vec::new();
        clients.encode(&vec![b'e'; options.bytes], &mut message);
        let sent_at = vec![0; clients.len()];
        Ok(Self { clients, share, message, rate: options.rate, sent_at })
    }

    /// Answers every echo with the next message until the time is over. What is in flight then stays so.
    fn ask_and_answer(&mut self, time: f64) -> Result<Tally> {
        let start = now_nanos();
        let end = start + nanos(time);
        for client in 0..self.clients.len() {
            if self.sent_at[client] == 0 {
                self.sent_at[client] = now_nanos();
                self.clients.line(client).send(&self.message);
            }
        }
        let mut paced = Paced::default();
        while now_nanos() < end {
            self.clients.turn_until(end, |client, line, event| {
                match event {
                    Event::Message(_) => {
                        let now = now_nanos();
                        paced.answered_in_time += 1;
                        // The pause between two steps is not the server's.
                        paced.latencies.record(now - self.sent_at[client].max(start));
                        self.sent_at[client] = now;
                        line.send(&self.message);
                    }
                    Event::Open => {}
                    Event::Gone(ending) => return Err(ending.into_error()),
                }
                Ok(())
            })?;
        }
        Ok(Tally { paced, nanos: now_nanos() - start })
    }
}

impl Part for Echo {
    type Step = Step;
    type Tally = Tally;

    fn step(&mut self, step: &Step, progress: &mut dyn FnMut(u64)) -> Result<Tally> {
        match (step, self.rate) {
            (Step::Connect, _) => {
                self.clients.open(progress)?;
                Ok(Tally::default())
            }
            (Step::Run(time), None) => self.ask_and_answer(*time),
            (Step::Run(time), Some(rate)) => {
                let schedule = Schedule::new(now_nanos(), rate, *time, self.share);
                let paced = pace::run(&mut self.clients, &self.message, schedule)?;
                Ok(Tally { paced, nanos: nanos(*time) })
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.paced += other.paced;
        self.nanos = self.nanos.max(other.nanos);
    }
}
