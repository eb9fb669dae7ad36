//! A host: a stack, and an application that writes, reads and closes as it is told. Tests and `examples/seeds` use it.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use tengate_base::{ConnId, Instant};

use super::link::Outbox;
use crate::{Address, Cause, Config, Event, MacAddr, Secret, Stack};

/// The port that hosts listen on.
pub(super) const PORT: u16 = 80;

/// What an application knows of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) to_send: Vec<u8>,
    pub(super) sent: usize,
    pub(super) received: Vec<u8>,
    /// Finish our stream once everything is handed over.
    pub(super) then_shutdown: bool,
    pub(super) is_open: bool,
    pub(super) peer_closed: bool,
    pub(super) closed: Option<Cause>,
    /// Take nothing: what arrives stays held.
    pub(super) paused: bool,
    pub(super) held: u32,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) stack: Stack,
    pub(super) outbox: Outbox,
    pub(super) streams: BTreeMap<ConnId, Stream>,
    pub(super) accepted: Vec<ConnId>,
    pub(super) drained: usize,
}

/// The address of a host.
pub(super) fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host + 1)
}

/// The hardware address of a host.
pub(super) const fn mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, host + 1])
}

/// What a host is given.
pub(super) fn config(host: u8) -> Config {
    let addresses = vec![Address { addr: IpAddr::V4(address(host)), prefix_len: 24 }];
    Config::new(mac(host), addresses, Secret([host + 40; 32]))
}

impl Host {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        let stack = Stack::new(config, now).expect("a good configuration");
        Self {
            stack,
            outbox: Outbox::default(),
            streams: BTreeMap::new(),
            accepted: Vec::new(),
            drained: 0,
        }
    }

    pub(super) fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        self.stack.handle_frame(now, frame, &mut self.outbox);
        self.take_events(frame);
    }

    fn take_events(&mut self, frame: &[u8]) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Opened { conn, .. } => {
                    self.accepted.push(conn);
                    self.streams.insert(conn, Stream { is_open: true, ..Stream::default() });
                }
                Event::Connected { conn } => self.stream(conn).is_open = true,
                Event::Received { conn, bytes } => self.take(conn, &frame[bytes]),
                Event::Readable { conn } => {
                    let mut bytes = Vec::new();
                    self.stack.read(conn, &mut bytes);
                    assert!(!bytes.is_empty(), "readable means that there is something");
                    self.take(conn, &bytes);
                }
                Event::PeerClosed { conn } => {
                    let before = core::mem::replace(&mut self.stream(conn).peer_closed, true);
                    assert!(!before, "a stream ends once");
                }
                Event::Drained { .. } => self.drained += 1,
                Event::Closed { conn, cause } => self.stream(conn).closed = Some(cause),
            }
        }
    }

    fn take(&mut self, conn: ConnId, bytes: &[u8]) {
        let stream = self.stream(conn);
        assert!(!stream.peer_closed && stream.closed.is_none(), "nothing comes behind the end");
        stream.received.extend_from_slice(bytes);
        if stream.paused {
            let held = u32::try_from(bytes.len()).expect("a frame");
            stream.held += held;
            self.stack.hold(conn, held);
        }
    }

    /// Takes a frame whose effects do not matter, as long as there is no panic.
    pub(super) fn handle_quietly(&mut self, now: Instant, frame: &[u8]) {
        self.stack.handle_frame(now, frame, &mut self.outbox);
        self.drop_events();
    }

    /// A turn whose events do not matter.
    pub(super) fn turn_quietly(&mut self, now: Instant) {
        self.stack.handle_timeout(now, &mut self.outbox);
        self.drop_events();
        self.act(now);
        self.stack.flush(now, &mut self.outbox).unwrap_or_default();
    }

    fn drop_events(&mut self) {
        let mut bytes = Vec::new();
        while let Some(event) = self.stack.poll_event() {
            if let Event::Readable { conn } = event {
                self.stack.read(conn, &mut bytes);
            }
        }
    }

    /// The end of a turn.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.stack.poll_timeout().is_some_and(|at| at <= now) {
            self.stack.handle_timeout(now, &mut self.outbox);
            self.take_events(&[]);
        }
        self.act(now);
        // A full device is tried again at the next turn.
        self.stack.flush(now, &mut self.outbox).unwrap_or_default();
    }

    pub(super) fn stream(&mut self, conn: ConnId) -> &mut Stream {
        self.streams.get_mut(&conn).expect("a connection of this host")
    }

    /// The application goes on with what it has to do.
    fn act(&mut self, now: Instant) {
        for (conn, stream) in &mut self.streams {
            if !stream.is_open || stream.closed.is_some() {
                continue;
            }
            stream.sent += self.stack.send(*conn, &stream.to_send[stream.sent..]);
            if stream.then_shutdown && stream.sent == stream.to_send.len() {
                stream.then_shutdown = false;
                self.stack.shutdown(now, *conn);
            }
            if !stream.paused && stream.held > 0 {
                self.stack.release(*conn, core::mem::take(&mut stream.held));
            }
        }
    }
}
