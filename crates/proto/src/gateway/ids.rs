//! connection_id: the shard's `proc_id` in the high bits, a counter in the low ones (docs/protocol.md#connection-id).

use core::fmt;

/// Why a gateway cannot take a block of `proc_id`s. What to do about it is for whoever gave the block to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcIdError {
    /// The block ends beyond what the bits of a connection_id can say.
    DoesNotFit {
        /// The first of the block.
        first_proc_id: u16,
        /// How many the gateway needs: one a shard.
        shards: u16,
        /// Bits that number a client within its shard; the others are for the `proc_id`.
        number_bits: u8,
    },
    /// Connections of this shard have numbers of another block.
    InUse,
}

impl fmt::Display for ProcIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoesNotFit { first_proc_id, shards, number_bits } => write!(
                f,
                "{shards} proc_ids from {first_proc_id} on do not fit a connection_id: \
                 {number_bits} bits number clients, {} are left",
                32 - number_bits
            ),
            Self::InUse => f.write_str("connections have numbers of another block of proc_ids"),
        }
    }
}

impl core::error::Error for ProcIdError {}

/// Whether `shards` consecutive `proc_id`s fit the bits that `number_bits` leave.
pub(super) fn check(first_proc_id: u16, shards: u16, number_bits: u8) -> Result<(), ProcIdError> {
    let end = u64::from(first_proc_id) + u64::from(shards);
    if end > 1 << (32 - number_bits) || end > 1 << 16 {
        return Err(ProcIdError::DoesNotFit { first_proc_id, shards, number_bits });
    }
    Ok(())
}

/// Hands out the connection ids of one shard.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    prefix: u32,
    mask: u32,
    last: u32,
}

impl ConnectionIds {
    /// Those of a `proc_id` for which [`check`] holds.
    pub(super) fn new(proc_id: u16, number_bits: u8) -> Self {
        let prefix = u32::from(proc_id).checked_shl(u32::from(number_bits)).unwrap_or(0);
        Self { prefix, mask: u32::MAX >> (32 - u32::from(number_bits)), last: 0 }
    }

    /// The next id that is not in use: counters go up and come round only when the range is used up, so that a
    /// client_id kept for too long does not soon name somebody else. `None` when every number is taken.
    pub(super) fn next(&mut self, in_use: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..=self.mask {
            self.last = (self.last + 1) & self.mask;
            let id = self.prefix | self.last;
            // Zero is what a header holds that names no client.
            if self.last != 0 && !in_use(id) {
                return Some(id);
            }
        }
        None
    }

    /// Sorts ids from the oldest to the newest, also across the counter's turn.
    pub(super) fn sort_by_age<T>(&self, items: &mut [T], id: impl Fn(&T) -> u32) {
        items.sort_unstable_by_key(|item| id(item).wrapping_sub(self.last + 1) & self.mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_at_one_and_carry_the_proc_id() {
        let mut ids = ConnectionIds::new(2, 22);
        assert_eq!(ids.next(|_| false), Some((2 << 22) + 1));
        assert_eq!(ids.next(|_| false), Some((2 << 22) + 2));
    }

    #[test]
    fn a_block_of_proc_ids_ends_where_the_bits_end() {
        for (first, shards, number_bits, fits) in [
            (0, 1024, 22, true),
            (0, 1025, 22, false),
            (1020, 4, 22, true),
            (1021, 4, 22, false),
            (255, 1, 24, true),
            (256, 1, 24, false),
            (u16::MAX, 1, 8, true),
            (u16::MAX, 2, 8, false),
            (1, 1, 31, true),
            (2, 1, 31, false),
        ] {
            assert_eq!(check(first, shards, number_bits).is_ok(), fits, "{first} {shards}");
        }
        let refusal = check(1021, 4, 22).unwrap_err();
        assert_eq!(
            alloc::format!("{refusal}"),
            "4 proc_ids from 1021 on do not fit a connection_id: 22 bits number clients, 10 are left"
        );
    }

    #[test]
    fn ids_come_round_past_those_in_use_and_end_when_all_are() {
        let mut ids = ConnectionIds::new(1, 8);
        for number in 1..=255 {
            assert_eq!(ids.next(|_| false), Some(256 + number));
        }
        assert_eq!(ids.next(|id| id != 256 + 7), Some(256 + 7));
        assert_eq!(ids.next(|_| true), None);
    }

    #[test]
    fn age_order_holds_across_the_turn_of_the_counter() {
        let mut ids = ConnectionIds::new(0, 8);
        for _ in 0..255 {
            ids.next(|_| false);
        }
        ids.next(|_| false);
        ids.next(|_| false);
        let mut order = [1_u32, 2, 250, 255];
        ids.sort_by_age(&mut order, |id| *id);
        assert_eq!(order, [250, 255, 1, 2]);
    }
}
