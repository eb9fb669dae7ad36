//! A server process: its shards in a shell, and which connections they have.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

use tengate_base::{App, CloseCause, ConnId, Door, Instant, ShardId};

use crate::network::{Conn, Server};
use crate::shell::{Handed, Place, Shell};

/// A running server.
#[derive(Debug)]
pub(crate) struct Process<A> {
    /// Which one.
    server: Server,
    /// Its shards.
    pub(crate) shell: Shell<A>,
    /// Open connections, by shard: indexes into the world's.
    conns: Vec<BTreeSet<usize>>,
    /// Open streams, by shard: the same.
    streams: Vec<BTreeMap<ConnId, usize>>,
    turns: Turns,
}

/// When a process runs.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Shards whose next turn is planned already.
    pub(crate) planned: Vec<bool>,
    /// When it is woken for a time-out.
    pub(crate) wake: Option<Instant>,
    /// It is not scheduled before this.
    pub(crate) stalled_until: Instant,
}

/// What a server did on one connection.
#[derive(Debug)]
pub(crate) struct Emitted {
    /// The connection.
    pub(crate) conn: usize,
    /// What it wrote.
    pub(crate) bytes: Vec<u8>,
    /// Whether it has closed it, or it was closed.
    pub(crate) closed: bool,
}

impl<A: App> Process<A> {
    /// A process that starts with these shards.
    pub(crate) fn new(server: Server, apps: Vec<A>, now: Instant) -> Self {
        let count = apps.len();
        let mut shell = Shell::new(apps);
        shell.set_now(now);
        let turns = Turns { planned: vec![false; count], wake: None, stalled_until: now };
        let (conns, streams) = (vec![BTreeSet::new(); count], vec![BTreeMap::new(); count]);
        Self { server, shell, conns, streams, turns }
    }
}

/// A process of any kind, as the network sees it. Every call moves its clock.
pub(crate) trait Running {
    /// Its shards.
    fn shards(&self) -> Vec<ShardId>;
    /// When it runs.
    fn turns(&mut self) -> &mut Turns;
    /// A connection, by its index among the world's, comes to a shard.
    fn accept(
        &mut self,
        now: Instant,
        shard: ShardId,
        door: Door,
        peer: SocketAddr,
        conn: usize,
    ) -> Place;
    /// From the next write on a peer takes only so many bytes.
    fn limit(&mut self, place: Place, window: usize);
    /// A peer takes more bytes.
    fn widen(&mut self, place: Place, more: usize);
    /// Bytes arrived.
    fn give(&mut self, now: Instant, place: Place, bytes: &[u8]);
    /// A connection ended.
    fn cut(&mut self, now: Instant, place: Place, cause: CloseCause);
    /// One turn of a shard; returns to which shards a batch left.
    fn step(&mut self, now: Instant, shard: ShardId) -> Vec<ShardId>;
    /// A batch reaches a shard.
    fn cross(&mut self, now: Instant, from: ShardId, to: ShardId);
    /// What a shard wrote and closed since this was asked last.
    fn take_emitted(&mut self, shard: ShardId, all: &[Conn]) -> Vec<Emitted>;
    /// When a shard wants to be called next.
    fn next_timeout(&self) -> Option<Instant>;
    /// Whether what arrived on a connection was not read yet.
    fn has_unread(&mut self, place: Place) -> bool;
    /// Whether a connection is read, or is gone.
    fn is_read(&mut self, place: Place) -> bool;
    /// A stream, by its index among the world's, has come to a shard.
    fn note_stream(&mut self, shard: ShardId, stream: ConnId, conn: usize);
    /// Streams that the app of a shard has no more, since this was asked last.
    fn take_ended(&mut self, shard: ShardId) -> Vec<usize>;
    /// A frame reaches a shard.
    fn receive_frame(&mut self, shard: ShardId, frame: Vec<u8>, handed: Handed);
    /// Whether a shard has no room for what bytes of streams cause.
    fn set_congested(&mut self, shard: ShardId, is_congested: bool);
    /// Frames that a shard sent since this was asked last.
    fn take_frames(&mut self, shard: ShardId) -> Vec<Vec<u8>>;
    /// Frames that came to a shard's queue and belong to others, by owner.
    fn take_handed(&mut self, shard: ShardId) -> Vec<(ShardId, Vec<Vec<u8>>)>;
    /// Whether a shard wants a turn although nothing comes.
    fn is_restless(&self, shard: ShardId) -> bool;
}

impl<A: App> Running for Process<A> {
    fn shards(&self) -> Vec<ShardId> {
        (0..self.conns.len()).map(|at| ShardId(u16::try_from(at).expect("few shards"))).collect()
    }

    fn turns(&mut self) -> &mut Turns {
        &mut self.turns
    }

    fn accept(
        &mut self,
        now: Instant,
        shard: ShardId,
        door: Door,
        peer: SocketAddr,
        conn: usize,
    ) -> Place {
        self.shell.set_now(now);
        self.conns[usize::from(shard.0)].insert(conn);
        self.shell.accept(shard, door, peer, 1)
    }

    fn limit(&mut self, place: Place, window: usize) {
        self.shell.limit(place, window);
    }

    fn widen(&mut self, place: Place, more: usize) {
        self.shell.widen(place, more);
    }

    fn give(&mut self, now: Instant, place: Place, bytes: &[u8]) {
        self.shell.set_now(now);
        self.shell.give(place, bytes);
    }

    fn cut(&mut self, now: Instant, place: Place, cause: CloseCause) {
        self.shell.set_now(now);
        self.shell.cut(place, cause);
    }

    fn step(&mut self, now: Instant, shard: ShardId) -> Vec<ShardId> {
        self.shell.set_now(now);
        self.turns.planned[usize::from(shard.0)] = false;
        self.shell.step(shard)
    }

    fn cross(&mut self, now: Instant, from: ShardId, to: ShardId) {
        self.shell.set_now(now);
        self.shell.cross(from, to);
    }

    fn take_emitted(&mut self, shard: ShardId, all: &[Conn]) -> Vec<Emitted> {
        let mut emitted = Vec::new();
        for conn in self.conns[usize::from(shard.0)].clone() {
            let place = all[conn].place_in(self.server);
            let bytes = self.shell.receive(place);
            let closed = !self.shell.is_open(place);
            if closed {
                self.conns[usize::from(shard.0)].remove(&conn);
            }
            if closed || !bytes.is_empty() {
                emitted.push(Emitted { conn, bytes, closed });
            }
        }
        emitted
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.shell.next_timeout()
    }

    fn has_unread(&mut self, place: Place) -> bool {
        self.shell.has_unread(place)
    }

    fn is_read(&mut self, place: Place) -> bool {
        !self.shell.is_open(place) || self.shell.is_read(place)
    }

    fn note_stream(&mut self, shard: ShardId, stream: ConnId, conn: usize) {
        self.streams[usize::from(shard.0)].insert(stream, conn);
    }

    fn take_ended(&mut self, shard: ShardId) -> Vec<usize> {
        let streams = &mut self.streams[usize::from(shard.0)];
        let is_gone = |stream: &ConnId| !self.shell.is_open(Place::of_stream(shard, *stream));
        let gone: Vec<ConnId> = streams.keys().copied().filter(is_gone).collect();
        gone.into_iter().filter_map(|stream| streams.remove(&stream)).collect()
    }

    fn receive_frame(&mut self, shard: ShardId, frame: Vec<u8>, handed: Handed) {
        self.shell.receive_frame(shard, frame, handed);
    }

    fn set_congested(&mut self, shard: ShardId, is_congested: bool) {
        self.shell.set_congested(shard, is_congested);
    }

    fn take_frames(&mut self, shard: ShardId) -> Vec<Vec<u8>> {
        self.shell.take_frames(shard)
    }

    fn take_handed(&mut self, shard: ShardId) -> Vec<(ShardId, Vec<Vec<u8>>)> {
        self.shell.take_handed(shard)
    }

    fn is_restless(&self, shard: ShardId) -> bool {
        self.shell.is_restless(shard)
    }
}
