//! Churn: every client connects, is opened, closes, and connects again.

use core::ops::AddAssign;
use core::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, Percentiles, float, nanos, now_nanos, seconds};
use crate::load::Load;
use crate::parts::{self, Part, Share};
use crate::process::Spent;
use crate::report::{self, Words};

/// How to come and go, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// How a client closes. The side that closes first keeps the port for a minute (TIME_WAIT), and that is this one: clean
    /// closes use up the 28 000 ports of an address within seconds (over loopback Linux takes one again after a second, but
    /// looking for it gets slow). Give addresses by --source, or use resets, which leave nothing behind.
    #[arg(long, value_enum, default_value_t = Close::Reset)]
    close: Close,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long to come and go before measuring, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Close {
    /// A farewell if the protocol has one (websocket: a close frame), then FIN, then the server's FIN is awaited.
    Clean,
    /// RST, and nothing else.
    Reset,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    close: Close,
    clients: usize,
    processes: usize,
    seconds: f64,
    handshakes: u64,
    handshakes_per_second: f64,
    /// From the first SYN until the client is open.
    #[serde(flatten)]
    latency: Percentiles,
    /// Connections that the server refused, or ended before they were open.
    failed: u64,
    server_cpu_us_per_handshake: Option<f64>,
    #[serde(flatten)]
    spent: Spent,
}

/// The clients of one process.
struct Churn {
    clients: Clients,
    close: Close,
    started_at: Vec<u64>,
    /// Those that are not connected.
    idle: Vec<usize>,
}

/// Come and go for so many seconds.
#[derive(Serialize, Deserialize)]
struct Step(f64);

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    latencies: Latencies,
    failed: u64,
    nanos: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check()?;
    ensure!(options.seconds > 0.0 && options.warmup >= 0.0, "--seconds must be above 0");
    let Some(mut crew) = parts::start(load, |share| Churn::new(options, share))? else {
        return Ok(());
    };
    crew.step(&Step(options.warmup))?;
    let meter = load.meter(crew.pids())?;
    let step = Step(options.seconds);
    let tally = crew.step_with_clock(&step, "coming and going", options.seconds)?;
    let spent = meter.stop()?;
    let handshakes = tally.latencies.count();
    let micros = spent.micros_per(handshakes);
    let result = Report {
        mode: "churn",
        close: options.close,
        clients: load.clients,
        processes: load.processes,
        seconds: seconds(tally.nanos),
        handshakes,
        handshakes_per_second: float(handshakes) / seconds(tally.nanos),
        latency: tally.latencies.percentiles(),
        failed: tally.failed,
        server_cpu_us_per_handshake: micros,
        spent,
    };
    report::print(&load.style, &words(&result), &result)
}

fn words(result: &Report) -> Words {
    let close = match result.close {
        Close::Clean => "clean",
        Close::Reset => "reset",
    };
    Words::new(format!("churn, {} clients at a time, {close} closes", result.clients))
        .number("rate", result.handshakes_per_second, "handshakes/s")
        .latency("connect to open", &result.latency)
        .trouble("failed", result.failed)
        .spent("server per handshake", &result.spent, result.server_cpu_us_per_handshake)
}

impl Churn {
    fn new(options: &Options, share: Share) -> Result<Self> {
        let clients = options.load.clients(share)?;
        let count = clients.len();
        let (started_at, idle) = (vec![0; count], (0..count).collect());
        Ok(Self { clients, close: options.close, started_at, idle })
    }

    fn come_and_go(&mut self, time: f64) -> Result<Tally> {
        let start = now_nanos();
        let end = start + nanos(time);
        let mut tally = Tally::default();
        while now_nanos() < end {
            for client in core::mem::take(&mut self.idle) {
                self.started_at[client] = now_nanos();
                if let Some(ending) = self.clients.connect(client)? {
                    // Where nobody listens, nothing will ever open.
                    ensure!(tally.latencies.count() > 0, ending.into_error());
                    tally.failed += 1;
                    self.idle.push(client);
                }
            }
            let (close, started_at, idle) = (self.close, &self.started_at, &mut self.idle);
            // Not longer, so that refused ones try again even when nothing else happens.
            self.clients.turn(Duration::from_millis(10), |client, line, event| {
                match event {
                    Event::Open => {
                        // The pause between two steps is not the server's.
                        tally.latencies.record(now_nanos() - started_at[client].max(start));
                        match close {
                            Close::Clean => line.leave(),
                            Close::Reset => {
                                line.reset();
                                idle.push(client);
                            }
                        }
                    }
                    Event::Message(_) => {}
                    Event::Gone(ending) => {
                        tally.failed += u64::from(!ending.was_open);
                        idle.push(client);
                    }
                }
                Ok(())
            })?;
        }
        tally.nanos = now_nanos() - start;
        Ok(tally)
    }
}

impl Part for Churn {
    type Step = Step;
    type Tally = Tally;

    fn step(&mut self, Step(time): &Step, _: &mut dyn FnMut(u64)) -> Result<Tally> {
        self.come_and_go(*time)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.latencies += other.latencies;
        self.failed += other.failed;
        self.nanos = self.nanos.max(other.nanos);
    }
}
