//! Starting DPDK: its memory, its cores, its devices.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::CString;
use std::fs;
use std::io;

use super::sys::{EalUp, take_log};
use crate::affinity::allowed_cores;

/// What DPDK starts with. Nothing of it can change afterwards.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Cores for DPDK's own threads, which sleep nearly always, and where [`Eal::init`] leaves the calling thread; shards
    /// pin themselves afterwards. Empty: those the process may use.
    pub cores: Vec<usize>,
    /// What the pools live in.
    pub pages: Pages,
    /// Memory taken at start, in MiB: [`PortConfig::memory_bytes`](super::PortConfig::memory_bytes) of all ports, and some 4 MiB for
    /// DPDK itself. Opening a port can take further huge pages, but no further ordinary ones.
    pub memory_mib: u32,
    /// None: nothing is written to disk and no other process can attach. A name, one for each process on the machine:
    /// DPDK's tools can attach, and files are left below `/run/dpdk`.
    pub file_prefix: Option<String>,
    /// PCI addresses (`0000:3b:00.0`) and software devices with their arguments (`net_memif0,role=server,socket=/run/x`).
    /// Other PCI devices are left alone.
    pub devices: Vec<String>,
}

/// What DPDK's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages, which must be reserved beforehand; a real device needs them.
    Huge,
    /// Ordinary pages, which need no set-up and no privilege; for software devices. A buffer takes whole ones.
    Ordinary,
}

/// DPDK, started. It runs until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    pub(crate) up: EalUp,
    pub(crate) pages: Pages,
}

/// Why DPDK did not start. All are for the operator to mend, except that it was started before.
#[derive(Debug)]
pub enum EalError {
    /// A process can start DPDK once, even if that failed.
    AlreadyInitialised,
    /// The configuration has something DPDK does not take.
    Config {
        /// What DPDK logged.
        detail: String,
    },
    /// Fewer huge pages are free than were asked for.
    HugePages {
        /// Asked for, in MiB.
        wanted_mib: u32,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// The process may not use what it was told to.
    Permission {
        /// What DPDK logged.
        detail: String,
    },
    /// The memory asked for is not to be had.
    Memory {
        /// Asked for, in MiB.
        wanted_mib: u32,
        /// What DPDK logged.
        detail: String,
    },
    /// A device shares its buffers with another port or process, which could then change a frame while it is read.
    SharedBuffers {
        /// As configured.
        device: String,
    },
    /// A device is not there, or cannot be created.
    Device {
        /// As configured.
        device: String,
        /// What DPDK returned.
        error: io::Error,
        /// What DPDK logged.
        detail: String,
    },
    /// Anything else.
    Other {
        /// What DPDK returned.
        error: io::Error,
        /// What DPDK logged.
        detail: String,
    },
}

impl Eal {
    /// Starts DPDK and creates the devices. The calling thread may then run on the cores of the configuration.
    ///
    /// # Errors
    /// See [`EalError`]. After any of them, correct the cause and start the process again.
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        static CALLED: AtomicBool = AtomicBool::new(false);
        if CALLED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyInitialised);
        }
        check_before(config)?;
        let up = EalUp::init(arguments(config)?).map_err(|error| fault(config, error))?;
        let eal = Self { up, pages: config.pages };
        for device in &config.devices {
            eal.create(device)?;
        }
        Ok(eal)
    }

    /// Names of the ports there are, to open by.
    pub fn ports(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut from = 0;
        while let Some((port, name)) = self.up.port_from(from) {
            names.push(name);
            from = port + 1;
        }
        names
    }

    /// Creates a software device; a PCI device must have come up at start.
    fn create(&self, device: &str) -> Result<(), EalError> {
        let created = if is_pci(device) {
            let there = self.ports().iter().any(|port| port.contains(address(device)));
            if there { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
        } else {
            self.up.probe(&c_string(device)?)
        };
        created.map_err(|error| EalError::Device {
            device: device.to_owned(),
            error,
            detail: take_log(),
        })
    }
}

/// Refuses what would fail later or less clearly.
fn check_before(config: &EalConfig) -> Result<(), EalError> {
    // Frames are lent as `&mut [u8]`, so nobody else may have them.
    let shares = |device: &&String| SHARING.iter().any(|argument| device.contains(argument));
    if let Some(device) = config.devices.iter().find(shares) {
        return Err(EalError::SharedBuffers { device: device.clone() });
    }
    let free_mib = free_huge_pages_mib();
    if config.pages == Pages::Huge && free_mib < u64::from(config.memory_mib) {
        return Err(EalError::HugePages { wanted_mib: config.memory_mib, free_mib });
    }
    Ok(())
}

/// Huge pages of all sizes that are reserved and free; 0 when the kernel does not say.
fn free_huge_pages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free_kib = sizes.filter_map(|size| {
        let path = size.ok()?.path();
        let kib = path.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let pages = fs::read_to_string(path.join("free_hugepages")).ok()?;
        kib.parse::<u64>().ok()?.checked_mul(pages.trim().parse().ok()?)
    });
    free_kib.sum::<u64>() >> 10
}

/// The command line that says what `config` says.
fn arguments(config: &EalConfig) -> Result<Vec<CString>, EalError> {
    let allowed;
    let cores = if config.cores.is_empty() {
        allowed =
            allowed_cores().map_err(|error| EalError::Other { error, detail: String::new() })?;
        &allowed
    } else {
        &config.cores
    };
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    // One thread of DPDK's for all cores: shards are threads of this program.
    let mut line = vec!["tengate".to_owned(), "--lcores".to_owned()];
    line.push(format!("0@({})", cores.join(",")));
    line.extend(["--no-telemetry".to_owned(), "--log-level=*:error".to_owned()]);
    line.extend(["-m".to_owned(), config.memory_mib.to_string()]);
    if config.pages == Pages::Ordinary {
        line.push("--no-huge".to_owned());
    }
    match (&config.file_prefix, config.pages) {
        (None, Pages::Huge) => line.push("--in-memory".to_owned()),
        // Ordinary memory is never in files, and DPDK refuses to be told so.
        (None, Pages::Ordinary) => line.push("--no-shconf".to_owned()),
        (Some(prefix), _) => line.extend(["--file-prefix".to_owned(), prefix.clone()]),
    }
    let pci: Vec<&String> = config.devices.iter().filter(|device| is_pci(device)).collect();
    if pci.is_empty() {
        line.push("--no-pci".to_owned());
    }
    for device in pci {
        line.extend(["-a".to_owned(), device.clone()]);
    }
    line.iter().map(|argument| c_string(argument)).collect()
}

/// Whether a device is named by its PCI address, as `0000:3b:00.0` or `3b:00.0`, with or without arguments.
fn is_pci(device: &str) -> bool {
    let Some((front, function)) = address(device).rsplit_once('.') else { return false };
    let mut parts = front.split(':').chain([function]);
    (1..=2).contains(&front.matches(':').count())
        && parts.all(|part| !part.is_empty() && part.chars().all(|char| char.is_ascii_hexdigit()))
}

/// A device without its arguments.
fn address(device: &str) -> &str {
    device.split_once(',').map_or(device, |(address, _)| address)
}

fn c_string(text: &str) -> Result<CString, EalError> {
    CString::new(text).map_err(|_| EalError::Config { detail: format!("{text:?} has a zero byte") })
}

/// What DPDK's error number means here (`rte_eal_init` in rte_eal.h).
fn fault(config: &EalConfig, error: io::Error) -> EalError {
    let detail = take_log();
    match error.raw_os_error() {
        Some(libc::EALREADY) => EalError::AlreadyInitialised,
        Some(libc::EINVAL) => EalError::Config { detail },
        Some(libc::EACCES | libc::EPERM) => EalError::Permission { detail },
        Some(libc::ENOMEM) => EalError::Memory { wanted_mib: config.memory_mib, detail },
        _ => EalError::Other { error, detail },
    }
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInitialised => {
                write!(f, "DPDK was started in this process before, which it allows once")
            }
            Self::Config { detail } => {
                write!(f, "DPDK refuses its configuration; check cores and devices{}", Log(detail))
            }
            Self::HugePages { wanted_mib, free_mib } => write!(
                f,
                "DPDK is to have {wanted_mib} MiB of huge pages and {free_mib} MiB are free; reserve more, as with \
                 `sysctl vm.nr_hugepages={}`, or use ordinary memory with software devices",
                wanted_mib.div_ceil(2)
            ),
            Self::Permission { detail } => write!(
                f,
                "DPDK may not use its huge pages or runtime folder; with a file prefix both a mounted hugetlbfs and the \
                 right to it are needed: leave the prefix out, or use ordinary memory with software devices{}",
                Log(detail)
            ),
            Self::Memory { wanted_mib, detail } => write!(
                f,
                "DPDK cannot have {wanted_mib} MiB; give it less, or the machine or container more{}",
                Log(detail)
            ),
            Self::SharedBuffers { device } => write!(
                f,
                "the device {device:?} shares its buffers with another port or process; take {} away",
                SHARING.map(|argument| format!("`{argument}`")).join(" or ")
            ),
            Self::Device { device, error, detail } => write!(
                f,
                "DPDK cannot use the device {device:?} ({error}); {}{}",
                advice(device),
                Log(detail)
            ),
            Self::Other { error, detail } => {
                write!(f, "DPDK did not start: {error}{}", Log(detail))
            }
        }
    }
}

impl core::error::Error for EalError {}

/// Arguments that make a device share its buffers: of `net_memif`, and of `net_ring`.
const SHARING: [&str; 2] = ["zero-copy=yes", "nodeaction="];

/// What a device needs before DPDK can use it.
fn advice(device: &str) -> &'static str {
    if is_pci(device) {
        return "bind it to vfio-pci with dpdk-devbind.py, and see that IOMMU and permissions of /dev/vfio are in place";
    }
    let driver = address(device).trim_end_matches(|char: char| char.is_ascii_digit());
    match driver {
        "net_memif" => {
            "check its arguments and that the folder of its socket is there and writable"
        }
        "net_tap" => "it needs CAP_NET_ADMIN and /dev/net/tun",
        "net_af_packet" => "it needs CAP_NET_RAW and an interface that is there, named by `iface=`",
        "net_af_xdp" => {
            "it needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF and an interface that is there, named by `iface=`"
        }
        _ => {
            "check its name and its arguments, and that its driver is installed (`dpdk-pmdinfo.py` lists drivers)"
        }
    }
}

/// What DPDK logged, behind a sentence.
pub(crate) struct Log<'a>(pub(crate) &'a str);

impl fmt::Display for Log<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ". DPDK says: {}", self.0.replace('\n', "; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(devices: &[&str]) -> EalConfig {
        EalConfig {
            cores: vec![1, 3],
            pages: Pages::Ordinary,
            memory_mib: 64,
            file_prefix: None,
            devices: devices.iter().map(|&device| device.to_owned()).collect(),
        }
    }

    fn line(config: &EalConfig) -> String {
        let words = arguments(config).unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn devices_are_told_from_pci_addresses() {
        for pci in ["0000:3b:00.0", "3b:00.1", "0000:3b:00.0,rxq_comp_en=1"] {
            assert!(is_pci(pci), "{pci}");
        }
        for vdev in
            ["net_memif0,role=server,socket=/tmp/a:b.c", "net_tap0", "", "a.b", ":.", "1.2:3"]
        {
            assert!(!is_pci(vdev), "{vdev}");
        }
    }

    #[test]
    fn pci_is_scanned_only_for_devices_that_are_named() {
        let without = line(&config(&["net_tap0"]));
        assert!(without.contains("--no-pci") && !without.contains("-a "), "{without}");
        let with = line(&config(&["net_tap0", "0000:3b:00.0"]));
        assert!(!with.contains("--no-pci") && with.ends_with("-a 0000:3b:00.0"), "{with}");
    }

    #[test]
    fn memory_and_cores_become_arguments() {
        let ordinary = line(&config(&[]));
        assert!(ordinary.contains("--lcores 0@(1,3)"), "{ordinary}");
        assert!(ordinary.contains("-m 64 --no-huge --no-shconf"), "{ordinary}");
        let huge = EalConfig {
            pages: Pages::Huge,
            memory_mib: 2,
            file_prefix: Some("gate".to_owned()),
            ..config(&[])
        };
        let huge = line(&huge);
        assert!(!huge.contains("--no-huge") && huge.contains("-m 2 --file-prefix gate"), "{huge}");
    }

    #[test]
    fn more_huge_pages_than_are_free_are_refused_before_dpdk_starts() {
        let huge = EalConfig { pages: Pages::Huge, memory_mib: u32::MAX, ..config(&[]) };
        let error = check_before(&huge).unwrap_err();
        assert!(matches!(error, EalError::HugePages { wanted_mib: u32::MAX, .. }), "{error}");
        assert!(error.to_string().contains("vm.nr_hugepages=2147483648"), "{error}");
    }

    #[test]
    fn devices_that_share_their_buffers_are_refused() {
        for device in ["net_memif0,zero-copy=yes", "net_ring0,nodeaction=a:0:ATTACH"] {
            let refused = check_before(&config(&["net_null0", device]));
            assert!(matches!(refused, Err(EalError::SharedBuffers { .. })), "{device}");
        }
    }
}
