//! Workers that acknowledge lose nothing when they die.

use super::brief::*;
use super::harness::{Bed, client, config};
use alloc::vec::Vec;

#[test]
fn what_was_written_and_not_acknowledged_goes_to_the_next_worker_in_order() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let first = bed.acknowledging_worker("a");
    for body in ["1", "2", "3"] {
        bed.event(gateway, MESSAGE, client(1, 1), body);
    }
    assert_eq!(bed.bodies(first), ["1", "2", "3"]);
    bed.say(first, Extension::Ack, 1, b"");
    assert_eq!(bed.stats().acknowledged, 1);
    bed.lose(first);
    bed.event(gateway, MESSAGE, client(1, 1), "4");
    let second = bed.worker("b");
    assert_eq!(bed.bodies(second), ["2", "3", "4"]);
}

#[test]
fn a_close_among_the_unacknowledged_leaves_no_binding_behind() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let first = bed.acknowledging_worker("a");
    let second = bed.worker("b");
    bed.event(gateway, CONNECT, client(1, 1), "c");
    bed.event(gateway, MESSAGE, client(1, 1), "m");
    bed.event(gateway, CLOSE, client(1, 1), "gone");
    bed.lose(first);
    assert_eq!(bed.bodies(second), ["c", "m", "gone"]);
    assert_eq!((bed.stats().clients, bed.bound()[0].1), (0, 0));
}

#[test]
fn an_older_event_of_a_client_whose_end_went_elsewhere_binds_nobody() {
    let mut config = config();
    config.default_group.balance = crate::dispatcher::Balance::HashUid;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let workers = ["a", "b", "c", "d"].map(|name| bed.acknowledging_worker(name));
    bed.event(gateway, MESSAGE, client(1, 1), "m");
    let first = workers.into_iter().find(|worker| !bed.bodies(*worker).is_empty()).unwrap();
    for uid in 0..20 {
        bed.command(workers[0], Command::BindUid, client(1, 1), &alloc::format!("u{uid}"), "");
    }
    bed.event(gateway, CLOSE, client(1, 1), "gone");
    bed.lose(first);
    let heard: Vec<_> = workers.iter().flat_map(|worker| bed.bodies(*worker)).collect();
    assert!(heard.contains(&"m".into()) && heard.contains(&"gone".into()), "{heard:?}");
    let bound: u32 = bed.bound().iter().map(|(_, bound)| bound).sum();
    assert_eq!((bed.stats().clients, bound), (0, 0));
}

#[test]
fn unacknowledged_events_count_towards_a_workers_limit() {
    let mut config = config();
    config.send_to_worker_bytes_max = 60;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let worker = bed.acknowledging_worker("a");
    for body in ["1", "2", "3", "4"] {
        bed.event(gateway, MESSAGE, client(1, 1), body);
    }
    let paces =
        |bed: &mut Bed| -> Vec<_> { bed.frames(gateway).into_iter().map(|got| got.body).collect() };
    assert_eq!(paces(&mut bed), ["1"]);
    bed.say(worker, Extension::Ack, 2, b"");
    assert!(paces(&mut bed).is_empty());
    bed.say(worker, Extension::Ack, 1, b"");
    assert_eq!(paces(&mut bed), ["0"]);
}

#[test]
fn who_acknowledges_what_it_did_not_get_is_closed() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let (liar, php) = (bed.acknowledging_worker("a"), bed.worker("php"));
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    bed.say(liar, Extension::Ack, 2, b"");
    bed.say(php, Extension::Ack, 1, b"");
    assert!(!bed.shell.is_open(liar) && !bed.shell.is_open(php));
    assert_eq!(bed.stats().link_malformed, 2);
}
