//! Which connection a segment belongs to: a table of control blocks, found by address and port of both sides.

use core::hash::{BuildHasher, Hasher};
use core::net::Ipv6Addr;

use alloc::vec::Vec;
use foldhash::fast::FixedState;
use tengate_base::{ChunkedVec, IndexTable};

use crate::tcp::tcb::{State, Tcb};

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowKey {
    pub(crate) remote: Ipv6Addr,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    /// Which of our addresses.
    pub(crate) local: u16,
}

impl FlowKey {
    /// The key as words for a keyed hash, with our address itself.
    pub(crate) fn words(&self, local: Ipv6Addr) -> [u64; 5] {
        let [remote_high, remote_low] = halves(self.remote);
        let [local_high, local_low] = halves(local);
        let ports = u64::from(self.remote_port) << 16 | u64::from(self.local_port);
        [remote_high, remote_low, local_high, local_low, ports]
    }

    /// Its hash for tables.
    #[inline]
    pub(crate) fn hash(&self, state: &FixedState) -> u64 {
        let mut hasher = state.build_hasher();
        hasher.write_u128(self.remote.to_bits());
        hasher.write_u64(
            u64::from(self.remote_port) << 32
                | u64::from(self.local_port) << 16
                | u64::from(self.local),
        );
        hasher.finish()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
const fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

/// All connections but those in TIME-WAIT, by index and by key.
#[derive(Debug)]
pub(crate) struct Flows {
    slots: ChunkedVec<Tcb>,
    table: IndexTable,
    hasher: FixedState,
    free: Vec<u32>,
    /// Indexes that become free at the end of the turn.
    retired: Vec<u32>,
}

impl Flows {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            slots: ChunkedVec::new(),
            table: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
            free: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// Connections.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Indexes are below this.
    pub(crate) fn index_count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("conns_max is below 2^30")
    }

    /// The index of a connection.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        self.table.find(key.hash(&self.hasher), |index| self.slots[index as usize].key == *key)
    }

    /// Adds a connection whose key is not in the table, and returns its index.
    pub(crate) fn insert(&mut self, tcb: Tcb) -> u32 {
        let hash = tcb.key.hash(&self.hasher);
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = tcb;
            index
        } else {
            let index = u32::try_from(self.slots.len()).expect("conns_max is below 2^30");
            self.slots.push(tcb);
            index
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.table.insert_unique(hash, index, |index| slots[index as usize].key.hash(hasher));
        index
    }

    /// Takes a connection out; its index is free at the end of the turn.
    pub(crate) fn remove(&mut self, index: u32) {
        let tcb = &mut self.slots[index as usize];
        debug_assert!(tcb.tx.is_none() && tcb.rx.is_none(), "its queues were given back");
        tcb.state = State::Closed;
        let hash = tcb.key.hash(&self.hasher);
        self.table.remove(hash, |held| held == index);
        self.retired.push(index);
    }

    /// The turn ends.
    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// A connection by its index, if there is one.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Tcb> {
        self.slots.get(index as usize).filter(|tcb| tcb.state != State::Closed)
    }

    /// A connection by its index, if there is one, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Tcb> {
        self.slots.get_mut(index as usize).filter(|tcb| tcb.state != State::Closed)
    }
}
