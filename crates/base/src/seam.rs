//! The seam between a core (decides) and a shell (moves bytes).
//!
//! A shell (kernel sockets, a bypass stack, the simulator) owns connections, their buffers and the clock. It feeds an
//! [`App`] and gives it a [`Sink`] to answer through. One `App` serves one shard; nothing here is shared between threads.
//!
//! Order of a turn: the shell feeds what is ready (opens, bytes, closes, mesh batches, an expired timeout), then flushes
//! every buffer the app wrote to (one write a connection a turn) and sends each mesh batch.

use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

use crate::Instant;

/// A connection of this shard: an index the shell chooses.
///
/// Indexes are small and dense, so an app may use them as the index of its own table. An index is free for reuse as soon
/// as `handle_closed` returned, or `Sink::close` answered [`Closed::Now`]; the shell does not hand it out again before the end of that turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// A shard of this process, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// The listener a connection came through: its index in the shell's list of listeners, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door(pub u16);

/// Bytes announced to a shell for many connections ([`Sink::share`]): what the shell makes of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// The shell copies the bytes for each connection.
    pub const NONE: Self = Self(u32::MAX);
}

impl Default for Share {
    fn default() -> Self {
        Self::NONE
    }
}

/// What is known of a connection when it opens.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its index from now on.
    pub conn: ConnId,
    /// The listener it came through.
    pub door: Door,
    /// The other side.
    pub peer: SocketAddr,
    /// The port it came to.
    pub local_port: u16,
}

/// Why a connection ended without the app asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer finished its stream in order (FIN).
    Peer,
    /// The peer or the network cut it (reset, unreachable, timed out).
    Reset,
    /// The app's own graceful close has finished: everything queued was written.
    Flushed,
    /// The shell gives it up (shutdown, out of memory or descriptors).
    Shell,
}

/// How the app wants a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Stop reading, write what is queued, then close (PHP's `close`).
    AfterFlush,
    /// Drop what is queued and close (PHP's `destroy`).
    AtOnce,
    /// Stop reading and writing, and hand back what is queued: `handle_closed` follows with it, in this turn, as if the
    /// network had cut the connection.
    GiveBack,
}

/// What [`Sink::close`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The connection is gone; `handle_closed` will not be called for it.
    Now,
    /// Bytes are still queued; `handle_closed` follows, with [`CloseCause::Flushed`] when all went out, and with
    /// [`CloseCause::Reset`] after [`How::GiveBack`].
    Later,
}

/// One shard's application: the gateway, a benchmark's echo, the dispatcher.
pub trait App {
    /// A connection was accepted.
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink);

    /// Bytes arrived. `bytes` starts with what an earlier call left unconsumed. Returns how many leading bytes were
    /// consumed; the shell keeps the rest and shows it again, with more, later (or after [`Sink::resume`]).
    /// The app may change `bytes` in place (websocket unmasking), but only within what it reports as consumed.
    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize;

    /// The connection is gone. `unsent` is what was queued and not written; for a connection marked with
    /// [`Sink::keep_frames`] it starts at the first frame of which not every byte was written.
    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        cause: CloseCause,
        unsent: &[u8],
        sink: &mut impl Sink,
    );

    /// The queue of a connection fell to the mark given to [`Sink::notify_below`].
    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink);

    /// A batch from another shard, exactly the bytes that shard appended to its [`Sink::mesh`] buffer.
    fn handle_mesh(&mut self, now: Instant, from: ShardId, batch: &mut [u8], sink: &mut impl Sink);

    /// The instant of [`App::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink);

    /// When the app next wants `handle_timeout`, if ever.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// Where an app puts its answers. Calls with a [`ConnId`] that is gone have no effect.
pub trait Sink {
    /// The connection's output buffer, to append to; written at the end of the turn.
    /// A gone connection yields a scratch buffer whose content is dropped.
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8>;

    /// Sends bytes that many connections get (fan-out): written at once when nothing is queued, else appended.
    fn write(&mut self, conn: ConnId, bytes: &[u8]);

    /// Announces bytes that many connections get, for [`Sink::write_shared`] in this turn. A shell that can sends one copy
    /// to all of them.
    fn share(&mut self, bytes: &[u8]) -> Share {
        let _ = bytes;
        Share::NONE
    }

    /// As [`Sink::write`], for the bytes that `share` was given for.
    fn write_shared(&mut self, conn: ConnId, bytes: &[u8], share: Share) {
        let _ = share;
        self.write(conn, bytes);
    }

    /// Bytes queued on the connection and not written yet.
    fn queued(&self, conn: ConnId) -> usize;

    /// Tries to write what is queued now; returns what remains queued. Never calls back into the app.
    fn flush(&mut self, conn: ConnId) -> usize;

    /// Closes a connection. See [`How`] and [`Closed`].
    fn close(&mut self, conn: ConnId, how: How) -> Closed;

    /// Stops reading a connection; bytes already handed over but not consumed are kept.
    fn pause(&mut self, conn: ConnId);

    /// Reads a connection again; kept bytes are shown again, in this turn or a later one.
    fn resume(&mut self, conn: ConnId);

    /// Asks for one [`App::handle_drained`] when at most `bytes` are queued on `conn`.
    fn notify_below(&mut self, conn: ConnId, bytes: usize);

    /// Says that this connection's output is a sequence of frames that begin with their own total length (u32,
    /// big-endian), so that `handle_closed` can give whole frames back.
    fn keep_frames(&mut self, conn: ConnId);

    /// Says that a new message begins behind what is queued, for [`Sink::drop_oldest`]. It ends where the next one begins.
    /// While nothing is queued this has no effect: such a message is being written already.
    fn begin_message(&mut self, conn: ConnId);

    /// Drops queued messages of which no byte is written, the oldest first, until at most `bytes` are queued or none is
    /// left. What was queued before the first [`Sink::begin_message`] stays. Returns how many were dropped.
    fn drop_oldest(&mut self, conn: ConnId, bytes: usize) -> usize;

    /// The batch that goes to shard `to` at the end of this turn, to append to. Never this shard itself.
    fn mesh(&mut self, to: ShardId) -> &mut Vec<u8>;
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
