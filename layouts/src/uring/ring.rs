//! A ring: its parameters, where its words lie in the mapped memory, and how it is entered.

layout! {
    /// `struct io_sqring_offsets`: where the words of the submission queue lie, in bytes from the
    /// start of its mapping.
    pub struct SqOffsets, size 40, align 8 {
        /// Entries that the kernel has taken, modulo 2^32. Only the kernel writes it.
        pub head: u32 @ 0,
        /// Entries that the process has given, modulo 2^32. Only the process writes it.
        pub tail: u32 @ 4,
        /// One less than the number of entries. Constant.
        pub ring_mask: u32 @ 8,
        /// Number of entries: a power of two. Constant.
        pub ring_entries: u32 @ 12,
        /// Bits of [`sq_flags`]. Only the kernel writes it.
        pub flags: u32 @ 16,
        /// Entries that were not valid. Only the kernel writes it.
        pub dropped: u32 @ 20,
        /// The array of indices of SQEs; nothing with [`setup::NO_SQARRAY`].
        pub array: u32 @ 24,
        /// Zero.
        pub resv1: u32 @ 28,
        /// With [`setup::NO_MMAP`]: where the process has put the SQEs.
        pub user_addr: u64 @ 32,
    }
}

layout! {
    /// `struct io_cqring_offsets`: where the words of the completion queue lie, in bytes from the
    /// start of its mapping.
    pub struct CqOffsets, size 40, align 8 {
        /// Completions that the process has taken, modulo 2^32. Only the process writes it.
        pub head: u32 @ 0,
        /// Completions that the kernel has posted, modulo 2^32. Only the kernel writes it.
        pub tail: u32 @ 4,
        /// One less than the number of entries. Constant.
        pub ring_mask: u32 @ 8,
        /// Number of entries: a power of two. Constant.
        pub ring_entries: u32 @ 12,
        /// Completions that were lost. Only the kernel writes it.
        pub overflow: u32 @ 16,
        /// The CQEs.
        pub cqes: u32 @ 20,
        /// Bits of [`cq_flags`]. Only the process writes it.
        pub flags: u32 @ 24,
        /// Zero.
        pub resv1: u32 @ 28,
        /// With [`setup::NO_MMAP`]: where the process has put the rings.
        pub user_addr: u64 @ 32,
    }
}

layout! {
    /// `struct io_uring_params`: what is asked of io_uring_setup(2), and its answer.
    pub struct Params, size 120, align 8 {
        /// Answer: entries of the submission queue.
        pub sq_entries: u32 @ 0,
        /// With [`setup::CQSIZE`] how many completions the ring shall hold. Answer: how many it
        /// does.
        pub cq_entries: u32 @ 4,
        /// Bits of [`setup`].
        pub flags: u32 @ 8,
        /// With [`setup::SQ_AFF`]: where the polling thread runs.
        pub sq_thread_cpu: u32 @ 12,
        /// With [`setup::SQPOLL`]: after how long without work the thread sleeps, in milliseconds.
        pub sq_thread_idle: u32 @ 16,
        /// Answer: bits of [`features`].
        pub features: u32 @ 20,
        /// With [`setup::ATTACH_WQ`]: the ring whose workers are shared.
        pub wq_fd: u32 @ 24,
        /// Zero.
        pub resv: [u32; 3] @ 28,
        /// Answer: where the words of the submission queue lie.
        pub sq_off: SqOffsets @ 40,
        /// Answer: where the words of the completion queue lie.
        pub cq_off: CqOffsets @ 80,
    }
}

numbers! {
    /// Flags of a ring, for [`Params::flags`](super::Params::flags) (io_uring_setup(2)).
    pub mod setup: u32 "IORING_SETUP_" {
        /// Completions of a device are polled for, not announced.
        IOPOLL = 1;
        /// A thread of the kernel takes the entries.
        SQPOLL = 1 << 1;
        /// That thread runs on `sq_thread_cpu`.
        SQ_AFF = 1 << 2;
        /// `cq_entries` says how many completions the ring holds.
        CQSIZE = 1 << 3;
        /// Sizes that are too great become the greatest.
        CLAMP = 1 << 4;
        /// Shares the workers of the ring `wq_fd`.
        ATTACH_WQ = 1 << 5;
        /// Starts disabled.
        R_DISABLED = 1 << 6;
        /// An entry that is refused does not stop those behind it. Linux 5.18.
        SUBMIT_ALL = 1 << 7;
        /// The process is not interrupted when work completes: it is done at the next system call.
        /// Linux 5.19.
        COOP_TASKRUN = 1 << 8;
        /// Such work is announced by [`sq_flags::TASKRUN`](super::sq_flags::TASKRUN). Linux 5.19.
        TASKRUN_FLAG = 1 << 9;
        /// Entries have 128 bytes. Linux 5.19.
        SQE128 = 1 << 10;
        /// Completions have 32 bytes. Linux 5.19.
        CQE32 = 1 << 11;
        /// Only one thread submits. Linux 6.0.
        SINGLE_ISSUER = 1 << 12;
        /// Work that completes is done only when that thread asks for completions. Needs
        /// SINGLE_ISSUER. Linux 6.1.
        DEFER_TASKRUN = 1 << 13;
        /// The process brings the memory of the rings. Linux 6.5.
        NO_MMAP = 1 << 14;
        /// The ring is known by its index only, it has no descriptor. Linux 6.5.
        REGISTERED_FD_ONLY = 1 << 15;
        /// Entries are taken in the order in which they lie: there is no array of indices. Linux
        /// 6.6.
        NO_SQARRAY = 1 << 16;
        /// With IOPOLL: sleeps a while before it polls. Linux 6.13.
        HYBRID_IOPOLL = 1 << 17;
        /// Completions of both sizes. Linux 6.18.
        CQE_MIXED = 1 << 18;
    }

    /// What the kernel can, in [`Params::features`](super::Params::features) (io_uring_setup(2)).
    pub mod features: u32 "IORING_FEAT_" {
        /// Both rings lie in one mapping. Linux 5.4.
        SINGLE_MMAP = 1;
        /// Completions that find no place are kept, not lost. Linux 5.5.
        NODROP = 1 << 1;
        /// What an entry points at is read while it is submitted. Linux 5.5.
        SUBMIT_STABLE = 1 << 2;
        /// -1 in `off` means the position of the file. Linux 5.6.
        RW_CUR_POS = 1 << 3;
        /// An operation has the credentials of who submits it. Linux 5.6.
        CUR_PERSONALITY = 1 << 4;
        /// Waiting for a file takes no worker. Linux 5.7.
        FAST_POLL = 1 << 5;
        /// All 32 bits of the events of poll(2). Linux 5.9.
        POLL_32BITS = 1 << 6;
        /// SQPOLL takes files that are not registered. Linux 5.11.
        SQPOLL_NONFIXED = 1 << 7;
        /// [`enter::EXT_ARG`](super::enter::EXT_ARG). Linux 5.11.
        EXT_ARG = 1 << 8;
        /// Workers are threads of the process. Linux 5.12.
        NATIVE_WORKERS = 1 << 9;
        /// Tables with tags. Linux 5.13.
        RSRC_TAGS = 1 << 10;
        /// [`sqe::CQE_SKIP_SUCCESS`](crate::uring::sqe::CQE_SKIP_SUCCESS). Linux 5.17.
        CQE_SKIP = 1 << 11;
        /// The file of a linked entry is looked up when it starts. Linux 5.17.
        LINKED_FILE = 1 << 12;
        /// Registrations by the index of a registered ring. Linux 6.3.
        REG_REG_RING = 1 << 13;
        /// [`recvsend::BUNDLE`](crate::uring::recvsend::BUNDLE). Linux 6.10.
        RECVSEND_BUNDLE = 1 << 14;
        /// A least time to wait. Linux 6.12.
        MIN_TIMEOUT = 1 << 15;
        /// Reads and writes with attributes. Linux 6.14.
        RW_ATTR = 1 << 16;
        /// [`enter::NO_IOWAIT`](super::enter::NO_IOWAIT). Linux 6.15.
        NO_IOWAIT = 1 << 17;
    }

    /// Flags of io_uring_enter(2).
    pub mod enter: u32 "IORING_ENTER_" {
        /// Waits for completions, and does the work that makes them.
        GETEVENTS = 1;
        /// Wakes the polling thread.
        SQ_WAKEUP = 1 << 1;
        /// Waits for room in the submission queue.
        SQ_WAIT = 1 << 2;
        /// The last argument is a [`GetEventsArg`](crate::uring::GetEventsArg).
        EXT_ARG = 1 << 3;
        /// The first argument is the index of a registered ring. Linux 5.18.
        REGISTERED_RING = 1 << 4;
        /// The time to wait is a point, not a span. Linux 6.12.
        ABS_TIMER = 1 << 5;
        /// The last argument lies in registered memory. Linux 6.13.
        EXT_ARG_REG = 1 << 6;
        /// Waiting does not count as waiting for a disk. Linux 6.15.
        NO_IOWAIT = 1 << 7;
    }

    /// What the kernel says of the submission queue, in the word at [`SqOffsets::flags`](super::SqOffsets::flags).
    pub mod sq_flags: u32 "IORING_SQ_" {
        /// The polling thread sleeps: enter with [`enter::SQ_WAKEUP`](super::enter::SQ_WAKEUP).
        NEED_WAKEUP = 1;
        /// Completions wait outside the full ring: enter with
        /// [`enter::GETEVENTS`](super::enter::GETEVENTS).
        CQ_OVERFLOW = 1 << 1;
        /// Work waits for a system call.
        TASKRUN = 1 << 2;
    }

    /// What the process says of the completion queue, in the word at [`CqOffsets::flags`](super::CqOffsets::flags).
    pub mod cq_flags: u32 "IORING_CQ_" {
        /// The eventfd is not told.
        EVENTFD_DISABLED = 1;
    }

    /// Places of a ring's descriptor at which its memory is mapped.
    pub mod mapping: u64 "IORING_OFF_" {
        /// The submission queue without its entries; with
        /// [`features::SINGLE_MMAP`](super::features::SINGLE_MMAP) the completion queue too.
        SQ_RING = 0;
        /// The completion queue.
        CQ_RING = 0x800_0000;
        /// The SQEs.
        SQES = 0x1000_0000;
        /// A ring of provided buffers that the kernel made; its group goes above [`PBUF_SHIFT`].
        PBUF_RING = 0x8000_0000;
        /// Where the group starts.
        PBUF_SHIFT = 16;
        /// The bits that tell the mappings apart.
        MMAP_MASK = 0xf800_0000;
    }
}
