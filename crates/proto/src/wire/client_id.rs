//! client_id: 20 hexadecimal characters that name a client in the whole cluster (docs/protocol.md#client-id).

use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::str::FromStr;

/// A client of the cluster: the gateway's inner address and the connection's number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// The gateway's lan IPv4 address.
    pub local_ip: u32,
    /// The gateway's inner port.
    pub local_port: u16,
    /// The connection on that gateway.
    pub connection_id: u32,
}

/// Not a client_id: it must be 20 hexadecimal characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClientId;

impl ClientId {
    /// The gateway's inner address, as the register announces it.
    pub fn gateway(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from_bits(self.local_ip), self.local_port)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:04x}{:08x}", self.local_ip, self.local_port, self.connection_id)
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        if text.len() != 20 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidClientId);
        }
        let part = |range| u64::from_str_radix(&text[range], 16).map_err(|_| InvalidClientId);
        Ok(Self {
            local_ip: u32::try_from(part(0..8)?).map_err(|_| InvalidClientId)?,
            local_port: u16::try_from(part(8..12)?).map_err(|_| InvalidClientId)?,
            connection_id: u32::try_from(part(12..20)?).map_err(|_| InvalidClientId)?,
        })
    }
}

impl fmt::Display for InvalidClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a client_id is 20 hexadecimal characters")
    }
}

impl core::error::Error for InvalidClientId {}
