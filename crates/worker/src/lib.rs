//! Business code for GatewayWorker clusters, in Rust.
//!
//! tengate, and PHP's GatewayWorker, split a service for long connections into gateways, which hold the clients, and
//! workers, which decide what happens. This crate is the worker's side: implement [`Events`], hand it to a
//! [`BusinessWorker`], and it serves the clients of every gateway of the cluster, beside PHP workers or instead of them.
//! Programs that only want to say something to clients, a web server say, make their calls through [`Client`].
//!
//! ```no_run
//! use tengate_worker::php::Value;
//! use tengate_worker::{BusinessWorker, Context, EventResult, Events};
//!
//! struct Lobby;
//!
//! impl Events for Lobby {
//!     async fn on_connect(&self, ctx: &mut Context) -> EventResult {
//!         ctx.gateway().join_group(ctx.client_id(), "lobby").await?;
//!         Ok(())
//!     }
//!
//!     async fn on_message(&self, ctx: &mut Context, message: &[u8]) -> EventResult {
//!         let sent = match ctx.session().get(&"sent".into()) {
//!             Some(Value::Int(sent)) => sent + 1,
//!             _ => 1,
//!         };
//!         ctx.session_mut().insert("sent".into(), sent.into());
//!         ctx.gateway().send_to_group("lobby", message).await?;
//!         ctx.send(format!("that was your message {sent}")).await?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn core::error::Error>> {
//!     BusinessWorker::builder().name("Lobby").register("127.0.0.1:1236").secret_key("s").run(Lobby).await?;
//!     Ok(())
//! }
//! ```
//!
//! # Order and concurrency
//! Each gateway's events come over one link and are handled one after the other, so a slow handler delays that gateway's
//! other clients, as in PHP. [`Builder::tasks_per_link`] spreads clients over tasks; [`Builder::count`] runs several workers
//! with links of their own. Either way the events of one client stay in order. The link is read no faster than events are
//! handled: the gateway sees the pressure.
//!
//! # Limits
//! | what | limit | beyond it |
//! |---|---|---|
//! | one call's frame | [`FRAME_BYTES_MAX`] | [`GatewayFault::TooLong`] |
//! | bytes that wait for one gateway | [`Builder::send_queue_bytes_max`] | [`GatewayFault::QueueFull`], the call is dropped |
//! | one answer | [`REPLY_BYTES_MAX`] | [`GatewayFault::ReplyTooLong`] |
//! | connecting, answering | [`Builder::timeouts`] | [`GatewayFault::ConnectTimedOut`], [`GatewayFault::ReplyTimedOut`] |
#![forbid(unsafe_code)]

mod register;
mod link;
mod business_worker;
mod events;
mod session;
mod gateway;
mod query;
mod names;
mod client;
mod error;

/// PHP values: sessions and handshakes.
pub mod php {
    pub use tengate_proto::wire::php::{
        Array, ArrayFull, Key, Limits, UnserializeError, Value, array_replace_recursive, serialize,
        unserialize,
    };
}

pub use business_worker::{Builder, BusinessWorker, Delivery, StartError};
pub use client::Client;
pub use error::{CallError, GatewayFault, RegisterFault};
pub use events::{Context, EventResult, Events, WebsocketRequest, Worker};
pub use gateway::Gateway;
pub use link::FRAME_BYTES_MAX;
pub use names::{Name, Names, Payload};
pub use query::REPLY_BYTES_MAX;
pub use tengate_proto::wire::client_id::{ClientId, InvalidClientId};
