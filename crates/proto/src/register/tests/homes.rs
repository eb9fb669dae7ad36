//! Homes: balanced, stable, and the same wherever they are computed.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::homes::assign;

#[test]
fn homes_are_the_same_in_every_version() {
    let gateways = ["10.0.0.1:2900", "10.0.0.2:2900", "10.0.0.3:2900", "10.0.0.4:2900"];
    let dispatchers = ["10.0.1.1:3900", "10.0.1.2:3900", "10.0.1.3:3900"];
    let homes = assign(&BTreeSet::from(gateways), &BTreeSet::from(dispatchers));
    let chosen: Vec<&str> = homes.values().map(|home| &**home).collect();
    assert_eq!(chosen, ["10.0.1.1:3900", "10.0.1.2:3900", "10.0.1.1:3900", "10.0.1.3:3900"]);
}

#[test]
fn without_dispatchers_nobody_has_a_home() {
    assert!(assign(&BTreeSet::from(["10.0.0.1:2900"]), &BTreeSet::new()).is_empty());
    assert!(assign(&BTreeSet::new(), &BTreeSet::from(["10.0.1.1:3900"])).is_empty());
}

/// The figures are averages over many clusters: what moves beside what has to is a chain of gateways that displace each
/// other, which is short, but not of a fixed length.
#[test]
fn little_more_moves_than_has_to() {
    const CLUSTERS: u16 = 200;
    for (gateway_count, dispatcher_count) in [(8, 2), (20, 4), (100, 5), (64, 16)] {
        let [mut gateway_gone, mut dispatcher_gone] = [0, 0];
        for cluster in 0..CLUSTERS {
            let gateways = addresses(cluster, 2900, gateway_count);
            let dispatchers = addresses(cluster, 3900, dispatcher_count);
            let (gateways, dispatchers) = (set(&gateways), set(&dispatchers));
            let homes = assign(&gateways, &dispatchers);
            let fewer: BTreeSet<&str> = gateways.iter().copied().skip(1).collect();
            gateway_gone += moved(&homes, &assign(&fewer, &dispatchers));
            let fewer: BTreeSet<&str> = dispatchers.iter().copied().skip(1).collect();
            dispatcher_gone += moved(&homes, &assign(&gateways, &fewer));
        }
        let must_move = gateway_count.div_ceil(dispatcher_count);
        assert!(
            gateway_gone < 4 * usize::from(CLUSTERS),
            "{gateway_gone} moves in {CLUSTERS} clusters as one of {gateway_count} gateways left"
        );
        assert!(
            dispatcher_gone < 3 * usize::from(CLUSTERS * must_move),
            "{dispatcher_gone} moves as one of {dispatcher_count} dispatchers left, {must_move} at a time would have to"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loads_differ_by_one_at_most_and_everybody_has_a_home(
        gateways in prop::collection::btree_set("[0-9.:]{1,12}", 0..60),
        dispatchers in prop::collection::btree_set("[0-9.:]{1,12}", 1..12),
    ) {
        let gateways = gateways.iter().map(String::as_str).collect();
        let dispatchers: BTreeSet<&str> = dispatchers.iter().map(String::as_str).collect();
        let homes = assign(&gateways, &dispatchers);
        prop_assert!(homes.keys().map(|gateway| &**gateway).eq(gateways.iter().copied()));
        let load = |dispatcher: &&str| homes.values().filter(|home| ***home == **dispatcher).count();
        let loads: Vec<usize> = dispatchers.iter().map(load).collect();
        prop_assert_eq!(loads.iter().sum::<usize>(), gateways.len());
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
    }

    #[test]
    fn the_order_in_which_members_came_does_not_matter(
        mut gateways in prop::collection::vec("[0-9]{1,4}", 0..30),
        mut dispatchers in prop::collection::vec("[0-9]{1,4}", 1..8),
    ) {
        let homes = assign(&set(&gateways), &set(&dispatchers));
        gateways.reverse();
        dispatchers.reverse();
        prop_assert_eq!(assign(&set(&gateways), &set(&dispatchers)), homes);
    }
}

fn addresses(cluster: u16, port: u16, count: u16) -> Vec<String> {
    let [a, b] = cluster.to_be_bytes();
    (0..count).map(|index| alloc::format!("10.{a}.{b}.{index}:{port}")).collect()
}

fn set(addresses: &[String]) -> BTreeSet<&str> {
    addresses.iter().map(String::as_str).collect()
}

/// How many gateways of both have different homes.
fn moved(before: &BTreeMap<Box<str>, Box<str>>, after: &BTreeMap<Box<str>, Box<str>>) -> usize {
    after
        .iter()
        .filter(|(gateway, home)| before.get(*gateway).is_some_and(|old| old != *home))
        .count()
}
