//! The state of one chain: bits by entry, and a row for each.
//!
//! ```text
//!   Chain   state, count, marks | ops_due | notices_due | announced | broken | caused | bytes | context      one cache line
//!   Row     context | wanted | res                                                                    16 bytes an entry
//! ```
//!
//! Invariants, with no entry at or above `count` in any set:
//! 1. `ops_due` and `notices_due` have no entry in common. An entry in neither has ended, and only then was its memory given back.
//! 2. An entry enters `notices_due`, and `announced` for good, in one place: by the CQE that takes it out of `ops_due`, if that
//!    carried `F_MORE`.
//! 3. `broken` are the entries with a result that is not whole, `caused` those of them that did not fail with `ECANCELED`.
//! 4. `bytes` is the sum of what the entries moved, none counted above what it asked for. It cannot overflow.

use core::cell::Cell;

use super::entry::{BYTES_MAX, ENTRIES_MAX, Entry, EntrySet, NO_BYTES, bit, first, widen};
use super::outcome::{Cause, ChainEvent, Remains, Why};
use super::{ChainFault, ECANCELED};
use crate::id::{Generation, OpTag};

/// A chain's state word: that it lives, as the tag in the highest byte, and its generation. So it is the high half of
/// every `user_data` of the chain, and one compare finds a CQE's chain, kind and generation right or wrong.
pub(super) const LIVE: u32 = {
    let [tag, ..] = OpTag::Chain.as_raw().to_le_bytes();
    u32::from_le_bytes([0, 0, 0, tag])
};

#[expect(clippy::as_conversions, reason = "both widen, and `From` is not const")]
const _: () = assert!(
    (ENTRIES_MAX as u64).checked_mul(BYTES_MAX as u64).is_some(),
    "the bytes of the longest chain fit into the word that counts them"
);

/// What a chain went through, in [`Chain::marks`].
pub(super) const CANCELLED: u8 = 1;
pub(super) const OVERRUN: u8 = 2;

/// One entry of a chain.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) context: Cell<u64>,
    wanted: Cell<u32>,
    res: Cell<i32>,
}

impl Row {
    pub(super) const fn vacant() -> Self {
        Self { context: Cell::new(0), wanted: Cell::new(0), res: Cell::new(0) }
    }

    pub(super) fn fill(&self, entry: &Entry) {
        self.context.set(entry.context);
        self.wanted.set(entry.wanted);
    }

    /// Whether that result is of all the bytes that were asked for.
    #[inline(always)]
    pub(super) const fn is_whole(&self, res: i32) -> bool {
        res >= 0 && res.cast_unsigned() == self.wanted.get()
    }

    pub(super) const fn res(&self) -> i32 {
        self.res.get()
    }

    const fn verdict(&self) -> Verdict {
        judge(self.wanted.get(), self.res.get())
    }
}

/// What a result says of an entry.
#[derive(Clone, Copy)]
enum Verdict {
    /// Done, and so many bytes moved.
    Whole(u32),
    Broken(Why),
}

#[inline(always)]
const fn judge(wanted: u32, res: i32) -> Verdict {
    if res < 0 {
        return Verdict::Broken(Why::Errno(res.saturating_neg()));
    }
    let bytes = res.cast_unsigned();
    if wanted == NO_BYTES {
        Verdict::Whole(0)
    } else if bytes == wanted {
        Verdict::Whole(bytes)
    } else if bytes < wanted {
        Verdict::Broken(Why::Short { bytes })
    } else {
        Verdict::Broken(Why::Overrun { bytes })
    }
}

/// One chain.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Chain {
    /// [`LIVE`] and the generation, or the generation of the next use alone.
    pub(super) state: Cell<u32>,
    pub(super) count: Cell<u16>,
    pub(super) marks: Cell<u8>,
    /// Its slot lies on the stack of free ones, if only because nobody has taken it from there yet.
    pub(super) listed: Cell<bool>,
    pub(super) ops_due: Cell<u64>,
    pub(super) notices_due: Cell<u64>,
    announced: Cell<u64>,
    broken: Cell<u64>,
    caused: Cell<u64>,
    pub(super) bytes: Cell<u64>,
    pub(super) context: Cell<u64>,
}

const _: () = assert!(size_of::<Chain>() == 64 && size_of::<Row>() == 16, "as drawn above");

impl Chain {
    pub(super) const fn vacant() -> Self {
        Self {
            state: Cell::new(Generation::FIRST.as_raw()),
            count: Cell::new(0),
            marks: Cell::new(0),
            listed: Cell::new(true),
            ops_due: Cell::new(0),
            notices_due: Cell::new(0),
            announced: Cell::new(0),
            broken: Cell::new(0),
            caused: Cell::new(0),
            bytes: Cell::new(0),
            context: Cell::new(0),
        }
    }

    /// Begins anew with `count` entries. Returns which use of the slot this is.
    #[inline]
    pub(super) fn begin(&self, context: u64, count: u16) -> Generation {
        let unused = widen(ENTRIES_MAX).wrapping_sub(widen(count));
        // Read before, as a word that was written in part is slow to read.
        let generation = self.generation();
        self.state.set(self.state.get() | LIVE);
        self.count.set(count);
        self.marks.set(0);
        self.ops_due.set(u64::MAX.wrapping_shr(unused));
        self.notices_due.set(0);
        self.announced.set(0);
        self.broken.set(0);
        self.caused.set(0);
        self.bytes.set(0);
        self.context.set(context);
        generation
    }

    /// Which use of the slot this is, or will be.
    #[inline]
    pub(super) const fn generation(&self) -> Generation {
        match Generation::from_raw(self.state.get()) {
            Some(generation) => generation,
            // The state word never has a generation of zero.
            None => Generation::FIRST,
        }
    }

    #[inline]
    pub(super) const fn is_live(&self) -> bool {
        self.state.get() & LIVE != 0
    }

    /// Whether it is of one entry, of whose operation nothing was heard and nothing is known but that it was submitted.
    #[inline(always)]
    pub(super) const fn is_lone(&self) -> bool {
        self.count.get() == 1 && self.ops_due.get() == 1 && self.marks.get() == 0
    }

    pub(super) fn mark(&self, mark: u8) {
        self.marks.set(self.marks.get() | mark);
    }

    /// Takes the result of an operation that was due.
    #[inline(always)]
    pub(super) fn operation(&self, bit: u64, row: &Row, res: i32) {
        row.res.set(res);
        let bytes = match judge(row.wanted.get(), res) {
            Verdict::Whole(bytes) => bytes,
            Verdict::Broken(why) => self.break_at(bit, row, why),
        };
        self.bytes.set(self.bytes.get().wrapping_add(u64::from(bytes)));
    }

    /// Notes that a notification will come for an entry.
    #[inline(always)]
    pub(super) fn announce(&self, bit: u64) {
        self.notices_due.set(self.notices_due.get() | bit);
        self.announced.set(self.announced.get() | bit);
    }

    /// Notes that an entry is not whole. Returns the bytes to count.
    #[cold]
    fn break_at(&self, bit: u64, row: &Row, why: Why) -> u32 {
        self.broken.set(self.broken.get() | bit);
        if why != (Why::Errno(ECANCELED)) {
            self.caused.set(self.caused.get() | bit);
        }
        match why {
            Why::Errno(_) => 0,
            Why::Short { bytes } => bytes,
            Why::Overrun { .. } => {
                self.mark(OVERRUN);
                row.wanted.get()
            }
        }
    }

    #[inline(always)]
    pub(super) const fn is_complete(&self) -> bool {
        self.ops_due.get() | self.notices_due.get() == 0
    }

    /// Where the chain stands; `rows` are those of its entries.
    #[inline(always)]
    pub(super) fn event(&self, rows: &[Row]) -> ChainEvent {
        if self.is_complete() {
            ChainEvent::Complete { bytes: self.bytes.get(), result: self.result(rows) }
        } else if self.ops_due.get() == 0 {
            ChainEvent::AllOpsComplete
        } else {
            ChainEvent::Pending
        }
    }

    /// Whether every entry that has a result is whole, or what broke the chain: its first entry that did not merely follow.
    #[inline(always)]
    pub(super) fn result(&self, rows: &[Row]) -> Result<(), Cause> {
        if self.broken.get() == 0 { Ok(()) } else { self.cause(rows).map_or(Ok(()), Err) }
    }

    #[cold]
    fn cause(&self, rows: &[Row]) -> Option<Cause> {
        let caused = self.caused.get();
        let entry = first(if caused == 0 { self.broken.get() } else { caused })?;
        match rows.get(usize::from(entry))?.verdict() {
            Verdict::Whole(_) => None,
            Verdict::Broken(why) => Some(Cause { entry, why }),
        }
    }

    /// From where a chain that is complete can go on.
    #[inline(always)]
    pub(super) fn remains(&self, rows: &[Row]) -> Remains {
        match first(self.broken.get()) {
            None => Remains::Nothing,
            Some(entry) => self.remains_from(entry, rows),
        }
    }

    /// The same of one whose first entry that is not whole is this.
    #[cold]
    fn remains_from(&self, entry: u16, rows: &[Row]) -> Remains {
        if self.marks.get() & OVERRUN != 0 {
            return Remains::Unknown;
        }
        let byte = match rows.get(usize::from(entry)).map(Row::verdict) {
            Some(Verdict::Broken(Why::Short { bytes })) => bytes,
            _ => 0,
        };
        let mut beyond = 0;
        for (at, row) in (0..self.count.get()).zip(rows).skip(usize::from(entry).wrapping_add(1)) {
            let has_run = match row.verdict() {
                Verdict::Whole(bytes) => bytes > 0 || row.wanted.get() == NO_BYTES,
                Verdict::Broken(Why::Short { bytes } | Why::Overrun { bytes }) => bytes > 0,
                Verdict::Broken(Why::Errno(_)) => false,
            };
            if has_run {
                beyond |= bit(at);
            }
        }
        match EntrySet::from_bits(beyond) {
            EntrySet::EMPTY => Remains::From { entry, byte },
            beyond => Remains::Hole { entry, byte, beyond },
        }
    }

    /// Why a CQE for an entry of this chain, of an operation or of a notification that is not due, is refused.
    #[cold]
    pub(super) const fn fault(&self, entry: u16, is_notice: bool) -> ChainFault {
        let bit = bit(entry);
        if entry >= self.count.get() {
            ChainFault::NoEntry
        } else if !is_notice {
            ChainFault::Duplicate
        } else if self.ops_due.get() & bit != 0 {
            ChainFault::EarlyNotification
        } else if self.announced.get() & bit == 0 {
            ChainFault::Unannounced
        } else if self.notices_due.get() & bit == 0 {
            ChainFault::Underflow
        } else {
            ChainFault::Endless
        }
    }
}
