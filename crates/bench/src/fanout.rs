//! Fan-out: one message to many clients, again and again.

use core::ops::AddAssign;
use core::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::clients::{Clients, Event};
use crate::latency::{Latencies, NANOS_PER_SECOND, Percentiles, float, now_nanos, seconds};
use crate::load::Load;
use crate::parts::{self, Part, Share};
use crate::process::Spent;
use crate::report::{self, Words};
use crate::stamp::{self, STAMPED_BYTES_MIN};
use crate::worker::Verb;

/// What to send to whom, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Bytes that each receiver gets, at least 17: a mark and the instant of sending come first.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// How many rounds, after one of warm-up. A round is over when every receiver has its message.
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// Whom one message goes to.
    #[arg(long, value_enum, default_value_t = To::All)]
    to: To,
    /// Clients that are in one group, or share one uid. The last group of each process may be smaller.
    #[arg(long, default_value_t = 10)]
    group_size: usize,
    /// How many groups (or uids) are sent to in one round, in each process.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
}

/// Receivers of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
enum To {
    /// Every client.
    All,
    /// A group of --group-size clients.
    Group,
    /// A uid that --group-size clients share.
    Uid,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    to: To,
    clients: usize,
    processes: usize,
    /// Receivers of one message; all clients with `all`.
    group_size: usize,
    bytes: usize,
    rounds: u64,
    seconds: f64,
    deliveries: u64,
    deliveries_per_second: f64,
    /// Of each receiver.
    #[serde(flatten)]
    latency: Percentiles,
    /// Of the last receiver of each round.
    last_receiver: Percentiles,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    spent: Spent,
}

/// The clients of one process.
struct Fanout {
    clients: Clients,
    share: Share,
    to: To,
    bytes: usize,
    group_size: usize,
    at_once: usize,
    /// Reused for every message.
    payload: Vec<u8>,
    message: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum Step {
    Connect,
    /// Every client joins its group, or takes its uid.
    Join,
    /// The round of this number.
    Round(u64),
}

#[derive(Default, Serialize, Deserialize)]
struct Tally {
    latencies: Latencies,
    /// Of the last receiver.
    last_nanos: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    load.check_messages()?;
    ensure!(options.bytes >= STAMPED_BYTES_MIN, "--bytes must be at least {STAMPED_BYTES_MIN}");
    ensure!(options.group_size > 0, "--group-size must be at least 1");
    ensure!(options.rounds > 0 && options.at_once > 0, "--rounds and --at-once are at least 1");
    ensure!(options.at_once == 1 || options.to != To::All, "--at-once is for groups and uids");
    let Some(mut crew) = parts::start(load, |share| Fanout::new(options, share))? else {
        return Ok(());
    };
    crew.step_with_bar(&Step::Connect, "connecting", load.clients)?;
    if options.to != To::All {
        crew.step(&Step::Join)?;
    }
    crew.step(&Step::Round(0))?;
    let meter = load.meter(crew.pids())?;
    let (mut each, mut last) = (Latencies::default(), Latencies::default());
    let bar = report::progress("rounds", options.rounds);
    for round in 1..=options.rounds {
        let tally = crew.step(&Step::Round(round))?;
        each += tally.latencies;
        last.record(tally.last_nanos);
        bar.set_position(round);
    }
    bar.finish_and_clear();
    let spent = meter.stop()?;
    let deliveries = each.count();
    let micros = spent.micros_per(deliveries);
    let result = Report {
        mode: "fanout",
        to: options.to,
        clients: load.clients,
        processes: load.processes,
        group_size: if options.to == To::All { load.clients } else { options.group_size },
        bytes: options.bytes,
        rounds: options.rounds,
        seconds: seconds(spent.nanos),
        deliveries,
        deliveries_per_second: float(deliveries) / seconds(spent.nanos),
        latency: each.percentiles(),
        last_receiver: last.percentiles(),
        server_cpu_us_per_delivery: micros,
        spent,
    };
    report::print(&load.style, &words(&result), &result)
}

fn words(result: &Report) -> Words {
    let to = match result.to {
        To::All => "all".to_owned(),
        To::Group => format!("groups of {}", result.group_size),
        To::Uid => format!("uids of {} clients", result.group_size),
    };
    let title = format!(
        "fanout to {to}, {} clients, {} B, {} rounds",
        result.clients, result.bytes, result.rounds
    );
    Words::new(title)
        .number("rate", result.deliveries_per_second, "deliveries/s")
        .latency("each receiver", &result.latency)
        .latency("last receiver", &result.last_receiver)
        .spent("server per delivery", &result.spent, result.server_cpu_us_per_delivery)
}

impl Fanout {
    fn new(options: &Options, share: Share) -> Result<Self> {
        Ok(Self {
            clients: options.load.clients(share)?,
            share,
            to: options.to,
            bytes: options.bytes,
            group_size: options.group_size,
            at_once: options.at_once,
            payload: Vec::new(),
            message: Vec::new(),
        })
    }

    /// The name of the group, or uid, of this number.
    fn name(&self, group: usize) -> String {
        format!("bench-{}-{group}", self.share.index)
    }

    fn join(&mut self) -> Result<Tally> {
        let mut request = Vec::new();
        for client in 0..self.clients.len() {
            let name = self.name(client / self.group_size);
            request.clear();
            match self.to {
                To::Group => Verb::Join(&name).encode(&[], &mut request),
                To::All | To::Uid => Verb::Bind(&name).encode(&[], &mut request),
            }
            self.message.clear();
            self.clients.encode(&request, &mut self.message);
            self.clients.line(client).send(&self.message);
        }
        // A worker answers after it has passed on the call, and the gateway keeps their order.
        self.receive(self.clients.len())
    }

    /// Sends what is this part's to send, and waits until its receivers have what they are to get.
    fn round(&mut self, number: u64) -> Result<Tally> {
        let clients = self.clients.len();
        if self.to == To::All {
            if self.share.index == 0 {
                stamp::encode(now_nanos(), self.bytes, &mut self.payload);
                self.message.clear();
                self.clients.encode(&self.payload, &mut self.message);
                self.clients.line(usize::try_from(number)? % clients).send(&self.message);
            }
            return self.receive(clients);
        }
        let groups = clients.div_ceil(self.group_size);
        let mut receivers = 0;
        let mut request = Vec::new();
        for turn in 0..self.at_once.min(groups) {
            let group = (usize::try_from(number)? * self.at_once + turn) % groups;
            let first = group * self.group_size;
            receivers += self.group_size.min(clients - first);
            let name = self.name(group);
            stamp::encode(now_nanos(), self.bytes, &mut self.payload);
            let verb = match self.to {
                To::Group => Verb::SendToGroup(&name, &self.payload),
                To::All | To::Uid => Verb::SendToUid(&name, &self.payload),
            };
            request.clear();
            verb.encode(&[], &mut request);
            self.message.clear();
            self.clients.encode(&request, &mut self.message);
            self.clients.line(first).send(&self.message);
        }
        self.receive(receivers)
    }

    /// Waits for so many messages; those that are not stamped have no latency.
    fn receive(&mut self, count: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut missing = count;
        let deadline = now_nanos() + ROUND_NANOS_MAX;
        while missing > 0 {
            self.clients.turn(Duration::from_millis(100), |_, _, event| {
                match event {
                    Event::Message(payload) => {
                        missing = missing.saturating_sub(1);
                        if let Some(sent_at) = stamp::decode(payload) {
                            let nanos = now_nanos() - sent_at;
                            tally.latencies.record(nanos);
                            tally.last_nanos = tally.last_nanos.max(nanos);
                        }
                    }
                    Event::Open => {}
                    Event::Gone(ending) => return Err(ending.into_error()),
                }
                Ok(())
            })?;
            ensure!(
                now_nanos() < deadline,
                "{missing} of {count} messages did not arrive in time; is there a worker with this mode's business \
                 code (tengate-bench worker, or php/Events.php)?"
            );
        }
        Ok(tally)
    }
}

impl Part for Fanout {
    type Step = Step;
    type Tally = Tally;

    fn step(&mut self, step: &Step, progress: &mut dyn FnMut(u64)) -> Result<Tally> {
        match step {
            Step::Connect => {
                self.clients.open(progress)?;
                Ok(Tally::default())
            }
            Step::Join => self.join(),
            Step::Round(number) => self.round(*number),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.latencies += other.latencies;
        self.last_nanos = self.last_nanos.max(other.last_nanos);
    }
}

const ROUND_NANOS_MAX: u64 = 20 * NANOS_PER_SECOND;
