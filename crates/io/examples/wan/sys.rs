//! TAP devices, waiting for them, and what the standard library does not say of sockets.

use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;

/// An interface of the kernel whose other end is this process. It offers no offloads: what it carries are the packets.
pub(crate) struct Tap(File);

impl Tap {
    /// Makes an interface, in this process's network namespace; it may be moved to another.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun")?;
        let mut request = [0_u8; REQUEST_LEN];
        if name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::other("an interface's name has at most 15 bytes"));
        }
        request[..name.len()].copy_from_slice(name.as_bytes());
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        let flags = u16::try_from(flags).expect("flags of 16 bits");
        request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the descriptor is open, and `request` is as long as the kernel's `ifreq`, which this call reads and writes.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(file)) }
    }

    /// The next frame the kernel sends, if there is one.
    pub(crate) fn receive(&mut self, block: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.read(block) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // It is down: it is being moved.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands the kernel a frame. One that it does not take is lost.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        _ = self.0.write(frame);
    }
}

/// Waits until the kernel sends something, at most so long.
pub(crate) fn wait(taps: [&Tap; 2], longest: Duration) -> io::Result<()> {
    let mut polled =
        taps.map(|tap| libc::pollfd { fd: tap.0.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = libc::timespec {
        tv_sec: longest.as_secs().try_into().unwrap_or(0),
        tv_nsec: longest.subsec_nanos().into(),
    };
    // SAFETY: `polled` has two entries with open descriptors, `limit` is a time, and no signal mask is given.
    let result =
        unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const limit, core::ptr::null()) };
    let error = io::Error::last_os_error();
    if result < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
}

/// Makes a socket find its rate by CUBIC, as our stack does, whatever the machine's default is.
pub(crate) fn use_cubic(socket: &impl AsRawFd) -> io::Result<()> {
    let (name, len) = (c"cubic".as_ptr().cast(), 5);
    // SAFETY: the descriptor is an open socket, and `name` has `len` bytes.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name, len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets so many connections wait to be accepted.
pub(crate) fn lengthen_backlog(listener: &impl AsRawFd, len: i32) -> io::Result<()> {
    // SAFETY: the descriptor is an open socket that listens.
    let result = unsafe { libc::listen(listener.as_raw_fd(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes of the kernel's `ifreq`.
const REQUEST_LEN: usize = 40;
