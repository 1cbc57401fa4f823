//! A receive queue that queue pairs share: WQEs in a linked list, used and given back in any order.
//!
//! ```text
//!   WQE    | next | data data END .. |            the device goes from each to the one that its head names
//!   list   used -> used -> head -> free -> free -> tail
//!                          ^ posted next            ^ one that comes back is linked behind it
//! ```
//!
//! The tail is never posted: the link in its head is not known yet. So one WQE fewer can be under way than there are. The free ones are
//! used in the order in which they came back, by the tracker as by the device (rdma-core: providers/mlx5/srq.c).
//!
//! Invariant: the tracker's order of free slots and the links in memory are the same list.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::endian::{Be16, Be32};
use spinwire_layouts::mlx5::{DataSeg, SrqNextSeg, words};

use super::BadQueue;
use super::borrow::{BorrowFlag, Builds};
use super::receive::{RecvConfig, RecvMemory, put_list, wide};
use super::ring::{Run, Sink};
use super::segment::{List, Nothing, Part, Then, data};
use crate::error::{Misuse, PostError, Retry};
use crate::raw::line::Line;
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::place::Bump;
use crate::raw::region::LocalSge;
use crate::tracker::{Stale, Unordered};

/// Words of the head of a WQE.
const HEAD_WORDS: usize = 2;

/// A shared receive queue. One thread.
pub struct SharedRecvQueue<'m, E: Copy, B> {
    ring: &'m [Line],
    tracker: Unordered<'m, E>,
    record: DoorbellRecord<'m>,
    bus: B,
    stride_words: usize,
    sge_max: u32,
    tail: Cell<u16>,
    /// WQEs that were ever staged, and those of them that were published.
    counter: Cell<u16>,
    published: Cell<u16>,
    flag: BorrowFlag,
}

impl<'m, E: Copy, B: Bus> SharedRecvQueue<'m, E, B> {
    /// Places the tracker of an empty queue, and links its WQEs.
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
        let stride_words = config.stride_words(1, ring)?;
        let queue = Self {
            ring,
            tracker: Unordered::place(bump, config.wqes)?,
            record,
            bus,
            stride_words,
            sge_max: u32::from(config.sge_max),
            tail: Cell::new(config.wqes.wrapping_sub(1)),
            counter: Cell::new(0),
            published: Cell::new(0),
            flag: BorrowFlag::new(Builds::Receives),
        };
        for slot in 0..queue.tail.get() {
            queue.link(slot, slot.wrapping_add(1));
        }
        Ok(queue)
    }

    /// The tracker: what is under way.
    #[must_use]
    #[inline(always)]
    pub const fn tracker(&self) -> &Unordered<'m, E> {
        &self.tracker
    }

    /// WQEs that can be staged now.
    #[must_use]
    #[inline]
    pub const fn room(&self) -> u16 {
        self.tracker.free().saturating_sub(1)
    }

    /// WQEs that no doorbell has published.
    #[must_use]
    #[inline]
    pub const fn staged(&self) -> u16 {
        self.counter.get().wrapping_sub(self.published.get())
    }

    /// Builds a WQE in a closure, which cannot take the builder out.
    ///
    /// # Errors
    /// Those of the closure; [`Retry::WouldBlock`] where another builder of this queue exists.
    #[inline(always)]
    pub fn with_srq_wqe<R, X: From<PostError>>(
        &self,
        build: impl for<'a> FnOnce(SrqWqe<'a, 'm, E, B>) -> Result<R, X>,
    ) -> Result<R, X> {
        let _guard = self.flag.try_borrow(Builds::Receives)?;
        build(SrqWqe { queue: self, parts: Nothing })
    }

    /// The WQE that a completion names has ended, well or not: its entry, and its place is free. `wqe_counter` is the
    /// number in the completion, which is its place in the ring.
    ///
    /// # Errors
    /// [`Stale`]; nothing was changed.
    #[inline]
    pub fn complete(&self, wqe_counter: u16) -> Result<E, Stale> {
        let entry = self.tracker.complete(wqe_counter)?;
        self.link(self.tail.replace(wqe_counter), wqe_counter);
        Ok(entry)
    }

    /// Ends what is under way in the lowest place, after a fatal error; see [`Unordered::flush`].
    pub fn flush(&self, from: &mut u16) -> Option<(u16, E)> {
        self.published.set(self.counter.get());
        let (slot, entry) = self.tracker.flush(from)?;
        self.link(self.tail.replace(slot), slot);
        Some((slot, entry))
    }

    fn link(&self, from: u16, to: u16) {
        let head = SrqNextSeg { next_wqe_index: Be16::new(to), ..SrqNextSeg::ZERO };
        let mut at = Run::from_word(self.ring, wide(from).wrapping_mul(self.stride_words));
        for word in words::<_, HEAD_WORDS>(&head) {
            at.put(word);
        }
    }

    #[inline(always)]
    fn stage<P: Part>(&self, parts: &P, entry: E) -> Result<(), PostError> {
        if parts.units() > self.sge_max {
            return Err(Misuse::WqeTooLong.into());
        }
        if self.room() == 0 {
            return Err(Retry::RqFull.into());
        }
        let slot = self.tracker.acquire(entry)?.slot();
        let first = wide(slot).wrapping_mul(self.stride_words).wrapping_add(HEAD_WORDS);
        put_list(parts, self.sge_max, &mut Run::from_word(self.ring, first));
        self.counter.set(self.counter.get().wrapping_add(1));
        Ok(())
    }

    /// Publishes all that is staged, and returns how many WQEs that were.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        let staged = self.staged();
        if staged > 0 {
            let counter = self.counter.get();
            self.published.set(counter);
            self.bus.to_device();
            self.bus.store_record(self.record.receive(), Be32::new(u32::from(counter)));
        }
        staged
    }
}

impl<E: Copy, B> fmt::Debug for SharedRecvQueue<'_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRecvQueue").field("tracker", &self.tracker).finish_non_exhaustive()
    }
}

/// A receive WQE of a shared queue under construction.
#[must_use = "a WQE that is not finished is not staged"]
pub struct SrqWqe<'a, 'm, E: Copy, B, P = Nothing> {
    queue: &'a SharedRecvQueue<'m, E, B>,
    parts: P,
}

impl<'a, 'm, E: Copy, B: Bus, P: Part> SrqWqe<'a, 'm, E, B, P> {
    /// A range of memory.
    #[inline(always)]
    pub const fn sge(self, sge: LocalSge) -> SrqWqe<'a, 'm, E, B, Then<P, DataSeg>> {
        SrqWqe { queue: self.queue, parts: Then(self.parts, data(sge)) }
    }

    /// Ranges of memory, one after the other.
    #[inline(always)]
    pub const fn sges<'d>(self, sges: &'d [LocalSge]) -> SrqWqe<'a, 'm, E, B, Then<P, List<'d>>> {
        SrqWqe { queue: self.queue, parts: Then(self.parts, List(sges)) }
    }

    /// Stages it; its completion will bring `entry`. The next doorbell publishes it.
    ///
    /// # Errors
    /// `RqFull`; [`Misuse::WqeTooLong`]. Nothing was written.
    #[inline(always)]
    pub fn finish(self, entry: E) -> Result<(), PostError> {
        self.queue.stage(&self.parts, entry)
    }
}

impl<E: Copy, B, P: fmt::Debug> fmt::Debug for SrqWqe<'_, '_, E, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SrqWqe").field("parts", &self.parts).finish_non_exhaustive()
    }
}
