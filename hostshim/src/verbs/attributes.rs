//! What a user may say of how a pair talks, against what its device takes; and what the device says that it does.

use rdma_sys as sys;

use super::device::Mtu;
use super::error::{VerbsError, within};
use super::gid::Gid;
use super::pair::{Pair, PairKind};
use super::states::{AddressOf, ConnectConfig, PairState, state};
use crate::raw::verbs as raw;

/// Numbers of packets have 24 bits.
pub(super) const PSN_MAX: u32 = 0x00ff_ffff;

/// What a port of a device takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    mtu: Mtu,
    reads: u8,
    pkeys: u16,
}

impl Bounds {
    pub(super) fn of(device: &sys::ibv_device_attr, port: &sys::ibv_port_attr) -> Self {
        let reads = device.max_qp_rd_atom.min(device.max_qp_init_rd_atom);
        Self {
            mtu: Mtu::from_code(port.active_mtu).unwrap_or(Mtu::B1024),
            reads: u8::try_from(reads.max(0)).unwrap_or(u8::MAX),
            pkeys: port.pkey_tbl_len,
        }
    }

    /// What the port carries.
    pub(super) const fn mtu(&self) -> Mtu {
        self.mtu
    }
}

impl ConnectConfig {
    /// Whether that port takes all of it, for a pair of that kind.
    pub(super) fn check(&self, kind: PairKind, has: &Bounds) -> Result<(), VerbsError> {
        // Of ibv_modify_qp(3), where the port says nothing.
        within("service level", self.service_level.into(), 15)?;
        let pkey_last = has.pkeys.saturating_sub(1);
        within("index of the partition key", self.pkey_index.into(), pkey_last.into())?;
        if kind == PairKind::Ud {
            return Ok(());
        }
        within("timeout", self.timeout.into(), 31)?;
        within("retry count", self.retry_count.into(), 7)?;
        within("RNR retries", self.rnr_retry.into(), 7)?;
        within("RNR timer", self.rnr_timer.into(), 31)?;
        within("reads under way", self.reads.into(), has.reads.into())?;
        self.mtu.map_or(Ok(()), |mtu| within("bytes of a packet", mtu.bytes(), has.mtu.bytes()))
    }
}

/// How a pair talks, as its driver says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairAttributes {
    /// The state that it is in.
    pub state: PairState,
    /// What it was connected with. Of unconnected pairs (UD) most of it means nothing. Some drivers keep less than they were told: Soft-RoCE no service
    /// level; and the kernel sets the hop limit of RoCE by the route.
    pub how: ConnectConfig,
    /// The number of the next packet that it sends.
    pub send_psn: u32,
    /// The number of the next packet that it takes.
    pub recv_psn: u32,
    /// Reads and atomics of the peer that it answers at a time.
    pub reads_answered: u8,
    /// The number of the peer's pair.
    pub peer: u32,
    /// Where that is.
    pub to: AddressOf,
}

impl Pair {
    /// What its driver says of it (`ibv_query_qp(3)`).
    ///
    /// # Errors
    /// What the library says.
    pub fn attributes(&self) -> Result<PairAttributes, VerbsError> {
        let of = self.raw.attributes().map_err(|e| VerbsError::os("ibv_query_qp", e))?;
        let route = &of.ah_attr.grh;
        let how = ConnectConfig {
            mtu: Mtu::from_code(of.path_mtu),
            timeout: of.timeout,
            retry_count: of.retry_cnt,
            rnr_retry: of.rnr_retry,
            rnr_timer: of.min_rnr_timer,
            reads: of.max_rd_atomic,
            hop_limit: route.hop_limit,
            traffic_class: route.traffic_class,
            service_level: of.ah_attr.sl,
            pkey_index: of.pkey_index,
        };
        let gid = Gid::from_bytes(raw::gid_of(route));
        Ok(PairAttributes {
            state: state(of.qp_state),
            how,
            send_psn: of.sq_psn,
            recv_psn: of.rq_psn,
            reads_answered: of.max_dest_rd_atomic,
            peer: of.dest_qp_num,
            to: AddressOf { gid, lid: of.ah_attr.dlid },
        })
    }
}
