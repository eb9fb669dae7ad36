//! Medians with their spread, as Markdown for people and JSON for programs.

use core::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Reports, Set};

/// A table: a row for each figure of each load, a column for each subject, and its ratio to the first.
pub(super) fn markdown(set: &Set, reports: &Reports) -> Result<String> {
    let mut table = format!("### {}\n\n| load | figure |", set.title);
    for (index, subject) in set.subjects.iter().enumerate() {
        write!(table, " {} |{}", subject.name(), if index == 0 { "" } else { " ratio |" })?;
    }
    let columns = 2 * set.subjects.len() + 1;
    writeln!(table, "\n|{}", "---|".repeat(columns))?;
    for (load, of_load) in set.loads.iter().zip(reports) {
        for figure in load.figures {
            write!(table, "| {} | {} |", load.name, words(figure))?;
            let base = of_load.first().and_then(|reports| Spread::of_figure(reports, figure));
            for (index, of_subject) in of_load.iter().enumerate() {
                let spread = Spread::of_figure(of_subject, figure);
                write!(table, " {} |", spread.map_or_else(|| "–".to_owned(), Spread::show))?;
                if index > 0 {
                    let ratio = spread
                        .zip(base.filter(|base| base.median != 0.0))
                        .map(|(this, base)| this.median / base.median);
                    write!(
                        table,
                        " {} |",
                        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
                    )?;
                }
            }
            table.push('\n');
        }
    }
    Ok(table)
}

/// Every report of every round.
pub(super) fn json(set: &Set, reports: &Reports) -> Result<String> {
    let mut loads = Vec::new();
    for (load, of_load) in set.loads.iter().zip(reports) {
        let by_subject: Vec<Value> = set
            .subjects
            .iter()
            .zip(of_load)
            .map(|(subject, rounds)| json!({ "subject": subject.name(), "rounds": rounds }))
            .collect();
        loads.push(
            json!({ "load": load.name, "arguments": load.arguments, "subjects": by_subject }),
        );
    }
    Ok(serde_json::to_string_pretty(&json!({ "set": set.name, "loads": loads }))?)
}

/// A median and what it lies between.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        Some(Self { least, median: values[values.len() / 2], greatest })
    }

    /// `None` when no report has the figure.
    fn of_figure(reports: &[Value], figure: &str) -> Option<Self> {
        Self::of(reports.iter().filter_map(|report| report[figure].as_f64()))
    }

    pub(super) fn show(self) -> String {
        let [least, median, greatest] =
            [self.least, self.median, self.greatest].map(|value| number(value, self.median));
        format!("**{median}** [{least}…{greatest}]")
    }

    /// As [`show`](Self::show), of figures that have no use for fractions; the median alone when all are the same.
    pub(super) fn show_whole(self) -> String {
        let [least, median, greatest] =
            [self.least, self.median, self.greatest].map(|value| number(value.round(), f64::MAX));
        if least == greatest {
            return format!("**{median}**");
        }
        format!("**{median}** [{least}…{greatest}]")
    }
}

/// With as many digits as the median deserves, and blanks between thousands.
fn number(value: f64, median: f64) -> String {
    let digits = if median < 10.0 { 2 } else { usize::from(median < 100.0) };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |parts| parts);
    let mut shown = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            shown.push(' ');
        }
        shown.push(digit);
    }
    if !fraction.is_empty() {
        shown.push('.');
        shown.push_str(fraction);
    }
    shown
}

/// The name of a figure in a report, for people.
fn words(figure: &str) -> &str {
    match figure {
        "messages_per_second" => "messages/s",
        "server_cpu_us_per_message" => "server µs/message",
        "latency_us_p50" => "p50 latency, µs",
        "latency_us_p99" => "p99 latency, µs",
        "deliveries_per_second" => "deliveries/s",
        "server_cpu_us_per_delivery" => "server µs/delivery",
        "handshakes_per_second" => "handshakes/s",
        "server_cpu_us_per_handshake" => "server µs/handshake",
        "bytes_per_client" => "bytes/client",
        "kernel_bytes_per_client" => "kernel bytes/client, both ends",
        "server_busy_share_holding" => "server's share of a core, idle",
        "latency_us_p99_9" => "p99.9 latency, µs",
        "latency_us_max" => "greatest latency, µs",
        "seconds_until_all_are_back" => "seconds until all are back",
        "missed" => "messages missed by good readers",
        "slow_missed" => "messages missed by slow readers",
        "resident_bytes_growth" => "growth of the server, bytes",
        other => other,
    }
}
