//! Messages as datagrams of one queue pair (UD): nothing is promised, nobody is connected.
//!
//! ```text
//!   post_send  copy -> slot: header 24, bytes      one work request, to an address handle of the host
//!   poll_cq    | route 40 | header 24 | bytes |    one receive each: matched, copied once, posted again, or dropped and counted
//! ```
//!
//! What is in a packet is what is in one of UDP ([`DatagramHeader`](spinwire_layouts::wire::DatagramHeader)). Who has sent it is told by the device: its
//! queue pair, and the header of 40 bytes in front. Whoever was heard has a row of the address table, which it loses to others when it
//! was silent for long, and can be answered when the host has made an address handle for it ([`RdmaDatagrams::next_unresolved`]).

use core::cell::Cell;
use core::fmt;
use core::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use heapless::{Vec, VecView};
use spinwire_layouts::wire::datagram::{DATAGRAM_HEADER_BYTES, DATAGRAM_LENGTH_MAX};
use spinwire_layouts::word::{to_usize, widen};

use super::datagram_config::{DatagramCounters, LEAD_BYTES, RdmaDatagramsConfig};
use super::link::{Aim, Depths, Done, Link, Stage};
use super::memory::{Memory, Slots, short};
use super::source::{Gid, ROUTE_BYTES, source};
use super::{PAIR_SLOTS_MIN, PortOpenError};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name, OpTag, WrId};
use crate::msg::matching::{Incoming, Matcher};
use crate::provider::queues::{Found, Queues};
use crate::provider::udp::datagram::{self, Datagram, DatagramFault};
use crate::provider::udp::peers::Peers;
use crate::provider::{
    CancelError, Cqe, Event, Info, Payload, Provider, Published, RecvPartsWr, RecvWr, Select,
    SendPartsWr, SendWr, Source, Status, Waiting,
};
use crate::raw::place::Bump;
use crate::shm::lane::Envelope;
use crate::table::{Ring, wide};
use crate::time::Instant;
use crate::verbs::{CompletionQueue, Destination, QueuePair, Verb, Wc, WcStatus};

/// Completions that are taken at once.
const BATCH: usize = 16;
/// After so many polls that brought nothing the completion queue is asked whether it is broken.
const EMPTY_POLLS: u32 = 64;
/// Batches of one poll.
const BATCHES: u32 = 8;
/// Somebody that is found over a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mailbox {
    /// The address of the port of its device.
    pub gid: Gid,
    /// How to send to it: an address handle of the queue pair, and the other's number and key.
    pub to: Destination,
}

#[derive(Clone, Copy, Debug)]
struct Arrived {
    slot: u32,
    bytes: u32,
    source_qp: u32,
}

/// Who has sent a packet, the length and envelope that it says, and how many bytes of the message there are.
type Packet = (SocketAddr, (usize, Envelope), usize);

/// A port for datagrams over one queue pair. Belongs to one thread.
pub struct RdmaDatagrams<'m, Q: QueuePair, C> {
    cq: C,
    config: RdmaDatagramsConfig,
    info: Info,
    slots: Slots<'m, Q::Key>,
    link: Link<'m, Q>,
    peers: Peers<'m>,
    /// How to send to whoever is in a row, and who that is.
    boxes: &'m [Cell<Option<(SocketAddr, Destination)>>],
    /// Senders that were heard first and cannot be answered yet.
    unresolved: Ring<'m, Addr>,
    routes: &'m [Cell<Option<(Name, Mailbox)>>],
    queues: Queues<'m>,
    done: Ring<'m, WrId>,
    arrived: Ring<'m, Arrived>,
    now: Cell<Instant>,
    empty_polls: Cell<u32>,
    is_drained: Cell<bool>,
    last_error: Cell<Option<(WcStatus, u32)>>,
    last_fault: Cell<Option<DatagramFault>>,
    counters: Cell<DatagramCounters>,
}

impl<Q: QueuePair, C> fmt::Debug for RdmaDatagrams<'_, Q, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaDatagrams").field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// Queue pair and address as one word of the tables that ports over UDP have.
const fn key(gid: Gid, qp_num: u32) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from_octets(gid), 0, 0, qp_num))
}

impl<'m, Q: QueuePair, C: CompletionQueue> RdmaDatagrams<'m, Q, C> {
    /// Opens a port over a queue pair that sends and receives datagrams, and completes in `cq`; places its tables in `bump`.
    ///
    /// # Errors
    /// [`PortOpenError`] names the relation that does not hold.
    pub fn place(
        bump: &Bump<'m>,
        config: &RdmaDatagramsConfig,
        (pair, cq): (Q, C),
        memory: &Memory<'m, Q, C>,
    ) -> Result<Self, PortOpenError> {
        let (has, needs) = (pair.limits(), config.pair());
        if config.receives < PAIR_SLOTS_MIN || config.receives > 1 << 20 {
            return Err(PortOpenError::Slots);
        }
        if has.message_bytes_max < needs.message_bytes_max
            || to_usize(widen(config.message_bytes_max)) > DATAGRAM_LENGTH_MAX
        {
            return Err(PortOpenError::MessageBytesMax);
        }
        if has.send_depth < needs.send_depth || has.recv_depth < needs.recv_depth {
            return Err(PortOpenError::QueuePair);
        }
        if config.completions() > cq.depth() {
            let (needed, depth) = (config.completions(), cq.depth());
            return Err(PortOpenError::CompletionQueue { needed, depth });
        }
        let slots = Slots::new(memory, config.slot_bytes(), config.completions())
            .ok_or_else(|| PortOpenError::Memory { needed: config.memory_bytes() })?;
        let receives = config.receives;
        let (quarter, sends) = (receives.div_ceil(4), config.sends());
        let depths = Depths { slots: receives, quarter, receives, sends };
        let link = Link::place(bump, depths, 0)?;
        link.begin(Stage::Up);
        if link.equip(0, pair, &slots).is_err() {
            return Err(PortOpenError::QueuePair);
        }
        let (nobody, nothing) = (Addr::new(0, crate::id::Generation::FIRST), WrId::from_raw(0));
        let none = Arrived { slot: 0, bytes: 0, source_qp: 0 };
        Ok(Self {
            cq,
            config: *config,
            info: config.info(),
            slots,
            link,
            peers: Peers::place(bump, config.peers_max)?,
            boxes: bump.slice_with(wide(config.peers_max), |_| Cell::new(None))?,
            unresolved: Ring::place(bump, config.peers_max, nobody)?,
            routes: bump.slice_with(wide(config.routes_max), |_| Cell::new(None))?,
            // Nobody is seen to come or to go.
            queues: Queues::place(bump, &config.matching, 0)?,
            done: Ring::place(bump, config.send_depth, nothing)?,
            arrived: Ring::place(bump, receives, none)?,
            now: Cell::new(Instant::ORIGIN),
            empty_polls: Cell::new(0),
            is_drained: Cell::new(false),
            last_error: Cell::new(None),
            last_fault: Cell::new(None),
            counters: Cell::new(DatagramCounters::default()),
        })
    }

    /// Says where the endpoint of that name is found.
    ///
    /// # Errors
    /// `AddressesFull` where the table of routes is.
    pub fn set_route(&self, name: &Name, mailbox: Mailbox) -> Result<(), PostError> {
        self.forget_route(name);
        let free = self.routes.iter().find(|place| place.get().is_none());
        free.ok_or(Retry::AddressesFull)?.set(Some((*name, mailbox)));
        Ok(())
    }

    /// Takes a route away. Peers that are connected to already stay where they were.
    pub fn forget_route(&self, name: &Name) {
        for place in self.routes {
            if place.get().is_some_and(|(of, _)| of == *name) {
                place.set(None);
            }
        }
    }

    /// A sender that was heard, or was to be answered since, and cannot be before the host has [made an address handle](RdmaDatagrams::resolve) for it:
    /// its address, and the number of its queue pair.
    pub fn next_unresolved(&self) -> Option<(Addr, Gid, u32)> {
        while let Some(addr) = self.unresolved.pop() {
            if let Ok(SocketAddr::V6(v6)) = self.peers.address_of(addr)
                && self.destination(addr).is_err()
            {
                return Some((addr, v6.ip().octets(), v6.scope_id()));
            }
        }
        None
    }

    /// Says how to send to whoever is in a row.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn resolve(&self, peer: Addr, to: Destination) -> Result<(), Misuse> {
        let address = self.peers.address_of(peer)?;
        let place = self.boxes.get(wide(peer.slot())).ok_or(Misuse::UnknownAddress)?;
        place.set(Some((address, to)));
        Ok(())
    }

    /// Where a peer is found, and how it is sent to: for a [route](RdmaDatagrams::set_route) to somebody who was heard.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`; `NotConnected` where the host has made no address handle for it yet.
    pub fn mailbox_of(&self, peer: Addr) -> Result<Mailbox, PostError> {
        let to = self.destination(peer)?;
        match self.peers.address_of(peer)? {
            SocketAddr::V6(v6) => Ok(Mailbox { gid: v6.ip().octets(), to }),
            SocketAddr::V4(_) => Err(Misuse::UnknownAddress.into()),
        }
    }

    /// Whether some peer or route is sent to by that address handle.
    #[must_use]
    pub fn uses(&self, handle: u32) -> bool {
        let of_peer = (0..self.config.peers_max).zip(self.boxes).any(|(slot, place)| {
            let known = place.get().filter(|(_, to)| to.handle == handle);
            known.is_some_and(|(of, _)| self.peers.address_in(slot) == Some(of))
        });
        let is_it = |mailbox: Mailbox| mailbox.to.handle == handle;
        of_peer || self.routes.iter().any(|place| place.get().is_some_and(|(_, to)| is_it(to)))
    }

    /// The number of the next send, and that of the oldest which may not be over. Both go round at 2^32.
    #[must_use]
    pub const fn sends(&self) -> (u32, u32) {
        self.link.numbers()
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> DatagramCounters {
        self.counters.get()
    }

    /// How the last work request failed that did: the status, and the device's own number. Nothing goes any more after that.
    #[must_use]
    pub const fn last_error(&self) -> Option<(WcStatus, u32)> {
        self.last_error.get()
    }

    /// Whether the last poll took all that the device had completed: of what it left nobody who sleeps is told.
    #[must_use]
    pub const fn has_heard_all(&self) -> bool {
        self.is_drained.get()
    }

    /// What was wrong with the last packet that was no message: of another build, say. Nobody answers such a one.
    #[must_use]
    pub const fn last_fault(&self) -> Option<DatagramFault> {
        self.last_fault.get()
    }

    /// Posted receives and unexpected messages, for those who count them.
    #[must_use]
    pub const fn matcher(&self) -> &Matcher<'m> {
        self.queues.matcher()
    }

    fn count(&self, change: impl FnOnce(&mut DatagramCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// How to send to a peer.
    fn destination(&self, peer: Addr) -> Result<Destination, PostError> {
        let address = self.peers.address_of(peer)?;
        let known = self.boxes.get(wide(peer.slot())).and_then(Cell::get);
        match known {
            Some((of, to)) if of == address => Ok(to),
            _ => Err(Retry::NotConnected.into()),
        }
    }

    /// The same for somebody who wants to send: where it cannot be done yet, the host is told again that it is wanted.
    fn way_to(&self, peer: Addr) -> Result<Destination, PostError> {
        let to = self.destination(peer);
        if to == Err(Retry::NotConnected.into()) {
            self.ask_for(peer);
        }
        to
    }

    /// The host is to make an address handle. Where there is no room, it is told with the next packet, or the next send.
    #[cold]
    fn ask_for(&self, peer: Addr) {
        if !self.unresolved.iter().any(|asked| asked == peer) {
            let _told = self.unresolved.push(peer);
        }
    }

    /// Stages a packet of `length` bytes, which `write` writes into a slot behind the header.
    fn stage(
        &self,
        to: Destination,
        (length, envelope): (usize, Envelope),
        write: impl FnOnce(u32),
    ) -> Result<(), PostError> {
        if let Some(fatal) = self.link.failed.get() {
            return Err(fatal.into());
        }
        self.link.has_room(1)?;
        let header = datagram::header(length, envelope)?;
        let slot = self.link.next_slot();
        self.slots.write(slot, 0, &header);
        write(slot);
        let length = short(header.len().saturating_add(length));
        let segments = [self.slots.segment(slot, length)];
        let aim = (Verb::Send, Aim::Datagram(to));
        self.link.stage_send(aim, &segments, (Done::Nobody, true))
    }

    /// Whether there is a place for the completion of one more posted send.
    const fn may_owe(&self) -> Result<(), Retry> {
        if self.done.len() >= self.info.limits.send_depth { Err(Retry::CqFull) } else { Ok(()) }
    }

    /// A posted send is over: its bytes were copied. There is room for its completion.
    fn completes(&self, wr_id: WrId) {
        let pushed = self.done.push(wr_id);
        debug_assert!(pushed.is_ok(), "room was checked");
    }

    /// Whether a receive may wait for messages of that source.
    fn may_wait_for(&self, from: Source) -> Result<(), Misuse> {
        match from {
            Source::Only(addr) => self.peers.address_of(addr).map(|_address| ()),
            Source::Any => Ok(()),
        }
    }

    fn hear(&self) {
        for _ in 0..BATCHES {
            let mut batch = Vec::<Wc, BATCH>::new();
            self.cq.poll_cq(&mut batch);
            for wc in &batch {
                self.take(wc);
            }
            self.is_drained.set(!batch.is_full());
            if self.is_drained.get() {
                let polls = self.empty_polls.get().wrapping_add(u32::from(batch.is_empty()));
                if polls != self.empty_polls.replace(polls)
                    && polls.is_multiple_of(EMPTY_POLLS)
                    && let Some(fatal) = self.cq.take_error()
                {
                    self.link.fail(fatal);
                }
                return;
            }
        }
    }

    fn take(&self, wc: &Wc) {
        let parts = wc.wr_id().parts().filter(|_| self.link.is_of(wc.qp_num()));
        let outcome = wc.outcome();
        if let Err(error) = outcome {
            self.last_error.set(Some(error));
        }
        let fits = match (parts, outcome) {
            (Some((OpTag::Send, _, number)), outcome) => {
                if outcome.is_err() {
                    self.link.fail(Fatal::QueueError);
                }
                self.link.sent(number, None, |_sent, _failure| {})
            }
            (Some((OpTag::Recv, ..)), outcome) => {
                let is_next = self.link.is_next_receive(wc.wr_id());
                match (is_next.then(|| self.link.received()).flatten(), outcome) {
                    (Some(slot), Ok(received)) => {
                        let (bytes, source_qp) = (received.bytes, received.source_qp);
                        self.count(|c| c.received = c.received.wrapping_add(1));
                        self.arrived.push(Arrived { slot, bytes, source_qp }).is_ok()
                    }
                    (Some(_), Err(_)) => {
                        self.link.fail(Fatal::QueueError);
                        true
                    }
                    (None, _) => false,
                }
            }
            _ => {
                self.count(|c| c.strays = c.strays.wrapping_add(1));
                return;
            }
        };
        if !fits {
            self.count(|c| c.strays = c.strays.wrapping_add(1));
            self.link.fail(Fatal::QueueError);
        }
    }

    fn take_in(&self, out: &mut VecView<Cqe>) {
        if !self.queues.matcher().settle(out) {
            return;
        }
        while !out.is_full() {
            let Some(arrived) = self.arrived.front() else { break };
            if !self.deliver(arrived, out) {
                return;
            }
            let _it = self.arrived.pop();
            // A device need not write all of the route: what it leaves out shall not be that of another sender.
            self.slots.write(arrived.slot, 0, &[0; ROUTE_BYTES]);
            self.link.release(arrived.slot, false);
        }
        self.link.publish_receives(&self.slots);
        self.link.due.set((0, 0));
    }

    /// Delivers a packet, or drops it. Whether there was room for what came of it.
    fn deliver(&self, arrived: Arrived, out: &mut VecView<Cqe>) -> bool {
        let (address, datagram, body) = match self.read(arrived) {
            Ok(packet) => packet,
            Err(fault) => {
                self.last_fault.set(Some(fault));
                self.count(|c| c.garbage = c.garbage.wrapping_add(1));
                return true;
            }
        };
        let Some(source) = self.heard(address) else {
            self.count(|c| c.crowded = c.crowded.wrapping_add(1));
            return true;
        };
        let (length, envelope) = datagram;
        let message = Incoming { source, envelope, length };
        match self.queues.find_receive(&message, out) {
            Found::NoRoom => return false,
            Found::Receive(mut landing) => {
                if body < length {
                    landing.cut(body);
                }
                match landing.place() {
                    Some(bytes) => self.slots.read(arrived.slot, LEAD_BYTES, bytes),
                    None => self.queues.matcher().scatter(&landing, (0, length), |from, to| {
                        let at = LEAD_BYTES.saturating_add(from);
                        self.slots.read_from(arrived.slot, at, to);
                    }),
                }
                self.queues.land(&landing, &message, out);
            }
            Found::Nobody => {
                let copy = |to: &mut [u8]| self.slots.read(arrived.slot, LEAD_BYTES, to);
                if body < length || !self.queues.matcher().stash(&message, copy) {
                    self.count(|c| c.unasked = c.unasked.wrapping_add(1));
                }
            }
        }
        true
    }

    /// Who has sent a packet, the length and envelope that it says, and how many bytes of the message there are.
    fn read(&self, arrived: Arrived) -> Result<Packet, DatagramFault> {
        let bytes = to_usize(widen(arrived.bytes.min(self.config.slot_bytes())));
        let body = bytes.checked_sub(LEAD_BYTES).ok_or(DatagramFault::Short)?;
        let mut route = [0; ROUTE_BYTES];
        self.slots.read(arrived.slot, 0, &mut route);
        let mut header = [0; DATAGRAM_HEADER_BYTES];
        self.slots.read(arrived.slot, ROUTE_BYTES, &mut header);
        let Datagram { length, envelope, .. } = Datagram::from_wire(&header)?;
        if body > length {
            return Err(DatagramFault::Length);
        }
        // Without a route the device has left there what it liked.
        let has_route = arrived.source_qp != 0;
        let gid = source(&route).filter(|_| has_route).ok_or(DatagramFault::Route)?;
        Ok((key(gid, arrived.source_qp), (length, envelope), body))
    }

    /// The row of a sender.
    fn heard(&self, address: SocketAddr) -> Option<Addr> {
        let now = self.now.get();
        let old = |addr: Addr, heard: Instant| {
            heard.saturating_add(self.config.age_min) <= now
                && !self.queues.matcher().holds_of(addr)
        };
        let (addr, before) = self.peers.hear(address, now, old)?;
        if let Some(before) = before {
            self.count(|c| c.aged = c.aged.wrapping_add(1));
            self.queues.end_hopeless(before);
        }
        let known = self.boxes.get(wide(addr.slot())).and_then(Cell::get);
        if known.is_none_or(|(of, _)| of != address) {
            self.ask_for(addr);
        }
        Some(addr)
    }
}

impl<Q: QueuePair, C: CompletionQueue> Provider for RdmaDatagrams<'_, Q, C> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        let found = self.routes.iter().find_map(|place| place.get().filter(|(of, _)| of == name));
        let (_, Mailbox { gid, to }) = found.ok_or(Misuse::UnknownAddress)?;
        let addr = self.peers.keep(key(gid, to.qp_num)).ok_or(Retry::AddressesFull)?;
        self.resolve(addr, to)?;
        Ok(addr)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.peers.remove(addr)?;
        self.queues.end_hopeless(addr);
        Ok(())
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let to = self.way_to(wr.to)?;
        let bytes = wr.payload.bytes();
        if bytes.len() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        let message = (bytes.len(), Envelope { tag: wr.tag, immediate: wr.immediate });
        let write = |slot| self.slots.write(slot, DATAGRAM_HEADER_BYTES, bytes);
        if let Payload::Posted { wr_id, .. } = wr.payload {
            self.may_owe()?;
            self.stage(to, message, write)?;
            self.completes(wr_id);
        } else {
            self.stage(to, message, write)?;
        }
        self.queues.count_staged();
        Ok(())
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let to = self.way_to(wr.to)?;
        let length = wr.checked_length(&self.info.limits)?;
        self.may_owe()?;
        let message = (length, Envelope { tag: wr.tag, immediate: wr.immediate });
        self.stage(to, message, |slot| {
            self.slots.gather((slot, DATAGRAM_HEADER_BYTES), wr.parts, (0, length));
        })?;
        self.completes(wr.wr_id);
        self.queues.count_staged();
        Ok(())
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
        let lost = self.link.publish();
        let count = self.queues.take_staged().saturating_sub(widen(lost));
        Published { count, error: self.link.failed.get() }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        self.hear();
        let sends = || Some(Cqe::without_message(self.done.pop()?, Status::Success));
        self.queues.poll(sends, |out| self.take_in(out), out);
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
