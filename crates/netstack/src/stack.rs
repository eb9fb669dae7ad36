//! One shard's stack: its interface, the turn, and how connections end.

mod ingress;
mod passive;
mod active;
mod observe;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use tengate_base::{ConnId, Door, Instant, TimerWheel};

use crate::config::{Address, Config, ConfigError};
use crate::event::{Cause, Device, DeviceFull, Event};
use crate::flow::Flows;
use crate::limits;
use crate::neighbor::Neighbors;
use crate::pool::SharedId;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::tcp::tcb::{Fate, NEVER, State, Tcb};
use crate::tcp::time_wait::TimeWait;

pub use active::ConnectError;
pub use observe::Gauges;

/// One shard's TCP/IP stack. See the [crate's documentation](crate) for the order of a turn.
#[derive(Debug)]
pub struct Stack {
    shared: Shared,
    flows: Flows,
    time_wait: TimeWait,
    wheel: TimerWheel,
    neighbors: Neighbors,
    listeners: Vec<Listener>,
    /// Connections to look at when the turn ends.
    dirty: VecDeque<u32>,
    /// What was shared in this turn, until it ends.
    turn_shares: Vec<SharedId>,
    /// Turns that ended; it wraps.
    turn: u32,
    /// Connections that peers are opening.
    backlog_len: u32,
    /// When a cookie was last sent: only then are answers to one looked for.
    cookie_sent_at: Option<Instant>,
    /// What the next ephemeral port is counted from.
    next_port: u16,
    /// SYNs are dropped for now.
    listening_paused: bool,
}

/// Bytes of [`Stack::share`], for [`Stack::send_shared`]. Good until the end of the turn, which is [`Stack::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedBytes {
    id: SharedId,
    turn: u32,
}

/// A port that peers may connect to.
#[derive(Clone, Copy, Debug)]
struct Listener {
    port: u16,
    door: Door,
}

impl Stack {
    /// A stack without connections or listeners.
    ///
    /// # Errors
    /// When the configuration contradicts itself or the limits.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        check(&config)?;
        let locals = config.addresses.iter().map(|address| mapped(address.addr)).collect();
        let mut neighbors = Neighbors::default();
        for &(address, mac) in &config.neighbors {
            neighbors.fix(mapped(address), mac);
        }
        let shared = Shared::new(config, locals);
        let seed = shared.keys.sequence.hash(&[]);
        Ok(Self {
            flows: Flows::new(seed),
            time_wait: TimeWait::new(seed),
            wheel: TimerWheel::new(limits::TICK, now),
            neighbors,
            listeners: Vec::new(),
            dirty: VecDeque::new(),
            turn_shares: Vec::new(),
            turn: 0,
            backlog_len: 0,
            cookie_sent_at: None,
            next_port: 0,
            listening_paused: false,
            shared,
        })
    }

    /// Lets peers connect to a port, on every address; their connections say `door`. A port that is listened on already
    /// gets the new door.
    pub fn listen(&mut self, port: u16, door: Door) {
        self.unlisten(port);
        self.listeners.push(Listener { port, door });
    }

    /// Lets no more peers connect to a port. Connections go on.
    pub fn unlisten(&mut self, port: u16) {
        self.listeners.retain(|listener| listener.port != port);
    }

    /// What the application must be told next. Take all of it before the next input.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// When [`Stack::handle_timeout`] is due. May be early, for a timer that has moved, never late.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [self.wheel.next_deadline(), self.time_wait.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The instant of [`Stack::poll_timeout`] has come. [`Stack::flush`] must follow.
    pub fn handle_timeout(&mut self, now: Instant, device: &mut impl Device) {
        self.time_wait.expire(now);
        while let Some(index) = self.wheel.pop_due(now) {
            let Some(tcb) = self.flows.get_mut(index) else { continue };
            tcb.alarm_at = NEVER;
            let deadline = tcb.deadline(&self.shared);
            if deadline > now {
                // It has moved on since the wheel was set.
                watch(&mut self.wheel, tcb, index, deadline);
                continue;
            }
            let fate = tcb.handle_timeout(now, &mut self.shared, device);
            if fate == Fate::Ends(Cause::TimedOut) {
                // So that a peer that is only slow does not wait for us.
                tcb.send_abort(now, &mut self.shared, device);
            }
            self.settle(now, index, fate);
            self.doubt_neighbor(index);
        }
    }

    /// Appends bytes to a connection's stream; they leave at the end of the turn or when the windows allow. Returns how many
    /// were taken: fewer than given when the send buffer is full, the pool is exhausted, the stream is finished or the
    /// connection is gone.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let Some((tcb, room)) = sender(&mut self.flows, conn, &self.shared.config) else {
            return 0;
        };
        let wanted = &bytes[..bytes.len().min(room)];
        if wanted.is_empty() {
            return 0;
        }
        let shared = &mut self.shared;
        let tx = tcb.tx.get_or_insert_with(|| shared.take_send_queue());
        let taken = tx.append(wanted, &mut shared.chunks);
        shared.stats.send_refused_pool_full += (wanted.len() - taken) as u64;
        if let Some(tx) = tcb.tx.take_if(|tx| tx.len() == 0 && tx.flight.is_empty()) {
            shared.give_send_queue(tx);
        }
        mark(&mut self.dirty, tcb, conn.0);
        taken
    }

    /// Copies bytes that many connections are to send, once. They take as much of the pool as they are long (at least 256
    /// bytes, between 256 and 2048 bytes 2048), once, until this turn has ended and the last peer has acknowledged them.
    /// `None` when the pool has no room, which is counted.
    pub fn share(&mut self, bytes: &[u8]) -> Option<SharedBytes> {
        let Some(id) = self.shared.chunks.share(bytes) else {
            self.shared.stats.share_refused_pool_full += 1;
            return None;
        };
        self.turn_shares.push(id);
        Some(SharedBytes { id, turn: self.turn })
    }

    /// As [`Stack::send`], for shared bytes: they are queued by reference, which takes nothing of the pool. Only where many
    /// pieces wait already, messages of at most 256 bytes are copied. Returns how many were taken, from the front.
    ///
    /// # Panics
    /// When the turn in which the bytes were shared has ended.
    pub fn send_shared(&mut self, conn: ConnId, bytes: SharedBytes) -> usize {
        assert_eq!(bytes.turn, self.turn, "what is shared is good for one turn");
        let Some((tcb, room)) = sender(&mut self.flows, conn, &self.shared.config) else {
            return 0;
        };
        let shared = &mut self.shared;
        let len = shared.chunks.shared(bytes.id).0.len().min(room);
        if len == 0 {
            return 0;
        }
        let wanted = u32::try_from(len).expect("the send buffer is at most 1 GiB");
        let tx = tcb.tx.get_or_insert_with(|| shared.take_send_queue());
        let taken = tx.append_shared(bytes.id, wanted, &mut shared.chunks);
        shared.stats.send_refused_pool_full += u64::from(wanted - taken);
        mark(&mut self.dirty, tcb, conn.0);
        taken as usize
    }

    /// Bytes a connection has queued, sent or not, that its peer has not acknowledged. Zero for one that is gone.
    pub fn queued(&self, conn: ConnId) -> usize {
        self.flows.get(conn.0).map_or(0, |tcb| tcb.queued() as usize)
    }

    /// Of them, those that were never sent.
    pub fn unsent(&self, conn: ConnId) -> usize {
        self.flows.get(conn.0).map_or(0, |tcb| tcb.unsent() as usize)
    }

    /// How many bytes [`Stack::send`] would take now, if the pool has them.
    pub fn send_room(&self, conn: ConnId) -> usize {
        let Some(tcb) = self.flows.get(conn.0) else { return 0 };
        self.shared.config.send_buffer_bytes.saturating_sub(tcb.queued()) as usize
    }

    /// Asks for one [`Event::Drained`] when an acknowledgement leaves at most `bytes` queued.
    pub fn notify_below(&mut self, conn: ConnId, bytes: u32) {
        if let Some(tcb) = self.flows.get_mut(conn.0) {
            tcb.notify_below = bytes.min(u32::MAX - 1);
        }
    }

    /// Appends the bytes that an [`Event::Readable`] announced to `out` and returns how many they were. Bytes announced
    /// before and not read are dropped.
    pub fn read(&mut self, conn: ConnId, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        while let Some((owner, chunk)) =
            self.shared.ready.pop_front_if(|(owner, _)| *owner == conn || out.len() == before)
        {
            if owner == conn {
                out.extend_from_slice(chunk.as_slice());
            }
            self.shared.chunks.give(chunk);
        }
        out.len() - before
    }

    /// The application keeps `bytes` of what it was handed, because it cannot use them yet: the window shrinks by that.
    pub fn hold(&mut self, conn: ConnId, bytes: u32) {
        if let Some(tcb) = self.flows.get_mut(conn.0) {
            tcb.rcv_held += bytes;
            self.shared.chunks.hold(bytes);
        }
    }

    /// The application has used `bytes` of what it held: the window opens, and the peer is told if it waits for that.
    pub fn release(&mut self, conn: ConnId, bytes: u32) {
        if let Some(tcb) = self.flows.get_mut(conn.0) {
            let bytes = bytes.min(tcb.rcv_held);
            tcb.rcv_held -= bytes;
            self.shared.chunks.release(bytes);
            self.mark(conn.0);
        }
    }

    /// Finishes our stream: a FIN follows what is queued. The connection can still receive, and its events go on.
    pub fn shutdown(&mut self, now: Instant, conn: ConnId) {
        let Some(tcb) = self.flows.get_mut(conn.0) else { return };
        if tcb.fin_wanted {
            return;
        }
        tcb.state = match tcb.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            // A connection that is being opened finishes once it is open.
            state @ (State::SynSent
            | State::SynReceived
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::Closed) => state,
        };
        tcb.fin_wanted = true;
        if tcb.tx.is_none() {
            tcb.tx = Some(self.shared.take_send_queue());
            tcb.rto_from = now;
        }
        self.mark(conn.0);
    }

    /// Finishes our stream and gives the connection up: what is queued is still sent and repeated, what still comes is
    /// acknowledged and dropped, and no event follows. Its index is used again only when TCP is done with it.
    ///
    /// RFC 9293 3.6 would allow a reset when more data comes; that could destroy our last bytes in the peer's buffer.
    pub fn close(&mut self, now: Instant, conn: ConnId) {
        self.shutdown(now, conn);
        let Some(tcb) = self.flows.get_mut(conn.0) else { return };
        tcb.orphaned = true;
        tcb.heard_at = now;
        self.shared.drop_events(conn);
        self.shared.chunks.release(core::mem::take(&mut tcb.rcv_held));
        if tcb.state == State::SynSent {
            self.forget(conn.0);
        } else {
            // From now on it waits for the peer's FIN no longer than the configuration says: a timer to set.
            self.mark(conn.0);
        }
    }

    /// Resets a connection: what is queued is lost, its index is free at the end of the turn, no event follows.
    pub fn abort(&mut self, now: Instant, conn: ConnId, device: &mut impl Device) {
        let Some(tcb) = self.flows.get(conn.0) else { return };
        tcb.send_abort(now, &mut self.shared, device);
        self.shared.stats.conns_aborted += 1;
        self.shared.drop_events(conn);
        self.forget(conn.0);
    }

    /// Ends the turn: sends what connections have to send, sets their timers, frees indexes. Fails when the device is full;
    /// it is to be called again when there is room.
    ///
    /// # Errors
    /// [`DeviceFull`] when something could not be sent now.
    pub fn flush(&mut self, now: Instant, device: &mut impl Device) -> Result<(), DeviceFull> {
        self.flows.recycle();
        for id in self.turn_shares.drain(..) {
            self.shared.chunks.unrefer(id);
        }
        self.turn = self.turn.wrapping_add(1);
        self.send_now(now, device)
    }

    /// Sends what connections have to send so far, within a turn. A message for many connections goes out in parts then, each
    /// while its connections are still in the cache.
    ///
    /// # Errors
    /// [`DeviceFull`] when something could not be sent now; [`Stack::flush`] tries again.
    pub fn send_now(&mut self, now: Instant, device: &mut impl Device) -> Result<(), DeviceFull> {
        // Those that are marked meanwhile have their turn next time.
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else { break };
            let Some(tcb) = self.flows.get_mut(index) else { continue };
            let result = if tcb.state == State::SynSent {
                self.begin_opening(now, index, device)
            } else {
                tcb.flush(now, &mut self.shared, device)
            };
            let Some(tcb) = self.flows.get_mut(index) else { continue };
            if result.is_err() {
                // It goes first when there is room. Looking at all the others now would cost the more the more wait.
                self.dirty.push_front(index);
                return result;
            }
            tcb.dirty = false;
            // Never in the past, or the same timer would be due for ever while the device is full.
            let deadline = tcb.deadline(&self.shared).max(now + limits::TICK);
            watch(&mut self.wheel, tcb, index, deadline);
        }
        Ok(())
    }

    /// Counters.
    pub const fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Connections, TIME-WAIT not counted.
    pub fn conn_count(&self) -> usize {
        self.flows.len()
    }

    /// Connections in TIME-WAIT.
    pub fn time_wait_count(&self) -> usize {
        self.time_wait.len()
    }

    /// Bytes of the pool in use, and those that the application holds.
    pub const fn pool_used_bytes(&self) -> usize {
        self.shared.chunks.used()
    }

    /// Puts a connection on the list for the end of the turn.
    fn mark(&mut self, index: u32) {
        if let Some(tcb) = self.flows.get_mut(index) {
            mark(&mut self.dirty, tcb, index);
        }
    }

    /// Carries out what a connection came to.
    fn settle(&mut self, now: Instant, index: u32, fate: Fate) {
        match fate {
            Fate::Rests => {}
            Fate::Stays => self.mark(index),
            Fate::Ends(cause) => self.end(index, cause),
            Fate::Waits => {
                let Some(tcb) = self.flows.get(index) else { return };
                if self.time_wait.len() >= self.shared.config.time_wait_max as usize
                    && self.time_wait.recycle_oldest()
                {
                    self.shared.stats.time_wait_recycled += 1;
                }
                if self.shared.config.time_wait_max > 0 {
                    self.time_wait.insert(now, tcb, self.shared.config.time_wait);
                }
                self.end(index, Cause::Finished);
            }
        }
    }

    /// A connection is over, and the application learns it.
    fn end(&mut self, index: u32, cause: Cause) {
        let Some(tcb) = self.flows.get(index) else { return };
        let stats = &mut self.shared.stats;
        *match cause {
            Cause::Finished => &mut stats.conns_finished,
            Cause::Reset => &mut stats.conns_reset_by_peer,
            Cause::Refused => &mut stats.conns_refused,
            Cause::Unreachable => &mut stats.conns_unreachable,
            Cause::TimedOut => &mut stats.conns_timed_out,
        } += 1;
        // Of a connection that a peer never opened entirely the application was never told.
        let is_known = !(tcb.passive && tcb.state == State::SynReceived);
        if is_known && !tcb.orphaned {
            self.shared.events.push_back(Event::Closed { conn: ConnId(index), cause });
        }
        self.forget(index);
    }

    /// Takes a connection out of every table.
    fn forget(&mut self, index: u32) {
        let Some(tcb) = self.flows.get_mut(index) else { return };
        if tcb.passive && tcb.state == State::SynReceived {
            self.backlog_len -= 1;
        }
        tcb.release_queues(&mut self.shared);
        self.flows.remove(index);
        self.wheel.cancel(index);
    }

    /// Lets no segment take the short path.
    #[cfg(test)]
    pub(crate) fn go_by_the_rules(&mut self) {
        self.shared.is_pedantic = true;
    }

    /// What its connections share, for tests.
    #[cfg(test)]
    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A connection, for what is inside this crate.
    #[cfg(test)]
    pub(crate) fn tcb(&self, conn: ConnId) -> Option<&Tcb> {
        self.flows.get(conn.0)
    }
}

/// A stack lives on one thread, but need not be made there.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Stack>();
};

/// Puts a connection on the list for the end of the turn.
fn mark(dirty: &mut VecDeque<u32>, tcb: &mut Tcb, index: u32) {
    if !tcb.dirty {
        tcb.dirty = true;
        dirty.push_back(index);
    }
}

/// Makes sure that a connection's timer fires at its deadline or before.
fn watch(wheel: &mut TimerWheel, tcb: &mut Tcb, index: u32, deadline: Instant) {
    if deadline < tcb.alarm_at {
        tcb.alarm_at = deadline;
        wheel.set(index, deadline);
    }
}

/// A connection whose stream may go on, and how many bytes it may queue.
fn sender<'a>(flows: &'a mut Flows, conn: ConnId, config: &Config) -> Option<(&'a mut Tcb, usize)> {
    let tcb = flows.get_mut(conn.0)?;
    let is_open = tcb.state.may_send() || tcb.state.is_opening();
    if !is_open || tcb.fin_wanted {
        return None;
    }
    let room = config.send_buffer_bytes.saturating_sub(tcb.queued()) as usize;
    Some((tcb, room))
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let has_v6 = config.addresses.iter().any(|address| address.addr.is_ipv6());
    if config.addresses.is_empty()
        || config.addresses.len() > limits::ADDRESSES_MAX
        || config.addresses.iter().any(|address| address.prefix_len > bits(address))
    {
        return Err(ConfigError::Addresses);
    }
    if !limits::MTU_RANGE.contains(&config.mtu) || (has_v6 && config.mtu < limits::MTU_V6_MIN) {
        return Err(ConfigError::Mtu);
    }
    let buffers = [config.recv_window_bytes, config.send_buffer_bytes];
    if buffers.iter().any(|bytes| !limits::BUFFER_BYTES_RANGE.contains(bytes)) {
        return Err(ConfigError::Buffers);
    }
    if config.conns_max > limits::CONNS_MAX || config.time_wait_max > limits::CONNS_MAX {
        return Err(ConfigError::Conns);
    }
    if config.ephemeral_ports.is_empty() || *config.ephemeral_ports.start() == 0 {
        return Err(ConfigError::Ports);
    }
    Ok(())
}

/// Bits of an address.
const fn bits(address: &Address) -> u8 {
    if address.addr.is_ipv4() { 32 } else { 128 }
}

/// An address as the stack holds it.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
