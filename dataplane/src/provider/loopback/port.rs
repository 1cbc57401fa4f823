//! One port of a hub: posting, and taking what has come.

use core::cell::Cell;

use heapless::VecView;

use super::hub::{Hub, Leave, PortId};
use super::one_sided::OneSidedState;
use super::peers::Row;
use super::{PortConfig, PortOpenError};
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Addr, Name, WrId};
use crate::msg::matching::{Incoming, Matcher};
use crate::provider::copy_bytes;
use crate::provider::peers::{Peers, Standing};
use crate::provider::queues::{Found, Queues};
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, ExposeWr, Info, LatencyClass, Limits, OneSidedWr,
    Payload, Provider, Published, RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr,
    Source, Status, Waiting,
};
use crate::raw::place::Bump;
use crate::shm::lane::Envelope;
use crate::table::Ring;
use crate::time::Instant;

/// Messages taken from one link before the next has its turn.
const LINK_QUOTA: u32 = 32;

/// Ranges in one message.
const SGE_MAX: u32 = 4;

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
    pub(super) peers: Peers<'m, Row>,
    pub(super) queues: Queues<'m>,
    /// Sends whose bytes are in their link and whose completions were not yet polled.
    done: Ring<'m, WrId>,
    /// The row with which the next poll begins.
    first: Cell<u32>,
    /// What peers are let into, and one's own operations on theirs.
    pub(super) one_sided: OneSidedState<'m>,
}

const fn info(hub: &Hub<'_>, endpoint_type: EndpointType, config: &PortConfig) -> Info {
    let longest = hub.config().message_bytes_max;
    let send_depth = config.send_depth.next_power_of_two();
    let limits = Limits::copied(longest, config.peers_max, send_depth, &config.matching);
    let caps = match endpoint_type {
        EndpointType::Msg | EndpointType::Rdm => {
            Caps::MATCHED.with(Caps::RMA).with(Caps::ATOMIC).with(Caps::EXPOSE)
        }
        EndpointType::Dgram => Caps::MATCHED,
    };
    let (caps, limits) = (caps.with(Caps::PARTS), Limits { sge_max: SGE_MAX, ..limits });
    Info::of_type("loopback", endpoint_type, caps, limits).with_latency(LatencyClass::Memory)
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
        let peers = Peers::place(bump, config.peers_max, Row::vacant).map_err(arena)?;
        let events = config.peers_max.saturating_mul(2);
        let queues = Queues::place(bump, &config.matching, events).map_err(arena)?;
        let done = Ring::place(bump, config.send_depth, WrId::from_raw(0)).map_err(arena)?;
        let one_sided = OneSidedState::place(bump, config).map_err(arena)?;
        Ok(Self {
            hub,
            me: hub.register(name, endpoint_type)?,
            info: info(hub, endpoint_type, config),
            peers,
            queues,
            done,
            first: Cell::new(0),
            one_sided,
        })
    }

    /// Posted receives and unexpected messages, for those who count them.
    #[must_use]
    pub const fn matcher(&self) -> &Matcher<'m> {
        self.queues.matcher()
    }

    /// What has come from the peers.
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if !self.queues.matcher().settle(out) {
            return;
        }
        self.meet();
        // Each poll begins with another peer, so that none is always served last.
        let first = self.first.get();
        let mut next = None;
        for slot in (first..self.info.limits.peers_max).chain(0..first) {
            let Some(row) = self.peers.at(slot).filter(|row| !row.state.is_vacant()) else {
                continue;
            };
            next = next.or(slot.checked_add(1));
            self.look_at(slot, row);
            let look = self.drain(slot, row, out);
            row.stalled.set(look == Look::Stalled);
            if look != Look::More && row.state.is_lost() {
                self.bury(slot, row, out);
            }
        }
        self.first.set(next.unwrap_or(0));
        let unread = |_slot, row: &Row| row.receives.get() && !row.stalled.get();
        self.queues.fail_late(self.peers, unread, out);
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
            let message = Incoming { source: row.state.addr(slot), envelope, length };
            match self.queues.find_receive(&message, out) {
                Found::Receive(mut landing) => {
                    match landing.place() {
                        Some(bytes) => self.hub.copy_front((from, to), 0, bytes),
                        None => {
                            let copy =
                                |at, bytes: &mut [u8]| self.hub.copy_front((from, to), at, bytes);
                            self.queues.matcher().scatter(&landing, (0, length), copy);
                        }
                    }
                    self.hub.drop_front(from, to);
                    self.queues.land(&landing, &message, out);
                }
                Found::Nobody => {
                    let copy = |bytes: &mut [u8]| self.hub.copy_front((from, to), 0, bytes);
                    if !self.queues.matcher().stash(&message, copy) {
                        return Look::Stalled;
                    }
                    self.hub.drop_front(from, to);
                }
                Found::NoRoom => return Look::More,
            }
        }
        Look::More
    }

    /// The link from a lost peer is drained, or stalled: fail what waits for it, report it; let go, where it is drained.
    fn bury(&self, slot: u32, row: &Row, out: &mut VecView<Cqe>) {
        let addr = row.state.addr(slot);
        let whose = self.info.endpoint_type.bereft_of(addr);
        let stalled = row.stalled.get();
        if !self.queues.report_end((addr, &row.state), stalled, whose, out) || stalled {
            return;
        }
        self.let_go(row);
        if row.state.standing() == Standing::Past {
            self.vacate(row);
        }
    }

    /// Whether a receive may be posted that waits for one alone who is gone: a message waits for it, or was not looked at.
    fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let unread = |row: &Row| row.receives.get() && !row.stalled.get() && self.has_more(row);
        let waits = self.peek(Source::Only(addr), select).is_some()
            || self.peers.find(addr).is_ok_and(unread);
        self.queues.ask_the_gone(self.peers, addr, waits)
    }

    /// Whether a receive may wait for messages of that source.
    fn may_wait_for(&self, from: Source, select: Select) -> Result<(), PostError> {
        match from {
            Source::Only(addr) if self.peers.find(addr).map_or(true, |row| row.state.is_lost()) => {
                self.ask_the_gone(addr, select)
            }
            Source::Only(_) | Source::Any => Ok(()),
        }
    }

    fn has_more(&self, row: &Row) -> bool {
        self.hub.front(row.remote.get().slot, self.me.slot).is_some()
    }

    /// Of the messages that have to stay in their links, one that such a receive would take.
    fn peek_in_links(&self, from: Source, select: Select) -> Option<Waiting> {
        self.peers.in_use().filter(|(_, row)| row.stalled.get()).find_map(|(slot, row)| {
            let source = row.state.addr(slot);
            let (envelope, length) = self.hub.front(row.remote.get().slot, self.me.slot)?;
            let Envelope { tag, immediate } = envelope;
            let meant = from.takes(source) && select.takes(tag);
            meant.then_some(Waiting { source, length, tag, immediate })
        })
    }

    /// Copies a send into its link.
    fn stage(&self, row: &Row, wr: &SendWr<'_>) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let link = (self.me.slot, row.remote.get().slot);
        let bytes = wr.payload.bytes();
        let copy = |body: &mut [u8]| copy_bytes(body, bytes);
        self.hub.stage(link, (bytes.len(), copy), envelope)?;
        self.queues.count_staged();
        Ok(())
    }

    /// Copies the ranges of a send into its link.
    fn stage_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        let length = wr.checked_length(&self.info.limits)?;
        self.make_ready(row)?;
        if self.done.is_full() {
            return Err(Retry::CqFull.into());
        }
        let link = (self.me.slot, row.remote.get().slot);
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        self.hub.stage(link, (length, |body: &mut [u8]| wr.copy_to(body)), envelope)?;
        self.queues.count_staged();
        let pushed = self.done.push(wr.wr_id);
        debug_assert!(pushed.is_ok(), "room was checked");
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

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        Ok(self.hub.name_of(self.peers.find(addr)?.remote.get()))
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        let row = self.peers.find(addr)?;
        if self.hub.is_live(self.me) {
            self.let_go(row);
        }
        self.vacate(row);
        self.queues.end_hopeless(addr);
        Ok(())
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
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

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.stage_parts(wr)
    }

    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.ask(wr)
    }

    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.let_in(wr)
    }

    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.shut_out(wr_id)
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post(wr)
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        wr.check(&self.info.limits)?;
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post_parts(wr)
    }

    fn ring_doorbell(&self) -> Published {
        if self.hub.is_live(self.me) {
            // Before the messages, which must not be seen earlier than what was written before them.
            self.hub.publish_requests(self.me);
            for (_, row) in self.peers.in_use().filter(|(_, row)| row.sends.get()) {
                self.hub.publish(self.me.slot, row.remote.get().slot);
            }
        }
        Published { count: self.queues.take_staged(), error: None }
    }

    fn poll_cq(&self, _now: Instant, out: &mut VecView<Cqe>) {
        if self.hub.is_live(self.me) {
            self.serve();
        } else {
            self.fence();
        }
        let sends = || match self.done.pop() {
            Some(wr_id) => Some(Cqe::without_message(wr_id, Status::Success)),
            None => self.next_answer(),
        };
        self.queues.poll(sends, |out| self.take_in(out), out);
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.queues.next_event()?;
        // A peer's end is the last that is heard of its address.
        if let Event::PeerGone(addr) | Event::Refused(addr) = event
            && let Ok(row) = self.peers.find(addr)
        {
            if row.receives.get() {
                row.state.set_standing(Standing::Past);
            } else {
                self.vacate(row);
            }
        }
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.queues.cancel(wr_id)
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select).or_else(|| self.peek_in_links(from, select))
    }
}

impl Drop for Port<'_, '_> {
    fn drop(&mut self) {
        self.hub.leave(self.me, Leave::Closed);
    }
}
