//! TCP segments (RFC 9293 3.1) and their options: maximum segment size, window scale and timestamps (RFC 7323), selective
//! acknowledgements (RFC 2018).

use super::{be16, be32};
use crate::seq::Seq;

/// The control bits, as the header holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    pub(crate) const FIN: Self = Self(0x01);
    pub(crate) const SYN: Self = Self(0x02);
    pub(crate) const RST: Self = Self(0x04);
    pub(crate) const PSH: Self = Self(0x08);
    pub(crate) const ACK: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits and those of `other`.
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The timestamps option (RFC 7323 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamps {
    /// TSval.
    pub(crate) value: u32,
    /// `TSecr`.
    pub(crate) echo: u32,
}

/// Ranges of sequence numbers, the end exclusive, in the order of the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct SackBlocks {
    blocks: [(Seq, Seq); SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// Adds a block when there is room.
    pub(crate) fn push(&mut self, block: (Seq, Seq)) {
        if let Some(place) = self.blocks.get_mut(usize::from(self.len)) {
            *place = block;
            self.len += 1;
        }
    }

    /// The blocks.
    pub(crate) fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.len)]
    }

    /// Keeps the first `count`.
    fn truncate(&mut self, count: usize) {
        self.len = self.len.min(u8::try_from(count).unwrap_or(u8::MAX));
    }
}

/// The options this stack knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamps: Option<Timestamps>,
    pub(crate) sacks: SackBlocks,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
    /// Meaningless without [`Flags::ACK`].
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    /// Not scaled.
    pub(crate) window: u16,
    pub(crate) options: Options,
}

impl Header {
    /// The header at the front of `segment` and its length, or `None` when it is cut off or its length is impossible.
    ///
    /// Options that are malformed, and those behind them, are passed over (RFC 9293 3.1, MUST-7 demands no more).
    #[inline]
    pub(crate) fn decode(segment: &[u8]) -> Option<(Self, usize)> {
        let fixed: &[u8; HEADER_LEN] = segment.first_chunk()?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        let options = segment.get(HEADER_LEN..header_len)?;
        let header = Self {
            source_port: be16(fixed, 0),
            destination_port: be16(fixed, 2),
            seq: Seq(be32(fixed, 4)),
            ack: Seq(be32(fixed, 8)),
            flags: Flags(fixed[13]),
            window: be16(fixed, 14),
            options: Options::decode(options),
        };
        Some((header, header_len))
    }

    /// Writes the header to the front of `out`, its checksum zero, and returns its length.
    #[inline]
    pub(crate) fn encode(&self, out: &mut [u8]) -> usize {
        let header_len = HEADER_LEN + self.options.encode(&mut out[HEADER_LEN..]);
        let out: &mut [u8; HEADER_LEN] = out.first_chunk_mut().expect("callers have the room");
        out[..2].copy_from_slice(&self.source_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        out[12] = u8::try_from(header_len / 4).expect("at most 60 bytes") << 4;
        out[13] = self.flags.0;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..20].fill(0);
        header_len
    }
}

impl Options {
    #[inline]
    fn decode(mut bytes: &[u8]) -> Self {
        // What segments have beside SYNs, laid out as RFC 7323 appendix A recommends and everybody does.
        if let Some(option) = bytes.as_array::<{ TIMESTAMPS_LEN as usize }>()
            && option[..4] == TIMESTAMPS_FRONT
        {
            let timestamps = Timestamps { value: be32(option, 4), echo: be32(option, 8) };
            return Self { timestamps: Some(timestamps), ..Self::default() };
        }
        let mut options = Self::default();
        while let [kind, rest @ ..] = bytes {
            if *kind == END {
                break;
            }
            if *kind == NOP {
                bytes = rest;
                continue;
            }
            let Some((option, behind)) =
                rest.first().and_then(|len| bytes.split_at_checked(usize::from(*len)))
            else {
                break;
            };
            if option.len() < 2 {
                break;
            }
            options.take(*kind, &option[2..]);
            bytes = behind;
        }
        options
    }

    /// Whether there is nothing but timestamps, or nothing at all.
    const fn are_only_timestamps(&self) -> bool {
        self.mss.is_none()
            && self.window_scale.is_none()
            && !self.sack_permitted
            && self.sacks.len == 0
    }

    /// Notes one option; those unknown or of a wrong length are ignored.
    fn take(&mut self, kind: u8, value: &[u8]) {
        match (kind, value.len()) {
            (MSS, 2) => self.mss = Some(be16(value, 0)),
            // RFC 7323 2.3: a greater shift counts as 14.
            (WINDOW_SCALE, 1) => self.window_scale = Some(value[0].min(WINDOW_SCALE_MAX)),
            (SACK_PERMITTED, 0) => self.sack_permitted = true,
            (SACK, 8 | 16 | 24 | 32) => {
                for block in value.chunks_exact(8) {
                    self.sacks.push((Seq(be32(block, 0)), Seq(be32(block, 4))));
                }
            }
            (TIMESTAMPS, 8) => {
                self.timestamps = Some(Timestamps { value: be32(value, 0), echo: be32(value, 4) });
            }
            _ => {}
        }
    }

    /// Writes the options, padded to whole words, and returns their length. As many SACK blocks as there is room for.
    fn encode(&self, out: &mut [u8]) -> usize {
        if self.are_only_timestamps() {
            let Some(Timestamps { value, echo }) = self.timestamps else { return 0 };
            let out: &mut [u8; TIMESTAMPS_LEN as usize] =
                out.first_chunk_mut().expect("callers have the room");
            out[..4].copy_from_slice(&TIMESTAMPS_FRONT);
            out[4..8].copy_from_slice(&value.to_be_bytes());
            out[8..].copy_from_slice(&echo.to_be_bytes());
            return out.len();
        }
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[MSS, 4, high, low]);
        }
        if let Some(scale) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, scale]);
        }
        if self.sack_permitted {
            put(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            put(&TIMESTAMPS_FRONT);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        }
        let mut sacks = self.sacks;
        sacks.truncate(if self.timestamps.is_some() {
            SACK_BLOCKS_MAX - 1
        } else {
            SACK_BLOCKS_MAX
        });
        let sacks = sacks.as_slice();
        if !sacks.is_empty() {
            put(&[NOP, NOP, SACK, u8::try_from(2 + 8 * sacks.len()).expect("at most four blocks")]);
            for (start, end) in sacks {
                put(&start.0.to_be_bytes());
                put(&end.0.to_be_bytes());
            }
        }
        at
    }
}

/// Longest header.
pub(crate) const HEADER_LEN_MAX: usize = 60;
/// Header without options.
pub(crate) const HEADER_LEN: usize = 20;
/// Where the checksum lies.
pub(crate) const CHECKSUM_AT: usize = 16;
/// Bytes of the timestamps option, padded.
pub(crate) const TIMESTAMPS_LEN: u16 = 12;
/// Greatest window scale (RFC 7323 2.3).
pub(crate) const WINDOW_SCALE_MAX: u8 = 14;

/// Blocks that fit into 40 bytes of options.
const SACK_BLOCKS_MAX: usize = 4;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// The timestamps option before its values.
const TIMESTAMPS_FRONT: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];

// A SYN carries all but SACK blocks, other segments timestamps and three blocks.
const _: () = assert!(HEADER_LEN + 4 + 4 + 4 + TIMESTAMPS_LEN as usize <= HEADER_LEN_MAX);
const _: () = assert!(HEADER_LEN + TIMESTAMPS_LEN as usize + 4 + 3 * 8 <= HEADER_LEN_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment() -> Header {
        let mut sacks = SackBlocks::default();
        sacks.push((Seq(5), Seq(9)));
        sacks.push((Seq(u32::MAX), Seq(3)));
        Header {
            source_port: 80,
            destination_port: 65_535,
            seq: Seq(0xdead_beef),
            ack: Seq(7),
            flags: Flags::ACK.with(Flags::PSH),
            window: 1_000,
            options: Options {
                timestamps: Some(Timestamps { value: 1, echo: u32::MAX }),
                sacks,
                ..Options::default()
            },
        }
    }

    #[test]
    fn headers_come_back_with_their_options() {
        let syn = Header {
            flags: Flags::SYN,
            options: Options {
                mss: Some(1_460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps { value: 9, echo: 0 }),
                ..Options::default()
            },
            ..segment()
        };
        for header in [segment(), syn, Header::default()] {
            let mut bytes = [0; HEADER_LEN_MAX];
            let len = header.encode(&mut bytes);
            assert_eq!(Header::decode(&bytes[..len]), Some((header, len)));
            for cut in 0..len {
                assert_eq!(Header::decode(&bytes[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_malformed_option_hides_those_behind_it_only() {
        // RFC 9293 3.1: a length below two or beyond the header must not be followed.
        for bad in [[9, 0, 0, 0], [9, 1, 0, 0], [9, 200, 0, 0]] {
            let bytes = [&[NOP, MSS, 4, 5, 180][..], &bad, &[SACK_PERMITTED, 2]].concat();
            let options = Options::decode(&bytes);
            assert_eq!((options.mss, options.sack_permitted), (Some(1_460), false));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(bytes: alloc::vec::Vec<u8>) {
            if let Some((header, len)) = Header::decode(&bytes) {
                prop_assert!(len <= bytes.len());
                let mut out = [0; HEADER_LEN_MAX];
                let scarce = Options { mss: None, window_scale: None, sack_permitted: false, ..header.options };
                let written = Header { options: scarce, ..header }.encode(&mut out);
                prop_assert!(written <= HEADER_LEN_MAX);
            }
        }
    }
}
