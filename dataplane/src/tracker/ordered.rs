//! The tracker of a queue whose completions come in the order of its work requests.
//!
//! ```text
//!   row         blocks   entry     before                       next
//!   ci      ->  1        none                                            unsignaled
//!               1        none                                            unsignaled
//!   due     ->  3        Some(e)   2 unsignaled since the last  ---+     signaled
//!               (inner)                                            |
//!               (inner)                                            |
//!   last    ->  1        Some(f)   0                            <--+     signaled; next: nothing
//!   trailing    2        none                                            unsignaled, 1 WQE, 2 blocks
//!   pi      ->
//! ```
//!
//! As completions come in order, the next one can only be the one that is `due`: one comparison tells whether a number from the
//! device is the right one, and the row of a number that is not is never looked at. Errors may name any work request; they walk
//! the rows from `ci`, which is bounded by their number.
//!
//! Invariants: `pi - ci <= rows`; `signaled` rows are linked from `due` to `last`; nothing is due where there is none, or the queue has failed; `trailing` is what was posted
//! after `last`, and with the longest work request and its fill it fits into the ring (a queue that has failed does not count
//! it any more: nothing is posted to it).

use core::cell::Cell;

use super::{Completed, Earlier, Failed, FailedBy, Flushed, PlaceError, Posted, ROWS_MAX, Stale};
use crate::error::{Fatal, PostError, Retry};
use crate::raw::place::Bump;

/// What an [`Ordered`] is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrderedConfig {
    /// Basic blocks of the ring: a power of two up to [`ROWS_MAX`].
    pub rows: u16,
    /// Basic blocks of the longest work request; at most half of the ring, rounded up.
    pub wqe_blocks_max: u16,
}

struct Row<E> {
    /// Of a signaled work request.
    entry: Cell<Option<E>>,
    /// Of the work request that starts here.
    extent: Cell<Extent>,
    /// Where the signaled one after this signaled one starts, or [`NOTHING`].
    next: Cell<u32>,
}

/// No index.
const NOTHING: u32 = u32::MAX;

/// How long a work request is, and what is before it.
#[derive(Clone, Copy)]
struct Extent {
    blocks: u16,
    /// Unsignaled ones between the signaled one before and this signaled one; or [`FILL`].
    before: u16,
}

/// In the place of a count: this is fill, and no work request.
const FILL: u16 = u16::MAX;

impl Extent {
    const fn is_fill(self) -> bool {
        self.before == FILL
    }
}

/// The tracker of a send or receive queue. A row a basic block; one thread.
///
/// ```
/// use core::mem::MaybeUninit;
/// use spinwire_dataplane::raw::place::Bump;
/// use spinwire_dataplane::tracker::{Ordered, OrderedConfig, Stale};
///
/// let mut block = [const { MaybeUninit::uninit() }; 1024];
/// let config = OrderedConfig { rows: 8, wqe_blocks_max: 2 };
/// let sent = Ordered::place(&Bump::new(&mut block), config)?;
/// sent.post(1, None)?; // index 0, unsignaled
/// sent.post(2, Some("b"))?; // index 1, signaled
///
/// let done = sent.complete(1)?;
/// assert_eq!((done.entry, done.unsignaled, done.blocks), ("b", 1, 3));
/// assert_eq!(sent.complete(1), Err(Stale::NotPosted));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Ordered<'m, E: Copy> {
    rows: &'m [Row<E>],
    pi: Cell<u16>,
    ci: Cell<u16>,
    signaled: Cell<u16>,
    /// Whose completion must come next, or [`NOTHING`].
    due: Cell<u32>,
    last: Cell<u16>,
    /// What was posted after `last` begins here.
    trailing: Cell<u16>,
    /// In the high half how many unsignaled ones there are behind `last`. In the low half so many blocks can be posted unsignaled, at
    /// least: where it is too few, they are counted; 0 where the queue has failed.
    unsignaled: Cell<u32>,
    wqe_blocks_max: u16,
    /// Whether a work request that would pass the end of the ring has fill before it.
    has_fill: bool,
    failed: Cell<bool>,
}

impl<'m, E: Copy> Ordered<'m, E> {
    /// Places the rows.
    ///
    /// # Errors
    /// The sizes cannot be, or the arena has too little room left.
    pub fn place(bump: &Bump<'m>, config: OrderedConfig) -> Result<Self, PlaceError> {
        let OrderedConfig { rows, wqe_blocks_max } = config;
        if !rows.is_power_of_two() || rows > ROWS_MAX {
            return Err(PlaceError::Rows { rows });
        }
        // The longest one, and in front of it, at worst, fill of one block less.
        let reserve = wqe_blocks_max.checked_mul(2).and_then(|twice| twice.checked_sub(1));
        if reserve.is_none_or(|reserve| reserve > rows) {
            return Err(PlaceError::Longest { wqe_blocks_max, rows });
        }
        let rows = bump.slice_with(usize::from(rows), |_| Row {
            entry: Cell::new(None),
            extent: Cell::new(Extent { blocks: 0, before: FILL }),
            next: Cell::new(NOTHING),
        })?;
        Ok(Self {
            rows,
            pi: Cell::new(0),
            ci: Cell::new(0),
            signaled: Cell::new(0),
            due: Cell::new(NOTHING),
            last: Cell::new(0),
            trailing: Cell::new(0),
            unsignaled: Cell::new(0),
            wqe_blocks_max,
            has_fill: true,
            failed: Cell::new(false),
        })
    }

    /// For a queue whose work requests go on at the start of the ring: no room is kept for fill.
    #[must_use]
    pub const fn without_fill(self) -> Self {
        Self { has_fill: false, ..self }
    }

    /// Bytes of an arena that the rows take, but for alignment.
    #[must_use]
    pub const fn bytes(rows: u16) -> usize {
        size_of::<Row<E>>().saturating_mul(spinwire_layouts::word::to_usize(
            spinwire_layouts::word::widen(rows_u32(rows)),
        ))
    }

    /// Basic blocks of the ring.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> u16 {
        let [a, b, ..] = self.rows.len().to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// Index of the first free basic block, where the next work request starts.
    #[inline]
    #[must_use]
    pub const fn pi(&self) -> u16 {
        self.pi.get()
    }

    /// Index of the oldest basic block that is in use.
    #[inline]
    #[must_use]
    pub const fn ci(&self) -> u16 {
        self.ci.get()
    }

    /// Basic blocks that are not in use.
    #[inline]
    #[must_use]
    pub const fn free(&self) -> u16 {
        self.size().wrapping_sub(self.in_use())
    }

    /// Whether nothing is under way.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.in_use() == 0
    }

    /// Whether an error has ended this queue: nothing more can be posted, and what is under way is flushed.
    #[inline]
    #[must_use]
    pub const fn is_failed(&self) -> bool {
        self.failed.get()
    }

    /// Work requests under way that asked for a completion.
    #[inline]
    #[must_use]
    pub const fn signaled(&self) -> u16 {
        self.signaled.get()
    }

    /// How many basic blocks may still be posted unsignaled before one must be signaled, room left aside.
    #[inline]
    #[must_use]
    pub const fn unsignaled_left(&self) -> u16 {
        self.trailing_blocks_max().saturating_sub(self.trailing_blocks())
    }

    /// How many blocks the unsignaled ones behind the last signaled one may have, so that the longest signaled one fits behind them,
    /// with the fill before it. Where they begin so close behind the start of the ring that it would not fit before them, they have
    /// to end where it fits without fill. Where there is none, it always fits.
    #[inline]
    const fn trailing_blocks_max(&self) -> u16 {
        let most = self.size().wrapping_sub(self.wqe_blocks_max);
        let start = self.trailing.get() & self.size().wrapping_sub(1);
        if !self.has_fill || start >= self.wqe_blocks_max {
            most
        } else {
            most.saturating_sub(start)
        }
    }

    /// Basic blocks of what was posted after the last signaled one.
    #[inline(always)]
    const fn trailing_blocks(&self) -> u16 {
        self.pi.get().wrapping_sub(self.trailing.get())
    }

    /// Whether `blocks`, fill included, can be posted as a signaled work request now. Changes nothing.
    ///
    /// # Errors
    /// As [`Ordered::post`].
    #[inline(always)]
    pub const fn room_signaled(&self, blocks: u16) -> Result<(), PostError> {
        if self.failed.get() {
            return Err(PostError::Fatal(Fatal::QueueError));
        }
        if blocks > self.free() {
            return Err(PostError::Retry(Retry::SqFull));
        }
        Ok(())
    }

    /// Whether `blocks`, fill included, can be posted as an unsignaled work request now. Changes nothing.
    ///
    /// # Errors
    /// As [`Ordered::post`].
    #[inline(always)]
    pub const fn room_unsignaled(&self, blocks: u16) -> Result<(), PostError> {
        if blocks > self.unsignaled_left() {
            // A queue that has failed says so, whatever else it lacks.
            return match self.room_signaled(blocks) {
                Ok(()) => Err(PostError::Retry(Retry::SqFull)),
                refused => refused,
            };
        }
        self.room_signaled(blocks)
    }

    /// Notes the work request that starts at [`Ordered::pi`] and takes `blocks` basic blocks; `entry` is `None` where it
    /// asks for no completion.
    ///
    /// # Errors
    /// [`Retry::SqFull`] where so many blocks are not free, or where it is unsignaled and would leave too little room
    /// for a signaled one after it. [`Fatal::QueueError`] where the queue has failed. Nothing was changed.
    #[inline(always)]
    pub fn post(&self, blocks: u16, entry: Option<E>) -> Result<(), PostError> {
        let start = self.pi.get();
        self.post_at((start, self.place_of(start)), blocks, entry)
    }

    /// As [`Ordered::post`], for a caller who has looked at [`Ordered::pi`], and worked out where in the ring that is.
    #[inline(always)]
    pub(crate) fn post_at(
        &self,
        (at, place): (u16, usize),
        blocks: u16,
        entry: Option<E>,
    ) -> Result<(), PostError> {
        debug_assert_eq!((at, place), (self.pi.get(), self.place_of(at)), "as many blocks");
        let blocks = blocks.max(1);
        match entry {
            Some(_) => self.room_signaled(blocks)?,
            None if blocks > halves(self.unsignaled.get()).1 => {
                self.count_unsignaled_room(blocks)?
            }
            None => {}
        }
        let Some(row) = self.rows.get(place) else {
            return Err(PostError::Retry(Retry::SqFull));
        };
        row.entry.set(entry);
        let after = at.wrapping_add(blocks);
        self.pi.set(after);
        if entry.is_none() {
            row.extent.set(Extent { blocks, before: 0 });
            // Both halves at once: there was that much room.
            let change = join(1, 0).wrapping_sub(u32::from(blocks));
            self.unsignaled.set(self.unsignaled.get().wrapping_add(change));
            return Ok(());
        }
        let (before, _room) = halves(self.unsignaled.replace(0));
        row.extent.set(Extent { blocks, before });
        self.trailing.set(after);
        row.next.set(NOTHING);
        if self.due.get() == NOTHING {
            self.due.set(u32::from(at));
        } else if let Some(last) = self.row(self.last.get()) {
            last.next.set(u32::from(at));
        }
        self.last.set(at);
        self.signaled.set(self.signaled.get().wrapping_add(1));
        Ok(())
    }

    /// There seems to be too little room for an unsignaled one. It has grown since, or this says why there is none.
    #[cold]
    #[inline(never)]
    fn count_unsignaled_room(&self, blocks: u16) -> Result<(), PostError> {
        self.room_unsignaled(blocks)?;
        self.set_unsignaled_room(self.free().min(self.unsignaled_left()));
        Ok(())
    }

    fn set_unsignaled_room(&self, blocks: u16) {
        self.unsignaled.set(join(halves(self.unsignaled.get()).0, blocks));
    }

    /// Notes fill: a NOP of `blocks` basic blocks at [`Ordered::pi`] that nobody asked for. Whoever posts it has asked for
    /// room for it and for the work request behind it together.
    ///
    /// # Errors
    /// As [`Ordered::post`] of a signaled one, and [`Retry::SqFull`] where it would leave too little room for the longest
    /// signaled one after what fills and is unsignaled.
    #[inline]
    pub fn fill(&self, blocks: u16) -> Result<(), PostError> {
        let blocks = blocks.max(1);
        self.room_signaled(blocks)?;
        if self.trailing_blocks().wrapping_add(blocks)
            > self.size().wrapping_sub(self.wqe_blocks_max)
        {
            return Err(PostError::Retry(Retry::SqFull));
        }
        let at = self.pi.get();
        let Some(row) = self.row(at) else {
            return Err(PostError::Retry(Retry::SqFull));
        };
        row.extent.set(Extent { blocks, before: FILL });
        row.entry.set(None);
        self.pi.set(at.wrapping_add(blocks));
        self.set_unsignaled_room(0);
        Ok(())
    }

    /// A success for the work request that starts at `wqe_counter`: it and everything before it is retired.
    ///
    /// # Errors
    /// [`Stale`] where it is not the oldest signaled one under way, or where the queue has failed. Nothing was changed.
    #[inline(always)]
    pub fn complete(&self, wqe_counter: u16) -> Result<Completed<E>, Stale> {
        if u32::from(wqe_counter) != self.due.get() {
            return Err(self.why_not(wqe_counter));
        }
        let Some(row) = self.row(wqe_counter) else {
            return Err(Stale::NotPosted);
        };
        // It stays in the row, which is behind `ci` from here on, until the row is posted again.
        let Some(entry) = row.entry.get() else {
            return Err(Stale::Unsignaled);
        };
        let extent = row.extent.get();
        let after = wqe_counter.wrapping_add(extent.blocks);
        let blocks = after.wrapping_sub(self.ci.get());
        self.ci.set(after);
        self.due.set(row.next.get());
        self.signaled.set(self.signaled.get().wrapping_sub(1));
        Ok(Completed { entry, unsignaled: extent.before, blocks })
    }

    /// An error for the work request that starts at `wqe_counter`, signaled or not: it and everything before it is retired,
    /// and the queue has failed. `by` says what the error says: whether this one failed, or was flushed. The device goes on with errors for the rest, which is given to this call too, or
    /// [`Ordered::flush`] ends it here.
    ///
    /// # Errors
    /// [`Stale`] where no work request that is under way starts there, or a signaled one is before it. Nothing was changed.
    #[cold]
    #[inline(never)]
    pub fn fail(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<E>, Stale> {
        let (row, earlier) = self.find(wqe_counter)?;
        let wqe = match row.entry.take() {
            Some(entry) => Posted::Signaled(entry),
            None if row.extent.get().is_fill() => Posted::Fill,
            None => Posted::Unsignaled,
        };
        let after = wqe_counter.wrapping_add(row.extent.get().blocks);
        let blocks = after.wrapping_sub(self.ci.get());
        self.ci.set(after);
        self.due.set(NOTHING);
        if matches!(wqe, Posted::Signaled(_)) {
            self.signaled.set(self.signaled.get().wrapping_sub(1));
        }
        self.set_unsignaled_room(0);
        let earlier = if self.failed.replace(true) || by == FailedBy::Flush {
            Earlier::Flushed(earlier)
        } else {
            Earlier::Done(earlier)
        };
        Ok(Failed { wqe, earlier, blocks })
    }

    /// Ends the oldest work request that is under way, signaled or not, after a fatal error of the queue; the queue has
    /// failed from then on. `None` where nothing is left.
    #[cold]
    pub fn flush(&self) -> Option<Flushed<E>> {
        self.flush_before(self.pi.get())
    }

    /// As [`Ordered::flush`], of those that begin before the index `end`, which [`Ordered::reach`] has said. `None` where none is left.
    #[cold]
    #[inline(never)]
    pub fn flush_before(&self, end: u16) -> Option<Flushed<E>> {
        self.failed.set(true);
        self.due.set(NOTHING);
        self.set_unsignaled_room(0);
        if end.wrapping_sub(self.ci.get()) > self.in_use() {
            return None;
        }
        for _ in 0..self.rows.len() {
            let at = self.ci.get();
            if at == end || self.is_empty() {
                break;
            }
            let row = self.row(at)?;
            self.ci.set(at.wrapping_add(row.extent.get().blocks.max(1)));
            let entry = row.entry.take();
            if entry.is_some() {
                self.signaled.set(self.signaled.get().wrapping_sub(1));
            } else if row.extent.get().is_fill() {
                continue;
            }
            return Some(Flushed { index: at, entry });
        }
        None
    }

    /// Index behind the work request that starts at `wqe_counter`, which an error may name now.
    ///
    /// # Errors
    /// As [`Ordered::fail`].
    #[cold]
    pub fn reach(&self, wqe_counter: u16) -> Result<u16, Stale> {
        let (row, _earlier) = self.find(wqe_counter)?;
        Ok(wqe_counter.wrapping_add(row.extent.get().blocks))
    }

    /// Begins anew at index 0, after the queue pair went through the reset state.
    ///
    /// # Errors
    /// [`Retry::SqFull`] where something is still under way: flush it first.
    pub fn restart(&self) -> Result<(), Retry> {
        if !self.is_empty() {
            return Err(Retry::SqFull);
        }
        self.pi.set(0);
        self.ci.set(0);
        self.trailing.set(0);
        self.unsignaled.set(0);
        self.failed.set(false);
        Ok(())
    }

    #[inline(always)]
    const fn in_use(&self) -> u16 {
        self.pi.get().wrapping_sub(self.ci.get())
    }

    #[inline(always)]
    fn row(&self, index: u16) -> Option<&'m Row<E>> {
        self.rows.get(self.place_of(index))
    }

    #[inline(always)]
    const fn place_of(&self, index: u16) -> usize {
        wide(index) & self.rows.len().wrapping_sub(1)
    }

    /// The row of the work request that starts at `counter`, and how many unsignaled ones are before it.
    fn find(&self, counter: u16) -> Result<(&'m Row<E>, u16), Stale> {
        let (mut at, mut earlier) = (self.ci.get(), 0_u16);
        if counter.wrapping_sub(at) >= self.in_use() {
            return Err(Stale::NotPosted);
        }
        let mut skips = false;
        for _ in 0..self.rows.len() {
            let row = self.row(at).ok_or(Stale::NotPosted)?;
            if at == counter {
                return if skips { Err(Stale::Skips) } else { Ok((row, earlier)) };
            }
            let extent = row.extent.get();
            let blocks = extent.blocks.max(1);
            if counter.wrapping_sub(at) < blocks {
                return Err(Stale::NotAStart);
            }
            skips |= row.entry.get().is_some();
            earlier = earlier.wrapping_add(u16::from(!extent.is_fill()));
            at = at.wrapping_add(blocks);
        }
        Err(Stale::NotPosted)
    }

    #[cold]
    #[inline(never)]
    fn why_not(&self, counter: u16) -> Stale {
        match self.find(counter) {
            Err(stale) => stale,
            Ok(_) if self.failed.get() => Stale::Failed,
            Ok(_) => Stale::Unsignaled,
        }
    }
}

#[inline(always)]
const fn wide(index: u16) -> usize {
    spinwire_layouts::word::to_usize(spinwire_layouts::word::widen(rows_u32(index)))
}

/// The high and the low half.
#[inline(always)]
const fn halves(both: u32) -> (u16, u16) {
    let [a, b, c, d] = both.to_le_bytes();
    (u16::from_le_bytes([c, d]), u16::from_le_bytes([a, b]))
}

/// A number of a high and a low half.
#[inline(always)]
const fn join(high: u16, low: u16) -> u32 {
    let ([a, b], [c, d]) = (low.to_le_bytes(), high.to_le_bytes());
    u32::from_le_bytes([a, b, c, d])
}

#[inline(always)]
const fn rows_u32(rows: u16) -> u32 {
    let [a, b] = rows.to_le_bytes();
    u32::from_le_bytes([a, b, 0, 0])
}

impl<E: Copy> core::fmt::Debug for Ordered<'_, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ordered")
            .field("size", &self.size())
            .field("pi", &self.pi())
            .field("ci", &self.ci())
            .field("signaled", &self.signaled())
            .field("failed", &self.is_failed())
            .finish_non_exhaustive()
    }
}
