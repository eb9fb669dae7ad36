//! The register's view of the cluster: who is linked to whom, put together from announcements, leases and reports.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

use tengate_base::{ConnId, Instant};

use super::{Dispatched, Dispatcher, LeaseState, Peer, Register, Role};
use crate::wire::register::topology::{self, Mode, Topology};

impl Register {
    /// Who is connected, and who is linked to whom as far as dispatchers have told.
    pub fn topology(&self, now: Instant) -> Topology {
        let mut topology = Topology {
            uptime_secs: (now - self.started).as_secs(),
            proc_ids: (*self.config.proc_ids.start(), *self.config.proc_ids.end()),
            number_bits: self.leases.number_bits(),
            ..Topology::default()
        };
        let homes = self.reported_homes();
        for conn in &self.announced {
            let Some(peer) = self.peer(*conn) else { continue };
            let Some(announced) = &peer.announced else { continue };
            let (address, peer) = (announced.address.clone(), shown(peer, now));
            match &announced.role {
                Role::Direct => topology.gateways.push(direct(address, peer)),
                Role::Dispatched(gateway) => {
                    let mut gateway = dispatched(address, peer, gateway);
                    if let Some((home, clients)) = homes.get(&*gateway.address) {
                        gateway.home = Some(Box::from(*home));
                        gateway.clients = Some(*clients);
                    }
                    topology.gateways.push(gateway);
                }
                Role::Dispatcher(it) => topology.dispatchers.push(dispatcher(address, peer, it)),
            }
        }
        for (index, peer) in (0..).zip(&self.peers) {
            let Some(peer) = peer else { continue };
            if self.workers.contains(&ConnId(index)) {
                topology.workers.push(shown(peer, now));
            } else if peer.announced.is_none() {
                topology.others.push(shown(peer, now));
            }
        }
        let here: BTreeSet<&str> = self.dispatched().collect();
        let absent = self.leases.iter().filter(|lease| !here.contains(&*lease.address));
        topology.absent_leases.extend(absent.map(|lease| topology::AbsentLease {
            address: lease.address.clone(),
            first_proc_id: lease.block.first_proc_id,
            shards: lease.block.shards,
            kept_secs: lease.ends_at.map(|ends_at| (ends_at - now).as_secs()),
        }));
        topology
    }

    /// By gateway: the dispatcher that reports to be its home, and how many clients it reports.
    fn reported_homes(&self) -> BTreeMap<&str, (&str, u64)> {
        let mut homes = BTreeMap::new();
        for conn in &self.announced {
            let announced = self.peer(*conn).and_then(|peer| peer.announced.as_ref());
            let Some(announced) = announced else { continue };
            let Role::Dispatcher(dispatcher) = &announced.role else { continue };
            for gateway in dispatcher.links.gateways.iter().filter(|gateway| gateway.home) {
                homes.insert(&*gateway.address, (&*announced.address, gateway.clients));
            }
        }
        homes
    }
}

fn shown(peer: &Peer, now: Instant) -> topology::Peer {
    topology::Peer { remote: peer.remote, connected_secs: (now - peer.since).as_secs() }
}

fn direct(address: Box<str>, peer: topology::Peer) -> topology::Gateway {
    topology::Gateway {
        address,
        mode: Mode::Direct,
        peer,
        shards: None,
        first_proc_id: None,
        refused: None,
        home_wish: None,
        home: None,
        clients: None,
    }
}

fn dispatched(address: Box<str>, peer: topology::Peer, gateway: &Dispatched) -> topology::Gateway {
    let (first_proc_id, refused) = match &gateway.lease {
        LeaseState::Asked => (None, None),
        LeaseState::Leased(block) => (Some(block.first_proc_id), None),
        LeaseState::Refused(reason) => (None, Some(reason.clone())),
    };
    topology::Gateway {
        mode: Mode::Dispatched,
        shards: Some(gateway.wanted.shards),
        first_proc_id,
        refused,
        home_wish: gateway.home_told.clone().flatten(),
        ..direct(address, peer)
    }
}

fn dispatcher(
    address: Box<str>,
    peer: topology::Peer,
    dispatcher: &Dispatcher,
) -> topology::Dispatcher {
    let links = &dispatcher.links;
    let gateways = links.gateways.iter().map(|gateway| topology::DispatcherGateway {
        address: gateway.address.clone(),
        home: gateway.home,
        clients: gateway.clients,
    });
    let workers = links.workers.iter().map(|worker| topology::DispatcherWorker {
        key: worker.key.clone(),
        clients: worker.clients,
    });
    topology::Dispatcher {
        address,
        peer,
        gateways: gateways.collect(),
        workers: workers.collect(),
        workers_left_out: links.workers_left_out,
    }
}
