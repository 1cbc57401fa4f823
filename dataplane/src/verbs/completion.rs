//! What a device says when it is done.

use crate::id::WrId;

/// How a work request ended: the numbers of `enum ibv_wc_status` (`ibv_poll_cq(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WcStatus(u8);

impl WcStatus {
    /// It was done.
    pub const SUCCESS: Self = Self(0);
    /// The queue pair was in error already.
    pub const FLUSHED: Self = Self(5);
    /// The peer's device found the request to be none that can be done: an atomic operation on memory that is not aligned, say.
    pub const REMOTE_INVALID_REQUEST: Self = Self(9);
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
            3 => "local context error",
            4 => "local protection error",
            5 => "flushed",
            6 => "memory window bind error",
            7 => "bad response",
            8 => "local access error",
            9 => "remote invalid request",
            10 => "remote access error",
            11 => "remote operation error",
            12 => "retries exceeded",
            13 => "receiver-not-ready retries exceeded",
            16 => "remote aborted",
            19 => "fatal device error",
            20 => "response timeout",
            21 => "general error",
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
    /// Whether the peer has written to memory that it was let into, so that the receive holds nothing; undefined where the status is not
    /// success.
    pub is_written: bool,
    /// Who sent a datagram, 0 where it has come without a route; undefined where the status is not success.
    pub source_qp: u32,
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
    /// Whether it came with a write of the peer's to other memory: then the receive holds nothing, and `bytes` were written there.
    pub is_written: bool,
    /// The queue pair that sent it, for datagrams: 0, which sends no messages, where the 40 bytes in front were not written and tell nobody. Of anything
    /// else no meaning.
    pub source_qp: u32,
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
            Ok(Received {
                bytes: self.0.byte_len,
                immediate: self.0.immediate,
                is_written: self.0.is_written,
                source_qp: self.0.source_qp,
            })
        } else {
            Err((self.0.status, self.0.vendor))
        }
    }
}
