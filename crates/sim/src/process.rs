//! A server process: its shards in a shell, and which connections they have.

use std::collections::BTreeSet;

use tengate_base::{App, Instant, ShardId};

use crate::network::Conn;
use crate::shell::Shell;

/// A running server.
#[derive(Debug)]
pub(crate) struct Process<A> {
    /// Its shards.
    pub(crate) shell: Shell<A>,
    /// Open connections, by shard: indexes into the world's.
    pub(crate) conns: Vec<BTreeSet<usize>>,
    /// Shards whose next turn is planned already.
    pub(crate) planned: Vec<bool>,
    /// When it is woken for a time-out.
    pub(crate) wake: Option<Instant>,
}

/// What a server did on one connection.
#[derive(Debug)]
pub(crate) struct Emitted {
    /// The connection.
    pub(crate) conn: usize,
    /// What it wrote.
    pub(crate) bytes: Vec<u8>,
    /// Whether it has closed it, or it was closed.
    pub(crate) closed: bool,
}

impl<A: App> Process<A> {
    /// A process that starts with these shards.
    pub(crate) fn new(apps: Vec<A>, now: Instant) -> Self {
        let count = apps.len();
        let mut shell = Shell::new(apps);
        shell.set_now(now);
        Self { shell, conns: vec![BTreeSet::new(); count], planned: vec![false; count], wake: None }
    }

    /// Its shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<A> {
        (0..self.conns.len()).map(|at| ShardId(u16::try_from(at).expect("few shards")))
    }

    /// What a shard wrote and closed since this was asked last.
    pub(crate) fn take_emitted(&mut self, shard: ShardId, all: &[Conn]) -> Vec<Emitted> {
        let mut emitted = Vec::new();
        for conn in self.conns[usize::from(shard.0)].clone() {
            let place = all[conn].place;
            let bytes = self.shell.receive(place);
            let closed = !self.shell.is_open(place);
            if closed {
                self.conns[usize::from(shard.0)].remove(&conn);
            }
            if closed || !bytes.is_empty() {
                emitted.push(Emitted { conn, bytes, closed });
            }
        }
        emitted
    }
}
