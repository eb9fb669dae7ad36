//! Address resolution for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use super::be16;
use super::ethernet::MacAddr;

/// A request or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) is_request: bool,
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target_mac: MacAddr,
    pub(crate) target: Ipv4Addr,
}

impl Arp {
    /// The message, or `None` when it is cut off or about anything but IPv4 over Ethernet.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; LEN] = packet.first_chunk()?;
        let operation = be16(packet, 6);
        if packet[..6] != FORMAT || !matches!(operation, REQUEST | REPLY) {
            return None;
        }
        Some(Self {
            is_request: operation == REQUEST,
            sender_mac: MacAddr(*packet[8..].first_chunk()?),
            sender: Ipv4Addr::from(*packet[14..].first_chunk::<4>()?),
            target_mac: MacAddr(*packet[18..].first_chunk()?),
            target: Ipv4Addr::from(*packet[24..].first_chunk::<4>()?),
        })
    }

    /// The message's bytes.
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let operation = if self.is_request { REQUEST } else { REPLY };
        let mut packet = [0; LEN];
        packet[..6].copy_from_slice(&FORMAT);
        packet[6..8].copy_from_slice(&operation.to_be_bytes());
        packet[8..14].copy_from_slice(&self.sender_mac.0);
        packet[14..18].copy_from_slice(&self.sender.octets());
        packet[18..24].copy_from_slice(&self.target_mac.0);
        packet[24..].copy_from_slice(&self.target.octets());
        packet
    }
}

/// Bytes of a message.
pub(crate) const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4.
const FORMAT: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_others_are_refused() {
        let arp = Arp {
            is_request: true,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: MacAddr::default(),
            target: Ipv4Addr::new(10, 0, 0, 2),
        };
        for arp in [arp, Arp { is_request: false, ..arp }] {
            let bytes = arp.encode();
            assert_eq!(Arp::decode(&bytes), Some(arp));
            assert_eq!(Arp::decode(&bytes[..LEN - 1]), None);
            for at in 0..6 {
                let mut other = bytes;
                other[at] ^= 0x40;
                assert_eq!(Arp::decode(&other), None, "byte {at}");
            }
        }
    }
}
