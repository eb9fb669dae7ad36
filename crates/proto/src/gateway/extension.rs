//! What a dispatcher and its gateway say to each other over their link, beside events, commands and answers
//! (docs/protocol.md#extension).
//!
//! A home that is to be another's: shard 0 says DETACH to all shards, each sends its last event and says so to the link's
//! shard, which then says it to the dispatcher. What comes back goes to the clients' shards, and when the dispatcher has
//! said that this was all, they go on with the next home.

use alloc::vec::Vec;
use core::net::SocketAddrV4;

use tengate_base::{ConnId, How, Instant, ShardId, Sink};

use super::Gateway;
use super::client::Pause;
use super::directory::DIRECTORY;
use super::link::Next;
use super::mesh::{LinkId, Mesh};
use super::question::Question;
use crate::wire::extension::{Extension, Offer, Shards, VERSION, Welcome};
use crate::wire::header::InnerFrame;

/// What a dispatcher is to its gateway, as the link's shard knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may become the home.
    Candidate,
    /// It gets the events of every client.
    Home,
    /// It got them, and gives back what it cannot deliver.
    Leaving,
}

/// Whether this dispatcher can be talked to.
pub(super) fn is_usable(offer: &Offer<'_>) -> bool {
    let address = offer.dispatcher.as_deref().map(str::parse::<SocketAddrV4>);
    offer.version >= VERSION && address.is_some_and(|address| address.is_ok())
}

impl Gateway {
    /// Tells a dispatcher whom it has reached.
    pub(super) fn welcome(&self, conn: ConnId, sink: &mut impl Sink) {
        let shards = Shards {
            first_proc_id: self.first_proc_id,
            count: self.config.shards,
            number_bits: self.config.number_bits,
        };
        let welcome = Welcome { version: VERSION, gateway: Some(shards), ..Welcome::default() };
        let mut body = Vec::new();
        welcome.encode(&mut body);
        Extension::Welcome.encode(0, &body, sink.buffer(conn));
    }

    /// Closes the link of a dispatcher that has no business here.
    pub(super) fn refuse_dispatcher(
        &mut self,
        now: Instant,
        conn: ConnId,
        sink: &mut impl Sink,
    ) -> Next {
        self.stats.dispatcher_refused += 1;
        self.close_link(now, conn, How::AfterFlush, sink);
        Next::Stop
    }

    /// A frame whose command is none of GatewayWorker's.
    #[cold]
    pub(super) fn handle_extension(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let standing = self.link_mut(conn).and_then(|link| link.standing);
        let command = Extension::from_number(frame.header.command);
        match (command, standing) {
            (Some(Extension::Fence | Extension::ListNames), Some(_)) => {
                if let Some(question) = Question::of(frame.header.command) {
                    self.handle_question(now, conn, question, frame, encoded, sink);
                }
            }
            (Some(Extension::Pace), Some(Standing::Home | Standing::Leaving)) => {
                let client = frame.header.connection_id;
                if let (Some(link), Some(shard)) = (self.link_id(conn), self.owner(client)) {
                    let stop = frame.body != b"0";
                    self.tell(now, shard, &Mesh::PaceClient { link, client, stop }, sink);
                }
            }
            (Some(Extension::Drain), Some(_)) => {
                if let Some(link) = self.link_id(conn) {
                    self.tell(now, DIRECTORY, &Mesh::Drain { link }, sink);
                }
            }
            (Some(Extension::Detach), Some(Standing::Leaving)) => {
                self.end_detach(now, conn, sink);
            }
            _ => self.stats.command_ignored += 1,
        }
    }

    /// A dispatcher gives an event back that it could not deliver.
    #[cold]
    pub(super) fn handle_returned(
        &mut self,
        now: Instant,
        conn: ConnId,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let standing = self.link_mut(conn).and_then(|link| link.standing);
        match (standing, self.link_id(conn), self.owner(frame.header.connection_id)) {
            (Some(Standing::Leaving), Some(link), Some(shard)) => {
                self.stats.events_returned += 1;
                self.tell(now, shard, &Mesh::Return { link, frame: encoded }, sink);
            }
            _ => self.stats.command_ignored += 1,
        }
    }

    /// Whether the dispatcher behind a link of this shard is the home, or was it until just now.
    pub(super) fn is_home(&mut self, link: LinkId) -> bool {
        self.is_link(link)
            && self.link_mut(link.conn).is_some_and(|link| {
                matches!(link.standing, Some(Standing::Home | Standing::Leaving))
            })
    }

    /// All shards are told of a new home, this one too. If the link is here, so is the dispatcher.
    #[cold]
    pub(super) fn greet_home(&mut self, link: LinkId, sink: &mut impl Sink) {
        self.hints.home = Some(link);
        if link.shard == self.shard
            && self.is_link(link)
            && let Some(home) = self.link_mut(link.conn)
        {
            home.standing = Some(Standing::Home);
            Extension::Home.encode(0, b"1", sink.buffer(link.conn));
        }
    }

    /// The home is to be another: its events are held, and its shard is told so.
    #[cold]
    pub(super) fn handle_detach(&mut self, now: Instant, link: LinkId, sink: &mut impl Sink) {
        if self.workers.detach(link) {
            self.tell(now, link.shard, &Mesh::DownAck { link }, sink);
        }
    }

    /// A shard has sent its last event for a link. What the link cannot write comes back when it is gone, and is older than
    /// what that shard will send elsewhere.
    #[cold]
    pub(super) fn handle_down_ack(
        &mut self,
        now: Instant,
        from: ShardId,
        link: LinkId,
        sink: &mut impl Sink,
    ) {
        let shards = usize::from(self.config.shards);
        let Some(open) = self.open_link_mut(link) else {
            return self.tell(now, from, &Mesh::Drained { link }, sink);
        };
        open.waiting_shards.push(from);
        if open.standing == Some(Standing::Home)
            && open.waiting_shards.len() == shards
            && self.is_link(link)
        {
            self.begin_detach(now, link.conn, sink);
        }
    }

    /// Every event for a dispatcher is in its link's queue: it is told that there will be no more.
    fn begin_detach(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let deadline = now + self.config.detach_timeout;
        let Some(link) = self.link_mut(conn) else { return };
        link.standing = Some(Standing::Leaving);
        Extension::Detach.encode(0, b"", sink.buffer(conn));
        self.wheel.set(conn.0, deadline);
    }

    /// A dispatcher has given everything back. Its link gets another serial, so that nothing that is still said of its time
    /// as the home is taken for the next time.
    fn end_detach(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        let serial = self.take_serial();
        let Some(id) = self.link_id(conn) else { return };
        let Some(link) = self.link_mut(conn) else { return };
        link.standing = Some(Standing::Candidate);
        link.serial = serial;
        link.slow = false;
        let shards = core::mem::take(&mut link.waiting_shards);
        self.arm_ping(now, conn);
        // First the next home, so that as many events as possible find it there.
        self.tell(now, DIRECTORY, &Mesh::Detached { link: id, serial }, sink);
        for shard in shards {
            self.tell(now, shard, &Mesh::Drained { link: id }, sink);
        }
    }

    /// The home wants a client of this shard read no further, or again.
    #[cold]
    pub(super) fn handle_pace_client(
        &mut self,
        link: LinkId,
        client: u32,
        stop: bool,
        sink: &mut impl Sink,
    ) {
        let Some(conn) = self.find(client) else { return };
        if stop {
            self.pause(conn, Some(link), Pause::Home, sink);
        } else {
            self.unpause(conn, Pause::Home, sink);
        }
    }
}
