//! Every limit of the AF_XDP path, in one place.

use core::time::Duration;

/// Frames one receive takes at most: enough to share its cost, few enough to stay in the first-level cache.
pub const BURST_FRAMES: usize = 64;
/// Descriptors of a ring at least; rings have a power of two of them.
pub(crate) const DESCRIPTORS_MIN: u32 = 64;
/// Descriptors of a ring at most.
pub(crate) const DESCRIPTORS_MAX: u32 = 1 << 15;
/// Frames of a queue at most: 256 MiB of those of 4096 bytes.
pub(crate) const FRAMES_MAX: u32 = 1 << 16;
/// Queues of an interface.
pub(crate) const QUEUES_MAX: u16 = 64;
/// Addresses that are taken.
pub(crate) const ADDRESSES_MAX: u32 = 1024;
/// Ports that are taken.
pub(crate) const PORTS_MAX: u32 = 64;
/// Bytes of a frame's memory, the smaller one that fits: the kernel knows no larger ones without huge pages.
pub(crate) const CHUNK_BYTES: [u32; 2] = [2048, 4096];
/// What the kernel keeps free before a received frame (`XDP_PACKET_HEADROOM`).
pub(crate) const HEADROOM_BYTES: u32 = 256;
/// What Ethernet and one VLAN tag add to the MTU, in bytes.
pub(crate) const FRAME_OVERHEAD_BYTES: u32 = 14 + 4;
/// Largest MTU: what fits into a frame's memory.
pub(crate) const MTU_MAX: u32 = CHUNK_BYTES[1] - HEADROOM_BYTES - FRAME_OVERHEAD_BYTES;
/// IPv6 extension headers that the steering program looks behind.
pub(crate) const EXTENSIONS_MAX: usize = 4;
/// How often a queue is asked for that another socket has, or had until just now.
pub(crate) const BIND_TRIES: u32 = 100;
/// Between two such questions.
pub(crate) const BIND_INTERVAL: Duration = Duration::from_millis(5);
/// What the kernel may say when it refuses the steering program, in bytes.
pub(crate) const LOG_BYTES: usize = 64 << 10;

const _: () = assert!(DESCRIPTORS_MIN.is_power_of_two() && DESCRIPTORS_MAX.is_power_of_two());
const _: () = assert!(BURST_FRAMES <= DESCRIPTORS_MIN as usize);
const _: () = assert!(2 * DESCRIPTORS_MAX <= FRAMES_MAX);
