//! Frames on their way out: headers in one small buffer, payload where it lies.

use core::net::Ipv6Addr;

use crate::config::Checksums;
use crate::event::{Device, DeviceFull};
use crate::limits::{FRAME_PARTS_MAX, HEADERS_LEN_MAX};
use crate::wire::checksum::Checksum;
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::{ip, tcp};

/// What all frames of a stack have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) mac: MacAddr,
    pub(crate) vlan: Option<u16>,
    pub(crate) checksums: Checksums,
}

/// Where a packet goes, and from which of our addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) mac: MacAddr,
    pub(crate) local: Ipv6Addr,
    pub(crate) remote: Ipv6Addr,
}

/// Bytes in up to [`FRAME_PARTS_MAX`] − 1 slices, usually one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Payload<'a> {
    #[default]
    Empty,
    One(&'a [u8]),
    /// With their sum, which was known already.
    Summed(&'a [u8], Checksum),
    Several(Parts<'a>),
}

/// At least two slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    parts: [&'a [u8]; FRAME_PARTS_MAX - 1],
    count: usize,
    len: usize,
}

impl<'a> Payload<'a> {
    /// Appends a slice. There is a place: senders cut what would have more.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &'a [u8]) {
        match self {
            Self::Empty => *self = Self::One(bytes),
            Self::One(first) | Self::Summed(first, _) => {
                let mut parts = [&[][..]; FRAME_PARTS_MAX - 1];
                (parts[0], parts[1]) = (*first, bytes);
                *self = Self::Several(Parts { parts, count: 2, len: first.len() + bytes.len() });
            }
            Self::Several(several) => {
                several.parts[several.count] = bytes;
                several.count += 1;
                several.len += bytes.len();
            }
        }
    }

    /// The slices.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> &[&'a [u8]] {
        match self {
            Self::Empty => &[],
            Self::One(only) | Self::Summed(only, _) => core::slice::from_ref(only),
            Self::Several(several) => &several.parts[..several.count],
        }
    }

    /// Bytes in the slices.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(only) | Self::Summed(only, _) => only.len(),
            Self::Several(several) => several.len,
        }
    }

    /// Adds the sum of the bytes.
    #[inline]
    fn add_to(&self, sum: &mut Checksum) {
        match self {
            Self::Empty => {}
            Self::One(only) => sum.add(only),
            Self::Summed(_, known) => sum.join(*known),
            Self::Several(several) => {
                several.parts[..several.count].iter().for_each(|part| sum.add(part));
            }
        }
    }
}

impl Link {
    /// Sends a segment.
    pub(crate) fn send_segment(
        &self,
        path: &Path,
        header: &tcp::Header,
        payload: &Payload<'_>,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        // Each layout is compiled by itself, with every field at a fixed place.
        match (self.vlan.is_some(), ip::is_v4(path.remote)) {
            (false, true) => self.send_laid_out::<14, 34>(path, header, payload, device),
            (false, false) => self.send_laid_out::<14, 54>(path, header, payload, device),
            (true, true) => self.send_laid_out::<18, 38>(path, header, payload, device),
            (true, false) => self.send_laid_out::<18, 58>(path, header, payload, device),
        }
    }

    /// Sends a segment whose IP and TCP headers begin at these places.
    fn send_laid_out<const IP_AT: usize, const TCP_AT: usize>(
        &self,
        path: &Path,
        header: &tcp::Header,
        payload: &Payload<'_>,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let mut headers = [0; HEADERS_LEN_MAX];
        let tcp_len = header.encode(&mut headers[TCP_AT..]);
        let len = tcp_len + payload.len();
        let mut sum = Checksum::pseudo(path.local, path.remote, ip::TCP, len);
        let field = match self.checksums {
            Checksums::Offloaded => sum.partial(),
            Checksums::Software => {
                sum.add(&headers[TCP_AT..TCP_AT + tcp_len]);
                payload.add_to(&mut sum);
                sum.finish()
            }
        };
        headers[TCP_AT + tcp::CHECKSUM_AT..][..2].copy_from_slice(&field);
        let ip_at = self.encode_link(&mut headers, path);
        let ip_headers = &mut headers[IP_AT..];
        let ip_len = ip::encode(ip_headers, path.local, path.remote, ip::TCP, ip::HOP_LIMIT, len);
        debug_assert_eq!(
            (ip_at, ip_at + ip_len),
            (IP_AT, TCP_AT),
            "the layout was chosen for them"
        );
        transmit(&headers[..TCP_AT + tcp_len], payload, device)
    }

    /// Sends an IP packet whose payload begins with `front`, of at most 60 bytes.
    pub(crate) fn send_packet(
        &self,
        path: &Path,
        protocol: u8,
        hop_limit: u8,
        front: &[u8],
        payload: &Payload<'_>,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let len = front.len() + payload.len();
        let mut headers = [0; HEADERS_LEN_MAX];
        let mut at = self.encode_link(&mut headers, path);
        at += ip::encode(&mut headers[at..], path.local, path.remote, protocol, hop_limit, len);
        headers[at..at + front.len()].copy_from_slice(front);
        at += front.len();
        transmit(&headers[..at], payload, device)
    }

    /// Writes the link header of a packet and returns its length.
    fn encode_link(&self, headers: &mut [u8; HEADERS_LEN_MAX], path: &Path) -> usize {
        let ether_type = if ip::is_v4(path.remote) { ethernet::IPV4 } else { ethernet::IPV6 };
        ethernet::encode(headers, path.mac, self.mac, self.vlan, ether_type)
    }

    /// Sends a frame that is not IP.
    pub(crate) fn send_frame(
        &self,
        to: MacAddr,
        ether_type: u16,
        payload: &[u8],
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let mut header = [0; ethernet::HEADER_LEN_MAX];
        let len = ethernet::encode(&mut header, to, self.mac, self.vlan, ether_type);
        device.transmit(&[&header[..len], payload])
    }
}

/// Hands a frame to a device in as many parts as it has.
#[inline]
fn transmit(
    headers: &[u8],
    payload: &Payload<'_>,
    device: &mut impl Device,
) -> Result<(), DeviceFull> {
    match payload {
        Payload::Empty => device.transmit(&[headers]),
        Payload::One(part) | Payload::Summed(part, _) => device.transmit(&[headers, part]),
        Payload::Several(several) => {
            let mut parts = [&[][..]; FRAME_PARTS_MAX];
            parts[0] = headers;
            parts[1..].copy_from_slice(&several.parts);
            device.transmit(&parts[..=several.count])
        }
    }
}
