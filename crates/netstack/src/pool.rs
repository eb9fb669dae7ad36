//! The shard's chunks: bytes that wait to be sent, acknowledged or put in order live here, and nowhere else.
//!
//! Two sizes, so that one short message for each of a million clients does not take 2 KiB for each. A chunk given back is
//! kept for the next user. What is allocated never exceeds the limit; what is in use, together with the bytes that the
//! application says it holds, does not either.
//!
//! What many connections send is there once, in a chunk that counts who refers to it. Whoever is the last gives it back.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::limits::{CHUNK_LEN, SMALL_CHUNK_LEN};
use crate::wire::checksum::Checksum;

/// Bytes with a consumed front.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Box<[u8]>,
    start: u32,
    end: u32,
}

impl Chunk {
    /// What is in it.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// How much is in it.
    pub(crate) const fn len(&self) -> u32 {
        self.end - self.start
    }

    /// How much more it takes.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() - self.end as usize
    }

    /// Appends what fits and returns how much that was.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.bytes[self.end as usize..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.end += u32::try_from(count).expect("a chunk is shorter than 4 GiB");
        count
    }

    /// Drops bytes from the front, at most what there is.
    pub(crate) fn advance(&mut self, count: u32) {
        self.start = (self.start + count).min(self.end);
    }
}

/// Bytes that several connections refer to: a name for them, which counts nothing by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedId(u32);

/// What several connections refer to.
#[derive(Debug)]
struct SharedChunk {
    /// `None` while nobody does.
    chunk: Option<Chunk>,
    /// The sum of all its bytes, for checksums.
    sum: Checksum,
    refs: u32,
}

/// All chunks of a shard.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    spare: Vec<Box<[u8]>>,
    spare_small: Vec<Box<[u8]>>,
    shared: Vec<SharedChunk>,
    /// Places of `shared` that are free.
    shared_free: Vec<u32>,
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
            shared: Vec::new(),
            shared_free: Vec::new(),
            allocated: 0,
            used: 0,
            outside: 0,
            limit,
        }
    }

    /// A chunk for `len` bytes or, when there are more, for the first of them. `None` when the pool is exhausted.
    #[inline]
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
    #[inline]
    pub(crate) fn give(&mut self, chunk: Chunk) {
        let size = chunk.bytes.len();
        self.used -= size;
        if size == usize::from(SMALL_CHUNK_LEN) {
            self.spare_small.push(chunk.bytes);
        } else if size == usize::from(CHUNK_LEN) {
            self.spare.push(chunk.bytes);
        } else {
            self.allocated -= size;
        }
    }

    /// Copies bytes to where several connections can refer to them; the caller is the first who does. They are counted
    /// once, however many there are. `None` when the pool is exhausted.
    pub(crate) fn share(&mut self, bytes: &[u8]) -> Option<SharedId> {
        let mut chunk = if bytes.len() > usize::from(CHUNK_LEN) {
            self.take_long(bytes.len())?
        } else {
            self.take(bytes.len())?
        };
        chunk.append(bytes);
        let mut sum = Checksum::default();
        sum.add(bytes);
        let shared = SharedChunk { chunk: Some(chunk), sum, refs: 1 };
        if let Some(index) = self.shared_free.pop() {
            self.shared[index as usize] = shared;
            return Some(SharedId(index));
        }
        let index = u32::try_from(self.shared.len()).expect("each takes a chunk");
        self.shared.push(shared);
        Some(SharedId(index))
    }

    /// A chunk of its own size, which is not kept afterwards: one allocation for a long message to many is little.
    fn take_long(&mut self, size: usize) -> Option<Chunk> {
        if self.used() + size > self.limit {
            return None;
        }
        while self.allocated + size > self.limit {
            self.allocated -= self.spare.pop().or_else(|| self.spare_small.pop())?.len();
        }
        self.allocated += size;
        self.used += size;
        Some(Chunk { bytes: vec![0; size].into_boxed_slice(), start: 0, end: 0 })
    }

    /// What is shared, and its sum.
    pub(crate) fn shared(&self, id: SharedId) -> (&[u8], Checksum) {
        let shared = &self.shared[id.0 as usize];
        (shared.chunk.as_ref().map_or(&[], Chunk::as_slice), shared.sum)
    }

    /// One more refers to shared bytes.
    pub(crate) fn refer(&mut self, id: SharedId) {
        self.shared[id.0 as usize].refs += 1;
    }

    /// One who referred to shared bytes does so no more.
    pub(crate) fn unrefer(&mut self, id: SharedId) {
        let shared = &mut self.shared[id.0 as usize];
        shared.refs -= 1;
        if shared.refs > 0 {
            return;
        }
        if let Some(chunk) = shared.chunk.take() {
            self.shared_free.push(id.0);
            self.give(chunk);
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

    /// The shell keeps so many bytes for connections. They are counted even beyond the limit: they exist already.
    pub(crate) const fn set_outside(&mut self, bytes: usize) {
        self.outside = bytes;
    }

    /// Whether there is nothing left for most of those who ask.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.used() > self.limit - self.limit / 64
    }

    /// Bytes that may be in use.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
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
    fn shared_bytes_count_once_and_until_the_last_user_is_gone() {
        let limit = 200 << 10;
        let mut pool = ChunkPool::new(limit);
        let kept: Vec<Chunk> = core::iter::from_fn(|| pool.take(1)).collect();
        kept.into_iter().for_each(|chunk| pool.give(chunk));
        for len in [1, 256, 257, 2048, 2049, 65_549] {
            let bytes = vec![7; len];
            let id = pool.share(&bytes).expect("spares make room");
            let used = pool.used();
            assert!((len..=len.max(2048)).contains(&used), "{used} bytes for {len}");
            (0..1000).for_each(|_| pool.refer(id));
            assert_eq!((pool.used(), pool.shared(id).0), (used, &bytes[..]));
            (0..1000).for_each(|_| pool.unrefer(id));
            assert_eq!(pool.used(), used);
            pool.unrefer(id);
            assert_eq!(pool.used(), 0);
            assert!(pool.allocated <= limit);
        }
        assert_eq!(pool.shared.len(), 1, "the place is used again");
        assert!(pool.share(&vec![0; limit + 1]).is_none());
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
