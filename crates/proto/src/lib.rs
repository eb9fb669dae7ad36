//! Bytes to decisions: the GatewayWorker wire, the client protocols and the state machines of every role.
//!
//! No I/O, no clock, no randomness: a shell feeds these cores through `tengate_base::App`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod wire;
pub mod secret;
mod query;
mod names;
pub mod gateway;
pub mod dispatcher;
pub mod worker;
pub mod register;
