//! Builders without a look at the borrow flag.
//!
//! Invariant: who calls these knows what the flag would say.

use crate::raw::mmio::Bus;
use crate::wqe::builder::Lent;
use crate::wqe::{Qp, RqWqe, SqWqe, UdSqWqe};

impl<'m, E: Copy, B: Bus> Qp<'m, E, B> {
    /// A builder of a send WQE, without the flag, and without a look at the transport.
    ///
    /// # Safety
    /// Until the builder is finished or dropped, no other builder of this send queue exists: none of [`Qp::sq_wqe_unchecked`],
    /// none within a closure of [`Qp::with_sq_wqe`] or its like, none of [`Qp::sq_borrow`]. The queue pair is RC.
    #[inline(always)]
    pub const unsafe fn sq_wqe_unchecked(&self) -> SqWqe<'_, 'm, E, B> {
        SqWqe::new(Lent::new(self.sq(), None))
    }

    /// As [`Qp::sq_wqe_unchecked`], of a datagram.
    ///
    /// # Safety
    /// As there, and the queue pair is UD.
    #[inline(always)]
    pub const unsafe fn ud_sq_wqe_unchecked(&self) -> UdSqWqe<'_, 'm, E, B> {
        UdSqWqe::new(Lent::new(self.sq(), None))
    }

    /// As [`Qp::sq_wqe_unchecked`], of a receive WQE; `None` where the queue pair uses a shared queue.
    ///
    /// # Safety
    /// Until the builder is finished or dropped, no other builder of this receive queue exists.
    #[must_use]
    #[inline(always)]
    pub unsafe fn rq_wqe_unchecked(&self) -> Option<RqWqe<'_, 'm, E, B>> {
        self.rq().map(RqWqe::new)
    }
}
