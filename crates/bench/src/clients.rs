//! Many clients on one thread: connections, greetings, messages, farewells.
//!
//! Modes drive [`Clients`] and do not know what carries them: the kernel's sockets ([`kernel`]), or our own TCP on a
//! device of DPDK's ([`stack`], with the feature `dpdk`). [`reader`] makes messages of received bytes for both.

mod reader;
mod kernel;
#[cfg(feature = "dpdk")]
mod stack;

use core::time::Duration;

use anyhow::{Result, ensure};

use kernel::{Kernel, KernelLine};
#[cfg(feature = "dpdk")]
use stack::{StackClients, StackLine};

use crate::latency::{NANOS_PER_SECOND, now_nanos};
use crate::target::{Sources, Target};

#[cfg(feature = "dpdk")]
pub(crate) use stack::Device;

/// Clients of one target, named by their index.
pub(crate) struct Clients {
    net: Net,
    target: Target,
    opening: usize,
}

/// What carries the clients.
enum Net {
    Kernel(Kernel),
    #[cfg(feature = "dpdk")]
    Stack(Box<StackClients>),
}

/// One client's connection, for as long as it is looked at.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    Kernel(&'a mut KernelLine),
    #[cfg(feature = "dpdk")]
    Stack(StackLine<'a>),
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

/// Runs `$body` with what carries the clients.
macro_rules! on {
    ($net:expr, $name:ident => $body:expr) => {
        match $net {
            Net::Kernel($name) => $body,
            #[cfg(feature = "dpdk")]
            Net::Stack($name) => $body,
        }
    };
}

impl Clients {
    /// Makes room for `count` clients on the kernel's sockets, none of them connected.
    pub(crate) fn on_kernel(target: &Target, sources: Sources, count: usize) -> Result<Self> {
        let net = Net::Kernel(Kernel::new(target, sources, count)?);
        Ok(Self { net, target: target.clone(), opening: KERNEL_OPENING })
    }

    /// As [`on_kernel`](Self::on_kernel), on a device of DPDK's.
    #[cfg(feature = "dpdk")]
    pub(crate) fn on_device(target: &Target, device: Device<'_>, count: usize) -> Result<Self> {
        let net = Net::Stack(Box::new(StackClients::new(target, device, count)?));
        Ok(Self { net, target: target.clone(), opening: DEVICE_OPENING })
    }

    /// Opens so many clients at the same time, 100 without this, on a device 1000.
    pub(crate) fn opening(mut self, count: Option<usize>) -> Self {
        self.opening = count.unwrap_or(self.opening);
        self
    }

    pub(crate) fn len(&self) -> usize {
        on!(&self.net, net => net.len())
    }

    /// Encodes a message for these clients.
    pub(crate) fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        self.target.protocol.encode(payload, out);
    }

    pub(crate) fn line(&mut self, client: usize) -> Line<'_> {
        match &mut self.net {
            Net::Kernel(net) => Line::Kernel(net.line(client)),
            #[cfg(feature = "dpdk")]
            Net::Stack(net) => Line::Stack(net.line(client)),
        }
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
            while started < count && started < opened + self.opening {
                if let Some(ending) = self.connect(started)? {
                    return Err(failed(ending));
                }
                started += 1;
            }
            let before = opened;
            self.turn(OPENING_TURN, |_, _, event| match event {
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
                "{} clients wait for the answer to their handshakes, {opened} are open: is there a worker?",
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
        on!(&mut self.net, net => net.connect(client, &self.target))
    }

    /// Ends a client's connection at once: the server sees a reset, and nothing of it remains on this side.
    pub(crate) fn reset(&mut self, client: usize) {
        self.line(client).reset();
    }

    /// Reads a client again that was paused.
    pub(crate) fn resume(&mut self, client: usize) -> Result<()> {
        on!(&mut self.net, net => net.resume(client))
    }

    /// As [`turn`](Self::turn), until an instant of [`now_nanos`]; at once if it is over.
    pub(crate) fn turn_until(
        &mut self,
        nanos: u64,
        happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        on!(&mut self.net, net => net.turn_until(nanos, &self.target, happened))
    }

    /// Waits until something happens, at most `wait`, and tells all that has.
    ///
    /// # Errors
    /// Those of `happened`.
    pub(crate) fn turn(
        &mut self,
        wait: Duration,
        happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        on!(&mut self.net, net => net.turn(wait, &self.target, happened))
    }
}

/// Runs `$body` with the line that is there.
macro_rules! on_line {
    ($line:expr, $name:ident => $body:expr) => {
        match $line {
            Line::Kernel($name) => $body,
            #[cfg(feature = "dpdk")]
            Line::Stack($name) => $body,
        }
    };
}

impl Line<'_> {
    /// Sends an encoded message. What is not taken at once waits; the end of a connection is told as an event.
    pub(crate) fn send(&mut self, encoded: &[u8]) {
        on_line!(self, line => line.send(encoded));
    }

    /// Says farewell as the protocol has it and ends this direction; the server's end is told as an event.
    pub(crate) fn leave(&mut self) {
        on_line!(self, line => line.leave());
    }

    /// Ends the connection at once, without an event: the server sees a reset, and nothing of it remains on this side.
    pub(crate) fn reset(&mut self) {
        on_line!(self, line => line.reset());
    }

    /// Asks for the smallest receive buffer when it connects, so that the server's side fills soon. On a device all
    /// windows are alike, and small.
    pub(crate) fn receive_little(&mut self) {
        on_line!(self, line => line.receive_little());
    }

    /// Stops reading; the server is left with what it sends.
    pub(crate) fn pause(&mut self) {
        on_line!(self, line => line.pause());
    }

    fn state(&self) -> State {
        on_line!(self, line => line.state())
    }

    fn set_state(&mut self, state: State) {
        on_line!(self, line => line.set_state(state));
    }

    fn is_connected(&self) -> bool {
        on_line!(self, line => line.is_there())
    }
}

impl State {
    const fn was_open(self) -> bool {
        matches!(self, Self::Open | Self::Leaving)
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

/// Clients that shake hands at the same time; below any listener's backlog.
const KERNEL_OPENING: usize = 100;
/// On a device nobody sleeps, so more of them fill a turn.
#[cfg(feature = "dpdk")]
const DEVICE_OPENING: usize = 1000;
const OPENING_TURN: Duration = Duration::from_millis(100);
const OPENING_NANOS_MAX: u64 = 20 * NANOS_PER_SECOND;
