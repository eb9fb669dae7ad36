//! `tengate-bench`: drives a gateway from outside and says what it did and what it cost the server.

mod target;
mod protocol;
mod clients;
mod latency;
mod pace;
mod stamp;
mod process;
mod load;
mod parts;
mod report;
mod echo;
mod hold;
mod fanout;
mod churn;
mod storm;
mod slow;
mod floor;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures a websocket gateway: GatewayWorker's or tengate's.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Messages that come back: rate and latency, closed loop, or open loop with --rate.
    Echo(echo::Options),
    /// Idle clients: what memory each takes of the server and of the kernel.
    Hold(hold::Options),
    /// One message to many clients, again and again: everyone, groups, or uids.
    Fanout(fanout::Options),
    /// Clients that connect, open and close, again and again: handshakes a second.
    Churn(churn::Options),
    /// All clients are cut off and come back at once: how long until they are open again.
    Storm(storm::Options),
    /// A few clients stop reading while broadcasts go on: what the others notice, and what becomes of the few.
    Slow(slow::Options),
    /// A bare websocket echo and broadcast server, for what the kernel alone charges.
    Floor(floor::Options),
    /// The business code the other modes expect, in Rust: binds uids, joins groups, echoes, sends to all, groups and uids.
    Worker(worker::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().mode {
        Mode::Echo(options) => echo::run(&options),
        Mode::Hold(options) => hold::run(&options),
        Mode::Fanout(options) => fanout::run(&options),
        Mode::Churn(options) => churn::run(&options),
        Mode::Storm(options) => storm::run(&options),
        Mode::Slow(options) => slow::run(&options),
        Mode::Floor(options) => floor::run(&options),
        Mode::Worker(options) => worker::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
