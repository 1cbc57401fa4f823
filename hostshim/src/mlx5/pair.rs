//! A queue pair that this process posts to itself.
//!
//! Invariant: the device knows of no more than what was posted through [`PairHandle::admits`]; and where the pair is gone, so is everything that its
//! completion queue knew of it.

use core::fmt;
use std::rc::Rc;

use heapless::Vec as Few;
use spinwire_dataplane::error::{Misuse, PostError};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::provider::mlx5 as rings;
use spinwire_dataplane::raw::region::{Destroyed, MemoryKey};
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::{
    Limits, PairId, QueuePair as _, RecvRequest, Segment, SendRequest,
};
use spinwire_dataplane::wqe::{QpConfig, RecvConfig, SendConfig, Transport};

use super::dv::DvQp;
use super::{Completions, CompletionsHandle, Mlx5Error, PairHandle, SharedHandle, SharedReceives};
use crate::raw::mlx5::{PairSeat, SharedRings};

/// Bytes of a basic block, and of a segment of a receive.
const BLOCK_BYTES: u32 = 64;
const SEGMENT_BYTES: u32 = 16;
/// As `provider::mlx5` takes.
const SGE_MAX: usize = 8;

/// What a pair is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueConfig {
    /// Connected, or for datagrams.
    pub transport: Transport,
    /// Sends that it has to hold.
    pub send_depth: u32,
    /// Receives that it has to hold.
    pub recv_depth: u32,
    /// Its requests. Segments are a power of two, as the library was asked for them.
    pub pair: rings::PairConfig,
}

impl QueueConfig {
    /// The queues, where they are as they were asked for.
    fn queues(&self, qp_num: u32, dv: &DvQp) -> Result<QpConfig, Mlx5Error> {
        let wrong = |field, value: u32| Mlx5Error::Memory { field, value: value.into() };
        if dv.sq_stride != BLOCK_BYTES {
            return Err(wrong("mlx5dv_qp.sq.stride", dv.sq_stride));
        }
        let send = SendConfig {
            wqe_blocks_max: self.pair.wqe_blocks(self.transport),
            ..SendConfig::DEFAULT
        };
        let recv = if self.recv_depth == 0 {
            None
        } else {
            // With signatures (MLX5_QP_SIGNATURE) it would be twice as long.
            if dv.rq_stride != self.pair.sge_max.saturating_mul(SEGMENT_BYTES) {
                return Err(wrong("mlx5dv_qp.rq.stride", dv.rq_stride));
            }
            let small = |field, value| u16::try_from(value).map_err(|_large| wrong(field, value));
            Some(RecvConfig {
                wqes: small("mlx5dv_qp.rq.wqe_cnt", dv.rq_wqe_cnt)?,
                sge_max: small("segments of a receive", self.pair.sge_max)?,
            })
        };
        Ok(QpConfig { qpn: qp_num, transport: self.transport, send, recv })
    }
}

/// Ranges under the keys of the data plane.
pub(super) type Known<'m> = Few<Segment<MemoryKey<'m>>, SGE_MAX>;

/// Ranges under the keys that `admits` says are theirs.
#[inline]
pub(super) fn known<'m, K>(
    ranges: &[Segment<K>],
    admits: impl Fn(&Segment<K>) -> Option<MemoryKey<'m>>,
) -> Result<Known<'m>, PostError> {
    let mut known = Few::new();
    for range in ranges {
        let key = admits(range).ok_or(Misuse::ForeignKey)?;
        let Segment { address, length, .. } = *range;
        known.push(Segment { address, length, key }).map_err(|_many| Misuse::TooLong)?;
    }
    Ok(known)
}

/// A place in the completion queue, which is given up where this is dropped.
struct Place<'m, H: PairHandle<'m>, C: CompletionsHandle> {
    completions: Rc<Completions<'m, H, C>>,
    qp_num: u32,
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> Drop for Place<'m, H, C> {
    fn drop(&mut self) {
        let _was_there = self.completions.remove(self.qp_num);
    }
}

/// What is left in the completion queue, and goes where this is dropped.
struct Remains<'m, H: PairHandle<'m>, C: CompletionsHandle> {
    completions: Rc<Completions<'m, H, C>>,
    qp_num: u32,
    shared: Option<Rc<dyn SharedRings<'m> + 'm>>,
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> Drop for Remains<'m, H, C> {
    fn drop(&mut self) {
        self.completions.sweep(self.qp_num, self.shared.as_deref().map(SharedRings::rings));
    }
}

/// A queue pair that this process posts to itself. One thread. Dropping it destroys it.
pub struct Pair<'m, H: PairHandle<'m>, C: CompletionsHandle> {
    // Dropped in this order: out of the completion queue, destroyed, what is left there swept.
    place: Place<'m, H, C>,
    seat: Rc<PairSeat<'m, H>>,
    remains: Remains<'m, H, C>,
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> fmt::Debug for Pair<'m, H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seat.fmt(f)
    }
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> Pair<'m, H, C> {
    /// Takes over a pair that was just made on that completion queue, and to which nothing was posted.
    ///
    /// # Errors
    /// [`Mlx5Error`]: what of its memory cannot be used, or that the completion queue could overrun. The handle is dropped.
    pub fn new(
        completions: &Rc<Completions<'m, H, C>>,
        handle: H,
        config: &QueueConfig,
    ) -> Result<Self, Mlx5Error> {
        Self::make(completions, handle, config, None)
    }

    /// The same, of a pair that was made with a shared receive queue, and takes all its receives from there: `recv_depth` means nothing then, and
    /// a receive that is posted on the pair itself is refused. All pairs of one shared queue complete in the same completion queue, which has room for
    /// all receives of it beside theirs.
    ///
    /// # Errors
    /// As of [`Pair::new`].
    pub fn with_shared<S: SharedHandle<'m, Key = H::Key> + 'm>(
        completions: &Rc<Completions<'m, H, C>>,
        handle: H,
        config: &QueueConfig,
        shared: &Rc<SharedReceives<'m, S>>,
    ) -> Result<Self, Mlx5Error> {
        let config = QueueConfig { recv_depth: 0, ..*config };
        Self::make(completions, handle, &config, Some(shared.seat()))
    }

    fn make(
        completions: &Rc<Completions<'m, H, C>>,
        handle: H,
        config: &QueueConfig,
        shared: Option<Rc<dyn SharedRings<'m> + 'm>>,
    ) -> Result<Self, Mlx5Error> {
        let queues = |qp_num, dv: &DvQp| config.queues(qp_num, dv);
        let seat = Rc::new(PairSeat::place(handle, queues, config.pair, shared)?);
        let (qp_num, limits) = (seat.qp_num(), seat.limits());
        for (field, asked, got) in [
            ("send queue", config.send_depth, limits.send_depth),
            ("receive queue", config.recv_depth, limits.recv_depth),
        ] {
            if got < asked {
                return Err(Mlx5Error::Short { field, asked, got });
            }
        }
        completions.add(&seat)?;
        let completions = Rc::clone(completions);
        let shared = seat.shared().map(Rc::clone);
        let remains = Remains { completions: Rc::clone(&completions), qp_num, shared };
        Ok(Self { place: Place { completions, qp_num }, seat, remains })
    }

    /// What is below it.
    #[must_use]
    pub fn handle(&self) -> &H {
        self.seat.handle()
    }

    /// Frees the row of an address. Whether there was one.
    #[must_use]
    pub fn remove_route(&self, row: u32) -> bool {
        self.seat.remove_route(row).is_some()
    }

    /// Enters an address that datagrams may go to in that row, whatever is there: the `handle` of a [`Destination`](seam::Destination).
    ///
    /// # Errors
    /// [`Mlx5Error::Pair`] where the table has no such row.
    pub fn set_route(&self, row: u32, route: rings::Route) -> Result<(), Mlx5Error> {
        Ok(self.seat.set_route(row, route)?)
    }

    /// What is below went through the state Reset, so that nothing of what was posted completes any more: all of it is told as flushed by the next
    /// polls of the completion queue. When that is done, [`restart`](Self::restart).
    ///
    /// # Errors
    /// As of [`rings::Completions::end`].
    pub fn was_reset(&self) -> Result<(), PostError> {
        self.place.completions.end(&self.seat)
    }

    /// Begins anew on the same queues, after [`was_reset`](Self::was_reset).
    ///
    /// # Errors
    /// `Retry` where not all of what was under way was polled.
    pub fn restart(&self) -> Result<(), PostError> {
        Ok(self.seat.restart()?)
    }

    /// Destroys it: nothing that was posted completes any more, and the device touches no memory by it.
    ///
    /// # Errors
    /// What the library says; then nothing of that is certain.
    pub fn destroy(self) -> Result<Destroyed, H::Error> {
        let Self { place, seat, remains } = self;
        drop(place);
        // The completion queue had the only other one.
        let seat = Rc::into_inner(seat).ok_or(Mlx5Error::Memory { field: "pair", value: 0 })?;
        let destroyed = seat.destroy();
        drop(remains);
        destroyed
    }

    /// Ranges under the keys of the data plane.
    #[inline]
    fn known(&self, ranges: &[Segment<H::Key>]) -> Result<Known<'m>, PostError> {
        known(ranges, |range| self.seat.handle().admits(range))
    }
}

impl<'m, H: PairHandle<'m>, C: CompletionsHandle> seam::QueuePair for Pair<'m, H, C> {
    type Key = H::Key;

    #[inline]
    fn limits(&self) -> Limits {
        self.seat.limits()
    }

    #[inline]
    fn qp_num(&self) -> u32 {
        self.seat.qp_num()
    }

    fn id(&self) -> PairId {
        self.seat.handle().id()
    }

    fn end(self) -> bool {
        self.destroy().is_ok()
    }

    #[inline]
    fn post_send(&self, send: &SendRequest<'_, H::Key>) -> Result<(), PostError> {
        let segments = &*self.known(send.segments)?;
        let SendRequest { wr_id, verb, flags, remote, destination, .. } = *send;
        let send = SendRequest { wr_id, verb, flags, segments, remote, destination };
        self.seat.post_send(&send)
    }

    #[inline]
    fn post_recv(&self, recv: &RecvRequest<'_, H::Key>) -> Result<(), PostError> {
        let segments = &*self.known(recv.segments)?;
        self.seat.post_recv(&RecvRequest { wr_id: recv.wr_id, segments })
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        self.seat.ring_doorbell()
    }

    #[inline]
    fn ring_recv_doorbell(&self) -> Published {
        self.seat.ring_recv_doorbell()
    }
}
