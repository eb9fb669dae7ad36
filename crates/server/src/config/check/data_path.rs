//! Findings about the data path: what the chosen one lacks, and what is set for another.

use core::net::{IpAddr, SocketAddr};
use core::ops::{Range, RangeInclusive};
use core::time::Duration;
use std::collections::BTreeSet;

use toml::Spanned;

use super::super::data_path::{
    AfXdp, DataPath, Dpdk, Netstack, PageKind, PathName, XdpMode, ZeroCopy,
};
use super::super::source::Finding;
use super::super::{Gateway, Period};
use super::{check_positive, collide};

/// Whether the program was built with DPDK.
const HAS_DPDK: bool = cfg!(feature = "dpdk");

/// Packets of a link, in bytes: what IPv4 wants at least, and what a frame of one piece holds.
const MTU_RANGE: RangeInclusive<u16> = 576..=9000;
/// Packets of a link in AF_XDP, in bytes: a frame lies in one page, behind the kernel's head room of 256 bytes.
const MTU_AF_XDP_MAX: u16 = 4096 - 256 - 18;
/// Least packet of an IPv6 link (RFC 8200 5).
const MTU_V6_MIN: u16 = 1280;
/// Windows and send buffers (RFC 7323 2.3).
const BUFFER_RANGE: RangeInclusive<u64> = 2048..=1 << 30;
/// Descriptors of a DPDK queue.
const DESCRIPTORS_RANGE: RangeInclusive<u16> = 64..=4096;
/// What DPDK may be given: as many MiB as it can be told.
const MEMORY_RANGE: RangeInclusive<u64> = 32 << 20..=(u32::MAX as u64) << 20;
/// Frames of an AF_XDP queue.
const FRAMES_RANGE: RangeInclusive<u32> = 512..=1 << 16;
/// Queues of a device, and shards on it.
const QUEUES_MAX: u16 = 64;
/// Addresses, and ports, that AF_XDP can tell apart from others.
const ADDRESSES_AF_XDP_MAX: usize = 1024;
/// See [`ADDRESSES_AF_XDP_MAX`].
const PORTS_AF_XDP_MAX: usize = 64;
/// A longer sleep overflows any receive queue.
const SLEEP_LIMIT: Duration = Duration::from_millis(100);
/// Longest name of an interface (`IFNAMSIZ`, less the final zero).
const INTERFACE_LEN_MAX: usize = 15;

/// Adds what is wrong with the data path. Missing keys are only reported when the configuration is `complete`.
pub(super) fn check(gateway: &Gateway, complete: bool, findings: &mut Vec<Finding>) {
    check_foreign_sections(gateway, findings);
    match gateway.path() {
        DataPath::Kernel => {}
        DataPath::AfXdp { netstack, device } => {
            check_netstack(gateway, netstack, complete, findings);
            check_af_xdp(gateway, device, complete, findings);
        }
        DataPath::Dpdk { netstack, device } => {
            check_built(gateway, findings);
            check_netstack(gateway, netstack, complete, findings);
            check_dpdk(gateway, device, complete, findings);
        }
    }
}

fn check_built(gateway: &Gateway, findings: &mut Vec<Finding>) {
    if !HAS_DPDK {
        let problem = "this tengate was built without DPDK";
        let advice = "install libdpdk-dev and pkg-config, and build with `cargo build --release -p tengate --features dpdk`";
        findings.push(Finding::error(gateway.data_path.span(), problem, advice));
    }
}

/// A section for another path does nothing. It may wait for its day, so it is no error.
fn check_foreign_sections(gateway: &Gateway, findings: &mut Vec<Finding>) {
    let chosen = *gateway.data_path.get_ref();
    let sections = [
        ("netstack", gateway.netstack.span(), &[PathName::AfXdp, PathName::Dpdk][..]),
        ("dpdk", gateway.dpdk.span(), &[PathName::Dpdk]),
        ("af_xdp", gateway.af_xdp.span(), &[PathName::AfXdp]),
    ];
    for (name, span, owners) in sections {
        if !span.is_empty() && !owners.contains(&chosen) {
            let problem =
                format!("[gateway.{name}] has no effect with data_path = \"{}\"", chosen.name());
            let owners: Vec<String> =
                owners.iter().map(|owner| format!("\"{}\"", owner.name())).collect();
            let advice = format!("set data_path = {}, or remove the section", owners.join(" or "));
            findings.push(Finding::warning(span, problem, advice));
        }
    }
}

fn check_netstack(
    gateway: &Gateway,
    netstack: &Netstack,
    complete: bool,
    findings: &mut Vec<Finding>,
) {
    check_addresses(gateway, netstack, complete, findings);
    check_gateways(netstack, findings);
    check_listeners(gateway, netstack, findings);
    check_link(gateway, netstack, findings);
    check_capacity(gateway, netstack, findings);
    check_queues(gateway, findings);
    check_keepalive(netstack, findings);
}

fn check_addresses(
    gateway: &Gateway,
    netstack: &Netstack,
    complete: bool,
    findings: &mut Vec<Finding>,
) {
    let addresses = &netstack.addresses;
    if addresses.get_ref().is_empty() && complete {
        let place =
            if addresses.span().is_empty() { &gateway.data_path.span() } else { &addresses.span() };
        let problem = "the TCP/IP stack has no address";
        let advice =
            "add addresses = [\"10.0.0.5/24\"] to [gateway.netstack], as clients reach this box";
        findings.push(Finding::error(place.clone(), problem, advice));
    }
    let mut seen = BTreeSet::new();
    for cidr in addresses.get_ref() {
        let address = cidr.get_ref().address;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            let problem = format!("{address} cannot be the address of a host");
            let advice = "name the address clients connect to";
            findings.push(Finding::error(cidr.span(), problem, advice));
        } else if !seen.insert(address) {
            let problem = format!("{address} is listed twice");
            findings.push(Finding::error(cidr.span(), problem, "name each address once"));
        }
    }
}

fn check_gateways(netstack: &Netstack, findings: &mut Vec<Finding>) {
    let addresses = netstack.addresses.get_ref();
    let mut versions = BTreeSet::new();
    for router in &netstack.gateways {
        let address = *router.get_ref();
        if addresses.iter().any(|own| own.get_ref().address == address) {
            let problem = format!("{address} is an address of this stack, not a router's");
            let advice = "name the router that leads to other networks";
            findings.push(Finding::error(router.span(), problem, advice));
        } else if !versions.insert(address.is_ipv4()) {
            let problem = format!("{address} is a second router of the same IP version");
            let advice = "name one for IPv4 and one for IPv6 at most";
            findings.push(Finding::error(router.span(), problem, advice));
        } else if !is_link_local(address)
            && !addresses.is_empty()
            && !addresses.iter().any(|own| own.get_ref().contains(address))
        {
            let problem = format!("{address} is in no network of the stack's addresses");
            let advice = "correct the router, or the prefix of the address";
            findings.push(Finding::error(router.span(), problem, advice));
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The stack listens on its own addresses, and on all of them.
fn check_listeners(gateway: &Gateway, netstack: &Netstack, findings: &mut Vec<Finding>) {
    let mut taken: Vec<SocketAddr> = Vec::new();
    let listens = gateway.client.get_ref().iter();
    for listen in listens.filter_map(|client| client.get_ref().listen.as_ref()) {
        let address = listen.get_ref().0;
        let is_own =
            netstack.addresses.get_ref().iter().any(|own| own.get_ref().address == address.ip());
        let place = place(listen.span(), gateway);
        if !address.ip().is_unspecified() && !is_own {
            let problem = format!("{address} is not an address of the TCP/IP stack");
            let advice = format!(
                "write listen = \"0.0.0.0:{}\" for all of [gateway.netstack] addresses",
                address.port()
            );
            findings.push(Finding::error(place, problem, advice));
        } else if taken
            .iter()
            .any(|other| other.port() == address.port() && !collide(*other, address))
        {
            let problem = format!("port {} has a client listener already", address.port());
            let advice =
                "give each a port of its own: the TCP/IP stack listens on all its addresses";
            findings.push(Finding::error(place, problem, advice));
        } else if is_own && netstack.addresses.get_ref().len() > 1 {
            let problem = format!("port {} is open on all addresses of the stack", address.port());
            let advice = format!("write listen = \"0.0.0.0:{}\"", address.port());
            findings.push(Finding::warning(place, problem, advice));
        }
        taken.push(address);
    }
}

fn check_link(gateway: &Gateway, netstack: &Netstack, findings: &mut Vec<Finding>) {
    let mtu = *netstack.mtu.get_ref();
    let has_v6 = netstack.addresses.get_ref().iter().any(|own| own.get_ref().address.is_ipv6());
    let least = if has_v6 { MTU_V6_MIN } else { *MTU_RANGE.start() };
    let most = match gateway.data_path.get_ref() {
        PathName::AfXdp => MTU_AF_XDP_MAX,
        PathName::Kernel | PathName::Dpdk => *MTU_RANGE.end(),
    };
    if !(least..=most).contains(&mtu) {
        let advice = format!("from {least} to {most} bytes here; 1500 on an ordinary link");
        let problem = format!("an mtu of {mtu} bytes does not work");
        findings.push(Finding::error(netstack.mtu.span(), problem, advice));
    }
    if let Some(vlan) = netstack.vlan.as_ref().filter(|vlan| !(1..=4094).contains(vlan.get_ref())) {
        let problem = format!("there is no vlan {}", vlan.get_ref());
        findings.push(Finding::error(
            vlan.span(),
            problem,
            "from 1 to 4094; leave it out for none",
        ));
    }
    if let Some(mac) = &netstack.mac {
        let bytes = mac.get_ref().0;
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            let problem = format!("{} is not the hardware address of one host", mac.get_ref());
            let advice = "leave it out for the device's own; the first byte must be even";
            findings.push(Finding::error(mac.span(), problem, advice));
        }
    }
}

fn check_capacity(gateway: &Gateway, netstack: &Netstack, findings: &mut Vec<Finding>) {
    let sizes = [
        ("recv_window_bytes", &netstack.recv_window_bytes),
        ("send_buffer_bytes", &netstack.send_buffer_bytes),
    ];
    for (name, size) in sizes {
        if !BUFFER_RANGE.contains(&size.get_ref().0) {
            let problem = format!("{name} of {} bytes does not work", size.get_ref().0);
            findings.push(Finding::error(size.span(), problem, "from 2KiB to 1GiB"));
        }
    }
    let counts = [
        ("connections_target", Some(&netstack.connections_target)),
        ("syn_backlog_max", Some(&netstack.syn_backlog_max)),
        ("time_wait_max", netstack.time_wait_max.as_ref()),
    ];
    for (name, count) in counts {
        if let Some(count) = count.filter(|count| *count.get_ref() == 0) {
            let problem = format!("{name} 0 does not work");
            findings.push(Finding::error(count.span(), problem, "from 1"));
        }
    }
    check_positive("time_wait", &netstack.time_wait, findings);
    let target = *netstack.connections_target.get_ref();
    if let Some(limit) = gateway.max_connections.as_ref().filter(|limit| *limit.get_ref() > target)
    {
        let problem = format!(
            "max_connections {} is over connections_target {target}, for which pools are sized",
            limit.get_ref()
        );
        let advice = "raise connections_target in [gateway.netstack], or leave max_connections out";
        findings.push(Finding::warning(limit.span(), problem, advice));
    }
}

/// Each shard has a queue of the device.
fn check_queues(gateway: &Gateway, findings: &mut Vec<Finding>) {
    if let Some(shards) = gateway.shards.as_ref().filter(|shards| *shards.get_ref() > QUEUES_MAX) {
        let problem = format!("{} shards are more than a device has queues", shards.get_ref());
        let advice = "to 64 past the kernel; for more start a second gateway on another device";
        findings.push(Finding::error(shards.span(), problem, advice));
    }
}

fn check_keepalive(netstack: &Netstack, findings: &mut Vec<Finding>) {
    let (interval, probes) = (&netstack.keepalive_interval, &netstack.keepalive_probes);
    let Some(idle) = &netstack.keepalive_idle else {
        for (name, span) in
            [("keepalive_interval", interval.span()), ("keepalive_probes", probes.span())]
        {
            if !span.is_empty() {
                let problem = format!("`{name}` has no effect without keepalive_idle");
                let advice = "set keepalive_idle, for example to \"2m\"";
                findings.push(Finding::error(span, problem, advice));
            }
        }
        return;
    };
    check_positive("keepalive_idle", idle, findings);
    check_positive("keepalive_interval", interval, findings);
    if *probes.get_ref() == 0 {
        let problem = "keepalive_probes 0 does not work";
        findings.push(Finding::error(probes.span(), problem, "from 1 to 255"));
    }
}

fn check_dpdk(gateway: &Gateway, dpdk: &Dpdk, complete: bool, findings: &mut Vec<Finding>) {
    match &dpdk.device {
        None if complete => {
            let advice = "add device = \"0000:3b:00.0\", or a software device such as \"net_af_packet0,iface=eth1\", to [gateway.dpdk]";
            let place = place(gateway.dpdk.span(), gateway);
            findings.push(Finding::error(place, "no device is named for DPDK", advice));
        }
        None => {}
        Some(device) => check_device(device, *dpdk.pages.get_ref(), findings),
    }
    if let Some(count) =
        dpdk.descriptors.as_ref().filter(|count| !DESCRIPTORS_RANGE.contains(count.get_ref()))
    {
        let problem = format!("{} descriptors do not work", count.get_ref());
        let advice = "from 64 to 4096; leave it out for as many as the connections need";
        findings.push(Finding::error(count.span(), problem, advice));
    }
    if let Some(size) =
        dpdk.memory_bytes.as_ref().filter(|size| !MEMORY_RANGE.contains(&size.get_ref().0))
    {
        let problem = format!("memory_bytes of {} bytes does not work", size.get_ref().0);
        let advice = "from 32MiB; leave it out for as much as the pools need";
        findings.push(Finding::error(size.span(), problem, advice));
    }
    if let Some(prefix) = dpdk
        .file_prefix
        .as_ref()
        .filter(|prefix| prefix.get_ref().is_empty() || prefix.get_ref().contains('/'))
    {
        let problem = format!("file_prefix {:?} is not a file's name", prefix.get_ref());
        let advice = "a name of its own for each process; leave it out to write nothing to disk";
        findings.push(Finding::error(prefix.span(), problem, advice));
    }
    let (sleep_min, sleep_max) = (&dpdk.sleep_min, &dpdk.sleep_max);
    let idle = [
        ("spin_turns", dpdk.spin_turns.span()),
        ("pause_turns", dpdk.pause_turns.span()),
        ("sleep_min", sleep_min.span()),
        ("sleep_max", sleep_max.span()),
    ];
    check_busy(&dpdk.busy_poll, &idle, findings);
    check_sleeps(sleep_min, sleep_max, findings);
}

fn check_sleeps(least: &Spanned<Period>, most: &Spanned<Period>, findings: &mut Vec<Finding>) {
    check_positive("sleep_min", least, findings);
    if least.get_ref() > most.get_ref() {
        let place = if least.span().is_empty() { most } else { least };
        let problem = "sleep_min is longer than sleep_max";
        findings.push(Finding::error(place.span(), problem, "usual are \"50us\" and \"1ms\""));
    }
    if most.get_ref().0 > SLEEP_LIMIT {
        let problem = "sleep_max is over 100 ms";
        let advice = "what arrives meanwhile must fit into the receive queue; usual is \"1ms\"";
        findings.push(Finding::error(most.span(), problem, advice));
    }
}

/// Keys of idling beside `busy_poll`, with which a shard never idles.
fn check_busy(busy: &Spanned<bool>, idle: &[(&str, Range<usize>)], findings: &mut Vec<Finding>) {
    if !busy.get_ref() {
        return;
    }
    for (name, span) in idle.iter().filter(|(_, span)| !span.is_empty()) {
        let problem = format!("`{name}` has no effect with busy_poll");
        let advice = "remove it, or set busy_poll = false";
        findings.push(Finding::error(span.clone(), problem, advice));
    }
}

fn check_device(device: &Spanned<String>, pages: PageKind, findings: &mut Vec<Finding>) {
    let text = device.get_ref();
    let name = text.split(',').next().unwrap_or_default();
    if pci_address(text).is_some() {
        if pages == PageKind::Ordinary {
            let problem = "a real device cannot use ordinary pages";
            findings.push(Finding::error(device.span(), problem, "set pages = \"huge\""));
        }
        return;
    }
    let is_software = name.contains('_')
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !is_software {
        let problem = format!("{name:?} is neither a PCI address nor a software device of DPDK");
        let advice = "write a PCI address (0000:3b:00.0) or a driver, its number and its arguments (net_af_packet0,iface=eth1)";
        findings.push(Finding::error(device.span(), problem, advice));
        return;
    }
    if let Some(argument) = text.split(',').skip(1).find(|argument| !argument.contains('=')) {
        let problem = format!("{argument:?} is not an argument of a device");
        let advice = "write arguments as key=value, separated by commas";
        findings.push(Finding::error(device.span(), problem, advice));
    }
    let shares = [("net_memif", "zero-copy=yes"), ("net_ring", "nodeaction=")];
    if let Some((_, argument)) =
        shares.iter().find(|(driver, argument)| name.starts_with(driver) && text.contains(argument))
    {
        let problem = format!("{argument} shares buffers that others could then change");
        findings.push(Finding::error(device.span(), problem, "leave it out"));
    }
}

/// A PCI address with its domain (`0000:3b:00.0`), if the device is one. Arguments may follow a comma.
pub(crate) fn pci_address(device: &str) -> Option<String> {
    let name = device.split(',').next()?;
    let (rest, function) = name.split_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, slot) = match parts[..] {
        [bus, slot] => ("0000", bus, slot),
        [domain, bus, slot] => (domain, bus, slot),
        _ => return None,
    };
    let is_hex = |text: &str, len| text.len() == len && text.chars().all(|c| c.is_ascii_hexdigit());
    let is_function = matches!(function.as_bytes(), [b'0'..=b'7']);
    (is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && is_function)
        .then(|| format!("{domain}:{bus}:{slot}.{function}").to_lowercase())
}

fn check_af_xdp(gateway: &Gateway, device: &AfXdp, complete: bool, findings: &mut Vec<Finding>) {
    match &device.interface {
        None if complete => {
            let advice = "add interface = \"eth0\" to [gateway.af_xdp]";
            let place = place(gateway.af_xdp.span(), gateway);
            findings.push(Finding::error(place, "no interface is named for AF_XDP", advice));
        }
        Some(interface) if !is_interface(interface.get_ref()) => {
            let problem = format!("{:?} is not the name of an interface", interface.get_ref());
            let advice = "a name that `ip link` shows, such as \"eth0\"";
            findings.push(Finding::error(interface.span(), problem, advice));
        }
        Some(_) | None => {}
    }
    if *device.mode.get_ref() == XdpMode::Generic && *device.zero_copy.get_ref() == ZeroCopy::On {
        let problem = "mode \"generic\" copies, and zero_copy is on";
        let advice = "set mode = \"native\", or zero_copy = \"auto\"";
        findings.push(Finding::error(device.zero_copy.span(), problem, advice));
    }
    let frames = *device.frames.get_ref();
    if !FRAMES_RANGE.contains(&frames) || !frames.is_power_of_two() {
        let problem = format!("{frames} frames do not work");
        let advice = "a power of two from 512 to 65536, for each queue";
        findings.push(Finding::error(device.frames.span(), problem, advice));
    }
    let addresses = &gateway.netstack.get_ref().addresses;
    let lists = [
        ("addresses", addresses.get_ref().len(), ADDRESSES_AF_XDP_MAX, addresses.span()),
        (
            "client listeners",
            gateway.client.get_ref().len(),
            PORTS_AF_XDP_MAX,
            gateway.client.span(),
        ),
    ];
    for (what, count, most, span) in lists.into_iter().filter(|(_, count, most, _)| count > most) {
        let problem = format!("{count} {what} are too many for AF_XDP");
        findings.push(Finding::error(span, problem, format!("at most {most}")));
    }
    let idle =
        [("spin_turns", device.spin_turns.span()), ("pause_turns", device.pause_turns.span())];
    check_busy(&device.busy_poll, &idle, findings);
}

fn is_interface(name: &str) -> bool {
    (1..=INTERFACE_LEN_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// The place of a value, or of what makes its default wrong.
fn place(span: Range<usize>, gateway: &Gateway) -> Range<usize> {
    if span.is_empty() { gateway.data_path.span() } else { span }
}
