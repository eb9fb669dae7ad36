//! Making losses good: when to reduce the window, what may be sent meanwhile (proportional rate reduction, RFC 6937), loss
//! probes (RFC 8985 7).

use alloc::boxed::Box;

use tengate_base::Instant;

use super::hystart::SlowStart;
use super::undo::Doubt;
use crate::seq::Seq;

/// Where a connection stands. It exists only while something is in flight.
#[derive(Debug, Default)]
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
    /// What may turn out to have been for nothing.
    doubt: Option<Box<Doubt>>,
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

    /// Whether something is doubtful.
    pub(crate) const fn has_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// What is doubtful, if something is.
    pub(crate) fn doubt(&mut self) -> Option<&mut Doubt> {
        self.doubt.as_deref_mut()
    }

    /// The same, from now on.
    pub(crate) fn begin_doubt(&mut self) -> &mut Doubt {
        self.doubt.get_or_insert_default()
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
