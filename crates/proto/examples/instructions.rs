//! What an operation of the gateway costs in instructions: one path a case, for `cargo xtask instructions` to count.
//!
//! Without an argument it names its cases. With the name of one it runs it [`OPERATIONS`] times and prints that number.
//! Callgrind counts what [`measured`] does below [`operations`] and nothing else, so that setting up, making input and
//! emptying output cost nothing. Input and seeds are the same in every run.

use core::error::Error;
use core::mem;
use core::net::{Ipv4Addr, SocketAddr};
use std::io::Write as _;
use std::sync::Arc;

use tengate_base::{App, CloseCause, Closed, ConnId, Door, How, Instant, Opened, ShardId, Sink};
use tengate_proto::gateway::{Config, Described, Gateway, Listener, Protocol};
use tengate_proto::wire::header::{Command, FLAG_SCALAR, Header};
use tengate_proto::wire::websocket::{Opcode, encode_masked};

/// One path through a gateway.
struct Case {
    name: &'static str,
    operate: fn(&mut Bed),
    /// Shards of the gateway. The worker's link is on the first; the client is on the last.
    shards: u16,
    /// Messages to clients and events to workers that one operation makes.
    sends: u64,
}

const CASES: &[Case] = &[
    Case { name: "websocket_message", operate: websocket_message, shards: 1, sends: 1 },
    Case { name: "text_message", operate: text_message, shards: 1, sends: 1 },
    Case { name: "send_to_one", operate: send_to_one, shards: 1, sends: 1 },
    Case { name: "echo", operate: echo, shards: 1, sends: 2 },
    Case { name: "echo_across_shards", operate: echo, shards: 2, sends: 2 },
    Case { name: "send_to_uid", operate: send_to_uid, shards: 1, sends: 1 },
    Case { name: "send_to_group_of_100", operate: send_to_group, shards: 1, sends: 100 },
    Case { name: "send_to_all_of_1000", operate: send_to_all, shards: 1, sends: 1000 },
    Case { name: "websocket_handshake", operate: websocket_handshake, shards: 1, sends: 3 },
];

/// Enough that what happens once, like growing a buffer, does not count.
const OPERATIONS: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    let Some(name) = std::env::args().nth(1) else {
        for case in CASES {
            writeln!(out, "{}", case.name)?;
        }
        return Ok(());
    };
    let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
    let mut bed = Bed::new(case.shards);
    let before = bed.sends();
    operations(case, &mut bed);
    if bed.sends() - before != case.sends * OPERATIONS {
        return Err("the path did not lead where it is meant to".into());
    }
    writeln!(out, "{OPERATIONS}")?;
    Ok(())
}

/// Where Callgrind's count begins; never inlined, because it finds functions by their names.
#[inline(never)]
fn operations(case: &Case, bed: &mut Bed) {
    for _ in 0..OPERATIONS {
        (case.operate)(bed);
    }
}

fn websocket_message(bed: &mut Bed) {
    let mut message = Vec::new();
    encode_masked(Opcode::Text, true, [1, 2, 3, 4], MESSAGE, &mut message);
    bed.show(bed.last(), Input::Bytes(WEBSOCKET_CLIENT, &mut message));
}

fn text_message(bed: &mut Bed) {
    let mut message = [MESSAGE, b"\n"].concat();
    bed.show(bed.last(), Input::Bytes(TEXT_CLIENT, &mut message));
}

fn send_to_one(bed: &mut Bed) {
    let id = bed.connection_id(bed.last(), WEBSOCKET_CLIENT);
    bed.command(Command::SendToOne, id, b"", MESSAGE);
}

fn echo(bed: &mut Bed) {
    websocket_message(bed);
    send_to_one(bed);
}

fn send_to_uid(bed: &mut Bed) {
    bed.command(Command::SendToUid, 0, br#"["user-7"]"#, MESSAGE);
}

fn send_to_group(bed: &mut Bed) {
    bed.command(Command::SendToGroup, 0, br#"{"group":["room"],"exclude":null}"#, MESSAGE);
}

fn send_to_all(bed: &mut Bed) {
    bed.command(Command::SendToAll, 0, b"", MESSAGE);
}

/// From the connection to the answer, with ON_CONNECT and ON_WEBSOCKET_CONNECT. ON_CLOSE is made, but not counted.
fn websocket_handshake(bed: &mut Bed) {
    let shard = bed.last();
    bed.show(shard, Input::Open(opened(NEWCOMER, WEBSOCKET_DOOR)));
    bed.show(shard, Input::Bytes(NEWCOMER, &mut REQUEST.to_vec()));
    let Shard { gateway, output, .. } = &mut bed.shards[shard];
    gateway.handle_closed(Instant::ZERO, NEWCOMER, CloseCause::Peer, b"", output);
    output.bytes.clear();
}

/// What a shell shows a shard.
enum Input<'a> {
    Open(Opened),
    Bytes(ConnId, &'a mut [u8]),
    Mesh(ShardId, &'a mut [u8]),
}

/// All that is counted.
#[inline(never)]
fn measured(shard: &mut Shard, input: Input<'_>) {
    let Shard { gateway, output } = shard;
    match input {
        Input::Open(opened) => gateway.handle_open(Instant::ZERO, &opened, output),
        Input::Bytes(conn, bytes) => {
            let consumed = gateway.handle_bytes(Instant::ZERO, conn, bytes, output);
            assert_eq!(consumed, bytes.len(), "input is whole messages");
        }
        Input::Mesh(from, batch) => gateway.handle_mesh(Instant::ZERO, from, batch, output),
    }
}

/// A gateway: a worker on its first shard, and on every shard [`CLIENTS`] clients with a session and a uid, of which
/// [`GROUP_MEMBERS`] are in a group.
struct Bed {
    shards: Vec<Shard>,
}

struct Shard {
    gateway: Gateway,
    output: Output,
}

/// Everything a shard writes. Nobody is slow, and a connection closes at once.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// By receiving shard.
    mesh: Vec<Vec<u8>>,
}

impl Bed {
    fn new(shards: u16) -> Self {
        let mut config = Config::with_defaults(Ipv4Addr::LOCALHOST, 2900);
        config.shards = shards;
        let websocket = Protocol::Websocket { binary: false, check_utf8: true };
        config.listeners.push(Listener::with_defaults(websocket, 8282));
        config.listeners.push(Listener::with_defaults(Protocol::Text, 8283));
        let config = Arc::new(config);
        let shard = |number| Shard {
            gateway: Gateway::new(Arc::clone(&config), ShardId(number), Instant::ZERO),
            output: Output { bytes: Vec::new(), mesh: vec![Vec::new(); usize::from(shards)] },
        };
        let mut bed = Self { shards: (0..shards).map(shard).collect() };
        bed.set_up_worker();
        for shard in 0..bed.shards.len() {
            bed.set_up_clients(shard);
        }
        bed
    }

    fn set_up_worker(&mut self) {
        self.show(0, Input::Open(opened(WORKER, INNER_DOOR)));
        let hello = br#"{"worker_key":"chat:0","secret_key":""}"#;
        self.command(Command::WorkerConnect, 0, b"", hello);
    }

    fn set_up_clients(&mut self, shard: usize) {
        for index in 0..CLIENTS {
            let conn = ConnId(index);
            if conn == TEXT_CLIENT {
                self.show(shard, Input::Open(opened(conn, TEXT_DOOR)));
            } else {
                self.show(shard, Input::Open(opened(conn, WEBSOCKET_DOOR)));
                self.show(shard, Input::Bytes(conn, &mut REQUEST.to_vec()));
            }
            let id = self.connection_id(shard, conn);
            self.command(Command::SetSession, id, SESSION, b"");
            self.command(Command::BindUid, id, format!("user-{index}").as_bytes(), b"");
            if index < GROUP_MEMBERS {
                self.command(Command::JoinGroup, id, b"room", b"");
            }
        }
    }

    /// The shard clients are on.
    fn last(&self) -> usize {
        self.shards.len() - 1
    }

    /// The number of a client.
    fn connection_id(&self, shard: usize, conn: ConnId) -> u32 {
        match self.shards[shard].gateway.describe(conn) {
            Some(Described::Client { connection_id, .. }) => connection_id,
            Some(Described::Worker { .. } | Described::OutsideClient) | None => 0,
        }
    }

    /// The worker sends a command.
    fn command(&mut self, command: Command, connection_id: u32, ext: &[u8], body: &[u8]) {
        let mut frame = frame(command, connection_id, ext, body);
        self.show(0, Input::Bytes(WORKER, &mut frame));
    }

    /// Shows a shard something, and what follows from it to the other shards.
    fn show(&mut self, shard: usize, input: Input<'_>) {
        measured(&mut self.shards[shard], input);
        self.shards[shard].output.bytes.clear();
        for to in 0..self.shards.len() {
            let mut batch = mem::take(&mut self.shards[shard].output.mesh[to]);
            if !batch.is_empty() {
                self.show(to, Input::Mesh(shard_id(shard), &mut batch));
            }
            batch.clear();
            self.shards[shard].output.mesh[to] = batch;
        }
    }

    /// What has been sent so far.
    fn sends(&self) -> u64 {
        let stats = self.shards.iter().map(|shard| shard.gateway.stats());
        stats.map(|stats| stats.deliveries + stats.events).sum()
    }
}

impl Sink for Output {
    fn buffer(&mut self, _conn: ConnId) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn write(&mut self, _conn: ConnId, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn queued(&self, _conn: ConnId) -> usize {
        0
    }

    fn flush(&mut self, _conn: ConnId) -> usize {
        0
    }

    fn close(&mut self, _conn: ConnId, _how: How) -> Closed {
        Closed::Now
    }

    fn pause(&mut self, _conn: ConnId) {}

    fn resume(&mut self, _conn: ConnId) {}

    fn notify_below(&mut self, _conn: ConnId, _bytes: usize) {}

    fn keep_frames(&mut self, _conn: ConnId) {}

    fn begin_message(&mut self, _conn: ConnId) {}

    fn drop_oldest(&mut self, _conn: ConnId, _bytes: usize) -> usize {
        0
    }

    fn mesh(&mut self, to: ShardId) -> &mut Vec<u8> {
        &mut self.mesh[usize::from(to.0)]
    }
}

fn shard_id(shard: usize) -> ShardId {
    ShardId(u16::try_from(shard).expect("two shards at most"))
}

fn opened(conn: ConnId, door: Door) -> Opened {
    let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 40_000));
    Opened { conn, door, peer, local_port: 8282 }
}

fn frame(command: Command, connection_id: u32, ext: &[u8], body: &[u8]) -> Vec<u8> {
    let header =
        Header { command: command as u8, connection_id, flag: FLAG_SCALAR, ..Header::default() };
    let mut frame = Vec::new();
    header.encode(ext, body, &mut frame);
    frame
}

/// What a browser sends to open a websocket.
const REQUEST: &[u8] = b"GET /?room=7 HTTP/1.1\r\n\
    Host: chat.example.com:8282\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    \r\n";

const MESSAGE: &[u8] = b"sixty-four bytes, as many as a line of a chat or a move in games";
const _: () = assert!(MESSAGE.len() == 64);
const SESSION: &[u8] = br#"a:2:{s:4:"name";s:5:"Grace";s:4:"room";s:1:"7";}"#;

/// Clients of one shard: all websocket but the last.
const CLIENTS: u32 = 1000;
const GROUP_MEMBERS: u32 = 100;

const WEBSOCKET_CLIENT: ConnId = ConnId(7);
const TEXT_CLIENT: ConnId = ConnId(CLIENTS - 1);
const WORKER: ConnId = ConnId(CLIENTS);
const NEWCOMER: ConnId = ConnId(CLIENTS + 1);

const WEBSOCKET_DOOR: Door = Door(0);
const TEXT_DOOR: Door = Door(1);
const INNER_DOOR: Door = Door(2);
