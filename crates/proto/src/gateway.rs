//! One shard of a gateway: its clients, its worker links, and everything that happens between them.
//!
//! Follow a message: bytes of a client become messages in [`inbound`], an event for the bound worker in [`route`], and go
//! into that worker's link or over the [`mesh`] to the shard that owns it. A worker's frame enters in [`link`], goes to the
//! shards it concerns, is carried out in [`command`], and reaches clients through [`deliver`]. A [`question`] is answered in
//! parts.
//!
//! In dispatched mode one dispatcher at a time, the home, takes the workers' place: [`directory`] says which, [`extension`]
//! is what it and the gateway say to each other, [`hints`] tells it which uids and groups are here.
//!
//! Cost: no allocation a message in steady state; an event is encoded once, in the buffer it leaves from.

mod client;
mod command;
mod config;
mod deliver;
mod directory;
mod extension;
mod heartbeat;
mod hints;
mod ids;
mod inbound;
mod link;
mod members;
mod mesh;
mod question;
mod route;
mod stats;
mod workers;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::net::{IpAddr, Ipv6Addr};

use foldhash::fast::FixedState;
use tengate_base::{
    App, ChunkedVec, CloseCause, Closed, ConnId, Door, How, IndexTable, Instant, Opened, ShardId,
    Sink, TimerWheel,
};

use client::{Client, Codec};
use deliver::Encoded;
use directory::Homes;
use hints::Hints;
use ids::ConnectionIds;
use link::Link;
use members::{Groups, Uids};
use mesh::Mesh;
use route::Waiting;
use workers::Workers;

pub use config::{
    Config, Heartbeat, Listener, Mode, Ping, Protocol, Routing, SlowClient, SlowWorker,
};
pub use ids::ProcIdError;
pub use stats::Stats;

use crate::wire::extension::proc_id_of;
use crate::wire::header::Command;

/// One shard of a gateway.
///
/// Doors 0..n are the configured listeners, door n is the inner one.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    shard: ShardId,
    /// That of shard 0.
    first_proc_id: u16,
    ids: ConnectionIds,
    /// By connection index.
    slots: ChunkedVec<Slot>,
    /// By connection index, in dispatched mode: addresses of clients without an IPv4 address.
    ipv6: ChunkedVec<Ipv6Addr>,
    /// connection_id ⇒ connection index.
    by_id: IndexTable,
    hasher: FixedState,
    uids: Uids,
    groups: Groups,
    hints: Hints,
    workers: Workers,
    /// Of shard 0.
    homes: Homes,
    waiting: Waiting,
    wheel: TimerWheel,
    encoded: Encoded,
    /// Room for the receivers of one message.
    receivers: Vec<u32>,
    next_serial: u32,
    next_seq: u32,
    stats: Stats,
}

/// What a connection index stands for.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Free,
    Client(Client),
    Link(Box<Link>),
}

/// What the gateway knows of a connection, for status pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Described<'a> {
    /// A client.
    Client {
        /// Its number in the cluster.
        connection_id: u32,
        /// The listener it came through.
        door: Door,
        /// Whether its protocol's opening is done.
        established: bool,
    },
    /// A worker that identified itself.
    Worker {
        /// `remote ip:name:id`.
        key: &'a [u8],
    },
    /// A GatewayClient, or a worker that has not identified itself yet.
    OutsideClient,
}

/// Granularity of every time-out of a gateway.
const TICK: core::time::Duration = core::time::Duration::from_millis(100);

impl Gateway {
    /// A shard without connections.
    pub fn new(config: Arc<Config>, shard: ShardId, now: Instant) -> Self {
        let seed = config.seed.wrapping_add(u64::from(shard.0));
        Self {
            shard,
            first_proc_id: 0,
            ids: ConnectionIds::new(shard.0, config.number_bits),
            slots: ChunkedVec::new(),
            ipv6: ChunkedVec::new(),
            by_id: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
            uids: Uids::new(seed),
            groups: Groups::new(seed),
            hints: Hints::default(),
            workers: Workers::new(config.routing, usize::from(shard.0), seed),
            homes: Homes::default(),
            waiting: Waiting::default(),
            wheel: TimerWheel::new(TICK, now),
            encoded: Encoded::default(),
            receivers: Vec::new(),
            next_serial: 0,
            next_seq: 0,
            stats: Stats::default(),
            config,
        }
    }

    /// Takes over a configuration with the same listeners, shards and addresses; what exists already keeps its timers.
    pub fn reload(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// Numbers the shards of this gateway in the cluster, from `first` on; without it, from 0 on. To be told to every shard,
    /// before clients and links.
    ///
    /// # Errors
    /// A connection_id has no room for such a `proc_id`, or there are connections already.
    pub fn set_first_proc_id(&mut self, first: u16) -> Result<(), ProcIdError> {
        let (shards, number_bits) = (self.config.shards, self.config.number_bits);
        ids::check(first, shards, number_bits)?;
        if first == self.first_proc_id {
            return Ok(());
        }
        if !self.by_id.is_empty() || self.stats.links > 0 {
            return Err(ProcIdError::InUse);
        }
        self.first_proc_id = first;
        self.ids = ConnectionIds::new(first + self.shard.0, number_bits);
        Ok(())
    }

    /// What this shard has done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.clients = self.by_id.len() as u64;
        stats.uids = self.uids.len() as u64;
        stats.groups = self.groups.len() as u64;
        stats.timers = self.wheel.len() as u64;
        stats
    }

    /// The workers this shard binds clients to, with how many it bound to each.
    pub fn workers(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.workers.up().map(|worker| (worker.key(), worker.bound_count()))
    }

    #[cfg(test)]
    fn paused_count(&self) -> usize {
        self.workers.paused_count()
    }

    /// What is known of a connection.
    pub fn describe(&self, conn: ConnId) -> Option<Described<'_>> {
        match self.slots.get(conn.0 as usize)? {
            Slot::Free => None,
            Slot::Client(client) => Some(Described::Client {
                connection_id: client.connection_id,
                door: client.door,
                established: !matches!(client.codec, Codec::Handshake(_)),
            }),
            Slot::Link(link) => {
                Some(link.key().map_or(Described::OutsideClient, |key| Described::Worker { key }))
            }
        }
    }

    /// Says goodbye to every client, after its queued messages; workers hear ON_CLOSE of each. First part of a stop.
    pub fn close_clients(&mut self, now: Instant, sink: &mut impl Sink) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index], Slot::Client(_)) {
                self.close_client(now, conn_id(index), How::AfterFlush, sink);
            }
        }
    }

    /// Closes the worker links, after what is queued for them. Last part of a stop.
    pub fn close_links(&mut self, now: Instant, sink: &mut impl Sink) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index], Slot::Link(_)) {
                self.close_link(now, conn_id(index), How::AfterFlush, sink);
            }
        }
    }

    fn listener(&self, door: Door) -> &Listener {
        &self.config.listeners[usize::from(door.0)]
    }

    fn client(&self, conn: ConnId) -> Option<&Client> {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Client(client)) => Some(client),
            Some(Slot::Free | Slot::Link(_)) | None => None,
        }
    }

    fn client_mut(&mut self, conn: ConnId) -> Option<&mut Client> {
        match self.slots.get_mut(conn.0 as usize) {
            Some(Slot::Client(client)) => Some(client),
            Some(Slot::Free | Slot::Link(_)) | None => None,
        }
    }

    /// The client of this shard with this number.
    #[inline]
    fn find(&self, connection_id: u32) -> Option<ConnId> {
        let hash = self.hasher.hash_one(connection_id);
        let same = |index: u32| {
            self.client(ConnId(index)).is_some_and(|client| client.connection_id == connection_id)
        };
        self.by_id.find(hash, same).map(ConnId)
    }

    /// The shard that owns a connection_id, if there is one.
    fn owner(&self, connection_id: u32) -> Option<ShardId> {
        let proc_id = proc_id_of(connection_id, self.config.number_bits);
        let shard = proc_id.checked_sub(self.first_proc_id)?;
        (shard < self.config.shards).then_some(ShardId(shard))
    }

    /// What names a shard where no client is meant.
    fn first_connection_id(&self, shard: ShardId) -> u32 {
        u32::from(self.first_proc_id + shard.0) << self.config.number_bits
    }

    /// Every other shard.
    fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let this = self.shard;
        (0..self.config.shards).map(ShardId).filter(move |shard| *shard != this)
    }

    /// Sends a message to a shard; to this one by carrying it out.
    fn tell(&mut self, now: Instant, shard: ShardId, message: &Mesh<'_>, sink: &mut impl Sink) {
        if shard == self.shard {
            self.handle_message(now, shard, message, sink);
        } else {
            message.encode(sink.mesh(shard));
        }
    }

    /// Sends a message to every shard, this one included.
    fn tell_all(&mut self, now: Instant, message: &Mesh<'_>, sink: &mut impl Sink) {
        for shard in self.others() {
            message.encode(sink.mesh(shard));
        }
        self.handle_message(now, self.shard, message, sink);
    }

    fn put(&mut self, conn: ConnId, slot: Slot) {
        let at = conn.0 as usize;
        self.slots.grow_to(at + 1, Slot::default);
        self.slots[at] = slot;
    }

    fn open_client(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        let conn = opened.conn;
        let next = {
            let (by_id, hasher, slots) = (&self.by_id, &self.hasher, &self.slots);
            self.ids.next(|id| {
                by_id.find(hasher.hash_one(id), |index| number(slots, index) == id).is_some()
            })
        };
        let Some(connection_id) = next else {
            // Every number of the shard is taken: the limit of connections a shard must be set below that.
            sink.close(conn, How::AtOnce);
            return;
        };
        let listener = &self.config.listeners[usize::from(opened.door.0)];
        let client = Client::new(
            connection_id,
            opened.door,
            opened.peer,
            opened.local_port,
            &listener.protocol,
        );
        let deadline = match client.codec {
            Codec::Handshake(_) => Some(now + listener.handshake_timeout),
            Codec::Websocket(_) | Codec::Text(_) | Codec::Stateless => {
                listener.heartbeat.as_ref().map(|heartbeat| now + heartbeat.tick())
            }
        };
        if client.ip == 0 && self.config.mode == Mode::Dispatched {
            self.ipv6.grow_to(conn.0 as usize + 1, || Ipv6Addr::UNSPECIFIED);
            self.ipv6[conn.0 as usize] = match opened.peer.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
        }
        self.put(conn, Slot::Client(client));
        let (hasher, slots) = (&self.hasher, &self.slots);
        self.by_id.insert_unique(hasher.hash_one(connection_id), conn.0, |index| {
            hasher.hash_one(number(slots, index))
        });
        if let Some(deadline) = deadline {
            self.wheel.set(conn.0, deadline);
        }
        self.emit(now, conn, Command::OnConnect, route::Body::Scalar(b""), sink);
    }

    /// Closes a client; the worker hears of it when the connection is gone.
    fn close_client(&mut self, now: Instant, conn: ConnId, how: How, sink: &mut impl Sink) {
        match sink.close(conn, how) {
            Closed::Now => self.forget_client(now, conn, sink),
            Closed::Later => {
                let deadline = now + self.config.close_linger;
                if let Some(client) = self.client_mut(conn) {
                    client.closing = true;
                    self.wheel.set(conn.0, deadline);
                }
            }
        }
    }

    /// The connection of a client is gone: tells its worker and frees everything it had.
    fn forget_client(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(client) = self.client(conn) else { return };
        let connection_id = client.connection_id;
        self.emit(now, conn, Command::OnClose, route::Body::Scalar(b""), sink);
        if let Some(client) = self.client(conn) {
            self.workers.release(client.worker);
        }
        self.by_id.remove(self.hasher.hash_one(connection_id), |index| index == conn.0);
        self.uids.unbind(conn.0, &mut self.hints);
        self.groups.leave_all(conn.0, &mut self.hints);
        if self.hints.any() {
            self.send_hints(sink);
        }
        self.wheel.cancel(conn.0);
        self.slots[conn.0 as usize] = Slot::Free;
    }

    /// The one timer of a connection has expired; what for follows from its state.
    fn handle_due(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        match &mut self.slots[conn.0 as usize] {
            Slot::Free => {}
            Slot::Link(_) => self.handle_link_due(now, conn, sink),
            Slot::Client(client) if client.closing => {
                self.stats.close_linger += 1;
                self.close_client(now, conn, How::AtOnce, sink);
            }
            Slot::Client(client) if matches!(client.codec, Codec::Handshake(_)) => {
                self.stats.close_handshake_timeout += 1;
                self.close_client(now, conn, How::AtOnce, sink);
            }
            Slot::Client(_) => self.handle_heartbeat(now, conn, sink),
        }
    }
}

/// The connection_id of a slot known to hold a client.
fn number(slots: &ChunkedVec<Slot>, index: u32) -> u32 {
    match &slots[index as usize] {
        Slot::Client(client) => client.connection_id,
        Slot::Free | Slot::Link(_) => 0,
    }
}

fn conn_id(index: usize) -> ConnId {
    ConnId(u32::try_from(index).expect("connection indexes are u32"))
}

impl App for Gateway {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        if usize::from(opened.door.0) < self.config.listeners.len() {
            self.open_client(now, opened, sink);
        } else {
            self.open_link(now, opened);
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
            Some(Slot::Client(_)) => self.handle_client_bytes(now, conn, bytes, sink),
            Some(Slot::Link(_)) => self.handle_link_bytes(now, conn, bytes, sink),
            Some(Slot::Free) | None => bytes.len(),
        }
    }

    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        cause: CloseCause,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        match self.slots.get(conn.0 as usize) {
            Some(Slot::Client(_)) => {
                if matches!(cause, CloseCause::Peer | CloseCause::Reset) {
                    self.stats.closed_by_client += 1;
                }
                self.forget_client(now, conn, sink);
            }
            Some(Slot::Link(_)) => self.forget_link(now, conn, unsent, sink),
            Some(Slot::Free) | None => {}
        }
    }

    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        self.handle_link_drained(now, conn, sink);
    }

    fn handle_mesh(&mut self, now: Instant, from: ShardId, batch: &mut [u8], sink: &mut impl Sink) {
        let mut rest: &[u8] = batch;
        while let Some(message) = Mesh::decode(&mut rest) {
            self.handle_message(now, from, &message, sink);
        }
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        self.expire_waiting(now, sink);
        while let Some(index) = self.wheel.pop_due(now) {
            self.handle_due(now, ConnId(index), sink);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.wheel.next_deadline(), self.waiting.next_deadline()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
