//! What a gateway shard is told at start, already checked by the configuration reader.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use crate::secret::SecretKey;
use crate::wire::length_field::LengthField;

/// Settings of one gateway, the same for all its shards.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who gets the events of clients. Does not change while the gateway lives.
    pub mode: Mode,
    /// How many shards the gateway has. From 1 to 2^(32 - `number_bits`).
    pub shards: u16,
    /// Bits of a connection_id that number a client within its shard; the bits above hold its `proc_id`. From 8 to 31.
    pub number_bits: u8,
    /// The address announced to the register, which every client_id carries.
    pub lan_ip: Ipv4Addr,
    /// The announced inner port.
    pub lan_port: u16,
    /// What a worker or GatewayClient must show, exactly; with an empty key commands need no greeting before them.
    pub secret_key: SecretKey,
    /// Client-side listeners, by the index of their door.
    pub listeners: Vec<Listener>,
    /// Largest inner frame accepted from a worker, in bytes with its header.
    pub frame_bytes_max: usize,
    /// Queue of one worker link at which the worker counts as slow, in bytes.
    pub send_to_worker_bytes_max: usize,
    /// What happens to clients of a slow worker.
    pub slow_worker: SlowWorker,
    /// How a worker is chosen for a client without one.
    pub routing: Routing,
    /// How long an event waits for a worker while there is none.
    pub no_worker_grace: Duration,
    /// Most bytes of events that wait for a worker, for each shard.
    pub no_worker_bytes_max: usize,
    /// How long a dispatcher that is the gateway's home no more may take to give back what it could not deliver; then its
    /// link is closed.
    pub detach_timeout: Duration,
    /// How long a worker link may take to show the secret key.
    pub auth_timeout: Duration,
    /// How long a client may take to receive its last bytes after a graceful close.
    pub close_linger: Duration,
    /// Queries one connection may have unanswered before it is read no further.
    pub pending_queries_max: usize,
    /// Seed of the routing choice and of the hash tables. Unpredictable to clients.
    pub seed: u64,
}

/// Who gets the events of clients (docs/protocol.md#extension).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Workers link to the gateway, as GatewayWorker's do.
    Direct,
    /// Dispatchers do, and one of them at a time, the gateway's home, gets every event.
    Dispatched,
}

/// One client-side port.
#[derive(Clone, Debug)]
pub struct Listener {
    /// How bytes become messages.
    pub protocol: Protocol,
    /// The port clients connect to, as workers see it (`GATEWAY_PORT`).
    pub port: u16,
    /// Largest message of a client, in bytes.
    pub message_bytes_max: usize,
    /// Queue of one client at which it counts as slow, in bytes.
    pub send_to_client_bytes_max: usize,
    /// What happens to a message for a slow client.
    pub slow_client: SlowClient,
    /// How long a websocket client may take for its handshake.
    pub handshake_timeout: Duration,
    /// Longest handshake request, in bytes.
    pub handshake_bytes_max: usize,
    /// Detection of dead clients; `None` leaves them connected.
    pub heartbeat: Option<Heartbeat>,
}

/// How a client's bytes become messages (docs/protocol.md#client-protocols).
#[derive(Clone, Debug)]
pub enum Protocol {
    /// RFC 6455.
    Websocket {
        /// Whether messages to clients are binary frames; PHP sends text frames.
        binary: bool,
        /// Whether text messages must be UTF-8 (RFC 6455 section 8.1).
        check_utf8: bool,
    },
    /// Lines ending with `\n`.
    Text,
    /// Workerman's `frame`: a u32 total length, itself included, then the payload.
    Frame,
    /// No framing: what one read returns is one message.
    Tcp,
    /// A header with a length field, described by the configuration.
    LengthField(LengthField),
}

/// PHP's heartbeat (docs/protocol.md#heartbeat).
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// `pingInterval`. Over zero.
    pub interval: Duration,
    /// `pingNotResponseLimit`: a client silent for this many intervals is closed; 0 never closes. At most 10 000.
    pub not_response_limit: u16,
    /// What is sent to a silent client.
    pub ping: Ping,
}

/// What a heartbeat sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ping {
    /// Nothing: clients must speak on their own.
    Nothing,
    /// `pingData`, as an ordinary message.
    Data(Vec<u8>),
    /// A websocket ping control frame; then a pong counts as an answer.
    Websocket,
}

/// How a worker is chosen for a client without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// The worker with the fewest clients of this shard, the first among equals.
    LeastConnections,
    /// Any, evenly.
    Random,
}

/// What happens when a worker does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowWorker {
    /// Its clients are read no further until it has caught up.
    StopReading,
    /// Events are dropped and counted, as PHP does.
    Drop,
    /// The client whose event does not fit is closed.
    Close,
}

/// What happens when a client does not read fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// The new message is dropped and counted, as PHP does.
    Drop,
    /// The oldest messages that wait are dropped and counted, until the queue is half empty; the new one takes their place.
    DropOldest,
    /// The client is closed.
    Close,
}

impl Config {
    /// A gateway with one websocket listener and GatewayWorker's defaults.
    pub fn with_defaults(lan_ip: Ipv4Addr, lan_port: u16) -> Self {
        Self {
            mode: Mode::Direct,
            shards: 1,
            number_bits: 22,
            lan_ip,
            lan_port,
            secret_key: SecretKey::new(""),
            listeners: Vec::new(),
            frame_bytes_max: 10_485_760,
            send_to_worker_bytes_max: 10_240_000,
            slow_worker: SlowWorker::StopReading,
            routing: Routing::LeastConnections,
            no_worker_grace: Duration::from_secs(5),
            no_worker_bytes_max: 16 << 20,
            detach_timeout: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(10),
            close_linger: Duration::from_secs(10),
            pending_queries_max: 1024,
            seed: 0,
        }
    }
}

impl Listener {
    /// A listener of `protocol` with GatewayWorker's limits and no heartbeat.
    pub fn with_defaults(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            port,
            message_bytes_max: 10_485_760,
            send_to_client_bytes_max: 1_024_000,
            slow_client: SlowClient::Drop,
            handshake_timeout: Duration::from_secs(10),
            handshake_bytes_max: 8192,
            heartbeat: None,
        }
    }
}

impl Heartbeat {
    /// How often a client's silence is counted: twice an interval when there is a limit.
    pub fn tick(&self) -> Duration {
        if self.not_response_limit > 0 { self.interval / 2 } else { self.interval }
    }
}
