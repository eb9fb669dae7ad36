//! Slow readers: a few clients stop reading while broadcasts go on. What does it cost the others, and what of them?

use core::ops::AddAssign;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, NANOS_PER_SECOND, Percentiles, float, nanos, now_nanos};
use crate::load::Load;
use crate::pace::Schedule;
use crate::parts::{self, Part, Share};
use crate::plot;
use crate::process::Spent;
use crate::report::{self, Words};
use crate::stamp::{self, STAMPED_BYTES_MIN};

/// Who stops reading, and what is broadcast meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Clients that stop reading, of a hundred; at least one client. Their receive buffers are as small as the kernel allows,
    /// so that the server's side fills soon.
    #[arg(long, default_value_t = 1.0)]
    slow_percent: f64,
    /// Broadcasts a second, on schedule.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long to broadcast, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of a broadcast, at least 17. What one slow reader is sent (bytes, rate and seconds multiplied) must be well
    /// above the kernel's 4 MiB of send buffer, or the server never notices.
    #[arg(long, default_value_t = 16_384)]
    bytes: usize,
    /// Draw the latencies, from the median to the slowest, into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    clients: usize,
    slow_clients: usize,
    processes: usize,
    bytes: usize,
    seconds: f64,
    rate: f64,
    broadcasts: u64,
    /// To clients that read.
    deliveries: u64,
    deliveries_per_second: f64,
    /// Of those, from the instant the broadcast was due.
    #[serde(flatten)]
    latency: Percentiles,
    generator_lag: Percentiles,
    /// What clients that read did not get.
    missed: u64,
    /// Clients that read and were closed.
    closed: u64,
    /// Slow clients whose connections were gone when they read again.
    slow_closed: u64,
    /// Messages that slow clients got when they read again.
    slow_deliveries: u64,
    /// Messages that slow clients whose connections stand will never get.
    slow_missed: u64,
    /// Growth of the server's resident memory until the slow ones read again.
    resident_bytes_growth: Option<u64>,
    resident_bytes_growth_per_slow_client: Option<f64>,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    spent: Spent,
}

/// The clients of one process; the last ones are slow.
struct Slow {
    clients: Clients,
    share: Share,
    slow_count: usize,
    bytes: usize,
    /// Messages each client has got; `None` when its connection is gone.
    received: Vec<Option<u64>>,
    tally: Tally,
    last_arrival: u64,
}

#[derive(Serialize, Deserialize)]
enum Step {
    Connect,
    /// The first part broadcasts, all receive.
    Broadcast {
        rate: f64,
        seconds: f64,
    },
    /// Those that read get the rest of so many messages.
    Collect {
        sent: u64,
    },
    /// The slow ones read again.
    ReadAgain {
        sent: u64,
    },
}

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    sent: u64,
    latencies: Latencies,
    lag: Latencies,
    deliveries: u64,
    missed: u64,
    closed: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    ensure!(options.bytes >= STAMPED_BYTES_MIN, "--bytes must be at least {STAMPED_BYTES_MIN}");
    ensure!(options.rate > 0.0 && options.seconds > 0.0, "--rate and --seconds must be above 0");
    let slow_clients = slow_clients(load.clients, options.slow_percent);
    ensure!(
        slow_clients + load.processes <= load.clients,
        "too many slow clients: one in each process must read"
    );
    let make = |share| Slow::new(options, slow_clients, share);
    let Some(mut crew) = parts::start(load, make)? else { return Ok(()) };
    crew.step_with_bar(&Step::Connect, "connecting", load.clients)?;
    let before = load.usage()?;
    let meter = load.meter(crew.pids())?;
    let step = Step::Broadcast { rate: options.rate, seconds: options.seconds };
    let mut good = crew.step_with_clock(&step, "broadcasting", options.seconds)?;
    let sent = good.sent;
    good += crew.step(&Step::Collect { sent })?;
    let spent = meter.stop()?;
    let after = load.usage()?;
    let slow = crew.step(&Step::ReadAgain { sent })?;
    let growth = after.resident_bytes.saturating_sub(before.resident_bytes);
    let is_known = !load.server.pids.is_empty();
    let micros = spent.micros_per(good.deliveries);
    let result = Report {
        mode: "slow",
        clients: load.clients,
        slow_clients,
        processes: load.processes,
        bytes: options.bytes,
        seconds: options.seconds,
        rate: options.rate,
        broadcasts: sent,
        deliveries: good.deliveries,
        deliveries_per_second: float(good.deliveries) / options.seconds,
        latency: good.latencies.percentiles(),
        generator_lag: good.lag.percentiles(),
        missed: good.missed,
        closed: good.closed,
        slow_closed: slow.closed,
        slow_deliveries: slow.deliveries,
        slow_missed: slow.missed,
        resident_bytes_growth: is_known.then_some(growth),
        resident_bytes_growth_per_slow_client: is_known
            .then(|| float(growth) / float(slow_clients as u64)),
        server_cpu_us_per_delivery: micros,
        spent,
    };
    let words = words(&result);
    if let Some(path) = &options.svg {
        let curves = [("those that read", &good.latencies), ("generator late by", &good.lag)];
        plot::write(path, words.title(), &curves)?;
    }
    report::print(&load.style, &words, &result)
}

fn words(result: &Report) -> Words {
    let title = format!(
        "slow, {} of {} clients stop reading, {} broadcasts/s of {} B for {} s",
        result.slow_clients, result.clients, result.rate, result.bytes, result.seconds
    );
    let mut words = Words::new(title)
        .number("rate", result.deliveries_per_second, "deliveries/s to those that read")
        .latency("latency", &result.latency)
        .latency("generator late by", &result.generator_lag)
        .count("missed", result.missed)
        .trouble("closed although they read", result.closed)
        .count("slow ones closed", result.slow_closed)
        .count("slow ones got later", result.slow_deliveries)
        .count("open slow ones missed", result.slow_missed);
    if let Some(bytes) = result.resident_bytes_growth_per_slow_client {
        words = words.number("server memory", bytes / 1024.0, "KiB more a slow client");
    }
    words.spent("server per delivery", &result.spent, result.server_cpu_us_per_delivery)
}

/// So many percent of the clients, rounded up.
fn slow_clients(clients: usize, percent: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and too many are refused afterwards"
    )]
    let count = (float(clients as u64) * percent / 100.0).ceil() as usize;
    count.max(1)
}

impl Slow {
    fn new(options: &Options, slow_clients: usize, share: Share) -> Result<Self> {
        let clients = options.load.clients(share)?;
        let received = vec![Some(0); clients.len()];
        Ok(Self {
            clients,
            share,
            slow_count: share.of(slow_clients),
            bytes: options.bytes,
            received,
            tally: Tally::default(),
            last_arrival: 0,
        })
    }

    fn first_slow(&self) -> usize {
        self.clients.len() - self.slow_count
    }

    fn connect(&mut self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let slow = self.first_slow()..self.clients.len();
        slow.clone().for_each(|client| self.clients.line(client).receive_little());
        self.clients.open(progress)?;
        slow.for_each(|client| self.clients.line(client).pause());
        Ok(())
    }

    fn broadcast(&mut self, rate: f64, time: f64) -> Result<()> {
        let start = now_nanos();
        let end = start + nanos(time);
        // One part sends, at the whole rate.
        let alone = Share { index: 0, count: 1 };
        let sends = if self.share.index == 0 { time } else { 0.0 };
        let mut schedule = Schedule::new(start, rate, sends, alone);
        let (mut payload, mut message) = (Vec::new(), Vec::new());
        while now_nanos() < end || schedule.due().is_some() {
            while let Some((_, due)) = schedule.take(now_nanos()) {
                stamp::encode(due, self.bytes, &mut payload);
                message.clear();
                self.clients.encode(&payload, &mut message);
                self.clients.line(0).send(&message);
                self.tally.sent += 1;
                self.tally.lag.record(now_nanos() - due);
            }
            self.turn(schedule.due().unwrap_or(end))?;
        }
        Ok(())
    }

    /// Until these clients have got what was sent, or nothing has come for long.
    fn collect(&mut self, clients: core::ops::Range<usize>, sent: u64) -> Result<()> {
        self.last_arrival = now_nanos();
        let lacks = |received: &Option<u64>| received.is_some_and(|count| count < sent);
        while self.received[clients.clone()].iter().any(lacks) {
            let patience_ends = self.last_arrival + SILENCE_NANOS;
            if now_nanos() >= patience_ends {
                break;
            }
            self.turn(patience_ends)?;
        }
        let missing = |received: &Option<u64>| sent.saturating_sub(received.unwrap_or(sent));
        self.tally.missed = self.received[clients].iter().map(missing).sum();
        Ok(())
    }

    fn turn(&mut self, wake: u64) -> Result<()> {
        let Self { clients, received, tally, last_arrival, .. } = self;
        clients.turn_until(wake, |client, _, event| {
            match event {
                Event::Message(payload) => {
                    let Some(sent_at) = stamp::decode(payload) else { return Ok(()) };
                    let now = now_nanos();
                    *last_arrival = now;
                    tally.latencies.record(now - sent_at);
                    tally.deliveries += 1;
                    received[client] = received[client].map(|count| count + 1);
                }
                Event::Open => {}
                Event::Gone(_) => {
                    tally.closed += 1;
                    received[client] = None;
                }
            }
            Ok(())
        })
    }
}

impl Part for Slow {
    type Step = Step;
    type Tally = Tally;

    fn step(&mut self, step: &Step, progress: &mut dyn FnMut(u64)) -> Result<Tally> {
        let (first_slow, count) = (self.first_slow(), self.clients.len());
        match step {
            Step::Connect => self.connect(progress)?,
            Step::Broadcast { rate, seconds } => self.broadcast(*rate, *seconds)?,
            Step::Collect { sent } => self.collect(0..first_slow, *sent)?,
            Step::ReadAgain { sent } => {
                for client in first_slow..count {
                    self.clients.resume(client)?;
                }
                self.collect(first_slow..count, *sent)?;
            }
        }
        Ok(core::mem::take(&mut self.tally))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.latencies += other.latencies;
        self.lag += other.lag;
        self.deliveries += other.deliveries;
        self.missed += other.missed;
        self.closed += other.closed;
    }
}

/// Nobody waits for more when nothing has come for so long.
const SILENCE_NANOS: u64 = 2 * NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_client_is_slow() {
        for (clients, percent, expected) in
            [(1000, 1.0, 10), (10, 1.0, 1), (10, 0.0, 1), (150, 1.0, 2)]
        {
            assert_eq!(slow_clients(clients, percent), expected, "{percent} % of {clients}");
        }
    }
}
