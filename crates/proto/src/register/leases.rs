//! Which gateway owns which proc_ids: what makes connection ids unique in a cluster (docs/protocol.md#dispatched-mode).
//!
//! Leases belong to inner addresses. A lease is in use while its gateway is connected to the register or linked to a
//! dispatcher, and is kept for a while after, for the same address to find it again. No two leases overlap, ever.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use tengate_base::Instant;

use crate::wire::register::{Block, Wanted};

/// The leases of a register.
#[derive(Debug)]
pub(super) struct Leases {
    /// What may be leased. Claims may lie elsewhere.
    proc_ids: RangeInclusive<u16>,
    /// How long an absent gateway's lease is kept.
    keep: Duration,
    /// By the first proc_id.
    leases: BTreeMap<u16, Lease>,
    /// Address ⇒ the first proc_id of its lease.
    by_address: BTreeMap<Box<str>, u16>,
    /// When each proc_id was given back last, as a count; those that are not here were never used.
    given_back: BTreeMap<u16, u64>,
    given_back_count: u64,
}

/// A block and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Box<str>,
    pub(super) block: Block,
    /// When it ends; `None` while it is in use.
    pub(super) ends_at: Option<Instant>,
}

/// What a gateway is answered that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The block is its own.
    Leased(Block),
    /// There is no new block yet; ask again when the register is no longer quiet.
    Later,
}

/// Why a gateway gets no block; `Display` says what to do. Always a matter of configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Other gateways split connection ids elsewhere.
    NumberBits { wanted: u8, cluster: u8 },
    /// Another gateway owns some of what it claims.
    Claimed { claimant: Box<str>, claimed: Block, owner: Box<str>, owned: Block },
    /// No block of this size is free.
    Full { shards: u16, proc_ids: RangeInclusive<u16>, leased: usize, kept: usize },
}

impl Leases {
    /// No leases.
    pub(super) fn new(proc_ids: RangeInclusive<u16>, keep: Duration) -> Self {
        Self {
            proc_ids,
            keep,
            leases: BTreeMap::new(),
            by_address: BTreeMap::new(),
            given_back: BTreeMap::new(),
            given_back_count: 0,
        }
    }

    /// The gateway of this address asks for a block, or again for the one it has. The lease is in use from now on. A quiet
    /// register gives no new block.
    pub(super) fn ask(
        &mut self,
        is_quiet: bool,
        address: &str,
        wanted: &Wanted,
    ) -> Result<Answer, Refusal> {
        let Wanted { shards, number_bits, first_proc_id } = *wanted;
        if let Some(first_proc_id) = first_proc_id {
            let block = Block { first_proc_id, shards, number_bits };
            return self.claim(address, block).map(|()| Answer::Leased(block));
        }
        self.agree_on_number_bits(address, number_bits)?;
        if let Some(lease) = self.lease_of_mut(address)
            && (lease.block.shards, lease.block.number_bits) == (shards, number_bits)
        {
            lease.ends_at = None;
            return Ok(Answer::Leased(lease.block));
        }
        if is_quiet {
            return Ok(Answer::Later);
        }
        // The gateway came back with another number of shards, so nobody uses the old block.
        self.give_back(address);
        let Some(first_proc_id) = self.free_block(shards, number_bits) else {
            return Err(Refusal::Full {
                shards,
                proc_ids: self.proc_ids.clone(),
                leased: self.leases.len(),
                kept: self.leases.values().filter(|lease| lease.ends_at.is_some()).count(),
            });
        };
        let block = Block { first_proc_id, shards, number_bits };
        self.insert(address, block);
        Ok(Answer::Leased(block))
    }

    /// The gateway of this address uses this block: leases it to it unless another one owns a part of it.
    pub(super) fn claim(&mut self, address: &str, block: Block) -> Result<(), Refusal> {
        self.agree_on_number_bits(address, block.number_bits)?;
        let owner = self.overlapping(block).find(|lease| *lease.address != *address);
        if let Some(Lease { address: owner, block: owned, .. }) = owner {
            return Err(Refusal::Claimed {
                claimant: address.into(),
                claimed: block,
                owner: owner.clone(),
                owned: *owned,
            });
        }
        self.give_back(address);
        self.insert(address, block);
        Ok(())
    }

    /// The lease of this address is in use.
    pub(super) fn hold(&mut self, address: &str) {
        if let Some(lease) = self.lease_of_mut(address) {
            lease.ends_at = None;
        }
    }

    /// Nobody uses the lease of this address any more; it is kept for a while.
    pub(super) fn leave(&mut self, now: Instant, address: &str) {
        let ends_at = now + self.keep;
        if let Some(lease) = self.lease_of_mut(address) {
            lease.ends_at.get_or_insert(ends_at);
        }
    }

    /// Gives back the leases that were kept long enough. Whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let count = self.leases.len();
        self.give_back_where(|lease| lease.ends_at.is_some_and(|ends_at| ends_at <= now));
        self.leases.len() < count
    }

    /// When [`Self::expire`] has something to do next.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.leases.values().filter_map(|lease| lease.ends_at).min()
    }

    /// Every lease, by proc_id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The bits of the cluster, while there are leases.
    pub(super) fn number_bits(&self) -> Option<u8> {
        self.leases.values().next().map(|lease| lease.block.number_bits)
    }

    /// One split for the whole cluster: the ids of two splits would mean each other's clients. Leases that are only kept do
    /// not stand in the way of a cluster that starts anew with another one.
    fn agree_on_number_bits(&mut self, address: &str, wanted: u8) -> Result<(), Refusal> {
        let others = self.leases.values().filter(|lease| *lease.address != *address);
        let mut in_use = others.filter(|lease| lease.ends_at.is_none());
        let differs = |lease: &&Lease| lease.block.number_bits != wanted;
        if let Some(lease) = in_use.find(differs) {
            return Err(Refusal::NumberBits { wanted, cluster: lease.block.number_bits });
        }
        self.give_back_where(|lease| lease.block.number_bits != wanted);
        Ok(())
    }

    /// The first proc_id of the best free block: one that was never used, else the one that is free for longest.
    fn free_block(&self, shards: u16, number_bits: u8) -> Option<u16> {
        let proc_id_count = 1_u32 << (32 - number_bits);
        let end = (u32::from(*self.proc_ids.end()) + 1).min(proc_id_count);
        let last = u16::try_from(end.checked_sub(u32::from(shards))?).ok()?;
        let mut best: Option<(u64, u16)> = None;
        let mut first_proc_id = *self.proc_ids.start();
        while first_proc_id <= last {
            let block = Block { first_proc_id, shards, number_bits };
            // A block that overlaps a lease: go on behind the lease.
            if let Some(lease) = self.overlapping(block).next_back() {
                let Ok(behind) = u16::try_from(lease.block.end()) else { break };
                first_proc_id = behind;
                continue;
            }
            let given_back = self.given_back.range(range_of(block)).map(|(_, count)| *count).max();
            let Some(given_back) = given_back else { return Some(first_proc_id) };
            if best.is_none_or(|(oldest, _)| given_back < oldest) {
                best = Some((given_back, first_proc_id));
            }
            let Some(next) = first_proc_id.checked_add(1) else { break };
            first_proc_id = next;
        }
        best.map(|(_, first_proc_id)| first_proc_id)
    }

    /// Leases that share a proc_id with the block, ascending.
    fn overlapping(&self, block: Block) -> impl DoubleEndedIterator<Item = &Lease> {
        // Of the leases that begin before the block only the last can reach into it.
        let before = self.leases.range(..block.first_proc_id).next_back();
        let before = before.filter(|(_, lease)| lease.block.end() > u32::from(block.first_proc_id));
        before.into_iter().chain(self.leases.range(range_of(block))).map(|(_, lease)| lease)
    }

    fn lease_of_mut(&mut self, address: &str) -> Option<&mut Lease> {
        self.leases.get_mut(self.by_address.get(address)?)
    }

    fn insert(&mut self, address: &str, block: Block) {
        debug_assert!(self.overlapping(block).next().is_none(), "leases never overlap");
        let lease = Lease { address: address.into(), block, ends_at: None };
        self.leases.insert(block.first_proc_id, lease);
        self.by_address.insert(address.into(), block.first_proc_id);
    }

    fn give_back(&mut self, address: &str) {
        self.give_back_where(|lease| *lease.address == *address);
    }

    fn give_back_where(&mut self, is_over: impl Fn(&Lease) -> bool) {
        for (_, lease) in self.leases.extract_if(.., |_, lease| is_over(lease)) {
            self.by_address.remove(&lease.address);
            self.given_back_count += 1;
            for proc_id in range_of(lease.block) {
                if self.proc_ids.contains(&proc_id) {
                    self.given_back.insert(proc_id, self.given_back_count);
                }
            }
        }
    }
}

fn range_of(block: Block) -> RangeInclusive<u16> {
    let last = u16::try_from(block.end() - 1).unwrap_or(u16::MAX);
    block.first_proc_id..=last
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NumberBits { wanted, cluster } => write!(
                f,
                "number_bits is {wanted} here and {cluster} in the cluster: it must be the same for all gateways, so set \
                 it to {cluster}, or stop them all and start them anew"
            ),
            Self::Claimed { claimant, claimed, owner, owned } => write!(
                f,
                "proc_ids {claimed}, which {claimant} uses, belong to {owner} (proc_ids {owned}): restart one of the two; \
                 several registers need [register] proc_ids that do not overlap"
            ),
            Self::Full { shards, proc_ids, leased, kept } => write!(
                f,
                "no {shards} proc_ids in a row are free among {}–{}, which {leased} gateways have, {kept} of them away and \
                 kept for lease_keep: run fewer shards, or widen [register] proc_ids as far as number_bits lets them, or \
                 choose a smaller number_bits for the whole cluster",
                proc_ids.start(),
                proc_ids.end(),
            ),
        }
    }
}
