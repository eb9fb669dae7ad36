//! Workerman's `frame` protocol: a message after its length, a big-endian u32 that counts itself.

use alloc::vec::Vec;
use core::fmt;

/// Bytes of the length.
pub const HEADER_LEN: usize = 4;

/// What is wrong with a frame; always the peer's fault, the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What the frame says of its own length: below four, or above the limit.
    pub frame_len: u32,
}

/// Decodes the frame at the front of `bytes`: its length and the message in it, or `None` while it is incomplete.
///
/// # Errors
/// The frame says it is shorter than its own length field, or longer than `frame_bytes_max`.
pub fn decode(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<(usize, &[u8])>, Malformed> {
    let Some(frame_len) = bytes.first_chunk::<HEADER_LEN>().map(|len| u32::from_be_bytes(*len))
    else {
        return Ok(None);
    };
    let len = frame_len as usize;
    if len < HEADER_LEN || len > frame_bytes_max {
        return Err(Malformed { frame_len });
    }
    Ok(bytes.get(HEADER_LEN..len).map(|message| (len, message)))
}

/// Appends a message as a frame.
///
/// # Panics
/// The message does not fit a u32 with its header; every configured limit is far below.
pub fn encode(message: &[u8], out: &mut Vec<u8>) {
    let frame_len =
        u32::try_from(HEADER_LEN + message.len()).expect("limits keep a message under 4 GiB");
    out.reserve(frame_len as usize);
    out.extend_from_slice(&frame_len.to_be_bytes());
    out.extend_from_slice(message);
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame says it has {} bytes", self.frame_len)
    }
}

impl core::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::written_by;

    const RECORDING: &str = include_str!("../../testdata/frame.hex");

    #[test]
    fn workermans_frames_are_decoded_and_encoded_as_recorded() {
        let stream = written_by("client", RECORDING);
        let (messages, rest) = messages_of(&stream);
        assert_eq!(messages, [&b"hello"[..], b"", "你好".as_bytes(), b"one", b"two"]);
        assert_eq!(rest, [0, 0, 0]);
        let mut answers = Vec::new();
        messages.iter().for_each(|message| encode(message, &mut answers));
        assert_eq!(answers, written_by("server", RECORDING));
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_incomplete() {
        let mut frame = Vec::new();
        encode(b"message", &mut frame);
        for cut in 0..frame.len() {
            assert_eq!(decode(&frame[..cut], 100), Ok(None), "cut at {cut}");
        }
        frame.push(0);
        assert_eq!(decode(&frame, 100), Ok(Some((11, &b"message"[..]))));
    }

    #[test]
    fn a_length_below_itself_or_above_the_limit_is_refused_at_once() {
        for frame_len in [0_u32, 1, 3, 101, u32::MAX] {
            assert_eq!(decode(&frame_len.to_be_bytes(), 100), Err(Malformed { frame_len }));
        }
        assert_eq!(decode(&100_u32.to_be_bytes(), 100), Ok(None));
        assert_eq!(decode(&4_u32.to_be_bytes(), 100), Ok(Some((4, &b""[..]))));
    }

    fn messages_of(mut stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
        let mut messages = Vec::new();
        while let Some((len, message)) = decode(stream, 100).expect("the stream is good") {
            messages.push(message);
            stream = &stream[len..];
        }
        (messages, stream)
    }
}
