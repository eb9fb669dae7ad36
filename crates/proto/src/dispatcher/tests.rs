//! Tests of the dispatcher among gateways and workers that speak in whole frames.

mod acks;
mod brief;
mod detach;
mod events;
mod harness;
mod index;
mod queries;
