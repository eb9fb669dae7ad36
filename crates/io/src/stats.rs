//! What a shard counts.

use core::ops::AddAssign;
use core::time::Duration;

use tengate_base::ShardId;

/// Counters since the shard's start, and gauges.
#[derive(Clone, Copy, Debug)]
pub struct ShardStats {
    /// Which shard.
    pub shard: ShardId,
    /// Open connections.
    pub connections: u32,
    /// Descriptors that are over for the app and wait for their peer to read the last message.
    pub lingering: u32,
    /// Connections this shard took in.
    pub accepted: u64,
    /// Sockets closed at once because the shard had `connections_max`, or was stopping.
    pub refused_full: u64,
    /// Sockets closed because the kernel would not watch them.
    pub refused_unwatched: u64,
    /// Accepts put off because descriptors or kernel memory ran out.
    pub accept_deferred: u64,
    /// Sockets accepted here for other shards.
    pub handed_off: u64,
    /// Connections closed because the app left too many bytes unconsumed.
    pub closed_stash_full: u64,
    /// Connections closed because they wanted memory when the pool of streams had none left.
    pub closed_pool_full: u64,
    /// Connections that failed (reset, timed out).
    pub closed_reset: u64,
    /// Bytes read from connections.
    pub bytes_read: u64,
    /// Bytes written to connections.
    pub bytes_written: u64,
    /// Calls of read(2) and its like, and pieces of streams received.
    pub reads: u64,
    /// Calls of write(2) and its like, and pieces of streams sent.
    pub writes: u64,
    /// Writes the kernel or the stack did not take whole.
    pub writes_blocked: u64,
    /// Turns of the reactor.
    pub turns: u64,
    /// Turns that began with a sleep.
    pub sleeps: u64,
    /// Time spent in turns, not asleep and not yielding; where shards poll, in turns that found something. Its share of `wall` is how busy the shard is.
    pub busy: Duration,
    /// Time since the shard's start.
    pub wall: Duration,
    /// Queues in use, for unconsumed input or unwritten output.
    pub queues_used: usize,
    /// Capacity of the unused buffers in the pool.
    pub pool_bytes: usize,
    /// Batches sent to other shards.
    pub mesh_batches_sent: u64,
    /// Bytes of those batches.
    pub mesh_bytes_sent: u64,
    /// Batches received from other shards.
    pub mesh_batches_received: u64,
    /// Turns that found a ring to another shard full.
    pub mesh_full: u64,
    /// Bytes dropped because the shard they were for has ended.
    pub mesh_bytes_dropped: u64,
    /// Bytes that wait for room in a ring.
    pub mesh_staged_bytes: usize,
}

/// What is counted of connections of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: u64,
    pub(crate) refused_full: u64,
    pub(crate) closed_stash_full: u64,
    pub(crate) closed_pool_full: u64,
    pub(crate) closed_reset: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) writes_blocked: u64,
}

impl Counters {
    /// `taken` of `len` bytes were written.
    pub(crate) fn note_write(&mut self, taken: usize, len: usize) {
        self.writes += 1;
        self.bytes_written += taken as u64;
        self.writes_blocked += u64::from(taken < len);
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused_full += other.refused_full;
        self.closed_stash_full += other.closed_stash_full;
        self.closed_pool_full += other.closed_pool_full;
        self.closed_reset += other.closed_reset;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.reads += other.reads;
        self.writes += other.writes;
        self.writes_blocked += other.writes_blocked;
    }
}

/// What is counted of the shard itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    pub(crate) refused_unwatched: u64,
    pub(crate) accept_deferred: u64,
    pub(crate) handed_off: u64,
    pub(crate) turns: u64,
    pub(crate) sleeps: u64,
    pub(crate) busy: Duration,
}
