//! A ring whose oldest item lies beside it: for queues that hold one item at a time, mostly, and then touch no ring.
//!
//! ```text
//!   first   a            rest   | b | c | ..
//! ```
//!
//! Invariant: where there is no first item, the rest is empty.

use core::cell::Cell;

use super::{Full, Ring};
use crate::raw::place::{Bump, Exhausted};

/// A first-in-first-out queue of small copies.
pub struct Fronted<'m, T: Copy> {
    first: Cell<Option<T>>,
    rest: Ring<'m, T>,
}

impl<'m, T: Copy> Fronted<'m, T> {
    /// Places a queue of more than `capacity` items. `filler` is what empty slots hold; it is never returned.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32, filler: T) -> Result<Self, Exhausted> {
        Ok(Self { first: Cell::new(None), rest: Ring::place(bump, capacity, filler)? })
    }

    /// Appends `item`.
    ///
    /// # Errors
    /// Hands `item` back where the queue is full.
    #[inline(always)]
    pub fn push(&self, item: T) -> Result<(), Full<T>> {
        if !self.is_empty() {
            return self.rest.push(item);
        }
        self.first.set(Some(item));
        Ok(())
    }

    /// Removes the oldest item.
    #[inline(always)]
    pub fn pop(&self) -> Option<T> {
        let item = self.first.get();
        if self.rest.is_empty() {
            self.first.set(None);
        } else {
            self.first.set(self.rest.pop());
        }
        item
    }

    /// Removes the item, where it is the only one.
    #[inline(always)]
    pub fn pop_lone(&self) -> Option<T> {
        if self.rest.is_empty() { self.first.take() } else { None }
    }

    /// The oldest item.
    #[inline(always)]
    #[must_use]
    pub const fn front(&self) -> Option<T> {
        self.first.get()
    }

    /// The item that `pop` would return after `skip` others.
    #[inline]
    #[must_use]
    pub fn peek(&self, skip: u32) -> Option<T> {
        match skip.checked_sub(1) {
            None => self.first.get(),
            Some(skip) => self.rest.peek(skip),
        }
    }

    /// Forgets all items.
    pub fn clear(&self) {
        self.first.set(None);
        self.rest.clear();
    }

    /// How many items are queued.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> u32 {
        if self.is_empty() { 0 } else { self.rest.len().wrapping_add(1) }
    }

    /// Whether nothing is queued.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    /// Whether there is one item, and no more.
    #[inline(always)]
    #[must_use]
    pub const fn is_one(&self) -> bool {
        !self.is_empty() && self.rest.is_empty()
    }
}

impl<T: Copy> core::fmt::Debug for Fronted<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Fronted").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    #[test]
    fn items_come_in_order_whether_they_lie_beside_the_ring_or_in_it() {
        let mut block = [MaybeUninit::<u8>::uninit(); 256];
        let queue = Fronted::place(&Bump::new(&mut block), 2, 0).unwrap();
        assert_eq!((queue.pop(), queue.len(), queue.is_one()), (None, 0, false));
        for round in 0..5 {
            assert_eq!(queue.push(round), Ok(()));
            assert!(queue.is_one() && queue.front() == Some(round));
            assert_eq!((queue.push(10 + round), queue.push(20 + round)), (Ok(()), Ok(())));
            assert_eq!((queue.push(9), queue.len(), queue.is_one()), (Err(Full(9)), 3, false));
            let seen = [0, 1, 2, 3].map(|skip| queue.peek(skip));
            assert_eq!(seen, [Some(round), Some(10 + round), Some(20 + round), None]);
            assert_eq!((queue.pop(), queue.push(30 + round)), (Some(round), Ok(())));
            for expected in [10, 20, 30] {
                assert_eq!(queue.pop(), Some(expected + round));
            }
            assert!(queue.is_empty() && queue.pop().is_none());
        }
        assert_eq!((queue.push(1), queue.push(2)), (Ok(()), Ok(())));
        assert_eq!((queue.pop_lone(), queue.pop()), (None, Some(1)), "one of two is not alone");
        assert_eq!((queue.pop_lone(), queue.pop_lone(), queue.len()), (Some(2), None, 0));
        assert_eq!((queue.push(1), queue.push(2)), (Ok(()), Ok(())));
        queue.clear();
        assert_eq!((queue.len(), queue.pop(), queue.peek(1)), (0, None, None));
    }
}
