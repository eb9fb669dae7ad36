//! What all connections of a stack share, beside the table they are in.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use tengate_base::{ConnId, Instant};

use crate::config::Config;
use crate::event::{Device, DeviceFull, Event};
use crate::flow::FlowKey;
use crate::frame::{Link, Path, Payload};
use crate::limits::SPARE_QUEUES_MAX;
use crate::locals::Locals;
use crate::pool::{Chunk, ChunkPool};
use crate::siphash::SipKey;
use crate::stats::Stats;
use crate::tcp::recv_queue::RecvQueue;
use crate::tcp::send_queue::SendQueue;
use crate::wire::tcp::{Flags, Header};

/// Configuration, memory and outputs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) link: Link,
    pub(crate) locals: Locals,
    pub(crate) chunks: ChunkPool,
    pub(crate) events: VecDeque<Event>,
    /// Bytes in order that wait to be read, and whose they are.
    pub(crate) ready: VecDeque<(ConnId, Chunk)>,
    pub(crate) stats: Stats,
    pub(crate) keys: Keys,
    /// Whether even segments that are expected go by the general rules: for a test that compares both.
    pub(crate) is_pedantic: bool,
    #[expect(clippy::vec_box, reason = "the boxes move into control blocks and back")]
    spare_send_queues: Vec<Box<SendQueue>>,
    #[expect(clippy::vec_box, reason = "the boxes move into control blocks and back")]
    spare_recv_queues: Vec<Box<RecvQueue>>,
}

/// The secret, cut into keys for its uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    /// Initial sequence numbers and timestamps.
    pub(crate) sequence: SipKey,
    /// SYN cookies and ephemeral ports; words of different lengths keep them apart.
    pub(crate) cookie: SipKey,
}

impl Shared {
    pub(crate) fn new(config: Config, locals: Vec<Ipv6Addr>) -> Self {
        let (first, second) = config.secret.0.split_at(16);
        let key = |half: &[u8]| SipKey::new(*half.first_chunk().expect("half of 32 bytes"));
        Self {
            link: Link { mac: config.mac, vlan: config.vlan, checksums: config.checksums },
            locals: Locals::new(locals),
            chunks: ChunkPool::new(config.pool_bytes),
            events: VecDeque::new(),
            ready: VecDeque::new(),
            stats: Stats::default(),
            keys: Keys { sequence: key(first), cookie: key(second) },
            is_pedantic: false,
            spare_send_queues: Vec::new(),
            spare_recv_queues: Vec::new(),
            config,
        }
    }

    /// The application is done with a connection: it is told nothing more of it.
    pub(crate) fn drop_events(&mut self, conn: ConnId) {
        self.events.retain(|event| event.conn() != conn);
        let chunks = &mut self.chunks;
        while let Some((_, chunk)) = self.ready.pop_front_if(|(owner, _)| *owner == conn) {
            chunks.give(chunk);
        }
    }

    /// The address at an index that a connection holds.
    pub(crate) fn local(&self, index: u16) -> Ipv6Addr {
        self.locals.get(index)
    }

    /// An initial sequence number (RFC 6528 3): a clock of 4 µs and a keyed hash of the connection.
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
    pub(crate) fn initial_seq(&self, now: Instant, flow: &FlowKey) -> u32 {
        let clock = (now.as_nanos() / 4_000) as u32;
        clock.wrapping_add(self.flow_hash(flow) as u32)
    }

    /// What a connection's timestamps begin with (RFC 7323 5.4), so that they tell nothing of the stack's age.
    pub(crate) fn timestamp_offset(&self, flow: &FlowKey) -> u32 {
        u32::try_from(self.flow_hash(flow) >> 32).expect("half of 64 bits")
    }

    fn flow_hash(&self, flow: &FlowKey) -> u64 {
        self.keys.sequence.hash(&flow.words(self.local(flow.local)))
    }

    /// Sends a segment and counts it.
    pub(crate) fn send(
        &mut self,
        path: &Path,
        header: &Header,
        payload: &Payload<'_>,
        device: &mut impl Device,
    ) -> Result<(), DeviceFull> {
        self.link.send_segment(path, header, payload, device)?;
        self.count_segment();
        Ok(())
    }

    /// Counts a segment that was sent.
    pub(crate) const fn count_segment(&mut self) {
        self.stats.frames_sent += 1;
        self.stats.segments_sent += 1;
    }

    /// Sends a reset, which is not repeated when the device has no room: the peer's next segment asks for another.
    pub(crate) fn send_reset(&mut self, path: &Path, header: &Header, device: &mut impl Device) {
        debug_assert!(header.flags.has(Flags::RST), "resets only");
        match self.send(path, header, &Payload::default(), device) {
            Ok(()) => self.stats.resets_sent += 1,
            Err(DeviceFull) => self.stats.drop_device_full += 1,
        }
    }

    /// An empty queue to send from.
    pub(crate) fn take_send_queue(&mut self) -> Box<SendQueue> {
        self.spare_send_queues.pop().unwrap_or_default()
    }

    /// Takes a queue back, with what is in it.
    pub(crate) fn give_send_queue(&mut self, mut queue: Box<SendQueue>) {
        queue.clear(&mut self.chunks);
        if self.spare_send_queues.len() < SPARE_QUEUES_MAX {
            self.spare_send_queues.push(queue);
        }
    }

    /// An empty queue to put segments in order in.
    pub(crate) fn take_recv_queue(&mut self) -> Box<RecvQueue> {
        self.spare_recv_queues.pop().unwrap_or_default()
    }

    /// Takes a queue back, with what is in it.
    pub(crate) fn give_recv_queue(&mut self, mut queue: Box<RecvQueue>) {
        queue.clear(&mut self.chunks);
        if self.spare_recv_queues.len() < SPARE_QUEUES_MAX {
            self.spare_recv_queues.push(queue);
        }
    }
}

/// Milliseconds since the origin, as timestamps count them: they wrap.
#[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
pub(crate) const fn millis(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000) as u32
}
