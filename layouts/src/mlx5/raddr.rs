//! Remote memory that is written or read.

use crate::endian::{Be32, Be64};

layout! {
    /// `struct mlx5_wqe_raddr_seg`.
    pub struct RaddrSeg, size 16, align 8 {
        /// Where it begins.
        pub raddr: Be64 @ 0,
        /// Remote key of the memory.
        pub rkey: Be32 @ 8,
        /// Zero.
        pub reserved: Be32 @ 12,
    }
}

impl RaddrSeg {
    /// Remote memory from `raddr` on.
    #[inline(always)]
    #[must_use]
    pub const fn new(raddr: u64, rkey: u32) -> Self {
        Self { raddr: Be64::new(raddr), rkey: Be32::new(rkey), reserved: Be32::new(0) }
    }
}
