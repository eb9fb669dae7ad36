//! Which worker each client is bound to, by the shard of the gateway that has the client.
//!
//! Cost: 12 bytes a client in chunks and about 9 in the hash table; nothing that grows is moved as a whole.

use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use tengate_base::{ChunkedVec, ConnId, IndexTable};

use super::workers::WorkerRef;

/// A shard of a linked gateway.
#[derive(Debug)]
pub(super) struct Proc {
    /// The gateway's link.
    pub(super) gateway: ConnId,
    /// Which life of the shard this is, see `index::Holder`.
    pub(super) life: u32,
    /// Every name it held when this became its home is in the index; until then it may hold any.
    pub(super) listed: bool,
    /// Changes of names that it told until then.
    pub(super) news: Vec<u8>,
    /// Its clients' workers.
    pub(super) bindings: Bindings,
}

/// connection_id ⇒ worker.
#[derive(Debug)]
pub(super) struct Bindings {
    entries: ChunkedVec<Binding>,
    /// First of the entries not in use, linked by `connection_id`.
    free: u32,
    by_id: IndexTable,
    hasher: FixedState,
}

/// A client's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    connection_id: u32,
    /// Its worker, which may be gone.
    pub(super) worker: WorkerRef,
    /// The port it connected to.
    pub(super) port: u16,
}

impl Bindings {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: ChunkedVec::new(),
            free: u32::MAX,
            by_id: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn find(&self, connection_id: u32) -> Option<u32> {
        self.by_id.find(self.hasher.hash_one(connection_id), |index| {
            self.entries[index as usize].connection_id == connection_id
        })
    }

    /// What is known of a client.
    pub(super) fn get(&self, connection_id: u32) -> Option<Binding> {
        self.find(connection_id).map(|index| self.entries[index as usize])
    }

    /// Binds a client, whatever it was bound to.
    pub(super) fn set(&mut self, connection_id: u32, worker: WorkerRef, port: u16) {
        if let Some(index) = self.find(connection_id) {
            self.entries[index as usize].worker = worker;
            return;
        }
        let binding = Binding { connection_id, worker, port };
        let index = if let Some(vacant) = self.entries.get_mut(self.free as usize) {
            let next = core::mem::replace(vacant, binding).connection_id;
            core::mem::replace(&mut self.free, next)
        } else {
            self.entries.push(binding);
            u32::try_from(self.entries.len() - 1).expect("no more clients than connection ids")
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_id.insert_unique(hasher.hash_one(connection_id), index, |index| {
            hasher.hash_one(entries[index as usize].connection_id)
        });
    }

    /// Forgets a client. Returns its worker.
    pub(super) fn remove(&mut self, connection_id: u32) -> Option<WorkerRef> {
        let index = self.find(connection_id)?;
        self.by_id.remove(self.hasher.hash_one(connection_id), |found| found == index);
        let entry = &mut self.entries[index as usize];
        let worker = entry.worker;
        entry.connection_id = core::mem::replace(&mut self.free, index);
        entry.worker = WorkerRef::NONE;
        Some(worker)
    }

    /// The worker of every client, and `NONE` for places that are free.
    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerRef> {
        self.entries.iter().map(|binding| binding.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::workers::Workers;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bindings_are_a_map(ops in proptest::collection::vec((0..3_u8, 0..40_u32), 0..300)) {
            let mut workers = Workers::new(1);
            let refs: Vec<WorkerRef> = (0..3).map(|number: u32| {
                workers.insert(ConnId(number), &number.to_be_bytes(), false);
                let config = crate::dispatcher::Config::with_defaults("1.1.1.1:1".parse().unwrap());
                let any = crate::dispatcher::workers::Candidate { port: 0, ip: b"", name: b"" };
                workers.choose(&config, &any).unwrap()
            }).collect();
            let mut bindings = Bindings::new(7);
            let mut model = alloc::collections::BTreeMap::new();
            for (op, id) in ops {
                if op == 0 {
                    prop_assert_eq!(bindings.remove(id), model.remove(&id));
                } else {
                    bindings.set(id, refs[usize::from(op)], 1);
                    model.insert(id, refs[usize::from(op)]);
                }
                prop_assert_eq!(bindings.len(), model.len());
                for id in 0..40 {
                    let worker = bindings.get(id).map(|binding| binding.worker);
                    prop_assert_eq!(worker, model.get(&id).copied());
                }
            }
        }
    }
}
