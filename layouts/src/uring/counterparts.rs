//! How the layouts of this room are called in C: in `linux/io_uring.h` and its like, and in the type information of a kernel.
//!
//! Reserved fields are listed because every new field was taken from them: an older header has more of them, or begins them
//! earlier.

use crate::describe::{Counterpart, Foreign};

/// The headers that have these structures, and each name that differs.
pub(super) const FOREIGN: Foreign = Foreign {
    headers: &["sys/socket.h", "netinet/in.h", "linux/io_uring.h"],
    package: "linux-libc-dev",
    is_kernel: true,
    names: NAMES,
    unconfirmed: MACROS_ONLY,
};

const NAMES: &[Counterpart] = &[
    Counterpart::new("Sqe", "struct io_uring_sqe")
        .members(&[("op_flags", "rw_flags"), ("reserved", "__pad2")])
        .reserved(&["reserved"]),
    Counterpart::new("Cqe", "struct io_uring_cqe"),
    // The kernel has one structure for both sizes of completion.
    Counterpart::new("Cqe32", "struct io_uring_cqe").flexible("big_cqe"),
    Counterpart::new("SqOffsets", "struct io_sqring_offsets").reserved(&["resv1"]),
    Counterpart::new("CqOffsets", "struct io_cqring_offsets").reserved(&["resv1"]),
    Counterpart::new("Params", "struct io_uring_params").reserved(&["resv"]),
    Counterpart::new("Buf", "struct io_uring_buf").reserved(&["resv"]),
    Counterpart::new("BufReg", "struct io_uring_buf_reg").reserved(&["resv"]),
    Counterpart::new("BufStatus", "struct io_uring_buf_status").reserved(&["resv"]),
    Counterpart::new("Probe", "struct io_uring_probe").reserved(&["resv", "resv2"]),
    Counterpart::new("ProbeOp", "struct io_uring_probe_op").reserved(&["resv", "resv2"]),
    Counterpart::new("FilesUpdate", "struct io_uring_files_update").reserved(&["resv"]),
    Counterpart::new("RsrcRegister", "struct io_uring_rsrc_register").reserved(&["resv2"]),
    Counterpart::new("RsrcUpdate", "struct io_uring_rsrc_update").reserved(&["resv"]),
    Counterpart::new("RsrcUpdate2", "struct io_uring_rsrc_update2").reserved(&["resv", "resv2"]),
    Counterpart::new("FileIndexRange", "struct io_uring_file_index_range").reserved(&["resv"]),
    Counterpart::new("Timespec", "struct __kernel_timespec"),
    Counterpart::new("SyncCancelReg", "struct io_uring_sync_cancel_reg").reserved(&["pad", "pad2"]),
    Counterpart::new("Napi", "struct io_uring_napi").reserved(&["pad", "resv"]),
    Counterpart::new("GetEventsArg", "struct io_uring_getevents_arg").reserved(&["pad"]),
    Counterpart::new("QueryHeader", "struct io_uring_query_hdr")
        .members(&[("resv", "__resv")])
        .reserved(&["resv"]),
    Counterpart::new("QueryOpcodes", "struct io_uring_query_opcode")
        .members(&[("pad", "__pad")])
        .reserved(&["pad"]),
    Counterpart::new("IoVec", "struct iovec"),
    // The kernel has one for itself and one for programs.
    Counterpart::new("MsgHdr", "struct msghdr")
        .in_kernel("struct user_msghdr")
        .ours_only(&["pad1", "pad2"]),
    Counterpart::new("RecvMsgOut", "struct io_uring_recvmsg_out"),
    Counterpart::new("SockAddrIn", "struct sockaddr_in"),
    Counterpart::new("SockAddrIn6", "struct sockaddr_in6"),
];

/// Macros younger than the header of Debian 12 (Linux 6.1). They were compared with the header of Linux 6.18 by eye; what most of
/// them do is seen in the tests of rings. Not seen anywhere are those of rings with mixed completions, of buffer rings that the
/// kernel maps, of messages between rings, POLL_FIRST, NO_CLOEXEC and the commands of drivers.
const MACROS_ONLY: &[&str] = &[
    "IORING_CQE_F_BUF_MORE",
    "IORING_CQE_F_SKIP",
    "IORING_CQE_F_32",
    "IORING_OFF_PBUF_RING",
    "IORING_OFF_PBUF_SHIFT",
    "IORING_ACCEPT_DONTWAIT",
    "IORING_ACCEPT_POLL_FIRST",
    "IORING_RECVSEND_BUNDLE",
    "IORING_SEND_VECTORIZED",
    "IORING_TIMEOUT_MULTISHOT",
    "IORING_MSG_RING_FLAGS_PASS",
    "IORING_FIXED_FD_NO_CLOEXEC",
    "IORING_NOP_INJECT_RESULT",
    "IORING_NOP_FILE",
    "IORING_NOP_FIXED_FILE",
    "IORING_NOP_FIXED_BUFFER",
    "IORING_NOP_TW",
    "IORING_NOP_CQE32",
    "IORING_URING_CMD_MULTISHOT",
];
