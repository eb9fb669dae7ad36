//! What a dispatcher is told at start, already checked by the configuration reader.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use crate::gateway::SlowWorker;
use crate::secret::SecretKey;

/// Settings of one dispatcher.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address announced to the register, which every client_id of its events carries.
    pub address: SocketAddrV4,
    /// What peers must show, and what gateways are shown.
    pub secret_key: SecretKey,
    /// Largest frame accepted from a worker or outside client, in bytes with its header.
    pub frame_bytes_max: usize,
    /// Largest frame accepted from a gateway, which may be the answer to a question about all its clients.
    pub reply_bytes_max: usize,
    /// Bytes queued to one worker, unacknowledged ones included, at which it counts as slow.
    pub send_to_worker_bytes_max: usize,
    /// Bytes queued to one gateway at which whoever sends more is read no further.
    pub send_to_gateway_bytes_max: usize,
    /// What happens to clients of a slow worker.
    pub slow_worker: SlowWorker,
    /// Workers of every port that no group names.
    pub default_group: WorkerGroup,
    /// Workers of some ports.
    pub groups: Vec<WorkerGroup>,
    /// How long an event waits for a worker while there is none.
    pub no_worker_grace: Duration,
    /// Most bytes of events that wait for a worker.
    pub no_worker_bytes_max: usize,
    /// How long a peer may take to show the secret key, and a gateway to say who it is.
    pub auth_timeout: Duration,
    /// How long a question waits for gateways before it is answered with what arrived.
    pub query_timeout: Duration,
    /// Queries one connection may have unanswered before it is read no further.
    pub pending_queries_max: usize,
    /// How long a gateway that moves away is kept waiting for events that workers still hold.
    pub detach_limit: Duration,
    /// Seed of random choices and of the hash tables. Unpredictable to clients.
    pub seed: u64,
}

/// Which workers serve which ports, and how one is chosen for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerGroup {
    /// Ports clients connect to.
    pub ports: Vec<u16>,
    /// Names of workers, the part of the worker_key before the colon; empty for any.
    pub workers: Vec<Box<str>>,
    /// How one is chosen.
    pub balance: Balance,
    /// Shares of workers by name; 1 for a name that is not here. From 1 to 1000.
    pub weights: Vec<(Box<str>, u16)>,
}

/// How a worker is chosen for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest clients for its weight, the first among equals.
    LeastConnections,
    /// Each in its turn, spread by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// The one the client's uid falls to by rendezvous hashing, from the moment it is bound; the connection_id before.
    HashUid,
    /// The one the client's address falls to by rendezvous hashing.
    HashIp,
}

impl Config {
    /// A dispatcher with GatewayWorker's limits.
    pub fn with_defaults(address: SocketAddrV4) -> Self {
        Self {
            address,
            secret_key: SecretKey::default(),
            frame_bytes_max: 10_485_760,
            reply_bytes_max: 60 << 20,
            send_to_worker_bytes_max: 10_240_000,
            send_to_gateway_bytes_max: 10_240_000,
            slow_worker: SlowWorker::StopReading,
            default_group: WorkerGroup::default(),
            groups: Vec::new(),
            no_worker_grace: Duration::from_secs(5),
            no_worker_bytes_max: 64 << 20,
            auth_timeout: Duration::from_secs(10),
            query_timeout: Duration::from_secs(1),
            pending_queries_max: 1024,
            detach_limit: Duration::from_secs(2),
            seed: 0,
        }
    }

    /// Whether peers are on this machine only, so that links need no keep-alive.
    pub(super) fn is_local(&self) -> bool {
        *self.address.ip() == Ipv4Addr::LOCALHOST
    }
}

impl Default for WorkerGroup {
    /// Any worker, fewest clients first, as GatewayWorker does.
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            workers: Vec::new(),
            balance: Balance::LeastConnections,
            weights: Vec::new(),
        }
    }
}
