//! Shared receive queues: what the library says of one, as `wqe::SharedRecvQueue` takes it, and receives that several pairs take from.

use core::fmt;
use std::rc::Rc;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::verbs::RecvRequest;
use spinwire_dataplane::wqe::RecvConfig;

use super::dv::DvSrq;
use super::pair::known;
use super::{Mlx5Error, SharedHandle};
use crate::raw::mlx5::{SharedRings, SharedSeat};

/// Bytes of a segment; the first one of a receive is the link to the next.
const SEGMENT_BYTES: u32 = 16;

/// How many receives a shared queue has, and how many segments each, of one that was just made: the library has linked all of its places from
/// `head` to `tail`, and those behind are its own.
///
/// # Errors
/// [`Mlx5Error::Memory`]: something was posted already, or it is of a form that this version does not know.
pub fn shared_config(dv: &DvSrq) -> Result<RecvConfig, Mlx5Error> {
    let wrong = |field, value: u32| Mlx5Error::Memory { field, value: value.into() };
    if dv.head != 0 {
        return Err(wrong("mlx5dv_srq.head", dv.head));
    }
    let wqes = dv.tail.checked_add(1).filter(|wqes| wqes.is_power_of_two());
    let wqes = wqes.and_then(|wqes| u16::try_from(wqes).ok());
    let segments = dv.stride.checked_div(SEGMENT_BYTES).and_then(|all| all.checked_sub(1));
    let is_whole = dv.stride.is_power_of_two() && dv.stride >= SEGMENT_BYTES * 2;
    let sge_max = segments.filter(|_| is_whole).and_then(|sges| u16::try_from(sges).ok());
    Ok(RecvConfig {
        wqes: wqes.ok_or(wrong("mlx5dv_srq.tail", dv.tail))?,
        sge_max: sge_max.ok_or(wrong("mlx5dv_srq.stride", dv.stride))?,
    })
}

/// Receives that this process posts itself, and that several pairs take from. One thread. It goes when nobody has it any more, and its pairs have it.
pub struct SharedReceives<'m, S> {
    seat: Rc<SharedSeat<'m, S>>,
}

impl<S> fmt::Debug for SharedReceives<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedReceives").field(self.seat.rings()).finish()
    }
}

impl<'m, S: SharedHandle<'m> + 'm> SharedReceives<'m, S> {
    /// Takes over a queue that was just made, and to which nothing was posted, for receives of up to `sge_max` ranges.
    ///
    /// # Errors
    /// [`Mlx5Error`]: what of its memory cannot be used.
    pub fn new(handle: S, sge_max: u32) -> Result<Rc<Self>, Mlx5Error> {
        Ok(Rc::new(Self { seat: Rc::new(SharedSeat::place(handle, sge_max)?) }))
    }

    /// What is below it.
    #[must_use]
    pub fn handle(&self) -> &S {
        self.seat.handle()
    }

    pub(super) fn seat(&self) -> Rc<dyn SharedRings<'m> + 'm> {
        Rc::<SharedSeat<'m, S>>::clone(&self.seat)
    }

    /// Receives that may be posted and not completed.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.seat.rings().depth()
    }

    /// Stages a receive.
    ///
    /// # Errors
    /// As of [`rings::Shared::post_recv`](spinwire_dataplane::provider::mlx5::Shared::post_recv).
    #[inline]
    pub fn post_recv(&self, recv: &RecvRequest<'_, S::Key>) -> Result<(), PostError> {
        let segments = &*known(recv.segments, |range| self.seat.handle().admits(range))?;
        self.seat.rings().post_recv(&RecvRequest { wr_id: recv.wr_id, segments })
    }

    /// Hands the staged receives to the device: says of how many, exactly.
    #[inline]
    #[must_use]
    pub fn ring_recv_doorbell(&self) -> Published {
        self.seat.rings().ring_recv_doorbell()
    }

    /// A receive that a pair had taken when it was destroyed or reset, and of which nobody was told. Its memory is the caller's again. While there
    /// are some, none is posted.
    #[must_use]
    pub fn next_returned(&self) -> Option<WrId> {
        self.seat.rings().next_returned()
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::null_mut;

    use super::*;

    fn told(stride: u32, head: u32, tail: u32) -> Result<RecvConfig, Mlx5Error> {
        let (buf, dbrec) = (null_mut(), null_mut());
        shared_config(&DvSrq { buf, dbrec, stride, head, tail, comp_mask: 0, srqn: 7 })
    }

    #[test]
    fn a_shared_queue_is_as_long_as_its_free_list() {
        assert_eq!(told(32, 0, 127), Ok(RecvConfig { wqes: 128, sge_max: 1 }));
        assert_eq!(told(64, 0, 0), Ok(RecvConfig { wqes: 1, sge_max: 3 }));
        for (stride, head, tail, field) in [
            (32, 1, 127, "mlx5dv_srq.head"),
            (32, 0, 126, "mlx5dv_srq.tail"),
            (32, 0, 0xffff, "mlx5dv_srq.tail"),
            (32, 0, u32::MAX, "mlx5dv_srq.tail"),
            (16, 0, 127, "mlx5dv_srq.stride"),
            (48, 0, 127, "mlx5dv_srq.stride"),
        ] {
            let error = told(stride, head, tail).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
