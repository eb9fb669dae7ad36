//! The cluster in one thread: every process and peer, the bytes between them, and what happens next.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use tengate_base::{Instant, ShardId};
use tengate_proto::gateway::Config;
use tengate_proto::register::Register;

use crate::client::Client;
use crate::coverage::Coverage;
use crate::dispatchers::DispatcherSlot;
use crate::ether::Ether;
use crate::model::Model;
use crate::network::{Conn, Server};
use crate::op::Op;
use crate::outside::Outside;
use crate::plan::{Cluster, Path, Plan};
use crate::process::Process;
use crate::registers::Upstream;
use crate::rng::Rng;
use crate::watched::{Plant, Watched};
use crate::worker::Worker;

/// A run.
#[derive(Debug)]
pub struct World {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) plant: Option<Plant>,
    agenda: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    pub(crate) conns: Vec<Conn>,
    /// What carries clients' connections past the kernel, if that is where they go.
    pub(crate) ether: Option<Box<Ether>>,
    pub(crate) gateways: Vec<Gate>,
    pub(crate) registers: Vec<RegisterSlot>,
    /// Empty when workers link to gateways.
    pub(crate) dispatchers: Vec<DispatcherSlot>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) outsides: Vec<Outside>,
    pub(crate) clients: Vec<Client>,
    /// Clients by the gateway process and connection_id.
    pub(crate) by_id: BTreeMap<(Server, u32), usize>,
    /// Every command, by number; the first means nothing.
    pub(crate) ops: Vec<Op>,
    pub(crate) coverage: Coverage,
    /// Nobody starts anything, and nothing fails.
    pub(crate) calm: bool,
    /// The end of a client may have been lost with a link or a gateway while a dispatcher had older events of it.
    pub(crate) ghosts: bool,
    /// Dispatchers that have ended and had dropped events.
    pub(crate) droppers: BTreeSet<Server>,
    /// When a gateway last closed a client, or heard that one is gone.
    pub(crate) last_end: Instant,
    pub(crate) totals: Totals,
    failure: Option<String>,
    trace: Option<VecDeque<String>>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Happenings on the agenda.
    pub happenings: u64,
    /// Events workers got.
    pub events: u64,
    /// Events that were written to a link which died.
    pub lost: u64,
    /// Messages clients got.
    pub deliveries: u64,
    /// Answers that were compared with the model.
    pub answers: u64,
    /// Events that moved to another worker.
    pub rerouted: u64,
    /// Events that a dispatcher gave back.
    pub returned: u64,
    /// Homes that gateways took.
    pub moves: u64,
    /// Faults that were carried out.
    pub faults: u64,
    /// Frames that were sent, past the kernel.
    pub frames: u64,
    /// Of them, those that were lost.
    pub frames_lost: u64,
    /// Frames that came to the queue of one shard and were handed to another.
    pub frames_handed: u64,
}

/// A gateway, running or not.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) config: Arc<Config>,
    pub(crate) server: Server,
    /// The process runs.
    pub(crate) up: bool,
    /// It takes clients and links in.
    pub(crate) life: Option<Life>,
    /// Its connections to registers.
    pub(crate) upstreams: Vec<Upstream>,
    /// Its lease, in dispatched mode.
    pub(crate) first_proc_id: Option<u16>,
    /// What each connected register wishes for its home; `None` for one that has said nothing.
    pub(crate) wishes: Vec<Option<Option<String>>>,
    /// What it was told.
    pub(crate) wish: Option<String>,
    /// A link to a dispatcher ended out of order since it started.
    pub(crate) torn: bool,
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) process: Process<Watched>,
    pub(crate) model: Model,
    /// When each shard last knew a worker.
    pub(crate) served: Vec<Instant>,
}

/// A register, running or not.
#[derive(Debug)]
pub(crate) struct RegisterSlot {
    pub(crate) server: Server,
    pub(crate) process: Option<Process<Register>>,
}

/// What is on the agenda.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Something reaches a server.
    ToServer(usize),
    /// Something reaches a peer.
    ToPeer(usize),
    /// A shard has its turn.
    Step(Server, u16),
    /// A batch crosses from one shard to another.
    Cross(Server, u16, u16),
    /// A server has something to do at this time.
    Wake(Server),
    /// A server starts again.
    Start(Server),
    /// A client connects.
    Join,
    /// A client does something.
    Client(usize),
    /// A worker looks whether it must connect.
    Worker(usize),
    /// A worker starts again.
    Revive(usize),
    /// A connection is read again.
    Resume(usize),
    /// An outside client does something.
    Outside(usize),
    /// A gateway's client of a register has something to do.
    GatewayUpstream(usize, usize),
    /// A worker's client of a register has something to do.
    WorkerUpstream(usize, usize),
    /// A dispatcher's client of a register has something to do.
    DispatcherUpstream(usize, usize),
    /// A dispatcher's control thread looks at its links.
    Look(Server),
    /// A worker finishes events of a link.
    Finish(usize, usize),
    /// Something fails.
    Fault,
    /// Frames arrive.
    Frames(u64),
    /// The clients' host has its turn.
    HostTurn,
    /// It has something to do at this time.
    HostWake,
}

/// A run that ended badly.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// The last happenings before it.
    pub trace: Vec<String>,
}

/// Whether a run remembers its last happenings, which costs most of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// It does not.
    Off,
    /// So many.
    Last(usize),
}

/// Happenings after which a run that does not end is a defect.
const HAPPENINGS_MAX: u64 = 3_000_000;

/// Runs one seed.
///
/// # Errors
/// What a check found, with the last happenings when `tracing` keeps them.
pub fn run(
    cluster: Cluster,
    path: Path,
    seed: u64,
    plant: Option<Plant>,
    tracing: Tracing,
) -> Result<Totals, Failure> {
    let mut world = World::new(cluster, path, seed, plant, tracing);
    world.live();
    match world.failure {
        None => Ok(world.totals),
        Some(what) => Err(Failure { seed, what, trace: world.trace.unwrap_or_default().into() }),
    }
}

impl World {
    fn new(
        cluster: Cluster,
        path: Path,
        seed: u64,
        plant: Option<Plant>,
        tracing: Tracing,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = match cluster {
            Cluster::Direct => Plan::direct(&mut rng),
            Cluster::Dispatched => Plan::dispatched(&mut rng),
        };
        let ether = (path == Path::Netstack).then(|| {
            let link = plan.past_kernel(&mut rng);
            Box::new(Ether::new(link, plan.gateways.len(), &mut rng, Instant::ZERO))
        });
        Self {
            now: Instant::ZERO,
            rng,
            plan,
            plant,
            agenda: BinaryHeap::new(),
            order: 0,
            conns: Vec::new(),
            ether,
            gateways: Vec::new(),
            registers: Vec::new(),
            dispatchers: Vec::new(),
            workers: Vec::new(),
            outsides: Vec::new(),
            clients: Vec::new(),
            by_id: BTreeMap::new(),
            ops: vec![Op::Hello],
            coverage: Coverage::default(),
            calm: false,
            ghosts: false,
            droppers: BTreeSet::new(),
            last_end: Instant::ZERO,
            totals: Totals::default(),
            failure: None,
            trace: match tracing {
                Tracing::Off => None,
                Tracing::Last(count) => Some(VecDeque::with_capacity(count)),
            },
        }
    }

    /// The whole run: start, rounds of trouble and rest, everybody leaves.
    fn live(&mut self) {
        self.note(|world| format!("plan {:?}", world.plan));
        self.note(|world| format!("link {:?}", world.ether.as_ref().map(|ether| &ether.link)));
        self.start_everything();
        if let Some(overture) = self.plan.overture {
            self.run_until(self.now + overture);
        }
        for _ in 0..self.plan.round_count {
            self.calm = false;
            self.plan_round();
            self.run_until(self.now + self.plan.round);
            self.rest();
            if self.has_failed() {
                return;
            }
        }
        self.say_goodbye();
    }

    fn plan_round(&mut self) {
        let round = usize::try_from(self.plan.round.as_millis()).unwrap_or(1);
        for _ in 0..self.plan.client_count / self.plan.round_count {
            let at = self.now + self.rng.millis(0, round);
            self.schedule(at, Event::Join);
        }
        self.schedule(self.now, Event::Fault);
        for outside in 0..self.outsides.len() {
            self.schedule(self.now, Event::Outside(outside));
        }
        for client in 0..self.clients.len() {
            self.schedule(self.now, Event::Client(client));
        }
    }

    /// Carries out what is on the agenda up to `end`, or until a check fails.
    pub(crate) fn run_until(&mut self, end: Instant) {
        while self.failure.is_none()
            && let Some(Reverse((at, _, event))) = self.agenda.peek().copied()
            && at <= end
        {
            self.agenda.pop();
            self.now = self.now.max(at);
            self.totals.happenings += 1;
            if self.totals.happenings > HAPPENINGS_MAX {
                self.fail("the cluster does not come to rest".into());
            }
            self.handle(event);
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToServer(conn) => self.arrive_at_server(conn),
            Event::ToPeer(conn) => self.arrive_at_peer(conn),
            Event::Step(server, shard) => self.step(server, ShardId(shard)),
            Event::Cross(server, from, to) => self.cross(server, ShardId(from), ShardId(to)),
            Event::Wake(server) => self.wake(server),
            Event::Start(server) => self.start(server),
            Event::Join if self.calm => {}
            Event::Join => self.client_joins(),
            Event::Client(client) => self.client_acts(client),
            Event::Worker(worker) => self.worker_connects(worker),
            Event::Revive(worker) => self.worker_starts(worker),
            Event::Resume(conn) => self.resume(conn),
            Event::Outside(gateway) => self.outside_acts(gateway),
            Event::GatewayUpstream(gateway, register) => {
                self.gateway_upstream_due(gateway, register);
            }
            Event::WorkerUpstream(worker, register) => self.worker_upstream_due(worker, register),
            Event::DispatcherUpstream(dispatcher, register) => {
                self.dispatcher_upstream_due(dispatcher, register);
            }
            Event::Look(server) => self.dispatcher_looks(server),
            Event::Finish(worker, target) => self.worker_finishes(worker, target),
            Event::Fault => self.strike(),
            Event::Frames(number) => self.frames_arrive(number),
            Event::HostTurn => self.host_turn(),
            Event::HostWake => self.host_wakes(),
        }
    }

    /// Puts something on the agenda.
    pub(crate) fn schedule(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.agenda.push(Reverse((at.max(self.now), self.order, event)));
    }

    /// A check found something wrong; the first one counts.
    pub(crate) fn fail(&mut self, what: String) {
        self.note(|_| format!("WRONG: {what}"));
        self.failure.get_or_insert(what);
    }

    /// Whether a check found something wrong.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Remembers a happening, if anybody will read it.
    pub(crate) fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let micros = self.now.as_nanos() / 1000;
        let line = format!("{:>9}.{:03} ms  {}", micros / 1000, micros % 1000, text(self));
        if let Some(trace) = &mut self.trace {
            if trace.len() == trace.capacity() {
                trace.pop_front();
            }
            trace.push_back(line);
        }
    }
}
