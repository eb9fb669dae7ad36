//! Several shards, many connections, and what happens at the limits.

use super::*;

use std::net::TcpListener;
use std::sync::mpsc::sync_channel;

use crate::limits::MESH_BATCHES_MAX;

#[test]
fn many_connections_are_served_and_forgotten() {
    let shards = Shards::start(2);
    for _round in 0..2 {
        let clients: Vec<_> = (0..400).map(|_| connect(shards.addr)).collect();
        for (number, client) in clients.iter().enumerate() {
            send(client, &format!("echo {number:04}\n"));
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(read_exactly(client, 5), format!("{number:04}\n").as_bytes());
        }
        drop(clients);
        let mut closed = 0;
        while closed < 400 {
            assert_eq!(shards.closed().0, CloseCause::Peer);
            closed += 1;
        }
    }
    for shard in 0..2 {
        let stats = shards.on(shard, |_, net| net.stats());
        assert_eq!((stats.connections, stats.queues_used), (0, 0));
        assert!(stats.accepted > 0, "the kernel deals to every shard");
    }
    shards.stop();
}

#[test]
fn connections_of_one_host_go_to_one_shard() {
    let config = Config { pinning: Pinning::Off, ..Config::for_shards(3) };
    let shards = Shards::start_with(&config, Sharing::ByHost);
    let clients: Vec<_> = (0..9).map(|_| connect(shards.addr)).collect();
    for client in &clients {
        let shard = shards.wait_for(|event| match event {
            Event::Open { shard, local_port, .. } => {
                assert_eq!(local_port, shards.addr.port());
                Some(shard)
            }
            _ => None,
        });
        assert_eq!(shard.0, 0);
        send(client, "echo here\n");
        assert_eq!(read_exactly(client, 5), b"here\n");
    }
    shards.stop();
}

#[test]
fn connection_over_the_maximum_is_closed_and_counted() {
    let config = Config { pinning: Pinning::Off, connections_max: 2, ..Config::for_shards(1) };
    let shards = Shards::start_with(&config, Sharing::PerShard);
    let (first, _) = shards.connect();
    let (_second, _) = shards.connect();
    let third = connect(shards.addr);
    assert_eq!(read_to_end(&third), b"");
    assert_eq!(shards.wait_until(|_| true).refused_full, 1);
    drop(first);
    assert_eq!(shards.closed().0, CloseCause::Peer);
    let (fourth, _) = shards.connect();
    send(&fourth, "echo in\n");
    assert_eq!(read_exactly(&fourth, 3), b"in\n");
    shards.stop();
}

#[test]
fn paused_accepting_leaves_connections_in_the_backlog() {
    let shards = Shards::start(1);
    shards.on(0, |_, net| net.pause_accepting());
    let client = connect(shards.addr);
    send(&client, "echo later\n");
    assert_eq!(shards.wait_until(|_| true).accepted, 0);
    shards.on(0, |_, net| net.resume_accepting());
    assert_eq!(read_exactly(&client, 6), b"later\n");
    shards.stop();
}

#[test]
fn shards_that_start_paused_take_connections_when_told() {
    let config = Config { starts_paused: true, ..Config::for_shards(2) };
    let shards = Shards::start_with(&config, Sharing::PerShard);
    let client = connect(shards.addr);
    send(&client, "echo early\n");
    for shard in 0..2 {
        assert_eq!(shards.on(shard, |_, net| net.stats().accepted), 0);
    }
    for shard in 0..2 {
        shards.on(shard, |_, net| net.resume_accepting());
    }
    assert_eq!(read_exactly(&client, 6), b"early\n");
    shards.stop();
}

#[test]
fn a_socket_opened_elsewhere_is_served_like_an_accepted_one() {
    let config = Config { starts_paused: true, ..Config::for_shards(2) };
    let shards = Shards::start_with(&config, Sharing::PerShard);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialed = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let us = dialed.local_addr().unwrap();
    let (peer, _) = listener.accept().unwrap();
    send(&peer, "echo at once\n");
    shards.running.handles()[1].adopt(dialed, Door(7)).unwrap();
    let opened = shards.wait_for(|event| match event {
        Event::Open { shard, door, peer, local_port, .. } => Some((shard, door, peer, local_port)),
        _ => None,
    });
    assert_eq!(opened, (ShardId(1), Door(7), listener.local_addr().unwrap(), us.port()));
    assert_eq!(read_exactly(&peer, 8), b"at once\n");
    drop(peer);
    assert_eq!(shards.closed(), (CloseCause::Peer, Vec::new()));
    shards.stop();
}

#[test]
fn connections_wait_for_descriptors_to_be_free() {
    const NAME: &str = "tests::shards::connections_wait_for_descriptors_to_be_free";
    if std::env::var_os("TENGATE_TEST_FEW_DESCRIPTORS").is_none() {
        // In a process of its own, whose limit harms no other test.
        let test = std::env::current_exe().unwrap();
        let status = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$0\" --exact \"$1\""])
            .arg(test)
            .arg(NAME)
            .env("TENGATE_TEST_FEW_DESCRIPTORS", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let shards = Shards::start(1);
    shards.on(0, |_, net| net.pause_accepting());
    let client = connect(shards.addr);
    let fillers: Vec<_> = core::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    shards.on(0, |_, net| net.resume_accepting());
    assert_eq!(shards.wait_until(|stats| stats.accept_deferred > 0).accepted, 0);
    drop(fillers);
    send(&client, "echo in\n");
    assert_eq!(read_exactly(&client, 3), b"in\n");
    shards.stop();
}

#[test]
fn batch_arrives_as_it_was_written() {
    let shards = Shards::start(3);
    shards.on(1, |_, net| {
        net.mesh(ShardId(2)).extend_from_slice(b"one ");
        net.mesh(ShardId(0)).extend_from_slice(b"zero");
        net.mesh(ShardId(2)).extend_from_slice(b"batch");
    });
    let mut batches: Vec<Event> = (0..2).map(|_| shards.wait_for(Some)).collect();
    batches.sort_by_key(|event| format!("{event:?}"));
    let from = ShardId(1);
    assert_eq!(
        batches,
        [
            Event::Mesh { shard: ShardId(0), from, batch: b"zero".to_vec() },
            Event::Mesh { shard: ShardId(2), from, batch: b"one batch".to_vec() },
        ]
    );
    shards.stop();
}

#[test]
fn flood_in_every_direction_keeps_its_order_and_loses_nothing() {
    const NUMBERS: u64 = 40_000;
    let shards = Shards::start(3);
    for round in 0..NUMBERS / 100 {
        for shard in 0..3 {
            let task = Task(Box::new(move |app: &mut Lines, _now, net: &mut Net| {
                for to in (0..3).map(ShardId).filter(|&to| to != app.shard) {
                    for number in round * 100..(round + 1) * 100 {
                        net.mesh(to).extend_from_slice(&number.to_be_bytes());
                    }
                }
            }));
            shards.running.handles()[shard].command(task).unwrap();
        }
    }
    let mut next = [[0_u64; 3]; 3];
    let mut missing = 6 * NUMBERS;
    while missing > 0 {
        let (shard, from, batch) = shards.wait_for(|event| match event {
            Event::Mesh { shard, from, batch } => {
                Some((usize::from(shard.0), usize::from(from.0), batch))
            }
            _ => None,
        });
        for number in batch.chunks(8) {
            assert_eq!(number, next[from][shard].to_be_bytes(), "from {from} to {shard}");
            next[from][shard] += 1;
            missing -= 1;
        }
    }
    shards.stop();
}

#[test]
fn full_ring_holds_batches_back_until_the_receiver_is_there_again() {
    let shards = Shards::start(2);
    let (client, conn) = {
        let client = connect(shards.addr);
        let opened = shards.wait_for(|event| match event {
            Event::Open { shard, conn, .. } => Some((shard, conn)),
            _ => None,
        });
        (client, opened)
    };
    let sender = usize::from(conn.0.0);
    let receiver = ShardId(1 - conn.0.0);
    let (release, released) = sync_channel::<()>(0);
    let stuck = Task(Box::new(move |_, _, _| released.recv().unwrap()));
    shards.running.handles()[usize::from(receiver.0)].command(stuck).unwrap();
    // More than the ring takes, and then more than may be staged.
    let chunk = pattern(1 << 20);
    let rounds = MESH_BATCHES_MAX + 8;
    for _ in 0..rounds {
        let chunk = chunk.clone();
        shards.on(sender, move |_, net| net.mesh(receiver).extend_from_slice(&chunk));
    }
    send(&client, "echo still\n");
    let stats = shards.on(sender, |_, net| net.stats());
    assert!(stats.mesh_full > 0 && stats.mesh_staged_bytes > 4 << 20, "{stats:?}");
    assert_eq!(stats.bytes_read, 0, "sockets wait while so much is staged");
    release.send(()).unwrap();
    assert_eq!(read_exactly(&client, 6), b"still\n");
    let mut received = 0;
    while received < rounds << 20 {
        received += shards.wait_for(|event| match event {
            Event::Mesh { batch, .. } => Some(batch.len()),
            _ => None,
        });
    }
    assert_eq!(received, rounds << 20);
    shards.stop();
}

#[test]
fn panic_of_a_shard_is_reported_and_the_others_stop() {
    let shards = Shards::start(3);
    let clients: Vec<_> = (0..3).map(|_| connect(shards.addr)).collect();
    send(&clients[0], "panic\n");
    let exit = shards.running.join(DEADLINE).unwrap_err();
    assert_eq!(exit.result, Err("panicked: asked to".to_owned()));
    for client in &clients {
        // The panicking shard's descriptors close unread, which may be a reset.
        let _end_or_reset = client.peek(&mut [0]);
    }
}

#[test]
fn batches_for_a_shard_that_has_ended_are_dropped_and_counted() {
    let shards = Shards::start(2);
    shards.running.handles()[1].stop(Duration::ZERO);
    let Shards { mut running, events, addr } = shards;
    let exit = running.wait().unwrap();
    assert_eq!((exit.shard, exit.result), (ShardId(1), Ok(())));
    let shards = Shards { running, events, addr };
    for _ in 0..=MESH_BATCHES_MAX {
        shards.on(0, |_, net| net.mesh(ShardId(1)).extend_from_slice(b"nobody"));
    }
    let stats = shards.wait_until(|stats| stats.mesh_bytes_dropped > 0);
    assert_eq!(stats.mesh_staged_bytes, 0);
    shards.stop();
}

#[test]
fn start_errors_name_what_is_wrong() {
    let listeners = |shard_count| {
        let addr = "127.0.0.1:0".parse().unwrap();
        vec![
            bind(&ListenSpec { addr, backlog: 1, sharing: Sharing::PerShard }, shard_count)
                .unwrap(),
        ]
    };
    let start = |config: &Config, bound_for| {
        let (sender, _events) = channel();
        let make_app = move |shard| Lines { shard, events: sender.clone(), wake_at: None };
        run(config, listeners(bound_for), None, make_app).map(drop).unwrap_err().to_string()
    };
    let config = Config { pinning: Pinning::Off, ..Config::for_shards(2) };
    assert_eq!(
        start(&Config { shard_count: 0, ..config.clone() }, 1),
        "at least one shard is needed"
    );
    assert_eq!(start(&config, 1), "listener 0 was opened for another number of shards");
    let elsewhere = Config { pinning: Pinning::Cores(vec![1023]), ..config };
    assert_eq!(start(&elsewhere, 2), "core 1023 is not one this process may use");
}
