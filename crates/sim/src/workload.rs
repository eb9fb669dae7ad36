//! What workers and outside clients come up with.

use crate::op::{Op, Query, Session};
use crate::outside::{GROUPS, UIDS};
use crate::world::World;

/// Keys of sessions.
const KEYS: [&str; 3] = ["name", "age", "n"];

impl World {
    /// A worker got an event and perhaps does something about it.
    pub(crate) fn worker_answers(&mut self, worker: usize, conn: usize, client: u32) {
        if self.calm || !self.workers[worker].alive {
            return;
        }
        let links: Vec<usize> = self.workers[worker].links.iter().flatten().copied().collect();
        while self.rng.percent(self.plan.command_percent.min(70)) {
            self.command(conn, &links, Some(client));
        }
    }

    /// Sends a command: to this client, if any, or to others. One for many goes over all `links` where there are
    /// dispatchers, of which each covers its own gateways.
    pub(crate) fn command(&mut self, conn: usize, links: &[usize], client: Option<u32>) {
        if self.dispatchers.is_empty() {
            let gateway = self.conns[conn].server.index;
            let op = self.random_op(gateway, client);
            self.send_op(conn, op);
            return;
        }
        let gateway = self.rng.below(self.gateways.len());
        let op = self.random_op(gateway, client);
        let is_named = op.client().is_some() || matches!(op, Op::SendAll { only: Some(_), .. });
        if !is_named {
            self.broadcast(links, &op);
        } else if op.client() == client {
            self.send_op(conn, op);
        } else {
            // Whoever kept a client_id may send to where its events came from once.
            let conn = *self.rng.pick(links);
            self.send_op(conn, op);
        }
    }

    /// Sends a command and returns its number.
    pub(crate) fn send_op(&mut self, conn: usize, op: Op) -> u32 {
        let number = u32::try_from(self.ops.len()).expect("runs are short");
        let mut bytes = Vec::new();
        op.encode(number, &mut bytes);
        self.note(|_| format!("command {number} on connection {conn}: {op:?}"));
        self.ops.push(op);
        self.send_to_server(conn, &bytes);
        number
    }

    fn random_op(&mut self, gateway: usize, client: Option<u32>) -> Op {
        let id = match client {
            Some(client) if self.rng.percent(70) => client,
            _ => self.any_client(gateway),
        };
        let token = format!("t{}", self.ops.len());
        let group = *self.rng.pick(&GROUPS);
        let uid = *self.rng.pick(&UIDS);
        match self.rng.below(40) {
            0..=5 => Op::Bind { id, uid },
            6..=7 => Op::Unbind { id, uid },
            8..=12 => Op::Join { id, group },
            13..=14 => Op::Leave { id, group },
            15 => Op::Ungroup { group },
            16..=17 => Op::SetSession { id, session: self.random_session() },
            18..=20 => Op::UpdateSession { id, session: Some(self.random_pairs()) },
            21..=27 => Op::SendOne { id, token: self.padded(token) },
            28..=29 => Op::SendUid { uids: vec![uid, "nobody"], token },
            30..=33 => {
                let groups = if self.rng.percent(50) { vec![group] } else { GROUPS.to_vec() };
                Op::SendGroup { groups, except: self.some_clients(gateway), token }
            }
            34..=36 => {
                let only = self.rng.percent(30).then(|| self.some_clients(gateway));
                Op::SendAll { only, except: self.some_clients(gateway), token }
            }
            37 => Op::Kick { id, token: Some(token) },
            38 if self.rng.percent(50) => Op::Kick { id, token: None },
            38 => Op::Destroy { id },
            _ => Op::SendOne { id, token },
        }
    }

    /// A question whose answer is not known beforehand.
    pub(crate) fn random_query(&mut self, gateway: usize) -> Query {
        let id = self.any_client(gateway);
        match self.rng.below(8) {
            0 => Query::IsOnline(id),
            1 => Query::SessionOf(id),
            2 => Query::Sessions,
            3 => Query::Count(""),
            4 => Query::ClientsOfEach(UIDS.to_vec()),
            5 => Query::Counts(GROUPS.to_vec()),
            6 => Query::Groups,
            _ => Query::Select(GROUPS.to_vec()),
        }
    }

    fn padded(&mut self, token: String) -> String {
        let padding = self.rng.between(0, self.plan.message_bytes);
        format!("{token}:{}", "z".repeat(padding))
    }

    fn random_session(&mut self) -> Session {
        self.rng.percent(80).then(|| self.random_pairs())
    }

    fn random_pairs(&mut self) -> Vec<(&'static str, u64)> {
        let count = self.rng.between(0, KEYS.len());
        let start = self.rng.below(KEYS.len());
        (0..count).map(|at| (KEYS[(start + at) % KEYS.len()], self.rng.number() % 1000)).collect()
    }

    /// A client of a gateway, seldom one that is gone or never was.
    fn any_client(&mut self, gateway: usize) -> u32 {
        let Some(life) = &self.gateways[gateway].life else { return 1 };
        let ids: Vec<u32> = if self.rng.percent(90) {
            life.model.clients.keys().copied().collect()
        } else {
            life.model.inboxes.keys().copied().collect()
        };
        if ids.is_empty() || self.rng.percent(2) {
            return u32::try_from(self.rng.below(5000)).expect("small");
        }
        *self.rng.pick(&ids)
    }

    fn some_clients(&mut self, gateway: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        for _ in 0..self.rng.between(0, 4) {
            let id = self.any_client(gateway);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}
