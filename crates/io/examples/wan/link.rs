//! The link: frames are lost, repeated, overtaken and delayed, at a rate, with a queue in front of it; in both directions.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use tengate_base::Instant;

/// How bad the link is. Everything is for each direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of 10 000 packets.
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) reorder: u64,
    /// Those that are overtaken are late by a random part of this.
    pub(crate) late: Duration,
    /// Every packet is late by this.
    pub(crate) delay: Duration,
    /// Megabits a second; 0: as fast as the machine.
    pub(crate) rate: u64,
    /// Bytes that may wait for a link with a rate.
    pub(crate) queue_bytes: u64,
}

impl Faults {
    /// Reads what `cargo xtask wan` writes: `loss=100 delay=10000 ...`, times in microseconds.
    pub(crate) fn decode(line: &str) -> Option<Self> {
        let mut faults = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=')?;
            let value: u64 = value.parse().ok()?;
            match name {
                "loss" => faults.loss = value,
                "repeat" => faults.repeat = value,
                "reorder" => faults.reorder = value,
                "late" => faults.late = Duration::from_micros(value),
                "delay" => faults.delay = Duration::from_micros(value),
                "rate" => faults.rate = value,
                "queue" => faults.queue_bytes = value,
                _ => return None,
            }
        }
        Some(faults)
    }
}

/// Who is at an end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Linux, which asks.
    Client,
    /// Linux, which answers.
    Linux,
    /// Our stack, which answers too.
    Ours,
}

/// What became of frames since the faults were set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    /// Found the queue full.
    pub(crate) overflowed: u64,
}

/// Frames on their way.
pub(crate) struct Link {
    faults: Faults,
    pub(crate) counts: Counts,
    random: u64,
    frames: BinaryHeap<Reverse<OnItsWay>>,
    sent: u64,
    /// When each direction has carried what is before it: away from the client, and towards it.
    free_at: [Instant; 2],
}

/// When a frame arrives, its number, where, and itself.
type OnItsWay = (Instant, u64, End, Vec<u8>);

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            faults: Faults::default(),
            counts: Counts::default(),
            random: 1,
            frames: BinaryHeap::new(),
            sent: 0,
            free_at: [Instant::ZERO; 2],
        }
    }

    /// What is on its way still arrives.
    pub(crate) fn set(&mut self, faults: Faults) {
        (self.faults, self.counts, self.random) = (faults, Counts::default(), 1);
    }

    /// Puts a frame on the link.
    pub(crate) fn send(&mut self, now: Instant, to: End, frame: Vec<u8>) {
        if frame.get(12..14) != Some(&IPV4) {
            // Neighbours find each other in peace.
            self.push(now, to, frame);
            return;
        }
        self.counts.carried += 1;
        let faults = self.faults;
        if self.chance(faults.loss) {
            self.counts.lost += 1;
            return;
        }
        let Some(mut arrival) = self.serialize(now, to, frame.len() as u64) else {
            self.counts.overflowed += 1;
            return;
        };
        arrival = arrival + faults.delay;
        if self.chance(faults.repeat) {
            self.push(arrival, to, frame.clone());
        }
        if self.chance(faults.reorder) {
            let late = u64::try_from(faults.late.as_nanos()).expect("a short time");
            arrival = arrival + Duration::from_nanos(self.next() % (late + 1));
        }
        self.push(arrival, to, frame);
    }

    /// When the last bit of a frame has left, at the link's rate. `None`: too many are waiting.
    fn serialize(&mut self, now: Instant, to: End, len: u64) -> Option<Instant> {
        if self.faults.rate == 0 {
            return Some(now);
        }
        let free_at = &mut self.free_at[usize::from(to == End::Client)];
        let begins = (*free_at).max(now);
        let nanos_each = |bytes: u64| Duration::from_nanos(bytes * 8_000 / self.faults.rate);
        if begins - now > nanos_each(self.faults.queue_bytes) {
            return None;
        }
        *free_at = begins + nanos_each(len + WIRE_OVERHEAD);
        Some(*free_at)
    }

    fn push(&mut self, arrival: Instant, to: End, frame: Vec<u8>) {
        self.sent += 1;
        self.frames.push(Reverse((arrival, self.sent, to, frame)));
    }

    /// When the next frame arrives.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.frames.peek().map(|Reverse((arrival, ..))| *arrival)
    }

    /// A frame that has arrived, and where.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<(End, Vec<u8>)> {
        self.next_arrival().filter(|arrival| *arrival <= now)?;
        self.frames.pop().map(|Reverse((_, _, to, frame))| (to, frame))
    }

    fn chance(&mut self, of_ten_thousand: u64) -> bool {
        of_ten_thousand > 0 && self.next() % 10_000 < of_ten_thousand
    }

    /// `SplitMix64`.
    const fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

const IPV4: [u8; 2] = [8, 0];
/// Preamble, checksum and gap of Ethernet, in bytes.
const WIRE_OVERHEAD: u64 = 24;
