//! Questions: asked where the answer can be, answered in order, in one, in time.

use alloc::vec;

use super::brief::*;
use super::harness::{Bed, client, config};

#[test]
fn counts_of_homes_add_up_to_one_answer() {
    let mut bed = Bed::new(config());
    let (one, two, elsewhere) = (bed.home_gateway(1), bed.home_gateway(2), bed.gateway(3));
    let asker = bed.connect();
    bed.command(asker, Command::GetClientCountByGroup, 0, "", "");
    assert!(bed.commands(elsewhere).is_empty());
    bed.reply(two, &Partial::Counts(vec![4]));
    assert!(bed.replies(asker).is_empty());
    bed.reply(one, &Partial::Counts(vec![3]));
    assert_eq!(bed.replies(asker), ["i:7;"]);
}

#[test]
fn answers_come_in_the_order_of_the_questions() {
    let mut bed = Bed::new(config());
    let (one, two) = (bed.home_gateway(1), bed.home_gateway(2));
    let asker = bed.connect();
    bed.command(asker, Command::IsOnline, client(1, 1), "", "");
    bed.command(asker, Command::IsOnline, client(2, 1), "", "");
    bed.command(asker, Command::GetClientIdByUid, 0, "nobody", "");
    bed.reply(two, &Partial::Whole(b"i:1;".to_vec()));
    assert!(bed.replies(asker).is_empty());
    bed.reply(one, &Partial::Whole(b"i:0;".to_vec()));
    assert_eq!(bed.replies(asker), ["i:0;", "i:1;", "a:0:{}"]);
}

#[test]
fn a_question_about_a_name_is_put_to_its_holders_only() {
    let mut bed = Bed::new(config());
    let (one, two) = (bed.home_gateway(1), bed.home_gateway(2));
    bed.names(two, 2, UID, true, "33");
    let asker = bed.connect();
    bed.command(asker, Command::BatchGetClientIdByUid, 0, r#"["x",33]"#, "");
    assert_eq!((bed.commands(one).len(), bed.commands(two).len()), (0, 1));
    bed.reply(two, &Partial::Ids(vec![vec![], vec![9]]));
    assert_eq!(bed.replies(asker), ["a:2:{s:1:\"x\";a:0:{}i:33;a:1:{i:0;i:9;}}"]);
}

#[test]
fn a_question_is_answered_in_time_with_what_arrived() {
    let mut bed = Bed::new(config());
    let (one, two) = (bed.home_gateway(1), bed.home_gateway(2));
    let asker = bed.connect();
    bed.command(asker, Command::GetClientCountByGroup, 0, "", "");
    bed.command(asker, Command::GetSessionByClientId, client(2, 1), "", "");
    bed.reply(one, &Partial::Counts(vec![3]));
    bed.advance(1100);
    assert_eq!(bed.replies(asker), ["i:3;", "N;"]);
    assert_eq!(bed.stats().query_timeouts, 2);
    bed.reply(two, &Partial::Counts(vec![4]));
    bed.command(asker, Command::IsOnline, client(2, 1), "", "");
    bed.reply(two, &Partial::Whole(b"a:0:{}".to_vec()));
    bed.reply(two, &Partial::Whole(b"i:1;".to_vec()));
    assert_eq!(bed.replies(asker), ["i:1;"], "late answers do not shift later ones");
}

#[test]
fn a_gateway_that_is_lost_is_waited_for_no_longer() {
    let mut bed = Bed::new(config());
    let (one, two) = (bed.home_gateway(1), bed.home_gateway(2));
    let asker = bed.connect();
    bed.command(asker, Command::GetClientCountByGroup, 0, "", "");
    bed.command(asker, Command::IsOnline, client(2, 1), "", "");
    bed.reply(one, &Partial::Counts(vec![3]));
    bed.lose(two);
    assert_eq!(bed.replies(asker), ["i:3;", "i:0;"]);
    bed.command(asker, Command::IsOnline, client(2, 1), "", "");
    assert_eq!(bed.replies(asker), ["i:0;"], "nobody has this client");
}

#[test]
fn what_cannot_be_understood_is_answered_with_nothing() {
    let mut bed = Bed::new(config());
    let _home = bed.home_gateway(1);
    let asker = bed.connect();
    bed.command(asker, Command::Select, 0, "no json", "");
    bed.command(asker, Command::BatchGetClientIdByUid, 0, "{", "");
    assert_eq!(bed.replies(asker), ["a:0:{}", "a:0:{}"]);
}

#[test]
fn who_asks_too_much_at_once_is_read_no_further_until_answered() {
    let mut config = config();
    config.pending_queries_max = 2;
    let mut bed = Bed::new(config);
    let gateway = bed.home_gateway(1);
    let asker = bed.connect();
    for _ in 0..4 {
        bed.command(asker, Command::IsOnline, client(1, 1), "", "");
    }
    assert_eq!(bed.commands(gateway).len(), 2);
    bed.reply(gateway, &Partial::Whole(b"i:1;".to_vec()));
    bed.reply(gateway, &Partial::Whole(b"i:1;".to_vec()));
    assert_eq!((bed.replies(asker).len(), bed.commands(gateway).len()), (2, 2));
}
