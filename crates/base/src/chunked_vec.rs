//! A vector in chunks: growing never moves what it holds, so no push takes longer because of how much there is already.
//!
//! A `Vec` of ten million entries that doubles is copied, or its pages are mapped anew: a shard stands still for up to
//! several milliseconds. Here a push allocates one chunk of [`CHUNK_LEN`] elements at most. Cost: 24 bytes a chunk, and one
//! more memory access for an element, in a list of chunks that stays in cache.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// Elements by index, from 0; it only grows.
///
/// The first chunk doubles like a `Vec` until it is full, so that a small one costs what a `Vec` costs.
#[derive(Debug)]
pub struct ChunkedVec<T> {
    /// All but the last hold [`CHUNK_LEN`] elements, the last at least one.
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> ChunkedVec<T> {
    /// An empty one; it allocates with the first element.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// Elements held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK_LEN)?.get(index % CHUNK_LEN)
    }

    /// The element at `index`, if there is one, to change.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK_LEN)?.get_mut(index % CHUNK_LEN)
    }

    /// Puts `value` behind the last element, at index [`ChunkedVec::len`].
    pub fn push(&mut self, value: T) {
        self.len += 1;
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_LEN => last.push(value),
            last => {
                let capacity = if last.is_some() { CHUNK_LEN } else { 1 };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
    }

    /// Fills up with `value()` until there are `len` elements; no change when there are as many already.
    pub fn grow_to(&mut self, len: usize, value: impl Fn() -> T) {
        for _ in self.len..len {
            self.push(value());
        }
    }

    /// Every element, in the order of the indexes.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T> Default for ChunkedVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Index<usize> for ChunkedVec<T> {
    type Output = T;

    /// # Panics
    /// When `index` is not below [`ChunkedVec::len`].
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

impl<T> IndexMut<usize> for ChunkedVec<T> {
    /// # Panics
    /// When `index` is not below [`ChunkedVec::len`].
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

/// Elements a chunk: ten million need 2 442 chunks, whose list is 59 KB.
const CHUNK_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_stay_where_they_are_once_the_first_chunk_is_full() {
        let mut vec = ChunkedVec::new();
        vec.grow_to(CHUNK_LEN, || 0_u32);
        let places: Vec<*const u32> = vec.iter().map(core::ptr::from_ref).collect();
        vec.grow_to(10 * CHUNK_LEN + 1, || 1);
        assert!(vec.iter().map(core::ptr::from_ref).zip(places).all(|(now, then)| now == then));
    }

    proptest! {
        #[test]
        fn behaves_like_a_vec(steps in prop::collection::vec((any::<bool>(), 0..2 * CHUNK_LEN), 1..12)) {
            let (mut vec, mut model) = (ChunkedVec::new(), Vec::new());
            for (value, (grow, len)) in steps.into_iter().enumerate() {
                if grow {
                    vec.grow_to(len, || value);
                    model.resize(len.max(model.len()), value);
                } else {
                    vec.push(value);
                    model.push(value);
                }
                vec[len / 2 % model.len()] += 1;
                model[len / 2 % vec.len()] += 1;
                prop_assert_eq!(vec.len(), model.len());
                prop_assert_eq!(vec.is_empty(), model.is_empty());
                prop_assert_eq!(vec.get(len), model.get(len));
                prop_assert_eq!(vec.get_mut(len), model.get_mut(len));
            }
            prop_assert!(vec.iter().eq(&model));
        }
    }
}
