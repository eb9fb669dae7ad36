//! A hash table of indexes that grows by one bucket at a time: no operation ever rehashes the table.
//!
//! Linear hashing (Litwin 1980). There are n buckets, and for every [`LOAD`] new entries one more: bucket n takes its share
//! out of the one bucket whose hashes have the same low bits but for the highest. So an insert moves the entries of one
//! bucket, about 16, where a table that doubles moves all of them, and there is no directory that could double either.
//! How many buckets there are follows from the number of entries alone: hashes that are chosen to be alike make one chain
//! of buckets long, as they make a probe sequence long in any table, but nothing else.
//!
//! A bucket is a cache line: twelve indexes, each with eight bits of its hash, so a lookup reads one line and the key.
//! Memory: 8 to 9.5 bytes an entry at any size.

use crate::ChunkedVec;

/// A set of `u32` indexes, found by the hash of a key that lives elsewhere, in the slab the indexes point into.
///
/// The caller hashes, with a seed of its own. Buckets are not given back: they wait for the next entries.
#[derive(Debug)]
pub struct IndexTable {
    len: usize,
    /// The lowest power of two that is not below the number of buckets, less one.
    mask: u32,
    /// The bucket of each place.
    buckets: ChunkedVec<Bucket>,
    /// Buckets behind a full one. In a chain only the first of these may have room.
    overflow: ChunkedVec<Bucket>,
    /// First of the overflow buckets not in use, linked by `next`.
    free: u32,
}

impl IndexTable {
    /// An empty table; it allocates with the first entry.
    pub const fn new() -> Self {
        Self {
            len: 0,
            mask: 0,
            buckets: ChunkedVec::new(),
            overflow: ChunkedVec::new(),
            free: NONE,
        }
    }

    /// Indexes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The index with this hash for which `is_it` holds.
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut bucket = self.buckets.get(self.place(hash))?;
        loop {
            if let Some(slot) = bucket.find(tag(hash), &is_it) {
                return Some(bucket.indexes[slot]);
            }
            bucket = self.overflow.get(bucket.next as usize)?;
        }
    }

    /// Adds an index that is not held yet. `hasher` gives the hash of an index; it is called once for each entry moved.
    pub fn insert_unique(&mut self, hash: u64, index: u32, hasher: impl Fn(u32) -> u64) {
        if self.len >= self.buckets.len() * LOAD {
            self.split(hasher);
        }
        self.len += 1;
        self.put(self.place(hash), tag(hash), index);
    }

    /// Takes out the index with this hash for which `is_it` holds.
    pub fn remove(&mut self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let place = self.place(hash);
        let mut link = NONE;
        let mut bucket = self.buckets.get(place)?;
        let slot = loop {
            if let Some(slot) = bucket.find(tag(hash), &is_it) {
                break slot;
            }
            link = bucket.next;
            bucket = self.overflow.get(link as usize)?;
        };
        let removed = bucket.indexes[slot];
        self.len -= 1;
        // The last entry of the only bucket that may have room fills the hole.
        let first = self.buckets[place].next;
        let giver = self.linked_mut(place, first);
        let last = giver.len() - 1;
        let moved = (giver.tags[last], giver.indexes[last]);
        giver.tags[last] = VACANT;
        if (link, slot) != (first, last) {
            let bucket = self.linked_mut(place, link);
            (bucket.tags[slot], bucket.indexes[slot]) = moved;
        }
        if last == 0 && first != NONE {
            self.buckets[place].next = self.release(first);
        }
        Some(removed)
    }

    /// Where a hash belongs. The lowest bits decide; a place that is not there yet is still part of the one below.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half of the hash is what is wanted"
    )]
    fn place(&self, hash: u64) -> usize {
        let place = (hash as u32 & self.mask) as usize;
        if place < self.buckets.len() { place } else { place & (self.mask >> 1) as usize }
    }

    /// The bucket of a place, or the one `link` leads to.
    fn linked_mut(&mut self, place: usize, link: u32) -> &mut Bucket {
        if link == NONE { &mut self.buckets[place] } else { &mut self.overflow[link as usize] }
    }

    fn put(&mut self, place: usize, tag: u8, index: u32) {
        let bucket = &mut self.buckets[place];
        let first = bucket.next;
        if bucket.push(tag, index)
            || self.overflow.get_mut(first as usize).is_some_and(|bucket| bucket.push(tag, index))
        {
            return;
        }
        let mut added = Bucket { next: first, ..Bucket::EMPTY };
        added.push(tag, index);
        let link = self.free;
        if let Some(bucket) = self.overflow.get_mut(link as usize) {
            self.free = core::mem::replace(bucket, added).next;
            self.buckets[place].next = link;
        } else {
            self.buckets[place].next = u32::try_from(self.overflow.len())
                .expect("twelve u32 indexes a bucket, so fewer buckets than that");
            self.overflow.push(added);
        }
    }

    /// Frees an overflow bucket and returns what follows it.
    fn release(&mut self, link: u32) -> u32 {
        let next = core::mem::replace(&mut self.overflow[link as usize].next, self.free);
        self.free = link;
        next
    }

    /// Adds a place, and moves there what belongs there.
    fn split(&mut self, hasher: impl Fn(u32) -> u64) {
        let added = self.buckets.len();
        if added > self.mask as usize {
            self.mask = self.mask << 1 | 1;
        }
        self.buckets.push(Bucket::EMPTY);
        let divided = added & (self.mask >> 1) as usize;
        let mut bucket = core::mem::replace(&mut self.buckets[divided], Bucket::EMPTY);
        loop {
            for index in bucket.indexes.into_iter().take(bucket.len()) {
                let hash = hasher(index);
                self.put(self.place(hash), tag(hash), index);
            }
            let Some(next) = self.overflow.get(bucket.next as usize) else { return };
            let next = *next;
            self.release(bucket.next);
            bucket = next;
        }
    }
}

impl Default for IndexTable {
    fn default() -> Self {
        Self::new()
    }
}

/// One cache line of entries, those in use first.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    indexes: [u32; SLOTS],
    /// The overflow bucket behind this one, or [`NONE`].
    next: u32,
    /// [`tag`] of each entry, or [`VACANT`].
    tags: [u8; SLOTS],
}

impl Bucket {
    const EMPTY: Self = Self { indexes: [0; SLOTS], next: NONE, tags: [VACANT; SLOTS] };

    fn len(&self) -> usize {
        self.matches(VACANT).trailing_zeros() as usize / 8
    }

    /// The slot with this tag for whose index `is_it` holds.
    fn find(&self, tag: u8, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        let mut matches = self.matches(tag);
        while matches != 0 {
            let slot = matches.trailing_zeros() as usize / 8;
            if is_it(self.indexes[slot]) {
                return Some(slot);
            }
            matches &= matches - 1;
        }
        None
    }

    /// The highest bit of each byte whose slot has this tag; slots beyond the last are vacant. Without a branch, so that
    /// the processor goes on to the key, and to the next lookup, while it waits for this line.
    fn matches(&self, tag: u8) -> u128 {
        let mut tags = [VACANT; 16];
        tags[..SLOTS].copy_from_slice(&self.tags);
        let zero_if_same = u128::from_le_bytes(tags) ^ u128::from_le_bytes([tag; 16]);
        !(((zero_if_same & LOW_BITS) + LOW_BITS) | zero_if_same | LOW_BITS)
    }

    /// Whether there was room.
    fn push(&mut self, tag: u8, index: u32) -> bool {
        let slot = self.len();
        if slot < SLOTS {
            (self.tags[slot], self.indexes[slot]) = (tag, index);
        }
        slot < SLOTS
    }
}

/// The eight highest bits of a hash: those that do not choose its place. Never [`VACANT`].
const fn tag(hash: u64) -> u8 {
    let [tag, ..] = hash.to_be_bytes();
    if tag == VACANT { 1 } else { tag }
}

/// Entries a bucket.
const SLOTS: usize = 12;
/// Mean number of entries for each place. A place not yet divided in a round has up to twice the entries of one that is,
/// so buckets of twelve slots need that room: one in ten overflows.
const LOAD: usize = 8;
/// All but the highest bit of each byte.
const LOW_BITS: u128 = u128::from_le_bytes([0x7f; 16]);
/// The tag of an empty slot.
const VACANT: u8 = 0;
/// No bucket: an index no vector reaches.
const NONE: u32 = u32::MAX;

const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(LOAD < SLOTS && SLOTS < size_of::<u128>());

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;

    /// Spreads well (the finalizer of MurmurHash3).
    fn spread(index: u32) -> u64 {
        let mut hash = u64::from(index) + 1;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }

    fn filled(count: u32, hasher: fn(u32) -> u64) -> IndexTable {
        let mut table = IndexTable::new();
        for index in 0..count {
            table.insert_unique(hasher(index), index, hasher);
        }
        table
    }

    #[test]
    fn no_operation_moves_more_than_a_few_buckets_of_entries() {
        let mut table = IndexTable::new();
        let moved = Cell::new(0);
        for index in 0..1_000_000 {
            moved.set(0);
            table.insert_unique(spread(index), index, |index| {
                moved.set(moved.get() + 1);
                spread(index)
            });
            assert!(moved.get() <= 4 * SLOTS, "insert {index} moved {}", moved.get());
        }
    }

    #[test]
    fn memory_is_ten_bytes_an_entry_at_most() {
        let mut table = IndexTable::new();
        for index in 0..300_000 {
            table.insert_unique(spread(index), index, spread);
            let bytes = size_of::<Bucket>() * (table.buckets.len() + table.overflow.len());
            assert!(bytes <= 10 * table.len() + 512, "{bytes} bytes for {} entries", table.len());
        }
    }

    #[test]
    fn entries_that_come_after_others_went_take_their_place() {
        let mut table = filled(100_000, spread);
        for round in 1..=5 {
            let buckets = table.buckets.len() + table.overflow.len();
            for index in 0..100_000 {
                let (old, new) = (index + 100_000 * (round - 1), index + 100_000 * round);
                assert_eq!(table.remove(spread(old), |index| index == old), Some(old));
                table.insert_unique(spread(new), new, spread);
            }
            let growth = table.buckets.len() + table.overflow.len() - buckets;
            assert!(growth * 50 < buckets, "round {round}: {growth} more than {buckets}");
        }
    }

    #[test]
    fn equal_hashes_lengthen_one_chain_and_nothing_else() {
        let hasher = |_| 0x0123_4567_89ab_cdef;
        let mut table = filled(2_000, hasher);
        assert_eq!(table.buckets.len(), 2_000_usize.div_ceil(LOAD));
        assert!(table.overflow.len() <= 2_000_usize.div_ceil(SLOTS));
        for index in (0..2_000).rev() {
            assert_eq!(table.find(hasher(index), |held| held == index), Some(index));
            assert_eq!(table.remove(hasher(index), |held| held == index), Some(index));
            assert_eq!(table.find(hasher(index), |held| held == index), None);
        }
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            hash_bits in prop_oneof![Just(u64::MAX), Just(0), Just(3), Just(0xff << 56), Just(0x0fff_0000)],
            steps in prop::collection::vec((any::<bool>(), 0..400_u32), 1..1_500),
        ) {
            // Taking bits away makes some or all hashes alike.
            let hasher = |index: u32| spread(index) & hash_bits;
            let mut table = IndexTable::new();
            let mut model = BTreeSet::new();
            for (insert, index) in steps {
                let found = table.find(hasher(index), |held| held == index);
                prop_assert_eq!(found.is_some(), model.contains(&index));
                if !insert {
                    let removed = table.remove(hasher(index), |held| held == index);
                    prop_assert_eq!(removed.is_some(), model.remove(&index));
                } else if model.insert(index) {
                    table.insert_unique(hasher(index), index, hasher);
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let found: Vec<u32> =
                (0..400).filter_map(|index| table.find(hasher(index), |held| held == index)).collect();
            prop_assert!(found.iter().eq(&model));
        }
    }
}
