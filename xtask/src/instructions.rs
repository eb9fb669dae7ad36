//! How many instructions an operation of the gateway takes, against the figures kept in the repository
//! (docs/testing.md, "Instruction counts").
//!
//! Callgrind runs the program `crates/proto/examples/instructions.rs` in a simulated processor. What it counts does not
//! depend on what else the machine does, so a regression of a few percent shows where a clock would show noise.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};

/// Instructions of one operation, by case.
type Figures = BTreeMap<String, u64>;

/// Counts every case and compares, or with `--accept` keeps the new figures.
///
/// # Errors
/// A case takes noticeably more instructions than it is known to, a case has no figure or a figure no case, or nothing
/// can be counted.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let accept = match arguments {
        [] => false,
        ["--accept"] => true,
        _ => bail!("instructions takes no argument but --accept"),
    };
    let program = build()?;
    let mut counted = Figures::new();
    for case in output(Command::new(&program))?.lines() {
        let count = count(&program, case).with_context(|| format!("case {case}"))?;
        counted.insert(case.to_owned(), count);
    }
    let path = root().join(KEPT);
    let taken_with = taken_with()?;
    if accept {
        fs::write(&path, encode(&counted, &taken_with)).context(KEPT)?;
        say(&format!("instructions: {} figures are in {KEPT}", counted.len()));
        return Ok(());
    }
    let text = fs::read_to_string(&path).context(KEPT)?;
    let kept = decode(&text).context(KEPT)?;
    let verdicts = compare(&kept, &counted);
    say(&table(&verdicts, &kept, &counted));
    let any = |wanted: &[Verdict]| verdicts.values().any(|verdict| wanted.contains(verdict));
    if any(&[Verdict::Better]) {
        say(&format!("instructions: fewer than {KEPT} says; {ACCEPT}"));
    }
    if any(&[Verdict::Worse, Verdict::New, Verdict::Gone]) {
        if !text.contains(&taken_with) {
            say(&format!("instructions: the figures kept were not taken with {taken_with}"));
        }
        bail!("not what {KEPT} says; if it is worth it, {ACCEPT}");
    }
    Ok(())
}

/// Builds the program; returns where it is.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "-p", "tengate-proto"])
        .args(["--example", "instructions", "--message-format=json-render-diagnostics"])
        .current_dir(root());
    let messages = output(cargo)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().context("cargo names no executable")
}

/// Instructions of one operation of a case.
fn count(program: &Path, case: &str) -> Result<u64> {
    let profile = program.with_extension("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--tool=callgrind", "--toggle-collect=instructions::measured*"])
        .args(["--zero-before=instructions::operations*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .arg(case);
    // The developer's environment may have a say in how memory is allocated and copied.
    valgrind.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    let operations: u64 = output(valgrind)?.trim().parse().context("operations")?;
    let text = fs::read_to_string(&profile).context("Callgrind's profile")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.context("no totals in Callgrind's profile")?.trim().parse()?;
    ensure!(total > 0, "Callgrind did not find the functions to count");
    Ok(total / operations)
}

/// What a program prints; its errors go to the developer.
fn output(mut command: Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{name} cannot be started"))?;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What else the figures depend on.
fn taken_with() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.arg("--version");
    Ok(format!("{} on {}", output(rustc)?.trim(), std::env::consts::ARCH))
}

fn encode(figures: &Figures, taken_with: &str) -> String {
    let lines = figures.iter().map(|(case, count)| format!("{case} {count}\n"));
    HEADER.replace("TAKEN_WITH", taken_with) + &lines.collect::<String>()
}

fn decode(text: &str) -> Result<Figures> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (case, count) = line.split_once(' ').with_context(|| format!("{line:?}"))?;
            Ok((case.to_owned(), count.parse().with_context(|| format!("{line:?}"))?))
        })
        .collect()
}

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
    /// Counted, without a figure to compare with.
    New,
    /// A figure without a case.
    Gone,
}

fn compare<'a>(kept: &'a Figures, counted: &'a Figures) -> BTreeMap<&'a str, Verdict> {
    let cases = kept.keys().chain(counted.keys());
    cases.map(|case| (case.as_str(), verdict(kept.get(case), counted.get(case)))).collect()
}

fn verdict(kept: Option<&u64>, counted: Option<&u64>) -> Verdict {
    match (kept, counted) {
        (None, _) => Verdict::New,
        (_, None) => Verdict::Gone,
        (Some(kept), Some(counted)) if counted * 100 > kept * (100 + TOLERANCE_PERCENT) => {
            Verdict::Worse
        }
        (Some(kept), Some(counted)) if counted * 100 < kept * (100 - TOLERANCE_PERCENT) => {
            Verdict::Better
        }
        (Some(_), Some(_)) => Verdict::Same,
    }
}

/// A line for each case.
fn table(verdicts: &BTreeMap<&str, Verdict>, kept: &Figures, counted: &Figures) -> String {
    let figure = |figures: &Figures, case: &str| {
        figures.get(case).map_or_else(|| "-".to_owned(), u64::to_string)
    };
    let mut table = format!("{:<24}{:>10}{:>10}\n", "instructions", "kept", "now");
    for (case, verdict) in verdicts {
        let mark = match verdict {
            Verdict::Same => "",
            Verdict::Better => "  better",
            Verdict::Worse => "  worse",
            Verdict::New => "  new",
            Verdict::Gone => "  gone",
        };
        let (kept, counted) = (figure(kept, case), figure(counted, case));
        table.push_str(&format!("{case:<24}{kept:>10}{counted:>10}{mark}\n"));
    }
    table
}

const KEPT: &str = "crates/proto/testdata/instructions.txt";

const ACCEPT: &str = "`cargo xtask instructions --accept` keeps them";

/// Smaller changes are not mentioned.
const TOLERANCE_PERCENT: u64 = 3;

const HEADER: &str = "\
# Instructions of one operation of the gateway, see docs/testing.md. Made by `cargo xtask instructions --accept`.
# TAKEN_WITH.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn figures<const N: usize>(figures: [(&str, u64); N]) -> Figures {
        figures.map(|(case, count)| (case.to_owned(), count)).into()
    }

    #[test]
    fn only_what_changed_by_more_than_the_tolerance_is_mentioned() {
        let kept = figures([("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000), ("gone", 1)]);
        let counted = figures([("a", 1030), ("b", 1031), ("c", 970), ("d", 969), ("new", 1)]);
        let verdicts: Vec<Verdict> = compare(&kept, &counted).into_values().collect();
        let expected = [
            Verdict::Same,
            Verdict::Worse,
            Verdict::Same,
            Verdict::Better,
            Verdict::Gone,
            Verdict::New,
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn kept_figures_read_as_they_were_written() {
        let kept = figures([("echo", 1337), ("send_to_one", 495)]);
        let text = encode(&kept, "rustc 1.95.0 on x86_64");
        assert!(text.contains("\n# rustc 1.95.0 on x86_64.\n"), "{text}");
        assert_eq!(decode(&text).unwrap(), kept);
        assert!(decode("echo\n").is_err());
        assert!(decode("echo many\n").is_err());
    }
}
