//! What tables of uids cost at ten million keys: the gateway's own beside two of hashbrown's, for `cargo xtask bench tables`.
//!
//! `tables <candidate> <keys>` fills one table, looks every key up, and as many that are not there, and takes every key
//! out, each in an order of its own, and prints one figure a line. `rte_hash.c` does the same with DPDK's table: same keys,
//! same order, same figures. Keys are made in blocks outside the time that counts; the clock, read once an insert, is in it.

#![expect(clippy::cast_possible_truncation, reason = "numbers stay below a count of keys, a u32")]

extern crate alloc;

#[expect(dead_code, reason = "the gateway also lists names and counts them")]
#[path = "../../src/names.rs"]
mod names;

use core::error::Error;
use core::hash::BuildHasher;
use core::hint::black_box;
use std::fs;
use std::io::Write as _;
use std::time::Instant;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use names::Names;

/// A table from keys to numbers.
trait Table {
    /// Puts a key in that may be there already, as binding a client to a uid does.
    fn insert(&mut self, key: &Key, value: u32);
    fn find(&self, key: &Key) -> Option<u32>;
    fn remove(&mut self, key: &Key) -> bool;
}

/// As long as a client_id: 20 hex digits.
type Key = [u8; 20];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [candidate, keys] = arguments.as_slice() else {
        return Err("tables <names|hash_table|hash_map> <keys>".into());
    };
    let keys: u32 = keys.parse()?;
    match candidate.as_str() {
        "names" => measure(|| Names::<u32>::new(SEED), keys),
        "hash_table" => measure(Doubling::default, keys),
        "hash_map" => measure(Owning::default, keys),
        _ => Err("no such candidate".into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "this measures")]
fn measure<T: Table>(new: impl FnOnce() -> T, keys: u32) -> Result<(), Box<dyn Error>> {
    // Written to, so that no page of it is counted as the table's.
    let mut inserts_ns = vec![1_u32; keys as usize];
    let memory_before = resident_bytes()?;
    let start = Instant::now();
    let mut table = new();
    figure("create_ms", start.elapsed().as_secs_f64() * 1e3)?;

    let mut timings = inserts_ns.iter_mut();
    each_block(
        keys,
        |index| index,
        |first, block| {
            let mut before = Instant::now();
            for ((value, key), timing) in (first..).zip(block).zip(&mut timings) {
                table.insert(key, value);
                let after = Instant::now();
                *timing = u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX);
                before = after;
            }
        },
    );
    let bytes = resident_bytes()?.saturating_sub(memory_before);
    let total_ns: u64 = inserts_ns.iter().map(|ns| u64::from(*ns)).sum();
    inserts_ns.sort_unstable();
    let [most, all] = [keys / 10_000 * 9_999, keys - 1].map(|at| inserts_ns[at as usize]);
    figure("insert_ns", total_ns as f64 / f64::from(keys))?;
    figure("insert_p9999_us", f64::from(most) / 1e3)?;
    figure("insert_worst_us", f64::from(all) / 1e3)?;
    let slow = inserts_ns.iter().filter(|ns| **ns > 100_000).count();
    figure("inserts_over_100_us", slow as f64)?;

    let mut found = 0;
    let mut lookup = |number: fn(u32, u32) -> u32| {
        each_block_ns(
            keys,
            |index| number(index, keys),
            |block| {
                found += block.iter().filter(|key| table.find(key).is_some()).count();
            },
        )
    };
    figure("hit_ns", lookup(scattered))?;
    figure("miss_ns", lookup(|index, keys| keys + index))?;
    // No lookup begins before the one before it has ended: its key stands where that one's value says.
    let zero = black_box(0);
    let alone = each_block_ns(
        keys,
        |index| scattered(index, keys),
        |block| {
            let last = (0..block.len()).fold(0, |last, at| {
                table.find(&block[at + last]).map_or(0, |value| value as usize & zero)
            });
            black_box(last);
        },
    );
    figure("hit_alone_ns", alone)?;
    let remove = each_block_ns(
        keys,
        |index| scattered(index, keys),
        |block| {
            found += block.iter().filter(|key| table.remove(key)).count();
        },
    );
    figure("remove_ns", remove)?;
    figure("bytes_per_key", bytes as f64 / f64::from(keys))?;
    if found != 2 * keys as usize {
        return Err("the table lost keys or made some up".into());
    }
    Ok(())
}

/// Mean time a key that `each` takes.
#[expect(clippy::disallowed_methods, reason = "this measures")]
fn each_block_ns(keys: u32, number: impl Fn(u32) -> u32, mut each: impl FnMut(&[Key])) -> f64 {
    let mut nanos = 0;
    each_block(keys, number, |_, block| {
        let start = Instant::now();
        each(block);
        nanos += start.elapsed().as_nanos();
    });
    nanos as f64 / f64::from(keys)
}

/// Calls `each` with the keys of numbers 0 to `keys`, a block at a time.
fn each_block(keys: u32, number: impl Fn(u32) -> u32, mut each: impl FnMut(u32, &[Key])) {
    let mut block = Vec::with_capacity(BLOCK_LEN as usize);
    for first in (0..keys).step_by(BLOCK_LEN as usize) {
        block.clear();
        block.extend((first..keys.min(first + BLOCK_LEN)).map(|index| key(number(index))));
        each(first, &block);
    }
}

/// A number below `keys` for each, in no order a cache could guess.
fn scattered(index: u32, keys: u32) -> u32 {
    (u64::from(index) * SCATTER % u64::from(keys)) as u32
}

fn key(number: u32) -> Key {
    let high = spread(u64::from(number));
    let low = spread(high);
    let digit =
        |at: usize| if at < 16 { high >> (4 * at) & 15 } else { low >> (4 * (at - 16)) & 15 };
    core::array::from_fn(|at| b"0123456789abcdef"[digit(at) as usize])
}

/// SplitMix64.
fn spread(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What the kernel says this process has in memory.
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.ok_or("no VmRSS")?.parse::<u64>()? * 1024)
}

fn figure(name: &str, value: f64) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{name} {value:.3}")
}

impl Table for Names<u32> {
    fn insert(&mut self, key: &Key, value: u32) {
        let index = self.find_or_insert(key);
        *self.value_mut(index) = value;
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.find(key).map(|index| *self.value(index))
    }

    fn remove(&mut self, key: &Key) -> bool {
        let found = self.find(key);
        if let Some(index) = found {
            self.remove(index);
        }
        found.is_some()
    }
}

/// The gateway's layout on hashbrown and `Vec`, both of which double.
struct Doubling {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: FixedState,
    last: u32,
}

struct Entry {
    name: Box<[u8]>,
    prev: u32,
    next: u32,
    value: u32,
}

impl Default for Doubling {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            hasher: FixedState::with_seed(SEED),
            last: names::NONE,
        }
    }
}

impl Table for Doubling {
    fn insert(&mut self, key: &Key, value: u32) {
        let hash = self.hasher.hash_one(key.as_slice());
        let (entries, hasher) = (&mut self.entries, &self.hasher);
        if let Some(index) = self.by_name.find(hash, |index| *entries[*index as usize].name == *key)
        {
            entries[*index as usize].value = value;
            return;
        }
        let entry =
            Entry { name: key.as_slice().into(), prev: self.last, next: names::NONE, value };
        let index = entries.len() as u32;
        entries.push(entry);
        if let Some(last) = entries.get_mut(self.last as usize) {
            last.next = index;
        }
        self.last = index;
        self.by_name
            .insert_unique(hash, index, |index| hasher.hash_one(&*entries[*index as usize].name));
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one(key.as_slice());
        let is_it = |index: &u32| *self.entries[*index as usize].name == *key;
        self.by_name.find(hash, is_it).map(|index| self.entries[*index as usize].value)
    }

    fn remove(&mut self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key.as_slice());
        let is_it = |index: &u32| *self.entries[*index as usize].name == *key;
        let Ok(found) = self.by_name.find_entry(hash, is_it) else { return false };
        let (index, _) = found.remove();
        let entry = &mut self.entries[index as usize];
        entry.name = Box::default();
        let (prev, next) = (entry.prev, entry.next);
        if let Some(entry) = self.entries.get_mut(prev as usize) {
            entry.next = next;
        }
        if let Some(entry) = self.entries.get_mut(next as usize) {
            entry.prev = prev;
        }
        self.free.push(index);
        true
    }
}

/// What one writes without a second thought.
struct Owning(HashMap<Box<[u8]>, u32, FixedState>);

impl Default for Owning {
    fn default() -> Self {
        Self(HashMap::with_hasher(FixedState::with_seed(SEED)))
    }
}

impl Table for Owning {
    fn insert(&mut self, key: &Key, value: u32) {
        self.0.insert(key.as_slice().into(), value);
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.0.get(key.as_slice()).copied()
    }

    fn remove(&mut self, key: &Key) -> bool {
        self.0.remove(key.as_slice()).is_some()
    }
}

/// Of the hash; the gateway takes it from the system's random numbers.
const SEED: u64 = 0x7e96_a7e0;
/// A prime, so that its multiples meet every number below a count of keys it does not divide.
const SCATTER: u64 = 6_700_417;
/// Keys made at a time: 20 KB, which stay in cache.
const BLOCK_LEN: u32 = 1024;
