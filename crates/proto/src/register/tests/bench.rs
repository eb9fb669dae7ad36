//! A register and a shell without sockets.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::take;
use core::net::SocketAddr;
use core::time::Duration;

use tengate_base::{App, CloseCause, Closed, ConnId, Door, How, Instant, Opened, ShardId, Sink};

use super::super::{Register, RegisterConfig};
use crate::wire::register::topology::Topology;

/// A register and a shell without sockets, in which nobody reads what was queued until `heard`.
pub(super) struct Bench {
    pub(super) register: Register,
    now: Instant,
    shell: Shell,
    /// Bytes the register has not consumed.
    unread: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Shell {
    queued: Vec<Vec<u8>>,
    open: BTreeSet<ConnId>,
}

impl Bench {
    pub(super) fn new(config: RegisterConfig) -> Self {
        let shell = Shell { queued: vec![Vec::new(); CONNECTIONS], open: BTreeSet::new() };
        Self {
            register: Register::new(config, Instant::ZERO),
            now: Instant::ZERO,
            shell,
            unread: vec![Vec::new(); CONNECTIONS],
        }
    }

    pub(super) fn open(&mut self, conn: u32) {
        self.open_from(conn, remote(conn));
    }

    pub(super) fn open_from(&mut self, conn: u32, peer: SocketAddr) {
        if self.shell.open.insert(ConnId(conn)) {
            let opened = Opened { conn: ConnId(conn), door: Door(0), peer, local_port: 1236 };
            self.register.handle_open(self.now, &opened, &mut self.shell);
        }
    }

    pub(super) fn say(&mut self, conn: u32, text: &str) {
        let unread = &mut self.unread[conn as usize];
        unread.extend_from_slice(text.as_bytes());
        let consumed = self.register.handle_bytes(self.now, ConnId(conn), unread, &mut self.shell);
        unread.drain(..consumed);
    }

    pub(super) fn lose(&mut self, conn: u32) {
        self.shell.open.remove(&ConnId(conn));
        self.end(conn, CloseCause::Peer);
    }

    /// A connection ends.
    pub(super) fn end(&mut self, conn: u32, cause: CloseCause) {
        self.register.handle_closed(self.now, ConnId(conn), cause, &[], &mut self.shell);
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        if self.register.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
            self.register.handle_timeout(self.now, &mut self.shell);
        }
    }

    pub(super) fn heard(&mut self, conn: u32) -> Vec<String> {
        let queued = take(&mut self.shell.queued[conn as usize]);
        let text = String::from_utf8(queued).unwrap();
        text.split_inclusive('\n').map(String::from).collect()
    }

    pub(super) fn is_open(&self, conn: u32) -> bool {
        self.shell.open.contains(&ConnId(conn))
    }

    pub(super) fn topology(&self) -> Topology {
        self.register.topology(self.now)
    }

    pub(super) fn gateways(&self) -> Vec<(Box<str>, SocketAddr)> {
        let gateways = self.topology().gateways.into_iter();
        gateways.map(|gateway| (gateway.address, gateway.peer.remote)).collect()
    }
}

impl Sink for Shell {
    fn buffer(&mut self, conn: ConnId) -> &mut Vec<u8> {
        &mut self.queued[conn.0 as usize]
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.queued[conn.0 as usize].extend_from_slice(bytes);
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.queued[conn.0 as usize].len()
    }

    fn flush(&mut self, conn: ConnId) -> usize {
        self.queued(conn)
    }

    fn close(&mut self, conn: ConnId, _how: How) -> Closed {
        assert!(self.open.remove(&conn), "closed twice");
        Closed::Now
    }

    fn pause(&mut self, _conn: ConnId) {}

    fn resume(&mut self, _conn: ConnId) {}

    fn notify_below(&mut self, _conn: ConnId, _bytes: usize) {}

    fn keep_frames(&mut self, _conn: ConnId) {}

    fn begin_message(&mut self, _conn: ConnId) {}

    fn drop_oldest(&mut self, _conn: ConnId, _bytes: usize) -> usize {
        0
    }

    fn mesh(&mut self, _to: ShardId) -> &mut Vec<u8> {
        panic!("a register has one shard")
    }
}

pub(super) fn remote(conn: u32) -> SocketAddr {
    ([10, 0, 0, 9], u16::try_from(conn).unwrap()).into()
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(RegisterConfig::default())
    }
}

const CONNECTIONS: usize = 16;
