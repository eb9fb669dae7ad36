//! Dispatched mode in the register: gateways get leases and homes, dispatchers hear of gateways
//! (docs/protocol.md#dispatched-mode).

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::{replace, take};
use core::net::SocketAddr;

use tengate_base::{ConnId, How, Instant, Sink};

use super::leases::Answer;
use super::{Announced, LeaseState, Peer, Register, Role, homes};
use crate::wire::register::{Links, encode_gateways, encode_home, encode_lease, encode_refused};

impl Register {
    /// A gateway or dispatcher that connects again from the same machine does so because it gave its earlier connection
    /// up, or because it is a new process at the address of an old one. What the network still holds of it is closed.
    pub(super) fn supersede(
        &mut self,
        now: Instant,
        conn: ConnId,
        address: &str,
        sink: &mut impl Sink,
    ) {
        let Some(remote) = self.peer(conn).map(|peer| peer.remote.ip()) else { return };
        let is_older = |other: &ConnId| {
            *other != conn
                && self.peer(*other).is_some_and(|peer| {
                    peer.remote.ip() == remote
                        && (peer.announced.as_ref()).is_some_and(|announced| {
                            *announced.address == *address
                                && !matches!(announced.role, Role::Direct)
                        })
                })
        };
        let older: Vec<ConnId> = self.announced.iter().copied().filter(is_older).collect();
        self.stats.closed_superseded += older.len() as u64;
        for conn in older {
            self.close(now, conn, How::AtOnce, sink);
        }
    }

    /// A dispatcher's links as they are now.
    pub(super) fn handle_links(
        &mut self,
        now: Instant,
        conn: ConnId,
        links: Links,
        sink: &mut impl Sink,
    ) {
        let here: BTreeSet<Box<str>> = self.dispatched().map(Box::from).collect();
        let Some(Role::Dispatcher(dispatcher)) = self.role_mut(conn) else {
            self.stats.refused_bad_fields += 1;
            self.close(now, conn, How::AfterFlush, sink);
            return;
        };
        let linked: BTreeSet<&str> =
            links.gateways.iter().map(|gateway| &*gateway.address).collect();
        let mut lost = take(&mut dispatcher.links.gateways);
        lost.retain(|gateway| !linked.contains(&*gateway.address));
        for gateway in &links.gateways {
            match gateway.block {
                // A gateway that is connected itself has said what it uses. Nobody would hear that another one has the
                // block; the gateway will when it connects.
                Some(block) if block.is_possible() && !here.contains(&gateway.address) => {
                    _ = self.leases.claim(&gateway.address, block);
                }
                _ => {}
            }
            self.leases.hold(&gateway.address);
        }
        let serves = !links.workers.is_empty();
        if let Some(Role::Dispatcher(dispatcher)) = self.role_mut(conn) {
            dispatcher.links = links;
            if serves && !replace(&mut dispatcher.has_served, true) {
                self.members_changed = true;
            }
        }
        for gateway in lost {
            self.leave_unless_used(now, &gateway.address);
        }
        self.stats.reports += 1;
    }

    /// The lease of a gateway that may have been lost for good.
    pub(super) fn leave_unless_used(&mut self, now: Instant, address: &str) {
        let is_linked = self.announced.iter().any(|conn| match self.role(*conn) {
            Some(Role::Dispatcher(dispatcher)) => {
                dispatcher.links.gateways.iter().any(|gateway| *gateway.address == *address)
            }
            Some(Role::Direct | Role::Dispatched(_)) | None => false,
        });
        if !is_linked && !self.dispatched().any(|connected| connected == address) {
            self.leases.leave(now, address);
        }
    }

    /// Addresses of the dispatched gateways that are connected, with a lease or without.
    pub(super) fn dispatched(&self) -> impl Iterator<Item = &str> {
        self.announced.iter().filter_map(|conn| {
            let announced = self.peer(*conn)?.announced.as_ref()?;
            matches!(announced.role, Role::Dispatched(_)).then_some(&*announced.address)
        })
    }

    /// Asks for leases for the gateways that have none, in the order of their announcement, and answers them.
    pub(super) fn answer_gateways(&mut self, now: Instant, sink: &mut impl Sink) {
        for index in 0..self.announced.len() {
            let conn = self.announced[index];
            let Some(Peer { remote, announced: Some(announced), .. }) = self.peer(conn) else {
                continue;
            };
            let Role::Dispatched(gateway) = &announced.role else { continue };
            if matches!(gateway.lease, LeaseState::Leased(_)) {
                continue;
            }
            let (wanted, address) = (gateway.wanted, announced.address.clone());
            let lease = match self.elsewhere(&address, *remote) {
                Some(other) => LeaseState::Refused(alloc::format!(
                    "{other} is connected as {address} too: each gateway needs an inner address of its own, so set lan_ip or \
                     the inner port of one of them"
                ).into()),
                None => match self.leases.ask(self.is_quiet(now), &address, &wanted) {
                    Ok(Answer::Leased(block)) => LeaseState::Leased(block),
                    Ok(Answer::Later) => LeaseState::Asked,
                    Err(refusal) => LeaseState::Refused(refusal.to_string().into()),
                },
            };
            let Some(Role::Dispatched(gateway)) = self.role_mut(conn) else { continue };
            if gateway.lease == lease {
                continue;
            }
            gateway.lease = lease;
            self.encode_lease_answer(conn);
            self.tell(conn, sink);
        }
    }

    /// Who else holds the lease of this address, from another machine.
    fn elsewhere(&self, address: &str, remote: SocketAddr) -> Option<SocketAddr> {
        self.announced.iter().find_map(|conn| {
            let peer = self.peer(*conn)?;
            let Announced { address: other, role: Role::Dispatched(gateway) } =
                peer.announced.as_ref()?
            else {
                return None;
            };
            let is_leased = matches!(gateway.lease, LeaseState::Leased(_));
            (is_leased && **other == *address && peer.remote.ip() != remote.ip())
                .then_some(peer.remote)
        })
    }

    fn encode_lease_answer(&mut self, conn: ConnId) {
        self.line.clear();
        let Some(Some(Peer { announced: Some(announced), .. })) = self.peers.get(conn.0 as usize)
        else {
            return;
        };
        let Role::Dispatched(gateway) = &announced.role else { return };
        match &gateway.lease {
            LeaseState::Asked => {}
            LeaseState::Leased(block) => {
                self.stats.leases += 1;
                encode_lease(*block, &mut self.line);
            }
            LeaseState::Refused(reason) => {
                self.stats.leases_refused += 1;
                encode_refused(reason, &mut self.line);
            }
        }
    }

    /// Finds out whom dispatchers connect to, and whose home is where.
    pub(super) fn find_members(&mut self) {
        let mut gateways = BTreeSet::new();
        let (mut dispatchers, mut serving) = (BTreeSet::new(), BTreeSet::new());
        for conn in &self.announced {
            let Some(Announced { address, role }) =
                self.peer(*conn).and_then(|peer| peer.announced.as_ref())
            else {
                continue;
            };
            match role {
                Role::Dispatched(gateway) if matches!(gateway.lease, LeaseState::Leased(_)) => {
                    gateways.insert(&**address);
                }
                Role::Dispatcher(dispatcher) => {
                    dispatchers.insert(&**address);
                    if dispatcher.has_served {
                        serving.insert(&**address);
                    }
                }
                Role::Dispatched(_) | Role::Direct => {}
            }
        }
        // Workers take a moment to find a dispatcher that has just started: events would wait there for them.
        let eligible = if serving.is_empty() { dispatchers } else { serving };
        let homes = homes::assign(&gateways, &eligible);
        let is_same = self.members.iter().map(|address| &**address).eq(gateways.iter().copied());
        let members = (!is_same).then(|| gateways.into_iter().map(Box::from).collect());
        self.homes = homes;
        let Some(members) = members else { return };
        self.members = members;
        for index in 0..self.announced.len() {
            if let Some(Role::Dispatcher(dispatcher)) = self.role_mut(self.announced[index]) {
                dispatcher.is_told = false;
            }
        }
    }

    /// Tells gateways which dispatcher is to be their home, where that is news.
    pub(super) fn tell_homes(&mut self, sink: &mut impl Sink) {
        for index in 0..self.announced.len() {
            let conn = self.announced[index];
            let peer = self.peers.get_mut(conn.0 as usize).and_then(Option::as_mut);
            let Some(Announced { address, role: Role::Dispatched(gateway) }) =
                peer.and_then(|peer| peer.announced.as_mut())
            else {
                continue;
            };
            let home = self.homes.get(address);
            let is_leased = matches!(gateway.lease, LeaseState::Leased(_));
            let is_known = gateway.home_told.as_ref().is_some_and(|told| told.as_ref() == home);
            if !is_leased || is_known {
                continue;
            }
            gateway.home_told = Some(home.cloned());
            self.stats.homes += 1;
            self.line.clear();
            encode_home(home.map(|home| &**home), &mut self.line);
            self.tell(conn, sink);
        }
    }

    /// Tells dispatchers which gateways to connect to.
    pub(super) fn tell_gateways(&mut self, sink: &mut impl Sink) {
        self.line.clear();
        encode_gateways(self.members.iter().map(|address| &**address), &mut self.line);
        for index in 0..self.announced.len() {
            let conn = self.announced[index];
            let Some(Role::Dispatcher(dispatcher)) = self.role_mut(conn) else { continue };
            if !replace(&mut dispatcher.is_told, true) {
                self.tell(conn, sink);
            }
        }
    }
}
