//! Bytes as a script: how an input of the fuzzer drives a whole core through the simulator's shell.

use core::net::{Ipv4Addr, SocketAddr};

/// What is left of a script. It ends where its bytes end.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    /// One of `items`, by the next byte.
    pub(crate) fn one_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let byte = usize::from(self.byte()?);
        items.get(byte % items.len().max(1)).copied()
    }

    /// As many bytes as the next byte says, or what is left.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?).min(self.0.len());
        self.0.split_off(..len)
    }
}

/// The address of a peer: each has its own port.
pub(crate) fn peer_address(index: usize) -> SocketAddr {
    let index = u16::try_from(index).expect("few peers");
    SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000 + index))
}

/// Connections a script may open; more would only make it slow.
pub(crate) const PEERS_MAX: usize = 40;
