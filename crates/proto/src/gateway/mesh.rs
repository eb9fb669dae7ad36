//! What shards of one gateway say to each other: messages in a batch of bytes.
//!
//! A message is `length u32 | kind u8 | fields`, little-endian; both ends are this very code, in one process. A batch is
//! filled in one turn and crosses the ring as one item, so a message costs a copy and no allocation.

use alloc::vec::Vec;

use tengate_base::{ConnId, ShardId};

/// A worker link somewhere in this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId {
    /// The shard that owns the connection.
    pub(super) shard: ShardId,
    /// The connection there.
    pub(super) conn: ConnId,
    /// Tells this link from an earlier one that had the same index.
    pub(super) serial: u32,
}

/// One message between shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mesh<'a> {
    /// An event for the worker behind `link`, as an encoded inner frame.
    Event { link: LinkId, frame: &'a [u8] },
    /// An event that could not be written because its link is gone, back to the client's shard.
    Return { link: LinkId, frame: &'a [u8] },
    /// A worker's command for clients of the receiving shard.
    Command { frame: &'a [u8] },
    /// A worker's query; the answer goes back as `Reply` with the same `link` and `seq`.
    Query { link: LinkId, seq: u32, frame: &'a [u8] },
    /// One shard's part of an answer, as `query::Partial` encodes it.
    Reply { link: LinkId, seq: u32, partial: &'a [u8] },
    /// To shard 0: a worker identified itself.
    Join { link: LinkId, key: &'a [u8] },
    /// To shard 0: a worker's link is gone.
    Leave { link: LinkId },
    /// From shard 0: clients may be bound to this worker.
    WorkerUp { link: LinkId, key: &'a [u8] },
    /// From shard 0: no event may be sent to this worker any more.
    WorkerDown { link: LinkId },
    /// To the link's shard: the sender has sent its last event for this link.
    DownAck { link: LinkId },
    /// From the link's shard: every event that could not be written was returned.
    Drained { link: LinkId },
    /// From the link's shard: the worker reads too slowly, or reads well again.
    Pace { link: LinkId, slow: bool },
    /// From shard 0: this dispatcher is the home no more; its events are held until it has given back the others.
    Detach { link: LinkId },
    /// To shard 0: it has, and its link is known by `serial` from now on.
    Detached { link: LinkId, serial: u32 },
    /// To shard 0: this dispatcher is going away.
    Drain { link: LinkId },
    /// To the link's shard: names the sender came to hold, or holds no more, for the home behind `link`.
    Names { link: LinkId, changes: &'a [u8] },
    /// From the link's shard: the home wants a client read no further, or again.
    PaceClient { link: LinkId, client: u32, stop: bool },
}

impl<'a> Mesh<'a> {
    /// Appends the message to a batch.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let (kind, link) = self.kind();
        out.push(kind);
        if let Some(link) = link {
            out.extend_from_slice(&link.shard.0.to_le_bytes());
            out.extend_from_slice(&link.conn.0.to_le_bytes());
            out.extend_from_slice(&link.serial.to_le_bytes());
        }
        match *self {
            Self::Query { seq, frame: rest, .. } | Self::Reply { seq, partial: rest, .. } => {
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(rest);
            }
            Self::Event { frame: rest, .. }
            | Self::Return { frame: rest, .. }
            | Self::Command { frame: rest }
            | Self::Join { key: rest, .. }
            | Self::WorkerUp { key: rest, .. }
            | Self::Names { changes: rest, .. } => out.extend_from_slice(rest),
            Self::Pace { slow, .. } => out.push(u8::from(slow)),
            Self::Detached { serial, .. } => out.extend_from_slice(&serial.to_le_bytes()),
            Self::PaceClient { client, stop, .. } => {
                out.extend_from_slice(&client.to_le_bytes());
                out.push(u8::from(stop));
            }
            Self::Leave { .. }
            | Self::Detach { .. }
            | Self::Drain { .. }
            | Self::WorkerDown { .. }
            | Self::DownAck { .. }
            | Self::Drained { .. } => {}
        }
        finish(start, out);
    }

    fn kind(&self) -> (u8, Option<LinkId>) {
        match *self {
            Self::Event { link, .. } => (EVENT, Some(link)),
            Self::Return { link, .. } => (1, Some(link)),
            Self::Command { .. } => (2, None),
            Self::Query { link, .. } => (3, Some(link)),
            Self::Reply { link, .. } => (4, Some(link)),
            Self::Join { link, .. } => (5, Some(link)),
            Self::Leave { link } => (6, Some(link)),
            Self::WorkerUp { link, .. } => (7, Some(link)),
            Self::WorkerDown { link } => (8, Some(link)),
            Self::DownAck { link } => (9, Some(link)),
            Self::Drained { link } => (10, Some(link)),
            Self::Pace { link, .. } => (11, Some(link)),
            Self::Detach { link } => (12, Some(link)),
            Self::Detached { link, .. } => (13, Some(link)),
            Self::Drain { link } => (14, Some(link)),
            Self::Names { link, .. } => (15, Some(link)),
            Self::PaceClient { link, .. } => (16, Some(link)),
        }
    }

    /// Takes the first message off a batch; `None` at its end.
    pub(super) fn decode(batch: &mut &'a [u8]) -> Option<Self> {
        let mut message = take_message(batch)?;
        let kind = message.split_off_first()?;
        let bytes = &mut message;
        if *kind == 2 {
            return Some(Self::Command { frame: bytes });
        }
        let link = LinkId {
            shard: ShardId(u16::from_le_bytes(take(bytes)?)),
            conn: ConnId(u32::from_le_bytes(take(bytes)?)),
            serial: u32::from_le_bytes(take(bytes)?),
        };
        Some(match *kind {
            EVENT => Self::Event { link, frame: bytes },
            1 => Self::Return { link, frame: bytes },
            3 => Self::Query { link, seq: u32::from_le_bytes(take(bytes)?), frame: bytes },
            4 => Self::Reply { link, seq: u32::from_le_bytes(take(bytes)?), partial: bytes },
            5 => Self::Join { link, key: bytes },
            6 => Self::Leave { link },
            7 => Self::WorkerUp { link, key: bytes },
            8 => Self::WorkerDown { link },
            9 => Self::DownAck { link },
            10 => Self::Drained { link },
            11 => Self::Pace { link, slow: take::<1>(bytes)? != [0] },
            12 => Self::Detach { link },
            13 => Self::Detached { link, serial: u32::from_le_bytes(take(bytes)?) },
            14 => Self::Drain { link },
            15 => Self::Names { link, changes: bytes },
            16 => Self::PaceClient {
                link,
                client: u32::from_le_bytes(take(bytes)?),
                stop: take::<1>(bytes)? != [0],
            },
            _ => return None,
        })
    }
}

/// Appends a [`Mesh::Event`] whose frame `write` appends, so that it is encoded once, in its place.
pub(super) fn encode_event(link: LinkId, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    Mesh::Event { link, frame: &[] }.encode(out);
    write(out);
    finish(start, out);
}

fn finish(start: usize, out: &mut [u8]) {
    let len = u32::try_from(out.len() - start - 4).expect("an inner frame is under 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

fn take_message<'a>(batch: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(take(batch)?) as usize;
    batch.split_off(..len)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

const EVENT: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_a_batch_in_order() {
        let link = LinkId { shard: ShardId(3), conn: ConnId(70_000), serial: 9 };
        let messages = [
            Mesh::Event { link, frame: b"event" },
            Mesh::Return { link, frame: b"" },
            Mesh::Command { frame: b"command" },
            Mesh::Query { link, seq: 5, frame: b"query" },
            Mesh::Reply { link, seq: 6, partial: b"partial" },
            Mesh::Join { link, key: b"127.0.0.1:Bw:0" },
            Mesh::Leave { link },
            Mesh::WorkerUp { link, key: b"k" },
            Mesh::WorkerDown { link },
            Mesh::DownAck { link },
            Mesh::Drained { link },
            Mesh::Pace { link, slow: true },
            Mesh::Pace { link, slow: false },
            Mesh::Detach { link },
            Mesh::Detached { link, serial: 10 },
            Mesh::Drain { link },
            Mesh::Names { link, changes: b"names" },
            Mesh::PaceClient { link, client: 4_194_305, stop: true },
        ];
        let mut batch = Vec::new();
        for message in &messages {
            message.encode(&mut batch);
        }
        encode_event(link, &mut batch, |out| out.extend_from_slice(b"written"));
        let mut rest = batch.as_slice();
        for message in messages {
            assert_eq!(Mesh::decode(&mut rest), Some(message));
        }
        assert_eq!(Mesh::decode(&mut rest), Some(Mesh::Event { link, frame: b"written" }));
        assert_eq!(Mesh::decode(&mut rest), None);
    }
}
