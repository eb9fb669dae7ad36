//! From a client's event to a worker: binding, waiting while there is none, moving on when one goes
//! (docs/protocol.md#routing).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use tengate_base::{ConnId, How, Instant, Sink};

use super::Gateway;
use super::client::{Codec, Pause};
use super::config::{Mode, SlowWorker};
use super::mesh::{self, LinkId, Mesh};
use super::workers::WorkerRef;
use crate::wire::extension::FLAG_IPV6;
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};
use crate::wire::websocket;

/// Body of an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'a> {
    /// A plain string.
    Scalar(&'a [u8]),
    /// PHP `serialize` output.
    Serialized(&'a [u8]),
}

/// Events that wait because there is no worker, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.front().map(|(deadline, _)| *deadline)
    }

    fn push(&mut self, deadline: Instant, frame: &[u8]) {
        self.bytes += frame.len();
        self.queue.push_back((deadline, frame.into()));
    }

    fn pop_due(&mut self, now: Instant) -> Option<Box<[u8]>> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        self.pop()
    }

    fn pop(&mut self) -> Option<Box<[u8]>> {
        let (_, frame) = self.queue.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

impl Gateway {
    /// Sends an event of a client to its worker, chosen now if it has none.
    pub(super) fn emit(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        body: Body<'_>,
        sink: &mut impl Sink,
    ) {
        let super::Slot::Client(client) = &mut self.slots[conn.0 as usize] else { return };
        if self.workers.bound(client.worker).is_none() {
            client.worker = self.workers.choose().unwrap_or(WorkerRef::NONE);
        }
        let (flag, body) = match body {
            Body::Scalar(body) => (FLAG_SCALAR, body),
            Body::Serialized(body) => (0, body),
        };
        let header = Header {
            command: command as u8,
            local_ip: self.config.lan_ip.to_bits(),
            local_port: self.config.lan_port,
            client_ip: client.ip,
            client_port: client.port,
            connection_id: client.connection_id,
            flag,
            gateway_port: self.config.listeners[usize::from(client.door.0)].port,
        };
        let has_ipv4 = client.ip != 0 || self.ipv6.is_empty();
        let (link, slow) = match self.workers.bound(client.worker) {
            Some(worker) if has_ipv4 && !worker.down => (worker.link, worker.slow),
            _ => return self.emit_apart(now, conn, &header, body, sink),
        };
        self.stats.events += 1;
        if slow && !self.admit_slow(now, conn, command, sink) {
            return;
        }
        let is_open = self.is_link(link);
        let Some(client) = self.client(conn) else { return };
        if link.shard != self.shard {
            mesh::encode_event(link, sink.mesh(link.shard), |out| {
                header.encode(&client.session, body, out)
            });
        } else if is_open {
            header.encode(&client.session, body, sink.buffer(link.conn));
            self.watch_link(now, link, sink);
        } else {
            // The link is gone or going, and the directory has not said so yet.
            let mut frame = Vec::new();
            header.encode(&client.session, body, &mut frame);
            self.handle_event(now, self.shard, link, &frame, sink);
        }
    }

    /// As [`Gateway::emit`], for events that are not simply put into a link: there is no worker, it is down, or the client
    /// has no IPv4 address.
    #[cold]
    fn emit_apart(
        &mut self,
        now: Instant,
        conn: ConnId,
        header: &Header,
        body: &[u8],
        sink: &mut impl Sink,
    ) {
        let mut frame = core::mem::take(&mut self.encoded.event);
        frame.clear();
        let Some(client) = self.client(conn) else { return };
        match self.ipv6.get(conn.0 as usize).filter(|_| client.ip == 0) {
            None => header.encode(&client.session, body, &mut frame),
            Some(address) => {
                let header = Header { flag: header.flag | FLAG_IPV6, ..*header };
                header.encode_behind(&address.octets(), &client.session, body, &mut frame);
            }
        }
        self.emit_frame(now, conn, &frame, sink);
        self.encoded.event = frame;
    }

    /// Sends an encoded event of a client to its worker, or where it waits for one.
    fn emit_frame(&mut self, now: Instant, conn: ConnId, frame: &[u8], sink: &mut impl Sink) {
        let (Some(client), Some(command)) = (self.client(conn), command_of(frame)) else { return };
        let (binding, abandoned) = (client.worker, client.abandoned);
        let Some(worker) = self.workers.bound(binding) else {
            if abandoned {
                return;
            }
            self.stats.events += 1;
            if self.admit_waiting(now, conn, command, frame.len(), sink) {
                // A client that leaves needs no room made for it, only its goodbye kept.
                let staying = (command != Command::OnClose).then_some(conn);
                self.wait(now, staying, frame, sink);
            }
            return;
        };
        if worker.detaching && abandoned {
            return;
        }
        self.stats.events += 1;
        let (link, slow) = (worker.link, worker.slow);
        if worker.detaching {
            self.hold(now, conn, command, frame, sink);
        } else if worker.down {
            worker.backlog.held.extend_from_slice(frame);
        } else if !slow || self.admit_slow(now, conn, command, sink) {
            self.send_event(now, link, frame, sink);
        }
    }

    /// Puts an encoded event into a link, here or on another shard.
    fn send_event(&mut self, now: Instant, link: LinkId, frame: &[u8], sink: &mut impl Sink) {
        if link.shard == self.shard {
            self.handle_event(now, self.shard, link, frame, sink);
        } else {
            Mesh::Event { link, frame }.encode(sink.mesh(link.shard));
        }
    }

    /// Decides on an event for a slow worker: whether it is sent all the same.
    fn admit_slow(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        sink: &mut impl Sink,
    ) -> bool {
        match (self.config.slow_worker, command) {
            // What says that a client left is never refused, or its worker would keep a ghost.
            (_, Command::OnClose) => true,
            (SlowWorker::Drop, _) => {
                self.stats.drop_slow_worker += 1;
                false
            }
            (SlowWorker::StopReading, _) => {
                self.pause_for_worker(conn, sink);
                true
            }
            (SlowWorker::Close, _) => {
                self.stats.close_slow_worker += 1;
                self.close_client(now, conn, How::AtOnce, sink);
                false
            }
        }
    }

    /// Reads a client no further until its worker has caught up, or there is one.
    fn pause_for_worker(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(client) = self.client(conn) else { return };
        let binding = client.worker;
        let link = self.workers.bound(binding).map(|worker| worker.link);
        self.pause(conn, link, Pause::NoWorker, sink);
    }

    /// Reads a client no further until the worker behind `link` allows it, if there is one.
    pub(super) fn pause(
        &mut self,
        conn: ConnId,
        link: Option<LinkId>,
        why: Pause,
        sink: &mut impl Sink,
    ) {
        let Some(client) = self.client_mut(conn) else { return };
        if client.paused & why as u8 != 0 || client.closing {
            return;
        }
        if client.paused == 0 {
            sink.pause(conn);
        }
        client.paused |= why as u8;
        self.stats.paused += 1;
        let places = self.slots.len();
        if let Some(worker) = link.and_then(|link| self.workers.by_link(link)) {
            let paused = match why {
                Pause::NoWorker => &mut worker.backlog.paused,
                Pause::Home => &mut worker.backlog.paced,
            };
            paused.push(conn);
            // Clients that left stay on the list; it is kept no longer than the table of connections.
            if paused.len() > places {
                paused.sort_unstable();
                paused.dedup();
            }
        }
    }

    /// Reads a client again, unless there is another reason not to.
    pub(super) fn unpause(&mut self, conn: ConnId, why: Pause, sink: &mut impl Sink) {
        if let Some(client) = self.client_mut(conn)
            && client.paused & why as u8 != 0
        {
            client.paused &= !(why as u8);
            if client.paused == 0 {
                sink.resume(conn);
            }
        }
    }

    /// Decides on an event of a client while there is no worker: whether there is room to wait.
    fn admit_waiting(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        len: usize,
        sink: &mut impl Sink,
    ) -> bool {
        let is_close = command == Command::OnClose;
        // Without a home, workers are there all the same, and would keep a ghost of a client whose end they do not hear of.
        let is_kept = is_close && self.config.mode == Mode::Dispatched;
        let has_room = is_kept || self.waiting.bytes + len <= self.config.no_worker_bytes_max;
        if !has_room {
            self.stats.drop_no_worker += 1;
            if !is_close {
                self.abandon(now, conn, Some(command), sink);
            }
        }
        has_room
    }

    /// Keeps an event until there is a worker. `conn` is its client, if that is still there.
    fn wait(&mut self, now: Instant, conn: Option<ConnId>, frame: &[u8], sink: &mut impl Sink) {
        self.waiting.push(now + self.config.no_worker_grace, frame);
        if let Some(conn) = conn {
            self.pause_for_worker(conn, sink);
        }
    }

    /// Keeps an event while the home gives back older ones, which can take it some seconds: the client is read no further.
    fn hold(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        frame: &[u8],
        sink: &mut impl Sink,
    ) {
        let Some(client) = self.client(conn) else { return };
        let binding = client.worker;
        let Some(worker) = self.workers.bound(binding) else { return };
        let held = &mut worker.backlog.held;
        // What says that a client left is kept in any case, or its worker would keep a ghost.
        let stays = command != Command::OnClose;
        if stays && held.len() + frame.len() > self.config.no_worker_bytes_max {
            self.stats.drop_no_worker += 1;
            if let Some(client) = self.client_mut(conn) {
                client.abandoned = command == Command::OnConnect;
            }
            return self.turn_away(now, conn, sink);
        }
        held.extend_from_slice(frame);
        if stays {
            self.pause_for_worker(conn, sink);
        }
    }

    /// Gives events up that have waited too long, and closes their clients.
    pub(super) fn expire_waiting(&mut self, now: Instant, sink: &mut impl Sink) {
        while let Some(frame) = self.waiting.pop_due(now) {
            self.stats.drop_no_worker += 1;
            if let Some(conn) = client_of(&frame).and_then(|id| self.find(id)) {
                self.abandon(now, conn, None, sink);
            }
        }
    }

    /// Closes a client nobody serves, whose event was `refused`. Its end has no receiver either, so no event tells of it;
    /// but in dispatched mode only when no other event did.
    fn abandon(
        &mut self,
        now: Instant,
        conn: ConnId,
        refused: Option<Command>,
        sink: &mut impl Sink,
    ) {
        let is_unheard_of = refused == Some(Command::OnConnect);
        let is_direct = self.config.mode == Mode::Direct;
        let Some(client) = self.client_mut(conn) else { return };
        if client.closing {
            return;
        }
        client.abandoned = is_direct || is_unheard_of;
        self.turn_away(now, conn, sink);
    }

    /// Closes a client for whose events there is no room, or no time.
    fn turn_away(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(client) = self.client(conn) else { return };
        let in_handshake = matches!(client.codec, Codec::Handshake(_));
        self.stats.close_no_worker += 1;
        if in_handshake {
            websocket::encode_unavailable(sink.buffer(conn));
            self.close_client(now, conn, How::AfterFlush, sink);
        } else {
            self.close_client(now, conn, How::AtOnce, sink);
        }
    }

    /// A worker came: what waited goes out, in order.
    pub(super) fn handle_worker_up(
        &mut self,
        now: Instant,
        link: LinkId,
        key: &[u8],
        sink: &mut impl Sink,
    ) {
        self.workers.insert(link, key);
        if self.config.mode == Mode::Dispatched {
            self.greet_home(link, sink);
        }
        let mut orphans = None;
        while self.workers.any()
            && let Some(frame) = self.waiting.pop()
        {
            self.reroute(now, &frame, &mut orphans, sink);
            if let Some(conn) = client_of(&frame).and_then(|id| self.find(id)) {
                self.unpause(conn, Pause::NoWorker, sink);
            }
        }
    }

    /// A worker's link is gone: no event is sent there any more, and its shard is told so.
    pub(super) fn handle_worker_down(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        if link.shard == self.shard && self.is_link(link) {
            // It was replaced by a newer link with the same worker_key.
            self.stats.link_replaced += 1;
            // Its worker has come back: the old link leads nowhere, or to a worker that PHP would cut off as well.
            self.close_link(now, link.conn, How::GiveBack, sink);
        }
        self.hints.home.take_if(|home| *home == link);
        if self.workers.take_down(link) {
            self.tell(now, link.shard, &Mesh::DownAck { link }, sink);
        }
    }

    /// A gone link has given back everything: its clients' events go to other workers, oldest first.
    pub(super) fn handle_link_emptied(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        let Some(backlog) = self.workers.drained(link) else { return };
        self.hints.home.take_if(|home| *home == link);
        let mut orphans = None;
        for frames in [&backlog.returned, &backlog.held] {
            for frame in split(frames) {
                self.stats.rerouted += 1;
                self.reroute(now, frame, &mut orphans, sink);
            }
        }
        for conn in &backlog.paused {
            self.unpause(*conn, Pause::NoWorker, sink);
        }
        for conn in &backlog.paced {
            self.unpause(*conn, Pause::Home, sink);
        }
    }

    /// An event came back because its link is gone.
    pub(super) fn handle_return(
        &mut self,
        now: Instant,
        link: LinkId,
        frame: &[u8],
        sink: &mut impl Sink,
    ) {
        match self.workers.by_link(link) {
            Some(worker) => worker.backlog.returned.extend_from_slice(frame),
            None => {
                self.stats.rerouted += 1;
                self.reroute(now, frame, &mut None, sink);
            }
        }
    }

    /// Sends an encoded event to its client's worker; events of clients that are gone all go to one, `orphans`.
    fn reroute(
        &mut self,
        now: Instant,
        frame: &[u8],
        orphans: &mut Option<WorkerRef>,
        sink: &mut impl Sink,
    ) {
        let conn = client_of(frame).and_then(|id| self.find(id));
        let binding = match conn.and_then(|conn| self.client(conn)) {
            Some(client) => client.worker,
            None => orphans.unwrap_or(WorkerRef::NONE),
        };
        let mut chosen = binding;
        if self.workers.bound(binding).is_none() {
            chosen = self.workers.choose().unwrap_or(WorkerRef::NONE);
            match conn.and_then(|conn| self.client_mut(conn)) {
                Some(client) => client.worker = chosen,
                None => {
                    self.workers.release(chosen);
                    *orphans = Some(chosen);
                }
            }
        }
        let Some(worker) = self.workers.bound(chosen) else {
            return self.wait(now, conn, frame, sink);
        };
        if worker.down {
            return worker.backlog.held.extend_from_slice(frame);
        }
        let link = worker.link;
        self.send_event(now, link, frame, sink);
    }
}

/// Cuts bytes that are whole inner frames apart. What follows a broken one is dropped: its end is not known.
pub(super) fn split(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (_, len) = InnerFrame::decode(frames, usize::MAX).ok()??;
        frames.split_off(..len)
    })
}

/// The connection_id in an inner frame.
pub(super) fn client_of(frame: &[u8]) -> Option<u32> {
    frame.get(17..21)?.try_into().ok().map(u32::from_be_bytes)
}

/// The connection_id in an inner frame that is an event: links carry answers and more to a worker, which end with them.
pub(super) fn event_of(frame: &[u8]) -> Option<u32> {
    command_of(frame)?.is_event().then(|| client_of(frame))?
}

fn command_of(frame: &[u8]) -> Option<Command> {
    frame.get(4).and_then(|number| Command::from_number(*number))
}
