//! The register: tells workers which gateways there are (docs/protocol.md#register).
//!
//! [`Register`] is the server's core, for any shell. [`RegisterClient`] is the other end, for a gateway or a worker.
//!
//! Nothing here is on a message's path. A connection costs about 100 bytes beside the shell's; a change of the gateways
//! costs one line of all addresses a worker.

mod client;

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use hashbrown::HashSet;
use tengate_base::{App, CloseCause, Closed, ConnId, How, Instant, Opened, ShardId, Sink};

use crate::secret::{SecretKey, ShownKey};
use crate::wire::register::{ToRegister, ToRegisterError, encode_broadcast_addresses};

pub use client::{RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole};

/// How a register is set up.
#[derive(Clone, Debug)]
pub struct RegisterConfig {
    /// The cluster's key; empty when it has none.
    pub secret_key: SecretKey,
    /// How long a new connection may stay silent; GatewayWorker: [`AUTH_TIMEOUT`].
    pub auth_timeout: Duration,
    /// What peers may cost.
    pub limits: RegisterLimits,
}

/// What peers of a register may cost.
#[derive(Clone, Copy, Debug)]
pub struct RegisterLimits {
    /// Connections at a time; more are closed at once.
    pub connection_count_max: usize,
    /// Bytes of a line with its end; a longer one closes the connection.
    pub line_bytes_max: usize,
    /// Bytes queued to a worker; a worker that has more when the addresses change is closed, and will come back.
    pub queued_bytes_max: usize,
}

/// Silence after which GatewayWorker's register closes a new connection.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a gateway's address; a longer one is refused like a missing one.
pub const ADDRESS_BYTES_MAX: usize = 256;

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
    /// Gateways that announced no usable address.
    pub refused_address: u64,
    /// Workers closed because they did not read.
    pub closed_slow: u64,
    /// Pings received.
    pub pings: u64,
    /// Changes of the gateways that workers were told of.
    pub broadcasts: u64,
}

/// Who is connected, for status pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Gateways in the order of their announcement: inner address, and where they connect from.
    pub gateways: Vec<(Box<str>, SocketAddr)>,
    /// Workers and outside clients: where they connect from.
    pub workers: Vec<SocketAddr>,
    /// Connections that have announced nothing.
    pub others: Vec<SocketAddr>,
}

/// The register. One shard serves all.
#[derive(Debug)]
pub struct Register {
    config: RegisterConfig,
    /// By connection index. A connection that is being closed is not here any more.
    peers: Vec<Option<Peer>>,
    peer_count: usize,
    /// Connections with an address, in the order they announced one.
    gateways: Vec<ConnId>,
    workers: BTreeSet<ConnId>,
    /// When connections have been silent too long, ascending; entries of those that spoke or left are skipped.
    deadlines: VecDeque<(Instant, ConnId)>,
    stats: RegisterStats,
    /// The line that is being sent, kept for its memory.
    line: Vec<u8>,
}

#[derive(Debug)]
struct Peer {
    remote: SocketAddr,
    /// `None` as soon as it said anything.
    deadline: Option<Instant>,
    address: Option<Box<str>>,
}

impl Register {
    /// A register without connections.
    pub fn new(config: RegisterConfig) -> Self {
        Self {
            config,
            peers: Vec::new(),
            peer_count: 0,
            gateways: Vec::new(),
            workers: BTreeSet::new(),
            deadlines: VecDeque::new(),
            stats: RegisterStats::default(),
            line: Vec::new(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> RegisterStats {
        self.stats
    }

    /// Who is connected.
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::default();
        for conn in &self.gateways {
            if let Some(Peer { remote, address: Some(address), .. }) = self.peer(*conn) {
                topology.gateways.push((address.clone(), *remote));
            }
        }
        for (index, peer) in (0..).zip(&self.peers) {
            let Some(peer) = peer else { continue };
            if self.workers.contains(&ConnId(index)) {
                topology.workers.push(peer.remote);
            } else if peer.address.is_none() {
                topology.others.push(peer.remote);
            }
        }
        topology
    }

    fn peer(&self, conn: ConnId) -> Option<&Peer> {
        self.peers.get(conn.0 as usize)?.as_ref()
    }

    fn peer_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.get_mut(conn.0 as usize)?.as_mut()
    }

    fn handle_line(&mut self, conn: ConnId, line: &[u8], sink: &mut impl Sink) {
        match ToRegister::decode(line) {
            Ok(ToRegister::GatewayConnect { address, .. }) if address.len() > ADDRESS_BYTES_MAX => {
                self.stats.refused_address += 1;
                self.close(conn, How::AfterFlush, sink);
            }
            Ok(ToRegister::GatewayConnect { address, secret_key }) => {
                if self.is_authorised(conn, &secret_key, sink) {
                    self.announce(conn, address.into(), sink);
                }
            }
            Ok(ToRegister::WorkerConnect { secret_key }) => {
                if self.is_authorised(conn, &secret_key, sink) {
                    self.workers.insert(conn);
                    self.encode_addresses();
                    sink.write(conn, &self.line);
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
                }
                self.close(conn, How::AfterFlush, sink);
            }
        }
    }

    /// Whether the peer showed the right key; closes it otherwise.
    fn is_authorised(&mut self, conn: ConnId, shown: &ShownKey<'_>, sink: &mut impl Sink) -> bool {
        let matches = self.config.secret_key.matches(shown);
        if !matches {
            self.stats.refused_key += 1;
            self.close(conn, How::AfterFlush, sink);
        }
        matches
    }

    /// A gateway's address is known, or new. A gateway that announces again keeps its place.
    fn announce(&mut self, conn: ConnId, address: Box<str>, sink: &mut impl Sink) {
        let Some(peer) = self.peer_mut(conn) else { return };
        if peer.address.replace(address).is_none() {
            self.gateways.push(conn);
        }
        self.broadcast(sink);
    }

    /// Tells every worker the addresses.
    fn broadcast(&mut self, sink: &mut impl Sink) {
        self.stats.broadcasts += 1;
        self.encode_addresses();
        let mut slow = Vec::new();
        for conn in &self.workers {
            if sink.queued(*conn) > self.config.limits.queued_bytes_max {
                slow.push(*conn);
            } else {
                sink.write(*conn, &self.line);
            }
        }
        self.stats.closed_slow += slow.len() as u64;
        // One that is a gateway as well would change the addresses once more; the next change tells of it.
        for conn in slow {
            self.forget(conn);
            sink.close(conn, How::AtOnce);
        }
    }

    fn encode_addresses(&mut self) {
        self.line.clear();
        let mut seen = HashSet::with_hasher(foldhash::quality::RandomState::default());
        let peers =
            self.gateways.iter().filter_map(|conn| self.peers.get(conn.0 as usize)?.as_ref());
        let addresses = peers.filter_map(|peer| peer.address.as_deref());
        encode_broadcast_addresses(
            addresses.filter(|address| seen.insert(*address)),
            &mut self.line,
        );
    }

    fn close(&mut self, conn: ConnId, how: How, sink: &mut impl Sink) {
        let was_gateway = self.forget(conn);
        // Whether the shell needs time to flush does not matter: the connection is not known here any more.
        let (Closed::Now | Closed::Later) = sink.close(conn, how);
        if was_gateway {
            self.broadcast(sink);
        }
    }

    /// Drops what is known of a connection. Returns whether it was a gateway's.
    fn forget(&mut self, conn: ConnId) -> bool {
        let Some(peer) = self.peers.get_mut(conn.0 as usize).and_then(Option::take) else {
            return false;
        };
        self.peer_count -= 1;
        self.workers.remove(&conn);
        if peer.address.is_some() {
            self.gateways.retain(|gateway| *gateway != conn);
        }
        self.skip_met_deadlines();
        peer.address.is_some()
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
        self.peers[index] =
            Some(Peer { remote: opened.peer, deadline: Some(deadline), address: None });
        self.deadlines.push_back((deadline, opened.conn));
    }

    fn handle_bytes(
        &mut self,
        _now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let line_bytes_max = self.config.limits.line_bytes_max;
        let mut consumed = 0;
        loop {
            let Some(peer) = self.peer_mut(conn) else { return bytes.len() };
            let rest = &bytes[consumed..];
            let line_len = rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            if line_len.unwrap_or(rest.len()) > line_bytes_max {
                self.stats.refused_line_too_long += 1;
                self.close(conn, How::AfterFlush, sink);
                return bytes.len();
            }
            let Some(line_len) = line_len else { return consumed };
            peer.deadline = None;
            self.skip_met_deadlines();
            self.handle_line(conn, &rest[..line_len], sink);
            consumed += line_len;
        }
    }

    fn handle_closed(
        &mut self,
        _now: Instant,
        conn: ConnId,
        _: CloseCause,
        _unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        if self.forget(conn) {
            self.broadcast(sink);
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
            self.close(conn, How::AfterFlush, sink);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
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
            limits: RegisterLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests;
