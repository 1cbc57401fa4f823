//! The completion queue entry, its error form, its short form in compressed queues, and the doorbell of a queue.
//!
//! ```text
//!  byte 0 .. 31                32          36          40         44         48           56             60        62     63
//!      +-----------------------+-----------+-----------+----------+----------+------------+--------------+---------+------+-------+
//!      | inline data, or flags | srqn/uidx | imm, rkey | app      | byte_cnt | timestamp  | opcode | qpn | counter | sig. | opown |
//!      +-----------------------+-----------+-----------+----------+----------+------------+--------------+---------+------+-------+
//!      | nothing               | srqn      | nothing                         | vendor 54, | opcode | qpn | counter | sig. | opown |   error
//!      |                       |           |                                 | syndrome 55|              |         |      |       |
//!      +-----------------------+-----------+---------------------------------+------------+--------------+---------+------+-------+
//!
//!   opown   | opcode 4 | format 2 | solicited 1 | owner 1 |      format: 0 plain, 1 and 2 inline data, 3 compressed
//! ```
//!
//! In a queue of 128-byte entries the upper 64 bytes are this, and the lower ones inline data of up to 64 bytes or nothing.
//!
//! A compressed queue says what many entries have in common once, in a title, and the rest in short entries of 8 bytes:
//!
//! ```text
//!   basic      | title, n | 8 short ones | -- | -- | .. | 8 short ones | ..      n entries of the queue; arrays at 1, 8, 16, ..
//!   enhanced   | title    | 1 to 7 short ones, how many, count of laps | --      an array takes as many entries as it has short ones
//! ```

use crate::endian::{Be16, Be32, Be64};

layout! {
    /// `struct mlx5_cqe64`: one completion.
    pub struct Cqe64, size 64, align 8 {
        /// Nothing; inline data may begin here.
        pub rsvd0: [u8; 2] @ 0,
        /// Index of a WQE in a striding receive queue.
        pub wqe_id: Be16 @ 2,
        /// Nothing.
        pub rsvd4: [u8; 13] @ 4,
        /// Path bits of the local address.
        pub ml_path: u8 @ 17,
        /// Nothing; in the last two bytes the index of the stride, where there are strides.
        pub rsvd20: [u8; 4] @ 18,
        /// Local address of the sender; 0 over RoCE.
        pub slid: Be16 @ 22,
        /// Number of the sender's queue pair in bits 0 to 23, service level in 24 to 27, in 28 and 29 whether there is a GRH.
        pub flags_rqpn: Be32 @ 24,
        /// What was checked of the headers.
        pub hds_ip_ext: u8 @ 28,
        /// Kinds of headers.
        pub l4_hdr_type_etc: u8 @ 29,
        /// VLAN tag.
        pub vlan_info: Be16 @ 30,
        /// Number of the shared receive queue, or the index that the user gave the queue, in bits 0 to 23.
        pub srqn_uidx: Be32 @ 32,
        /// Immediate data, or the key that was invalidated, or the partition key.
        pub imm_inval_pkey: Be32 @ 36,
        /// Which offload it is of; 0 of none.
        pub app: u8 @ 40,
        /// What the offload did.
        pub app_op: u8 @ 41,
        /// More of that.
        pub app_info: Be16 @ 42,
        /// Bytes that were transferred; of a basic title, how many completions follow, its own included.
        pub byte_cnt: Be32 @ 44,
        /// Clock of the device.
        pub timestamp: Be64 @ 48,
        /// Number of the queue pair in bits 0 to 23, opcode of the send WQE above.
        pub sop_drop_qpn: Be32 @ 56,
        /// Index of the first basic block of the WQE (send), of the WQE (receive), or its slot (shared receive).
        pub wqe_counter: Be16 @ 60,
        /// Signature; in queues of enhanced compression the count of laps.
        pub signature: u8 @ 62,
        /// Opcode, format and owner.
        pub op_own: u8 @ 63,
    }
}

layout! {
    /// `struct mlx5_err_cqe`: a completion with an error.
    pub struct ErrCqe, size 64, align 4 {
        /// Nothing.
        pub rsvd0: [u8; 32] @ 0,
        /// As in [`Cqe64`].
        pub srqn: Be32 @ 32,
        /// Nothing.
        pub rsvd1: [u8; 18] @ 36,
        /// More about the error, of this maker alone.
        pub vendor_err_synd: u8 @ 54,
        /// What went wrong: one of [`syndrome`].
        pub syndrome: u8 @ 55,
        /// As in [`Cqe64`].
        pub s_wqe_opcode_qpn: Be32 @ 56,
        /// As in [`Cqe64`].
        pub wqe_counter: Be16 @ 60,
        /// As in [`Cqe64`].
        pub signature: u8 @ 62,
        /// As in [`Cqe64`].
        pub op_own: u8 @ 63,
    }
}

layout! {
    /// The short form of a completion (`struct mlx5_mini_cqe8` of the kernel's driver; rdma-core has none).
    pub struct MiniCqe, size 8, align 4 {
        /// Of a receive: a hash, a checksum, or checksum and index of the stride, as the queue was made. Of a send: WQE counter,
        /// opcode of the WQE, nothing.
        pub info: Be32 @ 0,
        /// Bytes that were transferred.
        pub byte_cnt: Be32 @ 4,
    }
}

numbers! {
    /// What a completion is of: the upper half of [`Cqe64::op_own`](super::Cqe64::op_own).
    pub mod cqe_op: u8 "MLX5_CQE_" {
        /// A send queue's WQE is done.
        REQ = 0;
        /// A receive ended by an RDMA write with immediate data.
        RESP_WR_IMM = 1;
        /// A receive.
        RESP_SEND = 2;
        /// A receive with immediate data.
        RESP_SEND_IMM = 3;
        /// A receive that invalidated a key.
        RESP_SEND_INV = 4;
        /// The queue has moved to another buffer.
        RESIZE_CQ = 5;
        /// Of an offload, without a packet.
        NO_PACKET = 6;
        /// A signature did not match.
        SIG_ERR = 12;
        /// A send queue's WQE has failed.
        REQ_ERR = 13;
        /// A receive has failed.
        RESP_ERR = 14;
        /// Nothing yet: how entries begin.
        INVALID = 15;
    }

    /// What went wrong, in [`ErrCqe::syndrome`](super::ErrCqe::syndrome).
    pub mod syndrome: u8 "MLX5_CQE_SYNDROME_" {
        /// Too long for the receive, or for what the queue may send.
        LOCAL_LENGTH_ERR = 0x01;
        /// The queue pair cannot do that.
        LOCAL_QP_OP_ERR = 0x02;
        /// A local key does not cover that memory.
        LOCAL_PROT_ERR = 0x04;
        /// Not done: the queue had failed before.
        WR_FLUSH_ERR = 0x05;
        /// A memory window could not be bound.
        MW_BIND_ERR = 0x06;
        /// The other end answered nonsense.
        BAD_RESP_ERR = 0x10;
        /// A local key does not allow remote access of that kind.
        LOCAL_ACCESS_ERR = 0x11;
        /// The other end found the request wrong.
        REMOTE_INVAL_REQ_ERR = 0x12;
        /// The other end's key does not allow that.
        REMOTE_ACCESS_ERR = 0x13;
        /// The other end could not do it.
        REMOTE_OP_ERR = 0x14;
        /// No answer, however often it was sent.
        TRANSPORT_RETRY_EXC_ERR = 0x15;
        /// The other end had no receive posted, however often it was sent.
        RNR_RETRY_EXC_ERR = 0x16;
        /// The other end broke it off.
        REMOTE_ABORTED_ERR = 0x22;
    }

    /// What the short entries of a compressed queue say of a receive: a bit each, in `mlx5dv_cq_init_attr`.
    pub mod mini_format: u8 "MLX5DV_CQE_RES_FORMAT_" {
        /// The hash over the headers.
        HASH = 1 << 0;
        /// The checksum.
        CSUM = 1 << 1;
        /// Checksum, and index of the stride or WQE.
        CSUM_STRIDX = 1 << 2;
    }

    /// The doorbell of a completion queue, beside the index.
    pub mod cq_db: u32 "MLX5_CQ_D" {
        /// Offset of the register in the UAR page.
        REGISTER = 0x20, "MLX5_CQ_DOORBELL";
        /// Wants an event with the next completion.
        REQ_NOT = 0 << 24, "MLX5_CQ_DB_REQ_NOT";
        /// Wants an event with the next solicited completion.
        REQ_NOT_SOL = 1 << 24, "MLX5_CQ_DB_REQ_NOT_SOL";
    }
}

/// The bit of [`Cqe64::op_own`] that tells by whom the entry was written last (`MLX5_CQE_OWNER_MASK`).
pub const OWNER: u8 = 1;

/// The bits of [`Cqe64::op_own`] that say in which form it is.
pub const FORMAT: u8 = 3 << 2;

/// [`FORMAT`]: up to 32 bytes of data lie at the start of the entry (rdma-core: `MLX5_INLINE_SCATTER_32`).
pub const FORMAT_INLINE_32: u8 = 1 << 2;

/// [`FORMAT`]: up to 64 bytes of data lie in the 64 bytes before the entry (rdma-core: `MLX5_INLINE_SCATTER_64`).
pub const FORMAT_INLINE_64: u8 = 2 << 2;

/// [`FORMAT`]: compressed: a title (basic), or an array of short entries (enhanced).
pub const FORMAT_COMPRESSED: u8 = 3 << 2;

/// The message was solicited.
pub const SOLICITED: u8 = 1 << 1;

/// How an entry begins: invalid, owned by the device.
pub const OP_OWN_FRESH: u8 = (cqe_op::INVALID << 4) | OWNER;

/// How the signature of an entry begins: no lap soon to come.
pub const SIGNATURE_FRESH: u8 = 0xff;

/// Short entries of an array of 64 bytes in a queue of basic compression.
pub const MINIS_BASIC: usize = 8;

/// Most short entries of an array in a queue of enhanced compression: the last word says other things.
pub const MINIS_ENHANCED: usize = 7;

/// Bits of the index in the doorbell record of a completion queue.
pub const CI_MASK: u32 = 0x00ff_ffff;

/// Slot of the index in the doorbell record of a completion queue (rdma-core: `MLX5_CQ_SET_CI`).
pub const RECORD_CI: usize = 0;

/// Slot of the wish for an event in it (rdma-core: `MLX5_CQ_ARM_DB`).
pub const RECORD_ARM: usize = 1;

/// The last word of an entry, which all forms of it have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// Opcode of the send WQE.
    pub wqe_opcode: u8,
    /// Number of the queue pair, 24 bits.
    pub qpn: u32,
    /// See [`Cqe64::wqe_counter`].
    pub wqe_counter: u16,
    /// See [`Cqe64::signature`].
    pub signature: u8,
    /// See [`Cqe64::op_own`].
    pub op_own: u8,
}

impl Tail {
    /// From the word, as it was loaded from memory.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let [wqe_opcode, a, b, c, d, e, signature, op_own] = word.to_le_bytes();
        Self {
            wqe_opcode,
            qpn: u32::from_be_bytes([0, a, b, c]),
            wqe_counter: u16::from_be_bytes([d, e]),
            signature,
            op_own,
        }
    }

    /// The word, as it is stored in memory.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [_, a, b, c] = self.qpn.to_be_bytes();
        let [d, e] = self.wqe_counter.to_be_bytes();
        u64::from_le_bytes([self.wqe_opcode, a, b, c, d, e, self.signature, self.op_own])
    }

    /// What it is of: one of [`cqe_op`], or a number that is in no list.
    #[inline(always)]
    #[must_use]
    pub const fn opcode(self) -> u8 {
        self.op_own >> 4
    }

    /// The owner bit of a word alone.
    #[inline(always)]
    #[must_use]
    pub const fn op_own_of(word: u64) -> u8 {
        let [.., op_own] = word.to_le_bytes();
        op_own
    }
}

/// The two halves of a word of an entry, both big end first, as it was loaded from memory.
#[inline(always)]
#[must_use]
pub const fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    #[test]
    fn the_tail_is_the_last_word() {
        let tail = Tail {
            wqe_opcode: 0x0a,
            qpn: 0x12_3456,
            wqe_counter: 0xfedc,
            signature: 0x77,
            op_own: 0xd1,
        };
        let cqe = Cqe64 {
            sop_drop_qpn: Be32::new(0x0a12_3456),
            wqe_counter: Be16::new(0xfedc),
            signature: 0x77,
            op_own: 0xd1,
            ..Cqe64::ZERO
        };
        let last: [u8; 8] = cqe.as_bytes()[56..].try_into().unwrap();
        assert_eq!(Tail::unpack(u64::from_le_bytes(last)), tail);
        assert_eq!(tail.pack().to_le_bytes(), last);
        assert_eq!((tail.opcode(), Tail::op_own_of(tail.pack())), (cqe_op::REQ_ERR, 0xd1));
        let error = ErrCqe { syndrome: 5, vendor_err_synd: 9, ..ErrCqe::ZERO };
        assert_eq!(error.as_bytes()[54..56], [9, 5]);
        assert_eq!(
            halves(u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8])),
            (0x0102_0304, 0x0506_0708)
        );
    }
}
