//! One client's socket: what is sent over it, and how it begins and ends.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::{self, ErrorKind, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use socket2::{Domain, SockRef, Socket, Type};

use super::super::{State, Stop};
use crate::protocol::Protocol;
use crate::target::Target;

/// A connection, or the place for one.
#[derive(Debug)]
pub(crate) struct KernelLine {
    pub(super) stream: Option<TcpStream>,
    state: State,
    protocol: Protocol,
    /// Nothing is read while this is set.
    pub(super) paused: bool,
    /// Whether it is to have the smallest receive buffer.
    small: bool,
    /// What the kernel did not take yet.
    waiting: Vec<u8>,
}

impl KernelLine {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            stream: None,
            state: State::Closed,
            protocol,
            paused: false,
            small: false,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, encoded: &[u8]) {
        let mut taken = 0;
        while self.waiting.is_empty() && taken < encoded.len() {
            let Some(stream) = &mut self.stream else { return };
            match stream.write(&encoded[taken..]) {
                Ok(len) => taken += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        self.waiting.extend_from_slice(&encoded[taken..]);
    }

    pub(crate) fn leave(&mut self) {
        let mut farewell = Vec::new();
        self.protocol.encode_farewell(&mut farewell);
        self.send(&farewell);
        self.state = State::Leaving;
        if let Some(stream) = &self.stream {
            // A connection that has just broken cannot be shut down; its end is told anyway.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    pub(crate) fn reset(&mut self) {
        if let Some(stream) = &self.stream {
            // Without it the connection ends in order, which is no worse.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        self.drop_stream();
    }

    pub(crate) fn receive_little(&mut self) {
        self.small = true;
    }

    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    pub(in crate::clients) fn state(&self) -> State {
        self.state
    }

    pub(in crate::clients) fn set_state(&mut self, state: State) {
        self.state = state;
    }

    pub(in crate::clients) fn is_there(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn begin(&mut self, stream: TcpStream) {
        self.stream = Some(stream);
        self.state = State::Connecting;
    }

    pub(super) fn drop_stream(&mut self) {
        self.stream = None;
        self.state = State::Closed;
        self.waiting = Vec::new();
    }

    /// Whether the connection stands; an event may be of a connection before this one.
    pub(super) fn is_connected(&self) -> Result<bool, Stop> {
        let Some(stream) = &self.stream else { return Ok(false) };
        let gone = |error: io::Error| Stop::Gone(Some(error.into()));
        if let Some(error) = stream.take_error().map_err(gone)? {
            return Err(gone(error));
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(gone(error)),
        }
    }

    pub(super) fn greet(&mut self, target: &Target) {
        self.state = State::Greeting;
        let mut greeting = Vec::new();
        self.protocol.encode_greeting(target, &mut greeting);
        self.send(&greeting);
    }

    pub(super) fn flush(&mut self) {
        let waiting = core::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            self.send(&waiting);
        }
    }
}

/// Begins to connect from `source`, or from where the kernel likes; the inner error is the server's.
pub(super) fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    line: &KernelLine,
) -> Result<io::Result<TcpStream>> {
    let socket = match source {
        Some(source) => Socket::from(
            tengate_io::source_socket(source).with_context(|| format!("--source {source}"))?,
        ),
        None => {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket
        }
    };
    socket.set_tcp_nodelay(true)?;
    if line.small {
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => bail!(
            "no local port is left for another connection to {address}: those closed from this side stay taken for a \
             minute. Give more addresses (--source 127.0.0.2-127.0.0.9), close with resets (churn --close reset), or \
             wait"
        ),
        Err(error) => return Ok(Err(error)),
        Ok(()) => {}
    }
    Ok(Ok(TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(socket)))))
}

/// The kernel doubles it, and takes no less than about this.
const SMALL_BUFFER_BYTES: usize = 4 << 10;
/// The connection is under way. `ErrorKind` has no stable name for it.
const EINPROGRESS: i32 = 115;
