//! Packet I/O beside the kernel's own stack: frames in bursts from and to an interface's AF_XDP sockets, one a queue.
//!
//! [`Interface::open`] makes a socket for each queue of an interface and then attaches a steering program that hands them
//! the frames for the configured addresses and TCP ports, and leaves all others to the kernel. A shard's thread claims its
//! [`QueueSeat`] and owns the [`Queue`]. A turn: [`Queue::receive`] a [`Burst`] of frames, in place; [`Queue::append`] frames of
//! its own; [`Queue::flush`] them. A thread with nothing to do asks [`Queue::prepare_sleep`] and then waits for the queue's
//! descriptor.
//!
//! Costs: receiving makes no system call, sending one a flush; in copy mode the kernel copies each frame once in each direction. Each
//! queue has frames of its own, sized at start. A connection costs nothing here: a frame stays from its arrival to
//! the end of the turn, or until it was sent.
//!
//! Nothing is lost unseen: [`Interface::stats`] and [`Queue::stats`] count it. docs/data-paths.md tells operators what the
//! machine needs.

mod limits;
mod assembler;
mod program;
mod sys;
mod config;
mod error;
mod interface;
mod queue;

pub use config::{Config, Mode, ZeroCopy};
pub use error::AfXdpError;
pub use interface::{Attached, Interface, InterfaceStats};
pub use limits::BURST_FRAMES;
pub use queue::{AppendError, Burst, FrameGauges, Queue, QueueSeat, QueueStats};
