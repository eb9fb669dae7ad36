//! Frames come in: link, neighbours, IP, ICMP, and which connection a segment is for. Every frame that goes no further is
//! counted by its cause.

use core::net::Ipv6Addr;

use tengate_base::{ConnId, Instant};

use super::Stack;
use crate::config::Checksums;
use crate::event::{Cause, Device, DeviceFull};
use crate::flow::FlowKey;
use crate::frame::{Path, Payload};
use crate::limits::PATH_MTU_MIN;
use crate::seq::Seq;
use crate::tcp::input::Arrival;
use crate::tcp::tcb::State;
use crate::wire::arp::Arp;
use crate::wire::checksum::Checksum;
use crate::wire::ethernet::{self, Ethernet, MacAddr};
use crate::wire::icmp::{self, Icmp, Quoted};
use crate::wire::ip::{self, Ip, IpError};
use crate::wire::ndp::{self, Ndp};
use crate::wire::tcp::Header;

impl Stack {
    /// A frame arrived. See what [`Stack::poll_event`] has before the next one: bytes received lie in this frame.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8], device: &mut impl Device) {
        self.shared.stats.frames_received += 1;
        let stats = &mut self.shared.stats;
        let Some(link) = Ethernet::decode(frame) else {
            stats.drop_frame_malformed += 1;
            return;
        };
        if link.destination != self.shared.link.mac && !link.destination.is_group() {
            stats.drop_not_for_us += 1;
            return;
        }
        if link.vlan != self.shared.link.vlan {
            stats.drop_other_vlan += 1;
            return;
        }
        match link.ether_type {
            ethernet::IPV4 | ethernet::IPV6 => self.handle_packet(now, &link, frame, device),
            ethernet::ARP => self.handle_arp(&link, frame, device),
            _ => stats.drop_ether_type += 1,
        }
    }

    fn handle_arp(&mut self, link: &Ethernet, frame: &[u8], device: &mut impl Device) {
        let Some(arp) = Arp::decode(&frame[link.header_len..]) else {
            self.shared.stats.drop_arp_malformed += 1;
            return;
        };
        let (sender, target) = (arp.sender.to_ipv6_mapped(), arp.target.to_ipv6_mapped());
        if self.local_index(sender).is_some() || arp.sender_mac.is_group() {
            self.shared.stats.drop_arp_malformed += 1;
            return;
        }
        let asks_us = self.local_index(target).is_some();
        if !arp.sender.is_unspecified() {
            for waiter in self.neighbors.learn(sender, arp.sender_mac, asks_us) {
                self.mark(waiter);
            }
        }
        if arp.is_request && asks_us {
            let mac = self.shared.link.mac;
            let reply = Arp {
                is_request: false,
                sender_mac: mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            let sent =
                self.shared.link.send_frame(link.source, ethernet::ARP, &reply.encode(), device);
            self.count_sent(sent);
            self.shared.stats.arp_replies_sent += u64::from(sent.is_ok());
        }
    }

    /// Neighbour discovery (RFC 4861 7.2).
    fn handle_ndp(&mut self, mac: MacAddr, ip: &Ip, message: &Ndp, device: &mut impl Device) {
        let is_ours = self.local_index(message.target).is_some();
        let (neighbor, asks_us) =
            if message.is_solicitation { (ip.source, is_ours) } else { (message.target, false) };
        if let Some(learnt) = message.mac.filter(|mac| !mac.is_group())
            && is_unicast(neighbor)
            && self.local_index(neighbor).is_none()
        {
            for waiter in self.neighbors.learn(neighbor, learnt, asks_us) {
                self.mark(waiter);
            }
        }
        // A solicitation from nobody asks whether an address is free (RFC 4862 5.4.3): everybody is told that it is not.
        if !message.is_solicitation || !is_ours {
            return;
        }
        let is_probe = ip.source.is_unspecified();
        let path = Path {
            mac: if is_probe { ALL_NODES_MAC } else { mac },
            local: message.target,
            remote: if is_probe { ALL_NODES } else { ip.source },
        };
        let own = Some(self.shared.link.mac);
        let answer = Ndp { is_solicitation: false, target: message.target, mac: own };
        let bytes = answer.encode(path.local, path.remote);
        let (link, none) = (&self.shared.link, Payload::default());
        let sent = link.send_packet(&path, ip::ICMPV6, ndp::HOP_LIMIT, &bytes, &none, device);
        self.count_sent(sent);
        self.shared.stats.neighbor_advertisements_sent += u64::from(sent.is_ok());
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        link: &Ethernet,
        frame: &[u8],
        device: &mut impl Device,
    ) {
        let packet = &frame[link.header_len..];
        let decoded = if link.ether_type == ethernet::IPV4 {
            Ip::decode_v4(packet, true)
        } else {
            Ip::decode_v6(packet)
        };
        let stats = &mut self.shared.stats;
        let ip = match decoded {
            Ok(ip) => ip,
            Err(IpError::Malformed) => return stats.drop_ip_malformed += 1,
            Err(IpError::Checksum) => return stats.drop_ip_checksum += 1,
            Err(IpError::Fragment) => return stats.drop_ip_fragment += 1,
        };
        if ip.protocol == ip::ICMPV6 && ip.hop_limit == ndp::HOP_LIMIT {
            let message = &packet[ip.payload.clone()];
            if icmp::is_intact(&ip, message)
                && let Some(message) = Ndp::decode(message)
            {
                self.handle_ndp(link.source, &ip, &message, device);
                return;
            }
        }
        let stats = &mut self.shared.stats;
        // RFC 9293 3.9.2.3, MUST-57 and MUST-63: no connection with a group, or from one.
        if link.destination.is_group() || link.source.is_group() || !is_unicast(ip.source) {
            stats.drop_ip_source += 1;
            return;
        }
        let Some(local) = self.local_index(ip.destination) else {
            self.shared.stats.drop_not_for_us += 1;
            return;
        };
        let offset = link.header_len + ip.payload.start;
        let payload = &packet[ip.payload.clone()];
        match ip.protocol {
            ip::TCP => self.handle_tcp(now, link.source, &ip, local, payload, offset, device),
            ip::ICMP | ip::ICMPV6 => self.handle_icmp(link.source, &ip, payload, device),
            _ => self.shared.stats.drop_protocol += 1,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a segment and the headers in front of it")]
    fn handle_tcp(
        &mut self,
        now: Instant,
        mac: MacAddr,
        ip: &Ip,
        local: u16,
        segment: &[u8],
        offset: usize,
        device: &mut impl Device,
    ) {
        if self.shared.link.checksums == Checksums::Software {
            let mut sum = Checksum::pseudo(ip.source, ip.destination, ip::TCP, segment.len());
            sum.add(segment);
            if !sum.is_intact() {
                self.shared.stats.drop_tcp_checksum += 1;
                return;
            }
        }
        let Some((header, header_len)) = Header::decode(segment) else {
            self.shared.stats.drop_tcp_malformed += 1;
            return;
        };
        self.shared.stats.segments_received += 1;
        let key = FlowKey {
            remote: ip.source,
            remote_port: header.source_port,
            local_port: header.destination_port,
            local,
        };
        let mut arrival = Arrival {
            conn: ConnId(0),
            mac,
            header,
            payload: &segment[header_len..],
            offset: offset + header_len,
        };
        match self.flows.find(&key) {
            Some(index) => {
                arrival.conn = ConnId(index);
                self.handle_in_connection(now, &arrival, device);
            }
            None => self.handle_unmatched(now, &key, &mut arrival, device),
        }
    }

    /// A segment of a connection.
    pub(super) fn handle_in_connection(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        device: &mut impl Device,
    ) {
        let index = arrival.conn.0;
        let Some(tcb) = self.flows.get_mut(index) else { return };
        let was_in_backlog = tcb.passive && tcb.state == State::SynReceived;
        let fate = tcb.handle_segment(now, arrival, &mut self.shared, device);
        if was_in_backlog && tcb.state != State::SynReceived {
            self.backlog_len -= 1;
        }
        self.settle(now, index, fate);
    }

    fn handle_icmp(&mut self, mac: MacAddr, ip: &Ip, message: &[u8], device: &mut impl Device) {
        if !icmp::is_intact(ip, message) {
            self.shared.stats.drop_icmp_malformed += 1;
            return;
        }
        let decoded = if ip.protocol == ip::ICMP {
            Icmp::decode_v4(message)
        } else {
            Icmp::decode_v6(message)
        };
        match decoded {
            None => self.shared.stats.drop_icmp_malformed += 1,
            Some(Icmp::Other) => self.shared.stats.drop_protocol += 1,
            Some(Icmp::EchoRequest) => self.answer_echo(mac, ip, message, device),
            Some(Icmp::TooBig { segment, mtu }) => self.handle_too_big(&segment, mtu),
            Some(Icmp::Unreachable(segment)) => self.handle_unreachable(&segment),
        }
    }

    fn answer_echo(&mut self, mac: MacAddr, ip: &Ip, request: &[u8], device: &mut impl Device) {
        // The request's sender becomes the reply's receiver.
        let Some(front) = icmp::echo_reply(request, ip.destination, ip.source) else {
            self.shared.stats.drop_icmp_malformed += 1;
            return;
        };
        let path = Path { mac, local: ip.destination, remote: ip.source };
        let mut payload = Payload::default();
        payload.push(&request[front.len()..]);
        let link = &self.shared.link;
        let sent = link.send_packet(&path, ip.protocol, ip::HOP_LIMIT, &front, &payload, device);
        self.count_sent(sent);
        self.shared.stats.echo_replies_sent += u64::from(sent.is_ok());
    }

    /// The path to a peer is narrower than thought (RFC 1191, RFC 8201), if the error quotes what is in flight (RFC 5927 4).
    fn handle_too_big(&mut self, segment: &Quoted, mtu: u32) {
        let Some(index) = self.find_quoted(segment) else {
            self.shared.stats.drop_icmp_unmatched += 1;
            return;
        };
        let Some(tcb) = self.flows.get_mut(index) else { return };
        // An old router does not say how much it takes (RFC 1191 5): try the least.
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(PATH_MTU_MIN);
        if tcb.narrow_path(mtu, &mut self.shared) {
            self.mark(index);
        }
    }

    /// Nobody can be reached there. For an open connection that may pass (RFC 1122 4.2.3.9, RFC 5927 5).
    fn handle_unreachable(&mut self, segment: &Quoted) {
        let Some(index) = self.find_quoted(segment) else {
            self.shared.stats.drop_icmp_unmatched += 1;
            return;
        };
        if self.flows.get(index).is_some_and(|tcb| tcb.state == State::SynSent) {
            self.end(index, Cause::Unreachable);
        }
    }

    /// The connection whose segment an error quotes, if that segment is in flight.
    fn find_quoted(&self, segment: &Quoted) -> Option<u32> {
        let key = FlowKey {
            remote: segment.destination,
            remote_port: segment.destination_port,
            local_port: segment.source_port,
            local: self.local_index(segment.source)?,
        };
        let index = self.flows.find(&key)?;
        let tcb = self.flows.get(index)?;
        let in_flight = |seq: Seq| seq.ge(tcb.snd_una) && seq.lt(tcb.snd_nxt);
        in_flight(segment.seq).then_some(index)
    }

    /// Which of our addresses this is.
    pub(super) fn local_index(&self, address: Ipv6Addr) -> Option<u16> {
        self.shared.locals.find(address)
    }

    pub(super) fn count_sent(&mut self, sent: Result<(), DeviceFull>) {
        match sent {
            Ok(()) => self.shared.stats.frames_sent += 1,
            Err(DeviceFull) => self.shared.stats.drop_device_full += 1,
        }
    }
}

/// Every IPv6 node of the link, and their stations' group.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Whether packets may come from an address (RFC 1122 3.2.1.3, RFC 4291 2.5, 2.7).
fn is_unicast(address: Ipv6Addr) -> bool {
    match ip::v4_bits(address) {
        Some(bits) => {
            let [first, ..] = bits.to_be_bytes();
            !(matches!(bits, 0 | u32::MAX) || matches!(first, 127 | 224..=239))
        }
        None => {
            !(address.is_unspecified() || address.is_multicast() || address == Ipv6Addr::LOCALHOST)
        }
    }
}
