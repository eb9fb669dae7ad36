//! How a gateway or worker keeps its register.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use tengate_base::Instant;

use super::super::client::LINE_BYTES_MAX;
use super::super::{
    RegisterClient, RegisterClientConfig, RegisterClientOutput as Output, RegisterRole,
};
use crate::secret::SecretKey;
use crate::wire::register::FromRegisterError;

#[test]
fn a_gateway_announces_its_address_when_connected() {
    let mut client = client("127.0.0.1:1236", gateway());
    assert_eq!(outputs(&mut client), [Output::Connect]);
    client.handle_connected(Instant::ZERO);
    let line = "{\"event\":\"gateway_connect\", \"address\":\"127.0.0.1:2900\", \"secret_key\":\"s3cret\"}\n";
    assert_eq!(outputs(&mut client), [Output::Transmit(line.into())]);
    assert!(client.is_connected());
}

#[test]
fn a_worker_hears_of_addresses_however_the_bytes_are_cut() {
    let text = "{\"event\":\"broadcast_addresses\",\"addresses\":[\"a:1\"]}\n{\"event\":\"broadcast_addresses\",\"addresses\":[]}\n";
    for cut in 0..text.len() {
        let mut client = client("127.0.0.1:1236", RegisterRole::Worker);
        client.handle_connected(Instant::ZERO);
        outputs(&mut client);
        client.handle_bytes(Instant::ZERO, &text.as_bytes()[..cut]);
        client.handle_bytes(Instant::ZERO, &text.as_bytes()[cut..]);
        let expected = [Output::Addresses(vec![String::from("a:1")]), Output::Addresses(vec![])];
        assert_eq!(outputs(&mut client), expected, "cut at {cut}");
    }
}

#[test]
fn a_register_on_another_machine_is_pinged() {
    let mut client = client("10.0.0.1:1236", RegisterRole::Worker);
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    for count in 1..3 {
        let due = Instant::ZERO + Duration::from_secs(25 * count);
        assert_eq!(client.poll_timeout(), Some(due));
        client.handle_timeout(due);
        assert_eq!(outputs(&mut client), [Output::Transmit(b"{\"event\":\"ping\"}\n".to_vec())]);
    }
}

#[test]
fn a_register_on_this_machine_is_not_pinged() {
    let mut client = client("127.0.0.1:1236", RegisterRole::Worker);
    client.handle_connected(Instant::ZERO);
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_lost_connection_is_made_again_after_a_second() {
    let mut client = client("10.0.0.1:1236", RegisterRole::Worker);
    outputs(&mut client);
    client.handle_closed(Instant::ZERO);
    let due = Instant::ZERO + Duration::from_secs(1);
    assert_eq!(client.poll_timeout(), Some(due));
    client.handle_timeout(Instant::ZERO);
    assert_eq!(outputs(&mut client), []);
    client.handle_timeout(due);
    assert_eq!(outputs(&mut client), [Output::Connect]);
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn half_a_line_of_a_lost_connection_is_forgotten() {
    let mut client = client("127.0.0.1:1236", RegisterRole::Worker);
    client.handle_connected(Instant::ZERO);
    client.handle_bytes(Instant::ZERO, b"{\"event\":");
    client.handle_closed(Instant::ZERO);
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    client.handle_bytes(Instant::ZERO, b"{\"event\":\"broadcast_addresses\",\"addresses\":[]}\n");
    assert_eq!(outputs(&mut client), [Output::Addresses(vec![])]);
}

#[test]
fn a_bad_line_is_reported_and_the_next_is_read() {
    let mut client = client("127.0.0.1:1236", RegisterRole::Worker);
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    client.handle_bytes(
        Instant::ZERO,
        b"Bad request\n{\"event\":\"broadcast_addresses\",\"addresses\":[]}\n",
    );
    assert_eq!(
        outputs(&mut client),
        [Output::BadLine(FromRegisterError::BadLine), Output::Addresses(vec![])]
    );
}

#[test]
fn a_line_beyond_the_limit_ends_the_connection() {
    for end in ["", "\n"] {
        let mut client = client("127.0.0.1:1236", RegisterRole::Worker);
        client.handle_connected(Instant::ZERO);
        outputs(&mut client);
        client.handle_bytes(Instant::ZERO, &vec![b' '; LINE_BYTES_MAX]);
        assert_eq!(outputs(&mut client), []);
        client.handle_bytes(Instant::ZERO, [" ", end].concat().as_bytes());
        assert_eq!(outputs(&mut client), [Output::Close]);
        assert!(client.poll_timeout().is_some() && !client.is_connected());
    }
}

fn client(register: &str, role: RegisterRole) -> RegisterClient {
    let secret_key = SecretKey::new("s3cret");
    RegisterClient::new(RegisterClientConfig { register: register.into(), role, secret_key })
}

fn gateway() -> RegisterRole {
    RegisterRole::Gateway { address: "127.0.0.1:2900".into() }
}

fn outputs(client: &mut RegisterClient) -> Vec<Output> {
    core::iter::from_fn(|| client.poll_output()).collect()
}
