//! Connections past the kernel: streams of the shard's own TCP/IP stack, which takes the place of sockets.
//!
//! Nothing here knows a device, a clock or a thread: frames and time come in as arguments, so that the simulator drives
//! the same code. What a shell adds is a [`Device`] for frames to go out through and a [`Sink`] that knows its streams
//! ([`StreamSink`]). The order of its turn:
//! 1. [`Streams::begin_turn`];
//! 2. [`handle_frame`] for each frame, [`handle_timeout`] when [`Streams::poll_timeout`] has come, [`handle_ready`];
//! 3. when the application has said all it has to say [`Streams::write_dirty`] and [`handle_signals`], until there are none,
//!    and [`Streams::end_turn`].
//!
//! Cost: 32 bytes for an idle connection, beside the stack's and the application's. Bytes received are shown where they lie in
//! their frame. What the application sends is copied into its connection's buffer and from there into the stack's chunks;
//! what goes to many connections goes into the chunks at once.

mod turn;
mod sink;

#[cfg(test)]
mod tests;

use core::net::SocketAddr;

use tengate_base::{Closed, ConnId, Door, How, Instant, Share, Sink};
use tengate_netstack::{Config, ConfigError, Device, SharedBytes, Stack};

use crate::buffers::BufferId;
use crate::conn::Flags;
use crate::conns::{Broken, Carrier, Conns};
use crate::limits::{EVICTED_MAX, EVICTION_INTERVAL, SHARED_WRITES_PER_SEND};
use crate::net::ConnSnapshot;

pub(crate) use turn::{cut, stop};
pub use turn::{handle_frame, handle_ready, handle_signals, handle_timeout};

/// The streams of one shard. `D` is where frames go.
#[derive(Debug)]
pub struct Streams<D: Device> {
    pub(crate) conns: Conns<Wire<D>>,
    listening: Vec<(u16, Door)>,
    connections_max: u32,
    /// No connection is taken in any more.
    is_stopping: bool,
    /// The device had no room for all that was to go at the end of the last turn.
    is_device_full: bool,
    /// Room for bytes that lie in no frame.
    read_buffer: Vec<u8>,
    /// When connections may be cut for want of memory again.
    next_eviction: Instant,
}

/// A sink some of whose connections are streams.
pub trait StreamSink: Sink {
    /// Where frames go.
    type Device: Device;

    /// The streams. The application's index of one is above those of all other connections.
    fn streams(&mut self) -> &mut Streams<Self::Device>;

    /// Whether no input should be shown now, because what it causes has nowhere to go.
    fn is_congested(&self) -> bool;
}

/// A stack and the device below it: what carries the bytes of streams.
#[derive(Debug)]
pub(crate) struct Wire<D> {
    pub(crate) stack: Stack,
    pub(crate) device: D,
    /// When the present turn began.
    pub(crate) now: Instant,
    /// A connection asks for output again when so little of it is left in the stack.
    low_mark: u32,
    /// Connections whose output the stack did not take for want of memory, with nothing under way that would end.
    starved: Vec<u32>,
    /// What is shared in this turn; a [`Share`] is a place here.
    shares: Vec<SharedBytes>,
    /// Pieces of shared bytes handed to the stack; it wraps.
    shared_writes: u32,
}

/// That a connection is one of the stack's; its index says which.
#[derive(Debug)]
pub(crate) struct Attached;

impl<D: Device> Carrier for Wire<D> {
    type Stream = Attached;

    fn send(&mut self, index: u32, _stream: &Attached, bytes: &[u8]) -> Result<usize, Broken> {
        let taken = self.stack.send(ConnId(index), bytes);
        self.note_taken(index, taken, bytes.len());
        Ok(taken)
    }
}

impl<D: Device> Wire<D> {
    /// Asks to be told when the rest of some output may be tried again.
    fn note_taken(&mut self, index: u32, taken: usize, len: usize) {
        if taken < len {
            let conn = ConnId(index);
            if self.stack.queued(conn) == 0 {
                self.starved.push(index);
            } else {
                self.stack.notify_below(conn, self.low_mark);
            }
        }
    }
}

impl<D: Device> Streams<D> {
    /// Streams of a new stack. `first` is what the application calls the connection with index 0; the ports listened on get
    /// their doors. More than `connections_max` connections are reset at once.
    ///
    /// # Errors
    /// When the stack's configuration contradicts itself.
    pub fn new(
        config: Config,
        listening: Vec<(u16, Door)>,
        device: D,
        first: ConnId,
        connections_max: u32,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let low_mark = config.send_buffer_bytes / 2;
        let mut stack = Stack::new(config, now)?;
        for &(port, door) in &listening {
            stack.listen(port, door);
        }
        let wire = Wire {
            stack,
            device,
            now,
            low_mark,
            starved: Vec::new(),
            shares: Vec::new(),
            shared_writes: 0,
        };
        Ok(Self {
            conns: Conns::new(wire, first.0),
            listening,
            connections_max,
            is_stopping: false,
            is_device_full: false,
            read_buffer: Vec::new(),
            next_eviction: now,
        })
    }

    /// The stack, for its counters and gauges.
    pub const fn stack(&self) -> &Stack {
        &self.conns.carrier.stack
    }

    /// The device.
    pub const fn device(&self) -> &D {
        &self.conns.carrier.device
    }

    /// The device, to send what it has staged, or to wait for it.
    pub const fn device_mut(&mut self) -> &mut D {
        &mut self.conns.carrier.device
    }

    /// A turn begins. Output that waited for memory is tried again when there is some.
    pub fn begin_turn(&mut self, now: Instant) {
        self.conns.carrier.now = now;
        if self.conns.carrier.starved.is_empty() || self.conns.carrier.stack.is_exhausted() {
            return;
        }
        for index in core::mem::take(&mut self.conns.carrier.starved) {
            self.unblock(index);
        }
    }

    /// A turn ends: segments and acknowledgements go to the device. What it has no room for goes in a later turn.
    pub fn end_turn(&mut self) {
        let charged = self.conns.buffers.charged_bytes();
        let Wire { stack, device, now, shares, .. } = &mut self.conns.carrier;
        stack.set_outside_bytes(charged);
        shares.clear();
        // The stack goes on where it stopped.
        self.is_device_full = stack.flush(*now, device).is_err();
    }

    /// Whether something waits for room in the device, of which nothing tells.
    pub const fn is_device_full(&self) -> bool {
        self.is_device_full
    }

    /// When [`handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.conns.carrier.stack.poll_timeout()
    }

    /// Drops what opens connections, so that peers ask again, until [`Streams::resume_accepting`].
    pub fn pause_accepting(&mut self) {
        self.conns.carrier.stack.pause_listening();
    }

    /// Takes new connections again.
    pub fn resume_accepting(&mut self) {
        self.conns.carrier.stack.resume_listening();
    }

    /// Connections the application has.
    pub const fn live_count(&self) -> u32 {
        self.conns.live_count()
    }

    /// Whether something that was sent has not arrived, of connections that the application has or had. Looks at all of them.
    pub(crate) fn has_undelivered(&self) -> bool {
        let stack = self.stack();
        (0..stack.index_count()).any(|index| stack.is_undelivered(ConnId(index)))
    }

    /// Takes no new connection for good: ports answer with a reset.
    pub(crate) fn stop(&mut self) {
        self.is_stopping = true;
        for (port, _) in self.listening.drain(..) {
            self.conns.carrier.stack.unlisten(port);
        }
    }

    /// As [`Sink::close`].
    pub fn close(&mut self, now: Instant, index: u32, how: How) -> Closed {
        if self.conns.get(index).is_none() {
            return Closed::Now;
        }
        match how {
            How::AtOnce => {
                self.remove_gently(now, index);
                Closed::Now
            }
            How::AfterFlush if self.conns.is_written(index) => {
                self.remove_gently(now, index);
                Closed::Now
            }
            How::AfterFlush => {
                self.conns.close_after_flush(index);
                Closed::Later
            }
            How::GiveBack => {
                self.conns.mark_broken(index);
                Closed::Later
            }
        }
    }

    /// The open connections, by index.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = ConnSnapshot> {
        self.conns.iter().map(|(index, conn)| {
            let ends = self.stack().ends(ConnId(index));
            let (peer, local): (Option<SocketAddr>, _) = ends.unzip();
            self.conns.snapshot(index, conn, peer, local)
        })
    }

    /// Takes a connection from the application; what the stack has of it still arrives, and then its end.
    fn remove_gently(&mut self, now: Instant, index: u32) {
        let Some((Attached, out)) = self.conns.remove(index) else { return };
        if let Some(id) = out {
            self.conns.buffers.give(id);
        }
        self.conns.carrier.stack.close(now, ConnId(index));
    }

    /// The stack has room again for a connection.
    fn unblock(&mut self, index: u32) {
        if self.conns.get_mut(index).is_some_and(|conn| conn.flags.take(Flags::BLOCKED)) {
            self.conns.write_out(index);
        }
    }

    /// As [`Sink::share`]: the stack has one copy for all who get it.
    pub fn share(&mut self, bytes: &[u8]) -> Share {
        let Wire { stack, shares, .. } = &mut self.conns.carrier;
        let Some(shared) = stack.share(bytes) else { return Share::NONE };
        shares.push(shared);
        Share(u32::try_from(shares.len() - 1).unwrap_or(u32::MAX))
    }

    /// As [`Sink::write_shared`].
    pub fn write_shared(&mut self, index: u32, bytes: &[u8], share: Share) {
        self.conns.write_by(index, bytes, |wire, stream| {
            let Some(shared) = wire.shares.get(share.0 as usize) else {
                return wire.send(index, stream, bytes);
            };
            let taken = wire.stack.send_shared(ConnId(index), *shared);
            wire.note_taken(index, taken, bytes.len());
            wire.shared_writes = wire.shared_writes.wrapping_add(1);
            if wire.shared_writes.is_multiple_of(SHARED_WRITES_PER_SEND) {
                // What finds no room is tried again at the end of the turn.
                let _full = wire.stack.send_now(wire.now, &mut wire.device);
            }
            Ok(taken)
        });
    }

    /// Writes what the application queued.
    pub fn write_dirty(&mut self) {
        self.conns.write_dirty();
    }

    /// Keeps bytes that the application has not consumed, behind those kept before.
    fn keep(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.conns.get(index) else { return };
        if conn.flags.any(Flags::CLOSING) {
            return;
        }
        let stash = conn.stash;
        let id = stash.unwrap_or_else(|| self.conns.buffers.take());
        self.conns.buffers[id].bytes.extend_from_slice(bytes);
        self.put_stash(index, id);
    }

    /// Gives a connection what is kept of its input, and makes its peer's window smaller by that if it is not read. What is
    /// kept of one that is read is the beginning of a message, which may well become longer than the window.
    fn put_stash(&mut self, index: u32, id: BufferId) {
        let conn = self.conns.place(index);
        conn.stash = Some(id);
        let is_reading = conn.is_reading();
        let queue = &mut self.conns.buffers[id];
        let wanted = if is_reading { 0 } else { queue.len() };
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let held = core::mem::replace(&mut queue.held, wanted);
        self.conns.buffers.charge(id);
        let stack = &mut self.conns.carrier.stack;
        if wanted > held {
            stack.hold(ConnId(index), wanted - held);
        } else if wanted < held {
            stack.release(ConnId(index), held - wanted);
        }
    }

    /// Bytes that a connection has in memory, in both directions.
    fn held_bytes(&self, index: u32) -> usize {
        let conn = self.conns.get(index);
        let len = |id: Option<BufferId>| id.map_or(0, |id| self.conns.buffers[id].len());
        let ours = conn.map_or(0, |conn| len(conn.out) + len(conn.stash));
        ours + self.stack().queued(ConnId(index))
    }

    /// Connections to cut so that others can go on, when there is no memory left: those that have most of it. Looks at all
    /// connections, so not at every turn.
    fn greediest(&mut self) -> Vec<u32> {
        let now = self.conns.carrier.now;
        if !self.stack().is_exhausted() || now < self.next_eviction {
            return Vec::new();
        }
        self.next_eviction = now + EVICTION_INTERVAL;
        let indexes = 0..self.stack().index_count();
        let most = indexes.clone().map(|index| self.held_bytes(index)).max().unwrap_or(0);
        if most == 0 {
            return Vec::new();
        }
        indexes.filter(|index| self.held_bytes(*index) > most / 2).take(EVICTED_MAX).collect()
    }
}
