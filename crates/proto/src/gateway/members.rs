//! Who is bound to which uid, and who is in which group.
//!
//! Both are lists threaded through slabs, so that joining, leaving and closing cost the same however many clients share
//! a name, while the order stays PHP's: oldest first.

use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use tengate_base::{ChunkedVec, IndexTable};

use super::hints::Hints;
use crate::names::{NONE, Names};
use crate::wire::extension::NameKind;

/// uid ⇒ clients. A client has one uid at most.
#[derive(Debug)]
pub(super) struct Uids {
    names: Names<Ends>,
    /// By client index.
    places: ChunkedVec<Place>,
}

/// First and last member of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

impl Default for Ends {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    uid: u32,
    prev: u32,
    next: u32,
}

const NOWHERE: Place = Place { uid: NONE, prev: NONE, next: NONE };

impl Uids {
    pub(super) fn new(seed: u64) -> Self {
        Self { names: Names::new(seed), places: ChunkedVec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Binds `client` to `uid`, at the end of its list, moving it from any uid it had.
    pub(super) fn bind(&mut self, client: u32, uid: &[u8], hints: &mut Hints) {
        self.unbind(client, hints);
        let at = client as usize;
        self.places.grow_to(at + 1, || NOWHERE);
        let index = self.names.find_or_insert(uid);
        let ends = self.names.value_mut(index);
        self.places[at] = Place { uid: index, prev: ends.last, next: NONE };
        match ends.last {
            NONE => {
                ends.first = client;
                hints.gained(NameKind::Uid, uid);
            }
            last => self.places[last as usize].next = client,
        }
        ends.last = client;
    }

    pub(super) fn unbind(&mut self, client: u32, hints: &mut Hints) {
        let Some(place) = self.places.get_mut(client as usize) else { return };
        let Place { uid, prev, next } = core::mem::replace(place, NOWHERE);
        if uid == NONE {
            return;
        }
        let ends = self.names.value_mut(uid);
        match prev {
            NONE => ends.first = next,
            prev => self.places[prev as usize].next = next,
        }
        match next {
            NONE => ends.last = prev,
            next => self.places[next as usize].prev = prev,
        }
        if ends.first == NONE {
            hints.lost(NameKind::Uid, self.names.name(uid));
            self.names.remove(uid);
        }
    }

    /// The uid a client is bound to.
    pub(super) fn of(&self, client: u32) -> Option<&[u8]> {
        let uid = self.places.get(client as usize)?.uid;
        (uid != NONE).then(|| self.names.name(uid))
    }

    /// The clients of a uid, oldest binding first.
    pub(super) fn clients(&self, uid: &[u8]) -> impl Iterator<Item = u32> {
        let first = self.names.find(uid).map_or(NONE, |index| self.names.value(index).first);
        list(first, |client| self.places[client as usize].next)
    }

    /// Uids by the index of their entry, from `index` on.
    pub(super) fn by_index(&self, index: u32) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        self.names.by_index(index)
    }
}

/// group ⇔ clients, many to many.
#[derive(Debug)]
pub(super) struct Groups {
    names: Names<Group>,
    memberships: ChunkedVec<Membership>,
    /// First of the memberships not in use, linked by `next_in_group`.
    free: u32,
    /// (client, group) ⇒ membership.
    by_pair: IndexTable,
    hasher: FixedState,
    /// By client index: first and last membership.
    clients: ChunkedVec<Ends>,
}

#[derive(Debug, Default)]
struct Group {
    ends: Ends,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    client: u32,
    group: u32,
    prev_in_group: u32,
    next_in_group: u32,
    prev_in_client: u32,
    next_in_client: u32,
}

impl Groups {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            names: Names::new(seed),
            memberships: ChunkedVec::new(),
            free: NONE,
            by_pair: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
            clients: ChunkedVec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Puts `client` into `group`; no change when it is there already.
    pub(super) fn join(&mut self, client: u32, name: &[u8], hints: &mut Hints) {
        let group = self.names.find_or_insert(name);
        if self.find(client, group).is_some() {
            return;
        }
        self.clients.grow_to(client as usize + 1, Ends::default);
        let in_group = self.names.value_mut(group);
        let in_client = &mut self.clients[client as usize];
        let membership = Membership {
            client,
            group,
            prev_in_group: in_group.ends.last,
            next_in_group: NONE,
            prev_in_client: in_client.last,
            next_in_client: NONE,
        };
        let index = if let Some(vacant) = self.memberships.get_mut(self.free as usize) {
            let next = core::mem::replace(vacant, membership).next_in_group;
            core::mem::replace(&mut self.free, next)
        } else {
            self.memberships.push(membership);
            u32::try_from(self.memberships.len() - 1)
                .expect("memory ends before four thousand million memberships")
        };
        match in_group.ends.last {
            NONE => {
                in_group.ends.first = index;
                hints.gained(NameKind::Group, name);
            }
            last => self.memberships[last as usize].next_in_group = index,
        }
        in_group.ends.last = index;
        in_group.count += 1;
        match in_client.last {
            NONE => in_client.first = index,
            last => self.memberships[last as usize].next_in_client = index,
        }
        in_client.last = index;
        let (memberships, hasher) = (&self.memberships, &self.hasher);
        self.by_pair.insert_unique(hasher.hash_one((client, group)), index, |index| {
            let pair = &memberships[index as usize];
            hasher.hash_one((pair.client, pair.group))
        });
    }

    /// Takes `client` out of `group`; no change when it is not there.
    pub(super) fn leave(&mut self, client: u32, group: &[u8], hints: &mut Hints) {
        let Some(group) = self.names.find(group) else { return };
        if let Some(membership) = self.find(client, group) {
            self.remove(membership, hints);
        }
    }

    /// Takes `client` out of every group.
    pub(super) fn leave_all(&mut self, client: u32, hints: &mut Hints) {
        while let Some(ends) = self.clients.get(client as usize) {
            if ends.first == NONE {
                return;
            }
            self.remove(ends.first, hints);
        }
    }

    /// Takes everyone out of `group`.
    pub(super) fn dissolve(&mut self, group: &[u8], hints: &mut Hints) {
        while let Some(index) = self.names.find(group) {
            self.remove(self.names.value(index).ends.first, hints);
        }
    }

    /// Members of a group, oldest first.
    pub(super) fn members(&self, group: &[u8]) -> impl Iterator<Item = u32> {
        let first = self.names.find(group).map_or(NONE, |index| self.names.value(index).ends.first);
        let member = |index: u32| self.memberships.get(index as usize);
        core::iter::successors(member(first), move |found| member(found.next_in_group))
            .map(|found| found.client)
    }

    /// How many members a group has.
    pub(super) fn count(&self, group: &[u8]) -> u32 {
        self.names.find(group).map_or(0, |index| self.names.value(index).count)
    }

    /// The groups of a client, in the order it joined them.
    pub(super) fn of(&self, client: u32) -> impl Iterator<Item = &[u8]> {
        let first = self.clients.get(client as usize).map_or(NONE, |ends| ends.first);
        list(first, |index| self.memberships[index as usize].next_in_client)
            .map(|index| self.names.name(self.memberships[index as usize].group))
    }

    /// Every group, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter()
    }

    /// Groups by the index of their entry, from `index` on.
    pub(super) fn by_index(&self, index: u32) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        self.names.by_index(index)
    }

    fn find(&self, client: u32, group: u32) -> Option<u32> {
        let hash = self.hasher.hash_one((client, group));
        let same = |index: u32| {
            let membership = &self.memberships[index as usize];
            membership.client == client && membership.group == group
        };
        self.by_pair.find(hash, same)
    }

    fn remove(&mut self, index: u32, hints: &mut Hints) {
        let membership = self.memberships[index as usize];
        let hash = self.hasher.hash_one((membership.client, membership.group));
        self.by_pair.remove(hash, |found| found == index);
        let in_client = &mut self.clients[membership.client as usize];
        match membership.prev_in_client {
            NONE => in_client.first = membership.next_in_client,
            prev => self.memberships[prev as usize].next_in_client = membership.next_in_client,
        }
        match membership.next_in_client {
            NONE => in_client.last = membership.prev_in_client,
            next => self.memberships[next as usize].prev_in_client = membership.prev_in_client,
        }
        let in_group = self.names.value_mut(membership.group);
        match membership.prev_in_group {
            NONE => in_group.ends.first = membership.next_in_group,
            prev => self.memberships[prev as usize].next_in_group = membership.next_in_group,
        }
        match membership.next_in_group {
            NONE => in_group.ends.last = membership.prev_in_group,
            next => self.memberships[next as usize].prev_in_group = membership.prev_in_group,
        }
        in_group.count -= 1;
        if in_group.count == 0 {
            hints.lost(NameKind::Group, self.names.name(membership.group));
            self.names.remove(membership.group);
        }
        self.memberships[index as usize].next_in_group = core::mem::replace(&mut self.free, index);
    }
}

/// Follows a list from `first` until [`NONE`].
fn list(first: u32, next: impl Fn(u32) -> u32) -> impl Iterator<Item = u32> {
    let step = |index: u32| (index != NONE).then_some(index);
    core::iter::successors(step(first), move |index| step(next(*index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// The simplest thing that could be right: PHP's nested arrays as vectors.
    #[derive(Default)]
    struct Model {
        order: Vec<String>,
        members: BTreeMap<String, Vec<u32>>,
    }

    impl Model {
        fn add(&mut self, name: &str, client: u32) {
            if !self.members.contains_key(name) {
                self.order.push(name.to_string());
            }
            let list = self.members.entry(name.to_string()).or_default();
            if !list.contains(&client) {
                list.push(client);
            }
        }

        fn remove(&mut self, name: &str, client: u32) {
            let Some(list) = self.members.get_mut(name) else { return };
            list.retain(|member| *member != client);
            if list.is_empty() {
                self.members.remove(name);
                self.order.retain(|other| other != name);
            }
        }
    }

    proptest! {
        #[test]
        fn groups_agree_with_nested_arrays(steps in prop::collection::vec((0_u8..6, 0_u32..6, 0_u8..4), 1..200)) {
            let mut groups = Groups::new(7);
            let mut hints = Hints::default();
            let mut model = Model::default();
            for (step, client, group) in steps {
                let name = group.to_string();
                match step {
                    0..=2 => { groups.join(client, name.as_bytes(), &mut hints); model.add(&name, client); }
                    3 => { groups.leave(client, name.as_bytes(), &mut hints); model.remove(&name, client); }
                    4 => {
                        groups.leave_all(client, &mut hints);
                        for name in model.order.clone() { model.remove(&name, client); }
                    }
                    _ => {
                        groups.dissolve(name.as_bytes(), &mut hints);
                        for member in 0..6 { model.remove(&name, member); }
                    }
                }
                let order: Vec<String> = groups.iter().map(|name| String::from_utf8_lossy(name).into()).collect();
                prop_assert_eq!(&order, &model.order);
                for name in &model.order {
                    let members: Vec<u32> = groups.members(name.as_bytes()).collect();
                    prop_assert_eq!(&members, &model.members[name]);
                    prop_assert_eq!(groups.count(name.as_bytes()) as usize, members.len());
                }
                prop_assert_eq!(groups.len(), model.order.len());
            }
        }

        #[test]
        fn uids_agree_with_nested_arrays(steps in prop::collection::vec((any::<bool>(), 0_u32..6, 0_u8..4), 1..200)) {
            let mut uids = Uids::new(7);
            let mut hints = Hints::default();
            let mut model = Model::default();
            for (bind, client, uid) in steps {
                let name = uid.to_string();
                for other in model.order.clone() { model.remove(&other, client); }
                if bind {
                    uids.bind(client, name.as_bytes(), &mut hints);
                    model.add(&name, client);
                } else {
                    uids.unbind(client, &mut hints);
                }
                prop_assert_eq!(uids.len(), model.order.len());
                for name in ["0", "1", "2", "3"] {
                    let members: Vec<u32> = uids.clients(name.as_bytes()).collect();
                    prop_assert_eq!(members, model.members.get(name).cloned().unwrap_or_default());
                }
            }
        }
    }
}
