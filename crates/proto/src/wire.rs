//! Codecs: what goes over each connection, as bytes and as values.

pub mod header;
pub mod client_id;
pub mod php;
pub mod ext;
pub mod extension;
pub mod register;
mod json;
pub mod websocket;
pub mod text;
pub mod length;
pub mod length_field;

#[cfg(test)]
mod golden;
