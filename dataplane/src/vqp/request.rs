//! What a caller asks for, and what it hears.

use super::refusal::Cause;
use super::region::RegionId;

/// Segments of one request at most.
pub const SGE_MAX: u32 = 4;

/// A range of a local region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sge {
    /// Which region.
    pub region: RegionId,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes of the range.
    pub length: u64,
}

/// A place in a region of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Which region.
    pub region: RegionId,
    /// Bytes from its start.
    pub offset: u64,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Write to the peer's memory.
    Write,
    /// Write, and complete a receive of the peer with this immediate once all of it is there.
    WriteImm(u32),
    /// Write, and complete a receive of the peer once all of it is there. The only write that DQPLB carries.
    WriteNotify,
    /// Read from the peer's memory.
    Read,
    /// Send into a receive of the peer, in one message.
    Send,
    /// The same, with an immediate.
    SendImm(u32),
    /// Add to 8 bytes of the peer's memory; what was there goes to the segment.
    FetchAdd(u64),
    /// Replace 8 bytes of the peer's memory if they are as expected; what was there goes to the segment.
    CompareSwap {
        /// What must be there.
        expected: u64,
        /// What is put there.
        swap: u64,
    },
}

impl Op {
    /// Whether doing it a second time changes nothing, as long as nobody else writes there.
    pub(super) const fn is_idempotent(self) -> bool {
        matches!(self, Self::Write | Self::WriteImm(_) | Self::WriteNotify | Self::Read)
    }

    /// Whether it may be cut into fragments.
    pub(super) const fn is_divisible(self) -> bool {
        self.is_idempotent()
    }

    pub(super) const fn is_send(self) -> bool {
        matches!(self, Self::Send | Self::SendImm(_))
    }

    pub(super) const fn is_atomic(self) -> bool {
        matches!(self, Self::FetchAdd(_) | Self::CompareSwap { .. })
    }

    pub(super) const fn notifies(self) -> bool {
        matches!(self, Self::WriteImm(_) | Self::WriteNotify)
    }
}

/// Whether a request that succeeds is reported. One that fails always is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// It is.
    Always,
    /// It is not.
    OnError,
}

/// A request to send, write, read or compute.
#[derive(Clone, Copy, Debug)]
pub struct SendWr<'a> {
    /// The caller's own number; comes back in the completion.
    pub context: u64,
    /// What to do.
    pub op: Op,
    /// Local memory in order. None at all is a length of zero.
    pub sges: &'a [Sge],
    /// The peer's memory, for all but sends.
    pub remote: Option<Remote>,
    /// Whether success is reported.
    pub signal: Signal,
}

/// What a receive is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecvKind {
    /// A send of the peer. The segments are where it goes.
    Buffer,
    /// A [`Op::WriteImm`] or [`Op::WriteNotify`] of the peer. There are no segments.
    Notification,
}

/// A request to receive.
#[derive(Clone, Copy, Debug)]
pub struct RecvWr<'a> {
    /// The caller's own number; comes back in the completion.
    pub context: u64,
    /// What it is for.
    pub kind: RecvKind,
    /// Local memory in order.
    pub sges: &'a [Sge],
}

/// To which of the two queues of a queue pair something belongs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Sends, writes, reads, atomics.
    Send,
    /// Receives.
    Recv,
}

/// What a request has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Of a send request the bytes of all its fragments. Of a receive the bytes that came: of a notification those of the
    /// write, except in SPRAY, where the notification itself has none.
    pub bytes: u64,
    /// The peer's immediate, where it had one.
    pub immediate: Option<u32>,
}

/// A request is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The virtual queue pair, by the number that [`VirtualCq::attach`](super::VirtualCq::attach) gave it.
    pub vqp: u32,
    /// Which of its queues.
    pub direction: Direction,
    /// The caller's own number.
    pub context: u64,
    /// What was done, or the first cause why not.
    pub outcome: Result<Done, Cause>,
}
