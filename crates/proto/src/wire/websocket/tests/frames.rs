//! Frames: golden bytes, splits, round trips, limits and memory.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::frame::apply_mask;
use super::super::{
    Decoder, Item, Limits, Opcode, REQUEST_BYTES_MAX, Violation, decode_request, decode_response,
    encode_close, encode_header, encode_masked,
};
use super::{Heard, LIMITS, MASK, RECORDING, client_hears, server_hears, stream_of};
use crate::wire::golden::written_by;

#[test]
fn frames_of_a_recorded_client_are_heard() {
    let stream = written_by("client", RECORDING);
    let (request_len, _) = decode_request(&stream, REQUEST_BYTES_MAX).unwrap().unwrap();
    let (heard, violation) = server_hears(&[&stream[request_len..]], &LIMITS);
    assert_eq!(violation, None);
    assert_eq!(heard[0], Heard::Text(b"hello".to_vec()));
    assert!(matches!(&heard[1], Heard::Text(call) if call.len() == 141));
    let rest = [
        Heard::Binary(vec![0xff, 0xfe, 0x00, 0x01]),
        Heard::Fragment,
        Heard::Text(b"abcdef".to_vec()),
        Heard::Ping(b"hi".to_vec()),
        Heard::Pong(vec![]),
    ];
    assert_eq!(heard[2..], rest);
}

#[test]
fn what_workerman_sent_is_encoded_the_same() {
    let stream = written_by("server", RECORDING);
    let key = b"dGhlIHNhbXBsZSBub25jZQ==";
    let response_len = decode_response(&stream, key, REQUEST_BYTES_MAX).unwrap().unwrap();
    let frames = &stream[response_len..];
    let (heard, violation) = client_hears(frames);
    assert_eq!((heard.len(), violation), (3, None));
    let mut encoded = Vec::new();
    for item in heard {
        let (opcode, payload) = match item {
            Heard::Text(payload) => (Opcode::Text, payload),
            Heard::Pong(payload) => (Opcode::Pong, payload),
            Heard::Binary(_) | Heard::Fragment | Heard::Ping(_) | Heard::Close(..) => {
                panic!("not in the recording")
            }
        };
        encode_header(opcode, payload.len(), &mut encoded);
        encoded.extend_from_slice(&payload);
    }
    assert_eq!(encoded, frames);
    // The long frames of the full recording, by their headers, and the answer to a close frame.
    let mut long = Vec::new();
    encode_header(Opcode::Text, 0x1_117c, &mut long);
    assert_eq!(long, [0x81, 0x7f, 0, 0, 0, 0, 0, 1, 0x11, 0x7c]);
    let mut close = Vec::new();
    encode_close(1000, &mut close);
    assert_eq!(close, [0x88, 0x02, 0x03, 0xe8]);
}

#[test]
fn a_stream_split_at_any_byte_is_heard_the_same() {
    let long = vec![b'x'; 300];
    let stream = stream_of(&[
        (Opcode::Text, true, "héllo".as_bytes()),
        (Opcode::Binary, true, &long),
        (Opcode::Text, false, &"你".as_bytes()[..1]),
        (Opcode::Ping, true, b"?"),
        (Opcode::Continuation, false, b""),
        (Opcode::Continuation, true, &"你".as_bytes()[1..]),
        (Opcode::Close, true, b"\x03\xe8bye"),
    ]);
    let whole = server_hears(&[&stream], &LIMITS);
    let expected = [
        Heard::Text("héllo".as_bytes().to_vec()),
        Heard::Binary(long),
        Heard::Fragment,
        Heard::Ping(b"?".to_vec()),
        Heard::Fragment,
        Heard::Text("你".as_bytes().to_vec()),
        Heard::Close(Some(1000), b"bye".to_vec()),
    ];
    assert_eq!(whole, (expected.to_vec(), None));
    for cut in 0..=stream.len() {
        let (before, after) = stream.split_at(cut);
        assert_eq!(server_hears(&[before, after], &LIMITS), whole, "cut at {cut}");
    }
    let drops: Vec<_> = stream.chunks(1).collect();
    assert_eq!(server_hears(&drops, &LIMITS), whole);
}

#[test]
fn an_incomplete_frame_is_left_as_it_is() {
    let stream = stream_of(&[(Opcode::Text, true, b"not unmasked twice")]);
    let mut decoder = Decoder::default();
    for cut in 0..stream.len() {
        let mut bytes = stream[..cut].to_vec();
        assert_eq!(decoder.decode(&mut bytes, &LIMITS), Ok(None));
        assert_eq!(bytes, stream[..cut]);
    }
}

#[test]
fn a_frame_behind_the_first_is_not_touched() {
    let first = stream_of(&[(Opcode::Text, true, b"first")]);
    let second = stream_of(&[(Opcode::Text, true, b"second")]);
    let mut bytes = [&first[..], &second].concat();
    let (len, _) = Decoder::default().decode(&mut bytes, &LIMITS).unwrap().unwrap();
    assert_eq!(len, first.len());
    assert_eq!(bytes[len..], second);
}

#[test]
fn a_message_of_the_limit_passes_and_one_byte_more_is_refused_from_its_header() {
    for limit in [0, 1, 125, 126, 1000, 65_535, 65_536] {
        let limits = Limits { message_bytes_max: limit, check_utf8: true };
        let payload = vec![b'x'; limit + 1];
        let fits = stream_of(&[(Opcode::Text, true, &payload[1..])]);
        assert_eq!(server_hears(&[&fits], &limits).1, None, "{limit}");
        let header_len = match limit + 1 {
            0..126 => 2,
            126..65_536 => 4,
            65_536.. => 10,
        };
        let too_big = &stream_of(&[(Opcode::Text, true, &payload)])[..header_len];
        assert_eq!(server_hears(&[too_big], &limits).1, Some(Violation::MessageTooBig), "{limit}");
    }
}

#[test]
fn the_limit_counts_all_fragments_and_no_control_frames() {
    let limits = Limits { message_bytes_max: 4, check_utf8: true };
    let mut frames = vec![
        (Opcode::Binary, false, &b"ab"[..]),
        (Opcode::Ping, true, b"longer than four"),
        (Opcode::Continuation, false, b""),
        (Opcode::Continuation, true, b"cd"),
    ];
    let heard = [
        Heard::Fragment,
        Heard::Ping(b"longer than four".to_vec()),
        Heard::Fragment,
        Heard::Binary(b"abcd".to_vec()),
    ];
    assert_eq!(server_hears(&[&stream_of(&frames)], &limits), (heard.to_vec(), None));
    frames[3].2 = b"cde";
    let (heard_before, violation) = server_hears(&[&stream_of(&frames)], &limits);
    assert_eq!((&heard_before[..], violation), (&heard[..3], Some(Violation::MessageTooBig)));
}

#[test]
fn a_length_no_machine_can_hold_is_too_big_even_without_a_limit() {
    let limits = Limits { message_bytes_max: usize::MAX, check_utf8: true };
    let mut bytes = vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5];
    assert_eq!(Decoder::default().decode(&mut bytes, &limits), Ok(None));
}

#[test]
fn a_fragmented_message_is_freed_by_the_call_after_it() {
    let mut stream =
        stream_of(&[(Opcode::Binary, false, b"ab"), (Opcode::Continuation, true, b"cd")]);
    let mut decoder = Decoder::default();
    assert_eq!(decoder.partial_bytes(), 0);
    let (len, item) = decoder.decode(&mut stream, &LIMITS).unwrap().unwrap();
    assert_eq!(item, Item::Fragment);
    let mut rest = stream.split_off(len);
    let (_, item) = decoder.decode(&mut rest, &LIMITS).unwrap().unwrap();
    assert_eq!(item, Item::Message { text: false, payload: b"abcd" });
    assert!(decoder.partial_bytes() >= 4);
    assert_eq!(decoder.decode(&mut [], &LIMITS), Ok(None));
    assert_eq!(decoder.partial_bytes(), 0);
}

#[test]
fn text_that_is_not_utf8_passes_when_it_is_not_checked() {
    let limits = Limits { check_utf8: false, ..LIMITS };
    let stream = stream_of(&[
        (Opcode::Text, true, b"\xff"),
        (Opcode::Text, false, b"\xfe"),
        (Opcode::Continuation, true, b"\xfd"),
    ]);
    let heard = [Heard::Text(vec![0xff]), Heard::Fragment, Heard::Text(vec![0xfe, 0xfd])];
    assert_eq!(server_hears(&[&stream], &limits), (heard.to_vec(), None));
}

proptest! {
    #[test]
    fn any_payload_is_heard_as_it_was_sent(
        payload in prop::collection::vec(any::<u8>(), 0..400),
        mask: [u8; 4],
    ) {
        let mut stream = Vec::new();
        encode_masked(Opcode::Binary, true, mask, &payload, &mut stream);
        prop_assert_eq!(server_hears(&[&stream], &LIMITS), (vec![Heard::Binary(payload.clone())], None));
        stream.clear();
        encode_header(Opcode::Binary, payload.len(), &mut stream);
        stream.extend_from_slice(&payload);
        prop_assert_eq!(client_hears(&stream), (vec![Heard::Binary(payload)], None));
    }

    #[test]
    fn masking_is_what_the_rfc_defines_byte_by_byte(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut masked = payload.clone();
        apply_mask(&mut masked, MASK);
        let expected: Vec<_> = payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        prop_assert_eq!(masked, expected);
    }
}
