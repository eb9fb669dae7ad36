//! `tengate-bench`: drives a gateway from outside and says what it did and what it cost the server.

mod clients;
mod echo;
mod fanout;
mod hold;
mod load;
mod process;
mod report;
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
    /// Every client sends a message, waits for its echo, and sends the next.
    Echo(echo::Options),
    /// One client asks for a broadcast; the next one is asked for when every client has it.
    Fanout(fanout::Options),
    /// Connects clients, leaves them idle, and says what memory the server needs for each.
    Hold(hold::Options),
    /// The business code the other modes expect, in Rust: binds a uid, echoes, broadcasts.
    Worker(worker::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().mode {
        Mode::Echo(options) => echo::run(&options),
        Mode::Fanout(options) => fanout::run(&options),
        Mode::Hold(options) => hold::run(&options),
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
