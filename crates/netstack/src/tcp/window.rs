//! How the receive window follows the peer's rate, so that it limits nobody on a long path and is small for all others.
//!
//! Each round trip it becomes four times what arrived in it: twice what a peer in slow start sends next, and room for a
//! round trip that a queue on the way has doubled.

use tengate_base::Instant;

use super::tcb::Tcb;
use crate::shared::{Shared, micros};

impl Tcb {
    /// Some of the stream has arrived.
    pub(super) fn grow_window(&mut self, now: Instant, shared: &Shared) {
        if self.rcv_wnd >= shared.config.recv_window_bytes {
            return;
        }
        let micros = micros(now);
        let lasted = micros.wrapping_sub(self.rcv_round_at);
        if u128::from(lasted) < self.srtt().as_micros() {
            return;
        }
        let arrived = self.rcv_nxt.since(self.rcv_round);
        (self.rcv_round, self.rcv_round_at) = (self.rcv_nxt, micros);
        let wanted = arrived.saturating_mul(WINDOW_ROUNDS).min(shared.config.recv_window_bytes);
        // An application that holds what it gets is not helped by more, and half of the pool is for those that began.
        let has_room = shared.chunks.used() < shared.config.pool_bytes / 2;
        if wanted > self.rcv_wnd && self.rcv_held == 0 && has_room {
            self.rcv_wnd = wanted;
        }
    }
}

/// Round trips of data that a window has room for.
const WINDOW_ROUNDS: u32 = 4;
