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

use spinwire_layouts::endian::Be16;
use spinwire_layouts::mlx5::{SrqNextSeg, words};

use super::BadQueue;
use super::borrow::Builds;
use super::receive::{RecvConfig, RecvMemory};
use super::receive_ring::{ReceiveRing, RecvWqe, TakesReceives};
use super::ring::Sink;
use super::segment::{Nothing, Part};
use crate::error::{Fatal, PostError, Retry};
use crate::raw::mmio::Bus;
use crate::raw::place::Bump;
use crate::tracker::{Stale, Unordered};

/// Words of the head of a WQE.
const HEAD_WORDS: usize = 2;

/// A shared receive queue. One thread.
pub struct SharedRecvQueue<'m, E: Copy, B> {
    tracker: Unordered<'m, E>,
    places: ReceiveRing<'m, B>,
    tail: Cell<u16>,
    /// WQEs that were ever staged.
    counter: Cell<u16>,
    failed: Cell<bool>,
}

/// A receive WQE of a shared queue under construction.
pub type SrqWqe<'a, 'm, E, B, P = Nothing> = RecvWqe<'a, SharedRecvQueue<'m, E, B>, P>;

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
        let places = ReceiveRing::new(config, 1, memory, bus)?;
        let queue = Self {
            tracker: Unordered::place(bump, config.wqes)?,
            places,
            tail: Cell::new(config.wqes.wrapping_sub(1)),
            counter: Cell::new(0),
            failed: Cell::new(false),
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

    /// Segments of a WQE.
    #[must_use]
    #[inline]
    pub const fn sge_max(&self) -> u32 {
        self.places.sge_max()
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
        self.places.staged()
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
        let _guard = self.places.flag().try_borrow(Builds::Receives)?;
        build(SrqWqe::new(self))
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

    /// Ends what is under way in the lowest place, after a fatal error of this queue; see [`Unordered::flush`]. What was staged and not
    /// published is ended, too, and the queue takes nothing any more: the device goes on from place to place, and it is not known at
    /// which it stands. Destroy it, and open another.
    pub fn flush(&self, from: &mut u16) -> Option<(u16, E)> {
        self.failed.set(true);
        self.places.forget_staged();
        self.tracker.flush(from)
    }

    fn link(&self, from: u16, to: u16) {
        let head = SrqNextSeg { next_wqe_index: Be16::new(to), ..SrqNextSeg::ZERO };
        let mut at = self.places.place(usize::from(from));
        for word in words::<_, HEAD_WORDS>(&head) {
            at.put(word);
        }
    }

    /// Publishes all that is staged, and returns how many WQEs that were.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        self.places.ring_doorbell(self.counter.get())
    }
}

impl<E: Copy, B: Bus> TakesReceives for SharedRecvQueue<'_, E, B> {
    type Entry = E;

    #[inline(always)]
    fn stage<P: Part>(&self, parts: &P, entry: E) -> Result<(), PostError> {
        self.places.fits(parts)?;
        if self.failed.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.room() == 0 {
            return Err(Retry::RqFull.into());
        }
        let slot = self.tracker.acquire(entry)?.slot();
        self.places.put(usize::from(slot), parts);
        self.counter.set(self.counter.get().wrapping_add(1));
        Ok(())
    }
}

impl<E: Copy, B> fmt::Debug for SharedRecvQueue<'_, E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRecvQueue").field("tracker", &self.tracker).finish_non_exhaustive()
    }
}
