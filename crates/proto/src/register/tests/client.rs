//! How a gateway or worker keeps its register.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use tengate_base::Instant;

use super::super::client::LINE_BYTES_MAX;
use super::super::{
    LEASE_ANSWER_TIMEOUT, RegisterClient, RegisterClientConfig, RegisterClientOutput as Output,
    RegisterRole,
};
use crate::secret::SecretKey;
use crate::wire::register::{FromRegisterError, LinkedGateway, Links};

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

#[test]
fn a_dispatched_gateway_asks_for_a_lease_and_hears_of_it() {
    let mut client = client("127.0.0.1:1236", dispatched());
    client.handle_connected(Instant::ZERO);
    let hello = |claim: &str| {
        let line = alloc::format!(
            "{{\"event\":\"gateway_connect\", \"address\":\"127.0.0.1:2900\", \"secret_key\":\"s3cret\",\
             \"tengate\":{{\"version\":1,\"mode\":\"dispatched\",\"shards\":2,\"number_bits\":22{claim}}}}}\n"
        );
        Output::Transmit(line.into())
    };
    assert_eq!(outputs(&mut client), [Output::Connect, hello("")]);
    let told = b"{\"event\":\"lease\",\"first_proc_id\":4,\"shards\":2}\n{\"event\":\"home\",\"address\":\"d:1\"}\n\
        {\"event\":\"home\",\"address\":null}\n";
    client.handle_bytes(Instant::ZERO, told);
    let expected = [
        Output::Lease { first_proc_id: 4, shards: 2 },
        Output::Home(Some("d:1".into())),
        Output::Home(None),
    ];
    assert_eq!(outputs(&mut client), expected);
    assert_eq!(client.poll_timeout(), None, "the lease is there");
    client.set_claim(4);
    let claim = hello(",\"first_proc_id\":4");
    assert_eq!(outputs(&mut client), core::slice::from_ref(&claim));
    client.set_claim(4);
    assert_eq!(outputs(&mut client), []);
    client.handle_closed(Instant::ZERO);
    client.handle_connected(Instant::ZERO);
    assert_eq!(outputs(&mut client), [claim]);
}

#[test]
fn a_lease_that_another_register_gave_while_this_one_was_away_is_claimed_when_it_is_back() {
    let mut client = client("127.0.0.1:1236", dispatched());
    client.set_claim(7);
    assert_eq!(outputs(&mut client), [Output::Connect]);
    client.handle_connected(Instant::ZERO);
    let heard = outputs(&mut client);
    let [Output::Transmit(line)] = &heard[..] else { panic!("{heard:?}") };
    assert!(line.ends_with(b"\"first_proc_id\":7}}\n"));
}

#[test]
fn a_register_that_knows_no_leases_is_noticed_once_a_connection() {
    let mut client = client("127.0.0.1:1236", dispatched());
    for _ in 0..2 {
        client.handle_connected(Instant::ZERO);
        outputs(&mut client);
        let due = Instant::ZERO + LEASE_ANSWER_TIMEOUT;
        assert_eq!(client.poll_timeout(), Some(due));
        client.handle_timeout(due);
        assert_eq!(outputs(&mut client), [Output::NoLease]);
        assert_eq!(client.poll_timeout(), None);
        client.handle_closed(due);
    }
}

#[test]
fn a_refusal_is_an_answer_and_says_why() {
    let mut client = client("127.0.0.1:1236", dispatched());
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    client.handle_bytes(Instant::ZERO, b"{\"event\":\"refused\",\"reason\":\"full\"}\n");
    assert_eq!(outputs(&mut client), [Output::Refused("full".into())]);
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_dispatcher_hears_which_gateways_to_connect_to() {
    let mut client = client("127.0.0.1:1236", dispatcher());
    client.handle_connected(Instant::ZERO);
    let line = "{\"event\":\"dispatcher_connect\",\"address\":\"127.0.0.1:3900\",\"secret_key\":\"s3cret\",\
                \"tengate\":{\"version\":1}}\n";
    assert_eq!(outputs(&mut client), [Output::Connect, Output::Transmit(line.into())]);
    client.handle_bytes(Instant::ZERO, b"{\"event\":\"gateways\",\"addresses\":[\"a:1\"]}\n");
    assert_eq!(outputs(&mut client), [Output::Gateways(vec!["a:1".into()])]);
}

#[test]
fn links_are_reported_on_change_once_a_second_and_the_last_counts() {
    let mut client = client("127.0.0.1:1236", dispatcher());
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    let at = |millis| Instant::ZERO + Duration::from_millis(millis);
    client.report(at(0), &links(1));
    assert_eq!(outputs(&mut client), [reported(1)]);
    client.report(at(10), &links(1));
    assert_eq!(client.poll_timeout(), None, "nothing has changed");
    client.report(at(100), &links(2));
    client.report(at(200), &links(3));
    assert_eq!(outputs(&mut client), []);
    assert_eq!(client.poll_timeout(), Some(at(1000)));
    client.handle_timeout(at(1000));
    assert_eq!(outputs(&mut client), [reported(3)]);
    client.report(at(5000), &links(4));
    assert_eq!(outputs(&mut client), [reported(4)]);
}

#[test]
fn links_that_return_to_what_was_sent_are_sent_all_the_same() {
    let mut client = client("127.0.0.1:1236", dispatcher());
    client.handle_connected(Instant::ZERO);
    for clients in [1, 2, 1] {
        client.report(Instant::ZERO, &links(clients));
    }
    outputs(&mut client);
    client.handle_timeout(Instant::ZERO + Duration::from_secs(1));
    assert_eq!(outputs(&mut client), [reported(1)]);
}

#[test]
fn links_are_reported_again_to_a_register_that_was_away() {
    let mut client = client("127.0.0.1:1236", dispatcher());
    client.report(Instant::ZERO, &links(1));
    assert_eq!(outputs(&mut client), [Output::Connect]);
    for _ in 0..2 {
        client.handle_connected(Instant::ZERO);
        assert_eq!(outputs(&mut client)[1..], [reported(1)]);
        client.handle_closed(Instant::ZERO);
    }
}

#[test]
fn only_a_dispatcher_reports_links_and_only_a_dispatched_gateway_claims() {
    for role in [gateway(), dispatched(), RegisterRole::Worker] {
        let mut client = client("127.0.0.1:1236", role);
        client.handle_connected(Instant::ZERO);
        outputs(&mut client);
        client.report(Instant::ZERO, &links(1));
        assert_eq!(outputs(&mut client), []);
    }
    let mut client = client("127.0.0.1:1236", dispatcher());
    client.handle_connected(Instant::ZERO);
    outputs(&mut client);
    client.set_claim(1);
    assert_eq!(outputs(&mut client), []);
}

fn dispatched() -> RegisterRole {
    let address = "127.0.0.1:2900".into();
    RegisterRole::DispatchedGateway { address, shards: 2, number_bits: 22, first_proc_id: None }
}

fn dispatcher() -> RegisterRole {
    RegisterRole::Dispatcher { address: "127.0.0.1:3900".into() }
}

fn links(clients: u64) -> Links {
    let gateway =
        LinkedGateway { address: "a:1".into(), home: true, clients, ..LinkedGateway::default() };
    Links { gateways: vec![gateway], ..Links::default() }
}

fn reported(clients: u64) -> Output {
    let line = alloc::format!(
        "{{\"event\":\"links\",\"gateways\":[{{\"address\":\"a:1\",\"home\":true,\"clients\":{clients}}}],\
         \"workers\":[]}}\n"
    );
    Output::Transmit(line.into())
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
