//! Data of a WQE: where it lies, or the bytes themselves.
//!
//! ```text
//!   data     | byte count 4 | lkey 4 | address 8 |
//!   inline   | 1, length 31 bits | bytes, up to the next multiple of 16 |
//!   receive  of a queue pair     | data | data | .. | data with INVALID_LKEY, where there are fewer than fit |
//!            of a shared queue   | next 16 | data | data | ..                                                |
//! ```

use crate::endian::{Be16, Be32, Be64};

layout! {
    /// `struct mlx5_wqe_data_seg`: a range of registered memory.
    pub struct DataSeg, size 16, align 8 {
        /// Bytes. 0 means 2^31.
        pub byte_count: Be32 @ 0,
        /// Local key of the memory.
        pub lkey: Be32 @ 4,
        /// Where it begins.
        pub addr: Be64 @ 8,
    }
}

layout! {
    /// `struct mlx5_wqe_inl_data_seg`: what stands in front of bytes that lie in the WQE itself.
    pub struct InlineSeg, size 4, align 4 {
        /// Bytes, with [`data_seg::INLINE_SEG`].
        pub byte_count: Be32 @ 0,
    }
}

layout! {
    /// `struct mlx5_wqe_srq_next_seg`: the head of a WQE in a shared receive queue.
    pub struct SrqNextSeg, size 16, align 2 {
        /// Zero.
        pub rsvd0: [u8; 2] @ 0,
        /// Index of the WQE that is used after this one.
        pub next_wqe_index: Be16 @ 2,
        /// Checked only by queues that were made with signatures; else 0.
        pub signature: u8 @ 4,
        /// Zero.
        pub rsvd1: [u8; 11] @ 5,
    }
}

numbers! {
    /// Numbers of data segments.
    pub mod data_seg: u32 "MLX5_" {
        /// The segment is the bytes themselves.
        INLINE_SEG = 0x8000_0000;
        /// The key that ends a list of segments.
        INVALID_LKEY = 0x100;
    }
}

impl DataSeg {
    /// What ends a list of segments that is shorter than it may be.
    pub const END: Self = Self {
        byte_count: Be32::new(0),
        lkey: Be32::new(data_seg::INVALID_LKEY),
        addr: Be64::new(0),
    };

    /// A range of `byte_count` bytes, which must not be 0 (that would be 2^31).
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: u64, byte_count: u32, lkey: u32) -> Self {
        Self { byte_count: Be32::new(byte_count), lkey: Be32::new(lkey), addr: Be64::new(addr) }
    }
}

impl InlineSeg {
    /// In front of `byte_count` bytes.
    #[inline(always)]
    #[must_use]
    pub const fn new(byte_count: u32) -> Self {
        Self { byte_count: Be32::new(byte_count | data_seg::INLINE_SEG) }
    }
}
