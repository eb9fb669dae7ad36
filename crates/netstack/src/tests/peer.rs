//! smoltcp understands us, as server and as client, over good links and bad ones.

use core::time::Duration;

use super::host::{Stream, config};
use super::link::Faults;
use super::scene::{Opener, Scene};
use super::stream::bytes;

/// Both sides talk and finish.
fn check(faults: Faults, opener: Opener, lens: [usize; 2], buffer_bytes: usize) {
    let mut scene = Scene::new(config(0), faults, buffer_bytes);
    scene.peer_to_send = bytes(lens[1], 1);
    scene.begin(opener);
    let mut ours = Some(bytes(lens[0], 0));
    for _ in 0..2_000_000 {
        scene.step();
        let Some(conn) = scene.conn() else { continue };
        let stream = scene.host.stream(conn);
        if stream.is_open
            && let Some(to_send) = ours.take()
        {
            (stream.to_send, stream.then_shutdown) = (to_send, true);
        }
        if stream.closed.is_some() {
            break;
        }
    }
    let context = (faults, opener, scene.host.stack.stats().clone());
    let conn = scene.conn().expect("it was opened");
    let stream: &Stream = scene.host.stream(conn);
    assert_eq!(stream.closed, Some(crate::Cause::Finished), "{context:?}");
    assert!(stream.received == bytes(lens[1], 1), "{context:?}");
    assert!(scene.peer_received == bytes(lens[0], 0), "{context:?}");
}

#[test]
fn smoltcp_understands_us_over_a_clean_link() {
    for opener in [Opener::Ours, Opener::Peer] {
        check(Faults::NONE, opener, [300_000, 300_000], 65_535);
    }
}

#[test]
fn smoltcp_and_we_get_everything_over_links_that_lose_repeat_and_reorder() {
    for seed in 0..40 {
        let faults = Faults {
            seed,
            loss_permille: 30,
            duplicate_permille: 20,
            delay: Duration::from_millis(seed),
            jitter: Duration::from_micros(seed * 100),
        };
        let opener = if seed % 2 == 0 { Opener::Peer } else { Opener::Ours };
        check(faults, opener, [100_000, 60_000], 1 << (12 + seed % 6));
    }
}
