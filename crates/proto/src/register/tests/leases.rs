//! Leases: nobody else's, the same again, and fresh ones first.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;
use tengate_base::Instant;

use super::super::leases::{Answer, Lease, Leases, Refusal};
use crate::wire::register::{Block, Wanted};

#[test]
fn an_address_gets_the_same_block_again() {
    let mut leases = leases();
    assert_eq!(leases.ask(false, "a:1", &shards(2)), leased(0, 2));
    assert_eq!(leases.ask(false, "b:1", &shards(1)), leased(2, 1));
    leases.leave(Instant::ZERO, "a:1");
    assert_eq!(leases.ask(false, "c:1", &shards(2)), leased(3, 2));
    assert_eq!(leases.ask(false, "a:1", &shards(2)), leased(0, 2));
}

#[test]
fn a_block_is_kept_for_an_absent_gateway_and_then_free() {
    let mut leases = leases();
    leases.ask(false, "a:1", &shards(10)).unwrap();
    leases.leave(Instant::ZERO, "a:1");
    assert_eq!(leases.next_end(), Some(Instant::ZERO + KEEP));
    assert!(!leases.expire(Instant::ZERO + (KEEP - Duration::from_nanos(1))));
    assert!(matches!(leases.ask(false, "b:1", &shards(1)), Err(Refusal::Full { kept: 1, .. })));
    assert!(leases.expire(Instant::ZERO + KEEP));
    assert_eq!(leases.ask(false, "b:1", &shards(1)), leased(0, 1));
}

#[test]
fn a_gateway_that_came_back_is_kept_for_as_long_as_it_stays() {
    let mut leases = leases();
    leases.ask(false, "a:1", &shards(1)).unwrap();
    leases.leave(Instant::ZERO, "a:1");
    leases.hold("a:1");
    assert_eq!(leases.next_end(), None);
    assert!(!leases.expire(Instant::ZERO + 2 * KEEP));
}

#[test]
fn leaving_twice_does_not_make_it_later() {
    let mut leases = leases();
    leases.ask(false, "a:1", &shards(1)).unwrap();
    leases.leave(Instant::ZERO, "a:1");
    leases.leave(Instant::ZERO + KEEP / 2, "a:1");
    assert_eq!(leases.next_end(), Some(Instant::ZERO + KEEP));
}

#[test]
fn blocks_never_used_come_first_then_the_longest_free() {
    let mut leases = leases();
    for (address, first) in [("a:1", 0), ("b:1", 3), ("c:1", 6)] {
        assert_eq!(leases.ask(false, address, &shards(3)), leased(first, 3));
    }
    for address in ["b:1", "a:1"] {
        leases.leave(Instant::ZERO, address);
        leases.expire(Instant::ZERO + KEEP);
    }
    assert_eq!(leases.ask(false, "d:1", &shards(1)), leased(9, 1));
    assert_eq!(leases.ask(false, "e:1", &shards(2)), leased(3, 2));
    assert_eq!(leases.ask(false, "f:1", &shards(2)), leased(0, 2));
}

#[test]
fn another_number_of_shards_gets_another_block() {
    let mut leases = leases();
    assert_eq!(leases.ask(false, "a:1", &shards(2)), leased(0, 2));
    assert_eq!(leases.ask(false, "a:1", &shards(3)), leased(2, 3));
    assert_eq!(leases.iter().count(), 1);
}

#[test]
fn a_quiet_register_honours_claims_and_gives_nothing_new() {
    let mut leases = leases();
    assert_eq!(leases.ask(true, "a:1", &shards(1)), Ok(Answer::Later));
    assert_eq!(leases.ask(true, "b:1", &claim(1, 0)), leased(0, 1));
    assert_eq!(leases.ask(true, "b:1", &shards(1)), leased(0, 1));
    assert_eq!(leases.ask(false, "a:1", &shards(1)), leased(1, 1));
}

#[test]
fn claims_may_lie_outside_what_the_register_leases() {
    let mut leases = leases();
    assert_eq!(leases.ask(false, "a:1", &claim(2, 1000)), leased(1000, 2));
    assert_eq!(leases.ask(false, "a:1", &shards(2)), leased(1000, 2));
}

#[test]
fn a_claim_replaces_the_lease_of_the_same_address() {
    let mut leases = leases();
    assert_eq!(leases.ask(false, "a:1", &shards(2)), leased(0, 2));
    assert_eq!(leases.ask(false, "a:1", &claim(2, 1)), leased(1, 2));
    assert_eq!(leases.iter().count(), 1);
}

#[test]
fn a_claim_on_anothers_block_is_refused_with_both_names() {
    for first in 2..=5 {
        let mut leases = leases();
        leases.ask(false, "a:1", &claim(2, 4)).unwrap();
        let answer = leases.ask(false, "b:1", &claim(3, first));
        let reason = answer.unwrap_err().to_string();
        assert!(reason.contains("a:1 (proc_ids 4–5)"), "{reason}");
        assert!(reason.contains(&alloc::format!("proc_ids {first}–{}, which b:1", first + 2)));
    }
    for first in [1, 6] {
        let mut leases = leases();
        leases.ask(false, "a:1", &claim(2, 4)).unwrap();
        assert_eq!(leases.ask(false, "b:1", &claim(3, first)), leased(first, 3));
    }
}

#[test]
fn another_split_of_connection_ids_is_refused_while_the_cluster_runs() {
    let other = Wanted { number_bits: 24, ..shards(1) };
    let mut leases = leases();
    leases.ask(false, "a:1", &shards(1)).unwrap();
    let refusal = leases.ask(false, "b:1", &other).unwrap_err();
    assert_eq!(refusal, Refusal::NumberBits { wanted: 24, cluster: 22 });
    assert!(refusal.to_string().contains("set it to 22"));
    leases.leave(Instant::ZERO, "a:1");
    let block = Block { first_proc_id: 1, shards: 1, number_bits: 24 };
    assert_eq!(leases.ask(false, "b:1", &other), Ok(Answer::Leased(block)));
    assert_eq!(leases.iter().count(), 1);
}

#[test]
fn a_split_without_room_for_the_range_limits_it() {
    let mut leases = Leases::new(254..=1023, KEEP);
    let wanted = Wanted { shards: 2, number_bits: 24, first_proc_id: None };
    assert!(matches!(leases.ask(false, "a:1", &wanted), Ok(Answer::Leased(_))));
    assert!(matches!(leases.ask(false, "b:1", &wanted), Err(Refusal::Full { .. })));
    let mut leases = Leases::new(300..=1023, KEEP);
    assert!(matches!(leases.ask(false, "a:1", &wanted), Err(Refusal::Full { .. })));
}

#[test]
fn the_last_proc_id_of_all_can_be_leased() {
    let mut leases = Leases::new(0..=u16::MAX, KEEP);
    let wanted = |first| Wanted { shards: 1, number_bits: 16, first_proc_id: first };
    assert!(leases.ask(false, "a:1", &wanted(Some(u16::MAX))).is_ok());
    assert!(leases.ask(false, "b:1", &wanted(None)).is_ok());
}

#[test]
fn a_full_register_says_what_to_do() {
    let mut leases = leases();
    leases.ask(false, "a:1", &shards(9)).unwrap();
    let reason = leases.ask(false, "b:1", &shards(2)).unwrap_err().to_string();
    for part in ["no 2 proc_ids in a row are free among 0–9", "1 gateways", "[register] proc_ids"]
    {
        assert!(reason.contains(part), "{reason}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask { quiet: bool, address: u8, shards: u16, claim: Option<u16> },
    Leave { address: u8 },
    Hold { address: u8 },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let address = 0..6_u8;
    prop_oneof![
        4 => (prop::bool::weighted(0.1), address.clone(), 1..4_u16, prop::option::weighted(0.2, 0..12_u16))
            .prop_map(|(quiet, address, shards, claim)| Step::Ask { quiet, address, shards, claim }),
        3 => address.clone().prop_map(|address| Step::Leave { address }),
        1 => address.prop_map(|address| Step::Hold { address }),
        2 => (0..200_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What a reader of the rules would write without a thought for speed.
#[derive(Default)]
struct Model {
    leases: BTreeMap<Box<str>, (u16, u16, Option<Instant>)>,
    given_back: BTreeMap<u16, usize>,
    count: usize,
}

impl Model {
    fn ask(&mut self, quiet: bool, address: &str, shards: u16, claim: Option<u16>) -> Option<u16> {
        let free = |first: u16, model: &Self| {
            model.leases.iter().all(|(other, (at, count, _))| {
                **other == *address || first + shards <= *at || at + count <= first
            })
        };
        let first = match (claim, self.leases.get(address)) {
            (Some(claim), _) => free(claim, self).then_some(claim)?,
            (None, Some((first, count, _))) if *count == shards => *first,
            (None, _) if quiet => return None,
            (None, _) => {
                self.give_back(address);
                let oldest = |first: &u16| {
                    (*first..first + shards).map(|id| self.given_back.get(&id)).max().flatten()
                };
                (0..=10 - shards).filter(|first| free(*first, self)).min_by_key(oldest)?
            }
        };
        if self.leases.get(address).is_some_and(|lease| lease.0 != first || claim.is_some()) {
            self.give_back(address);
        }
        self.leases.insert(address.into(), (first, shards, None));
        Some(first)
    }

    fn give_back(&mut self, address: &str) {
        if let Some((first, shards, _)) = self.leases.remove(address) {
            self.count += 1;
            self.given_back.extend((first..first + shards).map(|id| (id, self.count)));
        }
    }

    fn expire(&mut self, now: Instant) {
        let mut over: Vec<(u16, Box<str>)> = Vec::new();
        for (address, (first, _, ends_at)) in &self.leases {
            if ends_at.is_some_and(|ends_at| ends_at <= now) {
                over.push((*first, address.clone()));
            }
        }
        over.sort();
        over.iter().for_each(|(_, address)| self.give_back(address));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_gateways_ever_own_one_proc_id(steps in prop::collection::vec(step(), 0..80)) {
        let (mut leases, mut model, mut now) = (leases(), Model::default(), Instant::ZERO);
        for step in steps {
            match step {
                Step::Ask { quiet, address, shards, claim } => {
                    let address = alloc::format!("{address}:1");
                    let wanted = Wanted { shards, number_bits: 22, first_proc_id: claim };
                    let given = match leases.ask(quiet, &address, &wanted) {
                        Ok(Answer::Leased(block)) => {
                            prop_assert_eq!(block.shards, shards);
                            Some(block.first_proc_id)
                        }
                        Ok(Answer::Later) => {
                            prop_assert!(quiet);
                            None
                        }
                        Err(_) => None,
                    };
                    prop_assert_eq!(given, model.ask(quiet, &address, shards, claim));
                }
                Step::Leave { address } => {
                    let address = alloc::format!("{address}:1");
                    leases.leave(now, &address);
                    if let Some((_, _, ends_at)) = model.leases.get_mut(&*address) {
                        ends_at.get_or_insert(now + KEEP);
                    }
                }
                Step::Hold { address } => {
                    let address = alloc::format!("{address}:1");
                    leases.hold(&address);
                    if let Some((_, _, ends_at)) = model.leases.get_mut(&*address) {
                        *ends_at = None;
                    }
                }
                Step::Wait { seconds } => {
                    now = now + Duration::from_secs(seconds);
                    leases.expire(now);
                    model.expire(now);
                }
            }
            let owned: Vec<Lease> = leases.iter().cloned().collect();
            for pair in owned.windows(2) {
                prop_assert!(pair[0].block.end() <= u32::from(pair[1].block.first_proc_id));
            }
            let known = owned.into_iter().map(|lease| {
                (lease.address, (lease.block.first_proc_id, lease.block.shards, lease.ends_at))
            });
            prop_assert_eq!(known.collect::<BTreeMap<_, _>>(), model.leases.clone());
        }
    }
}

fn leases() -> Leases {
    Leases::new(0..=9, KEEP)
}

fn shards(shards: u16) -> Wanted {
    Wanted { shards, number_bits: 22, first_proc_id: None }
}

fn claim(count: u16, first_proc_id: u16) -> Wanted {
    Wanted { first_proc_id: Some(first_proc_id), ..shards(count) }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer")]
fn leased(first_proc_id: u16, shards: u16) -> Result<Answer, Refusal> {
    Ok(Answer::Leased(Block { first_proc_id, shards, number_bits: 22 }))
}

const KEEP: Duration = Duration::from_secs(300);
