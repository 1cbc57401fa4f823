//! A shared receive queue of an mlx5 device: receives that several pairs take from.
//!
//! ```text
//!   post_recv ─> place of the ring ── the device hands it to whichever pair gets a message ──> that pair's completion names the place ─> id
//!                                                                      a pair that went with some of them ──> returned ─> next_returned
//! ```
//!
//! Invariants: (1) a receive is named only with ranges that their keys cover; (2) each that a doorbell has published completes with a pair once, or is
//! returned once; (3) all its pairs complete in one completion queue, which has room for all its receives beside theirs.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::widen;

use super::completions::CompletionsError;
use super::config::{BadPair, SGE_MAX};
use super::landing::{Landings, List, name_ranges};
use crate::cq::{Cqe, Inline, Side};
use crate::error::{Misuse, PostError, Retry};
use crate::id::WrId;
use crate::provider::Published;
use crate::raw::mmio::Bus;
use crate::raw::place::Bump;
use crate::raw::region::{MemoryKey, RANGE_BYTES_MAX};
use crate::table::Ring;
use crate::tracker::Stale;
use crate::verbs::RecvRequest;
use crate::wqe::SharedRecvQueue;

/// Receives that several pairs take from. One thread.
pub struct Shared<'m, B> {
    queue: SharedRecvQueue<'m, WrId, B>,
    sge_max: u32,
    received_into: Landings<'m>,
    /// Those that pairs have taken with them.
    returned: Ring<'m, WrId>,
    /// How many pairs take from it, and the number of the completion queue that these have.
    users: Cell<(u32, u32)>,
}

impl<'m, B: Bus> Shared<'m, B> {
    /// Takes a queue that was just placed, for receives of up to `sge_max` ranges.
    ///
    /// # Errors
    /// [`BadPair::Segments`], [`BadPair::Arena`].
    pub fn place(
        bump: &Bump<'m>,
        queue: SharedRecvQueue<'m, WrId, B>,
        sge_max: u32,
    ) -> Result<Self, BadPair> {
        if !(1..=SGE_MAX.min(queue.sge_max())).contains(&sge_max) {
            return Err(BadPair::Segments { sge_max });
        }
        let places = queue.tracker().size();
        Ok(Self {
            queue,
            sge_max,
            received_into: Landings::place(bump, places.into(), sge_max)?,
            returned: Ring::place(bump, places.into(), WrId::from_raw(0))?,
            users: Cell::new((0, 0)),
        })
    }

    /// Receives that may be posted and not completed.
    #[must_use]
    pub fn depth(&self) -> u32 {
        u32::from(self.queue.tracker().size()).saturating_sub(1)
    }

    /// Stages a receive.
    ///
    /// # Errors
    /// As of [`QueuePair::post_recv`](crate::verbs::QueuePair::post_recv). [`Retry::RqFull`], too, while there is one that was
    /// [returned](Self::next_returned) and nobody has taken.
    #[inline]
    pub fn post_recv(&self, recv: &RecvRequest<'_, MemoryKey<'m>>) -> Result<(), PostError> {
        if !self.returned.is_empty() {
            return Err(Retry::RqFull.into());
        }
        let mut list = List::new();
        if name_ranges(recv.segments, self.sge_max, &mut list)? > widen(RANGE_BYTES_MAX) {
            return Err(Misuse::TooLong.into());
        }
        let at = self.queue.tracker().next_slot();
        self.queue.with_srq_wqe(|wqe| wqe.sges(&list).finish(recv.wr_id))?;
        if let Some(at) = at {
            self.received_into.note(at, recv.segments);
        }
        Ok(())
    }

    /// Hands the staged receives to the device: says of how many, exactly.
    #[inline]
    pub fn ring_recv_doorbell(&self) -> Published {
        Published { count: u64::from(self.queue.ring_doorbell()), error: None }
    }

    /// A receive that a pair had taken when it was destroyed or reset, and of which nobody was told. Its memory is the caller's again.
    pub fn next_returned(&self) -> Option<WrId> {
        self.returned.pop()
    }

    /// The receive that a completion names has ended, well or not.
    #[inline]
    pub(super) fn ended(&self, counter: u16, inline: Option<&Inline<'_>>) -> Result<WrId, Stale> {
        let id = self.queue.complete(counter)?;
        if let Some(inline) = inline {
            self.received_into.scatter(counter, inline);
        }
        Ok(id)
    }

    /// What completions of a pair that is no more name is returned.
    pub(super) fn take_back(&self, cqe: &Cqe<'_>) {
        let counter = match cqe {
            Cqe::Received(received) => received.wqe_counter(),
            Cqe::Failed(failure) if failure.side == Side::Receive => failure.wqe_counter,
            Cqe::Failed(_) | Cqe::Sent(_) | Cqe::Odd(_) => return,
        };
        if let Ok(id) = self.queue.complete(counter) {
            let kept = self.returned.push(id);
            debug_assert!(kept.is_ok(), "none is posted while some are returned");
        }
    }

    /// Entries that a pair needs for it in the completion queue of that number, beside its own: those of the first one are for all.
    pub(super) fn entries_in(&self, cqn: u32) -> Result<u32, CompletionsError> {
        let (pairs, of) = self.users.get();
        if pairs > 0 && of != cqn {
            return Err(CompletionsError::Shared { cqn: of });
        }
        Ok(if pairs == 0 { self.depth() } else { 0 })
    }

    /// A pair that completes in that queue takes from it.
    pub(super) fn join(&self, cqn: u32) {
        let (pairs, _) = self.users.get();
        self.users.set((pairs.saturating_add(1), cqn));
    }

    /// It does so no more. Entries that nobody needs any more.
    pub(super) fn leave(&self) -> u32 {
        let (pairs, of) = self.users.get();
        self.users.set((pairs.saturating_sub(1), of));
        if pairs == 1 { self.depth() } else { 0 }
    }
}

impl<B> fmt::Debug for Shared<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("queue", &self.queue).finish_non_exhaustive()
    }
}
