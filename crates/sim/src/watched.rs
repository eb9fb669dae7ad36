//! A gateway shard with a witness: what reached the core and what its counters say about it, call by call.
//!
//! The witness is outside the core. It tells the reference model in which order each shard carried commands out, which is
//! what makes the model's expectations exact although shards run independently.

use std::collections::BTreeMap;

use tengate_base::{App, CloseCause, ConnId, Door, Instant, Opened, ShardId, Sink};
use tengate_proto::gateway::{Described, Gateway, Stats};
use tengate_proto::wire::header::{Command, InnerFrame};

use crate::plan::Cluster;

/// A shard and what it did.
#[derive(Debug)]
pub(crate) struct Watched {
    gateway: Gateway,
    inner: Door,
    /// Clients by connection.
    live: BTreeMap<ConnId, u32>,
    journal: Vec<Call>,
    plant: Option<Plant>,
    batches: u32,
}

/// One call of the core.
#[derive(Debug)]
pub(crate) struct Call {
    /// What it was told.
    pub(crate) what: What,
    /// Its counters before.
    pub(crate) before: Stats,
    /// Its counters after.
    pub(crate) after: Stats,
    /// Workers it knows afterwards.
    pub(crate) workers: usize,
    /// Clients it had before and has no more.
    pub(crate) gone: Vec<u32>,
}

/// A connection that has just come to a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer {
    /// Its index there.
    pub(crate) conn: ConnId,
    /// The port it comes from.
    pub(crate) port: u16,
}

/// What a core was told.
#[derive(Debug)]
pub(crate) enum What {
    /// A client connected and has this connection_id.
    Opened(u32, Newcomer),
    /// A client connected and was closed at once.
    TurnedAway(Newcomer),
    /// Something connected to the inner address.
    LinkOpened,
    /// A link's bytes, of which these frames were carried out, in order.
    Frames(Vec<u8>),
    /// Bytes of a client.
    Bytes(u32),
    /// A connection is gone.
    Closed(CloseCause),
    /// A batch of another shard.
    Batch(ShardId),
    /// A time-out.
    Timeout,
    /// The register's wish.
    Wish,
    /// A link can be written again.
    Drained,
}

/// A defect put into the core's surroundings on purpose, to prove that the checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Every seventh batch between shards is lost.
    LoseBatch,
    /// Events that come back from a dead link are in the wrong order.
    ReorderReturned,
    /// Events that come back from a dead link are lost.
    LoseReturned,
    /// UNBIND_UID has no effect.
    ForgetUnbind,
    /// The end of a client's connection goes unnoticed.
    ForgetClose,
    /// An event that was written already comes back all the same.
    ReturnTwice,
    /// A dispatcher does not hear which names a gateway holds, every fifth time.
    LoseNames,
    /// A dispatcher keeps no event until it is acknowledged.
    ForgetUnacknowledged,
    /// A dispatcher takes itself for the home of every gateway.
    CoverTwice,
    /// Past the kernel, every fiftieth frame is not handed to the shard that owns it.
    MissteerFrame,
    /// Past the kernel, nothing reaches every fifth client.
    SwallowFrames,
}

impl Plant {
    /// The cluster that has what it spoils.
    pub fn cluster(self) -> Cluster {
        match self {
            Self::LoseBatch
            | Self::ReorderReturned
            | Self::LoseReturned
            | Self::ForgetUnbind
            | Self::ForgetClose
            | Self::ReturnTwice
            | Self::MissteerFrame
            | Self::SwallowFrames => Cluster::Direct,
            Self::LoseNames | Self::ForgetUnacknowledged | Self::CoverTwice => Cluster::Dispatched,
        }
    }

    /// Whether it spoils what is only past the kernel.
    pub fn is_past_kernel(self) -> bool {
        matches!(self, Self::MissteerFrame | Self::SwallowFrames)
    }

    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::LoseBatch,
        Self::ReorderReturned,
        Self::LoseReturned,
        Self::ForgetUnbind,
        Self::ForgetClose,
        Self::ReturnTwice,
        Self::LoseNames,
        Self::ForgetUnacknowledged,
        Self::CoverTwice,
        Self::MissteerFrame,
        Self::SwallowFrames,
    ];
}

impl Watched {
    /// A shard whose inner listener is door `inner`.
    pub(crate) fn new(gateway: Gateway, inner: Door, plant: Option<Plant>) -> Self {
        let live = BTreeMap::new();
        Self { gateway, inner, live, journal: Vec::new(), plant, batches: 0 }
    }

    /// The core.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// As [`Gateway::set_home_wish`].
    pub(crate) fn set_home_wish(&mut self, now: Instant, wish: Option<&str>, sink: &mut impl Sink) {
        let before = self.gateway.stats();
        self.gateway.set_home_wish(now, wish, sink);
        self.record(What::Wish, before);
    }

    /// What happened since the last time this was asked.
    pub(crate) fn take_journal(&mut self) -> Vec<Call> {
        core::mem::take(&mut self.journal)
    }

    fn record(&mut self, what: What, before: Stats) {
        let after = self.gateway.stats();
        let mut gone = Vec::new();
        if after.clients != self.live.len() as u64 {
            let gateway = &self.gateway;
            self.live.retain(|conn, id| {
                let here = matches!(gateway.describe(*conn),
                    Some(Described::Client { connection_id, .. }) if connection_id == *id);
                if !here {
                    gone.push(*id);
                }
                here
            });
        }
        let workers = self.gateway.workers().count();
        self.journal.push(Call { what, before, after, workers, gone });
    }

    /// Makes UNBIND_UID mean nothing in bytes that are about to be shown.
    fn forget_unbind(bytes: &mut [u8]) {
        let mut at = 0;
        while let Ok(Some((frame, len))) = InnerFrame::decode(&bytes[at..], usize::MAX) {
            if frame.header.command == Command::UnbindUid as u8 {
                bytes[at + 4] = Command::Ping as u8;
            }
            at += len;
        }
    }

    fn spoil_unsent(&self, unsent: &[u8]) -> Vec<u8> {
        let mut frames = Vec::new();
        let mut rest = unsent;
        while let Ok(Some((_, len))) = InnerFrame::decode(rest, usize::MAX) {
            let (frame, tail) = rest.split_at(len);
            frames.push(frame);
            rest = tail;
        }
        match self.plant {
            Some(Plant::ReorderReturned) => frames.reverse(),
            Some(Plant::LoseReturned) => frames.clear(),
            Some(Plant::ReturnTwice) => {
                if let Some(first) = frames.first() {
                    frames.push(first);
                }
            }
            Some(
                Plant::LoseBatch
                | Plant::ForgetUnbind
                | Plant::ForgetClose
                | Plant::LoseNames
                | Plant::ForgetUnacknowledged
                | Plant::CoverTwice
                | Plant::MissteerFrame
                | Plant::SwallowFrames,
            )
            | None => {}
        }
        frames.concat()
    }
}

/// The first `count` frames of `bytes`.
fn leading_frames(bytes: &[u8], count: u64) -> Vec<u8> {
    let mut at = 0;
    for _ in 0..count {
        if let Ok(Some((_, len))) = InnerFrame::decode(&bytes[at..], usize::MAX) {
            at += len;
        }
    }
    bytes[..at].to_vec()
}

impl App for Watched {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        let before = self.gateway.stats();
        self.gateway.handle_open(now, opened, sink);
        let newcomer = Newcomer { conn: opened.conn, port: opened.peer.port() };
        let what = match self.gateway.describe(opened.conn) {
            Some(Described::Client { connection_id, .. }) => {
                self.live.insert(opened.conn, connection_id);
                What::Opened(connection_id, newcomer)
            }
            Some(Described::Worker { .. } | Described::OutsideClient) => What::LinkOpened,
            None => What::TurnedAway(newcomer),
        };
        debug_assert_eq!(opened.door == self.inner, matches!(what, What::LinkOpened));
        self.record(what, before);
    }

    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let before = self.gateway.stats();
        let client = self.live.get(&conn).copied();
        let shown = if client.is_none() { bytes.to_vec() } else { Vec::new() };
        if client.is_none() && self.plant == Some(Plant::ForgetUnbind) {
            Self::forget_unbind(bytes);
        }
        let consumed = self.gateway.handle_bytes(now, conn, bytes, sink);
        let what = match client {
            Some(id) => What::Bytes(id),
            None => {
                let handled = self.gateway.stats().commands - before.commands;
                What::Frames(leading_frames(&shown, handled))
            }
        };
        self.record(what, before);
        consumed
    }

    fn handle_closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        cause: CloseCause,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        let before = self.gateway.stats();
        let is_client = self.live.contains_key(&conn);
        if is_client && self.plant == Some(Plant::ForgetClose) {
            return;
        }
        if !is_client && self.plant.is_some() {
            let unsent = self.spoil_unsent(unsent);
            self.gateway.handle_closed(now, conn, cause, &unsent, sink);
        } else {
            self.gateway.handle_closed(now, conn, cause, unsent, sink);
        }
        self.record(What::Closed(cause), before);
    }

    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let before = self.gateway.stats();
        self.gateway.handle_drained(now, conn, sink);
        self.record(What::Drained, before);
    }

    fn handle_mesh(&mut self, now: Instant, from: ShardId, batch: &mut [u8], sink: &mut impl Sink) {
        let before = self.gateway.stats();
        self.batches += 1;
        if self.plant != Some(Plant::LoseBatch) || !self.batches.is_multiple_of(7) {
            self.gateway.handle_mesh(now, from, batch, sink);
        }
        self.record(What::Batch(from), before);
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        let before = self.gateway.stats();
        self.gateway.handle_timeout(now, sink);
        self.record(What::Timeout, before);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.gateway.poll_timeout()
    }
}
