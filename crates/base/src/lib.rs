//! Small shared parts of tengate: time, ids, the seam between cores and shells, the timer wheel.
//!
//! Everything here is `no_std`, safe and single-threaded, so that the simulator and the fuzzers run what users run.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod time;
mod seam;
mod wheel;

pub use seam::{App, CloseCause, Closed, ConnId, Door, How, Opened, ShardId, Sink};
pub use time::Instant;
pub use wheel::TimerWheel;
