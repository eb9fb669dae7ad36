//! The only clock: monotonic time since the process's start, as the cores want it.

use tengate_base::Instant;

/// Reads monotonic time (CLOCK_MONOTONIC on Linux); copies share their origin, so their instants compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The present instant.
    pub fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }
}
