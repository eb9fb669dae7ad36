//! A worker's or outside client's connection: who it is, its frames, its acknowledgements, its pace, its going.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use tengate_base::{Closed, ConnId, How, Instant, Opened, Sink};

use super::route::{event_of, split};
use super::workers::WORKERS_MAX;
use super::{Dispatcher, Notice, Slot};
use crate::query::Pending;
use crate::wire::ext::{GatewayClientConnect, WorkerConnect};
use crate::wire::extension::{Extension, Offer, VERSION, Welcome};
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};

/// A connection of the listening door.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) serial: u32,
    address: SocketAddr,
    authorized: bool,
    /// Set once a worker identified itself.
    worker: Option<Identity>,
    /// Questions whose answers are not complete, in the order they came. A gateway is named by its link and serial.
    pub(super) pending: VecDeque<Pending<(ConnId, u32)>>,
    pub(super) next_seq: u32,
    /// Read no further until pending questions are answered.
    pub(super) paused: bool,
    /// Read no further until it has read what it asked for, or gateways have taken what it sent.
    pub(super) choked: bool,
    /// It is being closed as soon as its last bytes are written.
    closing: bool,
    /// Events it has not acknowledged; empty when it never does.
    pub(super) unacknowledged: Unacknowledged,
}

#[derive(Debug)]
struct Identity {
    /// `remote ip:name:id`.
    key: String,
    /// Its place among the workers.
    slot: u16,
    /// It acknowledges events.
    acknowledges: bool,
}

/// Events a worker has not acknowledged, oldest first: whole frames, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    bytes: Vec<u8>,
    /// Where the oldest begins.
    head: usize,
}

impl Unacknowledged {
    pub(super) fn push(&mut self, frame: &[u8]) {
        if self.head > self.bytes.len() / 2 && self.head > COMPACT_BYTES {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(frame);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub(super) fn frames(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// The frame that begins at `at` was given back: it only waits to be acknowledged.
    pub(super) fn give_back(&mut self, at: usize) {
        let frame = &mut self.bytes[self.head + at..];
        frame[4] = Command::Ping as u8;
        // No gateway is owed it any more.
        frame[17..21].fill(u8::MAX);
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut bytes = core::mem::take(&mut self.bytes);
        bytes.drain(..core::mem::take(&mut self.head));
        bytes
    }

    /// Forgets the oldest frame. Returns its client; `None` when there is no frame.
    fn pop(&mut self) -> Option<u32> {
        let (frame, len) = InnerFrame::decode(self.frames(), usize::MAX).ok()??;
        let client = frame.header.connection_id;
        self.head += len;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
            self.bytes.shrink_to(KEPT_BYTES);
        }
        Some(client)
    }
}

/// Acknowledged bytes that are worth moving the rest for.
const COMPACT_BYTES: usize = 64 << 10;
/// Memory kept for a worker that has acknowledged everything.
const KEPT_BYTES: usize = 256 << 10;
/// How often a worker hears from an idle dispatcher: PHP's `PERSISTENCE_CONNECTION_PING_INTERVAL`.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// What may go on with a connection after a frame.
enum Next {
    Read,
    Stop,
}

impl Peer {
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.worker.as_ref().map(|worker| worker.key.as_bytes())
    }
}

impl Dispatcher {
    pub(super) fn open_peer(&mut self, now: Instant, opened: &Opened) {
        let peer = Peer {
            serial: self.serial(),
            address: opened.peer,
            authorized: self.config.secret_key.is_empty(),
            worker: None,
            pending: VecDeque::new(),
            next_seq: 0,
            paused: false,
            choked: false,
            closing: false,
            unacknowledged: Unacknowledged::default(),
        };
        self.stats.outside_clients += 1;
        if !peer.authorized {
            self.wheel.set(opened.conn.0, now + self.config.auth_timeout);
        }
        self.put(opened.conn, Slot::Peer(peer.into()));
    }

    pub(super) fn handle_peer_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.peer_mut(conn) {
                Some(peer) if peer.closing => return bytes.len(),
                Some(peer) if peer.paused || peer.choked => break,
                Some(_) => {}
                None => return bytes.len(),
            }
            match InnerFrame::decode(&bytes[at..], self.config.frame_bytes_max) {
                Ok(None) => break,
                Ok(Some((frame, len))) => {
                    let encoded = &bytes[at..at + len];
                    at += len;
                    if let Next::Stop = self.handle_peer_frame(now, conn, &frame, encoded, sink) {
                        return bytes.len();
                    }
                }
                Err(_) => {
                    self.stats.link_malformed += 1;
                    self.close_peer(now, conn, How::GiveBack, sink);
                    return bytes.len();
                }
            }
        }
        at
    }

    fn handle_peer_frame(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) -> Next {
        self.stats.commands += 1;
        let command = Command::from_number(frame.header.command);
        match command {
            Some(Command::WorkerConnect) => {
                return match WorkerConnect::decode(frame.body) {
                    Ok(hello) => self.handle_worker_hello(now, conn, &hello, sink),
                    Err(_) => self.refuse(now, conn, sink),
                };
            }
            Some(Command::GatewayClientConnect) => {
                return match GatewayClientConnect::decode(frame.body) {
                    Ok(hello) if self.config.secret_key.matches(&hello.secret_key) => {
                        self.authorize(conn);
                        Next::Read
                    }
                    Ok(_) | Err(_) => self.refuse(now, conn, sink),
                };
            }
            Some(_) | None => {}
        }
        if !self.peer_mut(conn).is_some_and(|peer| peer.authorized) {
            return self.refuse(now, conn, sink);
        }
        match command {
            Some(command) if command.is_query() => {
                self.ask(now, conn, command, frame, encoded, sink)
            }
            Some(command) => self.forward(conn, command, frame, encoded, sink),
            None if frame.header.command == Extension::Ack as u8 => {
                return self.handle_ack(now, conn, frame.header.connection_id, sink);
            }
            None => self.stats.command_ignored += 1,
        }
        Next::Read
    }

    fn authorize(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer_mut(conn) {
            peer.authorized = true;
            if peer.worker.is_none() {
                self.wheel.cancel(conn.0);
            }
        }
    }

    /// A worker says who it is. Its key is its own: an older link that shows the same one ends.
    fn handle_worker_hello(
        &mut self,
        now: Instant,
        conn: ConnId,
        hello: &WorkerConnect<'_>,
        sink: &mut impl Sink,
    ) -> Next {
        if !self.config.secret_key.matches(&hello.secret_key) || self.workers.len() >= WORKERS_MAX {
            return self.refuse(now, conn, sink);
        }
        self.authorize(conn);
        let Some(peer) = self.peer_mut(conn).filter(|peer| peer.worker.is_none()) else {
            return Next::Read;
        };
        let address = peer.address;
        let key = format!("{}:{}", address.ip().to_canonical(), hello.worker_key);
        if let Some(older) = self.workers.by_key(key.as_bytes()) {
            self.replace_worker(now, older, &key, address, sink);
        }
        let offer = hello.tengate.clone().unwrap_or_default();
        let slot = self.workers.insert(conn, key.as_bytes(), offer.ipv6);
        let Some(peer) = self.peer_mut(conn) else { return Next::Stop };
        peer.worker = Some(Identity { key: key.clone(), slot, acknowledges: offer.ack });
        self.stats.outside_clients -= 1;
        if !offer.ack {
            sink.keep_frames(conn);
        }
        if hello.tengate.is_some() {
            self.welcome(conn, &offer, sink);
        }
        if !self.config.is_local() {
            self.wheel.set(conn.0, now + PING_INTERVAL);
        }
        self.notice(Notice::WorkerUp { key });
        self.handle_worker_up(now, sink);
        Next::Read
    }

    fn welcome(&mut self, conn: ConnId, offer: &Offer<'_>, sink: &mut impl Sink) {
        let mut body = Vec::new();
        let dispatcher = Some(format!("{}", self.config.address));
        Welcome { version: VERSION, gateway: None, dispatcher, ack: offer.ack }.encode(&mut body);
        Extension::Welcome.encode(0, &body, sink.buffer(conn));
    }

    fn replace_worker(
        &mut self,
        now: Instant,
        older: ConnId,
        key: &str,
        newer: SocketAddr,
        sink: &mut impl Sink,
    ) {
        self.stats.link_replaced += 1;
        if let Some(peer) = self.peer_mut(older) {
            let address = peer.address;
            self.notice(Notice::WorkerReplaced { key: key.into(), older: address, newer });
        }
        self.close_peer(now, older, How::GiveBack, sink);
    }

    fn refuse(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) -> Next {
        self.stats.link_unauthorized += 1;
        self.close_peer(now, conn, How::AfterFlush, sink);
        Next::Stop
    }

    /// A worker has handled so many more events.
    fn handle_ack(&mut self, now: Instant, conn: ConnId, count: u32, sink: &mut impl Sink) -> Next {
        for _ in 0..count {
            let Some(client) = self.peer_mut(conn).and_then(|peer| peer.unacknowledged.pop())
            else {
                self.stats.link_malformed += 1;
                self.close_peer(now, conn, How::GiveBack, sink);
                return Next::Stop;
            };
            self.stats.acknowledged += 1;
            self.settle_owed(client);
        }
        let limit = self.config.send_to_worker_bytes_max;
        let Some(peer) = self.peer_mut(conn) else { return Next::Stop };
        if peer.unacknowledged.len() <= limit / 2
            && let Some(slot) = peer.worker.as_ref().map(|worker| worker.slot)
        {
            self.set_pace(slot, false, sink);
        }
        Next::Read
    }

    /// Where a worker's events are kept until it acknowledges them, if it does.
    pub(super) fn kept(&mut self, conn: ConnId) -> Option<&mut Unacknowledged> {
        let peer = self.peer_mut(conn)?;
        peer.worker.as_ref().is_some_and(|worker| worker.acknowledges).then_some(())?;
        Some(&mut peer.unacknowledged)
    }

    pub(super) fn handle_peer_due(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(peer) = self.peer_mut(conn) else { return };
        if peer.closing {
            self.close_peer(now, conn, How::GiveBack, sink);
        } else if peer.worker.is_some() {
            let ping =
                Header { command: Command::Ping as u8, flag: FLAG_SCALAR, ..Header::default() };
            ping.encode(b"", b"", sink.buffer(conn));
            self.wheel.set(conn.0, now + PING_INTERVAL);
        } else if !peer.authorized {
            self.refuse(now, conn, sink);
        }
    }

    /// A peer's queue has come down.
    pub(super) fn handle_peer_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(peer) = self.peer_mut(conn) else { return };
        let slot = peer.worker.as_ref().filter(|worker| !worker.acknowledges);
        if let Some(slot) = slot.map(|worker| worker.slot) {
            self.set_pace(slot, false, sink);
        }
        self.unchoke(conn, sink);
        self.check_detaching(now, sink);
    }

    /// Reads a peer again that was not read for the sake of somebody's queue.
    pub(super) fn unchoke(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(peer) = self.peer_mut(conn) else { return };
        if core::mem::take(&mut peer.choked) && !peer.paused {
            sink.resume(conn);
        }
    }

    /// Closes a connection; its worker takes no events from here on, and is forgotten when the connection is gone.
    pub(super) fn close_peer(
        &mut self,
        now: Instant,
        conn: ConnId,
        how: How,
        sink: &mut impl Sink,
    ) {
        let linger = self.config.auth_timeout;
        let Some(peer) = self.peer_mut(conn) else { return };
        peer.closing = true;
        if let Some(slot) = peer.worker.as_ref().map(|worker| worker.slot) {
            self.workers.take_down(slot);
        }
        match sink.close(conn, how) {
            Closed::Now => self.forget_peer(now, conn, b"", sink),
            Closed::Later => self.wheel.set(conn.0, now + linger),
        }
    }

    /// A connection is gone: what its worker did not get goes to others, oldest first.
    pub(super) fn forget_peer(
        &mut self,
        now: Instant,
        conn: ConnId,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        let Slot::Peer(mut peer) = core::mem::take(&mut self.slots[conn.0 as usize]) else {
            return;
        };
        self.wheel.cancel(conn.0);
        let Some(worker) = peer.worker.take() else {
            self.stats.outside_clients -= 1;
            return;
        };
        let (held, paused) = self.workers.remove(worker.slot);
        let kept = peer.unacknowledged.take();
        for client in split(&kept).filter_map(event_of) {
            self.settle_owed(client);
        }
        let older = if worker.acknowledges { &kept } else { unsent };
        let mut rerouted = 0;
        let mut orphans = None;
        // Answers and keep-alives end with the link, and so does what was given back to its gateway.
        for frame in split(older).chain(split(&held)).filter(|frame| event_of(frame).is_some()) {
            rerouted += 1;
            self.reroute(now, frame, &mut orphans, sink);
        }
        self.stats.rerouted += rerouted;
        for client in paused {
            self.pace(client, false, sink);
        }
        self.notice(Notice::WorkerDown { key: worker.key, rerouted });
    }
}
