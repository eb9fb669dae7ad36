//! Extra data against what PHP's gateway makes of it.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::secret::SecretKey;

#[test]
fn send_to_all_is_for_all_when_it_names_nobody() {
    for ext in
        ["", "0", "{}", "[]", r#"{"connections":null}"#, r#"{"exclude":null}"#, r#"{"exclude":[]}"#]
    {
        assert_eq!(SendToAll::decode(ext.as_bytes()), Ok(SendToAll::All), "{ext}");
    }
}

#[test]
fn connections_are_named_by_value() {
    for (ext, ids) in [
        (r#"{"connections":{"5":5,"7":7}}"#, vec![5, 7]),
        (r#"{"connections":[7,5,7]}"#, vec![7, 5, 7]),
        (r#"{"connections":{"1":"9","2":4.0,"3":true}}"#, vec![9, 4, 1]),
        // No client has these.
        (r#"{"connections":["x","07",-1,4294967296,null]}"#, vec![]),
        (r#"{"connections":[],"exclude":{"5":5}}"#, vec![]),
    ] {
        assert_eq!(SendToAll::decode(ext.as_bytes()), Ok(SendToAll::Only(ids)), "{ext}");
    }
}

#[test]
fn excluded_clients_are_named_by_key() {
    for (ext, ids) in [
        (r#"{"exclude":{"7":7,"5":5}}"#, vec![5, 7]),
        (r#"{"exclude":{"7":1,"5":false}}"#, vec![5, 7]),
        (r#"{"exclude":{"7":null,"5":5,"x":1,"05":1}}"#, vec![5]),
        // The positions of a list are its keys, as unfortunate as that is.
        (r#"{"exclude":[90,91,null,93]}"#, vec![0, 1, 3]),
    ] {
        let expected = SendToAll::Except(ids.into_iter().collect());
        assert_eq!(SendToAll::decode(ext.as_bytes()), Ok(expected), "{ext}");
    }
}

#[test]
fn data_of_another_shape_names_the_fault() {
    for ext in [
        r#"{"connections":5}"#,
        r#"{"exclude":"5"}"#,
        r#"{"connections":[[1]]}"#,
        "[[5]]",
        "5",
        "\"a\"",
    ] {
        assert_eq!(SendToAll::decode(ext.as_bytes()), Err(ExtError::Shape), "{ext}");
    }
    for ext in [r#"{"connections":[5]"#, "{", "x", "{}x", "\"\\ud800\"", "{\"a\":\"\u{1}\"}"] {
        assert_eq!(SendToAll::decode(ext.as_bytes()), Err(ExtError::Syntax), "{ext}");
    }
    for ext in [r#"{"exclude":null}"#, r#"{"group":"a","exclude":null}"#, r#"[["a"],null]"#] {
        assert_eq!(SendToGroup::decode(ext.as_bytes()), Err(ExtError::Shape), "{ext}");
    }
}

#[test]
fn a_number_and_its_digits_are_one_name() {
    let names = decode_names(br#"[42,"42",-7,"-7","042",4.9,true,null,"a\/b"]"#).unwrap();
    let texts: Vec<&str> = names.iter().map(Name::as_str).collect();
    assert_eq!(texts, ["42", "42", "-7", "-7", "042", "4", "1", "", "a/b"]);
    assert_eq!(names[0], names[1]);
    assert_eq!(decode_names(br#"{"0":"a","2":"b"}"#), decode_names(br#"["a","b"]"#));
}

#[test]
fn a_batch_names_each_once() {
    let names = decode_batch(br#"["b",42,"a","42","b"]"#).unwrap();
    assert_eq!(names, [Name::from("b"), Name::from(42), Name::from("a")]);
}

#[test]
fn numbers_beyond_phps_integers_are_refused_as_names() {
    for ext in ["[9223372036854775808]", "[1e19]", "[-1e300]"] {
        assert_eq!(decode_names(ext.as_bytes()), Err(ExtError::Shape), "{ext}");
    }
    let names = decode_names(b"[9223372036854775807,-9223372036854775808]").unwrap();
    assert_eq!(names[0].as_str(), "9223372036854775807");
    assert_eq!(names[1].as_str(), "-9223372036854775808");
}

#[test]
fn group_sends_name_groups_and_those_left_out() {
    let send = SendToGroup::decode(br#"{"group":["a",7],"exclude":{"3":3}}"#).unwrap();
    assert_eq!(send.groups, [Name::from("a"), Name::from("7")]);
    assert!(send.exclude.contains(3) && !send.exclude.contains(7));
    let send = SendToGroup::decode(br#"{"group":["a"],"exclude":null}"#).unwrap();
    assert!(send.exclude.is_empty());
}

#[test]
fn a_selection_keeps_its_order() {
    let ext = br#"{"fields":["uid","x","session","uid","groups"],"where":{"groups":["g"],"connection_id":{"3":3},"uid":[1]}}"#;
    let select = Select::decode(ext).unwrap();
    let fields: Vec<&str> = select.fields.iter().map(Field::name).collect();
    assert_eq!(fields, ["uid", "x", "session", "groups"]);
    let conditions = select.conditions.unwrap();
    assert_eq!(
        conditions,
        [
            Condition::Groups(vec![Name::from("g")]),
            Condition::ConnectionId(vec![3]),
            Condition::Uid(vec![Name::from(1)]),
        ]
    );
}

#[test]
fn a_selection_without_conditions_is_of_all_clients() {
    for ext in [
        r#"{"fields":[]}"#,
        r#"{"fields":[],"where":[]}"#,
        r#"{"fields":[],"where":{}}"#,
        r#"{"fields":[],"where":null}"#,
    ] {
        assert_eq!(Select::decode(ext.as_bytes()).unwrap().conditions, None, "{ext}");
    }
}

#[test]
fn a_selection_by_an_unknown_condition_finds_nobody() {
    let select = Select::decode(br#"{"fields":["uid"],"where":{"colour":["red"]}}"#).unwrap();
    assert_eq!(select.conditions, Some(vec![]));
}

#[test]
fn a_selection_of_nobody_does_not_become_one_of_everybody() {
    let select = Select { fields: vec![Field::Uid], conditions: Some(vec![]) };
    let mut ext = Vec::new();
    select.encode(&mut ext);
    assert_eq!(Select::decode(&ext), Ok(select));
}

#[test]
fn lists_beyond_the_limit_are_refused() {
    let list = alloc::format!("[{}0]", "0,".repeat(NAME_COUNT_MAX));
    assert_eq!(decode_names(list.as_bytes()), Err(ExtError::Shape));
    let fields = alloc::format!(r#"{{"fields":[{}0]}}"#, "0,".repeat(FIELD_COUNT_MAX));
    assert_eq!(Select::decode(fields.as_bytes()), Err(ExtError::Shape));
}

#[test]
fn json_nested_too_deeply_is_refused() {
    let ext = alloc::format!(r#"{{"connections":{}"#, "[".repeat(1_000_000));
    assert!(SendToAll::decode(ext.as_bytes()).is_err());
    let ext = alloc::format!(r#"{{"other":{}"#, "[".repeat(1_000_000));
    assert!(SendToAll::decode(ext.as_bytes()).is_err());
}

#[test]
fn a_link_opens_with_both_keys() {
    let connect = WorkerConnect::decode(br#"{"worker_key":"Bw:0","secret_key":"s3cret"}"#).unwrap();
    assert_eq!(connect.worker_key, "Bw:0");
    assert!(SecretKey::new("s3cret").matches(&connect.secret_key));
    assert!(!alloc::format!("{connect:?}").contains("s3cret"));
    for body in [
        "",
        "{}",
        r#"{"worker_key":"Bw:0"}"#,
        r#"{"worker_key":"Bw:0","secret_key":0}"#,
        r#"["Bw:0",""]"#,
    ] {
        assert!(WorkerConnect::decode(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn encoded_text_is_what_php_writes() {
    let key = SecretKey::new("a/é");
    for (text, encoded) in [
        (
            r#"{"connections":{"5":5,"7":7}}"#,
            encoded(|out| SendToAll::Only(vec![5, 7]).encode(out)),
        ),
        (
            r#"{"exclude":{"5":5}}"#,
            encoded(|out| SendToAll::Except([5].into_iter().collect()).encode(out)),
        ),
        ("", encoded(|out| SendToAll::All.encode(out))),
        (r#"["a",7,"7"]"#, encoded(|out| encode_names(&["a".into(), 7.into(), "7".into()], out))),
        (
            r#"{"worker_key":"Bw:0","secret_key":"a\/\u00e9"}"#,
            encoded(|out| {
                WorkerConnect { worker_key: "Bw:0".into(), secret_key: key.show(), tengate: None }
                    .encode(out)
            }),
        ),
        (
            r#"{"secret_key":"a\/\u00e9"}"#,
            encoded(|out| GatewayClientConnect { secret_key: key.show() }.encode(out)),
        ),
    ] {
        assert_eq!(core::str::from_utf8(&encoded), Ok(text));
    }
    for text in [r#"{"group":["a",7],"exclude":null}"#, r#"{"group":["a"],"exclude":{"3":3}}"#] {
        let send = SendToGroup::decode(text.as_bytes()).unwrap();
        assert_eq!(encoded(|out| send.encode(out)), text.as_bytes());
    }
    for text in [
        r#"{"fields":["session","uid","groups","x"],"where":[]}"#,
        r#"{"fields":["uid"],"where":{"connection_id":{"360":360}}}"#,
        r#"{"fields":["uid"],"where":{"groups":["g",1],"uid":["u"]}}"#,
    ] {
        let select = Select::decode(text.as_bytes()).unwrap();
        assert_eq!(encoded(|out| select.encode(out)), text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_come_back_as_they_went(texts in proptest::collection::vec(any::<String>(), 0..8), int: i64) {
        let mut names: Vec<Name<'_>> = texts.iter().map(|text| Name::from(text.as_str())).collect();
        names.push(Name::from(int));
        let ext = encoded(|out| encode_names(&names, out));
        prop_assert_eq!(decode_names(&ext).unwrap(), names.clone());
        prop_assert_eq!(names.last().unwrap().as_str(), alloc::format!("{int}"));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(text in r#"[\[\]{}",:0-9a\\-]{0,24}"#) {
        drop(SendToAll::decode(text.as_bytes()));
        drop(SendToGroup::decode(text.as_bytes()));
        drop(Select::decode(text.as_bytes()));
        drop(decode_names(text.as_bytes()));
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
