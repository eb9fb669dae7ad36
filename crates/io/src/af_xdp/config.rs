//! What an interface is opened with.

use core::net::IpAddr;

use super::error::AfXdpError;
use super::limits::{
    ADDRESSES_MAX, BURST_FRAMES, DESCRIPTORS_MAX, DESCRIPTORS_MIN, FRAMES_MAX, PORTS_MAX,
    QUEUES_MAX,
};

/// How an interface is opened. [`Config::new`] fills in what fits a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface's name, in the network namespace of the thread that opens it.
    pub interface: String,
    /// TCP packets to these addresses are taken, if their port is; 1 to 1024.
    pub addresses: Vec<IpAddr>,
    /// TCP packets to these ports are taken, if their address is; 1 to 64.
    pub ports: Vec<u16>,
    /// Sockets, one for each shard; as many as the interface has receive queues, 1 to 64.
    pub queue_count: u16,
    /// Where the steering program runs.
    pub mode: Mode,
    /// Who copies frames.
    pub zero_copy: ZeroCopy,
    /// Places of the fill and rx rings: frames that may arrive while the shard does something else. A power of two from
    /// 64 to 32 768.
    pub rx_descriptors: u32,
    /// Places of the tx and completion rings: frames on their way out. A power of two from 64 to 32 768.
    pub tx_descriptors: u32,
    /// Frames of each queue, at least [`frames_min`](Self::frames_min) and at most 65 536.
    pub frames: u32,
}

/// Where the steering program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native if the driver can, generic otherwise; [`Interface::attached`](super::Interface::attached) says which.
    Auto,
    /// In the driver, before the kernel makes anything of a frame.
    Native,
    /// In the kernel's stack, with every driver, and slower.
    Generic,
}

/// Who copies frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Nobody if the driver can do without, the kernel otherwise.
    Auto,
    /// The kernel.
    Off,
    /// Nobody, or the interface is not opened.
    Required,
}

impl Config {
    /// The best mode there is, and queues of 2048 places each way: 8 to 16 MiB each.
    pub fn new(interface: &str, addresses: Vec<IpAddr>, ports: Vec<u16>, queue_count: u16) -> Self {
        let mut config = Self {
            interface: interface.to_owned(),
            addresses,
            ports,
            queue_count,
            mode: Mode::Auto,
            zero_copy: ZeroCopy::Auto,
            rx_descriptors: DESCRIPTORS_DEFAULT,
            tx_descriptors: DESCRIPTORS_DEFAULT,
            frames: 0,
        };
        config.frames = config.frames_min();
        config
    }

    /// Frames of a queue that can be in use at once: those in full rings. A burst in work borrows from the rx ring's.
    pub fn frames_min(&self) -> u32 {
        self.rx_descriptors.saturating_add(self.tx_descriptors)
    }

    /// Refuses what is out of range.
    pub(crate) fn check(&self) -> Result<(), AfXdpError> {
        let in_range = |what, value: u32, min: u32, max: u32| {
            let within = (min..=max).contains(&value);
            if within { Ok(()) } else { Err(AfXdpError::Range { what, value, min, max }) }
        };
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        in_range("addresses", count(self.addresses.len()), 1, ADDRESSES_MAX)?;
        in_range("ports", count(self.ports.len()), 1, PORTS_MAX)?;
        in_range("queues", self.queue_count.into(), 1, QUEUES_MAX.into())?;
        for (what, value) in [
            ("places of the rx ring", self.rx_descriptors),
            ("places of the tx ring", self.tx_descriptors),
        ] {
            in_range(what, value, DESCRIPTORS_MIN, DESCRIPTORS_MAX)?;
            if !value.is_power_of_two() {
                return Err(AfXdpError::PowerOfTwo { what, value });
            }
        }
        in_range("frames of a queue", self.frames, self.frames_min(), FRAMES_MAX)
    }
}

/// What copies fit into on a busy virtual interface, and a millisecond of small frames on a fast one.
const DESCRIPTORS_DEFAULT: u32 = 2048;

const _: () = assert!(BURST_FRAMES < DESCRIPTORS_DEFAULT as usize);

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let good = Config::new("eth0", vec![Ipv4Addr::LOCALHOST.into()], vec![80], 1);
        assert!(good.check().is_ok());
        let refusal = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        for (message, change) in [
            ("addresses are 0", (|config| config.addresses.clear()) as fn(&mut Config)),
            ("ports are 65", |config| config.ports = vec![1; 65]),
            ("queues are 0", |config| config.queue_count = 0),
            ("the tx ring are 1000, which", |config| config.tx_descriptors = 1000),
            ("the rx ring are 32", |config| config.rx_descriptors = 32),
            ("frames of a queue are 4095", |config| config.frames = 4095),
        ] {
            let said = refusal(change);
            assert!(said.contains(message), "{said}");
        }
    }
}
