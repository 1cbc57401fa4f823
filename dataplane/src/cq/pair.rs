//! A queue pair as a completion queue sees it.

use super::Queues;
use crate::raw::mmio::Bus;
use crate::tracker::{Completed, Failed, FailedBy, Posted, Stale};
use crate::wqe::Qp;

/// Sends and receives with the same kind of entry. A queue pair whose receives are in a shared queue has none of its own: let a
/// type of yours lead to both.
impl<E: Copy, B: Bus> Queues for Qp<'_, E, B> {
    type Send = E;
    type Receive = E;

    #[inline(always)]
    fn qpn(&self) -> u32 {
        Qp::qpn(self)
    }

    #[inline(always)]
    fn complete_send(&self, wqe_counter: u16) -> Result<Completed<E>, Stale> {
        self.sq().complete(wqe_counter)
    }

    fn fail_send(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<E>, Stale> {
        self.sq().fail(wqe_counter, by)
    }

    #[inline(always)]
    fn complete_receive(&self, wqe_counter: u16) -> Result<E, Stale> {
        let rq = self.rq().ok_or(Stale::NotPosted)?;
        rq.complete(wqe_counter).map(|completed| completed.entry)
    }

    fn fail_receive(&self, wqe_counter: u16) -> Result<E, Stale> {
        match self.rq().ok_or(Stale::NotPosted)?.fail(wqe_counter)?.wqe {
            Posted::Signaled(entry) => Ok(entry),
            Posted::Unsignaled | Posted::Fill => Err(Stale::Unsignaled),
        }
    }
}
