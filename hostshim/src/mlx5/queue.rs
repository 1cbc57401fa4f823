//! Completion queues and queue pairs: made by the library, handed to the data plane.

use core::cell::Cell;
use std::rc::Rc;

use spinwire_dataplane::cq::{Compression, Cq, CqMemory, EntryBytes};
use spinwire_dataplane::raw::mmio::Device;
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::wqe::{Grh, Qp, QpConfig, QpMemory, RecvConfig, SendConfig, Transport};
use spinwire_layouts::mlx5::cq_db;
use spinwire_layouts::word::{line_of, to_usize, widen, word_of};

use super::{Inner, MemoryAccess, Mlx5Error, PeerAddress, dv};
use crate::raw::mlx5::{CqHandle, QpHandle};

/// Packets sent again before a connection is given up, and the code of the time between: 4.096 us * 2^14 = 67 ms.
const RETRIES: u8 = 7;
const TIMEOUT_CODE: u8 = 14;
/// How often it is tried again where the other end has no receive posted: 7 is for ever, so one less.
const RNR_RETRIES: u8 = 6;
/// The code of the time that the other end is to wait then: 0.64 ms.
const RNR_TIMER_CODE: u8 = 12;
/// Hops of a packet over RoCE.
const HOP_LIMIT: u8 = 64;
/// Receive segments of one WQE, by which the stride is divided.
const SEGMENT_BYTES: u32 = 16;

/// How large the queues of a queue pair are, and what the other end may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuePairConfig {
    /// Work requests that are under way at once at most.
    pub sends: u32,
    /// Receives that are posted at once at most.
    pub receives: u32,
    /// Pieces of memory in one work request.
    pub sge_max: u32,
    /// Bytes that may be sent as part of the work request.
    pub inline_bytes_max: u32,
    /// Reads and atomics that are under way at once, in either direction.
    pub reads: u8,
    /// What the other end may do to memory that allows it, too.
    pub access: MemoryAccess,
    /// Of the send queue, as the data plane has it.
    pub send: SendConfig,
}

impl Default for QueuePairConfig {
    fn default() -> Self {
        Self {
            sends: 128,
            receives: 128,
            sge_max: 1,
            inline_bytes_max: 128,
            reads: 1,
            access: MemoryAccess::default(),
            send: SendConfig::DEFAULT,
        }
    }
}

/// A completion queue of a device.
#[derive(Debug)]
pub struct Completions {
    handle: Rc<CqHandle>,
    inner: Rc<Inner>,
    use_of: Rc<Use>,
}

/// What queue pairs know of their completion queue.
#[derive(Debug, Default)]
struct Use {
    /// It is in the hands of the data plane, which has set all its entries to invalid.
    is_built: Cell<bool>,
    /// Completions that the queue pairs may have at once.
    needed: Cell<u32>,
}

impl Completions {
    pub(super) fn open(inner: Rc<Inner>, entries: u32) -> Result<Self, Mlx5Error> {
        let handle = Rc::new(CqHandle::new(&inner.pd, entries)?);
        Ok(Self { handle, inner, use_of: Rc::default() })
    }

    /// The queue, for the data plane. Before the first queue pair is connected: it sets all entries to invalid.
    ///
    /// # Errors
    /// [`Mlx5Error::Taken`] the second time; what of its memory cannot be used.
    pub fn build(&self) -> Result<Cq<'_, Device>, Mlx5Error> {
        let (lines, record, page) = self.handle.memory()?;
        let field = |field, value: u32| Mlx5Error::Memory { field, value: value.into() };
        let entry_bytes = match self.handle.dv().cqe_size {
            64 => EntryBytes::B64,
            128 => EntryBytes::B128,
            other => return Err(field("mlx5dv_cq.cqe_size", other)),
        };
        let at = to_usize(widen(cq_db::REGISTER));
        let register = page.get(line_of(at)).and_then(|line| line.words().get(word_of(at)));
        let cqn = self.handle.dv().cqn;
        if self.use_of.is_built.get() {
            return Err(Mlx5Error::Taken);
        }
        let memory = CqMemory { lines, entry_bytes, record, register, cqn };
        let queue = Cq::new(memory, Compression::Off, Device)?;
        self.use_of.is_built.set(true);
        Ok(queue)
    }

    /// A connected, reliable queue pair that completes into this queue.
    ///
    /// # Errors
    /// What the library says: too many, too large, or too little memory that may be locked. [`Mlx5Error::Entries`] where all queue pairs of this
    /// queue could overrun it: libraries round the sizes of queues up, so ask for twice what was asked for them.
    pub fn queue_pair(&self, config: QueuePairConfig) -> Result<QueuePair, Mlx5Error> {
        let cap = dv::IbvQpCap {
            max_send_wr: config.sends,
            max_recv_wr: config.receives,
            max_send_sge: config.sge_max,
            max_recv_sge: config.sge_max,
            max_inline_data: config.inline_bytes_max,
        };
        let attr = dv::IbvQpInitAttr { cap, qp_type: dv::IBV_QPT_RC, ..QpHandle::no_init_attr() };
        let handle = QpHandle::new(&self.inner.pd, &self.handle, attr)?;
        let own = handle.dv().sq_wqe_cnt.saturating_add(handle.dv().rq_wqe_cnt);
        let (needed, entries) =
            (self.use_of.needed.get().saturating_add(own), self.handle.dv().cqe_cnt);
        if needed > entries {
            return Err(Mlx5Error::Entries { needed, entries });
        }
        self.use_of.needed.set(needed);
        // Anything will do that the queue pair before it with this number did not use.
        let psn = handle.number().rotate_left(7) ^ std::process::id();
        Ok(QueuePair {
            handle,
            inner: Rc::clone(&self.inner),
            config,
            psn: psn & 0x00ff_ffff,
            taken: Cell::new(false),
            peer: Cell::new(None),
            use_of: Rc::clone(&self.use_of),
            own,
        })
    }
}

/// A queue pair of a device.
#[derive(Debug)]
pub struct QueuePair {
    // Before `inner`, whose regions its WQEs may name.
    handle: QpHandle,
    inner: Rc<Inner>,
    config: QueuePairConfig,
    psn: u32,
    taken: Cell<bool>,
    /// To whom it is connected.
    peer: Cell<Option<PeerAddress>>,
    use_of: Rc<Use>,
    /// Completions that it may have at once.
    own: u32,
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.use_of.needed.set(self.use_of.needed.get().saturating_sub(self.own));
    }
}

impl QueuePair {
    /// Where it is, for the other end.
    #[must_use]
    pub fn address(&self) -> PeerAddress {
        let port = self.inner.port;
        let mtu = u8::try_from(port.mtu).unwrap_or(1);
        PeerAddress { qpn: self.handle.number(), psn: self.psn, lid: port.lid, gid: port.gid, mtu }
    }

    /// Connects it to `peer`, which has to do the same with [`QueuePair::address`]. Packets are as long as both ports carry.
    ///
    /// # Errors
    /// What the library says, to one of the three steps. [`Mlx5Error::NoCompletions`] before [`Completions::build`], which would lose what completes
    /// in between.
    pub fn connect(&self, peer: PeerAddress) -> Result<(), Mlx5Error> {
        if !self.use_of.is_built.get() {
            return Err(Mlx5Error::NoCompletions);
        }
        let zero = QpHandle::no_attr();
        let port = self.inner.port;
        let init = dv::IbvQpAttr {
            qp_state: dv::IBV_QPS_INIT,
            qp_access_flags: self.config.access.bits(),
            port_num: port.number,
            ..zero
        };
        let mask =
            dv::IBV_QP_STATE | dv::IBV_QP_PKEY_INDEX | dv::IBV_QP_PORT | dv::IBV_QP_ACCESS_FLAGS;
        self.handle.modify(init, mask)?;
        let receive = dv::IbvQpAttr {
            qp_state: dv::IBV_QPS_RTR,
            path_mtu: port.mtu.min(u32::from(peer.mtu)),
            dest_qp_num: peer.qpn,
            rq_psn: peer.psn,
            ah_attr: self.route(peer),
            max_dest_rd_atomic: self.config.reads,
            min_rnr_timer: RNR_TIMER_CODE,
            ..zero
        };
        let mask = dv::IBV_QP_STATE
            | dv::IBV_QP_AV
            | dv::IBV_QP_PATH_MTU
            | dv::IBV_QP_DEST_QPN
            | dv::IBV_QP_RQ_PSN
            | dv::IBV_QP_MAX_DEST_RD_ATOMIC
            | dv::IBV_QP_MIN_RNR_TIMER;
        self.handle.modify(receive, mask)?;
        let send = dv::IbvQpAttr {
            qp_state: dv::IBV_QPS_RTS,
            sq_psn: self.psn,
            timeout: TIMEOUT_CODE,
            retry_cnt: RETRIES,
            rnr_retry: RNR_RETRIES,
            max_rd_atomic: self.config.reads,
            ..zero
        };
        let mask = dv::IBV_QP_STATE
            | dv::IBV_QP_SQ_PSN
            | dv::IBV_QP_TIMEOUT
            | dv::IBV_QP_RETRY_CNT
            | dv::IBV_QP_RNR_RETRY
            | dv::IBV_QP_MAX_QP_RD_ATOMIC;
        self.handle.modify(send, mask)?;
        self.peer.set(Some(peer));
        Ok(())
    }

    /// The route over RoCE, where it is connected.
    fn path(&self) -> Option<Grh> {
        let port = self.inner.port;
        let peer = self.peer.get().filter(|_| port.is_ethernet)?;
        Some(Grh {
            dgid: peer.gid,
            sgid_index: port.gid_index,
            flow_label: 0,
            traffic_class: 0,
            hop_limit: HOP_LIMIT,
        })
    }

    fn route(&self, peer: PeerAddress) -> dv::IbvAhAttr {
        let port = self.inner.port;
        let mut route = QpHandle::no_attr().ah_attr;
        route.port_num = port.number;
        route.dlid = peer.lid;
        // Over RoCE there are global addresses only; over InfiniBand they are for other subnets, whose local addresses are not ours.
        if port.is_ethernet {
            route.is_global = 1;
            route.grh.dgid = dv::IbvGid(peer.gid);
            route.grh.sgid_index = port.gid_index;
            route.grh.hop_limit = HOP_LIMIT;
        }
        route
    }

    /// The queue pair, for the data plane; its tables are placed in `bump`. `E` is what is posted with each work request. The forms of its entry
    /// points over RoCE want its route, which it has where it was connected before.
    ///
    /// # Errors
    /// [`Mlx5Error::Taken`] the second time; what of its memory cannot be used.
    pub fn build<'m, E: Copy>(
        &'m self,
        bump: &Bump<'m>,
    ) -> Result<Rc<Qp<'m, E, Device>>, Mlx5Error> {
        let (sq, rq, record, uar) = self.handle.memory()?;
        let dv = self.handle.dv();
        let field = |field, value: u32| Mlx5Error::Memory { field, value: value.into() };
        if dv.sq_stride != 64 {
            return Err(field("mlx5dv_qp.sq.stride", dv.sq_stride));
        }
        let small = |name, value: u32| u16::try_from(value).map_err(|_large| field(name, value));
        let recv = if rq.is_empty() {
            None
        } else {
            let wqes = small("mlx5dv_qp.rq.wqe_cnt", dv.rq_wqe_cnt)?;
            let sge_max = small("mlx5dv_qp.rq.stride", dv.rq_stride / SEGMENT_BYTES)?;
            Some(RecvConfig { wqes, sge_max })
        };
        if self.taken.get() {
            return Err(Mlx5Error::Taken);
        }
        let config = QpConfig {
            qpn: self.handle.number(),
            transport: Transport::Rc { path: self.path() },
            send: self.config.send,
            recv,
        };
        let memory = QpMemory { sq, rq, record, uar };
        let qp = Qp::place(bump, config, memory, Device)?;
        self.taken.set(true);
        Ok(Rc::new(qp))
    }
}
