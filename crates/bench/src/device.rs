//! Options of clients that go past the kernel.

use core::net::IpAddr;
use core::str::FromStr;

use anyhow::{Context as _, Error, Result, ensure};

use crate::target::Sources;

/// The device clients are on; without one they are on the kernel's sockets.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceOptions {
    /// Past the kernel: clients on our own TCP over this device of DPDK's, as in "net_memif0,role=client,socket=/run/x.sock"
    /// (the server has role=server and is there first) or "net_tap0,iface=tap7". One thread polls it and takes a whole
    /// core. Needs a program built with the feature dpdk.
    #[arg(long, conflicts_with = "source")]
    pub(crate) device: Option<String>,
    /// The clients' addresses on the device, as in 10.1.1.1-10.1.1.20/16, or how many of those that follow the target's, in
    /// its /16. Each is good for 60 000 clients; as many as they need if not given.
    #[arg(long, requires = "device")]
    pub(crate) addresses: Option<Addresses>,
}

/// Where clients on a device come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// So many after the target's.
    Count(usize),
    Listed {
        addresses: Vec<IpAddr>,
        /// Of their network.
        prefix_len: u8,
    },
}

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(count) = text.parse::<usize>() {
            ensure!((1..=ADDRESSES_MAX).contains(&count), "1 to {ADDRESSES_MAX} addresses");
            return Ok(Self::Count(count));
        }
        let (list, prefix_len) = text
            .rsplit_once('/')
            .context("addresses end in the prefix of their network, as in 10.1.1.1-10.1.1.20/16")?;
        let prefix_len = prefix_len.parse().with_context(|| format!("/{prefix_len}"))?;
        let addresses = list.parse::<Sources>()?.into_addresses();
        ensure!(addresses.len() <= ADDRESSES_MAX, "at most {ADDRESSES_MAX} addresses");
        Ok(Self::Listed { addresses, prefix_len })
    }
}

/// What one stack can have.
const ADDRESSES_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_count_or_a_list_with_its_prefix() {
        assert_eq!("20".parse::<Addresses>().unwrap(), Addresses::Count(20));
        let list = ["10.2.0.255", "10.2.1.0"].map(|text| text.parse().unwrap()).to_vec();
        let listed = Addresses::Listed { addresses: list, prefix_len: 16 };
        assert_eq!("10.2.0.255-10.2.1.0/16".parse::<Addresses>().unwrap(), listed);
        for text in ["", "0", "70000", "10.2.0.1", "10.2.0.1/x", "10.2.0.9-10.2.0.1/16"] {
            assert!(text.parse::<Addresses>().is_err(), "{text:?}");
        }
    }
}
