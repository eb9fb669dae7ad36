//! Sequence numbers: 32 bits that wrap (RFC 9293 3.4).

use core::ops::{Add, AddAssign, Sub};

/// A sequence number. Comparisons are right for numbers less than 2³¹ apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// Whether this number comes before `other`.
    pub(crate) const fn lt(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }

    /// Whether this number is `other` or comes before it.
    pub(crate) const fn le(self, other: Self) -> bool {
        !other.lt(self)
    }

    /// Whether this number comes after `other`.
    pub(crate) const fn gt(self, other: Self) -> bool {
        other.lt(self)
    }

    /// Whether this number is `other` or comes after it.
    pub(crate) const fn ge(self, other: Self) -> bool {
        !self.lt(other)
    }

    /// How far this number is behind `earlier`, which does not come after it.
    pub(crate) const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of two.
    pub(crate) const fn max(self, other: Self) -> Self {
        if self.lt(other) { other } else { self }
    }

    /// The earlier of two.
    pub(crate) const fn min(self, other: Self) -> Self {
        if self.lt(other) { self } else { other }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, count: u32) {
        *self = *self + count;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_across_the_wrap() {
        let before = Seq(u32::MAX - 1);
        let after = before + 5;
        assert_eq!(after, Seq(3));
        assert!(before.lt(after) && after.gt(before) && before.le(before) && before.ge(before));
        assert_eq!(after.since(before), 5);
        assert_eq!((before.max(after), before.min(after)), (after, before));
        assert_eq!(after - 5, before);
    }
}
