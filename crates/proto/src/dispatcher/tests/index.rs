//! Sends to many go where the receivers are, and nowhere else.

use alloc::vec::Vec;

use tengate_sim::shell::Place;

use super::brief::*;
use super::harness::{Bed, client, config};

/// Which of the gateways got a command, by position.
fn receivers(bed: &mut Bed, gateways: &[Place]) -> Vec<usize> {
    let mut got = Vec::new();
    for (position, gateway) in gateways.iter().enumerate() {
        for _ in bed.commands(*gateway) {
            got.push(position);
        }
    }
    got
}

#[test]
fn a_group_send_among_eight_gateways_costs_one_frame_for_each_that_has_members() {
    let mut bed = Bed::new(config());
    let gateways: Vec<Place> = (1..=8).map(|proc_id| bed.home_gateway(proc_id)).collect();
    bed.names(gateways[2], 3, GROUP, true, "room");
    bed.names(gateways[5], 6, GROUP, true, "room");
    let worker = bed.worker("chat");
    let ext = r#"{"group":["room"],"exclude":null}"#;
    bed.command(worker, Command::SendToGroup, 0, ext, "hi");
    assert_eq!(receivers(&mut bed, &gateways), [2, 5]);
    assert_eq!((bed.stats().frames_to_gateways, bed.stats().frames_spared), (2, 6));
}

#[test]
fn a_gateway_with_several_shards_gets_one_copy() {
    let mut bed = Bed::new(config());
    let gateway = bed.gateway_of(1, 3);
    bed.home(gateway, &[(GROUP, "room")]);
    let worker = bed.worker("chat");
    bed.command(worker, Command::SendToGroup, 0, r#"{"group":["room"]}"#, "hi");
    bed.command(worker, Command::SendToAll, 0, "", "all");
    assert_eq!(bed.commands(gateway).len(), 2);
    bed.names(gateway, 1, GROUP, false, "room");
    bed.names(gateway, 2, GROUP, false, "room");
    bed.command(worker, Command::SendToGroup, 0, r#"{"group":["room"]}"#, "to the third");
    assert_eq!(bed.commands(gateway).len(), 1);
    bed.names(gateway, 3, GROUP, false, "room");
    bed.command(worker, Command::SendToGroup, 0, r#"{"group":["room"]}"#, "to nobody");
    assert!(bed.commands(gateway).is_empty());
}

#[test]
fn uids_are_found_where_they_are_bound_before_the_gateway_has_said_so() {
    let mut bed = Bed::new(config());
    let gateways: Vec<Place> = (1..=3).map(|proc_id| bed.home_gateway(proc_id)).collect();
    let worker = bed.worker("chat");
    bed.command(worker, Command::BindUid, client(2, 1), "ann", "");
    bed.command(worker, Command::SendToUid, 0, r#"["ann"]"#, "hi");
    assert_eq!(receivers(&mut bed, &gateways), [1, 1]);

    // The gateway had no such client: after the fence only its own word counts.
    bed.reply(gateways[1], &Partial::Counts(Vec::new()));
    bed.command(worker, Command::SendToUid, 0, r#"["ann"]"#, "hi");
    assert!(receivers(&mut bed, &gateways).is_empty());
    assert_eq!(bed.stats().uids, 0);
}

#[test]
fn one_fence_is_asked_for_at_a_time_however_much_is_bound() {
    let mut bed = Bed::new(config());
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    for number in 1..=10 {
        bed.command(worker, Command::JoinGroup, client(1, number), "room", "");
    }
    let fences = |bed: &mut Bed| {
        let frames = bed.frames(gateway);
        frames.iter().filter(|got| got.command == Extension::Fence as u8).count()
    };
    assert_eq!(fences(&mut bed), 1);
    bed.names(gateway, 1, GROUP, true, "room");
    bed.reply(gateway, &Partial::Counts(Vec::new()));
    assert_eq!(fences(&mut bed), 1, "for what came after the first");
    bed.reply(gateway, &Partial::Counts(Vec::new()));
    assert_eq!((fences(&mut bed), bed.stats().groups), (0, 1));
}

#[test]
fn a_new_home_may_hold_any_name_until_it_has_told_all() {
    let mut bed = Bed::new(config());
    let other = bed.home_gateway(1);
    let gateway = bed.gateway(2);
    let worker = bed.worker("chat");
    bed.say(gateway, Extension::Home, 0, b"1");
    bed.command(worker, Command::SendToUid, 0, r#"["ann"]"#, "early");
    assert_eq!(receivers(&mut bed, &[other, gateway]), [1]);
    let mut list = 9_u64.to_be_bytes().to_vec();
    crate::wire::extension::NameChange { kind: UID, held: true, name: b"bob" }.encode(&mut list);
    bed.reply(gateway, &Partial::Whole(list));
    let asked = bed.frames(gateway);
    assert_eq!(asked[0].body.as_bytes(), 9_u64.to_be_bytes(), "the list goes on");
    bed.reply(gateway, &Partial::Whole(0_u64.to_be_bytes().to_vec()));
    bed.command(worker, Command::SendToUid, 0, r#"["ann"]"#, "late");
    assert!(receivers(&mut bed, &[other, gateway]).is_empty());
    bed.command(worker, Command::SendToUid, 0, r#"["bob"]"#, "late");
    assert_eq!(receivers(&mut bed, &[other, gateway]), [1]);
}

#[test]
fn sends_to_all_cover_homes_and_lists_of_clients_their_owners() {
    let mut bed = Bed::new(config());
    let (home, elsewhere) = (bed.home_gateway(1), bed.gateway(2));
    let gateways = [home, elsewhere];
    let worker = bed.worker("chat");
    bed.command(worker, Command::SendToAll, 0, "", "all");
    assert_eq!(receivers(&mut bed, &gateways), [0]);
    let id = client(2, 5);
    bed.command(worker, Command::SendToAll, 0, &alloc::format!("{{\"connections\":[{id}]}}"), "");
    assert_eq!(receivers(&mut bed, &gateways), [1]);
    bed.command(worker, Command::SendToOne, id, "", "forwarded");
    assert_eq!((receivers(&mut bed, &gateways), bed.stats().forwarded), ([1].into(), 1));
    bed.command(worker, Command::SendToOne, client(7, 1), "", "nobody's");
    assert_eq!(bed.stats().drop_unknown_gateway, 1);
}

#[test]
fn names_of_a_gateway_that_is_gone_are_forgotten() {
    let mut bed = Bed::new(config());
    let gateway = bed.gateway(1);
    bed.home(gateway, &[(UID, "ann"), (GROUP, "room")]);
    assert_eq!((bed.stats().uids, bed.stats().groups), (1, 1));
    bed.lose(gateway);
    bed.advance(1);
    assert_eq!((bed.stats().uids, bed.stats().groups), (0, 0));
}

#[test]
fn a_gateway_that_does_not_read_stops_those_who_send_to_it() {
    let mut config = config();
    config.send_to_gateway_bytes_max = 100;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let worker = bed.worker("chat");
    bed.shell.set_window(gateway, Some(0));
    for _ in 0..10 {
        bed.command(worker, Command::SendToAll, 0, "", "0123456789");
    }
    assert!(bed.shell.queued(gateway) < 200);
    assert!(!bed.shell.is_read(worker));
    bed.shell.set_window(gateway, None);
    assert!(bed.shell.is_read(worker));
    assert_eq!(bed.commands(gateway).len(), 10, "nothing was lost");
}
