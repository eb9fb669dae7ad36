//! A dispatcher with a witness: which bytes of gateways it took, and how many events in them it counted.
//!
//! What it does with them shows at its workers. An event that is neither on the way there, nor given back, nor counted as
//! dropped, is one that the dispatcher has lost.

use tengate_base::{App, CloseCause, ConnId, Instant, Opened, ShardId, Sink};
use tengate_proto::dispatcher::{Described, Dispatcher};
use tengate_proto::wire::extension::Extension;
use tengate_proto::wire::header::InnerFrame;

use crate::watched::Plant;

/// A dispatcher and what it took.
#[derive(Debug)]
pub(crate) struct Witness {
    dispatcher: Dispatcher,
    journal: Vec<Taken>,
    plant: Option<Plant>,
    /// Frames seen that a plant is about.
    seen: u32,
}

/// Bytes of a gateway that a dispatcher took.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The link, in the dispatcher's shell.
    pub(crate) conn: ConnId,
    /// How many bytes.
    pub(crate) bytes: usize,
    /// How many events it counted in them: the first ones there are.
    pub(crate) events: u64,
}

impl Witness {
    /// Watches a dispatcher.
    pub(crate) fn new(dispatcher: Dispatcher, plant: Option<Plant>) -> Self {
        Self { dispatcher, journal: Vec::new(), plant, seen: 0 }
    }

    /// The core.
    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// The core, to be told something.
    pub(crate) fn dispatcher_mut(&mut self) -> &mut Dispatcher {
        &mut self.dispatcher
    }

    /// What it took since the last time this was asked.
    pub(crate) fn take_journal(&mut self) -> Vec<Taken> {
        core::mem::take(&mut self.journal)
    }

    /// Makes frames mean nothing that a plant is about. Whether a gateway has just said who it is.
    fn spoil(&mut self, bytes: &mut [u8]) -> bool {
        let mut is_welcome = false;
        let mut at = 0;
        while let Ok(Some((frame, len))) = InnerFrame::decode(&bytes[at..], usize::MAX) {
            let command = Extension::from_number(frame.header.command);
            is_welcome |= command == Some(Extension::Welcome);
            self.seen += u32::from(command == Some(Extension::Names));
            let is_lost = match self.plant {
                Some(Plant::LoseNames) => {
                    command == Some(Extension::Names) && self.seen.is_multiple_of(5)
                }
                Some(Plant::ForgetUnacknowledged) => command == Some(Extension::Ack),
                _ => false,
            };
            let frame = &mut bytes[at..at + len];
            if is_lost {
                frame[4] = UNKNOWN;
            }
            let offer = frame.windows(OFFER.len()).position(|part| part == OFFER);
            if let Some(offer) = offer
                && self.plant == Some(Plant::ForgetUnacknowledged)
            {
                frame[offer + 1] = b'-';
            }
            at += len;
        }
        is_welcome
    }
}

/// How a worker offers to acknowledge.
const OFFER: &[u8] = b"\"ack\":true";
/// A command nobody knows.
const UNKNOWN: u8 = 250;

impl App for Witness {
    fn handle_open(&mut self, now: Instant, opened: &Opened, sink: &mut impl Sink) {
        self.dispatcher.handle_open(now, opened, sink);
    }

    fn handle_bytes(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &mut [u8],
        sink: &mut impl Sink,
    ) -> usize {
        let from_gateway =
            matches!(self.dispatcher.describe(conn), Some(Described::Gateway { .. }));
        let is_welcome = self.plant.is_some() && self.spoil(bytes);
        let before = self.dispatcher.stats().events;
        let consumed = self.dispatcher.handle_bytes(now, conn, bytes, sink);
        if from_gateway {
            let events = self.dispatcher.stats().events - before;
            self.journal.push(Taken { conn, bytes: consumed, events });
        }
        if is_welcome && self.plant == Some(Plant::CoverTwice) {
            let mut home = Vec::new();
            Extension::Home.encode(0, b"1", &mut home);
            self.dispatcher.handle_bytes(now, conn, &mut home, sink);
        }
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
        self.dispatcher.handle_closed(now, conn, cause, unsent, sink);
    }

    fn handle_drained(&mut self, now: Instant, conn: ConnId, sink: &mut impl Sink) {
        self.dispatcher.handle_drained(now, conn, sink);
    }

    fn handle_mesh(&mut self, now: Instant, from: ShardId, batch: &mut [u8], sink: &mut impl Sink) {
        self.dispatcher.handle_mesh(now, from, batch, sink);
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        self.dispatcher.handle_timeout(now, sink);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.dispatcher.poll_timeout()
    }
}
