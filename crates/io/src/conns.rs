//! A shard's connections of one kind and what is queued on each, whatever carries their bytes.

use core::fmt;

use tengate_base::{ChunkedVec, ConnId};

use crate::buffers::{BufferId, Buffers};
use crate::conn::{Conn, Flags};
use crate::stats::Counters;

/// What carries the bytes of connections: sockets of the kernel, or a stack of our own.
pub(crate) trait Carrier {
    /// What it has of one connection.
    type Stream: fmt::Debug;

    /// Takes bytes to send, and returns how many. Fewer than given: it says when it takes more.
    fn send(&mut self, index: u32, stream: &Self::Stream, bytes: &[u8]) -> Result<usize, Broken>;
}

/// A connection takes nothing any more.
#[derive(Debug)]
pub(crate) struct Broken;

/// Connections by index. The application sees an index with `first` added.
#[derive(Debug)]
pub(crate) struct Conns<C: Carrier> {
    pub(crate) carrier: C,
    places: ChunkedVec<Conn<C::Stream>>,
    /// What the application calls the connection with index 0.
    first: u32,
    live_count: u32,
    pub(crate) buffers: Buffers,
    /// Connections to write at the end of the turn.
    dirty: Vec<u32>,
    /// Connections to read or show kept input of.
    pub(crate) ready: Vec<u32>,
    /// Connections the app is to be told something about.
    pub(crate) signals: Vec<u32>,
    /// Takes what is written for connections that are gone.
    scratch: Vec<u8>,
    pub(crate) counters: Counters,
}

impl<C: Carrier> Conns<C> {
    pub(crate) fn new(carrier: C, first: u32) -> Self {
        Self {
            carrier,
            places: ChunkedVec::new(),
            first,
            live_count: 0,
            buffers: Buffers::default(),
            dirty: Vec::new(),
            ready: Vec::new(),
            signals: Vec::new(),
            scratch: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// What the application calls a connection.
    pub(crate) const fn conn_id(&self, index: u32) -> ConnId {
        ConnId(self.first + index)
    }

    /// Open connections.
    pub(crate) const fn live_count(&self) -> u32 {
        self.live_count
    }

    /// Indexes that were ever used are below this.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.places.len()).expect("indexes are u32")
    }

    /// Takes a connection in, at an index that is free.
    pub(crate) fn insert(&mut self, index: u32, conn: Conn<C::Stream>) {
        self.places.grow_to(index as usize + 1, Conn::free);
        self.places[index as usize] = conn;
        self.live_count += 1;
        self.counters.accepted += 1;
    }

    /// Takes a connection out. Its output queue is the caller's to give back, its index free when the caller says so.
    pub(crate) fn remove(&mut self, index: u32) -> Option<(C::Stream, Option<BufferId>)> {
        let conn = self.places.get_mut(index as usize)?;
        let stream = conn.stream.take()?;
        conn.flags = Flags::default();
        let out = conn.out.take();
        if let Some(stash) = conn.stash.take() {
            self.buffers.give(stash);
        }
        self.live_count -= 1;
        Some((stream, out))
    }

    /// A place that was used before, whether or not there is a connection now.
    pub(crate) fn place(&mut self, index: u32) -> &mut Conn<C::Stream> {
        &mut self.places[index as usize]
    }

    /// As [`Conns::place`], with the buffers it may have some of.
    pub(crate) fn place_and_buffers(&mut self, index: u32) -> (&mut Conn<C::Stream>, &mut Buffers) {
        (&mut self.places[index as usize], &mut self.buffers)
    }

    /// A connection, if there is one.
    pub(crate) fn get(&self, index: u32) -> Option<&Conn<C::Stream>> {
        self.places.get(index as usize).filter(|conn| conn.stream.is_some())
    }

    /// A connection, if there is one, to change.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Conn<C::Stream>> {
        self.places.get_mut(index as usize).filter(|conn| conn.stream.is_some())
    }

    /// The connections there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Conn<C::Stream>)> {
        (0..self.len()).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// As [`Conns::get_mut`], and not closing: output is welcome.
    fn writable(&mut self, index: u32) -> Option<&mut Conn<C::Stream>> {
        self.get_mut(index).filter(|conn| !conn.flags.any(Flags::CLOSING))
    }

    /// Has the connection read in this turn or the next.
    pub(crate) fn make_ready(&mut self, index: u32) {
        if self.get_mut(index).is_some_and(|conn| conn.flags.set_new(Flags::READY)) {
            self.ready.push(index);
        }
    }

    /// Notes that the app is to be told of a failed write.
    pub(crate) fn mark_broken(&mut self, index: u32) {
        if self.get_mut(index).is_some_and(|conn| conn.flags.set_new(Flags::BROKEN)) {
            self.signals.push(index);
        }
    }

    /// Whether something waits that must not wait for an event, beside input that is ready.
    pub(crate) fn has_output_work(&self) -> bool {
        !self.signals.is_empty() || !self.dirty.is_empty()
    }

    /// Writes what is queued; returns what remains.
    pub(crate) fn write_out(&mut self, index: u32) -> usize {
        let Some(conn) = self.places.get_mut(index as usize) else { return 0 };
        let (Some(stream), Some(id)) = (&conn.stream, conn.out) else { return 0 };
        let queue = &mut self.buffers[id];
        if !queue.is_empty() && !conn.flags.any(Flags::BLOCKED | Flags::BROKEN) {
            let bytes = queue.pending();
            let len = bytes.len();
            match self.carrier.send(index, stream, bytes) {
                Ok(count) => {
                    conn.bytes_written += count as u64;
                    self.counters.note_write(count, len);
                    let keep = conn.keep();
                    queue.advance(count, keep);
                    if count < len {
                        conn.flags |= Flags::BLOCKED;
                    }
                }
                Err(Broken) => self.mark_broken(index),
            }
        }
        self.after_write(index, id)
    }

    /// Writes every connection the app wrote to.
    pub(crate) fn write_dirty(&mut self) {
        while let Some(index) = self.dirty.pop() {
            if self.places[index as usize].flags.take(Flags::DIRTY) {
                self.write_out(index);
            }
        }
    }

    /// Gives an empty queue back and notes what the app is to be told; returns what remains queued.
    fn after_write(&mut self, index: u32, id: BufferId) -> usize {
        let conn = &mut self.places[index as usize];
        let queue = &mut self.buffers[id];
        let remaining = queue.len();
        if queue.mark.is_some_and(|mark| remaining <= mark) && !conn.flags.any(Flags::BROKEN) {
            queue.mark = None;
            conn.flags |= Flags::DRAINED;
            self.signals.push(index);
        }
        if remaining == 0 {
            conn.out = None;
            self.buffers.give(id);
            if conn.flags.any(Flags::CLOSING) && conn.flags.set_new(Flags::FINISHED) {
                self.signals.push(index);
            }
        } else {
            self.buffers.charge(id);
        }
        remaining
    }

    /// As [`Sink::buffer`](tengate_base::Sink::buffer).
    pub(crate) fn buffer(&mut self, index: u32) -> &mut Vec<u8> {
        if self.writable(index).is_none() {
            self.scratch.clear();
            return &mut self.scratch;
        }
        let conn = &mut self.places[index as usize];
        let id = *conn.out.get_or_insert_with(|| self.buffers.take());
        // Even when nothing can be written now: what is queued is counted at the end of the turn.
        if !conn.flags.any(Flags::BROKEN) && conn.flags.set_new(Flags::DIRTY) {
            self.dirty.push(index);
        }
        &mut self.buffers[id].bytes
    }

    /// As [`Sink::write`](tengate_base::Sink::write).
    pub(crate) fn write(&mut self, index: u32, bytes: &[u8]) {
        self.write_by(index, bytes, |carrier, stream| carrier.send(index, stream, bytes));
    }

    /// Writes bytes that `send` hands over when nothing is queued, else appends them.
    pub(crate) fn write_by(
        &mut self,
        index: u32,
        bytes: &[u8],
        send: impl FnOnce(&mut C, &C::Stream) -> Result<usize, Broken>,
    ) {
        let Some(open) = self.writable(index) else { return };
        // Frames are kept whole in the queue, or a frame whose front went out could not be given back.
        if open.out.is_some() || open.flags.any(Flags::FRAMES | Flags::BROKEN) {
            self.buffer(index).extend_from_slice(bytes);
            return;
        }
        let open = &mut self.places[index as usize];
        let Some(stream) = &open.stream else { return };
        let count = match send(&mut self.carrier, stream) {
            Ok(count) => {
                open.bytes_written += count as u64;
                self.counters.note_write(count, bytes.len());
                if count == bytes.len() {
                    return;
                }
                open.flags |= Flags::BLOCKED;
                count
            }
            Err(Broken) => {
                self.mark_broken(index);
                0
            }
        };
        self.buffer(index).extend_from_slice(&bytes[count..]);
    }

    /// As [`Sink::queued`](tengate_base::Sink::queued).
    pub(crate) fn queued(&self, index: u32) -> usize {
        self.get(index).and_then(|conn| conn.out).map_or(0, |id| self.buffers[id].len())
    }

    /// Closes a connection when its output is written, which is not the case yet.
    pub(crate) fn close_after_flush(&mut self, index: u32) {
        let Some(conn) = self.get_mut(index) else { return };
        conn.flags |= Flags::CLOSING;
        if let Some(stash) = conn.stash.take() {
            self.buffers.give(stash);
        }
    }

    /// Whether nothing is queued, after an attempt to write it, and the app does not wait to hear of that.
    pub(crate) fn is_written(&mut self, index: u32) -> bool {
        self.write_out(index) == 0
            && !self.get(index).is_some_and(|conn| conn.flags.any(Flags::FINISHED))
    }

    /// As [`Sink::pause`](tengate_base::Sink::pause).
    pub(crate) fn pause(&mut self, index: u32) {
        if let Some(conn) = self.get_mut(index) {
            conn.flags |= Flags::PAUSED;
        }
    }

    /// As [`Sink::resume`](tengate_base::Sink::resume).
    pub(crate) fn resume(&mut self, index: u32) {
        let Some(conn) = self.get_mut(index) else { return };
        if conn.flags.take(Flags::PAUSED) {
            conn.flags |= Flags::RESHOW;
            self.make_ready(index);
        }
    }

    /// As [`Sink::notify_below`](tengate_base::Sink::notify_below).
    pub(crate) fn notify_below(&mut self, index: u32, bytes: usize) {
        let Some(open) = self.writable(index) else { return };
        match open.out {
            Some(id) => {
                self.buffers[id].mark = Some(bytes);
                if self.buffers[id].len() <= bytes {
                    self.after_write(index, id);
                }
            }
            None => {
                open.flags |= Flags::DRAINED;
                self.signals.push(index);
            }
        }
    }

    /// As [`Sink::keep_frames`](tengate_base::Sink::keep_frames).
    pub(crate) fn keep_frames(&mut self, index: u32) {
        if let Some(open) = self.writable(index) {
            open.flags |= Flags::FRAMES;
        }
    }

    /// As [`Sink::begin_message`](tengate_base::Sink::begin_message).
    pub(crate) fn begin_message(&mut self, index: u32) {
        if let Some(id) = self.get(index).and_then(|conn| conn.out) {
            self.buffers[id].begin_message();
        }
    }

    /// As [`Sink::drop_oldest`](tengate_base::Sink::drop_oldest).
    pub(crate) fn drop_oldest(&mut self, index: u32, bytes: usize) -> usize {
        let queue = self.get(index).and_then(|conn| conn.out);
        queue.map_or(0, |id| self.buffers[id].drop_oldest(bytes))
    }
}
