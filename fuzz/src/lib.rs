//! What must hold of every decoder and of whole cores, whatever the bytes: one function each, called by its fuzz target
//! and by the test that replays the seeds. They panic when a promise is broken.
//!
//! A new target needs a function here, a line in [`TARGETS`], a file in `fuzz_targets`, a `[[bin]]` and some seeds.

mod codecs;
mod stream;
mod web;
mod php;
mod json;
mod script;
mod dispatcher;
mod gateway;
mod netstack;
mod register;

pub use codecs::{client_id, inner_frame, length, length_field, text, worker};
pub use dispatcher::dispatcher;
pub use gateway::gateway;
pub use json::{ext, register_client, register_line};
pub use netstack::{flow, netstack};
pub use php::{connect_body, php_session_merge, php_unserialize};
pub use register::register;
pub use web::{handshake, websocket, websocket_client};

/// A fuzz target: its name, which is also that of its binary and its folder of seeds, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every fuzz target.
pub const TARGETS: [Target; 20] = [
    ("inner_frame", inner_frame),
    ("client_id", client_id),
    ("websocket", websocket),
    ("websocket_client", websocket_client),
    ("handshake", handshake),
    ("text", text),
    ("length", length),
    ("length_field", length_field),
    ("php_unserialize", php_unserialize),
    ("php_session_merge", php_session_merge),
    ("connect_body", connect_body),
    ("ext", ext),
    ("register_line", register_line),
    ("register_client", register_client),
    ("worker", worker),
    ("dispatcher", dispatcher),
    ("gateway", gateway),
    ("netstack", netstack),
    ("flow", flow),
    ("register", register),
];
