//! What was posted to a device queue and has not completed: which entry a completion stands for, and which work requests
//! have ended with it in silence.
//!
//! A device names a work request by a 16-bit number and nothing else. A tracker turns the number back into what the
//! caller gave it, once:
//!
//! ```text
//!   Ordered     a row a basic block of the ring                      send queues, receive queues
//!
//!                  ci                                  pi            free-running 16-bit indices
//!                   v                                   v
//!      .. | free  | u   u   u | S   s   s | N | u | S   | free ..    u unsignaled, S signaled, N fill to the end of the ring
//!                               ^ a completion of S retires both u before it
//!
//!   Unordered   a slot an id, free ids in the order of their release      shared receive queues, streams without order
//! ```
//!
//! Invariants:
//! - Each work request that was posted is handed out once: by the completion that it asked for, in the count of the next
//!   one, by the error that names it, or by the flush. A number that names nothing that is under way is [`Stale`], and
//!   changes nothing.
//! - An [`Ordered`] never fills with unsignaled work requests only: once everything that was signaled has completed, the
//!   longest signaled one fits, with the fill before it.
//! - Numbers come from the device and are looked at as such: compared and masked, never trusted.

mod ordered;
mod outcome;
mod unordered;

use core::fmt;

pub use ordered::{Ordered, OrderedConfig};
pub use outcome::{Completed, Earlier, Failed, FailedBy, Flushed, Posted};
pub use unordered::{Ticket, Unordered};

use crate::raw::place::Exhausted;

/// Most rows of a tracker: half of what a 16-bit index tells apart.
pub const ROWS_MAX: u16 = 1 << 15;

/// A completion that ends nothing. Nothing was changed by it: count it, report it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Stale {
    /// Nothing with that number is under way: it has completed before, or was never posted.
    NotPosted,
    /// The number lies within a work request, where none starts.
    NotAStart,
    /// The work request is under way, but did not ask for a completion.
    Unsignaled,
    /// The work request is under way, but so is a signaled one before it, and completions come in order.
    Skips,
    /// A success after the queue has failed.
    Failed,
    /// The slot has been used again since the ticket was given out.
    Reused,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPosted => "stale completion: nothing with that number is under way",
            Self::NotAStart => "stale completion: no work request starts at that number",
            Self::Unsignaled => {
                "stale completion: that work request did not ask for a completion; is the queue set to signal all?"
            }
            Self::Skips => {
                "stale completion: a signaled work request before it has not completed; was a completion lost?"
            }
            Self::Failed => "stale completion: a success after the queue had failed",
            Self::Reused => "stale completion: the slot has been used again since",
        })
    }
}

impl core::error::Error for Stale {}

/// A tracker cannot be placed like that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// Give a power of two of rows, up to [`ROWS_MAX`].
    Rows {
        /// Asked for.
        rows: u16,
    },
    /// With the fill before it, the longest work request must fit into an empty ring: `2 * wqe_blocks_max - 1 <= rows`.
    Longest {
        /// Asked for, in basic blocks.
        wqe_blocks_max: u16,
        /// Basic blocks of the ring.
        rows: u16,
    },
    /// The arena has too little room left.
    Memory(Exhausted),
}

impl From<Exhausted> for PlaceError {
    fn from(value: Exhausted) -> Self {
        Self::Memory(value)
    }
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { rows } => {
                write!(f, "tracker of {rows} rows: give a power of two, 1 to {ROWS_MAX}")
            }
            Self::Longest { wqe_blocks_max, rows } => write!(
                f,
                "work requests of {wqe_blocks_max} blocks in a ring of {rows}: give 1 to half of the ring"
            ),
            Self::Memory(exhausted) => exhausted.fmt(f),
        }
    }
}

impl core::error::Error for PlaceError {}
