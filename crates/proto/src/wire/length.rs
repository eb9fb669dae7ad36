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
