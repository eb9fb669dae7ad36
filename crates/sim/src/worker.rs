//! Simulated workers: they follow the registers, link to every gateway or dispatcher, note each event and answer with
//! commands. Some acknowledge events, as workers of the Rust SDK may, once they are done with them.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use tengate_base::Instant;
use tengate_proto::register::RegisterRole;
use tengate_proto::wire::extension::{Extension, Offer, VERSION};
use tengate_proto::wire::header::InnerFrame;
use tengate_proto::worker::{
    AckTracker, Receipt, encode_worker_connect, encode_worker_connect_with_offer,
};

use crate::journey::Fate;
use crate::network::{Item, Owner};
use crate::registers::Upstream;
use crate::world::{Event, World};

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) alive: bool,
    pub(crate) upstreams: Vec<Upstream>,
    /// Addresses to link to, by the register that told them.
    addresses: Vec<Vec<String>>,
    /// Its links, by what they lead to.
    pub(crate) links: Vec<Option<usize>>,
    /// When it may connect again, by the same.
    retry: Vec<Instant>,
    /// Events it is at work on, by the same; stays empty when it does not acknowledge.
    tasks: Vec<Tasks>,
}

/// Events of one link that are not finished.
#[derive(Debug, Default)]
struct Tasks {
    tracker: AckTracker,
    begun: Vec<Receipt>,
}

/// A worker's pause before it connects to a gateway again, as in GatewayWorker.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

impl World {
    /// A worker that is not running yet.
    pub(crate) fn new_worker(&self) -> Worker {
        let targets = self.target_count();
        Worker {
            alive: false,
            upstreams: Vec::new(),
            addresses: vec![Vec::new(); self.plan.register_count],
            links: vec![None; targets],
            retry: vec![Instant::ZERO; targets],
            tasks: (0..targets).map(|_| Tasks::default()).collect(),
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
                Owner::Client(_)
                | Owner::Outside(_)
                | Owner::Dispatcher(_)
                | Owner::GatewayAtRegister(..)
                | Owner::DispatcherAtRegister(..) => false,
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

    /// A worker connects to the gateways or dispatchers it knows and has no link to.
    pub(crate) fn worker_connects(&mut self, worker: usize) {
        if !self.workers[worker].alive {
            return;
        }
        for target in 0..self.target_count() {
            let address = self.target_address(target);
            let it = &self.workers[worker];
            let known = it.addresses.iter().flatten().any(|other| *other == address);
            if it.links[target].is_none() && known && it.retry[target] <= self.now {
                self.worker_links(worker, target);
            }
        }
    }

    /// A worker opens a link.
    fn worker_links(&mut self, worker: usize, target: usize) {
        let server = self.target(target);
        let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 0, u8::try_from(worker).unwrap_or(0)));
        let door = self.target_door(target);
        match self.connect(server, door, Owner::Worker(worker), ip) {
            Some((conn, _)) => {
                self.workers[worker].links[target] = Some(conn);
                self.workers[worker].tasks[target] = Tasks::default();
                let mut hello = Vec::new();
                if self.acknowledges(worker) {
                    let offer = Offer { version: VERSION, dispatcher: None, ack: true, ipv6: true };
                    encode_worker_connect_with_offer("Sim:0", &self.plan.secret, offer, &mut hello);
                } else {
                    encode_worker_connect("Sim:0", &self.plan.secret, &mut hello);
                }
                self.send_to_server(conn, &hello);
            }
            None => self.worker_retries(worker, target),
        }
    }

    /// Whether a worker acknowledges events.
    pub(crate) fn acknowledges(&self, worker: usize) -> bool {
        self.plan.acknowledging.get(worker) == Some(&true)
    }

    fn worker_retries(&mut self, worker: usize, target: usize) {
        let at = self.now + RECONNECT_DELAY;
        self.workers[worker].retry[target] = at;
        self.schedule(at, Event::Worker(worker));
    }

    /// A worker hears that a link is gone.
    pub(crate) fn worker_lost(&mut self, worker: usize, conn: usize) {
        let target = self.conns[conn].server.index;
        if self.workers[worker].links[target] == Some(conn) {
            self.workers[worker].links[target] = None;
            self.worker_retries(worker, target);
        }
    }

    /// A worker reads what has arrived on a link.
    pub(crate) fn worker_reads(&mut self, worker: usize, conn: usize) {
        let unread = core::mem::take(&mut self.conns[conn].unread);
        let acknowledges = self.acknowledges(worker);
        let mut at = 0;
        loop {
            match InnerFrame::decode(&unread[at..], usize::MAX) {
                Ok(Some((frame, len))) => {
                    at += len;
                    if !acknowledges && Extension::from_number(frame.header.command).is_some() {
                        return self.fail(format!("worker {worker} got {:?}", frame.header));
                    }
                    let Some(fate) = self.event_is_told(conn, &frame) else { continue };
                    if acknowledges {
                        self.worker_begins(worker, conn);
                    }
                    if fate == Fate::Told {
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

    /// An event is handed to its handler, which may take its time.
    fn worker_begins(&mut self, worker: usize, conn: usize) {
        let target = self.conns[conn].server.index;
        let tasks = &mut self.workers[worker].tasks[target];
        let receipt = tasks.tracker.handle_received();
        tasks.begun.push(receipt);
        if tasks.begun.len() == 1 {
            let at = self.now + self.rng.micros(0, self.plan.task_micros);
            self.schedule(at, Event::Finish(worker, target));
        }
    }

    /// Some handlers finish, in any order, and a worker acknowledges what it can.
    pub(crate) fn worker_finishes(&mut self, worker: usize, target: usize) {
        let Self { workers, rng, calm, .. } = self;
        let Some(conn) = workers[worker].links[target].filter(|_| workers[worker].alive) else {
            return;
        };
        let tasks = &mut workers[worker].tasks[target];
        for index in (0..tasks.begun.len()).rev() {
            if *calm || rng.percent(60) {
                let receipt = tasks.begun.swap_remove(index);
                tasks.tracker.handle_finished(receipt);
            }
        }
        let (due, is_busy) = (tasks.tracker.take_due(), !tasks.begun.is_empty());
        if is_busy {
            let at = self.now + self.rng.micros(0, self.plan.task_micros);
            self.schedule(at, Event::Finish(worker, target));
        }
        if due > 0 {
            let mut ack = Vec::new();
            Extension::Ack.encode(due, b"", &mut ack);
            self.send_to_server(conn, &ack);
        }
    }
}
