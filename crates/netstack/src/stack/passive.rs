//! Segments without a connection: new ones (RFC 9293 3.10.7.2), SYN cookies (RFC 4987), finished ones, and resets for the rest
//! (3.10.7.1).

use core::time::Duration;

use tengate_base::{ConnId, Door, Instant};

use super::Stack;
use crate::event::{Device, DeviceFull};
use crate::flow::FlowKey;
use crate::frame::{Path, Payload};
use crate::seq::Seq;
use crate::shared::millis;
use crate::tcp::cookie;
use crate::tcp::input::Arrival;
use crate::tcp::tcb::{State, Tcb};
use crate::tcp::time_wait::Answer;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};

impl Stack {
    /// A segment that belongs to no connection.
    pub(super) fn handle_unmatched(
        &mut self,
        now: Instant,
        key: &FlowKey,
        arrival: &mut Arrival<'_>,
        device: &mut impl Device,
    ) {
        let path =
            Path { mac: arrival.mac, local: self.shared.local(key.local), remote: key.remote };
        let lasts = self.shared.config.time_wait;
        let len = arrival.payload.len();
        match self.time_wait.handle_segment(now, key, &arrival.header, len, lasts) {
            Answer::Unknown => {}
            Answer::Nothing => return,
            Answer::Reopened => self.shared.stats.time_wait_reused += 1,
            Answer::Ack(header) => {
                if self.shared.send(&path, &header, &Payload::default(), device).is_err() {
                    self.shared.stats.drop_device_full += 1;
                }
                return;
            }
        }
        let flags = arrival.header.flags;
        if flags.has(Flags::RST) {
            self.shared.stats.drop_tcp_no_connection += 1;
            return;
        }
        let door = self.door(key.local_port);
        match door {
            Some(door) if flags.has(Flags::SYN) && !flags.has(Flags::ACK) => {
                self.handle_syn(now, key, arrival, door, device);
            }
            Some(door) if flags.has(Flags::ACK) && self.takes_cookies(now) => {
                self.handle_cookie(now, key, arrival, door, &path, device);
            }
            Some(_) => self.refuse(arrival, key, &path, device),
            None => {
                self.shared.stats.drop_tcp_no_listener += u64::from(flags.has(Flags::SYN));
                self.refuse(arrival, key, &path, device);
            }
        }
    }

    fn door(&self, port: u16) -> Option<Door> {
        self.listeners.iter().find(|listener| listener.port == port).map(|listener| listener.door)
    }

    /// A peer opens a connection.
    fn handle_syn(
        &mut self,
        now: Instant,
        key: &FlowKey,
        arrival: &Arrival<'_>,
        door: Door,
        device: &mut impl Device,
    ) {
        if !self.has_room() {
            return;
        }
        if self.backlog_len >= self.shared.config.syn_backlog_max {
            self.send_cookie(now, key, arrival, device);
            return;
        }
        let mut tcb = Tcb::new(now, *key, arrival.mac, &self.shared);
        (tcb.passive, tcb.door, tcb.state) = (true, door.0, State::SynReceived);
        tcb.take_syn(now, &arrival.header, &self.shared);
        tcb.ack_now = tcb.send_syn(now, &mut self.shared, device).is_err();
        self.backlog_len += 1;
        let index = self.flows.insert(tcb);
        self.mark(index);
    }

    /// Whether one more connection may begin. What there is comes first.
    fn has_room(&mut self) -> bool {
        if self.listening_paused {
            self.shared.stats.drop_syn_paused += 1;
            return false;
        }
        if self.flows.len() >= self.shared.config.conns_max as usize {
            self.shared.stats.drop_syn_conns_full += 1;
            return false;
        }
        if self.shared.chunks.is_nearly_empty() {
            self.shared.stats.drop_syn_pool_full += 1;
            return false;
        }
        true
    }

    /// The backlog is full: answers without remembering anything.
    fn send_cookie(
        &mut self,
        now: Instant,
        key: &FlowKey,
        arrival: &Arrival<'_>,
        device: &mut impl Device,
    ) {
        let (shared, syn) = (&self.shared, &arrival.header);
        let tcb = Tcb::new(now, *key, arrival.mac, shared);
        let offered = &syn.options;
        let mss = offered.mss.unwrap_or(0).min(tcb.own_mss(shared.config.mtu));
        let path = tcb.path(shared);
        let timestamps = offered.timestamps.map(|theirs| Timestamps {
            value: cookie::encode_timestamp(tcb.timestamp(now), offered),
            echo: theirs.value,
        });
        let header = Header {
            source_port: key.local_port,
            destination_port: key.remote_port,
            seq: cookie::encode(shared.keys.cookie, key, path.local, now, syn.seq, mss),
            ack: syn.seq + 1,
            flags: Flags::SYN.with(Flags::ACK),
            window: u16::try_from(shared.config.recv_window_bytes).unwrap_or(u16::MAX),
            options: Options {
                mss: Some(tcb.own_mss(shared.config.mtu)),
                window_scale: cookie::own_scale(offered, shared.config.recv_window_bytes),
                sack_permitted: offered.sack_permitted && offered.timestamps.is_some(),
                timestamps,
                ..Options::default()
            },
        };
        match self.shared.send(&path, &header, &Payload::default(), device) {
            Ok(()) => {
                self.shared.stats.cookies_sent += 1;
                self.cookie_sent_at = Some(now);
            }
            Err(DeviceFull) => self.shared.stats.drop_device_full += 1,
        }
    }

    /// Whether an acknowledgement may be of a cookie.
    fn takes_cookies(&self, now: Instant) -> bool {
        self.cookie_sent_at.is_some_and(|sent_at| now - sent_at < COOKIE_LIFETIME)
    }

    /// An acknowledgement out of nowhere: the last step of a handshake of which only a cookie remembers the rest?
    fn handle_cookie(
        &mut self,
        now: Instant,
        key: &FlowKey,
        arrival: &mut Arrival<'_>,
        door: Door,
        path: &Path,
        device: &mut impl Device,
    ) {
        let header = arrival.header;
        let (peer_iss, iss) = (header.seq - 1, header.ack - 1);
        let decoded = cookie::decode(self.shared.keys.cookie, key, path.local, now, peer_iss, iss);
        let Some(mss) = decoded.filter(|_| !header.flags.has(Flags::SYN)) else {
            self.shared.stats.drop_cookie_invalid += 1;
            // It may have overtaken the one that says where the peer's stream begins, and what it carries comes again. If
            // so, it echoes what our SYN-ACK said not long ago.
            let clock = Tcb::new(now, *key, arrival.mac, &self.shared).timestamp(now);
            let age = header.options.timestamps.map(|theirs| clock.wrapping_sub(theirs.echo));
            if age.is_some_and(|age| u128::from(age) < COOKIE_PATIENCE.as_millis()) {
                return;
            }
            self.refuse(arrival, key, path, device);
            return;
        };
        if !self.has_room() {
            return;
        }
        let mut options = Options { mss: Some(mss), ..Options::default() };
        let mut tcb = Tcb::new(now, *key, arrival.mac, &self.shared);
        if let Some(timestamps) = header.options.timestamps {
            options = cookie::decode_timestamp(timestamps.echo);
            (options.mss, options.timestamps) = (Some(mss), Some(timestamps));
        }
        (tcb.passive, tcb.door, tcb.state) = (true, door.0, State::SynReceived);
        (tcb.snd_una, tcb.snd_nxt) = (iss, iss + 1);
        let syn = Header { seq: peer_iss, window: header.window, options, ..header };
        tcb.take_syn(now, &syn, &self.shared);
        tcb.ts_recent_at = millis(now);
        self.shared.stats.conns_accepted_by_cookie += 1;
        // Counted until it is open, which is at once.
        self.backlog_len += 1;
        arrival.conn = ConnId(self.flows.insert(tcb));
        self.handle_in_connection(now, arrival, device);
    }

    /// Tells who sent a segment that there is no connection (RFC 9293 3.10.7.1).
    fn refuse(
        &mut self,
        arrival: &Arrival<'_>,
        key: &FlowKey,
        path: &Path,
        device: &mut impl Device,
    ) {
        self.shared.stats.drop_tcp_no_connection += 1;
        let header = &arrival.header;
        let mut reset = Header {
            source_port: key.local_port,
            destination_port: key.remote_port,
            flags: Flags::RST,
            ..Header::default()
        };
        if header.flags.has(Flags::ACK) {
            reset.seq = header.ack;
        } else {
            reset.flags = Flags::RST.with(Flags::ACK);
            (reset.seq, reset.ack) = (Seq(0), arrival.end());
        }
        self.shared.send_reset(path, &reset, device);
    }
}

/// For so long a peer may send the beginning of its stream again. Who has no connection is told so only after it.
const COOKIE_PATIENCE: Duration = Duration::from_secs(4);
/// After it no cookie is good.
const COOKIE_LIFETIME: Duration = Duration::from_secs(128);
