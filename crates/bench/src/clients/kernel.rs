//! Clients on the kernel's sockets.
//!
//! A readable event costs one `read`, a message one `write` of bytes that were encoded before, and neither costs an
//! allocation: what is read is decoded where it lies, and only the front of an incomplete message is kept. A client takes
//! 64 bytes, and buffers only while something is kept or cannot be written.

mod line;

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

pub(crate) use line::KernelLine;

use super::reader::Reader;
use super::{Ending, Event, Line, State, Stop};
use crate::latency::{NANOS_PER_SECOND, now_nanos};
use crate::target::{Sources, Target};

/// All clients of this process.
pub(super) struct Kernel {
    poll: Poll,
    events: Events,
    /// Wakes the poll at a nanosecond; epoll's own time-out counts milliseconds.
    timer: OwnedFd,
    slots: Vec<Slot>,
    buffer: Vec<u8>,
    sources: Sources,
}

struct Slot {
    line: KernelLine,
    reader: Reader,
}

impl Kernel {
    pub(super) fn new(target: &Target, sources: Sources, count: usize) -> Result<Self> {
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
            line: KernelLine::new(target.protocol),
            reader: Reader::new(target.protocol),
        };
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            timer,
            slots: (0..count).map(|_| slot()).collect(),
            buffer: vec![0; READ_BYTES],
            sources,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn line(&mut self, client: usize) -> &mut KernelLine {
        &mut self.slots[client].line
    }

    pub(super) fn connect(&mut self, client: usize, target: &Target) -> Result<Option<Ending>> {
        let slot = &mut self.slots[client];
        debug_assert_eq!(slot.line.state(), State::Closed, "a client is connected once");
        slot.reader = Reader::new(target.protocol);
        let refused = match line::connect(target.address, self.sources.next(), &slot.line)? {
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

    pub(super) fn resume(&mut self, client: usize) -> Result<()> {
        let line = &mut self.slots[client].line;
        line.paused = false;
        if let Some(stream) = &mut line.stream {
            // Asking again makes the kernel tell again what an edge-triggered event told before.
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().reregister(stream, Token(client), interest)?;
        }
        Ok(())
    }

    pub(super) fn turn_until(
        &mut self,
        nanos: u64,
        target: &Target,
        happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let now = now_nanos();
        if nanos <= now {
            return self.turn(Duration::ZERO, target, happened);
        }
        let left = i64::try_from(nanos - now)?;
        let second = i64::try_from(NANOS_PER_SECOND)?;
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: left / second, tv_nsec: left % second },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time)?;
        self.wait(None, target, happened)
    }

    pub(super) fn turn(
        &mut self,
        wait: Duration,
        target: &Target,
        happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        self.wait(Some(wait), target, happened)
    }

    fn wait(
        &mut self,
        wait: Option<Duration>,
        target: &Target,
        mut happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
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
            let mut tell = |line: &mut Line<'_>, event: Event<'_>| happened(client, line, event);
            match slot.handle(event, &mut self.buffer, target, &mut tell) {
                Ok(()) => {}
                Err(Stop::Ours(error)) => return Err(error),
                Err(Stop::Gone(error)) => {
                    let ending = Ending { error, was_open: slot.line.state().was_open() };
                    slot.line.drop_stream();
                    let line = &mut Line::Kernel(&mut slot.line);
                    happened(client, line, Event::Gone(ending))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Kernel {
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
        tell: &mut impl FnMut(&mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<(), Stop> {
        if self.line.state() == State::Connecting {
            if !self.line.is_connected()? {
                return Ok(());
            }
            self.line.greet(target);
            if target.protocol.opens_silently() {
                self.line.set_state(State::Open);
                tell(&mut Line::Kernel(&mut self.line), Event::Open).map_err(Stop::Ours)?;
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
            let line = &mut Line::Kernel(&mut self.line);
            self.reader.take_in(&mut buffer[..len], line, target.protocol, tell)?;
            // A read that leaves room has emptied the socket; its end is not an edge of its own once it was told.
            if len < buffer.len() && !event.is_read_closed() {
                break;
            }
        }
        Ok(())
    }
}

const TIMER: Token = Token(usize::MAX);
/// One buffer for all clients.
const READ_BYTES: usize = 256 << 10;
/// Descriptors that are no clients: the poll, the timer, standard streams, pipes to parts.
const DESCRIPTORS_SPARE: u64 = 64;

// With debug assertions a stream also knows its poll.
const _: () = assert!(cfg!(debug_assertions) || size_of::<Slot>() <= 64);
