//! One port of a hub: posting, and taking what has come.

use core::cell::Cell;

use heapless::VecView;

use super::hub::{Hub, Leave, PortId};
use super::peers::{Row, Standing};
use super::{PortConfig, PortOpenError};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, Name, WrId};
use crate::msg::matching::{Incoming, Matcher, Verdict};
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, Info, Limits, Order, Payload, Provider, Published,
    RecvWr, Reliability, Select, SendWr, Source, Status, Waiting,
};
use crate::raw::place::Bump;
use crate::shm::lane::Envelope;
use crate::table::{NIL, Ring, wide};
use crate::time::Instant;

/// Messages taken from one link before the next has its turn.
const LINK_QUOTA: u32 = 32;
/// So many looks the report of an end waits for receives that take what is left.
const PATIENCE_LOOKS: u32 = 128;

const CAPS: Caps = Caps::MESSAGE
    .with(Caps::TAGGED)
    .with(Caps::INJECT)
    .with(Caps::IMMEDIATE)
    .with(Caps::DIRECTED_RECV)
    .with(Caps::MULTI_RECV)
    .with(Caps::SOURCE)
    .with(Caps::PEEK)
    .with(Caps::CANCEL);

/// How a look at a link ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All that was visible is taken.
    Drained,
    /// The next message has to wait: nobody asked for it and the unexpected queue does not take it.
    Stalled,
    /// There is more.
    More,
}

/// A port of a [`Hub`]. Belongs to the hub's thread.
#[derive(Debug)]
pub struct Port<'h, 'm> {
    pub(super) hub: &'h Hub<'m>,
    pub(super) me: PortId,
    pub(super) info: Info,
    pub(super) rows: &'m [Row],
    pub(super) events: Ring<'m, Event>,
    matcher: Matcher<'m>,
    /// Sends whose bytes are in their link and whose completions were not yet polled.
    done: Ring<'m, WrId>,
    /// Completions of receives that ended without a message.
    ended: Ring<'m, Cqe>,
    staged: Cell<u64>,
    polls: Cell<u32>,
    /// There may be posted receives that wait for somebody alone whose end was reported.
    late: Cell<bool>,
    /// The row with which the next poll begins.
    first: Cell<u32>,
}

const fn info(hub: &Hub<'_>, endpoint_type: EndpointType, config: &PortConfig) -> Info {
    let (reliability, order) = match endpoint_type {
        EndpointType::Msg | EndpointType::Rdm => (Reliability::Reliable, Order::PerPeer),
        EndpointType::Dgram => (Reliability::Unreliable, Order::None),
    };
    let message_bytes_max = hub.config().message_bytes_max;
    Info {
        provider: "loopback",
        endpoint_type,
        caps: CAPS,
        limits: Limits {
            message_bytes_max,
            inject_bytes_max: message_bytes_max,
            sge_max: 1,
            send_depth: config.send_depth.next_power_of_two(),
            recv_depth: config.matching.recv_depth,
            unexpected_depth: config.matching.unexpected_depth,
            unexpected_bytes_max: config.matching.unexpected_bytes_max,
            peers_max: config.peers_max,
        },
        reliability,
        order,
    }
}

impl<'h, 'm> Port<'h, 'm> {
    /// Opens a port under `name` and places its tables in `bump`.
    ///
    /// # Errors
    /// [`PortOpenError`]; then the hub is as before.
    pub fn open(
        hub: &'h Hub<'m>,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        config: &PortConfig,
    ) -> Result<Self, PortOpenError> {
        let arena = PortOpenError::Arena;
        let nobody = Event::PeerGone(Addr::new(NIL, Generation::FIRST));
        let filler = Cqe::without_message(WrId::from_raw(0), Status::Cancelled);
        let rows: &'m [Row] =
            bump.slice_with(wide(config.peers_max), |_| Row::vacant()).map_err(arena)?;
        let events =
            Ring::place(bump, config.peers_max.saturating_mul(2), nobody).map_err(arena)?;
        let matcher = Matcher::place(bump, &config.matching).map_err(arena)?;
        let done = Ring::place(bump, config.send_depth, WrId::from_raw(0)).map_err(arena)?;
        let ended = Ring::place(bump, config.matching.recv_depth, filler).map_err(arena)?;
        Ok(Self {
            hub,
            me: hub.register(name, endpoint_type)?,
            info: info(hub, endpoint_type, config),
            rows,
            events,
            matcher,
            done,
            ended,
            staged: Cell::new(0),
            polls: Cell::new(0),
            late: Cell::new(false),
            first: Cell::new(0),
        })
    }

    /// Posted receives and unexpected messages, for those who count them.
    #[must_use]
    pub const fn matcher(&self) -> &Matcher<'m> {
        &self.matcher
    }

    /// The completion of a receive that was taken back.
    fn end_cancelled(&self, wr_id: WrId) {
        let pushed = self.ended.push(Cqe::without_message(wr_id, Status::Cancelled));
        debug_assert!(pushed.is_ok(), "post_recv keeps a place for every posted receive");
    }

    /// Completions that need no link.
    fn finish_local(&self, out: &mut VecView<Cqe>) {
        while !out.is_full() {
            let next = match self.done.pop() {
                Some(wr_id) => Some(Cqe::without_message(wr_id, Status::Success)),
                None => self.ended.pop(),
            };
            let Some(cqe) = next else { return };
            let pushed = out.push(cqe);
            debug_assert!(pushed.is_ok(), "room was checked");
        }
    }

    /// What has come from the peers.
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if !self.matcher.settle(out) {
            return;
        }
        self.meet();
        // Each poll begins with another peer, so that none is always served last.
        let first = self.first.get();
        let mut next = None;
        for slot in (first..self.info.limits.peers_max).chain(0..first) {
            let Some(row) = self.rows.get(wide(slot)) else {
                continue;
            };
            if row.standing.get() == Standing::Vacant {
                continue;
            }
            next = next.or(slot.checked_add(1));
            self.look_at(slot, row);
            let look = self.drain(slot, row, out);
            row.stalled.set(look == Look::Stalled);
            if look != Look::More && row.is_lost() {
                self.bury(slot, row, out);
            }
        }
        self.first.set(next.unwrap_or(0));
        if self.late.get() {
            self.fail_late(out);
        }
    }

    /// Takes messages out of the link from a peer.
    fn drain(&self, slot: u32, row: &Row, out: &mut VecView<Cqe>) -> Look {
        let (from, to) = (row.remote.get().slot, self.me.slot);
        if !row.receives.get() {
            return Look::Drained;
        }
        for _ in 0..LINK_QUOTA {
            let Some((envelope, length)) = self.hub.front(from, to) else {
                return Look::Drained;
            };
            if out.is_full() {
                return Look::More;
            }
            let message = Incoming { source: row.addr(slot), envelope, length };
            let cqe = match self.matcher.judge(&message) {
                Verdict::Deliver(mut landing) => {
                    if let Some(bytes) = landing.sge.part(landing.offset, landing.length) {
                        self.hub.copy_front((from, to), bytes);
                    }
                    self.hub.drop_front(from, to);
                    self.matcher.land(&landing, &message)
                }
                Verdict::GivenBack(cqe) => cqe,
                Verdict::Unasked => {
                    if !self.matcher.stash(&message, |bytes| self.hub.copy_front((from, to), bytes))
                    {
                        return Look::Stalled;
                    }
                    self.hub.drop_front(from, to);
                    continue;
                }
            };
            let pushed = out.push(cqe);
            debug_assert!(pushed.is_ok(), "room was checked");
        }
        Look::More
    }

    /// The link from a lost peer is drained, or stalled: fail what waits for it, report it; let go, where it is drained.
    fn bury(&self, slot: u32, row: &Row, out: &mut VecView<Cqe>) {
        if !row.has_ended() && (self.is_patient(slot, row) || !self.report(slot, row, out)) {
            return;
        }
        if row.stalled.get() {
            return;
        }
        self.let_go(row);
        if row.standing.get() == Standing::Past {
            self.vacate(row);
        }
    }

    /// Whether there is something left of a lost peer that a receive may still take before its end is reported.
    fn is_patient(&self, slot: u32, row: &Row) -> bool {
        let looks = row.looks.get();
        row.looks.set(looks.saturating_add(1));
        let is_left = row.stalled.get() || self.matcher.holds_of(row.addr(slot));
        is_left && looks < PATIENCE_LOOKS
    }

    /// Fails what waits for a lost peer, then puts its end among the events. Returns whether there was room for all of it.
    fn report(&self, slot: u32, row: &Row, out: &mut VecView<Cqe>) -> bool {
        let addr = row.addr(slot);
        while !out.is_full() {
            let hopeless = match self.info.endpoint_type {
                EndpointType::Msg => self.matcher.take_any(),
                EndpointType::Rdm | EndpointType::Dgram => self.matcher.take_hopeless(addr),
            };
            let Some(wr_id) = hopeless else {
                let refused = row.standing.get() == Standing::Refused;
                let event = if refused { Event::Refused(addr) } else { Event::PeerGone(addr) };
                row.reported.set(self.events.push(event).is_ok());
                return row.reported.get();
            };
            let pushed = out.push(Cqe::without_message(wr_id, Status::PeerGone));
            debug_assert!(pushed.is_ok(), "room was checked");
        }
        false
    }

    /// Whether a receive may be posted that waits for one alone who is gone: a message waits for it, or was not looked at.
    fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let unread = |row: &Row| row.receives.get() && !row.stalled.get() && self.has_more(row);
        if self.peek(Source::Only(addr), select).is_none() && !self.row(addr).is_ok_and(unread) {
            let past = self.row(addr)?.standing.get() == Standing::Past;
            let refused = PostError::from(Fatal::PeerGone);
            return Err(if past { Misuse::StaleAddress.into() } else { refused });
        }
        self.late.set(true);
        Ok(())
    }

    fn has_more(&self, row: &Row) -> bool {
        self.hub.front(row.remote.get().slot, self.me.slot).is_some()
    }

    /// Of the messages that have to stay in their links, one that such a receive would take.
    fn peek_in_links(&self, from: Source, select: Select) -> Option<Waiting> {
        self.in_use().filter(|(_, row)| row.stalled.get()).find_map(|(slot, row)| {
            let source = row.addr(slot);
            let (envelope, length) = self.hub.front(row.remote.get().slot, self.me.slot)?;
            let Envelope { tag, immediate } = envelope;
            let meant = from.takes(source) && select.takes(tag);
            meant.then_some(Waiting { source, length, tag, immediate })
        })
    }

    /// Fails the receives that wait for somebody alone of whom nothing more is to be had.
    fn fail_late(&self, out: &mut VecView<Cqe>) {
        let unread = |row: &Row| row.has_ended() && row.receives.get() && !row.stalled.get();
        let is_over = |addr: Addr| match self.row(addr) {
            Ok(row) => row.has_ended() && !unread(row),
            Err(_stale) => true,
        };
        while !out.is_full() {
            let Some(wr_id) = self.matcher.take_directed(is_over) else {
                self.late.set(self.in_use().any(|(_, row)| unread(row)));
                return;
            };
            let pushed = out.push(Cqe::without_message(wr_id, Status::PeerGone));
            debug_assert!(pushed.is_ok(), "room was checked");
        }
    }

    /// Copies a send into its link.
    fn stage(&self, row: &Row, wr: &SendWr<'_>) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let link = (self.me.slot, row.remote.get().slot);
        self.hub.stage(link, wr.payload.bytes(), envelope)?;
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }
}

impl Provider for Port<'_, '_> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.connect_to(name)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        let row = self.row(addr)?;
        if self.hub.is_live(self.me) {
            self.let_go(row);
        }
        self.vacate(row);
        // Receives that wait for this peer alone would wait for ever.
        while let Some(wr_id) = self.matcher.take_hopeless(addr) {
            self.end_cancelled(wr_id);
        }
        Ok(())
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let row = self.row(wr.to)?;
        if wr.payload.bytes().len() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        self.make_ready(row)?;
        match wr.payload {
            Payload::Inject(_) => self.stage(row, wr),
            Payload::Posted { wr_id, .. } => {
                if self.done.is_full() {
                    return Err(Retry::CqFull.into());
                }
                self.stage(row, wr)?;
                let pushed = self.done.push(wr_id);
                debug_assert!(pushed.is_ok(), "room was checked");
                Ok(())
            }
        }
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        if let Source::Only(addr) = wr.from
            && self.row(addr).map_or(true, Row::is_lost)
        {
            self.ask_the_gone(addr, wr.select)?;
        }
        // Every posted receive may be cancelled at once: its completion has a place kept.
        let owed = self.matcher.posted_len().saturating_add(self.ended.len());
        if owed >= self.ended.capacity() && !self.ended.is_empty() {
            return Err(Retry::CqFull.into());
        }
        Ok(self.matcher.post(wr)?)
    }

    fn ring_doorbell(&self) -> Published {
        if self.hub.is_live(self.me) {
            for (_, row) in self.in_use().filter(|(_, row)| row.sends.get()) {
                self.hub.publish(self.me.slot, row.remote.get().slot);
            }
        }
        Published { count: self.staged.replace(0), error: None }
    }

    fn poll_cq(&self, _now: Instant, out: &mut VecView<Cqe>) {
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if !self.hub.is_live(self.me) {
            self.fence();
        }
        // Who comes first takes turns, so that a flood of sends does not keep out what has come, or the other way round.
        if polls.is_multiple_of(2) {
            self.finish_local(out);
            self.take_in(out);
        } else {
            self.take_in(out);
            self.finish_local(out);
        }
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.events.pop()?;
        // A peer's end is the last that is heard of its address.
        if let Event::PeerGone(addr) | Event::Refused(addr) = event
            && let Ok(row) = self.row(addr)
        {
            if row.receives.get() {
                row.standing.set(Standing::Past);
            } else {
                self.vacate(row);
            }
        }
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.matcher.cancel(wr_id)?;
        self.end_cancelled(wr_id);
        Ok(())
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.matcher.peek(from, select).or_else(|| self.peek_in_links(from, select))
    }
}

impl Drop for Port<'_, '_> {
    fn drop(&mut self) {
        self.hub.leave(self.me, Leave::Closed);
    }
}
