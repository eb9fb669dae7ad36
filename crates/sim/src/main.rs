//! `tengate-sim`: runs seeds of the simulator and says which ones fail.

use core::sync::atomic::{AtomicU64, Ordering};
use std::process::ExitCode;

use tengate_sim::plan::{Cluster, Path};
use tengate_sim::watched::Plant;
use tengate_sim::world::{Failure, Tracing};
use tengate_sim::{check_seed, replay_command};

/// What the command line asks for.
#[derive(Debug)]
struct Wanted {
    first: u64,
    end: u64,
    jobs: usize,
    last: usize,
    plant: Option<Plant>,
    cluster: Cluster,
    path: Path,
}

/// Happenings printed of a run that failed.
const LAST: usize = 60;

fn main() -> ExitCode {
    let Some(wanted) = wanted() else {
        say(
            "usage: tengate-sim --seed N | --seeds A..B  [--cluster direct|dispatched] [--path kernel|netstack] [--jobs N] [--last N] [--plant NUMBER]",
        );
        return ExitCode::from(2);
    };
    match search(&wanted) {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            for line in &failure.trace {
                say(line);
            }
            say(&format!("seed {}: {}", failure.seed, failure.what));
            say(&format!("again: {}", replay_command(wanted.cluster, wanted.path, failure.seed)));
            ExitCode::FAILURE
        }
    }
}

fn wanted() -> Option<Wanted> {
    let mut wanted = Wanted {
        first: 0,
        end: 0,
        jobs: 1,
        last: LAST,
        plant: None,
        cluster: Cluster::Direct,
        path: Path::Kernel,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seed" => {
                wanted.first = value.parse().ok()?;
                wanted.end = wanted.first + 1;
            }
            "--seeds" => {
                let (first, end) = value.split_once("..")?;
                wanted.first = first.parse().ok()?;
                wanted.end = end.parse().ok()?;
            }
            "--jobs" => wanted.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            "--last" => wanted.last = value.parse().ok()?,
            "--plant" => wanted.plant = Plant::ALL.get(value.parse::<usize>().ok()?).copied(),
            "--cluster" => {
                wanted.cluster = match value.as_str() {
                    "direct" => Cluster::Direct,
                    "dispatched" => Cluster::Dispatched,
                    _ => return None,
                }
            }
            "--path" => {
                wanted.path = match value.as_str() {
                    "kernel" => Path::Kernel,
                    "netstack" => Path::Netstack,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    (wanted.end > wanted.first).then_some(wanted)
}

/// Runs the seeds on as many threads as wanted; the failure with the smallest seed that was found, if any.
fn search(wanted: &Wanted) -> Option<Failure> {
    let next = AtomicU64::new(wanted.first);
    let failed = AtomicU64::new(u64::MAX);
    let done = AtomicU64::new(0);
    let events = AtomicU64::new(0);
    let work = || {
        let mut found = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= wanted.end || failed.load(Ordering::Relaxed) < seed {
                return found;
            }
            let tracing = Tracing::Last(wanted.last);
            match check_seed(wanted.cluster, wanted.path, seed, wanted.plant, tracing) {
                Ok(totals) => {
                    events.fetch_add(totals.events, Ordering::Relaxed);
                    let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if count.is_multiple_of(1000) {
                        let events = events.load(Ordering::Relaxed);
                        say(&format!("{count} seeds passed, {events} events"));
                    }
                    if wanted.end == wanted.first + 1 {
                        say(&format!("{totals:?}"));
                    }
                }
                Err(failure) => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                    found = Some(failure);
                    return found;
                }
            }
        }
    };
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..wanted.jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect::<Vec<_>>()
    });
    let passed = done.load(Ordering::Relaxed);
    say(&format!("{passed} seeds passed, {} failed", found.len()));
    found.into_iter().min_by_key(|failure| failure.seed)
}

#[expect(clippy::print_stderr, reason = "this is a command whose output is for people")]
fn say(line: &str) {
    eprintln!("{line}");
}
