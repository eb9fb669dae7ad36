//! Many clients on one thread: connections, greetings, messages, farewells.
//!
//! A readable event costs one `read`, a message one `write` of bytes that were encoded before, and neither costs an
//! allocation: what is read is decoded where it lies, and only the front of an incomplete message is kept. A client takes
//! 80 bytes, and buffers only while something is kept or cannot be written.

mod line;

use core::mem;
use core::time::Duration;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use line::Line;

use crate::latency::{NANOS_PER_SECOND, now_nanos};
use crate::protocol::{Decoder, Item, Protocol};
use crate::target::{Sources, Target};

/// Clients of one target, named by their index.
pub(crate) struct Clients {
    poll: Poll,
    events: Events,
    /// Wakes the poll at a nanosecond; epoll's own time-out counts milliseconds.
    timer: OwnedFd,
    slots: Vec<Slot>,
    buffer: Vec<u8>,
    target: Target,
    sources: Sources,
}

/// What happened to a client.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// It may send.
    Open,
    Message(&'a [u8]),
    /// Its connection is gone, by the server or after a farewell.
    Gone(Ending),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// What went wrong; `None` for an orderly end.
    pub(crate) error: Option<anyhow::Error>,
    /// Whether the client had been open.
    pub(crate) was_open: bool,
}

struct Slot {
    line: Line,
    decoder: Decoder,
    /// The front of an incomplete message.
    kept: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Connecting,
    Greeting,
    Open,
    /// The farewell is said; the server's end is awaited.
    Leaving,
}

/// Why a client's turn ended early.
enum Stop {
    /// The generator cannot go on.
    Ours(anyhow::Error),
    /// The client cannot.
    Gone(Option<anyhow::Error>),
}

impl Clients {
    /// Makes room for `count` clients, none of them connected.
    pub(crate) fn new(target: &Target, sources: Sources, count: usize) -> Result<Self> {
        let limit = tengate_io::raise_descriptor_limit().context("descriptor limit")?;
        ensure!(
            count as u64 + DESCRIPTORS_SPARE < limit,
            "{count} clients need more descriptors than a process may open ({limit}): divide them with --processes, \
             or raise `ulimit -n`"
        );
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered, so that it need not be read: each expiry is an event.
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let slot = || Slot {
            line: Line::new(target.protocol),
            decoder: target.protocol.decoder(),
            kept: Vec::new(),
        };
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            timer,
            slots: (0..count).map(|_| slot()).collect(),
            buffer: vec![0; READ_BYTES],
            target: target.clone(),
            sources,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Encodes a message for these clients.
    pub(crate) fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        self.target.protocol.encode(payload, out);
    }

    pub(crate) fn line(&mut self, client: usize) -> &mut Line {
        &mut self.slots[client].line
    }

    /// Opens all clients, some at a time so that the listener's backlog holds them, telling `progress` how many are.
    ///
    /// # Errors
    /// One is refused or closed, or nothing happens for long.
    pub(crate) fn open(&mut self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.open_first(self.len(), progress)
    }

    /// As [`open`](Self::open), only the first `count`.
    pub(crate) fn open_first(&mut self, count: usize, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let address = self.target.address;
        let failed = |ending: Ending| {
            let error = ending.error.unwrap_or_else(|| anyhow::anyhow!("the server closed it"));
            error.context(format!("connecting a client to {address}: is the server running?"))
        };
        let (mut started, mut opened) = (0, 0);
        let mut deadline = now_nanos() + OPENING_NANOS_MAX;
        while opened < count {
            while started < count && started < opened + OPENING_AT_ONCE {
                if let Some(ending) = self.connect(started)? {
                    return Err(failed(ending));
                }
                started += 1;
            }
            let before = opened;
            self.turn(Some(OPENING_TURN), |_, _, event| match event {
                Event::Open => {
                    opened += 1;
                    progress(opened as u64);
                    Ok(())
                }
                Event::Message(_) => Ok(()),
                Event::Gone(ending) => Err(failed(ending)),
            })?;
            if opened > before {
                deadline = now_nanos() + OPENING_NANOS_MAX;
            }
            ensure!(
                now_nanos() < deadline,
                "{} clients wait for the answer to their handshakes: is there a worker?",
                started - opened
            );
        }
        Ok(())
    }

    /// Begins to connect a client that is not connected; how it ended if it did at once.
    ///
    /// # Errors
    /// This machine's own shortages; no attempt later would fare better.
    pub(crate) fn connect(&mut self, client: usize) -> Result<Option<Ending>> {
        let slot = &mut self.slots[client];
        debug_assert_eq!(slot.line.state, State::Closed, "a client is connected once");
        slot.kept = Vec::new();
        slot.decoder = self.target.protocol.decoder();
        let refused = match line::connect(self.target.address, self.sources.next(), &slot.line)? {
            Ok(mut stream) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(client), interest)?;
                slot.line.begin(stream);
                None
            }
            Err(error) => Some(Ending { error: Some(error.into()), was_open: false }),
        };
        Ok(refused)
    }

    /// Ends a client's connection at once: the server sees a reset, and nothing of it remains on this side.
    pub(crate) fn reset(&mut self, client: usize) {
        self.slots[client].line.reset();
    }

    /// Reads a client again that was paused.
    pub(crate) fn resume(&mut self, client: usize) -> Result<()> {
        let line = &mut self.slots[client].line;
        line.paused = false;
        if let Some(stream) = &mut line.stream {
            // Asking again makes the kernel tell again what an edge-triggered event told before.
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().reregister(stream, Token(client), interest)?;
        }
        Ok(())
    }

    /// As [`turn`](Self::turn), until an instant of [`now_nanos`]; at once if it is over.
    pub(crate) fn turn_until(
        &mut self,
        nanos: u64,
        happened: impl FnMut(usize, &mut Line, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let now = now_nanos();
        if nanos <= now {
            return self.turn(Some(Duration::ZERO), happened);
        }
        let left = i64::try_from(nanos - now)?;
        let second = i64::try_from(NANOS_PER_SECOND)?;
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: left / second, tv_nsec: left % second },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time)?;
        self.turn(None, happened)
    }

    /// Waits until something happens, at most `wait`, and tells all that has.
    ///
    /// # Errors
    /// Those of `happened`.
    pub(crate) fn turn(
        &mut self,
        wait: Option<Duration>,
        mut happened: impl FnMut(usize, &mut Line, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            if event.token() == TIMER {
                continue;
            }
            let Token(client) = event.token();
            let slot = &mut self.slots[client];
            let mut tell = |line: &mut Line, event: Event<'_>| {
                happened(client, line, event).map_err(Stop::Ours)
            };
            match slot.handle(event, &mut self.buffer, &self.target, &mut tell) {
                Ok(()) => {}
                Err(Stop::Ours(error)) => return Err(error),
                Err(Stop::Gone(error)) => {
                    let ending = Ending { error, was_open: slot.line.was_open() };
                    slot.line.drop_stream();
                    happened(client, &mut slot.line, Event::Gone(ending))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Clients {
    /// Resets what is still connected, so that no port stays taken for a minute and slows the next measurement down.
    fn drop(&mut self) {
        for slot in &mut self.slots {
            slot.line.reset();
        }
    }
}

impl Slot {
    fn handle(
        &mut self,
        event: &mio::event::Event,
        buffer: &mut [u8],
        target: &Target,
        tell: &mut impl FnMut(&mut Line, Event<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.line.state == State::Connecting {
            if !self.line.is_connected()? {
                return Ok(());
            }
            self.line.greet(target);
            if target.protocol.opens_silently() {
                self.line.state = State::Open;
                tell(&mut self.line, Event::Open)?;
            }
        }
        if event.is_writable() {
            self.line.flush();
        }
        let is_readable = event.is_readable() || event.is_read_closed() || event.is_error();
        while is_readable && !self.line.paused {
            let Some(stream) = &mut self.line.stream else { break };
            let len = match stream.read(buffer) {
                Ok(0) => return Err(Stop::Gone(None)),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Stop::Gone(Some(error.into()))),
            };
            self.take_in(&mut buffer[..len], target.protocol, tell)?;
            // A read that leaves room has emptied the socket; its end is not an edge of its own once it was told.
            if len < buffer.len() && !event.is_read_closed() {
                break;
            }
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        bytes: &mut [u8],
        protocol: Protocol,
        tell: &mut impl FnMut(&mut Line, Event<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.kept.is_empty() {
            let used = self.decode(bytes, protocol, tell)?;
            self.kept.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut kept = mem::take(&mut self.kept);
        kept.extend_from_slice(bytes);
        let used = self.decode(&mut kept, protocol, tell)?;
        if used < kept.len() {
            kept.drain(..used);
            self.kept = kept;
        }
        Ok(())
    }

    /// Tells what `bytes` hold; how many of them are done with.
    fn decode(
        &mut self,
        bytes: &mut [u8],
        protocol: Protocol,
        tell: &mut impl FnMut(&mut Line, Event<'_>) -> Result<(), Stop>,
    ) -> Result<usize, Stop> {
        let gone = |error| Stop::Gone(Some(error));
        let mut at = 0;
        if self.line.state == State::Greeting {
            let Some(len) = protocol.decode_welcome(bytes).map_err(gone)? else { return Ok(0) };
            at = len;
            self.line.state = State::Open;
            tell(&mut self.line, Event::Open)?;
        }
        while at < bytes.len() && self.line.stream.is_some() {
            let Some((len, item)) = self.decoder.decode(&mut bytes[at..]).map_err(gone)? else {
                return Ok(at);
            };
            at += len;
            match item {
                Item::Message(payload) => tell(&mut self.line, Event::Message(payload))?,
                Item::Ping(payload) => self.line.pong(payload),
                Item::Close if self.line.state != State::Leaving => return Err(Stop::Gone(None)),
                Item::Close | Item::Other => {}
            }
        }
        Ok(bytes.len())
    }
}

impl Ending {
    /// What to say when a client must not end.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self.error {
            Some(error) => error.context("a client's connection broke"),
            None => anyhow::anyhow!("the server closed a client's connection"),
        }
    }
}

const TIMER: Token = Token(usize::MAX);
/// One buffer for all clients.
const READ_BYTES: usize = 256 << 10;
/// Descriptors that are no clients: the poll, the timer, standard streams, pipes to parts.
const DESCRIPTORS_SPARE: u64 = 64;
/// Clients that shake hands at the same time; below any listener's backlog.
const OPENING_AT_ONCE: usize = 100;
const OPENING_TURN: Duration = Duration::from_millis(100);
const OPENING_NANOS_MAX: u64 = 20 * NANOS_PER_SECOND;

// With debug assertions a stream also knows its poll.
const _: () = assert!(cfg!(debug_assertions) || size_of::<Slot>() <= 80);
