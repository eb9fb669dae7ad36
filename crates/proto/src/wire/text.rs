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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::written_by;

    const RECORDING: &str = include_str!("../../testdata/text.hex");

    #[test]
    fn workermans_lines_are_decoded_and_encoded_as_recorded() {
        let (lines, rest) = lines_of(&[&written_by("client", RECORDING)]);
        assert_eq!(lines, [&b"hello"[..], b"", "你好".as_bytes(), b"one", b"two"]);
        assert_eq!(rest, b"thr");
        let mut answers = Vec::new();
        lines.iter().for_each(|line| encode(line, &mut answers));
        assert_eq!(answers, written_by("server", RECORDING));
    }

    #[test]
    fn a_split_at_any_byte_changes_nothing() {
        let stream = b"one\r\n\n\r\n\rtwo\r\r\n a b \nlast";
        let whole = lines_of(&[stream]);
        assert_eq!(whole.0, [&b"one"[..], b"", b"", b"\rtwo", b" a b "]);
        for cut in 0..=stream.len() {
            let (before, after) = stream.split_at(cut);
            assert_eq!(lines_of(&[before, after]), whole, "cut at {cut}");
        }
        let drops: Vec<_> = stream.chunks(1).collect();
        assert_eq!(lines_of(&drops), whole);
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_byte_more_is_refused_before_it_ends() {
        let check = |bytes: &[u8]| Decoder::default().decode(bytes, 4).map(|line| line.is_some());
        assert_eq!(check(b"four"), Ok(false));
        assert_eq!(check(b"four\n"), Ok(true));
        assert_eq!(check(b"fivee"), Err(TooLong));
        assert_eq!(check(b"fivee\n"), Err(TooLong));
        assert_eq!(check(b"\nbehind a short line"), Ok(true));
    }

    /// The lines of a stream that comes in these reads, and what is left of it.
    fn lines_of(reads: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut decoder = Decoder::default();
        let (mut lines, mut kept) = (Vec::new(), Vec::new());
        for read in reads {
            kept.extend_from_slice(read);
            while let Some((len, line)) = decoder.decode(&kept, 100).expect("no line is longer") {
                lines.push(line.to_vec());
                kept.drain(..len);
            }
        }
        (lines, kept)
    }
}
