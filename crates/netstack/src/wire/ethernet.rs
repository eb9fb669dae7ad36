//! Ethernet II frames, with or without one 802.1Q tag.

use core::fmt;

use super::be16;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station of the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names more than one station (IEEE 802.3: the lowest bit of the first byte).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The link header of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ethernet {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    /// The VLAN of a tagged frame.
    pub(crate) vlan: Option<u16>,
    pub(crate) ether_type: u16,
    /// Where the packet begins.
    pub(crate) header_len: usize,
}

impl Ethernet {
    /// The header of a frame, or `None` when the frame is shorter than one.
    #[inline]
    pub(crate) fn decode(frame: &[u8]) -> Option<Self> {
        let destination = MacAddr(*frame.first_chunk()?);
        let source = MacAddr(*frame.get(6..)?.first_chunk()?);
        let untagged =
            Self { destination, source, vlan: None, ether_type: be16(frame, 12), header_len: 14 };
        if frame.len() >= 14 && untagged.ether_type != VLAN_TAG {
            return Some(untagged);
        }
        (frame.len() >= 18).then(|| Self {
            vlan: Some(be16(frame, 14) & VLAN_MASK),
            ether_type: be16(frame, 16),
            header_len: 18,
            ..untagged
        })
    }
}

/// Writes a link header to the front of `out` and returns its length.
#[inline]
pub(crate) fn encode(
    out: &mut [u8],
    destination: MacAddr,
    source: MacAddr,
    vlan: Option<u16>,
    ether_type: u16,
) -> usize {
    out[..6].copy_from_slice(&destination.0);
    out[6..12].copy_from_slice(&source.0);
    let Some(vlan) = vlan else {
        out[12..14].copy_from_slice(&ether_type.to_be_bytes());
        return 14;
    };
    out[12..14].copy_from_slice(&VLAN_TAG.to_be_bytes());
    out[14..16].copy_from_slice(&(vlan & VLAN_MASK).to_be_bytes());
    out[16..18].copy_from_slice(&ether_type.to_be_bytes());
    18
}

/// IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// ARP.
pub(crate) const ARP: u16 = 0x0806;
/// IPv6.
pub(crate) const IPV6: u16 = 0x86dd;
/// Longest link header.
pub(crate) const HEADER_LEN_MAX: usize = 18;

const VLAN_TAG: u16 = 0x8100;
/// The identifier; priority and drop eligibility are above it.
const VLAN_MASK: u16 = 0x0fff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_and_without_a_tag_come_back() {
        for vlan in [None, Some(0), Some(4095)] {
            let (to, from) = (MacAddr([1, 2, 3, 4, 5, 6]), MacAddr([7, 8, 9, 10, 11, 12]));
            let mut frame = [0; HEADER_LEN_MAX];
            let header_len = encode(&mut frame, to, from, vlan, IPV4);
            let decoded = Ethernet::decode(&frame[..header_len]);
            let expected =
                Ethernet { destination: to, source: from, vlan, ether_type: IPV4, header_len };
            assert_eq!(decoded, Some(expected));
            for cut in 0..header_len {
                assert_eq!(Ethernet::decode(&frame[..cut]), None, "cut at {cut}");
            }
        }
    }
}
