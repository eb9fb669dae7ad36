//! Broadcast: one message to every client, again and again.

use core::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::clients::{Clients, Target};
use crate::process::Usage;
use crate::report;
use crate::worker::BROADCAST;

/// What to send where.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The gateway, as ws://host:port.
    url: String,
    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// How many broadcasts, after one of warm-up.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// Process of the gateway, to measure its processor time; may be repeated.
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    clients: usize,
    bytes: usize,
    rounds: u32,
    deliveries_per_second: f64,
    server_cpu_us_per_delivery: Option<f64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let target = Target::parse(&options.url)?;
    let bar = report::progress("connecting", options.clients as u64);
    let mut clients =
        Clients::connect(&target, options.clients, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let mut payload = vec![b'x'; options.bytes.max(1)];
    payload[0] = BROADCAST;
    round(&mut clients, &payload)?;
    let before = Usage::of(&options.pids)?;
    let start = clients.now();
    for _ in 0..options.rounds {
        round(&mut clients, &payload)?;
    }
    let seconds = report::micros(clients.now() - start) / 1e6;
    let used = Usage::of(&options.pids)?.cpu_seconds - before.cpu_seconds;
    #[expect(clippy::cast_precision_loss, reason = "a count of deliveries is far below 2^52")]
    let deliveries = clients.len() as f64 * f64::from(options.rounds);
    let result = Report {
        clients: options.clients,
        bytes: options.bytes,
        rounds: options.rounds,
        deliveries_per_second: deliveries / seconds,
        server_cpu_us_per_delivery: (!options.pids.is_empty()).then(|| used * 1e6 / deliveries),
    };
    let cpu = result
        .server_cpu_us_per_delivery
        .map_or_else(String::new, |us| format!(", server {us:.2} µs/delivery"));
    let line = format!(
        "fanout: {} clients, {} B, {} rounds: {:.0} deliveries/s{cpu}",
        result.clients, result.bytes, result.rounds, result.deliveries_per_second
    );
    report::print(options.json, &line, &result)
}

/// One broadcast, until every client has it.
fn round(clients: &mut Clients, payload: &[u8]) -> Result<()> {
    let mut missing = clients.len();
    clients.send(0, payload)?;
    let deadline = clients.now() + ROUND_NANOS_MAX;
    while missing > 0 {
        ensure!(clients.now() < deadline, "{missing} clients did not get a broadcast in time");
        clients.receive(Duration::from_millis(100), |_| missing = missing.saturating_sub(1))?;
    }
    Ok(())
}

const ROUND_NANOS_MAX: u64 = 20_000_000_000;
