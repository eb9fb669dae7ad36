//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers. IPv4 addresses are held as IPv4-mapped IPv6 ones (RFC 4291 2.5.5.2), so that
//! everything above has one kind of address.

use core::net::Ipv6Addr;
use core::ops::Range;

use super::be16;
use super::checksum::{self, Checksum};

/// What the stack wants to know of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) protocol: u8,
    /// Time to live, or hop limit.
    pub(crate) hop_limit: u8,
    /// Where the payload lies in the packet; padding of the link is not part of it.
    pub(crate) payload: Range<usize>,
}

/// Why a packet is refused. All but our own mistakes are the sender's or the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpError {
    /// Cut off, or with lengths or a version that contradict each other.
    Malformed,
    /// The header's checksum is wrong.
    Checksum,
    /// A fragment: the stack does not put packets together again.
    Fragment,
}

impl Ip {
    /// The header of an IPv4 packet.
    #[inline]
    pub(crate) fn decode_v4(packet: &[u8], verify: bool) -> Result<Self, IpError> {
        let first = *packet.first().ok_or(IpError::Malformed)?;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(be16(packet, 2));
        if first >> 4 != 4
            || header_len < V4_HEADER_LEN
            || total_len < header_len
            || packet.len() < total_len
        {
            return Err(IpError::Malformed);
        }
        if verify {
            let mut sum = Checksum::default();
            // Of a known length for nearly every packet, which the compiler likes.
            match packet.first_chunk::<V4_HEADER_LEN>() {
                Some(header) if header_len == V4_HEADER_LEN => sum.add(header),
                _ => sum.add(&packet[..header_len]),
            }
            if !sum.is_intact() {
                return Err(IpError::Checksum);
            }
        }
        if be16(packet, 6) & FRAGMENT_MASK != 0 {
            return Err(IpError::Fragment);
        }
        Ok(Self {
            source: v4_at(packet, 12),
            destination: v4_at(packet, 16),
            protocol: packet[9],
            hop_limit: packet[8],
            payload: header_len..total_len,
        })
    }

    /// The header of an IPv6 packet. Hop-by-hop and destination options are stepped over (RFC 8200 4.2 lets a host ignore
    /// those it does not know only when they say so; none is known here, so any that forbids it makes the packet malformed).
    pub(crate) fn decode_v6(packet: &[u8]) -> Result<Self, IpError> {
        let header: &[u8; V6_HEADER_LEN] = packet.first_chunk().ok_or(IpError::Malformed)?;
        let end = V6_HEADER_LEN + usize::from(be16(header, 4));
        if header[0] >> 4 != 6 || packet.len() < end {
            return Err(IpError::Malformed);
        }
        let (source, destination) = (v6_at(packet, 8), v6_at(packet, 24));
        // On the wire such an address means nothing (RFC 4291 2.5.5.2), and here it would mean another packet.
        if is_v4(source) || is_v4(destination) {
            return Err(IpError::Malformed);
        }
        let (mut protocol, mut start) = (header[6], V6_HEADER_LEN);
        for _ in 0..EXTENSION_HEADERS_MAX {
            match protocol {
                EXT_FRAGMENT => return Err(IpError::Fragment),
                EXT_HOP_BY_HOP | EXT_DESTINATION => {
                    let extension = packet.get(start..end).ok_or(IpError::Malformed)?;
                    let len = 8 + 8 * usize::from(*extension.get(1).ok_or(IpError::Malformed)?);
                    let options = extension.get(2..len).ok_or(IpError::Malformed)?;
                    if !may_ignore(options) {
                        return Err(IpError::Malformed);
                    }
                    (protocol, start) = (extension[0], start + len);
                }
                _ => break,
            }
        }
        Ok(Self { source, destination, protocol, hop_limit: header[7], payload: start..end })
    }
}

/// Whether every option may be skipped by who does not know it: the two highest bits of its type are zero.
fn may_ignore(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match (kind, rest) {
            (0, _) => rest,
            (kind, [len, rest @ ..]) if kind >> 6 == 0 && rest.len() >= usize::from(*len) => {
                &rest[usize::from(*len)..]
            }
            _ => return false,
        };
    }
    true
}

/// Writes the header that suits the addresses to the front of `out` and returns its length. `payload_len` is what follows.
#[inline]
pub(crate) fn encode(
    out: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hop_limit: u8,
    payload_len: usize,
) -> usize {
    if let (Some(source), Some(destination)) = (v4_bits(source), v4_bits(destination)) {
        let total_len = u16::try_from(V4_HEADER_LEN + payload_len).unwrap_or(u16::MAX);
        // Never fragmented, so that path MTU discovery works (RFC 1191), and the identification may be zero (RFC 6864).
        let words = [
            0x4500_0000 | u32::from(total_len),
            DO_NOT_FRAGMENT,
            u32::from(hop_limit) << 24 | u32::from(protocol) << 16,
            source,
            destination,
        ];
        let out: &mut [u8; V4_HEADER_LEN] = out.first_chunk_mut().expect("callers have the room");
        for (place, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
        }
        let sum = checksum::of(out);
        out[10..12].copy_from_slice(&sum);
        return V4_HEADER_LEN;
    }
    let out: &mut [u8; V6_HEADER_LEN] = out.first_chunk_mut().expect("callers have the room");
    out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    out[4..6].copy_from_slice(&u16::try_from(payload_len).unwrap_or(u16::MAX).to_be_bytes());
    (out[6], out[7]) = (protocol, hop_limit);
    out[8..24].copy_from_slice(&source.octets());
    out[24..].copy_from_slice(&destination.octets());
    V6_HEADER_LEN
}

/// Length of the header between two addresses.
pub(crate) const fn header_len(address: Ipv6Addr) -> u16 {
    if is_v4(address) { 20 } else { 40 }
}

/// Whether an address is an IPv4 one, mapped. Asked several times for each packet, so by words and not by bytes.
pub(crate) const fn is_v4(address: Ipv6Addr) -> bool {
    address.to_bits() >> 32 == MAPPED
}

/// The 32 bits of an IPv4 address.
#[expect(clippy::cast_possible_truncation, reason = "the rest was compared")]
pub(crate) const fn v4_bits(address: Ipv6Addr) -> Option<u32> {
    if is_v4(address) { Some(address.to_bits() as u32) } else { None }
}

fn v4_at(packet: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(MAPPED << 32 | u128::from(super::be32(packet, at)))
}

/// The IPv6 address at `at`; the unspecified one beyond the end, which callers rule out before.
pub(crate) fn v6_at(packet: &[u8], at: usize) -> Ipv6Addr {
    let octets = packet.get(at..).and_then(|rest| rest.first_chunk::<16>());
    octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
}

/// What is in front of an IPv4 address in a mapped one.
const MAPPED: u128 = 0xffff;
/// `ICMPv4`.
pub(crate) const ICMP: u8 = 1;
/// TCP.
pub(crate) const TCP: u8 = 6;
/// `ICMPv6`.
pub(crate) const ICMPV6: u8 = 58;
/// Hop limit of packets that may be routed (the number RFC 1700 gives).
pub(crate) const HOP_LIMIT: u8 = 64;
/// Longest header that is sent.
pub(crate) const HEADER_LEN_MAX: usize = V6_HEADER_LEN;

const V4_HEADER_LEN: usize = 20;
const V6_HEADER_LEN: usize = 40;
/// The second word of a header that says so.
const DO_NOT_FRAGMENT: u32 = 0x4000;
/// The flag "more fragments" and the offset.
const FRAGMENT_MASK: u16 = 0x3fff;
const EXT_HOP_BY_HOP: u8 = 0;
const EXT_FRAGMENT: u8 = 44;
const EXT_DESTINATION: u8 = 60;
/// Beyond these the packet's protocol is not TCP's and it is dropped as such.
const EXTENSION_HEADERS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn v4_packet() -> [u8; 24] {
        let mut packet = [7; 24];
        let source = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        let destination = Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped();
        encode(&mut packet, source, destination, TCP, HOP_LIMIT, 4);
        packet
    }

    #[test]
    fn a_v4_header_comes_back_and_any_changed_bit_is_found() {
        let packet = v4_packet();
        let ip = Ip::decode_v4(&packet, true).expect("as encoded");
        assert_eq!((ip.protocol, ip.payload), (TCP, 20..24));
        assert_eq!(ip.source.to_ipv4_mapped(), Some(Ipv4Addr::new(10, 0, 0, 1)));
        for bit in 0..20 * 8 {
            let mut changed = packet;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Ip::decode_v4(&changed, true).is_err(), "bit {bit}");
        }
        for cut in 0..packet.len() {
            assert_eq!(Ip::decode_v4(&packet[..cut], true), Err(IpError::Malformed), "cut {cut}");
        }
    }

    #[test]
    fn fragments_are_told_from_whole_packets() {
        for (flags, expected) in [(0x20, Err(IpError::Fragment)), (0x40, Ok(())), (0, Ok(()))] {
            let mut packet = v4_packet();
            packet[6] = flags;
            assert_eq!(Ip::decode_v4(&packet, false).map(|_| ()), expected, "flags {flags:#x}");
        }
    }

    #[test]
    fn a_v6_header_comes_back_and_extensions_are_stepped_over() {
        let (source, destination) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let mut packet = [0; 40 + 8 + 4];
        encode(&mut packet, source, destination, EXT_DESTINATION, 255, 12);
        packet[40] = TCP;
        packet[42..48].copy_from_slice(&[1, 4, 0, 0, 0, 0]);
        let ip = Ip::decode_v6(&packet).expect("as encoded");
        assert_eq!((ip.source, ip.destination), (source, destination));
        assert_eq!((ip.protocol, ip.hop_limit, ip.payload), (TCP, 255, 48..52));
        packet[42] = 0xc1;
        assert_eq!(Ip::decode_v6(&packet), Err(IpError::Malformed));
        packet[6] = EXT_FRAGMENT;
        assert_eq!(Ip::decode_v6(&packet), Err(IpError::Fragment));
        for cut in 0..packet.len() {
            assert!(Ip::decode_v6(&packet[..cut]).is_err(), "cut {cut}");
        }
    }
}
