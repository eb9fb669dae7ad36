//! What the decoder, the encoder and the handshake promise.
