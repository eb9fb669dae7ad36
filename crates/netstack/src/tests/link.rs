//! A simulated link: frames are lost, repeated, delayed and overtaken, as a seed has it.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use tengate_base::Instant;

use crate::{Device, DeviceFull};

/// What a link does to frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) seed: u64,
    /// Of a thousand frames, in each direction.
    pub(super) loss_permille: u16,
    pub(super) duplicate_permille: u16,
    /// Every frame is late by this, and by a random part of `jitter`, so that it may be overtaken.
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        seed: 1,
        loss_permille: 0,
        duplicate_permille: 0,
        delay: Duration::from_micros(50),
        jitter: Duration::ZERO,
    };
}

/// Frames on their way, in both directions.
#[derive(Debug)]
pub(super) struct Link {
    faults: Faults,
    random: u64,
    /// By arrival, then in the order sent; with the side they go to.
    frames: BinaryHeap<Reverse<OnItsWay>>,
    sent: u64,
    /// Of everything that was sent, and when.
    pub(super) digest: u64,
}

/// When a frame arrives, its number, the side it goes to, and itself.
type OnItsWay = (Instant, u64, usize, Vec<u8>);

impl Link {
    pub(super) fn new(faults: Faults) -> Self {
        Self { random: faults.seed, faults, frames: BinaryHeap::new(), sent: 0, digest: 0 }
    }

    /// Puts a frame on the link.
    pub(super) fn send(&mut self, now: Instant, to: usize, frame: &[u8]) {
        for word in core::iter::once(now.as_nanos()).chain(frame.iter().copied().map(u64::from)) {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        if self.chance(self.faults.loss_permille) {
            return;
        }
        let copies = if self.chance(self.faults.duplicate_permille) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = u64::try_from(self.faults.jitter.as_nanos()).expect("short");
            let late = Duration::from_nanos(self.next() % (jitter + 1));
            self.sent += 1;
            let arrival = now + self.faults.delay + late;
            self.frames.push(Reverse((arrival, self.sent, to, frame.to_vec())));
        }
    }

    /// When the next frame arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.frames.peek().map(|Reverse((arrival, ..))| *arrival)
    }

    /// A frame that has arrived, and where.
    pub(super) fn receive(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        self.next_arrival().filter(|arrival| *arrival <= now)?;
        self.frames.pop().map(|Reverse((_, _, to, frame))| (to, frame))
    }

    fn chance(&mut self, permille: u16) -> bool {
        self.next() % 1000 < u64::from(permille)
    }

    /// `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A device that keeps what it is given, up to a number of frames.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) room: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { frames: Vec::new(), room: usize::MAX }
    }
}

impl Device for Outbox {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        if self.frames.len() >= self.room {
            return Err(DeviceFull);
        }
        self.frames.push(parts.concat());
        Ok(())
    }
}
