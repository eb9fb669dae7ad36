//! What a connection does with segments that fit, and with those that do not (RFC 9293 3.10.7, 5961, 7323, 1337).

use core::time::Duration;

use super::link::Outbox;
use super::pair::{config, mac};
use super::script::{IRS, Script, all_options, knowing_config, peer_frame};
use crate::Cause;
use crate::seq::Seq;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};

#[test]
fn a_reset_counts_only_at_the_expected_number() {
    // RFC 5961 3.2.
    for (offset, is_reset, is_answered) in
        [(0, true, false), (1, false, true), (30_000, false, true), (1 << 20, false, false)]
    {
        let mut script = Script::established();
        let header = Header { seq: script.seq + offset, ..script.header(Flags::RST) };
        script.send_header(header, b"");
        assert_eq!(script.own().closed, is_reset.then_some(Cause::Reset), "offset {offset}");
        if is_answered {
            script.expect_ack(IRS + 1);
        } else {
            script.expect_none();
        }
    }
}

#[test]
fn a_syn_in_a_connection_is_challenged() {
    // RFC 5961 4.2.
    let mut script = Script::established();
    script.send(Flags::SYN, b"");
    script.expect_ack(IRS + 1);
    assert_eq!(script.own().closed, None);
    // RFC 5961 10: not every one of them.
    script.send(Flags::SYN, b"");
    script.expect_none();
    assert_eq!(script.host.stack.stats().drop_syn_in_connection, 2);
}

#[test]
fn the_challenge_goes_to_where_the_syn_came_from() {
    // RFC 5961 4.2: a peer that restarted, here with another hardware address, resets the connection with its answer.
    let mut script = Script::established();
    let syn = script.header(Flags::SYN);
    let mut wire = Outbox::default();
    peer_frame(&syn, b"", &mut wire);
    let elsewhere = [2, 0, 0, 0, 0, 77];
    wire.frames[0][6..12].copy_from_slice(&elsewhere);
    script.host.handle_frame(script.now, &wire.frames[0]);
    assert_eq!(script.host.outbox.frames.pop().unwrap()[..6], elsewhere);
    // What the connection sends goes where its segments come from, as before.
    script.write(b"still here");
    script.host.turn(script.now);
    assert_eq!(script.host.outbox.frames.pop().unwrap()[..6], mac(1).0);
}

#[test]
fn acknowledgements_of_what_was_never_sent_and_of_the_distant_past_are_challenged() {
    // RFC 9293 3.10.7.4 fifth, RFC 5961 5.2.
    for ack_offset in [1, 1_u32.wrapping_sub(70_000)] {
        let mut script = Script::established();
        let ack = script.ack + ack_offset;
        let header = Header { ack, ..script.header(Flags::ACK) };
        script.send_header(header, b"data");
        script.expect_ack(IRS + 1);
        assert!(script.own().received.is_empty());
        assert_eq!(script.host.stack.stats().drop_ack_unacceptable, 1);
    }
}

#[test]
fn data_beyond_the_window_is_answered_and_dropped() {
    // RFC 9293 3.10.7.4 first.
    let mut script = Script::established();
    let header = Header { seq: script.seq + (1 << 20), ..script.header(Flags::ACK) };
    script.send_header(header, b"data");
    script.expect_ack(IRS + 1);
    assert!(script.own().received.is_empty());
}

#[test]
fn a_segment_without_ack_is_dropped() {
    // RFC 9293 3.10.7.4 fifth.
    let mut script = Script::established();
    script.send(Flags::PSH, b"data");
    script.expect_none();
    assert!(script.own().received.is_empty());
}

#[test]
fn every_second_full_segment_is_acknowledged_at_once_and_a_lone_one_after_a_while() {
    // RFC 5681 4.2, RFC 9293 3.8.6.3.
    let mut script = Script::established();
    script.send(Flags::ACK, &[1; 1460]);
    script.expect_none();
    script.send(Flags::ACK, &[2; 1460]);
    script.expect_ack(IRS + 1 + 2_920);
    script.send(Flags::ACK, b"x");
    script.expect_none();
    script.wait(Duration::from_millis(45));
    script.expect_ack(IRS + 1 + 2_921);
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    // RFC 9293 3.8.6.3.
    let mut script = Script::established();
    script.send(Flags::ACK, b"ping");
    script.write(b"pong");
    let seen = script.expect_one();
    assert_eq!((seen.header.ack, &seen.payload[..]), (IRS + 5, &b"pong"[..]));
    assert!(seen.header.flags.has(Flags::PSH));
}

#[test]
fn old_timestamps_are_refused_unless_they_are_ancient() {
    // RFC 7323 5.3 R1, 5.5.
    let options =
        Options { timestamps: Some(Timestamps { value: 1_000_000, echo: 0 }), ..all_options() };
    let mut script = Script::listening(config(0));
    script.timestamps = true;
    // The peer's clock is at its SYN's value from now on.
    script.now = tengate_base::Instant::from_nanos(1_000_000_000_000);
    script.open_one(options);
    let late =
        |value| Options { timestamps: Some(Timestamps { value, echo: 0 }), ..Options::default() };
    let header = Header { options: late(999_999), ..script.header(Flags::ACK) };
    script.send_header(header, b"old");
    script.expect_one();
    assert_eq!(script.host.stack.stats().drop_paws, 1);
    assert!(script.own().received.is_empty());
    let header = Header { options: late(1_000_051), ..script.header(Flags::ACK) };
    script.send_header(header, b"new");
    assert_eq!(script.own().received, b"new");
    // RFC 7323 3.2: once agreed on, every segment has them.
    script.timestamps = false;
    script.seq += 3;
    script.send(Flags::ACK, b"none");
    assert_eq!(script.host.stack.stats().drop_no_timestamps, 1);
}

#[test]
fn a_repeated_segment_is_echoed_with_its_own_time_and_an_older_one_is_not() {
    // RFC 7323 4.3, but for the last segment, whose acknowledgement was lost.
    let timestamps = Some(Timestamps { value: 10_000, echo: 0 });
    let mut script = Script::listening(config(0));
    script.timestamps = true;
    script.open_one(Options { timestamps, ..all_options() });
    for _ in 0..2 {
        script.send(Flags::ACK, &[1; 100]);
        script.wait(Duration::from_millis(50));
    }
    script.seen();
    script.wait(Duration::from_secs(5));
    for (back, is_own) in [(200, false), (100, true)] {
        let again = Header { seq: script.seq - back, ..script.header(Flags::ACK) };
        script.send_header(again, &[1; 100]);
        let echo = script.expect_one().header.options.timestamps.map(|theirs| theirs.echo);
        assert_eq!(echo == Some(script.peer_clock()), is_own, "{back}");
    }
}

#[test]
fn an_application_that_is_done_is_told_nothing_more() {
    // RFC 9293 3.6.
    let mut script = Script::established();
    let gap = Header { seq: script.seq + 3, ..script.header(Flags::ACK) };
    script.send_header(gap, b"later");
    script.seen();
    // Handed to the stack itself, so that the events of the frame can be seen one by one.
    let mut wire = Outbox::default();
    let fin = script.header(Flags::ACK.with(Flags::FIN));
    let host = &mut script.host;
    let (now, conn) = (script.now, script.conn);
    peer_frame(&fin, b"nowlater", &mut wire);
    host.stack.handle_frame(now, &wire.frames[0], &mut host.outbox);
    let first = host.stack.poll_event().expect("bytes in order");
    assert!(matches!(first, crate::Event::Received { .. }), "{first:?}");
    host.stack.close(now, conn);
    assert_eq!(host.stack.poll_event(), None);
    assert_eq!(host.stack.queued(conn), 0);
}

#[test]
fn two_ends_that_disagree_by_a_number_do_not_answer_each_other_for_ever() {
    // RFC 5961 7 and 10: what is below the window is answered, but not each time.
    let mut script = Script::established();
    script.seq = script.seq - 1;
    let mut answers = 0;
    for _ in 0..1_000 {
        script.send(Flags::ACK, b"");
        answers += script.seen().len();
        script.now = script.now + Duration::from_millis(1);
    }
    assert_eq!(answers, 10);
}

#[test]
fn both_sides_may_open_at_once() {
    // RFC 9293 3.5, figure 7.
    let mut script = Script::listening(knowing_config());
    script.connect();
    let syn = Header { options: all_options(), ..script.header(Flags::SYN) };
    script.send_header(syn, b"");
    let syn_ack = script.expect_one().header;
    assert_eq!(syn_ack.flags, Flags::SYN.with(Flags::ACK));
    assert_eq!((syn_ack.seq, syn_ack.ack), (script.iss, IRS + 1));
    script.seq += 1;
    script.ack = script.iss + 1;
    script.send(Flags::ACK, b"hi");
    assert!(script.own().is_open);
    assert_eq!(script.own().received, b"hi");
}

#[test]
fn both_sides_may_close_at_once() {
    // RFC 9293 3.6, figure 13.
    let mut script = Script::established();
    let (now, conn) = (script.now, script.conn);
    script.host.stack.shutdown(now, conn);
    assert!(script.expect_one().header.flags.has(Flags::FIN));
    // The peer's FIN acknowledges nothing of ours yet.
    script.send(Flags::ACK.with(Flags::FIN), b"");
    script.expect_ack(IRS + 2);
    assert_eq!(script.own().closed, None);
    script.ack += 1;
    script.send(Flags::ACK, b"");
    assert_eq!(script.own().closed, Some(Cause::Finished));
    assert_eq!(script.host.stack.time_wait_count(), 1);
}

#[test]
fn a_stream_goes_on_after_the_other_has_ended() {
    // RFC 9293 3.6.
    let mut script = Script::established();
    script.send(Flags::ACK.with(Flags::FIN), b"bye");
    assert!(script.own().peer_closed);
    script.expect_ack(IRS + 5);
    script.write(b"still here");
    assert_eq!(script.expect_one().payload, b"still here");
    script.ack += 10;
    script.send(Flags::ACK, b"");
    let (now, conn) = (script.now, script.conn);
    script.host.stack.shutdown(now, conn);
    assert!(script.expect_one().header.flags.has(Flags::FIN));
    script.ack += 1;
    script.send(Flags::ACK, b"");
    assert_eq!(script.own().closed, Some(Cause::Finished));
    // Who closed first waits, and that was the peer.
    assert_eq!(script.host.stack.time_wait_count(), 0);
}

/// A connection of ours in TIME-WAIT.
fn finished() -> Script {
    let mut script = Script::established();
    let (now, conn) = (script.now, script.conn);
    script.host.stack.shutdown(now, conn);
    script.expect_one();
    script.ack += 1;
    script.send(Flags::ACK.with(Flags::FIN), b"");
    script.expect_ack(IRS + 2);
    assert_eq!(script.host.stack.time_wait_count(), 1);
    script
}

#[test]
fn time_wait_answers_a_repeated_fin_and_begins_anew() {
    // RFC 9293 3.10.7.4 eighth.
    let mut script = finished();
    script.wait(Duration::from_secs(50));
    script.seq = script.seq - 1;
    script.send(Flags::ACK.with(Flags::FIN), b"");
    script.expect_ack(IRS + 2);
    script.wait(Duration::from_secs(50));
    assert_eq!(script.host.stack.time_wait_count(), 1);
    script.wait(Duration::from_secs(11));
    assert_eq!(script.host.stack.time_wait_count(), 0);
}

#[test]
fn time_wait_is_not_ended_by_a_reset() {
    // RFC 1337 3.
    let mut script = finished();
    script.send(Flags::RST, b"");
    script.expect_none();
    assert_eq!(script.host.stack.time_wait_count(), 1);
}

#[test]
fn time_wait_gives_way_to_a_newer_connection_only() {
    // RFC 9293 3.6.1 (MAY-2), RFC 6191.
    for (seq, reopens) in [(IRS + 3, true), (IRS - 10_000, false)] {
        let mut script = finished();
        script.seq = seq;
        script.send(Flags::SYN, b"");
        let seen = script.expect_one().header;
        assert_eq!(seen.flags.has(Flags::SYN), reopens, "{seen:?}");
        assert_eq!(script.host.stack.time_wait_count(), usize::from(!reopens));
    }
}

#[test]
fn what_nobody_listens_to_is_reset_with_the_right_numbers() {
    // RFC 9293 3.10.7.1.
    let mut script = Script::listening(config(0));
    let to_nowhere = Header { destination_port: 81, ..script.header(Flags::SYN) };
    script.send_header(to_nowhere, b"");
    let reset = script.expect_one().header;
    assert_eq!(reset.flags, Flags::RST.with(Flags::ACK));
    assert_eq!((reset.seq, reset.ack), (Seq(0), IRS + 1));
    script.ack = Seq(77);
    script.send(Flags::ACK, b"data");
    let reset = script.expect_one().header;
    assert_eq!((reset.flags, reset.seq), (Flags::RST, Seq(77)));
    script.send(Flags::RST, b"");
    script.expect_none();
}

#[test]
fn a_wrong_acknowledgement_of_our_syn_is_reset() {
    // RFC 9293 3.10.7.3 first, 3.5.3.
    let mut script = Script::listening(knowing_config());
    let syn = script.connect();
    script.ack = syn.seq + 2;
    script.send(Flags::SYN.with(Flags::ACK), b"");
    let reset = script.expect_one().header;
    assert_eq!((reset.flags, reset.seq), (Flags::RST, syn.seq + 2));
    assert_eq!(script.own().closed, None);
    script.ack = syn.seq + 1;
    script.send(Flags::RST.with(Flags::ACK), b"");
    assert_eq!(script.own().closed, Some(Cause::Refused));
}

#[test]
fn idle_peers_are_probed_and_given_up() {
    // RFC 9293 3.8.4.
    let keepalive = crate::Keepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(5),
        probes_max: 3,
    };
    let config = crate::Config { keepalive: Some(keepalive), ..config(0) };
    let mut script = Script::open(config, all_options());
    script.wait(Duration::from_secs(61));
    let probe = script.expect_one();
    assert_eq!((probe.header.seq, probe.payload.len()), (script.ack - 1, 0));
    script.send(Flags::ACK, b"");
    script.wait(Duration::from_secs(59));
    script.expect_none();
    script.wait(Duration::from_secs(12));
    assert_eq!(script.seen().len(), 3);
    assert_eq!(script.own().closed, None);
    script.wait(Duration::from_secs(5));
    assert_eq!(script.own().closed, Some(Cause::TimedOut));
}

#[test]
fn a_closed_connection_takes_what_still_comes_and_lingers_no_longer_than_allowed() {
    // RFC 9293 3.6.1, RFC 1122 4.2.2.13.
    let mut script = Script::established();
    let (now, conn) = (script.now, script.conn);
    script.host.stack.close(now, conn);
    assert!(script.expect_one().header.flags.has(Flags::FIN));
    script.ack += 1;
    script.send(Flags::ACK, &[7; 1460]);
    script.send(Flags::ACK, &[7; 1460]);
    script.expect_ack(IRS + 1 + 2_920);
    assert!(script.own().received.is_empty());
    script.wait(Duration::from_secs(61));
    assert_eq!(script.host.stack.conn_count(), 0);
    assert_eq!(script.own().closed, None, "its application was done with it");
}

#[test]
fn a_connection_that_was_finished_before_it_was_given_up_lingers_no_longer_either() {
    let mut script = Script::established();
    let (now, conn) = (script.now, script.conn);
    script.host.stack.shutdown(now, conn);
    assert!(script.expect_one().header.flags.has(Flags::FIN));
    script.ack += 1;
    script.send(Flags::ACK, b"");
    script.wait(Duration::from_secs(600));
    assert_eq!(script.host.stack.conn_count(), 1, "the peer may go on for as long as it likes");
    let (now, conn) = (script.now, script.conn);
    script.host.stack.close(now, conn);
    script.wait(Duration::from_secs(61));
    assert_eq!(script.host.stack.conn_count(), 0);
}
