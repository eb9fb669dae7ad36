//! Idle clients, and what each costs the server in memory.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::clients::{Clients, Target};
use crate::process::Usage;
use crate::report;

/// Whom to hold.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The gateway, as ws://host:port.
    url: String,
    /// How many clients, after a warm-up of a tenth as many that leave again.
    #[arg(long, default_value_t = 15_000)]
    clients: usize,
    /// Process of the gateway; may be repeated.
    #[arg(long = "pid", required = true)]
    pids: Vec<u32>,
    /// How long to wait, after the last client, for the server to come to rest, in seconds.
    #[arg(long, default_value_t = 2)]
    settle: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    clients: usize,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    bytes_per_client: f64,
    handshakes_per_second: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.clients > 0, "at least one client is needed");
    let target = Target::parse(&options.url)?;
    drop(Clients::connect(&target, options.clients / 10 + 1, |_| {})?);
    settle(options.settle);
    let before = Usage::of(&options.pids)?;
    let bar = report::progress("connecting", options.clients as u64);
    let clock = tengate_io::Clock::start();
    let start = clock.now().as_nanos();
    let clients = Clients::connect(&target, options.clients, |done| bar.set_position(done as u64))?;
    let seconds = report::micros(clock.now().as_nanos() - start) / 1e6;
    bar.finish_and_clear();
    settle(options.settle);
    let after = Usage::of(&options.pids)?;
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
    let (grown, count) =
        (after.resident_bytes.saturating_sub(before.resident_bytes) as f64, clients.len() as f64);
    let result = Report {
        clients: clients.len(),
        resident_bytes_before: before.resident_bytes,
        resident_bytes_after: after.resident_bytes,
        bytes_per_client: grown / count,
        handshakes_per_second: count / seconds,
    };
    let line = format!(
        "hold: {} clients: {:.0} B a client, {:.0} handshakes/s",
        result.clients, result.bytes_per_client, result.handshakes_per_second
    );
    report::print(options.json, &line, &result)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the server's memory is looked at when nothing happens any more"
)]
fn settle(seconds: u64) {
    std::thread::sleep(core::time::Duration::from_secs(seconds));
}
