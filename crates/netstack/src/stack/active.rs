//! Connections we open: a port that is free, the neighbour's address, the first SYN (RFC 9293 3.10.1, RFC 6056).

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use tengate_base::{ConnId, Instant};

use super::{Stack, mapped};
use crate::config::Address;
use crate::event::{Device, DeviceFull};
use crate::flow::FlowKey;
use crate::frame::{Path, Payload};
use crate::neighbor::Resolved;
use crate::tcp::tcb::{State, Tcb};
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::ip;
use crate::wire::ndp::{self, Ndp};

/// Why no connection was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No address of ours is of the peer's IP version, or the one asked for is not ours.
    NoAddress,
    /// The peer is on no link of ours, and there is no gateway.
    NoRoute,
    /// Every port is in use with that peer, or the one asked for is.
    NoPort,
    /// There are as many connections as the configuration allows, or the pool is nearly empty.
    Full,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "no address to connect from",
            Self::NoRoute => "no route to the peer",
            Self::NoPort => "no free port",
            Self::Full => "too many connections",
        })
    }
}

impl core::error::Error for ConnectError {}

impl Stack {
    /// Begins a connection; [`Stack::flush`] sends its SYN. Ends in [`Event::Connected`](crate::Event::Connected) or
    /// [`Event::Closed`](crate::Event::Closed). Without a `local` address the first that fits is used; without a port (0)
    /// an ephemeral one is chosen.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<ConnId, ConnectError> {
        if self.flows.len() >= self.shared.config.conns_max as usize
            || self.shared.chunks.is_nearly_empty()
        {
            return Err(ConnectError::Full);
        }
        let key = self.choose_key(remote, local)?;
        self.next_hop(key.local, key.remote).ok_or(ConnectError::NoRoute)?;
        let mut tcb = Tcb::new(now, key, MacAddr::default(), &self.shared);
        tcb.state = State::SynSent;
        tcb.resolving = true;
        let index = self.flows.insert(tcb);
        self.mark(index);
        Ok(ConnId(index))
    }

    /// Sends the first SYN, or asks for the neighbour's address first.
    pub(super) fn begin_opening(
        &mut self,
        now: Instant,
        index: u32,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let Some(tcb) = self.flows.get_mut(index) else { return Ok(()) };
        if !tcb.resolving {
            return Ok(());
        }
        let (local, remote) = (tcb.key.local, tcb.key.remote);
        let Some(hop) = self.next_hop(local, remote) else { return Ok(()) };
        let mac = match self.neighbors.resolve(now, hop, index) {
            Resolved::At(mac) => mac,
            Resolved::Asked => return Ok(()),
            Resolved::Ask => return self.ask(local, hop, device),
        };
        let Some(tcb) = self.flows.get_mut(index) else { return Ok(()) };
        (tcb.mac, tcb.resolving, tcb.rto_from) = (mac, false, now);
        if tcb.snd_nxt == tcb.snd_una {
            // Time spent on looking for the neighbour is not the peer's.
            tcb.retries = 0;
        }
        let sent = tcb.send_syn(now, &mut self.shared, device);
        tcb.resolving = sent.is_err();
        sent
    }

    /// Asks everybody on the link who has an address (RFC 826, RFC 4861 7.2.2).
    fn ask(
        &mut self,
        local: u16,
        hop: Ipv6Addr,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let sender = self.shared.local(local).to_ipv4_mapped();
        let (Some(sender), Some(target)) = (sender, hop.to_ipv4_mapped()) else {
            let (group, mac) = ndp::solicited_node(hop);
            let path = Path { mac, local: self.shared.local(local), remote: group };
            let own = Some(self.shared.link.mac);
            let question = Ndp { is_solicitation: true, target: hop, mac: own };
            let (bytes, none) = (question.encode(path.local, group), Payload::default());
            let link = &self.shared.link;
            let sent = link.send_packet(&path, ip::ICMPV6, ndp::HOP_LIMIT, &bytes, &none, device);
            self.count_sent(sent);
            return Ok(());
        };
        let request = Arp {
            is_request: true,
            sender_mac: self.shared.link.mac,
            sender,
            target_mac: MacAddr::default(),
            target,
        };
        let link = &self.shared.link;
        let sent = link.send_frame(MacAddr::BROADCAST, ethernet::ARP, &request.encode(), device);
        self.count_sent(sent);
        // It is repeated when the SYN is due.
        Ok(())
    }

    /// Nobody answered a SYN twice: perhaps the neighbour has moved. Asks for its address again.
    pub(super) fn doubt_neighbor(&mut self, index: u32) {
        let Some(tcb) = self.flows.get(index) else { return };
        if tcb.state != State::SynSent || tcb.resolving || tcb.retries != DOUBT_AT_RETRY {
            return;
        }
        let (local, remote) = (tcb.key.local, tcb.key.remote);
        if let Some(hop) = self.next_hop(local, remote)
            && self.neighbors.doubt(hop)
            && let Some(tcb) = self.flows.get_mut(index)
        {
            tcb.resolving = true;
        }
    }

    /// Both ends of a new connection.
    fn choose_key(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<FlowKey, ConnectError> {
        let peer = mapped(remote.ip());
        let wanted = local.map(|local| mapped(local.ip())).filter(|ip| !is_unspecified(*ip));
        let index = match wanted {
            Some(address) => self.local_index(address).filter(|_| same_version(address, peer)),
            None => self.shared.locals.position(|local| same_version(local, peer)),
        };
        let local_index = index.ok_or(ConnectError::NoAddress)?;
        let key = |local_port| FlowKey {
            remote: peer,
            remote_port: remote.port(),
            local_port,
            local: local_index,
        };
        let port = local.map_or(0, |local| local.port());
        if port != 0 {
            return Some(key(port)).filter(|key| self.is_free(key)).ok_or(ConnectError::NoPort);
        }
        let ports = self.shared.config.ephemeral_ports.clone();
        let count = u32::from(ports.end() - ports.start()) + 1;
        // RFC 6056 3.3.3: where the search begins depends on the peer and on a secret.
        let address = self.shared.local(local_index);
        let words = key(0).words(address);
        let offset = self.shared.keys.cookie.hash(&words[..]) % u64::from(count);
        for _ in 0..count {
            self.next_port = self.next_port.wrapping_add(1);
            let step = (offset + u64::from(self.next_port)) % u64::from(count);
            let port = ports.start() + u16::try_from(step).expect("less than the count of ports");
            let key = key(port);
            if self.is_free(&key) {
                return Ok(key);
            }
        }
        Err(ConnectError::NoPort)
    }

    fn is_free(&self, key: &FlowKey) -> bool {
        self.flows.find(key).is_none() && !self.time_wait.contains(key)
    }

    /// Whose hardware address frames to a peer carry: its own when it shares a network with our address, else the gateway's.
    fn next_hop(&self, local: u16, remote: Ipv6Addr) -> Option<Ipv6Addr> {
        let config = &self.shared.config;
        let address = config.addresses.get(usize::from(local))?;
        if shares_prefix(address, remote) {
            return Some(remote);
        }
        let mut gateways = config.gateways.iter().map(|gateway: &IpAddr| mapped(*gateway));
        gateways.find(|gateway| same_version(*gateway, remote))
    }
}

fn shares_prefix(address: &Address, remote: Ipv6Addr) -> bool {
    let version_bits = if address.addr.is_ipv4() { V4_MAPPED_BITS } else { 0 };
    let differing = mapped(address.addr).to_bits() ^ remote.to_bits();
    differing.leading_zeros() >= version_bits + u32::from(address.prefix_len)
}

fn same_version(one: Ipv6Addr, other: Ipv6Addr) -> bool {
    one.to_ipv4_mapped().is_some() == other.to_ipv4_mapped().is_some()
}

fn is_unspecified(address: Ipv6Addr) -> bool {
    address.is_unspecified() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_unspecified())
}

/// SYNs without an answer after which a neighbour's address is not believed any more.
const DOUBT_AT_RETRY: u8 = 2;
/// Bits in front of an IPv4 address in a mapped one.
const V4_MAPPED_BITS: u32 = 96;
