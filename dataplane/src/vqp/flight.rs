//! What is on its way on one queue of one path, in the order in which it was posted.
//!
//! ```text
//!    retired | a | b | c | d | staged: e | f |
//!              ^ front                         ^ tail
//! ```
//!
//! A device completes a queue in order, so only the front can be completed. Which fragment that was, and in which direction,
//! is said by the entry, never by the completion. Each entry has a `wr_id` with a generation of its own: a
//! completion that has not the front's is one that came before (stale), or one whose predecessors the device has left out.
//!
//! Invariant: generations rise by one from entry to entry, also over those that were taken back.

use core::cell::Cell;

use crate::id::{Generation, WrId};
use crate::raw::place::{Bump, Exhausted};
use crate::table::wide;

/// What an entry stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A fragment, or a whole send or atomic.
    Data,
    /// A byte that is read back.
    Flush,
    /// The write of no bytes that notifies the peer.
    Notify,
    /// A receive of the caller.
    Receive,
    /// A receive of no bytes that waits for any fragment.
    Credit,
}

/// One work request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// What the device knows it by, once it was staged.
    pub wr_id: WrId,
    /// Position of the request that it belongs to.
    pub row: u32,
    /// Bytes from the start of the request.
    pub offset: u64,
    pub length: u32,
    /// Its sequence number, where there is one.
    pub number: u32,
    pub kind: Kind,
}

impl InFlight {
    const EMPTY: Self = Self {
        wr_id: WrId::from_raw(0),
        row: 0,
        offset: 0,
        length: 0,
        number: 0,
        kind: Kind::Credit,
    };

    /// An entry that was not staged yet.
    pub(super) const fn new(kind: Kind, row: u32) -> Self {
        Self { row, kind, ..Self::EMPTY }
    }
}

#[derive(Debug)]
pub(super) struct Flight<'m> {
    slots: &'m [Cell<InFlight>],
    head: Cell<u32>,
    tail: Cell<u32>,
    depth: u32,
    next: Cell<Generation>,
}

impl<'m> Flight<'m> {
    /// Places `count` queues of `depth`; each call of what comes back gives one.
    pub(super) fn place_many(
        bump: &Bump<'m>,
        count: usize,
        depth: u32,
    ) -> Result<impl FnMut() -> Self + use<'m>, Exhausted> {
        let each = wide(depth.next_power_of_two());
        let too_large = Exhausted { wanted_bytes: usize::MAX, free_bytes: bump.free_bytes() };
        let total = each.checked_mul(count).ok_or(too_large)?;
        let slots = bump.slice_with(total, |_| Cell::new(InFlight::EMPTY))?;
        let slots: &'m [Cell<InFlight>] = slots;
        let mut parts = slots.chunks_exact(each);
        Ok(move || {
            let (head, tail) = (Cell::new(0), Cell::new(0));
            let next = Cell::new(Generation::FIRST);
            Self { slots: parts.next().unwrap_or_default(), head, tail, depth, next }
        })
    }

    /// Lets the generations begin elsewhere, so that they differ from those of an earlier user of the same queue pair.
    pub(super) fn begin_at(&self, generation: Generation) {
        self.next.set(generation);
    }

    #[inline]
    pub(super) const fn len(&self) -> u32 {
        self.tail.get().wrapping_sub(self.head.get())
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.tail.get() == self.head.get()
    }

    #[inline]
    pub(super) const fn has_room(&self) -> bool {
        self.len() < self.depth
    }

    /// The generation of the entry that is pushed next.
    #[inline]
    pub(super) const fn next(&self) -> Generation {
        self.next.get()
    }

    /// Appends what was staged under `wr_id`, with the next generation. The caller has seen that there is room.
    #[inline(always)]
    pub(super) fn push(&self, wr_id: WrId, entry: InFlight) {
        let tail = self.tail.get();
        if let Some(slot) = self.slot(tail) {
            slot.set(InFlight { wr_id, ..entry });
        }
        self.tail.set(tail.wrapping_add(1));
        self.next.set(self.next.get().next());
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<InFlight> {
        let entry = self.peek(0)?;
        self.head.set(self.head.get().wrapping_add(1));
        Some(entry)
    }

    /// The same, where `is_wanted`.
    #[inline]
    pub(super) fn pop_if(&self, is_wanted: bool) -> Option<InFlight> {
        if is_wanted { self.pop() } else { None }
    }

    /// Removes the front, which the caller has seen.
    #[inline(always)]
    pub(super) fn retire(&self) {
        self.head.set(self.head.get().wrapping_add(1));
    }

    /// The entry behind `skip` others.
    #[inline(always)]
    pub(super) fn peek(&self, skip: u32) -> Option<InFlight> {
        if skip >= self.len() {
            return None;
        }
        self.slot(self.head.get().wrapping_add(skip)).map(Cell::get)
    }

    /// Forgets the youngest `count` entries, which the device does not have.
    pub(super) fn take_back(&self, count: u32) {
        self.tail.set(self.tail.get().wrapping_sub(count.min(self.len())));
    }

    /// The front, if it is `wr_id`, and the device was told of more than the youngest `staged`: what it was not told of it cannot
    /// have completed.
    #[inline(always)]
    pub(super) fn front(&self, wr_id: WrId, staged: u32) -> Option<&Cell<InFlight>> {
        let slot = self.slot(self.head.get())?;
        (slot.get().wr_id == wr_id && self.len() > staged).then_some(slot)
    }

    /// Whether `wr_id` is an entry behind the front.
    #[cold]
    pub(super) fn is_behind_front(&self, wr_id: WrId) -> bool {
        (1..self.len()).filter_map(|skip| self.peek(skip)).any(|entry| entry.wr_id == wr_id)
    }

    #[inline]
    fn slot(&self, position: u32) -> Option<&Cell<InFlight>> {
        self.slots.get(wide(position) & self.slots.len().wrapping_sub(1))
    }
}
