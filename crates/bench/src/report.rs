//! What the modes print: a line for people, or JSON.

use std::io::IsTerminal as _;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Prints a result.
#[expect(clippy::print_stdout, reason = "the result is this program's output")]
pub(crate) fn print(json: bool, line: &str, result: &impl Serialize) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(result)?)
    } else {
        println!("{line}")
    }
    Ok(())
}

/// Prints why nothing could be measured.
#[expect(clippy::print_stderr, reason = "this is a command-line tool")]
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("tengate-bench: {error:#}");
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn progress(what: &'static str, len: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(what)
}

/// Nanoseconds as microseconds, for people.
pub(crate) fn micros(nanos: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
    let nanos = nanos as f64;
    nanos / 1e3
}
