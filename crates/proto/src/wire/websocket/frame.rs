//! What a frame is made of (RFC 6455 section 5.2): opcodes, the mask, and how each side writes frames.

use alloc::vec::Vec;

/// What a frame carries. Numbers are RFC 6455's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next part of a fragmented message.
    Continuation = 0,
    /// UTF-8 text, whole or the first part.
    Text = 1,
    /// Bytes, whole or the first part.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or says unasked that its sender lives.
    Pong = 10,
}

impl Opcode {
    /// The opcode of this number, if RFC 6455 defines one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether frames of this kind are control frames: never fragmented, at most [`CONTROL_BYTES_MAX`] of payload.
    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// Longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// First byte: the last (or only) frame of its message.
pub(super) const FIN: u8 = 0x80;
/// First byte: bits that only extensions use.
pub(super) const RESERVED: u8 = 0x70;
/// First byte: the opcode's bits.
pub(super) const OPCODE: u8 = 0x0f;
/// Second byte: a masking key follows the length.
pub(super) const MASKED: u8 = 0x80;
/// Second byte: the length is in the next two bytes.
pub(super) const LENGTH_IN_2: u8 = 126;
/// Second byte: the length is in the next eight bytes.
pub(super) const LENGTH_IN_8: u8 = 127;

/// Appends the header of a server's unfragmented frame; `payload_len` bytes of payload must follow.
///
/// A control frame's payload must not exceed [`CONTROL_BYTES_MAX`]; that is the caller's to keep.
pub fn encode_header(opcode: Opcode, payload_len: usize, out: &mut Vec<u8>) {
    debug_assert!(!opcode.is_control() || payload_len <= CONTROL_BYTES_MAX, "RFC 6455 section 5.5");
    out.push(FIN | opcode as u8);
    encode_length(0, payload_len, out);
}

/// Appends a server's whole close frame with this status code and no reason.
pub fn encode_close(code: u16, out: &mut Vec<u8>) {
    encode_header(Opcode::Close, 2, out);
    out.extend_from_slice(&code.to_be_bytes());
}

/// Appends a client's whole frame: masked, and marked as its message's last when `fin`.
pub fn encode_masked(opcode: Opcode, fin: bool, mask: [u8; 4], payload: &[u8], out: &mut Vec<u8>) {
    out.push(if fin { FIN } else { 0 } | opcode as u8);
    encode_length(MASKED, payload.len(), out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Appends the second byte and, where needed, the longer length: always the shortest form that fits.
fn encode_length(masked: u8, payload_len: usize, out: &mut Vec<u8>) {
    if let Ok(short) = u8::try_from(payload_len)
        && short < LENGTH_IN_2
    {
        out.push(masked | short);
    } else if let Ok(medium) = u16::try_from(payload_len) {
        out.push(masked | LENGTH_IN_2);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(masked | LENGTH_IN_8);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

/// Masks a payload, or takes the same mask off again (RFC 6455 section 5.3).
///
/// Eight bytes a step; the compiler turns the loop into vector instructions.
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}
