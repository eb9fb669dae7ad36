//! Findings about this machine: what a gateway would miss here, before it is started.
//!
//! The same configuration may be right on another machine, so these are told apart from mistakes in it.

use core::ops::Range;

use super::{Capability, Interface, Machine};
use crate::config::{AfXdp, DataPath, Dpdk, Finding, Gateway, Netstack, PageKind, pci_address};
use crate::sizing::{Sizing, grouped, mib};

/// Descriptors a gateway has beside its clients': listeners, links to workers, epoll and what wakes it.
const DESCRIPTORS_BESIDE: u64 = 256;
/// Largest packet of an interface with AF_XDP, in bytes: a frame lies in one page, behind a head room of 256 bytes.
const MTU_AF_XDP_MAX: u32 = 4096 - 256 - 18;

/// Adds what a gateway with this configuration would miss on this machine. `shards` is how many it would start.
pub(crate) fn check(
    gateway: &Gateway,
    shards: u16,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) {
    let sizing = Sizing::of(gateway, shards);
    match gateway.path() {
        DataPath::Kernel => check_descriptors(gateway, machine, findings),
        DataPath::AfXdp { netstack, device } => {
            let place = place(gateway.af_xdp.span(), gateway);
            check_af_xdp(netstack, device, shards, machine, place.clone(), findings);
            check_locked(sizing.as_ref(), machine, place, findings);
            check_ports(gateway, machine, findings);
        }
        DataPath::Dpdk { device, .. } => {
            check_dpdk(gateway, device, sizing.as_ref(), machine, findings);
        }
    }
    if let Some(sizing) = &sizing {
        check_memory(gateway, sizing, machine, findings);
    }
}

fn check_descriptors(gateway: &Gateway, machine: &Machine, findings: &mut Vec<Finding>) {
    let Some((wanted, limit)) = gateway.max_connections.as_ref().zip(machine.descriptors_max)
    else {
        return;
    };
    let needed = u64::from(*wanted.get_ref()) + DESCRIPTORS_BESIDE;
    if needed > limit {
        let problem = format!(
            "{} connections need {} file descriptors, and this process can have {}",
            grouped(wanted.get_ref()),
            grouped(needed),
            grouped(limit)
        );
        let advice = format!(
            "raise the hard limit (`ulimit -Hn {needed}`, LimitNOFILE= of systemd), or lower max_connections"
        );
        findings.push(Finding::warning(wanted.span(), problem, advice));
    }
}

/// Pools that do not fit end the process when it is fullest. So that is an error where they are sized from a target; the
/// kernel's sockets may never become as many as they are allowed to.
fn check_memory(
    gateway: &Gateway,
    sizing: &Sizing,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) {
    let needed = sizing.memory.ordinary();
    let Some(there) = machine.memory_bytes.filter(|there| needed > *there) else { return };
    let there = grouped(mib(there));
    let problem = if machine.is_confined {
        format!("{sizing}, but its cgroup leaves {there} MiB")
    } else {
        format!("{sizing}, but {there} MiB are available")
    };
    match gateway.path() {
        DataPath::Kernel => {
            let advice = "lower max_connections, or give the machine more memory";
            let span = gateway.max_connections.as_ref().map_or(0..0, toml::Spanned::span);
            findings.push(Finding::warning(span, problem, advice));
        }
        DataPath::AfXdp { netstack, .. } | DataPath::Dpdk { netstack, .. } => {
            let largest = sizing.memory.parts().max_by_key(|(_, bytes)| *bytes);
            let key = match largest {
                Some(("TCP pools", _)) => "pool_bytes or connections_target",
                Some(("frames", _)) => "memory_bytes, descriptors or frames of the device",
                Some(_) | None => "connections_target",
            };
            let advice = format!("lower {key}, or give the machine more memory");
            let span = place(netstack.connections_target.span(), gateway);
            findings.push(Finding::error(span, problem, advice));
        }
    }
}

fn check_locked(
    sizing: Option<&Sizing>,
    machine: &Machine,
    place: Range<usize>,
    findings: &mut Vec<Finding>,
) {
    let needed = sizing.and_then(|sizing| sizing.bypass).map_or(0, |bypass| bypass.device_bytes);
    let Some(limit) = machine.locked_bytes_max.filter(|limit| needed > *limit) else { return };
    if !machine.may(Capability::IpcLock) {
        let problem = format!(
            "frames take {} MiB of locked memory, and this process may lock {} MiB",
            grouped(mib(needed)),
            grouped(limit >> 20)
        );
        let advice = "raise the limit (`ulimit -l`, LimitMEMLOCK= of systemd), or give the process CAP_IPC_LOCK";
        findings.push(Finding::error(place, problem, advice));
    }
}

fn check_dpdk(
    gateway: &Gateway,
    dpdk: &Dpdk,
    sizing: Option<&Sizing>,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) {
    if *dpdk.pages.get_ref() == PageKind::Huge {
        check_huge_pages(gateway, dpdk, sizing, machine, findings);
    }
    if let Some(prefix) = &dpdk.file_prefix
        && *dpdk.pages.get_ref() == PageKind::Huge
        && !machine.has_mounted("hugetlbfs")
    {
        let problem = "with file_prefix huge pages are files, and no hugetlbfs is mounted";
        let advice = "mount -t hugetlbfs none /dev/hugepages, or leave file_prefix out";
        findings.push(Finding::error(prefix.span(), problem, advice));
    }
    let Some(device) = &dpdk.device else { return };
    if let Some(address) = pci_address(device.get_ref()) {
        check_pci(&address, machine, device.span(), findings);
        if *dpdk.pages.get_ref() == PageKind::Huge {
            check_locked(sizing, machine, device.span(), findings);
        }
    } else {
        check_software_device(device.get_ref(), machine, device.span(), findings);
    }
}

fn check_huge_pages(
    gateway: &Gateway,
    dpdk: &Dpdk,
    sizing: Option<&Sizing>,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) {
    let needed = sizing.map_or(0, |sizing| sizing.memory.huge).div_ceil(machine.huge_page_bytes);
    if needed <= machine.huge_pages_free {
        return;
    }
    let size = machine.huge_page_bytes >> 20;
    let problem = format!(
        "{} huge pages of {size} MiB are needed, and {} are free",
        grouped(needed),
        grouped(machine.huge_pages_free)
    );
    let advice = format!(
        "sysctl vm.nr_hugepages={needed} if nobody else uses any, and a line in /etc/sysctl.d to keep it; or pages = \"ordinary\" for a software device. A tengate that runs already holds its own"
    );
    let span = [dpdk.memory_bytes.as_ref().map(toml::Spanned::span), Some(dpdk.pages.span())];
    let span = span.into_iter().flatten().find(|span| !span.is_empty());
    let span = span.unwrap_or_else(|| place(gateway.dpdk.span(), gateway));
    findings.push(Finding::error(span, problem, advice));
}

fn check_pci(address: &str, machine: &Machine, span: Range<usize>, findings: &mut Vec<Finding>) {
    let Some(device) = machine.pci_device(address) else {
        let problem = format!("there is no PCI device {address}");
        let advice = "`dpdk-devbind.py --status-dev net` lists the network devices";
        findings.push(Finding::error(span, problem, advice));
        return;
    };
    let driver = device.driver.as_deref().unwrap_or("no driver");
    // NVIDIA's drivers share the device with DPDK; the others give it up.
    let is_shared = matches!(driver, "mlx5_core" | "mlx4_core" | "mana");
    let is_handed_over = matches!(driver, "vfio-pci" | "uio_pci_generic" | "igb_uio");
    if !is_shared && !is_handed_over {
        let problem = format!("{address} is with {driver}, not with one that DPDK can use");
        let advice = format!(
            "modprobe vfio-pci, then dpdk-devbind.py --bind=vfio-pci {address}; the kernel loses the device and its addresses"
        );
        findings.push(Finding::error(span, problem, advice));
    } else if driver == "vfio-pci" {
        check_vfio(address, device.iommu_group.as_deref(), machine, span, findings);
    }
}

fn check_vfio(
    address: &str,
    group: Option<&str>,
    machine: &Machine,
    span: Range<usize>,
    findings: &mut Vec<Finding>,
) {
    match group {
        None if !machine.has_unsafe_vfio() => {
            let problem = format!("{address} is in no IOMMU group, so vfio refuses it");
            let advice = "turn the IOMMU on (firmware, intel_iommu=on iommu=pt), or where there is none: echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
            findings.push(Finding::error(span, problem, advice));
        }
        None => {
            let problem = format!("{address} has no IOMMU: it can write anywhere in memory");
            findings.push(Finding::warning(span, problem, "turn the IOMMU on where there is one"));
        }
        Some(group) if !machine.has(&format!("/dev/vfio/{group}")) => {
            let problem = format!("/dev/vfio/{group} of {address} is not there");
            let advice = "modprobe vfio-pci; in a container, pass the device in";
            findings.push(Finding::error(span, problem, advice));
        }
        Some(_) => {}
    }
}

fn check_software_device(
    device: &str,
    machine: &Machine,
    span: Range<usize>,
    findings: &mut Vec<Finding>,
) {
    let argument = |key: &str| {
        device.split(',').skip(1).find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    };
    let takes_interface =
        ["net_af_packet", "net_af_xdp"].iter().any(|name| device.starts_with(name));
    if let Some(name) = argument("iface").filter(|_| takes_interface) {
        check_interface(name, machine, &span, findings);
    }
    let needed: &[Capability] = if device.starts_with("net_af_packet") {
        &[Capability::NetRaw]
    } else if device.starts_with("net_af_xdp") {
        &[Capability::NetAdmin, Capability::NetRaw, Capability::Bpf]
    } else if device.starts_with("net_tap") {
        &[Capability::NetAdmin]
    } else {
        &[]
    };
    check_capabilities(needed, machine, &span, findings);
    if device.starts_with("net_tap") && !machine.has("/dev/net/tun") {
        let advice = "modprobe tun; in a container, pass the device in";
        findings.push(Finding::error(span.clone(), "/dev/net/tun is not there", advice));
    }
    if let Some(socket) = argument("socket").filter(|socket| socket.starts_with('/')) {
        let is_client = argument("role").is_none_or(|role| matches!(role, "client" | "slave"));
        let folder = socket.rsplit_once('/').map_or("/", |(folder, _)| folder);
        if is_client && !machine.has(socket) {
            let advice = "start the server first, which has role=server";
            findings.push(Finding::error(span, format!("{socket} is not there"), advice));
        } else if !is_client && !machine.has(folder) {
            let problem = format!("the folder of {socket} is not there");
            findings.push(Finding::error(span, problem, format!("mkdir -p {folder}")));
        }
    }
}

fn check_af_xdp(
    netstack: &Netstack,
    device: &AfXdp,
    shards: u16,
    machine: &Machine,
    place: Range<usize>,
    findings: &mut Vec<Finding>,
) {
    let needed = [Capability::NetAdmin, Capability::NetRaw, Capability::Bpf];
    check_capabilities(&needed, machine, &place, findings);
    let Some(named) = &device.interface else { return };
    let (name, span) = (named.get_ref().as_str(), named.span());
    let Some(interface) = check_interface(name, machine, &span, findings) else { return };
    check_queues(name, &interface, shards, span.clone(), findings);
    if machine.has_xdp_program(name) == Some(true) {
        let problem = format!("an XDP program is on {name} already");
        let advice = format!(
            "ip link set {name} xdp off, or stop what put it there, such as a tengate that runs"
        );
        findings.push(Finding::error(span.clone(), problem, advice));
    }
    let mtu = u32::from(*netstack.mtu.get_ref());
    if let Some(own) = interface.mtu {
        if mtu > own {
            let problem = format!("packets of {mtu} bytes do not fit {name}, which takes {own}");
            let advice =
                format!("set mtu = {own} in [gateway.netstack], or ip link set {name} mtu {mtu}");
            findings.push(Finding::error(span.clone(), problem, advice));
        } else if own > MTU_AF_XDP_MAX {
            let problem =
                format!("{name} has an mtu of {own}, and AF_XDP takes {MTU_AF_XDP_MAX} at most");
            let advice = format!("ip link set {name} mtu 1500");
            findings.push(Finding::error(span.clone(), problem, advice));
        }
    }
    check_own_addresses(name, netstack, machine, findings);
}

/// The kernel goes on answering for the addresses, so it must have them.
fn check_own_addresses(
    name: &str,
    netstack: &Netstack,
    machine: &Machine,
    findings: &mut Vec<Finding>,
) {
    let addresses = machine.addresses();
    for own in netstack.addresses.get_ref() {
        let address = own.get_ref().address;
        if !addresses.contains(&address) {
            let problem =
                format!("no interface has {address}, so the kernel does not answer who has it");
            let advice = format!("ip address add {} dev {name}", own.get_ref());
            findings.push(Finding::warning(own.span(), problem, advice));
        }
    }
}

/// An interface that is there. Adds what is wrong when it is not, or not up.
fn check_interface(
    name: &str,
    machine: &Machine,
    span: &Range<usize>,
    findings: &mut Vec<Finding>,
) -> Option<Interface> {
    let interface = machine.interface(name);
    match &interface {
        // `/sys` may be of another network namespace than this process.
        None if machine.knows_interface(name) => {}
        None => {
            let problem = format!("there is no interface {name}");
            findings.push(Finding::error(span.clone(), problem, "`ip link` lists them"));
        }
        Some(Interface { is_up: false, .. }) => {
            let problem = format!("the interface {name} is down");
            findings.push(Finding::error(span.clone(), problem, format!("ip link set {name} up")));
        }
        Some(_) => {}
    }
    interface
}

/// Shard i serves queue i, so there must be as many of one as of the other.
fn check_queues(
    name: &str,
    interface: &Interface,
    shards: u16,
    span: Range<usize>,
    findings: &mut Vec<Finding>,
) {
    let queues = interface.queues;
    let plural = if queues == 1 { "" } else { "s" };
    if queues < shards {
        let problem = format!("{name} has {queues} receive queue{plural} for {shards} shards");
        let advice =
            format!("set shards = {queues} in [gateway], or ethtool -L {name} combined {shards}");
        findings.push(Finding::error(span, problem, advice));
    } else if queues > shards {
        let problem = format!(
            "{name} has {queues} receive queues for {shards} shards, and what comes to the others would be lost"
        );
        let advice =
            format!("ethtool -L {name} combined {shards}, or shards = {queues} in [gateway]");
        findings.push(Finding::error(span, problem, advice));
    }
}

fn check_capabilities(
    needed: &[Capability],
    machine: &Machine,
    span: &Range<usize>,
    findings: &mut Vec<Finding>,
) {
    // CAP_SYS_ADMIN was what CAP_BPF is since Linux 5.8, and still includes it.
    let may = |capability: Capability| {
        machine.may(capability)
            || capability == Capability::Bpf && machine.may(Capability::SysAdmin)
    };
    let missing: Vec<&str> =
        needed.iter().filter(|capability| !may(**capability)).map(|one| one.name()).collect();
    if !missing.is_empty() {
        let problem = format!("this process does not have {}", missing.join(", "));
        let advice = format!(
            "start it as root, or give it them: AmbientCapabilities={} of systemd",
            missing.join(" ")
        );
        findings.push(Finding::error(span.clone(), problem, advice));
    }
}

/// Frames for a client port no longer reach whoever listens there through the kernel.
fn check_ports(gateway: &Gateway, machine: &Machine, findings: &mut Vec<Finding>) {
    let taken = machine.listening_ports();
    let clients = gateway.client.get_ref().iter();
    for listen in clients.filter_map(|client| client.get_ref().listen.as_ref()) {
        let port = listen.get_ref().0.port();
        if taken.contains(&port) {
            let problem =
                format!("something listens on port {port} already, and would get nothing any more");
            let advice = "choose another port, or stop it";
            findings.push(Finding::warning(listen.span(), problem, advice));
        }
    }
}

/// The place of a value, or of what makes its default count.
fn place(span: Range<usize>, gateway: &Gateway) -> Range<usize> {
    if span.is_empty() { gateway.data_path.span() } else { span }
}
