//! Idle clients, and what each costs the server and the kernel in memory.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Percentiles, float, nanos, now_nanos, seconds};
use crate::load::Load;
use crate::pace::{self, Paced, Schedule};
use crate::parts::{self, Crew, Part, Share};
use crate::process::{self, Cost, Usage};
use crate::report::{self, Words};

/// Whom to hold, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// How long to wait for the server to come to rest before its memory is looked at, in seconds: after the warm-up, a
    /// tenth of the clients that leave again, and after the last client.
    #[arg(long, default_value_t = 2.0)]
    settle: f64,
    /// How long to hold the clients after that, in seconds.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Echoes a second of all clients together while they are held, on schedule: what a busy few wait among idle many.
    #[arg(long, requires = "seconds")]
    rate: Option<f64>,
    /// Bytes of such an echo.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    clients: usize,
    processes: usize,
    /// Of the server when no client had come yet.
    resident_bytes_at_start: u64,
    /// After the warm-up, which leaves tables and pools behind.
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    /// Growth of the server's resident memory, for each client.
    bytes_per_client: Option<f64>,
    /// Growth of the whole machine's slab and TCP buffers, for each client: both ends of a connection over loopback. None of
    /// clients on a device.
    kernel_bytes_per_client: Option<f64>,
    /// Growth of the generator's resident memory, for each client.
    generator_bytes_per_client: f64,
    /// Clients whose connections ended while they were held.
    lost: u64,
    handshakes_per_second: f64,
    server_cpu_us_per_handshake: Option<f64>,
    seconds: f64,
    /// Server's processor time while the clients are held, 1 for a whole core.
    server_busy_share_holding: Option<f64>,
    rate: Option<f64>,
    messages: u64,
    unanswered: u64,
    #[serde(flatten)]
    latency: Option<Percentiles>,
    generator_lag: Option<Percentiles>,
}

/// The clients of one process.
struct Hold {
    clients: Clients,
    share: Share,
    message: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum Step {
    /// A tenth of the clients come and go.
    WarmUp,
    Connect,
    /// Nothing, for so many seconds.
    Idle(f64),
    /// Echoes on schedule, for so many seconds.
    Echo {
        rate: f64,
        seconds: f64,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    ensure!(options.bytes > 0, "--bytes must be at least 1");
    ensure!(options.settle >= 0.0 && options.seconds >= 0.0, "times must not be negative");
    ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be above 0");
    let Some(mut crew) = parts::start(load, |share| Hold::new(options, share))? else {
        return Ok(());
    };
    let result = measure(options, &mut crew)?;
    report::print(&load.style, &words(&result), &result)
}

fn measure(options: &Options, crew: &mut Crew<Hold>) -> Result<Report> {
    let load = &options.load;
    let count = float(load.clients as u64);
    let resident_bytes_at_start = load.usage()?.resident_bytes;
    crew.step(&Step::WarmUp)?;
    crew.step(&Step::Idle(options.settle))?;
    let (before, kernel_before) = (load.usage()?, process::kernel_bytes()?);
    let own_before = Usage::of(&crew.pids())?.resident_bytes;
    let start = now_nanos();
    crew.step_with_bar(&Step::Connect, "connecting", load.clients)?;
    let connecting_nanos = now_nanos() - start;
    let connected = load.usage()?;
    let handshakes = connected.since(&before, connecting_nanos);
    let settling = crew.step(&Step::Idle(options.settle))?;
    let (after, kernel_after) = (load.usage()?, process::kernel_bytes()?);
    let own_grown = Usage::of(&crew.pids())?.resident_bytes.saturating_sub(own_before);
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    let kernel_grown = float(kernel_after.saturating_sub(kernel_before)) / count;
    let start = now_nanos();
    let step = match options.rate {
        Some(rate) => Step::Echo { rate, seconds: options.seconds },
        None => Step::Idle(options.seconds),
    };
    let paced = crew.step_with_clock(&step, "holding", options.seconds)?;
    let holding: Option<Cost> = load.usage()?.since(&after, now_nanos() - start);
    let latency = options.rate.map(|_| paced.latencies.percentiles());
    Ok(Report {
        mode: "hold",
        clients: load.clients,
        processes: load.processes,
        resident_bytes_at_start,
        resident_bytes_before: before.resident_bytes,
        resident_bytes_after: after.resident_bytes,
        bytes_per_client: (!load.server.pids.is_empty()).then(|| float(grown) / count),
        kernel_bytes_per_client: (!load.is_on_device()).then_some(kernel_grown),
        generator_bytes_per_client: float(own_grown) / count,
        lost: settling.lost + paced.lost,
        handshakes_per_second: count / seconds(connecting_nanos),
        server_cpu_us_per_handshake: handshakes
            .and_then(|cost| cost.micros_per(load.clients as u64)),
        seconds: options.seconds,
        server_busy_share_holding: holding
            .filter(|_| options.seconds > 0.0)
            .map(|cost| cost.cpu_seconds / options.seconds),
        rate: options.rate,
        messages: paced.latencies.count(),
        unanswered: paced.sent - paced.latencies.count(),
        latency,
        generator_lag: options.rate.map(|_| paced.lag.percentiles()),
    })
}

fn words(result: &Report) -> Words {
    let mut words = Words::new(format!("hold, {} clients", result.clients));
    if let Some(bytes) = result.bytes_per_client {
        words = words.number("server", bytes, "B/client");
    }
    if let Some(bytes) = result.kernel_bytes_per_client {
        words = words.number("kernel, both ends", bytes, "B/client");
    }
    words = words
        .number("generator", result.generator_bytes_per_client, "B/client")
        .number("rate", result.handshakes_per_second, "handshakes/s")
        .trouble("lost", result.lost);
    if let Some(micros) = result.server_cpu_us_per_handshake {
        words = words.number("server per handshake", micros, "µs");
    }
    if let Some(share) = result.server_busy_share_holding {
        words = words.number("server while holding", share * 100.0, "% of a core");
    }
    if let (Some(latency), Some(lag)) = (&result.latency, &result.generator_lag) {
        words = words
            .latency("echo meanwhile", latency)
            .latency("generator late by", lag)
            .trouble("unanswered", result.unanswered);
    }
    words
}

impl Hold {
    fn new(options: &Options, share: Share) -> Result<Self> {
        let clients = options.load.clients(share)?;
        let mut message = Vec::new();
        clients.encode(&vec![b'h'; options.bytes], &mut message);
        Ok(Self { clients, share, message })
    }

    /// Nothing is sent but answers to the server's pings.
    fn idle(&mut self, time: f64) -> Result<Paced> {
        let end = now_nanos() + nanos(time);
        let mut paced = Paced::default();
        while now_nanos() < end {
            self.clients.turn_until(end, |_, _, event| {
                paced.lost += u64::from(matches!(event, Event::Gone(_)));
                Ok(())
            })?;
        }
        Ok(paced)
    }
}

impl Part for Hold {
    type Step = Step;
    type Tally = Paced;

    fn step(&mut self, step: &Step, progress: &mut dyn FnMut(u64)) -> Result<Paced> {
        match step {
            Step::WarmUp => {
                let few = self.clients.len() / 10 + 1;
                self.clients.open_first(few, &mut |_| {})?;
                (0..few).for_each(|client| self.clients.reset(client));
            }
            Step::Connect => self.clients.open(progress)?,
            Step::Idle(time) => return self.idle(*time),
            Step::Echo { rate, seconds } => {
                let schedule = Schedule::new(now_nanos(), *rate, *seconds, self.share);
                return pace::run(&mut self.clients, &self.message, schedule);
            }
        }
        Ok(Paced::default())
    }
}
