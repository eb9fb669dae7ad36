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
fn lines_that_close_the_connection_name_the_fault() {
    use ToRegisterError::{BadRequest, NoAddress, UnknownEvent};
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
    use FromRegisterError::{BadAddresses, BadLine, UnknownEvent};
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
