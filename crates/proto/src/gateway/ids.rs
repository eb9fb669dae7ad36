//! connection_id: the shard in the high bits, a counter in the low ones (docs/protocol.md#connection-id).

use tengate_base::ShardId;

/// Hands out the connection ids of one shard.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    prefix: u32,
    mask: u32,
    last: u32,
}

impl ConnectionIds {
    pub(super) fn new(shard: ShardId, number_bits: u8) -> Self {
        let prefix = u32::from(shard.0).checked_shl(u32::from(number_bits)).unwrap_or(0);
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

/// The shard a connection_id belongs to.
pub(super) fn shard_of(connection_id: u32, number_bits: u8) -> ShardId {
    ShardId(u16::try_from(connection_id >> number_bits).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_at_one_and_carry_the_shard() {
        let mut ids = ConnectionIds::new(ShardId(2), 22);
        assert_eq!(ids.next(|_| false), Some((2 << 22) + 1));
        assert_eq!(ids.next(|_| false), Some((2 << 22) + 2));
        assert_eq!(shard_of((2 << 22) + 2, 22), ShardId(2));
    }

    #[test]
    fn ids_come_round_past_those_in_use_and_end_when_all_are() {
        let mut ids = ConnectionIds::new(ShardId(1), 8);
        for number in 1..=255 {
            assert_eq!(ids.next(|_| false), Some(256 + number));
        }
        assert_eq!(ids.next(|id| id != 256 + 7), Some(256 + 7));
        assert_eq!(ids.next(|_| true), None);
    }

    #[test]
    fn age_order_holds_across_the_turn_of_the_counter() {
        let mut ids = ConnectionIds::new(ShardId(0), 8);
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
