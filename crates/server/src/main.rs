//! The `tengate` binary: register, gateway, dispatcher and the commands around them.
//!
//! Modules in the order a start goes through them.

mod cli;
mod config;
mod sizing;
mod machine;
mod plan;
mod log;
mod admin;
mod shard;
mod roles;
mod control;
mod topology;
mod page;
mod demo;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Why the process ends without having done what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration cannot be used; the text is complete and may have several lines.
    Config(String),
    /// Something outside refused: a port, a file, a socket.
    Runtime(anyhow::Error),
}

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(text)) => {
            complain(&text);
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            complain(&format!("error: {error:#}\n"));
            ExitCode::from(1)
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

/// Writes to standard error, with the words `error` and `warning` in colour on a terminal.
pub(crate) fn complain(text: &str) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut painted = String::new();
    for line in text.split_inclusive('\n') {
        let word = [("error", "31"), ("warning", "33")]
            .into_iter()
            .find(|(word, _)| line.starts_with(&format!("{word}: ")));
        match word.filter(|_| colours) {
            Some((word, colour)) => {
                painted += &format!("\x1b[1;{colour}m{word}\x1b[0m{}", &line[word.len()..])
            }
            None => painted += line,
        }
    }
    // Nothing is left to tell a process whose standard error is closed.
    let _ = std::io::stderr().write_all(painted.as_bytes());
}

/// Writes to standard output. A closed pipe (`tengate status | head`) is no failure.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
