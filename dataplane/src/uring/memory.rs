//! What the host has mapped of a ring, and where in it everything lies.
//!
//! ```text
//!   rings  | sq head, tail | cq head, tail | masks, flags, .. | cqes [16 bytes each] .. | array of indices, on old kernels |
//!   sqes   | 64 bytes | 64 bytes | ..
//! ```
//!
//! The kernel says where (`io_uring_params`, io_uring_setup(2)); that is compared with what is mapped once, here.

use core::fmt;

use spinwire_layouts::uring::{Params, setup};
use spinwire_layouts::word::{to_usize, widen};

use crate::raw::line::Line;
use crate::sync::{AtomicU32, Ordering};

/// What the kernel says of a ring cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRing {
    /// The field of `io_uring_params`.
    pub field: &'static str,
    /// What it says.
    pub value: u32,
}

impl fmt::Display for BadRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "io_uring: {} = {} does not fit what is mapped; report the kernel's version",
            self.field, self.value
        )
    }
}

impl core::error::Error for BadRing {}

/// The memory of one ring, whose parts lie inside of what is mapped.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory<'s> {
    pub(super) sq_head: &'s AtomicU32,
    pub(super) sq_tail: &'s AtomicU32,
    pub(super) sq_flags: &'s AtomicU32,
    pub(super) sq_dropped: &'s AtomicU32,
    pub(super) cq_head: &'s AtomicU32,
    pub(super) cq_tail: &'s AtomicU32,
    pub(super) cq_overflow: &'s AtomicU32,
    /// As many as there are entries, a power of two.
    pub(super) sqes: &'s [Line],
    /// As many as there are completions, a power of two.
    pub(super) cqes: &'s [[AtomicU32; CQE_WORDS]],
    pub(super) setup: u32,
}

/// Words of a completion.
const CQE_WORDS: usize = 4;

impl<'s> RingMemory<'s> {
    /// The ring of `params`, as io_uring_setup(2) has filled them in, in its two mappings. Where the submission queue has an array
    /// of indices, each entry is made its own.
    ///
    /// # Errors
    /// [`BadRing`] names the field that does not fit. Entries of 128 bytes and completions of 32 are refused too.
    pub fn new(rings: &'s [AtomicU32], sqes: &'s [Line], params: &Params) -> Result<Self, BadRing> {
        let (sq, cq) = (&params.sq_off, &params.cq_off);
        let word = |field, offset| {
            at(rings, field, offset)
                .and_then(|words| words.first().ok_or(BadRing { field, value: offset }))
        };
        let odd = setup::SQE128 | setup::CQE32;
        if params.flags & odd != 0 {
            return Err(BadRing { field: "flags", value: params.flags });
        }
        let entries = power_of_two("sq_entries", params.sq_entries)?;
        let completions = power_of_two("cq_entries", params.cq_entries)?;
        let sqes =
            sqes.get(..entries).ok_or(BadRing { field: "sq_entries", value: params.sq_entries })?;
        let (cqes, _rest) = at(rings, "cq_off.cqes", cq.cqes)?.as_chunks();
        let cqes = cqes
            .get(..completions)
            .ok_or(BadRing { field: "cq_entries", value: params.cq_entries })?;
        if params.flags & setup::NO_SQARRAY == 0 {
            let array = at(rings, "sq_off.array", sq.array)?.get(..entries);
            let array = array.ok_or(BadRing { field: "sq_off.array", value: sq.array })?;
            for (index, word) in (0_u32..).zip(array) {
                word.store(index, Ordering::Relaxed);
            }
        }
        Ok(Self {
            sq_head: word("sq_off.head", sq.head)?,
            sq_tail: word("sq_off.tail", sq.tail)?,
            sq_flags: word("sq_off.flags", sq.flags)?,
            sq_dropped: word("sq_off.dropped", sq.dropped)?,
            cq_head: word("cq_off.head", cq.head)?,
            cq_tail: word("cq_off.tail", cq.tail)?,
            cq_overflow: word("cq_off.overflow", cq.overflow)?,
            sqes,
            cqes,
            setup: params.flags,
        })
    }

    /// Entries of the submission queue.
    #[must_use]
    pub const fn sq_entries(&self) -> u32 {
        crate::table::count(self.sqes.len())
    }

    /// Entries of the completion queue.
    #[must_use]
    pub const fn cq_entries(&self) -> u32 {
        crate::table::count(self.cqes.len())
    }
}

/// The words from byte `offset` on.
fn at<'s>(
    rings: &'s [AtomicU32],
    field: &'static str,
    offset: u32,
) -> Result<&'s [AtomicU32], BadRing> {
    let index = to_usize(widen(offset)) / 4;
    rings.get(index..).filter(|_| offset.is_multiple_of(4)).ok_or(BadRing { field, value: offset })
}

const fn power_of_two(field: &'static str, value: u32) -> Result<usize, BadRing> {
    if value.is_power_of_two() { Ok(to_usize(widen(value))) } else { Err(BadRing { field, value }) }
}
