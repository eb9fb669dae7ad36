//! Where clients connect to, and from which addresses.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::str::FromStr;
use std::net::ToSocketAddrs as _;

use anyhow::{Context as _, Error, Result, bail, ensure};

use crate::protocol::Protocol;

/// What a URL names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// As it was written, with the port.
    pub(crate) host: String,
    /// Begins with a slash.
    pub(crate) path: String,
}

/// Local addresses, taken in turn; empty when the kernel shall choose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    addresses: Vec<IpAddr>,
    next: usize,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("an address is SCHEME://HOST:PORT")?;
        let protocol = match scheme {
            "ws" | "websocket" => Protocol::Websocket,
            "text" => Protocol::Text,
            "frame" => Protocol::Frame,
            "http" => Protocol::Http,
            _ => bail!(
                "{scheme}:// is unknown; there are ws://, text://, frame:// and, for churn, http://"
            ),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = host
            .to_socket_addrs()
            .with_context(|| format!("{host} is no HOST:PORT"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self { protocol, address, host: host.to_owned(), path: format!("/{path}") })
    }
}

impl Sources {
    /// The next address to connect from.
    pub(crate) fn next(&mut self) -> Option<IpAddr> {
        let address = self.addresses.get(self.next % self.addresses.len().max(1)).copied();
        self.next = self.next.wrapping_add(1);
        address
    }

    /// All of them.
    pub(crate) fn into_addresses(self) -> Vec<IpAddr> {
        self.addresses
    }

    /// The same addresses, beginning with another one.
    pub(crate) fn starting_at(mut self, next: usize) -> Self {
        self.next = next;
        self
    }
}

impl FromStr for Sources {
    type Err = Error;

    /// Reads addresses and ranges of IPv4 addresses: `127.0.0.2-127.0.0.9,127.0.1.1`.
    fn from_str(list: &str) -> Result<Self> {
        let mut addresses = Vec::new();
        for item in list.split(',') {
            let Some((first, last)) = item.split_once('-') else {
                addresses.push(item.parse().with_context(|| format!("{item:?} is no address"))?);
                continue;
            };
            let read = |end: &str| {
                end.parse::<Ipv4Addr>().with_context(|| format!("{end:?} is no IPv4 address"))
            };
            let (first, last) = (u32::from(read(first)?), u32::from(read(last)?));
            ensure!(first <= last, "{item} ends before it begins");
            ensure!(last - first < SOURCES_MAX, "{item} is more than {SOURCES_MAX} addresses");
            addresses.extend((first..=last).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        }
        Ok(Self { addresses, next: 0 })
    }
}

/// Far more than any load needs; a longer range is a slip of the keyboard.
const SOURCES_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_ranges_and_single_addresses_in_turn() {
        let mut sources: Sources = "127.0.0.254-127.0.1.1,::1".parse().unwrap();
        let expected =
            ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "::1", "127.0.0.254"];
        for address in expected {
            assert_eq!(sources.next(), Some(address.parse().unwrap()));
        }
        assert_eq!(sources.starting_at(4).next(), Some("::1".parse().unwrap()));
        assert_eq!(Sources::default().next(), None);
    }

    #[test]
    fn sources_that_make_no_sense_are_refused() {
        for list in
            ["", "localhost", "127.0.0.9-127.0.0.2", "127.0.0.1-", "::1-::9", "0.0.0.0-9.9.9.9"]
        {
            assert!(list.parse::<Sources>().is_err(), "{list:?}");
        }
    }

    #[test]
    fn a_url_names_protocol_address_and_path() {
        let target: Target = "ws://127.0.0.1:8282/chat/room?a=1".parse().unwrap();
        assert_eq!(target.protocol, Protocol::Websocket);
        assert_eq!(target.address, "127.0.0.1:8282".parse().unwrap());
        assert_eq!(target.path, "/chat/room?a=1");
        let target: Target = "frame://127.0.0.1:1".parse().unwrap();
        assert_eq!((target.protocol, &*target.path), (Protocol::Frame, "/"));
        for url in ["127.0.0.1:8282", "wss://127.0.0.1:8282", "ws://127.0.0.1", "ws://"] {
            assert!(url.parse::<Target>().is_err(), "{url:?}");
        }
    }
}
