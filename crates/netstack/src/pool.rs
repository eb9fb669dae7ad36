//! The shard's chunks: bytes that wait to be sent, acknowledged or put in order live here, and nowhere else.
//!
//! Two sizes, so that one short message for each of a million clients does not take 2 KiB for each. A chunk given back is
//! kept for the next user. What is allocated never exceeds the limit; what is in use, together with the bytes that the
//! application says it holds, does not either.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::limits::{CHUNK_LEN, SMALL_CHUNK_LEN};

/// Bytes with a consumed front.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Box<[u8]>,
    start: u16,
    end: u16,
}

impl Chunk {
    /// What is in it.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..usize::from(self.end)]
    }

    /// How much is in it.
    pub(crate) fn len(&self) -> u16 {
        self.end - self.start
    }

    /// Appends what fits and returns how much that was.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.bytes[usize::from(self.end)..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.end += u16::try_from(count).expect("a chunk is shorter than 64 KiB");
        count
    }

    /// Drops bytes from the front, at most what there is.
    pub(crate) fn advance(&mut self, count: u16) {
        self.start = (self.start + count).min(self.end);
    }
}

/// All chunks of a shard.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    spare: Vec<Box<[u8]>>,
    spare_small: Vec<Box<[u8]>>,
    /// Bytes of all chunks that exist.
    allocated: usize,
    /// Bytes of chunks in use, and bytes that the application holds.
    used: usize,
    /// Bytes that the shell keeps for connections, which count as used.
    outside: usize,
    limit: usize,
}

impl ChunkPool {
    /// An empty pool of at most `limit` bytes.
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            spare: Vec::new(),
            spare_small: Vec::new(),
            allocated: 0,
            used: 0,
            outside: 0,
            limit,
        }
    }

    /// A chunk for `len` bytes or, when there are more, for the first of them. `None` when the pool is exhausted.
    pub(crate) fn take(&mut self, len: usize) -> Option<Chunk> {
        let is_small = len <= usize::from(SMALL_CHUNK_LEN);
        let size = usize::from(if is_small { SMALL_CHUNK_LEN } else { CHUNK_LEN });
        if self.used() + size > self.limit {
            return None;
        }
        let (spare, others) = if is_small {
            (&mut self.spare_small, &mut self.spare)
        } else {
            (&mut self.spare, &mut self.spare_small)
        };
        let bytes = spare.pop().or_else(|| {
            while self.allocated + size > self.limit {
                self.allocated -= others.pop()?.len();
            }
            self.allocated += size;
            Some(vec![0; size].into_boxed_slice())
        })?;
        self.used += size;
        Some(Chunk { bytes, start: 0, end: 0 })
    }

    /// Takes a chunk back.
    pub(crate) fn give(&mut self, chunk: Chunk) {
        self.used -= chunk.bytes.len();
        if chunk.bytes.len() == usize::from(CHUNK_LEN) {
            self.spare.push(chunk.bytes);
        } else {
            self.spare_small.push(chunk.bytes);
        }
    }

    /// The application holds `count` bytes more. They are counted even beyond the limit: they exist already.
    pub(crate) const fn hold(&mut self, count: u32) {
        self.used += count as usize;
    }

    /// The application holds `count` bytes less.
    pub(crate) const fn release(&mut self, count: u32) {
        self.used -= count as usize;
    }

    /// Bytes in use.
    pub(crate) const fn used(&self) -> usize {
        self.used + self.outside
    }

    /// Bytes that may be in use.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// The shell keeps so many bytes for connections. They are counted even beyond the limit: they exist already.
    pub(crate) const fn set_outside(&mut self, bytes: usize) {
        self.outside = bytes;
    }

    /// Whether there is nothing left for most of those who ask.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.used() > self.limit - self.limit / 64
    }

    /// Whether so little is left that what exists needs it: one sixteenth.
    pub(crate) const fn is_nearly_empty(&self) -> bool {
        self.used() > self.limit - self.limit / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_for_both_sizes_together_and_spares_change_size() {
        let limit = usize::from(CHUNK_LEN) * 4;
        let mut pool = ChunkPool::new(limit);
        for len in [usize::from(CHUNK_LEN), 1, 5_000] {
            let mut taken = Vec::new();
            while let Some(chunk) = pool.take(len) {
                taken.push(chunk);
            }
            let size = if len == 1 { SMALL_CHUNK_LEN } else { CHUNK_LEN };
            assert_eq!(taken.len(), limit / usize::from(size), "{len}");
            assert_eq!(pool.used(), limit);
            assert!(pool.allocated <= limit);
            taken.into_iter().for_each(|chunk| pool.give(chunk));
            assert_eq!(pool.used(), 0);
        }
    }

    #[test]
    fn held_bytes_leave_less_for_chunks() {
        let mut pool = ChunkPool::new(usize::from(CHUNK_LEN) * 2);
        pool.hold(u32::from(CHUNK_LEN) + 1);
        assert!(pool.take(2_000).is_none());
        pool.release(1);
        assert!(pool.take(2_000).is_some());
        assert!(pool.is_nearly_empty());
    }
}
