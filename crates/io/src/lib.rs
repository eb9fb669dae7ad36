//! The kernel shell of tengate: pinned shard threads that drive one application each over non-blocking sockets.
//!
//! [`bind`] opens listeners, [`run()`] starts a thread a shard, and each thread runs a reactor on edge-triggered epoll. An
//! application implements [`tengate_base::App`] and [`Host`]. Shards share nothing; what one has for another crosses a
//! bounded single-producer single-consumer ring, in batches, once a turn.
//!
//! A turn: wait, accept, read what is ready within a budget, take in mesh batches and mail, expire the timeout, write
//! every connection that has output once, hand mesh batches over, recycle closed indexes.
//!
//! The end of a paused connection is told after [`resume`](tengate_base::Sink::resume), behind its last bytes, or when
//! writing to it fails. After a graceful close the descriptor lingers half-closed for a while, so that unread input does not
//! destroy the last message.
//!
//! Costs: an idle connection is 32 bytes here beside the kernel's own; a busy one borrows buffers from its shard's pool
//! only while bytes are kept or queued. All `unsafe` code of the project is in `sys.rs`, `af_xdp/sys.rs`
//! with `af_xdp/sys/`, and `dpdk/sys.rs`.
//!
//! [`af_xdp`] moves Ethernet frames past the kernel instead, and so does, with the feature of that name, the module `dpdk`.

mod limits;
mod sys;
mod clock;
mod affinity;
mod listen;
mod buffers;
mod conn;
mod conns;
mod linger;
mod mailbox;
mod mesh;
mod stats;
pub mod streams;
mod net;
mod idle;
mod shard;
mod run;
mod bypass;
pub mod af_xdp;
#[cfg(feature = "dpdk")]
pub mod dpdk;

#[cfg(test)]
mod tests;

pub use affinity::allowed_cores;
pub use bypass::{Bypass, Queue, QueueCounts, Seat, StackStats, Steers};
pub use clock::Clock;
pub use idle::{Idle, IdleConfig, Rest};
pub use listen::{BindError, BindFault, ListenSpec, Listener, Sharing, bind};
pub use mailbox::{AdoptError, ShardGone, ShardHandle};
pub use net::{ConnSnapshot, Net};
pub use run::{Config, Pinning, Running, ShardExit, StartError, run};
pub use shard::Host;
pub use stats::ShardStats;
pub use sys::{raise_descriptor_limit, source_socket};
