//! Data paths past the kernel: which device a shard has, who owns a frame, and what is counted below the stack.

mod queue;
mod steering;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use tengate_netstack::{self as netstack, Gauges};

use crate::idle::IdleConfig;

pub(crate) use queue::Burst;
pub use queue::{Queue, Seat};
pub(crate) use steering::{Steering, SteeringStats, split_frame};

/// The clients' side of shards that do without the kernel. Worker links stay with it.
#[derive(Debug)]
pub struct Bypass {
    /// A queue pair for each shard, by shard number.
    pub seats: Vec<Seat>,
    /// The stack of each shard. All have the same addresses and the same secret.
    pub stack: netstack::Config,
    /// Ports that clients connect to. The doors are their places here.
    pub listening: Vec<u16>,
    /// Whether the device brings all frames of a connection to one queue. If not, shards hand frames to each other.
    pub steers: Steers,
    /// How a shard rests that finds nothing.
    pub idle: IdleConfig,
}

/// Who sees to it that the frames of a connection come to one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steers {
    /// The device, by a hash of its own (RSS).
    Device,
    /// We do, by a hash of ours: a frame that comes to another shard's queue is copied to its owner.
    Software,
}

/// What is counted below a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Frames received.
    pub received: u64,
    /// Frames the device took.
    pub sent: u64,
    /// Frames dropped because they came in several pieces, being longer than the MTU.
    pub dropped_multi_segment: u64,
    /// Receives that found no buffer: frames wait in the device, or are dropped there.
    pub receives_without_buffer: u64,
    /// Frames not taken because the device had no room; most are sent again later.
    pub refused_full: u64,
    /// Frames not taken for want of a buffer.
    pub refused_no_buffer: u64,
    /// Frames not taken because they were longer than the MTU.
    pub refused_length: u64,
    /// Flushes that left frames, because the device had no room or no peer.
    pub flushes_partial: u64,
    /// System calls that made the kernel send or receive.
    pub kicks: u64,
    /// Such calls that failed: the interface is down or gone.
    pub kicks_failed: u64,
    /// Buffers that nobody uses.
    pub buffers_available: u64,
    /// Frames that came to this shard's queue and belong to another, and were handed to it.
    pub steered: u64,
    /// Frames of that kind that were dropped because the other shard does not keep up.
    pub dropped_steered: u64,
}

/// A shard's stack and what is below it.
#[derive(Clone, Debug)]
pub struct StackStats {
    /// What the stack counted.
    pub stack: netstack::Stats,
    /// What it has now.
    pub gauges: Gauges,
    /// What was counted below it.
    pub queue: QueueCounts,
}

/// One shard's share in how many of a process still have something to do. Frames for one may come to the queue of another, so
/// they end together.
#[derive(Debug)]
pub(crate) struct Unfinished {
    count: Arc<AtomicUsize>,
    is_finished: bool,
}

impl Unfinished {
    /// A share for each shard.
    pub(crate) fn shares(shard_count: usize) -> impl Iterator<Item = Self> {
        let count = Arc::new(AtomicUsize::new(shard_count));
        (0..shard_count).map(move |_| Self { count: Arc::clone(&count), is_finished: false })
    }

    /// The shard has nothing to do any more, or has failed.
    pub(crate) fn finish(&mut self) {
        if !core::mem::replace(&mut self.is_finished, true) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether this one has finished.
    pub(crate) const fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether all have.
    pub(crate) fn is_over(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.finish();
    }
}
