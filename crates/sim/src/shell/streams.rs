//! Shards past the kernel: their clients' connections are streams of a stack of their own, in the very shell code that serves
//! users; only the queue of frames below it is memory.

use core::mem;

use tengate_base::{App, ConnId, Instant, ShardId};
use tengate_io::streams::{self, StreamSink, Streams};
use tengate_netstack::{Device, DeviceFull, flow_hash};

use super::{Memory, Place, Shell};

/// What a shard has past the kernel.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) streams: Streams<Outbox>,
    /// When the present turn, or call, began.
    pub(super) now: Instant,
    /// Frames for this shard, and whether another shard handed them over.
    arrived: Vec<(Vec<u8>, Handed)>,
    /// Frames that came to this shard's queue and belong to others, by owner.
    for_others: Vec<Vec<Vec<u8>>>,
    is_congested: bool,
    /// The last turn ended before all was said.
    is_unsettled: bool,
}

/// How a frame came to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// By its own queue: it may belong to another shard.
    No,
    /// By the shard to whose queue it came.
    Over,
}

/// A queue of frames on their way out, with room for so many.
#[derive(Debug)]
pub struct Outbox {
    frames: Vec<Vec<u8>>,
    room: usize,
}

impl Outbox {
    /// An empty one that holds so many frames at a time.
    pub fn new(room: usize) -> Self {
        Self { frames: Vec::new(), room }
    }

    /// What is to go out.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        mem::take(&mut self.frames)
    }
}

impl Device for Outbox {
    fn transmit(&mut self, parts: &[&[u8]]) -> Result<(), DeviceFull> {
        if self.frames.len() >= self.room {
            return Err(DeviceFull);
        }
        self.frames.push(parts.concat());
        Ok(())
    }
}

impl Place {
    /// Where a stream is.
    pub(crate) fn of_stream(shard: ShardId, conn: ConnId) -> Self {
        Self { shard, conn, serial: 0 }
    }
}

impl Memory {
    /// The stream that the app calls `conn`, if it is one.
    pub(super) fn stream_of(&mut self, conn: ConnId) -> Option<(&mut Streams<Outbox>, u32)> {
        let index = conn.0.checked_sub(STREAMS_FIRST)?;
        Some((&mut self.past.as_deref_mut()?.streams, index))
    }

    /// A call of the app begins outside of a turn.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(past) = &mut self.past {
            past.now = now;
            past.streams.begin_turn(now);
        }
    }
}

impl StreamSink for Memory {
    type Device = Outbox;

    fn streams(&mut self) -> &mut Streams<Outbox> {
        &mut self.past.as_deref_mut().expect("asked for by shards that have streams").streams
    }

    fn is_congested(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.is_congested)
    }
}

impl<A: App> Shell<A> {
    /// Gives a shard streams, whose first index is [`STREAMS_FIRST`].
    pub(crate) fn attach(&mut self, shard: ShardId, streams: Streams<Outbox>) {
        let count = self.shards.len();
        let past = Past {
            streams,
            now: self.now,
            arrived: Vec::new(),
            for_others: vec![Vec::new(); count],
            is_congested: false,
            is_unsettled: false,
        };
        self.shards[usize::from(shard.0)].1.past = Some(Box::new(past));
    }

    /// A shard's streams.
    pub(crate) fn streams(&self, shard: ShardId) -> Option<&Streams<Outbox>> {
        self.shards[usize::from(shard.0)].1.past.as_ref().map(|past| &past.streams)
    }

    /// A frame reaches a shard, which looks at it in its next turn.
    pub(crate) fn receive_frame(&mut self, shard: ShardId, frame: Vec<u8>, handed: Handed) {
        if let Some(past) = &mut self.shards[usize::from(shard.0)].1.past {
            past.arrived.push((frame, handed));
        }
    }

    /// Whether what a shard has for others finds no room in this turn, so that it should take in no bytes.
    pub(crate) fn set_congested(&mut self, shard: ShardId, is_congested: bool) {
        if let Some(past) = &mut self.shards[usize::from(shard.0)].1.past {
            past.is_congested = is_congested;
        }
    }

    /// Frames that a shard sent since this was asked last.
    pub(crate) fn take_frames(&mut self, shard: ShardId) -> Vec<Vec<u8>> {
        let past = self.shards[usize::from(shard.0)].1.past.as_mut();
        past.map(|past| past.streams.device_mut().take()).unwrap_or_default()
    }

    /// Frames that a shard has for others, by owner.
    pub(crate) fn take_handed(&mut self, shard: ShardId) -> Vec<(ShardId, Vec<Vec<u8>>)> {
        let Some(past) = &mut self.shards[usize::from(shard.0)].1.past else { return Vec::new() };
        let batches = past.for_others.iter_mut().enumerate();
        let full = batches.filter(|(_, frames)| !frames.is_empty());
        full.map(|(owner, frames)| (super::id(owner), mem::take(frames))).collect()
    }

    /// Whether a shard wants a turn although nothing comes.
    pub(crate) fn is_restless(&self, shard: ShardId) -> bool {
        self.shards[usize::from(shard.0)].1.past.as_ref().is_some_and(|past| {
            past.is_unsettled || past.streams.is_device_full() || past.streams.has_work()
        })
    }

    /// The first half of a turn of a shard that has streams: what has arrived, and what is due.
    pub(super) fn take_in(&mut self, shard: usize) {
        let now = self.now;
        let count = self.shards.len();
        let (app, memory) = &mut self.shards[shard];
        memory.begin(now);
        let Some(past) = &mut memory.past else { return };
        for (mut frame, handed) in mem::take(&mut past.arrived) {
            let owner = match handed {
                Handed::Over => None,
                Handed::No => flow_hash(&frame).map(|hash| hash as usize % count),
            };
            match owner.filter(|owner| *owner != shard) {
                Some(owner) => {
                    if let Some(past) = &mut memory.past {
                        past.for_others[owner].push(frame);
                    }
                }
                None => streams::handle_frame(app, memory, &mut frame),
            }
        }
        streams::handle_ready(app, memory);
        streams::handle_timeout(app, memory);
    }

    /// The second half: writes what the app queued and tells it what came of that, which may make it queue more.
    pub(super) fn settle(&mut self, shard: usize) {
        let mut said = true;
        for _ in 0..SETTLE_ROUNDS {
            let memory = &mut self.shards[shard].1;
            if memory.past.is_some() {
                memory.streams().write_dirty();
            }
            said = self.flush(shard);
            let (app, memory) = &mut self.shards[shard];
            if memory.past.is_some() {
                said |= streams::handle_signals(app, memory);
            }
            if !said {
                break;
            }
        }
        let Some(past) = &mut self.shards[shard].1.past else { return };
        past.streams.write_dirty();
        past.streams.end_turn();
        past.is_unsettled = said;
    }
}

/// The app's index of the first stream. Those of other connections are below.
pub(crate) const STREAMS_FIRST: u32 = 256;
/// As the shell of sockets.
const SETTLE_ROUNDS: u32 = 4;
