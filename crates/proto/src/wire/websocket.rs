//! WebSocket (RFC 6455) without I/O: the opening handshake and the frames, in place and without a copy.
//!
//! A connection first waits for [`decode_request`], then keeps one [`Decoder`] (8 bytes while no message is in
//! fragments). Extensions are never negotiated, so every reserved bit is a violation.

mod handshake;
mod frame;
mod violation;
mod decode;

pub use decode::{ClientDecoder, Decoder, Item, Limits};
pub use frame::{CONTROL_BYTES_MAX, Opcode, encode_close, encode_header, encode_masked};
pub use handshake::{
    HEADER_COUNT_MAX, HandshakeError, REQUEST_BYTES_MAX, Request, ResponseError, accept_key,
    decode_request, decode_response, encode_refusal, encode_request, encode_response,
    encode_unavailable, request_key,
};
pub use violation::Violation;

#[cfg(test)]
mod tests;
