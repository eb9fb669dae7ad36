//! How fast streams are over links that are far, in simulated time: a slow recovery loses no byte, and would pass every other
//! test.

use core::time::Duration;

use super::link::Faults;
use super::pair::{Pair, config};
use super::stream::bytes;
use crate::Config;

const LEN: usize = 16 << 20;

/// How long a download takes once the connection is open.
fn took(faults: Faults) -> Duration {
    let roomy = |host| Config { send_buffer_bytes: 4 << 20, ..config(host) };
    let mut pair = Pair::with_configs(faults, roomy(0), roomy(1));
    let (conn, other) = pair.open();
    let to_send = bytes(LEN, 0);
    pair.hosts[1].stream(other).to_send.clone_from(&to_send);
    let began = pair.now;
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&conn].received.len() == LEN));
    assert!(pair.hosts[0].streams[&conn].received == to_send);
    pair.now - began
}

const FAR: Faults = Faults { delay: Duration::from_millis(50), ..Faults::NONE };

#[test]
fn a_long_path_is_filled_within_a_few_round_trips() {
    // RFC 5681 3.1: from 14 600 bytes the window doubles every 100 ms, to 4 MiB in nine; three round trips carry the rest.
    let took = took(FAR);
    assert!(took < Duration::from_millis(1_600), "{took:?}");
}

#[test]
fn packets_that_overtake_each_other_cost_little() {
    // RFC 8985 6.2, RFC 3522: without both, each would halve the window.
    let in_order = took(FAR);
    for jitter in [1, 5, 20] {
        let took = took(Faults { jitter: Duration::from_millis(jitter), ..FAR });
        assert!(took < 2 * in_order, "{jitter} ms: {took:?}, in order {in_order:?}");
    }
}

#[test]
fn packets_that_come_twice_cost_nothing() {
    // RFC 2883: a report of a duplicate is no sign of a loss.
    let (once, twice) = (took(FAR), took(Faults { duplicate_permille: 50, ..FAR }));
    assert!(twice < once + Duration::from_millis(100), "{twice:?}, {once:?}");
}
