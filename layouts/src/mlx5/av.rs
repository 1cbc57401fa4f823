//! The address vector of a datagram: to whom it goes.
//!
//! ```text
//!  byte 0        4          8          12               13        14      16         20      26       27          28           32
//!      +--------+----------+----------+----------------+---------+-------+----------+-------+--------+-----------+------------+-------+
//!      | qkey   | reserved | ext, qpn | rate 4, sl 4   | fl_mlid | rlid  | reserved | rmac  | tclass | hop limit | grh_gid_fl | rgid  |
//!      +--------+----------+----------+----------------+---------+-------+----------+-------+--------+-----------+------------+-------+
//!   InfiniBand                          sl              path      dlid                                             bit 30: GRH
//!   RoCE                                sl * 2          0         UDP port            MAC    TOS      TTL          bit 30: 0    GID
//! ```
//!
//! Source: `mlx5_create_ah` of rdma-core. Of a RoCE address bit 30 stays 0, as every RoCE packet has a GRH; the source port of
//! UDP stands where InfiniBand has the LID.

use crate::endian::{Be16, Be32};

layout! {
    /// `struct mlx5_wqe_av`.
    pub struct AddressVector, size 48, align 4 {
        /// The Q_Key of the receiver.
        pub qkey: Be32 @ 0,
        /// Zero.
        pub reserved: Be32 @ 4,
        /// Number of the queue pair of the receiver, with [`ud_av::EXTENDED_UD_AV`].
        pub dqp_dct: Be32 @ 8,
        /// Static rate in the upper four bits; below, the service level: four bits, or three and a 0 where it is RoCE.
        pub stat_rate_sl: u8 @ 12,
        /// Source path bits (InfiniBand).
        pub fl_mlid: u8 @ 13,
        /// Destination LID (InfiniBand); source port of UDP (RoCE version 2).
        pub rlid: Be16 @ 14,
        /// Zero.
        pub reserved0: [u8; 4] @ 16,
        /// Destination MAC (RoCE).
        pub rmac: [u8; 6] @ 20,
        /// Traffic class.
        pub tclass: u8 @ 26,
        /// Hop limit.
        pub hop_limit: u8 @ 27,
        /// Bit 30: there is a GRH (InfiniBand); index of the source GID in bits 20 to 27; flow label in bits 0 to 19.
        pub grh_gid_fl: Be32 @ 28,
        /// Destination GID.
        pub rgid: [u8; 16] @ 32,
    }
}

numbers! {
    /// Numbers of address vectors.
    pub mod ud_av: u32 "MLX5_" {
        /// The vector has all of its 48 bytes.
        EXTENDED_UD_AV = 0x8000_0000;
    }
}
