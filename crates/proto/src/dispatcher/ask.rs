//! Questions: put to the gateways they concern, answered in one, in order, and in time (docs/dispatcher.md#questions).

use alloc::vec::Vec;

use tengate_base::{ConnId, Instant, Sink};

use super::Dispatcher;
use super::gateway_link::Asked;
use crate::query::Pending;
use crate::wire::header::{Command, InnerFrame};

/// When a question is answered with what arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    peer: ConnId,
    serial: u32,
    seq: u32,
}

impl Dispatcher {
    /// Puts a peer's question to the gateways it concerns.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: Command,
        frame: &InnerFrame<'_>,
        encoded: &[u8],
        sink: &mut impl Sink,
    ) {
        let mut targets = core::mem::take(&mut self.targets);
        targets.clear();
        // What cannot be understood is answered all the same, with nothing, because answers come in order.
        self.targets_of(command, frame, &mut targets);
        let limit = self.config.pending_queries_max;
        let at = now + self.config.query_timeout;
        let places = targets.iter().filter_map(|conn| Some((*conn, self.gateway(*conn)?.serial)));
        let asked: Vec<(ConnId, u32)> = places.collect();
        let Some(peer) = self.peer_mut(conn) else { return };
        let (serial, seq) = (peer.serial, peer.next_seq);
        peer.next_seq = seq.wrapping_add(1);
        peer.pending.push_back(Pending::new(seq, command, frame.ext, &asked));
        if peer.pending.len() >= limit && !peer.paused {
            peer.paused = true;
            sink.pause(conn);
        }
        for gateway in &targets {
            sink.buffer(*gateway).extend_from_slice(encoded);
            if let Some(link) = self.gateway_mut(*gateway) {
                link.asked.push_back(Asked::Query { peer: conn, serial, seq });
            }
        }
        self.stats.frames_to_gateways += targets.len() as u64;
        if targets.is_empty() {
            self.answer_ready(conn, sink);
        } else {
            self.deadlines.push_back(Deadline { at, peer: conn, serial, seq });
        }
        self.targets = targets;
    }

    /// Does something to a question that is still waiting.
    pub(super) fn collect(
        &mut self,
        conn: ConnId,
        serial: u32,
        seq: u32,
        change: impl FnOnce(&mut Pending<(ConnId, u32)>),
    ) {
        let peer = self.peer_mut(conn).filter(|peer| peer.serial == serial);
        let pending = peer.and_then(|peer| peer.pending.iter_mut().find(|item| item.seq == seq));
        if let Some(pending) = pending {
            change(pending);
        }
    }

    /// Sends every answer that is complete and next in order.
    pub(super) fn answer_ready(&mut self, conn: ConnId, sink: &mut impl Sink) {
        let limit = self.config.pending_queries_max;
        let queue_max = self.config.send_to_worker_bytes_max;
        let Some(peer) = self.peer_mut(conn) else { return };
        let mut answered = 0;
        while let Some(pending) = peer.pending.pop_front_if(|pending| pending.is_complete()) {
            pending.encode(sink.buffer(conn));
            answered += 1;
        }
        if peer.paused && peer.pending.len() <= limit / 2 {
            peer.paused = false;
            if !peer.choked {
                sink.resume(conn);
            }
        }
        if !peer.choked && sink.queued(conn) >= queue_max && sink.flush(conn) >= queue_max {
            // It does not read its answers.
            peer.choked = true;
            sink.pause(conn);
            sink.notify_below(conn, queue_max / 2);
        }
        self.stats.queries += answered;
    }

    /// Answers questions with what arrived, when it is time.
    pub(super) fn expire_questions(&mut self, now: Instant, sink: &mut impl Sink) {
        while let Some(due) = self.deadlines.pop_front_if(|deadline| deadline.at <= now) {
            let mut is_late = false;
            self.collect(due.peer, due.serial, due.seq, |pending| {
                is_late = !pending.is_complete();
                pending.expire();
            });
            self.stats.query_timeouts += u64::from(is_late);
            self.answer_ready(due.peer, sink);
        }
    }
}
