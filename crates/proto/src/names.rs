//! A table of named things (uids, groups) in the order they came to be, as PHP arrays keep them.
//!
//! Cost: the name, 32 bytes of its place, links and value in a dense slab, about 9 bytes in the hash table.

use alloc::boxed::Box;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use tengate_base::{ChunkedVec, IndexTable};

/// "No index": ends of lists, unset references.
pub(crate) const NONE: u32 = u32::MAX;

/// Names with a value each; an entry keeps its index as long as it lives.
#[derive(Debug)]
pub(crate) struct Names<T> {
    entries: ChunkedVec<Entry<T>>,
    /// First of the entries not in use, linked by `next`.
    free: u32,
    by_name: IndexTable,
    hasher: FixedState,
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Entry<T> {
    name: Box<[u8]>,
    prev: u32,
    next: u32,
    value: T,
}

impl<T: Default> Names<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: ChunkedVec::new(),
            free: NONE,
            by_name: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
            first: NONE,
            last: NONE,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        self.find_hashed(self.hasher.hash_one(name), name)
    }

    fn find_hashed(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.by_name.find(hash, |index| *self.entries[index as usize].name == *name)
    }

    /// The entry of this name, made if there is none.
    pub(crate) fn find_or_insert(&mut self, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(name);
        if let Some(index) = self.find_hashed(hash, name) {
            return index;
        }
        let entry = Entry { name: name.into(), prev: self.last, next: NONE, value: T::default() };
        let index = if let Some(vacant) = self.entries.get_mut(self.free as usize) {
            let next = core::mem::replace(vacant, entry).next;
            core::mem::replace(&mut self.free, next)
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1)
                .expect("fewer names than clients' memberships, a u32")
        };
        match self.last {
            NONE => self.first = index,
            last => self.entries[last as usize].next = index,
        }
        self.last = index;
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_name
            .insert_unique(hash, index, |index| hasher.hash_one(&*entries[index as usize].name));
        index
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let (prev, next) = (entry.prev, entry.next);
        let name = core::mem::take(&mut entry.name);
        entry.value = T::default();
        entry.next = core::mem::replace(&mut self.free, index);
        match prev {
            NONE => self.first = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.last = prev,
            next => self.entries[next as usize].prev = prev,
        }
        let hash = self.hasher.hash_one(&*name);
        self.by_name.remove(hash, |found| found == index);
    }

    pub(crate) fn name(&self, index: u32) -> &[u8] {
        &self.entries[index as usize].name
    }

    pub(crate) fn value(&self, index: u32) -> &T {
        &self.entries[index as usize].value
    }

    pub(crate) fn value_mut(&mut self, index: u32) -> &mut T {
        &mut self.entries[index as usize].value
    }

    /// Places of entries so far, used or not: every entry's index is below.
    pub(crate) fn place_count(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("entries have indexes of 32 bits")
    }

    /// Whether a place holds an entry. No name is empty.
    pub(crate) fn is_used(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| !entry.name.is_empty())
    }

    /// Entries by their index, from `index` on; those not in use have no name.
    pub(crate) fn by_index(&self, index: u32) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        let len = u32::try_from(self.entries.len()).unwrap_or(NONE);
        (index..len).map(|index| {
            let name = self.name(index);
            // An entry not in use has an empty name, as one that is in use may have.
            let in_use = !name.is_empty() || self.find(name) == Some(index);
            (index, in_use.then_some(name))
        })
    }

    /// Every name, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let step = |index: u32| (index != NONE).then_some(index);
        core::iter::successors(step(self.first), move |index| {
            step(self.entries[*index as usize].next)
        })
        .map(|index| self.name(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn entries_keep_their_index_and_those_not_in_use_have_no_name() {
        let mut names = Names::<u8>::new(1);
        for name in [&b"a"[..], b"", b"c", b"d"] {
            names.find_or_insert(name);
        }
        names.remove(0);
        names.remove(2);
        let all: Vec<_> = names.by_index(0).collect();
        assert_eq!(all, [(0, None), (1, Some(&b""[..])), (2, None), (3, Some(&b"d"[..]))]);
        assert_eq!(names.by_index(3).count(), 1);
        assert_eq!(names.by_index(9).count(), 0);
    }
}
