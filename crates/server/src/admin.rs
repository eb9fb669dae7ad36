//! How a running process is asked what it does, and how the answers are shown.

mod ask;
mod run_dir;
mod serve;
mod snapshot;
mod tables;

use core::time::Duration;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::cli::Query;
use crate::{Failure, say};

pub(crate) use run_dir::default_run_dir;
pub(crate) use serve::{Answers, Socket};
pub(crate) use snapshot::{
    CONNECTIONS_LISTED_MAX, Connection, Connections, GatewayLink, Process, Question, RegisterLink,
    Shard,
};

/// Time between two questions, from which rates are computed.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two pages of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// `tengate status`.
pub(crate) fn print_status(run_dir: Option<PathBuf>, query: &Query) -> Result<(), Failure> {
    let dir = run_dir.unwrap_or_else(default_run_dir);
    if query.json && !query.watch {
        return print_json(&ask_processes(&dir)?);
    }
    let mut before = tables::samples(&ask_processes(&dir)?);
    let mut wait = SAMPLE_INTERVAL;
    loop {
        pause(wait)?;
        let processes = ask_processes(&dir)?;
        if query.json {
            print_json(&processes)?;
        } else {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let load: Vec<&str> = load.split(' ').take(3).collect();
            let now = jiff::Timestamp::now().as_second();
            let page = tables::status(&processes, &before, now, &load.join(", "));
            say(&if query.watch {
                format!("{CLEAR}{page}\nPress Ctrl+C to quit.\n\n")
            } else {
                page
            });
        }
        if !query.watch {
            return Ok(());
        }
        before = tables::samples(&processes);
        wait = WATCH_INTERVAL;
    }
}

/// `tengate connections`.
pub(crate) fn print_connections(run_dir: Option<PathBuf>, query: &Query) -> Result<(), Failure> {
    let dir = run_dir.unwrap_or_else(default_run_dir);
    loop {
        let processes: Vec<Connections> =
            running(&dir, ask::ask_all(&dir, Question::Connections)?)?;
        if query.json {
            print_json(&processes)?;
        } else {
            let page = tables::connections(&processes);
            say(&if query.watch {
                format!("{CLEAR}{page}\nPress Ctrl+C to quit.\n\n")
            } else {
                page
            });
        }
        if !query.watch {
            return Ok(());
        }
        pause(WATCH_INTERVAL)?;
    }
}

fn ask_processes(dir: &Path) -> Result<Vec<Process>, Failure> {
    running(dir, ask::ask_all(dir, Question::Status)?)
}

/// An empty answer is a failure, so that a script notices that nothing runs.
fn running<A>(dir: &Path, answers: Vec<A>) -> Result<Vec<A>, Failure> {
    if answers.is_empty() {
        let dir = dir.display();
        return Err(anyhow!(
            "no tengate process runs for this user (looked in {dir}); try `tengate start`"
        )
        .into());
    }
    Ok(answers)
}

fn print_json<A: serde::Serialize>(answers: &[A]) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answers).context("cannot write JSON")?;
    say(&(text + "\n"));
    Ok(())
}

fn pause(period: Duration) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("cannot start a timer")?;
    // The timer must be made inside the runtime that drives it.
    runtime.block_on(async { tokio::time::sleep(period).await });
    Ok(())
}
