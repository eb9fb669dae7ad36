//! A hierarchical timing wheel: at most one timer for each small integer key, without allocation per timer.
//!
//! Sixty-four slots a level, each level sixty-four times coarser than the one below, eleven levels: every `u64` tick has a
//! place. A timer sits at the level of the highest base-64 digit in which its tick differs from the wheel's own, so the
//! lowest occupied slot of the lowest occupied level is always next. Setting, moving and cancelling cost one or two list
//! links; a timer is moved down at most once a level. Memory: 16 bytes for each key up to the largest, and 3 KiB a wheel.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{ChunkedVec, Instant};

/// One timer for each key below 2³¹, usually a [`ConnId`](crate::ConnId)'s index.
///
/// A timer fires never before its deadline and at most one tick after it, when the owner calls [`TimerWheel::pop_due`]
/// at [`TimerWheel::next_deadline`].
#[derive(Debug)]
pub struct TimerWheel {
    origin: Instant,
    tick_nanos: u64,
    /// Ticks since the origin that are done with; no timer is below it.
    elapsed: u64,
    len: usize,
    entries: ChunkedVec<Entry>,
    /// First key of each slot, `LEVELS × SLOTS` of them.
    heads: Vec<u32>,
    /// Which slots of each level hold a timer, one bit a slot.
    occupied: [u64; LEVELS as usize],
}

impl TimerWheel {
    /// An empty wheel whose timers fire at multiples of `tick` after `now`.
    ///
    /// # Panics
    /// When `tick` is zero.
    pub fn new(tick: Duration, now: Instant) -> Self {
        assert!(!tick.is_zero(), "a wheel's tick must be longer than zero");
        Self {
            origin: now,
            tick_nanos: u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX),
            elapsed: 0,
            len: 0,
            entries: ChunkedVec::new(),
            heads: vec![NIL; (LEVELS * SLOTS) as usize],
            occupied: [0; LEVELS as usize],
        }
    }

    /// Timers that are set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the timer of `key` is set.
    pub fn is_set(&self, key: u32) -> bool {
        self.entries.get(key as usize).is_some_and(|entry| entry.prev != NIL)
    }

    /// Sets the timer of `key`, or moves it. A deadline in the past fires at the next [`TimerWheel::pop_due`].
    ///
    /// # Panics
    /// When `key` is 2³¹ or more.
    pub fn set(&mut self, key: u32, deadline: Instant) {
        assert!(key < HEAD, "timer keys are below 2^31");
        // Rounded up: a timer is never early.
        let tick = self.nanos(deadline).div_ceil(self.tick_nanos).max(self.elapsed);
        if self.is_set(key) {
            if self.entries[key as usize].tick == tick {
                return;
            }
            self.unlink(key);
        } else {
            self.entries.grow_to(key as usize + 1, || Entry::UNSET);
            self.len += 1;
        }
        self.entries[key as usize].tick = tick;
        self.link(key);
    }

    /// Takes the timer of `key` away; no effect when it is not set.
    pub fn cancel(&mut self, key: u32) {
        if self.is_set(key) {
            self.unlink(key);
            self.len -= 1;
        }
    }

    /// Takes one timer that is due at `now`, earlier ticks first; in no order within a tick.
    ///
    /// Call it until it returns `None`. A key may be set again between calls, but with a deadline after `now`, else the
    /// loop does not end.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let now_tick = self.nanos(now) / self.tick_nanos;
        loop {
            let Some((level, slot, start)) =
                self.next_slot().filter(|&(.., start)| start <= now_tick)
            else {
                self.elapsed = self.elapsed.max(now_tick);
                return None;
            };
            self.elapsed = self.elapsed.max(start);
            if level == 0 {
                let key = self.heads[slot as usize];
                self.cancel(key);
                return Some(key);
            }
            self.cascade(level, slot);
        }
    }

    /// When to call [`TimerWheel::pop_due`] next: never later than the earliest timer's tick. It may be earlier, by less
    /// than a slot of the level that timer waits in; then that call only moves timers closer.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (.., start) = self.next_slot()?;
        Some(self.origin + Duration::from_nanos(start.saturating_mul(self.tick_nanos)))
    }

    /// Nanoseconds from the origin to `instant`.
    fn nanos(&self, instant: Instant) -> u64 {
        instant.as_nanos().saturating_sub(self.origin.as_nanos())
    }

    /// The slot whose timers come first: its level, its number there and the first tick it covers.
    fn next_slot(&self) -> Option<(u32, u32, u64)> {
        let (level, bits) = (0..LEVELS).zip(self.occupied).find(|&(_, bits)| bits != 0)?;
        let slot = bits.trailing_zeros();
        let shift = level * LEVEL_BITS;
        // Digits above this level are the wheel's own, the digit of this level is the slot, those below are zero.
        let above = u64::MAX.checked_shl(shift + LEVEL_BITS).unwrap_or(0);
        Some((level, slot, (self.elapsed & above) | (u64::from(slot) << shift)))
    }

    /// Moves every timer of a slot to the lower level it belongs to now that `elapsed` reached the slot.
    fn cascade(&mut self, level: u32, slot: u32) {
        let mut key = core::mem::replace(&mut self.heads[(level * SLOTS + slot) as usize], NIL);
        self.occupied[level as usize] &= !(1 << slot);
        while key != NIL {
            let next = self.entries[key as usize].next;
            self.link(key);
            key = next;
        }
    }

    /// Puts a key, whose tick is known, first in its slot.
    fn link(&mut self, key: u32) {
        let tick = self.entries[key as usize].tick;
        let level = (tick ^ self.elapsed).checked_ilog2().unwrap_or(0) / LEVEL_BITS;
        let slot = ((tick >> (level * LEVEL_BITS)) & SLOT_MASK) as u32;
        let head = level * SLOTS + slot;
        let next = core::mem::replace(&mut self.heads[head as usize], key);
        self.occupied[level as usize] |= 1 << slot;
        if next != NIL {
            self.entries[next as usize].prev = key;
        }
        let entry = &mut self.entries[key as usize];
        entry.next = next;
        entry.prev = HEAD | head;
    }

    /// Takes a set key out of its slot.
    fn unlink(&mut self, key: u32) {
        let Entry { next, prev, .. } = self.entries[key as usize];
        self.entries[key as usize].prev = NIL;
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev & HEAD == 0 {
            self.entries[prev as usize].next = next;
            return;
        }
        let head = prev & !HEAD;
        self.heads[head as usize] = next;
        if next == NIL {
            self.occupied[(head / SLOTS) as usize] &= !(1 << (head % SLOTS));
        }
    }
}

/// A key's place in its slot's list.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it fires, in ticks since the origin.
    tick: u64,
    /// The next key of the slot, or [`NIL`].
    next: u32,
    /// The key before; for the first one the slot with [`HEAD`]; [`NIL`] while the timer is not set.
    prev: u32,
}

impl Entry {
    const UNSET: Self = Self { tick: 0, next: NIL, prev: NIL };
}

/// Bits of a tick that one level decides.
const LEVEL_BITS: u32 = 6;
/// Slots a level.
const SLOTS: u32 = 1 << LEVEL_BITS;
/// The lowest digit of a tick.
const SLOT_MASK: u64 = (1 << LEVEL_BITS) - 1;
/// Enough levels for every `u64`.
const LEVELS: u32 = u64::BITS.div_ceil(LEVEL_BITS);
/// No key.
const NIL: u32 = u32::MAX;
/// Marks a `prev` that names a slot, not a key.
const HEAD: u32 = 1 << 31;

const _: () = assert!(size_of::<Entry>() == 16);
const _: () = assert!(LEVELS * SLOTS < HEAD);

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn drain(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(key) = wheel.pop_due(now) {
            due.push(key);
        }
        due.sort_unstable();
        due
    }

    #[test]
    fn timer_fires_at_the_first_tick_not_before_its_deadline() {
        for deadline in [0, 1, 99, 100, 101, 6_399, 6_400, 6_401, 409_600, 1_000_000_007] {
            let mut wheel = TimerWheel::new(TICK, at(0));
            wheel.set(3, at(deadline));
            let tick = deadline.next_multiple_of(100);
            if deadline > 0 {
                assert_eq!(drain(&mut wheel, at(tick - 1)), [], "deadline {deadline}");
            }
            assert_eq!(drain(&mut wheel, at(tick)), [3], "deadline {deadline}");
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn moved_timer_fires_only_at_its_new_deadline() {
        let mut wheel = TimerWheel::new(TICK, at(0));
        wheel.set(7, at(500));
        wheel.set(7, at(30_000));
        assert_eq!(wheel.len(), 1);
        assert_eq!(drain(&mut wheel, at(29_999)), []);
        assert_eq!(drain(&mut wheel, at(30_000)), [7]);
    }

    #[test]
    fn deadline_in_the_past_fires_at_the_next_call() {
        let mut wheel = TimerWheel::new(TICK, at(0));
        assert_eq!(drain(&mut wheel, at(10_050)), []);
        wheel.set(1, at(20));
        assert!(wheel.next_deadline().unwrap() <= at(10_050));
        assert_eq!(drain(&mut wheel, at(10_050)), [1]);
    }

    #[test]
    fn deadline_beyond_the_range_never_fires_and_never_wraps() {
        let mut wheel = TimerWheel::new(Duration::from_nanos(1), at(5));
        wheel.set(0, Instant::from_nanos(u64::MAX));
        assert_eq!(drain(&mut wheel, at(1_000_000_000)), []);
        assert!(wheel.is_set(0));
        assert_eq!(drain(&mut wheel, Instant::from_nanos(u64::MAX)), [0]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set { key: u32, delay_ms: u64 },
        Cancel { key: u32 },
        Pass { millis: u64 },
        PassToNext,
    }

    fn step() -> impl Strategy<Value = Step> {
        let delay = prop_oneof![0..300u64, 0..20_000u64, 0..2_000_000u64, Just(400_000_000_000)];
        prop_oneof![
            4 => (0..12u32, delay.clone()).prop_map(|(key, delay_ms)| Step::Set { key, delay_ms }),
            1 => (0..12u32).prop_map(|key| Step::Cancel { key }),
            2 => delay.prop_map(|millis| Step::Pass { millis: millis / 2 }),
            2 => Just(Step::PassToNext),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map_of_deadlines(start in 0..1_000_000u64, steps in prop::collection::vec(step(), 1..120)) {
            let mut wheel = TimerWheel::new(TICK, at(start));
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = at(start);
            for step in steps {
                match step {
                    Step::Set { key, delay_ms } => {
                        let deadline = now + Duration::from_millis(delay_ms);
                        wheel.set(key, deadline);
                        model.insert(key, deadline);
                    }
                    Step::Cancel { key } => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Step::Pass { millis } => now = now + Duration::from_millis(millis),
                    Step::PassToNext => now = now.max(wheel.next_deadline().unwrap_or(now)),
                }
                for key in drain(&mut wheel, now) {
                    let deadline = model.remove(&key);
                    prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "{key} fired at {now:?}, not {deadline:?}");
                }
                prop_assert!(model.values().all(|&deadline| deadline + TICK > now), "late at {now:?}: {model:?}");
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert!((0..12).all(|key| wheel.is_set(key) == model.contains_key(&key)));
                let first = model.values().min();
                prop_assert_eq!(wheel.next_deadline().is_some(), first.is_some());
                if let (Some(next), Some(&first)) = (wheel.next_deadline(), first) {
                    prop_assert!(next > now && next < first + TICK);
                }
            }
        }
    }
}
