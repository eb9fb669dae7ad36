//! A gateway's interface with AF_XDP sockets.

use core::time::Duration;

use anyhow::anyhow;
use tengate_io::af_xdp::{Config, Interface, Mode, ZeroCopy};
use tengate_io::{Seat, Steers};
use tracing::{info, warn};

use super::{Device, Opened, idle};
use crate::config::{self, AfXdp, Netstack, XdpMode};
use crate::sizing::Bypass;

/// Opens the interface with a socket for each shard; its frames for other addresses and ports stay with the kernel.
pub(super) fn open(
    netstack: &Netstack,
    wanted: &AfXdp,
    sizes: &Bypass,
    shard_count: u16,
    ports: &[u16],
) -> anyhow::Result<Opened> {
    let name = wanted.interface.as_ref().ok_or_else(|| anyhow!("no interface is named"))?;
    let name = name.get_ref();
    let addresses = netstack.addresses.get_ref().iter();
    let addresses = addresses.map(|cidr| cidr.get_ref().address).collect();
    let mut config = Config::new(name, addresses, ports.to_vec(), shard_count);
    config.mode = match wanted.mode.get_ref() {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    };
    config.zero_copy = match wanted.zero_copy.get_ref() {
        config::ZeroCopy::Auto => ZeroCopy::Auto,
        config::ZeroCopy::Off => ZeroCopy::Off,
        config::ZeroCopy::On => ZeroCopy::Required,
    };
    config.frames = sizes.frames;
    (config.rx_descriptors, config.tx_descriptors) =
        (sizes.descriptors.into(), sizes.descriptors.into());
    let mut interface = Interface::open(&config)?;
    let attached = interface.attached();
    if let Some(refusal) = interface.native_refusal() {
        warn!(interface = name, reason = %refusal, "the driver does not run the program; the kernel does");
    }
    info!(
        interface = name,
        queues = shard_count,
        native = attached.native,
        zero_copy = attached.zero_copy,
        "AF_XDP sockets opened"
    );
    // Only drivers of real devices do without copies; virtual ones choose a queue by the sender's core.
    let steers = if attached.zero_copy { Steers::Device } else { Steers::Software };
    Ok(Opened {
        seats: interface.take_queues().into_iter().map(Box::new).map(Seat::AfXdp).collect(),
        mac: interface.mac(),
        steers,
        idle: idle(
            *wanted.busy_poll.get_ref(),
            *wanted.spin_turns.get_ref(),
            *wanted.pause_turns.get_ref(),
            (NAP_MIN, NAP_MAX),
        ),
        device: Device::AfXdp(interface),
    })
}

/// What the interface counted.
pub(super) fn counts(interface: &Interface) -> Vec<(&'static str, u64)> {
    let Ok(stats) = interface.stats() else { return Vec::new() };
    vec![
        ("dropped_without_socket", stats.dropped_without_socket),
        ("dropped_ring_full", stats.dropped_ring_full),
        ("dropped_other", stats.dropped_other),
        ("fill_ring_empty", stats.fill_ring_empty),
        ("invalid_descriptors", stats.invalid_descriptors),
        ("tx_ring_empty", stats.tx_ring_empty),
    ]
}

/// How long a shard rests at first whose device cannot tell when it has room again.
const NAP_MIN: Duration = Duration::from_micros(50);
/// How long at most.
const NAP_MAX: Duration = Duration::from_millis(1);
