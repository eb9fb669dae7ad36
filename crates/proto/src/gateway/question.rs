//! Questions of workers, outside clients and dispatchers: put to the shards that know, answered in the order they came
//! (docs/protocol.md#queries).

use alloc::vec::Vec;

use tengate_base::{ConnId, Instant, ShardId, Sink};

use super::Gateway;
use super::mesh::{LinkId, Mesh};
use crate::query::{Partial, Pending};
use crate::wire::extension::Extension;
use crate::wire::header::{Command, InnerFrame};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// A query of GatewayWorker's.
    Query(Command),
    /// Nothing, of every shard: its answer follows what earlier commands caused.
    Fence,
    /// A part of the names that one shard holds.
    ListNames,
}

impl Question {
    /// The question with this command number.
    pub(super) fn of(number: u8) -> Option<Self> {
        if let Some(command) = Command::from_number(number) {
            return command.is_query().then_some(Self::Query(command));
        }
        match Extension::from_number(number)? {
            Extension::Fence => Some(Self::Fence),
            Extension::ListNames => Some(Self::ListNames),
            Extension::Welcome
            | Extension::Home
            | Extension::Names
            | Extension::Reply
            | Extension::Ack
            | Extension::Detach
            | Extension::Drain
            | Extension::Pace => None,
        }
    }

    /// Whether one shard knows the answer: that of the connection_id.
    fn is_for_one_shard(self) -> bool {
        match self {
            Self::Query(command) => command.is_for_one_client(),
            Self::Fence => false,
            Self::ListNames => true,
        }
    }

    /// The query whose parts are put together as this one's.
    fn merged_as(self) -> Command {
        match self {
            Self::Query(command) => command,
            // It counts nothing.
            Self::Fence => Command::BatchGetClientCountByGroup,
            // One part is the whole.
            Self::ListNames => Command::GetSessionByClientId,
        }
    }
}

impl Gateway {
    pub(super) fn handle_question(
        &mut self,
        now: Instant,
        conn: ConnId,
        question: Question,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let Some(id) = self.link_id(conn) else { return };
        let asked: Vec<ShardId> = if question.is_for_one_shard() {
            [self.owner(frame.header.connection_id).unwrap_or(self.shard)].into()
        } else {
            (0..self.config.shards).map(ShardId).collect()
        };
        let limit = self.config.pending_queries_max;
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        let Some(link) = self.link_mut(conn) else { return };
        link.pending.push_back(Pending::new(seq, question.merged_as(), frame.ext, &asked));
        if link.pending.len() >= limit {
            link.paused = true;
            sink.pause(conn);
        }
        for shard in asked {
            if shard == self.shard {
                let part = self.answer(id, question, frame);
                self.collect(conn, seq, shard, part, sink);
            } else {
                self.tell(now, shard, &Mesh::Query { link: id, seq, frame: encoded }, sink);
            }
        }
    }

    /// A question that was put to the shard `to`, as an encoded frame.
    pub(super) fn handle_remote_question(&mut self, message: &Mesh<'_>, sink: &mut impl Sink) {
        let Mesh::Query { link, seq, frame } = *message else { return };
        let Ok(Some((frame, _))) = InnerFrame::decode(frame, usize::MAX) else { return };
        let Some(question) = Question::of(frame.header.command) else { return };
        let mut partial = core::mem::take(&mut self.encoded.scratch);
        partial.clear();
        self.answer(link, question, &frame).encode(&mut partial);
        Mesh::Reply { link, seq, partial: &partial }.encode(sink.mesh(link.shard));
        self.encoded.scratch = partial;
    }

    /// This shard's part of an answer for whoever is behind `link`.
    fn answer(&self, link: LinkId, question: Question, frame: &InnerFrame<'_>) -> Partial {
        match question {
            Question::Query(command) => self.answer_query(command, frame),
            Question::Fence => Partial::Counts(Vec::new()),
            Question::ListNames => {
                let cursor =
                    frame.body.first_chunk().map_or(0, |cursor| u64::from_be_bytes(*cursor));
                self.list_names(link, cursor)
            }
        }
    }

    /// Puts one shard's part to its question, and sends every answer that is complete and next in order.
    pub(super) fn collect(
        &mut self,
        conn: ConnId,
        seq: u32,
        from: ShardId,
        part: Partial,
        sink: &mut impl Sink,
    ) {
        let limit = self.config.pending_queries_max;
        let Some(link) = self.link_mut(conn).filter(|link| !link.closing) else { return };
        if let Some(pending) = link.pending.iter_mut().find(|pending| pending.seq == seq) {
            pending.put(from, part);
        }
        let mut answered = 0;
        while link.pending.front().is_some_and(Pending::is_complete)
            && let Some(mut pending) = link.pending.pop_front()
        {
            if link.standing.is_some() {
                // A dispatcher adds other gateways' parts to it.
                let mut part = Vec::new();
                pending.merge().encode(&mut part);
                Extension::Reply.encode(0, &part, sink.buffer(conn));
            } else {
                pending.encode(sink.buffer(conn));
            }
            answered += 1;
        }
        if link.paused && link.pending.len() <= limit / 2 {
            link.paused = false;
            if !link.choked {
                sink.resume(conn);
            }
        }
        self.stats.queries += answered;
        self.choke(conn, sink);
    }

    /// Reads a link no further while it does not read its answers.
    pub(super) fn choke(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let limit = self.config.send_to_worker_bytes_max;
        if sink.queued(conn) < limit || sink.flush(conn) < limit {
            return;
        }
        if let Some(link) = self.link_mut(conn)
            && !link.choked
        {
            link.choked = true;
            sink.pause(conn);
            sink.notify_below(conn, limit / 2);
        }
    }
}
