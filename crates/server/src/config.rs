//! The configuration: one TOML file, environment variables and flags, read into one checked value.
//!
//! Structs here and in `data_path` say what may be written, `load` puts the sources together and finds what is not understood, `check`
//! finds what is understood but cannot work, `source` says where each finding stands. docs/configuration.md explains
//! every key; a test walks these structs to prove it.

mod check;
mod data_path;
mod load;
mod reload;
mod source;
mod units;

#[cfg(test)]
mod tests;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

pub(crate) use check::{check, pci_address, secret_of, secrets_agree};
pub(crate) use data_path::{
    AfXdp, Congestion, DataPath, Dpdk, Netstack, PageKind, PathName, Steering, XdpMode, ZeroCopy,
};
pub(crate) use load::{Inputs, Loaded, Override, load};
pub(crate) use reload::{changes, with_live_keys};
pub(crate) use source::{Finding, Severity};
#[cfg(test)]
pub(crate) use tests::gateway_of;
use units::{Hex, Listen, OneOrMany, Period, ProcIds};
pub(crate) use units::{PeerAddress, PinCores, Secret, Size};

/// Everything tengate can be told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) log: Log,
    pub(crate) admin: Admin,
    pub(crate) register: Register,
    pub(crate) gateway: Gateway,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) demo: Demo,
}

/// `[log]`: what is said on standard error.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: LogLevel,
    pub(crate) format: LogFormat,
}

/// The least serious kind of message that is still logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

/// `[admin]`: how `tengate status` reaches a running process.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) run_dir: Option<PathBuf>,
}

/// `[register]`: the address book of a cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Register {
    pub(crate) listen: Spanned<Listen>,
    #[serde(skip_serializing)]
    pub(crate) secret_key: Option<Spanned<Secret>>,
    pub(crate) secret_key_file: Option<Spanned<PathBuf>>,
    pub(crate) proc_ids: Spanned<ProcIds>,
    pub(crate) lease_keep: Period,
}

/// `[gateway]`: what holds client connections.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gateway {
    pub(crate) mode: Mode,
    pub(crate) number_bits: Spanned<u8>,
    pub(crate) shards: Option<Spanned<u16>>,
    pub(crate) pin_cores: Spanned<PinCores>,
    pub(crate) max_connections: Option<Spanned<u32>>,
    pub(crate) data_path: Spanned<PathName>,
    pub(crate) netstack: Spanned<Netstack>,
    pub(crate) dpdk: Spanned<Dpdk>,
    pub(crate) af_xdp: Spanned<AfXdp>,
    pub(crate) register_address: Spanned<OneOrMany<PeerAddress>>,
    #[serde(skip_serializing)]
    pub(crate) secret_key: Option<Spanned<Secret>>,
    pub(crate) secret_key_file: Option<Spanned<PathBuf>>,
    pub(crate) close_linger: Spanned<Period>,
    pub(crate) detach_timeout: Spanned<Period>,
    pub(crate) client: Spanned<Vec<Spanned<Client>>>,
    pub(crate) inner: Inner,
}

/// Whom a gateway tells of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Workers, which connect to it.
    #[default]
    Direct,
    /// Dispatchers, to which workers connect.
    Dispatched,
}

/// `[[gateway.client]]`: one port for clients.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Client {
    pub(crate) protocol: Protocol,
    pub(crate) listen: Option<Spanned<Listen>>,
    pub(crate) message_bytes_max: Spanned<Size>,
    pub(crate) send_to_client_buffer_bytes: Spanned<Size>,
    pub(crate) slow_client: SlowClient,
    pub(crate) frames: Option<Spanned<Frames>>,
    pub(crate) check_utf8: Option<Spanned<bool>>,
    pub(crate) handshake_timeout: Option<Spanned<Period>>,
    pub(crate) handshake_bytes_max: Option<Spanned<Size>>,
    pub(crate) ping_interval: Spanned<Period>,
    pub(crate) ping_not_response_limit: Spanned<u16>,
    pub(crate) ping_data: Option<Spanned<String>>,
    pub(crate) ping_websocket: Option<Spanned<bool>>,
    pub(crate) length_field: Option<Spanned<LengthField>>,
}

/// How a client's bytes become messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    #[default]
    Websocket,
    Text,
    Frame,
    Tcp,
    LengthField,
}

/// Which websocket frames carry messages to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Frames {
    #[default]
    Text,
    Binary,
}

/// What happens to a message for a client that does not read fast enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SlowClient {
    #[default]
    Drop,
    DropOldest,
    Close,
}

/// `[gateway.client.length_field]`: a header that holds the message's length.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LengthField {
    pub(crate) header_bytes: Spanned<u16>,
    pub(crate) length_offset: Spanned<u16>,
    pub(crate) length_bytes: Spanned<u16>,
    pub(crate) endian: Endian,
    pub(crate) counts: Counts,
    pub(crate) magic: Spanned<Hex>,
}

/// Byte order of a length field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Endian {
    #[default]
    Big,
    Little,
}

/// What a length field counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Counts {
    /// Header and body.
    #[default]
    Frame,
    /// What follows the header.
    Body,
}

/// `[gateway.inner]`: the port for workers and GatewayClient.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Inner {
    pub(crate) listen: Spanned<Listen>,
    pub(crate) lan_ip: Option<Spanned<IpAddr>>,
    pub(crate) frame_bytes_max: Spanned<Size>,
    pub(crate) send_to_worker_buffer_bytes: Spanned<Size>,
    pub(crate) slow_worker: SlowWorker,
    pub(crate) routing: Routing,
    pub(crate) no_worker_grace: Period,
    pub(crate) no_worker_bytes_max: Size,
    pub(crate) auth_timeout: Spanned<Period>,
    pub(crate) pending_queries_max: Spanned<u32>,
}

/// What happens to the clients of a worker that does not read fast enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SlowWorker {
    #[default]
    StopReading,
    Drop,
    Close,
}

/// How a worker is chosen for a client that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Routing {
    #[default]
    LeastConnections,
    Random,
}

/// `[dispatcher]`: what stands between gateways and workers in dispatched mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dispatcher {
    pub(crate) listen: Spanned<Listen>,
    pub(crate) lan_ip: Option<Spanned<IpAddr>>,
    pub(crate) register_address: Option<Spanned<OneOrMany<PeerAddress>>>,
    #[serde(skip_serializing)]
    pub(crate) secret_key: Option<Spanned<Secret>>,
    pub(crate) secret_key_file: Option<Spanned<PathBuf>>,
    pub(crate) balance: Balance,
    pub(crate) weights: BTreeMap<String, Spanned<u16>>,
    pub(crate) group: Vec<Spanned<Group>>,
    pub(crate) frame_bytes_max: Spanned<Size>,
    pub(crate) reply_bytes_max: Spanned<Size>,
    pub(crate) send_to_worker_buffer_bytes: Spanned<Size>,
    pub(crate) send_to_gateway_buffer_bytes: Spanned<Size>,
    pub(crate) slow_worker: SlowWorker,
    pub(crate) no_worker_grace: Period,
    pub(crate) no_worker_bytes_max: Size,
    pub(crate) auth_timeout: Spanned<Period>,
    pub(crate) query_timeout: Spanned<Period>,
    pub(crate) pending_queries_max: Spanned<u32>,
    pub(crate) detach_limit: Spanned<Period>,
}

/// `[[dispatcher.group]]`: which workers serve the clients of some ports.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) ports: Vec<Spanned<u16>>,
    pub(crate) workers: Vec<Spanned<String>>,
    pub(crate) balance: Option<Balance>,
    pub(crate) weights: BTreeMap<String, Spanned<u16>>,
}

/// How a dispatcher chooses a worker for a client that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Balance {
    #[default]
    LeastConnections,
    RoundRobin,
    Random,
    HashUid,
    HashIp,
}

/// `[demo]`: what `tengate start` adds to a register and a gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Demo {
    pub(crate) worker: bool,
    pub(crate) page_listen: Spanned<Listen>,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            listen: default(loopback(1236)),
            secret_key: None,
            secret_key_file: None,
            proc_ids: default(ProcIds { first: 0, last: PROC_ID_MAX }),
            lease_keep: Period::secs(300),
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        let register = PeerAddress { host: "127.0.0.1".to_owned(), port: 1236 };
        let client = Client { listen: Some(default(loopback(8282))), ..Client::default() };
        Self {
            mode: Mode::default(),
            number_bits: default(22),
            shards: None,
            pin_cores: default(PinCores::InOrder),
            max_connections: None,
            data_path: default(PathName::default()),
            netstack: default(Netstack::default()),
            dpdk: default(Dpdk::default()),
            af_xdp: default(AfXdp::default()),
            register_address: default(OneOrMany(vec![register])),
            secret_key: None,
            secret_key_file: None,
            close_linger: default(Period::secs(10)),
            detach_timeout: default(Period::secs(5)),
            client: default(vec![default(client)]),
            inner: Inner::default(),
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            listen: None,
            message_bytes_max: default(Size(10_485_760)),
            send_to_client_buffer_bytes: default(Size(1_024_000)),
            slow_client: SlowClient::default(),
            frames: None,
            check_utf8: None,
            handshake_timeout: None,
            handshake_bytes_max: None,
            ping_interval: default(Period::secs(0)),
            ping_not_response_limit: default(0),
            ping_data: None,
            ping_websocket: None,
            length_field: None,
        }
    }
}

impl Default for LengthField {
    fn default() -> Self {
        Self {
            header_bytes: default(4),
            length_offset: default(0),
            length_bytes: default(4),
            endian: Endian::default(),
            counts: Counts::default(),
            magic: default(Hex(Vec::new())),
        }
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            listen: default(loopback(2900)),
            lan_ip: None,
            frame_bytes_max: default(Size(10_485_760)),
            send_to_worker_buffer_bytes: default(Size(10_240_000)),
            slow_worker: SlowWorker::default(),
            routing: Routing::default(),
            no_worker_grace: Period::secs(5),
            no_worker_bytes_max: Size(16 << 20),
            auth_timeout: default(Period::secs(10)),
            pending_queries_max: default(1024),
        }
    }
}

impl Default for Dispatcher {
    fn default() -> Self {
        let inner = Inner::default();
        Self {
            listen: default(loopback(3900)),
            lan_ip: None,
            register_address: None,
            secret_key: None,
            secret_key_file: None,
            balance: Balance::default(),
            weights: BTreeMap::new(),
            group: Vec::new(),
            frame_bytes_max: inner.frame_bytes_max,
            reply_bytes_max: default(Size(60 << 20)),
            send_to_worker_buffer_bytes: inner.send_to_worker_buffer_bytes,
            send_to_gateway_buffer_bytes: default(Size(10_240_000)),
            slow_worker: inner.slow_worker,
            no_worker_grace: inner.no_worker_grace,
            no_worker_bytes_max: Size(64 << 20),
            auth_timeout: inner.auth_timeout,
            query_timeout: default(Period::secs(1)),
            pending_queries_max: inner.pending_queries_max,
            detach_limit: default(Period::secs(2)),
        }
    }
}

impl Default for Demo {
    fn default() -> Self {
        Self { worker: true, page_listen: default(loopback(8080)) }
    }
}

impl Config {
    /// The registers a dispatcher announces itself to: its own, else the gateway's.
    pub(crate) fn dispatcher_registers(&self) -> &Spanned<OneOrMany<PeerAddress>> {
        self.dispatcher.register_address.as_ref().unwrap_or(&self.gateway.register_address)
    }
}

impl Inner {
    /// The address announced to the register: `lan_ip`, else the address listened on.
    pub(crate) fn announced(&self) -> SocketAddr {
        announced(&self.listen, self.lan_ip.as_ref())
    }
}

impl Dispatcher {
    /// The address announced to the register: `lan_ip`, else the address listened on.
    pub(crate) fn announced(&self) -> SocketAddr {
        announced(&self.listen, self.lan_ip.as_ref())
    }
}

fn announced(listen: &Spanned<Listen>, lan_ip: Option<&Spanned<IpAddr>>) -> SocketAddr {
    let listen = listen.get_ref().0;
    SocketAddr::new(lan_ip.map_or_else(|| listen.ip(), |ip| *ip.get_ref()), listen.port())
}

impl Protocol {
    /// The word used in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Text => "text",
            Self::Frame => "frame",
            Self::Tcp => "tcp",
            Self::LengthField => "length_field",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value nobody wrote: its empty span says that it has no place in any source.
fn default<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// The largest `proc_id` that a connection_id has room for, with the usual 22 bits for the number.
const PROC_ID_MAX: u16 = 1023;

fn loopback(port: u16) -> Listen {
    Listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}
