//! What comes back: the end of an operation, or one message of a multi-receive.
//!
//! A [`Completion`] is all four formats of a completion queue in one (`fi_cq(3)`), and its error entry:
//!
//! | format | fields |
//! |---|---|
//! | `FI_CQ_FORMAT_CONTEXT` | `context` (and `id`, which nobody can forge unnoticed) |
//! | `FI_CQ_FORMAT_MSG` | the same, [`flags`](Completion::flags), `length` |
//! | `FI_CQ_FORMAT_DATA` | the same, `offset` in the `loan` for the address, `immediate` for the data |
//! | `FI_CQ_FORMAT_TAGGED` | the same, `tag` |
//! | `fi_cq_err_entry` | [`failure`](Completion::failure): status for `err`, code for `prov_errno`, flags, length, tag, data |
//! | `fi_cq_readfrom` | `source`; an address of 0 is as good as any, *none* is `None` |
//!
//! Nothing is kept apart for errors: a failed operation completes in its turn, with its context and its buffer, like any other.

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
    /// Received: where in the buffer they start. Of what failed it has no meaning.
    pub offset: usize,
    /// Received: how many messages; more than one only for a run.
    pub count: u32,
    /// Received: the tag. Of a receive that has failed: the tag that it waited for; of a send that has: that of its message.
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

/// What an operation was, in the bits of `fi_cq(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flags(u16);

impl Flags {
    /// It was a send.
    pub const SEND: Self = Self(1);
    /// It was a receive.
    pub const RECV: Self = Self(1 << 1);
    /// It was about memory of a peer.
    pub const RMA: Self = Self(1 << 2);
    /// It wrote there.
    pub const WRITE: Self = Self(1 << 3);
    /// It read there.
    pub const READ: Self = Self(1 << 4);
    /// It was an atomic operation there.
    pub const ATOMIC: Self = Self(1 << 5);
    /// The message has a tag.
    pub const TAGGED: Self = Self(1 << 6);
    /// The message has immediate data.
    pub const IMMEDIATE: Self = Self(1 << 7);
    /// The buffer stays posted, for more messages.
    pub const MORE: Self = Self(1 << 8);

    /// Whether all of `wanted` are set.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    const fn with_if(self, flag: Self, so: bool) -> Self {
        if so { Self(self.0 | flag.0) } else { self }
    }
}

/// What is known of an operation that did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which operation.
    pub id: WrId,
    /// What the caller posted it with.
    pub context: u64,
    /// What it was.
    pub flags: Flags,
    /// How it ended.
    pub status: Status,
    /// The provider's own number of the error; 0 where it has none, and where the reason was the caller or the peer and not the transport: a
    /// cancel, a goodbye, nonsense.
    ///
    /// | over | it is |
    /// |---|---|
    /// | tcp | an `errno` |
    /// | verbs, mlx5 | the status of the work completion (`enum ibv_wc_status`); of what was flushed, that of the one for whose sake |
    /// | ofi | `prov_errno`, or `err` where that is 0 (`fi_cq(3)`, without its sign); of a call that was refused, what it returned |
    /// | shm | always 0: no transport gives a reason |
    /// | udp, verbs datagrams | always 0: nothing is promised, so that no send fails; what the kernel has refused is counted, with its `errno` ([`UdpCounters`](crate::provider::udp::UdpCounters)) |
    pub code: u32,
    /// Bytes delivered: only where a message was cut short are there any.
    pub length: usize,
    /// The tag: of a message that was cut short or not sent, or the one that the receive waited for.
    pub tag: Option<u64>,
    /// The immediate data, of a message that was cut short.
    pub immediate: Option<u64>,
    /// The sender, of a message that was cut short.
    pub source: Option<Addr>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.status)?;
        if self.code == 0 { Ok(()) } else { write!(f, " (the provider's number: {})", self.code) }
    }
}

impl core::error::Error for Failure {}

impl Completion<'_> {
    /// What the operation was.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        let what = match self.kind {
            Kind::Sent => Flags::SEND,
            Kind::Received | Kind::Parcel | Kind::RecvEnded => Flags::RECV,
            Kind::Written => Flags(Flags::RMA.0 | Flags::WRITE.0),
            Kind::Read => Flags(Flags::RMA.0 | Flags::READ.0),
            Kind::Atomic => Flags(Flags::RMA.0 | Flags::ATOMIC.0),
        };
        let is_message = matches!(self.kind, Kind::Received | Kind::Parcel);
        what.with_if(Flags::TAGGED, self.tag.is_some())
            .with_if(Flags::IMMEDIATE, self.immediate.is_some())
            .with_if(Flags::MORE, self.loan.is_none() && is_message)
    }

    /// The error entry, where the operation did not do what was asked; else `None`.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        if matches!(self.status, Status::Success | Status::Parcel) {
            return None;
        }
        let code = if self.status.is_failure() { self.offset } else { 0 };
        Some(Failure {
            id: self.id,
            context: self.context,
            flags: self.flags(),
            status: self.status,
            code: u32::try_from(code).unwrap_or(u32::MAX),
            length: self.length,
            tag: self.tag,
            immediate: self.immediate,
            source: self.source,
        })
    }

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
        if self.count == 1 {
            return self.length;
        }
        let before = usize::try_from(self.count).unwrap_or(0).saturating_sub(1);
        before.saturating_mul(self.stride()).saturating_add(self.length)
    }
}
