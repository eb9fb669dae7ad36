//! Which dispatcher is which gateway's home: a function of who there is and of nothing else, so that several registers
//! with the same members agree without a word (docs/protocol.md#dispatched-mode).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;

/// Chooses a home for every gateway; empty when there is no dispatcher.
///
/// Rendezvous hashing with bounded load: the gateways, in the order of their addresses, each take the dispatcher they score
/// highest among those with room. Every dispatcher has room for `gateways / dispatchers` rounded down, and as many as the
/// remainder for one more, so their loads differ by one at most. When a member comes or goes, little more moves than has to.
pub(super) fn assign<'a>(
    gateways: &BTreeSet<&'a str>,
    dispatchers: &BTreeSet<&'a str>,
) -> BTreeMap<Box<str>, Box<str>> {
    let mut homes = BTreeMap::new();
    if dispatchers.is_empty() {
        return homes;
    }
    let room = gateways.len() / dispatchers.len();
    let mut extra_room = gateways.len() % dispatchers.len();
    let mut loads = vec![0; dispatchers.len()];
    for gateway in gateways {
        let has_room = |load: usize| load < room || (load == room && extra_room > 0);
        let (_, dispatcher, load) = (dispatchers.iter().zip(&mut loads))
            .filter(|(_, load)| has_room(**load))
            .map(|(dispatcher, load)| (score(gateway, dispatcher), *dispatcher, load))
            .max_by_key(|(score, dispatcher, _)| (*score, *dispatcher))
            .expect("there is room for every gateway");
        if *load == room {
            extra_room -= 1;
        }
        *load += 1;
        homes.insert(Box::from(*gateway), Box::from(dispatcher));
    }
    homes
}

/// How much a gateway likes a dispatcher: the same on every machine and in every version.
fn score(gateway: &str, dispatcher: &str) -> u64 {
    // FNV-1a over both with a byte between that no address has, then the finalizer of MurmurHash3: FNV alone spreads the
    // last bytes, where addresses differ, over too few bits.
    let bytes = gateway.bytes().chain([0]).chain(dispatcher.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
