//! Registrations: what a ring is told once, so that single operations need not say it
//! (io_uring_register(2)).

layout! {
    /// `struct io_uring_buf`: one entry of a ring of provided buffers. In entry 0 the last field is
    /// the tail of the ring (`struct io_uring_buf_ring`): entries before it are the kernel's.
    pub struct Buf, size 16, align 8 {
        /// Where the buffer lies.
        pub addr: u64 @ 0,
        /// Its bytes.
        pub len: u32 @ 8,
        /// Its id, which comes back in the upper half of the flags of a completion.
        pub bid: u16 @ 12,
        /// In entry 0 the tail of the ring, which only the process writes; else unused.
        pub resv: u16 @ 14,
    }
}

layout! {
    /// `struct io_uring_buf_reg`: a ring of provided buffers, for [`register::PBUF_RING`].
    pub struct BufReg, size 40, align 8 {
        /// Where the ring lies: a multiple of the page size. Zero with
        /// [`buffer_ring::MMAP`].
        pub ring_addr: u64 @ 0,
        /// Entries: a power of two, at most 32768.
        pub ring_entries: u32 @ 8,
        /// The number of the group.
        pub bgid: u16 @ 12,
        /// Bits of [`buffer_ring`]. Must be zero before Linux 6.4.
        pub flags: u16 @ 14,
        /// With [`buffer_ring::INC`]: how many bytes must be left in a buffer for it to be used on.
        /// Must be zero where the kernel does not know it.
        pub min_left: u32 @ 16,
        /// Zero.
        pub resv: [u32; 5] @ 20,
    }
}

layout! {
    /// `struct io_uring_buf_status`: how far the kernel is in a ring of buffers, for
    /// [`register::PBUF_STATUS`].
    pub struct BufStatus, size 40, align 4 {
        /// The number of the group.
        pub buf_group: u32 @ 0,
        /// Entries that the kernel has taken, modulo 2^16.
        pub head: u32 @ 4,
        /// Zero.
        pub resv: [u32; 8] @ 8,
    }
}

layout! {
    /// `struct io_uring_probe`: the answer of [`register::PROBE`], followed by [`ProbeOp`]s. All zero
    /// before the call.
    pub struct Probe, size 16, align 4 {
        /// The greatest opcode.
        pub last_op: u8 @ 0,
        /// How many [`ProbeOp`]s follow.
        pub ops_len: u8 @ 1,
        /// Zero.
        pub resv: u16 @ 2,
        /// Zero.
        pub resv2: [u32; 3] @ 4,
    }
}

layout! {
    /// `struct io_uring_probe_op`: whether there is an operation.
    pub struct ProbeOp, size 8, align 4 {
        /// The opcode.
        pub op: u8 @ 0,
        /// Zero.
        pub resv: u8 @ 1,
        /// Bits of [`probe`].
        pub flags: u16 @ 2,
        /// Zero.
        pub resv2: u32 @ 4,
    }
}

layout! {
    /// `struct io_uring_files_update`: new files for slots of the table, for [`register::FILES_UPDATE`].
    pub struct FilesUpdate, size 16, align 8 {
        /// The first slot.
        pub offset: u32 @ 0,
        /// Zero.
        pub resv: u32 @ 4,
        /// Where the descriptors lie: an array of `i32`; -1 empties a slot, -2 leaves it alone.
        pub fds: u64 @ 8,
    }
}

layout! {
    /// `struct io_uring_rsrc_register`: a table of files or buffers, for [`register::FILES2`] and
    /// [`register::BUFFERS2`].
    pub struct RsrcRegister, size 32, align 8 {
        /// Slots.
        pub nr: u32 @ 0,
        /// Bits of [`rsrc`].
        pub flags: u32 @ 4,
        /// Zero.
        pub resv2: u64 @ 8,
        /// Where the descriptors or vectors lie; zero for an empty table.
        pub data: u64 @ 16,
        /// Where the tags lie, or zero.
        pub tags: u64 @ 24,
    }
}

layout! {
    /// `struct io_uring_rsrc_update`: one slot and what goes there, for [`register::RING_FDS`].
    pub struct RsrcUpdate, size 16, align 8 {
        /// The slot; all ones: the kernel chooses, and writes it here.
        pub offset: u32 @ 0,
        /// Zero.
        pub resv: u32 @ 4,
        /// The descriptor of the ring.
        pub data: u64 @ 8,
    }
}

layout! {
    /// `struct io_uring_rsrc_update2`: new contents for slots, for [`register::FILES_UPDATE2`] and
    /// [`register::BUFFERS_UPDATE`].
    pub struct RsrcUpdate2, size 32, align 8 {
        /// The first slot.
        pub offset: u32 @ 0,
        /// Zero.
        pub resv: u32 @ 4,
        /// Where the descriptors or vectors lie.
        pub data: u64 @ 8,
        /// Where the tags lie, or zero.
        pub tags: u64 @ 16,
        /// Slots.
        pub nr: u32 @ 24,
        /// Zero.
        pub resv2: u32 @ 28,
    }
}

layout! {
    /// `struct io_uring_file_index_range`: slots that the kernel may choose, for
    /// [`register::FILE_ALLOC_RANGE`].
    pub struct FileIndexRange, size 16, align 8 {
        /// The first slot.
        pub off: u32 @ 0,
        /// Slots.
        pub len: u32 @ 4,
        /// Zero.
        pub resv: u64 @ 8,
    }
}

layout! {
    /// `struct __kernel_timespec`: a time, for timeouts.
    pub struct Timespec, size 16, align 8 {
        /// Seconds.
        pub tv_sec: i64 @ 0,
        /// Nanoseconds: 0 to 999,999,999.
        pub tv_nsec: i64 @ 8,
    }
}

layout! {
    /// `struct io_uring_sync_cancel_reg`: what to cancel, for [`register::SYNC_CANCEL`].
    pub struct SyncCancelReg, size 64, align 8 {
        /// The `user_data` of what is to be cancelled.
        pub addr: u64 @ 0,
        /// The file, with [`cancel::FD`](super::cancel::FD).
        pub fd: i32 @ 8,
        /// Bits of [`cancel`](super::cancel).
        pub flags: u32 @ 12,
        /// How long to wait; both parts -1: for ever.
        pub timeout: Timespec @ 16,
        /// The operation, with [`cancel::OP`](super::cancel::OP). Must be zero before Linux 6.6.
        pub opcode: u8 @ 32,
        /// Zero.
        pub pad: [u8; 7] @ 33,
        /// Zero.
        pub pad2: [u64; 3] @ 40,
    }
}

layout! {
    /// `struct io_uring_napi`: busy polling of network queues, for [`register::NAPI`].
    pub struct Napi, size 16, align 4 {
        /// How long to poll, in microseconds. The kernel writes what was set before.
        pub busy_poll_to: u32 @ 0,
        /// 1: interrupts of the queue stay off while it is polled.
        pub prefer_busy_poll: u8 @ 4,
        /// One of [`napi_op`](super::napi_op). Must be zero before Linux 6.13.
        pub opcode: u8 @ 5,
        /// Zero.
        pub pad: [u8; 2] @ 6,
        /// One of [`napi_tracking`](super::napi_tracking), or the id of a queue.
        pub op_param: u32 @ 8,
        /// Zero.
        pub resv: u32 @ 12,
    }
}

layout! {
    /// `struct io_uring_getevents_arg`: how to wait, for [`enter::EXT_ARG`](super::enter::EXT_ARG).
    pub struct GetEventsArg, size 24, align 8 {
        /// Where the signal mask lies, or zero.
        pub sigmask: u64 @ 0,
        /// Bytes of the signal mask.
        pub sigmask_sz: u32 @ 8,
        /// With [`features::MIN_TIMEOUT`](super::features::MIN_TIMEOUT): how long to wait for all
        /// completions before any one is enough, in microseconds. Else zero.
        pub min_wait_usec: u32 @ 12,
        /// Where a [`Timespec`] lies, or zero.
        pub ts: u64 @ 16,
    }
}

layout! {
    /// `struct io_uring_query_hdr`: one question, for [`register::QUERY`] (`linux/io_uring/query.h`).
    pub struct QueryHeader, size 40, align 8 {
        /// Where the next question lies, or zero.
        pub next_entry: u64 @ 0,
        /// Where the answer goes.
        pub query_data: u64 @ 8,
        /// One of [`query`].
        pub query_op: u32 @ 16,
        /// Bytes of the answer; the kernel writes how many it knows.
        pub size: u32 @ 20,
        /// The kernel writes 0 or an error.
        pub result: i32 @ 24,
        /// Zero.
        pub resv: [u32; 3] @ 28,
    }
}

layout! {
    /// `struct io_uring_query_opcode`: the answer to [`query::OPCODES`].
    pub struct QueryOpcodes, size 48, align 8 {
        /// Operations: those below this number exist in the kernel's list.
        pub nr_request_opcodes: u32 @ 0,
        /// Registrations, likewise.
        pub nr_register_opcodes: u32 @ 4,
        /// All bits of [`features`](super::features) that there are.
        pub feature_flags: u64 @ 8,
        /// All bits of [`setup`](super::setup) that there are.
        pub ring_setup_flags: u64 @ 16,
        /// All bits of [`enter`](super::enter) that there are.
        pub enter_flags: u64 @ 24,
        /// All bits of [`sqe`](super::sqe) that there are.
        pub sqe_flags: u64 @ 32,
        /// Questions that there are.
        pub nr_query_opcodes: u32 @ 40,
        /// Zero.
        pub pad: u32 @ 44,
    }
}

numbers! {
    /// Registrations, for the second argument of io_uring_register(2).
    pub mod register: u32 "IORING_REGISTER_" {
        /// Registers buffers: an array of [`IoVec`](crate::uring::IoVec).
        BUFFERS = 0;
        /// Ends that.
        UNREGISTER_BUFFERS = 1, "IORING_UNREGISTER_BUFFERS";
        /// Registers files: an array of `i32`.
        FILES = 2;
        /// Ends that.
        UNREGISTER_FILES = 3, "IORING_UNREGISTER_FILES";
        /// Names an eventfd that is told of completions.
        EVENTFD = 4;
        /// Ends that.
        UNREGISTER_EVENTFD = 5, "IORING_UNREGISTER_EVENTFD";
        /// Changes slots of the table of files: [`FilesUpdate`](super::FilesUpdate).
        FILES_UPDATE = 6;
        /// As EVENTFD, only for what did not complete at once.
        EVENTFD_ASYNC = 7;
        /// Asks which operations there are: [`Probe`](super::Probe), then [`ProbeOp`](super::ProbeOp)s.
        PROBE = 8;
        /// Keeps the credentials of the caller.
        PERSONALITY = 9;
        /// Ends that.
        UNREGISTER_PERSONALITY = 10, "IORING_UNREGISTER_PERSONALITY";
        /// Limits what the ring may do.
        RESTRICTIONS = 11;
        /// Starts a ring that was set up disabled.
        ENABLE_RINGS = 12;
        /// Registers files with tags, or an empty table: [`RsrcRegister`](super::RsrcRegister).
        FILES2 = 13;
        /// Changes slots of the table with tags: [`RsrcUpdate2`](super::RsrcUpdate2).
        FILES_UPDATE2 = 14;
        /// Registers buffers with tags, or an empty table: [`RsrcRegister`](super::RsrcRegister).
        BUFFERS2 = 15;
        /// Changes slots of the table of buffers: [`RsrcUpdate2`](super::RsrcUpdate2).
        BUFFERS_UPDATE = 16;
        /// Says on which processors the workers run.
        IOWQ_AFF = 17;
        /// Ends that.
        UNREGISTER_IOWQ_AFF = 18, "IORING_UNREGISTER_IOWQ_AFF";
        /// Reads and sets how many workers there may be.
        IOWQ_MAX_WORKERS = 19;
        /// Registers the descriptors of rings: [`RsrcUpdate`](super::RsrcUpdate)s.
        RING_FDS = 20;
        /// Ends that.
        UNREGISTER_RING_FDS = 21, "IORING_UNREGISTER_RING_FDS";
        /// Registers a ring of provided buffers: [`BufReg`](super::BufReg).
        PBUF_RING = 22;
        /// Ends that.
        UNREGISTER_PBUF_RING = 23, "IORING_UNREGISTER_PBUF_RING";
        /// Cancels operations and waits for it: [`SyncCancelReg`](super::SyncCancelReg).
        SYNC_CANCEL = 24;
        /// Says which slots of the table the kernel may choose: [`FileIndexRange`](super::FileIndexRange).
        FILE_ALLOC_RANGE = 25;
        /// Asks how far the kernel is in a buffer ring: [`BufStatus`](super::BufStatus); Linux 6.8.
        PBUF_STATUS = 26;
        /// Sets busy polling of network queues: [`Napi`](super::Napi); Linux 6.9.
        NAPI = 27;
        /// Ends that; Linux 6.9.
        UNREGISTER_NAPI = 28, "IORING_UNREGISTER_NAPI";
        /// Sets the clock of waits; Linux 6.12.
        CLOCK = 29;
        /// Takes over the buffers of another ring; Linux 6.12.
        CLONE_BUFFERS = 30;
        /// Posts to a ring without having one; Linux 6.13.
        SEND_MSG_RING = 31;
        /// Sets up receiving without a copy; Linux 6.15.
        ZCRX_IFQ = 32;
        /// Changes the sizes of the rings; Linux 6.13.
        RESIZE_RINGS = 33;
        /// Registers memory for waits; Linux 6.13.
        MEM_REGION = 34;
        /// Asks what this kernel can: [`QueryHeader`](super::QueryHeader); Linux 6.18.
        QUERY = 35;
        /// A flag: the first argument is the index of a registered ring.
        USE_REGISTERED_RING = 1 << 31;
    }

    /// Flags of a ring of provided buffers, for [`BufReg::flags`](super::BufReg::flags).
    pub mod buffer_ring: u16 "IOU_PBUF_RING_" {
        /// The kernel makes the memory, and the process maps it. Linux 6.4.
        MMAP = 1;
        /// A buffer is used up piece by piece, by several completions. Linux 6.12.
        INC = 1 << 1;
    }

    /// Flags of a table, for [`RsrcRegister::flags`](super::RsrcRegister::flags).
    pub mod rsrc: u32 "IORING_RSRC_REGISTER_" {
        /// The table starts empty.
        SPARSE = 1;
    }

    /// Flags of an operation in the answer to a probe, for [`ProbeOp::flags`](super::ProbeOp::flags).
    pub mod probe: u16 "IO_URING_" {
        /// The operation is there.
        OP_SUPPORTED = 1;
    }

    /// Questions, for [`QueryHeader::query_op`](super::QueryHeader::query_op).
    pub mod query: u32 "IO_URING_QUERY_" {
        /// Which operations, registrations and flags there are: [`QueryOpcodes`](super::QueryOpcodes).
        OPCODES = 0;
    }
}
