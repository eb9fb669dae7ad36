//! Peers that do not read: bounded queues, and what happens at the bound.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::harness::{Bed, config};
use crate::gateway::{SlowClient, SlowWorker};
use crate::wire::header::Command;

fn line(len: usize) -> String {
    "x".repeat(len)
}

#[test]
fn a_slow_client_gets_no_more_than_its_queue_holds_and_the_rest_is_counted() {
    let mut config = config();
    config.listeners[0].send_to_client_bytes_max = 100;
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "w:0");
    let client = bed.client(0);
    bed.shell.set_window(client.place, Some(0));
    for _ in 0..10 {
        bed.command(&worker, Command::SendToOne, 1, "", &line(39));
        bed.command(&worker, Command::SendToAll, 0, "", &line(39));
    }
    // As in Workerman, a queue below its limit takes one more message, whatever its size.
    assert_eq!(bed.shell.queued(client.place), 120);
    assert_eq!(bed.stats(0).drop_slow_client, 17);
    assert_eq!(bed.stats(0).send_fail(), 17);
    bed.shell.set_window(client.place, None);
    bed.command(&worker, Command::SendToOne, 1, "", "again");
    assert!(bed.heard(client).ends_with("again\n"));
}

#[test]
fn a_slow_client_is_closed_when_so_configured() {
    let mut config = config();
    config.listeners[0].send_to_client_bytes_max = 100;
    config.listeners[0].slow_client = SlowClient::Close;
    let mut bed = Bed::new(config);
    let mut worker = bed.worker(0, "w:0");
    let (slow, quick) = (bed.client(0), bed.client(0));
    bed.shell.set_window(slow.place, Some(0));
    for _ in 0..5 {
        bed.command(&worker, Command::SendToAll, 0, "", &line(59));
    }
    assert!(!bed.shell.is_open(slow.place));
    assert_eq!(bed.heard(quick).len(), 5 * 60);
    assert_eq!(bed.stats(0).close_slow_client, 1);
    assert!(bed.told(&mut worker).contains(&"OnClose 1 ".into()));
}

#[test]
fn a_slow_client_gets_the_newest_messages_when_so_configured_and_none_in_part() {
    let mut config = config();
    config.listeners[0].send_to_client_bytes_max = 100;
    config.listeners[0].slow_client = SlowClient::DropOldest;
    // Written are none of the first message's bytes, some, or all and some of the second's.
    for written in [0, 5, 12] {
        let mut bed = Bed::new(config.clone());
        let worker = bed.worker(0, "w:0");
        let client = bed.client(0);
        bed.shell.set_window(client.place, Some(written));
        for number in 10..70 {
            let command = if number % 2 == 0 { Command::SendToOne } else { Command::SendToAll };
            bed.command(&worker, command, 1, "", &alloc::format!("message {number}"));
            assert!(bed.shell.queued(client.place) < 100 + 11);
        }
        bed.shell.set_window(client.place, None);
        let heard = bed.heard(client);
        let heard: Vec<&str> = heard.lines().collect();
        let begun =
            if written == 12 { vec!["message 10", "message 11"] } else { vec!["message 10"] };
        let newest = heard.len() - begun.len();
        assert_eq!(heard[..begun.len()], begun);
        let expected: Vec<String> =
            (70 - newest..70).map(|number| alloc::format!("message {number}")).collect();
        assert_eq!(heard[begun.len()..], expected);
        assert!(newest >= 4, "half of the queue is kept: {heard:?}");
        assert_eq!(bed.stats(0).drop_oldest, 60 - heard.len() as u64);
        assert_eq!(bed.stats(0).send_fail(), 60 - heard.len() as u64);
    }
}

#[test]
fn a_new_message_is_dropped_when_only_one_that_is_being_written_could_make_room() {
    let mut config = config();
    config.listeners[0].send_to_client_bytes_max = 100;
    config.listeners[0].slow_client = SlowClient::DropOldest;
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "w:0");
    let client = bed.client(0);
    bed.shell.set_window(client.place, Some(10));
    for body in [&line(300), "refused"] {
        bed.command(&worker, Command::SendToOne, 1, "", body);
    }
    assert_eq!((bed.stats(0).drop_oldest, bed.stats(0).drop_slow_client), (0, 1));
    bed.shell.set_window(client.place, None);
    assert_eq!(bed.heard(client), line(300) + "\n");
}

#[test]
fn clients_of_a_slow_worker_are_not_read_until_it_has_caught_up_and_nothing_is_lost() {
    for shards in [1, 2] {
        let mut config = config();
        config.send_to_worker_bytes_max = 1000;
        config.shards = shards;
        let mut bed = Bed::new(config);
        let mut worker = bed.worker(shards - 1, "w:0");
        let client = bed.client(0);
        bed.shell.set_window(worker.place, Some(0));
        for _ in 0..100 {
            bed.say(client, &line(72));
        }
        assert!(!bed.shell.is_read(client.place));
        assert!(bed.shell.queued(worker.place) < 1300, "{}", bed.shell.queued(worker.place));
        let mut got = 0;
        for _ in 0..100 {
            bed.shell.set_window(worker.place, Some(400));
            got +=
                bed.told(&mut worker).iter().filter(|event| event.starts_with("OnMessage")).count();
        }
        assert_eq!(got, 100, "{shards} shards");
        assert!(bed.shell.is_read(client.place));
        assert_eq!(bed.stats(0).send_fail(), 0);
    }
}

#[test]
fn events_for_a_slow_worker_are_dropped_and_counted_when_so_configured() {
    let mut config = config();
    config.send_to_worker_bytes_max = 1000;
    config.slow_worker = SlowWorker::Drop;
    let mut bed = Bed::new(config);
    let mut worker = bed.worker(0, "w:0");
    let client = bed.client(0);
    bed.shell.set_window(worker.place, Some(0));
    for _ in 0..30 {
        bed.say(client, &line(72));
    }
    assert!(bed.shell.is_read(client.place));
    assert_eq!(bed.stats(0).drop_slow_worker, 20);
    bed.shell.set_window(worker.place, None);
    bed.say(client, "after");
    assert_eq!(bed.told(&mut worker).last().unwrap(), "OnMessage 1 after");
}

#[test]
fn clients_of_a_slow_worker_are_closed_when_so_configured_and_the_worker_hears_of_it() {
    let mut config = config();
    config.send_to_worker_bytes_max = 1000;
    config.slow_worker = SlowWorker::Close;
    let mut bed = Bed::new(config);
    let mut worker = bed.worker(0, "w:0");
    let client = bed.client(0);
    bed.shell.set_window(worker.place, Some(0));
    for _ in 0..11 {
        bed.say(client, &line(72));
    }
    assert!(!bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).close_slow_worker, 1);
    bed.shell.set_window(worker.place, None);
    assert_eq!(bed.told(&mut worker).last().unwrap(), "OnClose 1 ");
}

#[test]
fn a_silent_heartbeat_does_not_close_a_client_that_is_not_read() {
    let mut config = config();
    config.no_worker_grace = Duration::from_secs(60);
    config.listeners[0].heartbeat = Some(crate::gateway::Heartbeat {
        interval: Duration::from_secs(1),
        not_response_limit: 1,
        ping: crate::gateway::Ping::Nothing,
    });
    let mut bed = Bed::new(config);
    let client = bed.client(0);
    bed.advance(30.0);
    assert!(bed.shell.is_open(client.place));
}

#[test]
fn a_last_message_that_cannot_be_delivered_does_not_hold_a_client_for_ever() {
    let mut bed = Bed::new(config());
    let worker = bed.worker(0, "w:0");
    let client = bed.client(0);
    bed.shell.set_window(client.place, Some(0));
    bed.command(&worker, Command::Kick, 1, "", "bye");
    assert!(bed.shell.is_open(client.place));
    bed.advance(10.2);
    assert!(!bed.shell.is_open(client.place));
    assert_eq!(bed.stats(0).close_linger, 1);
}

#[test]
fn clients_that_come_and_go_while_their_worker_is_slow_leave_no_trace() {
    let mut config = config();
    config.send_to_worker_bytes_max = 1000;
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "w:0");
    bed.shell.set_window(worker.place, Some(0));
    for _ in 0..1000 {
        let client = bed.client(0);
        bed.say(client, &line(72));
        bed.shell.close(client.place, tengate_base::CloseCause::Peer);
    }
    assert!(bed.stats(0).paused > 900);
    let gateway = bed.shell.app(tengate_base::ShardId(0));
    assert!(gateway.paused_count() <= 3, "{}", gateway.paused_count());
}
