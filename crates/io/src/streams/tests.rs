//! Streams between two stacks in memory: what the application is told and when, and what happens when memory runs out.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use tengate_base::{App, CloseCause, Closed, ConnId, Door, How, Instant, Opened, ShardId, Sink};
use tengate_netstack::{Address, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack};

use super::{StreamSink, Streams, handle_frame, handle_ready, handle_signals, handle_timeout};

/// Frames on their way.
#[derive(Debug, Default)]
struct Cable(VecDeque<Vec<u8>>);

impl Device for Cable {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.0.push_back(parts.concat());
        Ok(())
    }
}

/// The shell of one shard that has nothing but streams.
#[derive(Debug)]
struct Shell {
    streams: Streams<Cable>,
    is_congested: bool,
    batch: Vec<u8>,
}

impl StreamSink for Shell {
    type Device = Cable;

    fn streams(&mut self) -> &mut Streams<Cable> {
        &mut self.streams
    }

    fn is_congested(&self) -> bool {
        self.is_congested
    }
}

impl Sink for Shell {
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8> {
        self.streams.conns.buffer(conn.0)
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.streams.conns.write(conn.0, bytes);
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.streams.conns.queued(conn.0)
    }

    fn flush(&mut self, conn: ConnId) -> usize {
        self.streams.conns.write_out(conn.0)
    }

    fn close(&mut self, conn: ConnId, how: How) -> Closed {
        let now = self.streams.conns.carrier.now;
        self.streams.close(now, conn.0, how)
    }

    fn pause(&mut self, conn: ConnId) {
        self.streams.conns.pause(conn.0);
    }

    fn resume(&mut self, conn: ConnId) {
        self.streams.conns.resume(conn.0);
    }

    fn notify_below(&mut self, conn: ConnId, bytes: usize) {
        self.streams.conns.notify_below(conn.0, bytes);
    }

    fn keep_frames(&mut self, _conn: ConnId) {}

    fn begin_message(&mut self, conn: ConnId) {
        self.streams.conns.begin_message(conn.0);
    }

    fn drop_oldest(&mut self, conn: ConnId, bytes: usize) -> usize {
        self.streams.conns.drop_oldest(conn.0, bytes)
    }

    fn mesh(&mut self, _to: ShardId) -> &mut Vec<u8> {
        &mut self.batch
    }
}

/// Takes messages of a fixed length, as many as there are.
#[derive(Debug, Default)]
struct Taker {
    message_len: usize,
    opened: Vec<ConnId>,
    taken: BTreeMap<u32, Vec<u8>>,
    closed: BTreeMap<u32, CloseCause>,
    drained: Vec<ConnId>,
}

impl App for Taker {
    fn handle_open(&mut self, _now: Instant, opened: &Opened, _sink: &mut impl Sink) {
        assert_eq!(opened.door, Door(3));
        self.opened.push(opened.conn);
    }

    fn handle_bytes(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        _sink: &mut impl Sink,
    ) -> usize {
        assert!(!self.closed.contains_key(&conn.0), "nothing is shown behind the end");
        let consumed = bytes.len() - bytes.len() % self.message_len;
        self.taken.entry(conn.0).or_default().extend_from_slice(&bytes[..consumed]);
        consumed
    }

    fn handle_closed(
        &mut self,
        _now: Instant,
        conn: ConnId,
        cause: CloseCause,
        _unsent: &[u8],
        _sink: &mut impl Sink,
    ) {
        let before = self.closed.insert(conn.0, cause);
        assert_eq!(before, None, "an end is told once");
    }

    fn handle_drained(&mut self, _now: Instant, conn: ConnId, _sink: &mut impl Sink) {
        self.drained.push(conn);
    }

    fn handle_mesh(&mut self, _: Instant, _: ShardId, _: &mut [u8], _: &mut impl Sink) {}

    fn handle_timeout(&mut self, _now: Instant, _sink: &mut impl Sink) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// A server with streams, and a host with clients.
#[derive(Debug)]
struct World {
    now: Instant,
    app: Taker,
    shell: Shell,
    clients: Stack,
    cable: Cable,
    /// What clients read; those that are not in it do not read.
    read: BTreeMap<u32, Vec<u8>>,
    ended: Vec<ConnId>,
}

impl World {
    fn new(message_len: usize, change: impl FnOnce(&mut Config)) -> Self {
        let now = Instant::ZERO;
        let mut config = config(1);
        change(&mut config);
        let door = (PORT, Door(3));
        let streams =
            Streams::new(config, vec![door], Cable::default(), ConnId(0), 1000, now).unwrap();
        Self {
            now,
            app: Taker { message_len, ..Taker::default() },
            shell: Shell { streams, is_congested: false, batch: Vec::new() },
            clients: Stack::new(config_of_clients(), now).unwrap(),
            cable: Cable::default(),
            read: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    /// A client that has connected: its index there and here.
    fn connect(&mut self) -> (ConnId, ConnId) {
        let server = SocketAddr::new(address(1), PORT);
        let client = self.clients.connect(self.now, server, None).unwrap();
        let count = self.app.opened.len();
        self.run(20);
        assert_eq!(self.app.opened.len(), count + 1, "the client is in");
        (client, *self.app.opened.last().unwrap())
    }

    /// Some turns, a millisecond each.
    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now = self.now + Duration::from_millis(1);
            self.clients_turn();
            self.server_turn();
        }
    }

    fn clients_turn(&mut self) {
        let mut frames = core::mem::take(&mut self.shell.streams.device_mut().0);
        for frame in frames.drain(..) {
            self.clients.handle_frame(self.now, &frame, &mut self.cable);
            self.client_events(&frame);
        }
        self.clients.handle_timeout(self.now, &mut self.cable);
        self.client_events(&[]);
        self.clients.flush(self.now, &mut self.cable).unwrap();
    }

    fn client_events(&mut self, frame: &[u8]) {
        while let Some(event) = self.clients.poll_event() {
            match event {
                Event::Received { conn, bytes } => match self.read.get_mut(&conn.0) {
                    Some(read) => read.extend_from_slice(&frame[bytes]),
                    None => self.clients.hold(conn, u32::try_from(bytes.len()).unwrap()),
                },
                Event::Closed { conn, .. } | Event::PeerClosed { conn } => self.ended.push(conn),
                Event::Opened { .. }
                | Event::Connected { .. }
                | Event::Readable { .. }
                | Event::Drained { .. } => {}
            }
        }
    }

    fn server_turn(&mut self) {
        let Self { app, shell, .. } = self;
        shell.streams.begin_turn(self.now);
        for mut frame in core::mem::take(&mut self.cable.0) {
            handle_frame(app, shell, &mut frame);
        }
        handle_ready(app, shell);
        handle_timeout(app, shell);
        shell.streams.write_dirty();
        while handle_signals(app, shell) {
            shell.streams.write_dirty();
        }
        shell.streams.end_turn();
    }

    fn taken(&self, conn: ConnId) -> &[u8] {
        self.app.taken.get(&conn.0).map_or(&[], Vec::as_slice)
    }
}

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

fn config(host: u8) -> Config {
    let own = vec![Address { addr: address(host), prefix_len: 24 }];
    let mut config = Config::new(MacAddr([2, 0, 0, 0, 0, host]), own, Secret([host; 32]));
    config.recv_window_bytes = 64 << 10;
    config.send_buffer_bytes = 64 << 10;
    config
}

fn config_of_clients() -> Config {
    let mut config = config(2);
    config.send_buffer_bytes = 1 << 20;
    config
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

const PORT: u16 = 8282;

#[test]
fn message_longer_than_the_window_arrives() {
    let sent = bytes(500_000);
    let mut world = World::new(sent.len(), |_| {});
    let (client, conn) = world.connect();
    assert_eq!(world.clients.send(client, &sent), sent.len());
    world.run(200);
    assert_eq!(world.taken(conn), sent);
}

#[test]
fn paused_connection_is_sent_no_more_than_its_window_and_hears_of_its_end_behind_its_bytes() {
    let sent = bytes(300_000);
    let mut world = World::new(1, |_| {});
    let (client, conn) = world.connect();
    world.shell.pause(conn);
    world.clients.send(client, &sent);
    world.clients.shutdown(world.now, client);
    world.run(200);
    assert_eq!(world.taken(conn), []);
    let kept = world.shell.streams.conns.get(conn.0).unwrap().stash.unwrap();
    assert!(world.shell.streams.conns.buffers[kept].len() <= 64 << 10);
    world.shell.resume(conn);
    world.run(1000);
    assert_eq!(world.taken(conn), sent);
    assert_eq!(world.app.closed.get(&conn.0), Some(&CloseCause::Peer));
    assert_eq!(world.shell.streams.conns.buffers.charged_bytes(), 0);
}

#[test]
fn congestion_elsewhere_keeps_input_until_it_is_over() {
    let sent = bytes(100_000);
    let mut world = World::new(1, |_| {});
    let (client, conn) = world.connect();
    world.shell.is_congested = true;
    world.clients.send(client, &sent);
    world.run(100);
    assert_eq!(world.taken(conn), []);
    world.shell.is_congested = false;
    world.run(1000);
    assert_eq!(world.taken(conn), sent);
}

#[test]
fn queue_of_a_client_that_reads_again_arrives_whole_and_tells_that_it_drained() {
    let sent = bytes(400_000);
    let mut world = World::new(1, |_| {});
    let (client, conn) = world.connect();
    world.shell.buffer(conn).extend_from_slice(&sent);
    world.run(100);
    assert!(world.shell.queued(conn) > 200_000, "beyond the windows it waits here");
    world.shell.notify_below(conn, 100_000);
    world.read.insert(client.0, Vec::new());
    let held = u32::try_from(64 << 10).unwrap();
    world.clients.release(client, held);
    world.run(2000);
    assert_eq!(world.app.drained, [conn]);
    let read = &world.read[&client.0];
    // What came before it read was held by the client, and is not in its list.
    assert!(sent.ends_with(read) && read.len() >= sent.len() - (64 << 10));
    assert_eq!((world.shell.queued(conn), world.clients.queued(client)), (0, 0));
}

#[test]
fn graceful_close_sends_what_is_queued_and_then_the_end() {
    let sent = bytes(150_000);
    let mut world = World::new(1, |_| {});
    let (client, conn) = world.connect();
    world.read.insert(client.0, Vec::new());
    world.shell.buffer(conn).extend_from_slice(&sent);
    assert_eq!(world.shell.close(conn, How::AfterFlush), Closed::Later);
    world.run(300);
    assert_eq!(world.read[&client.0], sent);
    assert_eq!(world.app.closed.get(&conn.0), Some(&CloseCause::Flushed));
    assert_eq!(world.ended, [client]);
}

#[test]
fn connections_that_hold_most_are_cut_when_memory_runs_out_and_others_go_on() {
    let mut world = World::new(1, |config| config.pool_bytes = 512 << 10);
    let (reader, reader_here) = world.connect();
    world.read.insert(reader.0, Vec::new());
    let slow: Vec<_> = (0..4).map(|_| world.connect()).collect();
    for (_, conn) in &slow {
        world.shell.buffer(*conn).extend_from_slice(&bytes(300_000));
    }
    // The pool is beyond its limit now: nobody new comes in.
    world.run(1);
    let late = world.clients.connect(world.now, SocketAddr::new(address(1), PORT), None).unwrap();
    world.run(50);
    assert!(world.shell.streams.stack().stats().drop_syn_pool_full > 0);
    world.run(300);
    let cut = world.app.closed.values().filter(|cause| **cause == CloseCause::Reset).count();
    assert!(cut > 0 && world.shell.streams.conns.counters.closed_pool_full >= cut as u64);
    assert!(!world.app.closed.contains_key(&reader_here.0), "who reads is not cut");
    world.shell.buffer(reader_here).extend_from_slice(b"still there");
    world.run(3000);
    assert_eq!(world.read[&reader.0], b"still there");
    // The one who came at the wrong time has asked again.
    assert_eq!(world.app.opened.len(), 6, "{late:?} is in");
    assert!(!world.shell.streams.stack().is_exhausted());
}
