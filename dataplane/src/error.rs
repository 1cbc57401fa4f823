//! What can go wrong, told apart by what the caller can do about it.
//!
//! | answer | meaning | what was consumed | what helps |
//! |---|---|---|---|
//! | [`Retry`] | a resource is used up for the moment | nothing | poll, then try again |
//! | [`Fatal`] | this connection, queue or segment is done; its neighbours live on | nothing | drop it, perhaps open anew |
//! | [`Misuse`] | the call itself cannot be right | nothing | mend the caller |
//!
//! All of them are small `Copy` values without text of their own, made without formatting. A call that takes ownership
//! gives it back in [`Refused`].

use core::fmt;

/// A resource is used up; nothing was consumed and the same call may succeed after a poll.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Retry {
    /// The lane to that peer has no free cell: the peer has not yet returned credit.
    NoCredit,
    /// The lane to that peer has no room for the bytes beyond the first cell.
    NoSpill,
    /// The segment has no free lane to open towards that peer.
    NoLane,
    /// The table of posted operations is full.
    NoSlot,
    /// The table of posted receives is full.
    RqFull,
    /// The queue of finished operations is full: poll it.
    CqFull,
    /// The address table is full.
    AddressesFull,
    /// The connection is not up yet.
    NotConnected,
    /// All buffers of that size class of the pool are in use.
    PoolFull,
    /// Too much waits to be sent to that connection.
    NoSendRoom,
    /// The submission queue of the ring has no room for all of it.
    SqFull,
    /// Another builder of that queue exists: finish or drop it first.
    WouldBlock,
    /// No socket that was opened beforehand is left to connect with.
    NoSocket,
    /// A simulated shortage (only the fault provider gives it).
    Injected,
}

/// This connection or segment is done. Its neighbours live on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Fatal {
    /// The process or endpoint at the other end is gone.
    PeerGone,
    /// The other end wrote what no correct peer writes.
    Corrupt,
    /// The other end refused the connection.
    Refused,
    /// This endpoint itself was taken for dead and its lanes were given away.
    Fenced,
    /// The kernel does not serve the ring any more.
    RingLost,
    /// A work request of the queue has failed, and the device does none after it.
    QueueError,
    /// A simulated failure (only the fault provider gives it).
    Injected,
}

/// The call cannot be right, now or later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Misuse {
    /// The message is longer than the provider's `message_bytes_max`.
    TooLong,
    /// No address in that row of the address table.
    UnknownAddress,
    /// The address was removed, or its row was given to another peer since.
    StaleAddress,
    /// The endpoint type or the provider lacks that capability.
    Unsupported,
    /// An endpoint of type MSG has one peer, and it is not that one.
    WrongPeer,
    /// The last entry of a chain has a link, which would take in whatever is submitted next.
    OpenChain,
    /// No such file, or not any more.
    UnknownFile,
    /// That operation is over.
    StaleOperation,
    /// The WQE is longer than its queue was made for.
    WqeTooLong,
    /// A range of registered memory that is empty, too long, of the wrong length for an atomic operation, or not inside.
    BadRange,
    /// Direct I/O wants another offset: a multiple of `FileShape::offset_align`.
    UnalignedOffset,
    /// Direct I/O wants another length: a multiple of `FileShape::offset_align`.
    UnalignedLength,
    /// Direct I/O wants another buffer: at a multiple of `FileShape::memory_align`.
    UnalignedMemory,
    /// The key is of another protection domain, or was given for other memory.
    ForeignKey,
}

/// Why a post was refused. Nothing was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PostError {
    /// Poll and try again.
    Retry(Retry),
    /// That connection is done.
    Fatal(Fatal),
    /// The call cannot be right.
    Misuse(Misuse),
}

const _: () = assert!(size_of::<PostError>() == 2, "an error is two bytes, passed in a register");

impl From<Retry> for PostError {
    fn from(value: Retry) -> Self {
        Self::Retry(value)
    }
}

impl From<Fatal> for PostError {
    fn from(value: Fatal) -> Self {
        Self::Fatal(value)
    }
}

impl From<Misuse> for PostError {
    fn from(value: Misuse) -> Self {
        Self::Misuse(value)
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCredit => "no credit: the peer's lane has no free cell; poll and retry",
            Self::NoSpill => {
                "no credit: the peer's lane has no room for long messages; poll and retry"
            }
            Self::NoLane => {
                "no lane: the segment's lanes are all in use; retry, or create it with more"
            }
            Self::NoSlot => {
                "no slot: too many operations are posted; poll and retry, or raise the depth"
            }
            Self::RqFull => {
                "receive queue full: too many receives are posted; poll, or raise the depth"
            }
            Self::CqFull => "completion queue full: poll it",
            Self::AddressesFull => "address table full: remove an address, or open with more peers",
            Self::NotConnected => "not connected yet: poll until the connection is up",
            Self::PoolFull => {
                "pool full: all buffers of that class are in use; wait for a release, or create it with more"
            }
            Self::NoSendRoom => {
                "no send room: too much waits for that connection; retry when it is writable"
            }
            Self::SqFull => {
                "submission queue full: turn the ring and retry, or open it with more entries"
            }
            Self::WouldBlock => {
                "would block: another builder of that queue exists; finish or drop it, and retry"
            }
            Self::NoSocket => {
                "no socket: those that the host had opened are used up; have it open more, and retry"
            }
            Self::Injected => "injected shortage: retry",
        })
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerGone => "peer gone: its process ended or it closed the endpoint",
            Self::Corrupt => "corrupt: the other end wrote what no correct peer writes",
            Self::Refused => "refused: the other end did not take the connection",
            Self::Fenced => "fenced: this endpoint was marked dead; open it again",
            Self::RingLost => "ring lost: the kernel does not serve it any more; open another",
            Self::QueueError => {
                "queue in error: flush what is under way, then reset the queue pair or open another"
            }
            Self::Injected => "injected failure",
        })
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "message too long: see Info::message_bytes_max",
            Self::UnknownAddress => "unknown address: no peer in that row of the address table",
            Self::StaleAddress => {
                "stale address: that peer was removed or is gone; look it up again"
            }
            Self::Unsupported => "unsupported: the endpoint or its provider lacks that capability",
            Self::OpenChain => "open chain: the last of the entries must have no link",
            Self::UnknownFile => "unknown file: it was removed, or is of another service",
            Self::StaleOperation => "stale operation: it is over",
            Self::WqeTooLong => {
                "WQE too long: see SendConfig::wqe_blocks_max and RecvConfig::sge_max, or send fewer bytes inline"
            }
            Self::BadRange => {
                "bad range: give 1 byte to 2 GiB inside of the registered memory, and to an atomic operation as many as it has"
            }
            Self::UnalignedOffset => {
                "unaligned offset: direct I/O wants a multiple of FileShape::offset_align"
            }
            Self::UnalignedLength => {
                "unaligned length: direct I/O wants a multiple of FileShape::offset_align; fill the buffer up"
            }
            Self::UnalignedMemory => {
                "unaligned buffer: direct I/O wants a multiple of FileShape::memory_align; take one of Files::lend"
            }
            Self::ForeignKey => {
                "foreign key: name memory of a region that is registered in the protection domain of this queue pair"
            }
            Self::WrongPeer => "wrong peer: a connected endpoint talks to its one peer only",
        })
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(e) => e.fmt(f),
            Self::Fatal(e) => e.fmt(f),
            Self::Misuse(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Retry {}
impl core::error::Error for Fatal {}
impl core::error::Error for Misuse {}
impl core::error::Error for PostError {}

/// A refused call gives back what it was handed.
#[derive(Debug)]
pub struct Refused<T> {
    /// Why.
    pub error: PostError,
    /// What the caller handed in, untouched.
    pub item: T,
}

impl<T> Refused<T> {
    /// Pairs the reason with the item.
    pub fn new(error: impl Into<PostError>, item: T) -> Self {
        Self { error: error.into(), item }
    }
}

impl<T> From<Refused<T>> for PostError {
    /// The reason alone; the item is dropped.
    fn from(refused: Refused<T>) -> Self {
        refused.error
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug> core::error::Error for Refused<T> {}
