//! How large everything is for a number of clients: what each shard may hold, and what memory that takes.
//!
//! Pools are made as large as this says at start, and `tengate check` and `tengate plan` say the same beforehand.

mod costs;

use core::fmt;

use crate::config::{AfXdp, DataPath, Dpdk, Gateway, Netstack, PageKind, PathName};

pub(crate) use costs::{
    Basis, CORE_SHARE_MAX, HEADER_BYTES, MASKED_HEADER_BYTES, MESSAGE_BYTES, PathCosts,
    SEGMENT_OVERHEAD_BYTES,
};

/// The sizes of a gateway process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizing {
    pub(crate) path: PathName,
    /// Clients of the process.
    pub(crate) clients: u32,
    /// At least 1.
    pub(crate) shards: u16,
    /// Clients of one shard at most: its part of them, and room for an uneven spread.
    pub(crate) connections_max: u32,
    /// What the bypass paths have beside.
    pub(crate) bypass: Option<Bypass>,
    /// What it all takes.
    pub(crate) memory: Memory,
}

/// Sizes of the TCP/IP stack and the frames below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bypass {
    /// Bytes all connections of one shard may have queued, unacknowledged, out of order or unread.
    pub(crate) pool_bytes: u64,
    /// Connections of one shard that are remembered after their end.
    pub(crate) time_wait_max: u32,
    /// Connections of one shard that are being opened.
    pub(crate) syn_backlog_max: u32,
    /// Descriptors of each receive and transmit queue.
    pub(crate) descriptors: u16,
    /// Frames of each queue pair's pool.
    pub(crate) frames: u32,
    /// What DPDK takes at start, or the memory of all AF_XDP queues; in bytes.
    pub(crate) device_bytes: u64,
    /// What those frames live in.
    pub(crate) pages: PageKind,
}

/// Memory of the process when everything that has a limit has reached it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Idle clients with a uid each: connection, session, tables.
    pub(crate) clients: u64,
    /// The kernel's sockets for them.
    pub(crate) sockets: u64,
    /// The stack's chunks.
    pub(crate) pools: u64,
    /// Connections in TIME-WAIT.
    pub(crate) time_wait: u64,
    /// Frames between the device and the shards, in ordinary pages.
    pub(crate) frames: u64,
    /// The same in huge pages.
    pub(crate) huge: u64,
    /// Buffers and waiting events of shards, and the program.
    pub(crate) program: u64,
}

impl Sizing {
    /// The sizes for as many clients on as many shards.
    pub(crate) fn new(gateway: &Gateway, clients: u32, shards: u16) -> Self {
        let shards = shards.max(1);
        let connections_max = share_max(clients, shards, *gateway.number_bits.get_ref());
        let bypass = match gateway.path() {
            DataPath::Kernel => None,
            DataPath::AfXdp { netstack, device } => {
                let mtu = *netstack.mtu.get_ref();
                Some(stack(netstack, clients, shards, af_xdp_frames(device, mtu, shards)))
            }
            DataPath::Dpdk { netstack, device } => {
                let mtu = *netstack.mtu.get_ref();
                Some(stack(netstack, clients, shards, dpdk_frames(device, mtu, clients, shards)))
            }
        };
        let path = gateway.path().name();
        let memory = memory(gateway, clients, shards, bypass.as_ref());
        Self { path, clients, shards, connections_max, bypass, memory }
    }

    /// The sizes for the clients a configuration aims at: `connections_target` past the kernel, `max_connections` with it.
    /// `None` where nothing is said.
    pub(crate) fn of(gateway: &Gateway, shards: u16) -> Option<Self> {
        let clients = match gateway.path() {
            DataPath::Kernel => gateway.max_connections.as_ref().map(|limit| *limit.get_ref())?,
            DataPath::AfXdp { netstack, .. } | DataPath::Dpdk { netstack, .. } => {
                *netstack.connections_target.get_ref()
            }
        };
        Some(Self::new(gateway, clients, shards))
    }
}

impl Memory {
    /// All of it, huge pages included.
    pub(crate) const fn total(&self) -> u64 {
        self.ordinary() + self.huge
    }

    /// All that is in ordinary pages, the kernel's part included.
    pub(crate) const fn ordinary(&self) -> u64 {
        self.clients + self.sockets + self.pools + self.time_wait + self.frames + self.program
    }

    /// Each part that is not empty, with its name.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let parts = [
            ("clients", self.clients),
            ("kernel sockets", self.sockets),
            ("TCP pools", self.pools),
            ("TIME-WAIT", self.time_wait),
            ("frames", self.frames),
            ("frames in huge pages", self.huge),
            ("shards and program", self.program),
        ];
        parts.into_iter().filter(|(_, bytes)| *bytes > 0)
    }
}

impl fmt::Display for Sizing {
    /// `sized for 1 000 000 clients on 2 shards: 1 043 MiB (clients 353, TCP pools 489, …)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, shards) = (grouped(self.clients), self.shards);
        let plural = if shards == 1 { "" } else { "s" };
        let total = grouped(mib(self.memory.total()));
        write!(f, "sized for {clients} clients on {shards} shard{plural}: {total} MiB (")?;
        for (index, (name, bytes)) in self.memory.parts().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", grouped(mib(bytes)))?;
        }
        f.write_str(")")
    }
}

/// A number with a space between its thousands.
pub(crate) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Whole MiB, rounded up.
pub(crate) const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Clients of one shard at most. A hash spreads them, so that a shard has its part give or take a few standard deviations;
/// six are exceeded once in a thousand million times.
fn share_max(clients: u32, shards: u16, number_bits: u8) -> u32 {
    let numbers = 1u32.checked_shl(number_bits.into()).map_or(u32::MAX, |numbers| numbers - 1);
    if shards == 1 {
        return clients.min(numbers);
    }
    let share = clients.div_ceil(shards.into());
    share.saturating_add(6 * share.isqrt()).min(clients).min(numbers)
}

/// What the device below the stack has.
#[derive(Clone, Copy, Debug)]
struct Frames {
    descriptors: u16,
    frames: u32,
    bytes: u64,
    pages: PageKind,
}

fn stack(netstack: &Netstack, clients: u32, shards: u16, device: Frames) -> Bypass {
    let all_shards = u64::from(shards);
    let pool_bytes = match &netstack.pool_bytes {
        Some(pool) => pool.get_ref().0 / all_shards,
        None => (u64::from(clients) * costs::POOL_BYTES_A_CLIENT / all_shards)
            .max(costs::POOL_BYTES_MIN),
    };
    let time_wait = netstack.time_wait_max.as_ref().map_or(clients / 4, |max| *max.get_ref());
    Bypass {
        pool_bytes,
        time_wait_max: time_wait.div_ceil(shards.into()).max(1),
        syn_backlog_max: *netstack.syn_backlog_max.get_ref(),
        descriptors: device.descriptors,
        frames: device.frames,
        device_bytes: device.bytes,
        pages: device.pages,
    }
}

fn memory(gateway: &Gateway, clients: u32, shards: u16, bypass: Option<&Bypass>) -> Memory {
    let path = PathCosts::of(gateway.path().name());
    let all_shards = u64::from(shards);
    let buffers = costs::SHARD_BUFFERS_BYTES + gateway.inner.no_worker_bytes_max.0;
    let mesh = (all_shards - 1) * costs::MESH_BYTES;
    let mut memory = Memory {
        clients: u64::from(clients) * path.client_bytes.bytes,
        sockets: u64::from(clients) * path.kernel_bytes.bytes,
        program: costs::PROGRAM_BYTES + all_shards * (buffers + mesh),
        ..Memory::default()
    };
    if let Some(bypass) = bypass {
        memory.pools = bypass.pool_bytes * all_shards;
        memory.time_wait = u64::from(bypass.time_wait_max) * all_shards * costs::TIME_WAIT_BYTES;
        match bypass.pages {
            PageKind::Huge => memory.huge = bypass.device_bytes,
            PageKind::Ordinary => memory.frames = bypass.device_bytes,
        }
    }
    memory
}

/// Half of the frames of an AF_XDP queue for each way, in the smaller of two sizes that fits behind the head room.
fn af_xdp_frames(device: &AfXdp, mtu: u16, shards: u16) -> Frames {
    let frames = *device.frames.get_ref();
    let each = if mtu + 18 + 256 <= 2048 { 2048 } else { PAGE_BYTES };
    Frames {
        descriptors: u16::try_from(frames / 2).unwrap_or(u16::MAX),
        frames,
        bytes: u64::from(frames) * each * u64::from(shards),
        pages: PageKind::Ordinary,
    }
}

/// As `tengate_io::dpdk::PortConfig` sizes them, which programs built without DPDK do not have; a test compares.
fn dpdk_frames(device: &Dpdk, mtu: u16, clients: u32, shards: u16) -> Frames {
    let pages = *device.pages.get_ref();
    let by_clients = (clients / u32::from(shards) / 64).next_power_of_two().clamp(1024, 4096);
    let descriptors = device.descriptors.as_ref().map_or_else(
        || u16::try_from(by_clients).unwrap_or(u16::MAX),
        |descriptors| *descriptors.get_ref(),
    );
    let frames = (2 * u32::from(descriptors) + 1024 + 1).next_power_of_two() - 1;
    let data = u64::from(mtu + 22).max(2048) + 64 + 128 + 128;
    let each = match pages {
        PageKind::Huge => data,
        PageKind::Ordinary => data.next_multiple_of(PAGE_BYTES),
    };
    let pools = (u64::from(frames) * each + (2 << 20)) * u64::from(shards);
    let bytes = device.memory_bytes.as_ref().map_or_else(
        || (pools + costs::DPDK_BYTES).next_multiple_of(HUGE_PAGE_BYTES),
        |memory| memory.get_ref().0,
    );
    Frames { descriptors, frames, bytes, pages }
}

/// An ordinary page.
const PAGE_BYTES: u64 = 4096;
/// A huge page of the usual size.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::gateway_of;

    fn sizing(text: &str, shards: u16) -> Sizing {
        Sizing::of(&gateway_of(text), shards).unwrap()
    }

    #[test]
    fn pools_follow_the_target_and_are_divided_among_the_shards() {
        let text =
            "[gateway]\ndata_path = \"dpdk\"\n[gateway.netstack]\nconnections_target = 1000000\n";
        let sizing = sizing(text, 2);
        let bypass = sizing.bypass.unwrap();
        assert_eq!(sizing.connections_max, 500_000 + 6 * 707);
        assert_eq!((bypass.pool_bytes, bypass.time_wait_max), (256_000_000, 125_000));
        assert_eq!((bypass.descriptors, bypass.frames), (4096, 16_383));
        assert_eq!(sizing.memory.clients, 382_000_000);
        assert_eq!(
            sizing.to_string(),
            "sized for 1 000 000 clients on 2 shards: 1 050 MiB (clients 365, TCP pools 489, TIME-WAIT 27, frames in huge pages 82, shards and program 88)"
        );
    }

    #[test]
    fn what_is_configured_goes_before_what_is_computed() {
        let text = "[gateway]\ndata_path = \"dpdk\"\n[gateway.netstack]\npool_bytes = \"1GiB\"\ntime_wait_max = 10\n[gateway.dpdk]\ndescriptors = 512\nmemory_bytes = \"64MiB\"\npages = \"ordinary\"\n";
        let sizing = sizing(text, 4);
        let bypass = sizing.bypass.unwrap();
        assert_eq!((bypass.pool_bytes, bypass.time_wait_max), (256 << 20, 3));
        assert_eq!((bypass.descriptors, bypass.frames), (512, 4095));
        assert_eq!((sizing.memory.frames, sizing.memory.huge), (64 << 20, 0));
    }

    #[test]
    fn a_shard_never_gets_more_clients_than_it_has_numbers_for() {
        assert_eq!(share_max(100, 1, 22), 100);
        assert_eq!(share_max(u32::MAX, 1, 22), (1 << 22) - 1);
        assert_eq!(share_max(100, 2, 22), 50 + 6 * 7);
        assert_eq!(share_max(3, 2, 22), 3);
    }

    #[test]
    fn the_kernel_path_is_sized_when_a_limit_is_given() {
        assert_eq!(Sizing::of(&gateway_of(""), 2), None);
        let sizing = sizing("[gateway]\nmax_connections = 10000\n", 1);
        assert_eq!((sizing.memory.clients, sizing.memory.sockets), (1_870_000, 51_000_000));
        assert_eq!(sizing.bypass, None);
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn frames_are_sized_as_the_port_sizes_them() {
        use tengate_io::dpdk::{Pages, PortConfig};

        let mut device = Dpdk::default();
        for (kind, pages) in [(PageKind::Huge, Pages::Huge), (PageKind::Ordinary, Pages::Ordinary)]
        {
            device.pages = toml::Spanned::new(0..0, kind);
            for (clients, shards) in [(1000, 1), (100_000, 1), (1_000_000, 4), (10_000_000, 2)] {
                let port = PortConfig::for_connections(clients, shards);
                let frames = dpdk_frames(&device, 1500, clients, shards);
                assert_eq!(
                    (frames.descriptors, frames.frames),
                    (port.rx_descriptors, port.buffers)
                );
                let beside = frames.bytes - port.memory_bytes(pages);
                assert!((costs::DPDK_BYTES..costs::DPDK_BYTES + HUGE_PAGE_BYTES).contains(&beside));
            }
        }
    }
}
