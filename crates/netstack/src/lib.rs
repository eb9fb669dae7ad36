//! A TCP/IP stack for one shard, in user space: Ethernet frames in, TCP streams out, and back.
//!
//! [`Stack`] is a state machine. Frames, time and the application's wishes come in as arguments; frames go to a [`Device`],
//! what the application must know comes out of [`Stack::poll_event`]. It knows no socket, clock, thread or random number.
//!
//! A turn of its shell, which is the only order that makes sense:
//! 1. [`Stack::handle_frame`] for each frame of a burst, and after each one all of [`Stack::poll_event`]: received bytes lie
//!    in the frame. [`Stack::handle_timeout`] when [`Stack::poll_timeout`] has come, and its events.
//! 2. The application's answers: [`Stack::send`], [`Stack::shutdown`], [`Stack::close`], [`Stack::abort`]; for many
//!    connections at once [`Stack::share`] and [`Stack::send_shared`].
//! 3. [`Stack::flush`]: data and acknowledgements of the turn leave together.
//!
//! # Cost
//! An idle connection is a control block of 200 bytes (asserted), 8 to 10 bytes of hash table and 16 of timer wheel: about
//! 225. A short message in flight takes a 256-byte chunk and a send queue (256 bytes, reused, which hold the first piece and
//! the first segment; 40 and 24 for each more) until it is acknowledged. Of a message for many connections there is one copy
//! in the pool, and each has the send queue. A segment costs one hash lookup, one copy of what is sent into a chunk, none of
//! what is received in order or shared, and the checksums; the sum of a shared message is computed once.
//!
//! An echo of 64 bytes, in and out with the acknowledgements on it, takes 2 600 instructions, 350 of them the example's own
//! (`examples/echo_cost.rs` says how to count). A delivery of a shared message takes 2 450 when each is acknowledged by itself,
//! 1 650 when sixteen are acknowledged together.
//!
//! # What is there
//! Ethernet with or without one VLAN tag; ARP; IPv4; IPv6 with neighbour discovery (RFC 4861); ICMP echo, path MTU and unreachable; TCP with the rules of RFC 9293,
//! 5961, 6528, 6691, 7323 and 1337, selective acknowledgements both ways (RFC 2018, 2883), recovery by RACK-TLP (RFC 8985)
//! with proportional rate reduction (RFC 6937), or NewReno (RFC 6582) with peers that know no SACK, reductions for nothing
//! taken back (RFC 3522, 3708, 4015, 5682), CUBIC (RFC 9438) and NewReno windows, HyStart++ (RFC 9406), receive windows that follow
//! the rate, SYN cookies, keepalive.
//!
//! # What is not
//! - No router discovery, address configuration, duplicate address detection or multicast listener reports (MLD) for IPv6:
//!   addresses and gateway come from the configuration. Neighbours' addresses do not grow old: one is asked for again when
//!   two SYNs to it were not answered.
//! - What ICMP says of a path is kept for that connection only.
//! - Fragments are dropped; everything is sent with "don't fragment".
//! - No pacing, no ECN, of F-RTO (RFC 5682) not the step that sends new data to find out, no path MTU probing without ICMP
//!   (RFC 8899), no urgent data.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
pub mod limits;
mod event;
mod steer;
mod stack;
mod neighbor;
mod flow;
mod locals;
mod tcp;
mod pool;
mod short_deque;
mod shared;
mod frame;
mod wire;
mod seq;
mod siphash;
mod stats;

#[cfg(test)]
mod tests;

pub use config::{Address, Checksums, Config, ConfigError, CongestionControl, Keepalive, Secret};
pub use event::{Cause, Device, DeviceFull, Event};
pub use stack::{ConnectError, Gauges, SharedBytes, Stack};
pub use stats::Stats;
pub use steer::flow_hash;
pub use wire::ethernet::MacAddr;
