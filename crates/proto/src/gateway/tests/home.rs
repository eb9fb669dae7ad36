//! Which dispatcher is the home, and what becomes of events when it is another (docs/protocol.md#extension).

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use tengate_base::ShardId;

use super::harness::{Bed, Worker, dispatched, frame, listening};
use crate::gateway::{Mode, Protocol};
use crate::wire::extension::Extension;
use crate::wire::header::{Command, FLAG_SCALAR};

const D1: &str = "127.0.0.1:3901";
const D2: &str = "127.0.0.1:3902";
const D3: &str = "127.0.0.1:3903";

/// A home on the last shard and another dispatcher on the first one, both greeted.
fn pair(shards: u16) -> (Bed, Worker, Worker) {
    let mut bed = Bed::new(dispatched(shards));
    let mut home = bed.dispatcher(shards - 1, D1);
    let mut other = bed.dispatcher(0, D2);
    bed.said(&mut home);
    bed.said(&mut other);
    (bed, home, other)
}

fn returned(bed: &mut Bed, link: &Worker, id: u32, body: &str) {
    bed.shell.send(link.place, &frame(Command::OnMessage, id, FLAG_SCALAR, "", body));
}

const NOTHING: [&str; 0] = [];

#[test]
fn without_a_dispatcher_events_wait_and_go_to_the_first_that_comes_in_order() {
    for shards in [1, 3] {
        let mut bed = Bed::new(dispatched(shards));
        let client = bed.client(0);
        bed.say(client, "one");
        assert!(!bed.shell.is_read(client.place));
        bed.advance(4.0);
        let mut home = bed.dispatcher(shards - 1, D1);
        bed.say(client, "two");
        assert_eq!(
            bed.said(&mut home)[1..],
            ["Home 1", "OnConnect 1 ", "OnMessage 1 one", "OnMessage 1 two"]
        );
    }
}

#[test]
fn without_a_dispatcher_for_too_long_the_client_is_closed() {
    let mut bed = Bed::new(dispatched(1));
    let client = bed.client(0);
    bed.advance(5.2);
    assert!(!bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).close_no_worker, 1);
}

#[test]
fn a_wish_counts_once_its_dispatcher_is_linked_and_without_one_the_home_stays() {
    let mut bed = Bed::new(dispatched(2));
    bed.wish(Some(D2));
    assert_eq!(bed.home(), None);
    let first = bed.dispatcher(0, D1);
    let _third = bed.dispatcher(1, D3);
    assert_eq!(bed.home().as_deref(), Some(D1), "better than none");
    let _second = bed.dispatcher(1, D2);
    bed.extend(&first, Extension::Detach, 0, b"");
    assert_eq!(bed.home().as_deref(), Some(D2));
    for wish in [None, Some("127.0.0.1:1"), Some("nonsense")] {
        bed.wish(wish);
        assert_eq!(bed.home().as_deref(), Some(D2));
    }
    // Only shard 0 decides.
    bed.shell.tell(ShardId(1), |gateway, now, sink| gateway.set_home_wish(now, Some(D1), sink));
    assert_eq!(bed.home().as_deref(), Some(D2));
}

#[test]
fn gateways_whose_home_dies_spread_over_the_dispatchers_that_are_left() {
    let mut chosen = vec![0; 4];
    for port in 2900..2940 {
        let mut config = dispatched(1);
        config.lan_port = port;
        let mut bed = Bed::new(config);
        let dying = bed.dispatcher(0, "127.0.0.1:3900");
        let addresses: Vec<String> = (0..4).map(|at| format!("127.0.0.1:390{}", at + 1)).collect();
        let _others: Vec<Worker> = addresses.iter().map(|at| bed.dispatcher(0, at)).collect();
        bed.lose(&dying);
        let home = bed.home().unwrap();
        chosen[addresses.iter().position(|address| *address == home).unwrap()] += 1;
    }
    assert!(chosen.iter().all(|count| *count >= 3), "{chosen:?}");
}

#[test]
fn when_the_home_dies_what_it_was_not_sent_goes_to_another_at_once_and_in_order() {
    for shards in [1, 2, 4] {
        let (mut bed, mut home, mut other) = pair(shards);
        let client = bed.client(0);
        bed.said(&mut home);
        bed.shell.set_window(home.place, Some(28 + 2 + 10));
        for number in 10..20 {
            bed.say(client, &format!("{number}"));
        }
        bed.lose(&home);
        bed.say(client, "20");
        let mut expected = vec!["Home 1".into()];
        expected.extend((11..=20).map(|number| format!("OnMessage 1 {number}")));
        assert_eq!(bed.said(&mut other), expected, "{shards} shards");
        assert_eq!(bed.home().as_deref(), Some(D2));
        assert_eq!(bed.stats(0).homes_changed, 2);
    }
}

#[test]
fn a_home_that_the_register_wants_elsewhere_gives_back_what_it_owes_and_order_is_kept() {
    for shards in [1, 2, 3] {
        let (mut bed, mut home, mut other) = pair(shards);
        let client = bed.client(0);
        bed.say(client, "handled");
        bed.wish(Some(D2));
        assert_eq!(bed.said(&mut home), ["OnConnect 1 ", "OnMessage 1 handled", "Detach "]);
        bed.say(client, "held");
        assert_eq!(bed.said(&mut home), NOTHING);
        assert_eq!(bed.said(&mut other), NOTHING, "not before the home has given up");
        assert_eq!(bed.home().as_deref(), Some(D1));
        returned(&mut bed, &home, 1, "older");
        returned(&mut bed, &home, 1, "old");
        bed.extend(&home, Extension::Detach, 0, b"");
        bed.say(client, "new");
        assert_eq!(
            bed.said(&mut other),
            [
                "Home 1",
                "OnMessage 1 older",
                "OnMessage 1 old",
                "OnMessage 1 held",
                "OnMessage 1 new"
            ],
            "{shards} shards"
        );
        assert_eq!(bed.home().as_deref(), Some(D2));
        assert_eq!(bed.stats(shards - 1).events_returned, 2);
        assert_eq!(bed.said(&mut home), NOTHING);
        bed.advance(60.0);
        assert!(bed.shell.is_open(home.place), "it may be the home again");
    }
}

#[test]
fn clients_that_come_while_the_home_gives_back_wait_for_the_next_one() {
    let (mut bed, home, mut other) = pair(2);
    let _before = bed.client(1);
    bed.wish(Some(D2));
    let client = bed.client(0);
    assert!(!bed.shell.is_read(client.place));
    let gone = bed.client(0);
    bed.shell.close(gone.place, tengate_base::CloseCause::Peer);
    bed.advance(4.9);
    bed.extend(&home, Extension::Detach, 0, b"");
    bed.say(client, "hello");
    assert_eq!(
        bed.said(&mut other),
        ["Home 1", "OnConnect 1 ", "OnConnect 2 ", "OnClose 2 ", "OnMessage 1 hello"]
    );
    assert_eq!(bed.stats(0).send_fail(), 0);
}

#[test]
fn a_home_that_does_not_give_back_in_time_is_closed_and_counts_as_dead() {
    for shards in [1, 2] {
        let (mut bed, mut home, mut other) = pair(shards);
        let client = bed.client(0);
        bed.said(&mut home);
        bed.shell.set_window(home.place, Some(0));
        bed.say(client, "never written");
        bed.wish(Some(D2));
        returned(&mut bed, &home, 1, "given back");
        bed.say(client, "held");
        bed.advance(4.5);
        assert!(bed.shell.is_open(home.place));
        bed.advance(0.7);
        assert!(!bed.shell.is_open(home.place));
        assert_eq!(
            bed.said(&mut other),
            ["Home 1", "OnMessage 1 given back", "OnMessage 1 never written", "OnMessage 1 held"]
        );
        assert_eq!(bed.stats(shards - 1).detach_timeout, 1);
    }
}

#[test]
fn a_home_that_dies_while_it_gives_back_is_dead() {
    for shards in [1, 2] {
        let (mut bed, home, mut other) = pair(shards);
        let client = bed.client(0);
        bed.wish(Some(D2));
        bed.say(client, "held");
        bed.lose(&home);
        assert_eq!(bed.said(&mut other), ["Home 1", "OnMessage 1 held"]);
        assert!(bed.shell.is_read(client.place));
    }
}

#[test]
fn a_draining_home_is_detached_and_its_dispatcher_is_no_candidate_until_its_link_is_new() {
    let (mut bed, mut home, mut other) = pair(2);
    bed.wish(Some(D1));
    bed.extend(&home, Extension::Drain, 0, b"");
    assert_eq!(bed.said(&mut home), ["Detach "]);
    bed.extend(&home, Extension::Detach, 0, b"");
    assert_eq!(bed.said(&mut other), ["Home 1"]);
    bed.wish(Some(D1));
    assert_eq!(bed.home().as_deref(), Some(D2));
    bed.lose(&other);
    assert_eq!(bed.home(), None);
    let mut again = bed.dispatcher(1, D1);
    assert_eq!(bed.said(&mut again)[1..], ["Home 1"]);
    assert!(!bed.shell.is_open(home.place), "the newer link of a dispatcher replaces the older");
}

#[test]
fn a_dispatcher_that_drains_before_it_is_the_home_never_becomes_it() {
    let (mut bed, home, mut other) = pair(1);
    bed.extend(&other, Extension::Drain, 0, b"");
    bed.wish(Some(D2));
    bed.lose(&home);
    assert_eq!(bed.said(&mut other), NOTHING);
    assert_eq!(bed.home(), None);
}

#[test]
fn when_the_only_dispatcher_drains_events_wait_for_the_next() {
    let mut bed = Bed::new(dispatched(2));
    let mut home = bed.dispatcher(1, D1);
    let client = bed.client(0);
    bed.extend(&home, Extension::Drain, 0, b"");
    returned(&mut bed, &home, 1, "returned");
    bed.say(client, "held");
    bed.extend(&home, Extension::Detach, 0, b"");
    assert_eq!(bed.said(&mut home).last().unwrap(), "Detach ");
    bed.lose(&home);
    bed.advance(2.0);
    let mut next = bed.dispatcher(0, D1);
    bed.say(client, "new");
    assert_eq!(
        bed.said(&mut next)[1..],
        ["Home 1", "OnMessage 1 returned", "OnMessage 1 held", "OnMessage 1 new"]
    );
}

#[test]
fn a_dispatcher_is_the_home_again_over_the_link_on_which_it_was_detached() {
    for shards in [1, 3] {
        let (mut bed, mut home, mut other) = pair(shards);
        let client = bed.client(0);
        bed.wish(Some(D2));
        bed.extend(&home, Extension::Detach, 0, b"");
        bed.said(&mut home);
        for round in 0..3 {
            bed.say(client, &format!("to the other {round}"));
            bed.wish(Some(D1));
            let last = format!("OnMessage 1 to the other {round}");
            assert_eq!(bed.said(&mut other), ["Home 1".into(), last, "Detach ".into()]);
            bed.extend(&other, Extension::Detach, 0, b"");
            bed.say(client, &format!("back {round}"));
            bed.wish(Some(D2));
            let last = format!("OnMessage 1 back {round}");
            assert_eq!(bed.said(&mut home), ["Home 1".into(), last, "Detach ".into()]);
            bed.extend(&home, Extension::Detach, 0, b"");
        }
        bed.lose(&other);
        bed.say(client, "after all");
        assert_eq!(bed.said(&mut home), ["Home 1", "OnMessage 1 after all"]);
    }
}

#[test]
fn a_wish_that_changes_back_meanwhile_keeps_the_home() {
    let (mut bed, mut home, mut other) = pair(2);
    bed.wish(Some(D2));
    bed.wish(Some(D1));
    bed.extend(&home, Extension::Detach, 0, b"");
    assert_eq!(bed.said(&mut home), ["Detach ", "Home 1"]);
    assert_eq!(bed.said(&mut other), NOTHING);
}

#[test]
fn a_newer_link_of_the_home_replaces_the_older_and_gets_its_events() {
    for shards in [1, 2] {
        let (mut bed, home, mut other) = pair(shards);
        bed.shell.set_window(home.place, Some(0));
        let client = bed.client(0);
        let mut newer = bed.dispatcher(0, D1);
        bed.wish(Some(D1));
        bed.extend(&other, Extension::Detach, 0, b"");
        bed.say(client, "hello");
        assert!(!bed.shell.is_open(home.place));
        let mut said = bed.said(&mut other);
        said.extend(bed.said(&mut newer));
        said.retain(|line| line.starts_with("On"));
        assert_eq!(said, ["OnConnect 1 ", "OnMessage 1 hello"]);
        assert_eq!(bed.home().as_deref(), Some(D1));
    }
}

#[test]
fn a_newer_link_of_another_dispatcher_replaces_the_older_and_the_home_stays() {
    let (mut bed, _home, other) = pair(2);
    let mut newer = bed.dispatcher(1, D2);
    assert!(!bed.shell.is_open(other.place));
    assert_eq!(bed.home().as_deref(), Some(D1));
    bed.wish(Some(D2));
    assert_eq!(bed.said(&mut newer).len(), 1);
}

#[test]
fn events_that_nobody_gave_up_are_not_taken_back() {
    let (mut bed, home, mut other) = pair(1);
    bed.client(0);
    for link in [&home, &other] {
        returned(&mut bed, link, 1, "not yours to return");
        bed.extend(link, Extension::Detach, 0, b"");
    }
    assert_eq!(bed.stats(0).command_ignored, 4);
    assert_eq!(bed.said(&mut other), NOTHING);
    bed.wish(Some(D2));
    returned(&mut bed, &home, 9 << 22, "of another gateway");
    assert_eq!(bed.stats(0).command_ignored, 5);
}

#[test]
fn events_held_while_the_home_gives_back_are_bounded_and_goodbyes_are_kept() {
    let mut config = listening(Protocol::Websocket { binary: false, check_utf8: true });
    config.mode = Mode::Dispatched;
    config.no_worker_bytes_max = 90;
    let mut bed = Bed::new(config);
    let home = bed.dispatcher(0, D1);
    let known = bed.client(0);
    let mut other = bed.dispatcher(0, D2);
    bed.wish(Some(D2));
    let waiting: Vec<_> = (0..3).map(|_| bed.client(0)).collect();
    let refused = bed.client(0);
    assert!(bed.heard(refused).starts_with("HTTP/1.1 503 "));
    bed.shell.send(known.place, b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    assert!(bed.heard(known).starts_with("HTTP/1.1 503 "));
    let stats = bed.stats(0);
    assert_eq!((stats.close_no_worker, stats.drop_no_worker), (2, 2));
    bed.extend(&home, Extension::Detach, 0, b"");
    assert!(waiting.iter().all(|client| bed.shell.is_open(client.place)));
    let mut events = bed.said(&mut other);
    events.retain(|line| line.starts_with("On"));
    assert_eq!(events, ["OnConnect 2 ", "OnConnect 3 ", "OnConnect 4 ", "OnClose 1 "]);
}

#[test]
fn answers_go_on_while_a_home_is_detached_and_after() {
    let mut bed = Bed::new(dispatched(2));
    let mut home = bed.dispatcher(1, D1);
    let _other = bed.dispatcher(0, D2);
    bed.said(&mut home);
    // Asked before, answered by the other shard after it has confirmed.
    let question = frame(Command::GetClientCountByGroup, 0, FLAG_SCALAR, "", "");
    bed.shell.give(home.place, &question);
    bed.wish(Some(D2));
    bed.shell.give(home.place, &question);
    let mut detach = Vec::new();
    Extension::Detach.encode(0, b"", &mut detach);
    bed.shell.send(home.place, &[&question[..], &detach, &question].concat());
    let mut said = bed.said(&mut home);
    said.retain(|line| line.starts_with("Counts"));
    assert_eq!(said, ["Counts([0])"; 4]);
}
