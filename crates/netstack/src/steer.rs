//! Which shard a frame is for, where the device does not tell: a hash of the connection it belongs to.
//!
//! A shell with several shards and one queue, or with a device whose own hash cannot be relied on, takes a frame to the
//! shard `hash % shard_count`. What concerns no connection (ARP, neighbour discovery, echo, fragments) has no hash; every
//! shard must see what neighbours say, any of them may have the rest.
//!
//! The hash is not keyed, as a device's usually is not: a peer that chooses its ports may choose its shard.
//!
//! # Cost
//! The link's and IP's headers are looked at, nothing is summed: about 100 instructions.

use core::net::Ipv6Addr;

use crate::wire::be16;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp::{Icmp, Quoted};
use crate::wire::ip::{self, Ip};

/// A hash of the addresses and ports of the TCP connection that a received Ethernet frame, with or without one VLAN tag,
/// belongs to. An ICMP error that quotes a segment of ours has the hash of the segments that the connection receives.
/// `None` for fragments and for what is not TCP, and for frames that are cut off.
///
/// Checksums are not verified: whoever gets the frame does that. All 32 bits are equally good.
pub fn flow_hash(frame: &[u8]) -> Option<u32> {
    let link = Ethernet::decode(frame)?;
    let packet = &frame[link.header_len..];
    let ip = match link.ether_type {
        ethernet::IPV4 => Ip::decode_v4(packet, false).ok()?,
        ethernet::IPV6 => Ip::decode_v6(packet).ok()?,
        _ => return None,
    };
    let payload = &packet[ip.payload.clone()];
    let error = match ip.protocol {
        ip::TCP => {
            let ports: &[u8; 4] = payload.first_chunk()?;
            return Some(hash(ip.source, be16(ports, 0), ip.destination, be16(ports, 2)));
        }
        ip::ICMP => Icmp::decode_v4(payload)?,
        ip::ICMPV6 => Icmp::decode_v6(payload)?,
        _ => return None,
    };
    match error {
        Icmp::TooBig { segment, .. } | Icmp::Unreachable(segment) => Some(hash_of_quoted(&segment)),
        Icmp::EchoRequest | Icmp::Other => None,
    }
}

/// A quoted segment is one that we sent: its destination is the peer.
fn hash_of_quoted(segment: &Quoted) -> u32 {
    hash(segment.destination, segment.destination_port, segment.source, segment.source_port)
}

/// Two rounds of multiplications: an address each, then all together.
#[expect(clippy::cast_possible_truncation, reason = "half of the hash")]
fn hash(remote: Ipv6Addr, remote_port: u16, local: Ipv6Addr, local_port: u16) -> u32 {
    let ports = u64::from(remote_port) << 16 | u64::from(local_port);
    let (remote, local) = (mix_address(remote, SEEDS[0]), mix_address(local, SEEDS[1]));
    let mixed = mix(remote ^ ports, local ^ SEEDS[2]);
    mix(mixed, SEEDS[3]) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
const fn mix_address(address: Ipv6Addr, seed: u64) -> u64 {
    let bits = address.to_bits();
    mix((bits >> 64) as u64 ^ seed, bits as u64 ^ SEEDS[2])
}

/// Both halves of a product, put together.
#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
const fn mix(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Binary digits of π, e, √2 and √3, as constants that hide nothing.
const SEEDS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ethernet::MacAddr;

    /// Both ends of a connection as a received segment names them.
    #[derive(Clone, Copy, Debug)]
    struct Ends {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        ports: [u16; 2],
    }

    impl Ends {
        fn v4() -> Self {
            let address = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped();
            Self { source: address(1), destination: address(2), ports: [40_000, 80] }
        }

        fn v6() -> Self {
            let address = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
            Self { source: address(1), destination: address(2), ports: [40_000, 80] }
        }

        fn swapped(self) -> Self {
            let [source, destination] = self.ports;
            Self {
                source: self.destination,
                destination: self.source,
                ports: [destination, source],
            }
        }

        fn segment(self) -> Vec<u8> {
            let mut segment = vec![0; 20];
            segment[..2].copy_from_slice(&self.ports[0].to_be_bytes());
            segment[2..4].copy_from_slice(&self.ports[1].to_be_bytes());
            segment
        }

        fn packet(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
            let mut packet = vec![0; 40];
            let len = payload.len();
            let header_len =
                ip::encode(&mut packet, self.source, self.destination, protocol, 64, len);
            packet.truncate(header_len);
            packet.extend_from_slice(payload);
            packet
        }

        fn frame(self, vlan: Option<u16>, protocol: u8, payload: &[u8]) -> Vec<u8> {
            let is_v4 = self.source.to_ipv4_mapped().is_some();
            let ether_type = if is_v4 { ethernet::IPV4 } else { ethernet::IPV6 };
            let mut frame = vec![0; ethernet::HEADER_LEN_MAX];
            let (to, from) = (MacAddr([2; 6]), MacAddr([4; 6]));
            let header_len = ethernet::encode(&mut frame, to, from, vlan, ether_type);
            frame.truncate(header_len);
            frame.extend(self.packet(protocol, payload));
            frame
        }
    }

    #[test]
    fn every_frame_about_a_connection_has_the_hash_of_its_segments() {
        for (ends, icmp, too_big, unreachable) in
            [(Ends::v4(), ip::ICMP, [3, 4], [3, 1]), (Ends::v6(), ip::ICMPV6, [2, 0], [1, 4])]
        {
            let segment = ends.frame(None, ip::TCP, &ends.segment());
            let expected = flow_hash(&segment).expect("a segment");
            let mut padded = segment.clone();
            padded.extend([0; 20]);
            assert_eq!(flow_hash(&padded), Some(expected), "padding of the link");
            let tagged = ends.frame(Some(7), ip::TCP, &ends.segment());
            assert_eq!(flow_hash(&tagged), Some(expected), "a tag");
            // What we sent, quoted as far as a router must.
            let mut quoted = ends.swapped().packet(ip::TCP, &ends.swapped().segment());
            quoted.truncate(quoted.len() - 12);
            for kind in [too_big, unreachable] {
                let router = Ends { source: ends.destination, ..ends };
                let message = [&kind[..], &[0; 6], &quoted].concat();
                let error = router.frame(None, icmp, &message);
                assert_eq!(flow_hash(&error), Some(expected), "an error {kind:?}");
            }
        }
    }

    #[test]
    fn what_belongs_to_no_connection_has_no_hash() {
        let ends = Ends::v4();
        let segment = ends.segment();
        assert_eq!(flow_hash(&ends.frame(None, 17, &segment)), None, "UDP");
        assert_eq!(flow_hash(&ends.frame(None, ip::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0])), None, "echo");
        let mut fragment = ends.frame(None, ip::TCP, &segment);
        fragment[14 + 6] = 0x20;
        assert_eq!(flow_hash(&fragment), None, "a fragment");
        let mut arp = ends.frame(None, ip::TCP, &segment);
        arp[12..14].copy_from_slice(&ethernet::ARP.to_be_bytes());
        assert_eq!(flow_hash(&arp), None, "ARP");
        for ends in [ends, Ends::v6()] {
            let whole = ends.frame(Some(1), ip::TCP, &segment);
            for cut in 0..whole.len() {
                assert_eq!(flow_hash(&whole[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn connections_spread_evenly_over_any_number_of_shards() {
        for shard_count in 2..=16_u32 {
            let mut loads = vec![0_u32; shard_count as usize];
            for base in [Ends::v4(), Ends::v6()] {
                for host in 0..16 {
                    for port in 32_768..33_768 {
                        let source = Ipv6Addr::from_bits(base.source.to_bits() + host);
                        let hash = hash(source, port, base.destination, 80);
                        loads[(hash % shard_count) as usize] += 1;
                    }
                }
            }
            let share = 32_000 / shard_count;
            for load in loads {
                assert!(
                    load.abs_diff(share) < share / 8,
                    "{load} of {share}, {shard_count} shards"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(
            bytes: Vec<u8>,
            ether_type in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100]),
            version: bool,
        ) {
            let mut frame = vec![0; 14];
            frame[12..].copy_from_slice(&ether_type.to_be_bytes());
            frame.push(if version { 0x45 } else { 0x60 });
            frame.extend(bytes);
            if let Some(hash) = flow_hash(&frame) {
                frame.push(0);
                prop_assert_eq!(flow_hash(&frame), Some(hash), "padding changes nothing");
            }
        }
    }
}
