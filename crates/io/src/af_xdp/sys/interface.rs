//! Questions about an interface: ioctl(2).

use core::ffi::{CStr, c_char, c_int};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// What the kernel knows of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceInfo {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    /// Receive and transmit queues, when the driver says.
    pub(crate) queues: Option<(u32, u32)>,
}

/// Asks for an interface of the calling thread's network namespace; `None` when there is none of that name.
pub(crate) fn interface_info(name: &str) -> io::Result<Option<InterfaceInfo>> {
    let Ok(c_name) = CString::new(name) else { return Ok(None) };
    // SAFETY: `c_name` is a C string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    if index == 0 {
        return Ok(None);
    }
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(check(fd)?) };
    let address = request(&socket, &c_name, libc::SIOCGIFHWADDR, None)?;
    // SAFETY: the kernel filled in a hardware address, and every member takes any bits.
    let address = unsafe { address.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (byte, raw) in mac.iter_mut().zip(address.sa_data) {
        *byte = raw.to_ne_bytes()[0];
    }
    let mtu = request(&socket, &c_name, libc::SIOCGIFMTU, None)?;
    // SAFETY: the kernel filled in an integer.
    let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
    let flags = request(&socket, &c_name, libc::SIOCGIFFLAGS, None)?;
    // SAFETY: the kernel filled in a small integer.
    let flags = unsafe { flags.ifr_ifru.ifru_flags };
    let mut channels = Channels { command: ETHTOOL_GET_CHANNELS, ..Channels::default() };
    let asked = request(&socket, &c_name, libc::SIOCETHTOOL, Some(&mut channels));
    let Channels { rx, tx, combined, .. } = channels;
    Ok(Some(InterfaceInfo {
        index,
        mac,
        mtu: u32::try_from(mtu).unwrap_or(0),
        is_up: c_int::from(flags) & libc::IFF_UP != 0,
        queues: asked.is_ok().then_some((rx + combined, tx + combined)),
    }))
}

/// `struct ethtool_channels`
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Channels {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// One question about an interface.
fn request(
    socket: &OwnedFd,
    name: &CStr,
    question: libc::c_ulong,
    channels: Option<&mut Channels>,
) -> io::Result<libc::ifreq> {
    // SAFETY: a request consists of integers and pointers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    let bytes = name.to_bytes();
    // The last byte stays zero.
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = c_char::from_ne_bytes([*byte]);
    }
    if let Some(channels) = channels {
        request.ifr_ifru.ifru_data = (&raw mut *channels).cast();
    }
    // SAFETY: `request` is writable, and has a C string as name. Only SIOCETHTOOL follows the pointer, to `channels`, which is
    // writable and as large as the command in it says.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), question as _, &raw mut request) })?;
    Ok(request)
}

/// `ETHTOOL_GCHANNELS`
const ETHTOOL_GET_CHANNELS: u32 = 0x3c;

const _: () = assert!(size_of::<Channels>() == 36);
