//! The register role: one unpinned shard.

use tengate_base::Instant;
use tengate_io::{ListenSpec, Pinning, ShardExit, Sharing, bind};
use tengate_proto::register::{AUTH_TIMEOUT, Register, RegisterConfig, RegisterLimits};
use tengate_proto::secret::SecretKey;
use tokio::sync::mpsc;
use tracing::info;

use super::Service;
use crate::config::{Config, secret_of};
use crate::shard::Hosted;

/// Connections the kernel holds until they are accepted.
const BACKLOG: u16 = 1024;

/// Starts the register.
pub(super) fn start(
    config: &Config,
    exits: &mpsc::UnboundedSender<(&'static str, ShardExit)>,
) -> anyhow::Result<Service> {
    let section = &config.register;
    let key =
        super::secret(secret_of(section.secret_key.as_ref(), section.secret_key_file.as_ref()))?;
    let ids = section.proc_ids.get_ref();
    let settings = RegisterConfig {
        secret_key: SecretKey::new(key.map_or_else(String::new, |key| key.0)),
        auth_timeout: AUTH_TIMEOUT,
        proc_ids: ids.first..=ids.last,
        lease_keep: section.lease_keep.0,
        limits: RegisterLimits::default(),
    };
    let address = section.listen.get_ref().0;
    let listener =
        bind(&ListenSpec { addr: address, backlog: BACKLOG, sharing: Sharing::ByHost }, 1)?;
    let shell = tengate_io::Config { pinning: Pinning::Off, ..tengate_io::Config::for_shards(1) };
    let running = tengate_io::run(&shell, vec![listener], None, move |_| {
        // The shell's clock starts with the shards, so that this is its origin.
        Hosted::new(Register::new(settings.clone(), Instant::ZERO), vec!["Text"])
    })?;
    info!(%address, "the register listens");
    Service::new(super::REGISTER, format!("text://{address}"), Vec::new(), running, exits)
}
