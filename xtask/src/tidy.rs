//! House rules that no lint knows (docs/testing.md, "House rules").

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{root, say};

/// Checks every source file of the repository.
///
/// # Errors
/// Lists what is wrong, all of it.
pub(crate) fn run() -> Result<()> {
    let root = root();
    let mut sources = Vec::new();
    for folder in ["crates", "xtask", "fuzz"] {
        collect(&root.join(folder), &mut sources)?;
    }
    let anchors =
        anchors(&fs::read_to_string(root.join("docs/protocol.md")).context("docs/protocol.md")?);
    let mut faults = Vec::new();
    for path in &sources {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for fault in check(&text, &anchors) {
            faults.push(format!("{}: {fault}", path.strip_prefix(&root).unwrap_or(path).display()));
        }
    }
    if faults.is_empty() {
        say(&format!("tidy: {} files", sources.len()));
        return Ok(());
    }
    bail!("{} rules broken\n{}", faults.len(), faults.join("\n"));
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// What is wrong with one file.
fn check(text: &str, anchors: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push("line one must be //! and say what the file is for".to_owned());
    }
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    if lines > LINES_MAX {
        faults.push(format!(
            "{lines} lines before its tests, {LINES_MAX} are the limit: split it by stage of life"
        ));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for cited in cited(line) {
            if !anchors.contains(cited) {
                faults.push(format!(
                    "line {number} cites the protocol's #{cited}, which is not there"
                ));
            }
        }
        for word in UNFINISHED {
            if line.contains(word) {
                faults.push(format!("line {number} says {word}"));
            }
        }
    }
    faults
}

/// Anchors cited in a line.
fn cited(line: &str) -> impl Iterator<Item = &str> {
    line.split(CITATION).skip(1).map(|rest| {
        let end = rest.find(|char: char| {
            !(char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-')
        });
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Anchors of a page's headings, as GitHub makes them, and those written out as `<a id="…">`.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|char| char.is_alphanumeric() || *char == ' ' || *char == '-' || *char == '_')
            .map(|char| if char == ' ' { '-' } else { char })
            .collect()
    });
    let written =
        page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(written).collect()
}

/// What a citation begins with; in halves, because this file is checked too.
const CITATION: &str = concat!("protocol.md", "#");

const LINES_MAX: usize = 1000;

/// Marks of unfinished work; written in halves so that this file may name them.
const UNFINISHED: [&str; 4] = [
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[igno", "re]"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_a_first_line_a_limit_and_true_citations() {
        let anchors = anchors("# Wire\n## Inner frames\n<a id=\"old-name\"></a>\n");
        assert!(anchors.contains("inner-frames") && anchors.contains("old-name"));
        assert_eq!(
            check(&format!("//! Good ({CITATION}inner-frames).\n"), &anchors),
            Vec::<String>::new()
        );
        assert_eq!(check("fn main() {}\n", &anchors).len(), 1);
        assert_eq!(check(&format!("//! See {CITATION}nowhere.\n"), &anchors).len(), 1);
        assert_eq!(check(&format!("//! Long.\n{}", "x\n".repeat(1000)), &anchors).len(), 1);
        assert_eq!(
            check(&format!("//! Tests.\n#[cfg(test)]\n{}", "x\n".repeat(2000)), &anchors).len(),
            0
        );
        assert_eq!(check(concat!("//! Later.\ntodo", "!()\n"), &anchors).len(), 1);
    }
}
