//! Logging to standard error: set up once, its level changeable while running.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub(crate) struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// Logs from `level` on.
    pub(crate) fn set(&self, level: LogLevel) {
        // Only fails when the subscriber is gone, and then nothing is logged anyway.
        let _ = self.0.modify(|filter| *filter = level.into());
    }
}

/// Starts logging. Once for each process.
pub(crate) fn start(log: &Log) -> Level {
    let (filter, handle) = reload::Layer::new(LevelFilter::from(log.level));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match log.format {
        LogFormat::Plain => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Level(handle)
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}
