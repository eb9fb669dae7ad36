//! TIME-WAIT in 72 bytes and a table entry: what a finished connection must still know to answer a repeated FIN and to tell
//! old segments from a new connection's (RFC 9293 3.6.1, RFC 6191, RFC 1337).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use foldhash::fast::FixedState;
use tengate_base::{ChunkedVec, IndexTable, Instant};

use super::tcb::Tcb;
use crate::flow::FlowKey;
use crate::seq::Seq;
use crate::shared::millis;
use crate::wire::tcp::{Flags, Header, Options, Timestamps};

/// One finished connection.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FlowKey,
    snd_nxt: Seq,
    rcv_nxt: Seq,
    /// The last timestamp received and the offset of ours, if they were in use.
    timestamps: Option<(u32, u32)>,
    window: u16,
    is_used: bool,
    until: Instant,
    /// The end under which it is in the queue: `until` may have moved on since.
    queued_until: Instant,
}

/// All finished connections.
#[derive(Debug)]
pub(crate) struct TimeWait {
    entries: ChunkedVec<Entry>,
    table: IndexTable,
    hasher: FixedState,
    free: Vec<u32>,
    /// In the order of their ends: all last equally long.
    queue: VecDeque<(Instant, u32)>,
}

/// What a segment for a finished connection calls for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Nobody finished such a connection lately.
    Unknown,
    /// Nothing.
    Nothing,
    /// This acknowledgement.
    Ack(Header),
    /// It was forgotten, because a new connection begins in its place.
    Reopened,
}

impl TimeWait {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            entries: ChunkedVec::new(),
            table: IndexTable::new(),
            hasher: FixedState::with_seed(seed),
            free: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    /// Finished connections.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes a connection that finished.
    pub(crate) fn insert(&mut self, now: Instant, tcb: &Tcb, lasts: Duration) {
        let until = now + lasts;
        let window = tcb.rcv_adv.since(tcb.rcv_nxt) >> tcb.rcv_scale;
        let entry = Entry {
            key: tcb.key,
            snd_nxt: tcb.snd_nxt,
            rcv_nxt: tcb.rcv_nxt,
            timestamps: tcb.timestamps.then_some((tcb.ts_recent, tcb.ts_offset)),
            window: u16::try_from(window).unwrap_or(u16::MAX),
            is_used: true,
            until,
            queued_until: until,
        };
        let index = if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            index
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("time_wait_max is a u32")
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.table.insert_unique(entry.key.hash(hasher), index, |index| {
            entries[index as usize].key.hash(hasher)
        });
        self.queue.push_back((until, index));
    }

    /// Whether a connection between these ends finished lately.
    pub(crate) fn contains(&self, key: &FlowKey) -> bool {
        self.find(key).is_some()
    }

    /// A segment that belongs to no connection.
    pub(crate) fn handle_segment(
        &mut self,
        now: Instant,
        key: &FlowKey,
        header: &Header,
        payload_len: usize,
        lasts: Duration,
    ) -> Answer {
        let Some(index) = self.find(key) else { return Answer::Unknown };
        let entry = &mut self.entries[index as usize];
        let flags = header.flags;
        if flags.has(Flags::RST) {
            // RFC 1337 3: a reset must not end TIME-WAIT.
            return Answer::Nothing;
        }
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && entry.gives_way_to(header) {
            self.remove(index);
            return Answer::Reopened;
        }
        let is_fin = flags.has(Flags::FIN);
        if is_fin {
            entry.until = now + lasts;
        }
        let is_expected = header.seq == entry.rcv_nxt && payload_len == 0 && !is_fin;
        if is_expected && !flags.has(Flags::SYN) {
            return Answer::Nothing;
        }
        Answer::Ack(entry.ack(now))
    }

    /// When [`TimeWait::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.front().map(|&(until, _)| until)
    }

    /// Forgets those whose time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(until, index)) = self.queue.front().filter(|&&(until, _)| until <= now) {
            self.queue.pop_front();
            let entry = &mut self.entries[index as usize];
            if !entry.is_used || entry.queued_until != until {
                // What was queued was forgotten before its time; the place may have been taken since.
                continue;
            }
            if entry.until > now {
                entry.queued_until = entry.until;
                self.queue.push_back((entry.until, index));
                continue;
            }
            self.remove(index);
        }
    }

    /// Forgets the oldest; returns whether there was one.
    pub(crate) fn recycle_oldest(&mut self) -> bool {
        while let Some((until, index)) = self.queue.pop_front() {
            let entry = &self.entries[index as usize];
            if entry.is_used && entry.queued_until == until {
                self.remove(index);
                return true;
            }
        }
        false
    }

    fn find(&self, key: &FlowKey) -> Option<u32> {
        self.table.find(key.hash(&self.hasher), |index| self.entries[index as usize].key == *key)
    }

    fn remove(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.is_used = false;
        self.table.remove(entry.key.hash(&self.hasher), |held| held == index);
        self.free.push(index);
    }
}

impl Entry {
    /// Whether a SYN is newer than anything of this connection (RFC 6191 2).
    fn gives_way_to(&self, syn: &Header) -> bool {
        match (self.timestamps, syn.options.timestamps) {
            (Some((recent, _)), Some(new)) if new.value != recent => {
                new.value.wrapping_sub(recent).cast_signed() > 0
            }
            _ => syn.seq.gt(self.rcv_nxt),
        }
    }

    fn ack(&self, now: Instant) -> Header {
        let timestamps = self.timestamps.map(|(recent, offset)| Timestamps {
            value: millis(now).wrapping_add(offset),
            echo: recent,
        });
        Header {
            source_port: self.key.local_port,
            destination_port: self.key.remote_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: self.window,
            options: Options { timestamps, ..Options::default() },
        }
    }
}

const _: () = assert!(size_of::<Entry>() <= 72);
