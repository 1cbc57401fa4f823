//! What is on its way on one queue of one path, in the order in which it was posted.
//!
//! ```text
//!    retired | a | b | c | d | staged: e | f |
//!              ^ front       ^ told            ^ tail
//! ```
//!
//! A device completes a queue in order, so only the front can be completed. Which fragment that was, and in which direction,
//! is said by the entry, never by the completion. Each entry has a `wr_id` with a generation of its own: a
//! completion that has not the front's is one that came before (stale), or one whose predecessors the device has left out.
//!
//! Invariants: generations rise by one from entry to entry, also over those that were taken back; `front <= told <= tail` (wrapping).

use core::cell::Cell;

use crate::id::{GENERATION_BITS, WrId};
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
    /// Behind the youngest that the device was told of.
    told: Cell<u32>,
    depth: u32,
    next: Cell<WrId>,
}

/// The next generation, in an id.
const ONE_GENERATION: u64 = 1 << 32;
const GENERATION_MASK: u64 = ((1 << GENERATION_BITS) - 1) << 32;

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
            let zero = || Cell::new(0);
            let next = Cell::new(WrId::from_raw(0));
            let slots = parts.next().unwrap_or_default();
            Self { slots, head: zero(), tail: zero(), told: zero(), depth, next }
        })
    }

    /// Names the entries: by operation and slot of `first`, from its generation on, which differs from those of an earlier user of the same
    /// queue pair.
    pub(super) fn begin_at(&self, first: WrId) {
        self.next.set(first);
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

    /// What the entry is called that is pushed next.
    #[inline(always)]
    pub(super) const fn next(&self) -> WrId {
        self.next.get()
    }

    /// Appends what was staged under `wr_id`, which is the [next](Self::next). The caller has seen that there is room.
    #[inline(always)]
    pub(super) fn push(&self, wr_id: WrId, entry: InFlight) {
        let tail = self.tail.get();
        if let Some(slot) = self.slot(tail) {
            slot.set(InFlight { wr_id, ..entry });
        }
        self.tail.set(tail.wrapping_add(1));
        self.next.set(after(wr_id));
    }

    /// Those that the device was not told of.
    #[inline]
    pub(super) const fn staged(&self) -> u32 {
        self.tail.get().wrapping_sub(self.told.get())
    }

    /// The device was told of all.
    #[inline]
    pub(super) fn tell(&self) {
        self.told.set(self.tail.get());
    }

    /// Whether the device was told of one that has not completed.
    #[inline]
    pub(super) const fn is_waiting(&self) -> bool {
        self.head.get() != self.told.get()
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<InFlight> {
        let entry = self.peek(0)?;
        if !self.is_waiting() {
            self.told.set(self.told.get().wrapping_add(1));
        }
        self.retire();
        Some(entry)
    }

    /// The same, where `is_wanted`.
    #[inline]
    pub(super) fn pop_if(&self, is_wanted: bool) -> Option<InFlight> {
        if is_wanted { self.pop() } else { None }
    }

    /// Removes the front, of which the device was told, as the caller has seen.
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

    /// Forgets the youngest `count` entries, which the device does not have though it was told of all.
    pub(super) fn take_back(&self, count: u32) {
        self.tail.set(self.tail.get().wrapping_sub(count.min(self.len())));
        self.tell();
    }

    /// The front, if it is `wr_id`, and the device was told of it: else it cannot have completed.
    #[inline(always)]
    pub(super) fn front(&self, wr_id: WrId) -> Option<&Cell<InFlight>> {
        let slot = self.slot(self.head.get())?;
        (slot.get().wr_id == wr_id && self.is_waiting()).then_some(slot)
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

/// The id of the same operation and slot in the next generation.
#[inline(always)]
const fn after(id: WrId) -> WrId {
    let next = id.as_raw().wrapping_add(ONE_GENERATION);
    if next & GENERATION_MASK == 0 { first_again(id) } else { WrId::from_raw(next) }
}

/// After the last generation comes the first.
#[cold]
const fn first_again(id: WrId) -> WrId {
    WrId::from_raw(id.as_raw() & !GENERATION_MASK | ONE_GENERATION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Generation, OpTag};

    #[test]
    fn after_the_last_generation_of_an_id_comes_its_first() {
        for generation in [1, 2, 0xff_fffd, 0xff_fffe, 0xff_ffff] {
            let generation = Generation::from_raw(generation).unwrap();
            for slot in [0, 7, u32::MAX] {
                let id = WrId::new(OpTag::VirtualSend, generation, slot);
                let next = WrId::new(OpTag::VirtualSend, generation.next(), slot);
                assert_eq!(after(id), next);
            }
        }
    }
}
