//! Behaviour on real loopback sockets: a line application whose every event reaches the test through a channel.
#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks the events it waits for")]

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};

use tengate_base::{App, CloseCause, ConnId, Door, How, Instant, Opened, ShardId, Sink};

use crate::{Config, Host, ListenSpec, Net, Pinning, Running, ShardStats, Sharing, bind, run};

mod bytes;
mod closing;
mod shards;

/// Longer than anything takes; only a failing test waits it out.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Open { shard: ShardId, conn: ConnId, door: Door, peer: SocketAddr, local_port: u16 },
    Line { conn: ConnId, line: String },
    Closed { conn: ConnId, cause: CloseCause, unsent: Vec<u8> },
    Drained { conn: ConnId },
    Mesh { shard: ShardId, from: ShardId, batch: Vec<u8> },
    Timeout,
}

/// Reports every line and obeys some: `echo …`, `pause …`, `bye` (answers and closes), `cut`.
struct Lines {
    shard: ShardId,
    events: Sender<Event>,
    wake_at: Option<Instant>,
}

/// What a test has a shard do.
struct Task(Box<TaskFn>);

type TaskFn = dyn FnOnce(&mut Lines, Instant, &mut Net) + Send;

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

impl Lines {
    fn report(&self, event: Event) {
        // A test that has seen enough does not listen any more.
        let _unheard = self.events.send(event);
    }
}

impl App for Lines {
    fn handle_open(&mut self, _now: Instant, opened: &Opened, _sink: &mut impl Sink) {
        let &Opened { conn, door, peer, local_port } = opened;
        self.report(Event::Open { shard: self.shard, conn, door, peer, local_port });
    }

    fn handle_bytes(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let mut consumed = 0;
        while let Some(len) = bytes[consumed..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8(bytes[consumed..consumed + len].to_vec()).unwrap();
            consumed += len + 1;
            self.report(Event::Line { conn, line: line.clone() });
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("echo", text) => {
                    sink.buffer(conn).extend_from_slice(format!("{text}\n").as_bytes())
                }
                ("pause", _) => {
                    sink.pause(conn);
                    return consumed;
                }
                ("bye", _) => {
                    sink.buffer(conn).extend_from_slice(b"bye\n");
                    sink.close(conn, How::AfterFlush);
                    return consumed;
                }
                ("cut", _) => {
                    sink.close(conn, How::AtOnce);
                    return consumed;
                }
                ("panic", _) => panic!("asked to"),
                _ => {}
            }
        }
        consumed
    }

    fn handle_closed(
        &mut self,
        _now: Instant,
        conn: ConnId,
        cause: CloseCause,
        unsent: &[u8],
        _sink: &mut impl Sink,
    ) {
        self.report(Event::Closed { conn, cause, unsent: unsent.to_vec() });
    }

    fn handle_drained(&mut self, _now: Instant, conn: ConnId, _sink: &mut impl Sink) {
        self.report(Event::Drained { conn });
    }

    fn handle_mesh(
        &mut self,
        _now: Instant,
        from: ShardId,
        batch: &mut [u8],
        _sink: &mut impl Sink,
    ) {
        self.report(Event::Mesh { shard: self.shard, from, batch: batch.to_vec() });
    }

    fn handle_timeout(&mut self, now: Instant, _sink: &mut impl Sink) {
        assert!(self.wake_at.take().is_some_and(|wake_at| wake_at <= now), "woken before the time");
        self.report(Event::Timeout);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.wake_at
    }
}

impl Host for Lines {
    type Command = Task;

    fn handle_command(&mut self, now: Instant, Task(task): Task, net: &mut Net) {
        task(self, now, net);
    }
}

/// Running shards with one listener, and what they report.
struct Shards {
    running: Running<Task>,
    events: Receiver<Event>,
    addr: SocketAddr,
}

impl Shards {
    fn start(shard_count: u16) -> Self {
        Self::start_with(
            &Config { pinning: Pinning::Off, ..Config::for_shards(shard_count) },
            Sharing::PerShard,
        )
    }

    fn start_with(config: &Config, sharing: Sharing) -> Self {
        let spec = ListenSpec { addr: "127.0.0.1:0".parse().unwrap(), backlog: 1024, sharing };
        let listener = bind(&spec, config.shard_count).unwrap();
        let addr = listener.local_addr();
        let (sender, events) = channel();
        let make_app = move |shard| Lines { shard, events: sender.clone(), wake_at: None };
        let running = run(config, vec![listener], None, make_app).unwrap();
        Self { running, events, addr }
    }

    /// A client and its index in its shard.
    fn connect(&self) -> (TcpStream, ConnId) {
        let client = connect(self.addr);
        let us = client.local_addr().unwrap();
        let conn = self.wait_for(|event| match event {
            Event::Open { conn, peer, .. } if peer == us => Some(conn),
            _ => None,
        });
        (client, conn)
    }

    /// The next event that `pick` wants; others are dropped.
    fn wait_for<T>(&self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(DEADLINE).expect("the event comes");
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    }

    fn next_line(&self) -> String {
        self.wait_for(|event| match event {
            Event::Line { line, .. } => Some(line),
            _ => None,
        })
    }

    fn closed(&self) -> (CloseCause, Vec<u8>) {
        self.wait_for(|event| match event {
            Event::Closed { cause, unsent, .. } => Some((cause, unsent)),
            _ => None,
        })
    }

    /// Runs `task` in a shard and returns its result.
    fn on<T: Send + 'static>(
        &self,
        shard: usize,
        task: impl FnOnce(&mut Lines, &mut Net) -> T + Send + 'static,
    ) -> T {
        let (sender, result) = channel();
        let task = Task(Box::new(move |app, _now, net| sender.send(task(app, net)).unwrap()));
        self.running.handles()[shard].command(task).unwrap();
        result.recv_timeout(DEADLINE).expect("the shard answers")
    }

    /// Asks shard 0 for its stats until they are as wanted. Each question is a turn of the shard, so this waits for it.
    fn wait_until(&self, wanted: impl Fn(&ShardStats) -> bool) -> ShardStats {
        for _ in 0..1_000_000 {
            let stats = self.on(0, |_, net| net.stats());
            if wanted(&stats) {
                return stats;
            }
        }
        panic!("stats as wanted")
    }

    /// Stops everything without waiting for clients.
    fn stop(self) {
        self.running.handles().iter().for_each(|handle| handle.stop(Duration::ZERO));
        self.running.join(Duration::ZERO).unwrap();
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client
}

fn send(mut client: &TcpStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
}

fn read_exactly(mut client: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_to_end(mut client: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes whose place in the stream can be told.
fn pattern(len: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(len).collect()
}
