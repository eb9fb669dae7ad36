//! Taking back what a reduction took, once it is known that nothing was lost: the acknowledgement of the original overtook
//! what was sent again (Eifel, RFC 3522 and 4015), or all of that arrived twice (RFC 3708, with the reports of RFC 2883).

use super::congestion::Congestion;
use crate::seq::Seq;

/// The last reduction, as long as something is in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    /// What was before it.
    pub(crate) before: Congestion,
    /// The first segment that was sent again, and our timestamp then (`RetransmitTS`), until an acknowledgement of it comes.
    first: Option<(Seq, u32)>,
    /// Segments sent again, less those reported to have arrived twice.
    doubtful: u32,
}

/// The range of numbers that segments sent again lie in; only reports of duplicates within it tell something of them, others
/// are the network's doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resent {
    start: Seq,
    end: Seq,
}

impl Resent {
    pub(crate) const fn new(start: Seq, end: Seq) -> Self {
        Self { start, end }
    }

    /// Takes in one more segment.
    pub(crate) fn extend(&mut self, start: Seq, end: Seq) {
        (self.start, self.end) = (self.start.min(start), self.end.max(end));
    }

    pub(crate) fn covers(&self, (start, end): (Seq, Seq)) -> bool {
        start.ge(self.start) && end.le(self.end)
    }
}

impl Undo {
    pub(crate) const fn new(before: Congestion) -> Self {
        Self { before, first: None, doubtful: 0 }
    }

    /// Notes that a segment was sent again, at this time of our timestamp clock.
    pub(crate) const fn handle_resent(&mut self, seq: Seq, timestamp: u32) {
        self.doubtful += 1;
        if self.doubtful == 1 {
            self.first = Some((seq, timestamp));
        }
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
