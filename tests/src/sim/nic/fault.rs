//! What a driver can do wrong that a device would take badly, or not notice at all.

use core::fmt;

/// Something that a driver must never do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A doorbell exposes a basic block that was written a lap of the ring ago, or more.
    StaleBlock,
    /// The index in a control segment is not that of its first block, in this lap or another.
    WrongIndex,
    /// Record and doorbell register name different ends of the queue.
    RecordMismatch,
    /// The record has moved, and nobody rang.
    RecordWithoutDoorbell,
    /// The record went backwards.
    RecordBackwards,
    /// The record has bits that no counter has.
    RecordTooWide,
    /// More is published than the ring holds: blocks are used again whose completion nobody could have seen.
    Overrun,
    /// A doorbell of a queue that is not there, or of another one.
    UnknownQueue,
    /// The control segment names another queue.
    WrongQpn,
    /// The size in units of 16 bytes is 0, too large, or not what the segments need.
    BadSize,
    /// No such opcode, or not on this kind of queue.
    BadOpcode,
    /// No such modifier of the opcode.
    BadModifier,
    /// Fence or completion bits that are not defined.
    BadFlags,
    /// A field that is reserved and not zero, by its byte.
    Reserved(u16),
    /// An inline header without data, or longer than the queue takes or the entry is.
    BadInline,
    /// A data segment of no bytes, which a device reads as 2 GiB, or of more.
    BadData,
    /// An address vector that no device understands.
    BadVector,
    /// An entry was changed after it was published.
    ChangedAfterDoorbell,
    /// What was written to the register is not what is in the ring.
    RegisterDiffers,
    /// An entry was written through the register while others were before it.
    RegisterOfBatch,
    /// The same half of the register twice in a row.
    SameHalfTwice,
    /// Memory was changed that was still to be sent.
    PayloadChanged,
    /// Completions without room for them.
    CqOverrun,
    /// The consumer's record of a completion queue names what was not written, or went backwards.
    CqRecord,
    /// More receives are posted than the ring holds.
    RecvOverrun,
    /// The list of a shared receive queue leads to an entry that is not there, or that is in use.
    BadNext,
}

/// A fault, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The node.
    pub node: usize,
    /// The queue pair, or the number of another queue.
    pub queue: u32,
    /// The index in that queue.
    pub index: u16,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {}, queue {:#x}, index {:#06x}: {:?}",
            self.node, self.queue, self.index, self.fault
        )
    }
}

/// What an error completion says (`MLX5_CQE_SYNDROME_*` in mlx5dv.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syndrome {
    /// The message is longer than what is posted for it.
    LocalLength,
    /// The entry makes no sense.
    LocalOperation,
    /// A local key does not allow it.
    LocalProtection,
    /// The queue was in error before.
    Flush,
    /// A memory window or key could not be bound.
    Bind,
    /// The other end did not understand, or had too little room.
    RemoteInvalidRequest,
    /// A remote key does not allow it.
    RemoteAccess,
    /// The other end failed on its own.
    RemoteOperation,
    /// Nobody has answered.
    TransportRetry,
    /// The other end had no receive, for too long.
    RnrRetry,
}

impl Syndrome {
    /// As it stands in the entry.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::LocalLength => 0x01,
            Self::LocalOperation => 0x02,
            Self::LocalProtection => 0x04,
            Self::Flush => 0x05,
            Self::Bind => 0x06,
            Self::RemoteInvalidRequest => 0x12,
            Self::RemoteAccess => 0x13,
            Self::RemoteOperation => 0x14,
            Self::TransportRetry => 0x15,
            Self::RnrRetry => 0x16,
        }
    }
}
