//! Framing by configuration, for clients with a protocol of their own: a fixed header with a length in it.
//!
//! What goes to the worker, and what a worker sends, is the whole frame with its header, so sending needs no encoding.

use alloc::vec::Vec;
use core::fmt;

/// How frames are laid out. [`LengthField::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What every frame begins with; may be empty.
    pub magic: Vec<u8>,
    /// Bytes before the length.
    pub length_offset: usize,
    /// Bytes of the length: 1, 2, 3, 4 or 8.
    pub length_bytes: usize,
    /// Which end of the length comes first.
    pub endian: Endian,
    /// What the length counts.
    pub counts: Counts,
    /// Bytes of the header; the length lies inside it.
    pub header_bytes: usize,
    /// Longest frame in bytes, header included.
    pub frame_bytes_max: usize,
}

/// Byte order of the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

/// What the length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The whole frame, header included.
    Frame,
    /// What follows the header.
    Body,
}

/// A layout that makes sense; decodes frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthField(Layout);

/// What is wrong with a layout: the configuration's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// `length_bytes` is none of 1, 2, 3, 4 and 8.
    LengthBytes,
    /// The magic reaches into the length.
    MagicOverlapsLength,
    /// The length reaches behind the header.
    LengthOutsideHeader,
    /// `frame_bytes_max` does not even allow a header.
    MaxBelowHeader,
}

/// What is wrong with a frame: always the peer's fault, the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The frame does not begin with the magic.
    Magic,
    /// The frame says it is shorter than its header.
    TooShort {
        /// What the length says.
        length: u64,
    },
    /// The frame says it is longer than the limit.
    TooLong {
        /// What the length says.
        length: u64,
    },
}

impl LengthField {
    /// Checks a layout.
    ///
    /// # Errors
    /// Its parts contradict each other.
    pub fn new(layout: Layout) -> Result<Self, LayoutError> {
        if !matches!(layout.length_bytes, 1..=4 | 8) {
            return Err(LayoutError::LengthBytes);
        }
        if layout.magic.len() > layout.length_offset {
            return Err(LayoutError::MagicOverlapsLength);
        }
        if layout
            .length_offset
            .checked_add(layout.length_bytes)
            .is_none_or(|end| end > layout.header_bytes)
        {
            return Err(LayoutError::LengthOutsideHeader);
        }
        if layout.frame_bytes_max < layout.header_bytes {
            return Err(LayoutError::MaxBelowHeader);
        }
        Ok(Self(layout))
    }

    /// Decodes the frame at the front of `bytes`: its length and the whole of it, or `None` while it is incomplete.
    ///
    /// # Errors
    /// The frame contradicts the layout, as soon as the bytes at hand prove it.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Option<(usize, &'a [u8])>, Malformed> {
        let layout = &self.0;
        if !bytes.iter().zip(&layout.magic).all(|(byte, expected)| byte == expected) {
            return Err(Malformed::Magic);
        }
        let Some(field) =
            bytes.get(layout.length_offset..layout.length_offset + layout.length_bytes)
        else {
            return Ok(None);
        };
        let length = layout.endian.decode(field);
        let before = match layout.counts {
            Counts::Frame => 0,
            Counts::Body => layout.header_bytes,
        };
        let frame_len = usize::try_from(length).ok().and_then(|length| length.checked_add(before));
        match frame_len {
            Some(frame_len) if frame_len < layout.header_bytes => {
                Err(Malformed::TooShort { length })
            }
            Some(frame_len) if frame_len <= layout.frame_bytes_max => {
                Ok(bytes.get(..frame_len).map(|frame| (frame_len, frame)))
            }
            Some(_) | None => Err(Malformed::TooLong { length }),
        }
    }
}

impl Endian {
    fn decode(self, field: &[u8]) -> u64 {
        let add = |length: u64, byte: &u8| length << 8 | u64::from(*byte);
        match self {
            Self::Big => field.iter().fold(0, add),
            Self::Little => field.iter().rev().fold(0, add),
        }
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LengthBytes => "length_bytes must be 1, 2, 3, 4 or 8",
            Self::MagicOverlapsLength => "the magic must end before the length begins",
            Self::LengthOutsideHeader => "the length must lie inside the header",
            Self::MaxBelowHeader => "frame_bytes_max must allow at least a header",
        })
    }
}

impl core::error::Error for LayoutError {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("a frame does not begin with the magic"),
            Self::TooShort { length } => {
                write!(f, "a frame's length of {length} is less than its header")
            }
            Self::TooLong { length } => {
                write!(f, "a frame's length of {length} is above the limit")
            }
        }
    }
}

impl core::error::Error for Malformed {}
