//! The steering program, run by the kernel on frames made here (BPF_PROG_TEST_RUN). Who may not load programs is told so.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io::{self, Write as _};

use super::super::sys::{Map, MapKind, Program};
use super::{Maps, key, steering};

const OURS_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OURS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 7272;
const PEER_PORT: u16 = 40_000;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The program with its maps, of which that of the sockets is empty: what is ours is dropped and counted.
struct Loaded {
    program: Program,
    without_socket: Map,
    // The program keeps the map; this only says so.
    _services: Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ours,
    Kernel,
}

impl Loaded {
    /// `None`, and a reason printed, when this may not load programs.
    fn new() -> Option<Self> {
        let services = match Map::create(MapKind::Hash, 20, 1, 2) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Past the runner, which keeps what `eprintln` says to itself.
                let reason = format!("skipped: needs to be root to load programs ({error})\n");
                io::stderr().write_all(reason.as_bytes()).unwrap();
                return None;
            }
            Err(error) => panic!("the kernel makes no map: {error}"),
        };
        for address in [IpAddr::V4(OURS_V4), IpAddr::V6(OURS_V6)] {
            services.insert(&key(address, PORT), &[1]).unwrap();
        }
        let sockets = Map::create(MapKind::Xsk, 4, 4, 1).unwrap();
        let without_socket = Map::create(MapKind::Array, 4, 8, 1).unwrap();
        let maps = Maps {
            services: services.number(),
            sockets: sockets.number(),
            without_socket: without_socket.number(),
        };
        let program =
            Program::load(&steering(maps)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        Some(Self { program, without_socket, _services: services })
    }

    fn verdict(&self, frame: &[u8]) -> Verdict {
        let before = self.without_socket.number_at(0).unwrap();
        let action = self.program.run(frame).unwrap();
        let counted = self.without_socket.number_at(0).unwrap() - before;
        match (action, counted) {
            (1, 1) => Verdict::Ours,
            (2, 0) => Verdict::Kernel,
            other => panic!("an action and a count that do not go together: {other:?}"),
        }
    }

    fn check(&self, cases: &[(&str, Verdict, Vec<u8>)]) {
        for (what, verdict, frame) in cases {
            assert_eq!(self.verdict(frame), *verdict, "{what}");
        }
    }
}

#[test]
fn tcp_to_our_addresses_and_ports_is_ours_and_nothing_else_is() {
    use Verdict::{Kernel, Ours};
    let Some(loaded) = Loaded::new() else { return };
    let to = |port| tcp(PEER_PORT, port);
    loaded.check(&[
        ("IPv4", Ours, ethernet(&ipv4(TCP, PEER_V4, OURS_V4, &to(PORT)))),
        ("IPv6", Ours, ethernet(&ipv6(TCP, PEER_V6, OURS_V6, &to(PORT)))),
        ("another port", Kernel, ethernet(&ipv4(TCP, PEER_V4, OURS_V4, &to(22)))),
        ("our port with its bytes swapped", Kernel, {
            ethernet(&ipv4(TCP, PEER_V4, OURS_V4, &to(PORT.swap_bytes())))
        }),
        ("from our port", Kernel, {
            ethernet(&ipv4(TCP, PEER_V4, OURS_V4, &tcp(PORT, PEER_PORT)))
        }),
        ("another address", Kernel, ethernet(&ipv4(TCP, OURS_V4, PEER_V4, &to(PORT)))),
        ("another address, IPv6", Kernel, ethernet(&ipv6(TCP, OURS_V6, PEER_V6, &to(PORT)))),
        ("our IPv4 address in IPv6", Kernel, {
            ethernet(&ipv6(TCP, PEER_V6, OURS_V4.to_ipv6_mapped(), &to(PORT)))
        }),
        ("UDP", Kernel, ethernet(&ipv4(UDP, PEER_V4, OURS_V4, &to(PORT)))),
        ("UDP over IPv6", Kernel, ethernet(&ipv6(UDP, PEER_V6, OURS_V6, &to(PORT)))),
        ("ARP", Kernel, frame(&[], 0x0806, &[0; 28])),
        ("ping", Kernel, ethernet(&ipv4(ICMP, PEER_V4, OURS_V4, &[8; 64]))),
        ("ping over IPv6", Kernel, ethernet(&ipv6(ICMPV6, PEER_V6, OURS_V6, &[128; 64]))),
        ("neighbour discovery", Kernel, ethernet(&ipv6(ICMPV6, PEER_V6, OURS_V6, &[135; 64]))),
    ]);
}

#[test]
fn one_vlan_tag_is_looked_behind() {
    use Verdict::{Kernel, Ours};
    let Some(loaded) = Loaded::new() else { return };
    let (packet4, packet6) = (
        ipv4(TCP, PEER_V4, OURS_V4, &tcp(PEER_PORT, PORT)),
        ipv6(TCP, PEER_V6, OURS_V6, &tcp(PEER_PORT, PORT)),
    );
    loaded.check(&[
        ("IPv4", Ours, frame(&[0x8100], 0x0800, &packet4)),
        ("IPv6", Ours, frame(&[0x8100], 0x86dd, &packet6)),
        ("provider's tag", Ours, frame(&[0x88a8], 0x0800, &packet4)),
        ("two tags", Kernel, frame(&[0x88a8, 0x8100], 0x0800, &packet4)),
        ("IPv6 that says IPv4", Kernel, frame(&[], 0x0800, &packet6)),
    ]);
}

#[test]
fn options_and_extension_headers_are_looked_behind() {
    use Verdict::{Kernel, Ours};
    let Some(loaded) = Loaded::new() else { return };
    let segment = tcp(PEER_PORT, PORT);
    let with_options = |words: u8| {
        let mut packet = ipv4(TCP, PEER_V4, OURS_V4, &segment);
        packet[0] = 0x40 | (5 + words);
        packet.splice(20..20, vec![1; usize::from(words) * 4]);
        ethernet(&packet)
    };
    let with_extensions = |kinds: &[u8]| {
        let mut payload = segment.clone();
        let mut next = TCP;
        for &kind in kinds.iter().rev() {
            // 24 bytes each.
            let mut header = vec![next, 2];
            header.resize(24, 0);
            payload.splice(0..0, header);
            next = kind;
        }
        ethernet(&ipv6(next, PEER_V6, OURS_V6, &payload))
    };
    let mut cases = Vec::new();
    for words in 0..=10 {
        cases.push(("IPv4 options", Ours, with_options(words)));
    }
    for kinds in [&[0][..], &[43], &[60], &[0, 43], &[0, 60, 43, 60]] {
        cases.push(("extension headers", Ours, with_extensions(kinds)));
    }
    cases.push(("five extension headers", Kernel, with_extensions(&[0, 60, 43, 60, 60])));
    cases.push(("an unknown extension header", Kernel, with_extensions(&[135])));
    let mut short_header = ipv4(TCP, PEER_V4, OURS_V4, &segment);
    short_header[0] = 0x44;
    cases.push(("an IPv4 header of 16 bytes", Kernel, ethernet(&short_header)));
    loaded.check(&cases);
}

#[test]
fn first_fragments_are_ours_and_later_ones_the_kernels() {
    use Verdict::{Kernel, Ours};
    let Some(loaded) = Loaded::new() else { return };
    let segment = tcp(PEER_PORT, PORT);
    let fragment4 = |field: u16| {
        let mut packet = ipv4(TCP, PEER_V4, OURS_V4, &segment);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        ethernet(&packet)
    };
    let fragment6 = |field: u16| {
        let [high, low] = field.to_be_bytes();
        let mut payload = vec![TCP, 0, high, low, 0, 0, 0, 7];
        payload.extend_from_slice(&segment);
        ethernet(&ipv6(44, PEER_V6, OURS_V6, &payload))
    };
    loaded.check(&[
        ("not to be fragmented", Ours, fragment4(0x4000)),
        ("the first", Ours, fragment4(0x2000)),
        ("one between", Kernel, fragment4(0x2001)),
        ("the last", Kernel, fragment4(0x0123)),
        ("a whole one, IPv6", Ours, fragment6(0)),
        ("the first, IPv6", Ours, fragment6(1)),
        ("one between, IPv6", Kernel, fragment6((3 << 3) | 1)),
        ("the last, IPv6", Kernel, fragment6(3 << 3)),
    ]);
}

#[test]
fn reports_about_our_packets_are_ours() {
    use Verdict::{Kernel, Ours};
    let Some(loaded) = Loaded::new() else { return };
    let report4 = |kind: u8, code: u8, inner: &[u8]| {
        let mut payload = vec![kind, code, 0, 0, 0, 0, 5, 0];
        payload.extend_from_slice(inner);
        ethernet(&ipv4(ICMP, PEER_V4, OURS_V4, &payload))
    };
    let report6 = |kind: u8, inner: &[u8]| {
        let mut payload = vec![kind, 0, 0, 0, 0, 0, 5, 0];
        payload.extend_from_slice(inner);
        ethernet(&ipv6(ICMPV6, PEER_V6, OURS_V6, &payload))
    };
    let sent4 = |from| ipv4(TCP, OURS_V4, PEER_V4, &tcp(from, PEER_PORT));
    let sent6 = |from| ipv6(TCP, OURS_V6, PEER_V6, &tcp(from, PEER_PORT));
    let mut with_options = sent4(PORT);
    with_options[0] = 0x46;
    with_options.splice(20..20, [1, 1, 1, 1]);
    // A router sends the header and eight bytes at least (RFC 792).
    let least = sent4(PORT)[..28].to_vec();
    loaded.check(&[
        ("fragmentation needed", Ours, report4(3, 4, &sent4(PORT))),
        ("with as little as may be", Ours, report4(3, 4, &least)),
        ("with options", Ours, report4(3, 4, &with_options)),
        ("unreachable", Ours, report4(3, 1, &sent4(PORT))),
        ("time exceeded", Kernel, report4(11, 0, &sent4(PORT))),
        ("about another port", Kernel, report4(3, 4, &sent4(22))),
        ("about a packet to our port", Kernel, {
            report4(3, 4, &ipv4(TCP, OURS_V4, PEER_V4, &tcp(PEER_PORT, PORT)))
        }),
        ("about UDP", Kernel, {
            report4(3, 4, &ipv4(UDP, OURS_V4, PEER_V4, &tcp(PORT, PEER_PORT)))
        }),
        ("about another's packet", Kernel, {
            report4(3, 4, &ipv4(TCP, PEER_V4, OURS_V4, &tcp(PORT, PEER_PORT)))
        }),
        ("packet too big", Ours, report6(2, &sent6(PORT))),
        ("unreachable, IPv6", Ours, report6(1, &sent6(PORT))),
        ("time exceeded, IPv6", Kernel, report6(3, &sent6(PORT))),
        ("about another port, IPv6", Kernel, report6(2, &sent6(22))),
    ]);
}

#[test]
fn frames_that_end_too_early_are_the_kernels() {
    let Some(loaded) = Loaded::new() else { return };
    let mut too_big = vec![2, 0, 0, 0, 0, 0, 5, 0];
    too_big.extend_from_slice(&ipv6(TCP, OURS_V6, PEER_V6, &tcp(PORT, PEER_PORT)));
    let options = [[TCP, 0, 0, 0, 0, 0, 0, 0].as_slice(), &tcp(PEER_PORT, PORT)].concat();
    for (whole, needed) in [
        (ethernet(&ipv4(TCP, PEER_V4, OURS_V4, &tcp(PEER_PORT, PORT))), 14 + 20 + 4),
        (ethernet(&ipv6(TCP, PEER_V6, OURS_V6, &tcp(PEER_PORT, PORT))), 14 + 40 + 4),
        (ethernet(&ipv6(60, PEER_V6, OURS_V6, &options)), 14 + 40 + 8 + 4),
        (ethernet(&ipv6(ICMPV6, PEER_V6, OURS_V6, &too_big)), 14 + 40 + 8 + 40 + 4),
        (
            frame(&[0x8100], 0x0800, &ipv4(TCP, PEER_V4, OURS_V4, &tcp(PEER_PORT, PORT))),
            18 + 20 + 4,
        ),
    ] {
        // The kernel runs nothing on less than an Ethernet header.
        for len in 14..=whole.len() {
            let verdict = if len < needed { Verdict::Kernel } else { Verdict::Ours };
            assert_eq!(loaded.verdict(&whole[..len]), verdict, "{len} of {} bytes", whole.len());
        }
    }
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    frame(&[], kind, packet)
}

fn frame(tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&[0, 7]);
    }
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

fn tcp(from: u16, to: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment
}
