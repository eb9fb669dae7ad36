//! Behaviour of whole stacks: two of them back to back, scripts of packets, an independent peer, links that lose.

mod link;
mod host;
mod pair;
mod handshake;
mod stream;
mod fanout;
mod scene;
mod peer;
mod script;
mod rules;
mod recovery;
mod undo;
mod goodput;
mod pressure;
mod network;
