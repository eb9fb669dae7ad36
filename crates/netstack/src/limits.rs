//! Every maximum of the stack, checked against each other when it is compiled.

use core::ops::RangeInclusive;
use core::time::Duration;

use crate::wire::{ethernet, ip, tcp};

/// Addresses of one stack: a connection names its own by a 16-bit index.
pub const ADDRESSES_MAX: usize = 65_535;
/// Packets a stack can be configured for. The least one every IPv4 host must take (RFC 791), the greatest what a jumbo
/// frame holds.
pub const MTU_RANGE: RangeInclusive<u16> = 576..=9216;
/// Least packet of an IPv6 link (RFC 8200 5).
pub(crate) const MTU_V6_MIN: u16 = 1280;
/// A path is never taken to be narrower than this, whatever a router says: the Internet has no such links, and tiny
/// segments would be an attack (RFC 5927 7). Linux's default.
pub(crate) const PATH_MTU_MIN: u16 = 552;
/// Window or send buffer of a connection (RFC 7323 2.3).
pub(crate) const BUFFER_BYTES_RANGE: RangeInclusive<u32> = 2048..=65_535 << tcp::WINDOW_SCALE_MAX;
/// Connections, listeners, TIME-WAIT entries: timer keys are below 2³¹.
pub(crate) const CONNS_MAX: u32 = 1 << 30;
/// Neighbours remembered; beyond it one that nobody waits for is forgotten.
pub(crate) const NEIGHBORS_MAX: usize = 1024;
/// Connections that wait for one neighbour's address; a later one asks again when its SYN is due.
pub(crate) const NEIGHBOR_WAITERS_MAX: usize = 4096;
/// Disjoint out-of-order pieces one connection may have: more are dropped, since each costs a chunk.
pub(crate) const OUT_OF_ORDER_PIECES_MAX: usize = 4096;
/// Chunks and spare queues kept for reuse beyond those in use follow from the pool; spare queue structs have this limit.
pub(crate) const SPARE_QUEUES_MAX: usize = 4096;
/// Slices of one frame: its headers and the chunks its payload lies in.
pub(crate) const FRAME_PARTS_MAX: usize = 8;
/// Bytes in front of a payload.
pub(crate) const HEADERS_LEN_MAX: usize =
    ethernet::HEADER_LEN_MAX + ip::HEADER_LEN_MAX + tcp::HEADER_LEN_MAX;

/// Bytes of a chunk of the pool, for streams.
pub(crate) const CHUNK_LEN: u16 = 2048;
/// Bytes of a chunk of the pool, for a single short message.
pub(crate) const SMALL_CHUNK_LEN: u16 = 256;
/// A shared message up to this many bytes may be copied behind what a connection has queued: that costs less than a part of
/// a frame.
pub(crate) const SHARED_COPY_LEN_MAX: u32 = 256;
/// Pieces that a connection has queued when short shared messages begin to be copied in any case.
pub(crate) const SHARED_PIECES_MAX: usize = 8;

/// Receive window of a connection that begins; it grows to the configured one as the peer's rate asks for it.
pub(crate) const RECV_WINDOW_INITIAL: u32 = 256 << 10;
/// Segments sent before the first acknowledgement (RFC 6928).
pub(crate) const INITIAL_WINDOW_SEGMENTS: u32 = 10;
/// Segment size of a peer that does not say (RFC 9293 3.7.1).
pub(crate) const MSS_DEFAULT_V4: u16 = 536;
/// Segment size of an IPv6 peer that does not say (RFC 9293 3.7.1).
pub(crate) const MSS_DEFAULT_V6: u16 = 1220;
/// The least segment size a peer can ask for: less would be an attack on the sender's CPU. Linux's default.
pub(crate) const MSS_MIN: u16 = 88;

/// Retransmission time-out before the first measurement (RFC 6298 2.1).
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(1);
/// Least retransmission time-out, beyond the round trip. RFC 6298 2.4 says one second in all and expects less to be found
/// safe; this is Linux's.
pub(crate) const RTO_MIN: Duration = Duration::from_millis(200);
/// Greatest retransmission time-out, backed off (RFC 6298 2.5 wants 60 s or more). Linux's.
pub(crate) const RTO_MAX: Duration = Duration::from_secs(120);
/// Retransmissions without progress before a connection is cut: over 15 minutes with the least time-out, as in Linux
/// (RFC 9293 3.8.3, R2 of at least 100 s).
pub(crate) const RETRIES_MAX: u8 = 15;
/// Retransmissions of a SYN or SYN-ACK: 63 s in all (RFC 9293 3.8.3 wants 3 minutes of a SYN; Linux and we give up sooner).
pub(crate) const SYN_RETRIES_MAX: u8 = 5;
/// Retransmissions for a connection the application has closed already.
pub(crate) const ORPHAN_RETRIES_MAX: u8 = 8;
/// Longest delay of an acknowledgement. RFC 9293 3.8.6.3 allows 500 ms; Linux starts with this.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(40);
/// What a peer may delay its acknowledgement by (RFC 8985 7.2, `WCDelAckT`).
pub(crate) const PEER_ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// Between two answers to segments that are not acceptable and carry nothing, or two ends that disagree by a number would
/// answer each other for ever. RFC 5961 10 asks for a limit; this one is a connection's own, so that it tells nobody
/// anything about others. It is shorter than the least time between two probes of a window.
pub(crate) const CHALLENGE_INTERVAL: Duration = Duration::from_millis(100);
/// Resolution of timers.
pub(crate) const TICK: Duration = Duration::from_micros(250);
/// Time between two questions for a neighbour's address (RFC 1122 2.3.2.1).
pub(crate) const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// A payload may begin at the end of a chunk and end at the beginning of another, and the first may be a small one.
const _: () = assert!(
    (*MTU_RANGE.end() as usize).div_ceil(CHUNK_LEN as usize) + 1 + 1 < FRAME_PARTS_MAX,
    "headers, a rest, whole chunks"
);
const _: () = assert!(CHALLENGE_INTERVAL.as_nanos() < RTO_MIN.as_nanos());
const _: () = assert!(PATH_MTU_MIN < *MTU_RANGE.start());
const _: () = assert!(*BUFFER_BYTES_RANGE.end() <= 65_535 << tcp::WINDOW_SCALE_MAX);
const _: () = assert!(SMALL_CHUNK_LEN < CHUNK_LEN);
