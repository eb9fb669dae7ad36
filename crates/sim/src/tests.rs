//! Some seeds at each test run, and proof that the checks see what they are for.

use crate::check_seed;
use crate::plan::{Cluster, Path};
use crate::watched::Plant;
use crate::world::{Totals, Tracing};

/// Seeds of every test run; a search for defects runs many more (docs/testing.md#simulation).
const SEEDS: u64 = 400;
/// Seeds within which each planted defect must be found.
const CANARY_SEEDS: u64 = 200;

/// Seeds that found defects once, each in its own way.
const FOUND: [u64; 4] = [18, 48, 63, 2];
/// The same, of clusters with dispatchers: clients whose end was dropped, a routing index that took old news for new, events
/// before the word of HOME, events counted and not sent, events given back and given to another worker all the same,
/// dispatchers that stopped too early, bindings of clients that are another dispatcher's.
const FOUND_DISPATCHED: [u64; 9] = [18, 42, 164, 204, 497, 602, 6688, 8316, 5021];
/// The same, past the kernel: bytes that overtook the answer to a cookie, now and after a break, and keepalive probes that a full
/// device did not take.
const FOUND_PAST_KERNEL: [u64; 3] = [19, 1813, 432];
/// The same, with dispatchers: answers to such probes that found no room.
const FOUND_DISPATCHED_PAST_KERNEL: [u64; 1] = [694];

fn check_seeds(cluster: Cluster, path: Path) -> Totals {
    let mut sum = Totals::default();
    for seed in 0..SEEDS {
        let totals =
            check_seed(cluster, path, seed, None, Tracing::Last(200)).unwrap_or_else(|failure| {
                panic!("seed {seed}: {}\n{:#?}", failure.what, failure.trace)
            });
        sum.events += totals.events;
        sum.lost += totals.lost;
        sum.rerouted += totals.rerouted;
        sum.deliveries += totals.deliveries;
        sum.answers += totals.answers;
        sum.faults += totals.faults;
        sum.returned += totals.returned;
        sum.moves += totals.moves;
        sum.frames += totals.frames;
        sum.frames_lost += totals.frames_lost;
        sum.frames_handed += totals.frames_handed;
    }
    // Not a promise, but a run in which nothing happens proves nothing.
    let least = [sum.events, sum.lost, sum.rerouted, sum.deliveries, sum.answers, sum.faults];
    assert!(least.iter().all(|count| *count > SEEDS), "{sum:?}");
    sum
}

#[test]
fn seeds_keep_every_promise() {
    check_seeds(Cluster::Direct, Path::Kernel);
}

#[test]
fn seeds_with_dispatchers_keep_every_promise() {
    let sum = check_seeds(Cluster::Dispatched, Path::Kernel);
    assert!(sum.returned > 0 && sum.moves > SEEDS, "{sum:?}");
}

#[test]
fn seeds_past_the_kernel_keep_every_promise() {
    let sum = check_seeds(Cluster::Direct, Path::Netstack);
    let least = [sum.frames, sum.frames_lost, sum.frames_handed];
    assert!(least.iter().all(|count| *count > SEEDS), "{sum:?}");
}

#[test]
fn seeds_with_dispatchers_past_the_kernel_keep_every_promise() {
    let sum = check_seeds(Cluster::Dispatched, Path::Netstack);
    assert!(sum.returned > 0 && sum.moves > SEEDS, "{sum:?}");
}

#[test]
fn seeds_that_found_defects_keep_passing() {
    for seed in FOUND {
        let result = check_seed(Cluster::Direct, Path::Kernel, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
    for seed in FOUND_PAST_KERNEL {
        let result = check_seed(Cluster::Direct, Path::Netstack, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
    for seed in FOUND_DISPATCHED_PAST_KERNEL {
        let result =
            check_seed(Cluster::Dispatched, Path::Netstack, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
    for seed in FOUND_DISPATCHED {
        let result = check_seed(Cluster::Dispatched, Path::Kernel, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for cluster in [Cluster::Direct, Cluster::Dispatched] {
        for path in [Path::Kernel, Path::Netstack] {
            let run = |seed| check_seed(cluster, path, seed, None, Tracing::Off).unwrap();
            for seed in [3, 12, 29] {
                assert_eq!(run(seed), run(seed));
            }
        }
    }
}

#[test]
fn planted_defects_are_found() {
    for plant in Plant::ALL {
        for path in [Path::Kernel, Path::Netstack] {
            let is_found =
                |seed| check_seed(plant.cluster(), path, seed, Some(plant), Tracing::Off).is_err();
            let is_in_vain = path == Path::Kernel && plant.is_past_kernel();
            assert!(is_in_vain || (0..CANARY_SEEDS).any(is_found), "{plant:?} on {path:?}");
        }
    }
}
