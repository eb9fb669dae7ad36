//! What each role runs: services made from the configuration, and the control thread around them.

mod gateway;
mod register;
mod start;

use std::thread;

use anyhow::{Context, anyhow};
use tengate_io::{Running, ShardExit, ShardHandle, raise_descriptor_limit};
use tokio::sync::mpsc;

use tracing::warn;

use crate::Failure;
use crate::cli::Reader;
use crate::config::{self, Config, Secret};
use crate::control::{self, Control};
use crate::log::Level;
use crate::shard::Command;

pub(crate) use gateway::{announced, settings as gateway_settings};
pub(crate) use start::DemoWorker;

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Register, gateway, demo worker and page.
    Start,
    Register,
    Gateway,
}

/// Shards that do one thing.
#[derive(Debug)]
pub(crate) struct Service {
    /// `register` or `gateway`.
    pub(crate) name: &'static str,
    /// `websocket://0.0.0.0:8282`, the first listener.
    pub(crate) listening: String,
    /// The core each shard is pinned to, empty when they are not.
    pub(crate) cores: Vec<usize>,
    /// By shard number.
    pub(crate) handles: Vec<ShardHandle<Command>>,
}

/// Shards that have ended, by the name of their service.
pub(crate) type Exits = mpsc::UnboundedReceiver<(&'static str, ShardExit)>;

/// Runs a role until it is told to stop.
pub(crate) fn run(role: Role, config: Config, reader: Reader, level: Level) -> Result<(), Failure> {
    if role == Role::Start && !config::secrets_agree(&config) {
        let advice = "give both sections the same key, or set TENGATE_SECRET_KEY";
        return Err(Failure::Config(format!(
            "error: [register] and [gateway] have different secret keys\n  = {advice}\n"
        )));
    }
    let limit = raise_descriptor_limit().context("cannot raise the limit of file descriptors")?;
    let wanted = config.gateway.max_connections.as_ref().map_or(0, |max| u64::from(*max.get_ref()));
    if role != Role::Register && wanted > limit {
        warn!(
            limit,
            max_connections = wanted,
            "file descriptors allow fewer connections; raise `ulimit -n`"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    runtime.block_on(async {
        let (sender, exits) = mpsc::unbounded_channel();
        let mut services = Vec::new();
        if role != Role::Gateway {
            services.push(register::start(&config, &sender)?);
        }
        if role != Role::Register {
            services.push(gateway::start(&config, &sender)?);
        }
        drop(sender);
        let control = Control::new(role, config, reader, level, services)?;
        let demo = match role {
            Role::Start => start::extras(control.config()).await?,
            Role::Register | Role::Gateway => None,
        };
        control::run(control, demo, exits).await
    })
}

impl Role {
    /// The word on the command line and in the admin socket's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Register => "register",
            Self::Gateway => "gateway",
        }
    }
}

impl Service {
    /// Takes running shards in. A thread waits for their ends, because that wait blocks.
    fn new(
        name: &'static str,
        listening: String,
        cores: Vec<usize>,
        mut running: Running<Command>,
        exits: &mpsc::UnboundedSender<(&'static str, ShardExit)>,
    ) -> anyhow::Result<Self> {
        let handles = running.handles().to_vec();
        let exits = exits.clone();
        let wait = move || {
            while let Some(exit) = running.wait() {
                if exits.send((name, exit)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name(format!("{name}-exits"))
            .spawn(wait)
            .context("cannot start a thread")?;
        Ok(Self { name, listening, cores, handles })
    }
}

/// The secret key of a section. The checker has read the file before, so that a failure here is a race with an editor.
fn secret(key: Result<Option<Secret>, std::io::Error>) -> anyhow::Result<Option<Secret>> {
    key.map_err(|error| anyhow!("cannot read the secret key's file: {error}"))
}
