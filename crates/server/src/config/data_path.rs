//! `[gateway.netstack]`, `[gateway.dpdk]` and `[gateway.af_xdp]`: how clients' bytes come, when not through the kernel.
//!
//! [`Gateway::path`] gives what the chosen data path needs and nothing of the others.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::units::{Cidr, MacAddress, Period, Size};
use super::{Gateway, default};

/// The word of `data_path`: where clients' bytes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum PathName {
    /// Sockets of the kernel.
    #[default]
    Kernel,
    /// Frames that the kernel hands over before its own stack.
    AfXdp,
    /// Frames of a device that DPDK drives.
    Dpdk,
}

/// The chosen data path with its sections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DataPath<'a> {
    /// Sockets of the kernel.
    Kernel,
    /// Our TCP/IP stack on AF_XDP sockets.
    AfXdp {
        /// The stack.
        netstack: &'a Netstack,
        /// Where its frames come from.
        device: &'a AfXdp,
    },
    /// Our TCP/IP stack on a DPDK port.
    Dpdk {
        /// The stack.
        netstack: &'a Netstack,
        /// Where its frames come from.
        device: &'a Dpdk,
    },
}

/// `[gateway.netstack]`: the TCP/IP stack of the bypass paths.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Netstack {
    pub(crate) addresses: Spanned<Vec<Spanned<Cidr>>>,
    pub(crate) gateways: Vec<Spanned<IpAddr>>,
    pub(crate) mac: Option<Spanned<MacAddress>>,
    pub(crate) vlan: Option<Spanned<u16>>,
    pub(crate) mtu: Spanned<u16>,
    pub(crate) connections_target: Spanned<u32>,
    pub(crate) recv_window_bytes: Spanned<Size>,
    pub(crate) send_buffer_bytes: Spanned<Size>,
    pub(crate) pool_bytes: Option<Spanned<Size>>,
    pub(crate) syn_backlog_max: Spanned<u32>,
    pub(crate) time_wait: Spanned<Period>,
    pub(crate) time_wait_max: Option<Spanned<u32>>,
    pub(crate) keepalive_idle: Option<Spanned<Period>>,
    pub(crate) keepalive_interval: Spanned<Period>,
    pub(crate) keepalive_probes: Spanned<u8>,
    pub(crate) congestion: Congestion,
    pub(crate) steering: Spanned<Steering>,
}

/// How senders find their rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Congestion {
    #[default]
    Cubic,
    Newreno,
}

/// Who brings a connection's frames to its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Steering {
    /// The device where it can, else the shards.
    #[default]
    Auto,
    /// The device's hash over its queues (RSS).
    Device,
    /// The shard that received a frame passes it on.
    Software,
}

/// `[gateway.dpdk]`: the device that DPDK drives.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dpdk {
    pub(crate) device: Option<Spanned<String>>,
    pub(crate) pages: Spanned<PageKind>,
    pub(crate) memory_bytes: Option<Spanned<Size>>,
    pub(crate) file_prefix: Option<Spanned<String>>,
    pub(crate) descriptors: Option<Spanned<u16>>,
    pub(crate) busy_poll: Spanned<bool>,
    pub(crate) spin_turns: Spanned<u32>,
    pub(crate) pause_turns: Spanned<u32>,
    pub(crate) sleep_min: Spanned<Period>,
    pub(crate) sleep_max: Spanned<Period>,
}

/// What DPDK's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PageKind {
    /// Huge pages, reserved beforehand.
    #[default]
    Huge,
    /// Ordinary pages, for software devices.
    Ordinary,
}

/// `[gateway.af_xdp]`: the interface whose frames the kernel hands over.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AfXdp {
    pub(crate) interface: Option<Spanned<String>>,
    pub(crate) mode: Spanned<XdpMode>,
    pub(crate) zero_copy: Spanned<ZeroCopy>,
    pub(crate) frames: Spanned<u32>,
    pub(crate) busy_poll: Spanned<bool>,
    pub(crate) spin_turns: Spanned<u32>,
    pub(crate) pause_turns: Spanned<u32>,
}

/// Where the kernel runs the program that takes our frames out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum XdpMode {
    /// In the driver where it can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver: works with each, and copies.
    Generic,
}

/// Whether the device writes into our memory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ZeroCopy {
    /// Where the driver can.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always: a driver that cannot is an error at start.
    On,
}

impl Gateway {
    /// The data path that was chosen, with its sections.
    pub(crate) fn path(&self) -> DataPath<'_> {
        let netstack = self.netstack.get_ref();
        match self.data_path.get_ref() {
            PathName::Kernel => DataPath::Kernel,
            PathName::AfXdp => DataPath::AfXdp { netstack, device: self.af_xdp.get_ref() },
            PathName::Dpdk => DataPath::Dpdk { netstack, device: self.dpdk.get_ref() },
        }
    }
}

impl PathName {
    /// The word used in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::AfXdp => "af_xdp",
            Self::Dpdk => "dpdk",
        }
    }
}

impl DataPath<'_> {
    /// Its word in the configuration.
    pub(crate) const fn name(self) -> PathName {
        match self {
            Self::Kernel => PathName::Kernel,
            Self::AfXdp { .. } => PathName::AfXdp,
            Self::Dpdk { .. } => PathName::Dpdk,
        }
    }
}

impl Default for Netstack {
    fn default() -> Self {
        Self {
            addresses: default(Vec::new()),
            gateways: Vec::new(),
            mac: None,
            vlan: None,
            mtu: default(1500),
            connections_target: default(100_000),
            recv_window_bytes: default(Size(4 << 20)),
            send_buffer_bytes: default(Size(1 << 20)),
            pool_bytes: None,
            syn_backlog_max: default(4096),
            time_wait: default(Period::secs(60)),
            time_wait_max: None,
            keepalive_idle: None,
            keepalive_interval: default(Period::secs(15)),
            keepalive_probes: default(4),
            congestion: Congestion::default(),
            steering: default(Steering::default()),
        }
    }
}

impl Default for Dpdk {
    fn default() -> Self {
        Self {
            device: None,
            pages: default(PageKind::default()),
            memory_bytes: None,
            file_prefix: None,
            descriptors: None,
            busy_poll: default(false),
            spin_turns: default(SPIN_TURNS),
            pause_turns: default(PAUSE_TURNS),
            sleep_min: default(Period::micros(50)),
            sleep_max: default(Period::micros(1000)),
        }
    }
}

impl Default for AfXdp {
    fn default() -> Self {
        Self {
            interface: None,
            mode: default(XdpMode::default()),
            zero_copy: default(ZeroCopy::default()),
            frames: default(4096),
            busy_poll: default(false),
            spin_turns: default(SPIN_TURNS),
            pause_turns: default(PAUSE_TURNS),
        }
    }
}

/// Empty turns before a shard pauses between two, as in `tengate_io`.
const SPIN_TURNS: u32 = 1000;
/// Empty turns with a pause before it sleeps, as in `tengate_io`.
const PAUSE_TURNS: u32 = 4000;
