//! Receives that several queue pairs take from: shared receive queues (`ibv_create_srq(3)`).

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};
use std::rc::Rc;

use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::verbs::RecvRequest;

use super::error::{VerbsError, within};
use super::pair::{RECV_BYTES_MAX, is_over, list};
use super::region::{LocalKey, ProtectionDomain};
use crate::raw::verbs::{self as raw, RecvList};

/// Receives that any pair of one domain takes from that was made with them ([`super::Pair::with_shared`]). They complete where that pair's
/// receives complete, and its number is in the completion.
#[derive(Debug)]
pub struct SharedReceives {
    pub(super) raw: Rc<raw::SharedQueue>,
    receives: RecvList,
    domain: ProtectionDomain,
    depth: u32,
    sge_max: u32,
    number: u32,
    broken: Cell<bool>,
}

/// They are told apart by a number that none has twice, as long as a process makes less than 2^32.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

impl SharedReceives {
    /// Room for `depth` receives of at most `sge_max` segments.
    ///
    /// # Errors
    /// [`VerbsError::Limit`], or what the library says: EOPNOTSUPP of devices without.
    pub fn new(
        domain: &ProtectionDomain,
        depth: u32,
        sge_max: u32,
    ) -> Result<Rc<Self>, VerbsError> {
        let has = domain.device().attributes()?;
        let most = |number| u32::try_from(number).unwrap_or(0);
        within("shared receives", depth, most(has.max_srq_wr))?;
        within("segments of a shared receive", sge_max, most(has.max_srq_sge))?;
        let raw = raw::SharedQueue::make(domain.raw(), depth, sge_max.max(1))
            .map_err(|e| VerbsError::os("ibv_create_srq", e))?;
        let size = |number| usize::try_from(number).unwrap_or(0);
        Ok(Rc::new(Self {
            raw,
            receives: RecvList::new(size(depth), size(sge_max)),
            domain: domain.clone(),
            depth,
            sge_max,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            broken: Cell::new(false),
        }))
    }

    /// Receives that may be posted and not completed.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    #[cfg(feature = "mlx5")]
    pub(crate) fn raw(&self) -> &raw::SharedQueue {
        &self.raw
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Its domain.
    #[must_use]
    pub const fn domain(&self) -> &ProtectionDomain {
        &self.domain
    }

    /// Stages a receive.
    ///
    /// # Errors
    /// As of [`QueuePair::post_recv`](spinwire_dataplane::verbs::QueuePair::post_recv).
    pub fn post_recv(&self, recv: &RecvRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.broken.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.receives.is_full() {
            return Err(Retry::RqFull.into());
        }
        if self.domain.check(recv.segments, self.sge_max)? > RECV_BYTES_MAX {
            return Err(Misuse::TooLong.into());
        }
        self.receives.stage(recv.wr_id.as_raw(), list(recv.segments));
        Ok(())
    }

    /// Hands the staged receives to the device: says of how many, exactly.
    pub fn ring_recv_doorbell(&self) -> Published {
        let posting = self.receives.post_shared(&self.raw);
        let is_over = is_over(posting.code);
        if is_over {
            self.broken.set(true);
        }
        let count = u64::try_from(posting.count).unwrap_or(0);
        Published { count, error: is_over.then_some(Fatal::QueueError) }
    }
}
