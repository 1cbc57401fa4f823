//! Queue pairs and completion queues, as the data plane turns them, and the states that a pair goes through.
//!
//! ```text
//!   new ── Reset ── connect: Init ── ready to receive ── ready to send      RC: what the peer's card says
//!              └─── ready:   Init ── ready to receive ── ready to send      UD: no peer; add_address says whom to
//!                                                            |
//!                                    an error, or fail(): Error ── reset() ── Reset
//! ```

use core::cell::Cell;
use core::fmt;
use std::rc::Rc;

use heapless::VecView;
use rdma_sys as sys;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::{Limits, RecvRequest, Segment, SendRequest, Verb, Wc};

use super::connect::Card;
use super::device::{Device, Mtu};
use super::error::VerbsError;
use super::gid::Gid;
use super::region::{Access, LocalKey, ProtectionDomain};
use crate::raw::verbs::{
    self as raw, AddressHandle, BATCH, Entry, Posting, RecvList, SendList, Target, Word,
};

/// A completion queue. Shared by reference: `Rc`.
#[derive(Debug)]
pub struct CompletionQueue {
    raw: Rc<raw::Completions>,
    /// Polls that the library has failed.
    failed: Cell<u64>,
}

impl CompletionQueue {
    /// A queue with room for `depth` completions. One that overruns fails all pairs that use it, so `depth` must be at least what may
    /// be posted on all of them together.
    ///
    /// # Errors
    /// [`VerbsError::Limit`], or what the library says.
    pub fn new(device: &Device, depth: u32) -> Result<Rc<Self>, VerbsError> {
        let most = u32::try_from(device.attributes()?.max_cqe).unwrap_or(0);
        within("completion queue depth", depth, most)?;
        let raw = raw::Completions::make(device.context(), depth)
            .map_err(|e| VerbsError::os("ibv_create_cq", e))?;
        Ok(Rc::new(Self { raw, failed: Cell::new(0) }))
    }

    /// Polls that the library has failed: the queue has overrun, or the device is lost. An event says which.
    #[must_use]
    pub const fn failed_polls(&self) -> u64 {
        self.failed.get()
    }
}

impl seam::CompletionQueue for CompletionQueue {
    fn depth(&self) -> u32 {
        self.raw.depth()
    }

    fn poll_cq(&self, out: &mut VecView<Wc>) {
        loop {
            let room = out.capacity().saturating_sub(out.len()).min(BATCH);
            if room == 0 {
                return;
            }
            let count = self.raw.poll(room, |fields| {
                let pushed = out.push(Wc::new(fields));
                debug_assert!(pushed.is_ok(), "no more were asked for than there is room");
            });
            if count < 0 {
                self.failed.set(self.failed.get().wrapping_add(1));
            }
            if usize::try_from(count).unwrap_or(0) < room {
                return;
            }
        }
    }
}

/// What a queue pair is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PairKind {
    /// Reliable, connected to one other.
    Rc,
    /// Datagrams to and from anybody; up to the path's packet size, and 40 bytes of header come with each.
    Ud,
}

impl PairKind {
    /// `enum ibv_qp_type`.
    const fn code(self) -> u32 {
        match self {
            Self::Rc => 2,
            Self::Ud => 4,
        }
    }
}

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

/// What a pair can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairConfig {
    /// Sends posted and not completed.
    pub send_depth: u32,
    /// Receives posted and not completed.
    pub recv_depth: u32,
    /// Segments of a request.
    pub sge_max: u32,
    /// Bytes that are wanted to go within a request. The pair may take more.
    pub inline_bytes: u32,
    /// Port of the device, from 1.
    pub port: u8,
    /// The entry of the port's table of addresses; the best one where `None`.
    pub gid_index: Option<u8>,
    /// What peers may do through this pair.
    pub access: Access,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            send_depth: 128,
            recv_depth: 128,
            sge_max: 4,
            inline_bytes: 64,
            port: 1,
            gid_index: None,
            access: Access::REMOTE,
        }
    }
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
    /// How long a peer is asked to wait whose send finds no receive: 1 to 31, of a table in the specification; 12 is 0.64 ms.
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

/// A queue pair.
pub struct Pair {
    /// Destroyed first: only then nothing uses the handles.
    raw: raw::Pair,
    handles: Box<[core::cell::OnceCell<AddressHandle>]>,
    sends: SendList,
    receives: RecvList,
    domain: ProtectionDomain,
    completions: (Rc<CompletionQueue>, Rc<CompletionQueue>),
    kind: PairKind,
    limits: Limits,
    config: PairConfig,
    gid_index: u8,
    card: Card,
    /// The library has refused a post, and not for want of room.
    broken: Cell<bool>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("kind", &self.kind)
            .field("card", &self.card)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Address handles of one pair.
const HANDLES_MAX: u32 = 1024;

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

// enum ibv_send_flags
const FENCE: u32 = 1;
const SIGNALED: u32 = 2;
const SOLICITED: u32 = 4;
const INLINE: u32 = 8;

impl Pair {
    /// A pair in state Reset, whose sends complete in the first queue and whose receives in the second.
    ///
    /// # Errors
    /// [`VerbsError::Limit`] names the number that the device cannot have, [`VerbsError::Relation`] a completion queue that would overrun,
    /// [`VerbsError::NoGid`], [`VerbsError::UnknownPort`], or what the library says.
    pub fn new(
        domain: &ProtectionDomain,
        kind: PairKind,
        (send_cq, recv_cq): (&Rc<CompletionQueue>, &Rc<CompletionQueue>),
        config: &PairConfig,
    ) -> Result<Self, VerbsError> {
        use seam::CompletionQueue as _;
        let device = domain.device();
        let has = device.info()?;
        within("send depth", config.send_depth, has.depth_max)?;
        within("receive depth", config.recv_depth, has.depth_max)?;
        within("segments of a request", config.sge_max, has.sge_max)?;
        let needed = if Rc::ptr_eq(send_cq, recv_cq) {
            config.send_depth.saturating_add(config.recv_depth)
        } else {
            config.send_depth.max(config.recv_depth)
        };
        let room = send_cq.depth().min(recv_cq.depth());
        if needed > room {
            let rule = "send depth + receive depth <= completion queue depth";
            return Err(VerbsError::Relation { rule, left: needed.into(), right: room.into() });
        }
        let port = device.port(config.port)?;
        let gid = device.gid(config.port, config.gid_index)?;
        let cap = sys::ibv_qp_cap {
            max_send_wr: config.send_depth,
            max_recv_wr: config.recv_depth,
            max_send_sge: config.sge_max.max(1),
            max_recv_sge: config.sge_max.max(1),
            max_inline_data: config.inline_bytes,
        };
        let raw = raw::Pair::make(domain.raw(), (&send_cq.raw, &recv_cq.raw), kind.code(), cap)
            .map_err(|e| VerbsError::os("ibv_create_qp", e))?;
        let mtu = port.mtu.unwrap_or(Mtu::B1024);
        let message_bytes_max = match kind {
            PairKind::Rc => port.message_bytes_max,
            PairKind::Ud => mtu.bytes(),
        };
        let limits = Limits {
            send_depth: config.send_depth,
            recv_depth: config.recv_depth,
            sge_max: config.sge_max,
            message_bytes_max,
            inline_bytes_max: raw.cap().max_inline_data,
        };
        let card = Card { qp_num: raw.number(), psn: psn(), lid: port.lid, gid: gid.gid, mtu };
        let depth = |depth: u32| usize::try_from(depth).unwrap_or(0);
        let sges = depth(config.sge_max);
        let handles = match kind {
            PairKind::Rc => 0,
            PairKind::Ud => HANDLES_MAX,
        };
        Ok(Self {
            raw,
            handles: (0..handles).map(|_| core::cell::OnceCell::new()).collect(),
            sends: SendList::new(depth(config.send_depth), sges),
            receives: RecvList::new(depth(config.recv_depth), sges),
            domain: domain.clone(),
            completions: (Rc::clone(send_cq), Rc::clone(recv_cq)),
            kind,
            limits,
            config: *config,
            gid_index: gid.index,
            card,
            broken: Cell::new(false),
        })
    }

    /// What the peer must know.
    #[must_use]
    pub const fn card(&self) -> &Card {
        &self.card
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> PairKind {
        self.kind
    }

    /// Where its sends and its receives complete.
    #[must_use]
    pub const fn completion_queues(&self) -> (&Rc<CompletionQueue>, &Rc<CompletionQueue>) {
        (&self.completions.0, &self.completions.1)
    }

    /// Its domain.
    #[must_use]
    pub const fn domain(&self) -> &ProtectionDomain {
        &self.domain
    }

    /// The state that it is in.
    ///
    /// # Errors
    /// What the library says.
    pub fn state(&self) -> Result<PairState, VerbsError> {
        let state = self.raw.state().map_err(|e| VerbsError::os("ibv_query_qp", e))?;
        Ok(match state {
            0 => PairState::Reset,
            1 => PairState::Init,
            2 => PairState::ReadyToReceive,
            3 => PairState::ReadyToSend,
            4 => PairState::SendsDraining,
            5 => PairState::SendError,
            6 => PairState::Error,
            _ => PairState::Unknown,
        })
    }

    /// Connects it with the pair of that card: from Reset to ready to send. Both ends do this; receives may be posted before.
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] for datagrams, or what the library says: EINVAL where a number is out of its range.
    pub fn connect(&self, peer: &Card, how: &ConnectConfig) -> Result<(), VerbsError> {
        if self.kind != PairKind::Rc {
            return Err(VerbsError::WrongKind {
                call: "connect",
                wants: "a queue pair of kind RC",
            });
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
    /// [`VerbsError::WrongKind`] for RC, or what the library says.
    pub fn ready(&self, qkey: u32, how: &ConnectConfig) -> Result<(), VerbsError> {
        if self.kind != PairKind::Ud {
            return Err(VerbsError::WrongKind { call: "ready", wants: "a queue pair of kind UD" });
        }
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
    /// [`Destination`](seam::Destination).
    ///
    /// # Errors
    /// [`VerbsError::WrongKind`] for RC, [`VerbsError::Limit`] where the table is full, or what the library says.
    pub fn add_address(&self, to: AddressOf, how: &ConnectConfig) -> Result<u32, VerbsError> {
        if self.kind != PairKind::Ud {
            let wants = "a queue pair of kind UD";
            return Err(VerbsError::WrongKind { call: "add_address", wants });
        }
        let full = VerbsError::Limit {
            field: "address handles",
            asked: u64::from(HANDLES_MAX) + 1,
            most: HANDLES_MAX.into(),
        };
        let free = self.handles.iter().position(|cell| cell.get().is_none()).ok_or(full)?;
        let handle = AddressHandle::make(self.domain.raw(), self.path(to, how))
            .map_err(|e| VerbsError::os("ibv_create_ah", e))?;
        if let Some(cell) = self.handles.get(free) {
            let set = cell.set(handle);
            debug_assert!(set.is_ok(), "it was found empty");
        }
        Ok(u32::try_from(free).unwrap_or(u32::MAX))
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
        let mut attributes = raw::pair_attributes();
        self.modify("ibv_modify_qp(Reset)", &mut attributes, STATE)
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

    /// Whether each segment is memory that this pair's domain has registered, and how many bytes they have.
    #[inline]
    fn check(&self, segments: &[Segment<LocalKey>]) -> Result<u64, PostError> {
        if segments.len() > usize::try_from(self.limits.sge_max).unwrap_or(0) {
            return Err(Misuse::TooLong.into());
        }
        let mut bytes = 0_u64;
        for segment in segments {
            if !segment.key.covers(self.domain.number(), segment.address, segment.length) {
                return Err(Misuse::ForeignKey.into());
            }
            bytes = bytes.saturating_add(u64::from(segment.length));
        }
        Ok(bytes)
    }

    #[inline]
    fn target<'a>(
        &'a self,
        send: &SendRequest<'_, LocalKey>,
    ) -> Result<(Target<'a>, Word, u32), PostError> {
        let memory = || {
            let remote = send.remote.ok_or(Misuse::Unsupported)?;
            Ok::<_, PostError>(Target::Memory { address: remote.address, key: remote.key })
        };
        let atomic = |compare_add, swap| {
            let remote = send.remote.ok_or(Misuse::Unsupported)?;
            let (address, key) = (remote.address, remote.key);
            Ok::<_, PostError>(Target::Atomic { address, key, compare_add, swap })
        };
        // enum ibv_wr_opcode
        Ok(match send.verb {
            Verb::Write => (memory()?, Word::None, 0),
            Verb::WriteImm(immediate) => (memory()?, Word::Immediate(immediate), 1),
            Verb::Send => (self.receiver(send)?, Word::None, 2),
            Verb::SendImm(immediate) => (self.receiver(send)?, Word::Immediate(immediate), 3),
            Verb::Read => (memory()?, Word::None, 4),
            Verb::CompareSwap { expected, swap } => (atomic(expected, swap)?, Word::None, 5),
            Verb::FetchAdd(add) => (atomic(add, 0)?, Word::None, 6),
            Verb::SendInvalidate(key) => (self.receiver(send)?, Word::Invalidate(key), 9),
        })
    }

    fn receiver<'a>(&'a self, send: &SendRequest<'_, LocalKey>) -> Result<Target<'a>, PostError> {
        match (self.kind, send.destination) {
            (PairKind::Rc, None) => Ok(Target::Connected),
            (PairKind::Ud, Some(to)) => {
                let cell = self.handles.get(usize::try_from(to.handle).unwrap_or(usize::MAX));
                let handle = cell.and_then(core::cell::OnceCell::get);
                let handle = handle.ok_or(Misuse::UnknownAddress)?;
                Ok(Target::Datagram { handle, qp_num: to.qp_num, qkey: to.qkey })
            }
            (PairKind::Rc, Some(_)) | (PairKind::Ud, None) => Err(Misuse::UnknownAddress.into()),
        }
    }

    /// What a doorbell answers. A queue without room (ENOMEM) has taken fewer, and will take more later; anything else is the end.
    fn published(&self, posting: Posting) -> Published {
        let is_over = posting.code != 0 && posting.code.abs() != libc::ENOMEM;
        if is_over {
            self.broken.set(true);
        }
        let count = u64::try_from(posting.count).unwrap_or(0);
        Published { count, error: is_over.then_some(Fatal::QueueError) }
    }
}

fn list<'a>(segments: &'a [Segment<LocalKey>]) -> impl Iterator<Item = sys::ibv_sge> + use<'a> {
    segments.iter().map(|segment| sys::ibv_sge {
        addr: segment.address,
        length: segment.length,
        lkey: segment.key.lkey(),
    })
}

impl seam::QueuePair for Pair {
    type Key = LocalKey;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn qp_num(&self) -> u32 {
        self.card.qp_num
    }

    fn post_send(&self, send: &SendRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.broken.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.sends.is_full() {
            return Err(Retry::SqFull.into());
        }
        let bytes = self.check(send.segments)?;
        if bytes > u64::from(self.limits.message_bytes_max) {
            return Err(Misuse::TooLong.into());
        }
        if self.kind == PairKind::Ud && send.verb.is_one_sided() {
            return Err(Misuse::Unsupported.into());
        }
        let (target, word, opcode) = self.target(send)?;
        let within = bytes <= u64::from(self.limits.inline_bytes_max);
        let mut flags = 0;
        for (bit, is_set) in [
            (FENCE, send.flags.fence),
            (SIGNALED, !send.flags.unsignaled),
            (SOLICITED, send.flags.solicited),
            (INLINE, within && bytes > 0 && !send.verb.writes_local_memory()),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let entry = Entry { wr_id: send.wr_id.as_raw(), opcode, flags, word, target };
        self.sends.stage(&entry, list(send.segments));
        Ok(())
    }

    fn post_recv(&self, recv: &RecvRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.broken.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.receives.is_full() {
            return Err(Retry::RqFull.into());
        }
        let _bytes = self.check(recv.segments)?;
        self.receives.stage(recv.wr_id.as_raw(), list(recv.segments));
        Ok(())
    }

    fn ring_doorbell(&self) -> Published {
        self.published(self.sends.post(&self.raw))
    }

    fn ring_recv_doorbell(&self) -> Published {
        self.published(self.receives.post(&self.raw))
    }
}

fn within(field: &'static str, asked: u32, most: u32) -> Result<(), VerbsError> {
    if asked <= most {
        return Ok(());
    }
    Err(VerbsError::Limit { field, asked: asked.into(), most: most.into() })
}

/// A first packet number that an earlier connection of the same numbers is unlikely to have used: 24 bits of the clock.
fn psn() -> u32 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos() & 0x00ff_ffff
}
