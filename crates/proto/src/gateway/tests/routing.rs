//! Which worker a client has, and what happens without one.

use alloc::vec::Vec;
use alloc::{format, vec};

use super::harness::{Bed, Worker, config, listening};
use crate::gateway::Protocol;
use crate::wire::header::Command;

fn sharded(shards: u16) -> Bed {
    let mut config = config();
    config.shards = shards;
    Bed::new(config)
}

#[test]
fn a_client_stays_with_its_worker_and_clients_spread_evenly() {
    let mut bed = sharded(1);
    let mut workers: Vec<Worker> = (0..3).map(|id| bed.worker(0, &format!("Bw:{id}"))).collect();
    let clients: Vec<_> = (0..6).map(|_| bed.client(0)).collect();
    for client in &clients {
        bed.say(*client, "a");
        bed.say(*client, "b");
    }
    for worker in &mut workers {
        let events = bed.events(worker);
        assert_eq!(events.len(), 6);
        let mut ids: Vec<u32> = events.iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 2);
    }
}

#[test]
fn when_a_worker_goes_its_clients_get_another_and_none_is_closed() {
    for shards in [1, 3] {
        let mut bed = sharded(shards);
        let first = bed.worker(0, "Bw:0");
        let clients: Vec<_> = (0..6).map(|client| bed.client(client % shards)).collect();
        let mut second = bed.worker(shards - 1, "Bw:1");
        bed.lose(&first);
        for client in &clients {
            bed.say(*client, "still here");
            assert!(bed.shell.is_open(client.place));
        }
        let told = bed.told(&mut second);
        assert_eq!(told.iter().filter(|event| event.contains("still here")).count(), 6, "{told:?}");
    }
}

#[test]
fn events_not_written_when_a_link_breaks_go_to_the_next_worker_in_order() {
    for shards in [1, 2, 4] {
        let mut bed = sharded(shards);
        let mut first = bed.worker(shards - 1, "Bw:0");
        let client = bed.client(0);
        bed.told(&mut first);
        // The worker takes one more message and the head of the next one, then nothing.
        bed.shell.set_window(first.place, Some(28 + 2 + 10));
        for number in 10..20 {
            bed.say(client, &format!("{number}"));
        }
        let mut second = bed.worker(0, "Bw:1");
        bed.lose(&first);
        bed.say(client, "20");
        let told = bed.told(&mut second);
        let id = bed.shell.app(client.place.shard).workers().count();
        assert_eq!(id, 1);
        let bodies: Vec<_> = told.iter().map(|event| event.rsplit(' ').next().unwrap()).collect();
        assert_eq!(
            bodies,
            ["11", "12", "13", "14", "15", "16", "17", "18", "19", "20"],
            "{shards} shards"
        );
    }
}

#[test]
fn without_a_worker_events_wait_and_arrive_in_order_when_one_comes() {
    for shards in [1, 2] {
        let mut bed = sharded(shards);
        let client = bed.client(0);
        bed.say(client, "one");
        bed.say(client, "two");
        assert!(!bed.shell.is_read(client.place));
        bed.advance(4.0);
        let mut worker = bed.worker(shards - 1, "Bw:0");
        bed.say(client, "three");
        assert_eq!(
            bed.told(&mut worker),
            ["OnConnect 1 ", "OnMessage 1 one", "OnMessage 1 two", "OnMessage 1 three"]
        );
        bed.advance(60.0);
        assert!(bed.shell.is_open(client.place));
    }
}

#[test]
fn without_a_worker_for_too_long_the_client_is_closed_and_counted() {
    let mut bed = sharded(1);
    let client = bed.client(0);
    bed.advance(5.2);
    assert!(!bed.shell.is_open(client.place));
    bed.advance(10.0);
    let stats = bed.stats(0);
    assert_eq!((stats.close_no_worker, stats.clients, stats.timers), (1, 0, 0));
    let mut worker = bed.worker(0, "Bw:0");
    assert_eq!(bed.told(&mut worker), Vec::<alloc::string::String>::new());
    assert_eq!(bed.stats(0).drop_no_worker, 1);
}

#[test]
fn a_websocket_client_that_no_worker_takes_is_told_so_in_http() {
    let mut bed = Bed::new(listening(Protocol::Websocket { binary: false, check_utf8: true }));
    let client = bed.client(0);
    bed.shell.send(client.place, b"GET / HTTP/1.1\r\n");
    bed.advance(5.2);
    let answer = bed.heard(client);
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.ends_with("\r\n\r\nno worker is connected (yet)\n")
    );
    assert!(!bed.shell.is_open(client.place));
}

#[test]
fn a_websocket_client_for_whose_events_there_is_no_room_is_told_so_in_http() {
    let mut config = listening(Protocol::Websocket { binary: false, check_utf8: true });
    config.no_worker_bytes_max = 100;
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "Bw:0");
    let asking = bed.client(0);
    bed.lose(&worker);
    let clients: Vec<_> = (0..4).map(|_| bed.client(0)).collect();
    bed.shell.send(asking.place, b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    // One has come too late for the room, the other's request does not fit.
    for refused in [clients[3], asking] {
        assert!(bed.heard(refused).starts_with("HTTP/1.1 503 "));
        assert!(!bed.shell.is_open(refused.place));
    }
    assert_eq!(bed.stats(0).close_no_worker, 2);
}

#[test]
fn events_waiting_for_a_worker_are_bounded_in_bytes() {
    let mut config = config();
    config.no_worker_bytes_max = 100;
    let mut bed = Bed::new(config);
    let clients: Vec<_> = (0..5).map(|_| bed.client(0)).collect();
    let open = clients.iter().filter(|client| bed.shell.is_open(client.place)).count();
    assert_eq!(open, 3);
    let stats = bed.stats(0);
    assert_eq!((stats.close_no_worker, stats.clients), (2, 3));
}

#[test]
fn a_worker_that_comes_while_another_drains_does_not_reorder_events() {
    let mut bed = sharded(2);
    let first = bed.worker(1, "Bw:0");
    let client = bed.client(0);
    bed.shell.set_window(first.place, Some(0));
    bed.say(client, "1");
    bed.lose(&first);
    bed.say(client, "2");
    let mut second = bed.worker(1, "Bw:1");
    bed.say(client, "3");
    let told = bed.told(&mut second);
    assert_eq!(told, vec!["OnMessage 1 1", "OnMessage 1 2", "OnMessage 1 3"]);
    bed.command(&second, Command::SendToOne, 1, "", "ok");
    assert_eq!(bed.heard(client), "ok\n");
}
