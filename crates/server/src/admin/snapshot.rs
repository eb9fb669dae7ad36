//! What a running process says of itself, as it crosses the admin socket and as `--json` prints it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What can be asked, one JSON object a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Answered with a [`Process`].
    Status,
    /// Answered with [`Connections`].
    Connections,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// `start`, `register`, `gateway` or `dispatcher`.
    pub(crate) role: String,
    pub(crate) version: String,
    /// Seconds since 1970.
    pub(crate) started_unix_secs: i64,
    /// Resident memory of the whole process.
    pub(crate) memory_bytes: u64,
    /// Resident memory before the first connection came.
    pub(crate) memory_at_start_bytes: u64,
    pub(crate) registers: Vec<RegisterLink>,
    pub(crate) shards: Vec<Shard>,
    /// What the gateway's device counted, on a data path past the kernel.
    pub(crate) device: BTreeMap<String, u64>,
}

/// A register that a service announces itself to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct RegisterLink {
    /// `gateway` or `dispatcher`.
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) connected: bool,
}

/// One shard of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Shard {
    /// `register`, `gateway` or `dispatcher`.
    pub(crate) service: String,
    /// `websocket://0.0.0.0:8282`, the first of several.
    pub(crate) listening: String,
    pub(crate) shard: u16,
    /// Whether the shard answered in time; all its numbers are zero when it did not.
    pub(crate) answered: bool,
    /// The core it is pinned to.
    pub(crate) core: Option<usize>,
    /// Open connections of every kind.
    pub(crate) connections: u64,
    /// A gateway's clients among them; a dispatcher's are the clients bound to its workers.
    pub(crate) clients: u64,
    /// Messages that could not be sent, as PHP counts them.
    pub(crate) send_fail: u64,
    pub(crate) timers: u64,
    /// Messages and commands received.
    pub(crate) total_request: u64,
    /// Time spent working since the start.
    pub(crate) busy_nanos: u64,
    /// Time since the start.
    pub(crate) wall_nanos: u64,
    /// Bytes of unused buffers the shard keeps.
    pub(crate) pool_bytes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// What was dropped, closed or refused, by cause.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Everything else that is counted.
    pub(crate) counters: BTreeMap<String, u64>,
    /// What the shard's own TCP/IP stack and its queue of frames count and have, on a data path past the kernel.
    pub(crate) stack: BTreeMap<String, u64>,
    /// Clients bound to each worker by this shard.
    pub(crate) workers: BTreeMap<String, u32>,
    /// A dispatcher's gateways.
    pub(crate) gateways: Vec<GatewayLink>,
    /// The dispatcher that is the home of a gateway in dispatched mode; its shard 0 knows.
    pub(crate) home: Option<String>,
}

/// A gateway that a dispatcher is linked to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct GatewayLink {
    /// Its inner address.
    pub(crate) address: String,
    /// Whether the dispatcher is its home.
    pub(crate) home: bool,
    /// The number of its first shard in the cluster.
    pub(crate) first_proc_id: u16,
    pub(crate) shards: u16,
    /// Its clients that are bound to workers of the dispatcher.
    pub(crate) clients: u64,
}

/// The open connections of one process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Connections {
    pub(crate) pid: u32,
    pub(crate) connections: Vec<Connection>,
    /// Connections beyond those listed.
    pub(crate) left_out: u64,
}

/// One open connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Connection {
    pub(crate) service: String,
    pub(crate) shard: u16,
    /// A client's number in the cluster, else the connection's number in its shard.
    pub(crate) id: u32,
    pub(crate) protocol: String,
    /// A worker's key. At a dispatcher a gateway has `gateway:` and its inner address.
    pub(crate) worker_key: Option<String>,
    /// Bytes received and not consumed.
    pub(crate) recv_queue_bytes: u64,
    /// Bytes queued and not written.
    pub(crate) send_queue_bytes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// `ESTABLISHED`, `CONNECTING` or `CLOSING`.
    pub(crate) status: String,
    pub(crate) local: String,
    pub(crate) foreign: String,
    pub(crate) ipv6: bool,
}

/// Connections one shard lists at most: asking costs it two system calls each, while its clients wait.
pub(crate) const CONNECTIONS_LISTED_MAX: usize = 10_000;
