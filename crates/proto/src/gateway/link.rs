//! A worker's, dispatcher's or GatewayClient's connection: who it is, its frames, its pace
//! (docs/protocol.md#inner-frames).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use tengate_base::{Closed, ConnId, How, Instant, Opened, ShardId, Sink};

use super::client::Pause;
use super::config::{Mode, SlowWorker};
use super::directory::{DIRECTORY, DISPATCHER};
use super::extension::{Standing, is_usable};
use super::mesh::{LinkId, Mesh};
use super::question::Question;
use super::{Gateway, Slot, route};
use crate::query::{Partial, Pending};
use crate::wire::ext::{GatewayClientConnect, WorkerConnect};
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};

/// A connection on the inner address.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells it from others that had its connection index, and a home's time from its next.
    pub(super) serial: u32,
    peer: IpAddr,
    authorized: bool,
    /// Set once a worker identified itself: `remote ip:name:id`; or a dispatcher: `dispatcher:address`.
    key: Option<String>,
    /// Set for a dispatcher.
    pub(super) standing: Option<Standing>,
    /// Queries whose answers are not complete, in the order they came.
    pub(super) pending: VecDeque<Pending<ShardId>>,
    /// Read no further until pending queries are answered.
    pub(super) paused: bool,
    /// Read no further until it has read what it asked for.
    pub(super) choked: bool,
    /// Its queue passed the limit and has not come down yet.
    pub(super) slow: bool,
    /// It is being closed as soon as its last bytes are written.
    pub(super) closing: bool,
    /// Shards that send it no more events and wait for what it could not write, or deliver.
    pub(super) waiting_shards: Vec<ShardId>,
    /// Events that came while it was being closed.
    late: Vec<u8>,
}

impl Link {
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.key.as_deref().map(str::as_bytes)
    }
}

/// How often a worker hears from an idle gateway: PHP's `PERSISTENCE_CONNECTION_PING_INTERVAL`.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// What may go on with a link after a frame.
pub(super) enum Next {
    /// It is read further.
    Read,
    /// It is closed.
    Stop,
}

impl Gateway {
    pub(super) fn open_link(&mut self, now: Instant, opened: &Opened) {
        let link = Link {
            serial: self.take_serial(),
            peer: opened.peer.ip().to_canonical(),
            authorized: self.config.secret_key.is_empty(),
            key: None,
            standing: None,
            pending: VecDeque::new(),
            paused: false,
            choked: false,
            slow: false,
            closing: false,
            waiting_shards: Vec::new(),
            late: Vec::new(),
        };
        self.stats.links += 1;
        if !link.authorized {
            self.wheel.set(opened.conn.0, now + self.config.auth_timeout);
        }
        self.put(opened.conn, Slot::Link(link.into()));
    }

    pub(super) fn take_serial(&mut self) -> u32 {
        let next = self.next_serial.wrapping_add(1);
        core::mem::replace(&mut self.next_serial, next)
    }

    pub(super) fn link_mut(&mut self, conn: ConnId) -> Option<&mut Link> {
        match self.slots.get_mut(conn.0 as usize) {
            Some(Slot::Link(link)) => Some(link),
            Some(Slot::Free | Slot::Client(_)) | None => None,
        }
    }

    pub(super) fn link_id(&mut self, conn: ConnId) -> Option<LinkId> {
        let shard = self.shard;
        self.link_mut(conn).map(|link| LinkId { shard, conn, serial: link.serial })
    }

    /// This very link, also while it is being closed.
    pub(super) fn open_link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.link_mut(id.conn).filter(|link| link.serial == id.serial)
    }

    /// Whether this shard still has this very link.
    pub(super) fn is_link(&mut self, id: LinkId) -> bool {
        self.open_link_mut(id).is_some_and(|link| !link.closing)
    }

    /// Keeps an event that came too late for its link: newer than what the link gives back when it is gone.
    fn keep_late(&mut self, id: LinkId, frame: &[u8]) -> bool {
        let Some(link) = self.open_link_mut(id) else { return false };
        link.late.extend_from_slice(frame);
        true
    }

    pub(super) fn handle_link_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.link_mut(conn) {
                Some(link) if link.paused || link.choked => break,
                Some(link) if !link.closing => {}
                _ => return bytes.len(),
            }
            match InnerFrame::decode(&bytes[at..], self.config.frame_bytes_max) {
                Ok(None) => break,
                Ok(Some((frame, len))) => {
                    let encoded = &bytes[at..at + len];
                    at += len;
                    if let Next::Stop = self.handle_frame(now, conn, &frame, encoded, sink) {
                        return bytes.len();
                    }
                }
                Err(_) => {
                    self.stats.link_malformed += 1;
                    self.close_link(now, conn, How::GiveBack, sink);
                    return bytes.len();
                }
            }
        }
        at
    }

    fn handle_frame(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) -> Next {
        self.stats.commands += 1;
        let command = Command::from_number(frame.header.command);
        if let Some(Command::WorkerConnect | Command::GatewayClientConnect) = command {
            return self.handle_hello(
                now,
                conn,
                frame,
                command == Some(Command::WorkerConnect),
                sink,
            );
        }
        if !self.link_mut(conn).is_some_and(|link| link.authorized) {
            return self.refuse(now, conn, sink);
        }
        match command {
            Some(command) if command.is_query() => {
                self.handle_question(now, conn, Question::Query(command), frame, encoded, sink)
            }
            Some(command) if command.is_event() => {
                self.handle_returned(now, conn, frame, encoded, sink)
            }
            Some(command) => self.handle_command(now, command, frame, encoded, sink),
            None => self.handle_extension(now, conn, frame, encoded, sink),
        }
        Next::Read
    }

    /// A worker or outside client says who it is.
    #[cold]
    fn handle_hello(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        is_worker: bool,
        sink: &mut impl Sink,
    ) -> Next {
        let hello = if is_worker {
            WorkerConnect::decode(frame.body)
                .map(|hello| (Some((hello.worker_key, hello.tengate)), hello.secret_key))
        } else {
            GatewayClientConnect::decode(frame.body).map(|hello| (None, hello.secret_key))
        };
        let Ok((worker, shown)) = hello else { return self.refuse(now, conn, sink) };
        if !self.config.secret_key.matches(&shown) {
            return self.refuse(now, conn, sink);
        }
        let mode = self.config.mode;
        let Some(link) = self.link_mut(conn) else { return Next::Stop };
        link.authorized = true;
        if link.key.is_some() {
            return Next::Read;
        }
        let dispatcher = worker.as_ref().and_then(|(_, offer)| offer.as_ref()?.dispatcher.as_ref());
        let key = match (&worker, dispatcher, mode) {
            (Some((_, Some(offer))), Some(address), Mode::Dispatched) if is_usable(offer) => {
                link.standing = Some(Standing::Candidate);
                self.welcome(conn, sink);
                format!("{DISPATCHER}{address}")
            }
            (_, Some(_), _) => return self.refuse_dispatcher(now, conn, sink),
            (Some((worker_key, _)), None, Mode::Direct) => format!("{}:{worker_key}", link.peer),
            // Dispatchers get the events; a worker may command and ask.
            (Some(_), None, Mode::Dispatched) | (None, None, _) => {
                self.wheel.cancel(conn.0);
                return Next::Read;
            }
        };
        self.identified(now, conn, key, sink);
        Next::Read
    }

    /// A worker or dispatcher has said who it is.
    fn identified(&mut self, now: Instant, conn: ConnId, key: String, sink: &mut impl Sink) {
        let Some(id) = self.link_id(conn) else { return };
        sink.keep_frames(conn);
        self.arm_ping(now, conn);
        self.tell(now, DIRECTORY, &Mesh::Join { link: id, key: key.as_bytes() }, sink);
        if let Some(link) = self.link_mut(conn) {
            link.key = Some(key);
        }
    }

    /// The timer of a worker's link that is as it should be: PHP keeps idle links alive, but not within a machine.
    pub(super) fn arm_ping(&mut self, now: Instant, conn: ConnId) {
        if self.config.lan_ip == Ipv4Addr::LOCALHOST {
            self.wheel.cancel(conn.0);
        } else {
            self.wheel.set(conn.0, now + PING_INTERVAL);
        }
    }

    fn refuse(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) -> Next {
        self.stats.link_unauthorized += 1;
        self.close_link(now, conn, How::AfterFlush, sink);
        Next::Stop
    }

    pub(super) fn handle_link_due(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(link) = self.link_mut(conn) else { return };
        if link.closing {
            self.close_link(now, conn, How::GiveBack, sink);
        } else if link.standing == Some(Standing::Leaving) {
            self.stats.detach_timeout += 1;
            self.close_link(now, conn, How::GiveBack, sink);
        } else if link.key.is_some() {
            let ping =
                Header { command: Command::Ping as u8, flag: FLAG_SCALAR, ..Header::default() };
            ping.encode(b"", b"", sink.buffer(conn));
            self.wheel.set(conn.0, now + PING_INTERVAL);
        } else if !link.authorized {
            self.refuse(now, conn, sink);
        }
    }

    /// Closes a link; its worker is forgotten when the connection is gone.
    pub(super) fn close_link(
        &mut self,
        now: Instant,
        conn: ConnId,
        how: How,
        sink: &mut impl Sink,
    ) {
        let linger = self.config.close_linger;
        let Some(link) = self.link_mut(conn) else { return };
        link.closing = true;
        match sink.close(conn, how) {
            Closed::Now => self.forget_link(now, conn, b"", sink),
            Closed::Later if how == How::GiveBack => self.wheel.cancel(conn.0),
            Closed::Later => self.wheel.set(conn.0, now + linger),
        }
    }

    /// A link is gone: its worker takes no more events, and those not written go back to their clients' shards.
    pub(super) fn forget_link(
        &mut self,
        now: Instant,
        conn: ConnId,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        let Some(id) = self.link_id(conn) else { return };
        let Slot::Link(link) = core::mem::take(&mut self.slots[conn.0 as usize]) else { return };
        self.wheel.cancel(conn.0);
        self.stats.links -= 1;
        if link.key.is_none() {
            return;
        }
        for frame in route::split(unsent).chain(route::split(&link.late)) {
            if let Some(shard) = route::event_of(frame).and_then(|client| self.owner(client)) {
                self.tell(now, shard, &Mesh::Return { link: id, frame }, sink);
            }
        }
        self.tell(now, DIRECTORY, &Mesh::Leave { link: id }, sink);
        for shard in link.waiting_shards {
            self.tell(now, shard, &Mesh::Drained { link: id }, sink);
        }
    }

    /// After an event was put into a local link: says so to every shard when the worker has become slow.
    pub(super) fn watch_link(&mut self, now: Instant, id: LinkId, sink: &mut impl Sink) {
        let limit = self.config.send_to_worker_bytes_max;
        if sink.queued(id.conn) < limit || sink.flush(id.conn) < limit {
            return;
        }
        // PHP takes messages again as soon as there is room; stopped readers wait for half the queue to be gone.
        let low = match self.config.slow_worker {
            SlowWorker::StopReading => limit / 2,
            SlowWorker::Drop | SlowWorker::Close => limit.saturating_sub(1),
        };
        match self.link_mut(id.conn) {
            Some(link) if !link.slow => link.slow = true,
            _ => return,
        }
        sink.notify_below(id.conn, low);
        self.tell_all(now, &Mesh::Pace { link: id, slow: true }, sink);
    }

    /// A link's queue has come down.
    pub(super) fn handle_link_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(link) = self.link_mut(conn) else { return };
        let was_slow = core::mem::take(&mut link.slow);
        if core::mem::take(&mut link.choked) && !link.paused {
            sink.resume(conn);
        }
        if was_slow && let Some(link) = self.link_id(conn) {
            self.tell_all(now, &Mesh::Pace { link, slow: false }, sink);
        }
    }

    fn handle_pace(&mut self, id: LinkId, slow: bool, sink: &mut impl Sink) {
        let Some(worker) = self.workers.by_link(id) else { return };
        worker.slow = slow;
        if !slow {
            for conn in core::mem::take(&mut worker.backlog.paused) {
                self.unpause(conn, Pause::NoWorker, sink);
            }
        }
    }

    /// Carries a worker's command out where its clients are.
    #[inline]
    fn handle_command(
        &mut self,
        now: Instant,
        command: Command,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        if command.is_for_one_client() {
            match self.owner(frame.header.connection_id) {
                Some(shard) if shard != self.shard => {
                    Mesh::Command { frame: encoded }.encode(sink.mesh(shard))
                }
                Some(_) => self.execute(now, command, frame, sink),
                None => {}
            }
        } else {
            for shard in self.others() {
                Mesh::Command { frame: encoded }.encode(sink.mesh(shard));
            }
            self.execute(now, command, frame, sink);
        }
    }

    /// Carries out a message of another shard, or of this one to itself.
    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        from: ShardId,
        message: &Mesh<'_>,
        sink: &mut impl Sink,
    ) {
        match *message {
            Mesh::Event { link, frame } => self.handle_event(now, from, link, frame, sink),
            Mesh::Return { link, frame } => self.handle_return(now, link, frame, sink),
            Mesh::Command { frame } => {
                if let Some((command, frame)) = known(frame) {
                    self.execute(now, command, &frame, sink);
                }
            }
            Mesh::Query { .. } => self.handle_remote_question(message, sink),
            Mesh::Reply { link, seq, partial } => {
                if let Some(part) = Partial::decode(partial) {
                    self.collect(link.conn, seq, from, part, sink);
                }
            }
            Mesh::Join { link, key } => self.handle_join(now, link, key, sink),
            Mesh::Leave { link } => self.handle_leave(now, link, sink),
            Mesh::WorkerUp { link, key } => self.handle_worker_up(now, link, key, sink),
            Mesh::WorkerDown { link } => self.handle_worker_down(now, link, sink),
            Mesh::DownAck { link } => self.handle_down_ack(now, from, link, sink),
            Mesh::Drained { link } => self.handle_link_emptied(now, link, sink),
            Mesh::Pace { link, slow } => self.handle_pace(link, slow, sink),
            Mesh::Detach { link } => self.handle_detach(now, link, sink),
            Mesh::Detached { link, serial } => self.handle_detached(now, link, serial, sink),
            Mesh::Drain { link } => self.handle_drain(now, link, sink),
            Mesh::Names { link, changes } => self.handle_names(from, link, changes, sink),
            Mesh::PaceClient { link, client, stop } => {
                self.handle_pace_client(link, client, stop, sink);
            }
        }
    }

    /// An event of a client of `from` for a link of this shard; back it goes when the link is gone.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        from: ShardId,
        link: LinkId,
        frame: &[u8],
        sink: &mut impl Sink,
    ) {
        if self.is_link(link) {
            sink.buffer(link.conn).extend_from_slice(frame);
            self.watch_link(now, link, sink);
        } else if !self.keep_late(link, frame) {
            self.tell(now, from, &Mesh::Return { link, frame }, sink);
        }
    }
}

/// A frame of another shard, which decoded it before it sent it on.
fn known(frame: &[u8]) -> Option<(Command, InnerFrame<'_>)> {
    let (frame, _) = InnerFrame::decode(frame, usize::MAX).ok()??;
    Some((Command::from_number(frame.header.command)?, frame))
}
