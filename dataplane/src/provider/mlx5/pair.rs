//! A queue pair of an mlx5 device, as verbs have it.
//!
//! ```text
//!   post_send   check ranges ─> short, and only read?  copied into the WQE : named by it ─> stage
//!                                    unsignaled, and a signaled one must come first: it asks for a completion that nobody hears of
//!   completion  counter ─> entry { id, silent }         of one that asked for none: by its place in the ring
//!   an error    each that it ends, once, in order ─> over ─> poll_cq
//! ```
//!
//! Invariants:
//! 1. A WQE is staged only with ranges that their keys cover.
//! 2. Each request that a doorbell has published comes to `over`, or ends well, once; between two restarts `over` has room for all.
//! 3. A doorbell publishes everything that was staged: the device has no way to refuse one. So what it says is exact.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{to_usize, widen};

use super::config::{BadPair, INLINE_BYTES_MAX, PairConfig, Route, SGE_MAX};
use super::landing::{Landings, List, gather, name_ranges};
use super::shared::Shared;
use crate::cq::{Failure, Inline};
use crate::error::{Misuse, PostError, Retry};
use crate::id::WrId;
use crate::provider::Published;
use crate::raw::mmio::Bus;
use crate::raw::place::Bump;
use crate::raw::region::{LocalSge, MemoryKey, RANGE_BYTES_MAX};
use crate::table::{Ring, count};
use crate::tracker::{FailedBy, Posted, Stale};
use crate::verbs::{
    Destination, Limits, QueuePair, RecvRequest, RemotePlace, SendRequest, Verb, WcStatus,
};
use crate::wqe::builder::{Complete, Gather, NeedsData};
use crate::wqe::segment::Part;
use crate::wqe::{Av, Qp, Transport, UdPeer, Wqe, WqeFlags};

/// What is posted with a request on a queue of a [`Pair`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posting {
    id: WrId,
    /// It asks for a completion for the sake of the queue only.
    silent: bool,
}

/// A request that has not ended well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub(super) id: WrId,
    pub(super) status: WcStatus,
    pub(super) vendor: u8,
}

/// A queue pair. One thread.
pub struct Pair<'m, B> {
    qp: Qp<'m, Posting, B>,
    limits: Limits,
    /// Ids of requests that asked for no completion, by place in the ring.
    unsignaled: &'m [Cell<WrId>],
    read_into: Landings<'m>,
    received_into: Landings<'m>,
    /// Where its receives come from, if they are not its own.
    shared: Option<&'m Shared<'m, B>>,
    routes: &'m [Cell<Option<Route>>],
    /// What an error has ended and nobody was told of.
    over: Ring<'m, Over>,
    /// Whether the completion queue has this pair on its list of those with something `over`.
    pub(super) listed: Cell<bool>,
}

/// No request.
const NOBODY: WrId = WrId::from_raw(0);

impl<'m, B: Bus> Pair<'m, B> {
    /// Takes a queue pair that was just placed, and has it to itself.
    ///
    /// # Errors
    /// [`BadPair`].
    pub fn place(
        bump: &Bump<'m>,
        qp: Qp<'m, Posting, B>,
        config: PairConfig,
    ) -> Result<Self, BadPair> {
        let PairConfig { sge_max, inline_bytes_max, message_bytes_max, routes_max } = config;
        let receive_sges = qp.rq().map_or(SGE_MAX, |rq| rq.sge_max());
        if !(1..=SGE_MAX.min(receive_sges)).contains(&sge_max) {
            return Err(BadPair::Segments { sge_max });
        }
        if inline_bytes_max > INLINE_BYTES_MAX {
            return Err(BadPair::Inline { inline_bytes_max });
        }
        let (wanted, wqe_blocks_max) =
            (config.wqe_blocks(qp.transport()), qp.sq().wqe_blocks_max());
        if wanted > wqe_blocks_max {
            return Err(BadPair::Longest { wanted, wqe_blocks_max });
        }
        let blocks = qp.sq().tracker().size();
        let receives = qp.rq().map_or(0, |rq| rq.tracker().size());
        // Fill may take one block less than the longest request, once in a ring.
        let depth = blocks.saturating_sub(wanted.wrapping_sub(1)).checked_div(wanted).unwrap_or(0);
        let limits = Limits {
            send_depth: u32::from(depth),
            recv_depth: u32::from(receives),
            sge_max,
            message_bytes_max: message_bytes_max.min(RANGE_BYTES_MAX),
            inline_bytes_max,
        };
        let none = Over { id: NOBODY, status: WcStatus::FLUSHED, vendor: 0 };
        let all = u32::from(blocks).saturating_add(u32::from(receives));
        let places = usize::from(blocks);
        Ok(Self {
            qp,
            limits,
            unsignaled: bump.slice_with(places, |_| Cell::new(NOBODY))?,
            read_into: Landings::place(bump, places, sge_max)?,
            received_into: Landings::place(bump, usize::from(receives), sge_max)?,
            shared: None,
            routes: bump.slice_with(to_usize(widen(routes_max)), |_| Cell::new(None))?,
            over: Ring::place(bump, all, none)?,
            listed: Cell::new(false),
        })
    }

    /// The same pair, which takes its receives from a queue that others take from, too. It was placed without one of its own.
    #[must_use]
    pub fn with_shared(self, shared: &'m Shared<'m, B>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Where its receives come from, if they are not its own.
    #[must_use]
    pub const fn shared(&self) -> Option<&'m Shared<'m, B>> {
        self.shared
    }

    /// Its number.
    #[must_use]
    #[inline]
    pub const fn qpn(&self) -> u32 {
        self.qp.qpn()
    }

    /// Completions that it may have at once: with fill, and with each block a request that was not asked for one, all blocks of its
    /// send queue, and all its receives.
    #[must_use]
    pub fn completions_max(&self) -> u32 {
        let receives = self.qp.rq().map_or(0, |rq| rq.tracker().size());
        u32::from(self.qp.sq().tracker().size()).saturating_add(receives.into())
    }

    /// Whether an error has ended it.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.qp.sq().tracker().is_failed()
            || self.qp.rq().is_some_and(|rq| rq.tracker().is_failed())
    }

    /// Enters an address that datagrams may go to. Its row is the `handle` of a [`Destination`].
    ///
    /// # Errors
    /// [`Retry::AddressesFull`]: the table was placed for fewer.
    pub fn add_route(&self, route: Route) -> Result<u32, Retry> {
        let row = self.routes.iter().position(|row| row.get().is_none());
        let row = row.ok_or(Retry::AddressesFull)?;
        if let Some(cell) = self.routes.get(row) {
            cell.set(Some(route));
        }
        Ok(count(row))
    }

    /// Enters an address in that row, whatever is there.
    ///
    /// # Errors
    /// [`BadPair::Row`]: the table was placed for fewer.
    pub fn set_route(&self, row: u32, route: Route) -> Result<(), BadPair> {
        let routes_max = count(self.routes.len());
        let cell = self.routes.get(to_usize(widen(row))).ok_or(BadPair::Row { row, routes_max })?;
        cell.set(Some(route));
        Ok(())
    }

    /// Frees the row of an address.
    pub fn remove_route(&self, handle: u32) -> Option<Route> {
        self.routes.get(to_usize(widen(handle)))?.take()
    }

    /// Forgets all that is under way and begins anew, for another queue pair of that number and memory: after the one before was destroyed or
    /// reset, and was taken out of its completion queue ([`Completions::remove`](super::Completions::remove)).
    ///
    /// # Errors
    /// [`Retry::WouldBlock`] where it was not taken out, and has something to tell.
    pub fn renew(&self) -> Result<(), Retry> {
        if self.listed.get() {
            return Err(Retry::WouldBlock);
        }
        self.end();
        self.over.clear();
        self.restart()
    }

    /// Begins anew, after the queue pair went through the reset state, [`Completions::end`](super::Completions::end) has ended what was under
    /// way, and all of that was polled.
    ///
    /// # Errors
    /// `Retry` where something is still under way, or was not polled.
    pub fn restart(&self) -> Result<(), Retry> {
        if !self.over.is_empty() {
            return Err(Retry::CqFull);
        }
        self.qp.sq().restart()?;
        self.qp.rq().map_or(Ok(()), |rq| rq.restart())
    }

    /// A send has ended well. Its id, unless nobody is to hear of it.
    #[inline]
    pub(super) fn sent(
        &self,
        counter: u16,
        inline: Option<&Inline<'_>>,
    ) -> Result<Option<WrId>, Stale> {
        let Posting { id, silent } = self.qp.sq().complete(counter)?.entry;
        if let Some(inline) = inline {
            self.read_into.scatter(counter, inline);
        }
        Ok((!silent).then_some(id))
    }

    /// A receive has ended well.
    #[inline]
    pub(super) fn received(
        &self,
        counter: u16,
        inline: Option<&Inline<'_>>,
    ) -> Result<WrId, Stale> {
        if let Some(shared) = self.shared {
            return shared.ended(counter, inline);
        }
        let rq = self.qp.rq().ok_or(Stale::NotPosted)?;
        let id = rq.complete(counter)?.entry.id;
        if let Some(inline) = inline {
            self.received_into.scatter(counter, inline);
        }
        Ok(id)
    }

    /// A send has failed, or was flushed. What has ended by that is `over`.
    #[cold]
    pub(super) fn send_failed(&self, failure: &Failure, status: WcStatus) -> Result<(), Stale> {
        let (tracker, counter) = (self.qp.sq().tracker(), failure.wqe_counter);
        let vendor = failure.vendor;
        if failure.failed_by() == FailedBy::Itself && !tracker.is_failed() {
            // Those before it have ended well, and did not ask to be told.
            match tracker.fail(counter, FailedBy::Itself)?.wqe {
                Posted::Signaled(posting) => self.ended(posting.id, status, vendor),
                Posted::Unsignaled => self.ended(self.unsignaled_at(counter), status, vendor),
                Posted::Fill => {}
            }
            return Ok(());
        }
        let end = tracker.reach(counter)?;
        while let Some(flushed) = tracker.flush_before(end) {
            let id = flushed
                .entry
                .map_or_else(|| self.unsignaled_at(flushed.index), |posting| posting.id);
            if flushed.index == counter {
                self.ended(id, status, vendor);
            } else {
                self.ended(id, WcStatus::FLUSHED, 0);
            }
        }
        Ok(())
    }

    /// A receive has failed, or was flushed. One that came from a shared queue is told at once, as there is no order among those.
    #[cold]
    pub(super) fn receive_failed(
        &self,
        failure: &Failure,
        status: WcStatus,
    ) -> Result<Option<WrId>, Stale> {
        if let Some(shared) = self.shared {
            return shared.ended(failure.wqe_counter, None).map(Some);
        }
        let rq = self.qp.rq().ok_or(Stale::NotPosted)?;
        match rq.fail(failure.wqe_counter)?.wqe {
            Posted::Signaled(posting) => self.ended(posting.id, status, failure.vendor),
            Posted::Unsignaled | Posted::Fill => {}
        }
        Ok(None)
    }

    /// The device does nothing more of what is under way: all of it is `over`.
    pub(super) fn end(&self) {
        while let Some(flushed) = self.qp.sq().flush() {
            let id = flushed
                .entry
                .map_or_else(|| self.unsignaled_at(flushed.index), |posting| posting.id);
            self.ended(id, WcStatus::FLUSHED, 0);
        }
        while let Some(flushed) = self.qp.rq().and_then(|rq| rq.flush()) {
            if let Some(posting) = flushed.entry {
                self.ended(posting.id, WcStatus::FLUSHED, 0);
            }
        }
    }

    /// The next one that has not ended well.
    pub(super) fn next_over(&self) -> Option<Over> {
        self.over.pop()
    }

    /// Whether there is one.
    pub(super) const fn has_over(&self) -> bool {
        !self.over.is_empty()
    }

    fn ended(&self, id: WrId, status: WcStatus, vendor: u8) {
        let kept = self.over.push(Over { id, status, vendor });
        debug_assert!(kept.is_ok(), "there is a place for each that can be under way");
    }

    fn unsignaled_at(&self, index: u16) -> WrId {
        let place = usize::from(index) & self.unsignaled.len().wrapping_sub(1);
        self.unsignaled.get(place).map_or(NOBODY, Cell::get)
    }

    fn address(&self, to: Destination) -> Result<Av, Misuse> {
        let row = self.routes.get(to_usize(widen(to.handle))).and_then(Cell::get);
        let peer = UdPeer { qpn: to.qp_num, qkey: to.qkey };
        Ok(match row.ok_or(Misuse::UnknownAddress)? {
            Route::Ib(path) => Av::ib(&path, peer),
            Route::Roce(grh) => Av::roce(&grh, peer),
        })
    }

    /// Stages a send whose ranges were checked.
    #[inline]
    fn stage(
        &self,
        send: &SendRequest<'_, MemoryKey<'m>>,
        local: Local<'_>,
        entry: Option<Posting>,
    ) -> Result<(), PostError> {
        let mut flags = WqeFlags::NONE;
        if send.flags.fence {
            flags = flags | WqeFlags::FENCE;
        }
        if send.flags.solicited {
            flags = flags | WqeFlags::SOLICITED;
        }
        match (self.qp.transport(), send.destination) {
            // tidy-allow(alloc): the reliable connection of RDMA
            (Transport::Rc { .. }, None) => self.stage_connected(send, flags, local, entry),
            (Transport::Ud, Some(to)) => {
                let av = self.address(to)?;
                self.qp.with_ud_sq_wqe(|wqe| match send.verb {
                    Verb::Send => out(wqe.av(&av).send(flags), local, entry),
                    Verb::SendImm(imm) => out(wqe.av(&av).send_imm(flags, imm), local, entry),
                    Verb::SendInvalidate(_)
                    | Verb::Write
                    | Verb::WriteImm(_)
                    | Verb::Read
                    | Verb::FetchAdd(_)
                    | Verb::CompareSwap { .. } => Err(Misuse::Unsupported.into()),
                })
            }
            // tidy-allow(alloc): the reliable connection of RDMA
            (Transport::Rc { .. }, Some(_)) | (Transport::Ud, None) => {
                Err(Misuse::UnknownAddress.into())
            }
        }
    }

    #[inline]
    fn stage_connected(
        &self,
        send: &SendRequest<'_, MemoryKey<'m>>,
        flags: WqeFlags,
        local: Local<'_>,
        entry: Option<Posting>,
    ) -> Result<(), PostError> {
        let remote = || {
            let RemotePlace { address, key } = send.remote.ok_or(Misuse::Unsupported)?;
            Ok::<_, PostError>((address, key))
        };
        self.qp.with_sq_wqe(|wqe| match send.verb {
            Verb::Send => out(wqe.send(flags), local, entry),
            Verb::SendImm(imm) => out(wqe.send_imm(flags, imm), local, entry),
            Verb::SendInvalidate(key) => out(wqe.send_inval(flags, key), local, entry),
            Verb::Write => {
                let (address, key) = remote()?;
                out(wqe.write(flags, address, key), local, entry)
            }
            Verb::WriteImm(imm) => out(wqe.write_imm(flags, remote()?, imm), local, entry),
            Verb::Read => {
                let (address, key) = remote()?;
                finish(wqe.read(flags, address, key).sges(local.list()), entry)
            }
            Verb::FetchAdd(add) => {
                finish(wqe.atomic_fa(flags, remote()?, add).result(local.one()?)?, entry)
            }
            Verb::CompareSwap { expected, swap } => {
                let wqe = wqe.atomic_cs(flags, remote()?, expected, swap);
                finish(wqe.result(local.one()?)?, entry)
            }
        })
    }
}

/// What a request sends, or where its result goes.
#[derive(Clone, Copy)]
enum Local<'l> {
    /// These bytes, within the WQE.
    Inline(&'l [u8]),
    /// Ranges of memory.
    List(&'l [LocalSge]),
}

impl<'l> Local<'l> {
    const fn list(self) -> &'l [LocalSge] {
        match self {
            Self::Inline(_) => &[],
            Self::List(list) => list,
        }
    }

    /// The one range that an atomic operation has.
    fn one(self) -> Result<LocalSge, Misuse> {
        match self.list() {
            [one] => Ok(*one),
            _ => Err(Misuse::BadRange),
        }
    }
}

/// A WQE of a pair.
type PairWqe<'a, 'm, B, P, S> = Wqe<'a, 'm, Posting, B, P, S>;

#[inline(always)]
fn out<B: Bus, P: Part>(
    wqe: PairWqe<'_, '_, B, P, NeedsData<Gather>>,
    local: Local<'_>,
    entry: Option<Posting>,
) -> Result<(), PostError> {
    match local {
        Local::Inline(bytes) => finish(wqe.inline(bytes), entry),
        Local::List(list) => finish(wqe.sges(list), entry),
    }
}

#[inline(always)]
fn finish<B: Bus, P: Part, S: Complete>(
    wqe: PairWqe<'_, '_, B, P, S>,
    entry: Option<Posting>,
) -> Result<(), PostError> {
    match entry {
        Some(entry) => wqe.finish_signaled(entry),
        None => wqe.finish_unsignaled(),
    }
}

impl<'m, B: Bus> QueuePair for Pair<'m, B> {
    type Key = MemoryKey<'m>;

    #[inline]
    fn limits(&self) -> Limits {
        self.limits
    }

    #[inline]
    fn qp_num(&self) -> u32 {
        self.qp.qpn()
    }

    #[inline]
    fn post_send(&self, send: &SendRequest<'_, MemoryKey<'m>>) -> Result<(), PostError> {
        let mut list = List::new();
        let bytes = name_ranges(send.segments, self.limits.sge_max, &mut list)?;
        if bytes > widen(self.limits.message_bytes_max) {
            return Err(Misuse::TooLong.into());
        }
        let is_result = send.verb.writes_local_memory();
        let mut within;
        let is_short = bytes > 0 && bytes <= widen(self.limits.inline_bytes_max);
        let local = if is_short && !is_result {
            within = [0; to_usize(widen(INLINE_BYTES_MAX))];
            Local::Inline(gather(send.segments, &mut within).ok_or(Misuse::ForeignKey)?)
        } else {
            Local::List(&list)
        };
        let id = send.wr_id;
        let entry = (!send.flags.unsignaled).then_some(Posting { id, silent: false });
        match self.stage(send, local, entry) {
            Err(PostError::Retry(Retry::SqFull)) if send.flags.unsignaled => {
                // There may be room, if only somebody asked for a completion before the queue is full of such as did not.
                self.stage(send, local, Some(Posting { id, silent: true }))?;
            }
            staged => staged?,
        }
        let at = self.qp.sq().newest();
        if entry.is_none()
            && let Some(cell) =
                self.unsignaled.get(usize::from(at) & self.unsignaled.len().wrapping_sub(1))
        {
            cell.set(id);
        }
        if is_result {
            self.read_into.note(at, send.segments);
        }
        Ok(())
    }

    #[inline]
    fn post_recv(&self, recv: &RecvRequest<'_, MemoryKey<'m>>) -> Result<(), PostError> {
        let rq = self.qp.rq().ok_or(Misuse::Unsupported)?;
        let mut list = List::new();
        if name_ranges(recv.segments, self.limits.sge_max, &mut list)? > widen(RANGE_BYTES_MAX) {
            return Err(Misuse::TooLong.into());
        }
        let at = rq.tracker().pi();
        let entry = Posting { id: recv.wr_id, silent: false };
        self.qp.with_rq_wqe(|wqe| wqe.sges(&list).finish(entry))?;
        self.received_into.note(at, recv.segments);
        Ok(())
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        Published { count: u64::from(self.qp.sq().ring_doorbell()), error: None }
    }

    #[inline]
    fn ring_recv_doorbell(&self) -> Published {
        let count = self.qp.rq().map_or(0, |rq| rq.ring_doorbell());
        Published { count: u64::from(count), error: None }
    }
}

impl<B> fmt::Debug for Pair<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("qp", &self.qp)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
