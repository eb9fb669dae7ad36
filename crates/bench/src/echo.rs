//! Closed-loop echo: one message in flight a client.

use core::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clients::Clients;
use crate::load::{Load, cpu_words};
use crate::process::Usage;
use crate::report;

/// What to send where, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// How long to measure, in seconds, after one second of warm-up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    clients: usize,
    bytes: usize,
    messages_per_second: f64,
    latency_us_p50: f64,
    latency_us_p99: f64,
    latency_us_max: f64,
    server_cpu_us_per_message: Option<f64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    let mut clients = load.connect()?;
    let payload = vec![b'e'; load.bytes.max(1)];
    for client in 0..clients.len() {
        clients.send(client, &payload)?;
    }
    measure(&mut clients, &payload, Duration::from_secs(1))?;
    let before = Usage::of(&load.pids)?;
    let start = clients.now();
    let latencies = measure(&mut clients, &payload, Duration::from_secs(options.seconds))?;
    let seconds = report::micros(clients.now() - start) / 1e6;
    let used = Usage::of(&load.pids)?.cpu_seconds - before.cpu_seconds;
    #[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^52")]
    let count = latencies.len() as f64;
    let result = Report {
        clients: load.clients,
        bytes: load.bytes,
        messages_per_second: count / seconds,
        latency_us_p50: report::micros(latencies.value_at_quantile(0.5)),
        latency_us_p99: report::micros(latencies.value_at_quantile(0.99)),
        latency_us_max: report::micros(latencies.max()),
        server_cpu_us_per_message: load.per_unit(used, count),
    };
    let line = format!(
        "echo: {} clients, {} B: {:.0} messages/s, p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs{}",
        result.clients,
        result.bytes,
        result.messages_per_second,
        result.latency_us_p50,
        result.latency_us_p99,
        result.latency_us_max,
        cpu_words(result.server_cpu_us_per_message, "message")
    );
    report::print(load.json, &line, &result)
}

/// Answers every echo with the next message until the time is over.
fn measure(clients: &mut Clients, payload: &[u8], time: Duration) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new_with_max(LATENCY_NANOS_MAX, 3)?;
    let end = clients.now() + u64::try_from(time.as_nanos())?;
    let mut arrived = Vec::new();
    while clients.now() < end {
        clients.receive(Duration::from_millis(100), |arrival| arrived.push(arrival))?;
        for arrival in arrived.drain(..) {
            latencies.saturating_record(arrival.nanos);
            clients.send(arrival.client, payload)?;
        }
    }
    Ok(latencies)
}

/// A minute; nobody waits longer for an echo.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
