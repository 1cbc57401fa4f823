//! What is declared of libibverbs and of the direct interface of libmlx5 (`infiniband/verbs.h`, `infiniband/mlx5dv.h`).
//!
//! Only what is used, and each structure as long as the header has it: a library that fills in a structure writes all of it.
//! Where only the first fields of a structure are read, and nobody here makes one, the rest is left out; it is marked as a prefix.
//! A test compares sizes, offsets, numbers and the types of functions with the headers.

use core::ffi::{c_char, c_int, c_void};

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

macro_rules! opaque {
    ($( $(#[doc = $doc:literal])+ $name:ident )+) => {$(
        $(#[doc = $doc])+
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name {
            hidden: [u8; 0],
        }
    )+};
}

opaque! {
    /// `struct ibv_device`.
    IbvDevice
    /// `struct ibv_context`.
    IbvContext
    /// `struct ibv_pd`.
    IbvPd
    /// `struct ibv_cq`.
    IbvCq
}

c_struct! {
    /// A queue pair.
    pub struct IbvQp = "struct ibv_qp", prefix true {
        context: *mut IbvContext = "context",
        qp_context: *mut c_void = "qp_context",
        pd: *mut IbvPd = "pd",
        send_cq: *mut IbvCq = "send_cq",
        recv_cq: *mut IbvCq = "recv_cq",
        srq: *mut c_void = "srq",
        handle: u32 = "handle",
        qp_num: u32 = "qp_num",
    }

    /// A registered region.
    pub struct IbvMr = "struct ibv_mr", prefix false {
        context: *mut IbvContext = "context",
        pd: *mut IbvPd = "pd",
        addr: *mut c_void = "addr",
        length: usize = "length",
        handle: u32 = "handle",
        lkey: u32 = "lkey",
        rkey: u32 = "rkey",
    }

    /// How large the queues of a queue pair are.
    pub struct IbvQpCap = "struct ibv_qp_cap", prefix false {
        max_send_wr: u32 = "max_send_wr",
        max_recv_wr: u32 = "max_recv_wr",
        max_send_sge: u32 = "max_send_sge",
        max_recv_sge: u32 = "max_recv_sge",
        max_inline_data: u32 = "max_inline_data",
    }

    /// What a queue pair is made of.
    pub struct IbvQpInitAttr = "struct ibv_qp_init_attr", prefix false {
        qp_context: *mut c_void = "qp_context",
        send_cq: *mut IbvCq = "send_cq",
        recv_cq: *mut IbvCq = "recv_cq",
        srq: *mut c_void = "srq",
        cap: IbvQpCap = "cap",
        qp_type: u32 = "qp_type",
        sq_sig_all: c_int = "sq_sig_all",
    }

    /// A route beyond the subnet, or over RoCE.
    pub struct IbvGlobalRoute = "struct ibv_global_route", prefix false {
        dgid: IbvGid = "dgid",
        flow_label: u32 = "flow_label",
        sgid_index: u8 = "sgid_index",
        hop_limit: u8 = "hop_limit",
        traffic_class: u8 = "traffic_class",
    }

    /// A route.
    pub struct IbvAhAttr = "struct ibv_ah_attr", prefix false {
        grh: IbvGlobalRoute = "grh",
        dlid: u16 = "dlid",
        sl: u8 = "sl",
        src_path_bits: u8 = "src_path_bits",
        static_rate: u8 = "static_rate",
        is_global: u8 = "is_global",
        port_num: u8 = "port_num",
    }

    /// What can be changed of a queue pair.
    pub struct IbvQpAttr = "struct ibv_qp_attr", prefix false {
        qp_state: u32 = "qp_state",
        cur_qp_state: u32 = "cur_qp_state",
        path_mtu: u32 = "path_mtu",
        path_mig_state: u32 = "path_mig_state",
        qkey: u32 = "qkey",
        rq_psn: u32 = "rq_psn",
        sq_psn: u32 = "sq_psn",
        dest_qp_num: u32 = "dest_qp_num",
        qp_access_flags: u32 = "qp_access_flags",
        cap: IbvQpCap = "cap",
        ah_attr: IbvAhAttr = "ah_attr",
        alt_ah_attr: IbvAhAttr = "alt_ah_attr",
        pkey_index: u16 = "pkey_index",
        alt_pkey_index: u16 = "alt_pkey_index",
        en_sqd_async_notify: u8 = "en_sqd_async_notify",
        sq_draining: u8 = "sq_draining",
        max_rd_atomic: u8 = "max_rd_atomic",
        max_dest_rd_atomic: u8 = "max_dest_rd_atomic",
        min_rnr_timer: u8 = "min_rnr_timer",
        port_num: u8 = "port_num",
        timeout: u8 = "timeout",
        retry_cnt: u8 = "retry_cnt",
        rnr_retry: u8 = "rnr_retry",
        alt_port_num: u8 = "alt_port_num",
        alt_timeout: u8 = "alt_timeout",
        rate_limit: u32 = "rate_limit",
    }

    /// A port. The function that fills it in writes no more than this, in all versions of it.
    pub struct IbvPortAttr = "struct ibv_port_attr", prefix false {
        state: u32 = "state",
        max_mtu: u32 = "max_mtu",
        active_mtu: u32 = "active_mtu",
        gid_tbl_len: c_int = "gid_tbl_len",
        port_cap_flags: u32 = "port_cap_flags",
        max_msg_sz: u32 = "max_msg_sz",
        bad_pkey_cntr: u32 = "bad_pkey_cntr",
        qkey_viol_cntr: u32 = "qkey_viol_cntr",
        pkey_tbl_len: u16 = "pkey_tbl_len",
        lid: u16 = "lid",
        sm_lid: u16 = "sm_lid",
        lmc: u8 = "lmc",
        max_vl_num: u8 = "max_vl_num",
        sm_sl: u8 = "sm_sl",
        subnet_timeout: u8 = "subnet_timeout",
        init_type_reply: u8 = "init_type_reply",
        active_width: u8 = "active_width",
        active_speed: u8 = "active_speed",
        phys_state: u8 = "phys_state",
        link_layer: u8 = "link_layer",
        flags: u8 = "flags",
        port_cap_flags2: u16 = "port_cap_flags2",
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

    /// What to ask for the memory of.
    pub struct DvObj = "struct mlx5dv_obj", prefix false {
        qp_in: *mut IbvQp = "qp.in",
        qp_out: *mut DvQp = "qp.out",
        cq_in: *mut IbvCq = "cq.in",
        cq_out: *mut DvCq = "cq.out",
        srq: [*mut c_void; 2] = "srq",
        rwq: [*mut c_void; 2] = "rwq",
        dm: [*mut c_void; 2] = "dm",
        ah: [*mut c_void; 2] = "ah",
        pd: [*mut c_void; 2] = "pd",
    }
}

/// `union ibv_gid`.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IbvGid(pub [u8; 16]);

macro_rules! c_numbers {
    ($( $(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr; )+) => {
        $( $(#[doc = $doc])+ pub const $name: $ty = $value; )+

        /// Every number, with its name in C.
        pub const NUMBERS: &[(&str, u64)] =
            &[$((stringify!($name), spinwire_layouts::word::widen($name))),+];
    };
}

c_numbers! {
    /// A connected, reliable queue pair.
    IBV_QPT_RC: u32 = 2;
    /// A state: made.
    IBV_QPS_RESET: u32 = 0;
    /// A state: may be posted receives to.
    IBV_QPS_INIT: u32 = 1;
    /// A state: receives.
    IBV_QPS_RTR: u32 = 2;
    /// A state: sends.
    IBV_QPS_RTS: u32 = 3;
    /// `qp_state` is set.
    IBV_QP_STATE: u32 = 1 << 0;
    /// `qp_access_flags` is set.
    IBV_QP_ACCESS_FLAGS: u32 = 1 << 3;
    /// `pkey_index` is set.
    IBV_QP_PKEY_INDEX: u32 = 1 << 4;
    /// `port_num` is set.
    IBV_QP_PORT: u32 = 1 << 5;
    /// `ah_attr` is set.
    IBV_QP_AV: u32 = 1 << 7;
    /// `path_mtu` is set.
    IBV_QP_PATH_MTU: u32 = 1 << 8;
    /// `timeout` is set.
    IBV_QP_TIMEOUT: u32 = 1 << 9;
    /// `retry_cnt` is set.
    IBV_QP_RETRY_CNT: u32 = 1 << 10;
    /// `rnr_retry` is set.
    IBV_QP_RNR_RETRY: u32 = 1 << 11;
    /// `rq_psn` is set.
    IBV_QP_RQ_PSN: u32 = 1 << 12;
    /// `max_rd_atomic` is set.
    IBV_QP_MAX_QP_RD_ATOMIC: u32 = 1 << 13;
    /// `min_rnr_timer` is set.
    IBV_QP_MIN_RNR_TIMER: u32 = 1 << 15;
    /// `sq_psn` is set.
    IBV_QP_SQ_PSN: u32 = 1 << 16;
    /// `max_dest_rd_atomic` is set.
    IBV_QP_MAX_DEST_RD_ATOMIC: u32 = 1 << 17;
    /// `dest_qp_num` is set.
    IBV_QP_DEST_QPN: u32 = 1 << 20;
    /// The port is up.
    IBV_PORT_ACTIVE: u32 = 4;
    /// The port is one of Ethernet: RoCE.
    IBV_LINK_LAYER_ETHERNET: u32 = 2;
    /// The device may write to it.
    IBV_ACCESS_LOCAL_WRITE: u32 = 1;
    /// The other end may write to it.
    IBV_ACCESS_REMOTE_WRITE: u32 = 1 << 1;
    /// The other end may read it.
    IBV_ACCESS_REMOTE_READ: u32 = 1 << 2;
    /// The other end may change it by atomics.
    IBV_ACCESS_REMOTE_ATOMIC: u32 = 1 << 3;
    /// Writes to it may overtake each other on the way through the PCI bus.
    IBV_ACCESS_RELAXED_ORDERING: u32 = 1 << 20;
    /// Ask for the memory of a queue pair.
    MLX5DV_OBJ_QP: u32 = 1 << 0;
    /// Ask for the memory of a completion queue.
    MLX5DV_OBJ_CQ: u32 = 1 << 1;
}

macro_rules! functions {
    ($( $(#[doc = $doc:literal])+ $field:ident = $symbol:ident ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, $c_type:literal; )+) => {
        /// The functions of the two libraries that are used, or others in their place.
        #[derive(Clone, Copy, Debug)]
        pub struct Functions {
            $(
                $(#[doc = $doc])+
                pub $field: unsafe extern "C" fn($($ty),*) $(-> $ret)?,
            )+
        }

        /// Name and type in C of each.
        pub const FUNCTIONS: &[(&str, &str)] = &[$((stringify!($symbol), $c_type)),+];

        #[cfg(feature = "mlx5")]
        pub(crate) mod linked {
            use super::*;

            #[link(name = "mlx5")]
            #[link(name = "ibverbs")]
            #[allow(unsafe_code, reason = "declared here, called from the fenced yard only")]
            unsafe extern "C" {
                $( fn $symbol($($arg: $ty),*) $(-> $ret)?; )+
            }

            /// Those that this program is linked with.
            pub(crate) const FUNCTIONS: Functions = Functions { $( $field: $symbol ),+ };
        }
    };
}

functions! {
    /// `ibv_get_device_list`.
    get_device_list = ibv_get_device_list(count: *mut c_int) -> *mut *mut IbvDevice,
        "struct ibv_device **(int *)";
    /// `ibv_free_device_list`.
    free_device_list = ibv_free_device_list(list: *mut *mut IbvDevice),
        "void(struct ibv_device **)";
    /// `ibv_get_device_name`.
    get_device_name = ibv_get_device_name(device: *mut IbvDevice) -> *const c_char,
        "const char *(struct ibv_device *)";
    /// `mlx5dv_is_supported`.
    is_supported = mlx5dv_is_supported(device: *mut IbvDevice) -> bool,
        "bool(struct ibv_device *)";
    /// `ibv_open_device`.
    open_device = ibv_open_device(device: *mut IbvDevice) -> *mut IbvContext,
        "struct ibv_context *(struct ibv_device *)";
    /// `ibv_close_device`.
    close_device = ibv_close_device(context: *mut IbvContext) -> c_int,
        "int(struct ibv_context *)";
    /// `ibv_query_port`.
    query_port = ibv_query_port(context: *mut IbvContext, port: u8, attr: *mut IbvPortAttr) -> c_int,
        "int(struct ibv_context *, uint8_t, struct _compat_ibv_port_attr *)";
    /// `ibv_query_gid`.
    query_gid = ibv_query_gid(context: *mut IbvContext, port: u8, index: c_int, gid: *mut IbvGid) -> c_int,
        "int(struct ibv_context *, uint8_t, int, union ibv_gid *)";
    /// `ibv_alloc_pd`.
    alloc_pd = ibv_alloc_pd(context: *mut IbvContext) -> *mut IbvPd,
        "struct ibv_pd *(struct ibv_context *)";
    /// `ibv_dealloc_pd`.
    dealloc_pd = ibv_dealloc_pd(pd: *mut IbvPd) -> c_int,
        "int(struct ibv_pd *)";
    /// `ibv_reg_mr_iova2`: takes the accesses that `ibv_reg_mr` does not know.
    reg_mr = ibv_reg_mr_iova2(pd: *mut IbvPd, addr: *mut c_void, length: usize, iova: u64, access: u32) -> *mut IbvMr,
        "struct ibv_mr *(struct ibv_pd *, void *, size_t, uint64_t, unsigned int)";
    /// `ibv_dereg_mr`.
    dereg_mr = ibv_dereg_mr(mr: *mut IbvMr) -> c_int,
        "int(struct ibv_mr *)";
    /// `ibv_create_cq`.
    create_cq = ibv_create_cq(context: *mut IbvContext, cqe: c_int, cq_context: *mut c_void, channel: *mut c_void, comp_vector: c_int) -> *mut IbvCq,
        "struct ibv_cq *(struct ibv_context *, int, void *, struct ibv_comp_channel *, int)";
    /// `ibv_destroy_cq`.
    destroy_cq = ibv_destroy_cq(cq: *mut IbvCq) -> c_int,
        "int(struct ibv_cq *)";
    /// `ibv_create_qp`.
    create_qp = ibv_create_qp(pd: *mut IbvPd, attr: *mut IbvQpInitAttr) -> *mut IbvQp,
        "struct ibv_qp *(struct ibv_pd *, struct ibv_qp_init_attr *)";
    /// `ibv_destroy_qp`.
    destroy_qp = ibv_destroy_qp(qp: *mut IbvQp) -> c_int,
        "int(struct ibv_qp *)";
    /// `ibv_modify_qp`.
    modify_qp = ibv_modify_qp(qp: *mut IbvQp, attr: *mut IbvQpAttr, mask: c_int) -> c_int,
        "int(struct ibv_qp *, struct ibv_qp_attr *, int)";
    /// `mlx5dv_init_obj`.
    init_obj = mlx5dv_init_obj(obj: *mut DvObj, kind: u64) -> c_int,
        "int(struct mlx5dv_obj *, uint64_t)";
}
