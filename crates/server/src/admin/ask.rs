//! Asks every tengate process of this user on this machine.

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;

use super::run_dir;
use super::snapshot::Question;
use crate::complain;

/// How long a process may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The answers of all processes that gave one, in the order of their sockets' names. Sockets without a process behind
/// them are removed.
pub(crate) fn ask_all<A: DeserializeOwned>(
    dir: &Path,
    question: Question,
) -> anyhow::Result<Vec<A>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    run_dir::verify(dir)?;
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    paths.sort();
    let mut answers = Vec::new();
    for path in paths {
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                // Its process was killed before it could remove it.
                let _ = fs::remove_file(&path);
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                complain(&format!("warning: {}: {error}\n", path.display()));
                continue;
            }
        };
        match ask(stream, question) {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                complain(&format!("warning: {} does not answer: {error:#}\n", path.display()))
            }
        }
    }
    Ok(answers)
}

fn ask<A: DeserializeOwned>(mut stream: UnixStream, question: Question) -> anyhow::Result<A> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_string(&question)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).context("it speaks another version")
}
