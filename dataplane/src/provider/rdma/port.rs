//! One port: posting, and polling the completion queue below.

use core::cell::Cell;
use core::fmt;

use heapless::VecView;
use spinwire_layouts::shm::EndpointKind;
use spinwire_layouts::word::widen;

use super::link::Link;
use super::memory::{Memory, Slots, short};
use super::{LinkFigures, Loans, POLLS_MAX, PortOpenError, RdmaConfig, RdmaCounters};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name, WrId};
use crate::msg::matching::Matcher;
use crate::provider::connect::{Connects, Row};
use crate::provider::peers::Peers;
use crate::provider::queues::Queues;
use crate::provider::tcp::frame::{FrameFault, Greeting};
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, ExposeWr, Info, OneSidedWr, Payload, Provider,
    Published, RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Sight, Source,
    Status, Waiting,
};
use crate::raw::place::Bump;
use crate::raw::region::Registrar;
use crate::table::{Fronted, NIL, Ring, wide};
use crate::time::Instant;
use crate::verbs::{CompletionQueue, QueuePair, WcStatus};

/// Looks of which one is followed by a poll, where there is something to be done at some time.
const WATCHED_LOOKS: u32 = 4;

/// A port over reliable connections of one device. Belongs to one thread.
pub struct RdmaPort<'m, Q: QueuePair, C, X: Registrar = ()> {
    pub(super) cq: C,
    pub(super) registrar: X,
    /// What peers are let into: by which id, and with which key.
    pub(super) exposed: &'m [Cell<Option<(WrId, u32)>>],
    pub(super) config: RdmaConfig,
    pub(super) greeting: Greeting,
    pub(super) hellos: Cell<u64>,
    pub(super) info: Info,
    pub(super) slots: Slots<'m, Q::Key>,
    pub(super) loans: Option<Loans<Q, C>>,
    pub(super) peers: Peers<'m, Row>,
    /// None is missing.
    pub(super) links: &'m [Option<Link<'m, Q>>],
    pub(super) routes: &'m [Cell<Option<Name>>],
    pub(super) queues: Queues<'m>,
    /// Sends that are over and whose completions were not yet polled: with the bytes of a one-sided one, or the number of the error.
    done: Ring<'m, (WrId, Status, u32)>,
    /// Posted sends whose memory the device has.
    pub(super) under_way: Cell<u32>,
    /// Links with messages that have come whole, and links with something for the next doorbell.
    pub(super) ready: Fronted<'m, u32>,
    pub(super) dirty: Fronted<'m, u32>,
    /// The last look has come to all of the ready ones.
    pub(super) went_round: Cell<bool>,
    pub(super) empty_polls: Cell<u32>,
    /// A look has asked the device since the last poll.
    has_asked: Cell<bool>,
    /// The link whose messages a look has found to be handed out one by one; `NIL`: none.
    pub(super) lone_at: Cell<u32>,
    /// Looks after which credit goes alone that no message has taken along; 0: none waits.
    pub(super) patience: Cell<u32>,
    looks: Cell<u32>,
    /// What is ready takes a poll.
    pub(super) is_intricate: Cell<bool>,
    /// The completion queue is broken: nothing is connected any more.
    pub(super) broken: Cell<Option<Fatal>>,
    /// The device had nothing more when it was asked last.
    pub(super) is_drained: Cell<bool>,
    /// There may be links or rows that are to become something else.
    pub(super) unsettled: Cell<bool>,
    /// There may be something that the host has to do.
    pub(super) asks: Cell<bool>,
    pub(super) now: Cell<Instant>,
    /// When connections on which nothing comes are looked after.
    pub(super) watch_at: Cell<Instant>,
    pub(super) last_fault: Cell<Option<FrameFault>>,
    pub(super) last_error: Cell<Option<(WcStatus, u32)>>,
    counters: Cell<RdmaCounters>,
}

impl<Q: QueuePair, C, X: Registrar> fmt::Debug for RdmaPort<'_, Q, C, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaPort").field("greeting", &self.greeting).finish_non_exhaustive()
    }
}

impl<'m, Q: QueuePair, C: CompletionQueue> RdmaPort<'m, Q, C> {
    /// Opens a port under `name`, of type MSG or RDM, over whatever queue pairs the host will connect, all of which complete in `cq`; places its tables
    /// in `bump`.
    ///
    /// # Errors
    /// [`PortOpenError`] names the relation that does not hold.
    pub fn place(
        bump: &Bump<'m>,
        who: (&Name, EndpointType),
        config: &RdmaConfig,
        cq: C,
        memory: Memory<'m, Q, C>,
    ) -> Result<Self, PortOpenError> {
        Self::place_with(bump, who, config, (cq, ()), memory)
    }
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// The same, with somebody who lets peers into memory: then it can be [exposed](Provider::expose).
    ///
    /// # Errors
    /// As of [`place`](RdmaPort::place).
    pub fn place_with(
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        config: &RdmaConfig,
        (cq, registrar): (C, X),
        memory: Memory<'m, Q, C>,
    ) -> Result<Self, PortOpenError> {
        let kind = match endpoint_type {
            EndpointType::Msg => EndpointKind::Msg,
            EndpointType::Rdm => EndpointKind::Rdm,
            EndpointType::Dgram => return Err(PortOpenError::Type),
        };
        config.check()?;
        if config.completions() > cq.depth() {
            let (needed, depth) = (config.completions(), cq.depth());
            return Err(PortOpenError::CompletionQueue { needed, depth });
        }
        let each = config.receives().saturating_add(config.sends());
        let slots = Slots::new(&memory, config.slot_bytes, each.saturating_mul(config.links))
            .ok_or(PortOpenError::Memory { needed: config.memory_bytes() })?;
        let depths = config.depths();
        let mut exhausted = None;
        let links = bump.slice_with(wide(config.links), |at| {
            let first_slot = short(at).saturating_mul(each);
            Link::place(bump, depths, first_slot).map_err(|e| exhausted = Some(e)).ok()
        })?;
        if let Some(exhausted) = exhausted {
            return Err(exhausted.into());
        }
        let exposed_max = if X::EXPOSES { config.exposed_max } else { 0 };
        Ok(Self {
            cq,
            registrar,
            exposed: bump.slice_with(wide(exposed_max), |_| Cell::new(None))?,
            config: RdmaConfig { polls: config.polls.min(POLLS_MAX), ..*config },
            greeting: Greeting { name: *name, kind, limits: config.limits(), token: 0, number: 0 },
            hellos: Cell::new(0),
            info: Self::info_of(config, endpoint_type, memory.loans.is_some()),
            slots,
            loans: memory.loans,
            peers: Peers::place(bump, config.peers_max, Row::vacant)?,
            links,
            routes: bump.slice_with(wide(config.routes_max), |_| Cell::new(None))?,
            queues: Queues::place(
                bump,
                &config.matching,
                config.peers_max.saturating_mul(2).saturating_add(2),
            )?,
            done: Ring::place(bump, config.send_depth, (WrId::from_raw(0), Status::Success, 0))?,
            under_way: Cell::new(0),
            ready: Fronted::place(bump, config.links, 0)?,
            dirty: Fronted::place(bump, config.links, 0)?,
            went_round: Cell::new(false),
            empty_polls: Cell::new(0),
            has_asked: Cell::new(false),
            lone_at: Cell::new(NIL),
            patience: Cell::new(0),
            looks: Cell::new(0),
            is_intricate: Cell::new(false),
            broken: Cell::new(None),
            is_drained: Cell::new(false),
            unsettled: Cell::new(false),
            asks: Cell::new(false),
            now: Cell::new(Instant::ORIGIN),
            watch_at: Cell::new(Instant::NEVER),
            last_fault: Cell::new(None),
            last_error: Cell::new(None),
            counters: Cell::new(RdmaCounters::default()),
        })
    }

    const fn info_of(config: &RdmaConfig, endpoint_type: EndpointType, has_loans: bool) -> Info {
        let mut info = config.info(endpoint_type);
        if has_loans {
            info.caps = info.caps.with(Caps::RMA);
            if config.atomics {
                info.caps = info.caps.with(Caps::ATOMIC);
            }
        }
        if X::EXPOSES {
            info.caps = info.caps.with(Caps::EXPOSE);
        }
        info
    }

    /// Opens the connection to a peer ahead of the first message. Whether it is up.
    ///
    /// # Errors
    /// As [`Provider::post_send`]; what is not up yet is no error.
    pub fn reach(&self, peer: Addr) -> Result<bool, PostError> {
        match self.make_ready(peer.slot(), self.peers.find(peer)?) {
            Ok(_link) => Ok(true),
            Err(PostError::Retry(Retry::NotConnected)) => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// Posted receives and unexpected messages, for those who count them.
    #[must_use]
    pub const fn matcher(&self) -> &Matcher<'m> {
        self.queues.matcher()
    }

    /// Events that wait to be polled.
    #[must_use]
    pub const fn events_waiting(&self) -> u32 {
        self.queues.events_waiting()
    }

    /// Whether the last look took all that the device had completed: of what it left nobody who sleeps is told.
    #[must_use]
    pub const fn has_heard_all(&self) -> bool {
        self.is_drained.get()
    }

    /// What was wrong with the last connection that was cut off.
    #[must_use]
    pub const fn last_fault(&self) -> Option<FrameFault> {
        self.last_fault.get()
    }

    /// How the last work request failed that did: the status, and the device's own number.
    #[must_use]
    pub const fn last_error(&self) -> Option<(WcStatus, u32)> {
        self.last_error.get()
    }

    /// How the connection to a peer stands; nothing where there is none.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn figures(&self, peer: Addr) -> Result<LinkFigures, Misuse> {
        let row = self.peers.find(peer)?;
        Ok(self.link(row.link.get()).map_or(LinkFigures::default(), Link::figures))
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> RdmaCounters {
        self.counters.get()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut RdmaCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// A posted send is over. A place was kept for it.
    #[inline]
    pub(super) fn finish_send(&self, wr_id: WrId, status: Status, number: u32) {
        let pushed = self.done.push((wr_id, status, number));
        debug_assert!(pushed.is_ok(), "post_send keeps a place for it");
    }

    /// Stages any message.
    #[inline(never)]
    fn post_any(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        let bytes = wr.payload.bytes();
        if bytes.len() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        let link = self.make_ready(wr.to.slot(), row)?;
        if let Payload::Posted { .. } = wr.payload {
            self.may_owe()?;
        }
        self.stage(link, wr, bytes)?;
        self.queues.count_staged();
        Ok(())
    }

    /// Whether there is a place for one more completion of a send.
    #[inline]
    pub(super) const fn may_owe(&self) -> Result<(), Retry> {
        let owed = self.under_way.get().saturating_add(self.done.len());
        if owed >= self.info.limits.send_depth { Err(Retry::CqFull) } else { Ok(()) }
    }

    /// Whether a receive may wait for messages of that source.
    #[inline]
    fn may_wait_for(&self, from: Source, select: Select) -> Result<(), PostError> {
        match from {
            Source::Only(addr) if self.peers.find(addr).map_or(true, |row| row.state.is_lost()) => {
                self.ask_the_gone(addr, select)
            }
            Source::Only(_) | Source::Any => Ok(()),
        }
    }

    /// Whether a poll would find anything to do besides messages that have come.
    #[inline]
    pub(super) const fn owes_work(&self) -> bool {
        // Not one after the other: all of it is rare.
        !self.done.is_empty()
            | !self.dirty.is_empty()
            | self.unsettled.get()
            | !self.queues.none_ended()
            | self.queues.is_late()
            | self.queues.matcher().has_fresh()
    }

    /// Whether a look asks for a poll so that the clock is looked at, of which a look knows nothing: where signs of life are awaited, one in
    /// [`WATCHED_LOOKS`].
    #[inline]
    fn is_to_watch(&self) -> bool {
        if self.watch_at.get() == Instant::NEVER {
            return false;
        }
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        looks.is_multiple_of(WATCHED_LOOKS)
    }

    /// What has come.
    #[inline]
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if out.is_full() || !self.queues.matcher().settle(out) {
            return;
        }
        self.deliver(out);
        if self.unsettled.replace(false) {
            self.settle(out);
        }
    }

    #[cold]
    fn settle(&self, out: &mut VecView<Cqe>) {
        let links = self.settle_links();
        let rows = self.bury_all(out);
        if links || rows {
            self.unsettled.set(true);
        }
    }
}

impl<Q: QueuePair, C: CompletionQueue, X: Registrar> Provider for RdmaPort<'_, Q, C, X> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.connect_to(name)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        let row = self.peers.find(addr)?;
        self.vacate(addr.slot(), row);
        self.queues.end_hopeless(addr);
        self.unsettled.set(true);
        // The other end is told now: whoever gives up a peer need not turn for it.
        let _lost = self.publish();
        Ok(())
    }

    #[inline(always)]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        if let SendWr { to, payload: Payload::Inject(bytes), tag: None, immediate: None } = *wr
            && self.inject_brief(to, bytes)
        {
            self.queues.count_staged();
            return Ok(());
        }
        // Of a copy, so that nothing else needs it in memory.
        let wr = *wr;
        self.post_any(&wr)
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        let length = wr.checked_length(&self.info.limits)?;
        let link = self.make_ready(wr.to.slot(), row)?;
        self.may_owe()?;
        self.stage_parts(link, wr, length)?;
        self.queues.count_staged();
        Ok(())
    }

    #[inline(always)]
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.ask(wr)
    }

    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.let_in(wr)
    }

    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.shut_out(wr_id)
    }

    #[inline]
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post(wr)
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        wr.check(&self.info.limits)?;
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post_parts(wr)
    }

    #[inline(always)]
    fn ring_doorbell(&self) -> Published {
        let lost = if self.dirty.is_empty() { 0 } else { self.publish() };
        let count = self.queues.take_staged().saturating_sub(widen(lost));
        let error = (lost > 0).then_some(Fatal::QueueError);
        Published { count, error }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        if self.watch_at.get() <= now {
            self.unsettled.set(true);
        }
        if !self.dirty.is_empty() && self.queues.staged() == 0 {
            // Answers to hellos, and credit that nothing has taken along, go though nobody rings.
            let _none = self.publish();
        }
        if !self.has_asked.get() {
            let _sight = self.look();
        }
        self.has_asked.set(false);
        self.is_intricate.set(false);
        self.lone_at.set(NIL);
        let sends = || {
            let (wr_id, status, number) = self.done.pop()?;
            let cqe = Cqe::without_message(wr_id, status);
            Some(if status.is_failure() {
                cqe.with_code(number)
            } else {
                Cqe { length: number, ..cqe }
            })
        };
        self.queues.poll(sends, |out| self.take_in(out), out);
    }

    /// Asks the device. Where it has nothing, and nothing else waits, that was all.
    #[inline]
    fn look(&self) -> Sight {
        self.has_asked.set(true);
        self.lone_at.set(NIL);
        self.hear();
        if self.owes_work() || self.is_to_watch() {
            return Sight::Work;
        }
        if self.ready.is_empty() {
            return Sight::Nothing;
        }
        if self.is_lone() && !self.queues.matcher().wants_many() {
            self.lone_at.set(self.ready.front().unwrap_or(NIL));
            Sight::Ready
        } else {
            Sight::Work
        }
    }

    #[inline(always)]
    fn take_ready(&self) -> Option<Cqe> {
        let at = self.lone_at.get();
        if at == NIL { None } else { self.take_lone(at) }
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.queues.next_event()?;
        self.note(event);
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.queues.cancel(wr_id)
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.peek_all(from, select)
    }

    fn lingers(&self) -> bool {
        let mut is_exposed = false;
        for place in self.exposed {
            match place.get() {
                Some((_, key)) if !self.registrar.unregister(key) => is_exposed = true,
                Some(_) | None => place.set(None),
            }
        }
        for (_, link) in self.all_links().filter(|(_, link)| link.has_loans()) {
            link.part_for_good(&self.slots);
            link.end_pair();
        }
        is_exposed || self.all_links().any(|(_, link)| link.is_with_host.get() && link.has_loans())
    }

    fn poll_at(&self) -> Option<Instant> {
        // Credit that is held back goes after some more looks, and so is an end told: at once.
        if self.patience.get() > 0 || self.unsettled.get() && self.is_end_due() {
            return Some(Instant::ORIGIN);
        }
        let awaited = self.all_links().filter(|(_, link)| link.is_awaited());
        // One that is not set yet is set by the next poll: at once.
        let awaited = awaited.map(|(_, link)| link.deadline.get().unwrap_or(Instant::ORIGIN)).min();
        let watch = Some(self.watch_at.get()).filter(|at| *at != Instant::NEVER);
        awaited.into_iter().chain(watch).min()
    }
}

impl<Q: QueuePair, C, X: Registrar> Drop for RdmaPort<'_, Q, C, X> {
    /// Queue pairs that are still there go with the port; whoever wants its last messages to arrive disconnects its peers first, and turns
    /// until the port [is quiet](RdmaPort::is_quiet).
    fn drop(&mut self) {
        for link in self.links.iter().flatten() {
            link.part_for_good(&self.slots);
            link.end_pair();
        }
        for (_, key) in self.exposed.iter().filter_map(Cell::take) {
            let _gone = self.registrar.unregister(key);
        }
    }
}
