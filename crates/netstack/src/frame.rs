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

/// Bytes in up to [`FRAME_PARTS_MAX`] − 1 slices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Payload<'a> {
    parts: [&'a [u8]; FRAME_PARTS_MAX - 1],
    count: usize,
    len: usize,
    /// The sum of all of them, where it is known already.
    known_sum: Option<Checksum>,
}

impl<'a> Payload<'a> {
    /// One slice whose sum is known.
    pub(crate) fn whole(bytes: &'a [u8], sum: Checksum) -> Self {
        let mut payload = Self::default();
        payload.push(bytes);
        payload.known_sum = Some(sum);
        payload
    }

    /// Appends a slice. There is a place: senders cut what would have more.
    pub(crate) fn push(&mut self, bytes: &'a [u8]) {
        self.parts[self.count] = bytes;
        self.count += 1;
        self.len += bytes.len();
        self.known_sum = None;
    }

    /// The slices.
    pub(crate) fn parts(&self) -> &[&'a [u8]] {
        &self.parts[..self.count]
    }

    /// Bytes in the slices.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The sum of the bytes.
    pub(crate) fn sum(&self) -> Checksum {
        self.known_sum.unwrap_or_else(|| {
            let mut sum = Checksum::default();
            self.parts().iter().for_each(|part| sum.add(part));
            sum
        })
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
        let mut headers = [0; HEADERS_LEN_MAX];
        let ip_at = self.encode_link(&mut headers, path);
        let tcp_at = ip_at + usize::from(ip::header_len(path.remote));
        let tcp_len = header.encode(&mut headers[tcp_at..]);
        let len = tcp_len + payload.len();
        let mut sum = Checksum::pseudo(path.local, path.remote, ip::TCP, len);
        let field = match self.checksums {
            Checksums::Offloaded => sum.partial(),
            Checksums::Software => {
                sum.add(&headers[tcp_at..tcp_at + tcp_len]);
                sum.join(payload.sum());
                sum.finish()
            }
        };
        headers[tcp_at + tcp::CHECKSUM_AT..][..2].copy_from_slice(&field);
        ip::encode(&mut headers[ip_at..], path.local, path.remote, ip::TCP, ip::HOP_LIMIT, len);
        transmit(&headers[..tcp_at + tcp_len], payload, device)
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
        let is_v4 = path.remote.to_ipv4_mapped().is_some();
        let ether_type = if is_v4 { ethernet::IPV4 } else { ethernet::IPV6 };
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
fn transmit(
    headers: &[u8],
    payload: &Payload<'_>,
    device: &mut impl Device,
) -> Result<(), DeviceFull> {
    match payload.parts() {
        [] => device.transmit(&[headers]),
        [part] => device.transmit(&[headers, part]),
        several => {
            let mut parts = [&[][..]; FRAME_PARTS_MAX];
            parts[0] = headers;
            parts[1..=several.len()].copy_from_slice(several);
            device.transmit(&parts[..=several.len()])
        }
    }
}
