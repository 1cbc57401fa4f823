//! What comes back: the end of an operation, or one message of a multi-receive.

use super::parcel::Parcel;
use crate::id::{Addr, WrId};
use crate::pool::{Guard, Pool, PoolError, PoolHost, Shared};
use crate::provider::Status;
use crate::raw::loan::Loan;

/// What a completion is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A send: its buffer is free again.
    Sent,
    /// A message has arrived.
    Received,
    /// A message has arrived that is a buffer of a pool: see [`Completion::take_guard`]. The receive needed no room for it.
    Parcel,
    /// A receive is over without a message: see the status. With `Success` it is a multi-receive whose rest was too short
    /// for the next message.
    RecvEnded,
    /// A write to a peer's memory.
    Written,
    /// A read from a peer's memory: the loan holds what was there.
    Read,
    /// An atomic operation on a peer's memory: see [`Completion::before`].
    Atomic,
}

/// The end of an operation, or one message of a multi-receive. Read `status` first.
#[derive(Debug)]
pub struct Completion<'m> {
    /// Which operation.
    pub id: WrId,
    /// What the caller posted it with.
    pub context: u64,
    /// What it is about.
    pub kind: Kind,
    /// How it ended.
    pub status: Status,
    /// Received: bytes of the message that were delivered; of a run, of each of its messages. One-sided operations: bytes done.
    pub length: usize,
    /// Received: where in the buffer they start.
    pub offset: usize,
    /// Received: how many messages; more than one only for a run.
    pub count: u32,
    /// Received: the tag.
    pub tag: Option<u64>,
    /// Received: the immediate data.
    pub immediate: Option<u64>,
    /// Received: the sender.
    pub source: Option<Addr>,
    /// The buffer, the caller's again. `None` while a multi-receive goes on; then [`Endpoint::read`](super::Endpoint::read) shows the message.
    pub loan: Option<Loan<'m>>,
    /// The buffer of a pool that has come, where the kind is [`Kind::Parcel`].
    pub parcel: Option<Parcel<'m>>,
}

impl Completion<'_> {
    /// A guard for the buffer that has come. The parcel is spent by that.
    ///
    /// # Errors
    /// As [`Parcel::take`]; the parcel stays. `NoReference` where none has come, or it was taken.
    pub fn take_guard<'p, H: PoolHost>(
        &mut self,
        pool: &'p Pool<'p, H>,
    ) -> Result<Guard<'p, Shared, H>, PoolError> {
        let guard = self.parcel.as_ref().ok_or(PoolError::NoReference)?.open(pool)?;
        self.parcel = None;
        Ok(guard)
    }

    /// Of an atomic operation that succeeded: what was there before.
    #[must_use]
    pub fn before(&self) -> Option<u64> {
        let is_done = self.kind == Kind::Atomic && self.status == Status::Success;
        let bytes = self.loan.as_ref().filter(|_| is_done)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    /// The message, where its buffer came back with it. Of a run: all of it, see [`Completion::messages`].
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> Option<&[u8]> {
        let end = self.offset.checked_add(self.extent())?;
        self.loan.as_ref()?.get(self.offset..end)
    }

    /// The messages of a run in the bytes that [`Endpoint::read`](super::Endpoint::read) or [`Completion::bytes`] showed.
    #[inline(always)]
    pub fn messages<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let length = self.length;
        let none = if length == 0 { self.count } else { 0 };
        let stride = self.stride().max(1);
        let empty = (0..none).map(|_| &[][..]);
        bytes.chunks(stride).map(move |m| m.get(..length).unwrap_or(m)).chain(empty)
    }

    #[inline(always)]
    const fn stride(&self) -> usize {
        self.length.wrapping_add(7) & !7
    }

    /// Bytes from the start of the first message to the end of the last.
    #[inline(always)]
    pub(super) fn extent(&self) -> usize {
        let before = usize::try_from(self.count).unwrap_or(0).saturating_sub(1);
        before.saturating_mul(self.stride()).saturating_add(self.length)
    }
}
