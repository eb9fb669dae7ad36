//! How bytes come from sockets to the application.

use std::io::{self, ErrorKind};

use tengate_base::{CloseCause, ConnId};

use super::{Host, Shard};
use crate::buffers::Keep;
use crate::conn::Flags;
use crate::limits::{READ_BYTES, READS_PER_TURN, STASH_BYTES_MAX, STASH_ROOM_BYTES};
use crate::sys;

impl<A: Host> Shard<A> {
    /// Reads every connection that has something, once around.
    pub(super) fn handle_ready(&mut self) {
        let mut ready =
            core::mem::replace(&mut self.net.sockets.ready, core::mem::take(&mut self.spare_list));
        for index in ready.drain(..) {
            if self.net.mesh.is_congested() {
                // Stays marked as ready.
                self.net.sockets.ready.push(index);
            } else if self.net.sockets.place(index).flags.take(Flags::READY) {
                self.read_turn(index);
            }
        }
        self.spare_list = ready;
    }

    /// Shows kept input again when asked to, then reads within the budget of a turn.
    fn read_turn(&mut self, index: u32) {
        let conn = self.net.sockets.place(index);
        if !conn.is_reading() {
            return;
        }
        if conn.flags.take(Flags::RESHOW) {
            self.show_stash(index);
        }
        for _ in 0..READS_PER_TURN {
            let conn = self.net.sockets.place(index);
            if !conn.is_reading() || !conn.flags.any(Flags::READABLE) {
                return;
            }
            if self.net.mesh.is_congested() {
                break;
            }
            let read = if conn.stash.is_some() {
                self.read_to_stash(index)
            } else {
                self.read_and_show(index)
            };
            if let Err(cause) = read {
                self.finish(index, cause);
                return;
            }
        }
        let conn = self.net.sockets.place(index);
        if conn.is_reading() && conn.flags.any(Flags::READABLE) {
            self.net.sockets.make_ready(index);
        }
    }

    /// Reads into the shared buffer, shows it, keeps what is not consumed.
    fn read_and_show(&mut self, index: u32) -> Result<(), CloseCause> {
        let Some(stream) = &self.net.sockets.place(index).stream else { return Ok(()) };
        let result = sys::read(stream, &mut self.read_buffer);
        let count = self.note_read(index, result, READ_BYTES)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &mut self.read_buffer[..count];
        let consumed =
            self.app.handle_bytes(self.net.now, ConnId(index), bytes, &mut self.net).min(count);
        let (conn, buffers) = self.net.sockets.place_and_buffers(index);
        if consumed < count && conn.stream.is_some() && !conn.flags.any(Flags::CLOSING) {
            let id = buffers.take();
            conn.stash = Some(id);
            buffers[id].bytes.extend_from_slice(&self.read_buffer[consumed..count]);
        }
        Ok(())
    }

    /// Appends to what is kept, and shows all of it.
    fn read_to_stash(&mut self, index: u32) -> Result<(), CloseCause> {
        let (conn, buffers) = self.net.sockets.place_and_buffers(index);
        let (Some(stream), Some(id)) = (&conn.stream, conn.stash) else { return Ok(()) };
        let bytes = &mut buffers[id].bytes;
        if bytes.len() >= STASH_BYTES_MAX {
            self.net.sockets.counters.closed_stash_full += 1;
            return Err(CloseCause::Shell);
        }
        // In step with what is there: the start of a message costs little, a long one takes few reads.
        let room = STASH_ROOM_BYTES.max(bytes.len() / 2);
        if bytes.capacity() - bytes.len() < room {
            bytes.reserve(room);
        }
        let room = bytes.capacity() - bytes.len();
        let result = sys::read_append(stream, bytes);
        if self.note_read(index, result, room)? > 0 {
            self.show_stash(index);
        }
        Ok(())
    }

    /// Shows what is kept.
    fn show_stash(&mut self, index: u32) {
        // Out of the table during the call, in which the app may close the connection.
        let Some(id) = self.net.sockets.place(index).stash.take() else { return };
        let mut queue = core::mem::take(&mut self.net.sockets.buffers[id]);
        let bytes = queue.pending_mut();
        let len = bytes.len();
        let consumed =
            self.app.handle_bytes(self.net.now, ConnId(index), bytes, &mut self.net).min(len);
        queue.advance(consumed, Keep::Rest);
        self.net.sockets.buffers[id] = queue;
        let conn = self.net.sockets.place(index);
        if consumed < len && conn.stream.is_some() && !conn.flags.any(Flags::CLOSING) {
            conn.stash = Some(id);
        } else {
            self.net.sockets.buffers.give(id);
        }
    }

    /// Draws the conclusions of a read that had `room`: how much came, whether more may come, whether it is over.
    fn note_read(
        &mut self,
        index: u32,
        result: io::Result<usize>,
        room: usize,
    ) -> Result<usize, CloseCause> {
        self.net.sockets.counters.reads += 1;
        let conn = self.net.sockets.place(index);
        match result {
            Ok(0) => Err(CloseCause::Peer),
            Ok(count) => {
                conn.bytes_read += count as u64;
                // A short read empties a stream socket (epoll(7)), unless its end is still to be seen.
                if count < room && !conn.flags.any(Flags::HANGUP) {
                    conn.flags.clear(Flags::READABLE);
                }
                self.net.sockets.counters.bytes_read += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                conn.flags.clear(Flags::READABLE);
                Ok(0)
            }
            Err(_) => Err(CloseCause::Reset),
        }
    }
}
