//! What every mode is told: where, how many, from where, and how to say what came of it.

use anyhow::{Result, ensure};

use crate::clients::Clients;
#[cfg(feature = "dpdk")]
use crate::clients::Device;
use crate::device::DeviceOptions;
use crate::parts::Share;
use crate::process::{Meter, Server, Usage};
use crate::protocol::Protocol;
use crate::report::Style;
use crate::target::{Sources, Target};

/// Whom to connect where.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// The server: ws://HOST:PORT/PATH, text://HOST:PORT or frame://HOST:PORT; for churn http://HOST:PORT/PATH, too.
    pub(crate) target: Target,
    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Divide the clients among this many processes of one thread each. One is enough until it is busy all the time or has
    /// no descriptors left.
    #[arg(long, default_value_t = 1)]
    pub(crate) processes: usize,
    /// Connect from these local addresses in turn, as in 127.0.0.2-127.0.0.9,127.0.1.1. Each has about 28 000 ports, and the
    /// kernel looks for a free one ever longer once half of them are taken: use one address for every 10 000 clients.
    #[arg(long, value_name = "ADDRESSES")]
    source: Option<Sources>,
    #[command(flatten)]
    device: DeviceOptions,
    /// Clients that connect and shake hands at the same time: 100, on a device 1000.
    #[arg(long)]
    opening: Option<usize>,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) style: Style,
    /// Which part this process is of a load with several processes.
    #[arg(long, hide = true)]
    pub(crate) part: Option<usize>,
}

impl Load {
    /// Refuses what cannot be measured.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!(
            (1..=PROCESSES_MAX).contains(&self.processes) && self.processes <= self.clients,
            "--processes must be at least 1, and at most {PROCESSES_MAX} and the number of clients"
        );
        ensure!(self.opening != Some(0), "--opening must be at least 1");
        ensure!(!self.is_on_device() || self.processes == 1, "a --device is one process's");
        Ok(())
    }

    /// As [`check`](Self::check), for modes that send messages.
    pub(crate) fn check_messages(&self) -> Result<()> {
        ensure!(self.target.protocol != Protocol::Http, "only churn knows http://");
        self.check()
    }

    /// The clients of one part, not connected.
    pub(crate) fn clients(&self, share: Share) -> Result<Clients> {
        let count = share.of(self.clients);
        let clients = match &self.device.device {
            Some(name) => self.clients_on_device(name, count)?,
            None => {
                // Neighbours in different processes begin with different addresses.
                let sources = self.source.clone().unwrap_or_default().starting_at(share.index);
                Clients::on_kernel(&self.target, sources, count)?
            }
        };
        Ok(clients.opening(self.opening))
    }

    /// Whether clients go past the kernel.
    pub(crate) fn is_on_device(&self) -> bool {
        self.device.device.is_some()
    }

    #[cfg(feature = "dpdk")]
    fn clients_on_device(&self, name: &str, count: usize) -> Result<Clients> {
        let addresses = self.device.addresses.as_ref();
        Clients::on_device(&self.target, Device { name, addresses }, count)
    }

    #[cfg(not(feature = "dpdk"))]
    #[expect(clippy::unused_self, reason = "with the feature it looks at the options")]
    fn clients_on_device(&self, name: &str, _count: usize) -> Result<Clients> {
        anyhow::bail!("--device {name} needs a tengate-bench built with --features dpdk")
    }

    /// Begins to measure what the server spends, and these generators.
    pub(crate) fn meter(&self, generators: Vec<u32>) -> Result<Meter> {
        Meter::start(&self.server, generators)
    }

    /// What the server has used until now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.server.usage()
    }
}

const PROCESSES_MAX: usize = 256;
