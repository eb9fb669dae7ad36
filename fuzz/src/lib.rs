//! What must hold of every decoder, whatever the bytes: one function a decoder, called by its fuzz target and by the
//! test that replays the seeds. They panic when a promise is broken.
//!
//! A new decoder needs a function here, a line in [`TARGETS`], a file in `fuzz_targets`, a `[[bin]]` and some seeds.

mod codecs;
mod stream;
mod web;

pub use codecs::{client_id, inner_frame, length, length_field, text};
pub use web::{handshake, websocket};

/// A fuzz target: its name, which is also that of its binary and its folder of seeds, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every fuzz target.
pub const TARGETS: [Target; 7] = [
    ("inner_frame", inner_frame),
    ("client_id", client_id),
    ("websocket", websocket),
    ("handshake", handshake),
    ("text", text),
    ("length", length),
    ("length_field", length_field),
];
