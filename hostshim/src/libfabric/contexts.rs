//! Contexts of operations: what the library is given for each, and what a completion is found by.
//!
//! ```text
//!   row      0         1         2              each row has four spaces of 64 bytes, used in turn
//!   spaces  |0 1 2 3| |0 1 2 3| |0 1 2 3|
//!                ^
//!                '-- the third life of row 0: a completion that names another space of the row is of a life that is over
//! ```
//!
//! The library gives back the address of a space. From that follow row and life, so that a completion that comes late or twice is
//! found out, unless its row was used again three times since. Nothing is matched by an address that is not the start of a space.
//!
//! Invariant: a space is the library's from the post to the completion, or until its endpoint is closed.

use core::cell::Cell;

use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::provider::{Cqe, Status};
use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::raw::place::{Bump, Exhausted};

/// Lives of a row that are told apart.
const LIVES: usize = 4;

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// A send of the caller's memory.
    Send,
    /// A send of a copy, in the slot of that number. A mark tells that what was injected before it has left.
    Copy { slot: u32, mark: bool },
    /// A receive; with tag and the bits that do not count.
    Receive(Option<(u64, u64)>),
    /// A one-sided operation: bytes that it is about, and the slot of its operands where it has some.
    OneSided { bytes: u32, operands: Option<u32> },
}

/// An operation that is posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// Whose completion it is. Of a copy: nobody's.
    pub(super) wr_id: WrId,
    /// What it is.
    pub(super) what: What,
    /// Whom it is for, or whose messages alone it takes.
    pub(super) peer: Option<Addr>,
    /// Its memory; the first part of it, where it has several.
    pub(super) range: Sge,
    /// Bytes of all of it.
    pub(super) room: usize,
    /// How it ends where the library says that it was taken back; `None` where nobody has asked for that.
    pub(super) ends: Option<Status>,
    /// It waits for an endpoint: the library does not have it yet.
    pub(super) held: bool,
}

impl Operation {
    /// Its completion where it ends without a message, with the number that says why (0 for none).
    pub(super) const fn ended(&self, status: Status, code: u32) -> Cqe {
        let tag = match self.what {
            What::Receive(Some((tag, _))) => Some(tag),
            What::Receive(None) | What::Send | What::Copy { .. } | What::OneSided { .. } => None,
        };
        Cqe { tag, ..Cqe::without_message(self.wr_id, status).with_code(code) }
    }
}

#[derive(Debug)]
struct Row {
    operation: Cell<Option<Operation>>,
    /// How many operations have been in it, this one included.
    life: Cell<usize>,
    /// Whose were the last ones, by life.
    past: [Cell<WrId>; LIVES],
    /// Which post it was.
    order: Cell<u64>,
}

/// The table. Belongs to the port's thread.
#[derive(Debug)]
pub(super) struct Contexts<'m> {
    rows: &'m [Row],
    /// Rows without an operation, the first [`Contexts::free`] of them.
    vacant: &'m [Cell<usize>],
    free: Cell<usize>,
    posts: Cell<u64>,
}

impl<'m> Contexts<'m> {
    /// Places a table of `count` rows.
    pub(super) fn place(bump: &Bump<'m>, count: usize) -> Result<Self, Exhausted> {
        let nobody = WrId::from_raw(0);
        let rows = bump.slice_with(count, |_| Row {
            operation: Cell::new(None),
            life: Cell::new(0),
            past: [const { Cell::new(WrId::from_raw(0)) }; LIVES],
            order: Cell::new(0),
        })?;
        debug_assert!(rows.iter().all(|row| row.past.iter().all(|of| of.get() == nobody)), "fresh");
        let vacant = bump.slice_with(count, |at| Cell::new(count - 1 - at))?;
        Ok(Self { rows, vacant, free: Cell::new(count), posts: Cell::new(0) })
    }

    /// Spaces for a table of `count` rows.
    pub(super) const fn spaces(count: usize) -> usize {
        count.saturating_mul(LIVES)
    }

    /// Puts an operation into a row, and gives the number of its space. `None` where all rows are taken.
    #[inline]
    pub(super) fn enter(&self, operation: Operation) -> Option<usize> {
        let free = self.free.get().checked_sub(1)?;
        let at = self.vacant.get(free)?.get();
        let row = self.rows.get(at)?;
        self.free.set(free);
        let life = row.life.get().wrapping_add(1);
        row.life.set(life);
        row.past.get(life % LIVES)?.set(operation.wr_id);
        row.operation.set(Some(operation));
        row.order.set(self.posts.get());
        self.posts.set(self.posts.get().wrapping_add(1));
        Some(at * LIVES + life % LIVES)
    }

    /// The operation in that space, if its life goes on.
    #[inline]
    pub(super) fn get(&self, space: usize) -> Option<Operation> {
        let row = self.rows.get(space / LIVES)?;
        if row.life.get() % LIVES == space % LIVES { row.operation.get() } else { None }
    }

    /// Changes the operation in that space, whose life goes on.
    pub(super) fn set(&self, space: usize, operation: Operation) {
        if self.get(space).is_some()
            && let Some(row) = self.rows.get(space / LIVES)
        {
            row.operation.set(Some(operation));
        }
    }

    /// Takes the operation out of that space, once.
    ///
    /// # Errors
    /// Whose it was, where its life is over; nobody's, where there is no such space.
    #[inline]
    pub(super) fn end(&self, space: usize) -> Result<Operation, WrId> {
        let Some(operation) = self.get(space) else { return Err(self.past_of(space)) };
        if let Some(row) = self.rows.get(space / LIVES)
            && let Some(place) = self.vacant.get(self.free.get())
        {
            row.operation.set(None);
            place.set(space / LIVES);
            self.free.set(self.free.get() + 1);
        }
        Ok(operation)
    }

    #[cold]
    fn past_of(&self, space: usize) -> WrId {
        let past = self.rows.get(space / LIVES).and_then(|row| row.past.get(space % LIVES));
        past.map_or(WrId::from_raw(0), Cell::get)
    }

    /// All operations with their spaces, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, Operation)> + use<'m> {
        self.rows.iter().enumerate().filter_map(|(at, row)| {
            Some((at * LIVES + row.life.get() % LIVES, row.operation.get()?))
        })
    }

    /// Of the operations that `wanted` says yes to, the one that was posted first.
    pub(super) fn first(&self, wanted: impl Fn(&Operation) -> bool) -> Option<(usize, Operation)> {
        let order = |&(space, _): &(usize, Operation)| {
            self.rows.get(space / LIVES).map_or(u64::MAX, |row| row.order.get())
        };
        self.all().filter(|(_, operation)| wanted(operation)).min_by_key(order)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use spinwire_dataplane::id::{Generation, OpTag};

    use super::*;
    use crate::raw::ofi::Copies;

    fn operation(number: u32) -> (WrId, Operation) {
        let wr_id = WrId::new(OpTag::Recv, Generation::FIRST, number);
        // An empty range, which nobody touches.
        let (_slot, range) = Copies::new(1, 8).take(b"").unwrap();
        let what = What::Receive(None);
        (wr_id, Operation { wr_id, what, peer: None, range, room: 0, ends: None, held: false })
    }

    fn with(count: usize, look: impl FnOnce(&Contexts<'_>)) {
        let mut block: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(1 << 16);
        look(&Contexts::place(&Bump::new(&mut block), count).unwrap());
    }

    #[test]
    fn a_space_ends_once_and_says_afterwards_whose_it_was() {
        with(2, |table| {
            let (first, second) = (operation(1), operation(2));
            let space = table.enter(first.1).unwrap();
            assert_eq!(table.end(space).unwrap().wr_id, first.0);
            assert_eq!(table.end(space).unwrap_err(), first.0);
            // The row has another tenant: the old space is not its.
            let other = table.enter(second.1).unwrap();
            assert_eq!(other / LIVES, space / LIVES);
            assert_eq!(table.end(space).unwrap_err(), first.0);
            assert!(table.get(space).is_none());
            assert_eq!(table.end(other).unwrap().wr_id, second.0);
            assert_eq!(table.end(usize::MAX).unwrap_err(), WrId::from_raw(0));
        });
    }

    #[test]
    fn a_full_table_says_so_and_every_row_comes_back() {
        with(3, |table| {
            for _ in 0..20 {
                let spaces: Vec<usize> =
                    (0..3).map(|number| table.enter(operation(number).1).unwrap()).collect();
                assert!(table.enter(operation(9).1).is_none());
                let first = table.first(|_| true).unwrap();
                assert_eq!((first.0, first.1.wr_id), (spaces[0], operation(0).0));
                assert_eq!(table.all().count(), 3);
                for space in spaces {
                    table.end(space).unwrap();
                }
                assert_eq!(table.all().count(), 0);
            }
        });
    }

    #[test]
    fn three_lives_later_a_completion_is_still_found_out() {
        with(1, |table| {
            let spaces: Vec<usize> = (0..4)
                .map(|number| {
                    let space = table.enter(operation(number).1).unwrap();
                    table.end(space).unwrap();
                    space
                })
                .collect();
            for (number, space) in (0..).zip(spaces) {
                assert_eq!(table.end(space).unwrap_err(), operation(number).0);
            }
        });
    }
}
