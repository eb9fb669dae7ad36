//! WebSocket (RFC 6455) without I/O: the opening handshake and the frames, in place and without a copy.
//!
//! A connection first waits for [`handshake::decode_request`], then keeps one [`decode::Decoder`] (8 bytes while no
//! message is in fragments). Extensions are never negotiated, so every reserved bit is a violation.

pub mod handshake;
pub mod frame;
pub mod violation;
pub mod decode;

#[cfg(test)]
mod tests;
