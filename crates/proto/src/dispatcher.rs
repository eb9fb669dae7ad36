//! A dispatcher: a gateway to workers, a worker to gateways (docs/dispatcher.md).
//!
//! Follow a message: an event enters in [`gateway_link`], gets its worker in [`route`] and goes into that worker's link. A
//! worker's command enters in [`peer`], finds its gateways in [`forward`] through the [`index`], and goes to each of them
//! once. Questions are asked of the gateways concerned and answered in one, see [`ask`].
//!
//! One dispatcher is one shard: what grows beyond a core is served by more dispatchers, each with gateways of its own.

mod ask;
mod bindings;
mod config;
mod forward;
mod gateway_link;
mod index;
mod notice;
mod peer;
mod route;
mod stats;
mod workers;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::HashMap;
use tengate_base::{
    App, ChunkedVec, CloseCause, ConnId, Door, How, Instant, Opened, ShardId, Sink, TimerWheel,
};

use crate::wire::extension::{Extension, NameKind};
use ask::Deadline;
use bindings::Proc;
use gateway_link::GatewayLink;
use index::Index;
use notice::NOTICES_MAX;
use peer::Peer;
use route::Waiting;
use workers::Workers;

pub use config::{Balance, Config, WorkerGroup};
pub use notice::Notice;
pub use stats::Stats;

/// The door of workers and outside clients.
pub const LISTEN: Door = Door(0);
/// The door of links to gateways, which the dispatcher's owner has opened; `Opened::peer` is the gateway's inner address.
pub const DIALED: Door = Door(1);

/// A dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    config: Arc<Config>,
    /// By connection index.
    slots: ChunkedVec<Slot>,
    /// Linked gateways, in the order they were linked.
    gateways: Vec<ConnId>,
    /// Shards of linked gateways by `proc_id`.
    procs: HashMap<u16, Proc, foldhash::fast::FixedState>,
    workers: Workers,
    index: Index,
    /// Where the search for what ended lives held goes on, if there is something to find.
    sweeping: Option<(NameKind, u32)>,
    waiting: Waiting,
    deadlines: VecDeque<Deadline>,
    wheel: TimerWheel,
    /// Room for the gateways of one command.
    targets: Vec<ConnId>,
    /// Bits of a connection_id that number a client within its shard.
    number_bits: u8,
    next_serial: u32,
    /// The number of the newest life of a shard, see `index::Holder`.
    last_life: u32,
    /// When gateways that move away are looked at again.
    detach_check: Option<Instant>,
    draining: bool,
    notices: VecDeque<Notice>,
    stats: Stats,
}

/// What a connection index stands for.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Free,
    Peer(Box<Peer>),
    Gateway(Box<GatewayLink>),
}

/// A linked gateway, for status pages and the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayView {
    /// Its inner address.
    pub address: SocketAddr,
    /// Whether this dispatcher is its home.
    pub home: bool,
    /// The `proc_id` of its first shard.
    pub first_proc_id: u16,
    /// How many shards it has.
    pub shards: u16,
    /// Bits of a connection_id that number a client within its shard.
    pub number_bits: u8,
    /// Its clients that are bound to workers here.
    pub clients: u64,
}

/// What the dispatcher knows of a connection, for status pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Described<'a> {
    /// A gateway.
    Gateway {
        /// Its inner address.
        address: SocketAddr,
        /// Whether this dispatcher is its home.
        home: bool,
    },
    /// A worker that identified itself.
    Worker {
        /// `remote ip:name:id`.
        key: &'a [u8],
    },
    /// A GatewayClient, or a worker that has not identified itself yet.
    OutsideClient,
}

/// Granularity of every time-out of a link.
const TICK: core::time::Duration = core::time::Duration::from_millis(100);

/// The usual split of connection ids, until a gateway tells.
const NUMBER_BITS: u8 = 22;

impl Dispatcher {
    /// A dispatcher without connections.
    pub fn new(config: Arc<Config>, now: Instant) -> Self {
        let seed = config.seed;
        Self {
            slots: ChunkedVec::new(),
            gateways: Vec::new(),
            procs: HashMap::default(),
            workers: Workers::new(seed),
            index: Index::new(seed),
            sweeping: None,
            waiting: Waiting::default(),
            deadlines: VecDeque::new(),
            wheel: TimerWheel::new(TICK, now),
            targets: Vec::new(),
            number_bits: NUMBER_BITS,
            next_serial: 0,
            last_life: 0,
            detach_check: None,
            draining: false,
            notices: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// Takes over a configuration with the same address and key; bindings that exist stay.
    pub fn reload(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.gateways = self.gateways.len() as u64;
        stats.homes = self.gateways().filter(|gateway| gateway.home).count() as u64;
        stats.workers = self.workers.len() as u64;
        stats.clients = self.procs.values().map(|proc| proc.bindings.len() as u64).sum();
        stats.uids = self.index.len(NameKind::Uid) as u64;
        stats.groups = self.index.len(NameKind::Group) as u64;
        stats
    }

    /// The gateways that are linked and have said who they are, in the order they were linked.
    pub fn gateways(&self) -> impl Iterator<Item = GatewayView> {
        self.gateways.iter().filter_map(|conn| self.gateway(*conn)).map(|gateway| {
            let shards = gateway.proc_ids().filter_map(|proc_id| self.procs.get(&proc_id));
            GatewayView {
                address: gateway.address,
                home: gateway.is_home(),
                first_proc_id: gateway.shards.first_proc_id,
                shards: gateway.shards.count,
                number_bits: gateway.shards.number_bits,
                clients: shards.map(|proc| proc.bindings.len() as u64).sum(),
            }
        })
    }

    /// Addresses of every link that was dialed and is open, also where the gateway has not answered yet.
    pub fn dialed(&self) -> impl Iterator<Item = SocketAddr> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Gateway(gateway) => Some(gateway.address),
            Slot::Free | Slot::Peer(_) => None,
        })
    }

    /// The `proc_id`s of shards that hold a uid or group, as the routing index has it.
    pub fn holders(&self, kind: NameKind, name: &[u8]) -> impl Iterator<Item = u16> {
        let lives = |holder: &index::Holder| {
            self.procs.get(&holder.proc_id).is_some_and(|proc| proc.life == holder.life)
        };
        self.index.holders(kind, name).filter(lives).map(|holder| holder.proc_id)
    }

    /// The workers that take events, with how many clients are bound to each.
    pub fn workers(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.workers.up().map(|worker| (worker.key(), worker.bound_count()))
    }

    /// What is known of a connection.
    pub fn describe(&self, conn: ConnId) -> Option<Described<'_>> {
        match self.slots.get(conn.0 as usize)? {
            Slot::Free => None,
            Slot::Gateway(gateway) => {
                Some(Described::Gateway { address: gateway.address, home: gateway.is_home() })
            }
            Slot::Peer(peer) => {
                Some(peer.key().map_or(Described::OutsideClient, |key| Described::Worker { key }))
            }
        }
    }

    /// What happened since this was asked last and is worth a line in a log.
    pub fn take_notices(&mut self) -> impl Iterator<Item = Notice> {
        core::mem::take(&mut self.notices).into_iter()
    }

    /// First part of a stop: every gateway is asked to choose another home.
    pub fn drain(&mut self, sink: &mut impl Sink) {
        self.draining = true;
        for conn in self.gateways.clone() {
            Extension::Drain.encode(0, b"", sink.buffer(conn));
            self.send_drain_fence(conn, sink);
        }
    }

    /// Whether no gateway needs this dispatcher any more.
    pub fn is_drained(&self) -> bool {
        let mut gateways = self.gateways.iter().filter_map(|conn| self.gateway(*conn));
        self.draining && gateways.all(|gateway| !gateway.is_home() && gateway.knows_of_drain())
    }

    /// Last part of a stop: closes every link, after what is queued.
    pub fn close_links(&mut self, now: Instant, sink: &mut impl Sink) {
        for index in 0..self.slots.len() {
            let conn = ConnId(u32::try_from(index).expect("connection indexes are u32"));
            match self.slots[index] {
                Slot::Free => {}
                Slot::Peer(_) => self.close_peer(now, conn, How::AfterFlush, sink),
                Slot::Gateway(_) => self.close_gateway(now, conn, How::AfterFlush, sink),
            }
        }
    }

    fn gateway(&self, conn: ConnId) -> Option<&GatewayLink> {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Gateway(gateway)) => Some(gateway),
            Some(Slot::Free | Slot::Peer(_)) | None => None,
        }
    }

    fn gateway_mut(&mut self, conn: ConnId) -> Option<&mut GatewayLink> {
        match self.slots.get_mut(conn.0 as usize) {
            Some(Slot::Gateway(gateway)) => Some(gateway),
            Some(Slot::Free | Slot::Peer(_)) | None => None,
        }
    }

    fn peer_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        match self.slots.get_mut(conn.0 as usize) {
            Some(Slot::Peer(peer)) => Some(peer),
            Some(Slot::Free | Slot::Gateway(_)) | None => None,
        }
    }

    fn put(&mut self, conn: ConnId, slot: Slot) {
        let index = conn.0 as usize;
        self.slots.grow_to(index + 1, || Slot::Free);
        self.slots[index] = slot;
    }

    fn serial(&mut self) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1);
        self.next_serial
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }
}

impl App for Dispatcher {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        if opened.door == DIALED {
            self.open_gateway(now, opened, sink);
        } else {
            self.open_peer(now, opened);
        }
    }

    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Gateway(_)) => self.handle_gateway_bytes(now, conn, bytes, sink),
            Some(Slot::Peer(_)) => self.handle_peer_bytes(now, conn, bytes, sink),
            Some(Slot::Free) | None => bytes.len(),
        }
    }

    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        _cause: CloseCause,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Gateway(_)) => self.forget_gateway(conn, sink),
            Some(Slot::Peer(_)) => self.forget_peer(now, conn, unsent, sink),
            Some(Slot::Free) | None => {}
        }
    }

    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Gateway(_)) => self.handle_gateway_drained(conn, sink),
            Some(Slot::Peer(_)) => self.handle_peer_drained(now, conn, sink),
            Some(Slot::Free) | None => {}
        }
    }

    fn handle_mesh(
        &mut self,
        _now: Instant,
        _from: ShardId,
        _batch: &mut [u8],
        _sink: &mut impl Sink,
    ) {
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        self.expire_waiting(now, sink);
        self.expire_questions(now, sink);
        self.check_detaching(now, sink);
        self.sweep();
        while let Some(index) = self.wheel.pop_due(now) {
            match self.slots[index as usize] {
                Slot::Free => {}
                Slot::Peer(_) => self.handle_peer_due(now, ConnId(index), sink),
                Slot::Gateway(_) => self.handle_gateway_due(now, ConnId(index), sink),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let sweep = self.sweeping.map(|_| Instant::ZERO);
        let question = self.deadlines.front().map(|deadline| deadline.at);
        let all = [
            self.wheel.next_deadline(),
            self.waiting.next_deadline(),
            question,
            self.detach_check,
            sweep,
        ];
        all.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
