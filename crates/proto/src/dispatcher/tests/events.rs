//! Events: to one worker, in order, whatever happens to workers.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::brief::*;
use super::harness::{Bed, client, config, event_frame};
use crate::dispatcher::{Notice, WorkerGroup};
use crate::gateway::SlowWorker;
use crate::wire::extension::FLAG_IPV6;
use crate::wire::header::{FLAG_SCALAR, Header};

#[test]
fn an_event_reaches_a_worker_with_the_dispatchers_address() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.event(gateway, MESSAGE, client(1, 7), "hello");
    let got = bed.frames(worker);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].brief(), (3, client(1, 7), "hello"));
    assert_eq!(got[0].local, (0x0a00_0009, 3900));
}

#[test]
fn clients_are_spread_and_each_stays_with_its_worker() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let (one, two) = (bed.worker("a"), bed.worker("b"));
    for number in 1..=4 {
        bed.event(gateway, CONNECT, client(1, number), "");
    }
    for number in 1..=4 {
        bed.event(gateway, MESSAGE, client(1, number), "m");
    }
    for worker in [one, two] {
        let got = bed.frames(worker);
        assert_eq!(got.len(), 4);
        assert_eq!((got[0].id, got[1].id), (got[2].id, got[3].id));
    }
    bed.event(gateway, CLOSE, client(1, 1), "");
    assert_eq!(bed.bound(), [("10.0.2.1:a:0".into(), 1), ("10.0.2.1:b:0".into(), 2)]);
    assert_eq!(bed.stats().clients, 3);
}

#[test]
fn events_wait_for_a_worker_in_order_and_their_clients_are_not_read() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    bed.event(gateway, CONNECT, client(1, 1), "c");
    bed.event(gateway, MESSAGE, client(1, 1), "m");
    let paused: Vec<(u8, String)> =
        bed.frames(gateway).into_iter().map(|got| (got.command, got.body)).collect();
    assert_eq!(paused, [(Extension::Pace as u8, "1".into())]);
    let worker = bed.worker("chat");
    assert_eq!(bed.bodies(worker), ["c", "m"]);
    assert_eq!(bed.frames(gateway)[0].brief(), (Extension::Pace as u8, client(1, 1), "0"));
}

#[test]
fn a_client_that_waited_too_long_is_closed_once_and_counted() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    bed.event(gateway, CONNECT, client(1, 1), "c");
    bed.event(gateway, MESSAGE, client(1, 1), "m");
    bed.frames(gateway);
    bed.advance(5100);
    assert_eq!(bed.commands(gateway)[..].len(), 1);
    assert_eq!((bed.stats().drop_no_worker, bed.stats().close_no_worker), (2, 1));
    let worker = bed.worker("chat");
    bed.event(gateway, MESSAGE, client(1, 1), "on its way");
    bed.event(gateway, CLOSE, client(1, 1), "");
    assert!(bed.bodies(worker).is_empty(), "nobody heard of this client");
    assert_eq!(bed.stats().clients, 0);
}

#[test]
fn too_many_waiting_bytes_close_the_client_that_adds_to_them() {
    let mut config = config();
    config.no_worker_bytes_max = 60;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    bed.event(gateway, CONNECT, client(1, 1), "");
    bed.event(gateway, CONNECT, client(1, 2), "");
    bed.event(gateway, CONNECT, client(1, 3), "");
    let closed: Vec<u32> = bed.commands(gateway).into_iter().map(|got| got.id).collect();
    assert_eq!(closed, [client(1, 3)]);
}

#[test]
fn what_a_gone_worker_did_not_get_goes_to_the_next_before_anything_newer() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let first = bed.worker("a");
    bed.shell.set_window(first, Some(0));
    for body in ["1", "2", "3"] {
        bed.event(gateway, MESSAGE, client(1, 1), body);
    }
    let second = bed.worker("b");
    bed.lose(first);
    bed.event(gateway, MESSAGE, client(1, 1), "4");
    assert_eq!(bed.bodies(second), ["1", "2", "3", "4"]);
    assert_eq!((bed.stats().rerouted, bed.stats().workers), (3, 1));
    assert_eq!(bed.bound(), [("10.0.2.1:b:0".into(), 1)]);
}

#[test]
fn a_second_link_with_the_same_key_takes_over_and_is_told_of() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let first = bed.worker("chat");
    bed.shell.set_window(first, Some(0));
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    let second = bed.worker("chat");
    bed.event(gateway, MESSAGE, client(1, 1), "2");
    assert_eq!(bed.bodies(second), ["1", "2"]);
    assert!(!bed.shell.is_open(first));
    let replaced = bed.notices().into_iter().find(Notice::is_warning).unwrap();
    assert!(alloc::format!("{replaced}").contains("10.0.2.1:chat:0"), "{replaced}");
}

#[test]
fn a_slow_workers_clients_are_not_read_until_it_has_caught_up() {
    let mut config = config();
    config.send_to_worker_bytes_max = 60;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.shell.set_window(worker, Some(0));
    for body in ["1", "2", "3", "4"] {
        bed.event(gateway, MESSAGE, client(1, 1), body);
    }
    let paces: Vec<String> = bed.frames(gateway).into_iter().map(|got| got.body).collect();
    assert_eq!(paces, ["1"]);
    bed.shell.set_window(worker, None);
    assert_eq!(bed.bodies(worker), ["1", "2", "3", "4"], "what was on its way is kept");
    assert_eq!(bed.frames(gateway)[0].body, "0");
}

#[test]
fn a_slow_worker_may_cost_events_or_clients_by_configuration() {
    for slow_worker in [SlowWorker::Drop, SlowWorker::Close] {
        let mut config = config();
        (config.slow_worker, config.send_to_worker_bytes_max) = (slow_worker, 10);
        let mut bed = Bed::new(config);
        let gateway = bed.home_gateway(1);
        let worker = bed.worker("chat");
        bed.shell.set_window(worker, Some(0));
        bed.event(gateway, MESSAGE, client(1, 1), "1");
        bed.event(gateway, MESSAGE, client(1, 1), "2");
        bed.event(gateway, CLOSE, client(1, 1), "gone");
        let stats = bed.stats();
        let closed = bed.commands(gateway).len();
        if slow_worker == SlowWorker::Drop {
            assert_eq!((stats.drop_slow_worker, closed), (1, 0));
        } else {
            assert_eq!((stats.close_slow_worker, closed), (1, 1));
        }
        bed.shell.set_window(worker, None);
        assert_eq!(bed.bodies(worker), ["1", "gone"]);
    }
}

#[test]
fn ports_have_workers_of_their_own_and_wait_for_them() {
    let mut config = config();
    config.groups = vec![WorkerGroup {
        ports: vec![8282],
        workers: vec!["game".into()],
        ..WorkerGroup::default()
    }];
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let chat = bed.worker("chat");
    bed.event(gateway, CONNECT, client(1, 1), "to the game");
    assert!(bed.bodies(chat).is_empty());
    let game = bed.worker("game");
    assert_eq!(bed.bodies(game), ["to the game"]);
}

#[test]
fn an_ipv6_address_reaches_only_who_understands_it() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let header = Header {
        command: MESSAGE as u8,
        connection_id: client(1, 1),
        flag: FLAG_SCALAR | FLAG_IPV6,
        ..Header::default()
    };
    let mut frame = Vec::new();
    header.encode(b"0123456789abcdefsession", b"m", &mut frame);
    let rust = bed.acknowledging_worker("rust");
    bed.shell.send(gateway, &frame);
    assert_eq!(bed.frames(rust)[0].ext, b"0123456789abcdefsession");
    bed.lose(rust);
    let php = bed.worker("php");
    bed.shell.send(gateway, &frame);
    let got = bed.frames(php);
    assert_eq!(got.len(), 2, "the one that was not acknowledged, and this one");
    assert!(got.iter().all(|got| got.ext == b"session" && got.body == "m"), "{got:?}");
}

#[test]
fn a_gateway_that_comes_back_has_new_clients() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.event(gateway, CONNECT, client(1, 1), "");
    assert_eq!(bed.stats().clients, 1);
    bed.lose(gateway);
    assert_eq!((bed.stats().clients, bed.stats().gateways), (0, 0));
    assert_eq!(bed.bound(), [("10.0.2.1:chat:0".into(), 0)]);
    let again = bed.home_gateway(1);
    bed.event(again, CONNECT, client(1, 1), "anew");
    assert_eq!(bed.bodies(worker), ["", "anew"]);
}

#[test]
fn an_event_that_waits_for_an_earlier_client_does_not_cost_a_later_one_its_connection() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    bed.event(gateway, CONNECT, client(1, 1), "of the first");
    bed.lose(gateway);
    let again = bed.home_gateway(1);
    bed.advance(1000);
    bed.event(again, CONNECT, client(1, 1), "of the second");
    bed.frames(again);
    bed.advance(4500);
    assert!(bed.commands(again).is_empty());
    let worker = bed.worker("chat");
    assert_eq!(bed.bodies(worker), ["of the second"]);
}

#[test]
fn a_gateway_that_says_twice_who_it_is_is_closed() {
    let mut bed = Bed::new(config());
    let gateway = bed.gateway(1);
    let welcome = br#"{"version":1,"gateway":{"first_proc_id":1,"count":1,"number_bits":22}}"#;
    bed.say(gateway, Extension::Welcome, 0, welcome);
    assert_eq!((bed.shell.is_open(gateway), bed.stats().gateways), (false, 0));
}

#[test]
fn what_is_no_dispatched_gateway_is_given_up_with_a_warning() {
    let mut bed = Bed::new(config());
    let silent = bed.dial("10.0.1.1:2900");
    bed.advance(10_200);
    assert!(!bed.shell.is_open(silent));
    let closing = bed.dial("10.0.1.1:2900");
    bed.lose(closing);
    assert_eq!(bed.notices().iter().filter(|notice| notice.is_warning()).count(), 2);
    let strange = bed.dial("10.0.1.1:2900");
    bed.shell.send(strange, &event_frame(MESSAGE, 5, "of nobody"));
    assert_eq!(bed.stats().command_ignored, 1);
    bed.say(strange, Extension::Welcome, 0, b"{\"version\":1}");
    assert!(!bed.shell.is_open(strange));
}
