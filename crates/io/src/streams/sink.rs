//! What a shell's [`Sink`](tengate_base::Sink) passes on of calls that are about a stream, and what it asks about one.

use tengate_netstack::Device;

use super::Streams;
use crate::conn::Flags;

impl<D: Device> Streams<D> {
    /// As [`Sink::buffer`](tengate_base::Sink::buffer).
    pub fn buffer(&mut self, index: u32) -> &mut Vec<u8> {
        self.conns.buffer(index)
    }

    /// As [`Sink::write`](tengate_base::Sink::write).
    pub fn write(&mut self, index: u32, bytes: &[u8]) {
        self.conns.write(index, bytes);
    }

    /// As [`Sink::queued`](tengate_base::Sink::queued): what the stack has taken is not counted.
    pub fn queued(&self, index: u32) -> usize {
        self.conns.queued(index)
    }

    /// As [`Sink::flush`](tengate_base::Sink::flush).
    pub fn flush(&mut self, index: u32) -> usize {
        self.conns.write_out(index)
    }

    /// As [`Sink::pause`](tengate_base::Sink::pause).
    pub fn pause(&mut self, index: u32) {
        self.conns.pause(index);
    }

    /// As [`Sink::resume`](tengate_base::Sink::resume).
    pub fn resume(&mut self, index: u32) {
        self.conns.resume(index);
    }

    /// As [`Sink::notify_below`](tengate_base::Sink::notify_below).
    pub fn notify_below(&mut self, index: u32, bytes: usize) {
        self.conns.notify_below(index, bytes);
    }

    /// As [`Sink::keep_frames`](tengate_base::Sink::keep_frames).
    pub fn keep_frames(&mut self, index: u32) {
        self.conns.keep_frames(index);
    }

    /// As [`Sink::begin_message`](tengate_base::Sink::begin_message).
    pub fn begin_message(&mut self, index: u32) {
        self.conns.begin_message(index);
    }

    /// As [`Sink::drop_oldest`](tengate_base::Sink::drop_oldest).
    pub fn drop_oldest(&mut self, index: u32, bytes: usize) -> usize {
        self.conns.drop_oldest(index, bytes)
    }

    /// Whether the application has this connection.
    pub fn is_open(&self, index: u32) -> bool {
        self.conns.get(index).is_some()
    }

    /// Whether this connection's input goes to the application, and nothing of it waits to be shown again.
    pub fn is_read(&self, index: u32) -> bool {
        self.conns
            .get(index)
            .is_some_and(|conn| conn.is_reading() && !conn.flags.any(Flags::RESHOW))
    }

    /// Whether a turn is wanted although neither a frame nor an instant comes: output to write or to tell of, or input to
    /// show again.
    pub fn has_work(&self) -> bool {
        self.conns.has_output_work() || !self.conns.ready.is_empty()
    }
}
