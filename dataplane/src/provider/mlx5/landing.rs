//! Where the bytes of a work request go, kept for the case that the device puts them into the completion instead.
//!
//! A device may write a short message, or what a read brought, into the completion, and not into the memory that the work request named. They
//! are then copied to where they belong before anybody hears of them. The place is kept here, and not read back from the ring: what stands
//! there, safe code could have written over.
//!
//! Invariant: a row is that of the newest work request of its place in the ring; it is used by the completion of that one alone.

use core::cell::Cell;

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use super::config::SGE_MAX;
use crate::cq::Inline;
use crate::error::{Misuse, PostError};
use crate::raw::place::{Bump, Exhausted};
use crate::raw::region::{LocalSge, MemoryKey};
use crate::verbs::Segment;

/// Most bytes within a completion.
const INLINE_BYTES_MAX: usize = 64;

/// A range of memory that was named.
pub(super) type Range<'m> = Segment<MemoryKey<'m>>;

/// The ranges of each work request, by its place in the ring.
#[derive(Debug)]
pub(super) struct Landings<'m> {
    rows: &'m [Cell<Option<Range<'m>>>],
    sge_max: usize,
}

impl<'m> Landings<'m> {
    /// For a ring of so many places, a power of two, and work requests of up to `sge_max` ranges.
    pub(super) fn place(bump: &Bump<'m>, places: usize, sge_max: u32) -> Result<Self, Exhausted> {
        let sge_max = to_usize(widen(sge_max.max(1)));
        let rows = bump.slice_with(places.saturating_mul(sge_max), |_| Cell::new(None))?;
        Ok(Self { rows, sge_max })
    }

    fn row(&self, index: u16) -> &'m [Cell<Option<Range<'m>>>] {
        let places = self.rows.len().checked_div(self.sge_max).unwrap_or(0).max(1);
        let first = (usize::from(index) & places.wrapping_sub(1)).wrapping_mul(self.sge_max);
        self.rows.get(first..first.wrapping_add(self.sge_max)).unwrap_or_default()
    }

    /// Notes where the bytes of the work request at `index` go.
    #[inline]
    pub(super) fn note(&self, index: u16, ranges: &[Range<'m>]) {
        let mut ranges = ranges.iter();
        for cell in self.row(index) {
            let range = ranges.next().copied();
            cell.set(range);
            if range.is_none() {
                break;
            }
        }
    }

    /// Puts the bytes of a completion where its work request wanted them.
    #[cold]
    #[inline(never)]
    pub(super) fn scatter(&self, index: u16, inline: &Inline<'_>) {
        let mut bytes = [0; INLINE_BYTES_MAX];
        let copied = inline.copy_out(&mut bytes);
        let mut rest = bytes.get(..copied).unwrap_or_default();
        for cell in self.row(index) {
            let Some(range) = cell.get().filter(|_| !rest.is_empty()) else { break };
            let here = rest.len().min(to_usize(widen(range.length)));
            let Some((head, tail)) = rest.split_at_checked(here) else { break };
            let inside = range.key.copy_in(range.address, head);
            debug_assert!(inside, "it was checked when it was posted");
            rest = tail;
        }
    }
}

/// Ranges as WQEs name them.
pub(super) type List = heapless::Vec<LocalSge, { to_usize(widen(SGE_MAX)) }>;

/// Whether the ranges may be named, and how many bytes they have. As WQEs name them, they are put into `list`: without empty ones, as no
/// bytes would be 2 GiB to the device.
#[inline]
pub(super) fn name_ranges(
    ranges: &[Range<'_>],
    sge_max: u32,
    list: &mut List,
) -> Result<u64, PostError> {
    if ranges.len() > to_usize(widen(sge_max)) {
        return Err(Misuse::TooLong.into());
    }
    for range in ranges {
        if range.length == 0 {
            continue;
        }
        let named = range.key.range(range.address, range.length)?;
        list.push(named).map_err(|_many| Misuse::TooLong)?;
    }
    Ok(bytes_of(ranges))
}

/// The bytes of all ranges together; saturates.
fn bytes_of(ranges: &[Range<'_>]) -> u64 {
    ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(widen(range.length)))
}

/// Copies all ranges into `to`, one after the other. Whether they were inside and fitted, and how many bytes they are.
#[inline]
pub(super) fn gather<'t>(ranges: &[Range<'_>], to: &'t mut [u8]) -> Option<&'t [u8]> {
    let mut at = 0_usize;
    for range in ranges {
        let end = at.checked_add(to_usize(widen(range.length)))?;
        let part = to.get_mut(at..end)?;
        if !range.key.copy_out(range.address, part) {
            return None;
        }
        at = end;
    }
    debug_assert!(low(from_usize(at)) < u32::MAX, "it fitted");
    to.get(..at)
}
