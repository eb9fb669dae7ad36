//! One client's connection on the stack: what is sent over it, and how it begins and ends.

use std::collections::VecDeque;

use tengate_base::{ConnId, Instant};
use tengate_io::dpdk::Queue;
use tengate_netstack::{Device, DeviceFull, Stack};

use super::super::State;
use super::super::reader::Bytes;
use super::NO_CONN;
use crate::protocol::Protocol;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) stack: Stack,
    pub(super) device: Frames,
    /// The present turn's.
    pub(super) now: Instant,
    /// Clients with bytes that the stack did not take.
    pub(super) unsent: VecDeque<u32>,
    protocol: Protocol,
}

/// The queue as the stack sees it.
#[derive(Debug)]
pub(super) struct Frames(pub(super) Queue);

/// A connection, or the place for one.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) conn: ConnId,
    pub(super) state: State,
    /// Nothing is read while this is set.
    pub(super) paused: bool,
    /// What the stack did not take yet.
    waiting: Option<Box<Bytes>>,
}

/// One client's connection, for as long as it is looked at.
#[derive(Debug)]
pub(crate) struct StackLine<'a> {
    pub(super) client: u32,
    pub(super) connection: &'a mut Connection,
    pub(super) net: &'a mut Net,
}

impl Device for Frames {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        self.0.append(parts).map_err(|_counted| DeviceFull)
    }
}

impl Net {
    pub(super) fn new(stack: Stack, queue: Queue, protocol: Protocol) -> Self {
        let (device, unsent) = (Frames(queue), VecDeque::new());
        Self { stack, device, now: Instant::ZERO, unsent, protocol }
    }

    /// Sends what connections have to send.
    pub(super) fn flush(&mut self) {
        // What finds no room stays with the stack until the next turn.
        let _full = self.stack.flush(self.now, &mut self.device);
        self.device.0.flush();
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self { conn: NO_CONN, state: State::Closed, paused: false, waiting: None }
    }
}

impl Connection {
    pub(super) fn begin(&mut self, conn: ConnId) {
        *self = Self { conn, state: State::Connecting, paused: self.paused, waiting: None };
    }
}

impl StackLine<'_> {
    pub(in crate::clients) fn send(&mut self, encoded: &[u8]) {
        if self.connection.conn == NO_CONN {
            return;
        }
        if let Some(waiting) = &mut self.connection.waiting {
            waiting.0.extend_from_slice(encoded);
            return;
        }
        let taken = self.net.stack.send(self.connection.conn, encoded);
        if taken < encoded.len() {
            self.connection.waiting = Some(Box::new(Bytes(encoded[taken..].to_vec())));
            self.net.unsent.push_back(self.client);
        }
    }

    /// Sends what the stack did not take.
    pub(super) fn send_again(&mut self) {
        if let Some(waiting) = self.connection.waiting.take() {
            self.send(&waiting.0);
        }
    }

    pub(in crate::clients) fn leave(&mut self) {
        let mut farewell = Vec::new();
        self.net.protocol.encode_farewell(&mut farewell);
        self.send(&farewell);
        self.connection.state = State::Leaving;
        self.net.stack.shutdown(self.net.now, self.connection.conn);
    }

    pub(in crate::clients) fn reset(&mut self) {
        if self.connection.conn != NO_CONN {
            let Net { stack, device, now, .. } = &mut *self.net;
            stack.abort(*now, self.connection.conn, device);
        }
        self.forget();
    }

    /// Ends the connection in order; the stack sees to the rest.
    pub(super) fn close(&mut self) {
        if self.connection.conn != NO_CONN {
            self.net.stack.close(self.net.now, self.connection.conn);
        }
        self.forget();
    }

    #[expect(clippy::unused_self, reason = "the kernel's line has a buffer to make small")]
    pub(in crate::clients) fn receive_little(&mut self) {}

    pub(in crate::clients) fn pause(&mut self) {
        self.connection.paused = true;
    }

    pub(in crate::clients) fn state(&self) -> State {
        self.connection.state
    }

    pub(in crate::clients) fn set_state(&mut self, state: State) {
        self.connection.state = state;
    }

    pub(in crate::clients) fn is_there(&self) -> bool {
        self.connection.conn != NO_CONN
    }

    fn forget(&mut self) {
        (self.connection.conn, self.connection.state) = (NO_CONN, State::Closed);
        self.connection.waiting = None;
    }
}

/// No client: there are fewer.
pub(super) const NOBODY: u32 = u32::MAX;
