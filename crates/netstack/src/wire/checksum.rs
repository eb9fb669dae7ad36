//! The internet checksum (RFC 1071).

use core::net::Ipv6Addr;

/// A sum of 16-bit words in one's complement, over parts of any length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checksum {
    /// Words as this machine reads them: the sum does not depend on the order of bytes, but for the result's own
    /// (RFC 1071 2 B).
    sum: u64,
    /// Whether the bytes so far are odd in number.
    odd: bool,
}

impl Checksum {
    /// With the pseudo header of TCP or `ICMPv6` (RFC 9293 3.1, RFC 8200 8.1). Mapped addresses count as IPv4 ones.
    #[inline]
    pub(crate) fn pseudo(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        len: usize,
    ) -> Self {
        // Zeros in between do not change a sum, nor does the word of ones in a mapped address, so both versions are alike.
        let words = [source, destination].map(|address| {
            let [high, low] = halves(address.to_bits());
            (high >> 32) + (high & LOW_HALF) + (low >> 32) + (low & LOW_HALF)
        });
        let len = u64::from(u32::try_from(len).unwrap_or(u32::MAX));
        let sum = fold(words[0] + words[1] + len + u64::from(protocol));
        Self { sum: u64::from(sum.to_be()), odd: false }
    }

    /// Adds bytes.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // Two sums, so that one does not wait for the carry of the other.
        let (pairs, rest) = bytes.as_chunks::<16>();
        let (mut sum, mut other) = (0, 0);
        for pair in pairs {
            let ([first, second], _) = pair.as_chunks::<8>() else { break };
            sum = add_carry(sum, u64::from_ne_bytes(*first));
            other = add_carry(other, u64::from_ne_bytes(*second));
        }
        let (words, rest) = rest.as_chunks::<4>();
        // At most three words and three bytes more.
        let mut tail = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        if let Some((byte, pair)) = rest.split_last() {
            let (pair, last) = match *pair {
                [] => ([*byte, 0], [0, 0]),
                [first] => ([first, *byte], [0, 0]),
                [first, second, ..] => ([first, second], [*byte, 0]),
            };
            tail += u64::from(u16::from_ne_bytes(pair)) + u64::from(u16::from_ne_bytes(last));
        }
        self.put(add_carry(add_carry(sum, other), tail), bytes.len() % 2 == 1);
    }

    /// Adds the sum of what follows.
    #[inline]
    pub(crate) fn join(&mut self, behind: Self) {
        self.put(behind.sum, behind.odd);
    }

    #[inline]
    const fn put(&mut self, sum: u64, odd: bool) {
        self.sum = add_carry(self.sum, if self.odd { fold(sum).swap_bytes() as u64 } else { sum });
        self.odd ^= odd;
    }

    /// The sum itself, as a checksum field holds it for hardware to finish.
    #[inline]
    pub(crate) fn partial(self) -> [u8; 2] {
        fold(self.sum).to_ne_bytes()
    }

    /// The complement of the sum, as a checksum field holds it.
    #[inline]
    pub(crate) fn finish(self) -> [u8; 2] {
        (!fold(self.sum)).to_ne_bytes()
    }

    /// Whether the bytes, with their checksum among them, are intact.
    #[inline]
    pub(crate) fn is_intact(self) -> bool {
        fold(self.sum) == u16::MAX
    }
}

/// The checksum of one piece.
pub(crate) fn of(bytes: &[u8]) -> [u8; 2] {
    let mut sum = Checksum::default();
    sum.add(bytes);
    sum.finish()
}

/// Adds in one's complement of 64 bits, of which that of 16 bits is what is left after folding.
const fn add_carry(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum + carry as u64
}

/// Carries added to what is below them until there are none: after each step fewer bits are left.
#[expect(clippy::cast_possible_truncation, reason = "what is above 16 bits was added below")]
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & LOW_HALF);
    let sum = (sum >> 32) + (sum & LOW_HALF);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

const LOW_HALF: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        let mut sum = Checksum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), [0xdd, 0xf2]);
        assert_eq!(sum.finish(), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(bytes: Vec<u8>, cuts in prop::collection::vec(0..64_usize, 0..6)) {
            let (mut parts, mut rest) = (Checksum::default(), &bytes[..]);
            for cut in cuts {
                let (part, more) = rest.split_at(cut.min(rest.len()));
                parts.add(part);
                rest = more;
            }
            parts.add(rest);
            prop_assert_eq!(parts.finish(), of(&bytes));
            let slow = bytes.chunks(2).fold(0_u64, |sum, pair| {
                sum + u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0))
            });
            prop_assert_eq!(parts.partial(), fold(slow).to_be_bytes());
        }
    }
}
