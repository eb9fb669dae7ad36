//! Linux's server: the same work as our stack's, on sockets.

use core::error::Error;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tengate_base::Instant;
use tengate_io::Clock;

use crate::sys;
use crate::work::Session;

struct Conn {
    stream: TcpStream,
    session: Session,
    has_finished: bool,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Ends,
}

/// Runs until it is killed.
#[expect(clippy::print_stdout, reason = "tells who started it that it listens")]
pub(crate) fn run(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let clock = Clock::start();
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    sys::use_cubic(&listener)?;
    sys::lengthen_backlog(&listener, BACKLOG_LEN)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("ready");
    let mut conns = BTreeMap::new();
    let mut events = Events::with_capacity(1024);
    let mut block = vec![0; 256 << 10];
    let mut next_token = 1;
    loop {
        let now = clock.now();
        let paused = conns.values().filter_map(|conn: &Conn| conn.session.paused_until).min();
        match poll.poll(&mut events, paused.map(|until| until - now)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let now = clock.now();
        let mut ready: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        if ready.contains(&LISTENER.0) {
            accept(&listener, &poll, &mut conns, &mut next_token)?;
        }
        for (&token, conn) in
            conns.iter_mut().filter(|(_, conn)| conn.session.paused_until.is_some())
        {
            if !conn.session.is_paused(now) {
                conn.session.paused_until = None;
                ready.push(token);
            }
        }
        for token in ready {
            let Some(conn) = conns.get_mut(&token) else { continue };
            // A client that gave up is its own affair.
            if conn.go_on(now, &mut block).unwrap_or(Fate::Ends) == Fate::Ends {
                conns.remove(&token);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    conns: &mut BTreeMap<usize, Conn>,
    next_token: &mut usize,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(*next_token), interest)?;
        conns.insert(*next_token, Conn { stream, session: Session::new(), has_finished: false });
        *next_token += 1;
    }
}

impl Conn {
    fn go_on(&mut self, now: Instant, block: &mut [u8]) -> io::Result<Fate> {
        while !self.session.is_paused(now) {
            match self.stream.read(block) {
                Ok(0) => return Ok(Fate::Ends),
                Ok(count) => self.session.handle_bytes(now, &block[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        loop {
            let bytes = self.session.outgoing();
            if bytes.is_empty() {
                break;
            }
            match self.stream.write(bytes) {
                Ok(count) => self.session.consume(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.session.is_done() && !self.has_finished {
            self.has_finished = true;
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(Fate::Stays)
    }
}

const LISTENER: Token = Token(0);
const BACKLOG_LEN: i32 = 16_384;
