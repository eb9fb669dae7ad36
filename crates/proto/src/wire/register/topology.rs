//! A register's answer to `topology`: the whole graph, for people and programs (docs/protocol.md#topology).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{FromRegisterError, object};

/// Who is connected to a register, and what it knows of the links between them. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "event", rename = "topology")]
pub struct Topology {
    /// Seconds since the register started.
    pub uptime_secs: u64,
    /// The first and last proc_id the register leases.
    pub proc_ids: (u16, u16),
    /// Bits of a connection_id that number a client within its shard, the same in the whole cluster; `None` until a
    /// gateway holds a lease.
    pub number_bits: Option<u8>,
    /// Connected gateways in the order of their announcement.
    pub gateways: Vec<Gateway>,
    /// Connected dispatchers in the order of their announcement.
    pub dispatchers: Vec<Dispatcher>,
    /// Workers and outside clients connected to the register itself.
    pub workers: Vec<Peer>,
    /// Connections that have announced nothing; who asks for the topology is one.
    pub others: Vec<Peer>,
    /// proc_ids of gateways that are not connected to the register, by their first one.
    pub absent_leases: Vec<AbsentLease>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Peer {
    /// Where it connects from.
    pub remote: SocketAddr,
    /// Seconds since it connected.
    pub connected_secs: u64,
}

/// Whom a gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Workers link to it.
    Direct,
    /// Dispatchers link to it, workers to them.
    Dispatched,
}

/// A gateway that is connected to the register.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Gateway {
    /// Its inner address.
    pub address: Box<str>,
    /// Whom it serves.
    pub mode: Mode,
    /// Its connection.
    #[serde(flatten)]
    pub peer: Peer,
    /// How many shards it has; `None` in direct mode.
    pub shards: Option<u16>,
    /// The proc_id of its first shard; `None` in direct mode and without a lease.
    pub first_proc_id: Option<u16>,
    /// Why it has no lease, when it was refused one.
    pub refused: Option<Box<str>>,
    /// The dispatcher this register wishes to be its home.
    pub home_wish: Option<Box<str>>,
    /// The dispatcher that reports to be its home.
    pub home: Option<Box<str>>,
    /// Its clients, as its home reports them.
    pub clients: Option<u64>,
}

/// A dispatcher that is connected to the register, and what it last reported.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Dispatcher {
    /// Its announced address.
    pub address: Box<str>,
    /// Its connection.
    #[serde(flatten)]
    pub peer: Peer,
    /// Gateways it is linked to.
    pub gateways: Vec<DispatcherGateway>,
    /// Workers linked to it.
    pub workers: Vec<DispatcherWorker>,
    /// Workers linked to it that are not listed.
    pub workers_left_out: u64,
}

/// A link between a dispatcher and a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DispatcherGateway {
    /// The gateway's inner address.
    pub address: Box<str>,
    /// Whether the dispatcher is its home.
    pub home: bool,
    /// Clients of it that the dispatcher knows of.
    pub clients: u64,
}

/// A link between a worker and a dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DispatcherWorker {
    /// The worker's identity, `remote ip:name:id`.
    pub key: Box<str>,
    /// Clients bound to it.
    pub clients: u64,
}

/// proc_ids that stay a gateway's although it is not connected to the register.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AbsentLease {
    /// The gateway's inner address.
    pub address: Box<str>,
    /// The proc_id of its first shard.
    pub first_proc_id: u16,
    /// How many there are.
    pub shards: u16,
    /// Seconds until they are free; `None` while a dispatcher reports a link to the gateway.
    pub kept_secs: Option<u64>,
}

impl Topology {
    /// Decodes the line, with or without its end.
    ///
    /// # Errors
    /// The line is not a register's topology.
    pub fn decode(line: &[u8]) -> Result<Self, FromRegisterError> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            event: Option<alloc::borrow::Cow<'a, str>>,
        }
        let text: Text<'_> = object(line).ok_or(FromRegisterError::BadLine)?;
        match text.event.as_deref() {
            None => Err(FromRegisterError::BadLine),
            Some("topology") => object(line).ok_or(FromRegisterError::BadFields),
            Some(_) => Err(FromRegisterError::UnknownEvent),
        }
    }

    /// Appends the line with its end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let json = serde_json::to_vec(self).expect("keys are texts, and memory does not fail");
        out.extend_from_slice(&json);
        out.push(b'\n');
    }
}
