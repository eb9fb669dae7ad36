//! The kernel calls that std does not offer, each behind a safe function; with `af_xdp/sys.rs` and `dpdk/sys.rs`
//! the only `unsafe` code of the project.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use core::time::Duration;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One readiness report: flags and the token given at registration.
pub(crate) use libc::epoll_event as Event;

/// Input, or a connection to accept.
pub(crate) const READABLE: u32 = libc::EPOLLIN.cast_unsigned();
/// Room for output.
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT.cast_unsigned();
/// Both directions are over, or the connection failed. Reported without being asked for.
pub(crate) const FAILED: u32 = (libc::EPOLLERR | libc::EPOLLHUP).cast_unsigned();
/// The peer ended its stream.
pub(crate) const PEER_ENDED: u32 = libc::EPOLLRDHUP.cast_unsigned();
/// Report changes once, not states again and again.
pub(crate) const EDGES: u32 = libc::EPOLLET.cast_unsigned();

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Registers a descriptor; closing the descriptor ends the registration.
    pub(crate) fn add(&self, fd: impl AsFd, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), flags, token)
    }

    /// Changes a registration; what is ready already is reported again.
    pub(crate) fn modify(&self, fd: impl AsFd, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), flags, token)
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        flags: u32,
        token: u64,
    ) -> io::Result<()> {
        let mut event = Event { events: flags, u64: token };
        // SAFETY: `event` is a valid epoll_event for the length of the call; the kernel copies it. Both descriptors are open.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event)
        })?;
        Ok(())
    }

    /// As [`Epoll::wait`], with a limit finer than milliseconds.
    pub(crate) fn wait_for(&self, events: &mut [Event], timeout: Duration) -> io::Result<usize> {
        let nanos = i64::from(timeout.subsec_nanos());
        let seconds = timeout.as_secs().try_into().unwrap_or(i64::MAX);
        let timeout = libc::timespec { tv_sec: seconds, tv_nsec: nanos };
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` is writable for `room` elements, and every bit pattern is a valid epoll_event; `timeout` is readable
        // for the call; no signal mask is given.
        match check(unsafe {
            libc::epoll_pwait2(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                room,
                &raw const timeout,
                core::ptr::null(),
            )
        }) {
            Ok(count) => Ok(count.unsigned_abs() as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Waits at most `timeout_ms` (-1: for ever) and fills the front of `events`; returns how many. A signal ends the wait early.
    pub(crate) fn wait(&self, events: &mut [Event], timeout_ms: i32) -> io::Result<usize> {
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` is writable for `room` elements, and every bit pattern is a valid epoll_event.
        match check(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms)
        }) {
            Ok(count) => Ok(count.unsigned_abs() as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// An event counter to wake an epoll with.
pub(crate) fn event_counter() -> io::Result<File> {
    // SAFETY: no pointer is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Accepts one connection, non-blocking. Errors are those of accept(2).
pub(crate) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let mut address = EMPTY_ADDRESS;
    let mut len = ADDRESS_BYTES;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `address` is writable for `len` bytes, the kernel writes no more than that; `len` is valid for the call.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut len, flags)
    })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((stream, decode_address(&address)))
}

/// Makes a non-blocking TCP socket bound to `address`, which does not listen yet; `options`, as level, name and
/// value, are set before binding.
pub(crate) fn bound_socket(
    address: SocketAddr,
    options: &[(i32, i32, i32)],
) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointer is passed.
    let fd = check(unsafe {
        libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_options(&socket, options)?;
    let (encoded, len) = encode_address(address);
    // SAFETY: `encoded` is readable for `len` bytes, which is at most its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const encoded).cast(), len) })?;
    Ok(TcpListener::from(socket))
}

/// Sets options of a socket, each a level, a name and a value.
pub(crate) fn set_options(socket: impl AsFd, options: &[(i32, i32, i32)]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    for &(level, name, value) in options {
        // SAFETY: `value` is readable for the size given, and the kernel copies it. The descriptor is open.
        check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), INT_BYTES) })?;
    }
    Ok(())
}

/// Makes a non-blocking TCP socket that will connect from `source`. It takes its port when it connects, not now
/// (`IP_BIND_ADDRESS_NO_PORT`), so that all ports of an address are there for every peer.
///
/// # Errors
/// What the kernel says; `AddrNotAvailable` when the address is not this machine's.
pub fn source_socket(source: IpAddr) -> io::Result<OwnedFd> {
    let options = [(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)];
    bound_socket(SocketAddr::new(source, 0), &options).map(OwnedFd::from)
}

/// Starts listening on a bound socket.
pub(crate) fn listen(socket: &TcpListener, backlog: u16) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), i32::from(backlog)) })?;
    Ok(())
}

/// Reads at most what fits into `bytes`; 0 is the peer's end. Errors are those of recv(2).
pub(crate) fn read(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is writable for its length.
    unsafe { receive(stream, bytes.as_mut_ptr(), bytes.len()) }
}

/// Reads at most what fits into the spare capacity of `bytes`, and appends it. Returns how much.
pub(crate) fn read_append(stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let spare = bytes.spare_capacity_mut();
    // SAFETY: `spare` is writable for its length.
    let count = unsafe { receive(stream, spare.as_mut_ptr().cast(), spare.len()) }?;
    let len = bytes.len() + count;
    // SAFETY: `len` is within the capacity, because `count` is at most the spare room, and the kernel filled that many.
    unsafe { bytes.set_len(len) };
    Ok(count)
}

/// Writes what the socket has room for; returns how much. Errors are those of send(2).
pub(crate) fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let [fd, flags] = [stream.as_raw_fd(), libc::MSG_NOSIGNAL].map(libc::c_long::from);
    // The system call itself: glibc's send and recv are points where a thread may be cancelled, and pay for that with
    // two atomic operations each.
    // SAFETY: `bytes` is readable for its length, the kernel copies it; there is no address.
    let count = unsafe {
        libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, NOWHERE, NO_BYTES)
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// One recv, without glibc, as [`write()`].
///
/// # Safety
/// `to` must be writable for `len` bytes. The kernel writes as many as this returns.
unsafe fn receive(stream: &TcpStream, to: *mut u8, len: usize) -> io::Result<usize> {
    let fd = libc::c_long::from(stream.as_raw_fd());
    // SAFETY: the kernel writes at most `len` bytes, which the caller vouches for; no address is asked for.
    let count =
        unsafe { libc::syscall(libc::SYS_recvfrom, fd, to, len, NO_FLAGS, NOWHERE, NOWHERE) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// No address, for calls that take one.
const NOWHERE: *const u8 = core::ptr::null();
const NO_BYTES: libc::c_long = 0;
const NO_FLAGS: libc::c_long = 0;

/// The cores the calling thread may run on.
pub(crate) fn affinity() -> io::Result<libc::cpu_set_t> {
    let mut set = no_cores();
    // SAFETY: `set` is writable for the size given.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    Ok(set)
}

/// Whether `core` is in the set; `core` is below [`CORES_MAX`].
pub(crate) fn core_is_set(core: usize, set: &libc::cpu_set_t) -> bool {
    assert!(core < CORES_MAX, "core number within the set");
    // SAFETY: `core` is within the set's bits, as asserted.
    unsafe { libc::CPU_ISSET(core, set) }
}

/// Binds the calling thread to one core, below [`CORES_MAX`].
pub(crate) fn pin(core: usize) -> io::Result<()> {
    assert!(core < CORES_MAX, "core number within the set");
    let mut set = no_cores();
    // SAFETY: `core` is within the set's bits, as asserted.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: `set` is readable for the size given.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })?;
    Ok(())
}

/// Raises the soft limit of open descriptors to the hard one; returns the limit then in force.
///
/// # Errors
/// What the kernel says; raising up to the hard limit needs no privilege.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is readable for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Cores a `cpu_set_t` has bits for.
pub(crate) const CORES_MAX: usize = 8 * size_of::<libc::cpu_set_t>();

fn no_cores() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value.
    unsafe { core::mem::zeroed() }
}

/// Turns -1 into the error the kernel left.
fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Reads the address the kernel wrote. An IPv4 address lies where an IPv6 one has its flow label, and port and family
/// lie in the same place, so one structure serves both.
fn decode_address(raw: &libc::sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(raw.sin6_port);
    let address = if i32::from(raw.sin6_family) == libc::AF_INET {
        Ipv4Addr::from(raw.sin6_flowinfo.to_ne_bytes()).into()
    } else {
        Ipv6Addr::from(raw.sin6_addr.s6_addr).to_canonical()
    };
    SocketAddr::new(address, port)
}

/// The reverse of [`decode_address`], with the length the kernel wants for the family.
fn encode_address(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    let mut raw = EMPTY_ADDRESS;
    raw.sin6_port = address.port().to_be();
    match address {
        SocketAddr::V4(address) => {
            raw.sin6_family = AF_INET;
            raw.sin6_flowinfo = u32::from_ne_bytes(address.ip().octets());
            (raw, IPV4_ADDRESS_BYTES)
        }
        SocketAddr::V6(address) => {
            raw.sin6_family = AF_INET6;
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = SocketAddrV6::scope_id(&address);
            (raw, ADDRESS_BYTES)
        }
    }
}

const EMPTY_ADDRESS: libc::sockaddr_in6 = libc::sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};
const AF_INET: libc::sa_family_t = 2;
const AF_INET6: libc::sa_family_t = 10;
const INT_BYTES: libc::socklen_t = 4;
const IPV4_ADDRESS_BYTES: libc::socklen_t = 16;
const ADDRESS_BYTES: libc::socklen_t = 28;

const _: () = assert!(AF_INET as i32 == libc::AF_INET && AF_INET6 as i32 == libc::AF_INET6);
const _: () = assert!(size_of::<libc::c_int>() == INT_BYTES as usize);
const _: () = assert!(size_of::<libc::sockaddr_in>() == IPV4_ADDRESS_BYTES as usize);
const _: () = assert!(size_of::<libc::sockaddr_in6>() == ADDRESS_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        for address in ["127.0.0.1:80", "255.1.2.3:65535", "[::1]:7272", "[fe80::1:2]:1"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(decode_address(&encode_address(address).0), address);
        }
    }

    #[test]
    fn mapped_ipv4_peer_is_shown_as_ipv4() {
        let mapped = encode_address("[::ffff:10.0.0.7]:99".parse().unwrap()).0;
        assert_eq!(decode_address(&mapped), "10.0.0.7:99".parse().unwrap());
    }

    #[test]
    fn descriptor_limit_becomes_the_hard_limit() {
        let limit = raise_descriptor_limit().unwrap();
        assert_eq!(raise_descriptor_limit().unwrap(), limit);
    }
}
