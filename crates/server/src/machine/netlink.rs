//! Asks the kernel what no file says of an interface (rtnetlink(7)).

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};

/// `RTM_GETLINK`.
const GET_LINK: u16 = 18;
/// `RTM_NEWLINK`, the answer.
const NEW_LINK: u16 = 16;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IFLA_XDP`, whose value is attributes again.
const XDP: u16 = 43;
/// `IFLA_XDP_ATTACHED`: 0 when there is none.
const XDP_ATTACHED: u16 = 2;
/// Without the flags of nesting and byte order.
const KIND_MASK: u16 = 0x3fff;
/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`.
const LINK_LEN: usize = 16;
/// Header of an attribute: its length, this header included, and its kind.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Longest answer about one interface.
const ANSWER_BYTES: usize = 32 << 10;

/// Whether an XDP program is on the interface with this index.
pub(super) fn has_xdp_program(index: u32) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    sendto(&socket, &request(index), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; ANSWER_BYTES];
    let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    decode(&answer[..len]).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn request(index: u32) -> [u8; HEADER_LEN + LINK_LEN] {
    let mut bytes = [0; HEADER_LEN + LINK_LEN];
    let len = u32::try_from(bytes.len()).expect("the request is short");
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..6].copy_from_slice(&GET_LINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    bytes[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// Reads an answer. `None` when it is none about an interface.
fn decode(answer: &[u8]) -> Option<bool> {
    if u16::from_ne_bytes([*answer.get(4)?, *answer.get(5)?]) != NEW_LINK {
        return None;
    }
    let attributes = answer.get(HEADER_LEN + LINK_LEN..)?;
    let Some(xdp) = attribute(attributes, XDP) else { return Some(false) };
    Some(attribute(xdp, XDP_ATTACHED).is_some_and(|value| value.first() != Some(&0)))
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let &[len_low, len_high, kind_low, kind_high] = bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([len_low, len_high]));
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
        if u16::from_ne_bytes([kind_low, kind_high]) & KIND_MASK == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + LINK_LEN];
        bytes[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
        bytes.extend_from_slice(attributes);
        bytes
    }

    #[test]
    fn a_program_is_found_among_other_attributes() {
        let name = encoded(3, b"eth7\0");
        for (attached, expected) in [(0, false), (1, true), (2, true)] {
            let xdp = encoded(XDP | 0x8000, &encoded(XDP_ATTACHED, &[attached]));
            assert_eq!(decode(&answer(&[name.clone(), xdp].concat())), Some(expected));
        }
        assert_eq!(decode(&answer(&name)), Some(false));
    }

    #[test]
    fn whatever_is_cut_short_or_endless_is_read_without_harm() {
        let xdp = encoded(XDP, &encoded(XDP_ATTACHED, &[1]));
        let whole = answer(&xdp);
        for len in 0..whole.len() {
            assert_ne!(decode(&whole[..len]), Some(true), "cut at {len}");
        }
        assert_eq!(decode(&answer(&[0; 16])), Some(false));
    }

    #[test]
    fn the_kernel_answers_for_the_loopback_interface() {
        assert!(!has_xdp_program(1).unwrap());
        assert!(has_xdp_program(u32::MAX >> 1).is_err());
    }
}
