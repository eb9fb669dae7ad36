//! The gateway role: the configuration in the core's words, and one shard a core.

use core::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{anyhow, bail};
use tengate_base::Instant;
use tengate_io::{ListenSpec, Pinning, ShardExit, Sharing, bind};
use tengate_proto::gateway::{self as wanted, Heartbeat, Listener, Ping};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::length_field::{self, LengthField};
use tokio::sync::mpsc;
use toml::Spanned;
use tracing::info;

use super::{Service, data_path};
use crate::cli::usable_cores;
use crate::config::{self, Client, Config, Frames, Gateway, PinCores, Protocol, Size, secret_of};
use crate::shard::Hosted;
use crate::sizing::Sizing;

/// Connections the kernel holds for each listening socket until they are accepted.
const BACKLOG: u16 = 4096;

/// Starts the gateway's shards.
pub(super) fn start(
    config: &Config,
    exits: &mpsc::UnboundedSender<(&'static str, ShardExit)>,
) -> anyhow::Result<Service> {
    let (shard_count, cores) = layout(&config.gateway);
    let settings = Arc::new(settings(config)?);
    let sizing = Sizing::of(&config.gateway, shard_count);
    if let Some(sizing) = &sizing {
        info!("{sizing}");
    }
    let past_kernel = data_path::open(config, sizing.as_ref(), &cores, &client_ports(config)?)?;
    let (bypass, device) = past_kernel.unzip();
    let listeners = open(config, shard_count, bypass.is_some())?;
    let clients = config.gateway.client.get_ref().iter().map(Spanned::get_ref);
    let listening = clients
        .clone()
        .find_map(|client| Some(format!("{}://{}", client.protocol, address(client).ok()?)));
    let protocols: Vec<&str> =
        clients.map(|client| shown_protocol(client.protocol)).chain(["GatewayProtocol"]).collect();
    let make = move |shard| {
        // The shell's clock starts with the shards, so that this is its origin.
        let core = wanted::Gateway::new(Arc::clone(&settings), shard, Instant::ZERO);
        Hosted::new(core, protocols.clone())
    };
    let mut shell = shell(&config.gateway, shard_count, &cores);
    if let Some(sizing) = sizing.filter(|sizing| sizing.bypass.is_some()) {
        shell.connections_max = shell.connections_max.min(sizing.connections_max);
    }
    let running = tengate_io::run(&shell, listeners, bypass, make)?;
    info!(shards = shard_count, cores = ?cores, "shards run");
    let mut service =
        Service::new(super::GATEWAY, listening.unwrap_or_default(), cores, running, exits)?;
    service.device = device.map(Mutex::new);
    Ok(service)
}

/// The shards' settings, as the kernel shell takes them.
fn shell(gateway: &Gateway, shard_count: u16, cores: &[usize]) -> tengate_io::Config {
    let mut shell = tengate_io::Config::for_shards(shard_count);
    if cores.is_empty() {
        shell.pinning = Pinning::Off;
    } else {
        shell.pinning = Pinning::Cores(cores.to_vec());
    }
    let limit = gateway.max_connections.as_ref().map_or(u32::MAX, |limit| *limit.get_ref());
    // Every connection of a shard may be a client and needs a number of its own.
    let numbers = (1 << *gateway.number_bits.get_ref()) - 1;
    shell.connections_max = limit.div_ceil(shard_count.into()).min(numbers);
    // A client's number holds its shard's, which the register gives in dispatched mode.
    shell.starts_paused = gateway.mode == config::Mode::Dispatched;
    shell
}

/// Ports of the client listeners, in the order of their doors.
fn client_ports(config: &Config) -> anyhow::Result<Vec<u16>> {
    let clients = config.gateway.client.get_ref().iter();
    clients.map(|client| Ok(address(client.get_ref())?.port())).collect()
}

/// Opens the client listeners in the order of their doors, unless clients come past the kernel, then the inner one.
fn open(
    config: &Config,
    shard_count: u16,
    is_bypassed: bool,
) -> anyhow::Result<Vec<tengate_io::Listener>> {
    let mut listeners = Vec::new();
    for client in config.gateway.client.get_ref() {
        let addr = address(client.get_ref())?;
        if !is_bypassed {
            let spec = ListenSpec { addr, backlog: BACKLOG, sharing: Sharing::PerShard };
            listeners.push(bind(&spec, shard_count)?);
        }
        let protocol = client.get_ref().protocol.name();
        info!(protocol, address = %addr, "the gateway listens for clients");
    }
    let addr = config.gateway.inner.listen.get_ref().0;
    listeners
        .push(bind(&ListenSpec { addr, backlog: BACKLOG, sharing: Sharing::ByHost }, shard_count)?);
    let announced = config.gateway.inner.announced();
    match config.gateway.mode {
        config::Mode::Direct => {
            info!(address = %addr, %announced, "the gateway listens for workers")
        }
        config::Mode::Dispatched => {
            info!(address = %addr, %announced, "the gateway listens for dispatchers");
        }
    }
    Ok(listeners)
}

/// What Workerman calls a protocol in its tables.
const fn shown_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Websocket => "Websocket",
        Protocol::Text => "Text",
        Protocol::Frame => "Frame",
        Protocol::Tcp => "tcp",
        Protocol::LengthField => "LengthField",
    }
}

/// How many shards, and the cores they are pinned to, if any.
pub(crate) fn layout(gateway: &Gateway) -> (u16, Vec<usize>) {
    let usable = usable_cores();
    let asked = gateway.shards.as_ref().map(|shards| *shards.get_ref());
    let count = |cores: &[usize]| u16::try_from(cores.len()).unwrap_or(u16::MAX).max(1);
    match gateway.pin_cores.get_ref() {
        PinCores::List(list) => (asked.unwrap_or_else(|| count(list)), list.clone()),
        PinCores::No => (asked.unwrap_or_else(|| count(&usable)), Vec::new()),
        PinCores::InOrder => {
            let shards = asked.unwrap_or_else(|| count(&usable));
            // Two shards on one core would wait for each other; the kernel spreads them better.
            let cores = if usize::from(shards) <= usable.len() { usable } else { Vec::new() };
            (shards, cores.into_iter().take(shards.into()).collect())
        }
    }
}

/// The core's settings. Fails only on what the checker refuses.
pub(crate) fn settings(config: &Config) -> anyhow::Result<wanted::Config> {
    let (gateway, inner) = (&config.gateway, &config.gateway.inner);
    let SocketAddr::V4(announced) = inner.announced() else {
        bail!("the announced inner address is not IPv4")
    };
    let key =
        super::secret(secret_of(gateway.secret_key.as_ref(), gateway.secret_key_file.as_ref()))?;
    let listeners = gateway.client.get_ref().iter().map(|client| listener(client.get_ref()));
    Ok(wanted::Config {
        mode: match gateway.mode {
            config::Mode::Direct => wanted::Mode::Direct,
            config::Mode::Dispatched => wanted::Mode::Dispatched,
        },
        shards: layout(gateway).0,
        number_bits: *gateway.number_bits.get_ref(),
        lan_ip: *announced.ip(),
        lan_port: announced.port(),
        secret_key: SecretKey::new(key.map_or_else(String::new, |key| key.0)),
        listeners: listeners.collect::<anyhow::Result<_>>()?,
        frame_bytes_max: bytes(*inner.frame_bytes_max.get_ref()),
        send_to_worker_bytes_max: bytes(*inner.send_to_worker_buffer_bytes.get_ref()),
        slow_worker: slow_worker(inner.slow_worker),
        routing: match inner.routing {
            config::Routing::LeastConnections => wanted::Routing::LeastConnections,
            config::Routing::Random => wanted::Routing::Random,
        },
        no_worker_grace: inner.no_worker_grace.0,
        no_worker_bytes_max: bytes(inner.no_worker_bytes_max),
        detach_timeout: gateway.detach_timeout.get_ref().0,
        auth_timeout: inner.auth_timeout.get_ref().0,
        close_linger: gateway.close_linger.get_ref().0,
        pending_queries_max: count(*inner.pending_queries_max.get_ref()),
        seed: seed()?,
    })
}

fn listener(client: &Client) -> anyhow::Result<Listener> {
    let mut listener = Listener::with_defaults(protocol(client)?, address(client)?.port());
    listener.message_bytes_max = bytes(*client.message_bytes_max.get_ref());
    listener.send_to_client_bytes_max = bytes(*client.send_to_client_buffer_bytes.get_ref());
    listener.slow_client = match client.slow_client {
        config::SlowClient::Drop => wanted::SlowClient::Drop,
        config::SlowClient::DropOldest => wanted::SlowClient::DropOldest,
        config::SlowClient::Close => wanted::SlowClient::Close,
    };
    if let Some(timeout) = &client.handshake_timeout {
        listener.handshake_timeout = timeout.get_ref().0;
    }
    if let Some(max) = &client.handshake_bytes_max {
        listener.handshake_bytes_max = bytes(*max.get_ref());
    }
    let interval = client.ping_interval.get_ref().0;
    listener.heartbeat = (!interval.is_zero()).then(|| Heartbeat {
        interval,
        not_response_limit: *client.ping_not_response_limit.get_ref(),
        ping: ping(client),
    });
    Ok(listener)
}

fn ping(client: &Client) -> Ping {
    if client.ping_websocket.as_ref().is_some_and(|yes| *yes.get_ref()) {
        return Ping::Websocket;
    }
    match client.ping_data.as_ref().map(|data| data.get_ref().as_str()) {
        None | Some("") => Ping::Nothing,
        Some(data) => Ping::Data(data.into()),
    }
}

fn protocol(client: &Client) -> anyhow::Result<wanted::Protocol> {
    Ok(match client.protocol {
        Protocol::Websocket => wanted::Protocol::Websocket {
            binary: client
                .frames
                .as_ref()
                .is_some_and(|frames| *frames.get_ref() == Frames::Binary),
            check_utf8: client.check_utf8.as_ref().is_some_and(|check| *check.get_ref()),
        },
        Protocol::Text => wanted::Protocol::Text,
        Protocol::Frame => wanted::Protocol::Frame,
        Protocol::Tcp => wanted::Protocol::Tcp,
        Protocol::LengthField => wanted::Protocol::LengthField(length_field(client)?),
    })
}

fn length_field(client: &Client) -> anyhow::Result<LengthField> {
    let described =
        client.length_field.as_ref().ok_or_else(|| anyhow!("length_field is not described"))?;
    let field = described.get_ref();
    let layout = length_field::Layout {
        magic: field.magic.get_ref().0.clone(),
        length_offset: usize::from(*field.length_offset.get_ref()),
        length_bytes: usize::from(*field.length_bytes.get_ref()),
        endian: match field.endian {
            config::Endian::Big => length_field::Endian::Big,
            config::Endian::Little => length_field::Endian::Little,
        },
        counts: match field.counts {
            config::Counts::Frame => length_field::Counts::Frame,
            config::Counts::Body => length_field::Counts::Body,
        },
        header_bytes: usize::from(*field.header_bytes.get_ref()),
        frame_bytes_max: bytes(*client.message_bytes_max.get_ref()),
    };
    LengthField::new(layout).map_err(|error| anyhow!("length_field does not work: {error}"))
}

fn address(client: &Client) -> anyhow::Result<SocketAddr> {
    client
        .listen
        .as_ref()
        .map(|listen| listen.get_ref().0)
        .ok_or_else(|| anyhow!("a client listener has no address"))
}

pub(super) const fn slow_worker(policy: config::SlowWorker) -> wanted::SlowWorker {
    match policy {
        config::SlowWorker::StopReading => wanted::SlowWorker::StopReading,
        config::SlowWorker::Drop => wanted::SlowWorker::Drop,
        config::SlowWorker::Close => wanted::SlowWorker::Close,
    }
}

pub(super) fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

pub(super) fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Clients must not be able to foresee where their names fall in a hash table.
pub(super) fn seed() -> anyhow::Result<u64> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(seed))
}
