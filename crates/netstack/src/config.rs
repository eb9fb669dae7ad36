//! What a stack is given when it starts.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::wire::ethernet::MacAddr;

/// Everything a [`Stack`](crate::Stack) needs to know. [`Config::new`] fills in what fits a gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// The hardware address frames are sent from and accepted for.
    pub mac: MacAddr,
    /// The VLAN frames are tagged with; frames of another, or untagged ones, are dropped. `None`: untagged only.
    pub vlan: Option<u16>,
    /// The stack's own addresses, at least one and at most [`ADDRESSES_MAX`](crate::limits::ADDRESSES_MAX).
    pub addresses: Vec<Address>,
    /// Where packets for other networks go, at most one of each IP version is used.
    pub gateways: Vec<IpAddr>,
    /// Hardware addresses that are known beforehand; they are never asked for nor changed.
    pub neighbors: Vec<(IpAddr, MacAddr)>,
    /// Greatest IP packet of the link in bytes, within [`MTU_RANGE`](crate::limits::MTU_RANGE).
    pub mtu: u16,
    /// Who computes TCP checksums.
    pub checksums: Checksums,
    /// Random bytes, known to nobody else: sequence numbers, cookies and ports are derived from them.
    pub secret: Secret,
    /// How senders find their rate.
    pub congestion: CongestionControl,
    /// Greatest receive window of a connection in bytes, up to 1 GiB. It begins with at most 256 KiB and grows when the peer
    /// fills it; it costs memory only while segments are out of order or the application holds bytes.
    pub recv_window_bytes: u32,
    /// Bytes a connection may have queued or unacknowledged, up to 1 GiB.
    pub send_buffer_bytes: u32,
    /// Bytes that all connections together may have queued, unacknowledged, out of order or held by the application.
    pub pool_bytes: usize,
    /// Connections, TIME-WAIT not counted.
    pub conns_max: u32,
    /// Connections that are being opened by peers. Beyond it SYN cookies are sent.
    pub syn_backlog_max: u32,
    /// Connections in TIME-WAIT. Beyond it the oldest is forgotten.
    pub time_wait_max: u32,
    /// How long TIME-WAIT lasts. RFC 9293 says 2 MSL, four minutes; Linux and this default say one.
    pub time_wait: Duration,
    /// How long a connection that the application closed may wait for its peer's FIN.
    pub linger: Duration,
    /// Whether and how idle peers are probed.
    pub keepalive: Option<Keepalive>,
    /// Ports that [`Stack::connect`](crate::Stack::connect) chooses from.
    pub ephemeral_ports: RangeInclusive<u16>,
}

impl Config {
    /// A stack with these addresses and the defaults of a gateway: 1500-byte packets, CUBIC, windows of up to 4 MiB, a pool of
    /// 256 MiB, a million connections.
    pub const fn new(mac: MacAddr, addresses: Vec<Address>, secret: Secret) -> Self {
        Self {
            mac,
            vlan: None,
            addresses,
            gateways: Vec::new(),
            neighbors: Vec::new(),
            mtu: 1500,
            checksums: Checksums::Software,
            secret,
            congestion: CongestionControl::Cubic,
            recv_window_bytes: 4 << 20,
            send_buffer_bytes: 1 << 20,
            pool_bytes: 256 << 20,
            conns_max: 1 << 20,
            syn_backlog_max: 4096,
            time_wait_max: 1 << 18,
            time_wait: Duration::from_secs(60),
            linger: Duration::from_secs(60),
            keepalive: None,
            ephemeral_ports: 32_768..=60_999,
        }
    }
}

/// One of the stack's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub addr: IpAddr,
    /// Leading bits that its neighbours on the link share: 0–32, or 0–128 for IPv6.
    pub prefix_len: u8,
}

/// Who computes and verifies TCP checksums. IP and ICMP headers are always done here: they are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// The stack does both.
    Software,
    /// The device does both: the stack leaves the pseudo header's sum in the field of what it sends, as DPDK and
    /// virtio want it, and trusts what it receives. Two stacks joined by shared memory may use it too.
    Offloaded,
}

/// How senders find their rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CongestionControl {
    /// RFC 9438.
    Cubic,
    /// RFC 5681.
    NewReno,
}

/// How idle peers are probed (RFC 9293 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer before the connection is cut.
    pub probes_max: u8,
}

/// Random bytes that nobody else may know; never printed.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a configuration cannot be used. All of it is the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No address, or too many.
    Addresses,
    /// A packet size beyond [`MTU_RANGE`](crate::limits::MTU_RANGE).
    Mtu,
    /// A window or a send buffer of nothing or of more than 1 GiB.
    Buffers,
    /// More connections than indexes (2³⁰).
    Conns,
    /// No port to choose from, or port 0 among them.
    Ports,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Addresses => "a stack needs between 1 and 65535 addresses",
            Self::Mtu => "packets must be between 576 and 9216 bytes, with IPv6 at least 1280",
            Self::Buffers => "windows and send buffers must be between 2 KiB and 1 GiB",
            Self::Conns => "more connections than a shard can number",
            Self::Ports => "the range of ephemeral ports is empty or includes 0",
        })
    }
}

impl core::error::Error for ConfigError {}
