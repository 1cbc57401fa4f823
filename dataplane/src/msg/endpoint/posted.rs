//! The context table: what the endpoint keeps of an operation from its post to its completion, a cache line each.
//!
//! ```text
//!            word                                            loan
//!   live     operation 8 | generation 24 | slot 32: the id    there
//!   vacant   the id that the last operation there had         none
//! ```
//!
//! So one comparison tells whether an id is that of the newest operation of its row, and the loan whether that goes on. The generation of a row
//! moves on as the row is taken: what is done as an operation ends is no more than what has to be.
//!
//! Invariants: (1) a row is live, or in the list of the vacant once; (2) the loan of a live row is there, except while [`Table::with`] has it,
//! and a vacant row has none, whatever its word: nothing is ended twice; (3) no operation has the id of the one that had its row before.

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;

use crate::id::{GENERATION_BITS, OpTag, WrId};
use crate::raw::loan::{Berth, Posted, Sge};
use crate::raw::place::{Bump, Exhausted};
use crate::table::wide;
use spinwire_layouts::word::{from_usize, high, join, low};

/// The next generation of the same slot.
const ONE_GENERATION: u64 = 1 << 32;
/// The last generation of a slot.
const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// One operation.
#[repr(align(64))]
pub(super) struct Row<'m> {
    word: Cell<u64>,
    /// The next vacant row, where this is one.
    next: Cell<Option<&'m Self>>,
    loan: Berth<'m>,
    /// What the caller has posted it with.
    pub(super) context: Cell<u64>,
    /// Of a send: its tag, for the case that it fails.
    tag: Cell<Option<u64>>,
    /// Kind and generation of the last operation of which something was reported while its buffer stays posted, as in `word`; and how much.
    reported: Cell<u64>,
}

const _: () = assert!(size_of::<Row<'_>>() == 64, "a row is a cache line");

impl Row<'_> {
    /// The tag of a send, where it has one.
    pub(super) const fn tag(&self) -> Option<u64> {
        self.tag.get()
    }

    /// The whole buffer, as long as the provider has it.
    #[inline(always)]
    pub(super) const fn whole(&self) -> Option<Sge> {
        self.loan.whole()
    }

    /// Bytes from the beginning of the buffer to the end of the last message that was reported in it, while it stays posted. That of another
    /// operation counts as nothing, so that none has to be forgotten as an operation ends; only before generations come again
    /// ([`Table::next_place`]).
    pub(super) const fn reported(&self) -> u32 {
        let reported = self.reported.get();
        let is_of_this = high(reported) == high(self.word.get()) && self.whole().is_some();
        if is_of_this { low(reported) } else { 0 }
    }

    /// The buffer stays posted, and a message up to `end` was reported in it.
    #[inline]
    pub(super) fn report(&self, end: u32) {
        self.reported.set(join(self.reported().max(end), high(self.word.get())));
    }

    /// Whether its loan is there, and nobody can be looking at a part of it.
    pub(super) const fn is_unread(&self) -> bool {
        self.whole().is_some() && self.reported() == 0
    }
}

/// All operations that are posted.
pub(super) struct Table<'m> {
    rows: &'m [Row<'m>],
    /// The first vacant row. It was given up last, so that its line is in the cache.
    vacant: Cell<Option<&'m Row<'m>>>,
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("live", &self.len()).finish_non_exhaustive()
    }
}

/// A row that an operation may take, and the id that it will have.
#[derive(Clone, Copy)]
pub(super) struct Place<'m> {
    row: &'m Row<'m>,
    /// What it will be called.
    pub(super) id: WrId,
}

impl Place<'_> {
    /// Of a send that has taken it: remembers the tag.
    #[inline(always)]
    pub(super) fn keep_tag(self, tag: Option<u64>) {
        self.row.tag.set(tag);
    }
}

impl<'m> Table<'m> {
    /// A table of `capacity` operations, placed in `bump`.
    pub(super) fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        let rows: &'m [Row<'m>] = bump.slice_with(wide(capacity), |slot| Row {
            word: Cell::new(join(low(from_usize(slot)), 0)),
            next: Cell::new(None),
            loan: Berth::vacant(),
            context: Cell::new(0),
            tag: Cell::new(None),
            reported: Cell::new(0),
        })?;
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            row.next.set(Some(next));
        }
        Ok(Self { rows, vacant: Cell::new(rows.first()) })
    }

    /// The row that the next operation takes; `None` where all are live. What the caller posts it with is in the row from now on, where it is in
    /// nobody's way while the provider is asked: of a vacant row it means nothing.
    #[inline(always)]
    pub(super) fn next_place(&self, op: OpTag, context: u64) -> Option<Place<'m>> {
        let row = self.vacant.get()?;
        row.context.set(context);
        let last = row.word.get();
        let id = id_after(last, op).unwrap_or_else(|| row.other_id_after(last, op));
        Some(Place { row, id: WrId::from_raw(id) })
    }

    /// The operation takes its row.
    #[inline(always)]
    pub(super) fn take_place(&self, place: Place<'m>, loan: Posted<'m>) {
        let Place { row, id } = place;
        self.vacant.set(row.next.get());
        row.word.set(id.as_raw());
        row.loan.put(loan);
    }

    /// The row of an operation that is posted, or was the last in its row: whether its loan is there tells which. `None` for any other id.
    #[inline(always)]
    pub(super) fn find(&self, id: WrId) -> Option<&'m Row<'m>> {
        let row = self.rows.get(wide(low(id.as_raw())))?;
        (row.word.get() == id.as_raw()).then_some(row)
    }

    /// Ends the operation of a row that was found, and gives its loan back; `None` where that is not there, and nothing ends.
    #[inline(always)]
    pub(super) fn end(&self, row: &'m Row<'m>) -> Option<Posted<'m>> {
        let loan = row.loan.take()?;
        row.next.set(self.vacant.replace(Some(row)));
        Some(loan)
    }

    /// Shows the loan of an operation, which nobody else can have meanwhile.
    #[inline(always)]
    pub(super) fn with<R>(&self, id: WrId, look: impl FnOnce(&Posted<'m>) -> R) -> Option<R> {
        let row = self.find(id)?;
        let loan = row.loan.take()?;
        let result = look(&loan);
        row.loan.put(loan);
        Some(result)
    }

    /// How many operations are posted. They are counted when this is asked, and not as they come and go: a count would be two stores more for
    /// each.
    pub(super) fn len(&self) -> u32 {
        low(from_usize(self.rows.iter().filter(|row| row.whole().is_some()).count()))
    }

    /// Never gives back the loans that it has.
    pub(super) fn forget(&self) {
        for row in self.rows {
            let _kept = row.loan.take().map(ManuallyDrop::new);
        }
    }
}

/// The id of the next operation in the row of `last`, where that is one of the same kind, and not after the last generation, as it nearly always
/// is: one comparison tells both.
#[inline(always)]
const fn id_after(last: u64, op: OpTag) -> Option<u64> {
    let generation = high(last).wrapping_sub(low(op.as_raw() << GENERATION_BITS));
    if generation < LAST_GENERATION { Some(last.wrapping_add(ONE_GENERATION)) } else { None }
}

impl Row<'_> {
    /// The same for one of another kind, and after the last generation, when the first comes again. It is never 0. What was reported in an
    /// earlier life of a generation is forgotten here, at the latest.
    #[cold]
    fn other_id_after(&self, last: u64, op: OpTag) -> u64 {
        self.reported.set(0);
        let generation = match high(last) & LAST_GENERATION {
            LAST_GENERATION => 1,
            before => before.wrapping_add(1),
        };
        join(low(last), generation) | op.as_raw() << 56
    }
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
        let place = table.next_place(op, 7).unwrap();
        table.take_place(place, loan);
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
        assert!(table.next_place(OpTag::Recv, 0).is_none(), "both rows are live");
        for other in
            [a.as_raw() ^ (3 << 56), a.as_raw() + ONE_GENERATION, a.as_raw() | 2, 0, u64::MAX]
        {
            assert!(table.find(WrId::from_raw(other)).is_none(), "{other:#x}");
        }
        let row = table.find(a).unwrap();
        assert_eq!(row.context.get(), 7);
        assert_eq!(table.with(a, |_loan| table.end(row).is_none()), Some(true), "in hand");
        assert!(table.end(row).is_some() && table.end(row).is_none());
        // The vacant row is found by the id that it had; nothing is there, and nothing ends.
        let vacant = table.find(a).unwrap();
        assert!(vacant.whole().is_none() && table.end(vacant).is_none());
        assert!(table.find(b).unwrap().whole().is_some());
        assert_eq!(table.len(), 1);
        let c = post(&table, OpTag::Send, pool.lend().unwrap().post());
        assert!(table.find(a).is_none() && table.find(c).is_some() && c != a);
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
        row.word.set(join(0, LAST_GENERATION - 2));
        // After another kind, after the same, and after the one whose number is one less: of that a carry would make the next.
        let ops = [OpTag::Expose, OpTag::Expose, OpTag::Send, OpTag::Recv, OpTag::Recv];
        for (op, expected) in ops.into_iter().zip([LAST_GENERATION - 1, LAST_GENERATION, 1, 2, 3]) {
            let id = post(&table, op, pool.lend().unwrap().post());
            let parts = id.parts().map(|(op, generation, slot)| (op, generation.as_raw(), slot));
            assert_eq!(parts, Some((op, expected, 0)));
            assert!(table.end(row).is_some());
        }
        row.word.set(join(0, LAST_GENERATION) | OpTag::Send.as_raw() << 56);
        for expected in [1, 2] {
            let id = post(&table, OpTag::Recv, pool.lend().unwrap().post());
            assert_eq!(id.parts().map(|(_, generation, _)| generation.as_raw()), Some(expected));
            assert!(table.end(row).is_some());
        }
    }

    #[test]
    fn what_was_reported_is_of_one_operation_alone() {
        let mut block = [MaybeUninit::<u8>::uninit(); 1024];
        let bump = Bump::new(&mut block);
        let pool = LoanPool::place(&bump, 1, 64).unwrap();
        let table = Table::place(&bump, 1).unwrap();
        let row = table.rows.first().unwrap();
        let lives = [40, 8].map(|end| {
            let _id = post(&table, OpTag::Recv, pool.lend().unwrap().post());
            let before = row.reported();
            row.report(end);
            row.report(end / 2);
            let after = row.reported();
            assert!(!row.is_unread() && table.end(row).is_some());
            (before, after, row.reported())
        });
        assert_eq!(lives, [(0, 40, 0), (0, 8, 0)]);
        // The same kind and generation again, a whole round of them later: what was reported then is not taken for what is now.
        row.word.set(join(0, LAST_GENERATION) | OpTag::Recv.as_raw() << 56);
        row.reported.set(join(32, high(join(0, 1) | OpTag::Recv.as_raw() << 56)));
        let id = post(&table, OpTag::Recv, pool.lend().unwrap().post());
        assert_eq!(id.parts().map(|(_, generation, _)| generation.as_raw()), Some(1));
        assert!(row.is_unread() && row.reported() == 0);
    }
}
