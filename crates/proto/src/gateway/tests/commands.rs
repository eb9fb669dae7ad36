//! What workers' commands do to clients, on one shard and on several.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::harness::{Bed, Client, Worker, config, frame};
use crate::wire::header::{Command, FLAG_RAW, FLAG_SCALAR};

/// Four clients spread over the shards, their ids, and a link.
fn scene(shards: u16) -> (Bed, Worker, Vec<Client>, Vec<u32>) {
    let mut config = config();
    config.shards = shards;
    let mut bed = Bed::new(config);
    let mut worker = bed.worker(shards - 1, "w:0");
    let clients: Vec<Client> = (0..4).map(|client| bed.client(client % shards)).collect();
    let ids = bed.events(&mut worker).iter().map(|event| event.id).collect();
    (bed, worker, clients, ids)
}

fn heard(bed: &mut Bed, clients: &[Client]) -> Vec<String> {
    clients.iter().map(|client| bed.heard(*client)).collect()
}

#[test]
fn a_broadcast_reaches_all_some_or_all_but_some() {
    for shards in [1, 3] {
        let (mut bed, worker, clients, ids) = scene(shards);
        bed.command(&worker, Command::SendToAll, 0, "", "all");
        assert_eq!(heard(&mut bed, &clients), ["all\n", "all\n", "all\n", "all\n"]);
        let only = format!("{{\"connections\":{{\"{0}\":{0},\"{1}\":{1}}}}}", ids[0], ids[2]);
        bed.command(&worker, Command::SendToAll, 0, &only, "some");
        assert_eq!(heard(&mut bed, &clients), ["some\n", "", "some\n", ""]);
        let except = format!("{{\"exclude\":{{\"{0}\":{0}}}}}", ids[1]);
        bed.command(&worker, Command::SendToAll, 0, &except, "most");
        assert_eq!(heard(&mut bed, &clients), ["most\n", "", "most\n", "most\n"]);
    }
}

#[test]
fn uids_reach_every_client_bound_to_them_and_move_with_a_new_binding() {
    for shards in [1, 3] {
        let (mut bed, worker, clients, ids) = scene(shards);
        for (id, uid) in ids.iter().zip(["u", "u", "33", "v"]) {
            bed.command(&worker, Command::BindUid, *id, uid, "");
        }
        bed.command(&worker, Command::SendToUid, 0, "[\"u\",33]", "hi");
        assert_eq!(heard(&mut bed, &clients), ["hi\n", "hi\n", "hi\n", ""]);
        bed.command(&worker, Command::BindUid, ids[1], "v", "");
        bed.command(&worker, Command::UnbindUid, ids[3], "whatever", "");
        bed.command(&worker, Command::BindUid, ids[0], "0", "");
        bed.command(&worker, Command::SendToUid, 0, "[\"v\"]", "v");
        assert_eq!(heard(&mut bed, &clients), ["", "v\n", "", ""]);
    }
}

#[test]
fn groups_reach_their_members_once_for_each_group_named() {
    for shards in [1, 3] {
        let (mut bed, worker, clients, ids) = scene(shards);
        for (id, group) in [(0, "g"), (1, "g"), (2, "g"), (0, "42"), (3, "42")] {
            bed.command(&worker, Command::JoinGroup, ids[id], group, "");
        }
        bed.command(
            &worker,
            Command::SendToGroup,
            0,
            "{\"group\":[\"g\",42],\"exclude\":null}",
            "x",
        );
        assert_eq!(heard(&mut bed, &clients), ["x\nx\n", "x\n", "x\n", "x\n"]);
        let except = format!("{{\"group\":[\"g\"],\"exclude\":{{\"{0}\":{0}}}}}", ids[1]);
        bed.command(&worker, Command::SendToGroup, 0, &except, "y");
        assert_eq!(heard(&mut bed, &clients), ["y\n", "", "y\n", ""]);
        bed.command(&worker, Command::LeaveGroup, ids[0], "g", "");
        bed.command(&worker, Command::Ungroup, 0, "42", "");
        bed.command(
            &worker,
            Command::SendToGroup,
            0,
            "{\"group\":[\"g\",\"42\"],\"exclude\":null}",
            "z",
        );
        assert_eq!(heard(&mut bed, &clients), ["", "z\n", "z\n", ""]);
    }
}

#[test]
fn a_kick_delivers_its_last_message_and_a_destroy_does_not_wait() {
    for shards in [1, 3] {
        let (mut bed, mut worker, clients, ids) = scene(shards);
        bed.command(&worker, Command::Kick, ids[0], "", "bye");
        bed.shell.send(worker.place, &frame(Command::Kick, ids[1], 0, "", "N;"));
        bed.command(&worker, Command::Destroy, ids[2], "", "");
        assert_eq!(heard(&mut bed, &clients), ["bye\n", "", "", ""]);
        let open: Vec<bool> =
            clients.iter().map(|client| bed.shell.is_open(client.place)).collect();
        assert_eq!(open, [false, false, false, true]);
        let told = bed.told(&mut worker);
        for id in &ids[..3] {
            assert!(told.contains(&format!("OnClose {id} ")), "{told:?}");
        }
    }
}

#[test]
fn a_kicked_client_is_gone_for_the_very_next_query() {
    let (mut bed, worker, _, ids) = scene(1);
    let mut batch = frame(Command::Kick, ids[0], FLAG_SCALAR, "", "bye");
    batch.extend(frame(Command::IsOnline, ids[0], FLAG_SCALAR, "", ""));
    let link = bed.link(0);
    bed.shell.send(link.place, &batch);
    assert_eq!(bed.shell.receive(link.place), b"\0\0\0\x04i:0;");
    drop(worker);
}

#[test]
fn raw_messages_are_not_framed_for_the_client() {
    let (mut bed, worker, clients, ids) = scene(1);
    bed.shell
        .send(worker.place, &frame(Command::SendToOne, ids[0], FLAG_SCALAR | FLAG_RAW, "", "raw"));
    bed.shell.send(worker.place, &frame(Command::SendToAll, 0, FLAG_SCALAR | FLAG_RAW, "", "!"));
    assert_eq!(heard(&mut bed, &clients), ["raw!", "!", "!", "!"]);
}

#[test]
fn sessions_are_stored_merged_and_sent_with_every_event() {
    for shards in [1, 3] {
        let (mut bed, mut worker, clients, ids) = scene(shards);
        let set = "a:2:{s:4:\"name\";s:3:\"ann\";s:1:\"n\";a:1:{i:0;i:1;}}";
        bed.command(&worker, Command::SetSession, ids[0], set, "");
        bed.say(clients[0], "a");
        assert_eq!(bed.events(&mut worker)[0].session, set);
        bed.command(&worker, Command::UpdateSession, ids[0], "a:1:{s:1:\"n\";a:1:{i:1;b:1;}}", "");
        // An update that is no array, or an object, changes nothing.
        bed.command(&worker, Command::UpdateSession, ids[0], "i:5;", "");
        bed.command(&worker, Command::UpdateSession, ids[0], "a:1:{i:0;O:1:\"X\":0:{}}", "");
        bed.say(clients[0], "b");
        assert_eq!(
            bed.events(&mut worker)[0].session,
            "a:2:{s:4:\"name\";s:3:\"ann\";s:1:\"n\";a:2:{i:0;i:1;i:1;b:1;}}"
        );
        bed.command(&worker, Command::UpdateSession, ids[1], "kept as it is", "");
        bed.say(clients[1], "c");
        assert_eq!(bed.events(&mut worker)[0].session, "kept as it is");
    }
}

#[test]
fn commands_for_clients_that_are_not_there_do_nothing() {
    let (mut bed, worker, clients, _) = scene(2);
    for id in [0, 77, 0x00c0_0001, u32::MAX] {
        for command in [
            Command::SendToOne,
            Command::Kick,
            Command::Destroy,
            Command::BindUid,
            Command::JoinGroup,
        ] {
            bed.command(&worker, command, id, "x", "x");
        }
    }
    assert_eq!(heard(&mut bed, &clients), ["", "", "", ""]);
    assert!(clients.iter().all(|client| bed.shell.is_open(client.place)));
    assert_eq!(bed.stats(0).groups + bed.stats(1).groups, 0);
}
