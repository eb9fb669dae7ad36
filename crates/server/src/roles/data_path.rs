//! The clients' side of a gateway past the kernel: the device opened, and a queue and a stack for each shard.

mod af_xdp;
#[cfg(feature = "dpdk")]
mod dpdk;

use core::time::Duration;

#[cfg(not(feature = "dpdk"))]
use anyhow::bail;
use tengate_io::{Bypass, IdleConfig, Seat, Steers};
use tengate_netstack::{
    Address, Checksums, Config as StackConfig, CongestionControl, Keepalive, MacAddr, Secret,
};

use crate::config::{Config, Congestion, DataPath, Netstack, Steering};
use crate::sizing::{self, Sizing};

/// What is open as long as a gateway runs, beside what its shards own.
#[derive(Debug)]
pub(crate) enum Device {
    /// An interface with AF_XDP sockets.
    AfXdp(tengate_io::af_xdp::Interface),
    /// A DPDK port.
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Device),
}

impl Device {
    /// What it counted, by name; nothing when it does not tell.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::AfXdp(interface) => af_xdp::counts(interface),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(device) => device.counts(),
        }
    }
}

/// A device that was opened for a number of shards.
struct Opened {
    device: Device,
    seats: Vec<Seat>,
    /// Its hardware address.
    mac: [u8; 6],
    /// Whether all frames of a connection come to one queue.
    steers: Steers,
    idle: IdleConfig,
}

/// Opens what the configuration says; `None` for the kernel's sockets.
///
/// # Errors
/// Why the device cannot be used, and what to do.
pub(super) fn open(
    config: &Config,
    sizing: Option<&Sizing>,
    #[cfg_attr(not(feature = "dpdk"), expect(unused_variables, reason = "for DPDK's threads"))]
    cores: &[usize],
    ports: &[u16],
) -> anyhow::Result<Option<(Bypass, Device)>> {
    let Some((sizing, sizes)) = sizing.and_then(|all| Some((all, all.bypass.as_ref()?))) else {
        return Ok(None);
    };
    let shard_count = sizing.shards;
    let (opened, netstack) = match config.gateway.path() {
        DataPath::Kernel => return Ok(None),
        #[cfg(feature = "dpdk")]
        DataPath::Dpdk { netstack, device } => {
            (dpdk::open(netstack, device, sizes, shard_count, cores)?, netstack)
        }
        #[cfg(not(feature = "dpdk"))]
        DataPath::Dpdk { .. } => {
            bail!("this tengate was built without DPDK: build it with `--features dpdk`")
        }
        DataPath::AfXdp { netstack, device } => {
            (af_xdp::open(netstack, device, sizes, shard_count, ports)?, netstack)
        }
    };
    let Opened { device, seats, mac, steers, idle } = opened;
    let steers = match netstack.steering.get_ref() {
        Steering::Auto => steers,
        Steering::Device => Steers::Device,
        Steering::Software => Steers::Software,
    };
    let stack = stack(netstack, mac, sizing.connections_max, sizes)?;
    let listening = ports.to_vec();
    Ok(Some((Bypass { seats, stack, listening, steers, idle }, device)))
}

/// The configuration of each shard's stack.
fn stack(
    netstack: &Netstack,
    mac: [u8; 6],
    connections_max: u32,
    sizes: &sizing::Bypass,
) -> anyhow::Result<StackConfig> {
    let addresses = netstack.addresses.get_ref().iter().map(|cidr| {
        let cidr = cidr.get_ref();
        Address { addr: cidr.address, prefix_len: cidr.prefix_len }
    });
    let mut secret = [0; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
    let mac = netstack.mac.as_ref().map_or(mac, |mac| mac.get_ref().0);
    let mut stack = StackConfig::new(MacAddr(mac), addresses.collect(), Secret(secret));
    stack.vlan = netstack.vlan.as_ref().map(|vlan| *vlan.get_ref());
    stack.gateways = netstack.gateways.iter().map(|gateway| *gateway.get_ref()).collect();
    stack.mtu = *netstack.mtu.get_ref();
    stack.checksums = Checksums::Software;
    stack.congestion = match netstack.congestion {
        Congestion::Cubic => CongestionControl::Cubic,
        Congestion::Newreno => CongestionControl::NewReno,
    };
    stack.recv_window_bytes = bytes_u32(netstack.recv_window_bytes.get_ref().0);
    stack.send_buffer_bytes = bytes_u32(netstack.send_buffer_bytes.get_ref().0);
    stack.syn_backlog_max = sizes.syn_backlog_max;
    // Those that are being opened, and those that the application has closed, have places of their own.
    stack.conns_max = connections_max + connections_max / 16 + sizes.syn_backlog_max;
    stack.time_wait_max = sizes.time_wait_max;
    stack.pool_bytes = usize::try_from(sizes.pool_bytes)?;
    stack.time_wait = netstack.time_wait.get_ref().0;
    stack.keepalive = netstack.keepalive_idle.as_ref().map(|idle| Keepalive {
        idle: idle.get_ref().0,
        interval: netstack.keepalive_interval.get_ref().0,
        probes_max: *netstack.keepalive_probes.get_ref(),
    });
    Ok(stack)
}

fn bytes_u32(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// How a shard rests: as configured, and never when it is to poll without a pause.
fn idle(
    busy_poll: bool,
    spin_turns: u32,
    pause_turns: u32,
    sleep: (Duration, Duration),
) -> IdleConfig {
    let pause_turns = if busy_poll { u32::MAX } else { pause_turns };
    IdleConfig { spin_turns, pause_turns, sleep_min: sleep.0, sleep_max: sleep.1 }
}
