//! Small shared parts of tengate: time, ids, the seam between cores and shells, tables that grow without a pause, the
//! timer wheel.
//!
//! Everything here is `no_std`, safe and single-threaded, so that the simulator and the fuzzers run what users run.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod time;
mod seam;
mod chunked_vec;
mod index_table;
mod wheel;

pub use chunked_vec::ChunkedVec;
pub use index_table::IndexTable;
pub use seam::{App, CloseCause, Closed, ConnId, Door, How, Opened, ShardId, Share, Sink};
pub use time::Instant;
pub use wheel::TimerWheel;
