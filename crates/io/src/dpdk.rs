//! Packet I/O past the kernel: frames in bursts from and to a DPDK port, built with the feature `dpdk`.
//!
//! [`Eal::init`] starts DPDK once a process and creates the devices of the configuration; [`Port::open`] configures one
//! and gives a [`QueueSeat`] for each of its queue pairs; a shard's thread claims its seat and owns the [`Queue`]. A turn:
//! [`Queue::receive`] a [`Burst`] of frames, in place; [`Queue::append`] frames of its own; [`Queue::flush`] them. What a
//! turn found tells [`Idle`](crate::Idle) how to rest.
//!
//! Costs: one call into DPDK for a burst of up to [`BURST_FRAMES`] received and up to [`STAGED_FRAMES`] sent frames. Each queue
//! pair has a pool of its own, sized at start. A connection costs nothing here: a frame stays from its arrival to the end
//! of the turn, or until the device took it.
//!
//! Nothing is lost unseen: the port counts what the device dropped ([`PortStats`]), the queue what it refused
//! ([`QueueStats`]). docs/data-paths.md tells operators what the machine needs.

mod limits;
mod sys;
mod eal;
mod port;
mod queue;

pub use eal::{Eal, EalConfig, EalError, Pages};

pub use limits::{BURST_FRAMES, STAGED_FRAMES};
pub use port::{Capabilities, Link, Port, PortConfig, PortError, PortStats};
pub use queue::{AppendError, Burst, ClaimError, Queue, QueueSeat, QueueStats};
