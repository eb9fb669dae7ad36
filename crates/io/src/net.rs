//! A shard's connections and the way out of them: the [`Sink`] of the shell.

use core::net::SocketAddr;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};

use tengate_base::{Closed, ConnId, Door, How, Instant, ShardId, Share, Sink};

use crate::buffers::BufferId;
use crate::bypass::{Queue, QueueCounts, StackStats, SteeringStats};
use crate::conn::{Conn, Flags};
use crate::conns::{Broken, Carrier, Conns};
use crate::limits::SOCKETS_MAX;
use crate::linger::Lingering;
use crate::mailbox::Accepted;
use crate::mesh::Mesh;
use crate::stats::{ShardStats, Turns};
use crate::streams::{StreamSink, Streams};
use crate::sys::{self, Epoll};

/// Everything of a shard but its application.
#[derive(Debug)]
pub struct Net {
    shard: ShardId,
    pub(crate) epoll: Epoll,
    /// Connections of the kernel's.
    pub(crate) sockets: Conns<Sockets>,
    /// Connections past the kernel, on a data path that has them. The application's indexes for them are above those of sockets.
    pub(crate) streams: Option<Box<Streams<Queue>>>,
    /// Socket places to use again.
    free: Vec<u32>,
    /// Socket places that become free at the end of the turn.
    closed: Vec<u32>,
    connections_max: u32,
    pub(crate) lingering: Lingering,
    pub(crate) mesh: Mesh,
    pub(crate) accepting: Accepting,
    pub(crate) turns: Turns,
    /// As of the last turn.
    pub(crate) steering: SteeringStats,
    started: Instant,
    /// When the present turn began.
    pub(crate) now: Instant,
}

/// The kernel's sockets.
#[derive(Debug)]
pub(crate) struct Sockets;

/// Whether new connections are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepting {
    Yes,
    /// Not before an instant, for lack of descriptors or memory.
    After(Instant),
    /// Not until the app says so.
    Paused,
}

/// One connection, for an operator's list.
#[derive(Clone, Copy, Debug)]
pub struct ConnSnapshot {
    /// Its index.
    pub conn: ConnId,
    /// The listener it came through.
    pub door: Door,
    /// The other side, unless it is gone already.
    pub peer: Option<SocketAddr>,
    /// Our side.
    pub local: Option<SocketAddr>,
    /// Bytes read from it.
    pub bytes_read: u64,
    /// Bytes written to it.
    pub bytes_written: u64,
    /// Bytes read and not consumed.
    pub unconsumed_bytes: usize,
    /// Bytes queued and not written.
    pub queued_bytes: usize,
    /// Whether the app paused it.
    pub is_paused: bool,
    /// Whether it closes when its queue is written.
    pub is_closing: bool,
}

impl Net {
    pub(crate) fn new(
        shard: ShardId,
        epoll: Epoll,
        mesh: Mesh,
        connections_max: u32,
        started: Instant,
    ) -> Self {
        Self {
            shard,
            epoll,
            sockets: Conns::new(Sockets, 0),
            streams: None,
            free: Vec::new(),
            closed: Vec::new(),
            connections_max,
            lingering: Lingering::default(),
            mesh,
            accepting: Accepting::Yes,
            turns: Turns::default(),
            steering: SteeringStats::default(),
            started,
            now: started,
        }
    }

    /// This shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Counters and gauges of this shard.
    pub fn stats(&self) -> ShardStats {
        let mut counters = self.sockets.counters;
        let mut queues_used = self.sockets.buffers.used_count();
        let mut pool_bytes = self.sockets.buffers.free_bytes();
        if let Some(streams) = &self.streams {
            counters += streams.conns.counters;
            queues_used += streams.conns.buffers.used_count();
            pool_bytes += streams.conns.buffers.free_bytes();
        }
        ShardStats {
            shard: self.shard,
            connections: self.live_count(),
            lingering: u32::try_from(self.lingering.count()).unwrap_or(u32::MAX),
            accepted: counters.accepted,
            refused_full: counters.refused_full,
            refused_unwatched: self.turns.refused_unwatched,
            accept_deferred: self.turns.accept_deferred,
            handed_off: self.turns.handed_off,
            closed_stash_full: counters.closed_stash_full,
            closed_pool_full: counters.closed_pool_full,
            closed_reset: counters.closed_reset,
            bytes_read: counters.bytes_read,
            bytes_written: counters.bytes_written,
            reads: counters.reads,
            writes: counters.writes,
            writes_blocked: counters.writes_blocked,
            turns: self.turns.turns,
            sleeps: self.turns.sleeps,
            busy: self.turns.busy,
            wall: self.now - self.started,
            queues_used,
            pool_bytes,
            mesh_batches_sent: self.mesh.stats.batches_sent,
            mesh_bytes_sent: self.mesh.stats.bytes_sent,
            mesh_batches_received: self.mesh.stats.batches_received,
            mesh_full: self.mesh.stats.full_count,
            mesh_bytes_dropped: self.mesh.stats.bytes_dropped,
            mesh_staged_bytes: self.mesh.staged_bytes(),
        }
    }

    /// Counters and gauges of the shard's own TCP/IP stack and of the queue below it; `None` on the kernel data path.
    pub fn stack_stats(&self) -> Option<StackStats> {
        let streams = self.streams.as_deref()?;
        let queue = QueueCounts {
            steered: self.steering.steered,
            dropped_steered: self.steering.dropped,
            ..streams.device().counts()
        };
        let stack = streams.stack();
        Some(StackStats { stack: stack.stats().clone(), gauges: stack.gauges(), queue })
    }

    /// The open connections, by index. One of a socket costs two system calls.
    pub fn connections(&self) -> impl Iterator<Item = ConnSnapshot> {
        let sockets = self.sockets.iter().map(|(index, conn)| {
            let stream = conn.stream.as_ref();
            let peer = stream.and_then(|stream| stream.peer_addr().ok()).map(canonical);
            let local = stream.and_then(|stream| stream.local_addr().ok()).map(canonical);
            self.sockets.snapshot(index, conn, peer, local)
        });
        let streams = self.streams.as_deref().into_iter().flat_map(|streams| streams.snapshots());
        sockets.chain(streams)
    }

    /// Takes no new connections until [`Net::resume_accepting`]: they wait in the kernel's backlog, or their peers ask again.
    pub fn pause_accepting(&mut self) {
        self.accepting = Accepting::Paused;
        if let Some(streams) = &mut self.streams {
            streams.pause_accepting();
        }
    }

    /// Takes new connections again.
    pub fn resume_accepting(&mut self) {
        self.accepting = Accepting::Yes;
        if let Some(streams) = &mut self.streams {
            streams.resume_accepting();
        }
    }

    /// Open connections.
    pub(crate) fn live_count(&self) -> u32 {
        let streams = self.streams.as_ref().map_or(0, |streams| streams.conns.live_count());
        self.sockets.live_count() + streams
    }

    /// Takes a connection in, or counts why not and closes it.
    pub(crate) fn adopt(&mut self, accepted: Accepted) -> Option<ConnId> {
        let sockets_max = if self.streams.is_some() { SOCKETS_MAX } else { u32::MAX };
        if self.sockets.live_count() >= self.connections_max.min(sockets_max) {
            self.sockets.counters.refused_full += 1;
            return None;
        }
        let index = self.free.last().copied().unwrap_or_else(|| self.sockets.len());
        // Every edge the socket will ever have, so that no later call changes the registration.
        if self.epoll.add(&accepted.stream, SOCKET_EVENTS, Token::Conn(index).encode()).is_err() {
            self.turns.refused_unwatched += 1;
            return None;
        }
        self.free.pop();
        self.sockets.insert(index, Conn::new(accepted.stream, accepted.door));
        Some(self.sockets.conn_id(index))
    }

    /// Takes a socket out of the table. Its output queue is the caller's to give back.
    pub(crate) fn remove(&mut self, index: u32) -> Option<(TcpStream, Option<BufferId>)> {
        let removed = self.sockets.remove(index)?;
        self.closed.push(index);
        Some(removed)
    }

    /// Takes a socket out whose output is all written, and lets its descriptor linger.
    pub(crate) fn remove_gently(&mut self, index: u32) {
        let is_broken = self.sockets.get(index).is_some_and(|conn| conn.flags.any(Flags::BROKEN));
        let Some((stream, out)) = self.remove(index) else { return };
        if let Some(id) = out {
            self.sockets.buffers.give(id);
        }
        // A failure means that there is no peer left to be gentle with; the descriptor closes here.
        if is_broken || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let token = Token::Lingering(self.lingering.next_serial());
        if self.epoll.modify(&stream, SOCKET_EVENTS, token.encode()).is_ok() {
            self.lingering.push(stream, self.now);
        }
    }

    /// Writes every connection the app wrote to.
    pub(crate) fn write_dirty(&mut self) {
        self.sockets.write_dirty();
        if let Some(streams) = &mut self.streams {
            streams.write_dirty();
        }
    }

    /// Makes the indexes closed in this turn usable again.
    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.closed);
    }

    /// Whether something waits that must not wait for an event.
    pub(crate) fn has_work(&self) -> bool {
        let is_reading = !self.mesh.is_congested();
        let streams = self.streams.as_deref().is_some_and(|streams| {
            streams.conns.has_output_work() || (is_reading && !streams.conns.ready.is_empty())
        });
        self.sockets.has_output_work() || (is_reading && !self.sockets.ready.is_empty()) || streams
    }

    /// The stream that the application calls `conn`, if it is one.
    fn stream_of(&mut self, conn: ConnId) -> Option<(&mut Streams<Queue>, u32)> {
        let index = conn.0.checked_sub(SOCKETS_MAX)?;
        Some((self.streams.as_deref_mut()?, index))
    }

    fn close_socket(&mut self, index: u32, how: How) -> Closed {
        if self.sockets.get(index).is_none() {
            return Closed::Now;
        }
        match how {
            How::AtOnce => {
                if let Some((_stream, Some(id))) = self.remove(index) {
                    self.sockets.buffers.give(id);
                }
                Closed::Now
            }
            How::AfterFlush => {
                if self.sockets.is_written(index) {
                    self.remove_gently(index);
                    return Closed::Now;
                }
                self.sockets.close_after_flush(index);
                Closed::Later
            }
            How::GiveBack => {
                self.sockets.mark_broken(index);
                Closed::Later
            }
        }
    }
}

/// Carries out `$call` on the table that `$conn` is of.
macro_rules! on_conns {
    ($net:ident, $conn:ident, |$conns:ident, $index:ident| $call:expr) => {
        if let Some((streams, $index)) = $net.stream_of($conn) {
            let $conns = &mut streams.conns;
            $call
        } else {
            let ($conns, $index) = (&mut $net.sockets, $conn.0);
            $call
        }
    };
}

impl Sink for Net {
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8> {
        // Not by the macro: a borrow that is returned from one branch only would last into the other.
        if conn.0 >= SOCKETS_MAX && self.streams.is_some() {
            let streams = self.streams.as_deref_mut().expect("there are some");
            return streams.conns.buffer(conn.0 - SOCKETS_MAX);
        }
        self.sockets.buffer(conn.0)
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        on_conns!(self, conn, |conns, index| conns.write(index, bytes));
    }

    fn share(&mut self, bytes: &[u8]) -> Share {
        self.streams.as_mut().map_or(Share::NONE, |streams| streams.share(bytes))
    }

    fn write_shared(&mut self, conn: ConnId, bytes: &[u8], share: Share) {
        match self.stream_of(conn) {
            Some((streams, index)) => streams.write_shared(index, bytes, share),
            None => self.sockets.write(conn.0, bytes),
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        match (conn.0.checked_sub(SOCKETS_MAX), &self.streams) {
            (Some(index), Some(streams)) => streams.conns.queued(index),
            _ => self.sockets.queued(conn.0),
        }
    }

    fn flush(&mut self, conn: ConnId) -> usize {
        on_conns!(self, conn, |conns, index| conns.write_out(index))
    }

    fn close(&mut self, conn: ConnId, how: How) -> Closed {
        let now = self.now;
        match self.stream_of(conn) {
            Some((streams, index)) => streams.close(now, index, how),
            None => self.close_socket(conn.0, how),
        }
    }

    fn pause(&mut self, conn: ConnId) {
        on_conns!(self, conn, |conns, index| conns.pause(index));
    }

    fn resume(&mut self, conn: ConnId) {
        on_conns!(self, conn, |conns, index| conns.resume(index));
    }

    fn notify_below(&mut self, conn: ConnId, bytes: usize) {
        on_conns!(self, conn, |conns, index| conns.notify_below(index, bytes));
    }

    fn keep_frames(&mut self, conn: ConnId) {
        on_conns!(self, conn, |conns, index| conns.keep_frames(index));
    }

    fn begin_message(&mut self, conn: ConnId) {
        on_conns!(self, conn, |conns, index| conns.begin_message(index));
    }

    fn drop_oldest(&mut self, conn: ConnId, bytes: usize) -> usize {
        on_conns!(self, conn, |conns, index| conns.drop_oldest(index, bytes))
    }

    fn mesh(&mut self, to: ShardId) -> &mut Vec<u8> {
        self.mesh.staged_mut(to)
    }
}

impl StreamSink for Net {
    type Device = Queue;

    fn streams(&mut self) -> &mut Streams<Queue> {
        self.streams.as_deref_mut().expect("asked for on data paths that have streams")
    }

    fn is_congested(&self) -> bool {
        self.mesh.is_congested()
    }
}

impl Carrier for Sockets {
    type Stream = TcpStream;

    /// One write. A full socket is no error, it takes nothing.
    fn send(&mut self, _index: u32, stream: &TcpStream, bytes: &[u8]) -> Result<usize, Broken> {
        loop {
            return match sys::write(stream, bytes) {
                Ok(count) => Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                Err(_) => Err(Broken),
            };
        }
    }
}

impl<C: Carrier> Conns<C> {
    /// What an operator sees of a connection.
    pub(crate) fn snapshot(
        &self,
        index: u32,
        conn: &Conn<C::Stream>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> ConnSnapshot {
        ConnSnapshot {
            conn: self.conn_id(index),
            door: conn.door,
            peer,
            local,
            bytes_read: conn.bytes_read,
            bytes_written: conn.bytes_written,
            unconsumed_bytes: conn.stash.map_or(0, |id| self.buffers[id].len()),
            queued_bytes: conn.out.map_or(0, |id| self.buffers[id].len()),
            is_paused: conn.flags.any(Flags::PAUSED),
            is_closing: conn.flags.any(Flags::CLOSING),
        }
    }
}

/// Shows an IPv4 peer of an IPv6 listener as IPv4, as [`sys::accept`] does.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// What an epoll event is about, packed into its 64 bits of user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Conn(u32),
    Listener(u32),
    Lingering(u32),
    Wake,
    /// Frames have arrived.
    Queue,
}

impl Token {
    pub(crate) const fn encode(self) -> u64 {
        match self {
            Self::Conn(index) => index as u64,
            Self::Listener(index) => 1 << 32 | index as u64,
            Self::Lingering(serial) => 2 << 32 | serial as u64,
            Self::Wake => 3 << 32,
            Self::Queue => 4 << 32,
        }
    }

    pub(crate) const fn decode(token: u64) -> Self {
        let number = (token & 0xffff_ffff) as u32;
        match token >> 32 {
            0 => Self::Conn(number),
            1 => Self::Listener(number),
            2 => Self::Lingering(number),
            3 => Self::Wake,
            _ => Self::Queue,
        }
    }
}

/// Edge-triggered: a socket is registered once and reported once a change.
const SOCKET_EVENTS: u32 = sys::READABLE | sys::WRITABLE | sys::PEER_ENDED | sys::EDGES;
