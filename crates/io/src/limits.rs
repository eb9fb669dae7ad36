//! Every limit of the kernel shell, in one place.

use core::time::Duration;

/// Bytes one read may take from a socket; the size of a shard's shared read buffer.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Reads of one connection in one turn, before others get theirs.
pub(crate) const READS_PER_TURN: u32 = 4;
/// Room a kept-bytes buffer has at least before a read appends to it.
pub(crate) const STASH_ROOM_BYTES: usize = 1 << 10;
/// Unconsumed bytes of one connection; past it the shell closes it. Far above any protocol limit of the applications.
pub(crate) const STASH_BYTES_MAX: usize = 64 << 20;
/// Sockets one listener accepts in one turn.
pub(crate) const ACCEPTS_PER_TURN: u32 = 64;
/// Rest after an accept that failed for lack of descriptors or memory.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Hosts whose shard is remembered for a listener that deals by host.
pub(crate) const HOSTS_MAX: usize = 4096;
/// Events one wait takes from epoll.
pub(crate) const EVENTS_PER_TURN: usize = 1024;
/// First capacity of a pooled buffer.
pub(crate) const BUFFER_BYTES: usize = 2 << 10;
/// Largest buffer worth keeping in the pool.
pub(crate) const BUFFER_KEPT_BYTES_MAX: usize = 256 << 10;
/// Capacity of all unused buffers of a shard's pool together.
pub(crate) const POOL_BYTES_MAX: usize = 16 << 20;
/// Descriptors a shard keeps half-closed, so that a last message is not destroyed by a reset.
pub(crate) const LINGERING_MAX: usize = 1024;
/// How long such a descriptor waits for its peer's end.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// Reads that discard what a lingering peer still sends, in one event.
pub(crate) const LINGER_READS: u32 = 64;
/// Batches in flight from one shard to another.
pub(crate) const MESH_BATCHES_MAX: usize = 64;
/// Bytes staged for one other shard above which sockets are not read.
pub(crate) const MESH_STAGED_BYTES_MAX: usize = 4 << 20;
/// Largest batch buffer worth reusing.
pub(crate) const MESH_BUFFER_KEPT_BYTES_MAX: usize = 1 << 20;
/// Accepted sockets waiting in a shard's mailbox; past it new ones are refused.
pub(crate) const HANDED_OVER_MAX: usize = 4096;
/// Rounds of writing and telling the app about it at the end of one turn; what remains waits for the next turn.
pub(crate) const SETTLE_ROUNDS: u32 = 4;

const _: () =
    assert!(BUFFER_BYTES <= BUFFER_KEPT_BYTES_MAX && BUFFER_KEPT_BYTES_MAX <= POOL_BYTES_MAX);
const _: () = assert!(READ_BYTES < STASH_BYTES_MAX);

/// Sockets a shard has at most on a data path past the kernel, where only workers, dispatchers and outside clients use
/// them. The application's indexes of streams begin here, so that its tables stay dense.
pub(crate) const SOCKETS_MAX: u32 = 8192;
/// Frames after which a polling shard looks at its sockets, even when more frames wait.
pub(crate) const FRAMES_PER_SOCKET_LOOK: usize = 64;
/// Bytes of frames staged for one other shard beyond which more of them are dropped, as a full ring of a device would.
pub(crate) const STEERED_BYTES_MAX: usize = 1 << 20;
/// Between two times at which connections are cut because the pool of streams is exhausted: all of them are looked at.
pub(crate) const EVICTION_INTERVAL: Duration = Duration::from_millis(100);
/// Connections cut at such a time.
pub(crate) const EVICTED_MAX: usize = 256;
/// How long a shard past the kernel that stops waits for its peers to acknowledge their last bytes.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it looks.
pub(crate) const DELIVERY_LOOK: Duration = Duration::from_millis(1);
/// Connections that a message for many is queued on before the stack sends to them: few enough to be in the cache still.
pub(crate) const SHARED_WRITES_PER_SEND: u32 = 32;
