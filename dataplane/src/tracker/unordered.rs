//! The tracker of a queue whose completions come in any order: each names a slot.
//!
//! ```text
//!   slots   | e | . | f | . | . |       free: head -> 1 -> 4 -> 3 <- tail
//!                                             taken here        given back here
//! ```
//!
//! Free slots are taken in the order in which they came back, which is the order of the linked list that a device
//! keeps over a shared receive queue, and which makes the time until a slot is used again as long as can be.
//!
//! Invariants: a slot is free and in the list, or holds an entry, never both; a completion of a free slot is
//! [`Stale`]; the generation of a slot goes up each time that it is given back.

use core::cell::Cell;

use super::{PlaceError, ROWS_MAX, Stale};
use crate::error::Retry;
use crate::raw::place::Bump;

/// A slot and its generation, for devices that bring back more than the number of the slot.
///
/// As a number: slot in bits 0 to 15, generation in bits 16 to 31. The generation comes round after 2^16 uses of one
/// slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(u32);

impl Ticket {
    #[inline]
    const fn new(slot: u16, generation: u16) -> Self {
        let ([a, b], [c, d]) = (slot.to_le_bytes(), generation.to_le_bytes());
        Self(u32::from_le_bytes([a, b, c, d]))
    }

    /// From the number that the device brought back. Any number is some ticket; whether it is a live one, the tracker says.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// As a number.
    #[inline]
    #[must_use]
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// The slot.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    #[inline]
    const fn generation(self) -> u16 {
        let [.., c, d] = self.0.to_le_bytes();
        u16::from_le_bytes([c, d])
    }
}

struct Slot<E> {
    entry: Cell<Option<E>>,
    /// The free slot behind this free slot.
    next: Cell<u16>,
    generation: Cell<u16>,
}

/// The tracker of a shared receive queue, or of streams that overtake each other. One thread.
///
/// ```
/// use core::mem::MaybeUninit;
/// use spinwire_dataplane::raw::place::Bump;
/// use spinwire_dataplane::tracker::{Stale, Unordered};
///
/// let mut block = [const { MaybeUninit::uninit() }; 256];
/// let posted = Unordered::place(&Bump::new(&mut block), 4)?;
/// let (a, b) = (posted.acquire("a")?, posted.acquire("b")?);
/// assert_eq!(posted.complete(b.slot()), Ok("b"));
/// assert_eq!(posted.complete(b.slot()), Err(Stale::NotPosted));
/// assert_eq!(posted.complete_exact(a), Ok("a"));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Unordered<'m, E: Copy> {
    slots: &'m [Slot<E>],
    head: Cell<u16>,
    tail: Cell<u16>,
    free: Cell<u16>,
}

impl<'m, E: Copy> Unordered<'m, E> {
    /// Places `slots` slots, 1 to [`ROWS_MAX`].
    ///
    /// # Errors
    /// The number cannot be, or the arena has too little room left.
    pub fn place(bump: &Bump<'m>, slots: u16) -> Result<Self, PlaceError> {
        if slots == 0 || slots > ROWS_MAX {
            return Err(PlaceError::Rows { rows: slots });
        }
        let mut next = 0_u16;
        let placed = bump.slice_with(usize::from(slots), |_| {
            next = next.wrapping_add(1);
            Slot { entry: Cell::new(None), next: Cell::new(next), generation: Cell::new(0) }
        })?;
        Ok(Self {
            slots: placed,
            head: Cell::new(0),
            tail: Cell::new(slots.wrapping_sub(1)),
            free: Cell::new(slots),
        })
    }

    /// Slots that are not in use.
    #[inline]
    #[must_use]
    pub const fn free(&self) -> u16 {
        self.free.get()
    }

    /// All slots.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> u16 {
        let [a, b, ..] = self.slots.len().to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// The slot that the next [`Unordered::acquire`] takes.
    #[inline]
    #[must_use]
    pub const fn next_slot(&self) -> Option<u16> {
        if self.free.get() == 0 { None } else { Some(self.head.get()) }
    }

    /// Takes the slot that is free for the longest time, for `entry`.
    ///
    /// # Errors
    /// [`Retry::RqFull`] where all are in use.
    #[inline]
    pub fn acquire(&self, entry: E) -> Result<Ticket, Retry> {
        let slot = self.next_slot().ok_or(Retry::RqFull)?;
        let row = self.slots.get(usize::from(slot)).ok_or(Retry::RqFull)?;
        self.head.set(row.next.get());
        self.free.set(self.free.get().wrapping_sub(1));
        row.entry.set(Some(entry));
        Ok(Ticket::new(slot, row.generation.get()))
    }

    /// What was posted in `slot` has ended, well or not: its entry, and the slot is free.
    ///
    /// # Errors
    /// [`Stale::NotPosted`] where nothing is under way there. Nothing was changed.
    #[inline]
    pub fn complete(&self, slot: u16) -> Result<E, Stale> {
        let row = self.slots.get(usize::from(slot)).ok_or(Stale::NotPosted)?;
        let entry = row.entry.take().ok_or(Stale::NotPosted)?;
        row.generation.set(row.generation.get().wrapping_add(1));
        let free = self.free.get();
        if free == 0 {
            self.head.set(slot);
        } else if let Some(last) = self.slots.get(usize::from(self.tail.get())) {
            last.next.set(slot);
        }
        self.tail.set(slot);
        self.free.set(free.wrapping_add(1));
        Ok(entry)
    }

    /// As [`Unordered::complete`], where the device brought the whole ticket back.
    ///
    /// # Errors
    /// [`Stale::Reused`] where the slot has been used again since, [`Stale::NotPosted`] where nothing is under way there.
    #[inline]
    pub fn complete_exact(&self, ticket: Ticket) -> Result<E, Stale> {
        let row = self.slots.get(usize::from(ticket.slot())).ok_or(Stale::NotPosted)?;
        if row.entry.get().is_none() {
            return Err(Stale::NotPosted);
        }
        if row.generation.get() != ticket.generation() {
            return Err(Stale::Reused);
        }
        self.complete(ticket.slot())
    }

    /// Ends what is under way in the lowest slot, after a fatal error. `None` where nothing is left.
    ///
    /// It looks through the slots from `from` on and sets `from` behind the one that it found, so that a flush of all costs one pass.
    #[cold]
    #[inline(never)]
    pub fn flush(&self, from: &mut u16) -> Option<(u16, E)> {
        while *from < self.size() {
            let slot = *from;
            *from = slot.wrapping_add(1);
            if let Ok(entry) = self.complete(slot) {
                return Some((slot, entry));
            }
        }
        None
    }
}

impl<E: Copy> core::fmt::Debug for Unordered<'_, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Unordered")
            .field("size", &self.size())
            .field("free", &self.free())
            .finish_non_exhaustive()
    }
}
