//! Bytes in and out of open connections.

use super::*;

/// More than the kernel's buffers of both sides take.
const TOO_MUCH: usize = 32 << 20;

#[test]
fn lines_split_and_merged_by_the_network_come_once_and_whole() {
    let shards = Shards::start(1);
    let (client, _) = shards.connect();
    let text = "first\nsecond\n";
    for (sent, byte) in (1..).zip(text.chars()) {
        send(&client, &byte.to_string());
        shards.wait_until(|stats| stats.bytes_read == sent);
    }
    send(&client, "third\nfourth\nfi");
    send(&client, "fth\n");
    for line in ["first", "second", "third", "fourth", "fifth"] {
        assert_eq!(shards.next_line(), line);
    }
    assert_eq!(shards.wait_until(|_| true).queues_used, 0);
    shards.stop();
}

#[test]
fn line_far_longer_than_a_read_is_gathered() {
    let shards = Shards::start(1);
    let (client, _) = shards.connect();
    let long = "x".repeat(3 << 20);
    send(&client, &format!("{long}\nshort\n"));
    assert!(shards.next_line() == long);
    assert_eq!(shards.next_line(), "short");
    shards.stop();
}

#[test]
fn message_costs_one_read_and_one_write() {
    let shards = Shards::start(1);
    let (client, _) = shards.connect();
    for _ in 0..100 {
        send(&client, "echo again\necho and again\n");
        assert_eq!(read_exactly(&client, 16), b"again\nand again\n");
    }
    let stats = shards.wait_until(|_| true);
    assert_eq!((stats.reads, stats.writes, stats.writes_blocked), (100, 100, 0));
    shards.stop();
}

#[test]
fn paused_connection_keeps_its_bytes_and_shows_them_again() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    send(&client, "pause\nkept\n");
    assert_eq!(shards.next_line(), "pause");
    send(&client, "unread\n");
    let kept = shards.on(0, |_, net| {
        net.connections().next().map(|seen| (seen.is_paused, seen.unconsumed_bytes))
    });
    assert!(kept.is_some_and(|(is_paused, _)| is_paused));
    shards.on(0, move |_, net| net.resume(conn));
    assert_eq!(shards.next_line(), "kept");
    assert_eq!(shards.next_line(), "unread");
    shards.stop();
}

#[test]
fn end_of_a_paused_peer_is_told_after_its_last_bytes() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    send(&client, "pause\n");
    assert_eq!(shards.next_line(), "pause");
    send(&client, "last\n");
    drop(client);
    shards.on(0, move |_, net| net.resume(conn));
    assert_eq!(shards.next_line(), "last");
    assert_eq!(shards.closed().0, CloseCause::Peer);
    shards.stop();
}

#[test]
fn output_waits_for_a_peer_that_stops_reading_and_loses_nothing() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH / 2));
        net.write(conn, &pattern(TOO_MUCH)[TOO_MUCH / 2..]);
    });
    let queued = shards.on(0, move |_, net| net.queued(conn));
    assert!(queued > 0 && queued < TOO_MUCH, "{queued} bytes queued");
    assert!(read_exactly(&client, TOO_MUCH) == pattern(TOO_MUCH));
    shards.on(0, move |_, net| net.write(conn, b"and on"));
    assert_eq!(read_exactly(&client, 6), b"and on");
    let stats = shards.wait_until(|stats| stats.queues_used == 0);
    assert_eq!(stats.bytes_written, TOO_MUCH as u64 + 6);
    shards.stop();
}

#[test]
fn write_goes_through_at_once_only_when_nothing_is_queued() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let queued = shards.on(0, move |_, net| {
        net.write(conn, b"one ");
        let after_write = net.queued(conn);
        net.buffer(conn).extend_from_slice(b"two ");
        net.write(conn, b"three ");
        let after_both = net.queued(conn);
        let after_flush = net.flush(conn);
        net.buffer(conn).extend_from_slice(b"four");
        [after_write, after_both, after_flush]
    });
    assert_eq!(queued, [0, 10, 0]);
    assert_eq!(read_exactly(&client, 18), b"one two three four");
    shards.stop();
}

#[test]
fn app_is_told_once_when_the_queue_falls_to_the_mark() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH));
        net.flush(conn);
        net.notify_below(conn, TOO_MUCH / 2);
    });
    assert!(shards.events.try_recv().is_err(), "told too early");
    read_exactly(&client, TOO_MUCH);
    assert_eq!(shards.wait_for(Some), Event::Drained { conn });
    shards.wait_until(|stats| stats.queues_used == 0);
    assert!(shards.events.try_recv().is_err(), "told twice");
    shards.on(0, move |_, net| net.notify_below(conn, 0));
    assert_eq!(shards.wait_for(Some), Event::Drained { conn });
    shards.stop();
}

#[test]
fn calls_with_a_gone_connection_have_no_effect() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let remaining = shards.on(0, move |_, net| {
        assert_eq!(net.close(conn, How::AtOnce), tengate_base::Closed::Now);
        for gone in [conn, ConnId(77)] {
            net.buffer(gone).extend_from_slice(b"nobody");
            net.write(gone, b"nobody");
            net.pause(gone);
            net.resume(gone);
            net.notify_below(gone, 9);
            net.keep_frames(gone);
            net.close(gone, How::AfterFlush);
        }
        net.queued(conn) + net.flush(conn)
    });
    assert_eq!(remaining, 0);
    assert_eq!(read_to_end(&client), b"");
    assert!(shards.events.try_recv().is_err());
    shards.stop();
}

#[test]
fn timeout_comes_at_its_time_without_other_events() {
    let shards = Shards::start(1);
    let (sender, asked) = channel();
    let task = Task(Box::new(move |app, now, _net| {
        app.wake_at = Some(now + Duration::from_millis(30));
        sender.send(()).unwrap();
    }));
    shards.running.handles()[0].command(task).unwrap();
    asked.recv().unwrap();
    assert_eq!(shards.wait_for(Some), Event::Timeout);
    shards.stop();
}

#[test]
fn accepted_sockets_do_not_delay_small_writes() {
    let shards = Shards::start(1);
    let (_client, conn) = shards.connect();
    let is_nodelay = shards.on(0, move |_, net| {
        let stream = net.sockets.place(conn.0).stream.as_ref().unwrap();
        stream.nodelay().unwrap()
    });
    assert!(is_nodelay);
    shards.stop();
}

#[test]
fn list_of_connections_shows_addresses_and_bytes() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    send(&client, "echo 12\nrest");
    assert_eq!(read_exactly(&client, 3), b"12\n");
    shards.wait_until(|stats| stats.bytes_read == 12);
    let seen = shards.on(0, |_, net| net.connections().collect::<Vec<_>>());
    assert_eq!(seen.len(), 1);
    let seen = seen[0];
    assert_eq!((seen.conn, seen.door), (conn, Door(0)));
    assert_eq!(seen.peer, client.local_addr().ok());
    assert_eq!(seen.local, Some(shards.addr));
    assert_eq!((seen.bytes_read, seen.bytes_written), (12, 3));
    assert_eq!((seen.unconsumed_bytes, seen.queued_bytes), (4, 0));
    shards.stop();
}

#[test]
fn a_peer_that_reads_late_gets_whole_messages_and_the_newest() {
    const MESSAGE_BYTES: usize = 1024;
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let count = u32::try_from(TOO_MUCH / MESSAGE_BYTES).unwrap();
    let dropped = shards.on(0, move |_, net| {
        let mut dropped = 0;
        for number in 0..count {
            if net.queued(conn) >= 1 << 20 && net.flush(conn) >= 1 << 20 {
                dropped += net.drop_oldest(conn, 1 << 19);
                assert!(net.queued(conn) <= 1 << 19);
            }
            net.begin_message(conn);
            net.write(conn, &[&number.to_be_bytes(), [0; MESSAGE_BYTES - 4].as_slice()].concat());
        }
        dropped
    });
    assert!(dropped > 0, "the kernel took everything");
    let received = read_exactly(&client, TOO_MUCH - dropped * MESSAGE_BYTES);
    let numbers: Vec<u32> = received
        .chunks(MESSAGE_BYTES)
        .map(|message| {
            assert!(message[4..].iter().all(|&byte| byte == 0), "a message was cut");
            u32::from_be_bytes(message[..4].try_into().unwrap())
        })
        .collect();
    assert!(numbers.is_sorted_by(|earlier, later| earlier < later));
    assert_eq!(numbers.last(), Some(&(count - 1)));
    shards.stop();
}
