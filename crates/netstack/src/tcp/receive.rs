//! Payload and FIN: handed over from the frame when in order, kept in chunks when not, acknowledged in time
//! (RFC 9293 3.10.7.4, 3.8.6.3; RFC 5681 4.2).

use tengate_base::Instant;

use super::input::Arrival;
use super::tcb::{Fate, State, Tcb};
use crate::event::{Device, DeviceFull, Event};
use crate::limits::ACK_DELAY;
use crate::seq::Seq;
use crate::shared::Shared;
use crate::wire::tcp::Flags;

/// What of a segment's text is new and fits the window.
#[derive(Clone, Copy, Debug)]
struct Text<'a> {
    seq: Seq,
    bytes: &'a [u8],
    /// Where the bytes lie in the frame.
    offset: usize,
    /// Whether the stream ends behind them.
    fin: bool,
}

impl Tcb {
    /// Takes the text of an acceptable segment.
    pub(super) fn handle_text(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if arrival.payload.is_empty() && !arrival.header.flags.has(Flags::FIN) {
            return Fate::Stays;
        }
        let text = self.trim(arrival);
        if text.bytes.len() < arrival.payload.len() {
            shared.stats.drop_duplicate_data += 1;
            self.ack_now = true;
        }
        if text.seq != self.rcv_nxt {
            self.keep_for_later(now, text, shared, device);
            return Fate::Stays;
        }
        if !text.bytes.is_empty() {
            self.take_in_order(now, arrival, text.bytes, text.offset, shared);
        }
        let ends_here = text.fin || self.rx.as_ref().is_some_and(|rx| rx.fin == Some(self.rcv_nxt));
        if ends_here {
            return self.handle_fin(now, arrival, shared, device);
        }
        Fate::Stays
    }

    /// Cuts off what is known already and what is beyond the window.
    fn trim<'a>(&self, arrival: &Arrival<'a>) -> Text<'a> {
        let seq = arrival.header.seq;
        let known = if seq.lt(self.rcv_nxt) { self.rcv_nxt.since(seq) as usize } else { 0 };
        let known = known.min(arrival.payload.len());
        let mut text = Text {
            seq: seq.max(self.rcv_nxt),
            bytes: &arrival.payload[known..],
            offset: arrival.offset + known,
            fin: arrival.header.flags.has(Flags::FIN),
        };
        let room =
            if text.seq.lt(self.rcv_adv) { self.rcv_adv.since(text.seq) as usize } else { 0 };
        if text.bytes.len() > room {
            (text.bytes, text.fin) = (&text.bytes[..room], false);
        }
        text
    }

    /// Hands over the next bytes of the stream, which begin at `offset` in the frame.
    pub(super) fn take_in_order(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        bytes: &[u8],
        offset: usize,
        shared: &mut Shared,
    ) {
        let len = u32::try_from(bytes.len()).expect("part of a frame");
        self.rcv_nxt += len;
        if self.orphaned {
            shared.stats.drop_data_after_close += 1;
        } else {
            let bytes = offset..offset + bytes.len();
            shared.events.push_back(Event::Received { conn: arrival.conn, bytes });
        }
        if self.rx.is_some() {
            self.fill_gap(arrival, shared);
        }
        self.grow_window(now, shared);
        // At least every second segment (RFC 5681 4.2), or when a short one has waited long enough.
        let second = 2 * len.clamp(SEGMENT_LEN_MIN, u32::from(self.mss).max(SEGMENT_LEN_MIN));
        if self.rcv_nxt.since(self.rcv_acked) >= second {
            self.ack_now = true;
        } else {
            self.ack_at = self.ack_at.min(now + ACK_DELAY);
        }
    }

    /// The stream has reached what arrived before.
    fn fill_gap(&mut self, arrival: &Arrival<'_>, shared: &mut Shared) {
        let Some(rx) = &mut self.rx else { return };
        let reached = rx.advance(self.rcv_nxt, &mut shared.chunks);
        self.ack_now = true;
        if reached.gt(self.rcv_nxt) && !self.orphaned {
            shared.events.push_back(Event::Readable { conn: arrival.conn });
        }
        self.rcv_nxt = reached;
        while let Some(chunk) = rx.pop_ready(reached) {
            if self.orphaned {
                shared.chunks.give(chunk);
            } else {
                shared.ready.push_back((arrival.conn, chunk));
            }
        }
        self.release_empty_rx(shared);
    }

    /// Gives the receive queue back when nothing is in it.
    pub(crate) fn release_empty_rx(&mut self, shared: &mut Shared) {
        if let Some(rx) = self.rx.take_if(|rx| rx.is_empty()) {
            shared.give_recv_queue(rx);
        }
    }

    /// Keeps text that comes before its turn, and says so at once (RFC 5681 3.2).
    fn keep_for_later(
        &mut self,
        now: Instant,
        text: Text<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) {
        let rx = self.rx.get_or_insert_with(|| shared.take_recv_queue());
        if !rx.insert(text.seq, text.bytes, &mut shared.chunks) {
            shared.stats.drop_out_of_order_full += 1;
        } else if text.fin {
            rx.fin = Some(text.seq + u32::try_from(text.bytes.len()).expect("part of a frame"));
        }
        self.release_empty_rx(shared);
        if self.send_ack(now, None, shared, device) == Err(DeviceFull) {
            self.ack_now = true;
        }
    }

    /// The peer's stream ends here (RFC 9293 3.10.7.4, eighth).
    fn handle_fin(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if let Some(rx) = &mut self.rx {
            rx.fin = None;
        }
        self.release_empty_rx(shared);
        self.rcv_nxt += 1;
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt);
        self.ack_now = true;
        if !self.orphaned {
            shared.events.push_back(Event::PeerClosed { conn: arrival.conn });
        }
        self.state = match self.state {
            State::Established => State::CloseWait,
            State::FinWait1 => State::Closing,
            State::FinWait2 => {
                // The connection leaves its block now, so its last acknowledgement goes first.
                if self.send_ack(now, None, shared, device).is_err() {
                    shared.stats.drop_device_full += 1;
                }
                return Fate::Waits;
            }
            State::Closed
            | State::SynSent
            | State::SynReceived
            | State::CloseWait
            | State::Closing
            | State::LastAck => unreachable!("text is taken only where the peer may send"),
        };
        Fate::Stays
    }
}

/// Segments at least this long count as full ones: no path carries less.
const SEGMENT_LEN_MIN: u32 = 512;
