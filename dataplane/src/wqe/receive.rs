//! A receive queue: WQEs of one length, each a list of ranges.
//!
//! ```text
//!   ring   | data data END .. | data END | ..       stride: 16 bytes for each segment, a power of two
//!   ring_doorbell()   to_device | record[0] = pi                 no register
//! ```
//!
//! Invariant: a list that is shorter than the stride ends with the invalid key, so that the device does not read on into what an
//! earlier WQE left there.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::endian::Be32;
use spinwire_layouts::mlx5::DataSeg;
use spinwire_layouts::word::{to_usize, widen};

use super::BadQueue;
use super::borrow::{BorrowFlag, Builds};
use super::ring::{Run, Sink};
use super::segment::{List, Nothing, Part, Then, data};
use crate::error::{Misuse, PostError, Retry};
use crate::raw::line::{LINE_BYTES, Line};
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::place::Bump;
use crate::raw::region::LocalSge;
use crate::tracker::{Completed, Failed, Flushed, Ordered, OrderedConfig, Stale};

/// What a receive queue is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvConfig {
    /// WQEs: a power of two up to 32768.
    pub wqes: u16,
    /// Segments of a WQE: a power of two up to 64. In a shared queue, whose WQEs have a head: one less than that.
    pub sge_max: u16,
}

/// Where a receive queue lies.
#[derive(Clone, Copy, Debug)]
pub struct RecvMemory<'m> {
    /// Its WQEs.
    pub ring: &'m [Line],
    /// Its doorbell record.
    pub record: DoorbellRecord<'m>,
}

/// Words of a segment.
const SEGMENT_WORDS: usize = 2;

impl RecvConfig {
    /// Words from one WQE to the next, with `head` segments in front of each; checks that all of them lie in `ring`.
    pub(super) fn stride_words(self, head: u16, ring: &[Line]) -> Result<usize, BadQueue> {
        let Self { wqes, sge_max } = self;
        let segments = sge_max.saturating_add(head);
        if sge_max == 0 || segments > 64 || !segments.is_power_of_two() {
            return Err(BadQueue::Segments { sge_max });
        }
        let words = usize::from(segments).wrapping_mul(SEGMENT_WORDS);
        let bytes = words.wrapping_mul(8).wrapping_mul(usize::from(wqes));
        if bytes > ring.len().saturating_mul(LINE_BYTES) {
            return Err(BadQueue::Ring { lines: ring.len() });
        }
        Ok(words)
    }
}

/// Puts the segments of a receive WQE, and what ends them.
#[inline(always)]
pub(super) fn put_list<P: Part>(parts: &P, sge_max: u32, to: &mut impl Sink) {
    parts.put(to);
    if parts.units() < sge_max {
        DataSeg::END.put(to);
    }
}

/// A receive queue. One thread.
pub struct RecvQueue<'m, E: Copy, B> {
    ring: &'m [Line],
    tracker: Ordered<'m, E>,
    record: DoorbellRecord<'m>,
    bus: B,
    stride_words: usize,
    sge_max: u32,
    staged: Cell<u16>,
    flag: BorrowFlag,
}

impl<'m, E: Copy, B: Bus> RecvQueue<'m, E, B> {
    /// Places the tracker of an empty queue at index 0.
    ///
    /// # Errors
    /// [`BadQueue`].
    pub fn place(
        bump: &Bump<'m>,
        config: RecvConfig,
        memory: RecvMemory<'m>,
        bus: B,
    ) -> Result<Self, BadQueue> {
        let RecvMemory { ring, record } = memory;
        let stride_words = config.stride_words(0, ring)?;
        let rows = OrderedConfig { rows: config.wqes, wqe_blocks_max: 1 };
        Ok(Self {
            ring,
            tracker: Ordered::place(bump, rows)?,
            record,
            bus,
            stride_words,
            sge_max: u32::from(config.sge_max),
            staged: Cell::new(0),
            flag: BorrowFlag::new(Builds::Receives),
        })
    }

    /// The tracker: room, indices.
    #[must_use]
    #[inline(always)]
    pub const fn tracker(&self) -> &Ordered<'m, E> {
        &self.tracker
    }

    /// The flag of its builders.
    #[must_use]
    #[inline(always)]
    pub const fn flag(&self) -> &BorrowFlag {
        &self.flag
    }

    /// WQEs that no doorbell has published.
    #[must_use]
    #[inline]
    pub const fn staged(&self) -> u16 {
        self.staged.get()
    }

    /// [`Ordered::complete`].
    ///
    /// # Errors
    /// [`Stale`].
    #[inline(always)]
    pub fn complete(&self, wqe_counter: u16) -> Result<Completed<E>, Stale> {
        self.tracker.complete(wqe_counter)
    }

    /// [`Ordered::fail`].
    ///
    /// # Errors
    /// [`Stale`].
    pub fn fail(&self, wqe_counter: u16) -> Result<Failed<E>, Stale> {
        self.tracker.fail(wqe_counter)
    }

    /// [`Ordered::flush`]. What was staged and not published is ended, too.
    pub fn flush(&self) -> Option<Flushed<E>> {
        self.staged.set(0);
        self.tracker.flush()
    }

    /// Begins anew at index 0, after the queue pair went through the reset state and all was flushed.
    ///
    /// # Errors
    /// [`Retry::RqFull`] where something is still under way, [`Retry::WouldBlock`] where somebody builds.
    pub fn restart(&self) -> Result<(), Retry> {
        let _guard = self.flag.try_borrow_any()?;
        self.tracker.restart().map_err(|_busy| Retry::RqFull)?;
        self.staged.set(0);
        self.bus.store_record(self.record.receive(), Be32::new(0));
        Ok(())
    }

    #[inline(always)]
    fn stage<P: Part>(&self, parts: &P, entry: E) -> Result<(), PostError> {
        if parts.units() > self.sge_max {
            return Err(Misuse::WqeTooLong.into());
        }
        let index =
            usize::from(self.tracker.pi()) & usize::from(self.tracker.size().wrapping_sub(1));
        self.tracker.post(1, Some(entry)).map_err(receive_full)?;
        let mut to = Run::from_word(self.ring, index.wrapping_mul(self.stride_words));
        put_list(parts, self.sge_max, &mut to);
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }

    /// Publishes all that is staged, and returns how many WQEs that were.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        let staged = self.staged.replace(0);
        if staged > 0 {
            self.bus.to_device();
            self.bus.store_record(self.record.receive(), Be32::new(u32::from(self.tracker.pi())));
        }
        staged
    }
}

/// A tracker knows send queues only.
#[inline(always)]
fn receive_full(error: PostError) -> PostError {
    if error == PostError::Retry(Retry::SqFull) { Retry::RqFull.into() } else { error }
}

impl<E: Copy, B> fmt::Debug for RecvQueue<'_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvQueue")
            .field("tracker", &self.tracker)
            .field("staged", &self.staged.get())
            .finish_non_exhaustive()
    }
}

/// A receive WQE under construction. Without a range it takes messages of no bytes, and writes with immediate data.
#[must_use = "a WQE that is not finished is not staged"]
pub struct RqWqe<'a, 'm, E: Copy, B, P = Nothing> {
    queue: &'a RecvQueue<'m, E, B>,
    parts: P,
}

impl<'a, 'm, E: Copy, B: Bus> RqWqe<'a, 'm, E, B> {
    #[inline(always)]
    pub(crate) const fn new(queue: &'a RecvQueue<'m, E, B>) -> Self {
        Self { queue, parts: Nothing }
    }
}

impl<'a, 'm, E: Copy, B: Bus, P: Part> RqWqe<'a, 'm, E, B, P> {
    /// A range of memory.
    #[inline(always)]
    pub const fn sge(self, sge: LocalSge) -> RqWqe<'a, 'm, E, B, Then<P, DataSeg>> {
        RqWqe { queue: self.queue, parts: Then(self.parts, data(sge)) }
    }

    /// Ranges of memory, one after the other.
    #[inline(always)]
    pub const fn sges<'d>(self, sges: &'d [LocalSge]) -> RqWqe<'a, 'm, E, B, Then<P, List<'d>>> {
        RqWqe { queue: self.queue, parts: Then(self.parts, List(sges)) }
    }

    /// Stages it; its completion will bring `entry`. The next doorbell publishes it.
    ///
    /// # Errors
    /// `RqFull`; [`Misuse::WqeTooLong`]; `QueueError` where the queue has failed. Nothing was written.
    #[inline(always)]
    pub fn finish(self, entry: E) -> Result<(), PostError> {
        self.queue.stage(&self.parts, entry)
    }
}

impl<E: Copy, B, P: fmt::Debug> fmt::Debug for RqWqe<'_, '_, E, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RqWqe").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// The index of a count, where both are small.
#[inline(always)]
pub(super) const fn wide(count: u16) -> usize {
    let [a, b] = count.to_le_bytes();
    to_usize(widen(u32::from_le_bytes([a, b, 0, 0])))
}
