//! Queue pairs and completion queues of an RDMA device, whichever that is: the seam below everything that speaks RDMA.
//!
//! ```text
//!    endpoints, virtual queue pairs          generic over the two traits
//!              |
//!     QueuePair, CompletionQueue             SendRequest, RecvRequest ->   -> Wc
//!         |            |          |
//!     libibverbs    mlx5 rings    a simulator
//! ```
//!
//! What every implementation promises:
//! 1. Sends end in the order in which they were posted *on their queue pair*, each exactly once, if at all. So do
//!    receives. Between queue pairs there is no order.
//! 2. Of what was staged, a doorbell publishes a prefix, and says of how many requests. The others are forgotten: the
//!    device will neither execute nor complete them.
//! 3. What failed may have been executed, in part or not at all.
//!
//! Who builds on it checks the first: a completion that is late, double or out of order costs that queue pair, not its neighbours.
//!
//! The words are those of `ibv_post_send(3)` and `ibv_poll_cq(3)`.

mod completion;
mod request;

pub use completion::{Received, Wc, WcFields, WcStatus};
pub use request::{
    Destination, Limits, RecvRequest, RemotePlace, Segment, SendFlags, SendRequest, Verb,
};

use heapless::{Vec, VecView};

use crate::error::{Fatal, PostError};
use crate::provider::Published;

/// Which queue pair: of all that there ever are on the devices of this process, this one alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PairId(u64);

impl PairId {
    /// The one of that number. Whoever makes queue pairs numbers them, and gives no number twice.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

/// A queue pair of a device. One thread owns it.
pub trait QueuePair {
    /// What lets the device into local memory. Whoever makes such a value promises that the memory stays registered, and may
    /// be written by the device, as long as the queue pair lives; it is the capability, and who posts only passes it on.
    type Key: Copy;

    /// What it can take.
    fn limits(&self) -> Limits;

    /// Its number on its device, which gives it to another when this one is no more.
    fn qp_num(&self) -> u32;

    /// Which one it is, for good. As it stands here: of devices that give no number twice.
    #[must_use]
    fn id(&self) -> PairId {
        PairId::from_raw(u64::from(self.qp_num()))
    }

    /// Destroys it. Whether its device touches no memory by it any more. As it stands here: of those that are destroyed, for certain, when they are
    /// dropped.
    #[must_use]
    fn end(self) -> bool
    where
        Self: Sized,
    {
        drop(self);
        true
    }

    /// Stages a send. `send.segments` may go when this returns; the memory that they name is the device's until the completion.
    ///
    /// # Errors
    /// Nothing was staged: `Retry` where there is no room just now, `Misuse` where the request cannot be right, `Fatal` where
    /// this queue pair is done.
    fn post_send(&self, send: &SendRequest<'_, Self::Key>) -> Result<(), PostError>;

    /// Stages a receive.
    ///
    /// # Errors
    /// As of [`post_send`](QueuePair::post_send).
    fn post_recv(&self, recv: &RecvRequest<'_, Self::Key>) -> Result<(), PostError>;

    /// Hands the staged sends to the device: says of how many since the last doorbell, exactly.
    fn ring_doorbell(&self) -> Published;

    /// The same for receives.
    fn ring_recv_doorbell(&self) -> Published;
}

impl<Q: QueuePair + ?Sized> QueuePair for &Q {
    type Key = Q::Key;

    #[inline]
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    #[inline]
    fn qp_num(&self) -> u32 {
        (**self).qp_num()
    }

    #[inline]
    fn id(&self) -> PairId {
        (**self).id()
    }

    /// Whoever lends one out keeps it.
    #[inline]
    fn end(self) -> bool {
        false
    }

    #[inline(always)]
    fn post_send(&self, send: &SendRequest<'_, Self::Key>) -> Result<(), PostError> {
        (**self).post_send(send)
    }

    #[inline]
    fn post_recv(&self, recv: &RecvRequest<'_, Self::Key>) -> Result<(), PostError> {
        (**self).post_recv(recv)
    }

    #[inline(always)]
    fn ring_doorbell(&self) -> Published {
        (**self).ring_doorbell()
    }

    #[inline]
    fn ring_recv_doorbell(&self) -> Published {
        (**self).ring_recv_doorbell()
    }
}

/// Completions that [`CompletionQueue::poll_each`] hands over at most.
pub const POLL_EACH_MAX: usize = 16;

/// A completion queue of a device. One thread owns it.
pub trait CompletionQueue {
    /// Completions that it has room for.
    fn depth(&self) -> u32;

    /// Appends completions to `out` until there are no more or it is full. One that is broken brings none.
    fn poll_cq(&self, out: &mut VecView<Wc>);

    /// Hands up to [`POLL_EACH_MAX`] completions to `take`, one after the other, and says how many there were: with fewer than that, there are no
    /// more. `take` polls no completion queue. As it stands here they are gathered first; who has them in memory of his own hands them over from there.
    #[inline]
    fn poll_each(&self, take: impl FnMut(&Wc)) -> usize {
        let mut batch = Vec::<Wc, POLL_EACH_MAX>::new();
        self.poll_cq(&mut batch);
        batch.iter().for_each(take);
        batch.len()
    }

    /// Why it will bring no more: told once. Completions are lost then, so every queue pair that completes here is done. To be asked
    /// after a poll that has brought nothing, now and then.
    fn take_error(&self) -> Option<Fatal> {
        None
    }
}

impl<C: CompletionQueue + ?Sized> CompletionQueue for &C {
    #[inline]
    fn depth(&self) -> u32 {
        (**self).depth()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        (**self).poll_cq(out);
    }

    #[inline(always)]
    fn poll_each(&self, take: impl FnMut(&Wc)) -> usize {
        (**self).poll_each(take)
    }

    #[inline]
    fn take_error(&self) -> Option<Fatal> {
        (**self).take_error()
    }
}
