//! What receive queues have in common, whether one queue pair has them or several share them: places of one length, and how a list of
//! ranges gets into one of them.
//!
//! ```text
//!   place  | head | data data END .. |             head: in shared queues the link to the next place, else nothing
//!   ring_doorbell()   to_device | record[0] = counter                 no register
//! ```
//!
//! Invariants: a list that is shorter than its place ends with the invalid key, so that the device does not read on into what an earlier
//! WQE left there; what is staged is what was put since the record was stored.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::endian::Be32;
use spinwire_layouts::mlx5::DataSeg;

use super::BadQueue;
use super::borrow::{BorrowFlag, Builds};
use super::receive::{RecvConfig, RecvMemory};
use super::ring::Run;
use super::segment::{List, Nothing, Part, Then, data};
use crate::error::{Misuse, PostError};
use crate::raw::line::{LINE_BYTES, Line};
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::region::LocalSge;

/// Words of a segment.
const SEGMENT_WORDS: usize = 2;

/// The places of a receive queue.
pub(super) struct ReceiveRing<'m, B> {
    ring: &'m [Line],
    record: DoorbellRecord<'m>,
    bus: B,
    stride_words: usize,
    head_words: usize,
    sge_max: u32,
    staged: Cell<u16>,
    flag: BorrowFlag,
}

impl<'m, B: Bus> ReceiveRing<'m, B> {
    /// Places with `head` segments in front of each list.
    pub(super) fn new(
        config: RecvConfig,
        head: u16,
        memory: RecvMemory<'m>,
        bus: B,
    ) -> Result<Self, BadQueue> {
        let RecvMemory { ring, record } = memory;
        let RecvConfig { wqes, sge_max } = config;
        let segments = sge_max.saturating_add(head);
        if sge_max == 0 || segments > 64 || !segments.is_power_of_two() {
            return Err(BadQueue::Segments { sge_max });
        }
        let stride_words = usize::from(segments).wrapping_mul(SEGMENT_WORDS);
        let bytes = stride_words.wrapping_mul(8).wrapping_mul(usize::from(wqes));
        if bytes > ring.len().saturating_mul(LINE_BYTES) {
            return Err(BadQueue::Ring { lines: ring.len() });
        }
        Ok(Self {
            ring,
            record,
            bus,
            stride_words,
            head_words: usize::from(head).wrapping_mul(SEGMENT_WORDS),
            sge_max: u32::from(sge_max),
            staged: Cell::new(0),
            flag: BorrowFlag::new(Builds::Receives),
        })
    }

    #[inline(always)]
    pub(super) const fn flag(&self) -> &BorrowFlag {
        &self.flag
    }

    #[inline(always)]
    pub(super) const fn sge_max(&self) -> u32 {
        self.sge_max
    }

    #[inline(always)]
    pub(super) const fn staged(&self) -> u16 {
        self.staged.get()
    }

    /// Whether a place has room for the list.
    #[inline(always)]
    pub(super) fn fits(&self, parts: &impl Part) -> Result<(), PostError> {
        if parts.units() > self.sge_max { Err(Misuse::WqeTooLong.into()) } else { Ok(()) }
    }

    /// Where the words of that place begin.
    #[inline(always)]
    pub(super) const fn place(&self, place: usize) -> Run<'m> {
        Run::from_word(self.ring, place.wrapping_mul(self.stride_words))
    }

    /// Puts the list into that place, and what ends it.
    #[inline(always)]
    pub(super) fn put(&self, place: usize, parts: &impl Part) {
        let first = place.wrapping_mul(self.stride_words).wrapping_add(self.head_words);
        let mut to = Run::from_word(self.ring, first);
        parts.put(&mut to);
        if parts.units() < self.sge_max {
            DataSeg::END.put(&mut to);
        }
        self.staged.set(self.staged.get().wrapping_add(1));
    }

    /// Publishes all that is staged: `counter` WQEs were put, ever. How many of them that were.
    #[inline(always)]
    pub(super) fn ring_doorbell(&self, counter: u16) -> u16 {
        let staged = self.staged.replace(0);
        if staged > 0 {
            self.bus.to_device();
            self.bus.store_record(self.record.receive(), Be32::new(u32::from(counter)));
        }
        staged
    }

    /// What is staged will not be published.
    pub(super) fn forget_staged(&self) {
        self.staged.set(0);
    }

    /// The device begins anew.
    pub(super) fn restart(&self) {
        self.staged.set(0);
        self.bus.store_record(self.record.receive(), Be32::new(0));
    }
}

impl<B> fmt::Debug for ReceiveRing<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveRing").field("staged", &self.staged.get()).finish_non_exhaustive()
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "it is what seals the others")]
    pub trait Sealed {}
    impl<E: Copy, B> Sealed for crate::wqe::RecvQueue<'_, E, B> {}
    impl<E: Copy, B> Sealed for crate::wqe::SharedRecvQueue<'_, E, B> {}
}

/// A queue that takes receives.
pub trait TakesReceives: sealed::Sealed {
    /// What is posted with each.
    type Entry: Copy;

    /// Stages one.
    ///
    /// # Errors
    /// As [`RecvWqe::finish`].
    fn stage<P: Part>(&self, parts: &P, entry: Self::Entry) -> Result<(), PostError>;
}

/// A receive WQE under construction. Without a range it takes messages of no bytes, and writes with immediate data.
#[must_use = "a WQE that is not finished is not staged"]
pub struct RecvWqe<'a, Q, P = Nothing> {
    queue: &'a Q,
    parts: P,
}

impl<'a, Q: TakesReceives> RecvWqe<'a, Q> {
    #[inline(always)]
    pub(crate) const fn new(queue: &'a Q) -> Self {
        Self { queue, parts: Nothing }
    }
}

impl<'a, Q: TakesReceives, P: Part> RecvWqe<'a, Q, P> {
    /// A range of memory.
    #[inline(always)]
    pub const fn sge(self, sge: LocalSge) -> RecvWqe<'a, Q, Then<P, DataSeg>> {
        RecvWqe { queue: self.queue, parts: Then(self.parts, data(sge)) }
    }

    /// Ranges of memory, one after the other.
    #[inline(always)]
    pub const fn sges<'d>(self, sges: &'d [LocalSge]) -> RecvWqe<'a, Q, Then<P, List<'d>>> {
        RecvWqe { queue: self.queue, parts: Then(self.parts, List(sges)) }
    }

    /// Stages it; its completion will bring `entry`. The next doorbell publishes it.
    ///
    /// # Errors
    /// `RqFull`; [`Misuse::WqeTooLong`]; `QueueError` where the queue has failed. Nothing was written.
    #[inline(always)]
    pub fn finish(self, entry: Q::Entry) -> Result<(), PostError> {
        self.queue.stage(&self.parts, entry)
    }
}

impl<Q, P: fmt::Debug> fmt::Debug for RecvWqe<'_, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvWqe").field("parts", &self.parts).finish_non_exhaustive()
    }
}
