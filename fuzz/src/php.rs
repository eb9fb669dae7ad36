//! Targets of PHP's `serialize` format: values, sessions that are merged, and what a worker hears of a handshake.

use core::net::{Ipv4Addr, SocketAddr};

use tengate_proto::wire::php::{
    Array, HandshakeRequest, Limits, UnserializeError, Value, array_replace_recursive, json_encode,
    on_websocket_connect_body, serialize, unserialize,
};
use tengate_proto::wire::websocket::{REQUEST_BYTES_MAX, decode_request};

use crate::stream::split;

/// Bytes of the input that one entry of an array takes at least: `i:0;N;`.
const ENTRY_BYTES_MIN: usize = 6;

/// A value is no larger than its bytes allow, is read again from what it is serialized to, needs exactly the limits that
/// fit it, and what it is for a browser is JSON.
pub fn php_unserialize(data: &[u8]) {
    let Ok(value) = unserialize(data, &Limits::default()) else { return };
    let size = size_of_value(&value);
    assert!(size.entry_count_max <= data.len() / ENTRY_BYTES_MIN);
    let serialized = serialized(&value);
    assert_reads_back(&serialized, &size);
    if let Some(depth_max) = size.depth_max.checked_sub(1) {
        let too_shallow = Limits { depth_max, ..size };
        assert_eq!(unserialize(&serialized, &too_shallow), Err(UnserializeError::Depth));
    }
    if let Some(entry_count_max) = size.entry_count_max.checked_sub(1) {
        let too_small = Limits { entry_count_max, ..size };
        assert_eq!(unserialize(&serialized, &too_small), Err(UnserializeError::EntryCount));
    }
    let mut json = Vec::new();
    if json_encode(&value, &mut json).is_ok() {
        assert!(json.len() <= JSON_GROWTH_MAX * serialized.len());
        if size.depth_max < JSON_DEPTH_MAX {
            serde_json::from_slice::<serde_json::Value>(&json).expect("it is JSON");
        }
    }
}

/// What a byte becomes at most: `\u0001`.
const JSON_GROWTH_MAX: usize = 6;

/// Arrays inside each other that serde_json takes.
const JSON_DEPTH_MAX: usize = 128;

/// Two sessions become one that keeps the order of the first, says all the second says, and can be read.
pub fn php_session_merge(data: &[u8]) {
    let Some((_, [base, replacement])) = split(data) else { return };
    let (Some(base), Some(replacement)) = (array(base), array(replacement)) else { return };
    let merged = array_replace_recursive(base.clone(), replacement.clone());
    let keys = |array: &Array| array.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&merged)[..base.len()], keys(&base));
    assert!(replacement.iter().all(|(key, _)| merged.get(key).is_some()));

    let again = array_replace_recursive(merged.clone(), replacement.clone());
    let sizes = [base, replacement].map(|array| size_of_value(&Value::Array(array)));
    let merged = Value::Array(merged);
    let size = size_of_value(&merged);
    assert!(size.depth_max <= sizes[0].depth_max.max(sizes[1].depth_max));
    assert!(size.entry_count_max <= sizes[0].entry_count_max + sizes[1].entry_count_max);
    let bytes = serialized(&merged);
    assert_eq!(serialized(&Value::Array(again)), bytes, "what was said twice is said once");
    assert_reads_back(&bytes, &size);
}

/// Whatever request is accepted, workers can read what they are told of it, and it is not much longer than the request.
pub fn connect_body(data: &[u8]) {
    let Ok(Some((_, request))) = decode_request(data, REQUEST_BYTES_MAX) else { return };
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
    let mut body = Vec::new();
    on_websocket_connect_body(
        HandshakeRequest {
            method: request.method.as_bytes(),
            target: request.target.as_bytes(),
            version: request.version.as_bytes(),
            headers: request.headers().map(|(name, value)| (name.as_bytes(), value)),
        },
        remote,
        8282,
        &mut body,
    );
    assert!(body.len() <= 16 * data.len() + 1000, "{} of {}", body.len(), data.len());
    let array = array(&body).expect("workers can read it");
    for key in ["get", "server", "cookie"] {
        assert!(matches!(array.get(&key.into()), Some(Value::Array(_))), "{key}");
    }
    assert_eq!(serialized(&Value::Array(array)), body);
}

/// Checks that bytes are a value within these limits that is serialized to the same bytes. Values themselves are not
/// compared: NaN differs from itself.
fn assert_reads_back(bytes: &[u8], limits: &Limits) {
    let value = unserialize(bytes, limits).expect("what is serialized is a value");
    assert_eq!(serialized(&value), bytes);
}

fn array(bytes: &[u8]) -> Option<Array> {
    match unserialize(bytes, &Limits::default()) {
        Ok(Value::Array(array)) => Some(array),
        Ok(Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Str(_))
        | Err(_) => None,
    }
}

fn serialized(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    serialize(value, &mut out);
    out
}

/// The limits that a value just fits.
fn size_of_value(value: &Value) -> Limits {
    let mut size = Limits { depth_max: 0, entry_count_max: 0 };
    let mut rest = vec![(value, 1)];
    while let Some((value, depth)) = rest.pop() {
        if let Value::Array(array) = value {
            size.depth_max = size.depth_max.max(depth);
            size.entry_count_max += array.len();
            rest.extend(array.values().map(|value| (value, depth + 1)));
        }
    }
    size
}
