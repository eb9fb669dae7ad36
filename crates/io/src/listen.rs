//! Opening listeners, before any thread starts, with errors that say what to do.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;

use crate::limits::HOSTS_MAX;
use crate::sys;

/// A listener to open.
#[derive(Clone, Copy, Debug)]
pub struct ListenSpec {
    /// Where; port 0 lets the kernel choose.
    pub addr: SocketAddr,
    /// Connections the kernel holds for each listening socket until they are accepted.
    pub backlog: u16,
    /// How the shards share it.
    pub sharing: Sharing,
}

/// How the shards share a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// A socket a shard, the kernel deals by a hash of the addresses (SO_REUSEPORT). For many clients.
    PerShard,
    /// Shard 0 accepts and deals by the peer's address: every host's connections go to one shard, hosts to all shards in
    /// turn. For worker links: what a worker says on one connection and asks on the next is then handled in that order.
    /// The kernel probes these connections, so that a host that loses power is noticed within a minute.
    ByHost,
}

/// Deals hosts out to shards.
#[derive(Debug, Default)]
pub(crate) struct Dealer {
    homes: BTreeMap<IpAddr, usize>,
    next: usize,
}

impl Dealer {
    /// The shard of a host: the one it had before, or the next one's turn.
    pub(crate) fn shard_of(&mut self, host: IpAddr, shard_count: usize) -> usize {
        if self.homes.len() >= HOSTS_MAX {
            // Old hosts are dealt anew; only connections that one host opens just around this moment can part.
            self.homes.clear();
        }
        *self.homes.entry(host).or_insert_with(|| {
            let shard = self.next % shard_count;
            self.next = shard + 1;
            shard
        })
    }
}

/// An open listener. Its place in the list given to [`run`](crate::run()) is its [`Door`](tengate_base::Door).
#[derive(Debug)]
pub struct Listener {
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) addr: SocketAddr,
    pub(crate) sharing: Sharing,
}

impl Listener {
    /// Where it listens; the port is the kernel's choice when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Opens a listener for `shard_count` shards.
///
/// # Errors
/// The address cannot be had; see [`BindFault`].
pub fn bind(spec: &ListenSpec, shard_count: u16) -> Result<Listener, BindError> {
    try_bind(spec, shard_count)
        .map_err(|error| BindError { addr: spec.addr, fault: BindFault::from(error) })
}

fn try_bind(spec: &ListenSpec, shard_count: u16) -> io::Result<Listener> {
    // Accepted sockets inherit all of these: one call here instead of one a connection.
    let mut options =
        vec![(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1), (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)];
    if spec.sharing == Sharing::ByHost {
        options.extend(DEAD_HOST_OPTIONS);
    }
    let mut addr = spec.addr;
    // With SO_REUSEPORT a second server of the same user would silently share the port; without it the kernel tells.
    let mut sockets = vec![sys::bound_socket(addr, &options)?];
    if spec.sharing == Sharing::PerShard && shard_count > 1 {
        sockets.clear();
        options.push((libc::SOL_SOCKET, libc::SO_REUSEPORT, 1));
        for _ in 0..shard_count {
            let socket = sys::bound_socket(addr, &options)?;
            addr = socket.local_addr()?;
            sockets.push(socket);
        }
    }
    for socket in &sockets {
        sys::listen(socket, spec.backlog)?;
    }
    let addr = sockets[0].local_addr()?;
    Ok(Listener { sockets, addr, sharing: spec.sharing })
}

/// Finds a host that is gone without a word within a minute: silent for 25 s, then three probes 10 s apart; or bytes it does
/// not acknowledge for 60 s.
pub(crate) const DEAD_HOST_OPTIONS: [(i32, i32, i32); 5] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 25),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 60_000),
];

/// A listener could not be opened.
#[derive(Debug)]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// Why not.
    pub fault: BindFault,
}

/// Why an address cannot be listened on. All are for the operator to mend.
#[derive(Debug)]
pub enum BindFault {
    /// Another socket has the port.
    InUse,
    /// A port below 1024 without the right to it.
    Permission,
    /// No interface has the address.
    NotLocal,
    /// Anything else, as the kernel says it.
    Other(io::Error),
}

impl From<io::Error> for BindFault {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse,
            Some(libc::EACCES | libc::EPERM) => Self::Permission,
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal,
            _ => Self::Other(error),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, fault } = self;
        match fault {
            BindFault::InUse => write!(
                f,
                "cannot listen on {addr}: the port is taken; `ss -ltnp 'sport = :{}'` shows by whom; stop that process or choose another port",
                addr.port()
            ),
            BindFault::Permission => write!(
                f,
                "cannot listen on {addr}: no permission; use a port from 1024 on, or give the program CAP_NET_BIND_SERVICE"
            ),
            BindFault::NotLocal => write!(
                f,
                "cannot listen on {addr}: no interface of this machine has the address {}; `ip address` lists them, 0.0.0.0 means all",
                addr.ip()
            ),
            BindFault::Other(error) => write!(f, "cannot listen on {addr}: {error}"),
        }
    }
}

impl core::error::Error for BindError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match &self.fault {
            BindFault::Other(error) => Some(error),
            BindFault::InUse | BindFault::Permission | BindFault::NotLocal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(addr: &str, sharing: Sharing) -> ListenSpec {
        ListenSpec { addr: addr.parse().unwrap(), backlog: 16, sharing }
    }

    #[test]
    fn a_host_keeps_its_shard_and_hosts_go_to_all_shards_in_turn() {
        let mut dealer = Dealer::default();
        let host = |last: u8| IpAddr::from([10, 0, 0, last]);
        let dealt: Vec<usize> =
            [1, 2, 1, 3, 4, 2, 1].into_iter().map(|last| dealer.shard_of(host(last), 3)).collect();
        assert_eq!(dealt, [0, 1, 0, 2, 0, 1, 0]);
        for host in 0..3 * u32::try_from(HOSTS_MAX).unwrap() {
            dealer.shard_of(core::net::Ipv4Addr::from(host).into(), 3);
            assert!(dealer.homes.len() <= HOSTS_MAX);
        }
    }

    #[test]
    fn every_shard_gets_a_socket_of_the_same_port() {
        let listener = bind(&spec("127.0.0.1:0", Sharing::PerShard), 3).unwrap();
        assert_eq!(listener.sockets.len(), 3);
        assert!(
            listener
                .sockets
                .iter()
                .all(|socket| socket.local_addr().unwrap() == listener.local_addr())
        );
        assert_ne!(listener.local_addr().port(), 0);
    }

    #[test]
    fn port_of_another_shared_listener_is_refused_with_advice() {
        let first = bind(&spec("127.0.0.1:0", Sharing::PerShard), 2).unwrap();
        let again =
            ListenSpec { addr: first.local_addr(), ..spec("127.0.0.1:0", Sharing::PerShard) };
        let error = bind(&again, 2).unwrap_err();
        assert!(matches!(error.fault, BindFault::InUse));
        assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
    }

    #[test]
    fn foreign_address_is_refused_with_advice() {
        let error = bind(&spec("192.0.2.1:0", Sharing::ByHost), 1).unwrap_err();
        assert!(matches!(error.fault, BindFault::NotLocal), "{error}");
    }
}
