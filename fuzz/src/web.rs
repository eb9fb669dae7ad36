//! Targets of the websocket protocol.

use tengate_proto::wire::websocket::{
    ClientDecoder, Decoder, HEADER_COUNT_MAX, Item, Limits, Opcode, Violation, decode_request,
    decode_response, encode_header, encode_masked, encode_refusal, encode_response,
};

use crate::stream::{Heard, hear, split};

/// Longest message and longest request, in bytes.
const BYTES_MAX: usize = 1000;

/// What a frame brought, as the opcode and the payload that say the same in one frame; nothing for a fragment.
type Brought = Option<(Opcode, Vec<u8>)>;

/// A split changes nothing, memory is bounded, and a client hears what a server sends on.
pub fn websocket(data: &[u8]) {
    let Some((bits, data)) = data.split_first() else { return };
    let Some((stream, parts)) = split(data) else { return };
    let limits = Limits { message_bytes_max: BYTES_MAX, check_utf8: bits & 1 == 0 };
    let heard = server_hears(&[stream], &limits);
    assert_eq!(server_hears(&parts, &limits), heard);
    if let Some(violation) = heard.1 {
        assert!(matches!(violation.close_code(), 1002 | 1007 | 1009), "{violation}");
    }
    for brought in heard.0 {
        let Some((opcode, payload)) = &brought else { continue };
        let mut sent_on = Vec::new();
        encode_header(*opcode, payload.len(), &mut sent_on);
        sent_on.extend_from_slice(payload);
        assert_eq!(client_hears(&[&sent_on], &limits), (vec![brought], None));
    }
}

/// A split changes nothing, and a server hears what a client sends on.
pub fn websocket_client(data: &[u8]) {
    let Some((bits, data)) = data.split_first() else { return };
    let Some((stream, parts)) = split(data) else { return };
    let limits = Limits { message_bytes_max: BYTES_MAX, check_utf8: bits & 1 == 0 };
    let heard = client_hears(&[stream], &limits);
    assert_eq!(client_hears(&parts, &limits), heard);
    for brought in heard.0 {
        let Some((opcode, payload)) = &brought else { continue };
        let mut sent_on = Vec::new();
        encode_masked(*opcode, true, [*bits, 2, 3, 4], payload, &mut sent_on);
        assert_eq!(server_hears(&[&sent_on], &limits), (vec![brought], None));
    }
}

/// More bytes never change a verdict; a good request is answered so that its client agrees.
pub fn handshake(data: &[u8]) {
    let Some((stream, [before, _])) = split(data) else { return };
    let verdict = |bytes: &[u8]| {
        decode_request(bytes, BYTES_MAX)
            .map(|done| done.map(|(len, request)| (len, request.key.to_vec())))
    };
    let early = verdict(before);
    if early != Ok(None) {
        assert_eq!(verdict(stream), early);
    }
    match decode_request(stream, BYTES_MAX) {
        Ok(None) => assert!(stream.len() < BYTES_MAX),
        Ok(Some((len, request))) => {
            assert!(
                len <= stream.len().min(BYTES_MAX) && request.headers().count() <= HEADER_COUNT_MAX
            );
            let key = request.key.try_into().expect("keys have 24 characters");
            let mut response = Vec::new();
            encode_response(request.key, &mut response);
            assert_eq!(decode_response(&response, key, BYTES_MAX), Ok(Some(response.len())));
        }
        Err(error) => {
            let mut refusal = Vec::new();
            encode_refusal(&error, &mut refusal);
            assert!(refusal.starts_with(b"HTTP/1.1 4") || refusal.starts_with(b"HTTP/1.1 5"));
        }
    }
    let key = b"dGhlIHNhbXBsZSBub25jZQ==";
    let early = decode_response(before, key, BYTES_MAX);
    if early != Ok(None) {
        assert_eq!(decode_response(stream, key, BYTES_MAX), early);
    }
}

fn server_hears(reads: &[&[u8]], limits: &Limits) -> Heard<Brought, Violation> {
    let mut decoder = Decoder::default();
    hear(reads, |bytes| {
        let decoded = decoder.decode(bytes, limits)?.map(own);
        assert!(decoder.partial_bytes() <= 2 * BYTES_MAX);
        Ok(decoded)
    })
}

fn client_hears(reads: &[&[u8]], limits: &Limits) -> Heard<Brought, Violation> {
    let mut decoder = ClientDecoder::default();
    hear(reads, |bytes| Ok(decoder.decode(bytes, limits)?.map(own)))
}

fn own((len, item): (usize, Item<'_>)) -> (usize, Brought) {
    let brought = match item {
        Item::Message { text: true, payload } => Some((Opcode::Text, payload.to_vec())),
        Item::Message { text: false, payload } => Some((Opcode::Binary, payload.to_vec())),
        Item::Fragment => None,
        Item::Ping(payload) => Some((Opcode::Ping, payload.to_vec())),
        Item::Pong(payload) => Some((Opcode::Pong, payload.to_vec())),
        Item::Close { code: None, .. } => Some((Opcode::Close, Vec::new())),
        Item::Close { code: Some(code), reason } => {
            Some((Opcode::Close, [&code.to_be_bytes(), reason].concat()))
        }
    };
    (len, brought)
}
