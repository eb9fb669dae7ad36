//! A link to a gateway: who it is, whether this is its home, its news of names, its answers, its going.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use tengate_base::{Closed, ConnId, How, Instant, Opened, Sink};

use super::bindings::{Bindings, Proc};
use super::index::Holder;
use super::{Dispatcher, Notice, Slot};
use crate::query::Partial;
use crate::wire::ext::WorkerConnect;
use crate::wire::extension::{
    Extension, NameChange, NameKind, NameList, Offer, Shards, VERSION, Welcome, proc_id_of,
};
use crate::wire::header::{Command, InnerFrame};
use crate::worker::{Body, Call};

/// A link that was dialed.
#[derive(Debug)]
pub(super) struct GatewayLink {
    pub(super) serial: u32,
    /// The gateway's inner address.
    pub(super) address: SocketAddr,
    /// Who it is; no shards until it has said so.
    pub(super) shards: Shards,
    home: Home,
    /// What it was asked and has not answered, in order.
    pub(super) asked: VecDeque<Asked>,
    /// Numbers of the newest fence sent and of the newest one answered.
    fence_sent: u32,
    fence_done: u32,
    /// The fence behind the word that this dispatcher is going away: once it is answered the gateway does not choose it.
    drain_fence: u32,
    /// What commands may have added, by the fence that will tell, in order.
    expected: VecDeque<Expected>,
    /// Peers not read until it has taken what they sent.
    pub(super) choked: Vec<ConnId>,
    /// Events given to workers that acknowledge, and not acknowledged.
    pub(super) owed: u64,
    /// It is being closed as soon as its last bytes are written.
    pub(super) closing: bool,
}

/// Whether the gateway sends its events here.
#[derive(Debug, PartialEq, Eq)]
enum Home {
    No,
    Yes,
    /// It has sent its last event, and waits for those it sent to be with workers.
    Leaving {
        /// It waits no longer than this.
        limit: Instant,
        /// Workers that had not read all they were sent when it said so.
        unwritten: Vec<ConnId>,
        /// Events given back so far.
        returned: u64,
    },
}

/// A question on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A peer's.
    Query {
        /// The peer.
        peer: ConnId,
        /// Tells it from an earlier one with the same index.
        serial: u32,
        /// The peer's number for it.
        seq: u32,
    },
    /// Ours, for its place in the order.
    Fence(u32),
    /// Ours, for the names of a shard.
    List {
        /// The shard.
        proc_id: u16,
        /// Which life of it was asked.
        life: u32,
    },
}

/// A name that a command may have added.
#[derive(Debug)]
struct Expected {
    fence: u32,
    kind: NameKind,
    holder: Holder,
    name: Box<[u8]>,
}

/// How often a gateway that moves away is looked at.
const DETACH_CHECK: Duration = Duration::from_millis(5);

impl GatewayLink {
    /// Whether its events come here and sends to many cover it.
    pub(super) fn is_home(&self) -> bool {
        self.home != Home::No
    }

    /// Whether it has heard that this dispatcher is going away, if it was told.
    pub(super) fn knows_of_drain(&self) -> bool {
        self.fence_done >= self.drain_fence
    }

    /// Whether it has sent its last event here.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.home, Home::Leaving { .. })
    }

    /// The `proc_id`s of its shards.
    pub(super) fn proc_ids(&self) -> impl Iterator<Item = u16> + use<> {
        let first = self.shards.first_proc_id;
        (0..self.shards.count).map(move |shard| first.saturating_add(shard))
    }
}

impl Dispatcher {
    pub(super) fn open_gateway(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        let link = GatewayLink {
            serial: self.serial(),
            address: opened.peer,
            shards: Shards { first_proc_id: 0, count: 0, number_bits: self.number_bits },
            home: Home::No,
            asked: VecDeque::new(),
            fence_sent: 0,
            fence_done: 0,
            drain_fence: 0,
            expected: VecDeque::new(),
            choked: Vec::new(),
            owed: 0,
            closing: false,
        };
        self.put(opened.conn, Slot::Gateway(link.into()));
        self.wheel.set(opened.conn.0, now + self.config.auth_timeout);
        let address = format!("{}", self.config.address);
        let hello = WorkerConnect {
            worker_key: format!("dispatcher:{address}").into(),
            secret_key: self.config.secret_key.show(),
            tengate: Some(Offer {
                version: VERSION,
                dispatcher: Some(address.into()),
                ..Offer::default()
            }),
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        let call = Call::new(Command::WorkerConnect).body(Body::Plain(&body));
        call.encode(sink.buffer(opened.conn));
    }

    pub(super) fn handle_gateway_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.gateway(conn).is_none_or(|gateway| gateway.closing) {
                return bytes.len();
            }
            match InnerFrame::decode(&bytes[at..], self.config.reply_bytes_max) {
                Ok(None) => break,
                Ok(Some((frame, len))) => {
                    let encoded = &bytes[at..at + len];
                    at += len;
                    if self.handle_gateway_frame(now, conn, &frame, encoded, sink).is_none() {
                        self.stats.link_malformed += 1;
                        self.close_gateway(now, conn, How::AtOnce, sink);
                        return bytes.len();
                    }
                }
                Err(_) => {
                    self.stats.link_malformed += 1;
                    self.close_gateway(now, conn, How::AtOnce, sink);
                    return bytes.len();
                }
            }
        }
        at
    }

    /// `None` when the gateway says what makes no sense.
    fn handle_gateway_frame(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) -> Option<()> {
        match Command::from_number(frame.header.command) {
            Some(
                Command::OnConnect
                | Command::OnWebsocketConnect
                | Command::OnMessage
                | Command::OnClose,
            ) => {
                self.stats.events += 1;
                self.route_event(now, conn, frame, encoded, sink);
                return Some(());
            }
            Some(_) => return Some(()),
            None => {}
        }
        match Extension::from_number(frame.header.command) {
            Some(Extension::Welcome) => self.handle_welcome(now, conn, frame.body, sink)?,
            Some(Extension::Home) if frame.body == b"1" => self.take_home(conn, sink),
            Some(Extension::Home) => self.leave_home(conn),
            Some(Extension::Names) => {
                self.handle_names(conn, frame.header.connection_id, frame.body)
            }
            Some(Extension::Reply) => self.handle_reply(conn, frame.body, sink)?,
            Some(Extension::Detach) => self.begin_detach(now, conn, sink),
            _ => self.stats.command_ignored += 1,
        }
        Some(())
    }

    fn handle_welcome(
        &mut self,
        now: Instant,
        conn: ConnId,
        body: &[u8],
        sink: &mut impl Sink,
    ) -> Option<()> {
        let welcome = Welcome::decode(body).ok()?;
        let shards = welcome.gateway.filter(|shards| shards.count > 0)?;
        // One split for the whole cluster, which the first gateway tells.
        let is_same = self.gateways.is_empty() || shards.number_bits == self.number_bits;
        if !is_same || !(8..=31).contains(&shards.number_bits) {
            return None;
        }
        let proc_id_end = u32::from(shards.first_proc_id) + u32::from(shards.count);
        if proc_id_end > 1 << (32 - u32::from(shards.number_bits)) {
            return None;
        }
        self.number_bits = shards.number_bits;
        // It says who it is once.
        let gateway = self.gateway_mut(conn).filter(|gateway| gateway.shards.count == 0)?;
        let (address, first_proc_id) = (gateway.address, shards.first_proc_id);
        gateway.shards = shards;
        let proc_ids = gateway.proc_ids();
        self.wheel.cancel(conn.0);
        self.gateways.push(conn);
        for proc_id in proc_ids {
            self.last_life += 1;
            let proc = Proc {
                gateway: conn,
                life: self.last_life,
                listed: false,
                news: Vec::new(),
                bindings: Bindings::new(self.config.seed),
            };
            if let Some(older) = self.procs.insert(proc_id, proc) {
                self.release_all(&older.bindings);
                if let Some(link) = self.gateway(older.gateway) {
                    if link.address != address {
                        let older = link.address;
                        self.notice(Notice::ProcIdTaken { address, older });
                    }
                    self.close_gateway(now, older.gateway, How::AtOnce, sink);
                }
            }
        }
        self.notice(Notice::GatewayUp { address, first_proc_id, shards: shards.count });
        if self.draining {
            Extension::Drain.encode(0, b"", sink.buffer(conn));
        }
        Some(())
    }

    /// The gateway has chosen this dispatcher: its names are asked for, and until they are known it may hold any.
    fn take_home(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(gateway) = self.gateway_mut(conn).filter(|gateway| !gateway.is_home()) else {
            return;
        };
        gateway.home = Home::Yes;
        let (address, shards) = (gateway.address, gateway.shards);
        for shard in 0..shards.count {
            let proc_id = shards.first_proc_id.saturating_add(shard);
            // Its life has begun with the link, or when this was its home before: events may overtake the word of HOME.
            let proc = self.procs.get(&proc_id).filter(|proc| proc.gateway == conn);
            let Some(life) = proc.map(|proc| proc.life) else { continue };
            self.ask_names(conn, proc_id, life, 0, sink);
        }
        self.notice(Notice::HomeTaken { address });
        if self.draining {
            Extension::Drain.encode(0, b"", sink.buffer(conn));
        }
    }

    fn ask_names(
        &mut self,
        conn: ConnId,
        proc_id: u16,
        life: u32,
        cursor: u64,
        sink: &mut impl Sink,
    ) {
        let Some(gateway) = self.gateway_mut(conn) else { return };
        gateway.asked.push_back(Asked::List { proc_id, life });
        let any = u32::from(proc_id) << gateway.shards.number_bits;
        Extension::ListNames.encode(any, &cursor.to_be_bytes(), sink.buffer(conn));
    }

    /// The gateway has another home: nothing here covers it any more.
    fn leave_home(&mut self, conn: ConnId) {
        let Some(gateway) = self.gateway_mut(conn).filter(|gateway| gateway.is_home()) else {
            return;
        };
        gateway.home = Home::No;
        gateway.expected.clear();
        let proc_ids = gateway.proc_ids();
        for proc_id in proc_ids {
            self.last_life += 1;
            let life = self.last_life;
            let seed = self.config.seed;
            let Some(proc) = self.procs.get_mut(&proc_id).filter(|proc| proc.gateway == conn)
            else {
                continue;
            };
            (proc.life, proc.listed) = (life, false);
            proc.news = Vec::new();
            let bindings = core::mem::replace(&mut proc.bindings, Bindings::new(seed));
            self.release_all(&bindings);
        }
        self.sweeping = Some((NameKind::Uid, 0));
    }

    fn release_all(&mut self, bindings: &Bindings) {
        for worker in bindings.workers() {
            self.workers.release(worker);
        }
    }

    fn handle_names(&mut self, conn: ConnId, connection_id: u32, list: &[u8]) {
        let Some(gateway) = self.gateway(conn).filter(|gateway| gateway.is_home()) else { return };
        let proc_id = proc_id_of(connection_id, gateway.shards.number_bits);
        let proc = self.procs.get_mut(&proc_id).filter(|proc| proc.gateway == conn);
        let Some(proc) = proc else { return };
        let life = proc.life;
        if !proc.listed {
            proc.news.extend_from_slice(list);
        }
        self.note_names(Holder { proc_id, life }, list);
    }

    fn note_names(&mut self, holder: Holder, mut list: &[u8]) {
        while let Some(change) = NameChange::decode(&mut list) {
            self.stats.names += 1;
            if !change.name.is_empty() {
                self.index.set(change.kind, change.name, holder, change.held);
            }
        }
    }

    fn handle_reply(&mut self, conn: ConnId, body: &[u8], sink: &mut impl Sink) -> Option<()> {
        let gateway = self.gateway_mut(conn)?;
        let serial = gateway.serial;
        match gateway.asked.pop_front()? {
            Asked::Query { peer, serial: peer_serial, seq } => {
                let part = Partial::decode(body)?;
                self.collect(peer, peer_serial, seq, |pending| pending.put((conn, serial), part));
                self.answer_ready(peer, sink);
            }
            Asked::Fence(fence) => {
                gateway.fence_done = fence;
                while let Some(gateway) = self.gateway_mut(conn)
                    && let Some(expected) =
                        gateway.expected.pop_front_if(|expected| expected.fence <= fence)
                {
                    let Expected { kind, holder, name, .. } = expected;
                    self.index.settle(kind, &name, holder, fence);
                }
                self.send_fence(conn, sink);
            }
            Asked::List { proc_id, life } => {
                let Partial::Whole(bytes) = Partial::decode(body)? else { return None };
                let list = NameList::decode(&bytes)?;
                let proc = self.procs.get_mut(&proc_id);
                if let Some(proc) = proc.filter(|proc| proc.gateway == conn && proc.life == life) {
                    proc.listed = list.next == 0;
                    let news =
                        if proc.listed { core::mem::take(&mut proc.news) } else { Vec::new() };
                    self.note_names(Holder { proc_id, life }, list.names);
                    // Answers keep to the order of questions, so that news of a later time may have overtaken the list.
                    self.note_names(Holder { proc_id, life }, &news);
                    if list.next != 0 {
                        self.ask_names(conn, proc_id, life, list.next, sink);
                    }
                }
            }
        }
        Some(())
    }

    /// A command that was just sent may have made a shard of a home gateway hold a name.
    pub(super) fn expect_name(
        &mut self,
        conn: ConnId,
        proc_id: u16,
        kind: NameKind,
        name: &[u8],
        sink: &mut impl Sink,
    ) {
        let Some(life) = self.procs.get(&proc_id).map(|proc| proc.life) else { return };
        let holder = Holder { proc_id, life };
        let Some(gateway) = self.gateway_mut(conn) else { return };
        let fence = gateway.fence_sent + 1;
        gateway.expected.push_back(Expected { fence, kind, holder, name: name.into() });
        self.index.expect(kind, name, holder, fence);
        self.send_fence(conn, sink);
    }

    /// One fence at a time, and only while something is expected: binding a lot at once costs few of them.
    fn send_fence(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(gateway) = self.gateway_mut(conn) else { return };
        if gateway.fence_sent == gateway.fence_done && !gateway.expected.is_empty() {
            gateway.fence_sent += 1;
            gateway.asked.push_back(Asked::Fence(gateway.fence_sent));
            Extension::Fence.encode(0, b"", sink.buffer(conn));
        }
    }

    /// Asks for a sign that the gateway has heard what was said before.
    pub(super) fn send_drain_fence(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(gateway) = self.gateway_mut(conn) else { return };
        gateway.fence_sent += 1;
        gateway.drain_fence = gateway.fence_sent;
        gateway.asked.push_back(Asked::Fence(gateway.fence_sent));
        Extension::Fence.encode(0, b"", sink.buffer(conn));
    }

    /// The gateway moves away: it has sent its last event here.
    fn begin_detach(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        if !self.gateway(conn).is_some_and(GatewayLink::is_home) {
            return Extension::Detach.encode(0, b"", sink.buffer(conn));
        }
        let workers = self.workers.up().map(|worker| worker.conn);
        let unwritten = workers.filter(|worker| sink.queued(*worker) > 0).collect();
        let limit = now + self.config.detach_limit;
        let returned = self.return_waiting(conn, sink);
        if let Some(gateway) = self.gateway_mut(conn) {
            gateway.home = Home::Leaving { limit, unwritten, returned };
        }
        self.detach_check = Some(now);
    }

    /// Lets go of gateways that move away and owe nothing any more, or have waited long enough.
    pub(super) fn check_detaching(&mut self, now: Instant, sink: &mut impl Sink) {
        if self.detach_check.is_none_or(|at| at > now) {
            return;
        }
        self.detach_check = None;
        for conn in self.gateways.clone() {
            let Some(gateway) = self.gateway_mut(conn) else { continue };
            let owed = gateway.owed;
            let Home::Leaving { limit, unwritten, .. } = &mut gateway.home else { continue };
            unwritten.retain(|worker| sink.queued(*worker) > 0);
            if *limit > now && (owed > 0 || !unwritten.is_empty()) {
                self.detach_check = Some(now + DETACH_CHECK);
            } else {
                self.finish_detach(conn, sink);
            }
        }
    }

    fn finish_detach(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let mut returned = if self.gateway(conn).is_some_and(|gateway| gateway.owed > 0) {
            self.return_unacknowledged(conn, sink)
        } else {
            0
        };
        let Some(gateway) = self.gateway_mut(conn) else { return };
        if let Home::Leaving { returned: before, .. } = gateway.home {
            returned += before;
        }
        let address = gateway.address;
        gateway.owed = 0;
        Extension::Detach.encode(0, b"", sink.buffer(conn));
        self.leave_home(conn);
        self.stats.detached += 1;
        self.notice(Notice::HomeLeft { address, returned });
    }

    /// An event goes back to a gateway that moves away, or waits for its next home.
    pub(super) fn return_event(&mut self, conn: ConnId, frame: &[u8], sink: &mut impl Sink) {
        self.stats.returned += 1;
        if let Some(GatewayLink { home: Home::Leaving { returned, .. }, .. }) =
            self.gateway_mut(conn)
        {
            *returned += 1;
        }
        sink.buffer(conn).extend_from_slice(frame);
    }

    pub(super) fn handle_gateway_due(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let Some(gateway) = self.gateway(conn) else { return };
        let address = gateway.address;
        if gateway.shards.count == 0 && !gateway.closing {
            self.stats.gateway_refused += 1;
            self.notice(Notice::NoGateway { address });
        }
        self.close_gateway(now, conn, How::AtOnce, sink);
    }

    /// A gateway has taken what was queued: those who wait to send it more are read again.
    pub(super) fn handle_gateway_drained(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let Some(gateway) = self.gateway_mut(conn) else { return };
        for peer in core::mem::take(&mut gateway.choked) {
            self.unchoke(peer, sink);
        }
    }

    pub(super) fn close_gateway(
        &mut self,
        now: Instant,
        conn: ConnId,
        how: How,
        sink: &mut impl Sink,
    ) {
        let linger = self.config.auth_timeout;
        let Some(gateway) = self.gateway_mut(conn) else { return };
        gateway.closing = true;
        match sink.close(conn, how) {
            Closed::Now => self.forget_gateway(conn, sink),
            Closed::Later => self.wheel.set(conn.0, now + linger),
        }
    }

    /// A gateway's link is gone. Its clients live on elsewhere, or died with it.
    pub(super) fn forget_gateway(&mut self, conn: ConnId, sink: &mut impl Sink) {
        self.leave_home(conn);
        let Slot::Gateway(gateway) = core::mem::take(&mut self.slots[conn.0 as usize]) else {
            return;
        };
        self.wheel.cancel(conn.0);
        self.gateways.retain(|other| *other != conn);
        for proc_id in gateway.proc_ids() {
            if self.procs.get(&proc_id).is_some_and(|proc| proc.gateway == conn)
                && let Some(proc) = self.procs.remove(&proc_id)
            {
                self.release_all(&proc.bindings);
            }
        }
        for asked in gateway.asked {
            if let Asked::Query { peer, serial, seq } = asked {
                self.collect(peer, serial, seq, |pending| {
                    pending.give_up((conn, gateway.serial));
                });
                self.answer_ready(peer, sink);
            }
        }
        for peer in gateway.choked {
            self.unchoke(peer, sink);
        }
        if gateway.shards.count > 0 {
            self.notice(Notice::GatewayDown { address: gateway.address });
        } else if !gateway.closing {
            self.stats.gateway_refused += 1;
            self.notice(Notice::NoGateway { address: gateway.address });
        }
    }

    /// Forgets a part of what ended lives of shards held.
    pub(super) fn sweep(&mut self) {
        let Some(from) = self.sweeping else { return };
        let procs = &self.procs;
        self.sweeping = self.index.sweep(from, |holder| {
            procs.get(&holder.proc_id).is_some_and(|proc| proc.life == holder.life)
        });
    }
}
