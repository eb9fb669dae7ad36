//! Workerman's `text` protocol: a message is a line. Clients may use it, and the register speaks it with JSON inside.

use alloc::vec::Vec;
use core::fmt;

/// A connection's decoder; 4 bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Leading bytes already seen to have no `\n`, so that a line that comes in drops is scanned once.
    scanned: u32,
}

/// A line is longer than the limit: the peer's fault, the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Decoder {
    /// Decodes the line at the front of `bytes`: its length with the `\n`, and the message, which is the line without
    /// any `\r` and `\n` at its end. `None` while it is incomplete; the bytes must then be shown again, with more.
    ///
    /// # Errors
    /// The line is longer than `message_bytes_max`, the `\n` not counted.
    pub fn decode<'a>(
        &mut self,
        bytes: &'a [u8],
        message_bytes_max: usize,
    ) -> Result<Option<(usize, &'a [u8])>, TooLong> {
        let scanned = self.scanned as usize;
        debug_assert!(scanned <= bytes.len(), "an incomplete line is shown again");
        let found = bytes.get(scanned..).and_then(|fresh| memchr::memchr(b'\n', fresh));
        let line_len = found.map_or(bytes.len(), |at| scanned + at);
        if line_len > message_bytes_max {
            return Err(TooLong);
        }
        if found.is_none() {
            // A line beyond 4 GiB is scanned again from there on.
            self.scanned = u32::try_from(line_len).unwrap_or(u32::MAX);
            return Ok(None);
        }
        self.scanned = 0;
        let mut message = &bytes[..line_len];
        while let [rest @ .., b'\r' | b'\n'] = message {
            message = rest;
        }
        Ok(Some((line_len + 1, message)))
    }
}

/// Appends a message as a line. A `\n` inside it makes it several lines, as with Workerman.
pub fn encode(message: &[u8], out: &mut Vec<u8>) {
    out.reserve(message.len() + 1);
    out.extend_from_slice(message);
    out.push(b'\n');
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line is longer than the limit")
    }
}

impl core::error::Error for TooLong {}
