//! `tengate plan`: the memory, huge pages and cores that clients at given rates take, and which of them runs out first.

mod table;

use serde::Serialize;

use crate::config::{DataPath, Gateway, PathName};
use crate::machine::Machine;
use crate::sizing::{
    Basis, CORE_SHARE_MAX, HEADER_BYTES, HUGE_PAGE_BYTES, MASKED_HEADER_BYTES, MESSAGE_BYTES,
    PathCosts, SEGMENT_OVERHEAD_BYTES, Sizing,
};

pub(crate) use table::table;

/// What clients do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    /// Clients connected at once.
    pub(crate) clients: u32,
    /// Messages each sends a second.
    pub(crate) message_rate: f64,
    /// Bytes of a message and of its answer.
    pub(crate) bytes: u32,
    /// Clients that get each answer: 1 for an echo.
    pub(crate) fan_out: f64,
    /// Seconds after which a client leaves and another one comes.
    pub(crate) session_secs: Option<f64>,
}

/// What there is of each resource. `None`: it is not known, or has no limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Supply {
    /// Memory that can be had, free huge pages included.
    pub(crate) memory_bytes: Option<u64>,
    /// Huge pages that are free; `None` when they are yet to be reserved.
    pub(crate) huge_pages_free: Option<u64>,
    pub(crate) cores: u16,
    pub(crate) descriptors: Option<u64>,
    /// Gbit/s of the link, each way.
    pub(crate) link_gbits: Option<f64>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// `kernel`, `af_xdp` or `dpdk`.
    pub(crate) data_path: &'static str,
    pub(crate) load: Load,
    pub(crate) shards: u16,
    pub(crate) supply: Supply,
    /// Each resource, in the order in which they run out; those without a limit last.
    pub(crate) resources: Vec<Resource>,
    /// Parts of the memory.
    pub(crate) memory: Vec<Part>,
    /// Bytes for each client, everything included.
    pub(crate) bytes_a_client: u64,
    /// Huge pages of 2 MiB that must be reserved.
    pub(crate) huge_pages: u64,
    /// Parts of the processor time, in cores that are wholly busy.
    pub(crate) busy: Vec<Share>,
    /// Gbit/s from clients and to them.
    pub(crate) gbits: [f64; 2],
    /// Whether all of it is there.
    pub(crate) fits: bool,
    /// Figures it is computed from.
    pub(crate) figures: Vec<Figure>,
}

/// Something that can run out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Resource {
    pub(crate) name: Kind,
    pub(crate) needed: f64,
    /// `None`: without limit, or not known.
    pub(crate) there_is: Option<f64>,
    /// Clients it is enough for, at the same rates.
    pub(crate) clients_max: Option<u32>,
}

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    MemoryBytes,
    Cores,
    Descriptors,
    ClientNumbers,
    LinkGbits,
}

/// A part of the memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
}

/// A part of the processor time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Share {
    pub(crate) name: &'static str,
    pub(crate) cores: f64,
}

/// A figure the plan is computed from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    /// `ns` or `B`.
    pub(crate) unit: &'static str,
    pub(crate) measured: bool,
    pub(crate) source: &'static str,
}

impl Supply {
    /// What this machine has.
    pub(crate) fn of(machine: &Machine, gateway: &Gateway) -> Self {
        let huge = machine.huge_pages_free * machine.huge_page_bytes;
        let link = match gateway.path() {
            DataPath::AfXdp { device, .. } => device
                .interface
                .as_ref()
                .and_then(|name| machine.interface(name.get_ref())?.mbits)
                .map(|mbits| f64::from(mbits) / 1000.0),
            DataPath::Kernel | DataPath::Dpdk { .. } => None,
        };
        Self {
            memory_bytes: machine.memory_bytes.map(|bytes| bytes + huge),
            huge_pages_free: Some(huge / HUGE_PAGE_BYTES),
            cores: u16::try_from(machine.cores.len()).unwrap_or(u16::MAX),
            descriptors: machine.descriptors_max,
            link_gbits: link,
        }
    }
}

/// Computes what the load takes with this configuration.
pub(crate) fn plan(gateway: &Gateway, shards: u16, load: Load, supply: Supply) -> Plan {
    let demand = Demand { gateway, shards, load };
    let at = |clients| demand.at(clients);
    let now = at(load.clients);
    let have = demand.have(&supply);
    let mut resources: Vec<Resource> = have
        .into_iter()
        .map(|(name, there_is)| Resource {
            name,
            needed: now.of(name),
            there_is,
            clients_max: there_is.map(|there_is| most(|clients| at(clients).of(name) <= there_is)),
        })
        .collect();
    resources.sort_by_key(|resource| resource.clients_max.map_or(u64::MAX, u64::from));
    let memory = now.sizing.memory;
    Plan {
        data_path: now.sizing.path.name(),
        load,
        shards,
        supply,
        fits: resources
            .iter()
            .all(|resource| resource.there_is.is_none_or(|there_is| resource.needed <= there_is)),
        resources,
        memory: memory.parts().map(|(name, bytes)| Part { name, bytes }).collect(),
        bytes_a_client: memory.total().checked_div(load.clients.into()).unwrap_or(0),
        huge_pages: memory.huge.div_ceil(HUGE_PAGE_BYTES),
        busy: now.busy.into_iter().map(|(name, cores)| Share { name, cores }).collect(),
        gbits: now.gbits,
        figures: figures(now.sizing.path, load.clients / u32::from(shards)),
    }
}

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug)]
struct Demand<'a> {
    gateway: &'a Gateway,
    shards: u16,
    load: Load,
}

/// What a number of clients takes.
#[derive(Clone, Copy, Debug)]
struct Need {
    sizing: Sizing,
    /// Wholly busy cores by what they do.
    busy: [(&'static str, f64); 4],
    gbits: [f64; 2],
}

impl Demand<'_> {
    /// The same with another number of clients.
    fn at(&self, clients: u32) -> Need {
        let Load { message_rate, bytes, fan_out, session_secs, .. } = self.load;
        let sizing = Sizing::new(self.gateway, clients, self.shards);
        let costs = PathCosts::of(sizing.path);
        let each = clients.div_ceil(self.shards.into());
        let messages = f64::from(clients) * message_rate;
        let further = messages * (fan_out - 1.0).max(0.0);
        // A message that reaches nobody is a received one alone, about half of an echo.
        let echoes = messages * if fan_out < 1.0 { (1.0 + fan_out) / 2.0 } else { 1.0 };
        let long = f64::from(bytes.saturating_sub(MESSAGE_BYTES));
        let handshakes = session_secs.map_or(0.0, |secs| f64::from(clients) / secs);
        let cores = |rate: f64, nanos: f64| rate * nanos / 1e9;
        Need {
            sizing,
            busy: [
                ("messages and answers", cores(echoes, costs.echo_nanos.at(each))),
                ("further deliveries", cores(further, costs.delivery_nanos.at(each))),
                (
                    "length of messages",
                    cores(messages * (1.0 + fan_out) * long, costs.byte_nanos.at(each)),
                ),
                ("comings and goings", cores(handshakes, costs.handshake_nanos.at(each))),
            ],
            gbits: [
                gbits(messages, bytes + MASKED_HEADER_BYTES),
                gbits(messages * fan_out, bytes + HEADER_BYTES),
            ],
        }
    }

    /// What there is of each resource.
    fn have(&self, supply: &Supply) -> [(Kind, Option<f64>); 5] {
        let number_bits = u32::from(*self.gateway.number_bits.get_ref());
        let numbers = f64::from((1u32 << number_bits.min(24)) - 1) * f64::from(self.shards);
        let descriptors = match self.gateway.path() {
            DataPath::Kernel => supply.descriptors.and_then(|limit| u32::try_from(limit).ok()),
            DataPath::AfXdp { .. } | DataPath::Dpdk { .. } => None,
        };
        [
            (Kind::MemoryBytes, supply.memory_bytes.map(float)),
            (Kind::Cores, Some(f64::from(supply.cores.min(self.shards)))),
            (Kind::Descriptors, descriptors.map(f64::from)),
            (Kind::ClientNumbers, Some(numbers)),
            (Kind::LinkGbits, supply.link_gbits),
        ]
    }
}

impl Need {
    /// How much of a resource.
    fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::MemoryBytes => float(self.sizing.memory.total()),
            Kind::Cores => self.busy.iter().map(|(_, cores)| cores).sum::<f64>() / CORE_SHARE_MAX,
            Kind::Descriptors if self.sizing.path != PathName::Kernel => 0.0,
            Kind::Descriptors | Kind::ClientNumbers => f64::from(self.sizing.clients),
            Kind::LinkGbits => self.gbits[0].max(self.gbits[1]),
        }
    }
}

/// The greatest number of clients for which it holds, given that it holds for none beyond.
fn most(fits: impl Fn(u32) -> bool) -> u32 {
    let (mut good, mut bad) = (0, CLIENTS_MAX + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

/// More clients than any process can number.
const CLIENTS_MAX: u32 = 1 << 31;

/// Gbit/s of as many messages a second, in segments of their own.
fn gbits(messages: f64, bytes: u32) -> f64 {
    let segments = bytes.div_ceil(SEGMENT_BYTES);
    messages * f64::from(bytes + segments * SEGMENT_OVERHEAD_BYTES) * 8.0 / 1e9
}

/// Payload of a segment on a link of 1500 bytes with timestamps.
const SEGMENT_BYTES: u32 = 1448;

/// The figures of a path, for a shard with as many clients.
fn figures(path: PathName, clients: u32) -> Vec<Figure> {
    let costs = PathCosts::of(path);
    let mut figures: Vec<Figure> = costs
        .times()
        .into_iter()
        .map(|(name, cost)| Figure {
            name,
            value: cost.at(clients),
            unit: "ns",
            measured: cost.basis == Basis::Measured,
            source: cost.source,
        })
        .collect();
    let memory = [("a client", costs.client_bytes), ("a client in the kernel", costs.kernel_bytes)];
    figures.extend(memory.into_iter().filter(|(_, cost)| cost.bytes > 0).map(|(name, cost)| {
        Figure {
            name,
            value: float(cost.bytes),
            unit: "B",
            measured: cost.basis == Basis::Measured,
            source: cost.source,
        }
    }));
    figures
}

/// Bytes as a quantity: exact to 2⁵³, beyond which no machine has any.
#[expect(clippy::cast_precision_loss, reason = "memory is below 2^53 bytes")]
const fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::gateway_of;

    const LOAD: Load =
        Load { clients: 1_000_000, message_rate: 0.1, bytes: 64, fan_out: 1.0, session_secs: None };
    const SUPPLY: Supply = Supply {
        memory_bytes: Some(24 << 30),
        huge_pages_free: Some(0),
        cores: 2,
        descriptors: Some(20_000),
        link_gbits: None,
    };

    fn on(path: &str) -> Gateway {
        gateway_of(&format!("[gateway]\ndata_path = \"{path}\"\n"))
    }

    fn resource(plan: &Plan, kind: Kind) -> &Resource {
        plan.resources.iter().find(|resource| resource.name == kind).unwrap()
    }

    #[test]
    fn what_runs_out_first_depends_on_what_clients_say() {
        let first = |rate| {
            let load = Load { message_rate: rate, ..LOAD };
            plan(&on("dpdk"), 2, load, SUPPLY).resources[0].name
        };
        assert_eq!(first(0.01), Kind::ClientNumbers);
        assert_eq!(first(10.0), Kind::Cores);
        let wide = gateway_of("[gateway]\ndata_path = \"dpdk\"\nnumber_bits = 24\n");
        let quiet = Load { message_rate: 0.001, ..LOAD };
        assert_eq!(plan(&wide, 2, quiet, SUPPLY).resources[0].name, Kind::MemoryBytes);
    }

    #[test]
    fn the_kernel_path_runs_out_of_descriptors_and_the_others_need_none() {
        let kernel = plan(&on("kernel"), 2, LOAD, SUPPLY);
        assert_eq!(kernel.resources[0].name, Kind::Descriptors);
        assert_eq!((kernel.resources[0].clients_max, kernel.fits), (Some(20_000), false));
        let dpdk = plan(&on("dpdk"), 2, LOAD, SUPPLY);
        assert_eq!(resource(&dpdk, Kind::Descriptors).clients_max, None);
        assert!(dpdk.fits && dpdk.huge_pages > 0 && kernel.huge_pages == 0);
    }

    #[test]
    fn cores_follow_messages_deliveries_length_and_handshakes() {
        let cores = |load| resource(&plan(&on("dpdk"), 2, load, SUPPLY), Kind::Cores).needed;
        let figure = |load| format!("{:.3}", cores(load) * CORE_SHARE_MAX);
        assert_eq!(figure(LOAD), "0.138");
        assert_eq!(figure(Load { fan_out: 11.0, ..LOAD }), "0.728");
        assert_eq!(figure(Load { bytes: 1064, ..LOAD }), "0.338");
        assert_eq!(figure(Load { session_secs: Some(100.0), ..LOAD }), "0.168");
        assert_eq!(figure(Load { message_rate: 0.0, ..LOAD }), "0.000");
    }

    #[test]
    fn the_greatest_number_that_fits_is_found() {
        for limit in [0, 1, 20_000, CLIENTS_MAX] {
            assert_eq!(most(|clients| clients <= limit), limit);
        }
    }

    #[test]
    fn a_link_carries_headers_too() {
        let [received, sent] = plan(&on("dpdk"), 2, LOAD, SUPPLY).gbits;
        assert_eq!(format!("{received:.3} {sent:.3}"), "0.128 0.125");
    }

    #[test]
    fn the_page_says_what_is_missing_and_what_to_do() {
        let page = table(&plan(&on("dpdk"), 1, Load { message_rate: 10.0, ..LOAD }, SUPPLY));
        for part in [
            "1 000 000 clients on dpdk, 1 shard; each sends 10 messages of 64 B a second",
            "What runs out first: cores, beyond 50 724 clients.",
            "Not enough cores: take 20 cores and as many shards, or more machines.",
            "Reserve 22 huge pages of 2 MiB: sysctl vm.nr_hugepages=22",
            "a message and its answer           1 380 ns  measured: benchmarks.md, past the kernel",
            "It does not fit.",
        ] {
            assert!(page.contains(part), "{part}\nis not in\n{page}");
        }
        assert!(page.lines().all(|line| line.len() <= 119), "{page}");
    }
}
