//! What a provider answers: completions, events, doorbells, looks.

use core::fmt;

use crate::error::Fatal;
use crate::id::{Addr, WrId};

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// As asked.
    Success,
    /// A receive whose buffer was shorter than the message; `length` bytes were delivered, the rest is gone.
    Truncated,
    /// Taken back by its owner.
    Cancelled,
    /// The peer is gone.
    PeerGone,
    /// The peer wrote nonsense.
    Corrupt,
    /// A simulated failure.
    Injected,
    /// A one-sided operation: the peer's memory is not to be accessed like that (key, rights or range). It is untouched.
    RemoteAccess,
    /// As asked, and the message is a buffer of a pool: see [`Cqe::parcel`].
    Parcel,
}

impl Status {
    /// Whether there is neither a message nor what was asked for: anything but `Success`, `Truncated` and `Parcel`.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::Truncated | Self::Parcel)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Truncated => "truncated: the receive was shorter than the message",
            Self::Cancelled => "cancelled",
            Self::PeerGone => "peer gone",
            Self::Corrupt => "corrupt: the peer wrote nonsense",
            Self::Injected => "injected failure",
            Self::RemoteAccess => {
                "remote access: the peer's memory is not to be accessed like that; see its key, rights and range"
            }
            Self::Parcel => "success: the message is a buffer of a pool",
        })
    }
}

/// Whether the buffer of an operation is its owner's again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Buffer {
    /// The operation is over; the buffer is back.
    Returned,
    /// A multi-receive goes on; only the bytes of this completion are the owner's.
    StillPosted,
}

/// A completion as a provider reports it. Read `status` first: unless it is `Success`, `Truncated` or `Parcel`, only `wr_id`,
/// `buffer`, `tag` and [`code`](Cqe::code) mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cqe {
    /// Which operation.
    pub wr_id: WrId,
    /// How it ended.
    pub status: Status,
    /// Whether its buffer is back.
    pub buffer: Buffer,
    /// Receives: where in the buffer the message starts. Of what failed: see [`Cqe::code`].
    pub offset: u32,
    /// Receives: bytes delivered, of each message. One-sided operations: bytes done.
    pub length: u32,
    /// Receives: messages in it. More than one only for [`Use::Runs`](super::Use::Runs); they start every `length` bytes, rounded up to 8.
    pub count: u32,
    /// Receives: the tag of the message; of those that ended without one, the tag that they waited for.
    pub tag: Option<u64>,
    /// Receives: the immediate data.
    pub immediate: Option<u64>,
    /// Receives: the sender. `None` for sends, and for receives that ended without a message.
    pub source: Option<Addr>,
}

impl Cqe {
    /// The end of an operation without a message.
    #[must_use]
    pub const fn without_message(wr_id: WrId, status: Status) -> Self {
        Self {
            wr_id,
            status,
            buffer: Buffer::Returned,
            offset: 0,
            length: 0,
            count: 0,
            tag: None,
            immediate: None,
            source: None,
        }
    }

    /// The same with the provider's own number of the error (a vendor's syndrome, an `errno`), for people who look for the cause. Only of
    /// what failed.
    #[must_use]
    pub const fn with_code(self, code: u32) -> Self {
        Self { offset: code, ..self }
    }

    /// The provider's own number of the error, where it failed and the provider has said one; else 0.
    #[must_use]
    pub const fn code(&self) -> u32 {
        if self.status.is_failure() { self.offset } else { 0 }
    }

    /// The end of a one-sided operation that has done `length` bytes.
    #[must_use]
    pub const fn of_bytes(wr_id: WrId, status: Status, length: u32) -> Self {
        Self { length, ..Self::without_message(wr_id, status) }
    }
}

/// What happened to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The connection to it is up, or it has opened one to here.
    Connected(Addr),
    /// It is gone. Of what it had published, whatever was asked for was delivered before this, and the receives that waited for it
    /// alone have failed. What nobody had asked for waits: receives that are posted later get it, from this address.
    PeerGone(Addr),
    /// It is cut off, because it wrote what no correct peer writes.
    PeerCorrupt(Addr),
    /// It did not take the connection.
    Refused(Addr),
    /// A completion named an operation that is over, or never was. It was matched with nothing.
    StaleCompletion(WrId),
}

/// A message that waits for a receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its sender.
    pub source: Addr,
    /// Its bytes.
    pub length: usize,
    /// Its tag.
    pub tag: Option<u64>,
    /// Its immediate data.
    pub immediate: Option<u64>,
}

/// What one doorbell has published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// How many staged sends are the transport's now: exactly so many, whatever `error` says.
    pub count: u64,
    /// Why not all of them.
    pub error: Option<Fatal>,
}

/// Why an operation was not cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CancelError {
    /// No such operation is posted: it has completed already, or never was.
    NotPosted,
    /// This provider cannot cancel that kind of operation.
    Unsupported,
}

impl fmt::Display for CancelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPosted => "not posted: it has completed already, or never was",
            Self::Unsupported => "unsupported: this provider cannot cancel that",
        })
    }
}

impl core::error::Error for CancelError {}

/// What a look at a provider says; see [`Provider::look`](super::Provider::look).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Sight {
    /// There is nothing to do.
    Nothing,
    /// A message has come that [`Provider::take_ready`](super::Provider::take_ready) can hand out.
    Ready,
    /// There is something to do; [`Provider::poll_cq`](super::Provider::poll_cq) does it.
    Work,
}
