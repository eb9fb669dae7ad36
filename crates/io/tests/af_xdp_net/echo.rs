//! An echo server on our own TCP stack, one shard a queue. Shards sleep when there is nothing to do.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::thread::JoinHandle;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tengate_base::{ConnId, Door, Instant};
use tengate_io::Clock;
use tengate_io::af_xdp::{Burst, FrameGauges, Interface, Queue, QueueSeat, QueueStats};
use tengate_netstack::{Address, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack, Stats};

use super::PORT;
use super::roles::{GATEWAY_V4, GATEWAY_V6};

/// Threads, one for each queue.
#[derive(Debug)]
pub(crate) struct Shards {
    threads: Vec<(Arc<Waker>, JoinHandle<Report>)>,
    stop: Arc<AtomicBool>,
}

/// What a shard leaves when it stops.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) frames: FrameGauges,
    pub(crate) queue: QueueStats,
    pub(crate) stack: Stats,
    /// How often it slept.
    pub(crate) sleeps: u64,
}

impl Shards {
    pub(crate) fn start(interface: &mut Interface) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mac = MacAddr(interface.mac());
        let threads = interface.take_queues().into_iter().map(|seat| {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let stop = Arc::clone(&stop);
            let thread = std::thread::spawn(move || Shard::new(seat, mac, poll).run(&stop));
            (waker, thread)
        });
        let threads = threads.collect();
        Self { threads, stop }
    }

    pub(crate) fn stop(self) -> Vec<Report> {
        self.stop.store(true, Ordering::Release);
        let stopped = self.threads.into_iter().map(|(waker, thread)| {
            waker.wake().unwrap();
            thread.join().unwrap()
        });
        stopped.collect()
    }
}

struct Shard {
    stack: Stack,
    queue: Queue,
    burst: Burst,
    clock: Clock,
    poll: Poll,
    sleeps: u64,
    echo: Echo,
}

/// The queue as the stack sees it.
struct Wire<'a>(&'a mut Queue);

impl Device for Wire<'_> {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.0.append(parts).map_err(|_counted| DeviceFull)
    }
}

impl Shard {
    fn new(seat: QueueSeat, mac: MacAddr, poll: Poll) -> Self {
        let queue = seat.claim();
        let address = |addr: &str, prefix_len| Address { addr: addr.parse().unwrap(), prefix_len };
        let addresses = vec![address(GATEWAY_V4, 24), address(GATEWAY_V6, 64)];
        let clock = Clock::start();
        let config = Config::new(mac, addresses, Secret([7; 32]));
        let mut stack = Stack::new(config, clock.now()).unwrap();
        stack.listen(PORT, Door(0));
        let fd = queue.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(1), Interest::READABLE).unwrap();
        let (burst, echo) = (Burst::new(), Echo::default());
        Self { stack, queue, burst, clock, poll, sleeps: 0, echo }
    }

    fn run(mut self, stop: &AtomicBool) -> Report {
        let mut events = Events::with_capacity(8);
        while !stop.load(Ordering::Acquire) {
            if self.turn() {
                continue;
            }
            self.burst.clear();
            if !self.queue.prepare_sleep() {
                std::thread::yield_now();
                continue;
            }
            let now = self.clock.now();
            let wait = self.stack.poll_timeout().map(|deadline| deadline.saturating_since(now));
            self.sleeps += 1;
            self.poll.poll(&mut events, wait).unwrap();
        }
        self.burst.clear();
        // What is with the kernel for sending comes back without help.
        let start = self.clock.now();
        while self.queue.frames().sending > 0 {
            self.queue.flush();
            let waited = self.clock.now().saturating_since(start);
            assert!(waited < Duration::from_secs(30), "{:?}", self.queue.frames());
            std::thread::yield_now();
        }
        let (frames, queue) = (self.queue.frames(), self.queue.stats());
        Report { frames, queue, stack: self.stack.stats().clone(), sleeps: self.sleeps }
    }

    /// Whether there is more to do.
    fn turn(&mut self) -> bool {
        let now = self.clock.now();
        let found = self.queue.receive(&mut self.burst);
        for frame in self.burst.frames_mut() {
            self.stack.handle_frame(now, frame, &mut Wire(&mut self.queue));
            while let Some(event) = self.stack.poll_event() {
                self.echo.handle(now, &mut self.stack, event, frame);
            }
        }
        if self.stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.stack.handle_timeout(now, &mut Wire(&mut self.queue));
            while let Some(event) = self.stack.poll_event() {
                self.echo.handle(now, &mut self.stack, event, &[]);
            }
        }
        // What finds no room stays with the stack until the next turn.
        let is_full = self.stack.flush(now, &mut Wire(&mut self.queue)).is_err();
        self.queue.flush();
        found > 0 || is_full
    }
}

/// Sends back what comes. What a peer does not read yet waits here, and its window shrinks by that.
#[derive(Default)]
struct Echo {
    waiting: BTreeMap<u32, Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    is_last: bool,
}

impl Echo {
    fn handle(&mut self, now: Instant, stack: &mut Stack, event: Event, frame: &[u8]) {
        match event {
            Event::Received { conn, bytes } => self.send(stack, conn, &frame[bytes]),
            Event::Readable { conn } => {
                let mut bytes = Vec::new();
                stack.read(conn, &mut bytes);
                self.send(stack, conn, &bytes);
            }
            Event::Drained { conn } => self.go_on(now, stack, conn),
            Event::PeerClosed { conn } => match self.waiting.get_mut(&conn.0) {
                Some(waiting) => waiting.is_last = true,
                None => stack.close(now, conn),
            },
            Event::Closed { conn, .. } => _ = self.waiting.remove(&conn.0),
            Event::Opened { .. } | Event::Connected { .. } => {}
        }
    }

    fn send(&mut self, stack: &mut Stack, conn: ConnId, bytes: &[u8]) {
        let sent = if self.waiting.contains_key(&conn.0) { 0 } else { stack.send(conn, bytes) };
        let rest = &bytes[sent..];
        if !rest.is_empty() {
            stack.hold(conn, u32::try_from(rest.len()).unwrap());
            stack.notify_below(conn, 64 << 10);
            self.waiting.entry(conn.0).or_default().bytes.extend_from_slice(rest);
        }
    }

    fn go_on(&mut self, now: Instant, stack: &mut Stack, conn: ConnId) {
        let Some(waiting) = self.waiting.get_mut(&conn.0) else { return };
        let sent = stack.send(conn, &waiting.bytes);
        waiting.bytes.drain(..sent);
        stack.release(conn, u32::try_from(sent).unwrap());
        if !waiting.bytes.is_empty() {
            stack.notify_below(conn, 64 << 10);
        } else if self.waiting.remove(&conn.0).is_some_and(|waiting| waiting.is_last) {
            stack.close(now, conn);
        }
    }
}
