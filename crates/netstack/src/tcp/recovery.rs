//! Making losses good: when to reduce the window, what may be sent meanwhile (proportional rate reduction, RFC 6937), loss
//! probes (RFC 8985 7).

use tengate_base::Instant;

use super::hystart::SlowStart;
use super::undo::{Resent, Undo};
use crate::seq::Seq;

/// Where a connection stands. It exists only while something is in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// `snd_nxt` when the phase began: it ends when that is acknowledged.
    pub(crate) point: Seq,
    /// Bytes in flight when it began (`RecoverFS`).
    flight_bytes: u32,
    prr_delivered: u32,
    prr_out: u32,
    /// Duplicate acknowledgements of a peer without SACK.
    pub(crate) dup_acks: u32,
    /// When segments that may only be reordered count as lost.
    pub(crate) reorder_at: Option<Instant>,
    /// `snd_nxt` when a loss probe was sent, and whether it repeated data (`TLP.end_seq`, `TLP.is_retrans`).
    pub(crate) probe: Option<(Seq, bool)>,
    /// When the probe timer last began: a transmission of new data, or an acknowledgement.
    pub(crate) probe_from: Instant,
    /// How the first slow start goes.
    pub(crate) slow_start: SlowStart,
    /// How to take the last reduction back.
    pub(crate) undo: Option<Undo>,
    /// Where what was sent again since then lies.
    pub(crate) resent: Option<Resent>,
    /// Reports of duplicates count again when this is acknowledged (`RACK.dsack_round`).
    pub(crate) duplicates_until: Option<Seq>,
}

/// Phases of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is known to be lost.
    #[default]
    Open,
    /// Losses were found by acknowledgements; the window shrinks to the threshold while they are made good.
    Recovery,
    /// The retransmission timer expired; the window begins at one segment.
    Loss,
}

impl Recovery {
    /// Losses were found.
    pub(crate) fn begin(&mut self, phase: Phase, point: Seq, flight_bytes: u32) {
        self.phase = phase;
        self.point = point;
        self.flight_bytes = flight_bytes.max(1);
        (self.prr_delivered, self.prr_out) = (0, 0);
    }

    /// Notes what was sent again, at this time of our timestamp clock.
    pub(crate) fn handle_resent(&mut self, start: Seq, end: Seq, timestamp: u32) {
        match &mut self.resent {
            Some(resent) => resent.extend(start, end),
            None => self.resent = Some(Resent::new(start, end)),
        }
        if let Some(undo) = &mut self.undo {
            undo.handle_resent(start, timestamp);
        }
    }

    /// Notes what was sent.
    pub(crate) const fn handle_sent(&mut self, bytes: u32) {
        self.prr_out = self.prr_out.saturating_add(bytes);
    }

    /// The congestion window after an acknowledgement during recovery (RFC 6937 3): `made_progress` when it moved
    /// `snd_una` and found no more losses.
    pub(crate) fn window(
        &mut self,
        delivered: u32,
        pipe: u32,
        ssthresh: u32,
        mss: u32,
        made_progress: bool,
    ) -> u32 {
        self.prr_delivered = self.prr_delivered.saturating_add(delivered);
        let send = if pipe > ssthresh {
            let share = u64::from(self.prr_delivered) * u64::from(ssthresh);
            let share = share.div_ceil(u64::from(self.flight_bytes));
            u32::try_from(share).unwrap_or(u32::MAX).saturating_sub(self.prr_out)
        } else {
            let banked = self.prr_delivered.saturating_sub(self.prr_out);
            let limit = if made_progress { banked.max(delivered) + mss } else { banked };
            limit.min(ssthresh - pipe)
        };
        // Something must go out when recovery begins: the retransmission itself.
        let send = if self.prr_out == 0 { send.max(mss) } else { send };
        pipe.saturating_add(send).max(mss)
    }
}
