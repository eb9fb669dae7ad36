//! Bytes that arrived before those in front of them (RFC 9293 3.10.7.4), and what selective acknowledgements say of them
//! (RFC 2018). It exists only while there are any.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::limits::OUT_OF_ORDER_PIECES_MAX;
use crate::pool::{Chunk, ChunkPool};
use crate::seq::Seq;
use crate::wire::tcp::SackBlocks;

/// Pieces of a stream, in order and without overlap.
#[derive(Debug, Default)]
pub(crate) struct RecvQueue {
    pieces: VecDeque<Piece>,
    /// Ranges to report, the most recently changed first (RFC 2018 4), and disjoint.
    blocks: Vec<(Seq, Seq)>,
    /// Where the stream ends, when a FIN arrived before what is in front of it.
    pub(crate) fin: Option<Seq>,
}

#[derive(Debug)]
struct Piece {
    seq: Seq,
    chunk: Chunk,
}

impl Piece {
    fn end(&self) -> Seq {
        self.seq + self.chunk.len()
    }
}

impl RecvQueue {
    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.fin.is_none()
    }

    /// Keeps what is new of `bytes`, which begin at `seq`. Returns whether there was room for all of it: what there was none
    /// for counts as lost.
    pub(crate) fn insert(&mut self, seq: Seq, bytes: &[u8], pool: &mut ChunkPool) -> bool {
        let (mut at, mut rest) = (seq, bytes);
        let end = seq + len32(bytes);
        let mut index = self.pieces.partition_point(|piece| piece.end().le(seq));
        let mut kept = true;
        while !rest.is_empty() {
            let next = self.pieces.get(index).map(|piece| (piece.seq, piece.end()));
            let gap_end = next.map_or(end, |(start, _)| start.min(end));
            if at.lt(gap_end) {
                let (gap, _) = rest.split_at(gap_end.since(at) as usize);
                let (inserted, taken) = self.fill(index, at, gap, pool);
                index += inserted;
                if taken < gap.len() {
                    self.report(seq, at + u32::try_from(taken).expect("part of a frame"));
                    kept = false;
                    break;
                }
            }
            // Past the gap and past the piece behind it.
            at = next.map_or(end, |(_, piece_end)| piece_end).max(gap_end);
            rest = bytes.get(at.since(seq) as usize..).unwrap_or_default();
            index += 1;
        }
        if kept {
            self.report(seq, end);
        }
        kept
    }

    /// Puts bytes that overlap nothing before the piece at `index`. Returns how many pieces were added, and bytes taken.
    fn fill(&mut self, index: usize, seq: Seq, gap: &[u8], pool: &mut ChunkPool) -> (usize, usize) {
        let mut taken = 0;
        let before = index.checked_sub(1).and_then(|before| self.pieces.get_mut(before));
        if let Some(before) = before.filter(|before| before.end() == seq) {
            taken = before.chunk.append(gap);
        }
        let mut inserted = 0;
        while taken < gap.len() && self.pieces.len() < OUT_OF_ORDER_PIECES_MAX {
            let rest = &gap[taken..];
            let Some(mut chunk) = pool.take(rest.len()) else { break };
            let piece_seq = seq + u32::try_from(taken).expect("part of a frame");
            taken += chunk.append(rest);
            self.pieces.insert(index + inserted, Piece { seq: piece_seq, chunk });
            inserted += 1;
        }
        (inserted, taken)
    }

    /// Notes that a range arrived: it becomes the first block, grown by those it touches.
    fn report(&mut self, mut start: Seq, mut end: Seq) {
        if start == end {
            return;
        }
        self.blocks.retain(|&(other_start, other_end)| {
            let touches = other_start.le(end) && start.le(other_end);
            if touches {
                (start, end) = (start.min(other_start), end.max(other_end));
            }
            !touches
        });
        self.blocks.truncate(BLOCKS_MAX - 1);
        self.blocks.insert(0, (start, end));
    }

    /// The stream has come to `rcv_nxt` without the pieces; how far does it reach with them? The caller takes those out.
    pub(crate) fn advance(&mut self, rcv_nxt: Seq, pool: &mut ChunkPool) -> Seq {
        // What came again with the bytes just handed over is not handed over twice.
        while self.pieces.front().is_some_and(|front| front.end().le(rcv_nxt)) {
            self.pieces.pop_front().into_iter().for_each(|piece| pool.give(piece.chunk));
        }
        let mut reached = rcv_nxt;
        if let Some(front) = self.pieces.front_mut().filter(|front| front.seq.lt(rcv_nxt)) {
            front.chunk.advance(rcv_nxt.since(front.seq));
            front.seq = rcv_nxt;
        }
        for piece in &self.pieces {
            if piece.seq.gt(reached) {
                break;
            }
            reached = piece.end();
        }
        self.blocks.retain(|&(_, end)| end.gt(reached));
        reached
    }

    /// Takes out the first bytes that are in order.
    pub(crate) fn pop_ready(&mut self, rcv_nxt: Seq) -> Option<Chunk> {
        self.pieces.front().filter(|front| front.end().le(rcv_nxt))?;
        self.pieces.pop_front().map(|piece| piece.chunk)
    }

    /// What selective acknowledgements say, behind a duplicate if there is one (RFC 2883).
    pub(crate) fn sack_blocks(&self, duplicate: Option<(Seq, Seq)>) -> SackBlocks {
        let mut sacks = SackBlocks::default();
        duplicate
            .into_iter()
            .chain(self.blocks.iter().copied())
            .for_each(|block| sacks.push(block));
        sacks
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut ChunkPool) {
        self.pieces.drain(..).for_each(|piece| pool.give(piece.chunk));
        self.blocks.clear();
        self.fin = None;
    }
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("part of a frame")
}

/// As many blocks as a segment has room for.
const BLOCKS_MAX: usize = 4;
