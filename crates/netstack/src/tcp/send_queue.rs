//! Bytes from `snd_una` on: in flight, and waiting to be sent. It exists only while there are any, or a FIN.

use super::flight::Flight;
use super::recovery::{Phase, Recovery};
use crate::frame::Payload;
use crate::limits::{CHUNK_LEN, FRAME_PARTS_MAX, SHARED_COPY_LEN_MAX, SHARED_PIECES_MAX};
use crate::pool::{Chunk, ChunkPool, SharedId};
use crate::short_deque::ShortDeque;

/// What a connection has to send.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    pieces: ShortDeque<Piece>,
    /// Where the first byte lies in the stream, counted from when the queue was empty; it wraps.
    start: u32,
    /// Bytes in the pieces.
    len: u32,
    /// The congestion window was what limited the last transmission (RFC 5681, RFC 7661).
    pub(crate) cwnd_limited: bool,
    /// What was sent of them.
    pub(crate) flight: Flight,
    /// How losses are made good.
    pub(crate) recovery: Recovery,
}

/// The next bytes of the stream.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Where in the stream they end, counted as [`SendQueue`]'s start is.
    end: u32,
}

/// Where bytes lie.
#[derive(Debug)]
enum Bytes {
    /// In a chunk of this queue.
    Own(Chunk),
    /// In one that others refer to as well.
    Shared { id: SharedId, start: u32, end: u32 },
}

const _: () = assert!(size_of::<Option<Piece>>() == 40);

impl Bytes {
    const fn len(&self) -> u32 {
        match self {
            Self::Own(chunk) => chunk.len(),
            Self::Shared { start, end, .. } => *end - *start,
        }
    }

    fn advance(&mut self, count: u32) {
        match self {
            Self::Own(chunk) => chunk.advance(count),
            Self::Shared { start, end, .. } => *start = (*start + count).min(*end),
        }
    }

    fn as_slice<'a>(&'a self, pool: &'a ChunkPool) -> &'a [u8] {
        match self {
            Self::Own(chunk) => chunk.as_slice(),
            Self::Shared { id, start, end } => &pool.shared(*id).0[*start as usize..*end as usize],
        }
    }

    fn give_back(self, pool: &mut ChunkPool) {
        match self {
            Self::Own(chunk) => pool.give(chunk),
            Self::Shared { id, .. } => pool.unrefer(id),
        }
    }
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

    /// Whether nothing is thought to be lost, probed for or out of order.
    #[inline]
    pub(crate) fn is_untroubled(&self) -> bool {
        self.recovery.phase == Phase::Open
            && self.recovery.probe.is_none()
            && !self.recovery.has_doubt()
            && self.recovery.reorder_at.is_none()
            && self.recovery.dup_acks == 0
            && self.flight.sacked() == 0
    }

    /// Appends what the pool has room for and returns how much that was.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8], pool: &mut ChunkPool) -> usize {
        let mut rest = bytes;
        if let Some(Piece { bytes: Bytes::Own(last), end }) = self.pieces.back_mut() {
            let taken = last.append(rest);
            *end = end.wrapping_add(len32(taken));
            rest = &rest[taken..];
        }
        let mut end =
            self.start.wrapping_add(self.len).wrapping_add(len32(bytes.len() - rest.len()));
        while !rest.is_empty() {
            // Whoever queues more than one message is likely to queue many.
            let wanted = if self.pieces.is_empty() { rest.len() } else { usize::from(CHUNK_LEN) };
            let Some(mut chunk) = pool.take(wanted) else { break };
            let taken = chunk.append(rest);
            end = end.wrapping_add(len32(taken));
            rest = &rest[taken..];
            self.pieces.push_back(Piece { bytes: Bytes::Own(chunk), end });
        }
        let taken = bytes.len() - rest.len();
        self.len += len32(taken);
        taken
    }

    /// Appends the first `len` of shared bytes, which there are, and returns how many were taken: all of them by reference.
    /// But a short message is copied where there is room for it, and where many pieces wait already, if the pool has a chunk:
    /// else what is remembered of each would be as much as the message, and frames would have too many parts to be full.
    pub(crate) fn append_shared(&mut self, id: SharedId, len: u32, pool: &mut ChunkPool) -> u32 {
        let before = self.start.wrapping_add(self.len);
        let is_short = len <= SHARED_COPY_LEN_MAX;
        if is_short && self.pieces.len() >= SHARED_PIECES_MAX && !self.has_room(len) {
            let Some(chunk) = pool.take(usize::from(CHUNK_LEN)) else { return 0 };
            self.pieces.push_back(Piece { bytes: Bytes::Own(chunk), end: before });
        }
        self.len += len;
        let end = before.wrapping_add(len);
        if is_short
            && self.has_room(len)
            && let Some(Piece { bytes: Bytes::Own(last), end: last_end }) = self.pieces.back_mut()
        {
            last.append(&pool.shared(id).0[..len as usize]);
            *last_end = end;
            return len;
        }
        pool.refer(id);
        self.pieces.push_back(Piece { bytes: Bytes::Shared { id, start: 0, end: len }, end });
        len
    }

    /// Whether the last piece is a chunk of ours that takes so many bytes more.
    fn has_room(&self, len: u32) -> bool {
        match self.pieces.back() {
            Some(Piece { bytes: Bytes::Own(last), .. }) => last.room() >= len as usize,
            Some(Piece { bytes: Bytes::Shared { .. }, .. }) | None => false,
        }
    }

    /// The piece that the byte at `offset` lies in.
    #[inline]
    fn find(&self, offset: u32) -> usize {
        // What is sent for the first time lies in the last one, what is repeated in the first, mostly.
        if let Some(last) = self.pieces.back()
            && last.end.wrapping_sub(self.start) - last.bytes.len() <= offset
            && offset < self.len
        {
            return self.pieces.len() - 1;
        }
        match self.pieces.front() {
            Some(first) if offset < first.end.wrapping_sub(self.start) => 0,
            _ => self.pieces.partition_point(|piece| piece.end.wrapping_sub(self.start) <= offset),
        }
    }

    /// How many of `len` bytes from `offset` on fit into one frame, which has a limited number of parts.
    #[inline]
    pub(crate) fn fit(&self, offset: u32, len: u32) -> u32 {
        if self.pieces.len() < FRAME_PARTS_MAX {
            return len;
        }
        let last = self.find(offset) + PAYLOAD_PARTS_MAX - 1;
        match self.pieces.get(last) {
            Some(piece) => len.min(piece.end.wrapping_sub(self.start) - offset),
            None => len,
        }
    }

    /// Shows `len` bytes from `offset` on, which are there and [fit](Self::fit).
    #[inline]
    pub(crate) fn payload<'a>(&'a self, offset: u32, len: u16, pool: &'a ChunkPool) -> Payload<'a> {
        let mut index = self.find(offset);
        let Some(piece) = self.pieces.get(index) else { return Payload::default() };
        let wanted = u32::from(len);
        if let Bytes::Shared { id, start: 0, end } = piece.bytes
            && end == wanted
            && piece.end.wrapping_sub(self.start) == offset + end
        {
            let (bytes, sum) = pool.shared(id);
            if bytes.len() == usize::from(len) {
                return Payload::Summed(bytes, sum);
            }
        }
        let mut payload = Payload::default();
        let behind = piece.end.wrapping_sub(self.start) - offset;
        let mut start = (piece.bytes.len() - behind) as usize;
        let mut rest = usize::from(len);
        while rest > 0 {
            let Some(piece) = self.pieces.get(index) else { break };
            let bytes = &piece.bytes.as_slice(pool)[start..];
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
        self.start = self.start.wrapping_add(rest);
        while let Some(front) = self.pieces.front_mut() {
            let len = front.bytes.len();
            if rest < len {
                front.bytes.advance(rest);
                break;
            }
            rest -= len;
            self.pieces.pop_front().into_iter().for_each(|piece| piece.bytes.give_back(pool));
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut ChunkPool) {
        while let Some(piece) = self.pieces.pop_front() {
            piece.bytes.give_back(pool);
        }
        (self.start, self.len, self.cwnd_limited) = (0, 0, false);
        self.flight.clear();
        self.recovery = Recovery::default();
    }
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("the send buffer is at most 1 GiB")
}

/// Parts of a frame behind its headers.
const PAYLOAD_PARTS_MAX: usize = FRAME_PARTS_MAX - 1;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::Checksum;

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        /// A message of that length for this queue and another.
        Share(usize),
        /// A part of the last message shared.
        ShareAgain(u32),
        Drop(u32),
        /// The other queue loses everything.
        Forget,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![1..40_usize, 1..5_000_usize, Just(65_549)];
        prop_oneof![
            len().prop_map(Step::Append),
            len().prop_map(Step::Share),
            (1..70_000_u32).prop_map(Step::ShareAgain),
            prop_oneof![0..100_u32, 0..5_000_u32, 0..200_000_u32].prop_map(Step::Drop),
            Just(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_found_at_their_offset_wherever_they_lie(
            start in prop_oneof![Just(0), Just(u32::MAX - 20_000)],
            steps in prop::collection::vec((step(), 0..9_000_u32, 1..9_000_u16), 1..60),
        ) {
            let mut pool = ChunkPool::new(64 << 20);
            let mut queue = SendQueue { start, ..SendQueue::default() };
            let (mut other, mut model) = (SendQueue::default(), Vec::new());
            let mut shared = Vec::new();
            let mut next = 0_u8;
            let mut bytes = |len: usize| -> Vec<u8> {
                (0..len).map(|_| { next = next.wrapping_add(7); next }).collect()
            };
            for (step, offset, len) in steps {
                match step {
                    Step::Append(len) => {
                        let bytes = bytes(len);
                        prop_assert_eq!(queue.append(&bytes, &mut pool), len);
                        model.extend_from_slice(&bytes);
                    }
                    Step::Share(len) => {
                        let bytes = bytes(len);
                        let id = pool.share(&bytes).expect("there is room");
                        prop_assert_eq!(queue.append_shared(id, len32(len), &mut pool), len32(len));
                        prop_assert_eq!(other.append_shared(id, len32(len), &mut pool), len32(len));
                        model.extend_from_slice(&bytes);
                        shared.push((id, bytes));
                    }
                    Step::ShareAgain(len) => if let Some((id, bytes)) = shared.last() {
                        let len = len.min(len32(bytes.len()));
                        prop_assert_eq!(queue.append_shared(*id, len, &mut pool), len);
                        model.extend_from_slice(&bytes[..len as usize]);
                    }
                    Step::Drop(count) => {
                        let count = count.min(queue.len());
                        queue.drop_front(count, &mut pool);
                        model.drain(..count as usize);
                    }
                    Step::Forget => other.clear(&mut pool),
                }
                prop_assert_eq!(queue.len() as usize, model.len());
                let offset = offset.min(queue.len());
                let len = queue.fit(offset, (queue.len() - offset).min(u32::from(len)));
                prop_assert!(len > 0 || offset == queue.len());
                let payload = queue.payload(offset, u16::try_from(len).expect("short"), &pool);
                prop_assert_eq!(&payload.parts().concat()[..], &model[offset as usize..][..len as usize]);
                prop_assert_eq!(payload.len(), len as usize);
                if let Payload::Summed(bytes, known) = payload {
                    let mut sum = Checksum::default();
                    sum.add(bytes);
                    prop_assert_eq!(known.finish(), sum.finish());
                }
            }
            queue.clear(&mut pool);
            other.clear(&mut pool);
            shared.into_iter().for_each(|(id, _)| pool.unrefer(id));
            prop_assert_eq!(pool.used(), 0);
        }
    }

    #[test]
    fn a_shared_message_takes_no_memory_of_its_receivers_own() {
        let mut pool = ChunkPool::new(128 << 10);
        let id = pool.share(&[7; 60 << 10]).expect("there is room");
        let mut queues: Vec<SendQueue> = Vec::new();
        for _ in 0..1000 {
            let mut queue = SendQueue::default();
            assert_eq!(queue.append_shared(id, 60 << 10, &mut pool), 60 << 10);
            queues.push(queue);
        }
        pool.unrefer(id);
        assert_eq!(pool.used(), 60 << 10);
        for queue in &mut queues {
            assert_eq!(pool.used(), 60 << 10);
            queue.drop_front(30 << 10, &mut pool);
            queue.drop_front(30 << 10, &mut pool);
        }
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn many_short_messages_take_chunks_of_the_pool_and_few_pieces() {
        let mut pool = ChunkPool::new(64 << 10);
        let mut queue = SendQueue::default();
        loop {
            let id = pool.share(&[7; 64]).expect("a small chunk is left");
            let taken = queue.append_shared(id, 64, &mut pool);
            pool.unrefer(id);
            if taken == 0 {
                break;
            }
        }
        assert!(queue.len() > 58 << 10, "{} bytes of 64 KiB", queue.len());
        assert!(queue.pieces.len() <= SHARED_PIECES_MAX + 32, "{} pieces", queue.pieces.len());
        queue.clear(&mut pool);
        assert_eq!(pool.used(), 0);
    }
}
