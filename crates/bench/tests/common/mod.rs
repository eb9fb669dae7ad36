//! A small server that does what the modes expect of a gateway with its worker, and counts what it sees.
//!
//! Written from what `tengate-bench worker --help` says of the verbs, not from the generator's code.
#![expect(clippy::unwrap_used, reason = "helpers of tests, where a failure should stop the test")]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tengate_proto::wire::websocket::{self, Item, Limits, Opcode};
use tengate_proto::wire::{length, text};

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Websocket,
    Text,
    Frame,
    Http,
}

/// A listener; its threads end with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

/// What all connections of one server share.
#[derive(Default)]
struct Seen {
    clients: Mutex<BTreeMap<u64, Client>>,
    connections: AtomicU64,
    /// Answers to the ping that every websocket client gets with its welcome.
    pongs: AtomicU64,
    /// How many messages are answered before whoever sends another is cut off, when that is limited.
    answers_left: Mutex<Option<u64>>,
    /// Connections that are dropped as soon as this many have come, and how many of them.
    refusals: Mutex<(u64, u64)>,
}

struct Client {
    stream: TcpStream,
    /// Groups as `#name`, uids as `@name`.
    names: Vec<String>,
}

/// What a client says.
enum Heard {
    Message(Vec<u8>),
    Pong,
    Farewell,
}

impl Server {
    pub(crate) fn start(speech: Speech) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                if !shared.refuses(number) {
                    thread::spawn(move || serve(speech, number, stream, &shared));
                }
            }
        });
        Self { address, seen }
    }

    /// Drops `count` connections after the first `after`.
    pub(crate) fn refuse(&self, after: u64, count: u64) {
        *self.seen.refusals.lock().unwrap() = (after, count);
    }

    /// Answers `count` messages of all clients together, and closes the connection of each further one.
    pub(crate) fn answer_at_most(&self, count: u64) {
        *self.seen.answers_left.lock().unwrap() = Some(count);
    }

    /// How many clients have answered their ping.
    pub(crate) fn pongs(&self) -> u64 {
        self.seen.pongs.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Seen {
    fn refuses(&self, number: u64) -> bool {
        let (after, count) = *self.refusals.lock().unwrap();
        (after..after + count).contains(&number)
    }

    /// Whether one more message may be answered.
    fn may_answer(&self) -> bool {
        let mut left = self.answers_left.lock().unwrap();
        let may = *left != Some(0);
        *left = left.map(|left| left.saturating_sub(1));
        may
    }

    /// Sends to every client with this name, or to all.
    fn send(&self, speech: Speech, name: Option<&str>, payload: &[u8]) {
        for client in self.clients.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let mut streams = Some(&client.stream);
            if let Some(name) = name {
                streams = streams.filter(|_| client.names.iter().any(|one| one == name));
            }
            // A client that has just gone is no failure of the server.
            streams.map(|mut stream| stream.write_all(&speech.encode(payload)).ok());
        }
    }

    fn message(&self, speech: Speech, number: u64, message: &[u8]) {
        let rest = message.get(1..).unwrap_or_default();
        let words = str::from_utf8(rest).unwrap();
        match message.first() {
            Some(b'*') => return self.send(speech, None, message),
            Some(first @ (b'#' | b'@')) => {
                let (name, payload) = words.split_once('|').unwrap();
                let name = format!("{}{name}", char::from(*first));
                return self.send(speech, Some(&name), payload.as_bytes());
            }
            Some(b'+') => self.name(number, format!("#{words}")),
            Some(b'=') => self.name(number, format!("@{words}")),
            _ => {}
        }
        let mut clients = self.clients.lock().unwrap();
        let client = clients.get_mut(&number).unwrap();
        client.stream.write_all(&speech.encode(message)).ok();
    }

    fn forget(&self, number: u64, stream: &TcpStream) {
        self.clients.lock().unwrap().remove(&number);
        // It may be gone already.
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn name(&self, number: u64, name: String) {
        self.clients.lock().unwrap().get_mut(&number).unwrap().names.push(name);
    }
}

impl Speech {
    fn encode(self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Websocket => {
                websocket::encode_header(Opcode::Text, payload.len(), &mut out);
                out.extend_from_slice(payload);
            }
            Self::Text => text::encode(payload, &mut out),
            Self::Frame => length::encode(payload, &mut out),
            Self::Http => {}
        }
        out
    }
}

/// One connection, until it ends.
fn serve(speech: Speech, number: u64, stream: TcpStream, seen: &Seen) {
    let client = Client { stream: stream.try_clone().unwrap(), names: Vec::new() };
    seen.clients.lock().unwrap().insert(number, client);
    let mut is_open = matches!(speech, Speech::Text | Speech::Frame);
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = (&stream).read(&mut buffer) {
        kept.extend_from_slice(&buffer[..len]);
        if !is_open {
            let Some(len) = welcome(speech, &kept, &stream) else { continue };
            kept.drain(..len);
            is_open = speech == Speech::Websocket;
        }
        while let Some((len, heard)) = is_open.then(|| decode(speech, &mut kept)).flatten() {
            kept.drain(..len);
            match heard {
                Heard::Message(message) if seen.may_answer() => {
                    seen.message(speech, number, &message);
                }
                Heard::Message(_) => return seen.forget(number, &stream),
                Heard::Pong => drop(seen.pongs.fetch_add(1, Ordering::SeqCst)),
                Heard::Farewell => is_open = false,
            }
        }
        if speech == Speech::Websocket && !is_open {
            break;
        }
    }
    seen.forget(number, &stream);
}

/// Answers a greeting; its length.
fn welcome(speech: Speech, bytes: &[u8], mut stream: &TcpStream) -> Option<usize> {
    let mut answer = Vec::new();
    let len = if speech == Speech::Http {
        answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)?
    } else {
        let (len, request) = websocket::decode_request(bytes, 8192).unwrap()?;
        websocket::encode_response(request.key, &mut answer);
        websocket::encode_header(Opcode::Ping, PING.len(), &mut answer);
        answer.extend_from_slice(PING);
        len
    };
    stream.write_all(&answer).ok();
    Some(len)
}

/// The first thing a client says, and its length.
fn decode(speech: Speech, bytes: &mut [u8]) -> Option<(usize, Heard)> {
    let (len, message) = match speech {
        Speech::Websocket => {
            let limits = Limits { message_bytes_max: 1 << 20, check_utf8: true };
            let mut decoder = websocket::Decoder::default();
            return match decoder.decode(bytes, &limits).unwrap()? {
                (len, Item::Message { payload, .. }) => {
                    Some((len, Heard::Message(payload.to_vec())))
                }
                (len, Item::Pong(payload)) if payload == PING => Some((len, Heard::Pong)),
                (len, Item::Close { .. }) => Some((len, Heard::Farewell)),
                (_, item) => panic!("a generator does not send {item:?} here"),
            };
        }
        Speech::Text => text::Decoder::default().decode(bytes, 1 << 20).unwrap()?,
        Speech::Frame => length::decode(bytes, 1 << 20).unwrap()?,
        Speech::Http => return None,
    };
    Some((len, Heard::Message(message.to_vec())))
}

const PING: &[u8] = b"are you there?";
