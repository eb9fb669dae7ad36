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
fn seeds_that_found_defects_keep_passing() {
    for seed in FOUND {
        let result = check_seed(Cluster::Direct, Path::Kernel, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
    for seed in FOUND_DISPATCHED {
        let result = check_seed(Cluster::Dispatched, Path::Kernel, seed, None, Tracing::Last(200));
        assert!(result.is_ok(), "seed {seed}: {result:#?}");
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    let clusters = [Cluster::Direct, Cluster::Dispatched];
    for (cluster, path) in clusters.into_iter().zip([Path::Kernel, Path::Netstack]) {
        let run = |seed| check_seed(cluster, path, seed, None, Tracing::Off).unwrap();
        for seed in [3, 12, 29] {
            assert_eq!(run(seed), run(seed));
        }
    }
}

#[test]
fn planted_defects_are_found() {
    for plant in Plant::ALL {
        let found = (0..CANARY_SEEDS).any(|seed| {
            check_seed(plant.cluster(), Path::Kernel, seed, Some(plant), Tracing::Off).is_err()
        });
        assert!(found, "{plant:?} was not found");
    }
}
