//! The dispatcher role: one unpinned shard.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;
use tengate_base::Instant;
use tengate_io::{ListenSpec, Pinning, ShardExit, Sharing, bind};
use tengate_proto::dispatcher::{self as wanted, WorkerGroup};
use tengate_proto::secret::SecretKey;
use tokio::sync::mpsc;
use toml::Spanned;
use tracing::info;

use super::Service;
use super::gateway::{bytes, count, seed, slow_worker};
use crate::config::{Balance, Config, Group, secret_of};
use crate::shard::Hosted;

/// Connections the kernel holds until they are accepted.
const BACKLOG: u16 = 4096;

/// Starts the dispatcher.
pub(super) fn start(
    config: &Config,
    exits: &mpsc::UnboundedSender<(&'static str, ShardExit)>,
) -> anyhow::Result<Service> {
    let settings = Arc::new(settings(config)?);
    let address = config.dispatcher.listen.get_ref().0;
    let spec = ListenSpec { addr: address, backlog: BACKLOG, sharing: Sharing::ByHost };
    let listener = bind(&spec, 1)?;
    let shell = tengate_io::Config { pinning: Pinning::Off, ..tengate_io::Config::for_shards(1) };
    let running = tengate_io::run(&shell, vec![listener], None, move |_| {
        // The shell's clock starts with the shard, so that this is its origin. Gateways are the second door.
        let core = wanted::Dispatcher::new(Arc::clone(&settings), Instant::ZERO);
        Hosted::new(core, vec!["GatewayProtocol", "GatewayProtocol"])
    })?;
    let announced = config.dispatcher.announced();
    info!(%address, %announced, "the dispatcher listens for workers");
    Service::new(super::DISPATCHER, format!("tcp://{address}"), Vec::new(), running, exits)
}

/// The core's settings. Fails only on what the checker refuses.
pub(crate) fn settings(config: &Config) -> anyhow::Result<wanted::Config> {
    let section = &config.dispatcher;
    let SocketAddr::V4(address) = section.announced() else {
        bail!("the dispatcher's announced address is not IPv4")
    };
    let key =
        super::secret(secret_of(section.secret_key.as_ref(), section.secret_key_file.as_ref()))?;
    let group = |group: &Spanned<Group>| {
        let group = group.get_ref();
        WorkerGroup {
            ports: group.ports.iter().map(|port| *port.get_ref()).collect(),
            workers: group.workers.iter().map(|name| name.get_ref().as_str().into()).collect(),
            balance: balance(group.balance.unwrap_or(section.balance)),
            weights: weights(&group.weights),
        }
    };
    Ok(wanted::Config {
        address,
        secret_key: SecretKey::new(key.map_or_else(String::new, |key| key.0)),
        frame_bytes_max: bytes(*section.frame_bytes_max.get_ref()),
        reply_bytes_max: bytes(*section.reply_bytes_max.get_ref()),
        send_to_worker_bytes_max: bytes(*section.send_to_worker_buffer_bytes.get_ref()),
        send_to_gateway_bytes_max: bytes(*section.send_to_gateway_buffer_bytes.get_ref()),
        slow_worker: slow_worker(section.slow_worker),
        default_group: WorkerGroup {
            ports: Vec::new(),
            workers: Vec::new(),
            balance: balance(section.balance),
            weights: weights(&section.weights),
        },
        groups: section.group.iter().map(group).collect(),
        no_worker_grace: section.no_worker_grace.0,
        no_worker_bytes_max: bytes(section.no_worker_bytes_max),
        auth_timeout: section.auth_timeout.get_ref().0,
        query_timeout: section.query_timeout.get_ref().0,
        pending_queries_max: count(*section.pending_queries_max.get_ref()),
        detach_limit: section.detach_limit.get_ref().0,
        seed: seed()?,
    })
}

const fn balance(balance: Balance) -> wanted::Balance {
    match balance {
        Balance::LeastConnections => wanted::Balance::LeastConnections,
        Balance::RoundRobin => wanted::Balance::RoundRobin,
        Balance::Random => wanted::Balance::Random,
        Balance::HashUid => wanted::Balance::HashUid,
        Balance::HashIp => wanted::Balance::HashIp,
    }
}

fn weights(weights: &BTreeMap<String, Spanned<u16>>) -> Vec<(Box<str>, u16)> {
    weights.iter().map(|(name, weight)| (name.as_str().into(), *weight.get_ref())).collect()
}
