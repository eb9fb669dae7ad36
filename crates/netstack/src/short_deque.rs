//! A queue that usually has one element, which lies in it: no allocation and no other cache line for that one.

use alloc::collections::{VecDeque, vec_deque};
use core::iter::Chain;
use core::ops::{Index, IndexMut};
use core::option;

/// Elements in order, the first of them in place.
#[derive(Clone, Debug)]
pub(crate) struct ShortDeque<T> {
    /// `None` only when there are no others either.
    first: Option<T>,
    others: VecDeque<T>,
}

impl<T> ShortDeque<T> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) const fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) const fn front_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    pub(crate) fn back(&self) -> Option<&T> {
        if self.others.is_empty() { self.first.as_ref() } else { self.others.back() }
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        if self.others.is_empty() { self.first.as_mut() } else { self.others.back_mut() }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.others.get(index),
        }
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(index) => self.others.get_mut(index),
        }
    }

    pub(crate) fn push_back(&mut self, element: T) {
        if self.first.is_none() {
            self.first = Some(element);
        } else {
            self.others.push_back(element);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        if self.others.is_empty() {
            return self.first.take();
        }
        core::mem::replace(&mut self.first, self.others.pop_front())
    }

    /// Puts an element at an index other than 0.
    pub(crate) fn insert(&mut self, index: usize, element: T) {
        self.others.insert(index - 1, element);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.first.iter().chain(self.others.iter())
    }

    pub(crate) fn iter_mut(&mut self) -> Chain<option::IterMut<'_, T>, vec_deque::IterMut<'_, T>> {
        self.first.iter_mut().chain(&mut self.others)
    }

    /// The index of the first element for which `is_before` does not hold; those for which it does come first.
    pub(crate) fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> usize {
        match &self.first {
            Some(first) if is_before(first) => 1 + self.others.partition_point(is_before),
            Some(_) | None => 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first = None;
        if !self.others.is_empty() {
            self.others.clear();
        }
    }
}

impl<'a, T> IntoIterator for &'a mut ShortDeque<T> {
    type Item = &'a mut T;
    type IntoIter = Chain<option::IterMut<'a, T>, vec_deque::IterMut<'a, T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T> Index<usize> for ShortDeque<T> {
    type Output = T;

    /// # Panics
    /// When there is no such element.
    fn index(&self, index: usize) -> &T {
        self.get(index).expect("an index below the length")
    }
}

impl<T> IndexMut<usize> for ShortDeque<T> {
    /// # Panics
    /// When there is no such element.
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.get_mut(index).expect("an index below the length")
    }
}

impl<T> Default for ShortDeque<T> {
    fn default() -> Self {
        Self { first: None, others: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_deque(steps in prop::collection::vec((0..4_u8, 0..6_usize), 0..60)) {
            let (mut deque, mut model) = (ShortDeque::default(), VecDeque::new());
            for (value, (step, at)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        deque.push_back(value);
                        model.push_back(value);
                    }
                    2 => prop_assert_eq!(deque.pop_front(), model.pop_front()),
                    _ if at < model.len() => {
                        deque.insert(at + 1, value);
                        model.insert(at + 1, value);
                    }
                    _ if at == 5 => {
                        deque.clear();
                        model.clear();
                    }
                    _ => {}
                }
                if at < model.len() {
                    deque[at] += 1;
                    model[at] += 1;
                    prop_assert_eq!(deque[at], model[at]);
                }
                prop_assert!(deque.iter().eq(&model) && deque.iter().rev().eq(model.iter().rev()));
                prop_assert!(deque.iter_mut().eq(&mut model));
                prop_assert_eq!((deque.len(), deque.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!((deque.front(), deque.get(at)), (model.front(), model.get(at)));
                prop_assert_eq!(deque.front_mut(), model.front_mut());
                prop_assert_eq!(deque.back(), model.back());
                prop_assert_eq!(deque.back_mut(), model.back_mut());
                let sorted: ShortDeque<usize> = {
                    let mut sorted = ShortDeque::default();
                    (0..model.len()).for_each(|value| sorted.push_back(value));
                    sorted
                };
                prop_assert_eq!(sorted.partition_point(|value| *value < at), at.min(model.len()));
            }
        }
    }
}
