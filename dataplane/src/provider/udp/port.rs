//! The provider: one UDP socket on one ring.

use core::cell::Cell;

use heapless::VecView;
use spinwire_layouts::uring::{Cqe as RingCqe, SockAddr};
use spinwire_layouts::wire::datagram::DATAGRAM_LENGTH_MAX;

use super::datagram::DatagramFault;
use super::peers::Peers;
use super::receive::{Arrived, Inbox};
use super::send::{DONE, FREE, LISTS, RUNG, STAGED, Slot};
use super::{Routes, UdpConfig, UdpCounters, UdpPlaceError};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name, OpTag, WrId};
use crate::msg::matching::Matcher;
use crate::provider::queues::Queues;
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, Info, Limits, Paths, Provider, Published,
    RecvPartsWr, RecvWr, Select, SendPartsWr, SendWr, Sight, Source, Status, Waiting,
};
use crate::raw::loan::LoanPool;
use crate::stream::provided::ProvidedBuffers;
use crate::table::{Fifos, wide};
use crate::time::Instant;
use crate::uring::ring::CHAIN_MAX;
use crate::uring::{Enter, Ring};

/// Completions of the ring that are taken at once.
const BATCH: usize = 64;

/// A port: an endpoint of type DGRAM over a UDP socket. See the [module](super).
pub struct UdpPort<'m, E> {
    pub(super) ring: &'m Ring<'m, E>,
    pub(super) fd: i32,
    pub(super) config: UdpConfig,
    pub(super) info: Info,
    routes: &'m Routes<'m>,
    pub(super) peers: Peers<'m>,
    pub(super) queues: Queues<'m>,
    pub(super) slots: &'m [Slot<'m>],
    pub(super) sends: Fifos<'m>,
    pub(super) copies: &'m LoanPool<'m>,
    pub(super) inbox: Inbox<'m>,
    /// A packet for whose completion there was no room.
    waiting: Cell<Option<Arrived<'m>>>,
    batch: &'m [Cell<Option<RingCqe>>],
    batch_at: Cell<usize>,
    batch_end: Cell<usize>,
    /// Posted sends whose completions were not yet polled.
    pub(super) posted: Cell<u32>,
    /// There was a doorbell since the last poll.
    rang: Cell<bool>,
    pub(super) now: Cell<Instant>,
    counters: Cell<UdpCounters>,
    pub(super) last_fault: Cell<Option<DatagramFault>>,
}

impl<E> core::fmt::Debug for UdpPort<'_, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("UdpPort").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl UdpConfig {
    /// Bytes that a port of this kind takes in the arena of its ring, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let message = self.message_bytes_max.saturating_add(192).next_multiple_of(64);
        let receives = wide(self.recv_buffers.clamp(1, 1 << 15).next_power_of_two());
        let matching = &self.matching;
        let unexpected = matching.unexpected_bytes_max.saturating_add(256).next_multiple_of(64);
        [
            receives.saturating_mul(message.saturating_add(128)),
            wide(self.send_depth.saturating_mul(2))
                .saturating_mul(message.saturating_add(size_of::<Slot<'_>>()).saturating_add(64)),
            wide(matching.unexpected_depth).saturating_mul(unexpected),
            wide(matching.recv_depth).saturating_mul(512),
            wide(self.peers_max).saturating_mul(256),
            64 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

impl UdpConfig {
    /// What a port will say of itself on a ring that takes these ways.
    #[must_use]
    pub const fn info(&self, ring: Paths) -> Info {
        let longest = self.message_bytes_max;
        let limits = Limits::copied(longest, self.peers_max, self.send_depth, &self.matching);
        let paths = ring
            .with_either(self.multishot, Paths::MULTISHOT_RECEIVE, Paths::ONE_SHOT_RECEIVE)
            .with_either(self.multishot, Paths::PROVIDED_BUFFERS, Paths::OWN_BUFFERS)
            .with(Paths::COPIED_SENDS);
        let caps = Caps::MATCHED.with(Caps::PARTS).with(Caps::DESCRIPTOR);
        Info::of_type("udp", EndpointType::Dgram, caps, limits.with_parts()).with_paths(paths)
    }
}

impl<'m, E: Enter> UdpPort<'m, E> {
    /// Places a port in the arena of `ring`, which carries it alone. The descriptor stays the caller's, and open as long as the port lives.
    /// `group` is the number of its provided buffers, which the host registers then ([`buffers`](Self::buffers)).
    ///
    /// # Errors
    /// [`UdpPlaceError`].
    pub fn place(
        ring: &'m Ring<'m, E>,
        (fd, group): (i32, u16),
        routes: &'m Routes<'m>,
        config: &UdpConfig,
    ) -> Result<Self, UdpPlaceError> {
        if config.message_bytes_max > DATAGRAM_LENGTH_MAX {
            return Err(UdpPlaceError::MessageBytes { asked: config.message_bytes_max });
        }
        let bump = ring.arena().bump();
        // As many again for messages that are injected.
        let slots = config.send_depth.saturating_mul(2);
        let sends = Fifos::place(bump, slots, LISTS)?;
        for slot in 0..slots {
            let _empty_before = sends.push_back(FREE, slot);
        }
        Ok(Self {
            ring,
            fd,
            config: *config,
            info: config.info(ring.paths()),
            routes,
            peers: Peers::place(bump, config.peers_max)?,
            // Nobody is seen to come or to go.
            queues: Queues::place(bump, &config.matching, 0)?,
            slots: bump.slice_with(wide(slots), |_| Slot::free())?,
            sends,
            copies: LoanPool::place(bump, slots, config.message_bytes_max)?,
            inbox: Inbox::place(ring.arena(), group, config)?,
            waiting: Cell::new(None),
            batch: bump.slice_with(BATCH.saturating_add(CHAIN_MAX), |_| Cell::new(None))?,
            batch_at: Cell::new(0),
            batch_end: Cell::new(0),
            posted: Cell::new(0),
            rang: Cell::new(false),
            now: Cell::new(Instant::ORIGIN),
            counters: Cell::new(UdpCounters::default()),
            last_fault: Cell::new(None),
        })
    }

    /// The group of buffers that the kernel receives into; `None` where packets come one by one.
    #[must_use]
    pub const fn buffers(&self) -> Option<&ProvidedBuffers<'m>> {
        match &self.inbox {
            Inbox::Provided(provided) => Some(&provided.buffers),
            Inbox::Slots(_) => None,
        }
    }

    /// The ring below.
    #[must_use]
    pub const fn ring(&self) -> &'m Ring<'m, E> {
        self.ring
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> UdpCounters {
        self.counters.get()
    }

    /// What was wrong with the last packet that was no message: of another build, say. Nobody answers such a one.
    #[must_use]
    pub const fn last_fault(&self) -> Option<DatagramFault> {
        self.last_fault.get()
    }

    /// Where a peer is.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn address_of(&self, peer: Addr) -> Result<core::net::SocketAddr, Misuse> {
        self.peers.address_of(peer)
    }

    /// Peers that have a row.
    #[must_use]
    pub fn peers_len(&self) -> u32 {
        self.peers.len()
    }

    /// Posted receives and unexpected messages, for those who count them.
    #[must_use]
    pub const fn matcher(&self) -> &Matcher<'m> {
        self.queues.matcher()
    }

    #[inline]
    pub(super) fn count(&self, change: impl FnOnce(&mut UdpCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    #[cold]
    pub(super) fn stale(&self) {
        self.count(|c| c.stale = c.stale.wrapping_add(1));
    }

    /// The completion of a posted send whose packet was taken, or refused.
    fn take_done(&self) -> Option<Cqe> {
        let number = self.sends.pop_front(DONE)?;
        let _in_no_list = self.sends.push_back(FREE, number);
        self.posted.set(self.posted.get().saturating_sub(1));
        let wr_id = self.slot(number)?.wr_id.take()?;
        Some(Cqe::without_message(wr_id, Status::Success))
    }

    /// What the ring has.
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if !self.queues.matcher().settle(out) {
            return;
        }
        if let Some(arrived) = self.waiting.take() {
            let left = self.deliver(arrived, out);
            if left.is_some() {
                self.waiting.set(left);
                return;
            }
        }
        if self.batch_at.get() >= self.batch_end.get() {
            self.harvest();
        }
        while self.batch_at.get() < self.batch_end.get() && !out.is_full() {
            let at = self.batch_at.get();
            self.batch_at.set(at.wrapping_add(1));
            let Some(cqe) = self.batch.get(at).and_then(Cell::take) else { return };
            if let Some(left) = self.completed(&cqe).and_then(|it| self.deliver(it, out)) {
                self.waiting.set(Some(left));
                return;
            }
        }
    }

    fn harvest(&self) {
        let mut end = 0_usize;
        let most = crate::table::count(BATCH);
        // What was cut of a chain would come on top of it.
        self.ring.harvest(most, |cqe| {
            if let Some(place) = self.batch.get(end) {
                place.set(Some(cqe));
                end = end.wrapping_add(1);
            }
        });
        self.batch_at.set(0);
        self.batch_end.set(end);
    }

    /// Hands in what was rung for, and sees to it that something is received into.
    fn enter(&self) {
        self.launch();
        self.arm();
        let _counted_by_the_ring = self.ring.submit();
    }

    /// Whether a receive may wait for messages of that source.
    fn may_wait_for(&self, from: Source) -> Result<(), Misuse> {
        match from {
            Source::Only(addr) => self.peers.address_of(addr).map(drop),
            Source::Any => Ok(()),
        }
    }

    fn look_at_waiting(&self) -> Sight {
        let waiting = self.waiting.take();
        let sight = if waiting.is_some() { Sight::Work } else { Sight::Nothing };
        self.waiting.set(waiting);
        sight
    }

    fn completed(&self, cqe: &RingCqe) -> Option<Arrived<'m>> {
        match WrId::from_raw(cqe.user_data).parts() {
            Some((OpTag::Send, generation, number)) => {
                self.sent((generation, number), cqe.res);
                None
            }
            Some((OpTag::Receive, generation, number)) => self.received((generation, number), cqe),
            _ => {
                self.stale();
                None
            }
        }
    }
}

impl<E: Enter> Provider for UdpPort<'_, E> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        let found = self.routes.find(name).ok_or(Misuse::UnknownAddress)?;
        let address = SockAddr::read(found.as_bytes()).ok_or(Misuse::UnknownAddress)?;
        Ok(self.peers.keep(address).ok_or(Retry::AddressesFull)?)
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        Ok(self.routes.name_of(SockAddr::new(self.peers.address_of(addr)?)))
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.peers.remove(addr)?;
        self.queues.end_hopeless(addr);
        Ok(())
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        if self.ring.fatal().is_some() {
            return Err(Fatal::RingLost.into());
        }
        self.stage(wr)
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        if self.ring.fatal().is_some() {
            return Err(Fatal::RingLost.into());
        }
        self.stage_parts(wr)
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.may_wait_for(wr.from)?;
        self.queues.post(wr)
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        wr.check(&self.info.limits)?;
        self.may_wait_for(wr.from)?;
        self.queues.post_parts(wr)
    }

    fn ring_doorbell(&self) -> Published {
        let mut count = 0_u64;
        while let Some(number) = self.sends.pop_front(STAGED) {
            let _in_no_list = self.sends.push_back(RUNG, number);
            count = count.wrapping_add(1);
        }
        self.enter();
        self.rang.set(true);
        Published { count, error: self.ring.fatal().map(|_errno| Fatal::RingLost) }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        // One call of the kernel from one poll to the next: the doorbell's, where there was one.
        if !self.rang.replace(false) {
            self.enter();
        }
        self.queues.poll(|| self.take_done(), |out| self.take_in(out), out);
    }

    #[inline(always)]
    fn look(&self) -> Sight {
        let waits = self.batch_at.get() < self.batch_end.get()
            || !self.sends.is_empty(DONE)
            || !self.queues.none_ended()
            || self.queues.matcher().unexpected_len() != 0
            || self.ring.has_news();
        if waits { Sight::Work } else { self.look_at_waiting() }
    }

    fn poll_event(&self) -> Option<Event> {
        None
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.queues.cancel(wr_id)
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select)
    }
}
