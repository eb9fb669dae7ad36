//! What a shell asks and tells a stack beside traffic: gauges, memory of its own, whether new connections are wanted.

use core::net::SocketAddr;

use tengate_base::ConnId;

use super::Stack;
use crate::tcp::tcb::State;

/// What a stack has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections, TIME-WAIT not counted.
    pub conns: u64,
    /// How many there may be.
    pub conns_max: u64,
    /// Connections that peers are opening.
    pub syn_backlog: u64,
    /// Beyond it SYN cookies are sent.
    pub syn_backlog_max: u64,
    /// Connections in TIME-WAIT.
    pub time_wait: u64,
    /// Beyond it the oldest is forgotten.
    pub time_wait_max: u64,
    /// Bytes queued, unacknowledged, out of order or kept by the shell. From fifteen sixteenths of the limit on no connection
    /// is begun, in either direction.
    pub pool_used_bytes: u64,
    /// How many there may be.
    pub pool_bytes_max: u64,
}

impl Stack {
    /// What there is now.
    pub fn gauges(&self) -> Gauges {
        let config = &self.shared.config;
        Gauges {
            conns: self.conn_count() as u64,
            conns_max: config.conns_max.into(),
            syn_backlog: self.backlog_len.into(),
            syn_backlog_max: config.syn_backlog_max.into(),
            time_wait: self.time_wait_count() as u64,
            time_wait_max: config.time_wait_max.into(),
            pool_used_bytes: self.shared.chunks.used() as u64,
            pool_bytes_max: self.shared.chunks.limit() as u64,
        }
    }

    /// The other end of a connection, and ours.
    pub fn ends(&self, conn: ConnId) -> Option<(SocketAddr, SocketAddr)> {
        let key = self.flows.get(conn.0)?.key;
        let local = self.shared.local(key.local).to_canonical();
        let remote = key.remote.to_canonical();
        Some((SocketAddr::new(remote, key.remote_port), SocketAddr::new(local, key.local_port)))
    }

    /// Whether something of our stream, its end included, was not acknowledged yet.
    pub fn is_undelivered(&self, conn: ConnId) -> bool {
        self.flows.get(conn.0).is_some_and(|tcb| {
            let end_is_on_its_way =
                matches!(tcb.state, State::FinWait1 | State::Closing | State::LastAck);
            tcb.queued() > 0 || end_is_on_its_way
        })
    }

    /// Indexes of connections are below this.
    pub fn index_count(&self) -> u32 {
        self.flows.index_count()
    }

    /// Drops what opens connections, so that peers ask again, until [`Stack::resume_listening`].
    pub const fn pause_listening(&mut self) {
        self.listening_paused = true;
    }

    /// Takes connections again.
    pub const fn resume_listening(&mut self) {
        self.listening_paused = false;
    }

    /// The shell keeps so many bytes for connections itself: they count as bytes of the pool.
    pub const fn set_outside_bytes(&mut self, bytes: usize) {
        self.shared.chunks.set_outside(bytes);
    }

    /// Whether the pool has nothing left for most of those who send.
    pub const fn is_exhausted(&self) -> bool {
        self.shared.chunks.is_exhausted()
    }
}
