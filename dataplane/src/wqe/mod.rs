//! Work queues of mlx5 devices: WQEs are built in memory that the device reads, and published by a doorbell.
//!
//! ```text
//!   with_sq_wqe(|wqe| wqe.write(flags, raddr, rkey).inline(&bytes).finish_signaled(entry))
//!      flag   parts: ctrl, raddr, inline                              |
//!                                                  room for all of it? |  no: Retry(SqFull), nothing was written
//!                                                                      v
//!   ring  .. | free  |  free |  free | end      tracker: pi moves, the entry waits for its completion
//!            |ctrl raddr inl..|                  blocks are written, one store a word
//!
//!   ring_doorbell()   to_device | record | wc_start | 8 bytes, or the WQE (BlueFlame) | flush          one for all that is staged
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | [`builder`] | what a WQE is made of, by type: without what its opcode needs it cannot be finished |
//! | [`segment`] | the parts, and how they are laid out |
//! | [`address`] | to whom a datagram goes |
//! | [`memory_key`] | keys that are changed by a WQE: windows, lists, invalidation |
//! | [`ring`] | the blocks of a ring, and the two ways past its end |
//! | [`send`] | a send queue: room, fill, fences, doorbell |
//! | [`receive_ring`], [`receive`], [`shared`] | what receive queues have in common; one of a queue pair; one that queue pairs share |
//! | [`doorbell`] | the order of record, barriers and register |
//! | [`borrow`] | the flag: one builder a queue at a time |
//! | [`qp`] | a queue pair: its entry points |
//!
//! A builder holds its parts by value and touches nothing until it is finished; a builder that is dropped, by an early return or an
//! unwind, has therefore left the ring, the tracker and the doorbell as they were. It is finished in one step, in which no code of
//! the caller runs.
//!
//! Invariants: (1) blocks between the published index and the tracker's `pi` are written in full, up to the length that their
//! control segment says, before the doorbell; (2) blocks that the tracker does not call free are not written; (3) a WQE names memory
//! by [`LocalSge`](crate::raw::region::LocalSge) only, and never a range of 0 bytes; (4) what stands behind the parts of a WQE, up to a
//! multiple of 16 bytes, is zero.
//!
//! What is verified is all that happens in memory, up to the doorbell: bytes against rdma-core's header, the order of stores and
//! barriers against a recorder. No ConnectX was at hand.

pub mod address;
pub mod borrow;
pub mod builder;
pub mod doorbell;
pub mod memory_key;
pub mod qp;
pub mod receive;
pub mod receive_ring;
pub mod ring;
pub mod segment;
pub mod send;
pub mod shared;

pub use address::{Av, Grh, IbPath, RoceGrh, UdPeer};
pub use builder::{RoceUdSqWqe, SqWqe, UdSqWqe, Wqe, WqeFlags};
pub use doorbell::{BlueFlame, Uar};
pub use memory_key::{Access, KeyUpdate, RelaxedOrdering, Window};
pub use qp::{Qp, QpConfig, QpMemory, RqBorrow, SqBorrow, Transport};
pub use receive::{RecvConfig, RecvQueue, RqWqe};
pub use receive_ring::{RecvWqe, TakesReceives};
pub use ring::Straddle;
pub use send::{SendConfig, SendQueue};
pub use shared::{SharedRecvQueue, SrqWqe};

use core::fmt;

use crate::raw::place::Exhausted;
use crate::tracker::PlaceError;

/// A queue cannot be like that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadQueue {
    /// The lines of the ring are no power of two, or more than 32768.
    Ring {
        /// So many.
        lines: usize,
    },
    /// The longest WQE has 1 to 16 basic blocks.
    Longest {
        /// Asked for.
        wqe_blocks_max: u16,
    },
    /// Receive WQEs have 1 to 64 segments, a power of two with the head of those in a shared queue.
    Segments {
        /// Asked for.
        sge_max: u16,
    },
    /// The registers are one line, or two halves of 1 to 4 lines each.
    Registers {
        /// So many lines.
        lines: usize,
    },
    /// The tracker cannot be placed.
    Tracker(PlaceError),
}

impl From<PlaceError> for BadQueue {
    fn from(value: PlaceError) -> Self {
        Self::Tracker(value)
    }
}

impl From<Exhausted> for BadQueue {
    fn from(value: Exhausted) -> Self {
        Self::Tracker(PlaceError::Memory(value))
    }
}

impl fmt::Display for BadQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring { lines } => {
                write!(
                    f,
                    "ring of {lines} lines: give a power of two, 1 to 32768, as the device has it"
                )
            }
            Self::Longest { wqe_blocks_max } => {
                write!(f, "wqe_blocks_max = {wqe_blocks_max}: give 1 to 16")
            }
            Self::Segments { sge_max } => {
                write!(
                    f,
                    "sge_max = {sge_max}: give 1 to 64, so that a WQE is a power of two of bytes"
                )
            }
            Self::Registers { lines } => write!(
                f,
                "doorbell registers of {lines} lines: give one, or both halves of 64 to 256 bytes"
            ),
            Self::Tracker(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BadQueue {}
