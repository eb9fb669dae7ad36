//! What a gateway does, seen from its clients and workers.

mod brief;
mod commands;
mod harness;
mod inbound;
mod links;
mod moving;
mod queries;
mod routing;
mod slow;
