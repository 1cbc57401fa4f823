//! The entry of the completion queue: what became of an operation.
//!
//! ```text
//!  byte 0                8          12
//!      +----------------+----------+----------+
//!      | user_data      | res      | flags    |      flags: bits 0 to 15 of `cqe`; bits 16 to 31 the buffer
//!      +----------------+----------+----------+
//! ```

layout! {
    /// `struct io_uring_cqe`: one completion.
    pub struct Cqe, size 16, align 8 {
        /// Of the entry that asked for it.
        pub user_data: u64 @ 0,
        /// What the system call would have returned; a negative number is an error.
        pub res: i32 @ 8,
        /// Bits of [`cqe`], and above [`cqe::BUFFER_SHIFT`] the id of the buffer.
        pub flags: u32 @ 12,
    }
}

layout! {
    /// `struct io_uring_cqe` of a ring with [`setup::CQE32`](super::setup::CQE32).
    pub struct Cqe32, size 32, align 8 {
        /// As in [`Cqe`].
        pub user_data: u64 @ 0,
        /// As in [`Cqe`].
        pub res: i32 @ 8,
        /// As in [`Cqe`].
        pub flags: u32 @ 12,
        /// What only some operations say.
        pub big_cqe: [u64; 2] @ 16,
    }
}

numbers! {
    /// Flags of a completion, for [`Cqe::flags`](super::Cqe::flags).
    pub mod cqe: u32 "IORING_CQE_F_" {
        /// The bits above [`BUFFER_SHIFT`] are the id of the buffer that was picked.
        BUFFER = 1;
        /// More completions of the same entry will come.
        MORE = 1 << 1;
        /// The socket had more to read.
        SOCK_NONEMPTY = 1 << 2;
        /// The kernel has given back the memory of a send without a copy.
        NOTIF = 1 << 3;
        /// The buffer is not used up: further completions will use the rest of it.
        BUF_MORE = 1 << 4;
        /// No completion at all: fills the end of a ring of mixed sizes.
        SKIP = 1 << 5;
        /// The completion has 32 bytes, in a ring of mixed sizes.
        F_32 = 1 << 15, "IORING_CQE_F_32";
        /// Where the id of the buffer starts.
        BUFFER_SHIFT = 16, "IORING_CQE_BUFFER_SHIFT";
    }
}
