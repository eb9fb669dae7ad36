//! One device: its configuration, its state, its counters.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::eal::{Eal, Log, Pages};
use super::limits::{
    BUFFER_BYTES_MIN, BURST_FRAMES, DESCRIPTORS_MAX, DESCRIPTORS_MIN, FRAME_OVERHEAD_BYTES,
    LINK_POLL, MTU_MAX, MTU_MIN, QUEUE_PAIRS_MAX, SPARE_FRAMES, STAGED_FRAMES,
};
use super::queue::QueueSeat;
use super::sys::{Device, DeviceError, RawConfig, take_log};

/// How a port is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive and transmit queues, one pair for each shard; 1 to 64, and what the device has.
    pub queue_pairs: u16,
    /// Descriptors of a receive queue: frames that may arrive while the shard does something else. 64 to 4096, fitted to
    /// the device. A memif has its own, `rsize=`.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue; 64 to 4096, fitted to the device.
    pub tx_descriptors: u16,
    /// Largest packet in bytes, without the Ethernet header; 68 to 9000.
    pub mtu: u16,
    /// Buffers of each queue pair's pool, at least [`buffers_min`](Self::buffers_min).
    pub buffers: u32,
}

impl PortConfig {
    /// A configuration for that many connections over all queue pairs, with an MTU of 1500.
    ///
    /// A frame is in a buffer only between the device and the shard, so buffers follow the depth of the queues, and only
    /// that depth follows the connections: one descriptor for 64 of them, for the moments when many speak at once.
    pub fn for_connections(connections: u32, queue_pairs: u16) -> Self {
        let each = connections / u32::from(queue_pairs.max(1)) / CONNECTIONS_PER_DESCRIPTOR;
        let descriptors = u16::try_from(each.next_power_of_two())
            .unwrap_or(u16::MAX)
            .clamp(DESCRIPTORS_DEFAULT_MIN, DESCRIPTORS_MAX);
        let mut config = Self {
            queue_pairs,
            rx_descriptors: descriptors,
            tx_descriptors: descriptors,
            mtu: 1500,
            buffers: 0,
        };
        // Pools waste least at one below a power of two (rte_mempool_create).
        config.buffers = (config.buffers_min() + 1).next_power_of_two() - 1;
        config
    }

    /// Buffers a queue pair can hold at once: both rings full, the frames that wait for the turn's end, the burst in
    /// work, and what the thread's caches hold back.
    pub fn buffers_min(&self) -> u32 {
        let rings = u32::from(self.rx_descriptors) + u32::from(self.tx_descriptors);
        rings + HELD_FRAMES
    }

    /// What the pools of all queue pairs need of DPDK's memory, in bytes, within a tenth.
    pub fn memory_bytes(&self, pages: Pages) -> u64 {
        let buffer = u64::from(self.data_bytes()) + BUFFER_OVERHEAD_BYTES;
        let buffer = match pages {
            Pages::Huge => buffer,
            // No buffer crosses from one page to the next unless it must, and two never fit into one.
            Pages::Ordinary => buffer.next_multiple_of(PAGE_BYTES),
        };
        let pool = u64::from(self.buffers) * buffer + POOL_OVERHEAD_BYTES;
        pool * u64::from(self.queue_pairs)
    }

    /// Data room of a buffer, so that the longest frame has one segment.
    fn data_bytes(&self) -> u16 {
        (self.mtu + FRAME_OVERHEAD_BYTES).max(BUFFER_BYTES_MIN)
    }

    fn check(&self) -> Result<(), PortError> {
        let in_range = |what, value: u32, min: u32, max: u32| {
            let within = (min..=max).contains(&value);
            if within { Ok(()) } else { Err(PortError::Range { what, value, min, max }) }
        };
        in_range("queue pairs", self.queue_pairs.into(), 1, QUEUE_PAIRS_MAX.into())?;
        in_range("MTU", self.mtu.into(), MTU_MIN.into(), MTU_MAX.into())?;
        let (min, max) = (DESCRIPTORS_MIN.into(), DESCRIPTORS_MAX.into());
        in_range("receive descriptors", self.rx_descriptors.into(), min, max)?;
        in_range("transmit descriptors", self.tx_descriptors.into(), min, max)?;
        in_range("buffers", self.buffers, self.buffers_min(), BUFFERS_MAX)
    }
}

/// An open device. It closes when this and all its queues are gone, and cannot be opened again.
#[derive(Debug)]
pub struct Port {
    device: Arc<Device>,
    seats: Vec<QueueSeat>,
    name: String,
    buffers: u32,
    // DPDK wants calls that are not of the data path from one thread at a time.
    one_thread: PhantomData<Cell<()>>,
}

/// What a device can do. Offloads are reported, not used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Spreads connections over its queues itself, by a hash of addresses and ports. If not, frames of a connection may
    /// come to any queue, or all to the first.
    pub rss: bool,
    /// Checks the checksums of IPv4 and TCP of what it receives.
    pub receive_checksums: bool,
    /// Computes the checksums of IPv4 and TCP of what it sends.
    pub transmit_checksums: bool,
    /// Queue pairs it has.
    pub queue_pairs_max: u16,
}

/// Whether a cable, or a peer, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nobody is there; frames to send stay staged.
    Down,
    /// Frames can go.
    Up {
        /// Mbit/s; 0 when the device does not know.
        mbits: u32,
    },
}

/// What the device counted since it was opened. Software devices leave some of it at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub received: u64,
    /// Bytes of those frames.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes of those frames.
    pub sent_bytes: u64,
    /// Frames the device dropped because a receive queue was full: the shard is too slow.
    pub dropped_queue_full: u64,
    /// Frames dropped because the pool had no buffer for them.
    pub dropped_no_buffer: u64,
    /// Frames the device found to be damaged.
    pub dropped_damaged: u64,
    /// Frames the device could not send.
    pub send_failed: u64,
    /// Buffers of all pools in use: in rings, bursts and queues. A gauge.
    pub buffers_used: u32,
    /// Buffers of all pools. A gauge.
    pub buffers: u32,
}

/// Why a port was not opened, or does not answer.
#[derive(Debug)]
pub enum PortError {
    /// A value of the configuration is out of range.
    Range {
        /// Which.
        what: &'static str,
        /// As configured.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// No device has that name.
    Missing {
        /// As asked for.
        name: String,
    },
    /// The port is open already.
    Taken {
        /// As asked for.
        name: String,
    },
    /// The device has fewer queue pairs.
    Queues {
        /// Its name.
        name: String,
        /// Queue pairs it has.
        max: u16,
    },
    /// The device has a smaller MTU.
    Mtu {
        /// Its name.
        name: String,
        /// Its largest MTU in bytes.
        max: u16,
    },
    /// The pools do not fit into DPDK's memory.
    Memory {
        /// What they need in bytes.
        wanted_bytes: u64,
        /// What DPDK logged.
        detail: String,
    },
    /// The device refused.
    Device {
        /// Its name.
        name: String,
        /// What DPDK returned.
        error: io::Error,
        /// What DPDK logged.
        detail: String,
    },
}

impl Port {
    /// Opens a port by its name, one of [`Eal::ports`]: configures, allocates its pools, starts.
    ///
    /// # Errors
    /// See [`PortError`]. A memif client finds no server: a [`PortError::Device`].
    pub fn open(eal: &Eal, name: &str, config: &PortConfig) -> Result<Self, PortError> {
        config.check()?;
        let missing = || PortError::Missing { name: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let raw = RawConfig {
            queue_pairs: config.queue_pairs,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu,
        };
        let opened = Device::open(eal.up, &c_name, &raw, config.buffers, config.data_bytes());
        let (device, pairs) = opened.map_err(|error| fault(eal, name, config, error))?;
        let frame_bytes_max = usize::from(config.mtu + FRAME_OVERHEAD_BYTES);
        let seats =
            pairs.into_iter().map(|pair| QueueSeat::new(eal.up, pair, frame_bytes_max)).collect();
        let buffers = config.buffers * u32::from(config.queue_pairs);
        Ok(Self { device, seats, name: name.to_owned(), buffers, one_thread: PhantomData })
    }

    /// The seats of all queue pairs, in the order of their index; empty when they were taken before.
    pub fn take_queues(&mut self) -> Vec<QueueSeat> {
        core::mem::take(&mut self.seats)
    }

    /// Whether frames can go.
    ///
    /// # Errors
    /// The device does not say.
    pub fn link(&self) -> Result<Link, PortError> {
        let link = self.device.link().map_err(|error| self.silent(error))?;
        Ok(if link.up == 0 { Link::Down } else { Link::Up { mbits: link.mbits } })
    }

    /// Waits for the link, at most `within`; returns its state then. For the start only: it blocks the thread.
    ///
    /// # Errors
    /// The device does not say.
    pub fn wait_link(&self, within: Duration) -> Result<Link, PortError> {
        let start = Instant::now();
        loop {
            let link = self.link()?;
            if link != Link::Down || start.elapsed() >= within {
                return Ok(link);
            }
            thread::park_timeout(LINK_POLL);
        }
    }

    /// The device's Ethernet address.
    ///
    /// # Errors
    /// The device does not say.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        self.device.info().map(|info| info.mac).map_err(|error| self.silent(error))
    }

    /// The MTU in force, in bytes.
    ///
    /// # Errors
    /// The device does not say.
    pub fn mtu(&self) -> Result<u16, PortError> {
        self.device.info().map(|info| info.mtu).map_err(|error| self.silent(error))
    }

    /// What the device can do.
    ///
    /// # Errors
    /// The device does not say.
    pub fn capabilities(&self) -> Result<Capabilities, PortError> {
        let info = self.device.info().map_err(|error| self.silent(error))?;
        Ok(Capabilities {
            rss: info.rss_types & RSS_IP_TCP != 0,
            receive_checksums: info.rx_offloads & RX_CHECKSUMS == RX_CHECKSUMS,
            transmit_checksums: info.tx_offloads & TX_CHECKSUMS == TX_CHECKSUMS,
            queue_pairs_max: info.queue_pairs_max,
        })
    }

    /// The device's counters and the pools' gauges. Looks at every thread's cache, so not for every turn.
    ///
    /// # Errors
    /// The device does not say.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let raw = self.device.stats().map_err(|error| self.silent(error))?;
        Ok(PortStats {
            received: raw.received,
            received_bytes: raw.received_bytes,
            sent: raw.sent,
            sent_bytes: raw.sent_bytes,
            dropped_queue_full: raw.missed,
            dropped_no_buffer: raw.no_buffer,
            dropped_damaged: raw.receive_errors,
            send_failed: raw.send_errors,
            buffers_used: self.buffers.saturating_sub(self.device.buffers_available()),
            buffers: self.buffers,
        })
    }

    fn silent(&self, error: io::Error) -> PortError {
        PortError::Device { name: self.name.clone(), error, detail: take_log() }
    }
}

fn fault(eal: &Eal, name: &str, config: &PortConfig, error: DeviceError) -> PortError {
    let name = name.to_owned();
    match error {
        DeviceError::Missing => PortError::Missing { name },
        DeviceError::Taken => PortError::Taken { name },
        DeviceError::Queues { max } => PortError::Queues { name, max },
        DeviceError::Mtu { max } => PortError::Mtu { name, max },
        DeviceError::Pool(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            PortError::Memory { wanted_bytes: config.memory_bytes(eal.pages), detail: take_log() }
        }
        DeviceError::Pool(error) | DeviceError::Info(error) | DeviceError::Start(error) => {
            PortError::Device { name, error, detail: take_log() }
        }
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { what, value, min, max } => {
                write!(f, "a port takes {min} to {max} {what}, and {value} are configured")
            }
            Self::Missing { name } => {
                write!(f, "there is no port {name:?}; name it among the devices DPDK starts with")
            }
            Self::Taken { name } => write!(f, "the port {name:?} is open already"),
            Self::Queues { name, max } => write!(
                f,
                "the port {name:?} has {max} queue pairs, fewer than there are shards; start as many shards"
            ),
            Self::Mtu { name, max } => {
                write!(f, "the port {name:?} takes an MTU of {max} bytes at most")
            }
            Self::Memory { wanted_bytes, detail } => write!(
                f,
                "the port's pools need {} MiB, more than DPDK has left; give it more memory, or aim at fewer connections{}",
                wanted_bytes.div_ceil(1 << 20),
                Log(detail)
            ),
            Self::Device { name, error, detail } => {
                write!(f, "the port {name:?} does not work: {error}{}", Log(detail))
            }
        }
    }
}

impl core::error::Error for PortError {}

/// Connections of one shard that share a descriptor.
const CONNECTIONS_PER_DESCRIPTOR: u32 = 64;
/// Descriptors of a queue for few connections: a few hundred microseconds of 64-byte frames at 10 Gbit/s fit.
const DESCRIPTORS_DEFAULT_MIN: u16 = 1024;
/// Frames held outside the rings: staged and spare ones, two bursts, and one and a half caches.
const HELD_FRAMES: u32 = 1024;
const _: () =
    assert!(STAGED_FRAMES + SPARE_FRAMES + 2 * BURST_FRAMES + 384 <= HELD_FRAMES as usize);
/// Buffers of one queue pair: 4 GiB of small frames.
const BUFFERS_MAX: u32 = 2 << 20;
/// What a buffer is beside its data room: header of the object, mbuf and head room.
const BUFFER_OVERHEAD_BYTES: u64 = 64 + 128 + 128;
/// An ordinary page.
const PAGE_BYTES: u64 = 4096;
const _: () = assert!(2 * (BUFFER_BYTES_MIN as u64 + BUFFER_OVERHEAD_BYTES) > PAGE_BYTES);
/// What a pool is beside its buffers: the caches of 128 threads, its ring, and what a reservation rounds up to.
const POOL_OVERHEAD_BYTES: u64 = 2 << 20;
/// `RTE_ETH_RX_OFFLOAD_IPV4_CKSUM` and `RTE_ETH_RX_OFFLOAD_TCP_CKSUM`.
const RX_CHECKSUMS: u64 = 1 << 1 | 1 << 3;
/// `RTE_ETH_TX_OFFLOAD_IPV4_CKSUM` and `RTE_ETH_TX_OFFLOAD_TCP_CKSUM`.
const TX_CHECKSUMS: u64 = 1 << 1 | 1 << 3;
/// `RTE_ETH_RSS_NONFRAG_IPV4_TCP` and `RTE_ETH_RSS_NONFRAG_IPV6_TCP`.
const RSS_IP_TCP: u64 = 1 << 4 | 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_follow_the_connections_up_to_the_deepest_queues() {
        let cases = [(0, 1, 1024), (100_000, 1, 2048), (1_000_000, 4, 4096), (u32::MAX, 1, 4096)];
        for (connections, queue_pairs, descriptors) in cases {
            let config = PortConfig::for_connections(connections, queue_pairs);
            assert_eq!(config.rx_descriptors, descriptors, "{connections} connections");
            assert!(config.check().is_ok(), "{config:?}");
        }
    }

    #[test]
    fn a_buffer_takes_whole_ordinary_pages() {
        let config = PortConfig::for_connections(1_000_000, 2);
        let mib = |config: PortConfig, pages| config.memory_bytes(pages) >> 20;
        assert_eq!((mib(config, Pages::Huge), mib(config, Pages::Ordinary)), (77, 131));
        let jumbo = PortConfig { mtu: MTU_MAX, ..config };
        assert_eq!((mib(jumbo, Pages::Huge), mib(jumbo, Pages::Ordinary)), (295, 387));
    }

    #[test]
    fn configurations_out_of_range_are_refused() {
        let good = PortConfig::for_connections(1000, 1);
        let bad = [
            PortConfig { queue_pairs: 0, ..good },
            PortConfig { mtu: 67, ..good },
            PortConfig { mtu: 9001, ..good },
            PortConfig { rx_descriptors: 63, ..good },
            PortConfig { tx_descriptors: 4097, ..good },
            PortConfig { buffers: good.buffers_min() - 1, ..good },
        ];
        for config in bad {
            assert!(matches!(config.check(), Err(PortError::Range { .. })), "{config:?}");
        }
    }

    #[test]
    fn the_longest_frame_has_one_segment() {
        let config = PortConfig { mtu: MTU_MAX, ..PortConfig::for_connections(1, 1) };
        assert!(config.data_bytes() >= MTU_MAX + FRAME_OVERHEAD_BYTES);
        assert_eq!(PortConfig::for_connections(1, 1).data_bytes(), BUFFER_BYTES_MIN);
    }
}
