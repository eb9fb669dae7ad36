//! Targets of everything that is JSON: what commands carry, and the register's lines.

use tengate_base::Instant;
use tengate_proto::register::{
    RegisterClient, RegisterClientConfig, RegisterClientOutput, RegisterRole,
};
use tengate_proto::secret::SecretKey;
use tengate_proto::wire::ext::{
    GatewayClientConnect, Select, SendToAll, SendToGroup, WorkerConnect, decode_batch,
    decode_names, encode_names,
};
use tengate_proto::wire::register::{FromRegister, ToRegister, encode_broadcast_addresses};

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
    assert_survives!(data, ToRegister::decode, ToRegister::encode);
    if let Ok(FromRegister::BroadcastAddresses(addresses)) = FromRegister::decode(data) {
        let mut line = Vec::new();
        encode_broadcast_addresses(addresses.iter().map(String::as_str), &mut line);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        assert_eq!(FromRegister::decode(&line), Ok(FromRegister::BroadcastAddresses(addresses)));
    }
}

/// A split changes nothing of what a gateway or worker learns from its register.
pub fn register_client(data: &[u8]) {
    let Some((stream, parts)) = split(data) else { return };
    assert_eq!(learned(&parts), learned(&[stream]));
}

fn learned(reads: &[&[u8]]) -> Vec<RegisterClientOutput> {
    let mut client = RegisterClient::new(RegisterClientConfig {
        register: "127.0.0.1:1236".into(),
        role: RegisterRole::Worker,
        secret_key: SecretKey::default(),
    });
    client.handle_connected(Instant::ZERO);
    for read in reads {
        client.handle_bytes(Instant::ZERO, read);
    }
    core::iter::from_fn(|| client.poll_output()).collect()
}
