//! Flags of single operations.

numbers! {
    /// Flags of an accept, for [`Sqe::ioprio`](crate::uring::Sqe::ioprio).
    pub mod accept: u16 "IORING_ACCEPT_" {
        /// Accepts again and again: one completion a connection.
        MULTISHOT = 1;
        /// Fails where nobody waits to be accepted. Linux 6.10.
        DONTWAIT = 1 << 1;
        /// Waits first, without trying. Linux 6.10.
        POLL_FIRST = 1 << 2;
    }

    /// Flags of sends and receives, for [`Sqe::ioprio`](crate::uring::Sqe::ioprio).
    pub mod recvsend: u16 "IORING_RECVSEND_" {
        /// Waits until the socket is ready first, without trying.
        POLL_FIRST = 1;
        /// Receives again and again, into provided buffers: one completion a buffer.
        RECV_MULTISHOT = 1 << 1, "IORING_RECV_MULTISHOT";
        /// The memory is part of the registered buffer `buf_index`.
        FIXED_BUF = 1 << 2;
        /// The notification says whether the bytes were copied after all:
        /// [`notification`](crate::uring::notification).
        SEND_ZC_REPORT_USAGE = 1 << 3, "IORING_SEND_ZC_REPORT_USAGE";
        /// One completion for several provided buffers. Linux 6.10.
        BUNDLE = 1 << 4;
        /// `addr` is a vector of pieces. Linux 6.17.
        SEND_VECTORIZED = 1 << 5, "IORING_SEND_VECTORIZED";
    }

    /// What a notification says in [`Cqe::res`](crate::uring::Cqe::res), where it was asked to.
    pub mod notification: u32 "IORING_NOTIF_USAGE_" {
        /// Bytes were copied, at least some of them.
        ZC_COPIED = 1 << 31;
    }

    /// Flags of an fsync, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod fsync: u32 "IORING_FSYNC_" {
        /// As fdatasync(2).
        DATASYNC = 1;
    }

    /// Flags of timeouts, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod timeout: u32 "IORING_TIMEOUT_" {
        /// A point in time, not a span.
        ABS = 1;
        /// Changes a timeout.
        UPDATE = 1 << 1;
        /// By CLOCK_BOOTTIME.
        BOOTTIME = 1 << 2;
        /// By CLOCK_REALTIME.
        REALTIME = 1 << 3;
        /// Changes the timeout of a linked entry.
        LINK_UPDATE = 1 << 4, "IORING_LINK_TIMEOUT_UPDATE";
        /// That the time is over is a success.
        ETIME_SUCCESS = 1 << 5;
        /// Again and again. Linux 6.4.
        MULTISHOT = 1 << 6;
    }

    /// What a cancel looks for, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod cancel: u32 "IORING_ASYNC_CANCEL_" {
        /// All that match, not the first.
        ALL = 1, "IORING_ASYNC_CANCEL_ALL";
        /// By file.
        FD = 1 << 1;
        /// Any.
        ANY = 1 << 2;
        /// The file is a slot of the table of registered files.
        FD_FIXED = 1 << 3;
        /// By `user_data`, with other keys. Linux 6.6.
        USERDATA = 1 << 4;
        /// By operation. Linux 6.6.
        OP = 1 << 5;
    }

    /// Flags of a poll, for [`Sqe::len`](crate::uring::Sqe::len).
    pub mod poll: u32 "IORING_POLL_" {
        /// Again and again.
        ADD_MULTI = 1;
        /// Changes what is waited for.
        UPDATE_EVENTS = 1 << 1;
        /// Changes the `user_data`.
        UPDATE_USER_DATA = 1 << 2;
        /// As long as the file is ready, not when it becomes so.
        ADD_LEVEL = 1 << 3;
    }

    /// Flags of splices, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod splice: u32 "SPLICE_F_" {
        /// The file to read from is a slot of the table of registered files.
        FD_IN_FIXED = 1 << 31;
    }

    /// Commands ([`Sqe::addr`](crate::uring::Sqe::addr)) and flags
    /// ([`Sqe::op_flags`](crate::uring::Sqe::op_flags)) of messages between rings.
    pub mod message_ring: u32 "IORING_MSG_" {
        /// Command: `len` and `off` become the result and the `user_data`.
        DATA = 0;
        /// Command: a registered file goes to the other ring.
        SEND_FD = 1;
        /// Flag: no completion in the other ring.
        RING_CQE_SKIP = 1;
        /// Flag: `file_index` becomes the flags of the completion. Linux 6.3.
        RING_FLAGS_PASS = 1 << 1;
    }

    /// Flags of FIXED_FD_INSTALL, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod install: u32 "IORING_FIXED_FD_" {
        /// The descriptor survives an execve(2).
        NO_CLOEXEC = 1;
    }

    /// Flags of a NOP, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags). Before Linux 6.11 they are not
    /// looked at.
    pub mod nop: u32 "IORING_NOP_" {
        /// `len` becomes the result.
        INJECT_RESULT = 1;
        /// Takes the file `fd`. Linux 6.13.
        FILE = 1 << 1;
        /// `fd` is a slot of the table of registered files. Linux 6.13.
        FIXED_FILE = 1 << 2;
        /// Takes the registered buffer `buf_index`. Linux 6.13.
        FIXED_BUFFER = 1 << 3;
        /// Completes as task work. Linux 6.16.
        TW = 1 << 4;
        /// Posts a completion of 32 bytes. Linux 6.18.
        CQE32 = 1 << 5;
    }

    /// Flags of a driver's command, for [`Sqe::op_flags`](crate::uring::Sqe::op_flags).
    pub mod uring_cmd: u32 "IORING_URING_CMD_" {
        /// The memory is part of the registered buffer `buf_index`.
        FIXED = 1;
        /// Again and again. Linux 6.18.
        MULTISHOT = 1 << 1;
    }

    /// What a registration of busy polling does, for
    /// [`Napi::opcode`](crate::uring::Napi::opcode). Linux 6.13.
    pub mod napi_op: u8 "IO_URING_NAPI_" {
        /// Sets it up.
        REGISTER_OP = 0;
        /// Adds a queue.
        STATIC_ADD_ID = 1;
        /// Removes a queue.
        STATIC_DEL_ID = 2;
    }

    /// Which network queues are polled, for [`Napi::op_param`](crate::uring::Napi::op_param). Linux 6.13.
    pub mod napi_tracking: u32 "IO_URING_NAPI_TRACKING_" {
        /// Those of the sockets in use.
        DYNAMIC = 0;
        /// Those that were added.
        STATIC = 1;
        /// None.
        INACTIVE = 255;
    }
}
