//! Test data from recordings of the real PHP programs (docs/testing.md, "Golden recordings").

use core::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};

/// Rewrites `crates/proto/testdata/golden` from a folder of recordings, one `.jsonl` file each.
///
/// # Errors
/// The folder cannot be read, or a line of a recording is not what a recorder writes.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let from = match arguments {
        [] => root().join("../shared/golden"),
        ["--from", folder] => PathBuf::from(folder),
        _ => bail!("usage: cargo xtask golden [--from DIR]"),
    };
    let to = root().join("crates/proto/testdata/golden");
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let mut recordings = Vec::new();
    for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            recordings.push(path);
        }
    }
    ensure!(!recordings.is_empty(), "no recording in {}", from.display());
    recordings.sort();
    for recording in recordings {
        convert(&recording, &to).with_context(|| recording.display().to_string())?;
    }
    Ok(())
}

fn convert(recording: &Path, to: &Path) -> Result<()> {
    let name =
        recording.file_stem().and_then(|stem| stem.to_str()).context("the file has no name")?;
    let mut data = HEADER.replace("NAME", name);
    for (number, line) in (1..).zip(fs::read_to_string(recording)?.lines()) {
        let event = serde_json::from_str(line)
            .map_err(anyhow::Error::from)
            .and_then(|event| event_line(&event));
        data.push_str(&event.with_context(|| format!("line {number}"))?);
    }
    ensure!(data.len() < FILE_BYTES_MAX, "{name} would be {} bytes long", data.len());
    fs::write(to.join(name).with_extension("txt"), &data)?;
    say(&format!("golden: {name}, {} bytes", data.len()));
    Ok(())
}

/// One recorded event as a line of test data.
fn event_line(event: &Value) -> Result<String> {
    let number = |key: &str| event[key].as_u64().with_context(|| format!("no number {key}"));
    let text = |key: &str| event[key].as_str().with_context(|| format!("no text {key}"));
    let seconds =
        event["t"].as_f64().filter(|t| (0.0..MAX_SECONDS).contains(t)).context("no time t")?;
    let (conn, port, from) = (number("conn")?, number("port")?, text("from")?);
    let what = match event.get("event") {
        Some(_) => text("event")?.to_owned(),
        None => compact(text("hex")?)?,
    };
    Ok(format!("{seconds:.4} {conn} {port} {from} {what}\n"))
}

/// Hexadecimal with long runs of one byte as `(78*3000)`.
fn compact(hex: &str) -> Result<String> {
    let digits = hex.as_bytes();
    ensure!(
        digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit),
        "not hexadecimal"
    );
    let mut out = String::new();
    for run in digits.as_chunks::<2>().0.chunk_by(PartialEq::eq) {
        let byte = char::from(run[0][0]).to_string() + &char::from(run[0][1]).to_string();
        if run.len() < RUN_LEN_MIN {
            out.push_str(&byte.repeat(run.len()));
        } else {
            write!(out, "({byte}*{})", run.len())?;
        }
    }
    Ok(out)
}

const HEADER: &str = "\
# NAME: recorded between GatewayWorker 7828ec7 on Workerman 5.2.2, its workers and its clients. Made by `cargo xtask golden`.
# One event a line, in the order recorded: seconds, connection, port the server listens on, side that acted, what it did.
# Ports: 1236 register, 2900 gateway for workers, 8282 gateway for clients. Sides: client (who connected) and server.
# What: connect, fin, reset, or the bytes of one read in hexadecimal, where (78*3000) is the byte 78 three thousand times.
";

/// Bytes of the same value in a row from which on they are written as a run.
const RUN_LEN_MIN: usize = 16;
/// Larger files do not belong into a repository.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Longer than any recording.
const MAX_SECONDS: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_counted_and_the_rest_is_kept() {
        let hex = "00ff".to_owned() + &"78".repeat(16) + &"79".repeat(15);
        assert_eq!(compact(&hex).unwrap(), "00ff(78*16)".to_owned() + &"79".repeat(15));
        assert!(compact("0").is_err());
        assert!(compact("0g").is_err());
    }

    #[test]
    fn events_keep_their_time_and_place() {
        let event = serde_json::json!({"t": 2.5, "conn": 3, "port": 8282, "from": "client", "event": "fin"});
        assert_eq!(event_line(&event).unwrap(), "2.5000 3 8282 client fin\n");
        assert!(event_line(&serde_json::json!({"t": 2.5})).is_err());
    }
}
