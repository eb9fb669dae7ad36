//! Simulated workers: they follow the registers, link to every gateway, note each event and answer with commands.

use core::net::Ipv4Addr;
use core::time::Duration;

use tengate_base::{Door, Instant};
use tengate_proto::register::RegisterRole;
use tengate_proto::wire::header::InnerFrame;
use tengate_proto::worker::{Event as Told, EventKind, encode_worker_connect};

use crate::client::{self, CLOSED, FIRST_MESSAGE};
use crate::network::{Item, Owner};
use crate::registers::Upstream;
use crate::world::{Event, World};

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) alive: bool,
    pub(crate) upstreams: Vec<Upstream>,
    /// Gateway addresses, by the register that told them.
    addresses: Vec<Vec<String>>,
    /// Its links, by gateway.
    pub(crate) links: Vec<Option<usize>>,
    /// When it may connect to each gateway again.
    retry: Vec<Instant>,
}

/// A worker's pause before it connects to a gateway again, as in GatewayWorker.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

impl World {
    /// A worker that is not running yet.
    pub(crate) fn new_worker(&self) -> Worker {
        let gateways = self.plan.gateways.len();
        Worker {
            alive: false,
            upstreams: Vec::new(),
            addresses: vec![Vec::new(); self.plan.register_count],
            links: vec![None; gateways],
            retry: vec![Instant::ZERO; gateways],
        }
    }

    /// A worker process starts.
    pub(crate) fn worker_starts(&mut self, worker: usize) {
        if self.workers[worker].alive {
            return;
        }
        self.note(|_| format!("worker {worker} starts"));
        self.workers[worker] = self.new_worker();
        self.workers[worker].alive = true;
        self.workers[worker].upstreams = self.upstreams(&RegisterRole::Worker);
        for register in 0..self.plan.register_count {
            self.schedule(self.now, Event::WorkerUpstream(worker, register));
        }
    }

    /// A worker process dies without a word.
    pub(crate) fn worker_dies(&mut self, worker: usize) {
        self.note(|_| format!("worker {worker} dies"));
        self.workers[worker].alive = false;
        for conn in 0..self.conns.len() {
            let mine = match self.conns[conn].owner {
                Owner::Worker(index) | Owner::WorkerAtRegister(index, _) => index == worker,
                Owner::Client(_) | Owner::Outside(_) | Owner::GatewayAtRegister(..) => false,
            };
            if mine {
                self.peer_closes(conn, Item::Reset);
            }
        }
    }

    /// A register told a worker the gateways.
    pub(crate) fn worker_learns(&mut self, worker: usize, register: usize, addresses: Vec<String>) {
        self.note(|_| format!("worker {worker} learns {addresses:?}"));
        self.workers[worker].addresses[register] = addresses;
        self.schedule(self.now, Event::Worker(worker));
    }

    /// A worker connects to the gateways it knows and has no link to.
    pub(crate) fn worker_connects(&mut self, worker: usize) {
        if !self.workers[worker].alive {
            return;
        }
        for gateway in 0..self.gateways.len() {
            let config = &self.gateways[gateway].config;
            let address = format!("{}:{}", config.lan_ip, config.lan_port);
            let it = &self.workers[worker];
            let known = it.addresses.iter().flatten().any(|other| *other == address);
            if it.links[gateway].is_none() && known && it.retry[gateway] <= self.now {
                self.worker_links(worker, gateway);
            }
        }
    }

    /// A worker opens a link.
    fn worker_links(&mut self, worker: usize, gateway: usize) {
        let server = self.gateways[gateway].server;
        let ip = Ipv4Addr::new(10, 1, 0, u8::try_from(worker).unwrap_or(0));
        let door = Door(u16::try_from(self.gateways[gateway].config.listeners.len()).unwrap_or(0));
        match self.connect(server, door, Owner::Worker(worker), ip) {
            Some((conn, _)) => {
                self.workers[worker].links[gateway] = Some(conn);
                let mut hello = Vec::new();
                encode_worker_connect("Sim:0", &self.plan.secret, &mut hello);
                self.send_to_server(conn, &hello);
            }
            None => self.worker_retries(worker, gateway),
        }
    }

    fn worker_retries(&mut self, worker: usize, gateway: usize) {
        let at = self.now + RECONNECT_DELAY;
        self.workers[worker].retry[gateway] = at;
        self.schedule(at, Event::Worker(worker));
    }

    /// A worker hears that a link is gone.
    pub(crate) fn worker_lost(&mut self, worker: usize, conn: usize) {
        let gateway = self.conns[conn].server.index;
        if self.workers[worker].links[gateway] == Some(conn) {
            self.workers[worker].links[gateway] = None;
            self.worker_retries(worker, gateway);
        }
    }

    /// A worker reads what has arrived on a link.
    pub(crate) fn worker_reads(&mut self, worker: usize, conn: usize) {
        let unread = core::mem::take(&mut self.conns[conn].unread);
        let mut at = 0;
        loop {
            match InnerFrame::decode(&unread[at..], usize::MAX) {
                Ok(Some((frame, len))) => {
                    at += len;
                    if self.note_event(conn, &frame, false) {
                        self.worker_answers(worker, conn, frame.header.connection_id);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    return self.fail(format!("worker {worker} got no frame: {error:?}"));
                }
            }
        }
        self.conns[conn].unread = unread[at..].to_vec();
    }

    /// An event reached a worker, or is lost. Whether it was an event.
    fn note_event(&mut self, link: usize, frame: &InnerFrame<'_>, lost: bool) -> bool {
        let Some(told) = Told::from_frame(frame) else { return false };
        let server = self.conns[link].server;
        let id = told.client.connection_id;
        let Some(index) = self.by_id.get(&(server, id)).copied() else {
            // A client that was turned away: its connection did not last until it had a name here.
            self.totals.events += u64::from(!lost);
            return false;
        };
        let event = match told.kind {
            EventKind::Connect => 0,
            EventKind::WebsocketConnect => 1,
            EventKind::Message => match message_number(told.body) {
                Some(number) => FIRST_MESSAGE + number,
                None => {
                    self.fail(format!("client {index} never said {:?}", told.body));
                    return false;
                }
            },
            EventKind::Close => CLOSED,
        };
        self.note(|_| {
            let fate = if lost { "is lost on" } else { "reaches" };
            format!("event {event} of client {index} ({id}) {fate} link {link}")
        });
        if lost {
            self.totals.lost += 1;
        } else {
            self.totals.events += 1;
        }
        let told = &mut self.clients[index].told;
        if let Some(before) = told.iter().find(|before| before.event == event) {
            let before = before.link;
            self.fail(format!(
                "event {event} of client {index} came twice: link {before}, link {link}"
            ));
            return true;
        }
        let newest = told.iter().filter(|before| before.link == link).map(|before| before.event);
        if newest.max().is_some_and(|newest| newest > event) {
            self.fail(format!("event {event} of client {index} came late on link {link}"));
            return true;
        }
        self.clients[index].told.push(client::Told { link, event, lost });
        true
    }

    /// Both ends of a link are gone: what was written and not read is lost.
    pub(crate) fn settle_link(&mut self, conn: usize) {
        let it = &self.conns[conn];
        if !matches!(it.owner, Owner::Worker(_)) || it.server_open || it.peer_open {
            return;
        }
        let mut bytes = it.unread.clone();
        bytes.extend(it.to_peer.bytes());
        self.conns[conn].unread.clear();
        self.conns[conn].to_peer.clear();
        let mut rest = bytes.as_slice();
        while let Ok(Some((frame, len))) = InnerFrame::decode(rest, usize::MAX) {
            self.note_event(conn, &frame, true);
            rest = &rest[len..];
        }
    }
}

/// The number a simulated client's message begins with.
fn message_number(body: &[u8]) -> Option<u32> {
    let (number, _) = core::str::from_utf8(body).ok()?.split_once(':')?;
    number.parse().ok()
}
