//! Parcels: buffers of a pool that have come as messages.
//!
//! ```text
//!   Completion { kind: Parcel, parcel }
//!        '-- take(&pool) --> Guard<Shared>       a reference of this process's own
//!        '-- drop                                none
//!              either way: the number is noted at the desk; with the next flush its sender hears of it and lets go
//! ```
//!
//! Until then the buffer is held by who sent it, in this process's favour. If that dies first, the parcel is
//! [`Stale`](PoolError::Stale) (unless somebody else holds the buffer). See [`lender`](super::lender).
//!
//! Invariants: (1) a row is free, or its parcel is in the caller's hands, or it is noted; (2) a parcel is noted once, when it is
//! dropped, with the address that it came from. Parcels of one who is gone may still come after those of its successor in the
//! address table: nothing here is kept by the row of that table, and the provider knows which of the two it has a lane with.

use core::cell::Cell;

use spinwire_layouts::shm::BufferId;
use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use crate::id::Addr;
use crate::pool::{Guard, Pool, PoolError, PoolHost, PoolSegment, Shared};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Descriptor;

/// Parcels that the caller may hold at once, for each sender that there can be; not more than for 16 of them.
const KEPT_PER_SENDER: u32 = 64;
/// No row.
const NONE: u32 = u32::MAX;

/// Parcels in the caller's hands, and those that were given up and whose senders do not know yet.
#[derive(Debug)]
pub(super) struct Desk<'m> {
    rows: &'m [Row<'m>],
    lists: &'m Lists,
}

/// The first row that is free, and the first whose parcel was given up.
#[derive(Debug)]
struct Lists {
    free: Cell<u32>,
    noted: Cell<u32>,
}

/// A parcel in the caller's hands, or one that was given up, or none.
#[derive(Debug)]
struct Row<'m> {
    lists: &'m Lists,
    what: Cell<Descriptor>,
    source: Cell<Option<Addr>>,
    /// Its own place, and the next row of its list where it is in one.
    index: u32,
    next: Cell<u32>,
}

impl<'m> Desk<'m> {
    /// For so many senders.
    pub(super) fn place(bump: &Bump<'m>, senders: u32) -> Result<Self, Exhausted> {
        let count = senders.min(16).saturating_mul(KEPT_PER_SENDER);
        let free = Cell::new(if count == 0 { NONE } else { 0 });
        let lists: &'m Lists = bump.value(Lists { free, noted: Cell::new(NONE) })?;
        let rows = bump.slice_with(to_usize(widen(count)), |at| {
            let index = low(from_usize(at));
            let next = index.wrapping_add(1);
            Row {
                lists,
                what: Cell::new(Descriptor::from_words(0, 0)),
                source: Cell::new(None),
                index,
                next: Cell::new(if next < count { next } else { NONE }),
            }
        })?;
        Ok(Self { rows, lists })
    }

    /// Whether no parcel more can be held.
    pub(super) const fn is_full(&self) -> bool {
        self.lists.free.get() == NONE
    }

    /// A parcel for the caller; `None` where the desk is full.
    pub(super) fn hand_out(&self, what: Descriptor, source: Addr) -> Option<Parcel<'m>> {
        let row = self.row(self.lists.free.get())?;
        self.lists.free.set(row.next.get());
        row.what.set(what);
        row.source.set(Some(source));
        Some(Parcel(row))
    }

    #[inline(always)]
    pub(super) const fn has_some(&self) -> bool {
        self.lists.noted.get() != NONE
    }

    /// Tells `settle` of all that were given up, a bit each by their numbers; of those of one sender that were given up one after
    /// the other at once.
    #[cold]
    pub(super) fn clear(&self, settle: impl Fn(Addr, u64)) {
        let mut run: Option<(Addr, u64)> = None;
        // Each row once: as many as there are.
        for _ in self.rows {
            let Some(row) = self.row(self.lists.noted.get()) else { break };
            self.lists.noted.set(row.next.get());
            row.next.set(self.lists.free.replace(row.index));
            let Some(source) = row.source.take() else { continue };
            let bit = 1_u64.wrapping_shl(u32::from(row.what.get().number));
            match &mut run {
                Some((of, numbers)) if *of == source => *numbers |= bit,
                before => {
                    if let Some((of, numbers)) = before.replace((source, bit)) {
                        settle(of, numbers);
                    }
                }
            }
        }
        if let Some((of, numbers)) = run {
            settle(of, numbers);
        }
    }

    fn row(&self, index: u32) -> Option<&'m Row<'m>> {
        self.rows.get(to_usize(widen(index)))
    }
}

/// A buffer of a pool that has come as a message. Take it, or drop it; its sender hears of either with the next flush or turn.
///
/// An endpoint hands out up to 64 for each row of its address table, at most 1024; then it waits until some are dropped.
#[derive(Debug)]
#[must_use = "dropping it lets go of the buffer"]
pub struct Parcel<'m>(&'m Row<'m>);

/// A parcel that was not taken, and why.
#[derive(Debug)]
pub struct Untaken<'m> {
    /// Why.
    pub error: PoolError,
    /// The parcel, as it was.
    pub parcel: Parcel<'m>,
}

impl core::fmt::Display for Untaken<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for Untaken<'_> {}

impl<'m> Parcel<'m> {
    /// The id of the buffer, as the sender wrote it.
    #[must_use]
    pub const fn id(&self) -> BufferId {
        self.0.what.get().buffer
    }

    /// What tells its pool from most others, in 24 bits, as the sender wrote it.
    #[must_use]
    pub const fn pool_key(&self) -> u32 {
        self.0.what.get().pool
    }

    /// Whether it says that it is of that pool.
    #[must_use]
    pub const fn is_of(&self, pool: &PoolSegment<'_>) -> bool {
        self.0.what.get().pool == pool.key()
    }

    /// A guard for the buffer.
    ///
    /// # Errors
    /// The parcel comes back, with `Foreign` where it is of another pool or names no buffer of this one; `Stale` where its
    /// sender has died or left, or named a buffer that was not its own; `Busy` where somebody writes it; `Fatal`.
    pub fn take<'p, H: PoolHost>(
        self,
        pool: &'p Pool<'p, H>,
    ) -> Result<Guard<'p, Shared, H>, Untaken<'m>> {
        self.open(pool).map_err(|error| Untaken { error, parcel: self })
    }

    pub(super) fn open<'p, H: PoolHost>(
        &self,
        pool: &'p Pool<'p, H>,
    ) -> Result<Guard<'p, Shared, H>, PoolError> {
        if !self.is_of(pool.segment()) {
            return Err(PoolError::Foreign);
        }
        pool.expect(self.id());
        pool.get(self.id())
    }
}

impl Drop for Parcel<'_> {
    fn drop(&mut self) {
        let Row { lists, index, next, .. } = self.0;
        next.set(lists.noted.replace(*index));
    }
}
