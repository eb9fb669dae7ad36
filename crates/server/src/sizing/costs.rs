//! What a client and a message cost on each data path: the figures that sizes and plans are computed from.
//!
//! Every figure says where it is from. New measurements change a line here and nothing else.

use crate::config::PathName;

/// How sure a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Measured, in docs/benchmarks.md unless the source says otherwise.
    Measured,
    /// Put together from measured parts, or from a first measurement.
    Estimated,
}

/// One figure of processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Clients of the shard, and the cost with as many: caches get colder. Ascending; the last holds for all beyond.
    points: &'static [(u32, f64)],
    pub(crate) basis: Basis,
    /// Where it is from.
    pub(crate) source: &'static str,
}

/// One figure of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    pub(crate) bytes: u64,
    pub(crate) basis: Basis,
    /// Where it is from.
    pub(crate) source: &'static str,
}

/// What a data path costs. Processor time is the gateway's alone, in nanoseconds, for messages of [`MESSAGE_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathCosts {
    /// A message of a client on its way to a worker, and the answer to that client.
    pub(crate) echo_nanos: Cost,
    /// Each further client that gets the answer.
    pub(crate) delivery_nanos: Cost,
    /// Connect, websocket handshake, both events, and the close.
    pub(crate) handshake_nanos: Cost,
    /// Each byte of a message beyond [`MESSAGE_BYTES`], received or sent.
    pub(crate) byte_nanos: Cost,
    /// Memory of the process for an idle client with a uid.
    pub(crate) client_bytes: Bytes,
    /// Memory of the kernel for it.
    pub(crate) kernel_bytes: Bytes,
}

impl Cost {
    const fn measured(points: &'static [(u32, f64)], source: &'static str) -> Self {
        Self { points, basis: Basis::Measured, source }
    }

    const fn estimated(points: &'static [(u32, f64)], source: &'static str) -> Self {
        Self { points, basis: Basis::Estimated, source }
    }

    /// The figure for a shard with as many clients: that of the next greater number measured.
    pub(crate) fn at(&self, clients: u32) -> f64 {
        let fits = self.points.iter().find(|(measured_with, _)| clients <= *measured_with);
        fits.or_else(|| self.points.last()).map_or(0.0, |(_, cost)| *cost)
    }
}

impl PathCosts {
    /// The figures of a data path.
    pub(crate) const fn of(path: PathName) -> &'static Self {
        match path {
            PathName::Kernel => &KERNEL,
            PathName::AfXdp => &AF_XDP,
            PathName::Dpdk => &DPDK,
        }
    }

    /// The figures of processor time, with what they are of.
    pub(crate) const fn times(&self) -> [(&'static str, &Cost); 4] {
        [
            ("a message and its answer", &self.echo_nanos),
            ("each further delivery", &self.delivery_nanos),
            ("a handshake", &self.handshake_nanos),
            ("a further byte", &self.byte_nanos),
        ]
    }
}

const KERNEL: PathCosts = PathCosts {
    echo_nanos: Cost::measured(
        &[(1000, 3_980.0), (10_000, 5_910.0)],
        "benchmarks.md, beside the floor",
    ),
    delivery_nanos: Cost::measured(
        &[(1000, 2_490.0), (10_000, 4_110.0)],
        "benchmarks.md, beside the floor",
    ),
    handshake_nanos: Cost::measured(&[(u32::MAX, 16_900.0)], "benchmarks.md, handshakes, clean"),
    byte_nanos: Cost::estimated(&[(u32::MAX, 0.5)], "two copies and the mask"),
    client_bytes: Bytes {
        bytes: 187,
        basis: Basis::Measured,
        source: "benchmarks.md, idle clients",
    },
    // The kernel's memory for both ends was measured, and both ends are alike.
    kernel_bytes: Bytes {
        bytes: 5_100,
        basis: Basis::Measured,
        source: "benchmarks.md, idle clients, one end of two",
    },
};

const DPDK: PathCosts = PathCosts {
    echo_nanos: Cost::measured(
        &[(1000, 730.0), (10_000, 1_330.0), (100_000, 1_380.0)],
        "benchmarks.md, past the kernel",
    ),
    delivery_nanos: Cost::measured(&[(u32::MAX, 590.0)], "benchmarks.md, past the kernel"),
    handshake_nanos: Cost::measured(&[(u32::MAX, 2_980.0)], "benchmarks.md, past the kernel"),
    byte_nanos: Cost::estimated(&[(u32::MAX, 1.0)], "three copies, the mask and the checksum"),
    client_bytes: Bytes {
        bytes: 382,
        basis: Basis::Measured,
        source: "benchmarks.md, a million held past the kernel",
    },
    kernel_bytes: Bytes {
        bytes: 0,
        basis: Basis::Measured,
        source: "the kernel does not know the client",
    },
};

const AF_XDP: PathCosts = PathCosts {
    // A frame costs about 1.1 µs more than over memif, where the driver copies.
    echo_nanos: Cost::estimated(
        &[(1000, 3_030.0), (10_000, 3_630.0), (100_000, 3_680.0)],
        "dpdk, and 2.3 µs for two frames",
    ),
    delivery_nanos: Cost::estimated(&[(u32::MAX, 1_700.0)], "dpdk, and 1.1 µs for a frame"),
    handshake_nanos: Cost::estimated(&[(u32::MAX, 10_000.0)], "dpdk, and 7 µs for six frames"),
    ..DPDK
};

/// Bytes of the messages that processor time was measured with.
pub(crate) const MESSAGE_BYTES: u32 = 64;
/// Share of a core that messages may take: beyond it queues, and with them delays, grow without bound at every burst.
pub(crate) const CORE_SHARE_MAX: f64 = 0.7;
/// Bytes of a connection in TIME-WAIT: 72, its entry in a table and its place in a queue (`netstack/src/tcp/time_wait.rs`).
pub(crate) const TIME_WAIT_BYTES: u64 = 112;
/// Memory of the stack's chunks for each client, in bytes: a small chunk for one message each way
/// (`netstack/src/limits.rs`).
pub(crate) const POOL_BYTES_A_CLIENT: u64 = 512;
/// Least memory of a shard's chunks in bytes, so that a few clients can have whole windows on their way.
pub(crate) const POOL_BYTES_MIN: u64 = 64 << 20;
/// Memory of a shard for buffers that wait to be used again, in bytes (`POOL_BYTES_MAX` in `io/src/limits.rs`).
pub(crate) const SHARD_BUFFERS_BYTES: u64 = 16 << 20;
/// Bytes that wait in a shard for another one (`MESH_STAGED_BYTES_MAX` in `io/src/limits.rs`).
pub(crate) const MESH_BYTES: u64 = 4 << 20;
/// The program itself, its control thread and what the C library keeps, in bytes.
pub(crate) const PROGRAM_BYTES: u64 = 16 << 20;
/// DPDK beside its pools, in bytes (docs/data-paths.md, memory).
pub(crate) const DPDK_BYTES: u64 = 4 << 20;
/// What Ethernet, IPv4 and TCP with timestamps add to a segment on the wire, preamble and gap included.
pub(crate) const SEGMENT_OVERHEAD_BYTES: u32 = 8 + 14 + 20 + 32 + 4 + 12;
/// Header of a client's websocket frame up to 125 bytes long.
pub(crate) const MASKED_HEADER_BYTES: u32 = 6;
/// The same of a server's.
pub(crate) const HEADER_BYTES: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_that_of_the_next_greater_number_of_clients() {
        let echo = PathCosts::of(PathName::Kernel).echo_nanos;
        let at = |clients| format!("{:.0}", echo.at(clients));
        assert_eq!([at(1), at(1000), at(1001), at(1_000_000)], ["3980", "3980", "5910", "5910"]);
    }

    #[test]
    fn figures_are_in_order_and_have_a_source() {
        for path in [PathName::Kernel, PathName::AfXdp, PathName::Dpdk] {
            for (name, cost) in PathCosts::of(path).times() {
                let sorted = cost.points.is_sorted_by_key(|(clients, _)| *clients);
                assert!(sorted && !cost.points.is_empty() && !cost.source.is_empty(), "{name}");
            }
        }
    }
}
