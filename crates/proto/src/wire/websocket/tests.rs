//! What the decoder, the encoder and the handshake promise.

mod conformance;
mod differential;
mod frames;
mod handshake;

use alloc::vec::Vec;

use super::{ClientDecoder, Decoder, Item, Limits, Opcode, Violation, encode_masked};

const RECORDING: &str = include_str!("../../../testdata/websocket.hex");

const LIMITS: Limits = Limits { message_bytes_max: 70_000, check_utf8: true };

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An item that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Fragment,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
}

impl From<Item<'_>> for Heard {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Message { text: true, payload } => Self::Text(payload.to_vec()),
            Item::Message { text: false, payload } => Self::Binary(payload.to_vec()),
            Item::Fragment => Self::Fragment,
            Item::Ping(payload) => Self::Ping(payload.to_vec()),
            Item::Pong(payload) => Self::Pong(payload.to_vec()),
            Item::Close { code, reason } => Self::Close(code, reason.to_vec()),
        }
    }
}

/// What a server hears of a client's stream that comes in these reads, up to a close or a violation.
fn server_hears(reads: &[&[u8]], limits: &Limits) -> (Vec<Heard>, Option<Violation>) {
    let mut decoder = Decoder::default();
    hear(reads, |bytes| Ok(decoder.decode(bytes, limits)?.map(|(len, item)| (len, item.into()))))
}

/// What a client hears of a server's stream.
fn client_hears(stream: &[u8]) -> (Vec<Heard>, Option<Violation>) {
    let mut decoder = ClientDecoder::default();
    let decode = |bytes: &mut [u8]| {
        Ok(decoder.decode(bytes, &LIMITS)?.map(|(len, item)| (len, item.into())))
    };
    hear(&[stream], decode)
}

/// Feeds a decoder as a shell does: what it does not consume is shown again, with more.
fn hear(
    reads: &[&[u8]],
    mut decode: impl FnMut(&mut [u8]) -> Result<Option<(usize, Heard)>, Violation>,
) -> (Vec<Heard>, Option<Violation>) {
    let (mut heard, mut kept) = (Vec::new(), Vec::new());
    for read in reads {
        kept.extend_from_slice(read);
        loop {
            match decode(&mut kept) {
                Ok(Some((len, item))) => {
                    kept.drain(..len);
                    heard.push(item);
                    if matches!(heard.last(), Some(Heard::Close(..))) {
                        return (heard, None);
                    }
                }
                Ok(None) => break,
                Err(violation) => return (heard, Some(violation)),
            }
        }
    }
    (heard, None)
}

/// A client's frame: (opcode, whether it is its message's last, payload).
type Frame<'a> = (Opcode, bool, &'a [u8]);

/// A client's stream of these frames.
fn stream_of(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (opcode, fin, payload) in frames {
        encode_masked(*opcode, *fin, MASK, payload, &mut stream);
    }
    stream
}
