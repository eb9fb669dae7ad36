//! One shard's way in and out: a receive and a transmit queue.

use core::fmt;
use core::marker::PhantomData;
use std::io;

use super::limits::{BURST_FRAMES, SPARE_FRAMES, STAGED_FRAMES};
use super::sys::{EalUp, Frames, Pair, register_thread};

/// A queue pair on its way to the thread that will own it.
#[derive(Debug)]
pub struct QueueSeat {
    eal: EalUp,
    pair: Pair,
    frame_bytes_max: usize,
}

/// A queue pair, owned by one thread.
#[derive(Debug)]
pub struct Queue {
    pair: Pair,
    /// Empty buffers, so that a frame does not cost a visit to the pool.
    spare: Frames,
    /// Frames in order that the device has not taken yet.
    staged: Frames,
    frame_bytes_max: usize,
    stats: QueueStats,
    // The thread's caches in the pools are its own, so the queue stays with it.
    stays: PhantomData<*const ()>,
}

/// Frames received, until the next receive into it or its end gives them back. Reuse one.
#[derive(Debug)]
pub struct Burst(Frames);

/// What a queue counted since it was claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Frames received.
    pub received: u64,
    /// Frames dropped because they came in several segments, being longer than the MTU.
    pub dropped_multi_segment: u64,
    /// Receives that found the pool empty: frames wait in the device, or are dropped there.
    pub receives_without_buffer: u64,
    /// Frames the device took.
    pub sent: u64,
    /// Flushes that left frames staged, because the device had no room or no peer.
    pub flushes_partial: u64,
    /// Appends refused because as many frames were staged as may be.
    pub refused_full: u64,
    /// Appends refused because the pool was empty.
    pub refused_no_buffer: u64,
    /// Appends refused because the frame was longer than the MTU allows, or empty.
    pub refused_length: u64,
}

/// Why a frame was not staged. It is counted, and nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The device does not keep up, or has no peer. Try again in a later turn.
    Full,
    /// The pool is empty. Try again in a later turn.
    NoBuffer,
    /// The frame is empty, or longer than the MTU allows.
    Length {
        /// Bytes of the frame.
        len: usize,
        /// The most.
        max: usize,
    },
}

/// A thread could not be made known to DPDK: it has as many as it was built for, 128 in most builds.
#[derive(Debug)]
pub struct ClaimError(pub io::Error);

impl QueueSeat {
    pub(crate) fn new(eal: EalUp, pair: Pair, frame_bytes_max: usize) -> Self {
        Self { eal, pair, frame_bytes_max }
    }

    /// Takes the seat: the calling thread owns the queue from now on. Pin the thread before.
    ///
    /// # Errors
    /// DPDK knows too many threads.
    pub fn claim(self) -> Result<Queue, ClaimError> {
        register_thread(self.eal).map_err(ClaimError)?;
        Ok(Queue {
            pair: self.pair,
            spare: Frames::with_capacity(SPARE_FRAMES),
            staged: Frames::with_capacity(STAGED_FRAMES),
            frame_bytes_max: self.frame_bytes_max,
            stats: QueueStats::default(),
            stays: PhantomData,
        })
    }
}

impl Queue {
    /// Which queue pair of its port, from 0.
    pub fn index(&self) -> u16 {
        self.pair.index()
    }

    /// Gives back the frames of `burst` and fills it with what arrived, at most [`BURST_FRAMES`]; returns how many.
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let received = self.pair.receive(&mut burst.0);
        self.stats.received += u64::from(received.frames);
        self.stats.dropped_multi_segment += u64::from(received.multi_segment);
        self.stats.receives_without_buffer += u64::from(received.exhausted != 0);
        received.frames.into()
    }

    /// Stages a frame made of `parts`, from the Ethernet header on and without a checksum of it. It goes at the next
    /// [`flush`](Self::flush), or before when [`STAGED_FRAMES`] are staged.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<(), AppendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.append_with(len, |mut frame| {
            for part in parts {
                let (front, rest) = frame.split_at_mut(part.len());
                front.copy_from_slice(part);
                frame = rest;
            }
        })
    }

    /// Stages a frame of `len` bytes that `fill` writes in place; all of them, because they hold an older frame's before.
    ///
    /// # Errors
    /// See [`AppendError`]; then `fill` is not called.
    pub fn append_with(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), AppendError> {
        let max = self.frame_bytes_max;
        if len == 0 || len > max {
            self.stats.refused_length += 1;
            return Err(AppendError::Length { len, max });
        }
        if self.staged.is_full() {
            self.flush();
            if self.staged.is_full() {
                self.stats.refused_full += 1;
                return Err(AppendError::Full);
            }
        }
        if self.spare.len() == 0 && !self.pair.allocate(&mut self.spare) {
            self.stats.refused_no_buffer += 1;
            return Err(AppendError::NoBuffer);
        }
        let frame = self.staged.take_from(&mut self.spare, len);
        fill(frame.expect("a spare buffer with room for the MTU, and a free place for it"));
        Ok(())
    }

    /// Hands the staged frames to the device, in order. What it has no room for stays staged for the next flush; returns how
    /// many those are.
    pub fn flush(&mut self) -> usize {
        self.stats.sent += self.pair.transmit(&mut self.staged) as u64;
        let left = self.staged.len();
        self.stats.flushes_partial += u64::from(left > 0);
        left
    }

    /// The counters.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Buffers in the pool that nobody uses. A gauge; looks at every thread's cache, so not for every turn.
    pub fn buffers_available(&self) -> u32 {
        self.pair.buffers_available()
    }
}

impl Burst {
    /// An empty one. Any queue may fill it.
    pub fn new() -> Self {
        Self(Frames::with_capacity(BURST_FRAMES))
    }

    /// The frames, in the order they arrived, where the device put them.
    pub fn frames_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.0.iter_mut()
    }

    /// Gives the frames back before the next receive, so that a thread about to rest holds no buffers.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the device takes no more frames now"),
            Self::NoBuffer => write!(f, "the pool has no buffer left"),
            Self::Length { len, max } => {
                write!(f, "a frame of {len} bytes was to be sent; 1 to {max} can be")
            }
        }
    }
}

impl core::error::Error for AppendError {}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DPDK cannot serve one more thread: {}", self.0)
    }
}

impl core::error::Error for ClaimError {}
