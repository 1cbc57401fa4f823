//! Completion queues of mlx5 devices: what the device says is done, and whose it is.
//!
//! ```text
//!   device ──> | cqe | cqe | cqe | invalid ..          Cq          whose turn an entry is: owner bit, or count of laps
//!                                                       │           Cqe: done, failed or odd
//!                                                       v
//!                                         qp number ──> Queues      wqe counter ──> entry that was posted, once
//!                                                       │
//!                             MonoCq                    │                    GeneralCq
//!                one closure for all queue pairs,       v       a handler for each queue pair, of any type,
//!                nothing is called indirectly         Event     behind one indirect call
//! ```
//!
//! Invariants:
//! - An entry is looked at only after its owner bit said that it is ours and
//!   [`from_device`](crate::raw::barrier::from_device) was passed; several that are ours already share one barrier. It is the
//!   device's again when the doorbell record says so, which is after the last look.
//! - Of an entry, status comes first. Of one with an error, nothing but syndrome, queue pair and WQE counter is read.
//! - Whatever the bytes of an entry are, nothing panics and nothing is lost in silence: what makes no sense is [`Odd`], what
//!   names no queue pair is [`Event::UnknownQueue`], what names nothing under way is [`Event::Stale`], and each is counted.
//! - A poll within a handler of the same queue does nothing.
//!
//! Source: `infiniband/mlx5dv.h`; the order of loads, barriers and stores is that of rdma-core (`providers/mlx5/cq.c`); compression
//! is that of the kernel's driver (`en_rx.c`). Never run on hardware: it is verified against those, and against a model.

mod compressed;
mod discard;
mod dispatch;
mod entry;
mod pair;
mod queue;
mod syndrome;
mod table;

use core::fmt;

pub use compressed::{Compression, MiniFormat};
pub use dispatch::{Event, GeneralCq, Handled, MonoCq, Queues, Routed, Target, Tracked};
pub use entry::{Arrival, Cqe, Failure, Inline, Odd, Plain, Received, Sent, ShortInfo, Side};
pub use queue::{Cq, CqCounts, CqMemory, EntryBytes, Notify};
pub use syndrome::Syndrome;
pub use table::{QueueTable, TableError};

/// Most entries of a queue: the device counts them in 24 bits.
pub const ENTRIES_MAX: u32 = 1 << 22;

/// What was handed in cannot be a completion queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CqError {
    /// Give a power of two of entries, up to [`ENTRIES_MAX`].
    Entries {
        /// How many there are.
        entries: usize,
    },
    /// Inline data of 64 bytes and compression exclude each other: give entries of 64 bytes.
    CompressedWide,
}

impl fmt::Display for CqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { entries } => write!(
                f,
                "completion queue of {entries} entries: give a power of two, 1 to {ENTRIES_MAX}"
            ),
            Self::CompressedWide => {
                f.write_str("completion queue: compression wants entries of 64 bytes")
            }
        }
    }
}

impl core::error::Error for CqError {}
