//! The context table: what the endpoint keeps of an operation from its post to its completion, a cache line each.
//!
//! ```text
//!            word                                            loan
//!   live     operation 8 | generation 24 | slot 32: the id    there
//!   vacant           0   | generation 24 | slot 32            none
//! ```
//!
//! So one comparison tells whether an id names what is posted here: operation, generation and slot at once. The generation of a row moves on
//! as it is given up.
//!
//! Invariants: (1) a row is live, or in the list of the vacant once; (2) the word of a live row is the id of its operation, and its loan is
//! there, except while [`Table::with`] has it; (3) a vacant row has no loan, so that an id without operation, which is nobody's, is told by
//! that.

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;

use crate::id::{Generation, OpTag, WrId};
use crate::raw::loan::{Berth, Posted, Sge};
use crate::raw::place::{Bump, Exhausted};
use crate::table::wide;
use spinwire_layouts::word::{from_usize, join, low};

/// Generation and slot of an id.
const BELOW_OPERATION: u64 = !(0xff << 56);
/// The next generation of the same slot.
const ONE_GENERATION: u64 = 1 << 32;

/// One operation.
#[repr(align(64))]
pub(super) struct Row<'m> {
    word: Cell<u64>,
    /// The next vacant row, where this is one.
    next: Cell<Option<&'m Self>>,
    loan: Berth<'m>,
    /// What the caller has posted it with.
    pub(super) context: Cell<u64>,
    /// Bytes from the beginning of the buffer to the end of the last message that was reported in it, while it stays posted.
    pub(super) reported: Cell<u32>,
    /// Readers that look at a part of the buffer now.
    pub(super) readers: Cell<u32>,
}

impl Row<'_> {
    /// The whole buffer, as long as the provider has it.
    #[inline(always)]
    pub(super) const fn whole(&self) -> Option<Sge> {
        self.loan.whole()
    }
}

/// All operations that are posted.
pub(super) struct Table<'m> {
    rows: &'m [Row<'m>],
    /// The first vacant row. It was given up last, so that its line is in the cache.
    vacant: Cell<Option<&'m Row<'m>>>,
    live: Cell<u32>,
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("live", &self.live).finish_non_exhaustive()
    }
}

/// A row that an operation may take, and the id that it will have.
#[derive(Clone, Copy)]
pub(super) struct Place<'m> {
    row: &'m Row<'m>,
    /// What it will be called.
    pub(super) id: WrId,
}

impl<'m> Table<'m> {
    /// A table of `capacity` operations, placed in `bump`.
    pub(super) fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        let rows: &'m [Row<'m>] = bump.slice_with(wide(capacity), |slot| Row {
            word: Cell::new(join(low(from_usize(slot)), Generation::FIRST.as_raw())),
            next: Cell::new(None),
            loan: Berth::vacant(),
            context: Cell::new(0),
            reported: Cell::new(0),
            readers: Cell::new(0),
        })?;
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            row.next.set(Some(next));
        }
        Ok(Self { rows, vacant: Cell::new(rows.first()), live: Cell::new(0) })
    }

    /// The row that the next operation takes; `None` where all are live.
    #[inline(always)]
    pub(super) fn next_place(&self, op: OpTag) -> Option<Place<'m>> {
        let row = self.vacant.get()?;
        Some(Place { row, id: WrId::from_raw(row.word.get() | op.as_raw() << 56) })
    }

    /// The operation takes its row.
    #[inline(always)]
    pub(super) fn take_place(&self, place: Place<'m>, loan: Posted<'m>, context: u64) {
        let Place { row, id } = place;
        self.vacant.set(row.next.get());
        self.live.set(self.live.get().wrapping_add(1));
        row.word.set(id.as_raw());
        row.loan.put(loan);
        row.context.set(context);
        row.reported.set(0);
    }

    /// The row of a posted operation; `None` where no such operation is posted (any more).
    #[inline(always)]
    pub(super) fn find(&self, id: WrId) -> Option<&'m Row<'m>> {
        let row = self.rows.get(wide(low(id.as_raw())))?;
        (row.word.get() == id.as_raw()).then_some(row)
    }

    /// Ends the operation of a row that was found, and gives its loan back; `None` where that is not there, and nothing ends.
    #[inline(always)]
    pub(super) fn end(&self, row: &'m Row<'m>) -> Option<Posted<'m>> {
        let loan = row.loan.take()?;
        let next = (row.word.get() & BELOW_OPERATION).wrapping_add(ONE_GENERATION);
        row.word.set(if next > BELOW_OPERATION { first_again(next) } else { next });
        row.next.set(self.vacant.replace(Some(row)));
        self.live.set(self.live.get().wrapping_sub(1));
        Some(loan)
    }

    /// Shows the loan of an operation, which nobody else can have meanwhile.
    pub(super) fn with<R>(&self, id: WrId, look: impl FnOnce(&Posted<'m>) -> R) -> Option<R> {
        let row = self.find(id)?;
        let loan = row.loan.take()?;
        let result = look(&loan);
        row.loan.put(loan);
        Some(result)
    }

    /// How many operations are posted.
    pub(super) const fn len(&self) -> u32 {
        self.live.get()
    }

    /// Never gives back the loans that it has.
    pub(super) fn forget(&self) {
        for row in self.rows {
            let _kept = row.loan.take().map(ManuallyDrop::new);
        }
    }
}

/// After the last generation of a slot comes the first.
#[cold]
const fn first_again(next: u64) -> u64 {
    join(low(next), Generation::FIRST.as_raw())
}

impl Drop for Table<'_> {
    /// The loans go back to their pools.
    fn drop(&mut self) {
        for row in self.rows {
            drop(row.loan.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;
    use crate::raw::loan::LoanPool;

    fn post<'m>(table: &Table<'m>, op: OpTag, loan: Posted<'m>) -> WrId {
        let place = table.next_place(op).unwrap();
        table.take_place(place, loan, 7);
        place.id
    }

    #[test]
    fn an_id_names_one_operation_and_no_vacant_row() {
        let mut block = [MaybeUninit::<u8>::uninit(); 1024];
        let bump = Bump::new(&mut block);
        let pool = LoanPool::place(&bump, 2, 64).unwrap();
        let table = Table::place(&bump, 2).unwrap();
        let [a, b] =
            [OpTag::Send, OpTag::Recv].map(|op| post(&table, op, pool.lend().unwrap().post()));
        assert!(table.next_place(OpTag::Recv).is_none(), "both rows are live");
        for other in
            [a.as_raw() ^ (3 << 56), a.as_raw() + ONE_GENERATION, a.as_raw() | 2, 0, u64::MAX]
        {
            assert!(table.find(WrId::from_raw(other)).is_none(), "{other:#x}");
        }
        let row = table.find(a).unwrap();
        assert_eq!(row.context.get(), 7);
        assert_eq!(table.with(a, |_loan| table.end(row).is_none()), Some(true), "in hand");
        assert!(table.end(row).is_some() && table.end(row).is_none());
        assert!(table.find(a).is_none() && table.find(b).is_some());
        // What the vacant row says of itself is no id of an operation: nothing is there, and nothing ends.
        let vacant = table.find(WrId::from_raw(row.word.get())).unwrap();
        assert!(vacant.whole().is_none() && table.end(vacant).is_none());
        assert_eq!(table.len(), 1);
        drop(table);
        assert_eq!(pool.free_count(), 2, "what is posted goes back with the table");
    }

    #[test]
    fn after_the_last_generation_of_a_row_comes_the_first() {
        let mut block = [MaybeUninit::<u8>::uninit(); 1024];
        let bump = Bump::new(&mut block);
        let pool = LoanPool::place(&bump, 1, 64).unwrap();
        let table = Table::place(&bump, 1).unwrap();
        let row = table.rows.first().unwrap();
        row.word.set(join(0, (1 << 24) - 2));
        for expected in [(1 << 24) - 2, (1 << 24) - 1, 1, 2] {
            let id = post(&table, OpTag::Expose, pool.lend().unwrap().post());
            let parts = id.parts().map(|(op, generation, slot)| (op, generation.as_raw(), slot));
            assert_eq!(parts, Some((OpTag::Expose, expected, 0)));
            assert!(table.end(row).is_some());
        }
    }
}
