//! Connections: two streams of bytes that take their time, come in other pieces than they left, and end.

use std::collections::VecDeque;

use tengate_base::Instant;

use crate::shell::Place;

/// A connection between a peer and a server process.
#[derive(Debug)]
pub(crate) struct Conn {
    /// The process and the connection there.
    pub(crate) server: Server,
    /// Where it is in the server's shell.
    pub(crate) place: Place,
    /// The process that connected and where it is in that one's shell, if it is a server itself.
    pub(crate) near: Option<(Server, Place)>,
    /// Who connected.
    pub(crate) owner: Owner,
    /// The server has it still.
    pub(crate) server_open: bool,
    /// The peer has it still.
    pub(crate) peer_open: bool,
    /// The peer reads.
    pub(crate) reading: bool,
    /// Nothing passes any more, and nobody was told.
    pub(crate) silent: bool,
    /// Peer to server.
    pub(crate) to_server: Pipe,
    /// Server to peer.
    pub(crate) to_peer: Pipe,
    /// What the peer has read and not understood yet.
    pub(crate) unread: Vec<u8>,
}

impl Conn {
    /// Where it is in the shell of one of its ends.
    pub(crate) fn place_in(&self, server: Server) -> Place {
        self.near.filter(|(near, _)| *near == server).map_or(self.place, |(_, place)| place)
    }
}

/// A process that accepts connections; it is another one after each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// What it is.
    pub(crate) kind: ServerKind,
    /// Its index among those of its kind.
    pub(crate) index: usize,
    /// How often it was started before.
    pub(crate) incarnation: u32,
}

/// Kinds of processes that accept connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerKind {
    /// A gateway.
    Gateway,
    /// A register.
    Register,
    /// A dispatcher.
    Dispatcher,
}

/// Who is at the peer's end, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A client of a gateway.
    Client(usize),
    /// A worker's link to a gateway or dispatcher.
    Worker(usize),
    /// The outside client of a gateway or dispatcher.
    Outside(usize),
    /// A dispatcher's link to a gateway.
    Dispatcher(usize),
    /// A gateway's connection to a register.
    GatewayAtRegister(usize, usize),
    /// A worker's connection to a register.
    WorkerAtRegister(usize, usize),
    /// A dispatcher's connection to a register.
    DispatcherAtRegister(usize, usize),
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    queue: VecDeque<(Instant, Item)>,
    last: Instant,
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The end, in order.
    Fin,
    /// The end, out of order.
    Reset,
}

impl Pipe {
    /// Something leaves; it arrives at `at` or when what left before has arrived. Returns when.
    pub(crate) fn push(&mut self, at: Instant, item: Item) -> Instant {
        self.last = self.last.max(at);
        self.queue.push_back((self.last, item));
        self.last
    }

    /// What has arrived by now; with `merge` all bytes that came one after the other.
    pub(crate) fn pop(&mut self, now: Instant, merge: Merge) -> Option<Item> {
        let (at, _) = self.queue.front()?;
        if *at > now {
            return None;
        }
        let (_, mut item) = self.queue.pop_front()?;
        while merge == Merge::All
            && let Item::Bytes(bytes) = &mut item
            && let Some((at, Item::Bytes(more))) = self.queue.front()
            && *at <= now
        {
            bytes.extend_from_slice(more);
            self.queue.pop_front();
        }
        Some(item)
    }

    /// Something that came is not taken yet.
    pub(crate) fn put_back(&mut self, at: Instant, item: Item) {
        self.last = self.last.max(at);
        self.queue.push_front((at, item));
    }

    /// Loses everything from some byte on, which `keep` chooses out of so many.
    pub(crate) fn truncate(&mut self, keep: impl FnOnce(usize) -> usize) {
        let total = self.bytes().len();
        let mut left = keep(total);
        for (_, item) in &mut self.queue {
            if let Item::Bytes(bytes) = item {
                let kept = bytes.len().min(left);
                bytes.truncate(kept);
                left -= kept;
            }
        }
    }

    /// Every byte on its way.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (_, item) in &self.queue {
            if let Item::Bytes(bytes) = item {
                all.extend_from_slice(bytes);
            }
        }
        all
    }

    /// Forgets everything on its way.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Whether bytes that left one after the other may arrive as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// As they left.
    One,
    /// All that are there.
    All,
}
