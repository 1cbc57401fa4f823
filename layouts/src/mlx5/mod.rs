//! Work-queue entries of mlx5 devices (ConnectX, BlueField): the segments that they are made of, opcodes and flags, where
//! a doorbell goes, and completions.
//!
//! ```text
//!   WQE   | ctrl | av (UD) | raddr | atomic | data, data, .. or inline |     segments of 16 bytes and multiples of it (`ds`)
//!         | 64-byte basic block | 64-byte basic block | ..                    a WQE starts at a basic block (WQEBB)
//!
//!  room      what                                                           in infiniband/mlx5dv.h
//!  --------  -------------------------------------------------------------  ---------------------------------------
//!  ctrl      what to do, which WQE it is, how long; opcodes, flags          mlx5_wqe_ctrl_seg, MLX5_OPCODE_
//!  data      where bytes lie, or the bytes themselves; receive WQEs         mlx5_wqe_data_seg, .._inl_data_seg, .._srq_next_seg
//!  raddr     remote address and key                                         mlx5_wqe_raddr_seg
//!  atomic    operands, plain and masked                                     mlx5_wqe_atomic_seg
//!  av        address vector of a datagram: InfiniBand and RoCE              mlx5_wqe_av
//!  umr       memory keys that are changed by a WQE                          mlx5_wqe_umr_ctrl_seg, .._mkey_context_seg
//!  doorbell  slots of the doorbell record                                   MLX5_RCV_DBR, MLX5_SND_DBR
//!  cqe       completions, errors, the short form of compressed queues       mlx5_cqe64, mlx5_err_cqe, MLX5_CQE_
//! ```
//!
//! Everything is big-endian. The structures are those of rdma-core; a test compares them with its header, and WQEs that are
//! built of them with what its inline functions write. They belong to the device and never change: so they are no part of
//! [`abi::MANIFEST`](crate::abi::MANIFEST), but of [`LAYOUTS`].

use crate::describe::{Room, StructLayout};
use crate::numbers::Number;
use crate::pod::Pod;

mod atomic;
mod av;
mod counterparts;
pub mod cqe;
mod ctrl;
mod data;
mod doorbell;
mod raddr;
mod umr;

pub use atomic::{AtomicSeg, MaskedCs32Seg, MaskedFa32Seg, MaskedOperandSeg, atomic_opmod};
pub use av::{AddressVector, ud_av};
pub use cqe::{Cqe64, ErrCqe, MiniCqe, cq_db, cqe_op, mini_format, syndrome};
pub use ctrl::{CtrlSeg, fm_ce_se, op};
pub use data::{DataSeg, InlineSeg, SrqNextSeg, data_seg};
pub use doorbell::{basic_block, dbr};
pub use raddr::RaddrSeg;
pub use umr::{KlmSeg, MkeyContextSeg, UmrCtrlSeg, mkey, mkey_access, umr_flag, umr_mask};

/// All of this room, with what rdma-core calls it.
pub const ROOM: Room = Room::own("mlx5", "what mlx5 devices read and write", LAYOUTS)
    .with_numbers(NUMBERS)
    .known_to(counterparts::FOREIGN);

/// Every structure of this room, in a fixed order.
pub const LAYOUTS: &[&StructLayout] = &[
    &CtrlSeg::LAYOUT,
    &DataSeg::LAYOUT,
    &InlineSeg::LAYOUT,
    &SrqNextSeg::LAYOUT,
    &RaddrSeg::LAYOUT,
    &AtomicSeg::LAYOUT,
    &MaskedOperandSeg::LAYOUT,
    &MaskedCs32Seg::LAYOUT,
    &MaskedFa32Seg::LAYOUT,
    &AddressVector::LAYOUT,
    &UmrCtrlSeg::LAYOUT,
    &MkeyContextSeg::LAYOUT,
    &KlmSeg::LAYOUT,
    &Cqe64::LAYOUT,
    &ErrCqe::LAYOUT,
    &MiniCqe::LAYOUT,
];

/// Every list of numbers of this room that rdma-core's header has, too.
pub const NUMBERS: &[&[Number]] = &[
    op::LIST,
    fm_ce_se::LIST,
    data_seg::LIST,
    ud_av::LIST,
    umr_flag::LIST,
    umr_mask::LIST,
    mkey::LIST,
    mkey_access::LIST,
    dbr::LIST,
    basic_block::LIST,
    cqe_op::LIST,
    syndrome::LIST,
    mini_format::LIST,
    cq_db::LIST,
];

/// Bytes of a unit in which the length of a WQE is counted (`ds`).
pub const DS_BYTES: u32 = 16;

/// Most units of a WQE: the field has six bits.
pub const DS_MAX: u32 = 63;

/// A segment as the words that are stored for it: its bytes, eight at a time.
#[inline(always)]
#[must_use]
pub fn words<T: Pod, const N: usize>(segment: &T) -> [u64; N] {
    const { assert!(size_of::<T>() == N * 8, "as many words as the segment has") };
    let mut words = [0; N];
    let (chunks, _rest) = segment.as_bytes().as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endian::{Be32, Be64};
    use std::string::String;
    use std::vec::Vec;

    fn sources() -> String {
        let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mlx5");
        std::fs::read_dir(room)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    }

    fn defined(start: &str, end: char) -> Vec<String> {
        let text = sources();
        text.lines()
            .filter_map(|line| line.trim_start().strip_prefix(start))
            .filter_map(|rest| rest.split_once(end))
            .map(|(name, _)| name.into())
            .filter(|name: &String| !name.contains(['$', ' ', '"']))
            .collect()
    }

    #[test]
    fn every_structure_and_list_is_listed() {
        let mut structures: Vec<_> = defined("pub struct ", ',');
        let mut listed: Vec<String> = LAYOUTS.iter().map(|l| l.name.into()).collect();
        structures.sort();
        listed.sort();
        assert_eq!(structures, listed);
        assert_eq!(defined("pub mod ", ':').len(), NUMBERS.len());
        for layout in LAYOUTS {
            assert!(!layout.doc.is_empty(), "{}", layout.name);
            assert!(layout.fields.iter().all(|field| !field.doc.is_empty()), "{}", layout.name);
        }
    }

    #[test]
    fn words_are_the_bytes() {
        let segment = DataSeg {
            byte_count: Be32::new(0x0102_0304),
            lkey: Be32::new(0x0506_0708),
            addr: Be64::new(0x1112_1314_1516_1718),
        };
        let bytes: Vec<u8> = words::<_, 2>(&segment).iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes, segment.as_bytes());
        assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
