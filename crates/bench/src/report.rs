//! What the modes print: a table for people, Markdown, or JSON; and how far they are, on a terminal.

use core::fmt::Write as _;
use core::time::Duration;
use std::io::IsTerminal as _;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::latency::Percentiles;
use crate::process::Spent;

/// How the result is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Style {
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a Markdown table.
    #[arg(long)]
    markdown: bool,
}

/// A result in words: what was done, and its figures in the order they are read.
#[derive(Debug)]
pub(crate) struct Words {
    title: String,
    rows: Vec<(&'static str, String)>,
}

impl Words {
    pub(crate) fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    pub(crate) fn row(mut self, what: &'static str, value: String) -> Self {
        self.rows.push((what, value));
        self
    }

    /// A number with as many digits as mean something.
    pub(crate) fn number(self, what: &'static str, value: f64, unit: &str) -> Self {
        let digits = if value < 10.0 { 2 } else { usize::from(value < 1000.0) };
        self.row(what, format!("{value:.digits$} {unit}").trim_end().to_owned())
    }

    pub(crate) fn count(self, what: &'static str, count: u64) -> Self {
        self.row(what, count.to_string())
    }

    /// A count that is only worth a word when it is not 0.
    pub(crate) fn trouble(self, what: &'static str, count: u64) -> Self {
        if count == 0 { self } else { self.count(what, count) }
    }

    pub(crate) fn latency(self, what: &'static str, of: &Percentiles) -> Self {
        let value = format!(
            "p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
            of.latency_us_p50,
            of.latency_us_p90,
            of.latency_us_p99,
            of.latency_us_p99_9,
            of.latency_us_max
        );
        self.row(what, value)
    }

    /// What the server spent on each thing and how busy its threads were, if that is known, and the generator.
    pub(crate) fn spent(mut self, what: &'static str, spent: &Spent, micros: Option<f64>) -> Self {
        if let (Some(cost), Some(micros)) = (&spent.cost, micros) {
            self = self.row(what, format!("{micros:.2} µs")).row("server busy", cost.words());
        }
        self.row("generator busy", format!("{:.0} %", spent.generator_busy_share * 100.0))
    }
}

/// Prints a result.
#[expect(clippy::print_stdout, reason = "the result is this program's output")]
pub(crate) fn print(style: &Style, words: &Words, result: &impl Serialize) -> Result<()> {
    if style.json {
        println!("{}", serde_json::to_string(result)?);
    } else if style.markdown {
        print!("{}", markdown(words)?);
    } else {
        print!("{}", table(words)?);
    }
    Ok(())
}

fn table(words: &Words) -> Result<String> {
    let mut text = format!("{}\n", words.title);
    let width = words.rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
    for (what, value) in &words.rows {
        writeln!(text, "  {what:width$}  {value}")?;
    }
    Ok(text)
}

fn markdown(words: &Words) -> Result<String> {
    let mut text = format!("| {} | |\n|---|---|\n", words.title);
    for (what, value) in &words.rows {
        writeln!(text, "| {what} | {value} |")?;
    }
    Ok(text)
}

/// Says what goes on, beside the result.
#[expect(clippy::print_stderr, reason = "this is a command-line tool")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
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

/// A clock on a terminal, nothing elsewhere.
pub(crate) fn clock(what: String) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let clock = ProgressBar::new_spinner().with_style(style).with_message(what);
    clock.enable_steady_tick(Duration::from_millis(200));
    clock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_an_aligned_table_or_a_markdown_one() {
        let words = Words::new("echo, 2 clients".to_owned())
            .number("rate", 1234.5, "messages/s")
            .number("µs each", 1.25, "")
            .trouble("lost", 0);
        assert_eq!(
            table(&words).unwrap(),
            "echo, 2 clients\n  rate     1234 messages/s\n  µs each  1.25\n"
        );
        assert_eq!(
            markdown(&words).unwrap(),
            "| echo, 2 clients | |\n|---|---|\n| rate | 1234 messages/s |\n| µs each | 1.25 |\n"
        );
    }
}
