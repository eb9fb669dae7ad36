//! What must hold of the dispatchers at rest: each gateway has one home, the one that registers say; the routing index is
//! what the gateways hold; nothing waits.

use std::collections::{BTreeMap, BTreeSet};

use tengate_base::ShardId;
use tengate_proto::dispatcher::GatewayView;
use tengate_proto::wire::extension::NameKind;

use crate::client::Told;
use crate::model::Model;
use crate::network::{Owner, Server};
use crate::op::Op;
use crate::outside::{GROUPS, UIDS};
use crate::world::{Life, World};

/// A command whose receivers are known beforehand.
#[derive(Debug)]
pub(crate) struct Probe {
    op: Op,
    broadcast: usize,
    /// Gateways that it must reach, once each, and no other.
    expected: BTreeSet<Server>,
}

impl World {
    /// The dispatcher that is a gateway's home, as the gateway says.
    fn home_of(&self, gateway: usize) -> Option<usize> {
        let life = self.gateways[gateway].life.as_ref()?;
        let home = life.process.shell.peek(ShardId(0)).gateway().home()?;
        self.dispatchers.iter().position(|slot| slot.config.address.to_string() == home)
    }

    /// Living gateways whose home is a dispatcher, or all of them.
    fn gateways_of(&self, home: Option<usize>) -> impl Iterator<Item = (Server, &Life)> {
        self.gateways.iter().enumerate().filter_map(move |(index, gate)| {
            let is_its = home.is_none() || self.home_of(index) == home;
            Some((gate.server, gate.life.as_ref().filter(|_| is_its)?))
        })
    }

    /// The clients of all gateways whose home is a dispatcher, or of all gateways.
    pub(crate) fn covered_by(&self, home: Option<usize>) -> Model {
        let number_bits = self.plan.gateways[0].number_bits;
        let mut sum = Model::new(0, number_bits, 0);
        self.gateways_of(home).for_each(|(_, life)| sum.add(&life.model));
        sum
    }

    /// A worker sends to all, to groups and to uids over all its links, as PHP does.
    pub(crate) fn send_probes(&mut self) -> Vec<Probe> {
        let worker = self.workers.iter().find(|worker| worker.alive);
        let Some(links) = worker.map(|worker| worker.links.iter().flatten().copied().collect())
        else {
            return Vec::new();
        };
        let links: Vec<usize> = links;
        let mut probes = Vec::new();
        let token = |world: &Self| format!("t{}", world.ops.len());
        let op = Op::SendAll { only: None, except: Vec::new(), token: token(self) };
        let all = self.gateways_of(None).map(|(server, _)| server).collect();
        probes.push(self.probe(&links, op, all));
        for group in GROUPS {
            let op = Op::SendGroup { groups: vec![group], except: Vec::new(), token: token(self) };
            let holders =
                self.gateways_of(None).filter(|(_, it)| it.model.groups.contains_key(group));
            let holders = holders.map(|(server, _)| server).collect();
            probes.push(self.probe(&links, op, holders));
        }
        for uid in UIDS {
            let op = Op::SendUid { uids: vec![uid, "nobody"], token: token(self) };
            let holders = self.gateways_of(None).filter(|(_, it)| it.model.uids.contains_key(uid));
            let holders = holders.map(|(server, _)| server).collect();
            probes.push(self.probe(&links, op, holders));
        }
        probes
    }

    fn probe(&mut self, links: &[usize], op: Op, expected: BTreeSet<Server>) -> Probe {
        let broadcast = self.broadcast(links, &op);
        Probe { op, broadcast, expected }
    }

    /// Each probe reached the gateways it concerns, once, and no other.
    pub(crate) fn check_probes(&mut self, probes: &[Probe]) {
        for Probe { op, broadcast, expected } in probes {
            let reached = &self.broadcast_at(*broadcast).reached;
            let right: BTreeMap<Server, u32> = expected.iter().map(|it| (*it, 1)).collect();
            if *reached != right {
                let index = (0..self.dispatchers.len()).map(|index| self.check_index(index));
                let index: Vec<_> = index.collect();
                return self
                    .fail(format!("{op:?} reached {reached:?}, not {right:?}; index: {index:?}"));
            }
        }
    }

    /// What must hold of the dispatchers at rest.
    pub(crate) fn check_tier(&mut self) -> Result<(), String> {
        if self.dispatchers.is_empty() {
            return Ok(());
        }
        self.check_homes()?;
        for index in 0..self.dispatchers.len() {
            self.check_dispatcher(index)
                .map_err(|problem| format!("dispatcher {index}: {problem}"))?;
        }
        self.check_held()?;
        self.check_reading()
    }

    /// Every gateway has the home that its registers wish, and they are spread evenly.
    fn check_homes(&self) -> Result<(), String> {
        let mut loads = vec![0; self.dispatchers.len()];
        for (index, gate) in self.gateways.iter().enumerate() {
            let Some(home) = self.home_of(index) else {
                return Err(format!("gateway {index} has no home"));
            };
            loads[home] += 1;
            let address = self.dispatchers[home].config.address.to_string();
            let wishes: Vec<&Option<String>> = gate.wishes.iter().flatten().collect();
            if wishes.is_empty() || wishes.iter().any(|wish| wish.as_deref() != Some(&*address)) {
                return Err(format!(
                    "gateway {index} has home {address}, registers say {wishes:?}"
                ));
            }
        }
        let (least, most) = (loads.iter().min(), loads.iter().max());
        match most.zip(least) {
            Some((most, least)) if most - least > 1 => Err(format!("homes are uneven: {loads:?}")),
            _ => Ok(()),
        }
    }

    fn check_dispatcher(&self, index: usize) -> Result<(), String> {
        let Some(core) = self.dispatchers[index].core() else {
            return Err("did not start again".into());
        };
        let mut views: Vec<GatewayView> = core.gateways().collect();
        views.sort_by_key(|view| view.address);
        for (gateway, gate) in self.gateways.iter().enumerate() {
            let right = (
                Some(index) == self.home_of(gateway),
                gate.first_proc_id.unwrap_or(u16::MAX),
                gate.config.shards,
            );
            let of = views.iter().filter(|view| view.address.to_string() == gate.address());
            let given: Vec<_> =
                of.map(|view| (view.home, view.first_proc_id, view.shards)).collect();
            if given != [right] {
                return Err(format!("sees gateway {gateway} as {given:?}, not {right:?}"));
            }
        }
        let alive = self.workers.iter().filter(|worker| worker.alive).count();
        if (views.len(), core.workers().count()) != (self.gateways.len(), alive) {
            return Err(format!("has gateways {views:?} and {} workers", core.workers().count()));
        }
        self.check_index(index)
    }

    /// The routing index knows who holds each name, and nothing else.
    fn check_index(&self, index: usize) -> Result<(), String> {
        let Some(core) = self.dispatchers[index].core() else { return Ok(()) };
        let mut counts = [0_u64; 2];
        let kinds = [(NameKind::Uid, UIDS), (NameKind::Group, GROUPS)];
        for ((kind, names), count) in kinds.into_iter().zip(&mut counts) {
            for name in names {
                let right: BTreeSet<u16> = self
                    .gateways_of(Some(index))
                    .flat_map(|(_, life)| {
                        let names = match kind {
                            NameKind::Uid => &life.model.uids,
                            NameKind::Group => &life.model.groups,
                        };
                        let ids = names.get(name).into_iter().flatten();
                        ids.map(|id| life.model.proc_id_of(*id)).collect::<Vec<_>>()
                    })
                    .collect();
                let given: BTreeSet<u16> = core.holders(kind, name.as_bytes()).collect();
                if given != right {
                    return Err(format!("{kind:?} {name} is held by {right:?}, not {given:?}"));
                }
                *count += u64::from(!right.is_empty());
            }
        }
        let stats = core.stats();
        if [stats.uids, stats.groups] != counts {
            let given = [stats.uids, stats.groups];
            return Err(format!("knows {given:?} uids and groups, not {counts:?}"));
        }
        Ok(())
    }

    /// What dispatchers took and did neither deliver nor give back, they count as dropped.
    fn check_held(&self) -> Result<(), String> {
        let mut held: BTreeMap<Server, Vec<(usize, u32)>> = BTreeMap::new();
        for (index, client) in self.clients.iter().enumerate() {
            for (event, server) in &client.held {
                held.entry(*server).or_default().push((index, *event));
            }
        }
        for slot in &self.dispatchers {
            let Some(core) = slot.core() else { continue };
            let stats = core.stats();
            let mut left = held.remove(&slot.server).unwrap_or_default();
            if stats.close_no_worker + stats.close_slow_worker > 0 {
                // Nobody hears of a client that is given up.
                left.retain(|(client, _)| self.is_connected(*client));
            }
            let mut allowed =
                stats.drop_no_worker + stats.drop_slow_worker + stats.close_slow_worker;
            if self.plan.faults.iter().any(|fault| fault.loses()) {
                // It was on its way back when the link was cut.
                allowed += stats.returned;
            }
            if left.len() as u64 > allowed {
                let server = slot.server;
                return Err(format!("{server:?} has lost events {left:?}, {stats:?}"));
            }
        }
        Ok(())
    }

    fn is_connected(&self, index: usize) -> bool {
        let client = &self.clients[index];
        let gate = &self.gateways[client.server.index];
        let life = gate.life.as_ref().filter(|_| gate.server == client.server);
        let clients = life.map(|life| &life.model.clients);
        client.id.zip(clients).is_some_and(|(id, clients)| clients.contains_key(&id))
    }

    /// Nobody is kept waiting: every connection that is open is read.
    fn check_reading(&mut self) -> Result<(), String> {
        for index in 0..self.conns.len() {
            let conn = &self.conns[index];
            let (server, place, near, owner) = (conn.server, conn.place, conn.near, conn.owner);
            if !conn.server_open || !conn.peer_open {
                continue;
            }
            // A client that was kicked is read no more.
            let mut is_kicked = false;
            if let Owner::Client(client) = owner {
                let client = &self.clients[client];
                let life = self.gateways[server.index].life.as_ref();
                let member = life.zip(client.id).and_then(|(it, id)| it.model.clients.get(&id));
                is_kicked = member.is_none_or(|member| member.closing || member.leaving);
            }
            let ends = [Some((server, place)), near];
            for (server, place) in ends.into_iter().flatten().filter(|_| !is_kicked) {
                if self.process(server).is_some_and(|process| !process.is_read(place)) {
                    return Err(format!(
                        "{server:?} does not read connection {index} of {owner:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Events of a client that dispatchers took and that came nowhere: those of one that died are lost, others were dropped.
    pub(crate) fn left_behind(&self, index: usize) -> (Vec<Told>, Vec<Told>) {
        let client = &self.clients[index];
        let is_new = |event: &u32| client.told.iter().all(|told| told.event != *event);
        let held = client.held.iter().filter(|(event, _)| is_new(event));
        let told = |(event, server): (&u32, &Server)| {
            let lives = self.dispatchers[server.index].server == *server;
            (
                lives || self.droppers.contains(server),
                Told { link: usize::MAX, event: *event, lost: true },
            )
        };
        let (dropped, lost): (Vec<_>, Vec<_>) = held.map(told).partition(|(lives, _)| *lives);
        let strip = |all: Vec<(bool, Told)>| all.into_iter().map(|(_, told)| told).collect();
        (strip(lost), strip(dropped))
    }

    /// Whether a connection is a worker's.
    pub(crate) fn is_worker_link(&self, conn: usize) -> bool {
        matches!(self.conns[conn].owner, Owner::Worker(_))
    }

    /// Whether a client's events may come back to a link that another one has followed.
    pub(crate) fn may_go_back(&self, client: usize) -> bool {
        // What one worker did not acknowledge another gets, also while the first still reads it.
        let server = self.clients[client].server;
        self.gateways[server.index].server != server
            || self.moves(server.index) > 1
            || self.moves_clients()
            || self.plan.acknowledging.contains(&true)
    }

    /// What dispatchers still have although nobody is connected.
    pub(crate) fn tier_leftover(&self) -> Option<String> {
        // Older events may follow a client's end where that was lost, or went to another worker than they did.
        if self.ghosts || self.moves_clients() {
            return None;
        }
        for slot in &self.dispatchers {
            let stats = slot.core()?.stats();
            let bound: u32 = slot.core()?.workers().map(|(_, bound)| bound).sum();
            let given = [stats.clients, stats.uids, stats.groups, u64::from(bound)];
            if given != [0; 4] {
                let server = slot.server;
                return Some(format!("{server:?} keeps clients, uids, groups, bindings {given:?}"));
            }
        }
        None
    }
}
