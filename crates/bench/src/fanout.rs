//! Broadcast: one message to every client, again and again.

use core::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::clients::Clients;
use crate::load::{Load, cpu_words};
use crate::process::Usage;
use crate::report;
use crate::worker::BROADCAST;

/// What to send where, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// How many broadcasts, after one of warm-up.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
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
    let load = &options.load;
    let mut clients = load.connect()?;
    let mut payload = vec![b'x'; load.bytes.max(1)];
    payload[0] = BROADCAST;
    round(&mut clients, &payload)?;
    let before = Usage::of(&load.pids)?;
    let start = clients.now();
    for _ in 0..options.rounds {
        round(&mut clients, &payload)?;
    }
    let seconds = report::micros(clients.now() - start) / 1e6;
    let used = Usage::of(&load.pids)?.cpu_seconds - before.cpu_seconds;
    #[expect(clippy::cast_precision_loss, reason = "a count of deliveries is far below 2^52")]
    let deliveries = clients.len() as f64 * f64::from(options.rounds);
    let result = Report {
        clients: load.clients,
        bytes: load.bytes,
        rounds: options.rounds,
        deliveries_per_second: deliveries / seconds,
        server_cpu_us_per_delivery: load.per_unit(used, deliveries),
    };
    let line = format!(
        "fanout: {} clients, {} B, {} rounds: {:.0} deliveries/s{}",
        result.clients,
        result.bytes,
        result.rounds,
        result.deliveries_per_second,
        cpu_words(result.server_cpu_us_per_delivery, "delivery")
    );
    report::print(load.json, &line, &result)
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
