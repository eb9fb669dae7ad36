//! Who is where on the link: hardware addresses for connections we open. Answers go to where a segment came from and need
//! none of this.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use tengate_base::Instant;

use crate::limits::{NEIGHBOR_WAITERS_MAX, NEIGHBORS_MAX, RESOLVE_INTERVAL};
use crate::wire::ethernet::MacAddr;

/// Neighbours, known or asked for.
#[derive(Debug, Default)]
pub(crate) struct Neighbors {
    entries: BTreeMap<Ipv6Addr, Neighbor>,
}

#[derive(Debug)]
struct Neighbor {
    mac: Option<MacAddr>,
    /// From the configuration.
    is_fixed: bool,
    asked_at: Option<Instant>,
    /// Connections that wait for the address.
    waiters: Vec<u32>,
}

/// Where a neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// Here.
    At(MacAddr),
    /// Not known: ask everybody now.
    Ask,
    /// Asked already.
    Asked,
}

impl Neighbors {
    /// Notes an address of the configuration.
    pub(crate) fn fix(&mut self, address: Ipv6Addr, mac: MacAddr) {
        let fixed =
            Neighbor { mac: Some(mac), is_fixed: true, asked_at: None, waiters: Vec::new() };
        self.entries.insert(address, fixed);
    }

    /// Where is it? When that is not known, `waiter` is told once it is.
    pub(crate) fn resolve(&mut self, now: Instant, address: Ipv6Addr, waiter: u32) -> Resolved {
        if !self.entries.contains_key(&address) {
            self.make_room();
        }
        let entry = self.entries.entry(address).or_insert_with(|| Neighbor {
            mac: None,
            is_fixed: false,
            asked_at: None,
            waiters: Vec::new(),
        });
        if let Some(mac) = entry.mac {
            return Resolved::At(mac);
        }
        if entry.waiters.len() < NEIGHBOR_WAITERS_MAX && !entry.waiters.contains(&waiter) {
            entry.waiters.push(waiter);
        }
        if entry.asked_at.is_some_and(|asked_at| now - asked_at < RESOLVE_INTERVAL) {
            return Resolved::Asked;
        }
        entry.asked_at = Some(now);
        Resolved::Ask
    }

    /// A neighbour says where it is. It is believed when we asked or knew it, or when it `asks_us` (RFC 826). Returns who
    /// waited for it.
    pub(crate) fn learn(&mut self, address: Ipv6Addr, mac: MacAddr, asks_us: bool) -> Vec<u32> {
        if let Some(entry) = self.entries.get_mut(&address) {
            if !entry.is_fixed {
                entry.mac = Some(mac);
            }
            return core::mem::take(&mut entry.waiters);
        }
        if asks_us && self.entries.len() < NEIGHBORS_MAX {
            let learnt =
                Neighbor { mac: Some(mac), is_fixed: false, asked_at: None, waiters: Vec::new() };
            self.entries.insert(address, learnt);
        }
        Vec::new()
    }

    /// Forgets a learnt address behind which nobody answers, so that it is asked for again. Returns whether it was one.
    pub(crate) fn doubt(&mut self, address: Ipv6Addr) -> bool {
        let is_learnt = self.entries.get(&address).is_some_and(|entry| !entry.is_fixed);
        if is_learnt {
            self.entries.remove(&address);
        }
        is_learnt
    }

    fn make_room(&mut self) {
        if self.entries.len() < NEIGHBORS_MAX {
            return;
        }
        let unneeded = self.entries.iter().find(|(_, entry)| !entry.is_fixed);
        if let Some(address) = unneeded.map(|(address, _)| *address) {
            self.entries.remove(&address);
        }
    }
}
