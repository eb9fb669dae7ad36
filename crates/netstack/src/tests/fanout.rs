//! One message for many connections: queued by reference, repeated where it is lost, in the pool once.

use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;
use tengate_base::ConnId;

use super::link::Faults;
use super::pair::{Pair, config};
use super::stream::bytes;
use crate::Config;

/// A pair and both ends of each of some connections, the sender's first.
fn open(faults: Faults, sender: Config, count: usize) -> (Pair, Vec<(ConnId, ConnId)>) {
    let mut pair = Pair::with_configs(faults, config(0), sender);
    let mut conns = Vec::new();
    while conns.len() < count {
        conns.extend(pair.try_open().map(|(theirs, ours)| (ours, theirs)));
    }
    (pair, conns)
}

#[test]
fn a_message_for_many_is_in_the_pool_once_until_the_last_has_acknowledged_it() {
    let (mut pair, conns) = open(Faults::NONE, config(1), 50);
    for (_, theirs) in &conns[..10] {
        // Their windows fill up.
        pair.hosts[0].stream(*theirs).paused = true;
    }
    let message = bytes(65_000, 0);
    for _ in 0..5 {
        let stack = &mut pair.hosts[1].stack;
        let before = stack.pool_used_bytes();
        let shared = stack.share(&message).expect("the pool has room");
        for (ours, _) in &conns {
            assert_eq!(stack.send_shared(*ours, shared), message.len());
        }
        assert_eq!(stack.pool_used_bytes(), before + message.len());
        pair.run_for(Duration::from_secs(1));
    }
    for (index, (_, theirs)) in conns.iter().enumerate().skip(10) {
        assert!(pair.hosts[0].stream(*theirs).received == message.repeat(5), "{index}");
    }
    let used = pair.hosts[1].stack.pool_used_bytes();
    assert!(
        (message.len()..=5 * message.len()).contains(&used),
        "{used} for those who do not read"
    );
    let now = pair.now;
    for (ours, _) in &conns[..9] {
        let host = &mut pair.hosts[1];
        host.stack.abort(now, *ours, &mut host.outbox);
    }
    assert!(pair.hosts[1].stack.pool_used_bytes() > 0, "one is left");
    let (_, last) = conns[9];
    pair.hosts[0].stream(last).paused = false;
    assert!(pair.run_until(|pair| pair.hosts[0].streams[&last].received.len() == 325_000));
    assert!(pair.hosts[0].streams[&last].received == message.repeat(5));
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.hosts[1].stack.pool_used_bytes(), 0);
}

#[test]
fn a_pool_without_room_shares_nothing_and_says_so() {
    let (mut pair, conns) = open(Faults::NONE, Config { pool_bytes: 64 << 10, ..config(1) }, 1);
    let stack = &mut pair.hosts[1].stack;
    assert!(stack.share(&bytes(65 << 10, 0)).is_none());
    assert_eq!(stack.stats().share_refused_pool_full, 1);
    let whole = stack.share(&bytes(64 << 10, 0)).expect("the pool is empty");
    assert!(stack.share(b"one more").is_none());
    assert_eq!(stack.send_shared(conns[0].0, whole), 64 << 10);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.hosts[1].stack.pool_used_bytes(), 0);
}

#[test]
fn a_full_send_buffer_takes_the_front_of_a_shared_message() {
    let small = Config { send_buffer_bytes: 3000, ..config(1) };
    let (mut pair, conns) = open(Faults::NONE, small, 1);
    let (ours, theirs) = conns[0];
    let (stack, message) = (&mut pair.hosts[1].stack, bytes(2000, 0));
    let shared = stack.share(&message).expect("the pool has room");
    assert_eq!(stack.send_shared(ours, shared), 2000);
    assert_eq!((stack.send_shared(ours, shared), stack.send_room(ours)), (1000, 0));
    assert_eq!(stack.send_shared(ours, shared), 0);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.hosts[0].streams[&theirs].received == [&message[..], &message[..1000]].concat());
}

#[test]
#[should_panic(expected = "good for one turn")]
fn a_message_shared_in_an_earlier_turn_is_not_sent() {
    let (mut pair, conns) = open(Faults::NONE, config(1), 1);
    let shared = pair.hosts[1].stack.share(b"message").expect("the pool has room");
    pair.step();
    pair.hosts[1].stack.send_shared(conns[0].0, shared);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn shared_and_other_messages_arrive_in_order_over_any_link(
        seed: u64,
        loss_permille in 0..100_u16,
        messages in prop::collection::vec((prop_oneof![1..300_usize, 1..70_000_usize], 0..8_u8, 0..3_usize), 1..25),
    ) {
        let faults = Faults { seed, loss_permille, ..Faults::NONE };
        let (mut pair, conns) = open(faults, config(1), 3);
        let mut expected = [Vec::new(), Vec::new(), Vec::new()];
        for (index, (len, how, own)) in messages.into_iter().enumerate() {
            let message = bytes(len, index);
            let stack = &mut pair.hosts[1].stack;
            let shared = stack.share(&message).expect("the pool has room");
            for ((ours, _), expected) in conns.iter().zip(&mut expected) {
                let taken = stack.send_shared(*ours, shared);
                expected.extend_from_slice(&message[..taken]);
            }
            if how > 2 {
                let own_message = bytes(how.into(), len);
                let taken = stack.send(conns[own].0, &own_message);
                expected[own].extend_from_slice(&own_message[..taken]);
            }
            if how % 2 == 0 {
                pair.step();
            }
        }
        for ((_, theirs), expected) in conns.iter().zip(&expected) {
            let arrived = |pair: &Pair| pair.hosts[0].streams[theirs].received.len() == expected.len();
            prop_assert!(pair.run_until(arrived));
            prop_assert!(pair.hosts[0].streams[theirs].received == *expected);
        }
        pair.run_for(Duration::from_secs(600));
        prop_assert_eq!(pair.hosts[1].stack.pool_used_bytes(), 0);
    }
}
