//! Our TCP stack at one end of a bad link, beside Linux's in the same place (docs/data-paths.md#over-a-bad-link).
//!
//! The other end is always Linux. The link is a process of ours between TAP devices (`crates/io/examples/wan`), and every
//! byte is compared with what was sent.

mod bed;
mod cases;

use core::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::say;
use bed::{Bed, Counts, Server};
use cases::{Case, Work};

/// What one transfer came to.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    bytes: f64,
    took: Duration,
    /// The longest time without a byte, pauses apart.
    longest_gap: Duration,
    /// How long half, 99 of 100 and all of the requests took at most.
    portions: [Duration; 3],
    counts: Counts,
}

impl Outcome {
    /// Megabits a second, each way if bytes went both ways.
    fn rate(&self) -> f64 {
        self.bytes * 8.0 / 1e6 / self.took.as_secs_f64()
    }
}

/// Runs every case with both servers; `--quick` fewer cases with less to send.
///
/// # Errors
/// A tool or a right is missing, a transfer stalled, or a byte was wrong.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let is_quick = match arguments {
        [] => false,
        ["--quick"] => true,
        _ => bail!("wan takes no argument but --quick"),
    };
    let mut bed = Bed::start()?;
    let (transfers, requests): (Vec<Case>, Vec<Case>) =
        cases::all(is_quick).into_iter().partition(|case| !matches!(case.work, Work::Requests(..)));
    let mut failed = Vec::new();
    say(
        "\n| link | work | MiB | ours, Mbit/s | Linux, Mbit/s | ours ÷ Linux | longest gap, ms | packets lost |",
    );
    say("|---|---|---|---|---|---|---|---|");
    for case in &transfers {
        let Some([ours, linux]) = measure(&mut bed, case, &mut failed)? else { continue };
        say(&format!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {} / {} | {} / {} |",
            case.link,
            case.work.name(),
            ours.bytes / f64::from(1 << 20),
            ours.rate(),
            linux.rate(),
            ours.rate() / linux.rate(),
            ours.longest_gap.as_millis(),
            linux.longest_gap.as_millis(),
            ours.counts.all_lost(),
            linux.counts.all_lost(),
        ));
    }
    say(
        "\n| link | work | server | Mbit/s each way | half within, ms | 99 % within, ms | all within, ms | packets lost |",
    );
    say("|---|---|---|---|---|---|---|---|");
    for case in &requests {
        let Some(outcomes) = measure(&mut bed, case, &mut failed)? else { continue };
        for (server, outcome) in ["ours", "Linux"].iter().zip(outcomes) {
            let [half, most, all] = outcome.portions.map(|portion| portion.as_millis());
            say(&format!(
                "| {} | {} | {server} | {:.0} | {half} | {most} | {all} | {} |",
                case.link,
                case.work.name(),
                outcome.rate(),
                outcome.counts.all_lost(),
            ));
        }
    }
    ensure!(failed.is_empty(), "{} transfers failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// The medians, by rate, of both servers; what failed is said and kept.
fn measure(bed: &mut Bed, case: &Case, failed: &mut Vec<String>) -> Result<Option<[Outcome; 2]>> {
    let mut outcomes = [Vec::new(), Vec::new()];
    for _ in 0..case.rounds {
        for (server, outcomes) in [Server::Ours, Server::Linux].into_iter().zip(&mut outcomes) {
            match bed.carry_out(case, server) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    let what =
                        format!("{server:?}, {}, {}: {error:#}", case.link, case.work.name());
                    say(&format!("FAILED: {what}"));
                    failed.push(what);
                }
            }
            bed.check()?;
        }
    }
    let [ours, linux] = outcomes.map(|mut outcomes| {
        outcomes.sort_by(|one, other| one.rate().total_cmp(&other.rate()));
        outcomes.get(outcomes.len() / 2).copied()
    });
    Ok(ours.zip(linux).map(|(ours, linux)| [ours, linux]))
}
