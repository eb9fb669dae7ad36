//! Targets of everything that is JSON: what commands carry, and the register's lines.

use core::time::Duration;

use tengate_base::Instant;
use tengate_proto::register::{
    RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole,
};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::ext::{
    GatewayClientConnect, Select, SendToAll, SendToGroup, WorkerConnect, decode_batch,
    decode_names, encode_names,
};
use tengate_proto::wire::register::topology::Topology;
use tengate_proto::wire::register::{
    Block, FromRegister, LINKS_BYTES_MAX, ToRegister, encode_broadcast_addresses, encode_gateways,
    encode_home, encode_lease, encode_refused,
};

use crate::stream::split;

/// Checks that what is decoded means the same after it was encoded.
macro_rules! assert_survives {
    ($data:expr, $decode:path, $encode:path) => {
        if let Ok(decoded) = $decode($data) {
            let mut encoded = Vec::new();
            $encode(&decoded, &mut encoded);
            assert_eq!($decode(&encoded).as_ref(), Ok(&decoded), "{}", encoded.escape_ascii());
        }
    };
}

/// Whatever a command's data means, it means the same when it is sent on.
pub fn ext(data: &[u8]) {
    assert_survives!(data, SendToAll::decode, SendToAll::encode);
    assert_survives!(data, SendToGroup::decode, SendToGroup::encode);
    assert_survives!(data, decode_names, encode_names);
    assert_survives!(data, decode_batch, encode_names);
    assert_survives!(data, Select::decode, Select::encode);
    assert_survives!(data, WorkerConnect::decode, WorkerConnect::encode);
    assert_survives!(data, GatewayClientConnect::decode, GatewayClientConnect::encode);
    if let Ok(names) = decode_names(data) {
        assert!(names.len() <= data.len());
    }
}

/// Lines to and from a register mean the same when they are sent on.
pub fn register_line(data: &[u8]) {
    assert_survives!(data, sent_on, ToRegister::encode);
    assert_survives!(data, FromRegister::decode, encode_from_register);
    assert_survives!(data, Topology::decode, Topology::encode);
}

/// A line for a register as it is when it was sent on: a report then leaves out what nobody may report.
fn sent_on(data: &[u8]) -> Result<ToRegister<'_>, ()> {
    let decoded = ToRegister::decode(data).map_err(drop)?;
    if !matches!(decoded, ToRegister::Links(_)) {
        return Ok(decoded);
    }
    let mut line = Vec::new();
    decoded.encode(&mut line);
    assert!(line.len() <= LINKS_BYTES_MAX);
    let Ok(ToRegister::Links(links)) = ToRegister::decode(&line) else {
        panic!("what is encoded can be decoded")
    };
    Ok(ToRegister::Links(links))
}

fn encode_from_register(line: &FromRegister, out: &mut Vec<u8>) {
    match line {
        FromRegister::BroadcastAddresses(addresses) => {
            encode_broadcast_addresses(addresses.iter().map(String::as_str), out);
        }
        FromRegister::Lease { first_proc_id, shards } => {
            let (first_proc_id, shards) = (*first_proc_id, *shards);
            encode_lease(Block { first_proc_id, shards, number_bits: 22 }, out);
        }
        FromRegister::Refused(reason) => encode_refused(reason, out),
        FromRegister::Home(address) => encode_home(address.as_deref(), out),
        FromRegister::Gateways(addresses) => {
            encode_gateways(addresses.iter().map(String::as_str), out);
        }
    }
    assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(out.len() - 1));
}

/// A split changes nothing of what anybody learns from its register, and a gateway that hears nothing of a lease notices.
pub fn register_client(data: &[u8]) {
    let Some((role, data)) = data.split_first() else { return };
    let address = || "127.0.0.1:2900".into();
    let role = match role % 3 {
        0 => RegisterRole::Worker,
        1 => RegisterRole::Dispatcher { address: address() },
        _ => RegisterRole::DispatchedGateway {
            address: address(),
            shards: 2,
            number_bits: 22,
            first_proc_id: None,
        },
    };
    let Some((stream, parts)) = split(data) else { return };
    let heard = learned(&role, &[stream]);
    assert_eq!(learned(&role, &parts), heard);
    let is_answered = heard.iter().any(|output| {
        matches!(output, RegisterClientOutput::Lease { .. } | RegisterClientOutput::Refused(_))
    });
    let asks = matches!(role, RegisterRole::DispatchedGateway { .. });
    assert_eq!(heard.contains(&RegisterClientOutput::NoLease), asks && !is_answered);
}

fn learned(role: &RegisterRole, reads: &[&[u8]]) -> Vec<RegisterClientOutput> {
    let mut client = RegisterClient::new(RegisterClientConfig {
        register: "127.0.0.1:1236".into(),
        role: role.clone(),
        secret_key: SecretKey::default(),
    });
    client.handle_connected(Instant::ZERO);
    for read in reads {
        client.handle_bytes(Instant::ZERO, read);
    }
    client.handle_timeout(Instant::ZERO + Duration::from_secs(5));
    core::iter::from_fn(|| client.poll_output()).collect()
}
