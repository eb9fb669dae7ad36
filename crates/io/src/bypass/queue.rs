//! One shard's queue of frames, whichever device it is of.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tengate_netstack::{Device, DeviceFull};

use super::QueueCounts;
use crate::af_xdp;
#[cfg(feature = "dpdk")]
use crate::dpdk;

/// A queue on its way to the thread that will own it.
#[derive(Debug)]
pub enum Seat {
    /// Of an interface's AF_XDP sockets.
    AfXdp(Box<af_xdp::QueueSeat>),
    /// Of a DPDK port.
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::QueueSeat),
}

/// A queue, owned by a shard's thread.
#[derive(Debug)]
pub enum Queue {
    /// Of an interface's AF_XDP sockets.
    AfXdp(Box<af_xdp::Queue>),
    /// Of a DPDK port.
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Queue),
}

/// Room for the frames of one receive.
#[derive(Debug)]
pub(crate) enum Burst {
    AfXdp(af_xdp::Burst),
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Burst),
}

impl Seat {
    /// Takes the seat: the calling thread owns the queue from now on. The burst is for its frames.
    pub(crate) fn claim(self) -> io::Result<(Queue, Burst)> {
        match self {
            Self::AfXdp(seat) => {
                Ok((Queue::AfXdp(Box::new(seat.claim())), Burst::AfXdp(af_xdp::Burst::new())))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(seat) => {
                let queue = seat.claim().map_err(io::Error::other)?;
                Ok((Queue::Dpdk(queue), Burst::Dpdk(dpdk::Burst::new())))
            }
        }
    }
}

impl Queue {
    /// Fills `burst`, which came with this queue, with what arrived; returns how many frames.
    pub(crate) fn receive(&mut self, burst: &mut Burst) -> usize {
        match (self, burst) {
            (Self::AfXdp(queue), Burst::AfXdp(burst)) => queue.receive(burst),
            #[cfg(feature = "dpdk")]
            (Self::Dpdk(queue), Burst::Dpdk(burst)) => queue.receive(burst),
            #[cfg(feature = "dpdk")]
            (Self::AfXdp(_), Burst::Dpdk(_)) | (Self::Dpdk(_), Burst::AfXdp(_)) => 0,
        }
    }

    /// Hands what is staged to the device; what it has no room for stays staged.
    pub(crate) fn flush(&mut self) {
        match self {
            Self::AfXdp(queue) => _ = queue.flush(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(queue) => _ = queue.flush(),
        }
    }

    /// What becomes readable when frames arrive, if the device can wake anybody.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::AfXdp(queue) => Some(queue.as_fd()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => None,
        }
    }

    /// Whether the thread may sleep until the descriptor wakes it. If not, there are frames that nothing will tell of.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        match self {
            Self::AfXdp(queue) => queue.prepare_sleep(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => false,
        }
    }

    /// The counters. Looks at caches of other threads, so not for every turn.
    pub(crate) fn counts(&self) -> QueueCounts {
        match self {
            Self::AfXdp(queue) => {
                let stats = queue.stats();
                QueueCounts {
                    received: stats.received,
                    sent: stats.sent,
                    flushes_partial: stats.flushes_partial,
                    refused_full: stats.refused_full,
                    refused_no_buffer: stats.refused_no_buffer,
                    refused_length: stats.refused_length,
                    kicks: stats.kicks,
                    kicks_failed: stats.kicks_failed,
                    buffers_available: queue.frames().free.into(),
                    ..QueueCounts::default()
                }
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(queue) => {
                let stats = queue.stats();
                QueueCounts {
                    received: stats.received,
                    sent: stats.sent,
                    dropped_multi_segment: stats.dropped_multi_segment,
                    receives_without_buffer: stats.receives_without_buffer,
                    flushes_partial: stats.flushes_partial,
                    refused_full: stats.refused_full,
                    refused_no_buffer: stats.refused_no_buffer,
                    refused_length: stats.refused_length,
                    buffers_available: queue.buffers_available().into(),
                    ..QueueCounts::default()
                }
            }
        }
    }
}

impl Device for Queue {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        match self {
            Self::AfXdp(queue) => queue.append(parts).map_err(|_counted| DeviceFull),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(queue) => queue.append(parts).map_err(|_counted| DeviceFull),
        }
    }
}

impl Burst {
    /// Shows each frame, in the order of their arrival.
    pub(crate) fn for_each(&mut self, handle: impl FnMut(&mut [u8])) {
        match self {
            Self::AfXdp(burst) => burst.frames_mut().for_each(handle),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(burst) => burst.frames_mut().for_each(handle),
        }
    }

    /// Gives the frames back.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::AfXdp(burst) => burst.clear(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(burst) => burst.clear(),
        }
    }
}
