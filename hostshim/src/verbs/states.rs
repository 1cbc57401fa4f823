//! The states that a pair goes through, and how it talks to its peer.
//!
//! ```text
//!   new ── Reset ── connect: Init ── ready to receive ── ready to send      RC: what the peer's card says
//!              └─── ready:   Init ── ready to receive ── ready to send      UD: no peer; add_address says whom to
//!                                                            |
//!                                    an error, or fail(): Error ── reset() ── Reset
//! ```

use rdma_sys as sys;

use super::connect::Card;
use super::device::Mtu;
use super::error::{VerbsError, within};
use super::gid::Gid;
use super::pair::{HANDLES_MAX, Pair, PairKind};
use crate::raw::verbs as raw;
use crate::raw::verbs::cm::Id;

/// Where a pair is between made and gone (`ibv_modify_qp(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names of the specification")]
pub enum PairState {
    Reset,
    Init,
    ReadyToReceive,
    ReadyToSend,
    SendsDraining,
    SendError,
    Error,
    Unknown,
}

/// How a pair talks to its peer. The numbers are those of `ibv_modify_qp(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectConfig {
    /// Packets on the way; what both ports carry where `None`.
    pub mtu: Option<Mtu>,
    /// A packet that is not answered is sent again after 4.096 us * 2^timeout; 0 waits for ever.
    pub timeout: u8,
    /// How often, 0 to 7. Some devices (Soft-RoCE) take 7 for ever.
    pub retry_count: u8,
    /// How often a send is tried again that finds no receive; 7 is for ever.
    pub rnr_retry: u8,
    /// How long a peer is asked to wait whose send finds no receive: 0 to 31, of a table in the specification; 12 is 0.64 ms, 0 is 655 ms.
    pub rnr_timer: u8,
    /// Reads and atomics under way, in either direction.
    pub reads: u8,
    /// Routers that a packet may pass.
    pub hop_limit: u8,
    /// Traffic class of its packets.
    pub traffic_class: u8,
    /// Service level.
    pub service_level: u8,
    /// Key of the partition.
    pub pkey_index: u16,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        Self {
            mtu: None,
            timeout: 14,
            retry_count: 6,
            rnr_retry: 7,
            rnr_timer: 12,
            reads: 16,
            hop_limit: 64,
            traffic_class: 0,
            service_level: 0,
            pkey_index: 0,
        }
    }
}

/// Where datagrams of a peer's pair go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressOf {
    /// The peer's address.
    pub gid: Gid,
    /// Its local id; 0 on Ethernet.
    pub lid: u16,
}

/// The key of datagrams that is used where nobody says otherwise.
pub const QKEY_DEFAULT: u32 = 0x1111_1111;

// enum ibv_qp_attr_mask
const STATE: u32 = 1;
const ACCESS: u32 = 1 << 3;
const PKEY_INDEX: u32 = 1 << 4;
const PORT: u32 = 1 << 5;
const QKEY: u32 = 1 << 6;
const AV: u32 = 1 << 7;
const PATH_MTU: u32 = 1 << 8;
const TIMEOUT: u32 = 1 << 9;
const RETRY_CNT: u32 = 1 << 10;
const RNR_RETRY: u32 = 1 << 11;
const RQ_PSN: u32 = 1 << 12;
const MAX_QP_RD_ATOMIC: u32 = 1 << 13;
const MIN_RNR_TIMER: u32 = 1 << 15;
const SQ_PSN: u32 = 1 << 16;
const MAX_DEST_RD_ATOMIC: u32 = 1 << 17;
const DEST_QPN: u32 = 1 << 20;

/// `enum ibv_qp_state`
pub(super) const fn state(number: u32) -> PairState {
    match number {
        0 => PairState::Reset,
        1 => PairState::Init,
        2 => PairState::ReadyToReceive,
        3 => PairState::ReadyToSend,
        4 => PairState::SendsDraining,
        5 => PairState::SendError,
        6 => PairState::Error,
        _ => PairState::Unknown,
    }
}

impl Pair {
    /// The state that it is in.
    ///
    /// # Errors
    /// What the library says.
    pub fn state(&self) -> Result<PairState, VerbsError> {
        Ok(self.attributes()?.state)
    }

    /// Connects it with the pair of that card: from Reset to ready to send. Both ends do this; receives may be posted before.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] for datagrams, [`VerbsError::Limit`] names the field that is out of its range, or what the library says.
    pub fn connect(&self, peer: &Card, how: &ConnectConfig) -> Result<(), VerbsError> {
        if self.kind != PairKind::Rc {
            return Err(VerbsError::WrongKind {
                call: "connect",
                wants: "a queue pair of kind RC",
            });
        }
        how.check(self.kind, &self.bounds)?;
        if let Some(mtu) = how.mtu {
            within("bytes of a packet", mtu.bytes(), peer.mtu.bytes())?;
        }
        let mut init = raw::pair_attributes();
        init.qp_state = 1;
        init.pkey_index = how.pkey_index;
        init.port_num = self.config.port;
        init.qp_access_flags = self.config.access.bits();
        self.modify("ibv_modify_qp(Init)", &mut init, STATE | PKEY_INDEX | PORT | ACCESS)?;

        let mut receive = raw::pair_attributes();
        receive.qp_state = 2;
        receive.path_mtu = u32::from(how.mtu.unwrap_or(self.card.mtu.min(peer.mtu)).code());
        receive.dest_qp_num = peer.qp_num;
        receive.rq_psn = peer.psn;
        receive.max_dest_rd_atomic = how.reads;
        receive.min_rnr_timer = how.rnr_timer;
        receive.ah_attr = self.path(AddressOf { gid: peer.gid, lid: peer.lid }, how);
        let mask = STATE | AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER;
        self.modify("ibv_modify_qp(ReadyToReceive)", &mut receive, mask)?;

        let mut send = raw::pair_attributes();
        send.qp_state = 3;
        send.sq_psn = self.card.psn;
        send.timeout = how.timeout;
        send.retry_cnt = how.retry_count;
        send.rnr_retry = how.rnr_retry;
        send.max_rd_atomic = how.reads;
        let mask = STATE | SQ_PSN | TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC;
        self.modify("ibv_modify_qp(ReadyToSend)", &mut send, mask)?;
        self.broken.set(false);
        Ok(())
    }

    /// Makes it ready for datagrams that bring `qkey`: from Reset to ready to send.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] for RC, [`VerbsError::Limit`] names the field that is out of its range, or what the library says.
    pub fn ready(&self, qkey: u32, how: &ConnectConfig) -> Result<(), VerbsError> {
        if self.kind != PairKind::Ud {
            return Err(VerbsError::WrongKind { call: "ready", wants: "a queue pair of kind UD" });
        }
        how.check(self.kind, &self.bounds)?;
        let mut attributes = raw::pair_attributes();
        attributes.qp_state = 1;
        attributes.pkey_index = how.pkey_index;
        attributes.port_num = self.config.port;
        attributes.qkey = qkey;
        self.modify("ibv_modify_qp(Init)", &mut attributes, STATE | PKEY_INDEX | PORT | QKEY)?;
        attributes.qp_state = 2;
        self.modify("ibv_modify_qp(ReadyToReceive)", &mut attributes, STATE)?;
        attributes.qp_state = 3;
        attributes.sq_psn = self.card.psn;
        self.modify("ibv_modify_qp(ReadyToSend)", &mut attributes, STATE | SQ_PSN)?;
        self.broken.set(false);
        Ok(())
    }

    /// Puts an address where datagrams may go into the pair's table; its place is the `handle` of a
    /// [`Destination`](spinwire_dataplane::verbs::Destination). One that is there already has the same place.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] for RC, [`VerbsError::Limit`] where the table is full or names the field that is out of its range, or what the library says.
    pub fn add_address(&self, to: AddressOf, how: &ConnectConfig) -> Result<u32, VerbsError> {
        if self.kind != PairKind::Ud {
            let wants = "a queue pair of kind UD";
            return Err(VerbsError::WrongKind { call: "add_address", wants });
        }
        how.check(self.kind, &self.bounds)?;
        let full = VerbsError::Limit {
            field: "address handles",
            asked: u64::from(HANDLES_MAX) + 1,
            most: HANDLES_MAX.into(),
        };
        let number = |place| u32::try_from(place).unwrap_or(u32::MAX);
        if let Some(there) = self.ways.iter().position(|way| way.to.get() == Some((to, *how))) {
            return Ok(number(there));
        }
        let mut all = self.ways.iter().enumerate();
        let (free, way) = all.find(|(_, way)| !way.handle.is_made()).ok_or(full)?;
        let path = self.path(to, how);
        way.handle.make(path).map_err(|e| VerbsError::os("ibv_create_ah", e))?;
        way.to.set(Some((to, *how)));
        Ok(number(free))
    }

    /// Takes an address out of the table, so that its place is free for another. To be done when no send to it is under way: one that is may fail, and
    /// the pair with it. Whether it was done: not while sends are staged.
    #[must_use]
    pub fn remove_address(&self, handle: u32) -> bool {
        let way = usize::try_from(handle).ok().and_then(|place| self.ways.get(place));
        let Some(way) = way.filter(|way| way.handle.give_back(&self.sends)) else { return false };
        way.to.set(None);
        true
    }

    /// Addresses that are in its table.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.ways.iter().filter(|way| way.handle.is_made()).count()
    }

    /// Ends it: everything that is posted completes as flushed, nothing new is taken.
    ///
    /// # Errors
    /// What the library says.
    pub fn fail(&self) -> Result<(), VerbsError> {
        let mut attributes = raw::pair_attributes();
        attributes.qp_state = 6;
        self.broken.set(true);
        self.modify("ibv_modify_qp(Error)", &mut attributes, STATE)
    }

    /// Back to Reset: what is posted is gone **without a completion**, so everything is to be harvested before.
    ///
    /// # Errors
    /// What the library says.
    pub fn reset(&self) -> Result<(), VerbsError> {
        self.forget_staged();
        let mut attributes = raw::pair_attributes();
        self.modify("ibv_modify_qp(Reset)", &mut attributes, STATE)
    }

    /// Goes into the next state as librdmacm says for a connection; `how` has the last word on times and tries. Its traffic class, service level,
    /// hop limit and partition are not looked at: those are the connection's.
    pub(super) fn follow(
        &self,
        id: &Id,
        how: &ConnectConfig,
        state: u32,
    ) -> Result<(), VerbsError> {
        how.check(self.kind, &self.bounds)?;
        let (mut of, mask) =
            id.attributes(state).map_err(|e| VerbsError::os("rdma_init_qp_attr", e))?;
        let operation = match state {
            1 => {
                of.qp_access_flags = self.config.access.bits();
                "ibv_modify_qp(Init)"
            }
            2 => {
                of.path_mtu = how.mtu.map_or(of.path_mtu, |mtu| u32::from(mtu.code()));
                of.min_rnr_timer = how.rnr_timer;
                "ibv_modify_qp(ReadyToReceive)"
            }
            _ => {
                (of.timeout, of.retry_cnt) = (how.timeout, how.retry_count);
                of.rnr_retry = how.rnr_retry;
                "ibv_modify_qp(ReadyToSend)"
            }
        };
        self.modify(operation, &mut of, mask)?;
        self.broken.set(false);
        Ok(())
    }

    fn modify(
        &self,
        operation: &'static str,
        attributes: &mut sys::ibv_qp_attr,
        mask: u32,
    ) -> Result<(), VerbsError> {
        self.raw.modify(attributes, mask).map_err(|e| VerbsError::os(operation, e))
    }

    fn path(&self, to: AddressOf, how: &ConnectConfig) -> sys::ibv_ah_attr {
        sys::ibv_ah_attr {
            grh: sys::ibv_global_route {
                dgid: sys::ibv_gid { raw: to.gid.bytes() },
                flow_label: 0,
                sgid_index: self.gid_index,
                hop_limit: how.hop_limit,
                traffic_class: how.traffic_class,
            },
            dlid: to.lid,
            sl: how.service_level,
            src_path_bits: 0,
            static_rate: 0,
            // By LID alone only where there is one and no address.
            is_global: u8::from(!to.gid.is_zero()),
            port_num: self.config.port,
        }
    }
}
