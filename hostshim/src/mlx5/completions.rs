//! A completion queue, and the pairs that complete into it.

use core::fmt;
use core::ops::Deref;
use std::rc::Rc;

use heapless::VecView;
use spinwire_dataplane::cq::{CqCounts, EntryBytes};
use spinwire_dataplane::error::{Fatal, PostError};
use spinwire_dataplane::provider::mlx5 as rings;
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::Wc;

use super::{CompletionsHandle, Mlx5Error, PairHandle};
use crate::raw::mlx5::{CompletionsSeat, PairSeat};

/// How large entries are that this version reads.
pub(crate) const fn entry_bytes(bytes: u32) -> Result<EntryBytes, Mlx5Error> {
    match bytes {
        64 => Ok(EntryBytes::B64),
        128 => Ok(EntryBytes::B128),
        // Widens: `u64::from` is not const.
        other => Err(Mlx5Error::Memory {
            field: "mlx5dv_cq.cqe_size",
            value: spinwire_layouts::word::widen(other),
        }),
    }
}

/// A pair, as its completion queue has it.
pub(super) struct Held<'m, H>(pub(super) Rc<PairSeat<'m, H>>);

impl<'m, H> Deref for Held<'m, H> {
    type Target = rings::Pair<'m, Device>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A completion queue that this process polls itself. One thread.
pub struct Completions<'m, H, C> {
    seat: CompletionsSeat<'m, Held<'m, H>, C>,
}

impl<H, C> fmt::Debug for Completions<'_, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Completions").field(&*self.seat).finish()
    }
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> Completions<'m, H, C> {
    /// Takes over a queue that was just made, for so many pairs, and makes all its entries invalid.
    ///
    /// # Errors
    /// [`Mlx5Error`]: what of its memory cannot be used.
    pub fn new(handle: C, pairs_max: u32) -> Result<Rc<Self>, Mlx5Error> {
        Ok(Rc::new(Self { seat: CompletionsSeat::place(handle, pairs_max)? }))
    }

    /// What is below it.
    #[must_use]
    pub const fn handle(&self) -> &C {
        self.seat.handle()
    }

    /// What was seen and should not be.
    #[must_use]
    pub fn counts(&self) -> CqCounts {
        self.seat.counts()
    }

    /// A pair completes here from now on.
    pub(super) fn add(&self, pair: &Rc<PairSeat<'m, H>>) -> Result<(), Mlx5Error> {
        self.seat.add(Held(Rc::clone(pair))).map_err(|(why, _held)| why.into())
    }

    /// It does so no more. Whether it did.
    pub(super) fn remove(&self, qp_num: u32) -> bool {
        // Refused within a poll only, and nobody is called within one.
        let removed = self.seat.remove(qp_num);
        debug_assert!(removed.is_ok(), "nobody polls");
        matches!(removed, Ok(Some(_held)))
    }

    /// Ends what is under way of a pair that was reset.
    pub(super) fn end(&self, pair: &PairSeat<'m, H>) -> Result<(), PostError> {
        self.seat.end(pair)
    }

    /// Forgets what a pair has left here that was destroyed, and returns the receives that it had taken from `shared`.
    pub(super) fn sweep(&self, qp_num: u32, shared: Option<&rings::Shared<'m, Device>>) {
        let swept = self.seat.sweep(qp_num, shared);
        debug_assert!(swept.is_ok(), "nobody polls");
    }
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> seam::CompletionQueue for Completions<'m, H, C> {
    #[inline]
    fn depth(&self) -> u32 {
        self.seat.depth()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        self.seat.poll_cq(out);
    }

    fn take_error(&self) -> Option<Fatal> {
        self.seat.handle().take_error()
    }
}
