//! RFC 6455, section by section. Bytes are written out, so that the encoder does not judge the decoder.

use alloc::vec;
use alloc::vec::Vec;

use super::super::{Limits, Opcode, Violation, encode_close, encode_header};
use super::{Heard, LIMITS, client_hears, server_hears, stream_of};

// Section 5.1: a server must close the connection upon a frame that is not masked.
#[test]
fn an_unmasked_frame_of_a_client_is_refused() {
    refuses(b"\x81\x05", Violation::Unmasked);
    refuses(b"\x89\x00", Violation::Unmasked);
}

// Section 5.1: a client must close the connection upon a frame that is masked.
#[test]
fn a_masked_frame_of_a_server_is_refused() {
    assert_eq!(client_hears(b"\x81\x80"), (vec![], Some(Violation::Masked)));
}

// Section 5.2, RSV1 to RSV3: must be zero, since no extension is ever negotiated.
#[test]
fn every_reserved_bit_is_refused_at_the_first_byte() {
    for bits in 1..8_u8 {
        refuses(&[0x81 | bits << 4], Violation::ReservedBits);
    }
}

// Section 5.2, opcode: 3 to 7 and 11 to 15 are reserved.
#[test]
fn every_reserved_opcode_is_refused_at_the_first_byte() {
    for number in (3..8).chain(11..16) {
        refuses(&[0x80 | number], Violation::UnknownOpcode { number });
        refuses(&[number], Violation::UnknownOpcode { number });
    }
}

// Section 5.2, payload length: the shortest form must be used.
#[test]
fn a_length_that_is_not_in_its_shortest_form_is_refused() {
    refuses(b"\x82\xfe\x00\x7d", Violation::LengthNotMinimal);
    refuses(b"\x82\xfe\x00\x00", Violation::LengthNotMinimal);
    refuses(b"\x82\xff\0\0\0\0\0\0\xff\xff", Violation::LengthNotMinimal);
    refuses(b"\x82\xff\0\0\0\0\0\0\x00\x05", Violation::LengthNotMinimal);
    accepts(b"\x82\xfe\x00\x7e");
    accepts(b"\x82\xff\0\0\0\0\0\x01\x00\x00");
}

// Section 5.2, payload length: the most significant bit of the 64 must be 0.
#[test]
fn a_length_with_its_top_bit_set_is_refused_at_that_byte() {
    refuses(b"\x82\xff\x80", Violation::LengthTopBit);
    accepts(b"\x82\xff\x7f");
}

// Section 5.2, payload length: the three forms and their borders.
#[test]
fn payloads_at_the_borders_of_the_length_forms_are_heard() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload = vec![b'x'; len];
        let stream = stream_of(&[(Opcode::Binary, true, &payload)]);
        let header_len = match len {
            0..126 => 6,
            126..65_536 => 8,
            65_536.. => 14,
        };
        assert_eq!(stream.len(), header_len + len);
        assert_eq!(server_hears(&[&stream], &LIMITS), (vec![Heard::Binary(payload.clone())], None));
        let mut stream = Vec::new();
        encode_header(Opcode::Binary, len, &mut stream);
        assert_eq!(stream.len(), header_len - 4);
        stream.extend_from_slice(&payload);
        assert_eq!(client_hears(&stream), (vec![Heard::Binary(payload)], None));
    }
}

// Section 5.3: octet i of the payload is combined with octet i modulo 4 of the key.
#[test]
fn the_rfcs_masked_hello_is_unmasked() {
    let heard = server_hears(&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"], &LIMITS);
    assert_eq!(heard, (vec![text("Hello")], None));
}

// Section 5.4: fragments concatenated in order are the message; control frames may come between them.
#[test]
fn fragments_are_one_message_and_control_frames_pass_between_them() {
    let stream = stream_of(&[
        (Opcode::Text, false, b"Hel"),
        (Opcode::Ping, true, b"1"),
        (Opcode::Continuation, false, b""),
        (Opcode::Pong, true, b"2"),
        (Opcode::Continuation, true, b"lo"),
        (Opcode::Binary, true, b"next"),
    ]);
    let expected = vec![
        Heard::Fragment,
        Heard::Ping(b"1".to_vec()),
        Heard::Fragment,
        Heard::Pong(b"2".to_vec()),
        text("Hello"),
        Heard::Binary(b"next".to_vec()),
    ];
    assert_eq!(server_hears(&[&stream], &LIMITS), (expected, None));
}

// Section 5.4: a fragmented message is of the type its first frame says.
#[test]
fn fragments_are_of_the_first_frames_type() {
    let stream = stream_of(&[(Opcode::Binary, false, b"\xff"), (Opcode::Continuation, true, b"")]);
    let expected = vec![Heard::Fragment, Heard::Binary(vec![0xff])];
    assert_eq!(server_hears(&[&stream], &LIMITS), (expected, None));
}

// Section 5.4: a message may consist of empty fragments only.
#[test]
fn empty_fragments_are_an_empty_message() {
    let stream = stream_of(&[(Opcode::Text, false, b""), (Opcode::Continuation, true, b"")]);
    assert_eq!(server_hears(&[&stream], &LIMITS), (vec![Heard::Fragment, text("")], None));
}

// Section 5.4: a continuation needs a message to continue.
#[test]
fn a_continuation_of_nothing_is_refused() {
    refuses(b"\x80", Violation::ContinuationWithoutStart);
    refuses(b"\x00", Violation::ContinuationWithoutStart);
    let mut stream = stream_of(&[(Opcode::Text, false, b""), (Opcode::Continuation, true, b"")]);
    stream.push(0x80);
    let heard = (vec![Heard::Fragment, text("")], Some(Violation::ContinuationWithoutStart));
    assert_eq!(server_hears(&[&stream], &LIMITS), heard);
}

// Section 5.4: the fragments of one message must not be interleaved with another message.
#[test]
fn a_message_inside_a_fragmented_message_is_refused() {
    for first_byte in [0x81, 0x82, 0x01, 0x02] {
        let mut stream = stream_of(&[(Opcode::Text, false, b"a")]);
        stream.push(first_byte);
        let heard = (vec![Heard::Fragment], Some(Violation::DataInsideFragments));
        assert_eq!(server_hears(&[&stream], &LIMITS), heard);
    }
}

// Sections 5.4 and 5.5: control frames must not be fragmented.
#[test]
fn a_fragmented_control_frame_is_refused() {
    for opcode in [8, 9, 10] {
        refuses(&[opcode], Violation::FragmentedControl);
    }
}

// Section 5.5: control frames have at most 125 bytes of payload.
#[test]
fn a_control_frame_of_125_bytes_passes_and_a_longer_one_is_refused() {
    let payload = vec![b'x'; 125];
    let stream = stream_of(&[(Opcode::Ping, true, &payload), (Opcode::Pong, true, &payload)]);
    let expected = vec![Heard::Ping(payload.clone()), Heard::Pong(payload)];
    assert_eq!(server_hears(&[&stream], &LIMITS), (expected, None));
    for opcode in [0x88, 0x89, 0x8a] {
        refuses(&[opcode, 0xfe], Violation::ControlTooLong);
        refuses(&[opcode, 0xff], Violation::ControlTooLong);
    }
}

// Section 5.5.1: a close frame may have a body: a status code, then a reason in UTF-8.
#[test]
fn close_frames_with_and_without_a_body_are_heard() {
    hears_close(b"", None, "");
    hears_close(b"\x03\xe8", Some(1000), "");
    hears_close(b"\x0f\xa0going", Some(4000), "going");
}

// Section 5.5.1: what follows a close frame is not data.
#[test]
fn nothing_is_heard_behind_a_close_frame() {
    let stream = stream_of(&[(Opcode::Close, true, b""), (Opcode::Text, true, b"late")]);
    assert_eq!(server_hears(&[&stream], &LIMITS), (vec![Heard::Close(None, vec![])], None));
}

// Section 5.5.1: a body, if there is one, begins with two bytes of status code.
#[test]
fn a_close_frame_with_one_byte_is_refused_from_its_header() {
    refuses(b"\x88\x81", Violation::ClosePayload);
}

// Section 5.5.1: the reason is UTF-8.
#[test]
fn a_close_reason_that_is_not_utf8_is_refused() {
    let stream = stream_of(&[(Opcode::Close, true, b"\x03\xe8\xff")]);
    assert_eq!(server_hears(&[&stream], &LIMITS), (vec![], Some(Violation::CloseReason)));
}

// Section 5.5.1: an endpoint that got a close frame answers with one, usually with the same code.
#[test]
fn the_answer_to_a_close_frame_is_a_close_frame() {
    let mut answer = Vec::new();
    encode_close(1001, &mut answer);
    assert_eq!(client_hears(&answer), (vec![Heard::Close(Some(1001), vec![])], None));
}

// Sections 5.5.2 and 5.5.3: a pong carries its ping's payload; one that nobody asked for is allowed.
#[test]
fn pings_and_pongs_give_their_payload() {
    let stream = b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x8a\x80\0\0\0\0";
    let expected = vec![Heard::Ping(b"Hello".to_vec()), Heard::Pong(vec![])];
    assert_eq!(server_hears(&[stream], &LIMITS), (expected, None));
}

// Section 5.7: the examples, unmasked and masked.
#[test]
fn the_rfcs_examples_are_heard() {
    assert_eq!(client_hears(b"\x81\x05Hello"), (vec![text("Hello")], None));
    assert_eq!(
        client_hears(b"\x01\x03Hel\x80\x02lo"),
        (vec![Heard::Fragment, text("Hello")], None)
    );
    assert_eq!(client_hears(b"\x89\x05Hello"), (vec![Heard::Ping(b"Hello".to_vec())], None));
    let mut stream = b"\x82\x7e\x01\x00".to_vec();
    stream.resize(4 + 256, 7);
    assert_eq!(client_hears(&stream), (vec![Heard::Binary(vec![7; 256])], None));
    let mut stream = b"\x82\x7f\0\0\0\0\0\x01\0\0".to_vec();
    stream.resize(10 + 65_536, 7);
    assert_eq!(client_hears(&stream), (vec![Heard::Binary(vec![7; 65_536])], None));
}

// Section 5.8: opcodes and reserved bits are for extensions; without one they fail the connection, also on frames that
// would otherwise be good.
#[test]
fn a_compressed_message_is_refused_since_no_extension_is_negotiated() {
    refuses(b"\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\x00", Violation::ReservedBits);
}

// Section 7.4.1: which codes may be in a close frame; 1004, 1005, 1006 and 1015 must not, 1012 to 1014 came later.
// Section 7.4.2: 0 to 999 are not used, 1016 to 2999 are reserved, 3000 to 4999 are free to libraries and programs.
#[test]
fn only_codes_that_may_be_sent_are_heard() {
    let good = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
    let good: Vec<u16> = good.collect();
    for code in 0..=u16::MAX {
        let stream = stream_of(&[(Opcode::Close, true, &code.to_be_bytes())]);
        let expected = if good.binary_search(&code).is_ok() {
            (vec![Heard::Close(Some(code), vec![])], None)
        } else {
            (vec![], Some(Violation::CloseCode { code }))
        };
        assert_eq!(server_hears(&[&stream], &LIMITS), expected);
    }
}

// Section 7.4.1: 1002 for a broken protocol, 1007 for data that contradicts its type, 1009 for a message too big.
#[test]
fn every_violation_has_the_close_code_of_its_kind() {
    let protocol = [
        Violation::Unmasked,
        Violation::Masked,
        Violation::ReservedBits,
        Violation::UnknownOpcode { number: 3 },
        Violation::LengthNotMinimal,
        Violation::LengthTopBit,
        Violation::ContinuationWithoutStart,
        Violation::DataInsideFragments,
        Violation::FragmentedControl,
        Violation::ControlTooLong,
        Violation::ClosePayload,
        Violation::CloseCode { code: 0 },
    ];
    assert!(protocol.iter().all(|violation| violation.close_code() == 1002));
    assert_eq!(Violation::InvalidUtf8.close_code(), 1007);
    assert_eq!(Violation::CloseReason.close_code(), 1007);
    assert_eq!(Violation::MessageTooBig.close_code(), 1009);
}

// Section 8.1: a text message that is not UTF-8 fails the connection.
#[test]
fn text_that_is_not_utf8_is_refused() {
    // A lone continuation, an overlong slash, a surrogate, beyond U+10FFFF, and a character without its end.
    for bad in [&b"\x80"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xe4\xbd"] {
        let stream = stream_of(&[(Opcode::Text, true, bad)]);
        assert_eq!(server_hears(&[&stream], &LIMITS), (vec![], Some(Violation::InvalidUtf8)));
    }
}

// Section 8.1, with 5.4: a character may be cut by fragments, and the message is judged as a whole.
#[test]
fn a_character_cut_by_fragments_at_any_byte_is_heard() {
    let payload = "κόσμε 你 😀".as_bytes();
    for cut in 0..=payload.len() {
        let (first, second) = payload.split_at(cut);
        let stream =
            stream_of(&[(Opcode::Text, false, first), (Opcode::Continuation, true, second)]);
        let expected = vec![Heard::Fragment, Heard::Text(payload.to_vec())];
        assert_eq!(server_hears(&[&stream], &LIMITS), (expected, None), "cut at {cut}");
    }
    let drops: Vec<_> = payload.chunks(1).map(|drop| (Opcode::Continuation, false, drop)).collect();
    let mut frames = vec![(Opcode::Text, false, &b""[..])];
    frames.extend(drops);
    frames.push((Opcode::Continuation, true, b""));
    let (heard, violation) = server_hears(&[&stream_of(&frames)], &LIMITS);
    assert_eq!((heard.last(), violation), (Some(&Heard::Text(payload.to_vec())), None));
}

// Section 8.1: bad text is refused with the fragment that proves it bad, not only with the last.
#[test]
fn a_fragment_that_is_not_utf8_is_refused_before_the_message_ends() {
    let stream =
        stream_of(&[(Opcode::Text, false, b"\xe4\xbd"), (Opcode::Continuation, false, b"x")]);
    assert_eq!(
        server_hears(&[&stream], &LIMITS),
        (vec![Heard::Fragment], Some(Violation::InvalidUtf8))
    );
    let stream =
        stream_of(&[(Opcode::Text, false, b"\xe4\xbd"), (Opcode::Continuation, true, b"")]);
    assert_eq!(
        server_hears(&[&stream], &LIMITS),
        (vec![Heard::Fragment], Some(Violation::InvalidUtf8))
    );
}

// Section 8.1 speaks of text only.
#[test]
fn binary_messages_and_pings_need_not_be_utf8() {
    let stream = stream_of(&[(Opcode::Binary, true, b"\xff"), (Opcode::Ping, true, b"\xff")]);
    let expected = vec![Heard::Binary(vec![0xff]), Heard::Ping(vec![0xff])];
    assert_eq!(server_hears(&[&stream], &LIMITS), (expected, None));
}

/// Nothing is heard of this stream but the violation.
fn refuses(stream: &[u8], violation: Violation) {
    assert_eq!(server_hears(&[stream], &LIMITS), (vec![], Some(violation)), "{stream:02x?}");
}

/// These bytes may begin a frame.
fn accepts(stream: &[u8]) {
    let limits = Limits { message_bytes_max: usize::MAX, check_utf8: true };
    assert_eq!(server_hears(&[stream], &limits), (vec![], None), "{stream:02x?}");
}

fn hears_close(body: &[u8], code: Option<u16>, reason: &str) {
    let stream = stream_of(&[(Opcode::Close, true, body)]);
    let expected = Heard::Close(code, reason.as_bytes().to_vec());
    assert_eq!(server_hears(&[&stream], &LIMITS), (vec![expected], None));
}

fn text(text: &str) -> Heard {
    Heard::Text(text.as_bytes().to_vec())
}
