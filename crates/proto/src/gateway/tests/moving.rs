//! Events that a dying link cannot deliver: they move to another worker, in order, none twice.

use alloc::vec;

use tengate_base::{CloseCause, ShardId};

use super::harness::{Bed, config};

#[test]
fn events_queued_on_a_replaced_link_go_to_the_newer_one_at_once() {
    let mut bed = Bed::new(config());
    let older = bed.worker(0, "Bw:0");
    bed.shell.set_window(older.place, Some(0));
    let client = bed.client(0);
    bed.say(client, "first");
    let mut newer = bed.worker(0, "Bw:0");
    bed.say(client, "second");
    assert_eq!(
        bed.told(&mut newer),
        ["OnConnect 1 ", "OnMessage 1 first", "OnMessage 1 second"],
        "without waiting for the older link to be read"
    );
    assert!(!bed.shell.is_open(older.place));
}

#[test]
fn events_queued_on_a_link_that_breaks_the_protocol_go_to_another_worker() {
    let mut bed = Bed::new(config());
    let broken = bed.worker(0, "Bw:0");
    bed.shell.set_window(broken.place, Some(0));
    let client = bed.client(0);
    bed.say(client, "kept");
    let mut other = bed.worker(0, "Bw:1");
    bed.shell.send(broken.place, &[0, 0, 0, 1]);
    assert_eq!(bed.told(&mut other), ["OnConnect 1 ", "OnMessage 1 kept"]);
}

#[test]
fn an_event_between_the_end_of_a_link_and_the_directorys_word_is_not_lost() {
    let mut sharded = config();
    sharded.shards = 2;
    let mut bed = Bed::new(sharded);
    let dying = bed.worker(1, "Bw:0");
    let client = bed.client(1);
    bed.say(client, "read");
    let mut other = bed.worker(0, "Bw:1");
    bed.shell.cut(dying.place, CloseCause::Reset);
    // Shard 1 has its turn before it hears from shard 0 that the worker is gone.
    bed.shell.give(client.place, b"late\n");
    assert_eq!(bed.shell.step(ShardId(1)), vec![ShardId(0)]);
    assert!(bed.shell.cross(ShardId(1), ShardId(0)));
    bed.say(client, "later");
    let id = (1 << 22) + 1;
    assert_eq!(
        bed.told(&mut other),
        [alloc::format!("OnMessage {id} late"), alloc::format!("OnMessage {id} later")]
    );
}
