//! One shard's reactor: feeds its application what the kernel reports, turn by turn.

mod accept;
mod read;
mod poll;

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use tengate_base::{App, CloseCause, ConnId, Door, Instant, ShardId};

use crate::clock::Clock;
use crate::conn::Flags;
use crate::limits::{EVENTS_PER_TURN, MESH_BATCHES_MAX, READ_BYTES, SETTLE_ROUNDS};
use crate::listen::{Dealer, Sharing};
use crate::mailbox::{Mail, Mailbox};
use crate::net::{Accepting, Net, Token};
use crate::{streams, sys};

pub(crate) use poll::Poll;

/// An application of the shell: an [`App`] that other threads can talk to.
pub trait Host: App {
    /// What other threads send it through a [`ShardHandle`](crate::ShardHandle).
    type Command: Send + 'static;

    /// A command has come. `net` is the sink of this shard, and answers questions about it.
    fn handle_command(&mut self, now: Instant, command: Self::Command, net: &mut Net);
}

/// One shard: its application, its connections, and the way other threads reach it.
pub(crate) struct Shard<A: Host> {
    pub(crate) app: A,
    pub(crate) net: Net,
    pub(crate) clock: Clock,
    pub(crate) listeners: Vec<OpenListener>,
    /// By shard number, to hand sockets over.
    pub(crate) mailboxes: Arc<[Arc<Mailbox<A::Command>>]>,
    /// Whether the shards leave no core to others.
    pub(crate) is_crowded: bool,
    read_buffer: Vec<u8>,
    /// Swapped with the lists of sockets that are ready and of signals, so that neither is allocated anew.
    spare_list: Vec<u32>,
    mail: VecDeque<Mail<A::Command>>,
    /// When everything still open is cut.
    stop_at: Option<Instant>,
    /// What a shard past the kernel has beside.
    pub(crate) poll: Option<Poll>,
}

/// A listening socket of this shard.
#[derive(Debug)]
pub(crate) struct OpenListener {
    pub(crate) door: Door,
    pub(crate) socket: TcpListener,
    pub(crate) port: u16,
    pub(crate) sharing: Sharing,
    /// Whether epoll reports it.
    pub(crate) is_armed: bool,
    /// Who gets the next socket when they are handed over.
    pub(crate) dealer: Dealer,
}

impl<A: Host> Shard<A> {
    pub(crate) fn new(
        app: A,
        net: Net,
        clock: Clock,
        mailboxes: Arc<[Arc<Mailbox<A::Command>>]>,
        is_crowded: bool,
    ) -> Self {
        Self {
            app,
            net,
            clock,
            listeners: Vec::new(),
            mailboxes,
            is_crowded,
            read_buffer: vec![0; READ_BYTES],
            spare_list: Vec::new(),
            mail: VecDeque::new(),
            stop_at: None,
            poll: None,
        }
    }

    /// Runs until stopped.
    ///
    /// # Errors
    /// Epoll itself failed, which leaves nothing to do.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        match self.poll.take() {
            Some(poll) => self.run_polling(poll),
            None => self.run_waiting(),
        }
    }

    fn run_waiting(&mut self) -> io::Result<()> {
        let mut events = vec![sys::Event { events: 0, u64: 0 }; EVENTS_PER_TURN];
        let mut idle_since = self.clock.now();
        while !self.is_done() {
            let count = self.wait(&mut events, idle_since)?;
            let began = self.clock.now();
            self.net.now = began;
            self.net.turns.turns += 1;
            for event in &events[..count] {
                self.handle_event(Token::decode(event.u64), event.events);
            }
            self.handle_ready();
            self.handle_mesh();
            self.handle_mail();
            self.handle_timeouts();
            self.settle();
            self.net.mesh.push();
            self.net.recycle();
            idle_since = self.clock.now();
            self.net.turns.busy += idle_since - began;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.stop_at.is_some_and(|stop_at| {
            (self.net.live_count() == 0
                && self.net.lingering.count() == 0
                && self.net.mesh.staged_bytes() == 0)
                || stop_at <= self.net.now
        })
    }

    fn mailbox(&self) -> &Mailbox<A::Command> {
        &self.mailboxes[usize::from(self.net.shard().0)]
    }

    /// Takes events: at once when there is other work, else after sleeping as long as nothing happens.
    fn wait(&mut self, events: &mut [sys::Event], idle_since: Instant) -> io::Result<usize> {
        let deadline = self.poll_timeout();
        if self.has_work() || deadline.is_some_and(|deadline| deadline <= idle_since) {
            return self.net.epoll.wait(events, 0);
        }
        if self.is_crowded {
            // The others of this core go first; what they and the peers do meanwhile makes a larger turn, and nobody has to
            // wake this thread for it.
            thread::yield_now();
            let count = self.net.epoll.wait(events, 0)?;
            if count > 0 || self.has_work() {
                return Ok(count);
            }
        }
        self.net.mesh.prepare_sleep();
        self.mailbox().waker().prepare_sleep();
        // Work that came before the flag was up brought no wake-up.
        let timeout_ms = if self.has_work() { 0 } else { self.sleep_ms(deadline) };
        self.net.turns.sleeps += 1;
        let count = self.net.epoll.wait(events, timeout_ms);
        self.mailbox().waker().cancel_sleep();
        count
    }

    /// Whether there is something to do that epoll does not report.
    fn has_work(&self) -> bool {
        self.net.has_work() || self.net.mesh.has_work() || self.mailbox().has_mail()
    }

    /// Milliseconds until `deadline` for epoll, rounded up so as not to wake before it; -1 for ever.
    fn sleep_ms(&self, deadline: Option<Instant>) -> i32 {
        let Some(deadline) = deadline else { return -1 };
        let nanos = (deadline - self.clock.now()).as_nanos();
        i32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i32::MAX)
    }

    /// The earliest of all the instants something is to be done at.
    fn poll_timeout(&self) -> Option<Instant> {
        let accept = match self.net.accepting {
            Accepting::After(instant) => Some(instant),
            Accepting::Yes | Accepting::Paused => None,
        };
        let streams = self.net.streams.as_ref().and_then(|streams| streams.poll_timeout());
        let all = [
            self.app.poll_timeout(),
            self.net.lingering.poll_timeout(),
            streams,
            accept,
            self.stop_at,
        ];
        all.into_iter().flatten().min()
    }

    fn handle_timeouts(&mut self) {
        let now = self.net.now;
        self.net.lingering.handle_timeout(now);
        if matches!(self.net.accepting, Accepting::After(instant) if instant <= now) {
            self.net.accepting = Accepting::Yes;
        }
        self.arm_listeners();
        if self.net.streams.is_some() {
            streams::handle_timeout(&mut self.app, &mut self.net);
        }
        if self.app.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.app.handle_timeout(now, &mut self.net);
        }
        if self.stop_at.is_some_and(|stop_at| stop_at <= now) {
            for index in 0..self.conn_count() {
                self.finish(index, CloseCause::Shell);
            }
            if self.net.streams.is_some() {
                streams::cut(&mut self.app, &mut self.net);
            }
        }
    }

    fn handle_event(&mut self, token: Token, events: u32) {
        match token {
            Token::Conn(index) => self.handle_socket_event(index, events),
            Token::Listener(position) => self.accept(position as usize),
            Token::Lingering(serial) => {
                self.net.lingering.handle_ready(serial, &mut self.read_buffer)
            }
            // To be awake is all it is for.
            Token::Wake | Token::Queue => {}
        }
    }

    fn handle_socket_event(&mut self, index: u32, events: u32) {
        let conn = self.net.sockets.place(index);
        if conn.stream.is_none() {
            // Closed earlier in this turn.
            return;
        }
        if events & (sys::FAILED | sys::PEER_ENDED) != 0 {
            conn.flags |= Flags::HANGUP;
        }
        if events & (sys::READABLE | sys::FAILED | sys::PEER_ENDED) != 0 {
            conn.flags |= Flags::READABLE;
            if conn.is_reading() {
                self.net.sockets.make_ready(index);
            }
        }
        let conn = self.net.sockets.place(index);
        if conn.flags.any(Flags::CLOSING) && events & sys::FAILED != 0 {
            // Nothing is read any more that would tell.
            self.net.sockets.mark_broken(index);
        } else if events & sys::WRITABLE != 0 && conn.flags.take(Flags::BLOCKED) {
            self.net.sockets.write_out(index);
        }
    }

    fn handle_mesh(&mut self) {
        for from in 0..self.net.mesh.shard_count() {
            // A whole ring at most, then the others.
            for _ in 0..MESH_BATCHES_MAX {
                let Some(mut batch) = self.net.mesh.receive(from) else { break };
                let from_shard = ShardId(u16::try_from(from).unwrap_or(u16::MAX));
                self.app.handle_mesh(self.net.now, from_shard, &mut batch, &mut self.net);
                self.net.mesh.give_back(from, batch);
            }
        }
    }

    fn handle_mail(&mut self) {
        if !self.mailbox().has_mail() {
            return;
        }
        let mut mail = core::mem::take(&mut self.mail);
        self.mailbox().take(&mut mail);
        for letter in mail.drain(..) {
            match letter {
                Mail::Command(command) => {
                    self.app.handle_command(self.net.now, command, &mut self.net)
                }
                Mail::Adopt(accepted) => self.adopt(accepted),
                Mail::Stop { grace } => self.stop(grace),
            }
        }
        self.mail = mail;
    }

    fn stop(&mut self, grace: Duration) {
        self.listeners.clear();
        let stop_at = self.net.now + grace;
        self.stop_at = Some(self.stop_at.map_or(stop_at, |earlier| earlier.min(stop_at)));
        if self.net.streams.is_some() {
            streams::stop(&mut self.app, &mut self.net);
        }
        for index in 0..self.conn_count() {
            if self.net.sockets.place(index).stream.is_none() {
                continue;
            }
            if self.net.sockets.write_out(index) == 0 {
                self.finish(index, CloseCause::Shell);
            } else if self.net.sockets.place(index).flags.set_new(Flags::CLOSING) {
                self.net.sockets.place(index).flags |= Flags::RETIRED;
            }
        }
    }

    fn conn_count(&self) -> u32 {
        self.net.sockets.len()
    }

    /// Writes what the app queued and tells it what came of that, which may make it queue more.
    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS {
            self.net.write_dirty();
            let mut said = self.handle_signals();
            if self.net.streams.is_some() {
                said |= streams::handle_signals(&mut self.app, &mut self.net);
            }
            if !said {
                return;
            }
        }
        self.net.write_dirty();
    }

    /// Tells the app what came of its output; whether there was anything to tell.
    fn handle_signals(&mut self) -> bool {
        if self.net.sockets.signals.is_empty() {
            return false;
        }
        let spare = core::mem::take(&mut self.spare_list);
        let mut signals = core::mem::replace(&mut self.net.sockets.signals, spare);
        for index in signals.drain(..) {
            self.handle_signal(index);
        }
        self.spare_list = signals;
        true
    }

    fn handle_signal(&mut self, index: u32) {
        let conn = self.net.sockets.place(index);
        if conn.stream.is_none() {
            return;
        }
        if let Some(cause) = conn.end_of_output() {
            self.finish(index, cause);
        } else if conn.flags.take(Flags::DRAINED) && !conn.flags.any(Flags::CLOSING) {
            self.app.handle_drained(self.net.now, ConnId(index), &mut self.net);
        }
    }

    /// Ends a connection, if it has not ended, and tells the app.
    fn finish(&mut self, index: u32, cause: CloseCause) {
        let conn = ConnId(index);
        if self.net.sockets.place(index).stream.is_none() {
            return;
        }
        let is_gentle = match cause {
            CloseCause::Flushed => true,
            CloseCause::Shell => self.net.sockets.queued(index) == 0,
            CloseCause::Peer => {
                // The peer may still read what is queued for it.
                self.net.sockets.write_out(index);
                false
            }
            CloseCause::Reset => {
                self.net.sockets.counters.closed_reset += 1;
                false
            }
        };
        if is_gentle {
            self.net.remove_gently(index);
            self.app.handle_closed(self.net.now, conn, cause, &[], &mut self.net);
            return;
        }
        let keep = self.net.sockets.place(index).keep();
        let Some((stream, out)) = self.net.remove(index) else { return };
        drop(stream);
        let Some(id) = out else {
            self.app.handle_closed(self.net.now, conn, cause, &[], &mut self.net);
            return;
        };
        let mut queue = core::mem::take(&mut self.net.sockets.buffers[id]);
        self.app.handle_closed(self.net.now, conn, cause, queue.unsent(keep), &mut self.net);
        self.net.sockets.buffers[id] = queue;
        self.net.sockets.buffers.give(id);
    }
}
