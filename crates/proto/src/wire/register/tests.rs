//! Register lines as PHP writes and reads them.

use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::secret::SecretKey;

#[test]
fn lines_are_what_php_writes() {
    let key = SecretKey::new("s3cret");
    for (message, line) in [
        (
            ToRegister::GatewayConnect { address: "127.0.0.1:2900".into(), secret_key: key.show() },
            "{\"event\":\"gateway_connect\", \"address\":\"127.0.0.1:2900\", \"secret_key\":\"s3cret\"}\n",
        ),
        (
            ToRegister::WorkerConnect { secret_key: key.show() },
            "{\"event\":\"worker_connect\",\"secret_key\":\"s3cret\"}\n",
        ),
        (ToRegister::Ping, "{\"event\":\"ping\"}\n"),
    ] {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(core::str::from_utf8(&out), Ok(line));
        assert_eq!(ToRegister::decode(&out), Ok(message));
    }
}

#[test]
fn tengates_own_lines_are_what_the_document_says() {
    let key = SecretKey::new("k");
    let wanted = Wanted { shards: 2, number_bits: 22, first_proc_id: None };
    let gateway = |wanted| ToRegister::DispatchedGatewayConnect {
        address: "10.0.0.2:2900".into(),
        secret_key: key.show(),
        wanted,
    };
    let block = Some(Block { first_proc_id: 4, shards: 2, number_bits: 22 });
    let linked = |address: &str, block| LinkedGateway {
        address: address.into(),
        home: true,
        clients: 12,
        block,
    };
    let workers = vec![LinkedWorker { key: "127.0.0.1:chat:0".into(), clients: 12 }];
    for (message, line) in [
        (
            gateway(wanted),
            r#"{"event":"gateway_connect", "address":"10.0.0.2:2900", "secret_key":"k","tengate":{"version":1,"mode":"dispatched","shards":2,"number_bits":22}}"#,
        ),
        (
            gateway(Wanted { first_proc_id: Some(4), ..wanted }),
            r#"{"event":"gateway_connect", "address":"10.0.0.2:2900", "secret_key":"k","tengate":{"version":1,"mode":"dispatched","shards":2,"number_bits":22,"first_proc_id":4}}"#,
        ),
        (
            ToRegister::DispatcherConnect {
                address: "10.0.0.9:3900".into(),
                secret_key: key.show(),
            },
            r#"{"event":"dispatcher_connect","address":"10.0.0.9:3900","secret_key":"k","tengate":{"version":1}}"#,
        ),
        (ToRegister::Links(Links::default()), r#"{"event":"links","gateways":[],"workers":[]}"#),
        (
            ToRegister::Links(Links {
                gateways: vec![linked("10.0.0.2:2900", block), linked("10.0.0.3:2900", None)],
                workers,
                workers_left_out: 1,
            }),
            r#"{"event":"links","gateways":[{"address":"10.0.0.2:2900","home":true,"clients":12,"block":{"first_proc_id":4,"shards":2,"number_bits":22}},{"address":"10.0.0.3:2900","home":true,"clients":12}],"workers":[{"key":"127.0.0.1:chat:0","clients":12}],"workers_left_out":1}"#,
        ),
        (
            ToRegister::Topology { secret_key: key.show() },
            r#"{"event":"topology","secret_key":"k"}"#,
        ),
    ] {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(core::str::from_utf8(&out).unwrap(), alloc::format!("{line}\n"));
        assert_eq!(ToRegister::decode(&out), Ok(message));
    }
}

#[test]
fn what_a_register_says_to_tengates_roles_is_what_the_document_says() {
    let block = Block { first_proc_id: 4, shards: 2, number_bits: 22 };
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    for (out, line, message) in [
        (
            encoded(&|out| encode_lease(block, out)),
            r#"{"event":"lease","first_proc_id":4,"shards":2}"#,
            FromRegister::Lease { first_proc_id: 4, shards: 2 },
        ),
        (
            encoded(&|out| encode_refused("no \"room\"\n4–5", out)),
            r#"{"event":"refused","reason":"no \"room\"\n4\u20135"}"#,
            FromRegister::Refused("no \"room\"\n4–5".into()),
        ),
        (
            encoded(&|out| encode_home(Some("10.0.0.9:3900"), out)),
            r#"{"event":"home","address":"10.0.0.9:3900"}"#,
            FromRegister::Home(Some("10.0.0.9:3900".into())),
        ),
        (
            encoded(&|out| encode_home(None, out)),
            r#"{"event":"home","address":null}"#,
            FromRegister::Home(None),
        ),
        (
            encoded(&|out| encode_gateways(["a:1", "b:2"], out)),
            r#"{"event":"gateways","addresses":["a:1","b:2"]}"#,
            FromRegister::Gateways(vec!["a:1".into(), "b:2".into()]),
        ),
    ] {
        assert_eq!(core::str::from_utf8(&out).unwrap(), alloc::format!("{line}\n"));
        assert_eq!(FromRegister::decode(&out), Ok(message));
    }
}

#[test]
fn a_gateway_in_direct_mode_is_a_gateway_as_ever() {
    let plain = SecretKey::default();
    for extension in ["{\"version\":1}", "{\"version\":2,\"mode\":\"direct\"}", "null"] {
        let line = alloc::format!(
            "{{\"event\":\"gateway_connect\",\"address\":\"a:1\",\"tengate\":{extension}}}"
        );
        let expected =
            ToRegister::GatewayConnect { address: "a:1".into(), secret_key: plain.show() };
        assert_eq!(ToRegister::decode(line.as_bytes()), Ok(expected), "{line}");
    }
}

#[test]
fn blocks_that_connection_ids_have_no_room_for_are_refused() {
    for (shards, number_bits, first, is_possible) in [
        (1, 22, 0, true),
        (1024, 22, 0, true),
        (1, 22, 1023, true),
        (1, 16, 65_535, true),
        (1, 31, 1, true),
        (0, 22, 0, false),
        (1025, 22, 0, false),
        (2, 22, 1023, false),
        (1, 15, 0, false),
        (1, 32, 0, false),
        (1, 24, 256, false),
    ] {
        let line = alloc::format!(
            "{{\"event\":\"gateway_connect\",\"address\":\"a:1\",\"tengate\":{{\"version\":1,\"mode\":\"dispatched\",\
             \"shards\":{shards},\"number_bits\":{number_bits},\"first_proc_id\":{first}}}}}"
        );
        let decoded = ToRegister::decode(line.as_bytes());
        assert_eq!(decoded.is_ok(), is_possible, "{line}");
        assert!(is_possible || decoded == Err(ToRegisterError::BadFields), "{line}");
    }
}

#[test]
fn a_report_names_no_more_than_a_register_takes_and_counts_the_rest() {
    let gateway = LinkedGateway { address: "\u{1}".repeat(256).into(), ..LinkedGateway::default() };
    let worker = |len| LinkedWorker { key: "\u{1}".repeat(len).into(), clients: u64::MAX };
    let mut links = Links {
        gateways: vec![gateway; LINKED_GATEWAYS_MAX + 1],
        workers: vec![worker(WORKER_KEY_BYTES_MAX); LINKED_WORKERS_MAX + 2],
        workers_left_out: 0,
    };
    links.workers[0] = worker(WORKER_KEY_BYTES_MAX + 1);
    let mut line = Vec::new();
    ToRegister::Links(links).encode(&mut line);
    assert!(line.len() < LINKS_BYTES_MAX);
    let Ok(ToRegister::Links(told)) = ToRegister::decode(&line) else { panic!("a good line") };
    assert_eq!(told.gateways.len(), LINKED_GATEWAYS_MAX);
    assert_eq!((told.workers.len(), told.workers_left_out), (LINKED_WORKERS_MAX, 2));
    let many = "{\"key\":\"\"},".repeat(LINKED_WORKERS_MAX) + "{\"key\":\"\"}";
    let line = alloc::format!("{{\"event\":\"links\",\"workers\":[{many}]}}");
    assert_eq!(ToRegister::decode(line.as_bytes()), Err(ToRegisterError::BadFields));
}

#[test]
fn lines_that_close_the_connection_name_the_fault() {
    use ToRegisterError::{BadFields, BadRequest, NoAddress, UnknownEvent};
    let long = alloc::format!(
        "{{\"event\":\"dispatcher_connect\",\"address\":\"{}\"}}",
        "a".repeat(ADDRESS_BYTES_MAX + 1)
    );
    for (line, error) in [
        ("", BadRequest),
        ("ping", BadRequest),
        ("{}", BadRequest),
        ("[\"ping\"]", BadRequest),
        ("{\"event\":\"\"}", BadRequest),
        ("{\"event\":\"0\"}", BadRequest),
        ("{\"event\":null}", BadRequest),
        ("{\"event\":\"ping\"", BadRequest),
        ("{\"event\":\"ping\"}x", BadRequest),
        ("{\"event\":\"PING\"}", UnknownEvent),
        ("{\"event\":\"broadcast_addresses\",\"addresses\":[]}", UnknownEvent),
        ("{\"event\":\"gateway_connect\"}", NoAddress),
        ("{\"event\":\"gateway_connect\",\"address\":\"\"}", NoAddress),
        ("{\"event\":\"dispatcher_connect\"}", NoAddress),
        (&long, NoAddress),
        ("{\"event\":\"links\",\"gateways\":{}}", BadFields),
        ("{\"event\":\"links\",\"gateways\":[{}]}", BadFields),
        ("{\"event\":\"links\",\"workers\":[{\"key\":1}]}", BadFields),
        (
            "{\"event\":\"gateway_connect\",\"address\":\"a:1\",\"tengate\":{\"mode\":\"\"}}",
            BadFields,
        ),
        (
            "{\"event\":\"gateway_connect\",\"address\":\"a:1\",\"tengate\":{\"mode\":\"dispatched\"}}",
            BadFields,
        ),
        ("{\"event\":\"gateway_connect\",\"address\":\"a:1\",\"tengate\":1}", BadFields),
    ] {
        assert_eq!(ToRegister::decode(line.as_bytes()), Err(error), "{line}");
    }
}

#[test]
fn a_missing_key_is_the_empty_key_and_unknown_fields_are_ignored() {
    let line = b" {\"event\":\"worker_connect\",\"version\":{\"tengate\":[1]}}\r\n";
    assert_eq!(
        ToRegister::decode(line),
        Ok(ToRegister::WorkerConnect { secret_key: SecretKey::default().show() })
    );
}

#[test]
fn addresses_are_broadcast_as_php_encodes_them() {
    for (addresses, line) in [
        (vec![], "{\"event\":\"broadcast_addresses\",\"addresses\":[]}\n"),
        (
            vec!["127.0.0.1:2900"],
            "{\"event\":\"broadcast_addresses\",\"addresses\":[\"127.0.0.1:2900\"]}\n",
        ),
        (
            vec!["a/b:1", "b:2"],
            "{\"event\":\"broadcast_addresses\",\"addresses\":[\"a\\/b:1\",\"b:2\"]}\n",
        ),
    ] {
        let mut out = Vec::new();
        encode_broadcast_addresses(addresses.iter().copied(), &mut out);
        assert_eq!(core::str::from_utf8(&out), Ok(line));
        let addresses = addresses.into_iter().map(String::from).collect();
        assert_eq!(FromRegister::decode(&out), Ok(FromRegister::BroadcastAddresses(addresses)));
    }
}

#[test]
fn addresses_may_come_as_an_object() {
    let line = b"{\"event\":\"broadcast_addresses\",\"addresses\":{\"0\":\"a:1\",\"2\":\"b:2\"}}";
    let addresses = vec!["a:1".into(), "b:2".into()];
    assert_eq!(FromRegister::decode(line), Ok(FromRegister::BroadcastAddresses(addresses)));
}

#[test]
fn lines_of_a_register_that_say_nothing_name_the_fault() {
    use FromRegisterError::{BadAddresses, BadFields, BadLine, UnknownEvent};
    let many = alloc::format!(
        "{{\"event\":\"broadcast_addresses\",\"addresses\":[{}\"\"]}}",
        "\"\",".repeat(ADDRESS_COUNT_MAX)
    );
    for (line, error) in [
        ("Bad request", BadLine),
        ("{}", BadLine),
        ("{\"event\":\"hello\"}", UnknownEvent),
        ("{\"event\":\"broadcast_addresses\"}", BadAddresses),
        ("{\"event\":\"broadcast_addresses\",\"addresses\":\"a:1\"}", BadAddresses),
        ("{\"event\":\"broadcast_addresses\",\"addresses\":[1]}", BadAddresses),
        (&many, BadAddresses),
        ("{\"event\":\"topology\"}", UnknownEvent),
        ("{\"event\":\"lease\",\"first_proc_id\":65536,\"shards\":1}", BadFields),
        ("{\"event\":\"refused\"}", BadFields),
        ("{\"event\":\"home\",\"address\":1}", BadFields),
        ("{\"event\":\"gateways\"}", BadFields),
    ] {
        assert_eq!(FromRegister::decode(line.as_bytes()), Err(error));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_address_and_key_round_trip(address in ".{1,20}", key in ".*") {
        prop_assume!(address != "0");
        let key = SecretKey::new(key);
        let message = ToRegister::GatewayConnect { address: address.into(), secret_key: key.show() };
        let mut out = Vec::new();
        message.encode(&mut out);
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(ToRegister::decode(&out), Ok(message));
    }
}
