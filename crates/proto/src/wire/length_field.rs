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

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::wire::golden::written_by;

    #[test]
    fn a_frame_with_a_magic_of_fffe_and_a_header_of_20_bytes_is_decoded_whole() {
        let frame = written_by("client", include_str!("../../testdata/length_field.hex"));
        let framing = LengthField::new(fffe()).unwrap();
        for cut in 0..frame.len() {
            assert_eq!(framing.decode(&frame[..cut]), Ok(None), "cut at {cut}");
        }
        let two = [&frame[..], &frame].concat();
        assert_eq!(framing.decode(&two), Ok(Some((20, &frame[..]))));
    }

    #[test]
    fn a_wrong_magic_is_refused_at_its_first_wrong_byte() {
        let framing = LengthField::new(fffe()).unwrap();
        assert_eq!(framing.decode(&[0xff]), Ok(None));
        assert_eq!(framing.decode(&[0xfe]), Err(Malformed::Magic));
        assert_eq!(framing.decode(&[0xff, 0xff]), Err(Malformed::Magic));
    }

    #[test]
    fn a_length_below_the_header_or_above_the_limit_is_refused_before_the_frame_is_whole() {
        let framing = LengthField::new(fffe()).unwrap();
        let decode = |length: u32| {
            let start = [&[0xff, 0xfe, 0, 0][..], &length.to_be_bytes()].concat();
            framing.decode(&start).map(|frame| frame.is_some())
        };
        assert_eq!(decode(19), Err(Malformed::TooShort { length: 19 }));
        assert_eq!(decode(20), Ok(false));
        assert_eq!(decode(1000), Ok(false));
        assert_eq!(decode(1001), Err(Malformed::TooLong { length: 1001 }));
        assert_eq!(decode(u32::MAX), Err(Malformed::TooLong { length: u64::from(u32::MAX) }));
    }

    #[test]
    fn every_width_and_byte_order_reads_the_same_length() {
        for length_bytes in [1, 2, 3, 4, 8] {
            for endian in [Endian::Big, Endian::Little] {
                let mut frame = vec![0; 14];
                let length = if endian == Endian::Big { length_bytes } else { 1 };
                frame[length] = 5;
                let layout = Layout {
                    magic: vec![],
                    length_offset: 1,
                    length_bytes,
                    endian,
                    counts: Counts::Body,
                    header_bytes: 9,
                    frame_bytes_max: 14,
                };
                let framing = LengthField::new(layout).unwrap();
                assert_eq!(framing.decode(&frame), Ok(Some((14, &frame[..]))));
                assert_eq!(framing.decode(&frame[..13]), Ok(None));
            }
        }
    }

    #[test]
    fn a_body_length_that_overflows_is_too_long() {
        let layout = Layout { counts: Counts::Body, length_bytes: 8, ..fffe() };
        let framing = LengthField::new(layout).unwrap();
        let frame = [&[0xff, 0xfe, 0, 0][..], &[0xff; 8]].concat();
        assert_eq!(framing.decode(&frame), Err(Malformed::TooLong { length: u64::MAX }));
    }

    #[test]
    fn a_layout_that_contradicts_itself_is_refused() {
        let refuse = |layout, error| assert_eq!(LengthField::new(layout), Err(error));
        refuse(Layout { length_bytes: 0, ..fffe() }, LayoutError::LengthBytes);
        refuse(Layout { length_bytes: 5, ..fffe() }, LayoutError::LengthBytes);
        refuse(Layout { length_offset: 1, ..fffe() }, LayoutError::MagicOverlapsLength);
        refuse(Layout { length_offset: 17, ..fffe() }, LayoutError::LengthOutsideHeader);
        refuse(Layout { length_offset: usize::MAX, ..fffe() }, LayoutError::LengthOutsideHeader);
        refuse(Layout { frame_bytes_max: 19, ..fffe() }, LayoutError::MaxBelowHeader);
    }

    fn fffe() -> Layout {
        Layout {
            magic: vec![0xff, 0xfe],
            length_offset: 4,
            length_bytes: 4,
            endian: Endian::Big,
            counts: Counts::Frame,
            header_bytes: 20,
            frame_bytes_max: 1000,
        }
    }
}
