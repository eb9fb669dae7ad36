//! Recordings of the real PHP programs, for tests that compare or replay conversations.
//!
//! The files are `testdata/golden/*.txt`, made by `cargo xtask golden`; their first lines describe the format. A recorder
//! sat between all parties, so ports of clients in the frames are those of its own connections.
//!
//! Use it from another test file with `mod golden;`, or from unit tests with `#[path]`.

use core::time::Duration;
use std::fs;
use std::path::Path;

/// The port of the recorded register.
pub(crate) const REGISTER: u16 = 1236;
/// The recorded gateway's port for workers and outside clients.
pub(crate) const INNER: u16 = 2900;
/// The recorded gateway's port for clients.
pub(crate) const CLIENTS: u16 = 8282;

/// Names of all recordings: the client protocol, or `secret` for websocket in a cluster with the key `s3cret`.
pub(crate) const NAMES: [&str; 4] = ["ws", "secret", "text", "frame"];

/// Everything that happened, in order.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) events: Vec<Event>,
}

/// One thing that one side of one connection did.
#[derive(Debug)]
pub(crate) struct Event {
    /// Since the recording began.
    pub(crate) at: Duration,
    /// The connection's number in the recording.
    pub(crate) conn: u32,
    /// The port its server listens on.
    pub(crate) port: u16,
    pub(crate) from: Side,
    pub(crate) what: What,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who connected.
    Client,
    /// Who listens.
    Server,
}

/// What a side did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Connect,
    /// Sent these bytes, as the recorder read them: a message may span several, and one may hold several messages.
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

impl Recording {
    /// Reads one of [`NAMES`].
    ///
    /// # Panics
    /// The file is missing or damaged; make it anew with `cargo xtask golden`.
    pub(crate) fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata/golden")
            .join(name)
            .with_extension("txt");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let events = lines
            .map(|line| event(line).unwrap_or_else(|| panic!("{}: {line}", path.display())))
            .collect();
        Self { events }
    }

    /// The connections to a port, in the order they were made.
    pub(crate) fn connections(&self, port: u16) -> Vec<u32> {
        let made =
            self.events.iter().filter(|event| event.port == port && event.what == What::Connect);
        made.map(|event| event.conn).collect()
    }

    /// Everything one side of a connection sent, joined.
    pub(crate) fn sent(&self, conn: u32, from: Side) -> Vec<u8> {
        let mut sent = Vec::new();
        for event in &self.events {
            if let (true, What::Bytes(bytes)) =
                ((event.conn, event.from) == (conn, from), &event.what)
            {
                sent.extend_from_slice(bytes);
            }
        }
        sent
    }
}

fn event(line: &str) -> Option<Event> {
    let mut words = line.split(' ');
    let at = Duration::from_secs_f64(words.next()?.parse().ok()?);
    let (conn, port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let from = match words.next()? {
        "client" => Side::Client,
        "server" => Side::Server,
        _ => return None,
    };
    let what = match words.next()? {
        "connect" => What::Connect,
        "fin" => What::Fin,
        "reset" => What::Reset,
        hex => What::Bytes(bytes(hex)?),
    };
    words.next().is_none().then_some(Event { at, conn, port, from, what })
}

/// Undoes the hexadecimal of a recording, with its runs: `(78*3000)`.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (run, tail) = match rest.strip_prefix('(') {
            Some(tail) => tail.split_once(')')?,
            None => rest.split_at_checked(2)?,
        };
        let (byte, count) = run.split_once('*').unwrap_or((run, "1"));
        let byte = u8::from_str_radix(byte, 16).ok()?;
        bytes.resize(bytes.len() + count.parse::<usize>().ok()?, byte);
        rest = tail;
    }
    Some(bytes)
}
