//! The register: tells workers which gateways there are (docs/protocol.md#register).
//!
//! [`Register`] is the server's core, for any shell. [`RegisterClient`] is the other end, for a gateway or a worker.
//!
//! In dispatched mode the register also leases proc_ids to gateways ([`leases`]) and gives each a home dispatcher
//! ([`homes`]); workers then hear of dispatchers instead of those gateways.
//!
//! Nothing here is on a message's path. A connection costs about 100 bytes beside the shell's; a change of the gateways
//! costs one line of all addresses a worker.

mod client;
mod graph;
mod homes;
mod leases;
mod members;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem::take;
use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use hashbrown::HashSet;
use tengate_base::{App, CloseCause, Closed, ConnId, How, Instant, Opened, ShardId, Sink};

use crate::secret::{SecretKey, ShownKey};
use crate::wire::register::{
    Block, LINKS_BYTES_MAX, Links, ToRegister, ToRegisterError, Wanted, encode_broadcast_addresses,
};

use leases::Leases;

pub use client::{
    LEASE_ANSWER_TIMEOUT, RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole,
};

/// How a register is set up.
#[derive(Clone, Debug)]
pub struct RegisterConfig {
    /// The cluster's key; empty when it has none.
    pub secret_key: SecretKey,
    /// How long a new connection may stay silent; GatewayWorker: [`AUTH_TIMEOUT`].
    pub auth_timeout: Duration,
    /// The proc_ids it leases to dispatched gateways. Registers of one cluster lease from ranges that do not overlap.
    pub proc_ids: RangeInclusive<u16>,
    /// How long a gateway's proc_ids stay its own after the register and all dispatchers lost it.
    pub lease_keep: Duration,
    /// What peers may cost.
    pub limits: RegisterLimits,
}

/// What peers of a register may cost.
#[derive(Clone, Copy, Debug)]
pub struct RegisterLimits {
    /// Connections at a time; more are closed at once.
    pub connection_count_max: usize,
    /// Bytes of a line with its end; a longer one closes the connection. A dispatcher's may have [`LINKS_BYTES_MAX`].
    pub line_bytes_max: usize,
    /// Bytes queued to a peer; one that has more when there is something to tell it is closed, and will come back.
    pub queued_bytes_max: usize,
}

/// Silence after which GatewayWorker's register closes a new connection.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Every proc_id there is with the usual split of connection ids.
pub const PROC_IDS: RangeInclusive<u16> = 0..=1023;

/// After its start a register gives nothing new for this long, so that whoever has a lease can say so first.
const QUIET: Duration = Duration::from_secs(3);

/// How long an absent gateway keeps its proc_ids, unless configured.
pub const LEASE_KEEP: Duration = Duration::from_secs(5 * 60);

/// What happened since the register started. Each refused connection is counted once, by its cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed because there were too many.
    pub refused_connection_limit: u64,
    /// Connections that said nothing in time.
    pub refused_auth_timeout: u64,
    /// Connections that sent a line that is no JSON object with an event.
    pub refused_bad_request: u64,
    /// Connections that sent a line beyond the limit.
    pub refused_line_too_long: u64,
    /// Connections that showed another key.
    pub refused_key: u64,
    /// Connections that sent an unknown event.
    pub refused_unknown_event: u64,
    /// Gateways and dispatchers that announced no usable address.
    pub refused_address: u64,
    /// Connections that sent a line of tengate's own with impossible fields, or one that is not theirs to send.
    pub refused_bad_fields: u64,
    /// Connections closed because the same gateway or dispatcher connected again.
    pub closed_superseded: u64,
    /// Connections closed because they did not read.
    pub closed_slow: u64,
    /// Pings received.
    pub pings: u64,
    /// Changes of the addresses that workers were told of.
    pub broadcasts: u64,
    /// Leases told to gateways.
    pub leases: u64,
    /// Refusals told to gateways that asked for a lease.
    pub leases_refused: u64,
    /// Homes told to gateways.
    pub homes: u64,
    /// Reports of dispatchers.
    pub reports: u64,
}

/// The register. One shard serves all.
#[derive(Debug)]
pub struct Register {
    config: RegisterConfig,
    started: Instant,
    /// By connection index. A connection that is being closed is not here any more.
    peers: Vec<Option<Peer>>,
    peer_count: usize,
    /// Connections with an address, in the order they announced one.
    announced: Vec<ConnId>,
    workers: BTreeSet<ConnId>,
    /// When connections have been silent too long, ascending; entries of those that spoke or left are skipped.
    deadlines: VecDeque<(Instant, ConnId)>,
    leases: Leases,
    /// When gateways that wait for the end of the quiet time get their answers, if any do.
    quiet_end: Option<Instant>,
    /// Dispatched gateways and their homes, by address: what gateways and dispatchers are told.
    members: BTreeSet<Box<str>>,
    homes: BTreeMap<Box<str>, Box<str>>,
    /// The addresses for workers have changed.
    addresses_changed: bool,
    /// Dispatched gateways, dispatchers or leases have changed.
    members_changed: bool,
    /// Connections that do not read, to be closed.
    slow: Vec<ConnId>,
    stats: RegisterStats,
    /// The line that is being sent, kept for its memory.
    line: Vec<u8>,
}

#[derive(Debug)]
struct Peer {
    remote: SocketAddr,
    since: Instant,
    /// `None` as soon as it said anything.
    deadline: Option<Instant>,
    announced: Option<Announced>,
}

/// What a peer with an address is.
#[derive(Debug)]
struct Announced {
    address: Box<str>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// A gateway that serves workers.
    Direct,
    Dispatched(Box<Dispatched>),
    Dispatcher(Box<Dispatcher>),
}

/// A gateway that serves dispatchers.
#[derive(Debug)]
struct Dispatched {
    wanted: Wanted,
    lease: LeaseState,
    /// The home it was told last, if it was told one.
    home_told: Option<Option<Box<str>>>,
}

#[derive(Debug, PartialEq, Eq)]
enum LeaseState {
    /// Not answered yet.
    Asked,
    Leased(Block),
    /// Why not, as it was told.
    Refused(Box<str>),
}

#[derive(Debug, Default)]
struct Dispatcher {
    links: Links,
    /// Whether it knows the gateways there are now.
    is_told: bool,
    /// Whether it has had a worker since it connected.
    has_served: bool,
}

impl Register {
    /// A register without connections, which starts now. For the first 3 s it gives no new lease and no home.
    pub fn new(config: RegisterConfig, now: Instant) -> Self {
        Self {
            leases: Leases::new(config.proc_ids.clone(), config.lease_keep),
            quiet_end: None,
            config,
            started: now,
            peers: Vec::new(),
            peer_count: 0,
            announced: Vec::new(),
            workers: BTreeSet::new(),
            deadlines: VecDeque::new(),
            members: BTreeSet::new(),
            homes: BTreeMap::new(),
            addresses_changed: false,
            members_changed: false,
            slow: Vec::new(),
            stats: RegisterStats::default(),
            line: Vec::new(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> RegisterStats {
        self.stats
    }

    fn peer(&self, conn: ConnId) -> Option<&Peer> {
        self.peers.get(conn.0 as usize)?.as_ref()
    }

    fn peer_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.get_mut(conn.0 as usize)?.as_mut()
    }

    fn handle_line(&mut self, now: Instant, conn: ConnId, line: &[u8], sink: &mut impl Sink) {
        match ToRegister::decode(line) {
            Ok(ToRegister::GatewayConnect { address, secret_key }) => {
                if self.is_authorised(now, conn, &secret_key, sink) {
                    self.announce(now, conn, address.into(), Role::Direct);
                }
            }
            Ok(ToRegister::DispatchedGatewayConnect { address, secret_key, wanted }) => {
                if self.is_authorised(now, conn, &secret_key, sink) {
                    self.supersede(now, conn, &address, sink);
                    let gateway = Dispatched { wanted, lease: LeaseState::Asked, home_told: None };
                    self.announce(now, conn, address.into(), Role::Dispatched(Box::new(gateway)));
                }
            }
            Ok(ToRegister::DispatcherConnect { address, secret_key }) => {
                if self.is_authorised(now, conn, &secret_key, sink) {
                    self.supersede(now, conn, &address, sink);
                    self.announce(now, conn, address.into(), Role::Dispatcher(Box::default()));
                }
            }
            Ok(ToRegister::WorkerConnect { secret_key }) => {
                if self.is_authorised(now, conn, &secret_key, sink) {
                    self.workers.insert(conn);
                    self.encode_addresses();
                    sink.write(conn, &self.line);
                }
            }
            Ok(ToRegister::Links(links)) => self.handle_links(now, conn, links, sink),
            Ok(ToRegister::Topology { secret_key }) => {
                if self.is_authorised(now, conn, &secret_key, sink) {
                    self.line.clear();
                    self.topology(now).encode(&mut self.line);
                    self.tell(conn, sink);
                }
            }
            Ok(ToRegister::Ping) => self.stats.pings += 1,
            Err(error) => {
                match error {
                    ToRegisterError::BadRequest => {
                        self.stats.refused_bad_request += 1;
                        // PHP echoes the line, which may hold a key that was mistyped.
                        sink.write(conn, b"bad request: a register takes JSON objects with an event, one a line\n");
                    }
                    ToRegisterError::UnknownEvent => self.stats.refused_unknown_event += 1,
                    ToRegisterError::NoAddress => self.stats.refused_address += 1,
                    ToRegisterError::BadFields => self.stats.refused_bad_fields += 1,
                }
                self.close(now, conn, How::AfterFlush, sink);
            }
        }
    }

    /// Whether the peer showed the right key; closes it otherwise.
    fn is_authorised(
        &mut self,
        now: Instant,
        conn: ConnId,
        shown: &ShownKey<'_>,
        sink: &mut impl Sink,
    ) -> bool {
        let matches = self.config.secret_key.matches(shown);
        if !matches {
            self.stats.refused_key += 1;
            self.close(now, conn, How::AfterFlush, sink);
        }
        matches
    }

    /// An address is known, or new. Who announces again keeps its place.
    fn announce(&mut self, now: Instant, conn: ConnId, address: Box<str>, role: Role) {
        let is_listed = !matches!(role, Role::Dispatched(_));
        let Some(peer) = self.peer_mut(conn) else { return };
        match peer.announced.replace(Announced { address, role }) {
            Some(before) => self.withdraw(now, before),
            None => self.announced.push(conn),
        }
        self.addresses_changed |= is_listed;
        self.members_changed |= !matches!(self.role(conn), Some(Role::Direct));
    }

    /// What was announced is no longer so.
    fn withdraw(&mut self, now: Instant, before: Announced) {
        match before.role {
            Role::Direct => self.addresses_changed = true,
            Role::Dispatched(_) => {
                self.members_changed = true;
                self.leave_unless_used(now, &before.address);
            }
            Role::Dispatcher(dispatcher) => {
                self.addresses_changed = true;
                self.members_changed = true;
                for gateway in &dispatcher.links.gateways {
                    self.leave_unless_used(now, &gateway.address);
                }
            }
        }
    }

    /// Whether the register has just started: members are still coming back, and neither new leases nor homes are given.
    fn is_quiet(&self, now: Instant) -> bool {
        now - self.started < QUIET
    }

    fn role(&self, conn: ConnId) -> Option<&Role> {
        Some(&self.peer(conn)?.announced.as_ref()?.role)
    }

    fn role_mut(&mut self, conn: ConnId) -> Option<&mut Role> {
        Some(&mut self.peer_mut(conn)?.announced.as_mut()?.role)
    }

    /// Tells everybody what changed for them.
    fn settle(&mut self, now: Instant, sink: &mut impl Sink) {
        while self.addresses_changed || self.members_changed || !self.slow.is_empty() {
            if take(&mut self.addresses_changed) {
                self.broadcast(sink);
            }
            if take(&mut self.members_changed) {
                self.answer_gateways(now, sink);
                self.find_members();
                self.tell_gateways(sink);
                // Each member that comes back to a register that has just started would move the homes of others.
                if self.is_quiet(now) {
                    self.quiet_end = Some(self.started + QUIET);
                } else {
                    self.tell_homes(sink);
                }
            }
            for conn in take(&mut self.slow) {
                if self.peer(conn).is_some() {
                    self.stats.closed_slow += 1;
                    self.close(now, conn, How::AtOnce, sink);
                }
            }
        }
    }

    /// Tells every worker the addresses.
    fn broadcast(&mut self, sink: &mut impl Sink) {
        self.stats.broadcasts += 1;
        self.encode_addresses();
        for conn in &self.workers {
            if sink.queued(*conn) > self.config.limits.queued_bytes_max {
                self.slow.push(*conn);
            } else {
                sink.write(*conn, &self.line);
            }
        }
    }

    /// Sends the line to one peer.
    fn tell(&mut self, conn: ConnId, sink: &mut impl Sink) {
        if sink.queued(conn) > self.config.limits.queued_bytes_max {
            self.slow.push(conn);
        } else {
            sink.write(conn, &self.line);
        }
    }

    /// The addresses that workers and outside clients link to: direct gateways and dispatchers.
    fn encode_addresses(&mut self) {
        self.line.clear();
        let mut seen = HashSet::with_hasher(foldhash::quality::RandomState::default());
        let peers =
            self.announced.iter().filter_map(|conn| self.peers.get(conn.0 as usize)?.as_ref());
        let addresses = peers.filter_map(|peer| match peer.announced.as_ref()? {
            Announced { address, role: Role::Direct | Role::Dispatcher(_) } => Some(&**address),
            Announced { role: Role::Dispatched(_), .. } => None,
        });
        encode_broadcast_addresses(
            addresses.filter(|address| seen.insert(*address)),
            &mut self.line,
        );
    }

    fn close(&mut self, now: Instant, conn: ConnId, how: How, sink: &mut impl Sink) {
        self.forget(now, conn);
        // Whether the shell needs time to flush does not matter: the connection is not known here any more.
        let (Closed::Now | Closed::Later) = sink.close(conn, how);
    }

    /// Drops what is known of a connection.
    fn forget(&mut self, now: Instant, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn.0 as usize).and_then(Option::take) else {
            return;
        };
        self.peer_count -= 1;
        self.workers.remove(&conn);
        if let Some(announced) = peer.announced {
            self.announced.retain(|other| *other != conn);
            self.withdraw(now, announced);
        }
        self.skip_met_deadlines();
    }

    /// Drops deadlines of connections that spoke or left, so that the first one is real.
    fn skip_met_deadlines(&mut self) {
        while let Some((deadline, conn)) = self.deadlines.front().copied() {
            if self.peer(conn).is_some_and(|peer| peer.deadline == Some(deadline)) {
                return;
            }
            self.deadlines.pop_front();
        }
    }
}

impl App for Register {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        if self.peer_count == self.config.limits.connection_count_max {
            self.stats.refused_connection_limit += 1;
            sink.close(opened.conn, How::AtOnce);
            return;
        }
        self.stats.accepted += 1;
        self.peer_count += 1;
        let index = opened.conn.0 as usize;
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        let deadline = now + self.config.auth_timeout;
        self.peers[index] = Some(Peer {
            remote: opened.peer,
            since: now,
            deadline: Some(deadline),
            announced: None,
        });
        self.deadlines.push_back((deadline, opened.conn));
    }

    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let mut consumed = 0;
        loop {
            let line_bytes_max = match self.role(conn) {
                Some(Role::Dispatcher(_)) => LINKS_BYTES_MAX,
                Some(Role::Direct | Role::Dispatched(_)) | None => {
                    self.config.limits.line_bytes_max
                }
            };
            let Some(peer) = self.peer_mut(conn) else { return bytes.len() };
            let rest = &bytes[consumed..];
            let line_len = memchr::memchr(b'\n', rest).map(|at| at + 1);
            if line_len.unwrap_or(rest.len()) > line_bytes_max {
                self.stats.refused_line_too_long += 1;
                self.close(now, conn, How::AfterFlush, sink);
                self.settle(now, sink);
                return bytes.len();
            }
            let Some(line_len) = line_len else { return consumed };
            peer.deadline = None;
            self.skip_met_deadlines();
            self.handle_line(now, conn, &rest[..line_len], sink);
            self.settle(now, sink);
            consumed += line_len;
        }
    }

    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        cause: CloseCause,
        _unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        self.forget(now, conn);
        // A register that stops must not tell workers that their gateways are gone: it is the register that goes.
        if cause != CloseCause::Shell {
            self.settle(now, sink);
        }
    }

    fn handle_drained(&mut self, _now: Instant, _conn: ConnId, _sink: &mut impl Sink) {}

    fn handle_mesh(
        &mut self,
        _now: Instant,
        _from: ShardId,
        _batch: &mut [u8],
        _sink: &mut impl Sink,
    ) {
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        while let Some((_, conn)) = self.deadlines.pop_front_if(|(deadline, _)| *deadline <= now) {
            self.stats.refused_auth_timeout += 1;
            self.close(now, conn, How::AfterFlush, sink);
        }
        // A refused gateway may have its turn now.
        self.members_changed |= self.leases.expire(now);
        self.members_changed |= self.quiet_end.take_if(|end| *end <= now).is_some();
        self.settle(now, sink);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.deadlines.front().map(|(deadline, _)| *deadline);
        [silence, self.leases.next_end(), self.quiet_end].into_iter().flatten().min()
    }
}

impl Default for RegisterLimits {
    /// For a cluster of up to some thousand gateways and workers.
    fn default() -> Self {
        Self { connection_count_max: 16_384, line_bytes_max: 64 << 10, queued_bytes_max: 16 << 20 }
    }
}

impl Default for RegisterConfig {
    /// No key, GatewayWorker's time-out.
    fn default() -> Self {
        Self {
            secret_key: SecretKey::default(),
            auth_timeout: AUTH_TIMEOUT,
            proc_ids: PROC_IDS,
            lease_keep: LEASE_KEEP,
            limits: RegisterLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests;
