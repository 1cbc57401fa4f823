//! Tables of one thread: fixed capacity, placed once, then never grown.
//!
//! Everything that a plane remembers between two turns lies in one of these:
//!
//! ```text
//!             key = slot + generation           slot numbers, many lists over one link table
//!   Slab   [ 0 | 1 | 2 | 3 | .. ]      Fifos   list 0: 2 <-> 0 <-> 5      list 1: 3
//!
//!   Ring   .. | a | b | c | ..         BitSet  0010_0100 (which lanes have news)
//!              head      tail           Fronted   a Ring, and its oldest item beside it
//!
//!   Timers  due <- [64 ticks] <- [64 x 64 ticks] <- .. (each entry sits in a Slab, in one list of a Fifos)
//! ```
//!
//! Common to all of them:
//! - The caller places the storage: a slice of cells, exclusively borrowed, or [`Bump`](crate::raw::place::Bump)
//!   through `place`. Capacity is a run-time number and fixed from then on.
//! - Methods take `&self`; state is in [`Cell`](core::cell::Cell)s, so a table is `!Sync` and no borrow is ever
//!   held across a call.
//! - No call allocates, panics or loops longer than its documentation says. A full table refuses and hands
//!   the item back in [`Full`].
//! - Slots are `u32` numbers; [`NIL`] is never one of them.

mod bitset;
mod fifo;
mod fronted;
mod ring;
mod slab;
mod timer;

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

pub use bitset::{BitSet, OutOfRange};
pub use fifo::{FifoError, Fifos, Head, Link, Walk};
pub use fronted::Fronted;
pub use ring::{NotPowerOfTwo, Ring};
pub use slab::{Key, Slab, SlabError, Slot};
pub use timer::{Due, Expire, TimerEntry, TimerStorage, Timers};

/// The slot number that no table has: the end of a list.
pub const NIL: u32 = u32::MAX;

/// A table had no room; the refused item comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full<T>(
    /// What was to be stored.
    pub T,
);

impl<T> core::fmt::Display for Full<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("table full: remove an entry first, or place the table with a larger capacity")
    }
}

impl<T: core::fmt::Debug> core::error::Error for Full<T> {}

/// A slot number as a slice index.
#[inline]
pub(crate) const fn wide(number: u32) -> usize {
    to_usize(widen(number))
}

/// The length of a slice as a count of slots; what lies beyond [`NIL`] is never used.
#[inline]
pub(crate) const fn count(length: usize) -> u32 {
    let length = from_usize(length);
    if length > widen(NIL) { NIL } else { low(length) }
}
