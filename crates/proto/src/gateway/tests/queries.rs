//! Replies, byte for byte as PHP serializes them.

use alloc::format;
use alloc::vec::Vec;

use super::harness::{Bed, Worker, config, frame};
use crate::wire::header::{Command, FLAG_SCALAR};

/// Three clients with sessions, uids and groups on one shard, and an outside client.
fn scene() -> (Bed, Worker) {
    let mut bed = Bed::new(config());
    let worker = bed.worker(0, "w:0");
    for _ in 0..3 {
        bed.client(0);
    }
    bed.command(&worker, Command::SetSession, 1, "a:1:{s:1:\"k\";i:1;}", "");
    for (id, uid) in [(1, "u"), (2, "u"), (3, "33")] {
        bed.command(&worker, Command::BindUid, id, uid, "");
    }
    for (id, group) in [(2, "g"), (1, "g"), (1, "42")] {
        bed.command(&worker, Command::JoinGroup, id, group, "");
    }
    let link = bed.link(0);
    (bed, link)
}

#[test]
fn every_query_answers_in_phps_bytes() {
    let (mut bed, link) = scene();
    for (command, id, ext, reply) in [
        (Command::IsOnline, 1, "", "i:1;"),
        (Command::IsOnline, 9, "", "i:0;"),
        (Command::GetSessionByClientId, 1, "", "a:1:{s:1:\"k\";i:1;}"),
        (Command::GetSessionByClientId, 2, "", "a:0:{}"),
        (Command::GetSessionByClientId, 9, "", "N;"),
        (
            Command::GetAllClientSessions,
            0,
            "",
            "a:3:{i:1;s:18:\"a:1:{s:1:\"k\";i:1;}\";i:2;s:0:\"\";i:3;s:0:\"\";}",
        ),
        (
            Command::GetClientSessionsByGroup,
            0,
            "g",
            "a:2:{i:2;s:0:\"\";i:1;s:18:\"a:1:{s:1:\"k\";i:1;}\";}",
        ),
        (Command::GetClientSessionsByGroup, 0, "none", "a:0:{}"),
        (Command::GetClientCountByGroup, 0, "", "i:3;"),
        (Command::GetClientCountByGroup, 0, "g", "i:2;"),
        (Command::GetClientCountByGroup, 0, "none", "i:0;"),
        (Command::GetClientIdByUid, 0, "u", "a:2:{i:0;i:1;i:1;i:2;}"),
        (Command::GetClientIdByUid, 0, "none", "a:0:{}"),
        (
            Command::BatchGetClientIdByUid,
            0,
            "[\"u\",33,\"none\"]",
            "a:3:{s:1:\"u\";a:2:{i:0;i:1;i:1;i:2;}i:33;a:1:{i:0;i:3;}s:4:\"none\";a:0:{}}",
        ),
        (
            Command::BatchGetClientCountByGroup,
            0,
            "[\"g\",\"42\",\"none\"]",
            "a:3:{s:1:\"g\";i:2;i:42;i:1;s:4:\"none\";i:0;}",
        ),
        (Command::GetGroupIdList, 0, "", "a:2:{i:0;s:1:\"g\";i:1;i:42;}"),
        (
            Command::Select,
            0,
            "{\"fields\":[\"uid\",\"groups\"],\"where\":[]}",
            "a:3:{i:1;a:2:{s:3:\"uid\";s:1:\"u\";s:6:\"groups\";a:2:{s:1:\"g\";s:1:\"g\";i:42;s:2:\"42\";}}\
             i:2;a:2:{s:3:\"uid\";s:1:\"u\";s:6:\"groups\";a:1:{s:1:\"g\";s:1:\"g\";}}\
             i:3;a:2:{s:3:\"uid\";s:2:\"33\";s:6:\"groups\";N;}}",
        ),
        (
            Command::Select,
            0,
            "{\"fields\":[\"session\"],\"where\":{\"groups\":[\"g\"],\"connection_id\":{\"3\":3}}}",
            "a:3:{i:2;a:1:{s:7:\"session\";s:0:\"\";}i:1;a:1:{s:7:\"session\";s:18:\"a:1:{s:1:\"k\";i:1;}\";}\
             i:3;a:1:{s:7:\"session\";s:0:\"\";}}",
        ),
        (Command::Select, 0, "broken", "a:0:{}"),
    ] {
        assert_eq!(bed.ask(&link, command, id, ext), reply, "{command:?} {ext}");
    }
}

#[test]
fn answers_keep_the_order_of_the_questions_though_shards_answer_at_different_times() {
    let mut config = config();
    config.shards = 3;
    let mut bed = Bed::new(config);
    let _worker = bed.worker(1, "w:0");
    for client in 0..6 {
        bed.client(client % 3);
    }
    let link = bed.link(2);
    let mut questions = Vec::new();
    let mut answers: Vec<u8> = Vec::new();
    for _ in 0..20 {
        questions.extend(frame(Command::GetClientCountByGroup, 0, FLAG_SCALAR, "", ""));
        answers.extend(b"\0\0\0\x04i:6;");
        questions.extend(frame(Command::IsOnline, (2 << 22) + 1, FLAG_SCALAR, "", ""));
        answers.extend(b"\0\0\0\x04i:1;");
        questions.extend(frame(Command::IsOnline, 1, FLAG_SCALAR, "", ""));
        answers.extend(b"\0\0\0\x04i:1;");
    }
    bed.shell.send(link.place, &questions);
    assert_eq!(bed.shell.receive(link.place), answers);
}

#[test]
fn a_flood_of_questions_stops_the_reading_of_its_link_and_loses_none() {
    let mut config = config();
    config.shards = 2;
    config.pending_queries_max = 4;
    let mut bed = Bed::new(config);
    let link = bed.link(0);
    let question = frame(Command::GetClientCountByGroup, 0, FLAG_SCALAR, "", "");
    bed.shell.send(link.place, &question.repeat(100));
    assert_eq!(bed.shell.receive(link.place), b"\0\0\0\x04i:0;".repeat(100));
}

#[test]
fn parts_of_several_shards_are_one_answer() {
    let mut config = config();
    config.shards = 2;
    let mut bed = Bed::new(config);
    let worker = bed.worker(0, "w:0");
    for client in 0..4 {
        bed.client(client % 2);
    }
    let far = 1 << 22;
    for id in [1, 2, far + 1, far + 2] {
        bed.command(&worker, Command::BindUid, id, "u", "");
        bed.command(&worker, Command::JoinGroup, id, "7", "");
    }
    let link = bed.link(1);
    assert_eq!(bed.ask(&link, Command::GetGroupIdList, 0, ""), "a:1:{i:0;i:7;}");
    assert_eq!(bed.ask(&link, Command::GetClientCountByGroup, 0, "7"), "i:4;");
    assert_eq!(
        bed.ask(&link, Command::GetClientIdByUid, 0, "u"),
        format!("a:4:{{i:0;i:1;i:1;i:2;i:2;i:{};i:3;i:{};}}", far + 1, far + 2)
    );
}

#[test]
fn a_link_that_does_not_read_its_answers_is_asked_no_more_until_it_does() {
    let mut config = config();
    config.send_to_worker_bytes_max = 100;
    let mut bed = Bed::new(config);
    let link = bed.link(0);
    bed.shell.set_window(link.place, Some(0));
    let question = frame(Command::IsOnline, 1, FLAG_SCALAR, "", "");
    bed.shell.send(link.place, &question.repeat(1000));
    assert_eq!(bed.shell.queued(link.place), 104);
    assert!(!bed.shell.is_read(link.place));
    bed.shell.set_window(link.place, None);
    assert_eq!(bed.shell.receive(link.place), b"\0\0\0\x04i:0;".repeat(1000));
}
