//! What every mode that sends is told: where, how many, how large.

use anyhow::Result;

use crate::clients::{Clients, Target};
use crate::report;

/// What to send where.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// The gateway, as ws://host:port.
    url: String,
    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    pub(crate) bytes: usize,
    /// Process of the gateway, to measure its processor time; may be repeated.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Load {
    /// Connects the clients, with a progress bar.
    pub(crate) fn connect(&self) -> Result<Clients> {
        let target = Target::parse(&self.url)?;
        let bar = report::progress("connecting", self.clients as u64);
        let clients =
            Clients::connect(&target, self.clients, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        Ok(clients)
    }

    /// Processor time the gateway spent on each of `count` things, if its processes are known.
    pub(crate) fn per_unit(&self, cpu_seconds: f64, count: f64) -> Option<f64> {
        (!self.pids.is_empty()).then(|| cpu_seconds * 1e6 / count)
    }
}

/// Words about processor time, for people.
pub(crate) fn cpu_words(micros: Option<f64>, unit: &str) -> String {
    micros.map_or_else(String::new, |micros| format!(", server {micros:.2} µs/{unit}"))
}
