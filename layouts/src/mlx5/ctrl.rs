//! The control segment, with which every send WQE starts.
//!
//! ```text
//!  byte 0        1              3         4            7    8           9            11         12
//!      +--------+--------------+---------+------------+----+-----------+------------+----------+-----------------+
//!      | opmod  | index of WQE | opcode  | qp number  | ds | signature | dci stream | fm ce se | imm             |
//!      +--------+--------------+---------+------------+----+-----------+------------+----------+-----------------+
//! ```

use crate::endian::Be32;

layout! {
    /// `struct mlx5_wqe_ctrl_seg`.
    pub struct CtrlSeg, size 16, align 4 {
        /// Opcode modifier in bits 24 to 31, index of the first basic block (free-running) in bits 8 to 23, opcode below.
        pub opmod_idx_opcode: Be32 @ 0,
        /// Number of the queue pair in bits 8 to 31, units of 16 bytes in bits 0 to 5.
        pub qpn_ds: Be32 @ 4,
        /// Checked only by queues that were made with signatures; else 0.
        pub signature: u8 @ 8,
        /// Stream of a DCI, big end first; else 0.
        pub dci_stream_channel_id: [u8; 2] @ 9,
        /// Fence mode, completion mode, solicited: bits of [`fm_ce_se`].
        pub fm_ce_se: u8 @ 11,
        /// Immediate data, or the key that is invalidated or changed.
        pub imm: Be32 @ 12,
    }
}

numbers! {
    /// Opcodes of send WQEs.
    pub mod op: u8 "MLX5_OPCODE_" {
        /// Nothing. Fills up a ring.
        NOP = 0x00;
        /// Sends, and invalidates a key of the receiver.
        SEND_INVAL = 0x01;
        /// Writes to remote memory.
        RDMA_WRITE = 0x08;
        /// Writes to remote memory and completes a receive there.
        RDMA_WRITE_IMM = 0x09;
        /// Sends.
        SEND = 0x0a;
        /// Sends with immediate data.
        SEND_IMM = 0x0b;
        /// Reads from remote memory.
        RDMA_READ = 0x10;
        /// Compares and swaps 8 bytes.
        ATOMIC_CS = 0x11;
        /// Fetches and adds 8 bytes.
        ATOMIC_FA = 0x12;
        /// Compares and swaps under masks.
        ATOMIC_MASKED_CS = 0x14;
        /// Fetches and adds in fields of bits.
        ATOMIC_MASKED_FA = 0x15;
        /// Changes a memory key; also invalidates one, and binds a window.
        UMR = 0x25;
    }

    /// What surrounds an operation, for [`CtrlSeg::fm_ce_se`](super::CtrlSeg::fm_ce_se).
    pub mod fm_ce_se: u8 "MLX5_WQE_CTRL_" {
        /// Asks for a completion.
        CQ_UPDATE = 2 << 2;
        /// Asks for an event at the receiver.
        SOLICITED = 1 << 1;
        /// Waits for reads and atomics before it, and for changes of keys.
        FENCE = 4 << 5;
        /// Waits for changes of keys before it.
        INITIATOR_SMALL_FENCE = 1 << 5;
    }
}

impl CtrlSeg {
    /// A control segment. Of `qpn` the low 24 bits count, of `ds` the low 6.
    #[inline(always)]
    #[must_use]
    pub const fn new((opmod, index, opcode): (u8, u16, u8), qpn: u32, ds: u8) -> Self {
        let [high, low] = index.to_be_bytes();
        let [_, a, b, c] = qpn.to_be_bytes();
        Self {
            opmod_idx_opcode: Be32::new(u32::from_be_bytes([opmod, high, low, opcode])),
            qpn_ds: Be32::new(u32::from_be_bytes([a, b, c, ds & 0x3f])),
            signature: 0,
            dci_stream_channel_id: [0; 2],
            fm_ce_se: 0,
            imm: Be32::new(0),
        }
    }
}
