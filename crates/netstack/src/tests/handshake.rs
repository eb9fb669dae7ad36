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
    // RFC 9293 3.5, figure 6; 3.6, figure 12.
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
fn only_what_was_offered_is_agreed_on() {
    // RFC 9293 3.5 and 3.7.1, RFC 7323 1.3, RFC 2018 2.
    let timestamps = Some(Timestamps { value: 7, echo: 0 });
    let everything = Options { window_scale: Some(3), timestamps, ..all_options() };
    for offered in [everything, all_options(), Options { mss: Some(900), ..Options::default() }] {
        let mut script = Script::listening(config(0));
        let syn = Header { options: offered, seq: IRS, ..script.header(Flags::SYN) };
        script.send_header(syn, b"");
        let answer = script.expect_one().header;
        assert_eq!((answer.flags, answer.ack), (Flags::SYN.with(Flags::ACK), IRS + 1));
        assert_eq!(answer.options.mss, Some(1460));
        assert_eq!(answer.options.window_scale.is_some(), offered.window_scale.is_some());
        assert_eq!(answer.options.sack_permitted, offered.sack_permitted);
        let echoed = answer.options.timestamps.map(|theirs| theirs.echo);
        assert_eq!(echoed, offered.timestamps.map(|theirs| theirs.value));
    }
}

#[test]
fn a_lost_answer_to_a_syn_is_repeated_with_time_outs_that_double() {
    // RFC 6298 2.1 and 5.5, RFC 9293 3.8.3.
    let mut script = Script::listening(config(0));
    let syn = Header { options: all_options(), seq: IRS, ..script.header(Flags::SYN) };
    script.send_header(syn, b"");
    let first = [script.expect_one()];
    let mut last = script.now;
    for seconds in [1, 2, 4, 8, 16] {
        let mut seen = Vec::new();
        while seen.is_empty() {
            let next = script.host.stack.poll_timeout().expect("a timer is set");
            script.wait(next - script.now);
            seen = script.seen();
        }
        assert_eq!(seen, first);
        let gap = script.now - last;
        assert!(gap.abs_diff(Duration::from_secs(seconds)) < Duration::from_millis(5), "{gap:?}");
        last = script.now;
    }
    script.wait(Duration::from_secs(33));
    assert_eq!(script.host.stack.conn_count(), 0);
    assert!(script.host.accepted.is_empty());
}

#[test]
fn a_reset_ends_an_opening_of_which_nobody_was_told() {
    // RFC 9293 3.10.7.4, second; RFC 5961 3.2.
    for (offset, ends) in [(0, true), (1, false)] {
        let mut script = Script::listening(config(0));
        let syn = Header { options: all_options(), seq: IRS, ..script.header(Flags::SYN) };
        script.send_header(syn, b"");
        script.expect_one();
        let reset = Header { seq: IRS + 1 + offset, ..script.header(Flags::RST) };
        script.send_header(reset, b"");
        assert_eq!(script.host.stack.conn_count(), usize::from(!ends));
        assert!(script.host.streams.is_empty());
    }
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
