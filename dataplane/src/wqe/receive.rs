//! A receive queue of one queue pair: its receives complete in the order in which they were posted.
//!
//! ```text
//!   ring   | data data END .. | data END | ..       stride: 16 bytes for each segment, a power of two
//! ```

use core::fmt;

use super::BadQueue;
use super::borrow::BorrowFlag;
use super::receive_ring::{ReceiveRing, RecvWqe, TakesReceives};
use super::segment::{Nothing, Part};
use crate::error::{PostError, Retry};
use crate::raw::line::Line;
use crate::raw::mmio::{Bus, DoorbellRecord};
use crate::raw::place::Bump;
use crate::tracker::{Completed, Failed, FailedBy, Flushed, Ordered, OrderedConfig, Stale};

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

/// A receive queue. One thread.
pub struct RecvQueue<'m, E: Copy, B> {
    tracker: Ordered<'m, E>,
    places: ReceiveRing<'m, B>,
}

/// A receive WQE of it under construction.
pub type RqWqe<'a, 'm, E, B, P = Nothing> = RecvWqe<'a, RecvQueue<'m, E, B>, P>;

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
        let places = ReceiveRing::new(config, 0, memory, bus)?;
        let rows = OrderedConfig { rows: config.wqes, wqe_blocks_max: 1 };
        Ok(Self { tracker: Ordered::place(bump, rows)?, places })
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
        self.places.flag()
    }

    /// Segments of a WQE.
    #[must_use]
    #[inline]
    pub const fn sge_max(&self) -> u32 {
        self.places.sge_max()
    }

    /// WQEs that no doorbell has published.
    #[must_use]
    #[inline]
    pub const fn staged(&self) -> u16 {
        self.places.staged()
    }

    /// [`Ordered::complete`].
    ///
    /// # Errors
    /// [`Stale`].
    #[inline(always)]
    pub fn complete(&self, wqe_counter: u16) -> Result<Completed<E>, Stale> {
        self.tracker.complete(wqe_counter)
    }

    /// [`Ordered::fail`]. A receive has nothing before it that no completion names.
    ///
    /// # Errors
    /// [`Stale`].
    pub fn fail(&self, wqe_counter: u16) -> Result<Failed<E>, Stale> {
        self.tracker.fail(wqe_counter, FailedBy::Itself)
    }

    /// [`Ordered::flush`]. What was staged and not published is ended, too.
    pub fn flush(&self) -> Option<Flushed<E>> {
        self.places.forget_staged();
        self.tracker.flush()
    }

    /// Begins anew at index 0, after the queue pair went through the reset state, all was flushed, and what the completion queue still had of it
    /// was taken out ([`Cq::discard`](crate::cq::Cq::discard)).
    ///
    /// # Errors
    /// [`Retry::RqFull`] where something is still under way, [`Retry::WouldBlock`] where somebody builds.
    pub fn restart(&self) -> Result<(), Retry> {
        let _guard = self.flag().try_borrow_any()?;
        self.tracker.restart().map_err(|_busy| Retry::RqFull)?;
        self.places.restart();
        Ok(())
    }

    /// Publishes all that is staged, and returns how many WQEs that were.
    #[inline]
    pub fn ring_doorbell(&self) -> u16 {
        self.places.ring_doorbell(self.tracker.pi())
    }
}

impl<E: Copy, B: Bus> TakesReceives for RecvQueue<'_, E, B> {
    type Entry = E;

    #[inline(always)]
    fn stage<P: Part>(&self, parts: &P, entry: E) -> Result<(), PostError> {
        self.places.fits(parts)?;
        let index =
            usize::from(self.tracker.pi()) & usize::from(self.tracker.size().wrapping_sub(1));
        self.tracker.post(1, Some(entry)).map_err(receive_full)?;
        self.places.put(index, parts);
        Ok(())
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
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}
