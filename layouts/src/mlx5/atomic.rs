//! Operands of atomic operations.
//!
//! ```text
//!   ATOMIC_CS, ATOMIC_FA      | swap or add 8 | compare 8 |
//!   masked CS, 8 bytes        | swap 8 | compare 8 | swap mask 8 | compare mask 8 |
//!   masked CS, 4 bytes        | swap 4 | compare 4 | swap mask 4 | compare mask 4 |
//!   masked FA, 8 bytes        | add 8 | boundary 8 |
//!   masked FA, 4 bytes        | add 4 | boundary 4 | zero 8 |
//! ```
//!
//! The masked ones say their size in the opcode modifier ([`atomic_opmod`]). They are in no public header of rdma-core: the
//! source is its `providers/mlx5/wqe.h` (`struct mlx5_wqe_masked_atomic_seg`) and, for the sizes and the modifier, `ib_mlx5.h` of UCX.

use crate::endian::{Be32, Be64};

layout! {
    /// `struct mlx5_wqe_atomic_seg`.
    pub struct AtomicSeg, size 16, align 8 {
        /// What is swapped in, or added.
        pub swap_add: Be64 @ 0,
        /// What is compared with; 0 where something is added.
        pub compare: Be64 @ 8,
    }
}

layout! {
    /// Half of a masked operation on 8 bytes: its operands, or its masks. A masked fetch-and-add is one such segment: what is
    /// added, and the boundary.
    pub struct MaskedOperandSeg, size 16, align 8 {
        /// What is swapped in or added; its mask.
        pub swap_add: Be64 @ 0,
        /// What is compared with; its mask; the highest bit of each field in which a carry ends.
        pub compare: Be64 @ 8,
    }
}

layout! {
    /// A masked compare-and-swap of 4 bytes.
    pub struct MaskedCs32Seg, size 16, align 4 {
        /// What is swapped in.
        pub swap: Be32 @ 0,
        /// What is compared with.
        pub compare: Be32 @ 4,
        /// Which bits are swapped.
        pub swap_mask: Be32 @ 8,
        /// Which bits are compared.
        pub compare_mask: Be32 @ 12,
    }
}

layout! {
    /// A masked fetch-and-add of 4 bytes.
    pub struct MaskedFa32Seg, size 16, align 4 {
        /// What is added.
        pub add: Be32 @ 0,
        /// The highest bit of each field, in which a carry ends.
        pub boundary: Be32 @ 4,
        /// Zero.
        pub reserved: [u8; 8] @ 8,
    }
}

/// The opcode modifier of a masked operation on 4 bytes (`log_bytes` 2) or 8 (3).
#[inline(always)]
#[must_use]
pub const fn atomic_opmod(log_bytes: u8) -> u8 {
    8 | (log_bytes.wrapping_sub(2) & 7)
}
