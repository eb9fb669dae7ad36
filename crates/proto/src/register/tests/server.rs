//! What a register tells whom, and whom it turns away.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::super::*;
use super::bench::{Bench, remote};
use crate::wire::register::ADDRESS_BYTES_MAX;
use crate::wire::register::topology::{Peer, Topology};

#[test]
fn a_worker_learns_the_gateways_at_once_and_on_each_change() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, WORKER);
    assert_eq!(bench.heard(1), [list(&[])]);
    bench.open(2);
    bench.say(2, &gateway("10.0.0.1:2900"));
    assert_eq!(bench.heard(1), [list(&["10.0.0.1:2900"])]);
    assert_eq!(bench.heard(2), [""; 0]);
    bench.open(3);
    bench.say(3, &gateway("10.0.0.2:2900"));
    assert_eq!(bench.heard(1), [list(&["10.0.0.1:2900", "10.0.0.2:2900"])]);
    bench.lose(2);
    assert_eq!(bench.heard(1), [list(&["10.0.0.2:2900"])]);
}

#[test]
fn a_register_that_stops_takes_no_gateway_from_its_workers() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, &gateway("10.0.0.1:2900"));
    bench.open(2);
    bench.say(2, WORKER);
    assert_eq!(bench.heard(2), [list(&["10.0.0.1:2900"])]);
    bench.end(1, CloseCause::Shell);
    assert_eq!(bench.heard(2), [""; 0]);
}

#[test]
fn an_address_announced_twice_is_listed_once() {
    let mut bench = Bench::default();
    for (conn, address) in [(1, "a:1"), (2, "b:2"), (3, "a:1"), (4, "c:3")] {
        bench.open(conn);
        bench.say(conn, &gateway(address));
    }
    bench.open(5);
    bench.say(5, WORKER);
    assert_eq!(bench.heard(5), [list(&["a:1", "b:2", "c:3"])]);
    bench.lose(1);
    assert_eq!(bench.heard(5), [list(&["b:2", "a:1", "c:3"])]);
}

#[test]
fn a_gateway_that_announces_again_keeps_its_place() {
    let mut bench = Bench::default();
    for (conn, address) in [(1, "a:1"), (2, "b:2"), (1, "z:9")] {
        bench.open(conn);
        bench.say(conn, &gateway(address));
    }
    assert_eq!(bench.gateways(), [("z:9".into(), remote(1)), ("b:2".into(), remote(2))]);
}

#[test]
fn silence_closes_a_connection_after_the_timeout() {
    let mut bench = Bench::default();
    bench.open(1);
    assert_eq!(bench.register.poll_timeout(), Some(Instant::ZERO + AUTH_TIMEOUT));
    bench.wait(Duration::from_secs(9));
    assert!(bench.is_open(1));
    bench.wait(Duration::from_secs(1));
    assert!(!bench.is_open(1));
    assert_eq!(bench.register.stats().refused_auth_timeout, 1);
    assert_eq!(bench.register.poll_timeout(), None);
}

#[test]
fn any_line_disarms_the_timeout_but_half_a_line_does_not() {
    let mut bench = Bench::default();
    for (conn, text) in [(1, PING), (2, "{\"event\":\"ping\"}"), (3, WORKER)] {
        bench.open(conn);
        bench.say(conn, text);
    }
    bench.wait(AUTH_TIMEOUT);
    assert!(bench.is_open(1) && !bench.is_open(2) && bench.is_open(3));
}

#[test]
fn a_connection_refused_for_its_first_line_leaves_no_timeout() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, &"x".repeat((64 << 10) + 1));
    assert!(!bench.is_open(1));
    assert_eq!(bench.register.poll_timeout(), None);
}

#[test]
fn a_timeout_belongs_to_the_connection_and_not_to_its_index() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.wait(Duration::from_secs(5));
    bench.lose(1);
    bench.open(1);
    bench.wait(Duration::from_secs(5));
    assert!(bench.is_open(1));
    bench.wait(Duration::from_secs(5));
    assert!(!bench.is_open(1));
}

#[test]
fn a_ping_is_not_answered() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, PING);
    assert_eq!(bench.heard(1), [""; 0]);
    assert_eq!(bench.register.stats().pings, 1);
}

#[test]
fn a_bad_request_gets_a_text_that_does_not_repeat_it() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, "{\"secret_key\":\"s3cret\"}\n");
    let heard = bench.heard(1);
    assert!(
        heard.len() == 1 && heard[0].starts_with("bad request") && !heard[0].contains("s3cret")
    );
    assert!(!bench.is_open(1));
    assert_eq!(bench.register.stats().refused_bad_request, 1);
}

#[test]
fn what_a_register_refuses_is_closed_without_a_word_and_counted() {
    for (line, counted) in [
        (
            "{\"event\":\"hello\"}\n",
            RegisterStats { refused_unknown_event: 1, ..RegisterStats::default() },
        ),
        (
            "{\"event\":\"worker_connect\",\"secret_key\":\"x\"}\n",
            RegisterStats { refused_key: 1, ..RegisterStats::default() },
        ),
        (
            "{\"event\":\"worker_connect\"}\n",
            RegisterStats { refused_key: 1, ..RegisterStats::default() },
        ),
        (
            "{\"event\":\"gateway_connect\",\"address\":\"a:1\"}\n",
            RegisterStats { refused_key: 1, ..RegisterStats::default() },
        ),
        (
            "{\"event\":\"gateway_connect\"}\n",
            RegisterStats { refused_address: 1, ..RegisterStats::default() },
        ),
        (
            &gateway(&"a".repeat(ADDRESS_BYTES_MAX + 1)),
            RegisterStats { refused_address: 1, ..RegisterStats::default() },
        ),
        (&"x".repeat(64 << 10), RegisterStats::default()),
        (
            &"x".repeat((64 << 10) + 1),
            RegisterStats { refused_line_too_long: 1, ..RegisterStats::default() },
        ),
    ] {
        let mut bench = Bench::new(RegisterConfig {
            secret_key: SecretKey::new("s3cret"),
            ..RegisterConfig::default()
        });
        bench.open(1);
        bench.say(1, line);
        assert_eq!(bench.heard(1), [""; 0], "{line}");
        assert_eq!(bench.is_open(1), counted == RegisterStats::default(), "{line}");
        assert_eq!(bench.register.stats(), RegisterStats { accepted: 1, ..counted }, "{line}");
        assert_eq!(bench.gateways(), []);
    }
}

#[test]
fn lines_behind_a_refused_one_are_not_read() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, &[WORKER, "{}\n", &gateway("a:1")].concat());
    let Topology { gateways, workers, others, .. } = bench.topology();
    assert!(gateways.is_empty() && workers.is_empty() && others.is_empty());
}

#[test]
fn a_gateway_that_is_refused_later_loses_its_address() {
    let mut bench = Bench::default();
    bench.open(1);
    bench.say(1, WORKER);
    bench.open(2);
    bench.say(2, &gateway("a:1"));
    bench.say(2, "nonsense\n");
    assert_eq!(bench.heard(1), [list(&[]), list(&["a:1"]), list(&[])]);
}

#[test]
fn lines_may_come_in_pieces_and_together() {
    let text = [WORKER, PING, &gateway("a:1"), PING].concat();
    for cut in 0..text.len() {
        let mut bench = Bench::default();
        bench.open(1);
        bench.say(1, &text[..cut]);
        bench.say(1, &text[cut..]);
        assert_eq!(bench.heard(1), [list(&[]), list(&["a:1"])], "cut at {cut}");
        assert_eq!(bench.register.stats().pings, 2);
    }
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let limits = RegisterLimits { connection_count_max: 2, ..RegisterLimits::default() };
    let mut bench = Bench::new(RegisterConfig { limits, ..RegisterConfig::default() });
    for conn in 1..=3 {
        bench.open(conn);
    }
    assert!(bench.is_open(2) && !bench.is_open(3));
    assert_eq!(bench.register.stats().refused_connection_limit, 1);
    bench.lose(1);
    bench.open(3);
    assert!(bench.is_open(3));
}

#[test]
fn a_worker_that_does_not_read_is_closed() {
    let limits = RegisterLimits { queued_bytes_max: 100, ..RegisterLimits::default() };
    let mut bench = Bench::new(RegisterConfig { limits, ..RegisterConfig::default() });
    bench.open(1);
    bench.say(1, WORKER);
    bench.open(2);
    for count in 0..4 {
        bench.say(2, &gateway(&alloc::format!("a:{count}")));
    }
    assert!(!bench.is_open(1));
    assert_eq!(bench.register.stats().closed_slow, 1);
    assert_eq!(bench.topology().workers, []);
}

#[test]
fn the_topology_tells_who_is_connected() {
    let mut bench = Bench::default();
    for (conn, text) in [(1, WORKER.into()), (2, gateway("a:1")), (3, PING.into())] {
        bench.open(conn);
        bench.say(conn, &text);
    }
    assert_eq!(bench.gateways(), [("a:1".into(), remote(2))]);
    let peer = |conn| Peer { remote: remote(conn), connected_secs: 0 };
    let Topology { workers, others, .. } = bench.topology();
    assert_eq!((workers, others), (vec![peer(1)], vec![peer(3)]));
}

fn gateway(address: &str) -> String {
    alloc::format!(
        "{{\"event\":\"gateway_connect\", \"address\":\"{address}\", \"secret_key\":\"\"}}\n"
    )
}

fn list(addresses: &[&str]) -> String {
    let mut line = Vec::new();
    encode_broadcast_addresses(addresses.iter().copied(), &mut line);
    String::from_utf8(line).unwrap()
}

const WORKER: &str = "{\"event\":\"worker_connect\",\"secret_key\":\"\"}\n";
const PING: &str = "{\"event\":\"ping\"}\n";
