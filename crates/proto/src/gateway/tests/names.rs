//! What the home learns of the uids and groups a gateway holds (docs/protocol.md#extension).

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::prelude::*;

use tengate_base::{CloseCause, ShardId};

use super::harness::{Bed, Worker, dispatched, dispatcher_hello, frame, names};
use crate::query::Partial;
use crate::wire::extension::{Extension, NameList};
use crate::wire::header::{Command, FLAG_SCALAR, InnerFrame};

const D1: &str = "127.0.0.1:3901";
const D2: &str = "127.0.0.1:3902";
const FAR: u32 = 1 << 22;

/// Two shards with two clients each, and a home on the second.
fn scene() -> (Bed, Worker) {
    let mut bed = Bed::new(dispatched(2));
    let mut home = bed.dispatcher(1, D1);
    for shard in [0, 0, 1, 1] {
        bed.client(shard);
    }
    bed.said(&mut home);
    (bed, home)
}

#[test]
fn the_home_hears_of_the_first_client_of_a_name_on_a_shard_and_of_the_last() {
    let (mut bed, mut home) = scene();
    for (command, id, name, hint) in [
        (Command::BindUid, 1, "u", Some("Names 0 +Uid:u".to_string())),
        (Command::BindUid, 2, "u", None),
        (Command::BindUid, FAR + 1, "u", Some(format!("Names {FAR} +Uid:u"))),
        (Command::BindUid, 1, "v", Some("Names 0 +Uid:v".into())),
        (Command::BindUid, 2, "v", Some("Names 0 -Uid:u".into())),
        (Command::UnbindUid, 1, "", None),
        (Command::UnbindUid, 2, "", Some("Names 0 -Uid:v".into())),
        (Command::UnbindUid, 2, "", None),
        (Command::JoinGroup, 1, "g", Some("Names 0 +Group:g".into())),
        (Command::JoinGroup, 1, "g", None),
        (Command::JoinGroup, 2, "g", None),
        (Command::JoinGroup, 1, "h", Some("Names 0 +Group:h".into())),
        (Command::LeaveGroup, 1, "g", None),
        (Command::LeaveGroup, 2, "g", Some("Names 0 -Group:g".into())),
        (Command::LeaveGroup, 2, "g", None),
        (Command::JoinGroup, FAR + 2, "h", Some(format!("Names {FAR} +Group:h"))),
        (Command::JoinGroup, 99, "z", None),
        (Command::BindUid, 1, "", None),
    ] {
        bed.command(&home, command, id, name, "");
        assert_eq!(bed.said(&mut home), hint.into_iter().collect::<Vec<_>>(), "{command:?} {name}");
    }
    bed.command(&home, Command::Ungroup, 0, "h", "");
    let mut hints = bed.said(&mut home);
    hints.sort_unstable();
    assert_eq!(hints, ["Names 0 -Group:h".into(), format!("Names {FAR} -Group:h")]);
    let hinted = bed.stats(0).names_hinted + bed.stats(1).names_hinted;
    assert_eq!(hinted, 11);
}

#[test]
fn a_client_that_leaves_takes_its_names_along_in_one_frame() {
    let (mut bed, mut home) = scene();
    bed.command(&home, Command::BindUid, 1, "u", "");
    for group in ["g", "h", "shared"] {
        bed.command(&home, Command::JoinGroup, 1, group, "");
    }
    bed.command(&home, Command::JoinGroup, 2, "shared", "");
    bed.said(&mut home);
    bed.command(&home, Command::Destroy, 1, "", "");
    assert_eq!(bed.said(&mut home), ["OnClose 1 ", "Names 0 -Uid:u -Group:g -Group:h"]);
}

#[test]
fn names_bound_without_a_home_or_by_others_are_hinted_to_the_home_alone() {
    let mut bed = Bed::new(dispatched(1));
    let outside = bed.worker(0, "Bw:0");
    bed.client(0);
    bed.command(&outside, Command::BindUid, 1, "early", "");
    let mut home = bed.dispatcher(0, D1);
    let mut other = bed.dispatcher(0, D2);
    bed.said(&mut home);
    bed.said(&mut other);
    bed.command(&outside, Command::JoinGroup, 1, "g", "");
    bed.command(&other, Command::JoinGroup, 1, "h", "");
    assert_eq!(bed.said(&mut home), ["Names 0 +Group:g", "Names 0 +Group:h"]);
    assert_eq!(bed.said(&mut other), [""; 0]);
    bed.extend(&home, Extension::ListNames, 0, &[0; 8]);
    assert_eq!(bed.said(&mut home), ["List +Uid:early +Group:g +Group:h"]);
    // And then the other one is the home.
    bed.lose(&home);
    bed.command(&outside, Command::UnbindUid, 1, "", "");
    assert_eq!(bed.said(&mut other), ["Home 1", "Names 0 -Uid:early"]);
    assert_eq!(bed.stats(0).names_hinted, 3);
}

#[test]
fn no_names_come_before_the_word_that_makes_a_home() {
    let [directory, fast, linked] = [0, 1, 2].map(ShardId);
    let mut bed = Bed::new(dispatched(3));
    let outside = bed.worker(1, "Bw:0");
    bed.client(1);
    let mut home = bed.link(2);
    let hello = frame(Command::WorkerConnect, 0, FLAG_SCALAR, "", &dispatcher_hello(D1));
    bed.shell.give(home.place, &hello);
    bed.shell.step(linked);
    bed.shell.cross(linked, directory);
    bed.shell.step(directory);
    // One shard knows of the home before the link's own does.
    bed.shell.cross(directory, fast);
    bed.shell.give(outside.place, &frame(Command::BindUid, FAR + 1, FLAG_SCALAR, "early", ""));
    bed.shell.step(fast);
    bed.shell.cross(fast, linked);
    bed.shell.cross(directory, linked);
    bed.command(&outside, Command::JoinGroup, FAR + 1, "late", "");
    let said = bed.said(&mut home);
    let said: Vec<&str> = said.iter().map(|line| line.split('{').next().unwrap()).collect();
    let id = FAR + 1;
    let expected = [
        "Welcome ".into(),
        format!("OnConnect {id} "),
        "Home 1".into(),
        format!("Names {FAR} +Group:late"),
    ];
    assert_eq!(said, expected);
    bed.extend(&home, Extension::ListNames, FAR, &[0; 8]);
    assert_eq!(bed.said(&mut home), ["List +Uid:early +Group:late"]);
}

#[test]
fn a_fence_is_answered_after_the_names_that_earlier_commands_changed() {
    let (mut bed, mut home) = scene();
    for id in [1, FAR + 1, 2, FAR + 2] {
        bed.command(&home, Command::BindUid, id, &format!("u{id}"), "");
        bed.extend(&home, Extension::Fence, 0, b"");
        let shard = id & FAR;
        assert_eq!(bed.said(&mut home), [format!("Names {shard} +Uid:u{id}"), "Counts([])".into()]);
    }
    assert_eq!(bed.stats(1).queries, 4);
}

/// Asks one shard for all its names, part by part.
fn list(bed: &mut Bed, link: &Worker, shard: u32) -> Vec<String> {
    let mut parts = Vec::new();
    let mut cursor = 0_u64;
    loop {
        bed.extend(link, Extension::ListNames, shard, &cursor.to_be_bytes());
        let bytes = bed.shell.receive(link.place);
        let (frame, len) = InnerFrame::decode(&bytes, usize::MAX).unwrap().unwrap();
        assert_eq!((frame.header.command, len), (Extension::Reply as u8, bytes.len()));
        let Some(Partial::Whole(answer)) = Partial::decode(frame.body) else { panic!("a list") };
        let part = NameList::decode(&answer).unwrap();
        assert!(part.names.len() <= 64 << 10 || names(part.names).matches(':').count() == 1);
        parts.push(names(part.names));
        cursor = part.next;
        if cursor == 0 {
            return parts;
        }
    }
}

#[test]
fn names_are_listed_in_parts_each_once_and_without_those_that_are_gone() {
    let mut bed = Bed::new(dispatched(2));
    let home = bed.dispatcher(0, D1);
    let mut expected = Vec::new();
    for number in 1..=300 {
        bed.client(1);
        let (uid, group) = (format!("{number:0>600}"), format!("g{number:0>600}"));
        bed.command(&home, Command::BindUid, FAR + number, &uid, "");
        bed.command(&home, Command::JoinGroup, FAR + number, &group, "");
        if number % 3 == 0 {
            bed.command(&home, Command::UnbindUid, FAR + number, "", "");
            bed.command(&home, Command::LeaveGroup, FAR + number, &group, "");
        } else {
            expected.extend([format!(" +Uid:{uid}"), format!(" +Group:{group}")]);
        }
    }
    let huge = "x".repeat(100_000);
    bed.command(&home, Command::JoinGroup, FAR + 1, &huge, "");
    bed.shell.receive(home.place);
    expected.push(format!(" +Group:{huge}"));
    let parts = list(&mut bed, &home, FAR);
    assert!(parts.len() > 4, "{}", parts.len());
    let all = parts.concat();
    let mut found: Vec<String> = all.split(" +").skip(1).map(|name| format!(" +{name}")).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert_eq!(list(&mut bed, &home, 0), [""], "the other shard has none");
}

#[test]
fn a_cursor_beyond_the_end_is_answered_with_nothing() {
    let (mut bed, mut home) = scene();
    bed.command(&home, Command::BindUid, 1, "u", "");
    bed.said(&mut home);
    for cursor in [7, (1 << 32) | 3, u64::MAX] {
        bed.extend(&home, Extension::ListNames, 0, &cursor.to_be_bytes());
        assert_eq!(bed.said(&mut home), ["List"]);
    }
    bed.extend(&home, Extension::ListNames, 0, b"");
    assert_eq!(bed.said(&mut home), ["List +Uid:u"], "no cursor is the beginning");
}

/// The names of a shard, as the home has put them together.
type Index = [BTreeSet<String>; 2];

fn follow(bed: &mut Bed, home: &mut Worker, index: &mut Index) {
    for line in bed.said(home) {
        let mut words = line.split(' ');
        if words.next() != Some("Names") {
            continue;
        }
        let shard: u32 = words.next().unwrap().parse().unwrap();
        let shard = &mut index[(shard / FAR) as usize];
        for change in words {
            let (sign, name) = change.split_at(1);
            assert!(
                if sign == "+" { shard.insert(name.into()) } else { shard.remove(name) },
                "{change}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_home_that_follows_the_hints_holds_what_the_shards_hold(
        steps in prop::collection::vec((0_u8..8, 0_u32..6, 0_u8..3), 1..80),
    ) {
        let mut bed = Bed::new(dispatched(2));
        let mut home = bed.dispatcher(0, D1);
        let mut clients: Vec<_> = (0..6).map(|at| (bed.client(at % 2), at % 2)).collect();
        let mut ids: Vec<u32> = (0..6).map(|at| (at % 2) * FAR + at / 2 + 1).collect();
        let mut next = [4, FAR + 4];
        let mut index = Index::default();
        for (step, client, name) in steps {
            let (id, name) = (ids[client as usize], name.to_string());
            match step {
                0 | 1 => bed.command(&home, Command::BindUid, id, &format!("u{name}"), ""),
                2 => bed.command(&home, Command::UnbindUid, id, "", ""),
                3 | 4 => bed.command(&home, Command::JoinGroup, id, &format!("g{name}"), ""),
                5 => bed.command(&home, Command::LeaveGroup, id, &format!("g{name}"), ""),
                6 => bed.command(&home, Command::Ungroup, 0, &format!("g{name}"), ""),
                _ => {
                    let (old, shard) = clients[client as usize];
                    bed.shell.close(old.place, CloseCause::Reset);
                    clients[client as usize].0 = bed.client(shard);
                    ids[client as usize] = next[usize::from(shard)];
                    next[usize::from(shard)] += 1;
                }
            }
            follow(&mut bed, &mut home, &mut index);
        }
        for (shard, held) in (0..).zip(&index) {
            let listed = list(&mut bed, &home, shard * FAR).concat();
            let listed: BTreeSet<String> =
                listed.split(" +").skip(1).map(Into::into).collect();
            prop_assert_eq!(&listed, held);
        }
    }
}
