//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): echo, and the errors that concern a connection.

use core::net::Ipv6Addr;

use super::checksum::Checksum;
use super::ip::{self, Ip};
use super::{be16, be32};
use crate::seq::Seq;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icmp {
    /// Somebody asks whether we are there.
    EchoRequest,
    /// A segment of ours was too big for the path.
    TooBig {
        /// Where it came from and went to.
        segment: Quoted,
        /// What the next link takes; zero when the router does not say (RFC 1191 5).
        mtu: u32,
    },
    /// A segment of ours could not be delivered.
    Unreachable(Quoted),
    /// Anything else.
    Other,
}

/// The segment an error is about, as far as errors quote it: eight bytes of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
}

impl Icmp {
    /// An IPv4 message whose checksum was verified.
    pub(crate) fn decode_v4(message: &[u8]) -> Option<Self> {
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let body = message.get(8..)?;
        Some(match (kind, code) {
            (V4_ECHO_REQUEST, _) => Self::EchoRequest,
            (V4_UNREACHABLE, V4_TOO_BIG) => {
                Quoted::decode_v4(body).map_or(Self::Other, |segment| Self::TooBig {
                    segment,
                    mtu: u32::from(be16(message, 6)),
                })
            }
            (V4_UNREACHABLE, _) => Quoted::decode_v4(body).map_or(Self::Other, Self::Unreachable),
            _ => Self::Other,
        })
    }

    /// An IPv6 message whose checksum was verified.
    pub(crate) fn decode_v6(message: &[u8]) -> Option<Self> {
        let kind = *message.first()?;
        let body = message.get(8..)?;
        Some(match kind {
            V6_ECHO_REQUEST => Self::EchoRequest,
            V6_TOO_BIG => Quoted::decode_v6(body)
                .map_or(Self::Other, |segment| Self::TooBig { segment, mtu: be32(message, 4) }),
            V6_UNREACHABLE => Quoted::decode_v6(body).map_or(Self::Other, Self::Unreachable),
            _ => Self::Other,
        })
    }
}

impl Quoted {
    /// From an IPv4 header and what follows it. The quoted packet is cut short, so its length cannot be checked.
    fn decode_v4(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || *packet.get(9)? != ip::TCP || be16(packet, 6) & 0x1fff != 0 {
            return None;
        }
        let address = |at| core::net::Ipv4Addr::from(be32(packet, at)).to_ipv6_mapped();
        Self::decode(address(12), address(16), packet.get(header_len.max(20)..)?)
    }

    /// From an IPv6 header that TCP follows at once, as in every packet this stack sends.
    fn decode_v6(packet: &[u8]) -> Option<Self> {
        if *packet.first()? >> 4 != 6 || *packet.get(6)? != ip::TCP {
            return None;
        }
        Self::decode(ip::v6_at(packet, 8), ip::v6_at(packet, 24), packet.get(40..)?)
    }

    fn decode(source: Ipv6Addr, destination: Ipv6Addr, tcp: &[u8]) -> Option<Self> {
        let ports_and_seq: &[u8; 8] = tcp.first_chunk()?;
        Some(Self {
            source,
            destination,
            source_port: be16(ports_and_seq, 0),
            destination_port: be16(ports_and_seq, 2),
            seq: Seq(be32(ports_and_seq, 4)),
        })
    }
}

/// Turns an echo request into its reply's first eight bytes; the rest of the request follows them.
pub(crate) fn echo_reply(
    request: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<[u8; 8]> {
    let mut head: [u8; 8] = *request.first_chunk()?;
    let is_v4 = source.to_ipv4_mapped().is_some();
    head[0] = if is_v4 { V4_ECHO_REPLY } else { V6_ECHO_REPLY };
    head[2..4].fill(0);
    let mut sum = if is_v4 {
        Checksum::default()
    } else {
        Checksum::pseudo(source, destination, ip::ICMPV6, request.len())
    };
    sum.add(&head);
    sum.add(&request[8..]);
    head[2..4].copy_from_slice(&sum.finish());
    Some(head)
}

/// Whether a message's checksum is right.
pub(crate) fn is_intact(ip: &Ip, message: &[u8]) -> bool {
    let mut sum = if ip.protocol == ip::ICMP {
        Checksum::default()
    } else {
        Checksum::pseudo(ip.source, ip.destination, ip::ICMPV6, message.len())
    };
    sum.add(message);
    sum.is_intact()
}

const V4_ECHO_REPLY: u8 = 0;
const V4_UNREACHABLE: u8 = 3;
/// Code "fragmentation needed and DF set".
const V4_TOO_BIG: u8 = 4;
const V4_ECHO_REQUEST: u8 = 8;
const V6_UNREACHABLE: u8 = 1;
const V6_TOO_BIG: u8 = 2;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
