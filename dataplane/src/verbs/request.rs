//! What a device is asked to do.

use crate::id::WrId;

/// What a queue pair can take. Fixed when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sends that may be posted and not yet completed.
    pub send_depth: u32,
    /// Receives that may be posted and not yet completed.
    pub recv_depth: u32,
    /// Segments of one work request.
    pub sge_max: u32,
    /// Bytes of the longest message. `InfiniBand` devices have 2^31 at most.
    pub message_bytes_max: u32,
    /// Bytes that a send or write may carry within its work request, so that its memory is the caller's again after the doorbell.
    pub inline_bytes_max: u32,
}

/// A range of local memory, in the words of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<K> {
    /// Where it begins, as the device addresses it.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
    /// The key that lets this device into it.
    pub key: K,
}

/// A place in the peer's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemotePlace {
    /// Where it begins.
    pub address: u64,
    /// The key that the peer gave for the device at the other end of this queue pair.
    pub key: u32,
}

/// To whom a datagram goes: on queue pairs of type UD alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The number of an address handle in the table of the queue pair.
    pub handle: u32,
    /// The peer's queue pair.
    pub qp_num: u32,
    /// The key that the peer's queue pair expects.
    pub qkey: u32,
}

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Write to remote memory.
    Write,
    /// Write to remote memory, and complete a receive of the peer with this immediate.
    WriteImm(u32),
    /// Read from remote memory.
    Read,
    /// Send into a receive of the peer.
    Send,
    /// The same, with an immediate.
    SendImm(u32),
    /// The same, and revoke a key that the peer has given out.
    SendInvalidate(u32),
    /// Add to 8 bytes of remote memory; what was there before goes to the local segment.
    FetchAdd(u64),
    /// Replace 8 bytes of remote memory if they are as expected; what was there goes to the local segment.
    CompareSwap {
        /// What must be there.
        expected: u64,
        /// What is put there.
        swap: u64,
    },
}

impl Verb {
    /// Whether it names memory of the peer.
    #[must_use]
    #[inline]
    pub const fn is_one_sided(self) -> bool {
        !matches!(self, Self::Send | Self::SendImm(_) | Self::SendInvalidate(_))
    }

    /// Whether it brings bytes into local memory.
    #[must_use]
    #[inline]
    pub const fn writes_local_memory(self) -> bool {
        matches!(self, Self::Read | Self::FetchAdd(_) | Self::CompareSwap { .. })
    }
}

/// How an operation is to be done. The default: signaled, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendFlags {
    /// It begins when earlier reads and atomics of its queue pair have ended (`IBV_SEND_FENCE`).
    pub fence: bool,
    /// The peer's completion is a solicited event (`IBV_SEND_SOLICITED`).
    pub solicited: bool,
    /// No completion unless it fails. The next signaled one of its queue pair tells that it is done.
    pub unsignaled: bool,
}

/// One work request for the send queue.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a, K> {
    /// Comes back in the completion.
    pub wr_id: WrId,
    /// What to do.
    pub verb: Verb,
    /// How.
    pub flags: SendFlags,
    /// Local memory, gathered or scattered in this order. Never a null pointer, also where it is empty.
    pub segments: &'a [Segment<K>],
    /// Remote memory, for all but sends.
    pub remote: Option<RemotePlace>,
    /// The receiver, for datagrams.
    pub destination: Option<Destination>,
}

impl<'a, K> SendRequest<'a, K> {
    /// A signaled request without remote memory and without destination.
    #[must_use]
    #[inline]
    pub const fn new(wr_id: WrId, verb: Verb, segments: &'a [Segment<K>]) -> Self {
        let flags = SendFlags { fence: false, solicited: false, unsignaled: false };
        Self { wr_id, verb, flags, segments, remote: None, destination: None }
    }

    /// The same, on memory of the peer.
    #[must_use]
    #[inline]
    pub const fn at(self, remote: RemotePlace) -> Self {
        Self { remote: Some(remote), ..self }
    }

    /// The same, to that receiver of datagrams.
    #[must_use]
    #[inline]
    pub const fn to(self, destination: Destination) -> Self {
        Self { destination: Some(destination), ..self }
    }

    /// The same, with other flags.
    #[must_use]
    #[inline]
    pub const fn with(self, flags: SendFlags) -> Self {
        Self { flags, ..self }
    }
}

/// One work request for the receive queue.
#[derive(Clone, Copy, Debug)]
pub struct RecvRequest<'a, K> {
    /// Comes back in the completion.
    pub wr_id: WrId,
    /// Where a message goes. Empty where only an immediate is expected. Datagrams put 40 bytes of header in front of it
    /// (`ibv_post_recv(3)`).
    pub segments: &'a [Segment<K>],
}
