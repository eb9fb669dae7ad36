//! What clients and server say to each other: greetings, messages, farewells.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tengate_proto::wire::websocket::{self, ClientDecoder, Limits, Opcode, ResponseError};
use tengate_proto::wire::{length, text};

use crate::target::Target;

/// A client protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RFC 6455.
    Websocket,
    /// Workerman's `text`: lines.
    Text,
    /// Workerman's `frame`: a length before each message.
    Frame,
    /// One GET and its response are the greeting; there are no messages.
    Http,
}

/// Decodes what one connection receives.
#[derive(Debug)]
pub(crate) enum Decoder {
    Websocket(ClientDecoder),
    Text(text::Decoder),
    Frame,
    Http,
}

/// What was received.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    Message(&'a [u8]),
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// The server will say nothing more.
    Close,
    /// Nothing to do about it.
    Other,
}

impl Protocol {
    /// Appends what a client says first.
    pub(crate) fn encode_greeting(self, target: &Target, out: &mut Vec<u8>) {
        match self {
            Self::Websocket => {
                websocket::encode_request(&target.host, &target.path, &KEY, &[], out);
            }
            Self::Http => {
                let (path, host) = (&target.path, &target.host);
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                out.extend_from_slice(request.as_bytes());
            }
            Self::Text | Self::Frame => {}
        }
    }

    /// Decodes the answer to the greeting: its length, or `None` while it is incomplete. Where there is no greeting, the
    /// answer is there at once, and empty.
    pub(crate) fn decode_welcome(self, bytes: &[u8]) -> Result<Option<usize>> {
        match self {
            Self::Websocket => websocket::decode_response(bytes, &KEY, WELCOME_BYTES_MAX)
                .map_err(|error| refusal(&error)),
            Self::Http => decode_http(bytes),
            Self::Text | Self::Frame => Ok(Some(0)),
        }
    }

    /// Whether a client is open as soon as it is connected.
    pub(crate) fn opens_silently(self) -> bool {
        matches!(self, Self::Text | Self::Frame)
    }

    /// Appends a message.
    pub(crate) fn encode(self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Websocket => {
                websocket::encode_masked(Opcode::Text, true, MASK, payload, out);
            }
            Self::Text => text::encode(payload, out),
            Self::Frame => length::encode(payload, out),
            Self::Http => {}
        }
    }

    /// Appends what a client says before it ends the connection.
    pub(crate) fn encode_farewell(self, out: &mut Vec<u8>) {
        match self {
            Self::Websocket => {
                websocket::encode_masked(Opcode::Close, true, MASK, &NORMAL_CLOSURE, out);
            }
            Self::Text | Self::Frame | Self::Http => {}
        }
    }

    /// Appends the answer to a ping.
    pub(crate) fn encode_pong(payload: &[u8], out: &mut Vec<u8>) {
        websocket::encode_masked(Opcode::Pong, true, MASK, payload, out);
    }

    pub(crate) fn decoder(self) -> Decoder {
        match self {
            Self::Websocket => Decoder::Websocket(ClientDecoder::default()),
            Self::Text => Decoder::Text(text::Decoder::default()),
            Self::Frame => Decoder::Frame,
            Self::Http => Decoder::Http,
        }
    }
}

impl Decoder {
    /// Decodes the front of `bytes`: its length and what it is, or `None` while it is incomplete.
    pub(crate) fn decode<'a>(
        &'a mut self,
        bytes: &'a mut [u8],
    ) -> Result<Option<(usize, Item<'a>)>> {
        match self {
            Self::Websocket(decoder) => {
                let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX, check_utf8: false };
                let item = decoder.decode(bytes, &limits);
                let item =
                    item.map_err(|violation| anyhow!("the server sent a bad frame: {violation}"))?;
                Ok(item.map(|(len, item)| (len, websocket_item(item))))
            }
            Self::Text(decoder) => {
                let line = decoder.decode(bytes, MESSAGE_BYTES_MAX).context("the server's text")?;
                Ok(line.map(|(len, line)| (len, Item::Message(line))))
            }
            Self::Frame => {
                let frame =
                    length::decode(bytes, MESSAGE_BYTES_MAX).context("the server's frame")?;
                Ok(frame.map(|(len, message)| (len, Item::Message(message))))
            }
            Self::Http => bail!("the server sent more than its response"),
        }
    }
}

fn websocket_item(item: websocket::Item<'_>) -> Item<'_> {
    match item {
        websocket::Item::Message { payload, .. } => Item::Message(payload),
        websocket::Item::Ping(payload) => Item::Ping(payload),
        websocket::Item::Close { .. } => Item::Close,
        websocket::Item::Fragment | websocket::Item::Pong(_) => Item::Other,
    }
}

fn refusal(error: &ResponseError) -> anyhow::Error {
    if let ResponseError::Status { status: 503 } = error {
        return anyhow!("the gateway says that it has no worker (status 503)");
    }
    anyhow!("the handshake was refused: {error:?}")
}

/// The length of a whole response with its body.
fn decode_http(bytes: &[u8]) -> Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) =
        response.parse(bytes).map_err(|error| anyhow!("the answer is no HTTP: {error}"))?
    else {
        ensure!(bytes.len() < WELCOME_BYTES_MAX, "the head of the response is too long");
        return Ok(None);
    };
    let code = response.code.unwrap_or_default();
    ensure!(code == 200, "the server answered with status {code}");
    let body_len = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .context("the response has no Content-Length; name a file of fixed length")?;
    let body_len: usize =
        str::from_utf8(body_len.value)?.trim().parse().context("Content-Length")?;
    Ok((bytes.len() - head_len >= body_len).then_some(head_len + body_len))
}

/// Longest message that a server may send.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest head of a response.
const WELCOME_BYTES_MAX: usize = 8192;
/// RFC 6455's own example key; nothing here is a secret.
const KEY: [u8; 24] = *b"dGhlIHNhbXBsZSBub25jZQ==";
/// RFC 6455's own example mask: not zero, so that a server's unmasking costs what it costs.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// RFC 6455 section 7.4.1.
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_response_is_complete_with_its_body() {
        let response = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello";
        for cut in 0..response.len() {
            assert_eq!(decode_http(&response[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(decode_http(response).unwrap(), Some(response.len()));
        assert!(decode_http(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(decode_http(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn what_a_client_of_text_or_frame_says_is_decoded_as_it_was() {
        for protocol in [Protocol::Text, Protocol::Frame] {
            let mut bytes = Vec::new();
            protocol.encode(b"one", &mut bytes);
            let one_len = bytes.len();
            protocol.encode(b"two", &mut bytes);
            let mut decoder = protocol.decoder();
            for (at, expected) in [(0, b"one"), (one_len, b"two")] {
                let Ok(Some((len, Item::Message(message)))) = decoder.decode(&mut bytes[at..])
                else {
                    panic!("{protocol:?} decodes {expected:?}");
                };
                assert_eq!((len, message), (one_len, &expected[..]));
            }
        }
    }
}
