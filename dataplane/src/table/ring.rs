//! A bounded queue in order of arrival: events for the caller, slots to serve next.
//!
//! ```text
//!   slots   | d |   | a | b | c | ..      capacity 2^k, all of it usable
//!             ^tail   ^head               free-running u32 counters, masked when used
//! ```
//!
//! Invariant: `tail - head` (wrapping) is the length, and never exceeds the capacity.

use core::cell::Cell;

use super::{Full, count, wide};
use crate::raw::place::{Bump, Exhausted};

/// A ring was given storage of a size that a mask cannot wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPowerOfTwo {
    /// The length that was given, in slots.
    pub length: usize,
}

impl core::fmt::Display for NotPowerOfTwo {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ring storage of {} slots: give a power of two up to 2^31", self.length)
    }
}

impl core::error::Error for NotPowerOfTwo {}

/// A first-in-first-out queue of small copies.
///
/// ```
/// use core::cell::Cell;
/// use spinwire_dataplane::table::{Full, Ring};
///
/// let mut storage = [const { Cell::new(0u8) }; 2];
/// let ring = Ring::new(&mut storage).unwrap();
/// ring.push(1)?;
/// ring.push(2)?;
/// assert_eq!(ring.push(3), Err(Full(3)));
/// assert_eq!((ring.pop(), ring.pop(), ring.pop()), (Some(1), Some(2), None));
/// # Ok::<(), Full<u8>>(())
/// ```
pub struct Ring<'m, T: Copy> {
    slots: &'m [Cell<T>],
    head: Cell<u32>,
    tail: Cell<u32>,
}

impl<'m, T: Copy> Ring<'m, T> {
    /// Takes over `storage`, whose length is the capacity; what it holds counts for nothing.
    ///
    /// # Errors
    /// The length is not a power of two, or above 2^31.
    pub const fn new(storage: &'m mut [Cell<T>]) -> Result<Self, NotPowerOfTwo> {
        let length = storage.len();
        if !length.is_power_of_two() || length > 1 << 31 {
            return Err(NotPowerOfTwo { length });
        }
        Ok(Self { slots: storage, head: Cell::new(0), tail: Cell::new(0) })
    }

    /// Places a ring of at least `capacity` items: the next power of two. `filler` is what the empty slots hold; it is
    /// never returned.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32, filler: T) -> Result<Self, Exhausted> {
        let capacity = capacity.min(1 << 31).next_power_of_two();
        let slots = bump.slice_with(wide(capacity), |_| Cell::new(filler))?;
        Ok(Self { slots, head: Cell::new(0), tail: Cell::new(0) })
    }

    /// Appends `item`.
    ///
    /// # Errors
    /// Hands `item` back where the ring is full.
    #[inline]
    pub fn push(&self, item: T) -> Result<(), Full<T>> {
        let tail = self.tail.get();
        if wide(self.len()) >= self.slots.len() {
            return Err(Full(item));
        }
        let Some(slot) = self.slot(tail) else {
            return Err(Full(item));
        };
        slot.set(item);
        self.tail.set(tail.wrapping_add(1));
        Ok(())
    }

    /// Removes the oldest item.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        let item = self.front()?;
        self.head.set(self.head.get().wrapping_add(1));
        Some(item)
    }

    /// The oldest item.
    #[inline]
    #[must_use]
    pub fn front(&self) -> Option<T> {
        self.peek(0)
    }

    /// The item that `pop` would return after `skip` others.
    #[inline]
    #[must_use]
    pub fn peek(&self, skip: u32) -> Option<T> {
        if skip >= self.len() {
            return None;
        }
        self.slot(self.head.get().wrapping_add(skip)).map(Cell::get)
    }

    /// Puts the oldest `count` items behind all others, in their order.
    pub fn rotate(&self, count: u32) {
        // A ring that is full has no room to push before it pops.
        for _ in 0..count.min(self.len()) {
            let Some(item) = self.pop() else { break };
            let _there_is_room = self.push(item);
        }
    }

    /// All items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'_, 'm, T> {
        (0..self.len()).map_while(|skip| self.peek(skip))
    }

    /// Forgets all items.
    #[inline]
    pub fn clear(&self) {
        self.head.set(self.tail.get());
    }

    /// How many items are queued.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.tail.get().wrapping_sub(self.head.get())
    }

    /// Whether nothing is queued.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next push would be refused.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len() >= self.capacity()
    }

    /// How many more items there is room for.
    #[inline]
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.capacity().wrapping_sub(self.len())
    }

    /// How many items there is room for in all.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        count(self.slots.len())
    }

    #[inline]
    fn slot(&self, position: u32) -> Option<&Cell<T>> {
        self.slots.get(wide(position) & self.slots.len().wrapping_sub(1))
    }
}

impl<T: Copy> core::fmt::Debug for Ring<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ring")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_wrap_unseen() {
        let mut storage = [const { Cell::new(0) }; 4];
        let ring = Ring::new(&mut storage).unwrap();
        ring.head.set(u32::MAX - 1);
        ring.tail.set(u32::MAX - 1);
        for item in 0..4 {
            assert_eq!((ring.len(), ring.push(item)), (item, Ok(())));
        }
        assert_eq!((ring.push(4), ring.peek(3)), (Err(Full(4)), Some(3)));
        for item in 0..4 {
            assert_eq!((ring.len(), ring.pop()), (4 - item, Some(item)));
        }
        assert_eq!((ring.pop(), ring.len()), (None, 0));
    }
}
