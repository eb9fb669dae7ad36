//! `tengate-bench`: drives a gateway from outside and says what it did and what it cost the server.

mod target;
mod device;
mod protocol;
mod clients;
mod latency;
mod pace;
mod stamp;
mod process;
mod admin;
mod load;
mod parts;
mod report;
mod plot;
mod echo;
mod hold;
mod fanout;
mod churn;
mod storm;
mod slow;
mod outage;
mod rings;
mod floor;
mod worker;
mod lean;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures long-connection servers from outside: GatewayWorker, tengate, or anything else that echoes.
///
/// Every mode takes an address, a number of clients and, to measure what the server spends, --pid of its processes. A
/// gateway needs a worker behind it that knows what the modes ask for: `tengate-bench worker`, or php/Events.php.
///
/// Rates depend on everything that runs on the machine, the generator too: look at the server's processor time beside
/// them, and in an open loop at how late the generator was.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

const EXAMPLES: &str = "\
Examples:
  tengate-bench echo ws://127.0.0.1:8282 --clients 1000 --bytes 64 --pid $gateway --json
  tengate-bench echo ws://127.0.0.1:8282 --clients 1000 --rate 20000 --svg latency.svg
  tengate-bench fanout text://127.0.0.1:8283 --to group --group-size 50 --at-once 20
  tengate-bench hold ws://127.0.0.1:8282 --clients 50000 --processes 4 --source 127.0.0.2-127.0.0.5
  tengate-bench outage ws://127.0.0.1:8282 --clients 200 --rate 2000 --seconds 10
  tengate-bench churn http://127.0.0.1:80/small.txt --clients 64";

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
    /// Numbered messages on a schedule while something is broken: which are lost, which come twice, how long nobody is
    /// answered.
    Outage(outage::Options),
    /// Items through rings between two threads, padded and not, pinned and not.
    Rings(rings::Options),
    /// Draws the latencies of several runs, kept with --keep, into one picture.
    Plot(plot::Options),
    /// A bare websocket echo and broadcast server, for what the kernel alone charges.
    Floor(floor::Options),
    /// The business code the other modes expect of a gateway's worker.
    ///
    /// On connecting, a client is bound to a uid of its own. Then the first byte of its message is a verb: `*` the whole
    /// message goes to everyone; `+NAME` joins a group, `=UID` binds a uid, and both come back when it is done;
    /// `#NAME|PAYLOAD` and `@UID|PAYLOAD` send the payload to a group or a uid; anything else comes back.
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
        Mode::Outage(options) => outage::run(&options),
        Mode::Rings(options) => rings::run(&options),
        Mode::Plot(options) => plot::run(&options),
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
