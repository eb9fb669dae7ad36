//! The client: Linux sockets that ask, send, read and compare every byte, as many at once as wanted.

use core::error::Error;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tengate_base::Instant;
use tengate_io::Clock;

use crate::sys;
use crate::work::{Pattern, Request, VERDICT_LEN};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Requests in all, and how many of them at once.
    count: u64,
    at_once: u64,
    /// Bytes of each, away from the client and towards it; 0 of both: 1 to 64 KiB, other ones for each request.
    up: u64,
    down: u64,
    /// How long the client stops reading when it has a quarter of what it asked for, and the server likewise.
    client_pause: Duration,
    server_pause: Duration,
    /// Without a byte for so long, pauses apart, it is stalled.
    stall: Duration,
}

impl Plan {
    /// Reads numbers: how many and how many at once, bytes up and down, pauses and patience in milliseconds.
    pub(crate) fn decode(words: &[&str]) -> Result<Self, Box<dyn Error>> {
        let numbers: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
        let &[count, at_once, up, down, client_pause, server_pause, stall] = &numbers?[..] else {
            return Err("ask takes an address and seven numbers".into());
        };
        let millis = Duration::from_millis;
        let (client_pause, server_pause) = (millis(client_pause), millis(server_pause));
        Ok(Self { count, at_once, up, down, client_pause, server_pause, stall: millis(stall) })
    }

    fn request(&self, index: u64) -> Request {
        let len = 1024 + index * 7919 % (63 << 10);
        let is_mixed = self.up == 0 && self.down == 0;
        let (up, down) = if is_mixed { (len, len) } else { (self.up, self.down) };
        let pause_millis = u64::try_from(self.server_pause.as_millis()).unwrap_or(u64::MAX);
        Request { seed: 2 * index + 1, up, down, pause_millis }
    }

    /// How long nothing may come, with what was asked to pause.
    fn patience(&self) -> Duration {
        self.stall + self.client_pause + self.server_pause
    }
}

/// One connection.
struct Asking {
    stream: TcpStream,
    request: Request,
    /// Bytes to write: the request, then blocks of the pattern.
    made: Vec<u8>,
    left: u64,
    own: Pattern,
    expected: Pattern,
    verdict: Vec<u8>,
    got: u64,
    began: Instant,
    /// When something last came or went.
    moved: Instant,
    longest_gap: Duration,
    paused_until: Option<Instant>,
    has_paused: bool,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Ends,
}

/// Carries a plan out and prints bytes each way, microseconds, the longest gap, and how long requests took: the median, 99 of
/// 100, the longest, all in microseconds.
#[expect(clippy::print_stdout, reason = "answers who asked")]
pub(crate) fn run(server: SocketAddr, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let clock = Clock::start();
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut block = vec![0; 256 << 10];
    let began = clock.now();
    let mut conns = BTreeMap::new();
    let mut next = 0;
    let (mut took, mut longest_gap, mut bytes) = (Vec::new(), Duration::ZERO, 0);
    let mut looked = clock.now();
    while next < plan.count || !conns.is_empty() {
        while next < plan.count && (conns.len() as u64) < plan.at_once {
            let token = usize::try_from(next)?;
            let mut asking = Asking::new(clock.now(), server, plan.request(next))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut asking.stream, Token(token), interest)?;
            conns.insert(token, asking);
            next += 1;
        }
        match poll.poll(&mut events, Some(LOOK)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let now = clock.now();
        let mut ready: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        if now - looked >= LOOK {
            looked = now;
            ready.extend(check(now, plan, &mut conns)?);
        }
        for token in ready {
            let Some(asking) = conns.get_mut(&token) else { continue };
            let said = (token, asking.got);
            let fate = asking.go_on(now, plan, &mut block);
            if fate.map_err(|error| format!("request {said:?}: {error}"))? == Fate::Ends {
                took.push(clock.now() - asking.began);
                longest_gap = longest_gap.max(asking.longest_gap);
                bytes += asking.request.up.max(asking.request.down);
                conns.remove(&token);
            }
        }
    }
    let whole = (clock.now() - began).as_micros();
    took.sort_unstable();
    let portion = |permille: usize| took[(took.len() - 1) * permille / 1000].as_micros();
    let longest_gap = longest_gap.saturating_sub(plan.server_pause);
    let (median, most, all) = (portion(500), portion(990), portion(1000));
    println!("{bytes} {whole} {} {median} {most} {all}", longest_gap.as_micros());
    Ok(())
}

/// Looks for stalls, and for those whose pause is over.
fn check(
    now: Instant,
    plan: &Plan,
    conns: &mut BTreeMap<usize, Asking>,
) -> Result<Vec<usize>, Box<dyn Error>> {
    let mut resumed = Vec::new();
    for (token, asking) in conns {
        if asking.paused_until.is_some_and(|until| until <= now) {
            asking.paused_until = None;
            asking.moved = now;
            resumed.push(*token);
        }
        if now - asking.moved > plan.patience() {
            let (got, left) = (asking.got, asking.left);
            return Err(format!("request {token} is stalled: {got} read, {left} to write").into());
        }
    }
    Ok(resumed)
}

impl Asking {
    fn new(now: Instant, server: SocketAddr, request: Request) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        sys::use_cubic(&stream)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request,
            made: request.encode().to_vec(),
            left: request.up,
            own: Pattern::new(request.seed),
            expected: Pattern::new(request.seed + 1),
            verdict: Vec::new(),
            got: 0,
            began: now,
            moved: now,
            longest_gap: Duration::ZERO,
            paused_until: None,
            has_paused: false,
        })
    }

    fn go_on(&mut self, now: Instant, plan: &Plan, block: &mut [u8]) -> io::Result<Fate> {
        self.write(now)?;
        while self.paused_until.is_none() {
            match self.stream.read(block) {
                Ok(0) => return self.end(),
                Ok(count) => self.take(now, plan, &mut block[..count])?,
                Err(error) if is_not_yet(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Fate::Stays)
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        loop {
            if self.made.is_empty() && self.left > 0 {
                let count = self.left.min(BLOCK_LEN);
                self.made.resize(usize::try_from(count).expect("a block"), 0);
                self.own.fill(&mut self.made);
                self.left -= count;
            }
            if self.made.is_empty() {
                return Ok(());
            }
            match self.stream.write(&self.made) {
                Ok(count) => {
                    self.made.drain(..count);
                    self.note_move(now, is_upload(&self.request));
                }
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, now: Instant, plan: &Plan, mut bytes: &mut [u8]) -> io::Result<()> {
        self.note_move(now, true);
        if self.verdict.len() < VERDICT_LEN {
            let count = bytes.len().min(VERDICT_LEN - self.verdict.len());
            self.verdict.extend_from_slice(&bytes[..count]);
            bytes = &mut bytes[count..];
        }
        if !self.expected.matches(bytes) {
            return Err(io::Error::other("wrong bytes came"));
        }
        self.got += bytes.len() as u64;
        let is_due = self.got > self.request.down / 4 && !plan.client_pause.is_zero();
        if is_due && !self.has_paused {
            self.has_paused = true;
            self.paused_until = Some(now + plan.client_pause);
        }
        Ok(())
    }

    /// The server has finished its stream.
    fn end(&self) -> io::Result<Fate> {
        let verdict = self.verdict.first_chunk().copied().map(u64::from_le_bytes);
        if verdict != Some(self.request.up) {
            return Err(io::Error::other("the server got wrong bytes"));
        }
        if self.got != self.request.down {
            return Err(io::Error::other("the stream ended early"));
        }
        Ok(Fate::Ends)
    }

    fn note_move(&mut self, now: Instant, counts: bool) {
        if counts {
            self.longest_gap = self.longest_gap.max(now - self.moved);
        }
        self.moved = now;
    }
}

/// Whether most bytes go to the server: then what the kernel takes to send tells of gaps.
const fn is_upload(request: &Request) -> bool {
    request.up > request.down
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// How often pauses and stalls are looked for.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes made at a time.
const BLOCK_LEN: u64 = 64 << 10;
