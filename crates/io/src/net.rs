//! A shard's connections and the way out of them: the [`Sink`] of the kernel shell.

use core::net::SocketAddr;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};

use tengate_base::{Closed, ConnId, Door, How, Instant, ShardId, Sink};

use crate::buffers::{BufferId, Buffers};
use crate::conn::{Conn, Flags};
use crate::linger::Lingering;
use crate::mailbox::Accepted;
use crate::mesh::Mesh;
use crate::stats::{Counters, ShardStats};
use crate::sys::{self, Epoll};

/// Everything of a shard but its application.
#[derive(Debug)]
pub struct Net {
    shard: ShardId,
    pub(crate) epoll: Epoll,
    pub(crate) conns: Vec<Conn>,
    /// Places to use again.
    free: Vec<u32>,
    /// Places that become free at the end of the turn.
    closed: Vec<u32>,
    live_count: u32,
    connections_max: u32,
    pub(crate) buffers: Buffers,
    pub(crate) lingering: Lingering,
    pub(crate) mesh: Mesh,
    /// Connections to write at the end of the turn.
    dirty: Vec<u32>,
    /// Connections to read or show kept input of.
    pub(crate) ready: Vec<u32>,
    /// Connections the app is to be told something about.
    pub(crate) signals: Vec<u32>,
    /// Takes what is written for connections that are gone.
    scratch: Vec<u8>,
    pub(crate) accepting: Accepting,
    pub(crate) counters: Counters,
    started: Instant,
    /// When the present turn began.
    pub(crate) now: Instant,
}

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
            conns: Vec::new(),
            free: Vec::new(),
            closed: Vec::new(),
            live_count: 0,
            connections_max,
            buffers: Buffers::default(),
            lingering: Lingering::default(),
            mesh,
            dirty: Vec::new(),
            ready: Vec::new(),
            signals: Vec::new(),
            scratch: Vec::new(),
            accepting: Accepting::Yes,
            counters: Counters::default(),
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
        let counters = &self.counters;
        ShardStats {
            shard: self.shard,
            connections: self.live_count,
            lingering: u32::try_from(self.lingering.count()).unwrap_or(u32::MAX),
            accepted: counters.accepted,
            refused_full: counters.refused_full,
            refused_unwatched: counters.refused_unwatched,
            accept_deferred: counters.accept_deferred,
            handed_off: counters.handed_off,
            closed_stash_full: counters.closed_stash_full,
            closed_reset: counters.closed_reset,
            bytes_read: counters.bytes_read,
            bytes_written: counters.bytes_written,
            reads: counters.reads,
            writes: counters.writes,
            writes_blocked: counters.writes_blocked,
            turns: counters.turns,
            sleeps: counters.sleeps,
            busy: counters.busy,
            wall: self.now - self.started,
            queues_used: self.buffers.used_count(),
            pool_bytes: self.buffers.free_bytes(),
            mesh_batches_sent: self.mesh.stats.batches_sent,
            mesh_bytes_sent: self.mesh.stats.bytes_sent,
            mesh_batches_received: self.mesh.stats.batches_received,
            mesh_full: self.mesh.stats.full_count,
            mesh_bytes_dropped: self.mesh.stats.bytes_dropped,
            mesh_staged_bytes: self.mesh.staged_bytes(),
        }
    }

    /// The open connections, by index. Costs two system calls each.
    pub fn connections(&self) -> impl Iterator<Item = ConnSnapshot> {
        (0..).zip(&self.conns).filter_map(|(index, conn)| {
            let stream = conn.stream.as_ref()?;
            Some(ConnSnapshot {
                conn: ConnId(index),
                door: conn.door,
                peer: stream.peer_addr().ok().map(canonical),
                local: stream.local_addr().ok().map(canonical),
                bytes_read: conn.bytes_read,
                bytes_written: conn.bytes_written,
                unconsumed_bytes: conn.stash.map_or(0, |id| self.buffers[id].len()),
                queued_bytes: conn.out.map_or(0, |id| self.buffers[id].len()),
                is_paused: conn.flags.any(Flags::PAUSED),
                is_closing: conn.flags.any(Flags::CLOSING),
            })
        })
    }

    /// Leaves new connections in the kernel's backlog until [`Net::resume_accepting`].
    pub fn pause_accepting(&mut self) {
        self.accepting = Accepting::Paused;
    }

    /// Takes new connections again.
    pub fn resume_accepting(&mut self) {
        self.accepting = Accepting::Yes;
    }

    /// Open connections.
    pub(crate) fn live_count(&self) -> u32 {
        self.live_count
    }

    /// Takes a connection in, or counts why not and closes it.
    pub(crate) fn adopt(&mut self, accepted: Accepted) -> Option<ConnId> {
        if self.live_count >= self.connections_max {
            self.counters.refused_full += 1;
            return None;
        }
        let len = u32::try_from(self.conns.len())
            .expect("at most connections_max places, and those closed this turn");
        let index = self.free.last().copied().unwrap_or(len);
        // Every edge the socket will ever have, so that no later call changes the registration.
        if self.epoll.add(&accepted.stream, SOCKET_EVENTS, Token::Conn(index).encode()).is_err() {
            self.counters.refused_unwatched += 1;
            return None;
        }
        let conn = Conn::new(accepted.stream, accepted.door);
        if self.free.pop().is_some() {
            self.conns[index as usize] = conn;
        } else {
            self.conns.push(conn);
        }
        self.live_count += 1;
        self.counters.accepted += 1;
        Some(ConnId(index))
    }

    /// Has the connection read in this turn or the next.
    pub(crate) fn make_ready(&mut self, index: u32) {
        if self.conns[index as usize].flags.set_new(Flags::READY) {
            self.ready.push(index);
        }
    }

    /// Writes what is queued; returns what remains.
    pub(crate) fn write_out(&mut self, index: u32) -> usize {
        let conn = &mut self.conns[index as usize];
        let (Some(stream), Some(id)) = (&conn.stream, conn.out) else { return 0 };
        let queue = &mut self.buffers[id];
        if !queue.is_empty() && !conn.flags.any(Flags::BLOCKED | Flags::BROKEN) {
            match write(stream, queue.pending(), &mut self.counters) {
                Ok(count) => {
                    conn.bytes_written += count as u64;
                    queue.advance(count, conn.keep());
                    if !queue.is_empty() {
                        conn.flags |= Flags::BLOCKED;
                    }
                }
                Err(Broken) => self.mark_broken(index),
            }
        }
        self.after_write(index, id)
    }

    /// Writes every connection the app wrote to.
    pub(crate) fn write_dirty(&mut self) {
        while let Some(index) = self.dirty.pop() {
            if self.conns[index as usize].flags.take(Flags::DIRTY) {
                self.write_out(index);
            }
        }
    }

    /// Takes a connection out of the table. Its output queue is the caller's to give back.
    pub(crate) fn remove(&mut self, index: u32) -> Option<(TcpStream, Option<BufferId>)> {
        let conn = &mut self.conns[index as usize];
        let stream = conn.stream.take()?;
        conn.flags = Flags::default();
        let out = conn.out.take();
        if let Some(stash) = conn.stash.take() {
            self.buffers.give(stash);
        }
        self.closed.push(index);
        self.live_count -= 1;
        Some((stream, out))
    }

    /// Takes a connection out whose output is all written, and lets its descriptor linger.
    pub(crate) fn remove_gently(&mut self, index: u32) {
        let is_broken = self.conns[index as usize].flags.any(Flags::BROKEN);
        let Some((stream, out)) = self.remove(index) else { return };
        if let Some(id) = out {
            self.buffers.give(id);
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

    /// Notes that the app is to be told of a failed write.
    pub(crate) fn mark_broken(&mut self, index: u32) {
        if self.conns[index as usize].flags.set_new(Flags::BROKEN) {
            self.signals.push(index);
        }
    }

    /// Makes the indexes closed in this turn usable again.
    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.closed);
    }

    /// Whether something waits that must not wait for an event.
    pub(crate) fn has_work(&self) -> bool {
        !self.signals.is_empty()
            || !self.dirty.is_empty()
            || (!self.ready.is_empty() && !self.mesh.is_congested())
    }

    /// Gives an empty queue back and notes what the app is to be told; returns what remains queued.
    fn after_write(&mut self, index: u32, id: BufferId) -> usize {
        let conn = &mut self.conns[index as usize];
        let queue = &mut self.buffers[id];
        let remaining = queue.len();
        if queue.mark.is_some_and(|mark| remaining <= mark) && !conn.flags.any(Flags::BROKEN) {
            queue.mark = None;
            conn.flags |= Flags::DRAINED;
            self.signals.push(index);
        }
        if remaining == 0 {
            conn.out = None;
            self.buffers.give(id);
            if conn.flags.any(Flags::CLOSING) && conn.flags.set_new(Flags::FINISHED) {
                self.signals.push(index);
            }
        }
        remaining
    }

    /// The connection, if the app may still use it.
    fn open(&self, conn: ConnId) -> Option<&Conn> {
        self.conns.get(conn.0 as usize).filter(|conn| conn.stream.is_some())
    }

    /// As [`Net::open`], and not closing: output is welcome.
    fn writable(&mut self, conn: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(conn.0 as usize)?;
        (conn.stream.is_some() && !conn.flags.any(Flags::CLOSING)).then_some(conn)
    }
}

impl Sink for Net {
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8> {
        let ConnId(index) = conn;
        if self.writable(conn).is_none() {
            self.scratch.clear();
            return &mut self.scratch;
        }
        let conn = &mut self.conns[index as usize];
        let id = *conn.out.get_or_insert_with(|| self.buffers.take());
        if !conn.flags.any(Flags::BLOCKED | Flags::BROKEN) && conn.flags.set_new(Flags::DIRTY) {
            self.dirty.push(index);
        }
        &mut self.buffers[id].bytes
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        let ConnId(index) = conn;
        let Some(open) = self.writable(conn) else { return };
        // Frames are kept whole in the queue, or a frame whose front went out could not be given back.
        if open.out.is_some() || open.flags.any(Flags::FRAMES | Flags::BROKEN) {
            self.buffer(conn).extend_from_slice(bytes);
            return;
        }
        let open = &mut self.conns[index as usize];
        let Some(stream) = &open.stream else { return };
        match write(stream, bytes, &mut self.counters) {
            Ok(count) if count == bytes.len() => open.bytes_written += count as u64,
            Ok(count) => {
                open.bytes_written += count as u64;
                open.flags |= Flags::BLOCKED;
                self.buffer(conn).extend_from_slice(&bytes[count..]);
            }
            Err(Broken) => {
                self.mark_broken(index);
                self.buffer(conn).extend_from_slice(bytes);
            }
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.open(conn).and_then(|conn| conn.out).map_or(0, |id| self.buffers[id].len())
    }

    fn flush(&mut self, conn: ConnId) -> usize {
        if self.open(conn).is_none() { 0 } else { self.write_out(conn.0) }
    }

    fn close(&mut self, conn: ConnId, how: How) -> Closed {
        let ConnId(index) = conn;
        if self.open(conn).is_none() {
            return Closed::Now;
        }
        match how {
            How::AtOnce => {
                if let Some((_stream, Some(id))) = self.remove(index) {
                    self.buffers.give(id);
                }
                Closed::Now
            }
            How::AfterFlush => {
                if self.write_out(index) == 0
                    && !self.conns[index as usize].flags.any(Flags::FINISHED)
                {
                    self.remove_gently(index);
                    return Closed::Now;
                }
                let conn = &mut self.conns[index as usize];
                conn.flags |= Flags::CLOSING;
                if let Some(stash) = conn.stash.take() {
                    self.buffers.give(stash);
                }
                Closed::Later
            }
            How::GiveBack => {
                self.mark_broken(index);
                Closed::Later
            }
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if self.open(conn).is_some() {
            self.conns[conn.0 as usize].flags |= Flags::PAUSED;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if self.open(conn).is_none() {
            return;
        }
        let flags = &mut self.conns[conn.0 as usize].flags;
        if flags.take(Flags::PAUSED) {
            *flags |= Flags::RESHOW;
            self.make_ready(conn.0);
        }
    }

    fn notify_below(&mut self, conn: ConnId, bytes: usize) {
        let Some(open) = self.writable(conn) else { return };
        match open.out {
            Some(id) => {
                self.buffers[id].mark = Some(bytes);
                if self.buffers[id].len() <= bytes {
                    self.after_write(conn.0, id);
                }
            }
            None => {
                open.flags |= Flags::DRAINED;
                self.signals.push(conn.0);
            }
        }
    }

    fn keep_frames(&mut self, conn: ConnId) {
        if let Some(open) = self.writable(conn) {
            open.flags |= Flags::FRAMES;
        }
    }

    fn begin_message(&mut self, conn: ConnId) {
        if let Some(id) = self.open(conn).and_then(|conn| conn.out) {
            self.buffers[id].begin_message();
        }
    }

    fn drop_oldest(&mut self, conn: ConnId, bytes: usize) -> usize {
        let queue = self.open(conn).and_then(|conn| conn.out);
        queue.map_or(0, |id| self.buffers[id].drop_oldest(bytes))
    }

    fn mesh(&mut self, to: ShardId) -> &mut Vec<u8> {
        self.mesh.staged_mut(to)
    }
}

/// A connection takes nothing any more.
struct Broken;

/// One write. A full socket is no error, it takes nothing.
fn write(stream: &TcpStream, bytes: &[u8], counters: &mut Counters) -> Result<usize, Broken> {
    loop {
        counters.writes += 1;
        return match sys::write(stream, bytes) {
            Ok(count) => {
                counters.bytes_written += count as u64;
                counters.writes_blocked += u64::from(count < bytes.len());
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                counters.writes_blocked += 1;
                Ok(0)
            }
            Err(_) => Err(Broken),
        };
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
}

impl Token {
    pub(crate) const fn encode(self) -> u64 {
        match self {
            Self::Conn(index) => index as u64,
            Self::Listener(index) => 1 << 32 | index as u64,
            Self::Lingering(serial) => 2 << 32 | serial as u64,
            Self::Wake => 3 << 32,
        }
    }

    pub(crate) const fn decode(token: u64) -> Self {
        let number = (token & 0xffff_ffff) as u32;
        match token >> 32 {
            0 => Self::Conn(number),
            1 => Self::Listener(number),
            2 => Self::Lingering(number),
            _ => Self::Wake,
        }
    }
}

/// Edge-triggered: a socket is registered once and reported once a change.
const SOCKET_EVENTS: u32 = sys::READABLE | sys::WRITABLE | sys::PEER_ENDED | sys::EDGES;
