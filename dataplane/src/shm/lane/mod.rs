//! Lanes: one-way rings from one endpoint to one other, in memory that both map.
//!
//! ```text
//!            written by the sender                                      written by the receiver
//!   cells    | seq len flags | tag | 48 bytes |  | seq ... |  ...       credit line | cells | spill | armed |
//!   spill    | the bytes that did not fit into their cell, back to back ....... |
//! ```
//!
//! A message is one cell: a head word with its sequence number, a tag, and its first 48 bytes, in one cache line, so
//! that a small message costs one line transfer. What is longer goes on in the *spill*, a byte ring beside the cells, in
//! steps of 16 bytes: the 16 bytes by which a 64-byte message overflows its cell share their line with those of three
//! neighbours, where a second cell would cost a line of its own, and long messages are copied whole, in at most two
//! pieces, not cell by cell. The first message of a batch starts on a line of the spill of its own, and says so in its
//! head: whoever sends one message at a time then never writes into a line that the receiver may still be reading, and
//! can have it [warm](LaneTx::warm). The receiver works out the place in the spill for itself; no offset is ever read
//! from the peer.
//!
//! *Publishing.* [`LaneTx::stage`] writes cells. Of a batch, the head word of the first cell is held back;
//! [`LaneTx::publish`] stores it with Release, and the whole batch becomes visible at once. A sender that is killed
//! in the middle has published nothing.
//!
//! *Credit.* The receiver returns cells and spill bytes by storing how far it has come, once per quarter of either
//! ring. A sender can need at most half of the spill at once ([`Geometry`](super::Geometry) checks that), and at most a
//! quarter of it is consumed but not returned, so a sender that waits is always served: the lane cannot wedge.
//!
//! *Parcels.* A message can be a buffer of a pool: its bytes are then a [`Descriptor`], and what it stands for stays its sender's
//! until the receiver has [settled](LaneRx::settle) the number in it; see `parcel`.
//!
//! Invariants: (1) `published <= tail <= head + cells`; the same for the spill in bytes; (2) every cell of a lap is a
//! message head, so a stale cell carries exactly the sequence number of the lap before, or is all zero; (3) each side
//! keeps its own positions privately; what it reads of the other's is checked to move forward and stay in bounds, else
//! the lane is `Corrupt`; (4) a head word is read once, and only the copy is used.

mod parcel;
mod parts;
mod rx;
mod tx;

use spinwire_layouts::shm::lane::CELL_INLINE_BYTES;
use spinwire_layouts::wire::message::flags;

use crate::raw::line::{LINE_BYTES, Line, WORD_BYTES};
use crate::sync::{AtomicU64, Ordering};

pub use parcel::Descriptor;
use rx::read_spill;
pub use rx::{Arrival, Content, LaneRx};
pub use tx::LaneTx;

/// Steps in which the spill is used, in bytes.
pub const SPILL_STEP_BYTES: u64 = 16;
/// Bytes of a line of the spill.
const SPILL_LINE_BYTES: u64 = 64;
/// Cells that may be staged before a batch is published on its own account, so that the receiver can start.
pub const BATCH_CELLS_MAX: u64 = 64;
/// Words of a cell before the payload.
const PAYLOAD_WORD: usize = 2;
/// From this many bytes on, a message's spill starts on a line of its own, so that long copies run on whole lines.
const SPILL_WHOLE_LINES_BYTES: usize = 512;

/// The shared memory of one lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneMemory<'s> {
    /// The ring of cells; a power of two of them.
    pub cells: &'s [Line],
    /// The byte ring; a power of two of lines.
    pub spill: &'s [Line],
    /// The line that the receiver writes.
    pub credit: &'s Line,
}

impl<'s> LaneMemory<'s> {
    /// No memory: a lane that is not open. Every stage fails with `NoCredit`, every receive finds nothing.
    #[must_use]
    pub const fn closed(credit: &'s Line) -> Self {
        Self { cells: &[], spill: &[], credit }
    }

    /// How far the receiver has come, in cells.
    #[inline(always)]
    const fn credit_cells(&self) -> &'s AtomicU64 {
        let [cells, ..] = self.credit.words();
        cells
    }

    /// How far the receiver has come, in spill bytes.
    #[inline(always)]
    const fn credit_spill(&self) -> &'s AtomicU64 {
        let [_, spill, ..] = self.credit.words();
        spill
    }

    /// Whether the receiver wants to be told of news in this lane, because it does not look by itself.
    #[inline(always)]
    const fn armed(&self) -> &'s AtomicU64 {
        let [_, _, armed, ..] = self.credit.words();
        armed
    }

    /// What the receiver made of the lane: see [`ReceiverState`].
    #[inline(always)]
    const fn receiver_state(&self) -> &'s AtomicU64 {
        let [_, _, _, state, ..] = self.credit.words();
        state
    }

    /// The parcels that the receiver has done with: a bit each, flipped each time.
    #[inline(always)]
    const fn settled(&self) -> &'s AtomicU64 {
        let [_, _, _, _, settled, ..] = self.credit.words();
        settled
    }

    /// Makes the memory that of a new lane: no cell valid, no credit taken. The caller holds the lane alone.
    pub fn reset(&self) {
        self.reset_at(Carried::default());
    }

    /// As [`reset`](Self::reset), with the credit of a lane that has carried so much.
    fn reset_at(&self, carried: Carried) {
        for cell in self.cells {
            let [head, ..] = cell.words();
            head.store(0, Ordering::Relaxed);
        }
        self.credit_cells().store(carried.cells, Ordering::Relaxed);
        self.credit_spill().store(carried.spill_bytes, Ordering::Relaxed);
        self.receiver_state().store(ReceiverState::Unseen.as_raw(), Ordering::Relaxed);
        self.settled().store(0, Ordering::Relaxed);
        // A new lane is cold: its receiver does not know of it yet.
        self.armed().store(1, Ordering::Relaxed);
    }
}

/// How much a lane has carried: free-running positions, of which the lowest 32 bits go with every message.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Messages.
    pub cells: u64,
    /// Bytes of the spill; a multiple of 8.
    pub spill_bytes: u64,
}

impl Carried {
    /// Both ends of a lane that has carried so much, and all of it was taken: for simulations of what takes a lane days.
    #[must_use]
    pub fn ends<'s>(
        self,
        memory: LaneMemory<'s>,
        message_bytes_max: usize,
    ) -> (LaneTx<'s>, LaneRx<'s>) {
        memory.reset_at(self);
        let (tx, rx) = (LaneTx::new(memory), LaneRx::new(memory, message_bytes_max));
        tx.go_on_at(self);
        rx.go_on_at(self);
        (tx, rx)
    }
}

/// What the receiver has made of a lane that a sender opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReceiverState {
    /// It has not looked yet.
    Unseen,
    /// It took the lane.
    Accepted,
    /// It will not take it: a connected endpoint has its one peer already, or the address table is full.
    Refused,
    /// It took the lane and has let go of it since: it disconnected, or cut this peer off.
    Left,
}

impl ReceiverState {
    const fn as_raw(self) -> u64 {
        match self {
            Self::Unseen => 0,
            Self::Accepted => 1,
            Self::Refused => 2,
            Self::Left => 3,
        }
    }

    const fn from_raw(raw: u64) -> Self {
        match raw {
            1 => Self::Accepted,
            2 => Self::Refused,
            3 => Self::Left,
            _ => Self::Unseen,
        }
    }
}

/// What travels with the bytes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    /// The tag of a tagged message.
    pub tag: Option<u64>,
    /// 64 bits of immediate data.
    pub immediate: Option<u64>,
}

/// Where a message lies in its lane: in its cell, and from where in the spill.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Bytes of it in the cell.
    inline_bytes: usize,
    /// Position of the rest in the spill; free-running.
    spill_at: u64,
    /// Position behind it.
    spill_end: u64,
}

/// Where a message of `length` bytes lies if the spill is used up to `spill`. Both sides compute it, from the length and
/// the flags in the head word.
#[inline(always)]
fn place(length: usize, bits: u8, spill: u64) -> Place {
    let immediate = bits & flags::IMMEDIATE != 0;
    let inline_max = if immediate { CELL_INLINE_BYTES - 8 } else { CELL_INLINE_BYTES };
    let Some(rest @ 1..) = length.checked_sub(inline_max) else {
        return Place { inline_bytes: length, spill_at: spill, spill_end: spill };
    };
    let whole_lines = rest >= SPILL_WHOLE_LINES_BYTES || bits & flags::OWN_LINE != 0;
    // It is used in whole steps, so the next one begins where the last one ends.
    let spill_at = if whole_lines { round_up(spill, SPILL_LINE_BYTES) } else { spill };
    let rest = u64::try_from(rest).unwrap_or(u64::MAX);
    Place {
        inline_bytes: inline_max,
        spill_at,
        spill_end: spill_at.wrapping_add(round_up(rest, SPILL_STEP_BYTES)),
    }
}

#[inline(always)]
const fn round_up(value: u64, step: u64) -> u64 {
    value.wrapping_add(step.wrapping_sub(1)) & !step.wrapping_sub(1)
}

/// Low bits of a free-running position as an index.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the low bits of a position are what is wanted: they are masked to the ring at once"
)]
const fn index(position: u64, mask: usize) -> usize {
    position as usize & mask
}

/// Low 32 bits of a free-running position: the sequence number of its cell.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a sequence number is the position modulo 2^32"
)]
const fn sequence(position: u64) -> u32 {
    position as u32
}

/// The line of the spill in which the next message starts if it is the first of its batch, where the spill is used up to
/// `spill`.
#[inline(always)]
const fn next_spill_line(memory: &LaneMemory<'_>, spill: u64) -> usize {
    let lines = memory.spill.len();
    index(round_up(spill, SPILL_LINE_BYTES) / SPILL_LINE_BYTES, lines.wrapping_sub(1))
}

/// Position `at` of the byte ring as a byte of its memory.
#[inline(always)]
const fn spill_index(spill: &[Line], at: u64) -> usize {
    index(at, spill.len().wrapping_mul(LINE_BYTES).wrapping_sub(1))
}

/// The words from byte `at` of the spill to the end of its line, where `length` bytes fit into them.
#[inline(always)]
fn words_of_line(spill: &[Line], at: usize, length: usize) -> Option<&[AtomicU64]> {
    let words = spill.get(at / LINE_BYTES)?.words().get(at % LINE_BYTES / WORD_BYTES..)?;
    (length <= words.len().wrapping_mul(WORD_BYTES)).then_some(words)
}

fn length_u64(lines: &[Line]) -> u64 {
    u64::try_from(lines.len()).unwrap_or(0)
}
