//! Bytes from `snd_una` on: in flight, and waiting to be sent. It exists only while there are any, or a FIN.

use alloc::collections::VecDeque;

use super::flight::Flight;
use super::recovery::Recovery;
use crate::frame::Payload;
use crate::limits::CHUNK_LEN;
use crate::pool::{Chunk, ChunkPool};

/// What a connection has to send.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// All but the first and the last are full ones of [`CHUNK_LEN`] bytes, so that a place is found by division.
    chunks: VecDeque<Chunk>,
    /// Bytes in the chunks.
    len: u32,
    /// What was sent of them.
    pub(crate) flight: Flight,
    /// How losses are made good.
    pub(crate) recovery: Recovery,
}

impl SendQueue {
    /// Bytes queued, sent or not.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// What is thought to be in the network. A peer without SACK tells of arrivals only by duplicate acknowledgements.
    pub(crate) fn pipe(&self, mss: u16) -> u32 {
        self.flight.pipe().saturating_sub(self.recovery.dup_acks.saturating_mul(u32::from(mss)))
    }

    /// Appends what the pool has room for and returns how much that was.
    pub(crate) fn append(&mut self, bytes: &[u8], pool: &mut ChunkPool) -> usize {
        let mut rest = bytes;
        if let Some(last) = self.chunks.back_mut() {
            rest = &rest[last.append(rest)..];
        }
        while !rest.is_empty() {
            // Only the first may be a small one.
            let wanted = if self.chunks.is_empty() { rest.len() } else { usize::from(CHUNK_LEN) };
            let Some(mut chunk) = pool.take(wanted) else { break };
            rest = &rest[chunk.append(rest)..];
            self.chunks.push_back(chunk);
        }
        let taken = bytes.len() - rest.len();
        self.len += u32::try_from(taken).expect("the send buffer is at most 1 GiB");
        taken
    }

    /// Shows `len` bytes from `offset` on, which are there.
    pub(crate) fn payload(&self, offset: u32, len: u16) -> Payload<'_> {
        let mut payload = Payload::default();
        let first_len = self.chunks.front().map_or(0, |chunk| u32::from(chunk.len()));
        let (mut index, mut start) = if offset < first_len {
            (0, offset)
        } else {
            let behind = offset - first_len;
            (1 + behind / u32::from(CHUNK_LEN), behind % u32::from(CHUNK_LEN))
        };
        let mut rest = usize::from(len);
        while rest > 0 {
            let Some(chunk) = self.chunks.get(index as usize) else { break };
            let bytes = &chunk.as_slice()[start as usize..];
            let bytes = &bytes[..bytes.len().min(rest)];
            payload.push(bytes);
            rest -= bytes.len();
            (index, start) = (index + 1, 0);
        }
        payload
    }

    /// Drops acknowledged bytes from the front.
    pub(crate) fn drop_front(&mut self, count: u32, pool: &mut ChunkPool) {
        let mut rest = count.min(self.len);
        self.len -= rest;
        while let Some(front) = self.chunks.front_mut() {
            let len = u32::from(front.len());
            if rest < len {
                front.advance(u16::try_from(rest).expect("less than a chunk"));
                break;
            }
            rest -= len;
            pool.give(self.chunks.pop_front().expect("there is a front"));
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut ChunkPool) {
        self.chunks.drain(..).for_each(|chunk| pool.give(chunk));
        self.len = 0;
        self.flight.clear();
        self.recovery = Recovery::default();
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_found_at_their_offset(
            steps in prop::collection::vec((1..5_000_usize, 0..5_000_u32, 0..3_000_u32, 1..9_000_u16), 1..30),
        ) {
            let mut pool = ChunkPool::new(1 << 20);
            let (mut queue, mut model) = (SendQueue::default(), Vec::new());
            let mut next = 0_u8;
            for (append, drop, offset, len) in steps {
                let bytes: Vec<u8> = (0..append).map(|_| { next = next.wrapping_add(7); next }).collect();
                prop_assert_eq!(queue.append(&bytes, &mut pool), append);
                model.extend_from_slice(&bytes);
                let drop = drop.min(queue.len());
                queue.drop_front(drop, &mut pool);
                model.drain(..drop as usize);
                prop_assert_eq!(queue.len() as usize, model.len());
                let offset = offset.min(queue.len());
                let len = u16::try_from((queue.len() - offset).min(u32::from(len))).expect("small");
                let shown = queue.payload(offset, len).parts().concat();
                prop_assert_eq!(&shown[..], &model[offset as usize..][..usize::from(len)]);
            }
            queue.clear(&mut pool);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
