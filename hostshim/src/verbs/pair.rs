//! Queue pairs, as the data plane turns them.
//!
//! Invariant: a request is staged only with memory that the pair's own protection domain has registered, so neither the device nor the library,
//! which copies short sends itself, reads or writes anything else.

use core::cell::Cell;
use core::fmt;
use std::rc::Rc;

use rdma_sys as sys;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::provider::Published;
use spinwire_dataplane::raw::region::Destroyed;
use spinwire_dataplane::verbs as seam;
use spinwire_dataplane::verbs::{
    Limits, PairId, RecvRequest, RemotePlace, Segment, SendFlags, SendRequest, Verb,
};

use super::attributes::{Bounds, PSN_MAX};
use super::completion::{CompletionQueue, Promise};
use super::connect::Card;
use super::error::{VerbsError, within};
use super::region::{Access, LocalKey, ProtectionDomain};
use super::shared::SharedReceives;
use super::states::{AddressOf, ConnectConfig};
use crate::raw::verbs::{
    self as raw, AddressHandle, Entry, Posting, RecvList, SendList, Target, Word,
};

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

    /// Places for address handles.
    const fn handles(self) -> u32 {
        match self {
            Self::Rc => 0,
            Self::Ud => HANDLES_MAX,
        }
    }
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
    /// The number of its first packet, below 2^24; where `None`, one that an earlier connection of the same numbers is unlikely to have used.
    pub psn: Option<u32>,
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
            psn: None,
        }
    }
}

/// A queue pair.
pub struct Pair {
    /// Destroyed first: only then nothing uses the handles.
    pub(super) raw: raw::Pair,
    pub(super) ways: Box<[Way]>,
    pub(super) sends: SendList,
    receives: RecvList,
    pub(super) domain: ProtectionDomain,
    /// Room for its sends, and for its receives.
    completions: (Promise, Promise),
    shared: Option<Rc<SharedReceives>>,
    pub(super) kind: PairKind,
    limits: Limits,
    pub(super) config: PairConfig,
    pub(super) gid_index: u8,
    pub(super) card: Card,
    pub(super) bounds: Bounds,
    /// The library has refused a post, and not for want of room.
    pub(super) broken: Cell<bool>,
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

/// Where datagrams may go, by its place in the table of a pair.
pub(super) struct Way {
    pub(super) to: Cell<Option<(AddressOf, ConnectConfig)>>,
    pub(super) handle: AddressHandle,
}

impl Way {
    fn none(domain: &ProtectionDomain) -> Self {
        Self { to: Cell::new(None), handle: AddressHandle::none(domain.raw()) }
    }
}

impl AsRef<Self> for Pair {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Address handles of one pair.
pub(super) const HANDLES_MAX: u32 = 1024;

/// No message is longer, and some devices take a length of 2^31 for something else.
pub(super) const RECV_BYTES_MAX: u64 = (1 << 31) - 1;

// enum ibv_send_flags
const FENCE: u32 = 1;
const SIGNALED: u32 = 2;
const SOLICITED: u32 = 4;
const INLINE: u32 = 8;

// enum ibv_wr_opcode
const WRITE: u32 = 0;
const SEND: u32 = 2;
const SEND_WITH_IMM: u32 = 3;

impl Pair {
    /// A pair in state Reset, whose sends complete in the first queue and whose receives in the second.
    ///
    /// # Errors
    /// [`VerbsError::Limit`] names the number that the device cannot have, [`VerbsError::Relation`] a completion queue that would overrun,
    /// [`VerbsError::NoGid`], [`VerbsError::UnknownPort`], or what the library says.
    pub fn new(
        domain: &ProtectionDomain,
        kind: PairKind,
        queues: (&Rc<CompletionQueue>, &Rc<CompletionQueue>),
        config: &PairConfig,
    ) -> Result<Self, VerbsError> {
        Self::make(domain, kind, queues, config, None)
    }

    /// The same, of a pair in the domain of `shared` that takes its receives from a queue that others take from, too. `config.recv_depth` means nothing then, and a receive that
    /// is posted on the pair itself is refused.
    ///
    /// # Errors
    /// As of [`Pair::new`].
    pub fn with_shared(
        shared: &Rc<SharedReceives>,
        kind: PairKind,
        queues: (&Rc<CompletionQueue>, &Rc<CompletionQueue>),
        config: &PairConfig,
    ) -> Result<Self, VerbsError> {
        let config = PairConfig { recv_depth: 0, ..*config };
        Self::make(shared.domain(), kind, queues, &config, Some(shared))
    }

    fn make(
        domain: &ProtectionDomain,
        kind: PairKind,
        (send_cq, recv_cq): (&Rc<CompletionQueue>, &Rc<CompletionQueue>),
        config: &PairConfig,
        shared: Option<&Rc<SharedReceives>>,
    ) -> Result<Self, VerbsError> {
        let device = domain.device();
        let has = device.attributes()?;
        let most = |number| u32::try_from(number).unwrap_or(0);
        within("send depth", config.send_depth, most(has.max_qp_wr))?;
        within("receive depth", config.recv_depth, most(has.max_qp_wr))?;
        within("segments of a request", config.sge_max, most(has.max_sge))?;
        let psn = config.psn.unwrap_or_else(psn);
        within("number of the first packet", psn, PSN_MAX)?;
        // In one sum where it is one queue.
        let (sends, receives) = if Rc::ptr_eq(send_cq, recv_cq) {
            (0, config.send_depth.saturating_add(config.recv_depth))
        } else {
            (config.send_depth, config.recv_depth)
        };
        let sends = Promise::of(send_cq, sends, None)?;
        let receives = Promise::of(recv_cq, receives, shared)?;
        let port = device.port_attributes(config.port)?;
        let gid = device.gid(config.port, config.gid_index)?;
        let cap = sys::ibv_qp_cap {
            max_send_wr: config.send_depth,
            max_recv_wr: config.recv_depth,
            max_send_sge: config.sge_max.max(1),
            max_recv_sge: config.sge_max.max(1),
            max_inline_data: config.inline_bytes,
        };
        let queues = (&send_cq.raw, &recv_cq.raw);
        let queue = shared.map(|shared| &shared.raw);
        let below = (domain.raw(), domain.registered());
        let raw = raw::Pair::make(below, queues, queue, kind.code(), cap)
            .map_err(|e| VerbsError::os("ibv_create_qp", e))?;
        let bounds = Bounds::of(&has, &port);
        let mtu = bounds.mtu();
        let message_bytes_max = match kind {
            PairKind::Rc => port.max_msg_sz,
            PairKind::Ud => mtu.bytes(),
        };
        let limits = Limits {
            send_depth: config.send_depth,
            recv_depth: config.recv_depth,
            sge_max: config.sge_max,
            message_bytes_max,
            inline_bytes_max: raw.cap().max_inline_data,
        };
        let card = Card { qp_num: raw.number(), psn, lid: port.lid, gid: gid.gid, mtu };
        let depth = |depth: u32| usize::try_from(depth).unwrap_or(0);
        let sges = depth(config.sge_max);
        Ok(Self {
            raw,
            ways: (0..kind.handles()).map(|_| Way::none(domain)).collect(),
            sends: SendList::new(depth(config.send_depth), sges),
            receives: RecvList::new(depth(config.recv_depth), sges),
            domain: domain.clone(),
            completions: (sends, receives),
            shared: shared.map(Rc::clone),
            kind,
            limits,
            config: *config,
            gid_index: gid.index,
            card,
            bounds,
            broken: Cell::new(false),
        })
    }

    /// Destroys it: nothing that was posted completes any more, and the device touches no memory by it.
    ///
    /// # Errors
    /// What the library says; then nothing of that is certain.
    pub fn destroy(self) -> Result<Destroyed, VerbsError> {
        self.raw.destroy().map_err(|e| VerbsError::os("ibv_destroy_qp", e))
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
        (self.completions.0.queue(), self.completions.1.queue())
    }

    /// Whether it takes its receives from a queue that others take from, too.
    #[must_use]
    pub const fn has_shared_receives(&self) -> bool {
        self.shared.is_some()
    }

    /// Its domain.
    #[must_use]
    pub const fn domain(&self) -> &ProtectionDomain {
        &self.domain
    }

    #[cfg(feature = "mlx5")]
    pub(crate) const fn raw(&self) -> &raw::Pair {
        &self.raw
    }

    /// The same pair, for who posts to its queues himself: it takes nothing any more.
    #[cfg(feature = "mlx5")]
    pub(crate) fn without_lists(self) -> Self {
        Self { sends: SendList::new(0, 0), receives: RecvList::new(0, 0), ..self }
    }

    /// What the library has made of an address in its table.
    #[cfg(feature = "mlx5")]
    pub(crate) fn address_handle(&self, number: u32) -> Option<&AddressHandle> {
        let way = self.ways.get(usize::try_from(number).unwrap_or(usize::MAX));
        way.map(|way| &way.handle).filter(|handle| handle.is_made())
    }

    /// Its port.
    ///
    /// # Errors
    /// What the library says.
    #[cfg(feature = "mlx5")]
    pub(crate) fn port(&self) -> Result<super::PortInfo, VerbsError> {
        self.domain.device().port(self.config.port)
    }

    /// What was staged and not rung for is no request of the next connection.
    pub(super) fn forget_staged(&self) {
        self.sends.clear();
        self.receives.clear();
    }

    /// Stages a send or a write of one segment on a connection, as most are. Whether it is such a one, and nothing was wrong with it.
    #[inline(always)]
    fn stage_plain(&self, send: &SendRequest<'_, LocalKey>) -> bool {
        let (opcode, immediate, memory) = match (send.verb, send.remote) {
            (Verb::Send, _) => (SEND, 0, None),
            (Verb::SendImm(immediate), _) => (SEND_WITH_IMM, immediate, None),
            (Verb::Write, Some(RemotePlace { address, key })) => (WRITE, 0, Some((address, key))),
            (
                Verb::Write
                | Verb::WriteImm(_)
                | Verb::Read
                | Verb::SendInvalidate(_)
                | Verb::FetchAdd(_)
                | Verb::CompareSwap { .. },
                _,
            ) => return false,
        };
        let [Segment { address, length, key }] = *send.segments else { return false };
        let SendFlags { fence, solicited, unsignaled } = send.flags;
        let is_plain = self.kind == PairKind::Rc && send.destination.is_none();
        if !is_plain
            || fence
            || solicited
            || self.broken.get()
            || self.sends.is_full()
            || length > self.limits.message_bytes_max
            || !key.covers(self.domain.number(), address, length)
        {
            return false;
        }
        let is_inline = length <= self.limits.inline_bytes_max && length > 0;
        let flags = if unsignaled { 0 } else { SIGNALED } | if is_inline { INLINE } else { 0 };
        let segment = sys::ibv_sge { addr: address, length, lkey: key.lkey() };
        self.sends.stage_plain((send.wr_id.as_raw(), flags), (opcode, immediate), memory, segment);
        true
    }

    /// Stages whatever there is to be staged.
    #[inline(never)]
    fn stage_any(&self, send: &SendRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.broken.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.sends.is_full() {
            return Err(Retry::SqFull.into());
        }
        let bytes = self.domain.check(send.segments, self.limits.sge_max)?;
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
            Verb::Write => (memory()?, Word::None, WRITE),
            Verb::WriteImm(immediate) => (memory()?, Word::Immediate(immediate), 1),
            Verb::Send => (self.receiver(send)?, Word::None, SEND),
            Verb::SendImm(immediate) => {
                (self.receiver(send)?, Word::Immediate(immediate), SEND_WITH_IMM)
            }
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
                let way = self.ways.get(usize::try_from(to.handle).unwrap_or(usize::MAX));
                let handle = way.map(|way| &way.handle).filter(|handle| handle.is_made());
                let handle = handle.ok_or(Misuse::UnknownAddress)?;
                Ok(Target::Datagram { handle, qp_num: to.qp_num, qkey: to.qkey })
            }
            (PairKind::Rc, Some(_)) | (PairKind::Ud, None) => Err(Misuse::UnknownAddress.into()),
        }
    }

    /// What a doorbell answers.
    #[inline]
    fn published(&self, posting: Posting) -> Published {
        let is_over = is_over(posting.code);
        if is_over {
            self.broken.set(true);
        }
        let count = u64::try_from(posting.count).unwrap_or(0);
        Published { count, error: is_over.then_some(Fatal::QueueError) }
    }
}

/// Whether that answer of a doorbell is the end: a queue without room (ENOMEM) has taken fewer, and will take more later.
pub(super) const fn is_over(code: i32) -> bool {
    code != 0 && code.saturating_abs() != libc::ENOMEM
}

pub(super) fn list<'a>(
    segments: &'a [Segment<LocalKey>],
) -> impl Iterator<Item = sys::ibv_sge> + use<'a> {
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

    fn id(&self) -> PairId {
        self.raw.id()
    }

    fn end(self) -> bool {
        self.destroy().is_ok()
    }

    #[inline(always)]
    fn post_send(&self, send: &SendRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.stage_plain(send) { Ok(()) } else { self.stage_any(send) }
    }

    fn post_recv(&self, recv: &RecvRequest<'_, LocalKey>) -> Result<(), PostError> {
        if self.broken.get() {
            return Err(Fatal::QueueError.into());
        }
        if self.shared.is_some() {
            return Err(Misuse::Unsupported.into());
        }
        if self.receives.is_full() {
            return Err(Retry::RqFull.into());
        }
        if self.domain.check(recv.segments, self.limits.sge_max)? > RECV_BYTES_MAX {
            return Err(Misuse::TooLong.into());
        }
        self.receives.stage(recv.wr_id.as_raw(), list(recv.segments));
        Ok(())
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        self.published(self.sends.post(&self.raw))
    }

    fn ring_recv_doorbell(&self) -> Published {
        self.published(self.receives.post(&self.raw))
    }
}

/// As who owns one hands it to a port.
impl seam::QueuePair for Box<Pair> {
    type Key = LocalKey;

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn qp_num(&self) -> u32 {
        (**self).qp_num()
    }

    fn id(&self) -> PairId {
        (**self).id()
    }

    fn end(self) -> bool {
        (*self).end()
    }

    #[inline(always)]
    fn post_send(&self, send: &SendRequest<'_, LocalKey>) -> Result<(), PostError> {
        (**self).post_send(send)
    }

    #[inline]
    fn post_recv(&self, recv: &RecvRequest<'_, LocalKey>) -> Result<(), PostError> {
        (**self).post_recv(recv)
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        (**self).ring_doorbell()
    }

    #[inline]
    fn ring_recv_doorbell(&self) -> Published {
        (**self).ring_recv_doorbell()
    }
}

/// A first packet number that an earlier connection of the same numbers is unlikely to have used: 24 bits of the clock.
fn psn() -> u32 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos() & PSN_MAX
}
