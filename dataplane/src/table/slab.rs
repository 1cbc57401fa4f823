//! Slots with generations: the home of everything that an id names.
//!
//! ```text
//!   slot   state               next   value
//!   0      LIVE | gen 7         -     Some(..)      Key { slot 0, generation 7 } finds it
//!   1      gen 3                2     None          free list: 1 -> 2 -> NIL
//!   2      gen 9               NIL    None          Key { slot 2, generation 8 } is Stale
//! ```
//!
//! Invariants:
//! 1. A slot is live (bit 31 of `state`) or on the free list, never both, and the list has no other members.
//! 2. `state` holds a generation (never 0); it moves on at each removal, so that a key is
//!    refused from then on. After 2^24 - 1 removals of the *same* slot a generation comes round again.
//! 3. The value of a live slot is `Some`, save while [`Slab::with`] has it in hand, or after [`Slab::take`]
//!    has moved it out.
//!
//! The free list is last in, first out: the slot that is reused next is the one whose line is in the cache.

use core::cell::Cell;

use super::{Full, NIL, count, wide};
use crate::id::Generation;
use crate::raw::place::{Bump, Exhausted};

/// Marks a slot that holds an entry; the low 24 bits of the state are its generation.
const LIVE: u32 = 1 << 31;

/// The name of one entry: slot number and generation. A key outlives its entry, and is refused then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u32,
    generation: Generation,
}

impl Key {
    /// The key of an id that was unpacked. Whether it names anything is the slab's to say.
    #[inline]
    #[must_use]
    pub const fn new(slot: u32, generation: Generation) -> Self {
        Self { slot, generation }
    }

    /// The slot number, below the capacity of the slab that issued the key.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot is meant.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> Generation {
        self.generation
    }
}

/// Why a key was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlabError {
    /// The slot number is beyond the capacity: the key is of another slab, or forged.
    Unknown,
    /// The slot has moved on: the entry was removed, and another one may live there.
    Stale,
    /// The generation is the one that the slot will issue next: a key that nobody was given yet.
    Vacant,
    /// The value is in the hand of [`Slab::with`] further up the stack, or was moved out by [`Slab::take`].
    Busy,
}

impl core::fmt::Display for SlabError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unknown => {
                "key names a slot beyond the table: use it with the table that issued it"
            }
            Self::Stale => "key is stale: its entry was removed before",
            Self::Vacant => "key was never issued: its slot is vacant",
            Self::Busy => "entry is in use further up the stack, or its value was taken",
        })
    }
}

impl core::error::Error for SlabError {}

/// The storage of one entry.
pub struct Slot<T> {
    state: Cell<u32>,
    next: Cell<u32>,
    value: Cell<Option<T>>,
}

impl<T> Slot<T> {
    /// A slot that holds nothing and was never used.
    #[must_use]
    pub const fn vacant() -> Self {
        Self {
            state: Cell::new(Generation::FIRST.as_raw()),
            next: Cell::new(NIL),
            value: Cell::new(None),
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::vacant()
    }
}

impl<T> core::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Slot")
            .field("state", &self.state)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// A table of entries that are found by [`Key`]. `T` may be `Copy` ([`get`](Slab::get)) or move-only, like a loan
/// ([`with`](Slab::with), [`take`](Slab::take)).
///
/// ```
/// use spinwire_dataplane::table::{Slab, SlabError, Slot};
///
/// let mut storage = [const { Slot::vacant() }; 2];
/// let slab = Slab::new(&mut storage);
/// let key = slab.insert("order 17")?;
/// assert_eq!(slab.get(key), Ok("order 17"));
/// assert_eq!(slab.remove(key), Ok("order 17"));
/// assert_eq!(slab.remove(key), Err(SlabError::Stale)); // released twice: an error, never somebody else's entry
/// # Ok::<(), spinwire_dataplane::table::Full<&str>>(())
/// ```
pub struct Slab<'m, T> {
    slots: &'m [Slot<T>],
    free: Cell<u32>,
    live: Cell<u32>,
}

impl<'m, T> Slab<'m, T> {
    /// Takes over `storage`, as many entries as it has slots. Entries of an earlier owner are dropped, and
    /// their keys stay refused. Takes time linear in the capacity.
    #[must_use]
    pub fn new(storage: &'m mut [Slot<T>]) -> Self {
        let capacity = count(storage.len());
        let mut next = capacity;
        for slot in storage.iter_mut().take(wide(capacity)).rev() {
            let state = slot.state.get();
            if state & LIVE != 0 {
                slot.state.set(generation_of(state).next().as_raw());
            }
            slot.value.set(None);
            slot.next.set(if next == capacity { NIL } else { next });
            next = next.wrapping_sub(1);
        }
        let free = if capacity == 0 { NIL } else { 0 };
        Self { slots: storage, free: Cell::new(free), live: Cell::new(0) }
    }

    /// Places a slab of `capacity` entries.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        Ok(Self::new(bump.slice_with(wide(capacity), |_| Slot::vacant())?))
    }

    /// Stores `value` and names it. The key of the next entry in this slot will differ.
    ///
    /// # Errors
    /// Hands `value` back where every slot is live.
    #[inline]
    pub fn insert(&self, value: T) -> Result<Key, Full<T>> {
        let index = self.free.get();
        let Some(slot) = self.slots.get(wide(index)) else {
            return Err(Full(value));
        };
        self.free.set(slot.next.get());
        let state = slot.state.get();
        slot.state.set(state | LIVE);
        slot.value.set(Some(value));
        self.live.set(self.live.get().wrapping_add(1));
        Ok(Key { slot: index, generation: generation_of(state) })
    }

    /// The key that the next [`insert`](Slab::insert) will return; `None` where it will be refused. For
    /// entries that hold their own name.
    #[inline]
    #[must_use]
    pub fn next_key(&self) -> Option<Key> {
        let index = self.free.get();
        let slot = self.slots.get(wide(index))?;
        Some(Key { slot: index, generation: generation_of(slot.state.get()) })
    }

    /// Ends an entry and gives its value back. `key` is refused from now on.
    ///
    /// # Errors
    /// The key names no live entry, or its value is not there ([`SlabError::Busy`]).
    #[inline]
    pub fn remove(&self, key: Key) -> Result<T, SlabError> {
        let slot = self.slot_of(key)?;
        let Some(value) = slot.value.take() else {
            return Err(SlabError::Busy);
        };
        self.release(slot, key);
        Ok(value)
    }

    /// Moves the value out and keeps the entry: its key stays good for [`put`](Slab::put), and is
    /// [`SlabError::Busy`] for all else.
    ///
    /// # Errors
    /// The key names no live entry, or its value is not there.
    #[inline]
    pub fn take(&self, key: Key) -> Result<T, SlabError> {
        self.slot_of(key)?.value.take().ok_or(SlabError::Busy)
    }

    /// Puts a value into a live entry, and gives back the one that was there (`None` after [`take`](Slab::take)).
    ///
    /// # Errors
    /// The key names no live entry; the value comes back.
    #[inline]
    pub fn put(&self, key: Key, value: T) -> Result<Option<T>, (SlabError, T)> {
        match self.slot_of(key) {
            Ok(slot) => Ok(slot.value.replace(Some(value))),
            Err(error) => Err((error, value)),
        }
    }

    /// Ends an entry whether its value is there or was taken.
    ///
    /// # Errors
    /// The key names no live entry.
    #[inline]
    pub fn discard(&self, key: Key) -> Result<Option<T>, SlabError> {
        let slot = self.slot_of(key)?;
        let value = slot.value.take();
        self.release(slot, key);
        Ok(value)
    }

    /// Lets `look` read and change the value in place. While it runs, the entry is [`SlabError::Busy`] for calls on
    /// the same key. Where `look` discards the entry, its value is dropped at the end.
    ///
    /// # Errors
    /// The key names no live entry, or its value is not there; `look` was not called.
    #[inline]
    pub fn with<R>(&self, key: Key, look: impl FnOnce(&mut T) -> R) -> Result<R, SlabError> {
        let slot = self.slot_of(key)?;
        let Some(mut value) = slot.value.take() else {
            return Err(SlabError::Busy);
        };
        let result = look(&mut value);
        if slot.state.get() == live(key) {
            slot.value.set(Some(value));
        }
        Ok(result)
    }

    /// Whether `key` names a live entry, and why not.
    ///
    /// # Errors
    /// The key names no live entry.
    #[inline]
    pub fn check(&self, key: Key) -> Result<(), SlabError> {
        self.slot_of(key).map(|_| ())
    }

    /// The key of the live entry in slot `slot`, for tables that keep bare slot numbers beside this one.
    #[inline]
    #[must_use]
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        let state = self.slots.get(wide(slot))?.state.get();
        (state & LIVE != 0).then_some(Key { slot, generation: generation_of(state) })
    }

    /// The keys of all live entries by rising slot number. Entries may be inserted and removed meanwhile.
    /// A step takes time linear in the free slots that it passes.
    pub fn keys(&self) -> impl Iterator<Item = Key> + use<'_, 'm, T> {
        (0..self.capacity()).filter_map(|slot| self.key_at(slot))
    }

    /// How many entries are live.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.live.get()
    }

    /// Whether no entry is live.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live.get() == 0
    }

    /// Whether [`insert`](Slab::insert) would be refused.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.free.get() == NIL
    }

    /// How many entries there is room for.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        count(self.slots.len())
    }

    #[inline]
    fn slot_of(&self, key: Key) -> Result<&'m Slot<T>, SlabError> {
        match self.slots.get(wide(key.slot)) {
            Some(slot) if slot.state.get() == live(key) => Ok(slot),
            Some(slot) => Err(refusal(slot.state.get(), key)),
            None => Err(SlabError::Unknown),
        }
    }

    #[inline]
    fn release(&self, slot: &Slot<T>, key: Key) {
        slot.state.set(key.generation.next().as_raw());
        slot.next.set(self.free.replace(key.slot));
        self.live.set(self.live.get().wrapping_sub(1));
    }
}

impl<T: Copy> Slab<'_, T> {
    /// A copy of the value.
    ///
    /// # Errors
    /// The key names no live entry, or its value is not there.
    #[inline]
    pub fn get(&self, key: Key) -> Result<T, SlabError> {
        self.slot_of(key)?.value.get().ok_or(SlabError::Busy)
    }

    /// Replaces the value, and returns the old one.
    ///
    /// # Errors
    /// The key names no live entry, or its value is not there; nothing was changed.
    #[inline]
    pub fn set(&self, key: Key, value: T) -> Result<T, SlabError> {
        let slot = self.slot_of(key)?;
        let old = slot.value.get().ok_or(SlabError::Busy)?;
        slot.value.set(Some(value));
        Ok(old)
    }
}

impl<T> core::fmt::Debug for Slab<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Slab")
            .field("live", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// The state of a slot where `key` is live.
#[inline]
const fn live(key: Key) -> u32 {
    key.generation.as_raw() | LIVE
}

/// The generation in `state`, which is never 0 there.
#[inline]
const fn generation_of(state: u32) -> Generation {
    match Generation::from_raw(state) {
        Some(generation) => generation,
        None => Generation::FIRST,
    }
}

/// Why `key` does not match a slot in `state`.
#[cold]
const fn refusal(state: u32, key: Key) -> SlabError {
    if state == key.generation.as_raw() { SlabError::Vacant } else { SlabError::Stale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_come_round_after_all_others_and_never_name_nothing() {
        let mut storage = [const { Slot::vacant() }; 1];
        let slab = Slab::new(&mut storage);
        let first = slab.insert(()).unwrap();
        assert_eq!(slab.remove(first), Ok(()));
        slab.slots[0].state.set((1 << 24) - 2);
        for expected in [(1 << 24) - 2, (1 << 24) - 1, 1, 2] {
            let key = slab.insert(()).unwrap();
            assert_eq!(key.generation().as_raw(), expected);
            assert_eq!(
                slab.get(first).is_ok(),
                expected == 1,
                "the same name, 2^24 - 1 uses later"
            );
            assert_eq!(slab.remove(key), Ok(()));
        }
    }
}
