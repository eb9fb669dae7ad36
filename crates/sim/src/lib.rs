//! A whole cluster in one deterministic process: the very cores that serve users, in a shell without sockets or clocks.
//!
//! A seed decides everything (docs/testing.md#simulation): `plan` the cluster and what may fail, [`world`] the order of
//! happenings, `wire` how bytes travel, `ether` and `host` how frames do where clients come past the kernel, `client`, `worker` and `outside` what peers do, `faults` what breaks.
//! [`watched`] shows each call of a gateway to the reference `model`; `checks` says what must hold.

pub mod shell;
mod rng;
pub mod plan;
mod op;
pub mod watched;
mod model;
mod answer;
mod network;
mod ether;
mod host;
mod process;
pub mod world;
mod wire;
mod registers;
mod gateways;
mod witness;
mod dispatchers;
mod client;
mod worker;
mod outside;
mod workload;
mod journey;
mod coverage;
mod faults;
mod checks;
mod tier;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use plan::{Cluster, Path};
use watched::Plant;
use world::{Failure, Totals, Tracing, run};

/// Runs a seed, and if it fails once more with its last happenings. A panic of a core is a failure too.
///
/// # Errors
/// What was wrong.
pub fn check_seed(
    cluster: Cluster,
    path: Path,
    seed: u64,
    plant: Option<Plant>,
    tracing: Tracing,
) -> Result<Totals, Failure> {
    let guarded = |tracing| {
        catch_unwind(AssertUnwindSafe(|| run(cluster, path, seed, plant, tracing))).unwrap_or_else(
            |panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
                let what = format!("panic: {}", text.unwrap_or_default());
                Err(Failure { seed, what, trace: Vec::new() })
            },
        )
    };
    match guarded(Tracing::Off) {
        Err(first) if tracing != Tracing::Off => {
            // The same seed is the same run: what differs now is that it is written down.
            let again = guarded(tracing);
            Err(again.err().unwrap_or(first))
        }
        result => result,
    }
}

/// The command that runs a seed again.
pub fn replay_command(cluster: Cluster, path: Path, seed: u64) -> String {
    let cluster = match cluster {
        Cluster::Direct => "direct",
        Cluster::Dispatched => "dispatched",
    };
    let path = match path {
        Path::Kernel => "kernel",
        Path::Netstack => "netstack",
    };
    format!(
        "cargo run --release -p tengate-sim -- --path {path} --cluster {cluster} --seed {seed} --last 400"
    )
}

#[cfg(test)]
mod tests;
