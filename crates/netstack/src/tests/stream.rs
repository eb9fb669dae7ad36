//! Streams over links of every quality: what is sent arrives, whole, in order, once.

use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;

use super::link::Faults;
use super::pair::{Pair, config};
use crate::{Cause, Config, Stats};

/// Bytes that differ from place to place.
pub(super) fn bytes(count: usize, salt: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at * 31 + at / 251 + salt) % 256).expect("a byte")).collect()
}

/// Sends both ways at once and ends both streams.
fn check(faults: Faults, lens: [usize; 2]) {
    // Longer than the longest time-out: on the worst links the last FIN may be repeated that late.
    let patient = |host| Config { time_wait: Duration::from_secs(600), ..config(host) };
    let mut pair = Pair::with_configs(faults, patient(0), patient(1));
    // Six SYNs in a row are lost on the worst links.
    let Some((conn, other)) = pair.try_open() else { return };
    for (host, conn) in [(0, conn), (1, other)] {
        let stream = pair.hosts[host].stream(conn);
        (stream.to_send, stream.then_shutdown) = (bytes(lens[host], host), true);
    }
    let both_ended = |pair: &Pair| {
        pair.hosts[0].streams[&conn].closed.is_some()
            && pair.hosts[1].streams[&other].closed.is_some()
    };
    assert!(
        pair.run_until(both_ended),
        "{faults:?} {:?}",
        pair.hosts.each_ref().map(|host| host.stack.stats())
    );
    assert!(pair.hosts[0].stream(conn).received == bytes(lens[1], 1), "{faults:?}");
    assert!(pair.hosts[1].stream(other).received == bytes(lens[0], 0), "{faults:?}");
    for (host, conn) in [(0, conn), (1, other)] {
        assert_eq!(pair.hosts[host].stream(conn).closed, Some(Cause::Finished), "{faults:?}");
        assert_eq!(pair.hosts[host].stack.pool_used_bytes(), 0, "{faults:?}");
    }
}

#[test]
fn a_megabyte_each_way_arrives_over_a_clean_link() {
    check(Faults::NONE, [1 << 20, 1 << 20]);
}

#[test]
fn a_megabyte_arrives_over_a_link_that_loses_one_frame_in_twenty() {
    for seed in 0..10 {
        check(Faults { seed, loss_permille: 50, ..Faults::NONE }, [1 << 20, 0]);
    }
}

/// Messages from either host, some time apart. Returns what is left to compare: every frame, and what was counted.
fn talk(faults: Faults, messages: &[(usize, usize, u64)], by_the_rules: bool) -> (u64, [Stats; 2]) {
    let mut pair = Pair::new(faults);
    if by_the_rules {
        pair.hosts.iter_mut().for_each(|host| host.stack.go_by_the_rules());
    }
    if let Some((conn, other)) = pair.try_open() {
        for &(host, len, micros) in messages {
            let stream = pair.hosts[host].stream([conn, other][host]);
            stream.to_send.extend(bytes(len, host));
            pair.run_for(Duration::from_micros(micros));
        }
        pair.run_for(Duration::from_secs(100));
    }
    (pair.link.digest, pair.hosts.each_ref().map(|host| host.stack.stats().clone()))
}

proptest! {
    #[test]
    fn the_short_path_comes_to_the_same_as_the_rules(
        seed: u64,
        loss_permille in prop_oneof![Just(0), 0..100_u16],
        duplicate_permille in prop_oneof![Just(0), 0..100_u16],
        delay_micros in 1..50_000_u64,
        jitter_micros in prop_oneof![Just(0), 0..50_000_u64],
        messages in prop::collection::vec(
            (0..2_usize, prop_oneof![1..100_usize, 1..40_000_usize], 0..300_000_u64),
            0..40,
        ),
    ) {
        let delay = Duration::from_micros(delay_micros);
        let jitter = Duration::from_micros(jitter_micros);
        let faults = Faults { seed, loss_permille, duplicate_permille, delay, jitter };
        prop_assert_eq!(talk(faults, &messages, false), talk(faults, &messages, true));
    }
}

#[test]
fn no_repeated_handshake_leaves_a_server_with_a_wrong_round_trip_time() {
    // RFC 6298 3 (Karn): else the first time-outs are seconds long.
    let mut repeated = 0;
    for seed in 0..500 {
        let delay = Duration::from_micros(100);
        let faults = Faults { seed: seed * 7_919, loss_permille: 200, delay, ..Faults::NONE };
        let mut pair = Pair::new(faults);
        let Some((_, conn)) = pair.try_open() else { continue };
        let stack = &pair.hosts[1].stack;
        repeated += u32::from(stack.stats().retransmit_timeouts > 0);
        let rtt = stack.tcb(conn).expect("it is open").rtt;
        let is_right = rtt.srtt().is_none_or(|srtt| srtt < Duration::from_millis(5));
        assert!(is_right, "seed {seed}: {rtt:?}");
    }
    assert!(repeated > 100, "{repeated}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_stream_arrives_over_any_link(
        seed: u64,
        loss_permille in 0..200_u16,
        duplicate_permille in 0..200_u16,
        delay_micros in 1..100_000_u64,
        jitter_micros in 0..100_000_u64,
        first in 0..200_000_usize,
        second in 0..50_000_usize,
    ) {
        let delay = Duration::from_micros(delay_micros);
        let jitter = Duration::from_micros(jitter_micros);
        check(Faults { seed, loss_permille, duplicate_permille, delay, jitter }, [first, second]);
    }
}
