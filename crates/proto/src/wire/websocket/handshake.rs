//! The opening handshake (RFC 6455 section 4): requests and refusals on the server, and the client's half.
//!
//! The answer to a good request is Workerman's, byte for byte. A request is read where it lies; only its limit bounds
//! how often a slow client can make the server look at the same bytes.

use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write as _;

use sha1::{Digest as _, Sha1};

/// The limit on a request that most HTTP servers have, in bytes.
pub const REQUEST_BYTES_MAX: usize = 8192;

/// Most headers of a request or response.
pub const HEADER_COUNT_MAX: usize = 64;

/// A request that asks, correctly, to open a websocket. Borrowed from the bytes it was decoded from.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET`.
    pub method: &'a str,
    /// The request target as it was sent: path and query.
    pub target: &'a str,
    /// The HTTP version, `1.1`.
    pub version: &'static str,
    /// `Sec-WebSocket-Key`, 24 characters of base64; for [`encode_response`].
    pub key: &'a [u8],
    headers: Headers<'a>,
}

/// Why a request is refused; always the client's fault (or that of a proxy before it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The request does not begin with `GET `.
    Method,
    /// Not HTTP.
    Malformed,
    /// HTTP, but not version 1.1.
    HttpVersion,
    /// The request line alone is longer than the limit.
    TargetTooLong,
    /// The request is longer than the limit.
    TooLarge,
    /// More than [`HEADER_COUNT_MAX`] headers.
    TooManyHeaders,
    /// Not exactly one `Host`.
    Host,
    /// `Upgrade` does not name `websocket`.
    Upgrade,
    /// `Connection` does not name `upgrade`.
    Connection,
    /// Not exactly one `Sec-WebSocket-Key` of 16 bytes in base64.
    Key,
    /// Not exactly one `Sec-WebSocket-Version`.
    VersionMissing,
    /// A websocket version other than 13.
    VersionUnsupported,
}

/// Decodes a request at the front of `bytes`: its length and the request, or `None` while it is incomplete.
///
/// `request_bytes_max` is usually [`REQUEST_BYTES_MAX`].
///
/// # Errors
/// The request is no websocket handshake (RFC 6455 section 4.2.1) or exceeds a limit, as soon as the bytes at hand
/// prove it. Answer with [`encode_refusal`] and close.
pub fn decode_request(
    bytes: &[u8],
    request_bytes_max: usize,
) -> Result<Option<(usize, Request<'_>)>, HandshakeError> {
    // Nothing beyond the limit is looked at, so that the verdict does not depend on how much has come.
    let within_limit = &bytes[..bytes.len().min(request_bytes_max)];
    if !within_limit.iter().zip(b"GET ").all(|(byte, expected)| byte == expected) {
        return Err(HandshakeError::Method);
    }
    let mut headers = Headers::EMPTY;
    let mut request = httparse::Request::new(&mut headers.slots);
    let (request_len, method, target) = match request.parse(within_limit) {
        Ok(httparse::Status::Complete(request_len)) => {
            (request_len, request.method.unwrap_or_default(), request.path.unwrap_or_default())
        }
        Ok(httparse::Status::Partial) if bytes.len() < request_bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) if within_limit.contains(&b'\n') => {
            return Err(HandshakeError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Err(HandshakeError::TargetTooLong),
        Err(error) => return Err(error.into()),
    };
    if request.version != Some(1) {
        return Err(HandshakeError::HttpVersion);
    }
    headers.count = request.headers.len();
    let key = check_headers(&headers)?;
    Ok(Some((request_len, Request { method, target, version: "1.1", key, headers })))
}

impl<'a> Request<'a> {
    /// The headers in the order they came: names as sent, values without the white space around them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter()
    }
}

/// Appends the answer that opens the websocket, for a request with this key.
pub fn encode_response(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocol\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept_key(key));
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends an HTTP response that says why the request was refused; the connection is to be closed after it.
pub fn encode_refusal(error: &HandshakeError, out: &mut Vec<u8>) {
    let (status, headers) = match error {
        HandshakeError::Malformed
        | HandshakeError::Host
        | HandshakeError::Upgrade
        | HandshakeError::Connection
        | HandshakeError::Key => ("400 Bad Request", "Connection: close\r\n"),
        HandshakeError::VersionMissing => {
            ("400 Bad Request", "Sec-WebSocket-Version: 13\r\nConnection: close\r\n")
        }
        HandshakeError::Method => ("405 Method Not Allowed", "Allow: GET\r\nConnection: close\r\n"),
        HandshakeError::TargetTooLong => ("414 URI Too Long", "Connection: close\r\n"),
        // RFC 9110 section 15.5.22 asks for Upgrade, and section 7.8 for its name in Connection.
        HandshakeError::VersionUnsupported => (
            "426 Upgrade Required",
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: close, Upgrade\r\n",
        ),
        HandshakeError::TooLarge | HandshakeError::TooManyHeaders => {
            ("431 Request Header Fields Too Large", "Connection: close\r\n")
        }
        HandshakeError::HttpVersion => ("505 HTTP Version Not Supported", "Connection: close\r\n"),
    };
    let body_len = error.reason().len() + 1;
    let head = format_args!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {body_len}\r\n{headers}\r\n{error}\n"
    );
    write!(Appender(out), "{head}").expect("appending to memory does not fail");
}

/// Appends the answer to a client whom no worker can serve now.
pub fn encode_unavailable(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 29\r\n\
          Retry-After: 1\r\nConnection: close\r\n\r\nno worker is connected (yet)\n",
    );
}

/// What a server answers to a key (RFC 6455 section 4.2.2): base64 of the SHA-1 of the key and a fixed text.
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    base64(&digest)
}

/// A client's key: base64 of 16 random bytes.
pub fn request_key(nonce: [u8; 16]) -> [u8; 24] {
    base64(&nonce)
}

/// Appends a client's request to open a websocket at `target` (path and query) of `host`.
///
/// `key` is [`request_key`]'s. The strings must be valid in HTTP; they are written as they are.
pub fn encode_request(
    host: &str,
    target: &str,
    key: &[u8; 24],
    extra_headers: &[(&str, &str)],
    out: &mut Vec<u8>,
) {
    for part in [
        "GET ",
        target,
        " HTTP/1.1\r\nHost: ",
        host,
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"Sec-WebSocket-Key: ");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\nSec-WebSocket-Version: 13\r\n");
    for (name, value) in extra_headers {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Why a client cannot go on after the server's answer; the server's fault, or its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Not HTTP, too many headers, or longer than the limit.
    Malformed,
    /// The server answered with another status than 101.
    Status {
        /// The HTTP status.
        status: u16,
    },
    /// `Upgrade` or `Connection` does not say that the protocol is switched.
    NotSwitched,
    /// `Sec-WebSocket-Accept` does not belong to the key.
    Accept,
    /// The server chose an extension; none was offered.
    Extension,
}

/// Decodes a server's answer at the front of `bytes`: its length, or `None` while it is incomplete.
///
/// # Errors
/// The server refused, or its answer breaks RFC 6455 section 4.1; the connection cannot go on.
pub fn decode_response(
    bytes: &[u8],
    key: &[u8; 24],
    response_bytes_max: usize,
) -> Result<Option<usize>, ResponseError> {
    let within_limit = &bytes[..bytes.len().min(response_bytes_max)];
    let mut headers = Headers::EMPTY;
    let mut response = httparse::Response::new(&mut headers.slots);
    let response_len = match response.parse(within_limit) {
        Ok(httparse::Status::Complete(response_len)) => response_len,
        Ok(httparse::Status::Partial) if bytes.len() < response_bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(ResponseError::Malformed),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return Err(ResponseError::Status { status });
    }
    headers.count = response.headers.len();
    if !headers.has_token("Upgrade", "websocket") || !headers.has_token("Connection", "upgrade") {
        return Err(ResponseError::NotSwitched);
    }
    if headers.sole("Sec-WebSocket-Accept") != Some(&accept_key(key)) {
        return Err(ResponseError::Accept);
    }
    if headers.named("Sec-WebSocket-Extensions").next().is_some() {
        return Err(ResponseError::Extension);
    }
    Ok(Some(response_len))
}

/// Checks what RFC 6455 section 4.2.1 asks of the headers; returns the key.
fn check_headers<'a>(headers: &Headers<'a>) -> Result<&'a [u8], HandshakeError> {
    if headers.sole("Host").is_none() {
        return Err(HandshakeError::Host);
    }
    if !headers.has_token("Upgrade", "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !headers.has_token("Connection", "upgrade") {
        return Err(HandshakeError::Connection);
    }
    match headers.sole("Sec-WebSocket-Version") {
        Some(b"13") => {}
        Some(_) => return Err(HandshakeError::VersionUnsupported),
        None => return Err(HandshakeError::VersionMissing),
    }
    headers.sole("Sec-WebSocket-Key").filter(|key| is_key(key)).ok_or(HandshakeError::Key)
}

/// Whether this is base64 of 16 bytes: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    key.strip_suffix(b"==").is_some_and(|digits| {
        let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        digits.len() == 22 && digits.iter().all(is_digit)
    })
}

/// The headers of a request or response, in a fixed array.
#[derive(Clone, Debug)]
struct Headers<'a> {
    slots: [httparse::Header<'a>; HEADER_COUNT_MAX],
    count: usize,
}

impl<'a> Headers<'a> {
    const EMPTY: Self = Self { slots: [httparse::EMPTY_HEADER; HEADER_COUNT_MAX], count: 0 };

    fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.slots[..self.count].iter().map(|header| (header.name, header.value))
    }

    fn named(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The value of a header that must come exactly once.
    fn sole(&self, name: &'static str) -> Option<&'a [u8]> {
        let mut values = self.named(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a header that is a list of tokens, maybe over several lines, has this one.
    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.named(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|other| other.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

impl HandshakeError {
    fn reason(self) -> &'static str {
        match self {
            Self::Method => "a websocket is opened with GET",
            Self::Malformed => "the request is not HTTP",
            Self::HttpVersion => "a websocket is opened over HTTP/1.1",
            Self::TargetTooLong => "the request target is too long",
            Self::TooLarge => "the request is too long",
            Self::TooManyHeaders => "the request has too many headers",
            Self::Host => "the request needs one Host header",
            Self::Upgrade => "this port speaks websocket: the Upgrade header must name it",
            Self::Connection => "the Connection header must name upgrade",
            Self::Key => "Sec-WebSocket-Key must be 16 bytes in base64",
            Self::VersionMissing => "the request needs one Sec-WebSocket-Version header",
            Self::VersionUnsupported => "only websocket version 13 is spoken here",
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for HandshakeError {}

impl From<httparse::Error> for HandshakeError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyHeaders,
            httparse::Error::Version => Self::HttpVersion,
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token => Self::Malformed,
        }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the server's answer is not HTTP or too long"),
            Self::Status { status } => write!(f, "the server answered with status {status}"),
            Self::NotSwitched => f.write_str("the server's answer does not switch to websocket"),
            Self::Accept => f.write_str("the server's answer belongs to another key"),
            Self::Extension => f.write_str("the server chose an extension that was not offered"),
        }
    }
}

impl core::error::Error for ResponseError {}

/// Standard base64 with padding; `TEXT_LEN` must be what `bytes` needs.
fn base64<const TEXT_LEN: usize>(bytes: &[u8]) -> [u8; TEXT_LEN] {
    let mut text = [b'='; TEXT_LEN];
    for (group, out) in bytes.chunks(3).zip(text.chunks_mut(4)) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for (index, digit) in out.iter_mut().take(group.len() + 1).enumerate() {
            *digit = BASE64[(bits >> (18 - 6 * index)) as usize & 63];
        }
    }
    text
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Formats onto bytes.
struct Appender<'a>(&'a mut Vec<u8>);

impl fmt::Write for Appender<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
