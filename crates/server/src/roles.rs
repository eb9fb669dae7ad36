//! What each role runs: services made from the configuration, and the control thread around them.

mod data_path;
mod dispatcher;
mod gateway;
mod register;
mod start;

use std::sync::Mutex;
use std::thread;

use anyhow::{Context, anyhow};
use tengate_io::{Running, ShardExit, ShardHandle, raise_descriptor_limit};
use tokio::sync::mpsc;

use crate::Failure;
use crate::cli::Reader;
use crate::config::{self, Config, Mode, Secret};
use crate::control::{self, Control};
use crate::log::Level;
use crate::shard::Command;

pub(crate) use data_path::Device;
pub(crate) use dispatcher::settings as dispatcher_settings;
pub(crate) use gateway::layout as gateway_layout;
pub(crate) use gateway::settings as gateway_settings;
pub(crate) use start::DemoWorker;

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Register, gateway, demo worker and page, and a dispatcher when the gateway is in dispatched mode.
    Start,
    Register,
    Gateway,
    Dispatcher,
}

/// Names of services.
pub(crate) const REGISTER: &str = "register";
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const DISPATCHER: &str = "dispatcher";

/// Shards that do one thing.
#[derive(Debug)]
pub(crate) struct Service {
    /// [`REGISTER`], [`GATEWAY`] or [`DISPATCHER`].
    pub(crate) name: &'static str,
    /// `websocket://0.0.0.0:8282`, the first listener.
    pub(crate) listening: String,
    /// The core each shard is pinned to, empty when they are not.
    pub(crate) cores: Vec<usize>,
    /// By shard number.
    pub(crate) handles: Vec<ShardHandle<Command>>,
    /// What its shards' queues belong to, on a data path past the kernel.
    pub(crate) device: Option<Mutex<Device>>,
}

/// Shards that have ended, by the name of their service.
pub(crate) type Exits = mpsc::UnboundedReceiver<(&'static str, ShardExit)>;

/// Runs a role until it is told to stop.
pub(crate) fn run(role: Role, config: Config, reader: Reader, level: Level) -> Result<(), Failure> {
    if role == Role::Start && !config::secrets_agree(&config) {
        let sections = match config.gateway.mode {
            Mode::Direct => "[register] and [gateway]",
            Mode::Dispatched => "[register], [gateway] and [dispatcher]",
        };
        let advice = "give them the same key, or set TENGATE_SECRET_KEY";
        return Err(Failure::Config(format!(
            "error: {sections} have different secret keys\n  = {advice}\n"
        )));
    }
    raise_descriptor_limit().context("cannot raise the limit of file descriptors")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    runtime.block_on(async {
        let (sender, exits) = mpsc::unbounded_channel();
        let mut services = Vec::new();
        if matches!(role, Role::Start | Role::Register) {
            services.push(register::start(&config, &sender)?);
        }
        if role.runs_gateway() {
            services.push(gateway::start(&config, &sender)?);
        }
        if role.runs_dispatcher(config.gateway.mode) {
            services.push(dispatcher::start(&config, &sender)?);
        }
        drop(sender);
        let control = Control::new(role, config, reader, level, services)?;
        let demo = match role {
            Role::Start => start::extras(control.config()).await?,
            Role::Register | Role::Gateway | Role::Dispatcher => None,
        };
        control::run(control, demo, exits).await
    })
}

impl Role {
    /// The word on the command line and in the admin socket's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Register => REGISTER,
            Self::Gateway => GATEWAY,
            Self::Dispatcher => DISPATCHER,
        }
    }

    pub(crate) const fn runs_gateway(self) -> bool {
        matches!(self, Self::Start | Self::Gateway)
    }

    const fn runs_dispatcher(self, mode: Mode) -> bool {
        match (self, mode) {
            (Self::Dispatcher, _) | (Self::Start, Mode::Dispatched) => true,
            (Self::Start, Mode::Direct) | (Self::Register | Self::Gateway, _) => false,
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
        Ok(Self { name, listening, cores, handles, device: None })
    }
}

/// The secret key of a section. The checker has read the file before, so that a failure here is a race with an editor.
fn secret(key: Result<Option<Secret>, std::io::Error>) -> anyhow::Result<Option<Secret>> {
    key.map_err(|error| anyhow!("cannot read the secret key's file: {error}"))
}
