//! Where a free slot may be, and who waits for one: the [`ClassLive`] of a class.
//!
//! ```text
//!   released  armed  | bit bit bit ...       word 0, word 1, then one bit a slot
//! ```
//!
//! The slot word decides who has a slot; a bit here only says where to look. Taking a slot leaves its bit as it is, and
//! letting go of it sets the bit only where it is clear, so that a process which takes and releases the same few buffers
//! writes nothing here. Whoever searches and finds a slot in use clears its bit.
//!
//! Invariants: (1) a free slot has its bit set, except while a live process is between two steps of its own, or a dead one
//! has not been reclaimed; (2) who clears a bit looks at the slot again afterwards, and who frees a slot looks at the bit
//! afterwards: one of them sees what the other did; (3) so it is with `armed` and a freed slot.

use core::mem::offset_of;

use spinwire_layouts::shm::ClassLive;
use spinwire_layouts::word::{join, low};

use super::host::PoolHost;
use crate::raw::barrier::{store_before_load, swap_before_load};
use crate::raw::line::{Line, word};
use crate::sync::{AtomicU64, Ordering};

const RELEASED: usize = offset_of!(ClassLive, released) / 8;
const ARMED: usize = offset_of!(ClassLive, armed) / 8;
const FREE: usize = offset_of!(ClassLive, free) / 8;

/// What came of a try at a slot that may be free.
pub(super) enum Try<T> {
    Got(T),
    /// It is in use: its bit may go.
    InUse,
    /// Not to be had by this process; its bit stays.
    Pass,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FreeMap<'s> {
    lines: &'s [Line],
    slot_count: u32,
}

impl<'s> FreeMap<'s> {
    pub(super) const fn new(lines: &'s [Line], slot_count: u32) -> Self {
        Self { lines, slot_count }
    }

    /// Lines that a class of so many slots needs.
    pub(super) fn lines_for(slot_count: u32) -> u64 {
        let words = u64::from(slot_count.div_ceil(64)).wrapping_add(2);
        words.div_ceil(8)
    }

    #[inline]
    fn bit(&self, index: u32) -> Option<(&'s AtomicU64, u64)> {
        let at = usize::try_from(index / 64).ok()?.checked_add(FREE)?;
        Some((word(self.lines, at)?, 1_u64.wrapping_shl(index % 64)))
    }

    #[inline]
    pub(super) fn is_marked(&self, index: u32) -> bool {
        self.bit(index).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Sets the bit of a slot that is free. Returns whether it was clear.
    pub(super) fn mark(&self, index: u32) -> bool {
        self.bit(index).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// All slots are free: for a fresh pool.
    pub(super) fn mark_all(&self) {
        for index in 0..self.slot_count {
            let _was_clear = self.mark(index);
        }
    }

    /// A slot of the class was freed: it can be found, and who waits is woken.
    #[inline]
    pub(super) fn came_free(&self, index: u32, host: &impl PoolHost) {
        // SYNC(free bit): the slot was freed before; pairs with the barrier in `unmark`.
        // SYNC(armed): pairs with the barrier in `arm`.
        swap_before_load();
        if !self.is_marked(index) && self.mark(index) {
            swap_before_load();
        }
        self.wake_if_armed(host);
    }

    #[inline]
    fn wake_if_armed(&self, host: &impl PoolHost) {
        if word(self.lines, ARMED).is_some_and(|armed| armed.load(Ordering::Relaxed) != 0) {
            self.wake(host);
        }
    }

    /// Wakes all who wait, and those who are just about to. The mark is taken back last, and only if it is still the one that was
    /// seen: a process that is stopped or dies on the way through here leaves it, and whoever frees the next slot wakes.
    #[cold]
    pub(super) fn wake(&self, host: &impl PoolHost) {
        if let (Some(armed), Some(released)) = (word(self.lines, ARMED), word(self.lines, RELEASED))
        {
            let mark = armed.load(Ordering::Relaxed);
            // SYNC(released): Release pairs with the Acquire in `arm`.
            released.fetch_add(1, Ordering::AcqRel);
            host.wake(released);
            // Who has armed with the same mark since then read `released` before it was raised, and does not sleep.
            let _armed_anew = armed.compare_exchange(mark, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Says that somebody is about to wait, and returns the word to sleep on with what it holds. Between this and the sleep
    /// comes one more search.
    pub(super) fn arm(&self) -> Option<(&'s AtomicU64, u32)> {
        let released = word(self.lines, RELEASED)?;
        // SYNC(released): Acquire pairs with the Release in `wake`.
        let seen = low(released.load(Ordering::Acquire));
        word(self.lines, ARMED)?.store(join(seen, 1), Ordering::Relaxed);
        // SYNC(armed): pairs with the barrier in `came_free`.
        store_before_load();
        Some((released, seen))
    }

    /// Tries every slot whose bit is set, from `start` on and round. Returns what the first that was to be had gave.
    pub(super) fn search<T>(
        &self,
        start: u32,
        host: &impl PoolHost,
        mut attempt: impl FnMut(u32) -> Try<T>,
    ) -> Option<T> {
        let words = self.slot_count.div_ceil(64);
        let start = if start < self.slot_count { start } else { 0 };
        // The first word is looked at twice: from `start` on, and at last up to there.
        for step in 0..=words {
            let at = (start / 64).wrapping_add(step);
            let at = if at < words { at } else { at.wrapping_sub(words) };
            let from_start = u64::MAX.wrapping_shl(start % 64);
            let wanted = match step {
                0 => from_start,
                _ if step == words => !from_start,
                _ => u64::MAX,
            };
            let Some((word, _)) = self.bit(at.wrapping_mul(64)) else { continue };
            let mut left = word.load(Ordering::Relaxed) & wanted;
            while left != 0 {
                let index = at.wrapping_mul(64).wrapping_add(left.trailing_zeros());
                left &= left.wrapping_sub(1);
                if index >= self.slot_count {
                    break;
                }
                match attempt(index) {
                    Try::Got(it) => return Some(it),
                    Try::Pass => {}
                    Try::InUse => {
                        if let Some(it) = self.unmark(index, host, &mut attempt) {
                            return Some(it);
                        }
                    }
                }
            }
        }
        None
    }

    /// Clears the bit of a slot that is in use, and tries it once more: it may have come free in between, unseen.
    fn unmark<T>(
        &self,
        index: u32,
        host: &impl PoolHost,
        attempt: &mut impl FnMut(u32) -> Try<T>,
    ) -> Option<T> {
        let (word, bit) = self.bit(index)?;
        word.fetch_and(!bit, Ordering::AcqRel);
        // SYNC(free bit): pairs with the barrier in `came_free`.
        store_before_load();
        match attempt(index) {
            Try::Got(it) => Some(it),
            Try::InUse => None,
            Try::Pass => {
                self.came_free(index, host);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Slept;
    use crate::time::Instant;
    use core::cell::Cell;

    /// Counts its wake-ups, and does then what others do while the waker is stopped there.
    struct Stopped<'a> {
        wakes: Cell<u32>,
        meanwhile: &'a dyn Fn(),
    }

    impl core::fmt::Debug for Stopped<'_> {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("Stopped")
        }
    }

    impl PoolHost for Stopped<'_> {
        fn sleep(&self, _word: &AtomicU64, _expected: u32, _until: Option<Instant>) -> Slept {
            Slept::TimedOut
        }

        fn wake(&self, _word: &AtomicU64) {
            self.wakes.set(self.wakes.get().wrapping_add(1));
            (self.meanwhile)();
        }
    }

    #[test]
    fn a_waker_that_is_stopped_does_not_keep_others_from_waking() {
        let lines = [Line::zeroed()];
        let map = FreeMap::new(&lines, 8);
        let (_, seen) = map.arm().unwrap();
        let other = Stopped { wakes: Cell::new(0), meanwhile: &|| {} };
        let stopped = Stopped { wakes: Cell::new(0), meanwhile: &|| map.came_free(1, &other) };
        map.came_free(0, &stopped);
        assert_eq!((stopped.wakes.get(), other.wakes.get()), (1, 1));
        let (word, now) = map.arm().unwrap();
        assert!(now > seen && low(word.load(Ordering::Relaxed)) == now);
    }

    #[test]
    fn who_arms_while_others_are_woken_stays_armed() {
        let lines = [Line::zeroed()];
        let map = FreeMap::new(&lines, 8);
        let _armed = map.arm();
        let waker = Stopped { wakes: Cell::new(0), meanwhile: &|| assert!(map.arm().is_some()) };
        map.came_free(0, &waker);
        let next = Stopped { wakes: Cell::new(0), meanwhile: &|| {} };
        map.came_free(1, &next);
        assert_eq!(next.wakes.get(), 1, "the mark of the newcomer was taken away");
        map.came_free(2, &next);
        assert_eq!(next.wakes.get(), 1, "nobody waits any more");
    }
}
