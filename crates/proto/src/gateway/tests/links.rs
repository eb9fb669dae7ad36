//! Who may open a link, and what ends one.

use tengate_base::CloseCause;

use super::harness::{Bed, config, frame};
use crate::secret::SecretKey;
use crate::wire::header::{Command, FLAG_SCALAR};

fn secured() -> Bed {
    let mut config = config();
    config.secret_key = SecretKey::new("s3cret");
    Bed::new(config)
}

#[test]
fn a_wrong_key_or_a_command_without_a_key_closes_the_link() {
    let mut bed = secured();
    let client = bed.client(0);
    for hello in [
        frame(
            Command::WorkerConnect,
            0,
            FLAG_SCALAR,
            "",
            "{\"worker_key\":\"w:0\",\"secret_key\":\"no\"}",
        ),
        frame(Command::GatewayClientConnect, 0, FLAG_SCALAR, "", "{\"secret_key\":\"\"}"),
        frame(Command::GatewayClientConnect, 0, FLAG_SCALAR, "", "not json"),
        frame(Command::IsOnline, 1, FLAG_SCALAR, "", ""),
        frame(Command::Destroy, 1, FLAG_SCALAR, "", ""),
    ] {
        let link = bed.link(0);
        bed.shell.send(link.place, &hello);
        assert!(!bed.shell.is_open(link.place));
        assert_eq!(bed.shell.receive(link.place), b"");
    }
    assert!(bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).link_unauthorized, 5);
    assert_eq!(bed.stats(0).links, 0);
}

#[test]
fn a_gateway_without_a_key_refuses_a_link_that_shows_one_as_php_does() {
    let mut bed = Bed::new(config());
    let link = bed.link(0);
    bed.command(&link, Command::GatewayClientConnect, 0, "", "{\"secret_key\":\"some\"}");
    assert!(!bed.shell.is_open(link.place));
    let link = bed.link(0);
    bed.command(&link, Command::GatewayClientConnect, 0, "", "{\"secret_key\":\"\"}");
    assert!(bed.shell.is_open(link.place));
}

#[test]
fn the_right_key_opens_the_link_for_workers_and_outside_clients() {
    let mut bed = secured();
    let link = bed.link(0);
    bed.command(&link, Command::GatewayClientConnect, 0, "", "{\"secret_key\":\"s3cret\"}");
    assert_eq!(bed.ask(&link, Command::IsOnline, 5, ""), "i:0;");
    let mut worker = bed.link(0);
    bed.command(
        &worker,
        Command::WorkerConnect,
        0,
        "",
        "{\"worker_key\":\"w:0\",\"secret_key\":\"s3cret\"}",
    );
    bed.client(0);
    assert_eq!(bed.told(&mut worker), ["OnConnect 1 "]);
}

#[test]
fn a_link_that_shows_no_key_in_time_is_closed() {
    let mut bed = secured();
    let link = bed.link(0);
    bed.advance(9.0);
    assert!(bed.shell.is_open(link.place));
    bed.advance(1.2);
    assert!(!bed.shell.is_open(link.place));
}

#[test]
fn a_frame_that_cannot_be_closes_its_link_and_nothing_else() {
    let mut bed = Bed::new(config());
    let (bad, good) = (bed.worker(0, "w:0"), bed.worker(0, "w:1"));
    let client = bed.client(0);
    bed.shell.send(bad.place, &[0, 0, 0, 5, 200]);
    assert!(!bed.shell.is_open(bad.place));
    assert!(bed.shell.is_open(good.place) && bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).link_malformed, 1);
}

#[test]
fn an_unknown_command_is_ignored_and_counted() {
    let mut bed = Bed::new(config());
    let link = bed.link(0);
    let mut unknown = frame(Command::Ping, 0, FLAG_SCALAR, "", "");
    unknown[4] = 99;
    bed.shell.send(link.place, &unknown);
    assert!(bed.shell.is_open(link.place));
    assert_eq!(bed.stats(0).command_ignored, 1);
    assert_eq!(bed.ask(&link, Command::IsOnline, 5, ""), "i:0;");
}

#[test]
fn a_second_worker_with_the_same_key_replaces_the_first_on_every_shard() {
    let mut config = config();
    config.shards = 3;
    let mut bed = Bed::new(config);
    let old = bed.worker(1, "Bw:0");
    let client = bed.client(2);
    let mut new = bed.worker(2, "Bw:0");
    assert!(!bed.shell.is_open(old.place));
    bed.say(client, "hello");
    assert_eq!(bed.told(&mut new), ["OnMessage 8388609 hello"]);
    assert_eq!(bed.stats(1).link_replaced, 1);
}

#[test]
fn workers_beyond_loopback_are_pinged_and_loopback_ones_are_not() {
    let mut far = config();
    far.lan_ip = core::net::Ipv4Addr::new(192, 168, 1, 2);
    for (config, pings) in [(far, 2), (config(), 0)] {
        let mut bed = Bed::new(config);
        let mut worker = bed.worker(0, "w:0");
        bed.advance(51.0);
        assert_eq!(bed.told(&mut worker).len(), pings);
    }
}

#[test]
fn links_that_come_and_go_leave_nothing_behind() {
    let mut bed = Bed::new(config());
    for round in 0..50 {
        let worker = bed.worker(0, &alloc::format!("w:{}", round % 3));
        let client = bed.client(0);
        bed.lose(&worker);
        bed.shell.close(client.place, CloseCause::Reset);
    }
    bed.advance(60.0);
    let stats = bed.stats(0);
    assert_eq!(
        (stats.links, stats.clients, stats.timers, stats.groups, stats.uids),
        (0, 0, 0, 0, 0)
    );
}
