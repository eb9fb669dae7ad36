//! Which gateways hold which uid and group (docs/dispatcher.md#routing-index).
//!
//! A gateway's shard says when it gets its first client of a name and when it loses the last. What a command may have
//! added since is provisional until the gateway has answered a fence behind that command. So a send never misses a
//! client for being faster than the news, and goes nowhere else.
//!
//! Cost: the name, 64 bytes, and 16 bytes for each shard beyond the first that holds it.

use alloc::vec::Vec;

use crate::names::Names;
use crate::wire::extension::NameKind;

/// A shard of a gateway as the index knows it: its `proc_id`, and which life of it; what an earlier life held counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) proc_id: u16,
    pub(super) life: u32,
}

/// Both indexes.
#[derive(Debug)]
pub(super) struct Index {
    uids: Names<Entries>,
    groups: Names<Entries>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    holder: Holder,
    /// The shard said so.
    held: bool,
    /// It may hold the name until this fence of its gateway is answered; 0 for none.
    fence: u32,
}

/// Who holds a name: nearly always one.
#[derive(Debug, Default)]
enum Entries {
    #[default]
    None,
    One(Entry),
    Many(Vec<Entry>),
}

impl Entries {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Self::None => &[],
            Self::One(entry) => core::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn find(&mut self, holder: Holder) -> Option<&mut Entry> {
        let entries = match self {
            Self::None => &mut [],
            Self::One(entry) => core::slice::from_mut(entry),
            Self::Many(entries) => entries,
        };
        entries.iter_mut().find(|entry| entry.holder == holder)
    }

    fn push(&mut self, entry: Entry) {
        *self = match core::mem::take(self) {
            Self::None => Self::One(entry),
            Self::One(first) => Self::Many([first, entry].into()),
            Self::Many(mut entries) => {
                entries.push(entry);
                Self::Many(entries)
            }
        };
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        match self {
            Self::None => {}
            Self::One(entry) if keep(entry) => {}
            Self::One(_) => *self = Self::None,
            Self::Many(entries) => {
                entries.retain(keep);
                match entries.as_slice() {
                    [] => *self = Self::None,
                    [last] => *self = Self::One(*last),
                    [..] => {}
                }
            }
        }
    }
}

impl Index {
    pub(super) fn new(seed: u64) -> Self {
        Self { uids: Names::new(seed), groups: Names::new(seed.wrapping_add(1)) }
    }

    /// How many names of a kind anybody holds.
    pub(super) fn len(&self, kind: NameKind) -> usize {
        match kind {
            NameKind::Uid => self.uids.len(),
            NameKind::Group => self.groups.len(),
        }
    }

    fn names(&mut self, kind: NameKind) -> &mut Names<Entries> {
        match kind {
            NameKind::Uid => &mut self.uids,
            NameKind::Group => &mut self.groups,
        }
    }

    /// A shard said whether it holds a name.
    pub(super) fn set(&mut self, kind: NameKind, name: &[u8], holder: Holder, held: bool) {
        let names = self.names(kind);
        if !held {
            let Some(index) = names.find(name) else { return };
            if let Some(entry) = names.value_mut(index).find(holder) {
                entry.held = false;
            }
            return self.tidy(kind, index, |entry| {
                entry.held || entry.fence > 0 || entry.holder != holder
            });
        }
        let index = names.find_or_insert(name);
        let entries = names.value_mut(index);
        match entries.find(holder) {
            Some(entry) => entry.held = true,
            None => entries.push(Entry { holder, held, fence: 0 }),
        }
    }

    /// A shard may hold a name until `fence` is answered.
    pub(super) fn expect(&mut self, kind: NameKind, name: &[u8], holder: Holder, fence: u32) {
        let names = self.names(kind);
        let index = names.find_or_insert(name);
        let entries = names.value_mut(index);
        match entries.find(holder) {
            Some(entry) => entry.fence = fence,
            None => entries.push(Entry { holder, held: false, fence }),
        }
    }

    /// The fence of an expectation was answered: from here on the shard's own word counts.
    pub(super) fn settle(&mut self, kind: NameKind, name: &[u8], holder: Holder, fence: u32) {
        let names = self.names(kind);
        let Some(index) = names.find(name) else { return };
        if let Some(entry) = names.value_mut(index).find(holder)
            && entry.fence <= fence
        {
            entry.fence = 0;
        }
        self.tidy(kind, index, |entry| entry.held || entry.fence > 0 || entry.holder != holder);
    }

    /// Who holds a name, or may.
    pub(super) fn holders(&self, kind: NameKind, name: &[u8]) -> impl Iterator<Item = Holder> {
        let names = match kind {
            NameKind::Uid => &self.uids,
            NameKind::Group => &self.groups,
        };
        let entries = names.find(name).map_or(&[][..], |index| names.value(index).as_slice());
        entries.iter().map(|entry| entry.holder)
    }

    /// Forgets what ended lives held, in the places from `from` on, and returns where to go on: a part of the index at a
    /// time, so that nobody waits for it. `None` at the end.
    pub(super) fn sweep(
        &mut self,
        from: (NameKind, u32),
        lives: impl Fn(Holder) -> bool,
    ) -> Option<(NameKind, u32)> {
        let (kind, first) = from;
        let end = first.saturating_add(SWEEP_PLACES);
        let places = self.names(kind).place_count();
        for index in first..end.min(places) {
            if self.names(kind).is_used(index) {
                self.tidy(kind, index, |entry| lives(entry.holder));
            }
        }
        match kind {
            _ if end < places => Some((kind, end)),
            NameKind::Uid => Some((NameKind::Group, 0)),
            NameKind::Group => None,
        }
    }

    /// Drops entries of a name, and the name with the last one.
    fn tidy(&mut self, kind: NameKind, index: u32, keep: impl Fn(&Entry) -> bool) {
        let names = self.names(kind);
        let entries = names.value_mut(index);
        entries.retain(keep);
        if matches!(entries, Entries::None) {
            names.remove(index);
        }
    }
}

/// Places of the index looked at in one go.
const SWEEP_PLACES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Holder { proc_id: 1, life: 1 };
    const B: Holder = Holder { proc_id: 2, life: 2 };

    fn holders(index: &Index, name: &[u8]) -> Vec<Holder> {
        let mut holders: Vec<Holder> = index.holders(NameKind::Uid, name).collect();
        holders.sort_unstable();
        holders
    }

    #[test]
    fn a_name_is_where_shards_say_it_is() {
        let mut index = Index::new(1);
        index.set(NameKind::Uid, b"u", A, true);
        index.set(NameKind::Uid, b"u", B, true);
        index.set(NameKind::Uid, b"u", B, true);
        assert_eq!(holders(&index, b"u"), [A, B]);
        index.set(NameKind::Uid, b"u", A, false);
        assert_eq!(holders(&index, b"u"), [B]);
        index.set(NameKind::Uid, b"u", B, false);
        index.set(NameKind::Uid, b"unheard of", B, false);
        assert_eq!((holders(&index, b"u"), index.len(NameKind::Uid)), (Vec::new(), 0));
    }

    #[test]
    fn what_a_command_may_have_added_counts_until_its_fence_is_answered() {
        let mut index = Index::new(1);
        index.expect(NameKind::Uid, b"u", A, 5);
        assert_eq!(holders(&index, b"u"), [A]);
        index.settle(NameKind::Uid, b"u", A, 4);
        assert_eq!(holders(&index, b"u"), [A], "a later command still counts");
        index.settle(NameKind::Uid, b"u", A, 5);
        assert_eq!((holders(&index, b"u"), index.len(NameKind::Uid)), (Vec::new(), 0));

        index.expect(NameKind::Uid, b"u", A, 6);
        index.set(NameKind::Uid, b"u", A, true);
        index.settle(NameKind::Uid, b"u", A, 6);
        assert_eq!(holders(&index, b"u"), [A]);
    }

    #[test]
    fn a_release_before_the_fence_leaves_the_expectation() {
        let mut index = Index::new(1);
        index.set(NameKind::Uid, b"u", A, true);
        index.expect(NameKind::Uid, b"u", A, 9);
        index.set(NameKind::Uid, b"u", A, false);
        assert_eq!(holders(&index, b"u"), [A]);
        index.settle(NameKind::Uid, b"u", A, 9);
        assert_eq!(index.len(NameKind::Uid), 0);
    }

    #[test]
    fn sweeping_in_parts_forgets_ended_lives_only() {
        let mut index = Index::new(1);
        for number in 0..10_000_u32 {
            let holder = if number % 3 == 0 { A } else { B };
            index.set(NameKind::Uid, &number.to_be_bytes(), holder, true);
            index.set(NameKind::Group, &number.to_be_bytes(), A, true);
        }
        let mut at = Some((NameKind::Uid, 0));
        let mut parts = 0;
        while let Some(from) = at {
            at = index.sweep(from, |holder| holder == B);
            parts += 1;
        }
        assert!(parts > 4, "{parts}");
        assert_eq!((index.len(NameKind::Uid), index.len(NameKind::Group)), (6666, 0));
    }
}
