//! A gateway's DPDK port.

use anyhow::{Context, anyhow};
use tengate_io::dpdk::{Eal, EalConfig, Pages, Port, PortConfig};
use tengate_io::{Seat, Steers};
use tracing::info;

use super::{Opened, idle};
use crate::config::{Dpdk, Netstack, PageKind};
use crate::sizing::Bypass;

/// The port, and DPDK itself, which must outlive it.
#[derive(Debug)]
pub(crate) struct Device {
    port: Port,
    /// Kept open.
    _eal: Eal,
}

impl Device {
    /// What the port counted.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let Ok(stats) = self.port.stats() else { return Vec::new() };
        vec![
            ("received", stats.received),
            ("received_bytes", stats.received_bytes),
            ("sent", stats.sent),
            ("sent_bytes", stats.sent_bytes),
            ("dropped_queue_full", stats.dropped_queue_full),
            ("dropped_no_buffer", stats.dropped_no_buffer),
            ("dropped_damaged", stats.dropped_damaged),
            ("send_failed", stats.send_failed),
            ("buffers_used", stats.buffers_used.into()),
            ("buffers", stats.buffers.into()),
        ]
    }
}

/// Starts DPDK and opens its device with a queue pair for each shard.
pub(super) fn open(
    netstack: &Netstack,
    wanted: &Dpdk,
    sizes: &Bypass,
    shard_count: u16,
    cores: &[usize],
) -> anyhow::Result<Opened> {
    let name = wanted.device.as_ref().ok_or_else(|| anyhow!("no DPDK device is named"))?.get_ref();
    let pages = match wanted.pages.get_ref() {
        PageKind::Huge => Pages::Huge,
        PageKind::Ordinary => Pages::Ordinary,
    };
    let config = PortConfig {
        queue_pairs: shard_count,
        rx_descriptors: sizes.descriptors,
        tx_descriptors: sizes.descriptors,
        mtu: *netstack.mtu.get_ref(),
        buffers: sizes.frames,
    };
    let eal = Eal::init(&EalConfig {
        cores: cores.to_vec(),
        pages,
        memory_mib: u32::try_from(sizes.device_bytes >> 20).context("memory of DPDK")?,
        file_prefix: wanted.file_prefix.as_ref().map(|prefix| prefix.get_ref().clone()),
        devices: vec![name.clone()],
    })?;
    let port_name = eal.ports().into_iter().next();
    let port_name = port_name.ok_or_else(|| anyhow!("DPDK made no port of `{name}`"))?;
    let mut port = Port::open(&eal, &port_name, &config)?;
    let capabilities = port.capabilities()?;
    // Software devices claim to spread by a hash and do not all do it; a device on a bus does.
    let is_hardware = !name.starts_with("net_");
    let steers = if capabilities.rss && is_hardware { Steers::Device } else { Steers::Software };
    info!(device = name, queues = shard_count, mib = sizes.device_bytes >> 20, "DPDK port opened");
    let seats = port.take_queues().into_iter().map(Seat::Dpdk).collect();
    let sleep = (wanted.sleep_min.get_ref().0, wanted.sleep_max.get_ref().0);
    Ok(Opened {
        seats,
        mac: port.mac()?,
        steers,
        idle: idle(
            *wanted.busy_poll.get_ref(),
            *wanted.spin_turns.get_ref(),
            *wanted.pause_turns.get_ref(),
            sleep,
        ),
        device: super::Device::Dpdk(Device { port, _eal: eal }),
    })
}
