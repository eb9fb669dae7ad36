//! A shard past the kernel: it polls its queue of frames, looks at its sockets now and then, and rests when nothing comes.

use core::hint::spin_loop;
use core::time::Duration;
use std::io;
use std::thread;

use tengate_base::Instant;

use super::{Host, Shard};
use crate::bypass::{Burst, Steering, Unfinished, split_frame};
use crate::idle::{Idle, Rest};
use crate::limits::{
    DELIVERY_LOOK, DELIVERY_TIMEOUT, EVENTS_PER_TURN, FRAMES_PER_SOCKET_LOOK, MESH_BATCHES_MAX,
};
use crate::net::Token;
use crate::streams;
use crate::sys;

/// What a shard needs to poll.
#[derive(Debug)]
pub(crate) struct Poll {
    pub(crate) burst: Burst,
    pub(crate) steering: Steering,
    pub(crate) idle: Idle,
    unfinished: Unfinished,
    /// When a shard that stops looks again whether everything was delivered, and when it gives up.
    delivery: Option<Delivery>,
}

/// Waiting for peers to acknowledge what they were sent.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    next_look: Instant,
    gives_up_at: Instant,
}

impl Poll {
    pub(crate) fn new(
        burst: Burst,
        steering: Steering,
        idle: Idle,
        unfinished: Unfinished,
    ) -> Self {
        Self { burst, steering, idle, unfinished, delivery: None }
    }
}

impl<A: Host> Shard<A> {
    /// Runs until stopped.
    pub(super) fn run_polling(&mut self, mut poll: Poll) -> io::Result<()> {
        let mut events = vec![sys::Event { events: 0, u64: 0 }; EVENTS_PER_TURN];
        let mut unlooked = 0;
        while !self.is_over(&mut poll) {
            let began = self.clock.now();
            self.net.now = began;
            let frames = self.poll_frames(&mut poll);
            unlooked += frames;
            let mut found = frames + self.poll_others();
            if frames == 0 || unlooked >= FRAMES_PER_SOCKET_LOOK {
                unlooked = 0;
                found += self.look_at_sockets(&mut events, Duration::ZERO)?;
            }
            let is_due = self.poll_timeout().is_some_and(|deadline| deadline <= began);
            self.handle_timeouts();
            self.end_turn(&mut poll);
            self.net.turns.turns += 1;
            if found > 0 || is_due {
                self.net.turns.busy += self.clock.now() - began;
            }
            self.rest(&mut poll, found, &mut events)?;
        }
        // The last segments, as far as the device takes them.
        self.end_turn(&mut poll);
        Ok(())
    }

    /// Whether this shard and all others have done what they had to do.
    fn is_over(&mut self, poll: &mut Poll) -> bool {
        if !poll.unfinished.is_finished() && self.is_done() && self.is_delivered(poll) {
            poll.unfinished.finish();
        }
        poll.unfinished.is_over()
    }

    /// Whether peers have what they were sent, or had time enough: the kernel, which sees to that for sockets of a process that
    /// has ended, does not know these connections.
    fn is_delivered(&mut self, poll: &mut Poll) -> bool {
        let now = self.net.now;
        let delivery = poll
            .delivery
            .get_or_insert(Delivery { next_look: now, gives_up_at: now + DELIVERY_TIMEOUT });
        if now < delivery.next_look {
            return false;
        }
        delivery.next_look = now + DELIVERY_LOOK;
        let undelivered =
            self.net.streams.as_ref().is_some_and(|streams| streams.has_undelivered());
        !undelivered || delivery.gives_up_at <= now
    }

    /// Takes in a burst, and what other shards received for this one; returns how many frames.
    fn poll_frames(&mut self, poll: &mut Poll) -> usize {
        let Self { app, net, .. } = self;
        let Some(streams) = net.streams.as_deref_mut() else { return 0 };
        streams.begin_turn(net.now);
        let mut count = streams.device_mut().receive(&mut poll.burst);
        if count > 0 {
            let steering = &mut poll.steering;
            poll.burst.for_each(|frame| {
                if !steering.hand_over(frame) {
                    streams::handle_frame(app, net, frame);
                }
            });
            poll.burst.clear();
        }
        for from in 0..poll.steering.mesh.shard_count() {
            // A whole ring at most, then the others.
            for _ in 0..MESH_BATCHES_MAX {
                let Some(mut batch) = poll.steering.receive(from) else { break };
                let mut rest = &mut batch[..];
                while let Some((frame, behind)) = split_frame(rest) {
                    streams::handle_frame(app, net, frame);
                    (rest, count) = (behind, count + 1);
                }
                poll.steering.mesh.give_back(from, batch);
            }
        }
        count
    }

    /// Takes in what other shards and threads have for this one; whether there was anything.
    fn poll_others(&mut self) -> usize {
        let found = self.net.has_work() || self.net.mesh.has_work() || self.mailbox().has_mail();
        streams::handle_ready(&mut self.app, &mut self.net);
        self.handle_ready();
        self.handle_mesh();
        self.handle_mail();
        found.into()
    }

    /// Takes what epoll reports, waiting for it at most as long; returns how many sockets that was about.
    fn look_at_sockets(
        &mut self,
        events: &mut [sys::Event],
        timeout: Duration,
    ) -> io::Result<usize> {
        let count = self.net.epoll.wait_for(events, timeout)?;
        let mut found = 0;
        for event in &events[..count] {
            let token = Token::decode(event.u64);
            found += usize::from(!matches!(token, Token::Queue | Token::Wake));
            self.handle_event(token, event.events);
        }
        self.handle_ready();
        Ok(found)
    }

    fn end_turn(&mut self, poll: &mut Poll) {
        self.settle();
        if let Some(streams) = &mut self.net.streams {
            streams.end_turn();
            streams.device_mut().flush();
        }
        self.net.mesh.push();
        poll.steering.mesh.push();
        self.net.steering = poll.steering.stats;
        self.net.recycle();
    }

    /// Rests as deep as the turns before allow.
    fn rest(&mut self, poll: &mut Poll, found: usize, events: &mut [sys::Event]) -> io::Result<()> {
        match poll.idle.handle_turn(found) {
            Rest::None => Ok(()),
            // Who shares the core with this thread may be the one it waits for.
            Rest::Pause if self.is_crowded => {
                thread::yield_now();
                Ok(())
            }
            Rest::Pause => {
                spin_loop();
                Ok(())
            }
            Rest::Sleep(nap) => self.sleep(poll, nap, events),
        }
    }

    /// Sleeps until something wakes it: of a device that cannot, for as long as its queue can wait.
    fn sleep(&mut self, poll: &Poll, nap: Duration, events: &mut [sys::Event]) -> io::Result<()> {
        self.net.mesh.prepare_sleep();
        poll.steering.mesh.prepare_sleep();
        self.mailbox().waker().prepare_sleep();
        let Some(streams) = self.net.streams.as_deref_mut() else { return Ok(()) };
        let wakes = !streams.is_device_full() && streams.device_mut().prepare_sleep();
        let now = self.clock.now();
        let until = |deadline: Instant| deadline.saturating_since(now);
        let limit = self.poll_timeout().map_or(SLEEP_MAX, until).min(SLEEP_MAX);
        let limit = if wakes { limit } else { limit.min(nap) };
        // Work that came before the flag was up brought no wake-up.
        let has_work = self.has_work() || poll.steering.mesh.has_work();
        let timeout = if has_work { Duration::ZERO } else { limit };
        self.net.turns.sleeps += 1;
        self.net.now = now;
        self.look_at_sockets(events, timeout)?;
        self.mailbox().waker().cancel_sleep();
        Ok(())
    }
}

/// The longest sleep: a device that should wake and does not must not stop a shard for good.
const SLEEP_MAX: Duration = Duration::from_millis(100);
