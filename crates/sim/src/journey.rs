//! The journey of each event: from its gateway, perhaps over a dispatcher, to a worker; or where it ended before.
//!
//! The network lists what it lost with a link, a dispatcher's witness what it took. So every event that a gateway counts
//! is somewhere, and one that reaches a worker twice or too late is seen.

use tengate_proto::dispatcher::Balance;
use tengate_proto::wire::extension::Extension;
use tengate_proto::wire::header::{Command, InnerFrame};
use tengate_proto::worker::{Event as Told, EventKind};

use crate::client::{self, CLOSED, FIRST_MESSAGE};
use crate::network::{Owner, Server, ServerKind};
use crate::op::Op;
use crate::world::World;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A worker got it.
    Told,
    /// A worker got it that may have seen it before, or nobody knows its client.
    Again,
}

impl World {
    /// An event reached a worker; `None` when it was none.
    pub(crate) fn event_is_told(&mut self, link: usize, frame: &InnerFrame<'_>) -> Option<Fate> {
        let told = Told::from_frame(frame)?;
        self.totals.events += 1;
        let Some((index, event)) = self.identify(link, &told) else { return Some(Fate::Again) };
        self.note(|_| format!("event {event} of client {index} reaches link {link}"));
        self.clients[index].held.remove(&event);
        let told = &self.clients[index].told;
        if let Some(place) = told.iter().position(|before| before.event == event) {
            let before = told[place];
            // One that was lost may still be under way to a worker that did not acknowledge it in time.
            if !(self.may_repeat(link) || (!before.lost && self.may_repeat(before.link))) {
                let before = before.link;
                self.fail(format!(
                    "event {event} of client {index} came twice: link {before}, link {link}"
                ));
            } else if !self.may_repeat(link) {
                // It may have been on its way to one that acknowledges as well, but to no other of these.
                self.clients[index].told[place].link = link;
            }
            return Some(Fate::Again);
        }
        let told = &self.clients[index].told;
        let newest = told.iter().filter(|before| before.link == link).map(|before| before.event);
        // Where the uid decides on the worker, getting one moves the client in the middle of its events.
        // Nor does a dispatcher that lost a gateway know, when that is back, whose worker still has older events.
        let may_be_late =
            self.moves_clients() || self.gateways[self.clients[index].server.index].torn;
        if newest.max().is_some_and(|newest| newest > event) && !may_be_late {
            self.fail(format!("event {event} of client {index} came late on link {link}"));
        }
        self.clients[index].told.push(client::Told { link, event, lost: false });
        Some(Fate::Told)
    }

    /// Whether some dispatcher moves clients to other workers while theirs live.
    pub(crate) fn moves_clients(&self) -> bool {
        let mut balances = self.plan.dispatchers.iter().map(|it| it.default_group.balance);
        balances.any(|balance| balance == Balance::HashUid)
    }

    /// Whether an event that is sent over this link may reach another worker too: only when this one acknowledges.
    fn may_repeat(&self, link: usize) -> bool {
        matches!(self.conns[link].owner, Owner::Worker(worker) if self.acknowledges(worker))
    }

    /// Which client's event this is, and which one.
    fn identify(&mut self, link: usize, told: &Told<'_>) -> Option<(usize, u32)> {
        let server = self.conns[link].server;
        let index = if self.dispatchers.is_empty() {
            // A client that was turned away has no name here: its connection did not last.
            *self.by_id.get(&(server, told.client.connection_id))?
        } else {
            // A gateway that starts again gives the same numbers again. Nobody connects twice from the same port.
            let conn = self.conns.get(usize::from(told.client_addr.port()))?;
            let Owner::Client(index) = conn.owner else { return None };
            self.clients.get(index).map(|_| index)?
        };
        let event = match told.kind {
            EventKind::Connect => 0,
            EventKind::WebsocketConnect => 1,
            EventKind::Message => match message_number(told.body) {
                Some(number) => FIRST_MESSAGE + number,
                None => {
                    self.fail(format!("client {index} never said {:?}", told.body));
                    return None;
                }
            },
            EventKind::Close => CLOSED,
        };
        Some((index, event))
    }

    /// Both ends of a link are gone: what was written and not read is lost.
    pub(crate) fn settle_link(&mut self, conn: usize) {
        let it = &self.conns[conn];
        if it.server_open || it.peer_open {
            return;
        }
        let is_kept = match it.owner {
            // The dispatcher has every event until it is acknowledged.
            Owner::Worker(worker) => self.acknowledges(worker),
            Owner::Dispatcher(_) => {
                self.let_dispatcher_read(conn);
                false
            }
            Owner::Client(_)
            | Owner::Outside(_)
            | Owner::GatewayAtRegister(..)
            | Owner::WorkerAtRegister(..)
            | Owner::DispatcherAtRegister(..) => return,
        };
        let it = &mut self.conns[conn];
        let mut bytes = core::mem::take(&mut it.unread);
        bytes.extend(it.to_peer.bytes());
        it.to_peer.clear();
        if !is_kept {
            self.events_are_lost(conn, &bytes);
        }
    }

    fn events_are_lost(&mut self, link: usize, bytes: &[u8]) {
        for (index, event) in self.events_in(link, bytes) {
            self.note(|_| format!("event {event} of client {index} is lost on link {link}"));
            self.totals.lost += 1;
            let client = &mut self.clients[index];
            client.taken.insert(event);
            client.held.remove(&event);
            if client.told.iter().all(|before| before.event != event) {
                client.told.push(client::Told { link, event, lost: true });
            } else if self.dispatchers.is_empty() {
                self.fail(format!("event {event} of client {index} was lost after it came"));
            }
        }
    }

    fn events_in(&mut self, link: usize, bytes: &[u8]) -> Vec<(usize, u32)> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Ok(Some((frame, len))) = InnerFrame::decode(rest, usize::MAX) {
            if let Some(told) = Told::from_frame(&frame) {
                events.extend(self.identify(link, &told));
            }
            rest = &rest[len..];
        }
        events
    }

    /// A dispatcher took these bytes from a link to a gateway, and counted so many events in them: the first ones. Others
    /// came when it had given the link up.
    pub(crate) fn events_are_taken(
        &mut self,
        server: Server,
        link: usize,
        bytes: &[u8],
        count: u64,
    ) {
        let mut left = count;
        let mut rest = bytes;
        while let Ok(Some((frame, len))) = InnerFrame::decode(rest, usize::MAX) {
            let (whole, tail) = rest.split_at(len);
            rest = tail;
            let Some(told) = Told::from_frame(&frame) else { continue };
            if left == 0 {
                self.events_are_lost(link, whole);
                continue;
            }
            left -= 1;
            let Some((index, event)) = self.identify(link, &told) else { continue };
            self.note(|_| format!("event {event} of client {index} reaches {server:?}"));
            self.clients[index].taken.insert(event);
            self.clients[index].held.insert(event, server);
        }
    }

    /// The numbers of the commands in frames that a gateway carried out. Among them are events that a dispatcher gave back,
    /// and what dispatchers say on their own.
    pub(crate) fn command_numbers(&mut self, server: Server, bytes: &[u8]) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut rest = bytes;
        while let Ok(Some((frame, len))) = InnerFrame::decode(rest, usize::MAX) {
            rest = &rest[len..];
            if let Some(told) = Told::from_frame(&frame) {
                self.event_is_returned(&told);
            } else if Extension::from_number(frame.header.command).is_none() {
                let mut number = frame.header.client_ip;
                if number == 0 && frame.header.command == Command::Destroy as u8 {
                    // Nobody serves this client, or its worker is slow.
                    number = u32::try_from(self.ops.len()).expect("runs are short");
                    self.ops.push(Op::Destroy { id: frame.header.connection_id });
                }
                self.command_arrives(server, number);
                numbers.push(number);
            }
        }
        numbers
    }

    fn event_is_returned(&mut self, told: &Told<'_>) {
        // Which link it came on does not matter: a client is known by its port.
        let Some((index, event)) = self.identify(0, told) else { return };
        self.note(|_| format!("event {event} of client {index} is back at its gateway"));
        self.totals.returned += 1;
        self.clients[index].held.remove(&event);
    }

    /// A dispatcher reads what has arrived on a link that it dialed, before it hears of the end.
    fn let_dispatcher_read(&mut self, conn: usize) {
        if let Some((near, place)) = self.conns[conn].near
            && near.kind == ServerKind::Dispatcher
        {
            self.step(near, place.shard);
        }
    }
}

/// The number a simulated client's message begins with.
fn message_number(body: &[u8]) -> Option<u32> {
    let (number, _) = core::str::from_utf8(body).ok()?.split_once(':')?;
    number.parse().ok()
}
