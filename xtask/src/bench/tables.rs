//! Tables of uids at ten million keys: the gateway's, hashbrown's and DPDK's `rte_hash`, in turn, in one run
//! (docs/benchmarks.md).

use core::fmt::Write as _;
use core::num::NonZeroU32;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::table::Spread;
use super::target;
use crate::{root, say};

/// What is compared: its name, the program that runs it and that program's name for it.
struct Candidate {
    name: &'static str,
    program: &'static str,
    argument: &'static str,
}

const CANDIDATES: &[Candidate] = &[
    Candidate { name: "tengate", program: "tables", argument: "names" },
    Candidate { name: "`HashTable<u32>` in a slab", program: "tables", argument: "hash_table" },
    Candidate { name: "`HashMap<Box<[u8]>, u32>`", program: "tables", argument: "hash_map" },
    Candidate { name: "`rte_hash`", program: RTE_HASH, argument: "plain" },
    Candidate { name: "`rte_hash`, ext table", program: RTE_HASH, argument: "ext" },
];

/// Figures the programs print, and what the table calls them.
const FIGURES: &[(&str, &str)] = &[
    ("create_ms", "make the empty table, ms"),
    ("insert_ns", "insert, ns"),
    ("insert_p9999_us", "insert, p99.99, µs"),
    ("insert_worst_us", "worst insert, µs"),
    ("inserts_over_100_us", "inserts over 100 µs"),
    ("hit_ns", "look up a key that is there, many in a row, ns"),
    ("hit_alone_ns", "look up a key that is there, one at a time, ns"),
    ("miss_ns", "look up a key that is not there, ns"),
    ("remove_ns", "remove, ns"),
    ("bytes_per_key", "bytes a key, the key's own 20 among them"),
];

const KEYS: &str = "10000000";
const RTE_HASH: &str = "rte_hash";
const SOURCE: &str = "crates/proto/examples/tables/rte_hash.c";

/// Fills every table `--rounds` times in turn and prints a table of medians.
///
/// # Errors
/// A program that does not build or fails.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let rounds: u32 = match arguments {
        [] => 3,
        ["--rounds", rounds] => rounds.parse::<NonZeroU32>()?.get(),
        _ => bail!("bench tables takes --rounds N and nothing else"),
    };
    let programs = target().join("release/examples");
    build(Command::new("cargo").current_dir(root()).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "tengate-proto",
        "--example",
        "tables",
    ]))?;
    let has_dpdk = build_rte_hash(&programs)?;
    let candidates: Vec<&Candidate> =
        CANDIDATES.iter().filter(|candidate| has_dpdk || candidate.program != RTE_HASH).collect();
    let mut reports = vec![Vec::new(); candidates.len()];
    for round in 1..=rounds {
        for (candidate, reports) in candidates.iter().zip(&mut reports) {
            say(&format!("bench tables: {}, round {round} of {rounds}", candidate.name));
            reports.push(measure(&programs, candidate)?);
        }
    }
    print(&candidates, &reports)
}

/// Builds DPDK's side; `false` when its library is not installed.
fn build_rte_hash(programs: &Path) -> Result<bool> {
    let Some(cflags) = pkg_config("--cflags") else {
        say("bench tables: libdpdk is not installed (libdpdk-dev), so rte_hash is left out");
        return Ok(false);
    };
    let libraries = pkg_config("--libs").context("pkg-config --libs libdpdk")?;
    build(
        Command::new("cc")
            .args(["-O3", "-Wall", "-Wextra"])
            .args(cflags.split_whitespace())
            .arg(root().join(SOURCE))
            .arg("-o")
            .arg(programs.join(RTE_HASH))
            .args(libraries.split_whitespace()),
    )?;
    Ok(true)
}

/// Whether DPDK is installed for building.
pub(crate) fn has_dpdk() -> bool {
    pkg_config("--libs").is_some()
}

fn pkg_config(what: &str) -> Option<String> {
    let output = Command::new("pkg-config").args([what, "libdpdk"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn build(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

/// One round of one candidate: its figures, in the order of [`FIGURES`].
fn measure(programs: &Path, candidate: &Candidate) -> Result<Vec<f64>> {
    let output = Command::new(programs.join(candidate.program))
        .args([candidate.argument, KEYS])
        .stderr(Stdio::inherit())
        .output()
        .context(candidate.program)?;
    ensure!(output.status.success(), "{} failed", candidate.name);
    let output = String::from_utf8(output.stdout)?;
    let figure = |name: &str| -> Result<f64> {
        let mut lines = output.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines
            .find(|(of, _)| *of == name)
            .with_context(|| format!("{} printed no {name}", candidate.name))?;
        Ok(value.parse()?)
    };
    FIGURES.iter().map(|(name, _)| figure(name)).collect()
}

#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
fn print(candidates: &[&Candidate], reports: &[Vec<Vec<f64>>]) -> Result<()> {
    let mut table = String::from("| 10 M keys of 20 hex digits |");
    for candidate in candidates {
        write!(table, " {} |", candidate.name)?;
    }
    write!(table, "\n|---|{}", "---|".repeat(candidates.len()))?;
    for (index, (_, title)) in FIGURES.iter().enumerate() {
        write!(table, "\n| {title} |")?;
        for rounds in reports {
            let spread = Spread::of(rounds.iter().map(|figures| figures[index]));
            write!(table, " {} |", spread.context("there is a round at least")?.show())?;
        }
    }
    println!("{table}");
    Ok(())
}
