//! The stack's own addresses: every packet asks whether it is for one of them.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// Addresses by the index that connections hold, and the index of each by a small table that is filled at the start.
#[derive(Debug)]
pub(crate) struct Locals {
    addresses: Vec<Ipv6Addr>,
    /// Open addressing, at most half full: a lookup sees one or two places.
    table: Vec<u16>,
}

impl Locals {
    /// At most [`ADDRESSES_MAX`](crate::limits::ADDRESSES_MAX) of them; of equal ones the first is found.
    pub(crate) fn new(addresses: Vec<Ipv6Addr>) -> Self {
        let table = vec![VACANT; (2 * addresses.len()).next_power_of_two()];
        let mut locals = Self { addresses, table };
        for index in 0..locals.addresses.len() {
            let address = locals.addresses[index];
            let mut place = locals.place(address);
            while locals.table[place] != VACANT {
                place = (place + 1) & (locals.table.len() - 1);
            }
            locals.table[place] = u16::try_from(index).expect("the configuration was checked");
        }
        locals
    }

    /// The address at an index.
    pub(crate) fn get(&self, index: u16) -> Ipv6Addr {
        self.addresses[usize::from(index)]
    }

    /// The index of an address.
    pub(crate) fn find(&self, address: Ipv6Addr) -> Option<u16> {
        let mut place = self.place(address);
        loop {
            let index = *self.table.get(place)?;
            if index == VACANT {
                return None;
            }
            if self.get(index) == address {
                return Some(index);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    /// The index of the first address for which something holds.
    pub(crate) fn position(&self, mut holds: impl FnMut(Ipv6Addr) -> bool) -> Option<u16> {
        (0..).zip(&self.addresses).find(|(_, address)| holds(**address)).map(|(index, _)| index)
    }

    /// Where the search for an address begins. The operator chose the addresses, so nobody makes them collide.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    fn place(&self, address: Ipv6Addr) -> usize {
        let bits = address.to_bits();
        let folded = (bits >> 64) as u64 ^ bits as u64;
        let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.table.len() - 1)
    }
}

/// No index: there are fewer addresses.
const VACANT: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ADDRESSES_MAX;

    #[test]
    fn every_address_is_found_and_no_other() {
        for count in [1, 2, 3, 64, 1000, ADDRESSES_MAX] {
            let address = |index: usize| Ipv6Addr::from_bits(0xfd00 << 112 | index as u128);
            let locals = Locals::new((0..count).map(address).collect());
            for index in 0..count {
                let found = locals.find(address(index)).expect("it is there");
                assert_eq!((usize::from(found), locals.get(found)), (index, address(index)));
            }
            assert_eq!(locals.find(address(count)), None);
            assert_eq!(
                locals.position(|each| each == address(count - 1)).map(usize::from),
                Some(count - 1)
            );
        }
    }
}
