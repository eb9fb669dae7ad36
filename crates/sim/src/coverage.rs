//! Which gateways a command reached: one of them if it is for one client, and of those it may concern each once, however
//! many dispatchers the worker sent it to.

use std::collections::{BTreeMap, BTreeSet};

use tengate_base::ShardId;

use crate::network::Server;
use crate::op::Op;
use crate::world::World;

/// What reached which gateway.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    arrived: BTreeSet<(u32, Server)>,
    broadcasts: Vec<Broadcast>,
    /// Broadcasts by the numbers of their commands, one for each dispatcher.
    by_number: BTreeMap<u32, usize>,
}

/// The same command, sent to every dispatcher.
#[derive(Debug)]
pub(crate) struct Broadcast {
    /// How often each gateway had changed its home before.
    moves: Vec<u64>,
    /// Which gateways it reached, and how often.
    pub(crate) reached: BTreeMap<Server, u32>,
}

impl World {
    /// Sends a command for many clients over all these links, to be carried out once by each gateway. Returns its place
    /// among the broadcasts.
    pub(crate) fn broadcast(&mut self, conns: &[usize], op: &Op) -> usize {
        let moves = (0..self.gateways.len()).map(|gateway| self.moves(gateway)).collect();
        let place = self.coverage.broadcasts.len();
        self.coverage.broadcasts.push(Broadcast { moves, reached: BTreeMap::new() });
        for conn in conns {
            let number = self.send_op(*conn, op.clone());
            self.coverage.by_number.insert(number, place);
        }
        place
    }

    /// A broadcast, by its place.
    pub(crate) fn broadcast_at(&self, place: usize) -> &Broadcast {
        &self.coverage.broadcasts[place]
    }

    /// A command reached a gateway.
    pub(crate) fn command_arrives(&mut self, server: Server, number: u32) {
        if number == 0 || self.dispatchers.is_empty() {
            return;
        }
        if !self.coverage.arrived.insert((number, server)) {
            self.fail(format!("command {number} reached {server:?} twice"));
        }
        let moves = self.moves(server.index);
        let Some(place) = self.coverage.by_number.get(&number) else { return };
        let broadcast = &mut self.coverage.broadcasts[*place];
        let count = broadcast.reached.entry(server).or_default();
        *count += 1;
        // Between two dispatchers that are the home one after the other, a command may overtake the move.
        if *count > 1 && broadcast.moves[server.index] == moves {
            let op = &self.ops[number as usize];
            self.fail(format!("{op:?} reached {server:?} over two dispatchers"));
        }
    }

    /// How often a gateway has changed its home since it started.
    pub(crate) fn moves(&self, gateway: usize) -> u64 {
        let life = self.gateways[gateway].life.as_ref();
        life.map_or(0, |life| life.process.shell.peek(ShardId(0)).gateway().stats().homes_changed)
    }

    /// No gateway is covered by two dispatchers, at any time.
    pub(crate) fn check_homes_now(&mut self) {
        let mut covered = BTreeMap::new();
        let mut problem = None;
        for slot in &self.dispatchers {
            let Some(core) = slot.core() else { continue };
            for view in core.gateways().filter(|view| view.home) {
                let is_open = |conn: &&usize| {
                    let conn = &self.conns[**conn];
                    let gate = &self.gateways[conn.server.index];
                    conn.server_open
                        && gate.server == conn.server
                        && gate.address() == view.address.to_string()
                };
                let Some(link) = slot.dialed.iter().find(is_open) else { continue };
                let gateway = self.conns[*link].server;
                if let Some(other) = covered.insert(gateway, slot.server) {
                    let both = [other, slot.server];
                    problem = Some(format!("{both:?} both are the home of {gateway:?}"));
                }
            }
        }
        if let Some(problem) = problem {
            self.fail(problem);
        }
    }
}
