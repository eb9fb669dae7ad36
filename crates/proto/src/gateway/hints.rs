//! Which uids and groups this shard holds, for the routing index of the gateway's home: changes as they happen, and the
//! whole list in parts (docs/protocol.md#extension).
//!
//! Cost: without a home nothing is recorded, and a change of names costs one comparison.

use alloc::vec::Vec;

use tengate_base::{ShardId, Sink};

use super::Gateway;
use super::mesh::{LinkId, Mesh};
use crate::query::Partial;
use crate::wire::extension::{Extension, NameChange, NameKind, NameList};

/// Changes of the names a shard holds that the home was not told of yet.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// The dispatcher to tell. `None` in direct mode, and before the first home.
    pub(super) home: Option<LinkId>,
    /// A list of [`NameChange`].
    changes: Vec<u8>,
    count: u64,
}

/// Where one frame of names ends, in bytes; a single name may be longer.
const PART_BYTES_MAX: usize = 64 << 10;

/// Entries that one question for names looks at, in use or not.
const PART_ENTRIES_MAX: usize = 1 << 16;

/// Set in a cursor that walks the groups; without it, the uids.
const GROUPS: u64 = 1 << 32;

/// The cursor of who is to ask again from the beginning.
const AGAIN: u64 = 1 << 33;

impl Hints {
    /// The first client of a name came.
    pub(super) fn gained(&mut self, kind: NameKind, name: &[u8]) {
        if self.home.is_some() {
            self.record(&NameChange { kind, held: true, name });
        }
    }

    /// The last client of a name is gone.
    pub(super) fn lost(&mut self, kind: NameKind, name: &[u8]) {
        if self.home.is_some() {
            self.record(&NameChange { kind, held: false, name });
        }
    }

    #[cold]
    fn record(&mut self, change: &NameChange<'_>) {
        change.encode(&mut self.changes);
        self.count += 1;
    }

    /// Whether there is anything to tell.
    pub(super) fn any(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl Gateway {
    /// Tells the home what has changed since the last time.
    #[cold]
    pub(super) fn send_hints(&mut self, sink: &mut impl Sink) {
        let changes = core::mem::take(&mut self.hints.changes);
        self.stats.names_hinted += core::mem::take(&mut self.hints.count);
        if let Some(home) = self.hints.home {
            for part in parts(&changes) {
                if home.shard == self.shard {
                    self.handle_names(self.shard, home, part, sink);
                } else {
                    Mesh::Names { link: home, changes: part }.encode(sink.mesh(home.shard));
                }
            }
        }
        self.hints.changes = changes;
        self.hints.changes.clear();
    }

    /// Passes changes of the shard `from` on to the home, while the link is that.
    #[cold]
    pub(super) fn handle_names(
        &mut self,
        from: ShardId,
        home: LinkId,
        changes: &[u8],
        sink: &mut impl Sink,
    ) {
        // Too early, before HOME: the dispatcher will ask for the whole list after that. Too late: it has no use for them.
        if self.is_home(home) {
            let any_client = self.first_connection_id(from);
            Extension::Names.encode(any_client, changes, sink.buffer(home.conn));
            self.choke(home.conn, sink);
        }
    }

    /// The part of this shard's names that begins at `cursor`, 0 for the first, for the dispatcher behind `link`.
    pub(super) fn list_names(&self, link: LinkId, cursor: u64) -> Partial {
        let mut part = Part { names: Vec::new(), entries: 0 };
        let next = if self.hints.home != Some(link) {
            // The dispatcher has heard before this shard that it is the home. It asks again: what changes between a list
            // and the first change that is recorded would never be told.
            AGAIN
        } else if cursor == AGAIN {
            self.list_part(0, &mut part)
        } else {
            self.list_part(cursor, &mut part)
        };
        let mut answer = Vec::with_capacity(part.names.len() + 8);
        NameList { next, names: &part.names }.encode(&mut answer);
        Partial::Whole(answer)
    }

    /// Fills a part; returns where the next one begins, 0 at the end.
    fn list_part(&self, cursor: u64, part: &mut Part) -> u64 {
        let index = u32::try_from(cursor % GROUPS).unwrap_or(0);
        let mut groups_from = index;
        if cursor < GROUPS {
            if let Some(next) = part.fill(NameKind::Uid, self.uids.by_index(index)) {
                return u64::from(next);
            }
            groups_from = 0;
        }
        match part.fill(NameKind::Group, self.groups.by_index(groups_from)) {
            Some(next) => GROUPS | u64::from(next),
            None => 0,
        }
    }
}

/// A part of a list of names.
struct Part {
    /// A list of [`NameChange`].
    names: Vec<u8>,
    /// Entries looked at.
    entries: usize,
}

impl Part {
    /// Takes names until the part is full; the index of the first that has to wait for the next part.
    fn fill<'a>(
        &mut self,
        kind: NameKind,
        entries: impl Iterator<Item = (u32, Option<&'a [u8]>)>,
    ) -> Option<u32> {
        for (index, name) in entries {
            let start = self.names.len();
            let is_full = self.entries == PART_ENTRIES_MAX;
            self.entries += 1;
            if let Some(name) = name.filter(|_| !is_full) {
                NameChange { kind, held: true, name }.encode(&mut self.names);
            }
            if is_full || (start > 0 && self.names.len() > PART_BYTES_MAX) {
                self.names.truncate(start);
                return Some(index);
            }
        }
        None
    }
}

/// Cuts a list of changes into parts for one frame each.
fn parts(mut changes: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let mut rest = changes;
        let mut len = 0;
        while NameChange::decode(&mut rest).is_some()
            && (len == 0 || changes.len() - rest.len() <= PART_BYTES_MAX)
        {
            len = changes.len() - rest.len();
        }
        changes.split_off(..len).filter(|part| !part.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_changes_is_cut_between_names_and_nothing_is_lost() {
        let long = alloc::vec![b'x'; PART_BYTES_MAX + 1];
        let short = alloc::vec![b'y'; PART_BYTES_MAX / 3];
        let mut changes = Vec::new();
        for name in [&short, &long, &short, &short, &short, &long] {
            NameChange { kind: NameKind::Uid, held: true, name }.encode(&mut changes);
        }
        let lens: Vec<usize> = parts(&changes).map(<[u8]>::len).collect();
        let (short, long) = (short.len() + 5, long.len() + 5);
        assert_eq!(lens, [short, long, 2 * short, short, long]);
        assert_eq!(parts(&changes).flatten().copied().collect::<Vec<_>>(), changes);
        assert_eq!(parts(b"").count(), 0);
    }
}
