//! What an acknowledgement means: progress, round trips, losses, the windows (RFC 5681, 6298, 6675, 8985, 9293 3.10.7.4).

use alloc::boxed::Box;
use core::time::Duration;

use tengate_base::Instant;

use super::flight::Delivered;
use super::hystart::Growth;
use super::input::Arrival;
use super::recovery::Phase;
use super::send_queue::SendQueue;
use super::tcb::Tcb;
use crate::event::Event;
use crate::seq::Seq;
use crate::shared::Shared;
use crate::wire::tcp::{Flags, Header};

/// What an acceptable acknowledgement changed, for the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Nothing it needs to know.
    Data,
    /// Our FIN arrived.
    Fin,
}

/// What one acknowledgement said, put together.
#[derive(Clone, Copy, Debug)]
struct Said {
    delivered: Delivered,
    /// How far `snd_una` moved.
    advanced: u32,
    /// A duplicate as RFC 5681 2 defines it.
    is_duplicate: bool,
    /// Data it reports to have arrived twice (RFC 2883).
    duplicate: Option<(Seq, Seq)>,
    /// Our timestamp that it echoes (RFC 7323).
    echo: Option<u32>,
}

impl Tcb {
    /// Takes an acknowledgement that is neither too old nor of what was never sent.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        shared: &mut Shared,
    ) -> Acked {
        let header = &arrival.header;
        if header.ack.lt(self.snd_una) {
            return Acked::Data;
        }
        let window = u32::from(header.window) << self.snd_scale;
        let same_window = window == self.snd_wnd;
        let newer = self.snd_wl1.lt(header.seq)
            || (self.snd_wl1 == header.seq && self.snd_wl2.le(header.ack));
        if newer {
            self.take_window(header, window);
        }
        let Some(mut tx) = self.tx.take() else {
            self.snd_una = header.ack;
            return Acked::Data;
        };
        if tx.flight.is_empty() && !same_window && self.snd_wnd > 0 {
            // The window opened: what was probed for may go, and its timer begins anew.
            (self.retries, self.rto_from) = (0, now);
        }
        let is_bare = arrival.payload.is_empty() && !header.flags.has(Flags::FIN);
        let advanced = header.ack.since(self.snd_una);
        tx.flight.handle_echo(self.echoed_before(now, header));
        let mut said = Said {
            delivered: tx.flight.acknowledge(now, header.ack, self.rtt.min()),
            advanced,
            is_duplicate: advanced == 0 && is_bare && same_window && !tx.flight.is_empty(),
            duplicate: None,
            echo: header.options.timestamps.map(|theirs| theirs.echo).filter(|_| self.timestamps),
        };
        tx.drop_front(advanced - u32::from(said.delivered.fin), &mut shared.chunks);
        self.snd_una = header.ack;
        if self.sack {
            said.duplicate = self.take_sacks(now, header, &mut tx, &mut said.delivered);
        }
        self.measure(now, header, &said);
        self.note_reordering(&mut tx, &said, shared);
        self.settle_probe(&mut tx, &said, shared);
        self.take_back(&mut tx, &said, shared);
        self.recover(now, &mut tx, &said, shared);
        let fin = said.delivered.fin;
        self.put_back(tx, shared);
        self.tell_drained(arrival, shared);
        if fin { Acked::Fin } else { Acked::Data }
    }

    /// Keeps the queue while there is something in it or to come.
    fn put_back(&mut self, tx: Box<SendQueue>, shared: &mut Shared) {
        if tx.len() == 0 && tx.flight.is_empty() && !self.fin_is_due() {
            shared.give_send_queue(tx);
        } else {
            self.tx = Some(tx);
        }
    }

    pub(super) fn tell_drained(&mut self, arrival: &Arrival<'_>, shared: &mut Shared) {
        if self.notify_below != u32::MAX && self.queued() <= self.notify_below {
            self.notify_below = u32::MAX;
            if !self.orphaned {
                shared.events.push_back(Event::Drained { conn: arrival.conn });
            }
        }
    }

    /// Takes selective acknowledgements; returns the first if it reports a duplicate (RFC 2883 4).
    fn take_sacks(
        &mut self,
        now: Instant,
        header: &Header,
        tx: &mut SendQueue,
        delivered: &mut Delivered,
    ) -> Option<(Seq, Seq)> {
        let blocks = header.options.sacks.as_slice();
        let reports_duplicate = match blocks {
            [first, second, ..] => {
                first.1.le(self.snd_una) || (second.0.le(first.0) && first.1.le(second.1))
            }
            [first] => first.1.le(self.snd_una),
            [] => false,
        };
        for &(start, end) in &blocks[usize::from(reports_duplicate)..] {
            if start.lt(end) && start.ge(self.snd_una) && end.le(self.snd_nxt) {
                tx.flight.select(now, (start, end), self.rtt.min(), delivered);
            }
        }
        blocks.first().copied().filter(|_| reports_duplicate)
    }

    /// Measures the round trip: of a segment sent once (Karn), else by the echoed timestamp (RFC 7323 4.1).
    fn measure(&mut self, now: Instant, header: &Header, said: &Said) {
        if said.advanced > 0 {
            (self.retries, self.rto_from) = (0, now);
        }
        if let Some(rtt) = said.delivered.rtt {
            self.rtt.measure(rtt);
        } else if said.advanced > 0 {
            self.measure_by_echo(now, header);
        }
    }

    /// Measures the round trip of the handshake. When our segment was sent again only an echo of the last one tells which is
    /// answered (Karn); an older one may be what the peer knew before.
    pub(super) fn measure_handshake(&mut self, now: Instant, header: &Header) {
        let echo = header.options.timestamps.map_or(0, |theirs| theirs.echo);
        let last = self.timestamp(self.rto_from);
        if self.retries == 0 {
            self.rtt.measure(now.saturating_since(self.rto_from));
        } else if echo.wrapping_sub(last).cast_signed() >= 0 {
            self.measure_by_echo(now, header);
        }
    }

    /// The end of the millisecond whose timestamp is echoed, [`Instant::ZERO`] if none is that can be believed.
    fn echoed_before(&self, now: Instant, header: &Header) -> Instant {
        let theirs = header.options.timestamps.filter(|_| self.timestamps);
        let age = theirs.map(|theirs| self.timestamp(now).wrapping_sub(theirs.echo));
        let Some(age) = age.filter(|age| *age < ECHO_AGE_MILLIS_MAX) else { return Instant::ZERO };
        let millis = (now.as_nanos() / NANOS_PER_MILLI + 1).saturating_sub(u64::from(age));
        Instant::from_nanos(millis * NANOS_PER_MILLI)
    }

    fn measure_by_echo(&mut self, now: Instant, header: &Header) {
        let Some(theirs) = header.options.timestamps.filter(|_| self.timestamps) else { return };
        let millis = self.timestamp(now).wrapping_sub(theirs.echo);
        if theirs.echo != 0 && millis < ECHO_AGE_MILLIS_MAX {
            self.rtt.measure(Duration::from_millis(u64::from(millis)));
        }
    }

    /// Widens the reordering window, once for each round in which something was sent again in vain (RFC 8985 6.2 steps 3
    /// and 4).
    fn note_reordering(&mut self, tx: &mut SendQueue, said: &Said, shared: &mut Shared) {
        if said.delivered.reordered {
            self.reordering.note_seen();
        }
        let Some(duplicate) = said.duplicate else { return };
        shared.stats.duplicate_sacks_received += 1;
        let Some(doubt) = tx.recovery.doubt().filter(|doubt| doubt.concerns(duplicate)) else {
            return;
        };
        if doubt.begins_round(self.snd_una, self.snd_nxt) {
            self.reordering.widen();
        }
    }

    /// Takes a reduction back that was for nothing (RFC 4015 3.2): the window is what it was, and what was thought to be
    /// lost is on its way.
    fn take_back(&mut self, tx: &mut SendQueue, said: &Said, shared: &mut Shared) {
        let (phase, point) = (tx.recovery.phase, tx.recovery.point);
        let Some(doubt) = tx.recovery.doubt() else { return };
        let is_duplicate = said.duplicate.is_some_and(|duplicate| doubt.concerns(duplicate));
        let Some(undo) = &mut doubt.undo else { return };
        let is_overtaken = undo.is_overtaken(self.snd_una, said.echo);
        let is_all = is_duplicate && undo.handle_duplicate();
        // After a time-out data arrives that was not sent again: it was on its way (RFC 5682 3.1, step 3b).
        let original = said.delivered.original.filter(|_| self.sack && phase == Phase::Loss);
        let is_late = original.is_some_and(|seq| seq.lt(point));
        // What was thought to be lost arrives before anything was sent again.
        let is_found = said.delivered.found && undo.is_untouched();
        if !is_overtaken && !is_all && !is_late && !is_found {
            return;
        }
        shared.stats.recoveries_undone += 1;
        let cwnd = self.congestion.cwnd;
        self.congestion = undo.before;
        doubt.undo = None;
        self.congestion.cwnd = self.congestion.cwnd.max(cwnd);
        // A time-out for nothing tells of a delay, not of the order.
        if phase != Phase::Loss {
            self.reordering.note_seen();
        }
        (tx.recovery.phase, tx.recovery.dup_acks) = (Phase::Open, 0);
        tx.flight.find_again();
    }

    /// How long a segment may stay behind one sent after it without being lost (RFC 8985 6.2 step 4).
    fn reo_wnd(&self, tx: &SendQueue) -> Duration {
        if !self.reordering.is_seen()
            && (tx.recovery.phase != Phase::Open
                || tx.flight.sacked() >= DUP_THRESH * u32::from(self.mss))
        {
            return Duration::ZERO;
        }
        (self.rtt.min() * u32::from(self.reordering.multiplier()) / 4).min(self.srtt())
    }

    /// The end of a loss probe (RFC 8985 7.4): when it repaired a loss, that loss counts.
    fn settle_probe(&mut self, tx: &mut SendQueue, said: &Said, shared: &mut Shared) {
        let Some((end, repeated)) = tx.recovery.probe.filter(|&(end, _)| self.snd_una.ge(end))
        else {
            return;
        };
        tx.recovery.probe = None;
        if repeated && said.duplicate.is_none() && self.snd_una.gt(end) {
            self.congestion.reduce(shared.config.congestion, self.congestion.cwnd, self.mss);
            self.congestion.cwnd = self.congestion.ssthresh;
        }
    }

    /// Finds losses, and what they and the progress made do to the congestion window.
    fn recover(&mut self, now: Instant, tx: &mut SendQueue, said: &Said, shared: &mut Shared) {
        if said.advanced > 0 || said.delivered.bytes > 0 {
            tx.recovery.probe_from = now;
        }
        if tx.flight.has_reneged() {
            self.begin_again(now, tx, shared);
            return;
        }
        if tx.recovery.phase != Phase::Open && self.snd_una.ge(tx.recovery.point) {
            if tx.recovery.phase == Phase::Recovery {
                self.congestion.cwnd = self.congestion.ssthresh;
            }
            (tx.recovery.phase, tx.recovery.dup_acks) = (Phase::Open, 0);
            self.reordering.handle_recovery_end();
        }
        let (lost, arrived) = if self.sack {
            (self.find_losses(now, tx), said.delivered.bytes)
        } else {
            self.count_duplicates(tx, said)
        };
        if lost && tx.recovery.phase == Phase::Open {
            self.begin_recovery(tx, shared);
        }
        if tx.recovery.phase == Phase::Recovery {
            let (pipe, ssthresh) = (tx.pipe(self.mss), self.congestion.ssthresh);
            let progress = said.advanced > 0 && !lost;
            let mss = u32::from(self.mss);
            self.congestion.cwnd = tx.recovery.window(arrived, pipe, ssthresh, mss, progress);
        } else if arrived > 0 && (tx.cwnd_limited || tx.recovery.phase == Phase::Loss) {
            self.grow(now, tx, arrived, said, shared);
        }
    }

    /// The congestion window grows by what arrived, in the first slow start only as long as no queue seems to fill.
    fn grow(
        &mut self,
        now: Instant,
        tx: &mut SendQueue,
        arrived: u32,
        said: &Said,
        shared: &Shared,
    ) {
        let (mut acked, rtt) = (arrived, said.delivered.rtt);
        if self.congestion.is_in_first_slow_start() {
            let slow_start = &mut tx.recovery.slow_start;
            match slow_start.handle_ack(arrived, rtt, self.snd_una, self.snd_nxt) {
                Growth::By(bytes) => acked = bytes,
                Growth::Over => self.congestion.ssthresh = self.congestion.cwnd,
            }
        }
        self.congestion.handle_ack(shared.config.congestion, now, acked, self.mss, self.srtt());
    }

    /// Lets time and order decide what is lost (RFC 8985 6.2 step 5). Returns whether something is.
    pub(super) fn find_losses(&self, now: Instant, tx: &mut SendQueue) -> bool {
        let (lost, look_again) = tx.flight.detect_losses(now, self.reo_wnd(tx));
        tx.recovery.reorder_at = look_again;
        lost
    }

    /// Without SACK: three duplicates mean a loss, and so does a partial acknowledgement (RFC 5681 3.2, RFC 6582 3.2).
    /// Returns whether something is lost, and bytes that arrived.
    fn count_duplicates(&self, tx: &mut SendQueue, said: &Said) -> (bool, u32) {
        let mss = u32::from(self.mss);
        if said.is_duplicate {
            tx.recovery.dup_acks += 1;
            let lost = tx.recovery.dup_acks == DUP_THRESH
                && tx.recovery.phase == Phase::Open
                && tx.flight.lose_first();
            return (lost, mss);
        }
        if said.advanced == 0 {
            return (false, 0);
        }
        // Of what is acknowledged now, duplicates told before, but for the segment that filled the gap.
        let told = (said.advanced.div_ceil(mss) - 1).min(tx.recovery.dup_acks);
        tx.recovery.dup_acks =
            if tx.recovery.phase == Phase::Open { 0 } else { tx.recovery.dup_acks - told };
        let partial = tx.recovery.phase == Phase::Recovery && tx.flight.lose_first();
        (partial, said.advanced.saturating_sub(told * mss))
    }

    /// Acknowledgements, or the reordering timer, found losses.
    pub(super) fn begin_recovery(&mut self, tx: &mut SendQueue, shared: &mut Shared) {
        shared.stats.recoveries += 1;
        let flight_bytes = tx.flight.bytes();
        tx.recovery.begin(Phase::Recovery, self.snd_nxt, flight_bytes);
        tx.recovery.probe = None;
        tx.recovery.begin_doubt().handle_reduction(self.congestion);
        self.congestion.reduce(shared.config.congestion, flight_bytes, self.mss);
        let (pipe, mss) = (tx.pipe(self.mss), u32::from(self.mss));
        self.congestion.cwnd = tx.recovery.window(0, pipe, self.congestion.ssthresh, mss, false);
    }

    /// The retransmission timer expired, or the receiver took back what it had: begin again from `snd_una`.
    pub(super) fn begin_again(&mut self, now: Instant, tx: &mut SendQueue, shared: &mut Shared) {
        let flight_bytes = tx.flight.bytes();
        // Without SACK nothing tells what arrived: everything is sent again (RFC 5681 3.1).
        let age = if self.sack { tx.flight.rtt() + self.reo_wnd(tx) } else { Duration::ZERO };
        if tx.flight.lose_older(now, age) {
            shared.stats.sack_reneged += 1;
        }
        if tx.recovery.phase == Phase::Open {
            tx.recovery.begin_doubt().handle_reduction(self.congestion);
        } else if tx.recovery.phase == Phase::Recovery {
            // There was more to it than one reduction.
            tx.recovery.begin_doubt().undo = None;
        }
        // A second expiry for the same data does not shrink the threshold again (RFC 5681 3.1).
        if self.retries <= 1 && tx.recovery.phase != Phase::Loss {
            self.congestion.reduce(shared.config.congestion, flight_bytes, self.mss);
        }
        // One segment, beside what is on its way still.
        self.congestion.collapse(self.mss);
        self.congestion.cwnd += tx.flight.pipe();
        tx.recovery.begin(Phase::Loss, self.snd_nxt, flight_bytes);
        (tx.recovery.dup_acks, tx.recovery.reorder_at, tx.recovery.probe) = (0, None, None);
    }

    /// Whether an acknowledgement is of what was sent, and not older than any that could be on its way (RFC 5961 5.2).
    pub(super) fn accepts_ack(&self, ack: Seq) -> bool {
        ack.le(self.snd_nxt) && ack.ge(self.snd_una - self.snd_wnd_max)
    }
}

/// Duplicates that mean a loss (RFC 5681 3.2).
const DUP_THRESH: u32 = 3;
/// Echoes older than this are not believed.
const ECHO_AGE_MILLIS_MAX: u32 = 120_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
