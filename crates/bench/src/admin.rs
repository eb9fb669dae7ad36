//! How busy a gateway's shards are, from its admin socket: a thread that polls takes its whole core, whatever it does.

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The time that one shard's thread has spent working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) pid: u32,
    /// Of the thread.
    pub(crate) name: String,
    pub(crate) nanos: u64,
}

/// What is read of a status.
#[derive(Deserialize)]
struct Status {
    pid: u32,
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    shard: u16,
    answered: bool,
    busy_nanos: u64,
}

/// Asks the process behind an admin socket; a shard that does not answer in time is left out.
pub(crate) fn ask(socket: &Path) -> Result<Vec<Busy>> {
    let context = || format!("asking the admin socket {}", socket.display());
    let answer = exchange(socket).with_context(context)?;
    decode(&answer).with_context(context)
}

fn exchange(socket: &Path) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"ask\":\"status\"}\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

fn decode(answer: &str) -> Result<Vec<Busy>> {
    let Status { pid, shards } = serde_json::from_str(answer).context("it speaks otherwise")?;
    // Threads are named after their shards.
    let busy = |shard: &Shard| Busy {
        pid,
        name: format!("tengate-{}", shard.shard),
        nanos: shard.busy_nanos,
    };
    Ok(shards.iter().filter(|shard| shard.answered).map(busy).collect())
}

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_each_shards_thread_and_its_busy_time() {
        let answer = r#"{"pid":7,"role":"gateway","shards":[
            {"shard":0,"answered":true,"busy_nanos":5,"wall_nanos":9},
            {"shard":1,"answered":false,"busy_nanos":0}]}"#;
        let busy = Busy { pid: 7, name: "tengate-0".to_owned(), nanos: 5 };
        assert_eq!(decode(answer).unwrap(), [busy]);
        assert!(decode("").is_err());
    }
}
