//! Packet formats: small decoders and encoders of our own.
//!
//! The stack needs a handful of fields of seven headers, in place and without an allocation, with every reason for a
//! refusal told apart so that it can be counted. General packet crates give views and builders for everything and still
//! leave the checks (lengths, fragments, checksums, option lists) to the caller; what is here is shorter than their use.

pub(crate) mod checksum;
pub(crate) mod ethernet;
pub(crate) mod arp;
pub(crate) mod ip;
pub(crate) mod icmp;
pub(crate) mod ndp;
pub(crate) mod tcp;

/// The 16 bits at `at`, in network order; zero beyond the end, which callers rule out before.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_be_bytes(*word))
}

/// The 32 bits at `at`, in network order; zero beyond the end, which callers rule out before.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}
