//! How the layouts of this room are called in rdma-core's header.

use crate::describe::{Counterpart, Foreign};

/// The header that has these structures, and each name that differs.
pub(super) const FOREIGN: Foreign = Foreign {
    headers: &["infiniband/mlx5dv.h"],
    package: "libibverbs-dev",
    is_kernel: false,
    names: NAMES,
    unconfirmed: &["MaskedOperandSeg", "MaskedCs32Seg", "MaskedFa32Seg", "MiniCqe"],
};

const NAMES: &[Counterpart] = &[
    Counterpart::new("Cqe64", "struct mlx5_cqe64"),
    Counterpart::new("ErrCqe", "struct mlx5_err_cqe"),
    Counterpart::new("CtrlSeg", "struct mlx5_wqe_ctrl_seg"),
    Counterpart::new("DataSeg", "struct mlx5_wqe_data_seg"),
    Counterpart::new("InlineSeg", "struct mlx5_wqe_inl_data_seg"),
    Counterpart::new("SrqNextSeg", "struct mlx5_wqe_srq_next_seg"),
    Counterpart::new("RaddrSeg", "struct mlx5_wqe_raddr_seg"),
    Counterpart::new("AtomicSeg", "struct mlx5_wqe_atomic_seg"),
    // A union there: the key of a datagram, or that of a dynamically connected transport, whose 64 bits align all of it.
    Counterpart::new("AddressVector", "struct mlx5_wqe_av")
        .members(&[("qkey", "key.qkey.qkey"), ("reserved", "key.qkey.reserved")])
        .align_there(8),
    Counterpart::new("UmrCtrlSeg", "struct mlx5_wqe_umr_ctrl_seg"),
    Counterpart::new("MkeyContextSeg", "struct mlx5_wqe_mkey_context_seg"),
    Counterpart::new("KlmSeg", "struct mlx5_wqe_umr_klm_seg"),
];
