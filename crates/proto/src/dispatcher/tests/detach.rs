//! A gateway moves to another home without losing an event or being counted twice.

use tengate_base::ShardId;

use super::brief::*;
use super::harness::{Bed, client, config};
use alloc::vec::Vec;

fn detached(bed: &mut Bed, gateway: tengate_sim::shell::Place) -> Vec<(u8, alloc::string::String)> {
    bed.frames(gateway).into_iter().map(|got| (got.command, got.body)).collect()
}

const DETACH: u8 = Extension::Detach as u8;

#[test]
fn a_gateway_that_is_owed_nothing_goes_at_once_and_is_covered_no_more() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.event(gateway, CONNECT, client(1, 1), "");
    assert_eq!(bed.bound()[0].1, 1);
    bed.say(gateway, Extension::Detach, 0, b"");
    assert_eq!(detached(&mut bed, gateway), [(DETACH, "".into())]);
    bed.command(worker, Command::SendToAll, 0, "", "all");
    bed.command(worker, Command::SendToOne, client(1, 1), "", "one");
    assert_eq!(bed.commands(gateway).len(), 1, "only what is for one client is forwarded");
    assert_eq!((bed.stats().homes, bed.stats().detached, bed.bound()[0].1), (0, 1, 0));
}

#[test]
fn a_leaving_gateway_waits_for_acknowledgements_and_is_covered_meanwhile() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.acknowledging_worker("chat");
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    bed.say(gateway, Extension::Detach, 0, b"");
    bed.advance(500);
    assert!(detached(&mut bed, gateway).is_empty());
    bed.command(worker, Command::SendToAll, 0, "", "all");
    assert_eq!(bed.commands(gateway).len(), 1);
    bed.say(worker, Extension::Ack, 1, b"");
    bed.advance(10);
    assert_eq!(detached(&mut bed, gateway), [(DETACH, "".into())]);
}

#[test]
fn what_is_not_acknowledged_in_time_goes_back_before_the_answer() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let _worker = bed.acknowledging_worker("chat");
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    bed.event(gateway, MESSAGE, client(1, 1), "2");
    bed.say(gateway, Extension::Detach, 0, b"");
    bed.advance(2100);
    let got = detached(&mut bed, gateway);
    assert_eq!(got, [(3, "1".into()), (3, "2".into()), (DETACH, "".into())]);
}

#[test]
fn what_waits_for_a_worker_goes_back_at_once() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    bed.event(gateway, CONNECT, client(1, 1), "c");
    bed.frames(gateway);
    bed.say(gateway, Extension::Detach, 0, b"");
    assert_eq!(detached(&mut bed, gateway), [(1, "c".into()), (DETACH, "".into())]);
    let worker = bed.worker("chat");
    assert!(bed.bodies(worker).is_empty());
}

#[test]
fn a_leaving_gateway_waits_until_workers_have_read_what_they_were_sent() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.shell.set_window(worker, Some(0));
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    bed.say(gateway, Extension::Detach, 0, b"");
    bed.advance(100);
    assert!(detached(&mut bed, gateway).is_empty());
    bed.shell.set_window(worker, None);
    bed.advance(10);
    assert_eq!(detached(&mut bed, gateway), [(DETACH, "".into())]);
}

#[test]
fn a_worker_that_dies_while_its_gateway_leaves_gives_its_events_back() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.acknowledging_worker("chat");
    bed.event(gateway, MESSAGE, client(1, 1), "1");
    bed.say(gateway, Extension::Detach, 0, b"");
    bed.lose(worker);
    bed.advance(10);
    assert_eq!(detached(&mut bed, gateway), [(3, "1".into()), (DETACH, "".into())]);
}

#[test]
fn a_dispatcher_that_stops_asks_its_gateways_to_move() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    bed.drain();
    assert_eq!(detached(&mut bed, gateway)[0].0, Extension::Drain as u8);
    assert!(!bed.shell.peek(ShardId(0)).is_drained());
    bed.say(gateway, Extension::Detach, 0, b"");
    // It may have chosen this dispatcher again before it heard of its going: that shows before the fence is answered.
    assert!(!bed.shell.peek(ShardId(0)).is_drained());
    bed.reply(gateway, &Partial::Counts(Vec::new()));
    assert!(bed.shell.peek(ShardId(0)).is_drained());
}
