//! Reductions for nothing are taken back, and windows follow the rate (RFC 3522, 4015, 3708, 2883, 8985 6.2, 9293 3.8.6).

use core::time::Duration;

use alloc::vec::Vec;

use super::link::Faults;
use super::pair::{Pair, config};
use super::script::{IRS, Script, all_options};
use super::stream::bytes;
use crate::Config;
use crate::seq::Seq;
use crate::wire::tcp::{Flags, Header, Options, SackBlocks, Timestamps};

const MSS: u32 = 1460 - 12;

/// A connection with timestamps that has ten segments in flight, and when they were sent.
fn ten_in_flight() -> (Script, u32) {
    let mut script = Script::listening(config(0));
    script.timestamps = true;
    let timestamps = Some(Timestamps { value: script.peer_clock(), echo: 0 });
    script.open_one(Options { timestamps, ..all_options() });
    script.write(&bytes(40 * MSS as usize, 0));
    let seen = script.seen();
    assert_eq!(seen.len(), 10, "RFC 6928");
    let sent_at = seen[0].header.options.timestamps.expect("they were agreed on").value;
    script.wait(Duration::from_millis(50));
    (script, sent_at)
}

impl Script {
    /// The peer acknowledges so many segments, reports these, and echoes a time.
    fn report(&mut self, place: u32, blocks: &[(u32, u32)], echo: u32) {
        let at = |place: u32| self.iss + 1 + place * MSS;
        let mut sacks = SackBlocks::default();
        blocks.iter().for_each(|(from, to)| sacks.push((at(*from), at(*to))));
        let timestamps = Some(Timestamps { value: self.peer_clock(), echo });
        let options = Options { sacks, timestamps, ..Options::default() };
        let header = Header { ack: at(place), options, ..self.header(Flags::ACK) };
        self.send_header(header, b"");
    }

    /// What our timestamp clock shows.
    fn own_clock(&self) -> u32 {
        self.host.stack.tcb(self.conn).expect("it is open").timestamp(self.now)
    }

    fn cwnd(&self) -> u32 {
        self.host.stack.tcb(self.conn).expect("it is open").congestion.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.host.stack.tcb(self.conn).expect("it is open").congestion.ssthresh
    }
}

#[test]
fn an_original_that_overtakes_its_repetition_takes_the_reduction_back() {
    // RFC 3522 3.2, RFC 4015 3.
    for late in [true, false] {
        let (mut script, sent_at) = ten_in_flight();
        script.report(0, &[(1, 5)], sent_at);
        assert_eq!(script.seen()[0].header.seq, script.iss + 1, "it seems to be lost");
        assert!(script.ssthresh() < 10 * MSS);
        script.wait(Duration::from_millis(5));
        let echo = if late { sent_at } else { sent_at + 50 };
        script.report(10, &[], echo);
        assert_eq!(script.ssthresh() == u32::MAX, late);
        assert_eq!(script.cwnd() >= 10 * MSS, late, "{}", script.cwnd());
        assert_eq!(script.host.stack.stats().recoveries_undone, u64::from(late));
    }
}

#[test]
fn an_original_that_arrives_before_anything_was_sent_again_takes_the_reduction_back() {
    // RFC 4015 3: both acknowledgements came in one burst.
    let (mut script, sent_at) = ten_in_flight();
    script.host.outbox.room = script.host.outbox.frames.len();
    script.report(0, &[(1, 5)], sent_at);
    assert!(script.ssthresh() < 10 * MSS);
    script.report(5, &[], sent_at);
    assert_eq!(script.ssthresh(), u32::MAX);
    assert!(script.cwnd() >= 10 * MSS);
    let stats = script.host.stack.stats();
    assert_eq!((stats.recoveries_undone, stats.retransmits), (1, 0));
}

#[test]
fn a_time_out_for_nothing_is_taken_back() {
    // RFC 3522 3.2: a path that is held up for a while loses nothing.
    let (mut script, sent_at) = ten_in_flight();
    let before = script.cwnd();
    script.seen();
    script.wait(Duration::from_millis(600));
    assert!(script.host.stack.stats().retransmit_timeouts > 0);
    assert!(script.cwnd() < before, "{} {before} {:?}", script.cwnd(), script.host.stack.stats());
    script.seen();
    script.report(10, &[], sent_at);
    assert!(script.cwnd() >= before, "{} {before} {:?}", script.cwnd(), script.host.stack.stats());
    assert_eq!(script.host.stack.stats().recoveries_undone, 1);
    let next: Vec<Seq> = script.seen().iter().map(|seen| seen.header.seq).collect();
    assert_eq!(next[0], script.iss + 1 + 11 * MSS, "only data behind the probe: {next:?}");
}

#[test]
fn data_that_arrives_unrepeated_after_a_time_out_takes_it_back_without_timestamps() {
    // RFC 5682 3.1, step 3b.
    let mut script = Script::established();
    let len = 1460;
    script.write(&bytes(40 * len as usize, 0));
    assert_eq!(script.seen().len(), 10);
    let before = script.cwnd();
    script.wait(Duration::from_millis(600));
    script.seen();
    assert!(script.host.stack.stats().retransmit_timeouts > 0 && script.cwnd() < before);
    // As a receiver says it that acknowledges every second segment.
    let ack = Header { ack: script.iss + 1 + 2 * len, ..script.header(Flags::ACK) };
    script.send_header(ack, b"");
    assert!(script.cwnd() >= before);
    assert_eq!(script.host.stack.stats().recoveries_undone, 1);
}

#[test]
fn repetitions_that_all_arrive_twice_take_the_reduction_back_and_widen_the_reordering_window() {
    // RFC 3708 3, RFC 2883 5, RFC 8985 6.2 step 4.
    let (mut script, _) = ten_in_flight();
    script.report(0, &[(1, 5)], script.own_clock());
    script.seen();
    script.report(10, &[], script.own_clock());
    assert_eq!(script.host.stack.stats().recoveries_undone, 0);
    let tcb = |script: &Script| script.host.stack.tcb(script.conn).expect("open").reordering;
    let mult = |script: &Script| tcb(script).multiplier();
    assert_eq!(mult(&script), 1);
    script.seen();
    // A duplicate of the network's own tells nothing.
    script.report(10, &[(5, 6)], script.own_clock());
    assert_eq!((script.host.stack.stats().recoveries_undone, mult(&script)), (0, 1));
    script.report(10, &[(0, 1)], script.own_clock());
    assert_eq!((script.host.stack.stats().recoveries_undone, mult(&script)), (1, 2));
    assert_eq!(script.ssthresh(), u32::MAX);
}

#[test]
fn a_window_grows_with_the_rate_up_to_what_is_configured_and_not_for_who_holds_everything() {
    // RFC 7323 2; the largest window is 65 535 before scaling.
    for (paused, expected) in [(false, 1 << 20), (true, 256 << 10)] {
        let faults = Faults { delay: Duration::from_millis(50), ..Faults::NONE };
        let configured = |host| Config {
            recv_window_bytes: 1 << 20,
            send_buffer_bytes: 8 << 20,
            ..config(host)
        };
        let mut pair = Pair::with_configs(faults, configured(0), configured(1));
        let (conn, other) = pair.open();
        pair.hosts[1].stream(other).paused = paused;
        let to_send = bytes(8 << 20, 0);
        pair.hosts[0].stream(conn).to_send.clone_from(&to_send);
        pair.run_for(Duration::from_secs(1));
        let stack = &pair.hosts[1].stack;
        let window = stack.tcb(other).expect("it is open").whole_window(stack.shared());
        assert_eq!(window, expected, "{paused}");
        pair.hosts[1].stream(other).paused = false;
        let has_all = |pair: &Pair| pair.hosts[1].streams[&other].received.len() == 8 << 20;
        assert!(pair.run_until(has_all));
        assert!(pair.hosts[1].streams[&other].received == to_send);
    }
}

#[test]
fn the_first_window_is_that_of_before_whatever_may_follow() {
    // RFC 7323 2.2: the window of a SYN is not scaled.
    let mut script = Script::listening(config(0));
    script.open_one(all_options());
    script.send(Flags::ACK, b"a");
    script.wait(Duration::from_millis(50));
    let header = script.expect_one().header;
    let scale = script.host.stack.tcb(script.conn).expect("it is open").rcv_scale;
    assert_eq!(header.ack, IRS + 2);
    assert_eq!(u32::from(header.window) << scale, 256 << 10);
}
