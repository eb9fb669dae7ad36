//! The layers below TCP: neighbours, echo, path MTU, refusals, and frames that are nonsense.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use proptest::prelude::*;

use super::link::{Faults, Link, Outbox};
use super::pair::{Host, PORT, Pair, Stream, address, config, mac};
use super::script::{Script, Seen, knowing_config};
use super::stream::bytes;
use crate::frame::{Link as Sender, Path, Payload};
use crate::wire::arp::Arp;
use crate::wire::checksum;
use crate::wire::ethernet::{self, Ethernet, MacAddr};
use crate::wire::ip::{self, Ip};
use crate::wire::tcp::{Flags, Header};
use crate::{Address, Cause, Checksums, Config};

/// The peer's way to put packets on the wire.
fn peer_packet(host: &mut Host, now: tengate_base::Instant, protocol: u8, message: &[u8]) {
    let link = Sender { mac: mac(1), vlan: None, checksums: Checksums::Software };
    let path = Path {
        mac: mac(0),
        local: address(1).to_ipv6_mapped(),
        remote: address(0).to_ipv6_mapped(),
    };
    let (front, rest) = message.split_at(message.len().min(8));
    let mut payload = Payload::default();
    payload.push(rest);
    let mut wire = Outbox::default();
    link.send_packet(&path, protocol, 64, front, &payload, &mut wire).expect("it has room");
    host.handle_frame(now, &wire.frames[0]);
}

/// An ICMP message with its checksum.
fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, body].concat();
    let sum = checksum::of(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// What a router quotes of a segment: the IP header and eight bytes.
fn quote(seen: &Seen) -> Vec<u8> {
    let mut packet = vec![0; 28];
    let (local, remote) = (address(0).to_ipv6_mapped(), address(1).to_ipv6_mapped());
    ip::encode(&mut packet, local, remote, ip::TCP, 60, 1480);
    packet[20..22].copy_from_slice(&seen.header.source_port.to_be_bytes());
    packet[22..24].copy_from_slice(&seen.header.destination_port.to_be_bytes());
    packet[24..28].copy_from_slice(&seen.header.seq.0.to_be_bytes());
    packet
}

#[test]
fn who_asks_for_our_address_is_told_and_remembered() {
    // RFC 826.
    let mut script = Script::listening(config(0));
    let question = |target| {
        let arp = Arp {
            is_request: true,
            sender_mac: mac(1),
            sender: address(1),
            target_mac: MacAddr::default(),
            target,
        };
        let mut frame = vec![0; 14];
        ethernet::encode(&mut frame, MacAddr::BROADCAST, mac(1), None, ethernet::ARP);
        frame.extend_from_slice(&arp.encode());
        frame
    };
    let now = script.now;
    script.host.handle_frame(now, &question(Ipv4Addr::new(10, 0, 0, 99)));
    assert!(script.host.outbox.frames.is_empty());
    script.host.handle_frame(now, &question(address(0)));
    let frame = script.host.outbox.frames.pop().expect("an answer");
    let link = Ethernet::decode(&frame).expect("a frame");
    let reply = Arp::decode(&frame[link.header_len..]).expect("a reply");
    assert_eq!((link.destination, reply.is_request), (mac(1), false));
    assert_eq!((reply.sender_mac, reply.sender), (mac(0), address(0)));
    assert_eq!((reply.target_mac, reply.target), (mac(1), address(1)));
    // It was remembered: a SYN needs no question.
    script.connect();
}

#[test]
fn an_echo_comes_back() {
    // RFC 792; RFC 1122 3.2.2.6.
    let mut script = Script::listening(config(0));
    let request = icmp(8, 0, [1, 2, 3, 4], b"abcdefghi");
    let now = script.now;
    peer_packet(&mut script.host, now, ip::ICMP, &request);
    let frame = script.host.outbox.frames.pop().expect("an answer");
    let ip = Ip::decode_v4(&frame[14..], true).expect("a packet");
    assert_eq!(&frame[14..][ip.payload], &icmp(0, 0, [1, 2, 3, 4], b"abcdefghi")[..]);
    let mut damaged = request;
    damaged[9] ^= 1;
    peer_packet(&mut script.host, now, ip::ICMP, &damaged);
    assert!(script.host.outbox.frames.is_empty());
    assert_eq!(script.host.stack.stats().drop_icmp_malformed, 1);
}

#[test]
fn a_narrow_path_makes_segments_shorter_and_what_was_too_long_goes_out_again() {
    // RFC 1191 6.4.
    let mut script = Script::established();
    script.write(&bytes(4_000, 0));
    let seen = script.seen();
    assert_eq!(seen[0].payload.len(), 1460);
    let now = script.now;
    let message = icmp(3, 4, [0, 0, 4, 0], &quote(&seen[0]));
    peer_packet(&mut script.host, now, ip::ICMP, &message);
    let again = script.seen();
    // 4 × 256 = 1024 bytes, less 40 of headers.
    assert!(again.iter().all(|seen| seen.payload.len() <= 984), "{again:?}");
    assert_eq!(again[0].header.seq, seen[0].header.seq);
    let sent: usize = again.iter().map(|seen| seen.payload.len()).sum();
    assert!(sent >= 2 * 1460, "the two full ones: {sent}");
    assert_eq!(script.host.stack.stats().path_mtu_lowered, 1);
}

#[test]
fn errors_about_what_is_not_in_flight_are_ignored() {
    // RFC 5927 4.1.
    let mut script = Script::established();
    script.write(&bytes(1_460, 0));
    let mut seen = script.expect_one();
    seen.header.seq += 5_000;
    let now = script.now;
    peer_packet(&mut script.host, now, ip::ICMP, &icmp(3, 4, [0, 0, 2, 0], &quote(&seen)));
    assert_eq!(script.host.stack.stats().path_mtu_lowered, 0);
    assert_eq!(script.host.stack.stats().drop_icmp_unmatched, 1);
}

#[test]
fn unreachable_ends_an_attempt_but_no_connection() {
    // RFC 1122 4.2.3.9, RFC 5927 5.
    let mut script = Script::listening(knowing_config());
    let header = script.connect();
    let now = script.now;
    let syn = Seen { header, payload: Vec::new() };
    peer_packet(&mut script.host, now, ip::ICMP, &icmp(3, 3, [0; 4], &quote(&syn)));
    assert_eq!(script.own().closed, Some(Cause::Unreachable));
    let mut script = Script::established();
    script.write(b"data");
    let seen = script.expect_one();
    peer_packet(&mut script.host, now, ip::ICMP, &icmp(3, 3, [0; 4], &quote(&seen)));
    assert_eq!(script.own().closed, None);
}

#[test]
fn every_frame_that_is_not_for_us_has_its_counter() {
    let mut script = Script::listening(config(0));
    let good = {
        let mut wire = Outbox::default();
        let link = Sender { mac: mac(1), vlan: None, checksums: Checksums::Software };
        let path = Path {
            mac: mac(0),
            local: address(1).to_ipv6_mapped(),
            remote: address(0).to_ipv6_mapped(),
        };
        let header = Header { destination_port: 9, flags: Flags::SYN, ..Header::default() };
        link.send_segment(&path, &header, &Payload::default(), &mut wire).expect("room");
        wire.frames.remove(0)
    };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let now = script.now;
    for frame in [
        changed(&|frame| frame.truncate(10)),
        changed(&|frame| frame[0] = 0x12),
        changed(&|frame| frame[12] = 0x99),
        changed(&|frame| frame.truncate(30)),
        changed(&|frame| frame[26] ^= 1),
        changed(&|frame| frame[36] ^= 1),
        good.clone(),
    ] {
        script.host.handle_frame(now, &frame);
    }
    let stats = script.host.stack.stats();
    let counts = [
        stats.drop_frame_malformed,
        stats.drop_not_for_us,
        stats.drop_ether_type,
        stats.drop_ip_malformed,
        stats.drop_ip_checksum,
        stats.drop_tcp_checksum,
        stats.drop_tcp_no_listener,
    ];
    assert_eq!(counts, [1; 7]);
}

#[test]
fn neighbors_find_each_other_and_talk_over_ipv6() {
    // RFC 4861 7.2, RFC 8200 8.1.
    let v6 = |host: u8| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host) + 1));
    let config = |host| {
        let addresses = vec![Address { addr: v6(host), prefix_len: 64 }];
        Config { addresses, ..config(host) }
    };
    let mut pair = Pair::with_configs(Faults::NONE, config(0), config(1));
    let remote = SocketAddr::new(v6(1), PORT);
    let now = pair.now;
    let conn = pair.hosts[0].stack.connect(now, remote, None).expect("there is room");
    let stream = Stream { to_send: bytes(100_000, 0), then_shutdown: true, ..Stream::default() };
    pair.hosts[0].streams.insert(conn, stream);
    assert!(
        pair.run_until(|pair| { pair.hosts[1].streams.values().any(|stream| stream.peer_closed) })
    );
    assert_eq!(pair.hosts[1].stack.stats().neighbor_advertisements_sent, 1);
    let received = &pair.hosts[1].streams.values().next().expect("accepted").received;
    assert!(*received == bytes(100_000, 0));
}

#[test]
fn a_neighbor_that_moved_is_asked_for_again() {
    let mut pair = Pair::new(Faults::NONE);
    pair.open();
    let moved = Config { mac: MacAddr([2, 9, 9, 9, 9, 9]), ..config(1) };
    pair.hosts[1] = Host::new(moved, pair.now);
    pair.hosts[1].stack.listen(PORT, tengate_base::Door(0));
    let conn = pair.connect();
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].is_open));
    assert!(pair.hosts[1].stack.stats().drop_not_for_us > 0);
}

#[test]
fn what_cannot_be_reached_is_not_tried() {
    use crate::ConnectError::{NoAddress, NoPort, NoRoute};
    let mut script = Script::listening(config(0));
    let now = script.now;
    let mut connect = |remote: &str, local: Option<&str>| {
        let address = |text: &str| text.parse().expect("an address and a port");
        script.host.stack.connect(now, address(remote), local.map(address))
    };
    assert_eq!(connect("192.0.2.1:80", None), Err(NoRoute));
    assert_eq!(connect("[fd00::1]:80", None), Err(NoAddress));
    assert_eq!(connect("10.0.0.2:80", Some("10.0.0.9:0")), Err(NoAddress));
    assert!(connect("10.0.0.2:80", Some("0.0.0.0:5")).is_ok());
    assert_eq!(connect("10.0.0.2:80", Some("10.0.0.1:5")), Err(NoPort));
    assert!(connect("10.0.0.2:81", Some("10.0.0.1:5")).is_ok());
}

#[test]
fn tagged_frames_are_for_tagged_stacks() {
    let tagged = |host| Config { vlan: Some(7), ..config(host) };
    let mut pair = Pair::with_configs(Faults::NONE, tagged(0), tagged(1));
    pair.open();
    let mut pair = Pair::with_configs(Faults::NONE, config(0), tagged(1));
    pair.connect();
    pair.run_for(Duration::from_secs(5));
    assert!(pair.hosts[1].stack.stats().drop_other_vlan > 0);
}

#[test]
fn checksums_may_be_left_to_devices_that_need_none() {
    let offloaded = |host| Config { checksums: Checksums::Offloaded, ..config(host) };
    let mut pair = Pair::with_configs(Faults::NONE, offloaded(0), offloaded(1));
    let (conn, other) = pair.open();
    pair.hosts[0].stream(conn).to_send = bytes(50_000, 0);
    assert!(pair.run_until(|pair| pair.hosts[1].streams[&other].received.len() == 50_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn damaged_frames_neither_panic_nor_leak(
        seed: u64,
        damages in prop::collection::vec((14..90_usize, any::<u8>()), 1..200),
    ) {
        // Checksums are not verified, so that damage reaches every layer.
        let trusting = |host| Config { checksums: Checksums::Offloaded, ..config(host) };
        let mut pair = Pair::with_configs(Faults::NONE, trusting(0), trusting(1));
        let (conn, other) = pair.open();
        for (host, conn) in [(0, conn), (1, other)] {
            pair.hosts[host].stream(conn).to_send = bytes(20_000, host);
            pair.hosts[host].stream(conn).then_shutdown = true;
        }
        let mut link = Link::new(Faults { seed, ..Faults::NONE });
        for (at, value) in damages {
            let now = pair.now;
            for host in 0..2 {
                pair.hosts[host].turn_quietly(now);
                let count = pair.hosts[host].outbox.frames.len();
                prop_assert!(count < 2_000, "{} frames in a turn: they answer each other", count);
                for mut frame in pair.hosts[host].outbox.frames.split_off(0) {
                    link.send(now, 1 - host, &frame);
                    // Damage behind the Ethernet header; in the IP header it is found by its checksum.
                    if let Some(byte) = frame.get_mut(at) {
                        *byte ^= value;
                    }
                    link.send(now, 1 - host, &frame);
                }
            }
            pair.now = now + Duration::from_micros(100);
            while let Some((to, frame)) = link.receive(pair.now) {
                let now = pair.now;
                pair.hosts[to].handle_quietly(now, &frame);
            }
        }
        for (host, conn) in [(0, conn), (1, other)] {
            let now = pair.now;
            let host = &mut pair.hosts[host];
            host.stack.abort(now, conn, &mut host.outbox);
            host.stack.flush(now, &mut host.outbox).expect("it has room");
            prop_assert_eq!(host.stack.pool_used_bytes(), 0);
        }
    }

    #[test]
    fn any_bytes_are_a_frame_to_survive(frames: Vec<Vec<u8>>, ether_type in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd, 0x8100])) {
        let mut host = Host::new(config(0), tengate_base::Instant::ZERO);
        for mut bytes in frames {
            let mut frame = vec![0; 14];
            ethernet::encode(&mut frame, mac(0), mac(1), None, ether_type);
            frame.append(&mut bytes);
            host.handle_quietly(tengate_base::Instant::ZERO, &frame);
        }
    }
}
