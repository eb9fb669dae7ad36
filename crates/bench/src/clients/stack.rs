//! Clients on our own TCP, over a device of DPDK's.
//!
//! The thread polls: a turn takes a burst of frames in, tells what they brought, and sends what was answered as one burst.
//! Nothing is allocated for a message. An idle client takes 40 bytes here and 4 in the table of connections, beside the
//! 225 of the stack; at most 300 in all, so ten millions fit into 3 GiB.

mod line;
mod open;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use tengate_base::{ConnId, Instant};
use tengate_io::dpdk::{Burst, Link, Port};
use tengate_netstack::{Cause, ConnectError, Event as StackEvent};

pub(crate) use line::StackLine;
pub(crate) use open::Device;

use super::reader::Reader;
use super::{Ending, Event, Line, State, Stop};
use crate::latency::{NANOS_PER_SECOND, now_nanos};
use crate::target::Target;
use line::{Connection, NOBODY, Net};

/// All clients of this process.
pub(super) struct StackClients {
    burst: Burst,
    port: Port,
    crowd: Crowd,
    /// Polls in a row that found nothing.
    empty_turns: u32,
    /// Lines lent since frames were last sent.
    lent: u32,
}

/// The clients and their stack; the frames they look at are beside it.
struct Crowd {
    net: Net,
    slots: Vec<Slot>,
    /// Clients by connection.
    owners: Vec<u32>,
    /// What paused clients were sent.
    held: BTreeMap<u32, Vec<u8>>,
    /// Clients that read again from the next turn on.
    resumed: Vec<u32>,
    /// What arrived out of order, made whole.
    buffer: Vec<u8>,
    /// What every client says first.
    greeting: Vec<u8>,
    sources: Vec<IpAddr>,
    next_source: usize,
}

struct Slot {
    connection: Connection,
    reader: Reader,
}

impl StackClients {
    pub(super) fn new(target: &Target, device: Device<'_>, count: usize) -> Result<Self> {
        ensure!(u32::try_from(count).is_ok_and(|count| count < NOBODY), "too many clients");
        let sources = device.sources(target, count)?;
        let (port, queue, stack) = device.open(&sources, count)?;
        let mut greeting = Vec::new();
        target.protocol.encode_greeting(target, &mut greeting);
        let slot =
            || Slot { connection: Connection::default(), reader: Reader::new(target.protocol) };
        let crowd = Crowd {
            net: Net::new(stack, queue, target.protocol),
            slots: (0..count).map(|_| slot()).collect(),
            owners: Vec::new(),
            held: BTreeMap::new(),
            resumed: Vec::new(),
            buffer: Vec::new(),
            greeting,
            sources: sources.iter().map(|address| address.addr).collect(),
            next_source: 0,
        };
        Ok(Self { burst: Burst::new(), port, crowd, empty_turns: 0, lent: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.crowd.slots.len()
    }

    pub(super) fn line(&mut self, client: usize) -> StackLine<'_> {
        // Messages to all clients, sent outside a turn, would else leave as one burst that no ring holds.
        self.lent += 1;
        if self.lent > LENT_MAX {
            self.lent = 0;
            self.crowd.net.flush();
        }
        self.crowd.line(client)
    }

    pub(super) fn connect(&mut self, client: usize, target: &Target) -> Result<Option<Ending>> {
        self.crowd.connect(client, target).map(|()| None)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the kernel's clients can fail here")]
    pub(super) fn resume(&mut self, client: usize) -> Result<()> {
        let connection = &mut self.crowd.slots[client].connection;
        if core::mem::take(&mut connection.paused) {
            self.crowd.resumed.push(index(client));
        }
        Ok(())
    }

    pub(super) fn turn(
        &mut self,
        wait: Duration,
        target: &Target,
        happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.turn_until(now_nanos().saturating_add(wait), target, happened)
    }

    pub(super) fn turn_until(
        &mut self,
        nanos: u64,
        target: &Target,
        mut happened: impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let now = now_nanos();
            let found = self.poll(Instant::from_nanos(now), target, &mut happened)?;
            if found > 0 {
                self.empty_turns = 0;
                return Ok(());
            }
            if now >= nanos {
                return Ok(());
            }
            self.rest()?;
        }
    }

    /// One turn; how many frames and events it found.
    fn poll(
        &mut self,
        now: Instant,
        target: &Target,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<usize> {
        let Self { burst, crowd, .. } = self;
        crowd.net.now = now;
        let mut found = crowd.net.device.0.receive(burst);
        for frame in burst.frames_mut() {
            crowd.net.stack.handle_frame(now, frame, &mut crowd.net.device);
            while let Some(event) = crowd.net.stack.poll_event() {
                crowd.handle(&event, frame, target, happened)?;
            }
        }
        if crowd.net.stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
            crowd.net.stack.handle_timeout(now, &mut crowd.net.device);
        }
        while let Some(event) = crowd.net.stack.poll_event() {
            found += 1;
            crowd.handle(&event, &mut [], target, happened)?;
        }
        found += crowd.read_again(target, happened)?;
        crowd.send_again();
        crowd.net.flush();
        self.lent = 0;
        Ok(found)
    }

    /// Lets others run on this core now and then, and notices when nobody is at the other end.
    fn rest(&mut self) -> Result<()> {
        self.empty_turns = self.empty_turns.wrapping_add(1);
        if self.empty_turns.is_multiple_of(YIELD_TURNS) {
            std::thread::yield_now();
        } else {
            core::hint::spin_loop();
        }
        if self.empty_turns.is_multiple_of(LINK_TURNS) && self.port.link()? == Link::Down {
            bail!("the device has no peer any more");
        }
        Ok(())
    }
}

impl Drop for StackClients {
    /// Resets what is still connected, so that the server need not find out by itself.
    fn drop(&mut self) {
        let deadline = now_nanos() + RESET_NANOS_MAX;
        for client in 0..self.len() {
            self.line(client).reset();
            while self.lent == 0 && self.crowd.net.device.0.flush() > 0 && now_nanos() < deadline {
                // Acknowledgements that nobody waits for fill the ring towards us.
                self.crowd.net.device.0.receive(&mut self.burst);
                std::thread::yield_now();
            }
        }
        self.crowd.net.device.0.flush();
        // A memif that closes takes with it what its peer has not read.
        std::thread::park_timeout(LINGER);
    }
}

impl Crowd {
    fn line(&mut self, client: usize) -> StackLine<'_> {
        let connection = &mut self.slots[client].connection;
        StackLine { client: index(client), connection, net: &mut self.net }
    }

    fn connect(&mut self, client: usize, target: &Target) -> Result<()> {
        let slot = &mut self.slots[client];
        debug_assert_eq!(slot.connection.state, State::Closed, "a client is connected once");
        slot.reader = Reader::new(target.protocol);
        let now = Instant::from_nanos(now_nanos());
        for _ in 0..self.sources.len() {
            let source = self.sources[self.next_source % self.sources.len()];
            self.next_source += 1;
            let local = SocketAddr::new(source, 0);
            match self.net.stack.connect(now, target.address, Some(local)) {
                Ok(conn) => {
                    slot.connection.begin(conn);
                    let at = usize::try_from(conn.0)?;
                    if self.owners.len() <= at {
                        self.owners.resize(at + 1, NOBODY);
                    }
                    self.owners[at] = index(client);
                    return Ok(());
                }
                Err(ConnectError::NoPort) => {}
                Err(error @ (ConnectError::NoAddress | ConnectError::NoRoute)) => bail!(
                    "from {source} to {}: {error}; name addresses of its network with --addresses",
                    target.address
                ),
                Err(error @ ConnectError::Full) => bail!("a client cannot connect: {error}"),
            }
        }
        bail!("every port to {} is in use: give more --addresses", target.address)
    }

    fn handle(
        &mut self,
        event: &StackEvent,
        frame: &mut [u8],
        target: &Target,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let conn = event.conn();
        let owner = self.owners.get(conn.0 as usize).copied().unwrap_or(NOBODY);
        let Some(slot) = self.slots.get_mut(owner as usize) else { return Ok(()) };
        if slot.connection.conn != conn {
            return Ok(());
        }
        let paused = slot.connection.paused;
        let done = match event {
            StackEvent::Connected { .. } => self.greet(owner, target, happened),
            StackEvent::Received { bytes, .. } if paused => {
                self.hold(owner, conn, &frame[bytes.clone()]);
                Ok(())
            }
            StackEvent::Received { bytes, .. } => {
                self.take_in(owner, &mut frame[bytes.clone()], target, happened)
            }
            StackEvent::Readable { .. } => {
                let mut buffer = core::mem::take(&mut self.buffer);
                buffer.clear();
                self.net.stack.read(conn, &mut buffer);
                let done = if paused {
                    self.hold(owner, conn, &buffer);
                    Ok(())
                } else {
                    self.take_in(owner, &mut buffer, target, happened)
                };
                self.buffer = buffer;
                done
            }
            StackEvent::PeerClosed { .. } => Err(Stop::Gone(None)),
            StackEvent::Closed { cause, .. } => {
                slot.connection.conn = NO_CONN;
                Err(Stop::Gone(fault(*cause)))
            }
            StackEvent::Opened { .. } | StackEvent::Drained { .. } => Ok(()),
        };
        self.end(owner, done, happened)
    }

    fn greet(
        &mut self,
        owner: u32,
        target: &Target,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<(), Stop> {
        let connection = &mut self.slots[owner as usize].connection;
        let mut line = StackLine { client: owner, connection, net: &mut self.net };
        line.set_state(State::Greeting);
        line.send(&self.greeting);
        if target.protocol.opens_silently() {
            line.set_state(State::Open);
            happened(owner as usize, &mut Line::Stack(line), Event::Open).map_err(Stop::Ours)?;
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        owner: u32,
        bytes: &mut [u8],
        target: &Target,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<(), Stop> {
        let Slot { connection, reader } = &mut self.slots[owner as usize];
        let line = StackLine { client: owner, connection, net: &mut self.net };
        let mut tell =
            |line: &mut Line<'_>, event: Event<'_>| happened(owner as usize, line, event);
        reader.take_in(bytes, &mut Line::Stack(line), target.protocol, &mut tell)
    }

    /// Tells that a client is gone if it is.
    fn end(
        &mut self,
        owner: u32,
        done: Result<(), Stop>,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let error = match done {
            Ok(()) => return Ok(()),
            Err(Stop::Ours(error)) => return Err(error),
            Err(Stop::Gone(error)) => error,
        };
        let mut line = self.line(owner as usize);
        let ending = Ending { error, was_open: line.state().was_open() };
        line.close();
        self.held.remove(&owner);
        let line = &mut Line::Stack(self.line(owner as usize));
        happened(owner as usize, line, Event::Gone(ending))
    }

    /// Keeps what a paused client was sent; its window shrinks by that.
    fn hold(&mut self, owner: u32, conn: ConnId, bytes: &[u8]) {
        self.net.stack.hold(conn, u32::try_from(bytes.len()).expect("shorter than a window"));
        self.held.entry(owner).or_default().extend_from_slice(bytes);
    }

    /// Tells what clients were sent while they were paused; how many there were.
    fn read_again(
        &mut self,
        target: &Target,
        happened: &mut impl FnMut(usize, &mut Line<'_>, Event<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut found = 0;
        while let Some(owner) = self.resumed.pop() {
            let Some(mut bytes) = self.held.remove(&owner) else { continue };
            found += 1;
            let conn = self.slots[owner as usize].connection.conn;
            let len = u32::try_from(bytes.len()).expect("shorter than a window");
            self.net.stack.release(conn, len);
            let done = self.take_in(owner, &mut bytes, target, happened);
            self.end(owner, done, happened)?;
        }
        Ok(found)
    }

    /// Sends what the stack did not take before, of some clients.
    fn send_again(&mut self) {
        for _ in 0..self.net.unsent.len().min(SENT_AGAIN_MAX) {
            let Some(client) = self.net.unsent.pop_front() else { return };
            self.line(client as usize).send_again();
        }
    }
}

/// Clients are counted when they are made.
fn index(client: usize) -> u32 {
    u32::try_from(client).expect("there are fewer clients than NOBODY")
}

fn fault(cause: Cause) -> Option<anyhow::Error> {
    match cause {
        Cause::Finished => None,
        Cause::Reset => Some(anyhow!("the server reset the connection")),
        Cause::Refused => Some(anyhow!("the server refused the connection")),
        Cause::Unreachable => Some(anyhow!("the server cannot be reached")),
        Cause::TimedOut => Some(anyhow!("the server does not answer")),
    }
}

/// No connection: indexes are below 2³⁰.
const NO_CONN: ConnId = ConnId(u32::MAX);
/// Lines lent before what was sent over them leaves: a burst.
const LENT_MAX: u32 = 32;
/// Polls that find nothing before the core is left to others once.
const YIELD_TURNS: u32 = 16;
/// Polls that find nothing before the link is looked at.
const LINK_TURNS: u32 = 1 << 16;
/// Clients a turn that are tried again.
const SENT_AGAIN_MAX: usize = 64;
/// How long the device stays after the last frame.
const LINGER: Duration = Duration::from_millis(20);
/// How long resets may take to leave.
const RESET_NANOS_MAX: u64 = 5 * NANOS_PER_SECOND;

const _: () = assert!(size_of::<Slot>() <= 40);
