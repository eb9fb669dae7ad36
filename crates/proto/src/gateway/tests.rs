//! What a gateway does, seen from its clients and workers.

mod brief;
mod commands;
mod dispatched;
mod harness;
mod home;
mod inbound;
mod links;
mod moving;
mod names;
mod queries;
mod races;
mod routing;
mod slow;
