//! The opening handshake: golden bytes, splits, what is refused, and how.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::{
    HEADER_COUNT_MAX, HandshakeError, REQUEST_BYTES_MAX, ResponseError, accept_key, decode_request,
    decode_response, encode_refusal, encode_request, encode_response, request_key,
};
use super::RECORDING;
use crate::wire::golden::written_by;

// Section 1.3 of RFC 6455.
const KEY: &[u8; 24] = b"dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn workermans_answer_is_given_byte_for_byte() {
    let client = written_by("client", RECORDING);
    let (request_len, request) = decode_request(&client, REQUEST_BYTES_MAX).unwrap().unwrap();
    assert!(client[..request_len].ends_with(b"\r\n\r\n"));
    assert_eq!((request.method, request.version), ("GET", "1.1"));
    assert_eq!(request.target, "/chat?room=7&x=%E4%BD%A0");
    let headers: Vec<_> = request.headers().collect();
    let expected = [
        ("Host", &b"127.0.0.1:8282"[..]),
        ("Upgrade", b"websocket"),
        ("Connection", b"Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", b"13"),
        ("Cookie", b"a=1; b=2"),
        ("X-Test", b"yes"),
    ];
    assert_eq!(headers, expected);
    let mut response = Vec::new();
    encode_response(request.key, &mut response);
    assert_eq!(response, written_by("server", RECORDING)[..response.len()]);
    assert!(response.ends_with(b"\r\n\r\n"));
}

// Section 1.3 of RFC 6455.
#[test]
fn the_rfcs_key_has_the_rfcs_answer() {
    assert_eq!(&accept_key(KEY), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(&request_key(*b"the sample nonce"), KEY);
}

#[test]
fn a_request_cut_at_any_byte_is_incomplete() {
    let whole = request(&[]);
    for cut in 0..whole.len() {
        assert!(
            matches!(decode_request(&whole[..cut], REQUEST_BYTES_MAX), Ok(None)),
            "cut at {cut}"
        );
    }
    let with_frame = [&whole[..], b"\x81\x80"].concat();
    assert_eq!(decode_request(&with_frame, REQUEST_BYTES_MAX).unwrap().unwrap().0, whole.len());
}

// Section 4.2.1: the tokens are compared without regard to case, among others, over several lines.
#[test]
fn tokens_are_found_in_lists_and_in_any_case() {
    for (upgrade, connection) in [
        ("WebSocket", "UPGRADE"),
        ("h2c, websocket", "keep-alive, Upgrade"),
        ("websocket", "keep-alive\r\nConnection: ,upgrade ,"),
    ] {
        let request = request(&[("Upgrade", Some(upgrade)), ("Connection", Some(connection))]);
        assert!(decode_request(&request, REQUEST_BYTES_MAX).unwrap().is_some());
    }
}

// Section 4.2.1, item by item.
#[test]
fn a_request_that_lacks_what_the_rfc_asks_is_refused() {
    for (header, value, error) in [
        ("Host", None, HandshakeError::Host),
        ("Host", Some("a\r\nHost: b"), HandshakeError::Host),
        ("Upgrade", None, HandshakeError::Upgrade),
        ("Upgrade", Some("websockets"), HandshakeError::Upgrade),
        ("Connection", None, HandshakeError::Connection),
        ("Connection", Some("keep-alive"), HandshakeError::Connection),
        ("Sec-WebSocket-Key", None, HandshakeError::Key),
        ("Sec-WebSocket-Key", Some(""), HandshakeError::Key),
        ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ"), HandshakeError::Key),
        ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZSE="), HandshakeError::Key),
        ("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25j*Q=="), HandshakeError::Key),
        ("Sec-WebSocket-Version", None, HandshakeError::VersionMissing),
        ("Sec-WebSocket-Version", Some("8"), HandshakeError::VersionUnsupported),
        ("Sec-WebSocket-Version", Some("13, 8"), HandshakeError::VersionUnsupported),
    ] {
        refuses(&request(&[(header, value)]), error);
    }
    let twice = request(&[("X-Test", Some("yes\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="))]);
    refuses(&twice, HandshakeError::Key);
}

#[test]
fn what_cannot_become_a_request_is_refused_at_once() {
    for (bytes, error) in [
        (&b"\x16\x03\x01"[..], HandshakeError::Method),
        (b"\r\nGET / HTTP/1.1\r\n", HandshakeError::Method),
        (b"H", HandshakeError::Method),
        (b"POST / HTTP/1.1\r\n", HandshakeError::Method),
        (b"GETS", HandshakeError::Method),
        (b"GET  ", HandshakeError::Malformed),
        (b"GET /\0", HandshakeError::Malformed),
        (b"GET / HTTP/2", HandshakeError::HttpVersion),
        (b"GET / x", HandshakeError::HttpVersion),
        (b"GET / HTTP/1.1\r\nno colon\r\n", HandshakeError::Malformed),
        (b"GET / HTTP/1.1\r\n folded: x\r\n", HandshakeError::Malformed),
        (b"GET / HTTP/1.1\r\na: b\0", HandshakeError::Malformed),
    ] {
        refuses(bytes, error);
    }
    let old = String::from_utf8(request(&[])).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    refuses(old.as_bytes(), HandshakeError::HttpVersion);
}

#[test]
fn a_request_of_the_limit_passes_and_one_byte_more_is_refused() {
    let whole = request(&[]);
    assert!(decode_request(&whole, whole.len()).unwrap().is_some());
    for bytes in [&whole[..], &whole[..whole.len() - 1]] {
        assert_eq!(decode_request(bytes, whole.len() - 1).unwrap_err(), HandshakeError::TooLarge);
    }
    let endless = [&b"GET /"[..], &vec![b'x'; REQUEST_BYTES_MAX]].concat();
    refuses(&endless, HandshakeError::TargetTooLong);
}

#[test]
fn more_headers_than_the_limit_are_refused() {
    let with_headers = |count: usize| {
        let more = "x: y\r\n".repeat(count - request_headers().len());
        let whole = String::from_utf8(request(&[])).unwrap();
        whole.replace("X-Test:", &alloc::format!("{more}X-Test:")).into_bytes()
    };
    let most = with_headers(HEADER_COUNT_MAX);
    let (_, request) = decode_request(&most, REQUEST_BYTES_MAX).unwrap().unwrap();
    assert_eq!(request.headers().count(), HEADER_COUNT_MAX);
    refuses(&with_headers(HEADER_COUNT_MAX + 1), HandshakeError::TooManyHeaders);
}

// Section 4.4: a version that is not spoken is answered with the one that is. RFC 9110 asks for Allow with 405.
#[test]
fn a_refusal_is_a_whole_http_response() {
    for (error, status, header) in [
        (HandshakeError::Method, "405 Method Not Allowed", "Allow: GET"),
        (HandshakeError::Malformed, "400 Bad Request", ""),
        (HandshakeError::HttpVersion, "505 HTTP Version Not Supported", ""),
        (HandshakeError::TargetTooLong, "414 URI Too Long", ""),
        (HandshakeError::TooLarge, "431 Request Header Fields Too Large", ""),
        (HandshakeError::TooManyHeaders, "431 Request Header Fields Too Large", ""),
        (HandshakeError::Host, "400 Bad Request", ""),
        (HandshakeError::Upgrade, "400 Bad Request", ""),
        (HandshakeError::Connection, "400 Bad Request", ""),
        (HandshakeError::Key, "400 Bad Request", ""),
        (HandshakeError::VersionMissing, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        (HandshakeError::VersionUnsupported, "426 Upgrade Required", "Sec-WebSocket-Version: 13"),
    ] {
        let mut refusal = Vec::new();
        encode_refusal(&error, &mut refusal);
        let refusal = String::from_utf8(refusal).unwrap();
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some(&*alloc::format!("HTTP/1.1 {status}")));
        assert!(header.is_empty() || head.contains(header), "{refusal}");
        assert!(
            lines.clone().any(|line| line == alloc::format!("Content-Length: {}", body.len())),
            "{refusal}"
        );
        assert!(lines.any(|line| line.starts_with("Connection: close")), "{refusal}");
        assert_eq!(body, alloc::format!("{error}\n"));
    }
}

#[test]
fn a_clients_request_is_accepted_and_the_answer_to_it_too() {
    let mut bytes = Vec::new();
    encode_request("example.com", "/a?b=c", KEY, &[("Cookie", "a=1")], &mut bytes);
    let (request_len, request) = decode_request(&bytes, REQUEST_BYTES_MAX).unwrap().unwrap();
    assert_eq!((request_len, request.target, request.key), (bytes.len(), "/a?b=c", &KEY[..]));
    assert_eq!(request.headers().last(), Some(("Cookie", &b"a=1"[..])));
    let mut response = Vec::new();
    encode_response(request.key, &mut response);
    for cut in 0..response.len() {
        assert_eq!(
            decode_response(&response[..cut], KEY, REQUEST_BYTES_MAX),
            Ok(None),
            "cut at {cut}"
        );
    }
    assert_eq!(decode_response(&response, KEY, REQUEST_BYTES_MAX), Ok(Some(response.len())));
}

// Section 4.1, what a client checks of the answer.
#[test]
fn an_answer_that_does_not_open_a_websocket_is_refused() {
    let mut good = Vec::new();
    encode_response(KEY, &mut good);
    let good = String::from_utf8(good).unwrap();
    for (from, to, error) in [
        ("101 Switching Protocol", "200 OK", ResponseError::Status { status: 200 }),
        ("Upgrade: websocket", "Upgrade: other", ResponseError::NotSwitched),
        ("Connection: Upgrade", "Connection: close", ResponseError::NotSwitched),
        ("s3pP", "S3pP", ResponseError::Accept),
        ("Sec-WebSocket-Accept", "Sec-WebSocket-Accepted", ResponseError::Accept),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: x", ResponseError::Extension),
        ("HTTP/1.1", "SSH-2.0", ResponseError::Malformed),
    ] {
        assert_eq!(
            decode_response(good.replace(from, to).as_bytes(), KEY, REQUEST_BYTES_MAX),
            Err(error),
            "{to}"
        );
    }
    assert_eq!(
        decode_response(good.as_bytes(), KEY, good.len() - 1),
        Err(ResponseError::Malformed)
    );
}

proptest! {
    #[test]
    fn a_mangled_request_is_judged_the_same_however_it_is_split(
        at in 0..200_usize,
        with: u8,
        limit in prop_oneof![Just(REQUEST_BYTES_MAX), 0..260_usize],
    ) {
        let mut bytes = request(&[]);
        let at = at % bytes.len();
        bytes[at] = with;
        let judge = |bytes: &[u8]| decode_request(bytes, limit).map(|done| done.map(|(len, request)| (len, request.key.to_vec())));
        let whole = judge(&bytes);
        let first = (0..=bytes.len()).map(|len| judge(&bytes[..len])).find(|verdict| *verdict != Ok(None));
        prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
    }
}

fn request_headers() -> [(&'static str, &'static str); 6] {
    [
        ("Host", "example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("X-Test", "yes"),
    ]
}

/// A good request, but for some headers that have another value or are left out.
fn request(changes: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut request = String::from("GET /chat HTTP/1.1\r\n");
    for (name, value) in request_headers() {
        let change = changes.iter().find(|(changed, _)| *changed == name);
        if let Some(value) = change.map_or(Some(value), |(_, value)| *value) {
            request += &alloc::format!("{name}: {value}\r\n");
        }
    }
    (request + "\r\n").into_bytes()
}

fn refuses(bytes: &[u8], error: HandshakeError) {
    let shown = bytes.escape_ascii();
    assert_eq!(decode_request(bytes, REQUEST_BYTES_MAX).map(|_| ()), Err(error), "{shown}");
}
