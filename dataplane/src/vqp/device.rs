//! What lies below: queue pairs and completion queues of a device, whichever that is.
//!
//! A provider of verbs, one that writes the queues of a device itself, and a simulator all fit behind these two traits. The
//! invariants that they promise:
//! 1. A send is completed in the order in which it was posted *on its queue pair*, each exactly once, if at all. So is a
//!    receive. Between queue pairs there is no order.
//! 2. Of what was staged, a doorbell publishes a prefix, and says of how many items. The others are forgotten: the
//!    device will neither execute nor complete them.
//! 3. Work of a completion that failed may have been executed, in part or not at all.
//!
//! Who breaks the first is found out (`tests` plant duplicates, late ones and gaps) and costs that queue pair, not its neighbours.

use heapless::VecView;

use crate::error::PostError;
use crate::id::WrId;
use crate::provider::Published;

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

/// What a device is asked to do. The words are those of `ibv_post_send(3)`.
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

/// One work request for the send queue. Each is to be signaled: every one is completed by a [`Wc`].
#[derive(Clone, Copy, Debug)]
pub struct PhysicalSend<'a, K> {
    /// Comes back in the completion.
    pub wr_id: WrId,
    /// What to do.
    pub verb: Verb,
    /// Local memory, gathered or scattered in this order. Never a null pointer, also where it is empty.
    pub segments: &'a [Segment<K>],
    /// Remote memory, for all but sends.
    pub remote: Option<RemotePlace>,
}

/// One work request for the receive queue.
#[derive(Clone, Copy, Debug)]
pub struct PhysicalRecv<'a, K> {
    /// Comes back in the completion.
    pub wr_id: WrId,
    /// Where a message goes. Empty where only an immediate is expected.
    pub segments: &'a [Segment<K>],
}

/// A queue pair of a device. One thread owns it.
pub trait PhysicalQp {
    /// What lets the device into local memory. Whoever makes such a value promises that the memory stays registered and may
    /// be written by the device as long as the queue pair lives; it is the capability, and this room only passes it on.
    type Key: Copy;

    /// What it can take.
    fn limits(&self) -> Limits;

    /// Its number on its device.
    fn qp_num(&self) -> u32;

    /// Stages a send.
    ///
    /// # Errors
    /// Nothing was staged: `Retry` where there is no room just now, anything else where this queue pair is done.
    fn post_send(&self, send: &PhysicalSend<'_, Self::Key>) -> Result<(), PostError>;

    /// Stages a receive.
    ///
    /// # Errors
    /// As of [`post_send`](PhysicalQp::post_send).
    fn post_recv(&self, recv: &PhysicalRecv<'_, Self::Key>) -> Result<(), PostError>;

    /// Hands what was staged to the device: says of how many sends since the last doorbell, exactly.
    fn ring_doorbell(&self) -> Published;

    /// The same for receives.
    fn ring_recv_doorbell(&self) -> Published;
}

impl<P: PhysicalQp + ?Sized> PhysicalQp for &P {
    type Key = P::Key;

    #[inline]
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    #[inline]
    fn qp_num(&self) -> u32 {
        (**self).qp_num()
    }

    #[inline]
    fn post_send(&self, send: &PhysicalSend<'_, Self::Key>) -> Result<(), PostError> {
        (**self).post_send(send)
    }

    #[inline]
    fn post_recv(&self, recv: &PhysicalRecv<'_, Self::Key>) -> Result<(), PostError> {
        (**self).post_recv(recv)
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        (**self).ring_doorbell()
    }

    #[inline]
    fn ring_recv_doorbell(&self) -> Published {
        (**self).ring_recv_doorbell()
    }
}

/// A completion queue of a device. One thread owns it.
pub trait PhysicalCq {
    /// Completions that it has room for.
    fn depth(&self) -> u32;

    /// Appends completions to `out` until there are no more or it is full.
    fn poll_cq(&self, out: &mut VecView<Wc>);
}

impl<C: PhysicalCq + ?Sized> PhysicalCq for &C {
    #[inline]
    fn depth(&self) -> u32 {
        (**self).depth()
    }

    #[inline]
    fn poll_cq(&self, out: &mut VecView<Wc>) {
        (**self).poll_cq(out);
    }
}

/// How a work request ended: the numbers of `enum ibv_wc_status` (`ibv_poll_cq(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WcStatus(u8);

impl WcStatus {
    /// It was done.
    pub const SUCCESS: Self = Self(0);
    /// The queue pair was in error already.
    pub const FLUSHED: Self = Self(5);
    /// The peer's memory was not to be accessed like that.
    pub const REMOTE_ACCESS: Self = Self(10);
    /// The peer did not answer.
    pub const RETRY_EXCEEDED: Self = Self(12);
    /// The peer had no receive posted for too long.
    pub const RNR_EXCEEDED: Self = Self(13);

    /// The status of that number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        Self(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn as_raw(self) -> u8 {
        self.0
    }
}

impl core::fmt::Display for WcStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = match self.0 {
            0 => "success",
            1 => "local length error",
            2 => "local queue pair error",
            4 => "local protection error",
            5 => "flushed",
            7 => "bad response",
            8 => "local access error",
            9 => "remote invalid request",
            10 => "remote access error",
            11 => "remote operation error",
            12 => "retries exceeded",
            13 => "receiver-not-ready retries exceeded",
            other => return write!(f, "status {other}"),
        };
        f.write_str(name)
    }
}

/// Everything that a device writes into a completion, whether it means anything or not.
#[derive(Clone, Copy, Debug)]
pub struct WcFields {
    /// The id that the work request had.
    pub wr_id: u64,
    /// The number of the queue pair.
    pub qp_num: u32,
    /// How it ended.
    pub status: WcStatus,
    /// The device's own number of the error.
    pub vendor: u32,
    /// Bytes received; undefined where the status is not success.
    pub byte_len: u32,
    /// The immediate, where there is one; undefined where the status is not success.
    pub immediate: Option<u32>,
}

/// A completion. Of one that failed, only id, queue pair, status and the device's own number are defined, and only those can
/// be asked for: what was done (an opcode, a direction) is not in it at all, because the queue that it belongs to knows.
#[derive(Clone, Copy, Debug)]
pub struct Wc(WcFields);

/// What a completion without error says of a receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes received.
    pub bytes: u32,
    /// The immediate, where one came along.
    pub immediate: Option<u32>,
}

impl Wc {
    /// A completion as the device wrote it.
    #[inline]
    #[must_use]
    pub const fn new(fields: WcFields) -> Self {
        Self(fields)
    }

    /// The id of the work request.
    #[inline]
    #[must_use]
    pub const fn wr_id(&self) -> WrId {
        WrId::from_raw(self.0.wr_id)
    }

    /// The queue pair.
    #[inline]
    #[must_use]
    pub const fn qp_num(&self) -> u32 {
        self.0.qp_num
    }

    /// How it ended. The status is looked at before anything else.
    ///
    /// # Errors
    /// The status, where it is not success, and the device's own number.
    #[inline]
    pub const fn outcome(&self) -> Result<Received, (WcStatus, u32)> {
        if self.0.status.0 == WcStatus::SUCCESS.0 {
            Ok(Received { bytes: self.0.byte_len, immediate: self.0.immediate })
        } else {
            Err((self.0.status, self.0.vendor))
        }
    }
}
