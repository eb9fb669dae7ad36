//! What happens at the limits: floods of SYNs, an empty pool, a full device, indexes that come back.

use alloc::vec::Vec;
use core::time::Duration;

use super::link::Faults;
use super::pair::{Pair, config};
use super::script::{IRS, Script, all_options};
use super::stream::bytes;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};
use crate::{Cause, Config, Keepalive};

/// A host that remembers two connections being opened.
fn flooded() -> Script {
    let mut script = Script::listening(Config { syn_backlog_max: 2, ..config(0) });
    for port in 1..=2 {
        script.port = port;
        let syn = Header { seq: IRS, ..script.header(Flags::SYN) };
        script.send_header(syn, b"");
        script.expect_one();
    }
    script.port = 3;
    script
}

#[test]
fn beyond_the_backlog_a_cookie_remembers_the_connection() {
    // RFC 4987 3.6.
    for timestamps in [None, Some(Timestamps { value: 77, echo: 0 })] {
        let mut script = flooded();
        let options = Options { window_scale: Some(9), timestamps, ..all_options() };
        let syn = Header { options, ..script.header(Flags::SYN) };
        script.send_header(syn, b"");
        let syn_ack = script.expect_one().header;
        assert_eq!(script.host.stack.conn_count(), 2, "nothing is remembered");
        // Only a timestamp has room for the other options.
        assert_eq!(syn_ack.options.sack_permitted, timestamps.is_some());
        assert_eq!(syn_ack.options.window_scale.is_some(), timestamps.is_some());
        (script.seq, script.ack) = (IRS + 1, syn_ack.seq + 1);
        let echo = syn_ack.options.timestamps.map(|theirs| theirs.value);
        let timestamps = echo.map(|echo| Timestamps { value: 78, echo });
        let options = Options { timestamps, ..Options::default() };
        script.now = script.now + Duration::from_secs(30);
        let ack = Header { options, ..script.header(Flags::ACK) };
        script.send_header(ack, b"hello");
        let conn = script.host.accepted.pop().expect("it is open");
        assert_eq!(script.stream(conn).received, b"hello");
        let tcb = script.host.stack.tcb(conn).expect("it is open");
        assert_eq!((tcb.sack, tcb.snd_scale), if echo.is_some() { (true, 9) } else { (false, 0) });
        let (with, without) = (1460 - 12, 1460);
        assert_eq!(tcb.mss, if echo.is_some() { with } else { without });
    }
}

#[test]
fn bytes_that_overtake_the_answer_to_a_cookie_do_not_reset_the_connection() {
    for (late, is_reset) in [(Duration::from_millis(300), false), (Duration::from_secs(5), true)] {
        let mut script = flooded();
        let timestamps = Some(Timestamps { value: 77, echo: 0 });
        let options = Options { timestamps, ..all_options() };
        script.send_header(Header { options, ..script.header(Flags::SYN) }, b"");
        let syn_ack = script.expect_one().header;
        script.now = script.now + late;
        (script.seq, script.ack) = (IRS + 1, syn_ack.seq + 1);
        let echo = syn_ack.options.timestamps.expect("the peer has them too").value;
        let options =
            Options { timestamps: Some(Timestamps { value: 78, echo }), ..Options::default() };
        let first = Header { options, ..script.header(Flags::ACK) };
        let second = Header { seq: IRS + 6, ..first };
        script.send_header(second, b" world");
        // So does the answer to a SYN-ACK that came twice.
        script.send_header(Header { seq: IRS + 12, ..first }, b"");
        assert!(script.host.accepted.is_empty());
        let seen = script.seen();
        assert_eq!(!seen.is_empty(), is_reset, "what is older is of no connection: {seen:?}");
        script.send_header(first, b"hello");
        let conn = script.host.accepted.pop().expect("it is open");
        script.send_header(second, b" world");
        assert_eq!(script.stream(conn).received, b"hello world");
    }
}

#[test]
fn a_forged_or_late_cookie_opens_nothing() {
    // RFC 4987 3.6.
    for (offset, seconds) in [(1, 0), (0, 300)] {
        let mut script = flooded();
        let syn = script.header(Flags::SYN);
        script.send_header(syn, b"");
        let syn_ack = script.expect_one().header;
        script.now = script.now + Duration::from_secs(seconds);
        (script.seq, script.ack) = (IRS + 1, syn_ack.seq + 1 + offset);
        script.send(Flags::ACK, b"");
        assert!(script.host.accepted.is_empty());
        let seen = script.seen();
        assert!(seen.iter().any(|seen| seen.header.flags.has(Flags::RST)), "{seen:?}");
    }
}

#[test]
fn connections_that_are_never_finished_make_room_after_a_while() {
    // RFC 4987 3.3, RFC 9293 3.8.3.
    let mut script = flooded();
    script.wait(Duration::from_secs(70));
    assert_eq!(script.host.stack.conn_count(), 0);
    script.seen();
    script.port = 4;
    script.open_one(all_options());
    assert_eq!(script.host.stack.stats().cookies_sent, 0);
    assert!(script.host.streams.values().all(|stream| stream.closed.is_none()));
}

#[test]
fn an_empty_pool_refuses_bytes_and_new_connections_and_recovers() {
    let small = Config { pool_bytes: 64 << 10, ..config(1) };
    let mut pair = Pair::with_configs(Faults::NONE, config(0), small);
    let (conn, other) = pair.open();
    let to_send = bytes(1 << 20, 0);
    pair.hosts[1].stream(other).to_send.clone_from(&to_send);
    pair.hosts[0].stream(conn).paused = true;
    pair.run_for(Duration::from_secs(30));
    let stack = &pair.hosts[1].stack;
    assert!(stack.stats().send_refused_pool_full > 0);
    assert!(stack.pool_used_bytes() <= 64 << 10);
    let late = pair.connect();
    pair.run_for(Duration::from_secs(2));
    assert!(!pair.hosts[0].streams[&late].is_open);
    assert!(pair.hosts[1].stack.stats().drop_syn_pool_full > 0);
    pair.hosts[0].stream(conn).paused = false;
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].received.len() == 1 << 20));
    assert!(pair.hosts[0].streams[&conn].received == to_send);
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&late].is_open));
    assert_eq!(pair.hosts[1].stack.pool_used_bytes(), 0);
}

#[test]
fn the_last_sixteenth_of_the_pool_is_for_connections_that_are_open() {
    let small = Config { pool_bytes: 64 << 10, ..config(1) };
    let mut pair = Pair::with_configs(Faults::NONE, config(0), small);
    let (conn, other) = pair.open();
    let stack = &mut pair.hosts[1].stack;
    let gauges = stack.gauges();
    assert_eq!((gauges.pool_bytes_max, gauges.syn_backlog), (64 << 10, 0));
    stack.hold(other, (60 << 10) + 1);
    let late = pair.connect();
    pair.hosts[1].stream(other).to_send = bytes(1000, 0);
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].received.len() == 1000));
    pair.run_for(Duration::from_millis(100));
    assert!(!pair.hosts[0].streams[&late].is_open, "it would take what the others need");
    let stack = &mut pair.hosts[1].stack;
    assert!(stack.stats().drop_syn_pool_full > 0);
    assert_eq!(stack.stats().send_refused_pool_full, 0);
    stack.release(other, (60 << 10) + 1);
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&late].is_open));
}

#[test]
fn a_receiver_that_stops_and_goes_on_gets_everything() {
    // RFC 9293 3.8.6.1; updates of the window may be lost too.
    for seed in 0..20 {
        let faults = Faults { seed, loss_permille: 100, ..Faults::NONE };
        let mut pair = Pair::new(faults);
        let (conn, other) = pair.open();
        let to_send = bytes(700_000, 0);
        pair.hosts[0].stream(conn).to_send.clone_from(&to_send);
        pair.hosts[0].stream(conn).then_shutdown = true;
        for _ in 0..3 {
            pair.hosts[1].stream(other).paused = true;
            pair.run_for(Duration::from_secs(10));
            pair.hosts[1].stream(other).paused = false;
            pair.run_for(Duration::from_millis(20));
        }
        assert!(pair.run_until(|pair| pair.hosts[1].streams[&other].peer_closed), "seed {seed}");
        assert!(pair.hosts[1].streams[&other].received == to_send, "seed {seed}");
    }
}

#[test]
fn a_full_device_delays_and_loses_nothing() {
    let mut pair = Pair::new(Faults { delay: Duration::from_millis(5), ..Faults::NONE });
    let (conn, other) = pair.open();
    let to_send = bytes(300_000, 0);
    pair.hosts[0].stream(conn).to_send.clone_from(&to_send);
    pair.hosts[0].outbox.room = 3;
    pair.hosts[1].outbox.room = 1;
    assert!(pair.run_until(|pair| pair.hosts[1].streams[&other].received.len() == 300_000));
    assert!(pair.hosts[1].streams[&other].received == to_send);
    assert_eq!(pair.hosts[0].stack.stats().retransmit_timeouts, 0);
}

#[test]
fn a_full_device_delays_no_handshake_by_a_time_out() {
    let mut pair = Pair::new(Faults::NONE);
    pair.open();
    let before = pair.now;
    let conns: Vec<_> = (0..200).map(|_| pair.connect()).collect();
    pair.hosts[0].outbox.room = 3;
    pair.hosts[1].outbox.room = 2;
    let is_open = |pair: &Pair| conns.iter().all(|conn| pair.hosts[0].streams[conn].is_open);
    assert!(pair.run_until(is_open));
    assert!(pair.now - before < Duration::from_secs(1), "simulated time");
}

#[test]
fn the_application_is_told_once_when_a_queue_has_drained() {
    let mut script = Script::established();
    script.write(&[1; 1000]);
    let conn = script.conn;
    script.host.stack.notify_below(conn, 400);
    for (acked, drained) in [(500, 0), (100, 1), (400, 1)] {
        script.ack += acked;
        script.send(Flags::ACK, b"");
        assert_eq!(script.host.drained, drained);
    }
    assert_eq!(script.host.stack.queued(conn), 0);
}

#[test]
fn an_index_comes_back_at_the_end_of_the_turn_only() {
    let mut script = Script::established();
    let old = script.conn;
    let now = script.now;
    let outbox = &mut script.host.outbox;
    script.host.stack.abort(now, old, outbox);
    script.port += 1;
    let syn = Header { seq: IRS, ..script.header(Flags::SYN) };
    script.send_header(syn, b"");
    assert!(script.host.stack.tcb(old).is_none(), "the new one has another index");
    assert!(script.seen()[0].header.flags.has(Flags::RST));
    script.port += 1;
    script.open_one(all_options());
    assert_eq!(script.conn, old);
}

#[test]
fn finished_connections_beyond_the_limit_are_forgotten() {
    let mut pair =
        Pair::with_configs(Faults::NONE, Config { time_wait_max: 2, ..config(0) }, config(1));
    for _ in 0..5 {
        let (conn, other) = pair.open();
        pair.hosts[0].stream(conn).then_shutdown = true;
        assert!(pair.run_until(|pair| pair.hosts[1].streams[&other].peer_closed));
        pair.hosts[1].stream(other).then_shutdown = true;
        let finished = |pair: &Pair| pair.hosts[0].streams[&conn].closed == Some(Cause::Finished);
        assert!(pair.run_until(finished));
    }
    assert_eq!(pair.hosts[0].stack.time_wait_count(), 2);
    assert_eq!(pair.hosts[0].stack.stats().time_wait_recycled, 3);
}

#[test]
fn probes_that_a_full_device_did_not_take_do_not_count() {
    let (idle, interval) = (Duration::from_secs(1), Duration::from_millis(100));
    let keepalive = Some(Keepalive { idle, interval, probes_max: 3 });
    let mut script = Script::open(Config { keepalive, ..config(0) }, all_options());
    script.host.outbox.room = 0;
    script.wait(Duration::from_secs(5));
    assert!(script.host.stack.stats().drop_device_full > 0);
    assert_eq!(script.stream(script.conn).closed, None);
    script.host.outbox.room = usize::MAX;
    script.wait(interval);
    script.expect_one();
    script.send(Flags::ACK, b"");
    script.wait(idle / 2);
    assert_eq!(script.stream(script.conn).closed, None);
}

#[test]
fn an_answer_to_a_probe_that_finds_no_room_leaves_when_there_is() {
    let mut script = Script::established();
    script.host.outbox.room = 0;
    let probe = Header { seq: script.seq - 1, ..script.header(Flags::ACK) };
    script.send_header(probe, b"");
    script.expect_none();
    script.host.outbox.room = usize::MAX;
    assert_eq!(script.expect_one().header.ack, script.seq);
    script.expect_none();
}

#[test]
fn a_peer_that_is_not_there_is_given_up() {
    // RFC 9293 3.8.3.
    let mut pair = Pair::new(Faults { loss_permille: 1_000, ..Faults::NONE });
    let conn = pair.connect();
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].closed == Some(Cause::TimedOut)));
    assert_eq!(pair.hosts[0].stack.conn_count(), 0);
}
