//! What this machine has: cores, memory, limits, interfaces. Read from /proc and /sys, without changing anything.

pub(crate) mod check;
mod netlink;

#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::cli::usable_cores;

/// What there is. `None`: the machine does not say.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Where `/proc` and `/sys` are below.
    root: PathBuf,
    /// Cores this process may use.
    pub(crate) cores: Vec<usize>,
    /// Memory that can be had without swapping, in bytes: the kernel's estimate, or what the cgroup leaves.
    pub(crate) memory_bytes: Option<u64>,
    /// Whether the cgroup leaves less than the machine has.
    pub(crate) is_confined: bool,
    /// Bytes of a huge page of the default size.
    pub(crate) huge_page_bytes: u64,
    /// Huge pages that nobody uses.
    pub(crate) huge_pages_free: u64,
    /// File descriptors at most, the soft limit raised. `None`: no limit.
    pub(crate) descriptors_max: Option<u64>,
    /// Bytes this process may lock. `None`: no limit.
    pub(crate) locked_bytes_max: Option<u64>,
    /// Effective capabilities, one bit each.
    capabilities: u64,
}

/// What the kernel may let a process do (capabilities(7)), by its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysAdmin = 21,
    Bpf = 39,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Whether it is up.
    pub(crate) is_up: bool,
    /// Receive queues.
    pub(crate) queues: u16,
    /// Its greatest packet in bytes.
    pub(crate) mtu: Option<u32>,
    /// Mbit/s, where the driver says.
    pub(crate) mbits: Option<u32>,
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciDevice {
    /// The kernel's driver it is bound to.
    pub(crate) driver: Option<String>,
    /// Its IOMMU group.
    pub(crate) iommu_group: Option<String>,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look() -> Self {
        let mut machine = Self::look_below(Path::new("/"), usable_cores());
        machine.descriptors_max = getrlimit(Resource::Nofile).maximum;
        machine.locked_bytes_max = getrlimit(Resource::Memlock).current;
        machine
    }

    /// Looks at the files of a machine that are kept in a directory. Limits of processes are not there.
    pub(crate) fn look_below(root: &Path, cores: Vec<usize>) -> Self {
        let mut machine = Self {
            root: root.to_owned(),
            cores,
            memory_bytes: None,
            is_confined: false,
            huge_page_bytes: 2 << 20,
            huge_pages_free: 0,
            descriptors_max: None,
            locked_bytes_max: None,
            capabilities: 0,
        };
        let meminfo = machine.text("proc/meminfo");
        let value = |key: &str| field(&meminfo, key).and_then(|value| value.parse::<u64>().ok());
        let available = value("MemAvailable:").map(|kib| kib << 10);
        machine.huge_pages_free = value("HugePages_Free:")
            .unwrap_or(0)
            .saturating_sub(value("HugePages_Rsvd:").unwrap_or(0));
        machine.huge_page_bytes = value("Hugepagesize:").map_or(2 << 20, |kib| kib << 10);
        let left = machine.cgroup_bytes_left();
        machine.is_confined = left.is_some_and(|left| available.is_none_or(|there| left < there));
        machine.memory_bytes = [available, left].into_iter().flatten().min();
        let status = machine.text("proc/self/status");
        let capabilities = field(&status, "CapEff:");
        machine.capabilities =
            capabilities.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        machine
    }

    /// Whether this process may do that.
    pub(crate) const fn may(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u32 & 1 == 1
    }

    /// Whether a file or directory is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    /// Whether a file system of that kind is mounted.
    pub(crate) fn has_mounted(&self, kind: &str) -> bool {
        let mounts = self.text("proc/self/mounts");
        mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind))
    }

    /// Whether the kernel knows an interface of that name, in the network namespace of this process.
    pub(crate) fn knows_interface(&self, name: &str) -> bool {
        if self.root != Path::new("/") {
            return false;
        }
        let domain = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(domain, rustix::net::SocketType::DGRAM, None);
        socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(socket, name).is_ok())
    }

    /// An interface by its name.
    pub(crate) fn interface(&self, name: &str) -> Option<Interface> {
        let below = format!("sys/class/net/{name}");
        let flags = self.text(&format!("{below}/flags"));
        let flags = u32::from_str_radix(flags.trim().strip_prefix("0x")?, 16).ok()?;
        let queues = fs::read_dir(self.root.join(&below).join("queues")).ok()?;
        let names = queues.flatten().map(|entry| entry.file_name());
        let queues = names.filter(|name| name.to_string_lossy().starts_with("rx-")).count();
        Some(Interface {
            is_up: flags & IFF_UP == IFF_UP,
            queues: u16::try_from(queues).unwrap_or(u16::MAX),
            mtu: self.text(&format!("{below}/mtu")).trim().parse().ok(),
            // Virtual interfaces say -1, and those that are down say nothing.
            mbits: self.text(&format!("{below}/speed")).trim().parse().ok(),
        })
    }

    /// Whether an XDP program is on an interface. `None`: the kernel does not say.
    pub(crate) fn has_xdp_program(&self, name: &str) -> Option<bool> {
        // The kernel is asked, and it knows this machine only.
        let index = self.text(&format!("sys/class/net/{name}/ifindex")).trim().parse().ok()?;
        netlink::has_xdp_program(index).ok()
    }

    /// A PCI device by its full address.
    pub(crate) fn pci_device(&self, address: &str) -> Option<PciDevice> {
        let below = self.root.join("sys/bus/pci/devices").join(address);
        let link = |name: &str| {
            let target = fs::read_link(below.join(name)).ok()?;
            Some(target.file_name()?.to_string_lossy().into_owned())
        };
        below
            .exists()
            .then(|| PciDevice { driver: link("driver"), iommu_group: link("iommu_group") })
    }

    /// Whether vfio works without an IOMMU.
    pub(crate) fn has_unsafe_vfio(&self) -> bool {
        self.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode").trim() == "Y"
    }

    /// Addresses the kernel answers for.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut found = Vec::new();
        let mut last = None;
        for line in self.text("proc/net/fib_trie").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["|--", address] => last = address.parse::<Ipv4Addr>().ok(),
                ["/32", "host", "LOCAL"] => found.extend(last.map(IpAddr::V4)),
                _ => {}
            }
        }
        let v6 = self.text("proc/net/if_inet6");
        let hex = v6.lines().filter_map(|line| line.split_whitespace().next());
        found.extend(
            hex.filter_map(|hex| u128::from_str_radix(hex, 16).ok())
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        );
        found
    }

    /// TCP ports the kernel listens on.
    pub(crate) fn listening_ports(&self) -> Vec<u16> {
        let mut ports = Vec::new();
        for file in ["proc/net/tcp", "proc/net/tcp6"] {
            for line in self.text(file).lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [_, local, _, LISTENING, ..] = words[..] else { continue };
                let port =
                    local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
                ports.extend(port.filter(|port| !ports.contains(port)));
            }
        }
        ports
    }

    /// What the nearest limit of a cgroup leaves, in bytes. Caches can be given back, so they are not counted.
    fn cgroup_bytes_left(&self) -> Option<u64> {
        let own = self.text("proc/self/cgroup");
        let entries = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            match controllers {
                "" => Some((path, &CGROUP_V2)),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    Some((path, &CGROUP_V1))
                }
                _ => None,
            }
        });
        let left = entries.flat_map(|(path, files)| {
            // In a container the path is the host's and not there; the mounted root is the container's own.
            Path::new(path.trim_start_matches('/'))
                .ancestors()
                .filter_map(|below| {
                    self.left_below(&format!("{}/{}", files.mount, below.display()), files)
                })
                .collect::<Vec<_>>()
        });
        left.min()
    }

    fn left_below(&self, directory: &str, files: &CgroupFiles) -> Option<u64> {
        let number =
            |name: &str| self.text(&format!("{directory}/{name}")).trim().parse::<u64>().ok();
        let limit = number(files.limit)?;
        let stat = self.text(&format!("{directory}/memory.stat"));
        let cache = field(&stat, files.cache).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(number(files.used)?.saturating_sub(cache)))
    }

    /// The text of a file; nothing when it is not there.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }
}

impl Capability {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// What a version of cgroups calls its files.
#[derive(Debug)]
struct CgroupFiles {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

const CGROUP_V2: CgroupFiles = CgroupFiles {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cache: "inactive_file",
};
const CGROUP_V1: CgroupFiles = CgroupFiles {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

/// The interface is up (netdevice(7)).
const IFF_UP: u32 = 1;
/// `TCP_LISTEN` in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The first word after a key at the beginning of a line.
fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(key));
    lines.find(|rest| rest.starts_with(char::is_whitespace))?.split_whitespace().next()
}
