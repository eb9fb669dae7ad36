//! How the receive window follows the peer's rate, so that it limits nobody on a long path and is small for all others.
//!
//! Each round trip it becomes at least four times what arrived in it: twice what a peer in slow start sends next, and room
//! for a round trip that a queue on the way has doubled.

use core::time::Duration;

use tengate_base::Instant;

use super::tcb::Tcb;
use crate::limits::RECV_WINDOW_INITIAL;
use crate::seq::Seq;
use crate::shared::{Shared, millis};

/// When a round trip of data began, and where the stream was: milliseconds that wrap after 65 s, and KiB that wrap after
/// 64 MiB. When they do, a window may grow that need not have, up to what is configured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    millis: u16,
    kib: u16,
}

impl Round {
    #[expect(clippy::cast_possible_truncation, reason = "both wrap")]
    pub(super) const fn new(now: Instant, at: Seq) -> Self {
        Self { millis: millis(now) as u16, kib: (at.0 >> 10) as u16 }
    }
}

impl Tcb {
    /// The window that the rate asks for, as far as it is configured.
    pub(super) fn grown_window(&self, shared: &Shared) -> u32 {
        (RECV_WINDOW_INITIAL << self.rcv_growth).min(shared.config.recv_window_bytes)
    }

    /// Some of the stream has arrived.
    pub(super) fn grow_window(&mut self, now: Instant, shared: &Shared) {
        let most = shared.config.recv_window_bytes;
        if self.grown_window(shared) >= most {
            return;
        }
        let (began, here) = (self.rcv_round, Round::new(now, self.rcv_nxt));
        let lasted = Duration::from_millis(here.millis.wrapping_sub(began.millis).into());
        if lasted.is_zero() || lasted < self.srtt() {
            return;
        }
        self.rcv_round = here;
        // An application that holds what it gets is not helped by more, and half of the pool is for those that began.
        if self.rcv_held > 0 || shared.chunks.used() > shared.config.pool_bytes / 2 {
            return;
        }
        let arrived = u32::from(here.kib.wrapping_sub(began.kib)) << 10;
        let wanted = (arrived * WINDOW_ROUNDS).min(most);
        while self.grown_window(shared) < wanted {
            self.rcv_growth += 1;
        }
    }
}

/// Round trips of data that a window has room for.
const WINDOW_ROUNDS: u32 = 4;
