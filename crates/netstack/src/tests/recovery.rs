//! Losses and windows, segment by segment (RFC 5681, 6298, 6582, 2018, 2883, 8985, 9293 3.8.6).

use core::time::Duration;

use alloc::vec::Vec;

use super::pair::config;
use super::script::{IRS, ROUND_TRIP, Script, Seen, all_options};
use super::stream::bytes;
use crate::Cause;
use crate::seq::Seq;
use crate::wire::tcp::{Flags, Header, Options, SackBlocks};

const MSS: u32 = 1460;

fn sacks(blocks: &[(Seq, Seq)]) -> Options {
    let mut sacks = SackBlocks::default();
    blocks.iter().for_each(|block| sacks.push(*block));
    Options { sacks, ..Options::default() }
}

/// Where segments of data begin, in segments from the first.
fn places(iss: Seq, seen: &[Seen]) -> Vec<u32> {
    seen.iter().map(|seen| seen.header.seq.since(iss + 1) / MSS).collect()
}

/// A connection with a round trip of 50 ms that has ten segments in flight.
fn ten_in_flight(options: Options) -> Script {
    let mut script = Script::open(config(0), options);
    script.write(b"x");
    script.expect_one();
    script.wait(ROUND_TRIP);
    script.ack += 1;
    script.send(Flags::ACK, b"");
    script.iss += 1;
    script.write(&bytes(40 * MSS as usize, 0));
    let seen = script.seen();
    assert_eq!(places(script.iss, &seen), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "RFC 6928");
    script.wait(Duration::from_millis(50));
    script
}

impl Script {
    /// The peer acknowledges up to a segment, and some beyond it.
    fn acknowledge(&mut self, place: u32, selected: &[(u32, u32)]) {
        let at = |place: u32| self.iss + 1 + place * MSS;
        let blocks: Vec<_> = selected.iter().map(|(from, to)| (at(*from), at(*to))).collect();
        let header = Header { ack: at(place), options: sacks(&blocks), ..self.header(Flags::ACK) };
        self.send_header(header, b"");
    }
}

#[test]
fn selective_acknowledgements_make_one_loss_good_without_a_time_out() {
    // RFC 8985 6.2; RFC 6675 5.
    let mut script = ten_in_flight(all_options());
    for last in 2..=5 {
        script.acknowledge(0, &[(1, last)]);
    }
    let seen = script.seen();
    assert_eq!(places(script.iss, &seen)[0], 0, "the loss comes first");
    script.acknowledge(0, &[(1, 10)]);
    script.seen();
    script.wait(Duration::from_millis(50));
    script.acknowledge(10, &[]);
    assert_eq!(script.host.stack.stats().retransmits, 1);
    assert_eq!(script.host.stack.stats().retransmit_timeouts, 0);
    assert_eq!(script.host.stack.stats().recoveries, 1);
}

#[test]
fn several_losses_in_one_window_are_made_good_together() {
    // RFC 6675 5: only what is missing is sent again.
    let mut script = ten_in_flight(all_options());
    script.acknowledge(0, &[(1, 3)]);
    script.acknowledge(0, &[(4, 6), (1, 3)]);
    script.acknowledge(0, &[(7, 10), (4, 6), (1, 3)]);
    let mut again: Vec<u32> = places(script.iss, &script.seen());
    script.wait(Duration::from_millis(55));
    again.extend(places(script.iss, &script.seen()));
    again.retain(|place| *place < 10);
    again.sort_unstable();
    again.dedup();
    assert_eq!(again, [0, 3, 6]);
    assert_eq!(script.host.stack.stats().retransmit_timeouts, 0);
}

#[test]
fn three_duplicates_mean_a_loss_to_a_peer_without_sack() {
    // RFC 5681 3.2, RFC 6582 3.2.
    let mut script = ten_in_flight(Options { sack_permitted: false, ..all_options() });
    for _ in 0..2 {
        script.acknowledge(0, &[]);
        assert!(!places(script.iss, &script.seen()).contains(&0));
    }
    script.acknowledge(0, &[]);
    assert_eq!(places(script.iss, &script.seen()), [0]);
    // A partial acknowledgement: the next one is lost too.
    script.acknowledge(4, &[]);
    assert!(places(script.iss, &script.seen()).contains(&4));
    script.acknowledge(10, &[]);
    assert_eq!(script.host.stack.stats().retransmit_timeouts, 0);
}

#[test]
fn without_an_answer_the_timer_doubles_until_the_connection_is_given_up() {
    // RFC 6298 5.5, RFC 9293 3.8.3.
    let mut script = Script::open(config(0), Options { sack_permitted: false, ..all_options() });
    script.write(b"anybody?");
    let first = script.expect_one();
    let mut last = script.now;
    let mut gaps = Vec::new();
    while script.own().closed.is_none() {
        let next = script.host.stack.poll_timeout().expect("a timer is set");
        script.wait(next - script.now);
        for seen in script.seen() {
            if seen.header.flags.has(Flags::RST) {
                continue;
            }
            assert_eq!((seen.header.seq, &seen.payload), (first.header.seq, &first.payload));
            gaps.push(script.now - last);
            last = script.now;
        }
    }
    assert_eq!(script.own().closed, Some(Cause::TimedOut));
    assert_eq!(gaps.len(), 15);
    for (gap, next) in gaps.iter().zip(&gaps[1..]) {
        let doubled = (*gap * 2).min(Duration::from_secs(120));
        assert!(next.abs_diff(doubled) <= Duration::from_millis(2), "{gap:?} {next:?}");
    }
    assert_eq!(script.host.stack.pool_used_bytes(), 0);
}

#[test]
fn a_lost_tail_is_probed_before_the_timer() {
    // RFC 8985 7.
    let mut script = ten_in_flight(all_options());
    script.acknowledge(10, &[]);
    let last = script.seen().last().expect("more was sent").header;
    script.wait(Duration::from_millis(150));
    assert_eq!(script.host.stack.stats().loss_probes, 1);
    assert_eq!(script.host.stack.stats().retransmit_timeouts, 0);
    let probe = script.expect_one().header;
    assert!(probe.seq.ge(last.seq), "new data, or the last again");
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    // RFC 9293 3.8.6.1.
    let mut script = Script::established();
    let closed = Header { window: 0, ..script.header(Flags::ACK) };
    script.send_header(closed, b"");
    script.write(&bytes(5_000, 0));
    script.expect_none();
    script.wait(Duration::from_secs(600));
    let probes = script.seen();
    assert!((6..20).contains(&probes.len()), "{} probes, further and further apart", probes.len());
    for probe in &probes {
        assert_eq!((probe.header.seq, probe.payload.len()), (script.iss, 0));
    }
    // Every one is answered, so the connection stays, however long it takes.
    for _ in 0..100 {
        script.send_header(closed, b"");
        script.wait(Duration::from_secs(121));
    }
    script.seen();
    assert_eq!(script.own().closed, None);
    script.send(Flags::ACK, b"");
    let seen = script.seen();
    assert_eq!(places(script.iss, &seen), [0, 1, 2, 3]);
    assert_eq!(seen.iter().map(|seen| seen.payload.len()).sum::<usize>(), 5_000);
}

#[test]
fn a_small_window_waits_for_a_bigger_one_but_not_for_ever() {
    // RFC 9293 3.8.6.2.1.
    let mut script = Script::established();
    let small = Header { window: 100, ..script.header(Flags::ACK) };
    script.send_header(small, b"");
    script.write(&bytes(5_000, 0));
    script.expect_none();
    script.wait(Duration::from_millis(400));
    assert_eq!(script.expect_one().payload.len(), 100);
}

#[test]
fn a_window_opens_by_whole_segments_only_and_tells_who_waits() {
    // RFC 9293 3.8.6.2.2.
    let config = crate::Config { recv_window_bytes: 8_192, ..config(0) };
    let mut script = Script::open(config, all_options());
    script.own().paused = true;
    let mut window = 0;
    for _ in 0..6 {
        script.send(Flags::ACK, &[1; 1460]);
        script.wait(Duration::from_millis(50));
        window = script.seen().last().expect("acknowledged").header.window;
    }
    // The sixth did not fit.
    script.seq = script.seq - (6 * MSS - 8_192);
    assert_eq!(window, 0);
    let conn = script.conn;
    script.host.stack.release(conn, 1_000);
    script.expect_none();
    script.host.stack.release(conn, 1_000);
    assert_eq!(script.expect_one().header.window, 2_000);
    script.own().paused = false;
    script.send(Flags::ACK, b"more");
    script.wait(Duration::from_millis(50));
    assert_eq!(script.own().received.len(), 8_196);
}

#[test]
fn pieces_out_of_order_are_reported_the_last_first() {
    // RFC 2018 4, RFC 2883 4.1.
    let mut script = Script::established();
    let start = IRS + 1;
    let at = |offset: u32| start + offset;
    for (offset, expected) in [
        (100, [(100, 200)].as_slice()),
        (300, &[(300, 400), (100, 200)]),
        (500, &[(500, 600), (300, 400), (100, 200)]),
        (200, &[(100, 400), (500, 600)]),
    ] {
        let header = Header { seq: at(offset), ..script.header(Flags::ACK) };
        script.send_header(header, &bytes(600, 0)[offset as usize..][..100]);
        let seen = script.expect_one();
        let blocks: Vec<_> = expected.iter().map(|&(from, to)| (at(from), at(to))).collect();
        assert_eq!(seen.header.ack, start);
        assert_eq!(seen.header.options.sacks.as_slice(), &blocks[..]);
    }
    script.send(Flags::ACK, &bytes(600, 0)[..100]);
    let seen = script.expect_one();
    assert_eq!(seen.header.ack, at(400));
    assert_eq!(seen.header.options.sacks.as_slice(), [(at(500), at(600))]);
    // What arrived already is told to have come twice.
    let again = Header { seq: at(100), ..script.header(Flags::ACK) };
    script.send_header(again, &[9; 100]);
    let seen = script.expect_one();
    let blocks = [(at(100), at(200)), (at(500), at(600))];
    assert_eq!(seen.header.options.sacks.as_slice(), blocks);
    let last = Header { seq: at(400), ..script.header(Flags::ACK) };
    script.send_header(last, &bytes(600, 0)[400..500]);
    assert_eq!(script.own().received, bytes(600, 0));
}

#[test]
fn a_receiver_that_takes_back_what_it_had_is_sent_all_of_it_again() {
    // RFC 2018 8.
    let mut script = ten_in_flight(all_options());
    script.acknowledge(0, &[(1, 4)]);
    script.acknowledge(1, &[]);
    assert_eq!(script.host.stack.stats().sack_reneged, 1);
    script.wait(Duration::from_secs(3));
    let again = places(script.iss, &script.seen());
    assert!(again.contains(&1), "{again:?}");
}
