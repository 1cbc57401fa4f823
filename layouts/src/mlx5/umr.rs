//! Memory keys that are changed by a WQE (UMR), as it stands in the queue: bound to memory, given other rights, invalidated.
//!
//! ```text
//!   | ctrl 16, imm: the key | umr ctrl 48 | mkey context 64 | entries of 16, to a multiple of 64 |
//! ```

use crate::endian::{Be16, Be32, Be64};

layout! {
    /// `struct mlx5_wqe_umr_ctrl_seg`: what is changed.
    pub struct UmrCtrlSeg, size 48, align 8 {
        /// Bits of [`umr_flag`].
        pub flags: u8 @ 0,
        /// Zero.
        pub rsvd0: [u8; 3] @ 1,
        /// Units of 16 bytes of the list of entries, a multiple of four.
        pub klm_octowords: Be16 @ 4,
        /// Where in the translation the entries go, or units of 16 bytes of signature descriptors.
        pub translation_offset: Be16 @ 6,
        /// Which fields of the context are taken over: bits of [`umr_mask`].
        pub mkey_mask: Be64 @ 8,
        /// Zero.
        pub rsvd1: [u8; 32] @ 16,
    }
}

layout! {
    /// `struct mlx5_wqe_mkey_context_seg`: what the key becomes.
    pub struct MkeyContextSeg, size 64, align 8 {
        /// [`mkey::FREE`], or 0.
        pub free: u8 @ 0,
        /// [`MkeyContextSeg::RELAXED_ORDERING_WRITE`], or 0. Reserved in rdma-core's header.
        pub reserved1: u8 @ 1,
        /// Bits of [`mkey_access`].
        pub access_flags: u8 @ 2,
        /// Zero.
        pub sf: u8 @ 3,
        /// Number of the queue pair that a window is bound to, or all ones, in bits 8 to 31; the variant of the key below.
        pub qpn_mkey: Be32 @ 4,
        /// Zero.
        pub reserved2: Be32 @ 8,
        /// Flags, and the protection domain in bits 0 to 23.
        pub flags_pd: Be32 @ 12,
        /// Where the key's addresses begin.
        pub start_addr: Be64 @ 16,
        /// Bytes of its memory.
        pub len: Be64 @ 24,
        /// Of signature descriptors.
        pub bsf_octword_size: Be32 @ 32,
        /// Zero.
        pub reserved3: [u8; 16] @ 36,
        /// Units of 16 bytes of its translation.
        pub translations_octword_size: Be32 @ 52,
        /// Zero.
        pub reserved4: [u8; 3] @ 56,
        /// Size of a page in bits 0 to 4; [`MkeyContextSeg::RELAXED_ORDERING_READ`].
        pub log_page_size: u8 @ 59,
        /// Zero.
        pub reserved: [u8; 4] @ 60,
    }
}

layout! {
    /// `struct mlx5_wqe_umr_klm_seg`: memory under another key that becomes part of this one.
    pub struct KlmSeg, size 16, align 8 {
        /// Bytes, up to 2^31.
        pub byte_count: Be32 @ 0,
        /// Its key.
        pub mkey: Be32 @ 4,
        /// Where it begins.
        pub address: Be64 @ 8,
    }
}

numbers! {
    /// How the change is made, for [`UmrCtrlSeg::flags`](super::UmrCtrlSeg::flags).
    pub mod umr_flag: u8 "MLX5_WQE_UMR_CTRL_FLAG_" {
        /// The entries stand in the WQE.
        INLINE = 1 << 7;
        /// Fails where the key is in use.
        CHECK_FREE = 1 << 5;
        /// `translation_offset` counts.
        TRANSLATION_OFFSET = 1 << 4, "MLX5_WQE_UMR_CTRL_FLAG_TRNSLATION_OFFSET";
        /// Fails where the key belongs to another queue pair.
        CHECK_QPN = 1 << 3;
    }

    /// Fields of the context, for [`UmrCtrlSeg::mkey_mask`](super::UmrCtrlSeg::mkey_mask).
    pub mod umr_mask: u64 "MLX5_WQE_UMR_CTRL_MKEY_MASK_" {
        /// Length.
        LEN = 1;
        /// Start address.
        START_ADDR = 1 << 6;
        /// Variant of the key.
        MKEY = 1 << 13;
        /// Queue pair.
        QPN = 1 << 14;
        /// Right to be written locally.
        ACCESS_LOCAL_WRITE = 1 << 18;
        /// Right to be read remotely.
        ACCESS_REMOTE_READ = 1 << 19;
        /// Right to be written remotely.
        ACCESS_REMOTE_WRITE = 1 << 20;
        /// Right to be changed by remote atomics.
        ACCESS_ATOMIC = 1 << 21;
        /// Whether it is free.
        FREE = 1 << 29;
    }

    /// For [`MkeyContextSeg::free`](super::MkeyContextSeg::free).
    pub mod mkey: u8 "MLX5_WQE_MKEY_CONTEXT_" {
        /// The key is not in use.
        FREE = 1 << 6;
    }

    /// Rights, for [`MkeyContextSeg::access_flags`](super::MkeyContextSeg::access_flags).
    pub mod mkey_access: u8 "MLX5_WQE_MKEY_CONTEXT_ACCESS_FLAGS_" {
        /// Remote atomics.
        ATOMIC = 1 << 6;
        /// Remote writes.
        REMOTE_WRITE = 1 << 5;
        /// Remote reads.
        REMOTE_READ = 1 << 4;
        /// Local writes.
        LOCAL_WRITE = 1 << 3;
        /// Local reads.
        LOCAL_READ = 1 << 2;
    }
}

impl MkeyContextSeg {
    /// In [`MkeyContextSeg::reserved1`]: writes of the device may overtake each other on PCIe. Source: `struct mlx5_ifc_mkc_bits`
    /// (`relaxed_ordering_write`) of rdma-core and Linux.
    pub const RELAXED_ORDERING_WRITE: u8 = 1 << 2;

    /// In [`MkeyContextSeg::log_page_size`]: so may the answers to its reads (`relaxed_ordering_read`).
    pub const RELAXED_ORDERING_READ: u8 = 1 << 6;
}

impl UmrCtrlSeg {
    /// In [`UmrCtrlSeg::mkey_mask`]: the bit for writes is taken over. Source: `MLX5_MKEY_MASK_RELAXED_ORDERING_WRITE` of Linux.
    pub const MASK_RELAXED_ORDERING_WRITE: u64 = 1 << 25;

    /// In [`UmrCtrlSeg::mkey_mask`]: the bit for reads is taken over (`MLX5_MKEY_MASK_RELAXED_ORDERING_READ`).
    pub const MASK_RELAXED_ORDERING_READ: u64 = 1 << 47;
}
