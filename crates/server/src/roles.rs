//! What each role runs.

use crate::Failure;
use crate::cli::Reader;
use crate::config::Config;
use crate::log::Level;

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Register, gateway, demo worker and page.
    Start,
    Register,
    Gateway,
}

pub(crate) fn run(
    _role: Role,
    _config: Config,
    _reader: Reader,
    _level: Level,
) -> Result<(), Failure> {
    Err(anyhow::anyhow!("no role can run yet").into())
}
