//! Seeded chance: the only source of surprise in a run.

use core::time::Duration;

/// Sebastiano Vigna's SplitMix64: one word of state, so that a seed is a whole run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The numbers of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, which is not included and over 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("usize fits u64");
        usize::try_from(self.number() % end).expect("below a usize")
    }

    /// From `first` to `last`, both included.
    pub(crate) fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// True this often in a hundred times.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which are not empty.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Between two numbers of microseconds, both included.
    pub(crate) fn micros(&mut self, first: usize, last: usize) -> Duration {
        Duration::from_micros(u64::try_from(self.between(first, last)).expect("usize fits u64"))
    }

    /// Between two numbers of milliseconds, both included.
    pub(crate) fn millis(&mut self, first: usize, last: usize) -> Duration {
        self.micros(first * 1000, last * 1000)
    }
}
