//! Segments in flight: what was sent when, what of it arrived, what is lost (the scoreboard of RFC 6675, with the times
//! RFC 8985 wants). 24 bytes a segment, only while it is unacknowledged.

use core::time::Duration;

use tengate_base::Instant;

use crate::seq::Seq;
use crate::short_deque::ShortDeque;

/// A segment as it was last sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) seq: Seq,
    /// Bytes of data.
    pub(crate) len: u16,
    /// Whether a FIN is behind them.
    pub(crate) fin: bool,
    pub(crate) mark: Mark,
    pub(crate) retransmitted: bool,
    pub(crate) sent_at: Instant,
}

/// What is thought of a segment that is not acknowledged cumulatively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// On its way.
    Flying,
    /// It arrived, the receiver says.
    Sacked,
    /// Lost, and not sent again yet.
    Lost,
}

impl Sent {
    /// Sequence numbers it takes.
    pub(crate) fn seq_len(&self) -> u32 {
        u32::from(self.len) + u32::from(self.fin)
    }

    /// The number behind its last.
    pub(crate) fn end(&self) -> Seq {
        self.seq + self.seq_len()
    }

    /// Whether it was sent after another (RFC 8985 3.2: times may be equal, numbers decide then).
    fn is_after(&self, sent_at: Instant, end: Seq) -> bool {
        self.sent_at > sent_at || (self.sent_at == sent_at && self.end().gt(end))
    }
}

/// What an acknowledgement told of segments that were in flight until then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivered {
    /// Sequence numbers delivered: acknowledged or selectively acknowledged for the first time.
    pub(crate) bytes: u32,
    /// Whether a FIN was acknowledged.
    pub(crate) fin: bool,
    /// Round trip of the last of them that was sent only once.
    pub(crate) rtt: Option<Duration>,
    /// Whether one that was sent only once arrived behind one with a higher number (RFC 8985 6.2 step 3).
    pub(crate) reordered: bool,
    /// Where the first of them begins that was sent only once.
    pub(crate) original: Option<Seq>,
    /// Whether one was thought to be lost that had not been sent again.
    pub(crate) found: bool,
}

const _: () = assert!(size_of::<Sent>() == 24);

/// The segments from `snd_una` to `snd_nxt`, in order.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    segments: ShortDeque<Sent>,
    /// Sequence numbers of all, of those that arrived, of those lost and not sent again.
    bytes: u32,
    sacked: u32,
    lost: u32,
    rack: Rack,
    /// What was sent from here on is not what the last acknowledgement echoes the time of; [`Instant::ZERO`] without
    /// timestamps.
    echoed_before: Instant,
}

/// The most recently sent segment that is known to have arrived (RFC 8985 5.2).
#[derive(Clone, Copy, Debug, Default)]
struct Rack {
    sent_at: Instant,
    end: Seq,
    rtt: Duration,
    /// The highest number that arrived (`RACK.fack`), once there is one.
    fack: Option<Seq>,
}

impl Flight {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether one segment is in flight, sent once, without a FIN, and ends at `end`.
    #[inline]
    pub(crate) fn is_one_segment_until(&self, end: Seq) -> bool {
        self.segments.len() == 1
            && self.segments.front().is_some_and(|only| {
                only.mark == Mark::Flying && !only.retransmitted && !only.fin && only.end() == end
            })
    }

    /// When the first was last sent.
    pub(crate) fn front_sent_at(&self) -> Option<Instant> {
        self.segments.front().map(|front| front.sent_at)
    }

    /// Segments in flight.
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Sequence numbers between `snd_una` and `snd_nxt`.
    pub(crate) const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Of them, those that arrived out of order.
    pub(crate) const fn sacked(&self) -> u32 {
        self.sacked
    }

    /// What is thought to be in the network (`pipe` of RFC 6675).
    pub(crate) const fn pipe(&self) -> u32 {
        self.bytes - self.sacked - self.lost
    }

    /// Notes a segment sent for the first time.
    #[inline]
    pub(crate) fn push(&mut self, sent: Sent) {
        self.bytes += sent.seq_len();
        self.segments.push_back(sent);
    }

    /// The first segment that is lost, and its index.
    #[inline]
    pub(crate) fn first_lost(&self) -> Option<(usize, Sent)> {
        if self.lost == 0 {
            return None;
        }
        self.segments.iter().copied().enumerate().find(|(_, sent)| sent.mark == Mark::Lost)
    }

    /// The last segment that has not arrived, and its index.
    pub(crate) fn last_missing(&self) -> Option<(usize, Sent)> {
        let mut backwards = (0..self.segments.len()).rev().zip(self.segments.iter().rev().copied());
        backwards.find(|(_, sent)| sent.mark != Mark::Sacked)
    }

    /// Cuts a segment so that its first part has `len` bytes of data: the path has become narrower.
    pub(crate) fn split(&mut self, index: usize, len: u16) {
        let first = &mut self.segments[index];
        let mut second = *first;
        second.seq += u32::from(len);
        second.len -= len;
        (first.len, first.fin) = (len, false);
        self.segments.insert(index + 1, second);
    }

    /// Notes that a segment was sent again.
    pub(crate) fn resent(&mut self, index: usize, now: Instant) {
        let sent = &mut self.segments[index];
        (sent.sent_at, sent.retransmitted) = (now, true);
        if core::mem::replace(&mut sent.mark, Mark::Flying) == Mark::Lost {
            self.lost -= self.segments[index].seq_len();
        }
    }

    /// The acknowledgement that is taken next echoes a time before `instant`.
    pub(crate) const fn handle_echo(&mut self, instant: Instant) {
        self.echoed_before = instant;
    }

    /// Everything before `ack` arrived.
    pub(crate) fn acknowledge(&mut self, now: Instant, ack: Seq, min_rtt: Duration) -> Delivered {
        let mut delivered = Delivered::default();
        while let Some(front) = self.segments.front().copied() {
            if front.end().gt(ack) {
                self.acknowledge_part(ack, &mut delivered);
                break;
            }
            self.segments.pop_front();
            let seq_len = front.seq_len();
            self.bytes -= seq_len;
            delivered.fin |= front.fin;
            match front.mark {
                Mark::Sacked => {
                    self.sacked -= seq_len;
                    continue;
                }
                Mark::Lost => {
                    self.lost -= seq_len;
                    delivered.found |= !front.retransmitted;
                }
                Mark::Flying => {}
            }
            self.deliver(now, &front, min_rtt, &mut delivered);
        }
        delivered
    }

    /// The front segment arrived in part.
    fn acknowledge_part(&mut self, ack: Seq, delivered: &mut Delivered) {
        let Some(front) = self.segments.front_mut().filter(|front| front.seq.lt(ack)) else {
            return;
        };
        let part = ack.since(front.seq);
        front.seq = ack;
        front.len -= u16::try_from(part).expect("less than the segment");
        self.bytes -= part;
        match front.mark {
            Mark::Sacked => self.sacked -= part,
            Mark::Lost => {
                self.lost -= part;
                delivered.bytes += part;
            }
            Mark::Flying => delivered.bytes += part,
        }
    }

    /// The segments that lie within a block arrived (RFC 2018 4).
    pub(crate) fn select(
        &mut self,
        now: Instant,
        (start, end): (Seq, Seq),
        min_rtt: Duration,
        delivered: &mut Delivered,
    ) {
        let mut index = self.segments.partition_point(|sent| sent.seq.lt(start));
        while let Some(sent) = self.segments.get_mut(index).filter(|sent| sent.end().le(end)) {
            let seen = core::mem::replace(&mut sent.mark, Mark::Sacked);
            let sent = *sent;
            index += 1;
            match seen {
                Mark::Sacked => continue,
                Mark::Lost => {
                    self.lost -= sent.seq_len();
                    delivered.found |= !sent.retransmitted;
                }
                Mark::Flying => {}
            }
            self.sacked += sent.seq_len();
            self.deliver(now, &sent, min_rtt, delivered);
        }
    }

    /// One segment arrived (RFC 8985 6.2 steps 2 and 3).
    fn deliver(&mut self, now: Instant, sent: &Sent, min_rtt: Duration, delivered: &mut Delivered) {
        delivered.bytes += sent.seq_len();
        let rtt = now.saturating_since(sent.sent_at);
        if !sent.retransmitted {
            delivered.rtt = Some(rtt);
            delivered.original = delivered.original.or(Some(sent.seq));
            delivered.reordered |= self.rack.fack.is_some_and(|fack| sent.end().lt(fack));
        }
        self.rack.fack =
            Some(self.rack.fack.map_or_else(|| sent.end(), |fack| fack.max(sent.end())));
        // What arrives sooner than any round trip is the original, not what was sent again; likewise when the echo is older
        // than that.
        let is_older = self.echoed_before > Instant::ZERO && sent.sent_at >= self.echoed_before;
        if sent.retransmitted && (rtt < min_rtt || is_older) {
            return;
        }
        if sent.is_after(self.rack.sent_at, self.rack.end) || self.rack.rtt.is_zero() {
            (self.rack.sent_at, self.rack.end, self.rack.rtt) = (sent.sent_at, sent.end(), rtt);
        }
    }

    /// Marks what was sent long enough before something that arrived (RFC 8985 6.2 step 5). Returns whether there was any,
    /// and when to look again.
    pub(crate) fn detect_losses(
        &mut self,
        now: Instant,
        reo_wnd: Duration,
    ) -> (bool, Option<Instant>) {
        let rack = self.rack;
        let (mut found, mut look_again) = (false, None);
        if rack.rtt.is_zero() {
            return (found, look_again);
        }
        for sent in &mut self.segments {
            if sent.is_after(rack.sent_at, rack.end)
                || (sent.sent_at, sent.end()) == (rack.sent_at, rack.end)
            {
                if !sent.retransmitted && sent.mark == Mark::Flying {
                    // Those behind it were sent later still.
                    break;
                }
                continue;
            }
            if sent.mark != Mark::Flying {
                continue;
            }
            let lost_at = sent.sent_at + rack.rtt + reo_wnd;
            if lost_at <= now {
                sent.mark = Mark::Lost;
                self.lost += sent.seq_len();
                found = true;
            } else {
                look_again = Some(look_again.map_or(lost_at, |at: Instant| at.max(lost_at)));
            }
        }
        (found, look_again)
    }

    /// Marks the first segment that has not arrived as lost: three duplicates or a partial acknowledgement say so
    /// (RFC 6582). Returns whether it was not marked yet.
    pub(crate) fn lose_first(&mut self) -> bool {
        let Some(front) = self.segments.front_mut().filter(|front| front.mark == Mark::Flying)
        else {
            return false;
        };
        front.mark = Mark::Lost;
        self.lost += front.seq_len();
        true
    }

    /// Marks the first segment, and what was sent `age` ago or before and has not arrived, as lost: the retransmission timer
    /// expired (RFC 8985 6.3). When the receiver took back what it had acknowledged selectively (RFC 2018 8), everything is;
    /// returns whether it did.
    pub(crate) fn lose_older(&mut self, now: Instant, age: Duration) -> bool {
        let reneged = self.has_reneged();
        for (index, sent) in self.segments.iter_mut().enumerate() {
            let is_old = index == 0 || sent.sent_at + age <= now;
            if reneged || (is_old && sent.mark == Mark::Flying) {
                let seen = core::mem::replace(&mut sent.mark, Mark::Lost);
                self.lost += if seen == Mark::Lost { 0 } else { sent.seq_len() };
            }
        }
        if reneged {
            self.sacked = 0;
        }
        reneged
    }

    /// How long what arrived last took (`RACK.rtt`).
    pub(crate) const fn rtt(&self) -> Duration {
        self.rack.rtt
    }

    /// Whether the receiver acknowledges less than it had.
    pub(crate) fn has_reneged(&self) -> bool {
        self.segments.front().is_some_and(|front| front.mark == Mark::Sacked)
    }

    /// Nothing was lost after all: what was thought so is on its way. What arrived last may have been an original, so its time
    /// says nothing of the others.
    pub(crate) fn find_again(&mut self) {
        self.rack = Rack { fack: self.rack.fack, ..Rack::default() };
        for sent in &mut self.segments {
            if sent.mark == Mark::Lost {
                sent.mark = Mark::Flying;
                self.lost -= sent.seq_len();
            }
        }
    }

    /// Marks what is longer than `len` as lost: the path does not carry it.
    pub(crate) fn lose_longer_than(&mut self, len: u16) {
        for sent in &mut self.segments {
            if sent.mark == Mark::Flying && sent.len > len {
                sent.mark = Mark::Lost;
                self.lost += sent.seq_len();
            }
        }
    }

    /// Forgets everything but its memory.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        (self.bytes, self.sacked, self.lost, self.rack) = (0, 0, 0, Rack::default());
    }
}
