//! What is declared of the direct interface of libmlx5 (`infiniband/mlx5dv.h`), beside what the bindings of libibverbs have.
//!
//! Only what is used, and each structure as long as the header has it: a library that fills in a structure writes all of it.
//! Where only the first fields of a structure are read, and nobody here makes one, the rest is left out; it is marked as a prefix.
//! A test compares sizes, offsets, numbers and the types of functions with the headers.

#[cfg(feature = "mlx5")]
use core::ffi::c_int;
use core::ffi::c_void;

/// A structure as C has it, for whoever compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CStruct {
    /// Its name, with `struct`.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Whether only its first fields are declared.
    pub prefix: bool,
    /// Each field: its name in C, offset and bytes.
    pub fields: &'static [(&'static str, usize, usize)],
}

macro_rules! c_struct {
    ($(
        $(#[doc = $doc:literal])+
        pub struct $name:ident = $c_name:literal, prefix $prefix:literal {
            $( $field:ident: $ty:ty = $c_field:literal, )+
        }
    )+) => {
        $(
            $(#[doc = $doc])+
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $(
                    #[doc = concat!("`", $c_field, "`")]
                    pub $field: $ty,
                )+
            }

            impl $name {
                /// Its layout.
                pub const C: CStruct = CStruct {
                    name: $c_name,
                    size: size_of::<Self>(),
                    prefix: $prefix,
                    fields: &[$((
                        $c_field,
                        core::mem::offset_of!(Self, $field),
                        {
                            // The size of a field by its offset: what a pointer to it points at.
                            const fn size_of_field<T>(_field: fn(&$name) -> &T) -> usize {
                                size_of::<T>()
                            }
                            size_of_field(|whole| &whole.$field)
                        },
                    )),+],
                };
            }
        )+

        /// Every structure.
        pub const STRUCTS: &[CStruct] = &[$($name::C),+];
    };
}

c_struct! {
    /// What a completion queue is made of.
    pub struct CqInitAttr = "struct ibv_cq_init_attr_ex", prefix false {
        cqe: u32 = "cqe",
        cq_context: *mut c_void = "cq_context",
        channel: *mut c_void = "channel",
        comp_vector: u32 = "comp_vector",
        wc_flags: u64 = "wc_flags",
        comp_mask: u32 = "comp_mask",
        flags: u32 = "flags",
        parent_domain: *mut c_void = "parent_domain",
    }

    /// What of it is the device's own.
    pub struct DvCqInitAttr = "struct mlx5dv_cq_init_attr", prefix false {
        comp_mask: u64 = "comp_mask",
        cqe_comp_res_format: u8 = "cqe_comp_res_format",
        flags: u32 = "flags",
        cqe_size: u16 = "cqe_size",
    }

    /// The memory of a queue pair.
    pub struct DvQp = "struct mlx5dv_qp", prefix false {
        dbrec: *mut u32 = "dbrec",
        sq_buf: *mut c_void = "sq.buf",
        sq_wqe_cnt: u32 = "sq.wqe_cnt",
        sq_stride: u32 = "sq.stride",
        rq_buf: *mut c_void = "rq.buf",
        rq_wqe_cnt: u32 = "rq.wqe_cnt",
        rq_stride: u32 = "rq.stride",
        bf_reg: *mut c_void = "bf.reg",
        bf_size: u64 = "bf.size",
        comp_mask: u64 = "comp_mask",
        uar_mmap_offset: i64 = "uar_mmap_offset",
        tirn: u32 = "tirn",
        tisn: u32 = "tisn",
        rqn: u32 = "rqn",
        sqn: u32 = "sqn",
        tir_icm_addr: u64 = "tir_icm_addr",
    }

    /// The memory of a completion queue.
    pub struct DvCq = "struct mlx5dv_cq", prefix false {
        buf: *mut c_void = "buf",
        dbrec: *mut u32 = "dbrec",
        cqe_cnt: u32 = "cqe_cnt",
        cqe_size: u32 = "cqe_size",
        cq_uar: *mut c_void = "cq_uar",
        cqn: u32 = "cqn",
        comp_mask: u64 = "comp_mask",
    }

    /// The memory of a shared receive queue.
    pub struct DvSrq = "struct mlx5dv_srq", prefix false {
        buf: *mut c_void = "buf",
        dbrec: *mut u32 = "dbrec",
        stride: u32 = "stride",
        head: u32 = "head",
        tail: u32 = "tail",
        comp_mask: u64 = "comp_mask",
        srqn: u32 = "srqn",
    }

    /// The memory of an address.
    pub struct DvAh = "struct mlx5dv_ah", prefix false {
        av: *mut c_void = "av",
        comp_mask: u64 = "comp_mask",
    }

    /// What to ask for the memory of. Later versions have more behind it, which is looked at where it is asked for.
    pub struct DvObj = "struct mlx5dv_obj", prefix true {
        qp_in: *mut c_void = "qp.in",
        qp_out: *mut DvQp = "qp.out",
        cq_in: *mut c_void = "cq.in",
        cq_out: *mut DvCq = "cq.out",
        srq_in: *mut c_void = "srq.in",
        srq_out: *mut DvSrq = "srq.out",
        rwq: [*mut c_void; 2] = "rwq",
        dm: [*mut c_void; 2] = "dm",
        ah_in: *mut c_void = "ah.in",
        ah_out: *mut DvAh = "ah.out",
        pd: [*mut c_void; 2] = "pd",
    }
}

macro_rules! c_numbers {
    ($( $(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr; )+) => {
        $( $(#[doc = $doc])+ pub const $name: $ty = $value; )+

        /// Every number, with its name in C.
        pub const NUMBERS: &[(&str, u64)] =
            &[$((stringify!($name), spinwire_layouts::word::widen($name))),+];
    };
}

c_numbers! {
    /// Ask for the memory of a queue pair.
    MLX5DV_OBJ_QP: u32 = 1 << 0;
    /// Ask for the memory of a completion queue.
    MLX5DV_OBJ_CQ: u32 = 1 << 1;
    /// Ask for the memory of a shared receive queue.
    MLX5DV_OBJ_SRQ: u32 = 1 << 2;
    /// Ask for an address.
    MLX5DV_OBJ_AH: u32 = 1 << 5;
    /// `cqe_size` is set.
    MLX5DV_CQ_INIT_ATTR_MASK_CQE_SIZE: u32 = 1 << 2;
    /// `srqn` is asked for, or set.
    MLX5DV_SRQ_MASK_SRQN: u32 = 1 << 0;
}

macro_rules! functions {
    ($( $(#[doc = $doc:literal])+ $symbol:ident ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, $c_type:literal; )+) => {
        /// The functions of libmlx5 that are used: name and type in C of each.
        pub const FUNCTIONS: &[(&str, &str)] = &[$((stringify!($symbol), $c_type)),+];

        #[cfg(feature = "mlx5")]
        pub(crate) mod linked {
            use super::*;

            #[link(name = "mlx5")]
            #[allow(unsafe_code, reason = "declared here, called from the fenced yard only")]
            unsafe extern "C" {
                $( $(#[doc = $doc])+ pub(crate) fn $symbol($($arg: $ty),*) $(-> $ret)?; )+
            }
        }
    };
}

functions! {
    /// Whether a device is one of mlx5.
    mlx5dv_is_supported(device: *mut c_void) -> bool,
        "bool(struct ibv_device *)";
    /// Makes a completion queue.
    mlx5dv_create_cq(context: *mut c_void, attr: *mut CqInitAttr, direct: *mut DvCqInitAttr) -> *mut c_void,
        "struct ibv_cq_ex *(struct ibv_context *, struct ibv_cq_init_attr_ex *, struct mlx5dv_cq_init_attr *)";
    /// Says where queues lie.
    mlx5dv_init_obj(obj: *mut DvObj, kind: u64) -> c_int,
        "int(struct mlx5dv_obj *, uint64_t)";
}
