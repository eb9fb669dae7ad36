//! A segment arrives at a connection (RFC 9293 3.10.7.3 and 3.10.7.4, with RFC 5961 and RFC 7323).

use tengate_base::{ConnId, Door, Instant};

use super::ack::Acked;
use super::tcb::{Fate, State, Tcb};
use crate::event::{Cause, Device, DeviceFull, Event};
use crate::seq::Seq;
use crate::shared::{Shared, millis};
use crate::wire::ethernet::MacAddr;
use crate::wire::tcp::{Flags, Header};

/// A segment and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Arrival<'a> {
    /// The connection it is for.
    pub(crate) conn: ConnId,
    pub(crate) mac: MacAddr,
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    /// Where the payload lies in the frame.
    pub(crate) offset: usize,
}

impl Arrival<'_> {
    /// Sequence numbers the segment takes (SEG.LEN).
    fn seq_len(&self) -> u32 {
        let flags = self.header.flags;
        let controls = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        u32::try_from(self.payload.len()).expect("part of a frame") + controls
    }

    /// The number behind its last.
    pub(crate) fn end(&self) -> Seq {
        self.header.seq + self.seq_len()
    }
}

impl Tcb {
    /// Takes a segment.
    pub(crate) fn handle_segment(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if self.expects(arrival) && !shared.is_pedantic {
            return self.handle_expected(now, arrival, shared);
        }
        if self.state == State::SynSent {
            return self.handle_in_syn_sent(now, arrival, shared, device);
        }
        if self.state == State::SynReceived && self.is_crossed_syn(&arrival.header) {
            // Its SYN is known; what counts is that ours was received (RFC 9293 3.5, figure 7, line 6).
            let flags = Flags(arrival.header.flags.0 & !Flags::SYN.0);
            let header = Header { seq: arrival.header.seq + 1, flags, ..arrival.header };
            return self.handle_segment(
                now,
                &Arrival { header, ..arrival.clone() },
                shared,
                device,
            );
        }
        if !self.passes_paws(now, arrival, shared, device)
            || !self.is_acceptable(now, arrival, shared, device)
        {
            return Fate::Stays;
        }
        let flags = arrival.header.flags;
        if flags.has(Flags::RST) {
            return self.handle_reset(now, arrival, shared, device);
        }
        if flags.has(Flags::SYN) {
            // RFC 5961 4: whoever sent it, an acknowledgement makes a peer that restarted reset the connection. It may have
            // another hardware address since; that the connection moves there is not believed yet.
            shared.stats.drop_syn_in_connection += 1;
            let known = core::mem::replace(&mut self.mac, arrival.mac);
            self.send_challenge(now, shared, device);
            self.mac = known;
            return Fate::Stays;
        }
        if !flags.has(Flags::ACK) {
            shared.stats.drop_no_ack += 1;
            return Fate::Stays;
        }
        self.mac = arrival.mac;
        self.heard(now);
        self.take_timestamp(now, &arrival.header);
        self.handle_acceptable(now, arrival, shared, device)
    }

    /// Whether a segment is the SYN-ACK of a peer that opens the connection at the same time.
    fn is_crossed_syn(&self, header: &Header) -> bool {
        header.flags.has(Flags::SYN.with(Flags::ACK))
            && header.seq == self.rcv_nxt - 1
            && header.ack == self.snd_nxt
    }

    /// Steps five to eight of RFC 9293 3.10.7.4.
    fn handle_acceptable(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if self.state == State::SynReceived && !self.establish(now, arrival, shared, device) {
            return Fate::Stays;
        }
        if !self.accepts_ack(arrival.header.ack) {
            shared.stats.drop_ack_unacceptable += 1;
            self.send_challenge(now, shared, device);
            return Fate::Stays;
        }
        if self.handle_ack(now, arrival, shared) == Acked::Fin {
            match self.state {
                State::FinWait1 => self.state = State::FinWait2,
                State::Closing => return Fate::Waits,
                State::LastAck => return Fate::Ends(Cause::Finished),
                State::Closed
                | State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait2
                | State::CloseWait => {}
            }
        }
        if self.state.may_receive() {
            return self.handle_text(now, arrival, shared, device);
        }
        Fate::Stays
    }

    /// The peer is there.
    pub(super) fn heard(&mut self, now: Instant) {
        self.unanswered = 0;
        // A connection nobody holds lingers from when it began to, or a peer could keep it for ever.
        if !(self.orphaned && self.state == State::FinWait2) {
            self.heard_at = now;
        }
    }

    /// SYN-RECEIVED: the acknowledgement of our SYN opens the connection.
    fn establish(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> bool {
        let header = &arrival.header;
        if !(header.ack.gt(self.snd_una) && header.ack.le(self.snd_nxt)) {
            shared.stats.drop_ack_unacceptable += 1;
            let reset = self.header(now, header.ack, Flags::RST);
            shared.send_reset(&self.path(shared), &reset, device);
            return false;
        }
        self.measure_handshake(now, header);
        self.open(now, arrival, shared);
        true
    }

    /// The handshake is done, from either side.
    pub(crate) fn open(&mut self, now: Instant, arrival: &Arrival<'_>, shared: &mut Shared) {
        let header = &arrival.header;
        self.state = if self.fin_wanted { State::FinWait1 } else { State::Established };
        self.snd_una = header.ack;
        if self.retries > 1 {
            // RFC 6928 2: a handshake that lost more than one SYN begins with one segment.
            self.congestion.collapse(self.mss);
        }
        (self.retries, self.rto_from) = (0, now);
        let scale = if header.flags.has(Flags::SYN) { 0 } else { self.snd_scale };
        self.take_window(header, u32::from(header.window) << scale);
        let conn = arrival.conn;
        if self.orphaned {
            return;
        }
        if self.passive {
            shared.stats.conns_accepted += 1;
            let (peer, local) = (self.peer(), self.local(shared));
            shared.events.push_back(Event::Opened { conn, door: Door(self.door), peer, local });
        } else {
            shared.stats.conns_connected += 1;
            shared.events.push_back(Event::Connected { conn });
        }
    }

    /// RFC 7323 5.3, R1: protection against old duplicates.
    fn passes_paws(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> bool {
        if !self.timestamps || arrival.header.flags.has(Flags::RST) {
            return true;
        }
        let Some(timestamps) = arrival.header.options.timestamps else {
            // RFC 7323 3.2.
            shared.stats.drop_no_timestamps += 1;
            return false;
        };
        let is_older = timestamps.value.wrapping_sub(self.ts_recent).cast_signed() < 0;
        // RFC 7323 5.5: after 24 days the clock may have wrapped.
        let is_stale = millis(now).wrapping_sub(self.ts_recent_at) > TS_RECENT_MILLIS_MAX;
        if !is_older || is_stale {
            return true;
        }
        shared.stats.drop_paws += 1;
        self.answer_unacceptable(now, arrival, shared, device);
        false
    }

    /// RFC 9293 3.10.7.4, first: does the segment concern the window?
    fn is_acceptable(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> bool {
        let (seq, end) = (arrival.header.seq, arrival.end());
        // A segment that begins at the window's edge is taken too, for its acknowledgement: that is where the numbers of
        // a peer are that has filled the window, and of one that probes a window of zero.
        let acceptable = if arrival.seq_len() == 0 {
            seq.ge(self.rcv_nxt) && seq.le(self.rcv_adv)
        } else {
            end.gt(self.rcv_nxt) && seq.le(self.rcv_adv)
        };
        if acceptable {
            return true;
        }
        shared.stats.drop_out_of_window += 1;
        if arrival.header.flags.has(Flags::RST) {
            return false;
        }
        self.heard(now);
        self.answer_unacceptable(now, arrival, shared, device);
        false
    }

    /// Says what is expected. Repeated data and a repeated SYN must be answered every time, or their sender never stops;
    /// for the rest there is a limit.
    fn answer_unacceptable(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) {
        let (seq, flags) = (arrival.header.seq, arrival.header.flags);
        let result = if self.state == State::SynReceived && flags.has(Flags::SYN) {
            // Which of ours is acknowledged then is not known any more (Karn).
            self.retries = self.retries.max(1);
            self.take_timestamp(now, &arrival.header);
            self.send_syn(now, shared, device)
        } else if arrival.seq_len() > 0 && arrival.end().le(self.rcv_nxt) {
            let text_end = seq + u32::try_from(arrival.payload.len()).expect("part of a frame");
            let duplicate = (!arrival.payload.is_empty()).then_some((seq, text_end));
            shared.stats.drop_duplicate_data += 1;
            if arrival.end() == self.rcv_acked {
                // Our acknowledgement of it was lost: the next one must not tell its sender of a round trip as long as that
                // took to notice. RFC 7323 4.3 would have dropped the segment before; Linux does as here.
                self.take_timestamp(now, &arrival.header);
            }
            self.send_ack(now, duplicate, shared, device)
        } else {
            self.send_challenge(now, shared, device);
            Ok(())
        };
        if result == Err(DeviceFull) {
            self.ack_now = true;
        }
    }

    /// RFC 5961 3.2: only a reset at exactly the expected number is one.
    fn handle_reset(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        if arrival.header.seq != self.rcv_nxt {
            shared.stats.drop_rst_unacceptable += 1;
            self.send_challenge(now, shared, device);
            return Fate::Stays;
        }
        let refused = self.state == State::SynReceived && !self.passive;
        Fate::Ends(if refused { Cause::Refused } else { Cause::Reset })
    }

    /// RFC 7323 4.3: whose timestamp is echoed next.
    pub(super) fn take_timestamp(&mut self, now: Instant, header: &Header) {
        let Some(timestamps) = header.options.timestamps.filter(|_| self.timestamps) else {
            return;
        };
        let is_newer = timestamps.value.wrapping_sub(self.ts_recent).cast_signed() >= 0
            || millis(now).wrapping_sub(self.ts_recent_at) > TS_RECENT_MILLIS_MAX;
        if is_newer && header.seq.le(self.rcv_acked) {
            (self.ts_recent, self.ts_recent_at) = (timestamps.value, millis(now));
        }
    }

    /// RFC 9293 3.10.7.3.
    fn handle_in_syn_sent(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
        device: &mut impl Device,
    ) -> Fate {
        let header = &arrival.header;
        let (has_ack, has_rst) = (header.flags.has(Flags::ACK), header.flags.has(Flags::RST));
        if has_ack && header.ack != self.snd_nxt {
            shared.stats.drop_ack_unacceptable += 1;
            if !has_rst {
                let reset = self.header(now, header.ack, Flags::RST);
                shared.send_reset(&self.path(shared), &reset, device);
            }
            return Fate::Stays;
        }
        if has_rst {
            if has_ack {
                return Fate::Ends(Cause::Refused);
            }
            shared.stats.drop_rst_unacceptable += 1;
            return Fate::Stays;
        }
        if !header.flags.has(Flags::SYN) {
            shared.stats.drop_no_ack += 1;
            return Fate::Stays;
        }
        self.mac = arrival.mac;
        self.heard(now);
        self.take_syn(now, header, shared);
        if has_ack {
            self.measure_handshake(now, header);
            self.open(now, arrival, shared);
            // Text that came with the SYN is left to be sent again: that is rare, and it is not acknowledged.
            self.ack_now = true;
            return Fate::Stays;
        }
        // Both sides open at once (RFC 9293 3.5).
        self.state = State::SynReceived;
        (self.rto_from, self.retries) = (now, 0);
        if self.send_syn(now, shared, device).is_err() {
            shared.stats.drop_device_full += 1;
        }
        Fate::Stays
    }
}

/// 24 days.
const TS_RECENT_MILLIS_MAX: u32 = 24 * 24 * 3_600 * 1_000;
