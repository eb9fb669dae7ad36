//! TCP: one control block a connection, and what it does with segments, time and the application's wishes.
//!
//! A segment goes through [`input`] (RFC 9293 3.10.7), which asks [`ack`] what its acknowledgement means and [`receive`]
//! what its payload does; [`output`] decides what is sent and [`timer`] what happens when nothing comes. A connection that
//! has nothing queued, in flight or out of order is its [`control block`](tcb::Tcb) and nothing else.

pub(crate) mod tcb;
pub(crate) mod input;
mod expected;
pub(crate) mod ack;
pub(crate) mod receive;
pub(crate) mod output;
pub(crate) mod timer;
pub(crate) mod send_queue;
pub(crate) mod flight;
pub(crate) mod recovery;
pub(crate) mod undo;
pub(crate) mod reordering;
pub(crate) mod recv_queue;
pub(crate) mod window;
pub(crate) mod congestion;
pub(crate) mod hystart;
pub(crate) mod rtt;
pub(crate) mod cookie;
pub(crate) mod time_wait;
