//! How much a path may mix the order of packets up before one counts as lost (RFC 8985 6.2 steps 3 and 4), in one byte.

/// What a connection learned of its path's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reordering(u8);

/// The highest bit: some packet was overtaken (`RACK.reordering_seen`). Three bits for the multiplier (`RACK.reo_wnd_mult`),
/// from 1 to 7: seven quarters of the least round trip are more than the smoothed one, which limits it anyway. Four bits for
/// the recoveries for which it is kept (`RACK.reo_wnd_persist`); 15 stands for the 16 of the RFC.
impl Reordering {
    pub(crate) const NONE: Self = Self(1 << MULTIPLIER_SHIFT);

    pub(crate) const fn is_seen(self) -> bool {
        self.0 & SEEN != 0
    }

    /// Quarters of the least round trip that a packet may be late by.
    pub(crate) const fn multiplier(self) -> u8 {
        (self.0 >> MULTIPLIER_SHIFT) & MULTIPLIER_MAX
    }

    pub(crate) const fn note_seen(&mut self) {
        self.0 |= SEEN;
    }

    /// Something was sent again in vain: a quarter more, for the next recoveries.
    pub(crate) const fn widen(&mut self) {
        let wider = self.multiplier() + 1;
        let multiplier = if wider > MULTIPLIER_MAX { MULTIPLIER_MAX } else { wider };
        self.0 = (self.0 & SEEN) | (multiplier << MULTIPLIER_SHIFT) | PERSIST_MAX;
    }

    /// A recovery has ended.
    pub(crate) const fn handle_recovery_end(&mut self) {
        if self.0 & PERSIST_MAX > 0 {
            self.0 -= 1;
        }
        if self.0 & PERSIST_MAX == 0 {
            self.0 = (self.0 & SEEN) | Self::NONE.0;
        }
    }
}

const SEEN: u8 = 1 << 7;
const MULTIPLIER_SHIFT: u8 = 4;
const MULTIPLIER_MAX: u8 = 7;
const PERSIST_MAX: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_to_its_maximum_and_is_narrow_again_after_recoveries_without_duplicates() {
        // RFC 8985 6.2 step 4.
        for is_seen in [false, true] {
            let mut reordering = Reordering::NONE;
            if is_seen {
                reordering.note_seen();
            }
            for expected in [2, 3, 4, 5, 6, 7, 7] {
                reordering.widen();
                assert_eq!(reordering.multiplier(), expected);
            }
            for _ in 0..14 {
                reordering.handle_recovery_end();
                assert_eq!(reordering.multiplier(), 7);
            }
            for _ in 0..3 {
                reordering.handle_recovery_end();
                assert_eq!((reordering.multiplier(), reordering.is_seen()), (1, is_seen));
            }
        }
    }
}
