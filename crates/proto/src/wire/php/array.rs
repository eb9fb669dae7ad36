//! PHP's array: a map of integers and byte strings that remembers the order of insertion.

use alloc::boxed::Box;
use alloc::vec::{self, Vec};
use core::fmt;
use core::hash::BuildHasher;
use core::slice;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::{Key, Value};

/// A PHP array: entries in the order of their first insertion, found by key.
///
/// Up to `SCAN_LEN_MAX` entries are found by looking at each; more get a hash index of 4 bytes an entry. The hash is
/// seeded differently in every process, because keys come from clients (a query string) and must not be chosen to collide;
/// nothing that can be observed depends on the seed.
#[derive(Clone, Default)]
pub struct Array {
    entries: Vec<(Key, Value)>,
    next_int: NextInt,
    index: Option<Box<Index>>,
}

/// The array cannot take a value without a key: `i64::MAX` is in use, as PHP's "next element is already occupied".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayFull;

/// Entries of an array, in order.
pub type Iter<'a> = slice::Iter<'a, (Key, Value)>;

/// Entries of an array, in order, by value.
pub type IntoIter = vec::IntoIter<(Key, Value)>;

/// Entries up to which an array is searched one by one.
const SCAN_LEN_MAX: usize = 8;

#[derive(Clone)]
struct Index {
    hasher: RandomState,
    positions: HashTable<u32>,
}

/// The key that `push` uses next.
#[derive(Clone, Copy, Default)]
enum NextInt {
    /// No integer key so far; the first is 0.
    #[default]
    First,
    At(i64),
    /// `i64::MAX` is in use.
    Full,
}

impl Array {
    /// An empty array, without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty array with room for `len` entries.
    pub fn with_capacity(len: usize) -> Self {
        Self { entries: Vec::with_capacity(len), ..Self::default() }
    }

    /// The value at `key`.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.position(key).map(|position| &self.entries[position].1)
    }

    /// The value at `key`, to be changed.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Value> {
        self.position(key).map(|position| &mut self.entries[position].1)
    }

    /// Puts a value: in place when the key is there, else at the end. Returns the value that was there.
    pub fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        if let Some(position) = self.position(&key) {
            return Some(core::mem::replace(&mut self.entries[position].1, value));
        }
        self.add(key, value);
        None
    }

    /// Appends a value under the next integer: one more than the largest so far, at first 0. PHP's own functions count like
    /// this (`parse_str`), and from PHP 8.3 on all of PHP does.
    ///
    /// # Errors
    /// The largest integer is in use; the array is as before.
    pub fn push(&mut self, value: Value) -> Result<&mut Value, ArrayFull> {
        let int = match self.next_int {
            NextInt::First => 0,
            NextInt::At(int) => int,
            NextInt::Full => return Err(ArrayFull),
        };
        let position = self.add(Key::Int(int), value);
        Ok(&mut self.entries[position].1)
    }

    /// The value at `key`, which is `default` if there was none.
    pub fn get_or_insert(&mut self, key: Key, default: Value) -> &mut Value {
        let position = match self.position(&key) {
            Some(position) => position,
            None => self.add(key, default),
        };
        &mut self.entries[position].1
    }

    /// Takes an entry out; the rest keeps its order. Takes time in proportion to the array's length.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let position = self.position(key)?;
        let (_, value) = self.entries.remove(position);
        self.index = None;
        self.index_if_large();
        Some(value)
    }

    /// The entries, in order.
    pub fn iter(&self) -> Iter<'_> {
        self.entries.iter()
    }

    /// The values, in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: &Key) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.entries.iter().position(|(at, _)| at == key);
        };
        let hash = index.hasher.hash_one(key);
        index
            .positions
            .find(hash, |position| self.entries[*position as usize].0 == *key)
            .map(|position| *position as usize)
    }

    /// Adds an entry whose key is known to be absent. Returns its position.
    fn add(&mut self, key: Key, value: Value) -> usize {
        if let Key::Int(int) = key {
            self.next_int = self.next_int.after(int);
        }
        let position = self.entries.len();
        self.entries.push((key, value));
        match &mut self.index {
            Some(index) => index.add(&self.entries, position),
            None => self.index_if_large(),
        }
        position
    }

    fn index_if_large(&mut self) {
        if self.entries.len() > SCAN_LEN_MAX {
            let mut index = Index { hasher: RandomState::default(), positions: HashTable::new() };
            (0..self.entries.len()).for_each(|position| index.add(&self.entries, position));
            self.index = Some(Box::new(index));
        }
    }
}

impl Index {
    fn add(&mut self, entries: &[(Key, Value)], position: usize) {
        let Self { hasher, positions } = self;
        let hash_at = |position: &u32| hasher.hash_one(&entries[*position as usize].0);
        let position =
            u32::try_from(position).expect("4 billion entries exceed every length limit");
        positions.insert_unique(hash_at(&position), position, hash_at);
    }
}

impl NextInt {
    fn after(self, int: i64) -> Self {
        match self {
            Self::At(next) if int < next => self,
            Self::Full => self,
            Self::First | Self::At(_) => int.checked_add(1).map_or(Self::Full, Self::At),
        }
    }
}

/// What PHP's `array_replace_recursive` gives for two arrays: entries of `replacement` replace those of `base` in place or
/// follow them; where both sides hold an array, the same happens inside.
pub fn array_replace_recursive(base: Array, replacement: Array) -> Array {
    let mut outer: Vec<Merge> = Vec::new();
    let mut merge = Merge { into: base, from: replacement.into_iter(), position: 0 };
    loop {
        let Some((key, value)) = merge.from.next() else {
            let Some(mut parent) = outer.pop() else { return merge.into };
            parent.into.entries[parent.position].1 = Value::Array(merge.into);
            merge = parent;
            continue;
        };
        match (value, merge.into.get_mut(&key)) {
            (Value::Array(from), Some(Value::Array(into))) => {
                let into = core::mem::take(into);
                merge.position = merge.into.position(&key).expect("it was found just now");
                outer.push(merge);
                merge = Merge { into, from: from.into_iter(), position: 0 };
            }
            (value, Some(old)) => *old = value,
            (value, None) => drop(merge.into.insert(key, value)),
        }
    }
}

/// One level of a recursive replacement that waits for the level inside it.
struct Merge {
    into: Array,
    from: IntoIter,
    /// Where in `into` the finished inner level belongs.
    position: usize,
}

impl FromIterator<(Key, Value)> for Array {
    /// Later entries replace earlier ones of the same key, in place.
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(entries: I) -> Self {
        let mut array = Self::new();
        for (key, value) in entries {
            array.insert(key, value);
        }
        array
    }
}

impl IntoIterator for Array {
    type Item = (Key, Value);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        self.entries.into_iter()
    }
}

impl<'a> IntoIterator for &'a Array {
    type Item = &'a (Key, Value);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl PartialEq for Array {
    /// The same entries in the same order (PHP's `===`).
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(key, value)| (key, value))).finish()
    }
}

impl fmt::Display for ArrayFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the array's largest integer key is in use")
    }
}

impl core::error::Error for ArrayFull {}
