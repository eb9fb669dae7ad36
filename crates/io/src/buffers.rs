//! A shard's pool of byte queues: unconsumed input and unwritten output live here, only while there is any.
//!
//! A queue that is given back keeps its allocation for the next user, up to a total; large allocations are freed. In
//! steady state nothing is allocated. One unused queue costs 56 bytes beside its buffer.

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
        }
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
        queue.clear();
        let capacity = queue.bytes.capacity();
        if capacity > BUFFER_KEPT_BYTES_MAX || self.free_bytes + capacity > POOL_BYTES_MAX {
            queue.bytes = Vec::new();
        }
        self.free_bytes += queue.bytes.capacity();
        self.free.push(id);
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
