//! Order over slots: doubly linked lists that live beside a slab, many of them over one link table.
//!
//! ```text
//!   heads   list 0: first 4, last 1      list 1: first 2, last 2      list 2: empty
//!   links   slot    0     1     2     3     4     5
//!           list    -     0     1     -     0     -
//!           next    -    NIL   NIL    -     1     -
//! ```
//!
//! Invariants:
//! 1. A slot is on at most one list, and its link says on which: so an unlink needs only the slot, and can neither
//!    damage another list nor be done twice.
//! 2. There are at most `NIL` slots and as many lists, so that `NIL` names none of either.
//! 3. The slots reached from `first` by `next` are those reached from `last` by `prev`, in reverse; there are `len`.
//!
//! Uses: arrival order of unexpected messages, buckets of a tag hash, the wheels of [`Timers`](super::Timers). A slot
//! that stands in two orders at once has a link in two tables.

use core::cell::Cell;

use super::{NIL, count, wide};
use crate::raw::place::{Bump, Exhausted};

/// Why a list was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FifoError {
    /// No list has this number.
    UnknownList,
    /// No slot has this number.
    UnknownSlot,
    /// The slot is on a list already: unlink it first.
    Linked,
    /// The slot is on no list.
    Unlinked,
}

impl core::fmt::Display for FifoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownList => "list number beyond the table: place it with more lists",
            Self::UnknownSlot => "slot number beyond the table: place it with more slots",
            Self::Linked => "slot is on a list already: unlink it first",
            Self::Unlinked => "slot is on no list",
        })
    }
}

impl core::error::Error for FifoError {}

/// The storage of one slot's place in the order.
#[derive(Debug)]
pub struct Link {
    next: Cell<u32>,
    prev: Cell<u32>,
    list: Cell<u32>,
}

impl Link {
    /// A slot on no list.
    #[must_use]
    pub const fn unlinked() -> Self {
        Self { next: Cell::new(NIL), prev: Cell::new(NIL), list: Cell::new(NIL) }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::unlinked()
    }
}

/// The storage of one list's ends.
#[derive(Debug)]
pub struct Head {
    first: Cell<u32>,
    last: Cell<u32>,
    len: Cell<u32>,
}

impl Head {
    /// A list without slots.
    #[must_use]
    pub const fn empty() -> Self {
        Self { first: Cell::new(NIL), last: Cell::new(NIL), len: Cell::new(0) }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::empty()
    }
}

/// First-in-first-out lists of slot numbers. Each operation takes constant time.
///
/// ```
/// use spinwire_dataplane::table::{Fifos, Head, Link};
///
/// let (mut links, mut heads) = ([const { Link::unlinked() }; 4], [const { Head::empty() }; 2]);
/// let fifos = Fifos::new(&mut links, &mut heads);
/// for slot in [3, 0, 2] {
///     fifos.push_back(1, slot)?;
/// }
/// assert_eq!(fifos.unlink(0), Ok(1)); // from the middle, by its slot alone
/// assert_eq!(fifos.pop_front(1), Some(3));
/// assert_eq!(fifos.iter(1, 10).collect::<Vec<_>>(), [2]);
/// # Ok::<(), spinwire_dataplane::table::FifoError>(())
/// ```
#[derive(Debug)]
pub struct Fifos<'m> {
    links: &'m [Link],
    heads: &'m [Head],
}

impl<'m> Fifos<'m> {
    /// Takes over the storage: a slot for each of `links`, a list for each of `heads`, all empty. Takes time
    /// linear in both.
    #[must_use]
    pub fn new(links: &'m mut [Link], heads: &'m mut [Head]) -> Self {
        let (links, _beyond) = links.split_at_mut(links.len().min(wide(NIL)));
        let (heads, _beyond) = heads.split_at_mut(heads.len().min(wide(NIL)));
        links.fill_with(Link::unlinked);
        heads.fill_with(Head::empty);
        Self { links, heads }
    }

    /// Places `lists` lists over `slots` slots.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, slots: u32, lists: u32) -> Result<Self, Exhausted> {
        let links = bump.slice_with(wide(slots), |_| Link::unlinked())?;
        let heads = bump.slice_with(wide(lists), |_| Head::empty())?;
        Ok(Self { links, heads })
    }

    /// Appends `slot` to `list`.
    ///
    /// # Errors
    /// There is no such list or slot, or the slot is on a list.
    #[inline]
    pub fn push_back(&self, list: u32, slot: u32) -> Result<(), FifoError> {
        let (head, link) = self.unlinked(list, slot)?;
        let last = head.last.replace(slot);
        link.prev.set(last);
        match self.link(last) {
            Some(before) => before.next.set(slot),
            None => head.first.set(slot),
        }
        link.list.set(list);
        head.len.set(head.len.get().wrapping_add(1));
        Ok(())
    }

    /// Puts `slot` before all others of `list`: for what was popped and could not be served.
    ///
    /// # Errors
    /// There is no such list or slot, or the slot is on a list.
    #[inline]
    pub fn push_front(&self, list: u32, slot: u32) -> Result<(), FifoError> {
        let (head, link) = self.unlinked(list, slot)?;
        let first = head.first.replace(slot);
        link.next.set(first);
        match self.link(first) {
            Some(after) => after.prev.set(slot),
            None => head.last.set(slot),
        }
        link.list.set(list);
        head.len.set(head.len.get().wrapping_add(1));
        Ok(())
    }

    /// Removes the oldest slot of `list`; `None` where it is empty (or does not exist).
    #[inline]
    #[must_use]
    pub fn pop_front(&self, list: u32) -> Option<u32> {
        let head = self.heads.get(wide(list))?;
        let slot = head.first.get();
        let link = self.link(slot)?;
        self.detach(head, link);
        Some(slot)
    }

    /// Removes `slot` from the list it is on, and returns the number of that list.
    ///
    /// # Errors
    /// There is no such slot, or it is on no list.
    #[inline]
    pub fn unlink(&self, slot: u32) -> Result<u32, FifoError> {
        let link = self.link(slot).ok_or(FifoError::UnknownSlot)?;
        let list = link.list.get();
        let head = self.heads.get(wide(list)).ok_or(FifoError::Unlinked)?;
        self.detach(head, link);
        Ok(list)
    }

    /// The list that `slot` is on.
    #[inline]
    #[must_use]
    pub fn list_of(&self, slot: u32) -> Option<u32> {
        self.link(slot).map(|link| link.list.get()).filter(|&list| list != NIL)
    }

    /// The oldest slot of `list`.
    #[inline]
    #[must_use]
    pub fn front(&self, list: u32) -> Option<u32> {
        self.heads.get(wide(list)).map(|head| head.first.get()).filter(|&slot| slot != NIL)
    }

    /// The slot that stands after `slot` in its list.
    #[inline]
    #[must_use]
    pub fn after(&self, slot: u32) -> Option<u32> {
        self.link(slot).map(|link| link.next.get()).filter(|&next| next != NIL)
    }

    /// [`Fifos::front`] as a number: [`NIL`] where there is none, which names no row of any other table either. So a walk over the rows of a list
    /// compares once for each.
    #[inline(always)]
    pub(crate) fn front_or_nil(&self, list: u32) -> u32 {
        self.heads.get(wide(list)).map_or(NIL, |head| head.first.get())
    }

    /// [`Fifos::after`] likewise.
    #[inline(always)]
    pub(crate) fn after_or_nil(&self, slot: u32) -> u32 {
        self.link(slot).map_or(NIL, |link| link.next.get())
    }

    /// The slots of `list`, oldest first, at most `budget` of them. The slot that was yielded last may be unlinked
    /// meanwhile; where the one after it is unlinked too, the walk ends early.
    #[inline]
    #[must_use]
    pub fn iter(&self, list: u32, budget: u32) -> Walk<'_, 'm> {
        Walk { fifos: self, list, next: self.front(list).unwrap_or(NIL), budget }
    }

    /// The slots that stand after `slot` in its list, at most `budget` of them: a search that ran out of budget goes
    /// on from where it was. Empty where `slot` is on no list.
    #[inline]
    #[must_use]
    pub fn iter_after(&self, slot: u32, budget: u32) -> Walk<'_, 'm> {
        let (list, next) =
            self.link(slot).map_or((NIL, NIL), |link| (link.list.get(), link.next.get()));
        Walk { fifos: self, list, next, budget }
    }

    /// How many slots `list` has; 0 where there is no such list.
    #[inline]
    #[must_use]
    pub fn len(&self, list: u32) -> u32 {
        self.heads.get(wide(list)).map_or(0, |head| head.len.get())
    }

    /// Whether `list` has no slots.
    #[inline]
    #[must_use]
    pub fn is_empty(&self, list: u32) -> bool {
        self.front(list).is_none()
    }

    /// How many slots can be linked.
    #[inline]
    #[must_use]
    pub const fn slots(&self) -> u32 {
        count(self.links.len())
    }

    /// How many lists there are.
    #[inline]
    #[must_use]
    pub const fn lists(&self) -> u32 {
        count(self.heads.len())
    }

    /// The link of `slot`; `NIL` has none.
    #[inline]
    fn link(&self, slot: u32) -> Option<&'m Link> {
        self.links.get(wide(slot))
    }

    #[inline]
    fn unlinked(&self, list: u32, slot: u32) -> Result<(&'m Head, &'m Link), FifoError> {
        let head = self.heads.get(wide(list)).ok_or(FifoError::UnknownList)?;
        let link = self.link(slot).ok_or(FifoError::UnknownSlot)?;
        if link.list.get() == NIL { Ok((head, link)) } else { Err(FifoError::Linked) }
    }

    /// Closes the gap around `link`, a member of the list of `head`.
    #[inline]
    fn detach(&self, head: &Head, link: &Link) {
        let next = link.next.replace(NIL);
        let prev = link.prev.replace(NIL);
        link.list.set(NIL);
        match self.link(prev) {
            Some(before) => before.next.set(next),
            None => head.first.set(next),
        }
        match self.link(next) {
            Some(after) => after.prev.set(prev),
            None => head.last.set(prev),
        }
        head.len.set(head.len.get().wrapping_sub(1));
    }
}

/// The slots of one list in order, as [`Fifos::iter`] yields them.
#[derive(Clone, Debug)]
pub struct Walk<'f, 'm> {
    fifos: &'f Fifos<'m>,
    list: u32,
    next: u32,
    budget: u32,
}

impl Iterator for Walk<'_, '_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let budget = self.budget.checked_sub(1)?;
        let slot = self.next;
        let link = self.fifos.link(slot)?;
        if link.list.get() != self.list {
            return None;
        }
        self.budget = budget;
        self.next = link.next.get();
        Some(slot)
    }
}
