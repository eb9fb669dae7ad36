//! From a gateway's event to a worker: binding, waiting while there is none, moving on when one goes
//! (docs/dispatcher.md#events).

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use tengate_base::{ConnId, Instant, Sink};

use super::Dispatcher;
use super::gateway_link::GatewayLink;
use super::workers::{Candidate, WorkerRef};
use crate::gateway::SlowWorker;
use crate::wire::extension::{Extension, FLAG_IPV6, proc_id_of};
use crate::wire::header::{Command, FLAG_SCALAR, Header, InnerFrame};

/// Events, oldest first.
type Queue = VecDeque<Waiter>;

/// An event that waits.
#[derive(Debug)]
struct Waiter {
    /// When it is given up.
    deadline: Instant,
    frame: Box<[u8]>,
    /// In which life of its shard it came: a later client may have the same number.
    life: u32,
}

/// Events that wait because there is no worker for them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: Queue,
    bytes: usize,
    /// Clients not read until a worker is there.
    paused: BTreeSet<u32>,
}

/// The life of shards that are not, or not any more, this dispatcher's to serve. Others begin at 1.
const NO_LIFE: u32 = 0;

impl Waiting {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.front().map(|waiter| waiter.deadline)
    }

    fn push(&mut self, waiter: Waiter) {
        self.bytes += waiter.frame.len();
        self.queue.push_back(waiter);
    }

    fn pop_due(&mut self, now: Instant) -> Option<Waiter> {
        let waiter = self.queue.pop_front_if(|waiter| waiter.deadline <= now)?;
        self.bytes -= waiter.frame.len();
        Some(waiter)
    }

    fn take(&mut self) -> (Queue, BTreeSet<u32>) {
        self.bytes = 0;
        (core::mem::take(&mut self.queue), core::mem::take(&mut self.paused))
    }
}

impl Dispatcher {
    /// Sends an event of a gateway's client to its worker, chosen now if it has none.
    pub(super) fn route_event(
        &mut self,
        now: Instant,
        gateway: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let proc_id = self.proc_id(frame.header.connection_id);
        if self.procs.get(&proc_id).is_none_or(|proc| proc.gateway != gateway) {
            self.stats.command_ignored += 1;
            return;
        }
        self.give(now, frame, encoded, None, &mut None, sink);
    }

    /// An event whose worker is gone goes to another. Events of clients that are gone, or whose gateway is, or has another home
    /// by now, all go to one, `orphans`.
    pub(super) fn reroute(
        &mut self,
        now: Instant,
        encoded: &[u8],
        orphans: &mut Option<WorkerRef>,
        sink: &mut impl Sink,
    ) {
        if let Ok(Some((frame, _))) = InnerFrame::decode(encoded, usize::MAX) {
            let id = frame.header.connection_id;
            let group = super::workers::group_of(&self.config, frame.header.gateway_port);
            // By uid, a client's end may have gone to a later worker: then it is gone, and is not to be bound again.
            let may_be_gone = group.balance == super::Balance::HashUid;
            let proc = self.procs.get(&self.proc_id(id));
            let is_here = proc.is_some_and(|proc| {
                self.gateway(proc.gateway).is_some_and(GatewayLink::is_home)
                    && (!may_be_gone || proc.bindings.get(id).is_some())
            });
            let life = (!is_here).then_some(NO_LIFE);
            self.give(now, &frame, encoded, life, orphans, sink);
        }
    }

    /// Finds an event's worker and hands it over. With `life`, the event is of that life of its shard.
    fn give(
        &mut self,
        now: Instant,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        life: Option<u32>,
        orphans: &mut Option<WorkerRef>,
        sink: &mut impl Sink,
    ) {
        let (id, port) = (frame.header.connection_id, frame.header.gateway_port);
        let is_close = frame.header.command == Command::OnClose as u8;
        let proc_id = self.proc_id(id);
        let proc = self.procs.get_mut(&proc_id);
        let proc = proc.filter(|proc| life.is_none_or(|life| proc.life == life));
        let waiter_life = proc.as_ref().map_or(NO_LIFE, |proc| proc.life);
        let bindings = proc.map(|proc| &mut proc.bindings);
        let is_orphan = bindings.is_none();
        let bound = bindings.and_then(|bindings| bindings.get(id));
        let known = bound.map(|bound| bound.worker).or(*orphans);
        let mut worker = known.unwrap_or(WorkerRef::NONE);
        if worker == WorkerRef::ABANDONED {
            return self.drop_abandoned(now, id, is_close, encoded);
        }
        let mut is_new = false;
        if self.workers.bound(worker).is_none() {
            worker = self.choose(frame, &id.to_be_bytes()).unwrap_or(WorkerRef::NONE);
            is_new = true;
        }
        if is_orphan {
            // Nothing is known of its client, and nothing is to be.
        } else if is_close {
            if let Some(proc) = self.procs.get_mut(&proc_id) {
                proc.bindings.remove(id);
            }
        } else if is_new
            && worker != WorkerRef::NONE
            && let Some(proc) = self.procs.get_mut(&proc_id)
        {
            proc.bindings.set(id, worker, port);
        }
        if self.workers.bound(worker).is_none() {
            return self.wait(now, id, encoded, waiter_life, sink);
        }
        self.hand_over(worker, frame, encoded, sink);
        if is_orphan {
            *orphans = Some(worker);
        }
        if if is_orphan { is_new } else { is_close } {
            self.workers.release(worker);
        }
    }

    fn choose(&mut self, frame: &InnerFrame<'_>, name: &[u8]) -> Option<WorkerRef> {
        let ipv4 = frame.header.client_ip.to_be_bytes();
        let is_ipv6 = frame.header.flag & FLAG_IPV6 != 0;
        let ip = frame.ext.get(..16).filter(|_| is_ipv6).unwrap_or(&ipv4);
        let candidate = Candidate { port: frame.header.gateway_port, ip, name };
        self.workers.choose(&self.config, &candidate)
    }

    /// A client got a uid: where workers are chosen by it, this decides.
    pub(super) fn rebind(&mut self, id: u32, uid: &[u8]) {
        let proc_id = self.proc_id(id);
        let Some(proc) = self.procs.get_mut(&proc_id) else { return };
        let bound = proc.bindings.get(id).filter(|bound| bound.worker != WorkerRef::ABANDONED);
        let Some(bound) = bound else { return };
        let group = super::workers::group_of(&self.config, bound.port);
        if group.balance != super::Balance::HashUid {
            return;
        }
        let candidate = Candidate { port: bound.port, ip: b"", name: uid };
        if let Some(worker) = self.workers.choose(&self.config, &candidate) {
            proc.bindings.set(id, worker, bound.port);
            self.workers.release(bound.worker);
        }
    }

    /// Puts an event into its worker's link, or where it goes while that link is in trouble.
    fn hand_over(
        &mut self,
        worker: WorkerRef,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let id = frame.header.connection_id;
        let Some((slot, bound)) = self.workers.bound(worker) else { return };
        if bound.down {
            return bound.held.extend_from_slice(encoded);
        }
        let (conn, ipv6, slow) = (bound.conn, bound.ipv6, bound.slow);
        if slow && !self.admit_slow(slot, frame, sink) {
            return;
        }
        let address = (self.config.address.ip().to_bits(), self.config.address.port());
        let out = sink.buffer(conn);
        let start = out.len();
        encode_event(frame, encoded, address, ipv6, out);
        let limit = self.config.send_to_worker_bytes_max;
        if let Some(kept) = self.kept(conn) {
            kept.push(&out[start..]);
            let is_full = kept.len() >= limit;
            if let Some(gateway) = self.gateway_of(id).and_then(|conn| self.gateway_mut(conn)) {
                gateway.owed += 1;
            }
            if is_full {
                self.set_pace(slot, true, sink);
            }
        } else if !slow && sink.queued(conn) >= limit && sink.flush(conn) >= limit {
            // PHP takes messages again as soon as there is room; stopped readers wait for half the queue to be gone.
            let low = match self.config.slow_worker {
                SlowWorker::StopReading => limit / 2,
                SlowWorker::Drop | SlowWorker::Close => limit.saturating_sub(1),
            };
            sink.notify_below(conn, low);
            self.set_pace(slot, true, sink);
        }
    }

    /// Decides on an event for a slow worker: whether it is sent all the same.
    fn admit_slow(&mut self, slot: u16, frame: &InnerFrame<'_>, sink: &mut impl Sink) -> bool {
        let id = frame.header.connection_id;
        if frame.header.command == Command::OnClose as u8 {
            // What says that a client left is never refused, or its worker would keep a ghost.
            return true;
        }
        match self.config.slow_worker {
            SlowWorker::Drop => {
                self.stats.drop_slow_worker += 1;
                false
            }
            SlowWorker::StopReading => {
                if self.workers.at(slot).is_some_and(|worker| worker.paused.insert(id)) {
                    self.stats.paused += 1;
                    self.pace(id, true, sink);
                }
                true
            }
            SlowWorker::Close => {
                self.stats.close_slow_worker += 1;
                self.destroy(id, sink);
                false
            }
        }
    }

    /// A worker has become slow, or has caught up.
    pub(super) fn set_pace(&mut self, slot: u16, slow: bool, sink: &mut impl Sink) {
        let Some(worker) = self.workers.at(slot).filter(|worker| worker.slow != slow) else {
            return;
        };
        worker.slow = slow;
        if !slow {
            for client in core::mem::take(&mut worker.paused) {
                self.pace(client, false, sink);
            }
        }
    }

    /// Asks a client's gateway to read it no further, or again.
    pub(super) fn pace(&mut self, id: u32, pause: bool, sink: &mut impl Sink) {
        if let Some(gateway) = self.gateway_of(id) {
            let body = if pause { b"1" } else { b"0" };
            Extension::Pace.encode(id, body, sink.buffer(gateway));
        }
    }

    fn destroy(&mut self, id: u32, sink: &mut impl Sink) {
        if let Some(gateway) = self.gateway_of(id) {
            let header = Header {
                command: Command::Destroy as u8,
                connection_id: id,
                flag: FLAG_SCALAR,
                ..Header::default()
            };
            header.encode(b"", b"", sink.buffer(gateway));
        }
    }

    /// Keeps an event until there is a worker for it.
    fn wait(&mut self, now: Instant, id: u32, encoded: &[u8], life: u32, sink: &mut impl Sink) {
        let is_close = encoded.get(4) == Some(&(Command::OnClose as u8));
        let gateway = self.gateway_of(id);
        if let Some(conn) = gateway
            && self.gateway(conn).is_some_and(GatewayLink::is_leaving)
        {
            return self.return_event(conn, encoded, sink);
        }
        // What says that a client left is kept in any case, or a worker would keep a ghost.
        if !is_close && self.waiting.bytes + encoded.len() > self.config.no_worker_bytes_max {
            self.stats.drop_no_worker += 1;
            if life != NO_LIFE {
                self.abandon(id, sink);
            }
            return;
        }
        self.push_waiting(now, encoded, life);
        // A client that leaves needs no room made for it, only its goodbye kept.
        if !is_close && life != NO_LIFE && self.waiting.paused.insert(id) {
            self.stats.paused += 1;
            self.pace(id, true, sink);
        }
    }

    /// Gives events up that have waited too long, and closes their clients.
    pub(super) fn expire_waiting(&mut self, now: Instant, sink: &mut impl Sink) {
        while let Some(Waiter { frame, life, .. }) = self.waiting.pop_due(now) {
            self.stats.drop_no_worker += 1;
            let is_close = frame.get(4) == Some(&(Command::OnClose as u8));
            let Some(id) = client_of(&frame) else { continue };
            if self.procs.get(&self.proc_id(id)).is_none_or(|proc| proc.life != life) {
                self.waiting.paused.remove(&id);
            } else if is_close {
                self.forget_client(id);
            } else {
                self.abandon(id, sink);
            }
        }
    }

    fn push_waiting(&mut self, now: Instant, encoded: &[u8], life: u32) {
        let deadline = now + self.config.no_worker_grace;
        self.waiting.push(Waiter { deadline, frame: encoded.into(), life });
    }

    /// An event of a client that was given up. With its last one the client is forgotten, but not before older ones that
    /// still wait: they would be taken for those of a client that is there.
    fn drop_abandoned(&mut self, now: Instant, id: u32, is_close: bool, encoded: &[u8]) {
        if is_close && self.waiting.paused.contains(&id) {
            let life = self.procs.get(&self.proc_id(id)).map_or(NO_LIFE, |proc| proc.life);
            return self.push_waiting(now, encoded, life);
        }
        self.stats.drop_no_worker += 1;
        if is_close {
            self.forget_client(id);
        }
    }

    /// A client that nobody served is gone.
    fn forget_client(&mut self, id: u32) {
        self.waiting.paused.remove(&id);
        let proc_id = self.proc_id(id);
        if let Some(proc) = self.procs.get_mut(&proc_id)
            && let Some(worker) = proc.bindings.remove(id)
        {
            self.workers.release(worker);
        }
    }

    /// Closes a client nobody serves. Its end has no receiver either.
    fn abandon(&mut self, id: u32, sink: &mut impl Sink) {
        let proc_id = self.proc_id(id);
        let Some(proc) = self.procs.get_mut(&proc_id) else { return };
        let before = proc.bindings.get(id).map_or(WorkerRef::NONE, |bound| bound.worker);
        if before == WorkerRef::ABANDONED {
            return;
        }
        self.workers.release(before);
        proc.bindings.set(id, WorkerRef::ABANDONED, 0);
        self.stats.close_no_worker += 1;
        self.destroy(id, sink);
    }

    /// A worker came: what waited for one like it goes out, in order.
    pub(super) fn handle_worker_up(&mut self, now: Instant, sink: &mut impl Sink) {
        let (queue, paused) = self.waiting.take();
        let mut orphans = None;
        for waiter in queue {
            let encoded = &waiter.frame;
            let Ok(Some((frame, _))) = InnerFrame::decode(encoded, usize::MAX) else { continue };
            if self.workers.serves(&self.config, frame.header.gateway_port) {
                self.give(now, &frame, encoded, Some(waiter.life), &mut orphans, sink);
            } else {
                self.waiting.push(waiter);
            }
        }
        let still: BTreeSet<u32> =
            self.waiting.queue.iter().filter_map(|waiter| client_of(&waiter.frame)).collect();
        for id in paused {
            if still.contains(&id) {
                self.waiting.paused.insert(id);
            } else {
                self.pace(id, false, sink);
            }
        }
    }

    /// Gives a gateway that moves away the events back that wait here for a worker. Returns how many.
    pub(super) fn return_waiting(&mut self, gateway: ConnId, sink: &mut impl Sink) -> u64 {
        let (queue, paused) = self.waiting.take();
        let mut returned = 0;
        for waiter in queue {
            if client_of(&waiter.frame).and_then(|id| self.gateway_of(id)) == Some(gateway) {
                returned += 1;
                self.return_event(gateway, &waiter.frame, sink);
            } else {
                self.waiting.push(waiter);
            }
        }
        self.waiting.paused =
            paused.into_iter().filter(|id| self.gateway_of(*id) != Some(gateway)).collect();
        returned
    }

    /// Gives a gateway the events back that workers have not acknowledged in time. Returns how many.
    pub(super) fn return_unacknowledged(&mut self, gateway: ConnId, sink: &mut impl Sink) -> u64 {
        let mut returned = 0;
        for conn in self.workers.up().map(|worker| worker.conn).collect::<Vec<_>>() {
            let Some(kept) = self.kept(conn) else { continue };
            let all = kept.frames().to_vec();
            let mut at = 0;
            for frame in split(&all) {
                if event_of(frame).and_then(|id| self.gateway_of(id)) == Some(gateway) {
                    returned += 1;
                    self.return_event(gateway, frame, sink);
                    if let Some(kept) = self.kept(conn) {
                        kept.give_back(at);
                    }
                }
                at += frame.len();
            }
        }
        returned
    }

    /// An event is with its worker for good: its gateway is owed one less.
    pub(super) fn settle_owed(&mut self, client: u32) {
        if let Some(gateway) = self.gateway_of(client).and_then(|conn| self.gateway_mut(conn)) {
            gateway.owed = gateway.owed.saturating_sub(1);
        }
    }

    /// The shard a connection_id names.
    pub(super) fn proc_id(&self, id: u32) -> u16 {
        proc_id_of(id, self.number_bits)
    }

    /// The link to the gateway that has a client.
    pub(super) fn gateway_of(&self, id: u32) -> Option<ConnId> {
        self.procs.get(&self.proc_id(id)).map(|proc| proc.gateway)
    }
}

/// Appends an event as its worker is to see it: from this dispatcher, and without what the worker does not understand.
fn encode_event(
    frame: &InnerFrame<'_>,
    encoded: &[u8],
    (ip, port): (u32, u16),
    ipv6: bool,
    out: &mut Vec<u8>,
) {
    if frame.header.flag & FLAG_IPV6 != 0 && !ipv6 {
        let flag = frame.header.flag & !FLAG_IPV6;
        let header = Header { local_ip: ip, local_port: port, flag, ..frame.header };
        return header.encode(frame.ext.get(16..).unwrap_or_default(), frame.body, out);
    }
    let start = out.len();
    out.extend_from_slice(encoded);
    out[start + 5..start + 9].copy_from_slice(&ip.to_be_bytes());
    out[start + 9..start + 11].copy_from_slice(&port.to_be_bytes());
}

/// Cuts bytes that are whole inner frames apart. What follows a broken one is dropped: its end is not known.
pub(super) fn split(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (_, len) = InnerFrame::decode(frames, usize::MAX).ok()??;
        frames.split_off(..len)
    })
}

/// The connection_id in an inner frame that is an event.
pub(super) fn event_of(frame: &[u8]) -> Option<u32> {
    let command = Command::from_number(*frame.get(4)?)?;
    command.is_event().then(|| client_of(frame))?
}

/// The connection_id in an inner frame.
pub(super) fn client_of(frame: &[u8]) -> Option<u32> {
    frame.get(17..21)?.try_into().ok().map(u32::from_be_bytes)
}
