//! What is sent and when: data within both windows, retransmissions first, acknowledgements with data where possible.

use tengate_base::Instant;

use super::flight::{Mark, Sent};
use super::tcb::{NEVER, State, Tcb};
use crate::event::{Device, DeviceFull};
use crate::frame::Payload;
use crate::limits::CHALLENGE_INTERVAL;
use crate::seq::Seq;
use crate::shared::{Shared, millis};
use crate::wire::tcp::{Flags, Header};

/// A segment that may be sent now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    seq: Seq,
    len: u16,
    fin: bool,
    /// Its place in flight, when it was sent before.
    index: Option<usize>,
}

impl Tcb {
    /// Sends everything that may be sent, then an acknowledgement if one is still owed. Fails when the device is full; what
    /// was not sent is tried again.
    pub(crate) fn flush(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        if self.state == State::SynReceived && self.ack_now {
            // Its SYN-ACK found the device full.
            self.send_syn(now, shared, device)?;
            self.ack_now = false;
        }
        if self.state.is_opening() || self.state == State::Closed {
            return Ok(());
        }
        while let Some(piece) = self.next_piece(now) {
            self.send_piece(now, piece, shared, device)?;
        }
        if self.ack_now || self.window_update_is_due(shared) {
            self.send_ack(now, None, shared, device)?;
        }
        Ok(())
    }

    /// What the windows allow to send next.
    fn next_piece(&mut self, now: Instant) -> Option<Piece> {
        let tx = self.tx.as_ref()?;
        if let Some((index, sent)) = tx.flight.first_lost() {
            if tx.pipe(self.mss) >= self.congestion.cwnd {
                return None;
            }
            return Some(self.again(index, sent));
        }
        let unsent = self.unsent();
        if unsent == 0 && !self.fin_is_due() {
            return None;
        }
        let pipe = tx.pipe(self.mss);
        let idle_nanos = now.as_nanos().saturating_sub(self.rto_from.as_nanos());
        if tx.flight.is_empty() && idle_nanos > self.rtt.rto_nanos(0) {
            self.congestion.restart(self.mss);
        }
        let piece = self.next_new(unsent)?;
        let room = self.congestion.cwnd.saturating_sub(pipe);
        if u32::from(piece.len) > room && pipe > 0 {
            if let Some(tx) = &mut self.tx {
                tx.cwnd_limited = true;
            }
            return None;
        }
        Some(piece)
    }

    /// The next data never sent, as the peer's window allows: a full segment, or the rest of the queue, or at least half of
    /// the greatest window the peer ever offered (RFC 9293 3.8.6.2.1; Nagle's algorithm is off).
    fn next_new(&self, unsent: u32) -> Option<Piece> {
        let right_edge = self.snd_una + self.snd_wnd;
        if right_edge.lt(self.snd_nxt) {
            return None;
        }
        let window = right_edge.since(self.snd_nxt);
        let len = unsent.min(window).min(u32::from(self.mss));
        let fin_fits = self.fin_is_due() && len == unsent && len < window;
        if len == 0 && !fin_fits {
            return None;
        }
        if len < u32::from(self.mss) && len < unsent && len < self.snd_wnd_max / 2 {
            return None;
        }
        let fit = self.fit(len);
        let (len, fin) = (fit, fin_fits && fit == len);
        Some(Piece { seq: self.snd_nxt, len: narrow(len), fin, index: None })
    }

    /// How many of the next `len` bytes never sent fit into one frame.
    fn fit(&self, len: u32) -> u32 {
        self.tx.as_ref().map_or(0, |tx| tx.fit(self.snd_nxt.since(self.snd_una), len))
    }

    /// A segment that was sent before, cut to what the path takes now.
    pub(super) fn again(&mut self, index: usize, sent: Sent) -> Piece {
        let mut piece = Piece { seq: sent.seq, len: sent.len, fin: sent.fin, index: Some(index) };
        if piece.len > self.mss {
            (piece.len, piece.fin) = (self.mss, false);
            if let Some(tx) = &mut self.tx {
                tx.flight.split(index, self.mss);
            }
        }
        piece
    }

    /// New data for a loss probe, whatever the congestion window says (RFC 8985 7.3).
    pub(super) fn probe_piece(&self) -> Option<Piece> {
        self.next_new(self.unsent()).filter(|piece| piece.len > 0)
    }

    /// The first byte beyond the window's edge, or what little fits before it, for a window that does not open.
    pub(super) fn window_piece(&self) -> Option<Piece> {
        let window = (self.snd_una + self.snd_wnd).since(self.snd_nxt);
        let len = self.unsent().min(window).min(u32::from(self.mss));
        (len > 0 && self.snd_wnd > 0).then(|| Piece {
            seq: self.snd_nxt,
            len: narrow(self.fit(len)),
            fin: false,
            index: None,
        })
    }

    /// Sends a segment with data or a FIN, and notes it in flight.
    pub(super) fn send_piece(
        &mut self,
        now: Instant,
        piece: Piece,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let is_last = piece.fin || piece.seq + u32::from(piece.len) == self.snd_una + self.queued();
        let mut flags = Flags::ACK;
        if piece.fin {
            flags = flags.with(Flags::FIN);
        }
        if is_last && piece.len > 0 {
            flags = flags.with(Flags::PSH);
        }
        let mut header = self.header(now, piece.seq, flags);
        self.offer_window(&mut header, shared);
        let (path, una) = (self.path(shared), self.snd_una);
        let timestamp = self.timestamp(now);
        let Some(tx) = &mut self.tx else { return Ok(()) };
        let payload = tx.payload(piece.seq.since(una), piece.len, &shared.chunks);
        shared.link.send_segment(&path, &header, &payload, device)?;
        shared.count_segment();
        let seq_len = u32::from(piece.len) + u32::from(piece.fin);
        tx.recovery.handle_sent(seq_len);
        if let Some(index) = piece.index {
            tx.flight.resent(index, now);
            tx.recovery.begin_doubt().handle_resent(piece.seq, piece.seq + seq_len, timestamp);
            shared.stats.retransmits += 1;
            if index == 0 {
                // The timer waits for this one now (RFC 6675 6).
                self.rto_from = now;
            }
        } else {
            if tx.flight.is_empty() {
                self.rto_from = now;
            }
            tx.recovery.probe_from = now;
            tx.flight.push(Sent {
                seq: piece.seq,
                len: piece.len,
                fin: piece.fin,
                mark: Mark::Flying,
                retransmitted: false,
                sent_at: now,
            });
            self.snd_nxt += seq_len;
            self.fin_sent |= piece.fin;
        }
        self.handle_ack_sent(&header);
        Ok(())
    }

    /// Sends an acknowledgement without data, with what selective acknowledgements have to say.
    pub(crate) fn send_ack(
        &mut self,
        now: Instant,
        duplicate: Option<(Seq, Seq)>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let mut header = self.header(now, self.snd_nxt, Flags::ACK);
        self.offer_window(&mut header, shared);
        if self.sack {
            header.options.sacks = match (&self.rx, duplicate) {
                (Some(rx), duplicate) => rx.sack_blocks(duplicate),
                (None, Some(block)) => {
                    let mut sacks = header.options.sacks;
                    sacks.push(block);
                    sacks
                }
                (None, None) => header.options.sacks,
            };
        }
        shared.send(&self.path(shared), &header, &Payload::default(), device)?;
        self.handle_ack_sent(&header);
        Ok(())
    }

    /// Sends a segment without data from below the window, which any peer must answer (RFC 9293 3.8.4, 3.8.6.1).
    ///
    /// Window probes look the same. RFC 9293 wants one byte of new data in them; without it, as Linux sends them, the
    /// answer is the same and no number is used that the peer may or may not have taken.
    pub(super) fn send_probe(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let mut header = self.header(now, self.snd_una - 1, Flags::ACK);
        self.offer_window(&mut header, shared);
        shared.send(&self.path(shared), &header, &Payload::default(), device)?;
        self.handle_ack_sent(&header);
        Ok(())
    }

    /// Sends a SYN, or a SYN-ACK when the peer's is known.
    pub(crate) fn send_syn(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        let answers = self.state == State::SynReceived;
        let flags = if answers { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let mut header = self.header(now, self.snd_una, flags);
        let window = shared.config.recv_window_bytes;
        header.window = u16::try_from(window).unwrap_or(u16::MAX);
        header.options.mss = Some(self.own_mss(shared.config.mtu));
        if !answers {
            // Everything is offered; an answer takes what was offered to it.
            self.timestamps = true;
            header.options.timestamps = self.header(now, self.snd_una, flags).options.timestamps;
            self.timestamps = false;
        }
        header.options.sack_permitted = !answers || self.sack;
        header.options.window_scale = if answers {
            (self.rcv_scale > 0 || self.snd_scale > 0).then_some(self.rcv_scale)
        } else {
            Some(super::tcb::recv_scale(window))
        };
        self.snd_nxt = self.snd_una + 1;
        shared.send(&self.path(shared), &header, &Payload::default(), device)
    }

    /// Answers a segment that was not acceptable, within limits (RFC 5961 10).
    pub(crate) fn send_challenge(
        &mut self,
        now: Instant,
        shared: &mut Shared,
        device: &mut impl Device,
    ) {
        let interval = u32::try_from(CHALLENGE_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        if millis(now).wrapping_sub(self.challenged_at) < interval {
            return;
        }
        self.challenged_at = millis(now);
        match self.send_ack(now, None, shared, device) {
            Ok(()) => shared.stats.challenge_acks_sent += 1,
            // It leaves when the turn ends, or when there is room: who asks whether we are there gives us up at last.
            Err(DeviceFull) => self.ack_now = true,
        }
    }

    /// Resets the connection; the caller forgets it.
    pub(crate) fn send_abort(&self, now: Instant, shared: &mut Shared, device: &mut impl Device) {
        if matches!(self.state, State::SynSent | State::FinWait2) {
            // The peer knows nothing of us yet, or has everything.
            return;
        }
        let header = self.header(now, self.snd_nxt, Flags::RST.with(Flags::ACK));
        shared.send_reset(&self.path(shared), &header, device);
    }

    /// Puts the window into a header and moves its edge. The edge moves only by a segment or half of the whole window
    /// (RFC 9293 3.8.6.2.2), and never back, but for the rounding of the scale, which peers must bear (RFC 7323 2.4).
    fn offer_window(&mut self, header: &mut Header, shared: &Shared) {
        let edge = self.rcv_nxt + self.receivable(shared);
        let step = (self.whole_window(shared) / 2).min(u32::from(self.mss));
        if edge.gt(self.rcv_adv) && edge.since(self.rcv_adv) >= step {
            self.rcv_adv = edge;
        }
        let window = self.rcv_adv.since(self.rcv_nxt) >> self.rcv_scale;
        header.window = u16::try_from(window).unwrap_or(u16::MAX);
    }

    /// The greatest window that can be offered.
    pub(crate) fn whole_window(&self, shared: &Shared) -> u32 {
        self.grown_window(shared).min(u32::from(u16::MAX) << self.rcv_scale)
    }

    /// Bytes there is room for.
    fn receivable(&self, shared: &Shared) -> u32 {
        self.whole_window(shared).saturating_sub(self.rcv_held)
    }

    /// Whether the window offered is so small and there is so much room that the peer must be told (RFC 9293 3.8.6.2.2).
    /// While more than that is left, what was freed rides on ordinary acknowledgements.
    fn window_update_is_due(&self, shared: &Shared) -> bool {
        if !self.state.may_receive() {
            return false;
        }
        let (offered, whole) = (self.rcv_adv.since(self.rcv_nxt), self.whole_window(shared));
        let gain = self.receivable(shared).saturating_sub(offered);
        offered < (whole / 4).min(WINDOW_SMALL)
            && gain > 0
            && gain >= (whole / 2).min(u32::from(self.mss))
    }

    fn handle_ack_sent(&mut self, header: &Header) {
        if header.flags.has(Flags::ACK) {
            self.rcv_acked = self.rcv_nxt;
            self.ack_now = false;
            self.ack_at = NEVER;
        }
    }
}

/// A window that makes its sender wait, on any path.
const WINDOW_SMALL: u32 = 16 << 10;

fn narrow(len: u32) -> u16 {
    u16::try_from(len).expect("at most a segment")
}
