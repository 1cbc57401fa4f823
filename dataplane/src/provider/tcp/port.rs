//! One port: posting, and polling the streams below.

use core::cell::Cell;
use core::fmt;

use heapless::VecView;
use spinwire_layouts::shm::EndpointKind;
use spinwire_layouts::uring::SockAddr;
use spinwire_layouts::word::{to_usize, widen};

use super::frame::{FrameFault, Framing, Greeting, HEADER_BYTES};
use super::link::Link;
use super::read::Current;
use super::{PortOpenError, SpareSocket, TcpConfig, TcpCounters};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name, WrId};
use crate::msg::matching::Matcher;
use crate::poll::{Budget, Poll};
use crate::provider::connect::{Connects, Row};
use crate::provider::peers::Peers;
use crate::provider::queues::Queues;
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, Info, Limits, Paths, Payload, Provider, Published,
    RecvPartsWr, RecvWr, Select, SendPartsWr, SendWr, Sight, Source, Status, Waiting,
};
use crate::raw::loan::LoanPool;
use crate::raw::place::Bump;
use crate::shm::lane::Envelope;
use crate::stream::{ConnId, StreamFeatures, Streams};
use crate::table::{Ring, wide};
use crate::time::Instant;
use crate::uring::Enter;

/// Shorter messages are copied though their memory could be sent from: a piece of its own costs more than the copy.
const UNCOPIED_MIN: usize = 4096;
/// Harvests of one poll behind its call of the kernel: what that brings is heard at once, not a turn later.
const HARVESTS: u32 = 3;
/// One of so many looks polls though nothing was seen: timeouts come without news.
const BLIND_LOOKS: u32 = 64;

/// A port over the streams of one ring. Belongs to the thread of the ring.
pub struct TcpPort<'m, E: Enter> {
    pub(super) streams: &'m Streams<'m, E>,
    pub(super) config: TcpConfig,
    pub(super) greeting: Greeting,
    pub(super) hellos: Cell<u64>,
    pub(super) info: Info,
    pub(super) peers: Peers<'m, Row>,
    pub(super) links: &'m [Link<'m>],
    pub(super) routes: &'m [Cell<Option<(Name, SockAddr)>>],
    pub(super) sockets: Ring<'m, SpareSocket>,
    pub(super) backlogs: &'m LoanPool<'m>,
    pub(super) queues: Queues<'m>,
    /// Sends that are over and whose completions were not yet polled, with the number of what has failed.
    pub(super) done: Ring<'m, (WrId, Status, u32)>,
    /// Posted sends whose memory the kernel has.
    pub(super) under_way: Cell<u32>,
    looks: Cell<u32>,
    /// The last poll has entered the kernel: how many sends were staged by then. Until the next doorbell.
    handed_in: Cell<Option<u64>>,
    /// The link with which the next look at those that wait begins.
    pub(super) first: Cell<u32>,
    pub(super) current: Cell<Option<Current<'m>>>,
    /// There may be links with messages that wait.
    pub(super) resting: Cell<bool>,
    /// There may be links or rows that are to become something else.
    pub(super) unsettled: Cell<bool>,
    /// The last poll left something, or something was posted that may find what waits.
    more: Cell<bool>,
    pub(super) now: Cell<Instant>,
    pub(super) listener: Cell<Option<ConnId>>,
    pub(super) last_fault: Cell<Option<FrameFault>>,
    counters: Cell<TcpCounters>,
}

impl<E: Enter> fmt::Debug for TcpPort<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpPort").field("greeting", &self.greeting).finish_non_exhaustive()
    }
}

impl TcpConfig {
    /// What a port will say of itself on a ring that takes these ways.
    #[must_use]
    pub const fn info(&self, endpoint_type: EndpointType, paths: Paths) -> Info {
        let longest = to_usize(widen(self.message_bytes_max));
        let send_depth = self.send_depth.next_power_of_two();
        let limits = Limits::copied(longest, self.peers_max, send_depth, &self.matching);
        let caps = Caps::MATCHED.with(Caps::PARTS).with(Caps::DESCRIPTOR);
        Info::of_type("tcp", endpoint_type, caps, limits.with_parts()).with_paths(paths)
    }
}

impl<'m, E: Enter> TcpPort<'m, E> {
    /// Opens a port under `name` over `streams`, which are its alone, and places its tables in `bump`. It hears of nobody before
    /// [`TcpPort::listen`].
    ///
    /// # Errors
    /// [`PortOpenError`].
    pub fn open(
        streams: &'m Streams<'m, E>,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        config: &TcpConfig,
    ) -> Result<Self, PortOpenError> {
        let kind = match endpoint_type {
            EndpointType::Msg => EndpointKind::Msg,
            EndpointType::Rdm => EndpointKind::Rdm,
            EndpointType::Dgram => return Err(PortOpenError::Type),
        };
        let limits = config.limits();
        limits.check()?;
        let longest = Framing::frame_bytes(to_usize(widen(config.message_bytes_max)));
        if !streams.has_room_for(config.conns(), longest) {
            return Err(PortOpenError::Streams);
        }
        let no_socket = SpareSocket { fd: -1, is_v6: false };
        let send_depth = config.send_depth.next_power_of_two();
        // Links of those that are gone, with what is left of them, besides those with a stream.
        let links = config.conns().saturating_add(config.peers_max);
        let links: &'m [Link<'m>] =
            bump.slice_with(wide(links), |_| Link::new(Framing::with_limits(limits)))?;
        Ok(Self {
            streams,
            config: *config,
            greeting: Greeting { name: *name, kind, limits, token: 0, number: 0 },
            hellos: Cell::new(0),
            info: config.info(endpoint_type, streams.paths()),
            peers: Peers::place(bump, config.peers_max, Row::vacant)?,
            links,
            routes: bump.slice_with(wide(config.routes_max), |_| Cell::new(None))?,
            sockets: Ring::place(bump, config.sockets_max, no_socket)?,
            backlogs: LoanPool::place(
                bump,
                config.peers_max.saturating_add(2),
                config.backlog_bytes(),
            )?,
            queues: Queues::place(
                bump,
                &config.matching,
                config.peers_max.saturating_mul(2).saturating_add(2),
            )?,
            done: Ring::place(bump, send_depth, (WrId::from_raw(0), Status::Success, 0))?,
            under_way: Cell::new(0),
            looks: Cell::new(0),
            handed_in: Cell::new(None),
            first: Cell::new(0),
            current: Cell::new(None),
            resting: Cell::new(false),
            unsettled: Cell::new(false),
            more: Cell::new(true),
            now: Cell::new(Instant::ORIGIN),
            listener: Cell::new(None),
            last_fault: Cell::new(None),
            counters: Cell::new(TcpCounters::default()),
        })
    }

    /// Takes connections by a socket that listens. It stays the caller's, who closes it after the port.
    ///
    /// # Errors
    /// `AddressesFull` where the streams have no row for it.
    pub fn listen(&self, fd: i32) -> Result<(), PostError> {
        let listener = self.streams.listen(fd)?;
        if let Some(before) = self.listener.replace(Some(listener)) {
            let _there = self.streams.close(before);
        }
        Ok(())
    }

    /// Says where the endpoint of that name listens.
    ///
    /// # Errors
    /// `AddressesFull` where the table of routes is.
    pub fn set_route(&self, name: &Name, to: SockAddr) -> Result<(), PostError> {
        self.forget_route(name);
        let free = self.routes.iter().find(|place| place.get().is_none());
        free.ok_or(Retry::AddressesFull)?.set(Some((*name, to)));
        Ok(())
    }

    /// Takes a route away. Connections that are there stay.
    pub fn forget_route(&self, name: &Name) {
        for place in self.routes {
            if place.get().is_some_and(|(of, _)| of == *name) {
                place.set(None);
            }
        }
    }

    /// Hands over a socket to connect with later. Returns it where there is no room for more.
    ///
    /// # Errors
    /// The socket, which stays the caller's.
    pub fn give_socket(&self, socket: SpareSocket) -> Result<(), SpareSocket> {
        self.sockets.push(socket).map_err(|full| full.0)
    }

    /// Sockets that are left to connect with.
    #[must_use]
    pub const fn sockets_left(&self) -> u32 {
        self.sockets.len()
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

    /// The streams below.
    #[must_use]
    pub const fn streams(&self) -> &'m Streams<'m, E> {
        self.streams
    }

    /// Which ways of the kernel the streams take.
    #[must_use]
    pub const fn features(&self) -> StreamFeatures {
        self.streams.features()
    }

    /// What was wrong with the last connection that was cut off.
    #[must_use]
    pub const fn last_fault(&self) -> Option<FrameFault> {
        self.last_fault.get()
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> TcpCounters {
        self.counters.get()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut TcpCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    pub(super) fn take_socket(&self, is_v6: bool) -> Option<SpareSocket> {
        for _ in 0..self.sockets.len() {
            let socket = self.sockets.pop()?;
            if socket.is_v6 == is_v6 {
                return Some(socket);
            }
            self.put_socket_back(socket);
        }
        None
    }

    pub(super) fn put_socket_back(&self, socket: SpareSocket) {
        let put = self.sockets.push(socket);
        debug_assert!(put.is_ok(), "it was taken from there");
    }

    pub(super) fn with_current<R>(&self, look: impl FnOnce(&Current<'m>) -> R) -> Option<R> {
        let current = self.current.take()?;
        let result = look(&current);
        self.current.set(Some(current));
        Some(result)
    }

    pub(super) fn is_current(&self, at: u32) -> bool {
        self.with_current(|current| current.link == at) == Some(true)
    }

    /// What was not read yet of a link that is given up is not read any more.
    pub(super) fn drop_current(&self, at: u32) {
        if self.is_current(at) {
            drop(self.current.take());
        }
    }

    /// What has come.
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if out.is_full() || !self.queues.matcher().settle(out) || !self.read_on(out) {
            self.more.set(true);
            return;
        }
        self.read_waiting(out);
        let hear = || self.streams.hear(self.now.get(), Budget::DEFAULT);
        hear();
        let mut has_all = self.take_events(out);
        // What those have asked for goes with the one call of this poll.
        self.hand_in();
        for _ in 0..HARVESTS {
            if !has_all {
                break;
            }
            let heard = hear();
            has_all = self.take_events(out);
            if heard == 0 {
                break;
            }
        }
        if !has_all {
            self.more.set(true);
            return;
        }
        if self.unsettled.replace(false) {
            let links = self.settle_links();
            let rows = self.bury_all(out);
            if links || rows {
                self.unsettled.set(true);
            }
        }
    }

    /// Hands in what is staged and wanted, with one call of the kernel where there is anything, or anything is due.
    fn hand_in(&self) {
        // For all connections, as a doorbell would.
        self.streams.stage(Budget { posts: u32::MAX, ..Budget::DEFAULT });
        let submitted = self.streams.ring().submit();
        self.handed_in.set(submitted.entered.then_some(self.queues.staged()));
    }

    /// Whether there is a place for the completion of one more posted send.
    #[inline]
    const fn keep_place_to_end(&self) -> Result<(), Retry> {
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

    /// A receive was posted: it may be for what waits.
    #[inline]
    fn has_posted(&self) {
        if self.resting.get() || self.queues.matcher().unexpected_len() > 0 {
            self.more.set(true);
        }
    }

    /// Hands a message of several ranges, `length` bytes in all, to the streams, copied. Nothing is consumed where it does not go whole.
    fn stage_parts(
        &self,
        link: &Link<'m>,
        wr: &SendPartsWr<'_>,
        length: usize,
    ) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let conn = self.write_header(link, length, envelope)?;
        for part in wr.parts {
            self.streams.write_accepted(conn, part.bytes())?;
        }
        self.completes(wr.wr_id);
        Ok(())
    }

    /// Writes the header of a message that follows it by [`write_accepted`](Streams::write_accepted): for all of both there is room.
    #[inline]
    fn write_header(
        &self,
        link: &Link<'m>,
        length: usize,
        envelope: Envelope,
    ) -> Result<ConnId, PostError> {
        let conn = self.may_send(link, length)?;
        self.streams.accepts(conn, Framing::frame_bytes(length), 0)?;
        let header = link.framing.message(length, envelope)?;
        self.streams.write_accepted(conn, &header)?;
        Ok(conn)
    }

    /// The stream of a link by which a message of so many bytes may go.
    #[inline]
    fn may_send(&self, link: &Link<'m>, length: usize) -> Result<ConnId, PostError> {
        let conn = link.conn.get().ok_or(Fatal::PeerGone)?;
        if let Err(refused) = link.framing.may_send(length) {
            self.note_refusal(link, refused);
            return Err(refused);
        }
        Ok(conn)
    }

    /// A posted send is over: its bytes were copied. There is room for its completion.
    #[inline]
    fn completes(&self, wr_id: WrId) {
        let pushed = self.done.push((wr_id, Status::Success, 0));
        debug_assert!(pushed.is_ok(), "room was checked");
    }

    /// Hands a message to the streams. Nothing is consumed where it does not go whole.
    fn stage(&self, link: &Link<'m>, wr: &SendWr<'_>) -> Result<(), PostError> {
        let bytes = wr.payload.bytes();
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        if let Payload::Posted { wr_id, sge } = &wr.payload
            && bytes.len() >= UNCOPIED_MIN
            && self.streams.ring().arena().covers_posted(sge)
        {
            let conn = self.may_send(link, bytes.len())?;
            self.streams.accepts(conn, HEADER_BYTES, 1)?;
            self.streams.has_send_room(conn, Framing::frame_bytes(bytes.len()))?;
            let header = link.framing.message(bytes.len(), envelope)?;
            self.streams.write_accepted(conn, &header)?;
            self.streams.send_posted(conn, sge, wr_id.as_raw())?;
            self.under_way.set(self.under_way.get().wrapping_add(1));
            self.count(|c| c.uncopied = c.uncopied.wrapping_add(1));
            return Ok(());
        }
        let conn = self.write_header(link, bytes.len(), envelope)?;
        self.streams.write_accepted(conn, bytes)?;
        if let Payload::Posted { wr_id, .. } = wr.payload {
            self.completes(wr_id);
        }
        Ok(())
    }
}

impl<E: Enter> Provider for TcpPort<'_, E> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.connect_to(name)
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        Ok(self.peers.find(addr)?.name.get())
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        let row = self.peers.find(addr)?;
        self.vacate(addr.slot(), row);
        self.queues.end_hopeless(addr);
        self.unsettled.set(true);
        // The other end is told now: whoever gives up a peer need not turn for it.
        self.streams.flush();
        Ok(())
    }

    #[inline]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        if wr.payload.bytes().len() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        let (_, link) = self.make_ready(wr.to.slot(), row)?;
        if let Payload::Posted { .. } = wr.payload {
            self.keep_place_to_end()?;
        }
        self.stage(link, wr)?;
        self.queues.count_staged();
        Ok(())
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let row = self.peers.find(wr.to)?;
        let length = wr.checked_length(&self.info.limits)?;
        let (_, link) = self.make_ready(wr.to.slot(), row)?;
        self.keep_place_to_end()?;
        self.stage_parts(link, wr, length)?;
        self.queues.count_staged();
        Ok(())
    }

    #[inline]
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post(wr)?;
        self.has_posted();
        Ok(())
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        wr.check(&self.info.limits)?;
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post_parts(wr)?;
        self.has_posted();
        Ok(())
    }

    #[inline]
    fn ring_doorbell(&self) -> Published {
        // The poll of this turn may have handed in all of it: one call of the kernel a turn is enough. What it has heard since, and what
        // that asks for, is for the next.
        if self.handed_in.take() != Some(self.queues.staged()) {
            if self.queues.staged() > 0 && self.streams.ring().has_news() {
                // What was staged waits behind a send that has ended by now.
                self.streams.hear_sends();
            }
            self.streams.flush();
        }
        let lost = self.streams.ring().fatal().is_some();
        let error = lost.then_some(Fatal::RingLost);
        Published { count: self.queues.take_staged(), error }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        self.more.set(false);
        let sends = || {
            let (wr_id, status, code) = self.done.pop()?;
            Some(Cqe::without_message(wr_id, status).with_code(code))
        };
        self.queues.poll(sends, |out| self.take_in(out), out);
    }

    #[inline(always)]
    fn look(&self) -> Sight {
        // Busy: what a doorbell has heard beside ends of sends lies where the next poll finds it.
        let something = self.streams.ring().has_news()
            || self.more.get()
            || self.streams.is_busy()
            || self.unsettled.get()
            || !self.done.is_empty()
            || !self.queues.none_ended();
        if something {
            return Sight::Work;
        }
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        if looks.is_multiple_of(BLIND_LOOKS) { Sight::Work } else { Sight::Nothing }
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

    fn poll_at(&self) -> Option<Instant> {
        if self.streams.is_busy() {
            // What was heard after the one call of the last turn, and what that asks for, is for the next: nobody rests before.
            return Some(self.now.get());
        }
        if self.unsettled.get() && self.is_end_due() {
            return Some(Instant::ORIGIN);
        }
        let awaited = self.links.iter().filter(|link| link.is_awaited());
        let limit = self.config.credit_timeout;
        let starved = self.links.iter().filter_map(Link::starved_since);
        let starved = starved.map(|since| since.saturating_add(limit));
        let own =
            awaited.map(|link| link.deadline.get().unwrap_or(Instant::ORIGIN)).chain(starved).min();
        match (own, self.streams.poll_at()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use spinwire_layouts::word::{from_usize, low};

    use super::*;

    #[test]
    fn all_that_a_correct_peer_may_send_fits_the_backlog() {
        let config = TcpConfig::default();
        let headers = to_usize(widen(config.credit_messages)).saturating_mul(2 * HEADER_BYTES);
        let bytes = to_usize(widen(config.credit_bytes)).saturating_add(headers);
        assert!(config.backlog_bytes() >= bytes);
        assert!(from_usize(config.backlog_bytes()) < widen(low(u64::MAX)));
    }
}
