//! What is to be sent: pieces of buffers, in the queue of a connection, with a chain, or ended and to be reported.
//!
//! ```text
//!   free --write, send--> queue of a row --drive--> flight of a chain --last completion--> report, or free
//!                              ^------- what was not sent ---'
//! ```

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{to_usize, widen};

use super::{ConnId, Undone};
use crate::raw::loan::Loan;
use crate::raw::place::{Bump, Exhausted};
use crate::table::NIL;
use crate::time::Instant;

/// What becomes of the buffer of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Report {
    /// It is the service's own.
    Nothing,
    /// It goes back to its pool; nobody waits for it.
    Unsignaled,
    /// Its owner waits for it.
    Owner {
        /// His number for it.
        context: u64,
    },
    /// It is no loan: whoever posted the memory waits for it.
    Poster {
        /// His number for it.
        context: u64,
    },
}

/// A piece of a buffer: a line.
#[repr(align(64))]
pub(super) struct Segment<'m> {
    pub(super) loan: Cell<Option<Loan<'m>>>,
    /// The first byte that was not sent, and the end.
    pub(super) from: Cell<u32>,
    pub(super) to: Cell<u32>,
    pub(super) address: Cell<u64>,
    pub(super) report: Cell<Report>,
    pub(super) conn: Cell<Option<ConnId>>,
    pub(super) sent: Cell<bool>,
    /// When it is to be sent by.
    pub(super) until: Cell<Instant>,
    /// The operation of its chain that sends it, counted from 0; of a gathered one it has no meaning.
    pub(super) entry: Cell<u16>,
    /// It is to be taken back, or was.
    pub(super) undone: Cell<Option<Undone>>,
    pub(super) next: Cell<u32>,
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("conn", &self.conn)
            .finish_non_exhaustive()
    }
}

impl Segment<'_> {
    pub(super) const fn bytes(&self) -> u32 {
        self.to.get().saturating_sub(self.from.get())
    }
}

const _: () = assert!(size_of::<Segment<'_>>() == 64, "as is said");

/// All segments of a service.
#[derive(Debug)]
pub(super) struct Segments<'m> {
    all: &'m [Segment<'m>],
    free: Cell<u32>,
    free_count: Cell<u32>,
    /// Those that are to be reported.
    ended: List,
}

/// First and last of a list of segments.
#[derive(Debug)]
pub(super) struct List {
    pub(super) first: Cell<u32>,
    pub(super) last: Cell<u32>,
}

impl List {
    pub(super) const fn empty() -> Self {
        Self { first: Cell::new(NIL), last: Cell::new(NIL) }
    }
}

impl<'m> Segments<'m> {
    pub(super) fn place(bump: &Bump<'m>, count: u32) -> Result<Self, Exhausted> {
        let mut next = 0_u32;
        let all: &'m [Segment<'m>] = bump.slice_with(to_usize(widen(count)), |_| {
            next = next.wrapping_add(1);
            Segment {
                loan: Cell::new(None),
                from: Cell::new(0),
                to: Cell::new(0),
                address: Cell::new(0),
                report: Cell::new(Report::Nothing),
                conn: Cell::new(None),
                sent: Cell::new(false),
                until: Cell::new(Instant::NEVER),
                entry: Cell::new(0),
                undone: Cell::new(None),
                next: Cell::new(if next < count { next } else { NIL }),
            }
        })?;
        let free = Cell::new(if count == 0 { NIL } else { 0 });
        Ok(Self { all, free, free_count: Cell::new(count), ended: List::empty() })
    }

    #[inline]
    pub(super) fn at(&self, index: u32) -> Option<&'m Segment<'m>> {
        self.all.get(to_usize(widen(index)))
    }

    pub(super) const fn free_count(&self) -> u32 {
        self.free_count.get()
    }

    /// Those that are free, and those that are to be reported, counted one by one; more than there are where a list is a ring.
    pub(super) fn count_unused(&self) -> (u32, u32) {
        let count = |first: u32| {
            let (mut count, mut at) = (0_u32, first);
            while let Some(segment) =
                self.at(at).filter(|_| to_usize(widen(count)) <= self.all.len())
            {
                count = count.wrapping_add(1);
                at = segment.next.get();
            }
            count
        };
        (count(self.free.get()), count(self.ended.first.get()))
    }

    /// One that nobody has.
    #[inline(always)]
    pub(super) fn take_free(&self) -> Option<(u32, &'m Segment<'m>)> {
        let index = self.free.get();
        let segment = self.at(index)?;
        self.free.set(segment.next.replace(NIL));
        self.free_count.set(self.free_count.get().wrapping_sub(1));
        segment.from.set(0);
        segment.until.set(Instant::NEVER);
        segment.undone.set(None);
        Some((index, segment))
    }

    /// One whose buffer is nobody's any more, or is dropped with it.
    pub(super) fn put_free(&self, index: u32) {
        if let Some(segment) = self.at(index) {
            self.put_free_segment((index, segment));
        }
    }

    #[inline(always)]
    fn put_free_segment(&self, (index, segment): (u32, &Segment<'m>)) {
        drop(segment.loan.take());
        segment.next.set(self.free.replace(index));
        self.free_count.set(self.free_count.get().wrapping_add(1));
    }

    #[inline(always)]
    pub(super) fn push_back(&self, (first, last): (&Cell<u32>, &Cell<u32>), index: u32) {
        let Some(segment) = self.at(index) else { return };
        segment.next.set(NIL);
        match self.at(last.replace(index)) {
            Some(before) => before.next.set(index),
            None => first.set(index),
        }
    }

    pub(super) fn pop_front(&self, (first, last): (&Cell<u32>, &Cell<u32>)) -> Option<u32> {
        let index = first.get();
        let segment = self.at(index)?;
        first.set(segment.next.replace(NIL));
        if first.get() == NIL {
            last.set(NIL);
        }
        Some(index)
    }

    /// Puts a whole list in front of another.
    pub(super) fn prepend(&self, list: (&Cell<u32>, &Cell<u32>), before: (u32, u32)) {
        let Some(end) = self.at(before.1) else { return };
        end.next.set(list.0.replace(before.0));
        if list.1.get() == NIL {
            list.1.set(before.1);
        }
    }

    /// The segment is over: its owner is to hear of it, or nobody.
    pub(super) fn finish(&self, index: u32, sent: bool) {
        if let Some(segment) = self.at(index) {
            self.finish_segment((index, segment), sent);
        }
    }

    /// The same of one that was looked up.
    #[inline(always)]
    pub(super) fn finish_segment(&self, (index, segment): (u32, &Segment<'m>), sent: bool) {
        segment.sent.set(sent);
        match segment.report.get() {
            Report::Nothing | Report::Unsignaled => self.put_free_segment((index, segment)),
            Report::Owner { .. } | Report::Poster { .. } => {
                self.push_back((&self.ended.first, &self.ended.last), index)
            }
        }
    }

    /// Whether there are some to be reported.
    #[inline(always)]
    pub(super) const fn has_ended(&self) -> bool {
        self.ended.first.get() != NIL
    }

    /// The next that is to be reported.
    #[inline]
    pub(super) fn next_ended(&self) -> Option<(u32, &'m Segment<'m>)> {
        let index = self.pop_front((&self.ended.first, &self.ended.last))?;
        Some((index, self.at(index)?))
    }
}
