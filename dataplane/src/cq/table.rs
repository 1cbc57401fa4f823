//! Which queue pair has which number: a small table, open addressing, the last hit first.
//!
//! ```text
//!   qpn & mask ──> | 17 | -- | 18 | 34 | -- | ..        a number lies at its home or behind it, without a gap in between
//! ```
//!
//! Invariants: at most half of the slots are taken, so every walk meets a free one; a handle is in its slot, or in the hand of
//! the one call that uses it.

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use crate::raw::place::{Bump, Exhausted};
use crate::table::wide;

/// No number of a queue pair: those have 24 bits.
const NONE: u32 = u32::MAX;

/// A queue pair was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The table is full: place it for more queue pairs.
    Full,
    /// A queue pair of that number is in it already: numbers are those of one device.
    Twice,
    /// The number has more than 24 bits.
    Number,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "queue table full: place it for more queue pairs",
            Self::Twice => {
                "queue table: that number is taken; one completion queue is of one device"
            }
            Self::Number => "queue table: a queue pair's number has 24 bits",
        })
    }
}

impl core::error::Error for TableError {}

struct Slot<H> {
    qpn: Cell<u32>,
    handle: Cell<Option<H>>,
}

/// Handles of queue pairs by number. `H` is whatever leads to the queue pair: a plain reference, or an `Rc`. What is still in it
/// when the arena goes is not dropped: take it out first.
pub struct QueueTable<'m, H> {
    slots: &'m [Slot<H>],
    /// That of the last hit.
    last: Cell<Option<&'m Slot<H>>>,
    /// How often something was added or taken out.
    changes: Cell<u32>,
    count: Cell<u32>,
}

impl<'m, H> QueueTable<'m, H> {
    /// Places a table for up to `queues_max` queue pairs.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, queues_max: u32) -> Result<Self, Exhausted> {
        let slots = queues_max.clamp(1, 1 << 24).saturating_mul(2).next_power_of_two();
        let slots = bump
            .slice_with(wide(slots), |_| Slot { qpn: Cell::new(NONE), handle: Cell::new(None) })?;
        Ok(Self { slots, last: Cell::new(None), changes: Cell::new(0), count: Cell::new(0) })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.count.get()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the queue pair of number `qpn`.
    ///
    /// # Errors
    /// Hands it back with the reason.
    pub fn insert(&self, qpn: u32, handle: H) -> Result<(), (TableError, H)> {
        if qpn >= 1 << 24 {
            return Err((TableError::Number, handle));
        }
        if self.search(qpn).is_some() {
            return Err((TableError::Twice, handle));
        }
        if wide(self.count.get()) >= self.slots.len() / 2 {
            return Err((TableError::Full, handle));
        }
        let mut at = qpn;
        for _ in 0..self.slots.len() {
            match self.slot(at) {
                Some(slot) if slot.qpn.get() == NONE => {
                    slot.qpn.set(qpn);
                    slot.handle.set(Some(handle));
                    self.note_change();
                    self.count.set(self.count.get().wrapping_add(1));
                    return Ok(());
                }
                _ => at = at.wrapping_add(1),
            }
        }
        Err((TableError::Full, handle))
    }

    /// Takes the queue pair of number `qpn` out. `None` where there is none, and where it is in use just now (a handler that removes
    /// its own): then its handle is dropped after that use.
    pub fn remove(&self, qpn: u32) -> Option<H> {
        if qpn == NONE {
            return None; // what stands in free slots
        }
        let mut hole = self.search(qpn)?;
        self.note_change();
        let handle = self.slot(hole)?.handle.take();
        let mut at = hole;
        for _ in 0..self.slots.len() {
            at = at.wrapping_add(1);
            let slot = self.slot(at)?;
            let number = slot.qpn.get();
            if number == NONE {
                break;
            }
            // Whoever lies further from its home than the hole may move into the hole.
            if self.distance(number, at) >= self.distance(hole, at) {
                let to = self.slot(hole)?;
                to.qpn.set(number);
                to.handle.set(slot.handle.take());
                hole = at;
            }
        }
        self.slot(hole)?.qpn.set(NONE);
        self.count.set(self.count.get().wrapping_sub(1));
        handle
    }

    /// Lets `use_it` see the queue pair of number `qpn`. `None` where there is none.
    #[inline(always)]
    pub fn with<R>(&self, qpn: u32, use_it: impl FnOnce(&H::Target) -> R) -> Option<R>
    where
        H: Deref,
    {
        let slot = self.find(qpn)?;
        let handle = slot.handle.take()?;
        let hand =
            Hand { table: self, slot, changes: self.changes.get(), qpn, handle: Some(handle) };
        hand.handle.as_deref().map(use_it)
    }

    #[inline(always)]
    fn find(&self, qpn: u32) -> Option<&'m Slot<H>> {
        match self.last.get() {
            Some(last) if last.qpn.get() == qpn => Some(last),
            _ => self.search_slot(qpn),
        }
    }

    #[inline(never)]
    fn search_slot(&self, qpn: u32) -> Option<&'m Slot<H>> {
        let slot = self.slot(self.search(qpn)?);
        self.last.set(slot);
        slot
    }

    fn search(&self, qpn: u32) -> Option<u32> {
        let mut at = qpn;
        for _ in 0..self.slots.len() {
            let number = self.slot(at)?.qpn.get();
            if number == qpn {
                return Some(at);
            }
            if number == NONE {
                return None;
            }
            at = at.wrapping_add(1);
        }
        None
    }

    /// Where it was removed and another added meanwhile, the other one stays.
    #[cold]
    #[inline(never)]
    fn put_elsewhere(&self, qpn: u32, handle: Option<H>) {
        if let Some(slot) = self.search(qpn).and_then(|at| self.slot(at)) {
            let newer = slot.handle.take();
            slot.handle.set(newer.or(handle));
        }
    }

    fn note_change(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// How far slot `at` is behind slot `from`.
    const fn distance(&self, from: u32, at: u32) -> usize {
        wide(at.wrapping_sub(from)) & self.slots.len().wrapping_sub(1)
    }

    #[inline(always)]
    fn slot(&self, at: u32) -> Option<&'m Slot<H>> {
        self.slots.get(wide(at) & self.slots.len().wrapping_sub(1))
    }
}

/// A handle in use, which goes back to where its number lies by then, or nowhere.
struct Hand<'t, 'm, H> {
    table: &'t QueueTable<'m, H>,
    slot: &'m Slot<H>,
    /// Of the table, when it was taken.
    changes: u32,
    qpn: u32,
    handle: Option<H>,
}

impl<H> Drop for Hand<'_, '_, H> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.table.changes.get() == self.changes {
            self.slot.handle.set(self.handle.take());
        } else {
            self.table.put_elsewhere(self.qpn, self.handle.take());
        }
    }
}

impl<H> fmt::Debug for QueueTable<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTable").field("count", &self.count.get()).finish_non_exhaustive()
    }
}
