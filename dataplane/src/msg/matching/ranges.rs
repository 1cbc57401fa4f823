//! Receives into several ranges: the ranges lie beside the posted receives, in sets of their own.
//!
//! ```text
//!   posted receive   sge: none, filling: Parts { set } ──> set: | range | range | .. |       what one message fills, in this order
//! ```
//!
//! A look at a receive that has one range, which is nearly every one, does not learn of this: where there is no range it goes another way.
//!
//! Invariant: a set is either in the list of those that are free, or one posted receive's.

use core::cell::Cell;

use super::{Filling, Landing, Matcher, NOBODY, PostedRecv};
use crate::error::{Misuse, PostError, Retry};
use crate::provider::RecvPartsWr;
use crate::raw::loan::Sge;
use crate::raw::place::{Bump, Exhausted};
use spinwire_layouts::word::{from_usize, low, to_usize, widen};

/// Ranges of one message at most.
pub const RANGES_MAX: usize = 8;
/// Receives into several ranges that may be posted at once.
const SETS: u32 = 16;

/// The ranges of one receive.
#[derive(Debug)]
struct Set {
    ranges: [Cell<Option<Sge>>; RANGES_MAX],
    next_free: Cell<u32>,
}

/// The ranges of receives that have several.
#[derive(Debug)]
pub(super) struct Sets<'m> {
    all: &'m [Set],
    free: Cell<u32>,
}

impl<'m> Sets<'m> {
    pub(super) fn place(bump: &Bump<'m>, receives: u32) -> Result<Self, Exhausted> {
        let count = receives.min(SETS);
        let next = |at: usize| low(from_usize(at)).wrapping_add(1);
        let all: &'m [Set] = bump.slice_with(to_usize(widen(count)), |at| Set {
            ranges: [const { Cell::new(None) }; RANGES_MAX],
            next_free: Cell::new(if next(at) < count { next(at) } else { NOBODY }),
        })?;
        Ok(Self { all, free: Cell::new(if count == 0 { NOBODY } else { 0 }) })
    }

    fn take(&self, parts: &[Sge]) -> Option<u32> {
        let number = self.free.get();
        let set = self.set(number)?;
        self.free.set(set.next_free.get());
        let parts = parts.iter().copied().map(Some).chain(core::iter::repeat(None));
        for (place, part) in set.ranges.iter().zip(parts) {
            place.set(part);
        }
        Some(number)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn give_back(&self, number: u32) {
        if let Some(set) = self.set(number) {
            set.ranges.iter().for_each(|range| range.set(None));
            set.next_free.set(self.free.replace(number));
        }
    }

    fn set(&self, number: u32) -> Option<&'m Set> {
        self.all.get(to_usize(widen(number)))
    }

    fn ranges(&self, number: u32) -> impl Iterator<Item = Sge> + use<'m> {
        let ranges = self.set(number).map_or(&[][..], |set| &set.ranges);
        ranges.iter().map_while(Cell::get)
    }
}

impl Matcher<'_> {
    /// Posts a receive into several ranges.
    ///
    /// # Errors
    /// `BadRange` without a range, `Unsupported` with more than [`RANGES_MAX`]; `RqFull` where as many receives are posted as the table
    /// holds, or as many of this kind.
    pub fn post_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        if wr.parts.is_empty() {
            return Err(Misuse::BadRange.into());
        }
        if wr.parts.len() > RANGES_MAX {
            return Err(Misuse::Unsupported.into());
        }
        self.clear_spent();
        let set = self.sets.take(wr.parts).ok_or(Retry::RqFull)?;
        let posted = self.post_as((wr.wr_id, None), (wr.from, wr.select), Filling::Parts { set });
        if posted.is_err() {
            self.sets.give_back(set);
        }
        Ok(posted?)
    }

    /// The first range of a receive that has several, and how many bytes all of them hold.
    #[cold]
    #[inline(never)]
    pub(super) fn room_of_parts(&self, posted: &PostedRecv) -> Option<(Sge, usize)> {
        let Filling::Parts { set } = posted.buffer.get() else { return None };
        let room = self.sets.ranges(set).map(|it| it.length()).fold(0, usize::saturating_add);
        Some((self.sets.ranges(set).next()?, room))
    }

    /// Where bytes `from..until` of a message go that has no one [place](Landing::place): `copy` is called for each piece, with the
    /// position of its first byte in the message. What the receive has no room for is left out.
    #[cold]
    pub fn scatter(
        &self,
        landing: &Landing,
        (from, until): (usize, usize),
        mut copy: impl FnMut(usize, &mut [u8]),
    ) {
        let Filling::Parts { set } = landing.buffer else { return };
        let until = until.min(landing.length);
        let mut start = 0_usize;
        for mut range in self.sets.ranges(set) {
            let end = start.saturating_add(range.length());
            let (first, behind) = (from.max(start), until.min(end));
            if let Some(length @ 1..) = behind.checked_sub(first)
                && let Some(to) = range.part(first.wrapping_sub(start), length)
            {
                copy(first, to);
            }
            start = end;
        }
    }

    /// Copies bytes of a message, from byte `from` of it on, to where they belong; what the receive has no room for is left out.
    #[inline]
    pub fn fill(&self, landing: &mut Landing, from: usize, bytes: &[u8]) {
        let room = landing.length.saturating_sub(from);
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let start = landing.offset.saturating_add(from);
        match landing.sge.part(start, bytes.len()) {
            Some(to) => to.copy_from_slice(bytes),
            None => self.scatter(landing, (from, from.saturating_add(bytes.len())), |at, to| {
                let piece = at.wrapping_sub(from)..;
                if let Some(piece) = bytes.get(piece).and_then(|rest| rest.get(..to.len())) {
                    to.copy_from_slice(piece);
                }
            }),
        }
    }
}
