//! Neighbour discovery for IPv6 (RFC 4861): who has an address, and the answer. Routers' announcements are not looked at: the
//! gateway comes from the configuration.

use core::net::Ipv6Addr;

use super::checksum::Checksum;
use super::ethernet::MacAddr;
use super::ip;

/// A solicitation or an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ndp {
    pub(crate) is_solicitation: bool,
    pub(crate) target: Ipv6Addr,
    /// The sender's hardware address in a solicitation, the target's in an advertisement.
    pub(crate) mac: Option<MacAddr>,
}

impl Ndp {
    /// The message, or `None` when it is something else or malformed. Its checksum was verified.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let is_solicitation = match (message.first()?, message.get(1)?) {
            (&SOLICITATION, 0) => true,
            (&ADVERTISEMENT, 0) => false,
            _ => return None,
        };
        let mut options = message.get(HEAD_LEN..)?;
        let wanted = if is_solicitation { OPTION_SOURCE } else { OPTION_TARGET };
        let mut mac = None;
        while let [kind, units, ..] = options {
            // RFC 4861 4.6: a length of zero makes the packet invalid.
            let (option, rest) = options.split_at_checked(usize::from(*units) * 8)?;
            let value = option.get(2..)?;
            if *kind == wanted && mac.is_none() {
                mac = value.first_chunk().copied().map(MacAddr);
            }
            options = rest;
        }
        Some(Self { is_solicitation, target: ip::v6_at(message, 8), mac })
    }

    /// The message, between these addresses.
    pub(crate) fn encode(&self, source: Ipv6Addr, destination: Ipv6Addr) -> [u8; LEN] {
        let mut message = [0; LEN];
        message[0] = if self.is_solicitation { SOLICITATION } else { ADVERTISEMENT };
        if !self.is_solicitation {
            message[4] = FLAGS_SOLICITED_OVERRIDE;
        }
        message[8..24].copy_from_slice(&self.target.octets());
        message[24] = if self.is_solicitation { OPTION_SOURCE } else { OPTION_TARGET };
        message[25] = 1;
        message[26..].copy_from_slice(&self.mac.unwrap_or_default().0);
        let mut sum = Checksum::pseudo(source, destination, ip::ICMPV6, LEN);
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.finish());
        message
    }
}

/// Where a solicitation for an address goes (RFC 4291 2.7.1), and the group of stations that listen (RFC 2464 7).
pub(crate) fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, MacAddr) {
    let [.., a, b, c] = target.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    (group, MacAddr([0x33, 0x33, 0xff, a, b, c]))
}

/// Hop limit of every message, so that none can come from beyond the link (RFC 4861 7.1).
pub(crate) const HOP_LIMIT: u8 = 255;
/// Bytes of a message with one option.
pub(crate) const LEN: usize = HEAD_LEN + 8;

const HEAD_LEN: usize = 24;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const FLAGS_SOLICITED_OVERRIDE: u8 = 0x60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_options_without_length_are_refused() {
        for is_solicitation in [true, false] {
            let ndp = Ndp {
                is_solicitation,
                target: Ipv6Addr::LOCALHOST,
                mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
            };
            let mut message = ndp.encode(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
            assert_eq!(Ndp::decode(&message), Some(ndp));
            for cut in 0..HEAD_LEN {
                assert_eq!(Ndp::decode(&message[..cut]), None, "cut at {cut}");
            }
            message[25] = 0;
            assert_eq!(Ndp::decode(&message), None);
        }
    }
}
