//! Connections begin and end between two stacks (RFC 9293 3.5, 3.6).

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::link::Faults;
use super::pair::{PORT, Pair, Stream, address, config};
use super::script::{IRS, Script, all_options};
use super::stream::bytes;
use crate::Cause;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};

#[test]
fn a_connection_opens_carries_data_both_ways_and_ends() {
    let mut pair = Pair::new(Faults::NONE);
    let (conn, other) = pair.open();
    let (ours, theirs) = (pair.hosts[0].stream(conn), b"hello".to_vec());
    ours.to_send = theirs.clone();
    ours.then_shutdown = true;
    pair.hosts[1].stream(other).to_send = b"goodbye".to_vec();
    pair.hosts[1].stream(other).then_shutdown = true;
    let both_ended = |pair: &Pair| {
        pair.hosts.iter().all(|host| host.streams.values().all(|stream| stream.closed.is_some()))
    };
    assert!(pair.run_until(both_ended));
    assert_eq!(pair.hosts[0].stream(conn).received, b"goodbye");
    assert_eq!(pair.hosts[1].stream(other).received, theirs);
    for (host, conn) in [(0, conn), (1, other)] {
        assert_eq!(pair.hosts[host].stream(conn).closed, Some(Cause::Finished));
        assert_eq!(pair.hosts[host].stack.conn_count(), 0);
        assert_eq!(pair.hosts[host].stack.pool_used_bytes(), 0);
    }
    assert!(pair.hosts.iter().any(|host| host.stack.time_wait_count() == 1));
    assert!(pair.run_until(|pair| pair.hosts.iter().all(|host| host.stack.time_wait_count() == 0)));
}

#[test]
fn two_stacks_may_connect_to_each_other_at_once() {
    // RFC 9293 3.5, figure 7; the link's jitter makes every order of the segments.
    for seed in 0..50 {
        let faults = Faults { seed, jitter: Duration::from_micros(200), ..Faults::NONE };
        let mut pair = Pair::new(faults);
        pair.hosts[1].stack.unlisten(PORT);
        let at = |host| SocketAddr::new(IpAddr::V4(address(host)), 7_000);
        for (host, other) in [(0, 1), (1, 0)] {
            let now = pair.now;
            let stack = &mut pair.hosts[usize::from(host)].stack;
            let conn = stack.connect(now, at(other), Some(at(host))).expect("it is free");
            let stream = Stream {
                to_send: bytes(5_000, usize::from(host)),
                then_shutdown: true,
                ..Stream::default()
            };
            pair.hosts[usize::from(host)].streams.insert(conn, stream);
        }
        let both_ended = |pair: &Pair| {
            pair.hosts
                .iter()
                .all(|host| host.streams.values().all(|stream| stream.closed.is_some()))
        };
        assert!(pair.run_until(both_ended), "seed {seed}");
        for (host, other) in [(0, 1), (1, 0)] {
            let stream = pair.hosts[host].streams.values().next().expect("one each");
            assert_eq!(stream.closed, Some(Cause::Finished));
            assert!(stream.received == bytes(5_000, other));
            assert!(pair.hosts[host].stack.stats().segments_sent < 40, "no loop");
        }
    }
}

#[test]
fn a_repeated_handshake_is_measured_by_its_last_timestamps() {
    // RFC 6298 3 (Karn), RFC 7323 4.1 and 4.3.
    let mut script = Script::listening(config(0));
    script.timestamps = true;
    let at = |value, echo| {
        let timestamps = Some(Timestamps { value, echo });
        Options { timestamps, ..all_options() }
    };
    let mut answers = Vec::new();
    for (value, wait) in [(100, 900), (1_000, 50)] {
        let syn = Header { options: at(value, 0), seq: IRS, ..script.header(Flags::SYN) };
        script.send_header(syn, b"");
        let answer = script.expect_one().header;
        let theirs = answer.options.timestamps.expect("they were offered");
        assert_eq!(theirs.echo, value, "of the SYN that is answered");
        answers.push((answer.seq, theirs.value));
        script.wait(Duration::from_millis(wait));
    }
    let (iss, ours) = answers[1];
    (script.seq, script.ack) = (IRS + 1, iss + 1);
    let ack = Header { options: at(1_050, ours), ..script.header(Flags::ACK) };
    script.send_header(ack, b"");
    script.conn = script.host.accepted.pop().expect("it is open");
    let tcb = script.host.stack.tcb(script.conn).expect("it is open");
    assert_eq!(tcb.srtt(), Duration::from_millis(50));
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    // RFC 9293 3.10.7.1.
    let mut pair = Pair::new(Faults::NONE);
    pair.hosts[1].stack.unlisten(PORT);
    let conn = pair.connect();
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].closed == Some(Cause::Refused)));
}
