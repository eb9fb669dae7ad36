//! Every way a connection ends.

use super::*;

use tengate_base::Closed;

/// More than the kernel's buffers of both sides take.
const TOO_MUCH: usize = 32 << 20;

#[test]
fn graceful_close_of_an_empty_queue_is_over_now() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let closed = shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(b"last");
        net.close(conn, How::AfterFlush)
    });
    assert_eq!(closed, Closed::Now);
    assert_eq!(read_to_end(&client), b"last");
    drop(client);
    shards.wait_until(|stats| stats.connections == 0 && stats.lingering == 0);
    assert!(shards.events.try_recv().is_err(), "the app is not told of what it did");
    shards.stop();
}

#[test]
fn graceful_close_of_a_long_queue_delivers_all_of_it() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let (closed, ignored) = shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH));
        let closed = net.close(conn, How::AfterFlush);
        net.buffer(conn).extend_from_slice(b"too late");
        (closed, net.close(conn, How::AfterFlush))
    });
    assert_eq!((closed, ignored), (Closed::Later, Closed::Later));
    send(&client, "not read any more\n");
    assert!(read_to_end(&client) == pattern(TOO_MUCH));
    assert_eq!(
        shards.wait_for(Some),
        Event::Closed { conn, cause: CloseCause::Flushed, unsent: Vec::new() }
    );
    shards.stop();
}

#[test]
fn last_message_survives_unread_input() {
    let shards = Shards::start(1);
    let (client, _) = shards.connect();
    // The server closes at the first line; the rest would make a plain close reset the connection.
    send(&client, &format!("bye\n{}", "more ".repeat(100_000)));
    assert_eq!(read_to_end(&client), b"bye\n");
    drop(client);
    shards.wait_until(|stats| stats.lingering == 0);
    shards.stop();
}

#[test]
fn close_at_once_drops_what_is_queued() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let closed = shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(b"dropped");
        net.close(conn, How::AtOnce)
    });
    assert_eq!(closed, Closed::Now);
    assert_eq!(read_to_end(&client), b"");
    assert_eq!(shards.wait_until(|_| true).queues_used, 0);
    shards.stop();
}

#[test]
fn app_may_close_in_the_middle_of_what_it_is_shown() {
    let shards = Shards::start(1);
    let (client, _) = shards.connect();
    send(&client, "cut\nnever shown\n");
    assert_eq!(shards.next_line(), "cut");
    let stats = shards.wait_until(|stats| stats.connections == 0);
    assert_eq!(stats.queues_used, 0);
    let (_second, _) = shards.connect();
    assert!(shards.events.try_recv().is_err());
    shards.stop();
}

#[test]
fn close_at_once_overrides_a_graceful_one() {
    let shards = Shards::start(1);
    let (_client, conn) = shards.connect();
    let closed = shards.on(0, move |_, net| {
        net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH));
        (net.close(conn, How::AfterFlush), net.close(conn, How::AtOnce))
    });
    assert_eq!(closed, (Closed::Later, Closed::Now));
    assert_eq!(shards.wait_until(|stats| stats.connections == 0).queues_used, 0);
    assert!(shards.events.try_recv().is_err());
    shards.stop();
}

#[test]
fn peer_that_ends_its_side_still_gets_its_answer() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    send(&client, "echo answer\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"answer\n");
    assert_eq!(shards.next_line(), "echo answer");
    assert_eq!(
        shards.wait_for(Some),
        Event::Closed { conn, cause: CloseCause::Peer, unsent: Vec::new() }
    );
    shards.stop();
}

#[test]
fn frames_not_wholly_written_are_given_back_whole() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let frame_len = 70_001_u32;
    let frames: Vec<u8> = (0..400_u32)
        .flat_map(|number| {
            let mut frame = frame_len.to_be_bytes().to_vec();
            frame.extend(number.to_be_bytes());
            frame.resize(frame_len as usize, 7);
            frame
        })
        .collect();
    let expected = frames.clone();
    shards.on(0, move |_, net| {
        net.keep_frames(conn);
        net.write(conn, &frames[..frames.len() / 2]);
        net.buffer(conn).extend_from_slice(&frames[frames.len() / 2..]);
    });
    read_exactly(&client, 5_000_000);
    let queued = shards.on(0, move |_, net| net.queued(conn));
    assert!(queued > 0);
    // Closing with unread input resets the connection.
    drop(client);
    let (cause, unsent) = shards.closed();
    assert_eq!(cause, CloseCause::Reset);
    assert!(
        !unsent.is_empty() && unsent.len().is_multiple_of(frame_len as usize),
        "{} bytes",
        unsent.len()
    );
    assert!(expected.ends_with(&unsent));
    assert_eq!(shards.wait_until(|stats| stats.connections == 0).closed_reset, 1);
    shards.stop();
}

#[test]
fn given_up_connection_hands_its_frames_back_in_the_same_turn() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    let frame = |fill: u8| {
        let mut frame = 1000u32.to_be_bytes().to_vec();
        frame.resize(1000, fill);
        frame
    };
    let frames: Vec<u8> =
        (0..32_000u32).flat_map(|number| frame(number.to_le_bytes()[0])).collect();
    let queue = frames.clone();
    let closed = shards.on(0, move |_, net| {
        net.keep_frames(conn);
        net.buffer(conn).extend_from_slice(&queue);
        net.flush(conn);
        let closed = net.close(conn, How::GiveBack);
        net.buffer(conn).extend_from_slice(b"not written any more");
        closed
    });
    assert_eq!(closed, Closed::Later);
    let (cause, unsent) = shards.closed();
    assert_eq!(cause, CloseCause::Reset);
    let unsent = unsent.strip_suffix(b"not written any more").unwrap_or(&unsent);
    assert!(!unsent.is_empty() && unsent.len().is_multiple_of(1000) && frames.ends_with(unsent));
    drop(client);
    shards.stop();
}

#[test]
fn failed_write_is_told_with_what_was_not_written() {
    let shards = Shards::start(1);
    let (client, conn) = shards.connect();
    send(&client, "pause\n");
    assert_eq!(shards.next_line(), "pause");
    shards.on(0, move |_, net| net.write(conn, b"unread"));
    // Unread input makes this a reset; the paused connection learns of it by writing.
    read_exactly(&client, 1);
    drop(client);
    for _ in 0..1_000_000 {
        shards.on(0, move |_, net| net.buffer(conn).extend_from_slice(b"more"));
        if let Ok(Event::Closed { cause, unsent, .. }) = shards.events.try_recv() {
            assert_eq!(cause, CloseCause::Reset);
            assert_eq!(unsent, b"more");
            return shards.stop();
        }
    }
    panic!("the failure is told");
}

#[test]
fn index_is_used_again_after_the_turn() {
    let shards = Shards::start(1);
    let (first, conn) = shards.connect();
    drop(first);
    assert_eq!(shards.closed().0, CloseCause::Peer);
    let (second, again) = shards.connect();
    assert_eq!(again, conn);
    send(&second, "echo fresh\n");
    assert_eq!(read_exactly(&second, 6), b"fresh\n");
    shards.stop();
}

#[test]
fn stop_writes_what_is_queued_and_ends_every_connection() {
    let shards = Shards::start(2);
    let clients: Vec<TcpStream> = (0..8).map(|_| shards.connect().0).collect();
    for shard in 0..2 {
        shards.on(shard, |_, net| {
            let conns: Vec<ConnId> = net.connections().map(|seen| seen.conn).collect();
            for conn in conns {
                net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH / 8));
                net.flush(conn);
            }
        });
    }
    shards.running.handles().iter().for_each(|handle| handle.stop(DEADLINE));
    for client in clients {
        assert!(read_to_end(&client) == pattern(TOO_MUCH / 8));
        drop(client);
    }
    let Shards { running, events, addr } = shards;
    let handle = running.handles()[0].clone();
    running.join(Duration::ZERO).unwrap();
    let causes: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Closed { cause, .. } => Some(cause),
            _ => None,
        })
        .collect();
    assert_eq!(causes, [CloseCause::Shell; 8]);
    assert!(TcpStream::connect(addr).is_err());
    assert!(handle.command(Task(Box::new(|_, _, _| {}))).is_err());
}

#[test]
fn stop_cuts_who_does_not_read_when_the_grace_is_over() {
    let shards = Shards::start(1);
    let (_client, conn) = shards.connect();
    shards.on(0, move |_, net| net.buffer(conn).extend_from_slice(&pattern(TOO_MUCH)));
    shards.running.handles()[0].stop(Duration::from_millis(20));
    let (cause, unsent) = shards.closed();
    assert_eq!(cause, CloseCause::Shell);
    assert!(pattern(TOO_MUCH).ends_with(&unsent) && !unsent.is_empty());
    shards.running.join(Duration::ZERO).unwrap();
}
