//! What a register tells gateways that serve dispatchers, the dispatchers, and workers beside them.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::{LEASE_KEEP, QUIET, RegisterConfig, RegisterLimits, RegisterStats};
use super::bench::{Bench, remote};
use crate::secret::SecretKey;
use crate::wire::register::topology::{AbsentLease, Mode, Topology};
use crate::wire::register::{Block, LinkedGateway, LinkedWorker, Links, ToRegister, Wanted};

#[test]
fn workers_hear_of_dispatchers_and_direct_gateways_and_never_of_dispatched_ones() {
    let mut bench = settled();
    bench.connect(1, WORKER);
    bench.connect(2, &gateway("g:1", 1));
    bench.connect(3, &dispatcher("d:1"));
    bench.connect(
        4,
        "{\"event\":\"gateway_connect\", \"address\":\"old:1\", \"secret_key\":\"\"}\n",
    );
    bench.connect(5, &dispatcher("d:2"));
    bench.lose(3);
    let lists = [
        "[]",
        r#"["d:1"]"#,
        r#"["d:1","old:1"]"#,
        r#"["d:1","old:1","d:2"]"#,
        r#"["old:1","d:2"]"#,
    ];
    let line = |list| format!("{{\"event\":\"broadcast_addresses\",\"addresses\":{list}}}\n");
    assert_eq!(bench.heard(1), lists.map(line));
}

#[test]
fn gateways_get_leases_of_their_own_and_a_home_each() {
    let mut bench = settled();
    bench.connect(1, &dispatcher("d:1"));
    bench.connect(2, &gateway("g:1", 2));
    bench.connect(3, &gateway("g:2", 1));
    assert_eq!(bench.heard(1), [dial(&[]), dial(&["g:1"]), dial(&["g:1", "g:2"])]);
    assert_eq!(bench.heard(2), [lease(0, 2), home(Some("d:1"))]);
    assert_eq!(bench.heard(3), [lease(2, 1), home(Some("d:1"))]);
}

#[test]
fn without_a_dispatcher_a_gateway_hears_that_it_has_no_home() {
    let mut bench = settled();
    bench.connect(1, &gateway("g:1", 1));
    assert_eq!(bench.heard(1), [lease(0, 1), home(None)]);
}

#[test]
fn only_what_changed_is_told_and_only_to_whom_it_concerns() {
    let mut bench = settled();
    for (conn, line) in [
        (1, dispatcher("d:1")),
        (2, dispatcher("d:2")),
        (3, gateway("g:1", 1)),
        (4, gateway("g:2", 1)),
    ] {
        bench.connect(conn, &line);
    }
    let homes = [3, 4].map(|conn| bench.heard(conn).pop().unwrap());
    assert_ne!(homes[0], homes[1], "two dispatchers share two gateways");
    for conn in [1, 2] {
        bench.heard(conn);
    }
    let moves = if homes[0] == home(Some("d:1")) { 3 } else { 4 };
    bench.lose(1);
    assert_eq!(bench.heard(moves), [home(Some("d:2"))]);
    assert_eq!(bench.heard(7 - moves), [""; 0]);
    assert_eq!(bench.heard(2), [""; 0]);
    bench.connect(5, WORKER);
    assert_eq!(bench.heard(moves), [""; 0]);
}

// protocol.md#dispatched-mode: where nobody would take its events, a gateway is not at home.
#[test]
fn a_dispatcher_is_a_home_once_it_has_had_a_worker_unless_none_has() {
    let mut bench = settled();
    for (conn, line) in
        [(1, dispatcher("d:1")), (3, gateway("g:1", 1)), (4, gateway("g:2", 1)), (5, WORKER.into())]
    {
        bench.connect(conn, &line);
    }
    for conn in [3, 4] {
        assert_eq!(bench.heard(conn).pop(), Some(home(Some("d:1"))), "nobody is better");
    }
    bench.say(1, &serves());
    bench.connect(2, &dispatcher("d:2"));
    bench.say(2, &links(&[], None));
    let heard = |bench: &mut Bench| [3, 4].map(|conn| bench.heard(conn)).concat();
    assert_eq!(heard(&mut bench), [""; 0], "no worker is linked to it yet");
    bench.say(2, &serves());
    let moved = home(Some("d:2"));
    assert_eq!(heard(&mut bench), [&*moved], "two dispatchers share two gateways");
    bench.say(2, &links(&[], None));
    assert_eq!(heard(&mut bench), [""; 0], "workers that restart move nobody");
}

#[test]
fn a_register_that_has_just_started_waits_for_claims() {
    let mut bench = Bench::default();
    bench.connect(1, &gateway("g:1", 1));
    bench.connect(2, &dispatcher("d:1"));
    bench.connect(3, &claim("g:2", 1, 0));
    assert_eq!(bench.heard(1), [""; 0]);
    assert_eq!(bench.heard(3), [lease(0, 1)], "and it says nothing of homes");
    assert_eq!(bench.heard(2), [dial(&[]), dial(&["g:2"])]);
    bench.wait(QUIET);
    assert_eq!(bench.heard(1), [lease(1, 1), home(Some("d:1"))]);
    assert_eq!(bench.heard(3), [home(Some("d:1"))]);
    assert_eq!(bench.heard(2), [dial(&["g:1", "g:2"])]);
}

#[test]
fn a_gateway_that_comes_back_has_its_block_until_it_was_away_for_too_long() {
    let mut bench = settled();
    bench.connect(1, &gateway("g:1", 1));
    bench.lose(1);
    bench.wait(LEASE_KEEP - Duration::from_nanos(1));
    bench.connect(1, &gateway("g:1", 1));
    assert_eq!(bench.heard(1).last(), Some(&home(None)));
    bench.lose(1);
    bench.wait(LEASE_KEEP);
    assert_eq!(bench.topology().absent_leases, []);
    bench.connect(2, &gateway("g:1", 1));
    assert_eq!(bench.heard(2)[0], lease(1, 1), "the block was used, so a fresh one comes first");
}

#[test]
fn a_gateway_that_was_refused_gets_the_first_block_that_is_free() {
    let mut bench = Bench::new(RegisterConfig { proc_ids: 0..=1, ..RegisterConfig::default() });
    bench.connect(1, &claim("g:1", 2, 0));
    bench.wait(QUIET);
    bench.connect(2, &gateway("g:2", 2));
    let heard = bench.heard(2);
    assert!(heard.len() == 1 && heard[0].starts_with("{\"event\":\"refused\""), "{heard:?}");
    bench.lose(1);
    bench.heard(2);
    bench.wait(LEASE_KEEP);
    assert_eq!(bench.heard(2), [lease(0, 2), home(None)]);
}

#[test]
fn a_gateway_without_a_lease_is_not_dialed() {
    let mut bench = settled();
    bench.connect(1, &claim("g:1", 1, 7));
    bench.connect(2, &claim("g:2", 1, 7));
    bench.connect(3, &dispatcher("d:1"));
    assert_eq!(bench.heard(3), [dial(&["g:1"])]);
    assert_eq!(bench.heard(2).len(), 1);
    assert!(bench.topology().gateways[1].refused.as_deref().unwrap().contains("g:1"));
}

#[test]
fn a_link_that_a_dispatcher_reports_keeps_a_lease() {
    let mut bench = settled();
    bench.connect(1, &gateway("g:1", 1));
    bench.connect(2, &dispatcher("d:1"));
    bench.say(2, &links(&["g:1"], None));
    bench.lose(1);
    bench.wait(2 * LEASE_KEEP);
    let absent =
        |kept_secs| AbsentLease { address: "g:1".into(), first_proc_id: 0, shards: 1, kept_secs };
    assert_eq!(bench.topology().absent_leases, [absent(None)]);
    bench.say(2, &links(&[], None));
    assert_eq!(bench.topology().absent_leases, [absent(Some(LEASE_KEEP.as_secs()))]);
    bench.say(2, &links(&["g:1"], None));
    bench.lose(2);
    bench.wait(LEASE_KEEP);
    assert_eq!(bench.topology().absent_leases, []);
}

#[test]
fn a_block_that_a_dispatcher_sees_in_use_is_given_to_nobody_else() {
    let mut bench = Bench::default();
    bench.connect(1, &dispatcher("d:1"));
    let block = Block { first_proc_id: 0, shards: 3, number_bits: 22 };
    bench.say(1, &links(&["g:1"], Some(block)));
    bench.wait(QUIET);
    bench.connect(2, &gateway("g:2", 1));
    assert_eq!(bench.heard(2)[0], lease(3, 1));
    bench.connect(3, &gateway("g:1", 3));
    assert_eq!(bench.heard(3)[0], lease(0, 3));
}

#[test]
fn a_gateway_that_connects_again_replaces_its_earlier_connection() {
    let mut bench = settled();
    bench.connect(1, &gateway("g:1", 1));
    bench.connect(2, &gateway("g:1", 1));
    assert!(!bench.is_open(1) && bench.is_open(2));
    assert_eq!(bench.heard(2), [lease(0, 1), home(None)]);
    assert_eq!(bench.register.stats().closed_superseded, 1);
}

#[test]
fn two_machines_with_one_address_do_not_share_a_lease() {
    let mut bench = settled();
    bench.connect(1, &gateway("127.0.0.1:2900", 1));
    bench.open_from(2, ([10, 0, 0, 8], 5).into());
    bench.say(2, &gateway("127.0.0.1:2900", 1));
    let heard = bench.heard(2);
    assert!(heard[0].contains("10.0.0.9:1 is connected as 127.0.0.1:2900 too"), "{heard:?}");
    bench.lose(1);
    assert_eq!(bench.heard(2), [lease(0, 1), home(None)]);
}

#[test]
fn a_claim_on_the_same_connection_moves_the_lease() {
    let mut bench = settled();
    bench.connect(1, &gateway("g:1", 1));
    bench.say(1, &claim("g:1", 1, 9));
    assert_eq!(bench.heard(1), [lease(0, 1), home(None), lease(9, 1), home(None)]);
    assert_eq!(bench.topology().gateways[0].first_proc_id, Some(9));
}

#[test]
fn lines_that_are_not_the_senders_close_the_connection() {
    for (role, line) in [
        (PING.into(), links(&[], None)),
        (gateway("g:1", 1), links(&[], None)),
        (PING.into(), "{\"event\":\"links\",\"gateways\":7}\n".into()),
        (PING.into(), gateway("g:1", 0)),
    ] {
        let mut bench = settled();
        bench.connect(1, &role);
        bench.say(1, &line);
        assert!(!bench.is_open(1), "{line}");
        assert_eq!(bench.register.stats().refused_bad_fields, 1);
    }
}

#[test]
fn each_of_tengates_own_lines_needs_the_key() {
    for line in [gateway("g:1", 1), dispatcher("d:1"), TOPOLOGY.into()] {
        let secret_key = SecretKey::new("s3cret");
        let mut bench = Bench::new(RegisterConfig { secret_key, ..RegisterConfig::default() });
        bench.connect(1, &line);
        assert!(!bench.is_open(1) && bench.heard(1).is_empty());
        let expected = RegisterStats { accepted: 1, refused_key: 1, ..RegisterStats::default() };
        assert_eq!(bench.register.stats(), expected);
    }
}

#[test]
fn a_report_may_be_longer_than_other_lines() {
    let mut bench = settled();
    bench.connect(1, &dispatcher("d:1"));
    let names: Vec<String> = (0..4000).map(|index| format!("10.0.0.1:{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let line = links(&names, None);
    assert!(line.len() > RegisterLimits::default().line_bytes_max);
    let (beginning, end) = line.split_at(70 << 10);
    bench.say(1, beginning);
    bench.say(1, end);
    assert_eq!(bench.topology().dispatchers[0].gateways.len(), 4000);
}

#[test]
fn peers_that_do_not_read_are_closed_and_their_homes_move() {
    let limits = RegisterLimits { queued_bytes_max: 200, ..RegisterLimits::default() };
    let mut bench = Bench::new(RegisterConfig { limits, ..RegisterConfig::default() });
    bench.wait(QUIET);
    bench.connect(1, &dispatcher("d:1"));
    bench.connect(2, &gateway("g:1", 1));
    for conn in 3..9 {
        bench.connect(conn, &gateway(&format!("g:{conn}"), 1));
    }
    assert!(!bench.is_open(1) && bench.is_open(2));
    assert_eq!(bench.heard(2), [lease(0, 1), home(Some("d:1")), home(None)]);
    assert_eq!(bench.register.stats().closed_slow, 1);
}

#[test]
fn the_topology_shows_the_whole_graph() {
    let mut bench = settled();
    bench.connect(1, &dispatcher("d:1"));
    bench.connect(2, &gateway("g:1", 2));
    bench.connect(3, "{\"event\":\"gateway_connect\",\"address\":\"old:1\"}\n");
    bench.connect(4, WORKER);
    let gateways = vec![LinkedGateway {
        address: "g:1".into(),
        home: true,
        clients: 12,
        block: Some(Block { first_proc_id: 0, shards: 2, number_bits: 22 }),
    }];
    let workers = vec![LinkedWorker { key: "127.0.0.1:chat:0".into(), clients: 12 }];
    bench.say(1, &encoded(&ToRegister::Links(Links { gateways, workers, workers_left_out: 3 })));
    bench.wait(Duration::from_secs(7));
    bench.connect(5, TOPOLOGY);
    let heard = bench.heard(5).concat();
    let remotes = [1, 2, 3, 4, 5].map(remote);
    let [d, g, old, worker, asker] = remotes;
    let expected = format!(
        concat!(
            r#"{{"event":"topology","uptime_secs":10,"proc_ids":[0,1023],"number_bits":22,"#,
            r#""gateways":[{{"address":"g:1","mode":"dispatched","remote":"{g}","connected_secs":7,"shards":2,"#,
            r#""first_proc_id":0,"refused":null,"home_wish":"d:1","home":"d:1","clients":12}},"#,
            r#"{{"address":"old:1","mode":"direct","remote":"{old}","connected_secs":7,"shards":null,"#,
            r#""first_proc_id":null,"refused":null,"home_wish":null,"home":null,"clients":null}}],"#,
            r#""dispatchers":[{{"address":"d:1","remote":"{d}","connected_secs":7,"#,
            r#""gateways":[{{"address":"g:1","home":true,"clients":12}}],"#,
            r#""workers":[{{"key":"127.0.0.1:chat:0","clients":12}}],"workers_left_out":3}}],"#,
            r#""workers":[{{"remote":"{worker}","connected_secs":7}}],"#,
            r#""others":[{{"remote":"{asker}","connected_secs":0}}],"absent_leases":[]}}"#,
            "\n"
        ),
        g = g,
        old = old,
        d = d,
        worker = worker,
        asker = asker
    );
    assert_eq!(heard, expected);
    let topology = Topology::decode(heard.as_bytes()).unwrap();
    assert_eq!(topology, bench.topology());
    assert_eq!(
        topology.gateways.iter().map(|gateway| gateway.mode).collect::<Vec<_>>(),
        [Mode::Dispatched, Mode::Direct]
    );
}

impl Bench {
    fn connect(&mut self, conn: u32, line: &str) {
        self.open(conn);
        self.say(conn, line);
    }
}

/// A register whose quiet time is over.
fn settled() -> Bench {
    let mut bench = Bench::default();
    bench.wait(QUIET);
    bench
}

fn encoded(line: &ToRegister<'_>) -> String {
    let mut out = Vec::new();
    line.encode(&mut out);
    String::from_utf8(out).unwrap()
}

fn gateway(address: &str, shards: u16) -> String {
    connect_line(address, Wanted { shards, number_bits: 22, first_proc_id: None })
}

fn claim(address: &str, shards: u16, first_proc_id: u16) -> String {
    connect_line(address, Wanted { shards, number_bits: 22, first_proc_id: Some(first_proc_id) })
}

fn connect_line(address: &str, wanted: Wanted) -> String {
    let (address, key) = (address.into(), SecretKey::default());
    encoded(&ToRegister::DispatchedGatewayConnect { address, secret_key: key.show(), wanted })
}

fn dispatcher(address: &str) -> String {
    let (address, key) = (address.into(), SecretKey::default());
    encoded(&ToRegister::DispatcherConnect { address, secret_key: key.show() })
}

fn links(gateways: &[&str], block: Option<Block>) -> String {
    let linked = |address: &&str| LinkedGateway {
        address: (*address).into(),
        block,
        ..LinkedGateway::default()
    };
    let gateways = gateways.iter().map(linked).collect();
    encoded(&ToRegister::Links(Links { gateways, ..Links::default() }))
}

/// A report of one worker.
fn serves() -> String {
    let worker = LinkedWorker { key: "127.0.0.1:chat:0".into(), clients: 0 };
    encoded(&ToRegister::Links(Links { workers: vec![worker], ..Links::default() }))
}

fn lease(first_proc_id: u16, shards: u16) -> String {
    format!("{{\"event\":\"lease\",\"first_proc_id\":{first_proc_id},\"shards\":{shards}}}\n")
}

fn home(address: Option<&str>) -> String {
    match address {
        Some(address) => format!("{{\"event\":\"home\",\"address\":\"{address}\"}}\n"),
        None => "{\"event\":\"home\",\"address\":null}\n".into(),
    }
}

fn dial(addresses: &[&str]) -> String {
    let addresses = addresses.join("\",\"");
    let list = if addresses.is_empty() { String::new() } else { format!("\"{addresses}\"") };
    format!("{{\"event\":\"gateways\",\"addresses\":[{list}]}}\n")
}

const WORKER: &str = "{\"event\":\"worker_connect\",\"secret_key\":\"\"}\n";
const PING: &str = "{\"event\":\"ping\"}\n";
const TOPOLOGY: &str = "{\"event\":\"topology\",\"secret_key\":\"\"}\n";
