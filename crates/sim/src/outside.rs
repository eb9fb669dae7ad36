//! Simulated outside clients (GatewayClient): one a gateway, which commands and asks, and compares answers at rest.

use core::net::Ipv4Addr;
use std::collections::VecDeque;

use tengate_base::Door;
use tengate_proto::worker::encode_gateway_client_connect;

use crate::answer::{answer, sorted_list};
use crate::checks::ASKING;
use crate::network::Owner;
use crate::op::{Op, Query};
use crate::world::{Event, World};

/// The outside client of one gateway.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) conn: Option<usize>,
    /// Questions without an answer: their numbers, and what the answer must be if it is known.
    pub(crate) asked: VecDeque<(u32, Option<String>)>,
}

impl World {
    /// An outside client does something.
    pub(crate) fn outside_acts(&mut self, gateway: usize) {
        if self.calm {
            return;
        }
        let at = self.now + self.rng.micros(500, 60_000);
        self.schedule(at, Event::Outside(gateway));
        let Some(conn) = self.outside_conn(gateway) else { return };
        for _ in 0..self.rng.between(1, 5) {
            if self.rng.percent(50) {
                let query = self.random_query(gateway);
                self.ask(gateway, conn, query, None);
            } else {
                self.command(gateway, conn, None);
            }
        }
    }

    /// The open connection of an outside client.
    fn outside_conn(&mut self, gateway: usize) -> Option<usize> {
        if self.outsides[gateway].conn.is_none() {
            let server = self.gateways[gateway].server;
            let inner = self.gateways[gateway].config.listeners.len();
            let door = Door(u16::try_from(inner).unwrap_or(0));
            let owner = Owner::Outside(gateway);
            let (conn, _) = self.connect(server, door, owner, Ipv4Addr::new(10, 2, 0, 1))?;
            self.outsides[gateway].conn = Some(conn);
            let mut hello = Vec::new();
            encode_gateway_client_connect(&self.plan.secret, &mut hello);
            self.send_to_server(conn, &hello);
        }
        self.outsides[gateway].conn
    }

    fn ask(&mut self, gateway: usize, conn: usize, query: Query, expected: Option<String>) {
        let number = self.send_op(conn, Op::Ask(query));
        self.outsides[gateway].asked.push_back((number, expected));
    }

    /// Everything that can be asked of a gateway is asked; the answers are compared as they come.
    pub(crate) fn ask_everything(&mut self, gateway: usize) {
        let Some(conn) = self.outside_conn(gateway) else { return };
        let Some(life) = &self.gateways[gateway].life else { return };
        let model = &life.model;
        let mut queries = vec![
            Query::Sessions,
            Query::Count(""),
            Query::Groups,
            Query::Select(Vec::new()),
            Query::Select(GROUPS.to_vec()),
            Query::Counts(GROUPS.to_vec()),
            Query::ClientsOfEach(UIDS.to_vec()),
            Query::IsOnline(77),
        ];
        queries.extend(GROUPS.map(Query::SessionsOfGroup));
        queries.extend(GROUPS.map(Query::Count));
        queries.extend(UIDS.map(Query::ClientsOf));
        for id in model.inboxes.keys().take(5) {
            queries.extend([Query::IsOnline(*id), Query::SessionOf(*id)]);
        }
        let expected: Vec<String> = queries.iter().map(|query| answer(model, query)).collect();
        for (query, expected) in queries.into_iter().zip(expected) {
            self.ask(gateway, conn, query, Some(expected));
        }
    }

    /// An outside client reads what has arrived.
    pub(crate) fn outside_reads(&mut self, gateway: usize, conn: usize) {
        let mut unread = core::mem::take(&mut self.conns[conn].unread);
        while let Some(len) = unread.first_chunk::<4>()
            && let end = 4 + u32::from_be_bytes(*len) as usize
            && unread.len() >= end
        {
            let reply = String::from_utf8_lossy(&unread[4..end]).into_owned();
            unread.drain(..end);
            self.outside_gets(gateway, &reply);
        }
        self.conns[conn].unread = unread;
    }

    fn outside_gets(&mut self, gateway: usize, reply: &str) {
        let Some((number, expected)) = self.outsides[gateway].asked.pop_front() else {
            return self.fail(format!("gateway {gateway} answered {reply}, and nobody asked"));
        };
        let Op::Ask(query) = self.ops[number as usize].clone() else { return };
        self.note(|_| format!("gateway {gateway} answers {query:?} with {reply}"));
        let shape_is_right = match &query {
            Query::IsOnline(_) | Query::Count(_) => reply.starts_with("i:"),
            Query::SessionOf(_) => reply.starts_with("a:") || reply == "N;",
            Query::Sessions
            | Query::SessionsOfGroup(_)
            | Query::Counts(_)
            | Query::ClientsOf(_)
            | Query::ClientsOfEach(_)
            | Query::Groups
            | Query::Select(_) => reply.starts_with("a:"),
        };
        if !shape_is_right {
            return self.fail(format!("gateway {gateway} answered {query:?} with {reply}"));
        }
        let Some(expected) = expected else { return };
        self.totals.answers += 1;
        let given = if query == Query::Groups { sorted_list(reply) } else { reply.into() };
        // The heartbeat goes on at rest: a client that went while the question was under way changes the answer.
        let steady = self.now - self.last_end > ASKING;
        if given != expected && steady {
            self.fail(format!(
                "gateway {gateway} answered {query:?} with {given}, the model with {expected}"
            ));
        }
    }

    /// An outside client hears that its connection is gone.
    pub(crate) fn outside_lost(&mut self, gateway: usize, conn: usize) {
        if self.outsides[gateway].conn == Some(conn) {
            self.outsides[gateway] = Outside::default();
        }
    }
}

/// Groups there are; one looks like a number, which PHP makes one.
pub(crate) const GROUPS: [&str; 4] = ["red", "42", "blue", "007"];
/// Uids there are.
pub(crate) const UIDS: [&str; 4] = ["ann", "7", "bob", "-1x"];
