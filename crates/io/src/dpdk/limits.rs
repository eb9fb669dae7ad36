//! Every limit of the DPDK path, in one place.

use core::time::Duration;

/// Ports DPDK is built for (`RTE_MAX_ETHPORTS`).
pub(crate) const PORTS_MAX: u16 = 32;
/// Frames one call of the shim moves (`FRAMES_MAX` in dpdk/shim.c).
pub(crate) const FRAMES_MAX: usize = 256;
/// Frames one receive takes at most: enough to share its cost, few enough to stay in the first-level cache.
pub const BURST_FRAMES: usize = 64;
/// Frames that wait for the end of the turn, or for room in the device.
pub const STAGED_FRAMES: usize = FRAMES_MAX;
/// Empty buffers taken from the pool at a time.
pub(crate) const SPARE_FRAMES: usize = 64;
/// Data room of a buffer at least, in bytes: what most drivers assume.
pub(crate) const BUFFER_BYTES_MIN: u16 = 2048;
/// What Ethernet and up to two VLAN tags add to the MTU, in bytes.
pub(crate) const FRAME_OVERHEAD_BYTES: u16 = 14 + 4 + 4;
/// Smallest MTU: IPv4's (RFC 791).
pub(crate) const MTU_MIN: u16 = 68;
/// Largest MTU: a jumbo frame of one segment.
pub(crate) const MTU_MAX: u16 = 9000;
/// Descriptors of a queue.
pub(crate) const DESCRIPTORS_MIN: u16 = 64;
/// Most descriptors of a queue: what common devices have.
pub(crate) const DESCRIPTORS_MAX: u16 = 4096;
/// Queue pairs of a port.
pub(crate) const QUEUE_PAIRS_MAX: u16 = 64;
/// Between two looks at a link that is awaited.
pub(crate) const LINK_POLL: Duration = Duration::from_millis(1);

const _: () = assert!(BURST_FRAMES <= FRAMES_MAX && SPARE_FRAMES <= FRAMES_MAX);
const _: () = assert!(DESCRIPTORS_MIN < DESCRIPTORS_MAX);
