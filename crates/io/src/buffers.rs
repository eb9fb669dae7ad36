//! A shard's pool of byte queues: unconsumed input and unwritten output live here, only while there is any.
//!
//! A queue that is given back keeps its allocation for the next user, up to a total; large allocations are freed. In
//! steady state nothing is allocated. One unused queue costs 80 bytes beside its buffer.

use core::num::NonZeroU32;
use core::ops::{Index, IndexMut};

use crate::limits::{BUFFER_BYTES, BUFFER_KEPT_BYTES_MAX, POOL_BYTES_MAX};

/// A queue taken from the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(NonZeroU32);

impl BufferId {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Bytes with a consumed front.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Everything kept; users append here.
    pub(crate) bytes: Vec<u8>,
    /// How many leading bytes are done with.
    start: usize,
    /// Start of the first frame of which not every byte is done with, at most `start`; only for whole frames.
    frame_start: usize,
    /// Tell the app when at most so many bytes remain.
    pub(crate) mark: Option<usize>,
    /// Where messages begin that may be dropped, ascending. Past 4 GiB none begins.
    messages: Vec<u32>,
    /// Bytes of it by which the peer's window was made smaller.
    pub(crate) held: u32,
    /// What it counts for in [`Buffers::charged_bytes`].
    charged: usize,
}

impl Queue {
    /// Bytes not done with.
    pub(crate) fn pending(&self) -> &[u8] {
        // An app may have shortened its buffer; then nothing is left of what it took away.
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// As [`Queue::pending`], writable.
    pub(crate) fn pending_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    /// Is done with `count` more bytes. Moving the rest to the front waits until it is no longer than what it moves
    /// over, so that all moves together cost no more than the bytes that passed.
    pub(crate) fn advance(&mut self, count: usize, keep: Keep) {
        self.start += count;
        let kept_from = match keep {
            Keep::Rest => self.start,
            Keep::Frames => self.whole_frames_from(),
        };
        if kept_from * 2 >= self.bytes.len() {
            self.bytes.drain(..kept_from.min(self.bytes.len()));
            self.start -= kept_from;
            self.frame_start = 0;
            self.messages.retain_mut(|at| {
                let passed = (*at as usize) < kept_from;
                *at = at.saturating_sub(u32::try_from(kept_from).unwrap_or(u32::MAX));
                !passed
            });
        }
    }

    /// A new message begins behind what is pending, unless nothing is.
    pub(crate) fn begin_message(&mut self) {
        if !self.is_empty()
            && let Ok(at) = u32::try_from(self.bytes.len())
            && self.messages.last() != Some(&at)
        {
            self.messages.push(at);
        }
    }

    /// Drops messages of which no byte is done with, the oldest first, until at most `len_max` bytes are pending.
    /// Returns how many.
    pub(crate) fn drop_oldest(&mut self, len_max: usize) -> usize {
        let first = self.messages.partition_point(|at| (*at as usize) < self.start);
        let excess = self.len().saturating_sub(len_max);
        let Some(&from) = self.messages.get(first).filter(|_| excess > 0) else { return 0 };
        let behind = &self.messages[first + 1..];
        let dropped = 1 + behind.partition_point(|at| ((at - from) as usize) < excess);
        let to = self.messages.get(first + dropped).copied();
        let end = to.map_or(self.bytes.len(), |to| to as usize);
        self.bytes.drain(from as usize..end);
        self.messages.drain(..first + dropped);
        for at in &mut self.messages {
            *at -= to.unwrap_or(from) - from;
        }
        dropped
    }

    /// What is not done with, from the start of its first frame when frames are kept.
    pub(crate) fn unsent(&mut self, keep: Keep) -> &[u8] {
        match keep {
            Keep::Rest => self.pending(),
            Keep::Frames => {
                let from = self.whole_frames_from();
                self.bytes.get(from..).unwrap_or_default()
            }
        }
    }

    /// Steps over the frames that are wholly done with. A length that cannot be one ends the walk.
    fn whole_frames_from(&mut self) -> usize {
        while let Some(head) =
            self.bytes.get(self.frame_start..).and_then(|rest| rest.first_chunk::<4>())
        {
            let frame_len = u32::from_be_bytes(*head) as usize;
            if frame_len < head.len() || self.frame_start + frame_len > self.start {
                break;
            }
            self.frame_start += frame_len;
        }
        self.frame_start
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.frame_start = 0;
        self.mark = None;
        self.held = 0;
        // Only peers that do not read have these, so there is nothing to keep them for.
        self.messages = Vec::new();
    }
}

/// What a queue keeps of the bytes it is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing.
    Rest,
    /// The front of a frame (u32 big-endian length first) that is partly done with.
    Frames,
}

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    queues: Vec<Queue>,
    free: Vec<BufferId>,
    /// Capacity of the free queues together.
    free_bytes: usize,
    /// What queues that outlive a turn take.
    charged_bytes: usize,
}

impl Buffers {
    /// An empty queue.
    pub(crate) fn take(&mut self) -> BufferId {
        if let Some(id) = self.free.pop() {
            let queue = &mut self.queues[id.index()];
            self.free_bytes -= queue.bytes.capacity();
            queue.bytes.reserve(BUFFER_BYTES);
            return id;
        }
        self.queues.push(Queue { bytes: Vec::with_capacity(BUFFER_BYTES), ..Queue::default() });
        let count = u32::try_from(self.queues.len()).ok().and_then(NonZeroU32::new);
        BufferId(count.expect(
            "a connection has two queues at most, and there are fewer than 2^31 connections",
        ))
    }

    /// Takes a queue back, whatever it holds.
    pub(crate) fn give(&mut self, id: BufferId) {
        let queue = &mut self.queues[id.index()];
        self.charged_bytes -= core::mem::take(&mut queue.charged);
        queue.clear();
        let capacity = queue.bytes.capacity();
        if capacity > BUFFER_KEPT_BYTES_MAX || self.free_bytes + capacity > POOL_BYTES_MAX {
            queue.bytes = Vec::new();
        }
        self.free_bytes += queue.bytes.capacity();
        self.free.push(id);
    }

    /// Counts what a queue that stays takes now, beside what the peer's window was made smaller by.
    pub(crate) fn charge(&mut self, id: BufferId) {
        let queue = &mut self.queues[id.index()];
        let charged = queue.bytes.capacity().saturating_sub(queue.held as usize);
        self.charged_bytes = self.charged_bytes - queue.charged + charged;
        queue.charged = charged;
    }

    /// Bytes of queues that outlived a turn.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.charged_bytes
    }

    /// Queues in use.
    pub(crate) fn used_count(&self) -> usize {
        self.queues.len() - self.free.len()
    }

    /// Capacity kept for later use.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

impl Index<BufferId> for Buffers {
    type Output = Queue;

    fn index(&self, id: BufferId) -> &Queue {
        &self.queues[id.index()]
    }
}

impl IndexMut<BufferId> for Buffers {
    fn index_mut(&mut self, id: BufferId) -> &mut Queue {
        &mut self.queues[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: u8) -> Vec<u8> {
        let mut frame = vec![len; usize::from(len)];
        frame[..4].copy_from_slice(&u32::from(len).to_be_bytes());
        frame
    }

    #[test]
    fn unsent_starts_at_the_first_frame_not_wholly_written() {
        let frames: Vec<u8> = [frame(5), frame(4), frame(30), frame(9)].concat();
        let starts = [0, 5, 9, 39, 48];
        for first in 0..=frames.len() {
            for second in 0..=frames.len() - first {
                let mut queue = Queue { bytes: frames.clone(), ..Queue::default() };
                queue.advance(first, Keep::Frames);
                queue.advance(second, Keep::Frames);
                let from = starts.into_iter().rfind(|&start| start <= first + second).unwrap();
                assert_eq!(
                    queue.unsent(Keep::Frames),
                    &frames[from..],
                    "written {first} and {second}"
                );
                assert_eq!(queue.pending(), &frames[first + second..]);
            }
        }
    }

    #[test]
    fn the_oldest_messages_are_dropped_whole_and_none_whose_front_is_written() {
        let messages: Vec<Vec<u8>> = (1..=9).map(|len| vec![len; usize::from(len)]).collect();
        let starts: Vec<usize> = (0..=9).map(|at| messages[..at].concat().len()).collect();
        let all = messages.concat();
        for (written, len_max) in (0..45).flat_map(|written| (0..45).map(move |max| (written, max)))
        {
            let mut queue = Queue::default();
            for message in &messages {
                // Of the first one nothing is known: the queue is empty when it begins.
                queue.begin_message();
                queue.bytes.extend(message);
            }
            // In two steps, so that the rest may have moved to the front before.
            queue.advance(written / 2, Keep::Rest);
            queue.advance(written - written / 2, Keep::Rest);

            let first = (1..9).find(|at| starts[*at] >= written).unwrap_or(9);
            let left = |dropped: usize| {
                let from = starts[(first + dropped).min(9)];
                [&all[written..starts[first]], &all[from..]].concat()
            };
            let dropped = (0..9 - first).find(|count| left(*count).len() <= len_max);
            let dropped = dropped.unwrap_or(9 - first);
            assert_eq!(queue.drop_oldest(len_max), dropped, "{written} written, {len_max} kept");
            assert_eq!(queue.pending(), left(dropped), "{written} written, {len_max} kept");
            // What is kept is still in messages.
            assert_eq!(queue.drop_oldest(0), 9 - first - dropped);
            assert_eq!(queue.pending(), &all[written..starts[first]]);
        }
    }

    #[test]
    fn impossible_frame_length_is_given_back_as_it_is() {
        let mut queue = Queue { bytes: vec![0, 0, 0, 3, 9, 9, 9, 9, 9], ..Queue::default() };
        queue.advance(6, Keep::Frames);
        assert_eq!(queue.unsent(Keep::Frames), [0, 0, 0, 3, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn large_and_surplus_buffers_are_freed() {
        let mut pool = Buffers::default();
        let large = pool.take();
        pool[large].bytes.reserve(BUFFER_KEPT_BYTES_MAX + 1);
        pool.give(large);
        assert_eq!(pool.free_bytes(), 0);
        let all: Vec<BufferId> = (0..100).map(|_| pool.take()).collect();
        for &id in &all {
            pool[id].bytes.reserve_exact(BUFFER_KEPT_BYTES_MAX);
        }
        all.into_iter().for_each(|id| pool.give(id));
        assert!(pool.free_bytes() <= POOL_BYTES_MAX);
        assert_eq!(pool.used_count(), 0);
    }
}
