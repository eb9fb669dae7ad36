//! Taking back what a reduction took, once it is known that nothing was lost: the acknowledgement of the original overtook
//! what was sent again (Eifel, RFC 3522 and 4015), all of that arrived twice (RFC 3708, with the reports of RFC 2883), or
//! after a time-out data arrives that was not sent again (F-RTO, RFC 5682).

use super::congestion::Congestion;
use crate::seq::Seq;

/// What is doubtful while something is in flight: allocated when something is lost, or seems to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    /// How to take the last reduction back.
    pub(crate) undo: Option<Undo>,
    /// Where what was sent again since then lies.
    resent: Option<Resent>,
    /// Reports of duplicates widen the reordering window again when this is acknowledged (`RACK.dsack_round`).
    duplicates_until: Option<Seq>,
}

impl Doubt {
    /// The window is about to shrink from this.
    pub(crate) fn handle_reduction(&mut self, before: Congestion) {
        (self.undo, self.resent) = (Some(Undo::new(before)), None);
    }

    /// A segment was sent again, at this time of our timestamp clock.
    pub(crate) fn handle_resent(&mut self, start: Seq, end: Seq, timestamp: u32) {
        match &mut self.resent {
            Some(resent) => resent.extend(start, end),
            None => self.resent = Some(Resent { start, end }),
        }
        if let Some(undo) = &mut self.undo {
            undo.handle_resent(start, timestamp);
        }
    }

    /// Whether a report of a duplicate is of what was sent again. Others are the network's doing.
    pub(crate) fn concerns(&self, duplicate: (Seq, Seq)) -> bool {
        self.resent.is_some_and(|resent| resent.covers(duplicate))
    }

    /// Such a report came, with `una` and `nxt` as they are: is it the first of its round (RFC 8985 6.2 step 4)?
    pub(crate) fn begins_round(&mut self, una: Seq, nxt: Seq) -> bool {
        let is_first = self.duplicates_until.is_none_or(|end| una.ge(end));
        if is_first {
            self.duplicates_until = Some(nxt);
        }
        is_first
    }
}

/// The last reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    /// What was before it.
    pub(crate) before: Congestion,
    /// The first segment that was sent again, and our timestamp then (`RetransmitTS`), until an acknowledgement of it comes.
    first: Option<(Seq, u32)>,
    /// Segments sent again, less those reported to have arrived twice.
    doubtful: u32,
}

/// The range of numbers that segments sent again lie in.
#[derive(Clone, Copy, Debug)]
struct Resent {
    start: Seq,
    end: Seq,
}

impl Resent {
    /// Takes in one more segment.
    fn extend(&mut self, start: Seq, end: Seq) {
        (self.start, self.end) = (self.start.min(start), self.end.max(end));
    }

    fn covers(&self, (start, end): (Seq, Seq)) -> bool {
        start.ge(self.start) && end.le(self.end)
    }
}

impl Undo {
    const fn new(before: Congestion) -> Self {
        Self { before, first: None, doubtful: 0 }
    }

    /// Notes that a segment was sent again, at this time of our timestamp clock.
    const fn handle_resent(&mut self, seq: Seq, timestamp: u32) {
        self.doubtful += 1;
        if self.doubtful == 1 {
            self.first = Some((seq, timestamp));
        }
    }

    /// Whether nothing was sent again yet.
    pub(crate) const fn is_untouched(&self) -> bool {
        self.first.is_none() && self.doubtful == 0
    }

    /// An acknowledgement up to `una` echoes `echo`. If it is the first of what was sent again, and its echo is older than that,
    /// the original had arrived (RFC 3522 3.2).
    pub(crate) fn is_overtaken(&mut self, una: Seq, echo: Option<u32>) -> bool {
        let Some((_, resent_at)) = self.first.take_if(|(seq, _)| una.gt(*seq)) else {
            return false;
        };
        echo.is_some_and(|echo| echo.wrapping_sub(resent_at).cast_signed() < 0)
    }

    /// A segment that was sent again is reported to have arrived twice. Returns whether all have.
    pub(crate) const fn handle_duplicate(&mut self) -> bool {
        if self.doubtful == 0 {
            return false;
        }
        self.doubtful -= 1;
        self.doubtful == 0
    }
}
