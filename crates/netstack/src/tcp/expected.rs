//! Nearly every segment of an open connection is the next one and says nothing unusual. Those take this path (the header
//! prediction of Van Jacobson, 1990); whatever else a segment may be is left to the rules of RFC 9293 3.10.7.4, which come to
//! the same for these.

use tengate_base::Instant;

use super::input::Arrival;
use super::send_queue::SendQueue;
use super::tcb::{Fate, State, Tcb};
use crate::shared::Shared;
use crate::wire::tcp::{Flags, Header};

impl Tcb {
    /// Whether a segment is the next one of an open connection, within the window, without options but a timestamp that is
    /// not old, acknowledges nothing or the only segment in flight, and nothing else is going on.
    #[inline]
    pub(super) fn expects(&self, arrival: &Arrival<'_>) -> bool {
        let header = &arrival.header;
        let timestamps_fit = match (self.timestamps, header.options.timestamps) {
            (true, Some(theirs)) => theirs.value.wrapping_sub(self.ts_recent).cast_signed() >= 0,
            (true, None) => false,
            (false, _) => true,
        };
        self.state == State::Established
            && header.flags.0 | Flags::PSH.0 == Flags::ACK.with(Flags::PSH).0
            && header.seq == self.rcv_nxt
            && timestamps_fit
            && header.options.sacks.as_slice().is_empty()
            && arrival.payload.len() <= self.rcv_adv.since(self.rcv_nxt) as usize
            && self.rx.is_none()
            && self.expects_ack(header, arrival.payload.is_empty())
    }

    /// An acknowledgement of all that is queued, or one without news on a segment with text. A bare one without news would be
    /// a duplicate, or open the window.
    #[inline]
    fn expects_ack(&self, header: &Header, is_bare: bool) -> bool {
        match &self.tx {
            None => header.ack == self.snd_una,
            Some(tx) if header.ack == self.snd_una => {
                let window = u32::from(header.window) << self.snd_scale;
                !is_bare && window == self.snd_wnd && tx.is_untroubled()
            }
            Some(tx) => {
                header.ack == self.snd_una + tx.len()
                    && tx.is_untroubled()
                    // Else the window grows.
                    && !tx.cwnd_limited
                    && tx.flight.is_one_segment_until(header.ack)
            }
        }
    }

    /// Takes a segment that was [expected](Self::expects).
    #[inline]
    pub(super) fn handle_expected(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
    ) -> Fate {
        let header = &arrival.header;
        self.mac = arrival.mac;
        self.heard(now);
        self.take_timestamp(now, header);
        let newer = self.snd_wl1.lt(header.seq) || self.snd_wl2.le(header.ack);
        if newer {
            self.take_window(header, u32::from(header.window) << self.snd_scale);
        }
        if header.ack != self.snd_una
            && let Some(tx) = self.tx.take()
        {
            self.handle_all_acknowledged(now, &tx);
            self.snd_una = header.ack;
            shared.give_send_queue(tx);
            self.tell_drained(arrival, shared);
        }
        if !arrival.payload.is_empty() {
            self.take_in_order(now, arrival, arrival.payload, arrival.offset, shared);
            return Fate::Stays;
        }
        if self.tx.is_none() && !self.ack_now && self.is_watched(shared) {
            return Fate::Rests;
        }
        Fate::Stays
    }

    /// The only segment in flight arrived, and nothing is queued behind it.
    fn handle_all_acknowledged(&mut self, now: Instant, tx: &SendQueue) {
        (self.retries, self.rto_from) = (0, now);
        if let Some(sent_at) = tx.flight.front_sent_at() {
            self.rtt.measure_micros(now.as_nanos().saturating_sub(sent_at.as_nanos()) / 1000);
        }
    }
}
