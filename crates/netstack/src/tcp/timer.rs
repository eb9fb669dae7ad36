//! What a connection does when nothing comes: retransmit (RFC 6298 5), probe for losses at the tail (RFC 8985 7), for a
//! closed window (RFC 9293 3.8.6.1) and for a silent peer (3.8.4), and give up (3.8.3).

use tengate_base::Instant;

use super::recovery::Phase;
use super::send_queue::SendQueue;
use super::tcb::{Fate, NEVER, State, Tcb};
use crate::event::{Cause, Device};
use crate::limits::{
    ORPHAN_RETRIES_MAX, PEER_ACK_DELAY_MAX, RETRIES_MAX, RTO_INITIAL, SYN_RETRIES_MAX,
};
use crate::shared::Shared;

impl Tcb {
    /// When it next wants [`Tcb::handle_timeout`].
    #[inline]
    pub(crate) fn deadline(&self, shared: &Shared) -> Instant {
        self.ack_at.min(self.retransmit_at()).min(self.idle_at(shared))
    }

    /// A deadline has come. Sends probes at once; what is lost or owed goes out when the turn ends.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if self.ack_at <= now {
            self.ack_now = true;
            self.ack_at = NEVER;
        }
        if self.idle_at(shared) <= now {
            let fate = self.handle_idle(now, shared, device);
            if let Fate::Ends(_) = fate {
                return fate;
            }
        }
        if self.retransmit_at() > now {
            return Fate::Stays;
        }
        if self.state.is_opening() {
            return self.handle_opening_timeout(now, shared, device);
        }
        let Some(mut tx) = self.tx.take() else { return Fate::Stays };
        if tx.flight.is_empty() {
            self.tx = Some(tx);
            return self.handle_window_timeout(now, shared, device);
        }
        if tx.recovery.reorder_at.is_some_and(|at| at <= now) {
            if self.find_losses(now, &mut tx) && tx.recovery.phase == Phase::Open {
                self.begin_recovery(&mut tx, shared);
            }
            self.tx = Some(tx);
            return Fate::Stays;
        }
        if self.may_probe(&tx) {
            // Where the time-out is no later than the probe, the probe takes its place (RFC 8985 7.2).
            self.tx = Some(tx);
            self.probe_tail(now, shared, device);
            return Fate::Stays;
        }
        let fate = self.handle_retransmission_timeout(now, &mut tx, shared);
        self.tx = Some(tx);
        fate
    }

    /// The retransmission timer expired (RFC 6298 5.4 to 5.6).
    fn handle_retransmission_timeout(
        &mut self,
        now: Instant,
        tx: &mut SendQueue,
        shared: &mut Shared,
    ) -> Fate {
        if self.retries >= self.retries_max() {
            return Fate::Ends(Cause::TimedOut);
        }
        self.retries += 1;
        self.rto_from = now;
        shared.stats.retransmit_timeouts += 1;
        self.begin_again(now, tx, shared);
        Fate::Stays
    }

    /// Nobody answered a SYN, or acknowledged ours.
    fn handle_opening_timeout(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if self.retries >= SYN_RETRIES_MAX {
            return Fate::Ends(Cause::TimedOut);
        }
        self.retries += 1;
        self.rto_from = now;
        if !self.resolving {
            shared.stats.retransmit_timeouts += 1;
            if self.send_syn(now, shared, device).is_err() {
                shared.stats.drop_device_full += 1;
            }
        }
        Fate::Stays
    }

    /// Something is queued and the window does not let it out (RFC 9293 3.8.6.1). As long as the peer answers, this never
    /// ends; unless nobody holds the connection any more.
    fn handle_window_timeout(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if self.unanswered >= RETRIES_MAX || (self.orphaned && self.retries >= ORPHAN_RETRIES_MAX) {
            return Fate::Ends(Cause::TimedOut);
        }
        self.retries = self.retries.saturating_add(1);
        self.unanswered += 1;
        self.rto_from = now;
        shared.stats.window_probes += 1;
        let sent = match self.window_piece() {
            // A window too small to be worth it is used after all (RFC 9293 3.8.6.2.1, the override timer).
            Some(piece) => self.send_piece(now, piece, shared, device),
            None => self.send_probe(now, shared, device),
        };
        if sent.is_err() {
            shared.stats.drop_device_full += 1;
        }
        Fate::Stays
    }

    /// The last segments in flight may be lost, with nothing behind them to tell (RFC 8985 7.3).
    fn probe_tail(&mut self, now: Instant, shared: &mut Shared, device: &mut impl Device) {
        let new = self.probe_piece();
        let last = self.tx.as_ref().and_then(|tx| tx.flight.last_missing());
        let piece = new.or_else(|| last.map(|(index, sent)| self.again(index, sent)));
        let sent = piece.map(|piece| self.send_piece(now, piece, shared, device));
        if sent != Some(Ok(())) {
            shared.stats.drop_device_full += 1;
        }
        shared.stats.loss_probes += 1;
        self.rto_from = now;
        let end = self.snd_nxt;
        if let Some(tx) = &mut self.tx {
            tx.recovery.probe = Some((end, new.is_none()));
        }
    }

    /// The peer is silent, or takes too long to finish.
    fn handle_idle(&mut self, now: Instant, shared: &mut Shared, device: &mut impl Device) -> Fate {
        let Some(keepalive) = shared.config.keepalive.filter(|_| !self.lingers()) else {
            return Fate::Ends(Cause::TimedOut);
        };
        if self.unanswered >= keepalive.probes_max {
            return Fate::Ends(Cause::TimedOut);
        }
        // What comes late has its whole time for an answer.
        self.heard_at = self.heard_at + (now - self.idle_at(shared));
        if self.send_probe(now, shared, device).is_err() {
            // The peer is not to blame; it is tried again at once.
            shared.stats.drop_device_full += 1;
            return Fate::Stays;
        }
        self.unanswered += 1;
        shared.stats.keepalive_probes += 1;
        Fate::Stays
    }

    /// When silence matters next.
    fn idle_at(&self, shared: &Shared) -> Instant {
        if self.lingers() {
            return self.heard_at + shared.config.linger;
        }
        // While something is in flight, retransmissions tell whether the peer is there.
        let may_be_silent = self.state.may_send() && self.tx.is_none();
        match shared.config.keepalive.filter(|_| may_be_silent) {
            Some(keepalive) => {
                let probes = keepalive.interval.saturating_mul(u32::from(self.unanswered));
                self.heard_at + keepalive.idle + probes
            }
            None => NEVER,
        }
    }

    /// Whether only the peer's FIN is missing and nobody waits for it.
    const fn lingers(&self) -> bool {
        self.orphaned && matches!(self.state, State::FinWait2)
    }

    /// The earliest of the timers for what was sent.
    #[inline]
    fn retransmit_at(&self) -> Instant {
        if self.state.is_opening() {
            return self.rto_at();
        }
        let Some(tx) = &self.tx else { return NEVER };
        if tx.flight.is_empty() {
            let blocked = self.unsent() > 0 || self.fin_is_due();
            return if blocked { self.rto_at() } else { NEVER };
        }
        let reorder_at = tx.recovery.reorder_at.unwrap_or(NEVER);
        self.rto_at().min(reorder_at).min(self.probe_at(tx))
    }

    fn rto_at(&self) -> Instant {
        after(self.rto_from, self.rtt.rto_nanos(self.retries))
    }

    /// Whether the tail may be probed (RFC 8985 7.2): in the open phase, once for each flight.
    fn may_probe(&self, tx: &SendQueue) -> bool {
        self.sack
            && tx.recovery.phase == Phase::Open
            && tx.flight.sacked() == 0
            && tx.recovery.probe.is_none()
            && self.retries == 0
    }

    /// When to probe the tail.
    fn probe_at(&self, tx: &SendQueue) -> Instant {
        if !self.may_probe(tx) {
            return NEVER;
        }
        if self.rtt.srtt_nanos() == 0 {
            return tx.recovery.probe_from + RTO_INITIAL;
        }
        let at = after(tx.recovery.probe_from, 2 * self.rtt.srtt_nanos());
        if tx.flight.segment_count() == 1 { at + PEER_ACK_DELAY_MAX } else { at }
    }

    const fn retries_max(&self) -> u8 {
        if self.orphaned { ORPHAN_RETRIES_MAX } else { RETRIES_MAX }
    }
}

const fn after(from: Instant, nanos: u64) -> Instant {
    Instant::from_nanos(from.as_nanos().saturating_add(nanos))
}
