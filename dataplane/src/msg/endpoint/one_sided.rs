//! Reads, writes and atomics on memory of peers, and memory that peers are let into. What is promised: [`provider::one_sided`](crate::provider::one_sided).
//!
//! Exposed memory is a posted loan like any other: the provider's, until it is withdrawn or the endpoint goes. Its owner looks into it
//! by copies, [`Endpoint::copy_exposed`] and [`Endpoint::fill_exposed`], because a device may write it at any time; and by
//! [`Endpoint::load_exposed`], where it waits for what a peer is to write.

use super::{Endpoint, add};
use crate::error::{Misuse, PostError, Refused};
use crate::id::{OpTag, WrId};
use crate::msg::addressing::Target;
use crate::msg::completion::Kind;
use crate::provider::one_sided::ATOMIC_BYTES;
use crate::provider::{
    Access, CancelError, Caps, Cqe, ExposeWr, OneSided, OneSidedWr, Provider, RemoteRegion,
};
use crate::raw::loan::{Loan, Posted, Sge};
use crate::raw::payload::Payload;

/// Memory that peers are let into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exposed {
    /// What it is withdrawn by.
    pub id: WrId,
    /// What peers need to know of it.
    pub region: RemoteRegion,
}

impl<'m, P: Provider> Endpoint<'m, P> {
    /// Writes the filled part of `loan` into the memory of a peer. The loan comes back, as it was, with a completion of kind
    /// [`Kind::Written`], beside `context`.
    ///
    /// # Errors
    /// The loan comes back with the reason: `Unsupported` without [`Caps::RMA`], `BadRange` for an empty loan.
    #[inline(always)]
    pub fn post_write(
        &self,
        target: Target,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        // A function of its own, and not one of all operations: what is known of a write is not asked again.
        self.post(OpTag::Write, loan, context, |provider, wr_id, posted| {
            hand_over(
                provider,
                (Caps::RMA, OneSided::Write),
                target,
                (wr_id, Some(posted.filled())),
            )
        })
    }

    /// Reads `length` bytes of the memory of a peer into `loan`, which comes back, filled with them, with a completion of kind
    /// [`Kind::Read`], beside `context`.
    ///
    /// # Errors
    /// The loan comes back with the reason: `Unsupported` without [`Caps::RMA`], `BadRange` where it is too small or `length` is 0.
    pub fn post_read(
        &self,
        target: Target,
        loan: Loan<'m>,
        length: usize,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_one_sided(target, OneSided::Read, (loan, length), context)
    }

    /// Adds to 8 bytes of the memory of a peer, a little-endian number, wrapping. `loan` comes back with a completion of kind
    /// [`Kind::Atomic`], beside `context`; [`Completion::before`](crate::msg::Completion::before) is what was there.
    ///
    /// # Errors
    /// The loan comes back with the reason: `Unsupported` without [`Caps::ATOMIC`], `BadRange` where it has fewer than 8 bytes.
    pub fn post_fetch_add(
        &self,
        target: Target,
        loan: Loan<'m>,
        add: u64,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_one_sided(target, OneSided::FetchAdd(add), (loan, ATOMIC_BYTES), context)
    }

    /// Replaces 8 bytes of the memory of a peer by the second number if they are the first. Otherwise like
    /// [`post_fetch_add`](Endpoint::post_fetch_add): it was replaced where what was there is the first number.
    ///
    /// # Errors
    /// As there.
    pub fn post_compare_swap(
        &self,
        target: Target,
        loan: Loan<'m>,
        (expected, swap): (u64, u64),
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        let op = OneSided::CompareSwap { expected, swap };
        self.post_one_sided(target, op, (loan, ATOMIC_BYTES), context)
    }

    fn post_one_sided(
        &self,
        target: Target,
        op: OneSided,
        (loan, length): (Loan<'m>, usize),
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        let (tag, needed) = match op {
            OneSided::Write => (OpTag::Write, Caps::RMA),
            OneSided::Read => (OpTag::Read, Caps::RMA),
            OneSided::FetchAdd(_) | OneSided::CompareSwap { .. } => (OpTag::Atomic, Caps::ATOMIC),
        };
        self.post(tag, loan, context, |provider, wr_id, posted| {
            hand_over(provider, (needed, op), target, (wr_id, posted.first(length)))
        })
    }

    /// Lets peers into the whole buffer of `loan`, from now on until it is [withdrawn](Endpoint::withdraw), or the endpoint is dropped.
    /// What is in the buffer is what they find. For set-up: it may take a system call.
    ///
    /// # Errors
    /// The loan comes back with the reason: `Unsupported` without [`Caps::EXPOSE`], or for rights that cannot be given.
    pub fn expose(&self, loan: Loan<'m>, access: Access) -> Result<Exposed, Refused<Loan<'m>>> {
        let mut region = None;
        let id = self.post(OpTag::Expose, loan, 0, |provider, wr_id, posted| {
            region = Some(provider.expose(&ExposeWr { wr_id, sge: posted.whole(), access })?);
            Ok::<(), PostError>(())
        })?;
        let none = RemoteRegion { address: 0, key: 0, bytes: 0, access: Access::NONE };
        Ok(Exposed { id, region: region.unwrap_or(none) })
    }

    /// Takes exposed memory back. Peers that still use its key get `RemoteAccess`.
    ///
    /// # Errors
    /// `NotPosted` where nothing of that id is exposed; `Unsupported` where the provider cannot revoke the key: then it stays exposed
    /// as long as the endpoint lives.
    pub fn withdraw(&self, id: WrId) -> Result<Loan<'m>, CancelError> {
        let row = self.posted.find(id).filter(|row| is_exposed(id) && row.is_unread());
        let row = row.ok_or(CancelError::NotPosted)?;
        self.provider.withdraw(id)?;
        let posted = self.posted.end(row).ok_or(CancelError::NotPosted)?;
        Ok(posted.complete(None))
    }

    /// Copies bytes out of exposed memory, from `offset` on, a multiple of 8. Aligned 8 bytes are read whole; of more, some may be old and
    /// some new where a peer writes at the same time.
    ///
    /// # Errors
    /// `StaleOperation` where nothing of that id is exposed, `BadRange` where the range is not inside.
    pub fn copy_exposed(&self, id: WrId, offset: usize, to: &mut [u8]) -> Result<(), Misuse> {
        let copy = |memory: Payload<'_>| memory.copy_out(offset, to);
        self.with_exposed(id, copy)?.then_some(()).ok_or(Misuse::BadRange)
    }

    /// The 8 bytes of exposed memory at `at`, a multiple of 8, by one load: for who waits for a peer to write there, and does little besides. As
    /// the machine reads a number; what was written before in the same order is seen by who reads it afterwards, as far as the device
    /// keeps to an order.
    ///
    /// # Errors
    /// As [`copy_exposed`](Endpoint::copy_exposed).
    #[inline(always)]
    pub fn load_exposed(&self, id: WrId, at: usize) -> Result<u64, Misuse> {
        self.with_exposed(id, |memory| memory.load(at))?.ok_or(Misuse::BadRange)
    }

    /// Copies bytes into exposed memory, as [`copy_exposed`](Endpoint::copy_exposed) copies out.
    ///
    /// # Errors
    /// As there.
    pub fn fill_exposed(&self, id: WrId, offset: usize, from: &[u8]) -> Result<(), Misuse> {
        let copy = |mut memory: Payload<'_>| memory.copy_in(offset, from);
        self.with_exposed(id, copy)?.then_some(()).ok_or(Misuse::BadRange)
    }

    #[inline(always)]
    fn with_exposed<R>(&self, id: WrId, look: impl FnOnce(Payload<'_>) -> R) -> Result<R, Misuse> {
        let id = Some(id).filter(|id| is_exposed(*id)).ok_or(Misuse::StaleOperation)?;
        let look = |posted: &Posted<'m>| look(Payload::new(posted.lines()));
        self.posted.with(id, look).ok_or(Misuse::StaleOperation)
    }
}

impl<P: Provider> Endpoint<'_, P> {
    /// What a completion without a message is about. Counts it.
    #[cold]
    #[inline(never)]
    pub(super) fn kind_without_message(&self, cqe: &Cqe) -> Kind {
        let failed = u64::from(cqe.status.is_failure());
        let kind = match cqe.wr_id.parts() {
            Some((OpTag::Write, ..)) => Kind::Written,
            Some((OpTag::Read, ..)) => Kind::Read,
            Some((OpTag::Atomic, ..)) => Kind::Atomic,
            _ => {
                add(&self.totals.receives_failed, failed);
                return Kind::RecvEnded;
            }
        };
        add(&self.totals.one_sided_ended, 1);
        add(&self.totals.one_sided_failed, failed);
        kind
    }
}

/// Asks the provider for an operation between `local`, `None` where the buffer has not so many bytes, and memory of a peer.
#[inline(always)]
fn hand_over<P: Provider>(
    provider: &P,
    (needed, op): (Caps, OneSided),
    Target { peer: to, place: remote }: Target,
    (wr_id, local): (WrId, Option<Sge>),
) -> Result<(), PostError> {
    if !provider.info().caps.has(needed) {
        return Err(Misuse::Unsupported.into());
    }
    let local = local.filter(|local| local.length() > 0).ok_or(Misuse::BadRange)?;
    provider.post_one_sided(&OneSidedWr { wr_id, to, op, local, remote })
}

const fn is_exposed(id: WrId) -> bool {
    matches!(id.parts(), Some((OpTag::Expose, ..)))
}

/// How many bytes of its buffer count after an operation that has brought no message: those of a write stay.
#[cold]
pub(super) const fn filled_without_message(cqe: &Cqe) -> Option<u32> {
    match cqe.wr_id.parts() {
        Some((OpTag::Write, ..)) => None,
        // Of what failed, and of the end of a multi-receive, that is none.
        _ => Some(cqe.length),
    }
}
