//! The control block (RFC 9293 3.3.1): all that a connection is while nothing of it is on its way.

use alloc::boxed::Box;
use core::net::SocketAddr;
use core::time::Duration;

use tengate_base::Instant;

use super::congestion::Congestion;
use super::recv_queue::RecvQueue;
use super::reordering::Reordering;
use super::rtt::Rtt;
use super::send_queue::SendQueue;
use super::window::Round;
use crate::event::Cause;
use crate::flow::FlowKey;
use crate::frame::Path;
use crate::limits::{self, RTO_MIN};
use crate::seq::Seq;
use crate::shared::{Shared, millis};
use crate::wire::ethernet::MacAddr;
use crate::wire::ip;
use crate::wire::tcp::{self, Flags, Header, Options, Timestamps};

/// States of RFC 9293 3.3.2. LISTEN is a listener, TIME-WAIT has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No connection.
    Closed,
    /// A SYN was sent, or waits for the neighbour's address.
    SynSent,
    /// A SYN came and was answered.
    SynReceived,
    /// Open both ways.
    Established,
    /// We finished.
    FinWait1,
    /// We finished and the peer knows.
    FinWait2,
    /// The peer finished.
    CloseWait,
    /// Both finished; the peer does not know of our end yet.
    Closing,
    /// The peer finished, then we did.
    LastAck,
}

impl State {
    /// Whether the peer's stream may go on.
    pub(crate) const fn may_receive(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// Whether ours may.
    pub(crate) const fn may_send(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }

    /// Whether the handshake is not done.
    pub(crate) const fn is_opening(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }
}

/// What becomes of a connection after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fate {
    /// It goes on.
    Stays,
    /// It goes on, and has nothing to do at the end of the turn that it had not before.
    Rests,
    /// It ends, and the application, if it still has it, learns why.
    Ends(Cause),
    /// It ends in TIME-WAIT.
    Waits,
}

/// One connection. At most 200 bytes, see the assertion below.
#[derive(Debug)]
pub(crate) struct Tcb {
    pub(crate) key: FlowKey,
    /// The listener it came through; meaningless for those we opened.
    pub(crate) door: u16,
    /// Where the peer's frames come from, and ours go (answer to source).
    pub(crate) mac: MacAddr,
    pub(crate) state: State,
    /// Opened by the peer.
    pub(crate) passive: bool,
    /// The application has no part in it any more: no events.
    pub(crate) orphaned: bool,
    /// A SYN waits for the neighbour's address.
    pub(crate) resolving: bool,
    /// It is in the list of connections to look at when the turn ends.
    pub(crate) dirty: bool,
    /// An acknowledgement must be sent when the turn ends.
    pub(crate) ack_now: bool,
    /// The application finished our stream; a FIN follows what is queued.
    pub(crate) fin_wanted: bool,
    /// It was sent.
    pub(crate) fin_sent: bool,
    /// Timestamps (RFC 7323) and selective acknowledgements (RFC 2018) were agreed on.
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    pub(crate) reordering: Reordering,
    /// Retransmissions, or window probes, since the peer last made progress.
    pub(crate) retries: u8,
    /// Keepalive or window probes since the peer last sent anything.
    pub(crate) unanswered: u8,
    /// Shifts of the window in segments received and sent (RFC 7323 2).
    pub(crate) snd_scale: u8,
    pub(crate) rcv_scale: u8,
    /// Bytes of data a segment may have, options that every segment has taken off.
    pub(crate) mss: u16,
    pub(crate) snd_una: Seq,
    pub(crate) snd_nxt: Seq,
    /// Scaled.
    pub(crate) snd_wnd: u32,
    pub(crate) snd_wl1: Seq,
    pub(crate) snd_wl2: Seq,
    /// The greatest window the peer offered (`Max(SND.WND)` of RFC 9293 3.8.6.2.1).
    pub(crate) snd_wnd_max: u32,
    pub(crate) rcv_nxt: Seq,
    /// The right edge of the window offered; it never moves back.
    pub(crate) rcv_adv: Seq,
    /// What was last acknowledged (`Last.ACK.sent` of RFC 7323 4.3).
    pub(crate) rcv_acked: Seq,
    /// How often the window offered has doubled, and where the stream was when its rate was last looked at.
    pub(crate) rcv_growth: u8,
    pub(crate) rcv_round: Round,
    /// Bytes handed over that the application says it still holds.
    pub(crate) rcv_held: u32,
    pub(crate) ts_recent: u32,
    /// When it was taken, in milliseconds that wrap.
    pub(crate) ts_recent_at: u32,
    pub(crate) ts_offset: u32,
    pub(crate) rtt: Rtt,
    pub(crate) congestion: Congestion,
    pub(crate) tx: Option<Box<SendQueue>>,
    pub(crate) rx: Option<Box<RecvQueue>>,
    /// When the retransmission timer, or the probe timer, began.
    pub(crate) rto_from: Instant,
    /// When a delayed acknowledgement is due, [`NEVER`] if none is.
    pub(crate) ack_at: Instant,
    /// When the peer was last heard of; for a connection that lingers, when it began to.
    pub(crate) heard_at: Instant,
    /// Tell the application when at most so many bytes are queued; [`u32::MAX`]: do not.
    pub(crate) notify_below: u32,
    /// When its timer in the wheel fires, [`NEVER`] if it is not set. A deadline that moves later leaves it where it is: it
    /// fires in vain and is set again then, at most once for each time that it was set.
    pub(crate) alarm_at: Instant,
    /// When an unacceptable segment was last answered, in milliseconds that wrap.
    pub(crate) challenged_at: u32,
}

impl Tcb {
    /// A connection about to be opened, in either direction.
    pub(crate) fn new(now: Instant, key: FlowKey, mac: MacAddr, shared: &Shared) -> Self {
        let iss = Seq(shared.initial_seq(now, &key));
        let config = &shared.config;
        let mss = config.mtu - ip::header_len(key.remote) - TCP_HEADER_LEN;
        Self {
            key,
            door: 0,
            mac,
            state: State::Closed,
            passive: false,
            orphaned: false,
            resolving: false,
            dirty: false,
            ack_now: false,
            fin_wanted: false,
            fin_sent: false,
            timestamps: false,
            sack: false,
            reordering: Reordering::NONE,
            retries: 0,
            unanswered: 0,
            snd_scale: 0,
            rcv_scale: 0,
            mss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            snd_wnd_max: 0,
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            rcv_acked: Seq(0),
            rcv_growth: 0,
            rcv_round: Round::default(),
            rcv_held: 0,
            ts_recent: 0,
            ts_recent_at: millis(now),
            ts_offset: shared.timestamp_offset(&key),
            rtt: Rtt::default(),
            congestion: Congestion::new(mss),
            tx: None,
            rx: None,
            rto_from: now,
            ack_at: NEVER,
            heard_at: now,
            notify_below: u32::MAX,
            alarm_at: NEVER,
            challenged_at: millis(now).wrapping_sub(u32::MAX / 2),
        }
    }

    /// Takes what a peer's SYN says: its numbers, and the options both sides then use (RFC 9293 3.10.7.2).
    pub(crate) fn take_syn(&mut self, now: Instant, syn: &Header, shared: &Shared) {
        let config = &shared.config;
        self.rcv_nxt = syn.seq + 1;
        self.rcv_acked = self.rcv_nxt;
        self.rcv_round = Round::new(now, self.rcv_nxt);
        self.rcv_adv = self.rcv_nxt + config.recv_window_bytes.min(u32::from(u16::MAX));
        self.take_options(now, &syn.options, shared);
        // The window of a SYN is not scaled (RFC 7323 2.2).
        self.take_window(syn, u32::from(syn.window));
    }

    /// Takes the options of a peer's SYN, or those a cookie kept of it.
    pub(crate) fn take_options(&mut self, now: Instant, options: &Options, shared: &Shared) {
        self.sack = options.sack_permitted;
        if let Some(scale) = options.window_scale {
            self.snd_scale = scale;
            self.rcv_scale = recv_scale(shared.config.recv_window_bytes);
        }
        if let Some(timestamps) = options.timestamps {
            self.timestamps = true;
            (self.ts_recent, self.ts_recent_at) = (timestamps.value, millis(now));
        }
        let default = match self.key.remote.to_ipv4_mapped() {
            Some(_) => limits::MSS_DEFAULT_V4,
            None => limits::MSS_DEFAULT_V6,
        };
        let mss = options.mss.unwrap_or(default).max(limits::MSS_MIN);
        self.limit_mss(mss.min(self.own_mss(shared.config.mtu)));
        self.congestion = Congestion::new(self.mss);
    }

    /// The segment size we tell peers (RFC 9293 3.7.1): what our link takes.
    pub(crate) fn own_mss(&self, mtu: u16) -> u16 {
        mtu - ip::header_len(self.key.remote) - TCP_HEADER_LEN
    }

    /// Sets the segment size, without options, as RFC 6691 has it.
    pub(crate) const fn limit_mss(&mut self, mss: u16) {
        self.mss = if self.timestamps { mss - tcp::TIMESTAMPS_LEN } else { mss };
    }

    /// Takes the window a segment offers, scaled already.
    pub(crate) fn take_window(&mut self, header: &Header, window: u32) {
        self.snd_wnd = window;
        self.snd_wnd_max = self.snd_wnd_max.max(window);
        (self.snd_wl1, self.snd_wl2) = (header.seq, header.ack);
    }

    /// Where its segments go.
    pub(crate) fn path(&self, shared: &Shared) -> Path {
        Path { mac: self.mac, local: shared.local(self.key.local), remote: self.key.remote }
    }

    /// A header as every segment of the connection has it. The window is offered by [`Tcb::offer_window`].
    pub(crate) fn header(&self, now: Instant, seq: Seq, flags: Flags) -> Header {
        let timestamps = self.timestamps.then(|| Timestamps {
            value: self.timestamp(now),
            echo: if flags.has(Flags::ACK) { self.ts_recent } else { 0 },
        });
        Header {
            source_port: self.key.local_port,
            destination_port: self.key.remote_port,
            seq,
            ack: if flags.has(Flags::ACK) { self.rcv_nxt } else { Seq(0) },
            flags,
            window: 0,
            options: Options { timestamps, ..Options::default() },
        }
    }

    /// Our timestamp clock.
    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        millis(now).wrapping_add(self.ts_offset)
    }

    /// The other side.
    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.key.remote.to_canonical(), self.key.remote_port)
    }

    /// Our side.
    pub(crate) fn local(&self, shared: &Shared) -> SocketAddr {
        SocketAddr::new(shared.local(self.key.local).to_canonical(), self.key.local_port)
    }

    /// Bytes queued, acknowledged ones not counted.
    pub(crate) fn queued(&self) -> u32 {
        self.tx.as_ref().map_or(0, |tx| tx.len())
    }

    /// Bytes queued and never sent.
    pub(crate) fn unsent(&self) -> u32 {
        // An acknowledged FIN is no longer between the two.
        let sent = self.snd_nxt.since(self.snd_una).saturating_sub(u32::from(self.fin_sent));
        if self.state.is_opening() { self.queued() } else { self.queued().saturating_sub(sent) }
    }

    /// Whether a FIN is to be sent that was not.
    pub(crate) const fn fin_is_due(&self) -> bool {
        self.fin_wanted && !self.fin_sent
    }

    /// The smoothed round trip time, or a guess before the first measurement.
    pub(crate) fn srtt(&self) -> Duration {
        self.rtt.srtt().unwrap_or(RTO_MIN)
    }

    /// Its path takes packets of `mtu` bytes only: shorter segments from now on, and those too long are sent again. Returns
    /// whether that is news.
    pub(crate) fn narrow_path(&mut self, mtu: u16, shared: &mut Shared) -> bool {
        let before = self.mss;
        self.limit_mss(self.own_mss(mtu));
        if self.mss >= before {
            self.mss = before;
            return false;
        }
        shared.stats.path_mtu_lowered += 1;
        if let Some(tx) = &mut self.tx {
            tx.flight.lose_longer_than(self.mss);
        }
        true
    }

    /// Whether its timer will fire early enough for a connection with nothing queued or owed.
    pub(crate) fn is_watched(&self, shared: &Shared) -> bool {
        self.ack_at == NEVER && (shared.config.keepalive.is_none() || self.alarm_at != NEVER)
    }

    /// Gives its queues back.
    pub(crate) fn release_queues(&mut self, shared: &mut Shared) {
        if let Some(tx) = self.tx.take() {
            shared.give_send_queue(tx);
        }
        if let Some(rx) = self.rx.take() {
            shared.give_recv_queue(rx);
        }
        shared.chunks.release(core::mem::take(&mut self.rcv_held));
    }
}

/// The shift that a window of so many bytes needs.
pub(crate) fn recv_scale(window_bytes: u32) -> u8 {
    let excess = u32::BITS - (window_bytes >> 16).leading_zeros();
    u8::try_from(excess).expect("at most 32").min(tcp::WINDOW_SCALE_MAX)
}

/// Later than anything.
pub(crate) const NEVER: Instant = Instant::from_nanos(u64::MAX);

const TCP_HEADER_LEN: u16 = 20;

const _: () = assert!(TCP_HEADER_LEN as usize == tcp::HEADER_LEN);

const _: () = assert!(size_of::<Tcb>() <= 200, "ten million of them must fit");
