//! Simulated outside clients (GatewayClient): one a gateway or dispatcher, which commands and asks, and compares answers
//! at rest.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;

use tengate_proto::worker::encode_gateway_client_connect;

use crate::answer::{answer, canonical, sorted_list};
use crate::checks::ASKING;
use crate::network::Owner;
use crate::op::{Op, Query};
use crate::world::{Event, World};

/// The outside client of one gateway or dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) conn: Option<usize>,
    /// Questions without an answer: their numbers, and what the answer must be if it is known.
    pub(crate) asked: VecDeque<(u32, Option<String>)>,
}

impl World {
    /// An outside client does something.
    pub(crate) fn outside_acts(&mut self, target: usize) {
        if self.calm {
            return;
        }
        let at = self.now + self.rng.micros(500, 60_000);
        self.schedule(at, Event::Outside(target));
        let Some(conn) = self.outside_conn(target) else { return };
        let links: Vec<usize> = self.outsides.iter().filter_map(|outside| outside.conn).collect();
        for _ in 0..self.rng.between(1, 5) {
            if self.rng.percent(50) {
                let gateway = if self.dispatchers.is_empty() {
                    target
                } else {
                    self.rng.below(self.gateways.len())
                };
                let query = self.random_query(gateway);
                self.ask(target, conn, query, None);
            } else {
                self.command(conn, &links, None);
            }
        }
    }

    /// The open connection of an outside client.
    fn outside_conn(&mut self, target: usize) -> Option<usize> {
        if self.outsides[target].conn.is_none() {
            let server = self.target(target);
            let door = self.target_door(target);
            let owner = Owner::Outside(target);
            let ip = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1));
            let (conn, _) = self.connect(server, door, owner, ip)?;
            self.outsides[target].conn = Some(conn);
            let mut hello = Vec::new();
            encode_gateway_client_connect(&self.plan.secret, &mut hello);
            self.send_to_server(conn, &hello);
        }
        self.outsides[target].conn
    }

    fn ask(&mut self, target: usize, conn: usize, query: Query, expected: Option<String>) {
        let number = self.send_op(conn, Op::Ask(query));
        self.outsides[target].asked.push_back((number, expected));
    }

    /// Everything that can be asked is asked; the answers are compared as they come.
    pub(crate) fn ask_everything(&mut self, target: usize) {
        let Some(conn) = self.outside_conn(target) else { return };
        // A dispatcher answers for its own gateways, and for clients by their numbers for all of them.
        let (model, all) = if self.dispatchers.is_empty() {
            let Some(life) = &self.gateways[target].life else { return };
            (life.model.clone(), None)
        } else {
            (self.covered_by(Some(target)), Some(self.covered_by(None)))
        };
        let model_of = |query: &Query| match (query, &all) {
            (Query::IsOnline(_) | Query::SessionOf(_), Some(all)) => all,
            _ => &model,
        };
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
        for id in all.as_ref().unwrap_or(&model).inboxes.keys().take(5) {
            queries.extend([Query::IsOnline(*id), Query::SessionOf(*id)]);
        }
        for query in queries {
            let expected = answer(model_of(&query), &query);
            self.ask(target, conn, query, Some(expected));
        }
    }

    /// An outside client reads what has arrived.
    pub(crate) fn outside_reads(&mut self, target: usize, conn: usize) {
        let mut unread = core::mem::take(&mut self.conns[conn].unread);
        while let Some(len) = unread.first_chunk::<4>()
            && let end = 4 + u32::from_be_bytes(*len) as usize
            && unread.len() >= end
        {
            let reply = String::from_utf8_lossy(&unread[4..end]).into_owned();
            unread.drain(..end);
            self.outside_gets(target, &reply);
        }
        self.conns[conn].unread = unread;
    }

    fn outside_gets(&mut self, target: usize, reply: &str) {
        let Some((number, expected)) = self.outsides[target].asked.pop_front() else {
            return self.fail(format!("target {target} answered {reply}, and nobody asked"));
        };
        let Op::Ask(query) = self.ops[number as usize].clone() else { return };
        self.note(|_| format!("target {target} answers {query:?} with {reply}"));
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
            return self.fail(format!("target {target} answered {query:?} with {reply}"));
        }
        let Some(expected) = expected else { return };
        self.totals.answers += 1;
        let (given, expected) = if query == Query::Groups {
            (sorted_list(reply), expected)
        } else if !self.dispatchers.is_empty() {
            // Answers of several gateways are put together in any order.
            (canonical(reply), canonical(&expected))
        } else {
            (reply.into(), expected)
        };
        // The heartbeat goes on at rest: a client that went while the question was under way changes the answer.
        let steady = self.now - self.last_end > ASKING;
        if given != expected && steady {
            self.fail(format!(
                "target {target} answered {query:?} with {given}, the model with {expected}"
            ));
        }
    }

    /// An outside client hears that its connection is gone.
    pub(crate) fn outside_lost(&mut self, target: usize, conn: usize) {
        if self.outsides[target].conn == Some(conn) {
            self.outsides[target] = Outside::default();
        }
    }
}

/// Groups there are; one looks like a number, which PHP makes one.
pub(crate) const GROUPS: [&str; 4] = ["red", "42", "blue", "007"];
/// Uids there are.
pub(crate) const UIDS: [&str; 4] = ["ann", "7", "bob", "-1x"];
