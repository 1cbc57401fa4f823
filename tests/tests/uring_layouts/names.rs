//! How the layouts are called in C.

use spinwire_layouts::describe::{FieldLayout, StructLayout};

/// The structure of `linux/io_uring.h` and its like that a layout stands for.
pub(crate) fn c_struct(layout: &str) -> &'static str {
    match layout {
        "Sqe" => "struct io_uring_sqe",
        "Cqe" | "Cqe32" => "struct io_uring_cqe",
        "SqOffsets" => "struct io_sqring_offsets",
        "CqOffsets" => "struct io_cqring_offsets",
        "Params" => "struct io_uring_params",
        "Buf" => "struct io_uring_buf",
        "BufReg" => "struct io_uring_buf_reg",
        "BufStatus" => "struct io_uring_buf_status",
        "Probe" => "struct io_uring_probe",
        "ProbeOp" => "struct io_uring_probe_op",
        "FilesUpdate" => "struct io_uring_files_update",
        "RsrcRegister" => "struct io_uring_rsrc_register",
        "RsrcUpdate" => "struct io_uring_rsrc_update",
        "RsrcUpdate2" => "struct io_uring_rsrc_update2",
        "FileIndexRange" => "struct io_uring_file_index_range",
        "Timespec" => "struct __kernel_timespec",
        "SyncCancelReg" => "struct io_uring_sync_cancel_reg",
        "Napi" => "struct io_uring_napi",
        "GetEventsArg" => "struct io_uring_getevents_arg",
        "QueryHeader" => "struct io_uring_query_hdr",
        "QueryOpcodes" => "struct io_uring_query_opcode",
        "IoVec" => "struct iovec",
        "MsgHdr" => "struct msghdr",
        "RecvMsgOut" => "struct io_uring_recvmsg_out",
        "SockAddrIn" => "struct sockaddr_in",
        "SockAddrIn6" => "struct sockaddr_in6",
        other => panic!("{other} has no name in C here"),
    }
}

/// The field in C that a field of a layout stands for.
pub(crate) fn c_field(layout: &StructLayout, field: &FieldLayout) -> &'static str {
    match (layout.name, field.name) {
        ("Sqe", "op_flags") => "rw_flags",
        ("Sqe", "reserved") => "__pad2",
        ("QueryHeader", "resv") => "__resv",
        ("QueryOpcodes", "pad") => "__pad",
        (_, name) => name,
    }
}

/// Is this a field that nobody uses? Older headers have others under the same name, since every new field was taken from them.
pub(crate) fn is_unused(property: &str) -> bool {
    let field = property.trim_end_matches('|').rsplit_once('.').map_or("", |(_structure, f)| f);
    ["__", "pad", "resv"].iter().any(|start| field.starts_with(start))
}

/// Macros younger than the header of Debian 12 (Linux 6.1). They were compared with the header of Linux 6.18 by eye; what most of
/// them do is seen in `host_uring`. Not seen anywhere are those of rings with mixed completions, of buffer rings that the kernel
/// maps, of messages between rings, POLL_FIRST, NO_CLOEXEC and the commands of drivers.
pub(crate) const MACROS_ONLY: &[&str] = &[
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
