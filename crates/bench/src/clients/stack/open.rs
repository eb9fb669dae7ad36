//! Opening the device: DPDK, its port, and a stack with the clients' addresses.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tengate_base::Instant;
use tengate_io::dpdk::{Eal, EalConfig, Link, Pages, Port, PortConfig, Queue};
use tengate_netstack::{Address, Config, MacAddr, Secret, Stack};

use crate::device::Addresses;
use crate::latency::now_nanos;
use crate::target::Target;

/// Which device, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device<'a> {
    /// As DPDK names it, with its arguments.
    pub(crate) name: &'a str,
    /// The clients' addresses.
    pub(crate) addresses: Option<&'a Addresses>,
}

impl Device<'_> {
    /// The clients' addresses, enough of them for `count` clients.
    pub(super) fn sources(&self, target: &Target, count: usize) -> Result<Vec<Address>> {
        let needed = count.div_ceil(CLIENTS_PER_ADDRESS);
        let (addresses, prefix_len) = match self.addresses {
            // Some to spare: a port rests for a while after its connection.
            None => (following(target, needed + 3)?, FOLLOWING_PREFIX_LEN),
            Some(Addresses::Count(count)) => (following(target, *count)?, FOLLOWING_PREFIX_LEN),
            Some(Addresses::Listed { addresses, prefix_len }) => (addresses.clone(), *prefix_len),
        };
        ensure!(
            addresses.len() >= needed,
            "{count} clients need {needed} --addresses, {CLIENTS_PER_ADDRESS} ports each; {} are given",
            addresses.len()
        );
        Ok(addresses.into_iter().map(|addr| Address { addr, prefix_len }).collect())
    }

    /// Starts DPDK with this device and nothing else, once a process.
    pub(super) fn open(&self, sources: &[Address], count: usize) -> Result<(Port, Queue, Stack)> {
        let config = PortConfig::for_connections(u32::try_from(count)?, 1);
        let pools = u32::try_from(config.memory_bytes(Pages::Ordinary) >> 20)?;
        let eal = Eal::init(&EalConfig {
            cores: Vec::new(),
            pages: Pages::Ordinary,
            memory_mib: pools + EAL_MIB,
            file_prefix: None,
            devices: vec![self.name.to_owned()],
        });
        let eal = eal.with_context(|| format!("--device {}", self.name))?;
        let ports = eal.ports();
        let [name] = &ports[..] else { bail!("--device {} is not one port: {ports:?}", self.name) };
        let mut port = Port::open(&eal, name, &config)?;
        let queue = port.take_queues().pop().context("a port has a queue")?.claim()?;
        ensure!(
            port.wait_link(LINK_PATIENCE)? != Link::Down,
            "--device {}: nobody is at the other end",
            self.name
        );
        let now = Instant::from_nanos(now_nanos());
        let stack = Stack::new(stack_config(port.mac()?, sources, count)?, now)?;
        Ok((port, queue, stack))
    }
}

fn stack_config(mac: [u8; 6], sources: &[Address], count: usize) -> Result<Config> {
    let mut secret = [0; 32];
    // So that ports differ between two runs, and the server knows none of them still; nobody is to be kept from guessing.
    for part in secret.chunks_exact_mut(8) {
        part.copy_from_slice(&now_nanos().to_le_bytes());
    }
    let mut config = Config::new(MacAddr(mac), sources.to_vec(), Secret(secret));
    // Those that are closed and not done yet keep their places.
    config.conns_max = u32::try_from(count + count / 4)? + CONNS_SPARE;
    config.recv_window_bytes = WINDOW_BYTES;
    config.send_buffer_bytes = WINDOW_BYTES;
    config.pool_bytes = POOL_BYTES;
    config.ephemeral_ports = FIRST_PORT..=u16::MAX;
    config.time_wait = TIME_WAIT;
    Ok(config)
}

/// The addresses after the target's, all in its /16.
fn following(target: &Target, count: usize) -> Result<Vec<IpAddr>> {
    let IpAddr::V4(target) = target.address.ip() else {
        bail!("an IPv6 target needs --addresses with a prefix, as in fd00::2/64");
    };
    let network = target.to_bits() & FOLLOWING_NETWORK;
    let addresses = (1..=count).map(|step| {
        let bits = target.to_bits().wrapping_add(u32::try_from(step)?);
        ensure!(bits & FOLLOWING_NETWORK == network, "{target}/16 has no {count} more addresses");
        Ok(IpAddr::V4(Ipv4Addr::from_bits(bits)))
    });
    addresses.collect()
}

/// Of 64 512 ports, so that a free one is found soon.
const CLIENTS_PER_ADDRESS: usize = 60_000;
const FIRST_PORT: u16 = 1024;
const FOLLOWING_PREFIX_LEN: u8 = 16;
const FOLLOWING_NETWORK: u32 = 0xffff_0000;
/// For DPDK itself.
const EAL_MIB: u32 = 8;
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// Windows and send buffers of a client.
const WINDOW_BYTES: u32 = 64 << 10;
/// What all clients together may have on the way.
const POOL_BYTES: usize = 1 << 30;
const CONNS_SPARE: u32 = 10_000;
/// Frames do not grow old between two processes.
const TIME_WAIT: Duration = Duration::from_millis(100);
