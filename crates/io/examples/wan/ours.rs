//! Our stack and the server on it.

use core::error::Error;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use tengate_base::{ConnId, Door, Instant};
use tengate_netstack::{Address, Config, Device, DeviceFull, Event, MacAddr, Secret, Stack};

use crate::link::{End, Link};
use crate::work::Session;

/// Where our stack is.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 9, 0, 2];
/// Where both servers answer.
const PORT: u16 = 7;
/// The most that a connection has queued.
const QUEUED_BYTES_MAX: u32 = 4 << 20;

/// A stack, and what its clients want.
pub(crate) struct Ours {
    pub(crate) stack: Stack,
    sessions: BTreeMap<u32, Open>,
    /// Those that do not read now.
    paused: Vec<ConnId>,
    read: Vec<u8>,
}

struct Open {
    session: Session,
    /// What came while the session did not read.
    held: Vec<u8>,
    has_finished: bool,
}

/// The link as the stack sees it.
struct Wire<'a> {
    now: Instant,
    link: &'a mut Link,
}

impl Device for Wire<'_> {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.link.send(self.now, End::Client, parts.concat());
        Ok(())
    }
}

impl Ours {
    pub(crate) fn new(now: Instant) -> Result<Self, Box<dyn Error>> {
        let address = Address { addr: IpAddr::V4(ADDRESS), prefix_len: 24 };
        let mut config = Config::new(MacAddr(MAC), vec![address], Secret([9; 32]));
        config.send_buffer_bytes = QUEUED_BYTES_MAX;
        let mut stack = Stack::new(config, now)?;
        stack.listen(PORT, Door(0));
        Ok(Self { stack, sessions: BTreeMap::new(), paused: Vec::new(), read: Vec::new() })
    }

    pub(crate) fn handle_frame(&mut self, now: Instant, frame: &[u8], link: &mut Link) {
        self.stack.handle_frame(now, frame, &mut Wire { now, link });
        self.take_events(now, frame);
    }

    /// What is due, and the end of the turn.
    pub(crate) fn turn(&mut self, now: Instant, link: &mut Link) {
        if self.stack.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.stack.handle_timeout(now, &mut Wire { now, link });
            self.take_events(now, &[]);
        }
        self.resume(now);
        self.stack.flush(now, &mut Wire { now, link }).expect("the link is never full");
    }

    /// When the next turn is due, if nothing comes.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let mut next = self.stack.poll_timeout();
        for conn in &self.paused {
            let open = self.sessions.get(&conn.0);
            let until = open.and_then(|open| open.session.paused_until).unwrap_or(now);
            next = Some(next.map_or(until, |next| next.min(until)));
        }
        next
    }

    fn take_events(&mut self, now: Instant, frame: &[u8]) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Opened { conn, .. } => {
                    let open =
                        Open { session: Session::new(), held: Vec::new(), has_finished: false };
                    self.sessions.insert(conn.0, open);
                }
                Event::Received { conn, bytes } => self.take(now, conn, &frame[bytes]),
                Event::Readable { conn } => {
                    let mut bytes = core::mem::take(&mut self.read);
                    self.stack.read(conn, &mut bytes);
                    self.take(now, conn, &bytes);
                    bytes.clear();
                    self.read = bytes;
                }
                Event::Drained { conn } => self.send(now, conn),
                Event::Closed { conn, .. } => _ = self.sessions.remove(&conn.0),
                Event::PeerClosed { .. } | Event::Connected { .. } => {}
            }
        }
    }

    fn take(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        let Some(open) = self.sessions.get_mut(&conn.0) else { return };
        if open.session.is_paused(now) {
            open.held.extend_from_slice(bytes);
            self.stack.hold(conn, u32::try_from(bytes.len()).expect("shorter than a window"));
            return;
        }
        open.session.handle_bytes(now, bytes);
        if open.session.is_paused(now) {
            self.paused.push(conn);
        }
        self.send(now, conn);
    }

    /// Goes on with those whose pause is over.
    fn resume(&mut self, now: Instant) {
        for at in (0..self.paused.len()).rev() {
            let conn = self.paused[at];
            let open = self.sessions.get_mut(&conn.0);
            if open.as_ref().is_some_and(|open| open.session.is_paused(now)) {
                continue;
            }
            self.paused.swap_remove(at);
            let Some(open) = open else { continue };
            let held = core::mem::take(&mut open.held);
            self.stack.release(conn, u32::try_from(held.len()).expect("shorter than a window"));
            self.take(now, conn, &held);
        }
    }

    fn send(&mut self, now: Instant, conn: ConnId) {
        let Some(open) = self.sessions.get_mut(&conn.0) else { return };
        loop {
            let bytes = open.session.outgoing();
            if bytes.is_empty() {
                break;
            }
            let len = bytes.len();
            let taken = self.stack.send(conn, bytes);
            open.session.consume(taken);
            if taken < len {
                self.stack.notify_below(conn, QUEUED_BYTES_MAX / 4 * 3);
                break;
            }
        }
        if open.session.is_done() && !open.has_finished {
            open.has_finished = true;
            self.stack.shutdown(now, conn);
        }
    }
}
