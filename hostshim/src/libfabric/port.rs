//! One port: opening it, and posting.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::os::fd::RawFd;
use std::rc::Rc;

use heapless::VecView;
use spinwire_dataplane::error::{Fatal, Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Generation, Name, WrId};
use spinwire_dataplane::provider::peers::{PeerState, Peers, Standing};
use spinwire_dataplane::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, ExposeWr, Info, OneSidedWr, Provider, Published,
    RecvPartsWr, RecvWr, RemoteRegion, Select, SendPartsWr, SendWr, Source, Use, Waiting,
};
use spinwire_dataplane::raw::loan::Sge;
use spinwire_dataplane::table::Ring;
use spinwire_dataplane::time::{Instant, Nanos};

use super::contexts::{Contexts, Operation, What};
use super::error::{OfiError, OfiFailure};
use super::names::{Names, OfiAddress};
use super::offer::{Guard, OfiModes, can_wait};
use crate::raw::ofi::{
    Active, Bound, Copies, Descriptor, Domain, NOBODY, Offer, Passive, Ranges, Region,
};

/// What a port has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OfiCounters {
    /// Messages that the library has injected.
    pub injected: u64,
    /// Messages that were injected and went from a copy of the port.
    pub copied: u64,
    /// Times that the library had no room.
    pub again: u64,
    /// Completions that named no live operation.
    pub stale: u64,
    /// Operations that have failed.
    pub failed: u64,
}

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) state: PeerState,
    /// The peer's number in the address vector.
    pub(super) number: Cell<u64>,
    pub(super) name: Cell<Option<Name>>,
    /// Receives that wait for it alone, and are being taken back since it is lost.
    pub(super) hopeless: Cell<u32>,
    /// Messages to it that the library has injected since the last one whose end it tells of.
    pub(super) untold: Cell<u32>,
    /// Messages to it whose end the library is to tell of, so that the port sees that those before them have left.
    pub(super) marks: Cell<u32>,
    /// Since when the library has had no room for messages to it.
    pub(super) stuck_since: Cell<Option<Instant>>,
}

impl Row {
    /// One that nobody is in.
    pub(super) const fn vacant() -> Self {
        Self {
            state: PeerState::vacant(),
            number: Cell::new(NOBODY),
            name: Cell::new(None),
            hopeless: Cell::new(0),
            untold: Cell::new(0),
            marks: Cell::new(0),
            stuck_since: Cell::new(None),
        }
    }

    /// Nothing was sent yet to who is in it now.
    pub(super) fn fresh(&self) {
        self.hopeless.set(0);
        self.untold.set(0);
        self.marks.set(0);
        self.stuck_since.set(None);
    }
}

impl AsRef<PeerState> for Row {
    fn as_ref(&self) -> &PeerState {
        &self.state
    }
}

/// A port over libfabric. Belongs to the thread that opened it.
pub struct OfiPort<'m> {
    /// The endpoint. Of type MSG only while there is a connection. Dropped first: then the library touches no memory any more.
    pub(super) active: RefCell<Option<Active>>,
    pub(super) passive: Option<Passive>,
    /// A request of the peer that is being connected to.
    pub(super) crossing: Cell<Option<Offer>>,
    /// What the provider was told of the memory of messages, where it asks for that; added to as it is met with. Dropped before the memory that
    /// they are of.
    pub(super) regions: RefCell<Vec<Region>>,
    /// Memory that others may touch, by the id of the request.
    pub(super) exposed: RefCell<Vec<(WrId, Region)>>,
    /// The next key.
    pub(super) keys: Cell<u64>,
    pub(super) copies: Copies,
    /// What `tail` is of.
    pub(super) behind: Copies,
    pub(super) offer: Offer,
    pub(super) bound: Bound,
    pub(super) contexts: Contexts<'m>,
    pub(super) modes: OfiModes,
    pub(super) tag_bits: u64,
    pub(super) inject_bytes_max: usize,
    pub(super) info: Info,
    pub(super) name: Name,
    pub(super) names: &'m Names,
    pub(super) peers: Peers<'m, Row>,
    /// Rows by number of the address vector, for the first numbers.
    pub(super) by_number: &'m [Cell<Option<u32>>],
    /// Of type MSG: the one peer.
    pub(super) peer: Cell<Option<Addr>>,
    /// Completions of operations that the library does not tell of.
    pub(super) ended: Ring<'m, Cqe>,
    pub(super) events: Ring<'m, Event>,
    pub(super) failures: Ring<'m, OfiFailure>,
    pub(super) sends: Cell<u32>,
    pub(super) receives: Cell<u32>,
    pub(super) staged: Cell<u64>,
    pub(super) polls: Cell<u32>,
    /// Why the completion queue is of no use any more.
    pub(super) lost: Cell<Option<i32>>,
    /// With which number the library has refused the last call that it did.
    pub(super) refusal: Cell<i32>,
    pub(super) counters: Cell<OfiCounters>,
    pub(super) now: Cell<Instant>,
    /// The time that this thread has turned, without that for which it was away.
    pub(super) turned: Cell<Instant>,
    pub(super) patience: Nanos,
    /// What the provider does about ranges, rights and keys.
    pub(super) memory_guard: Guard,
    /// What lies behind each receive, where the provider cuts off in silence what is too long, or never comes to its end: what reaches it was longer.
    /// Nobody reads it.
    pub(super) tail: Option<Sge>,
    /// The provider does not find messages that wait by masked tags.
    pub(super) misses_masks: bool,
}

impl fmt::Debug for OfiPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfiPort").field("info", &self.info).finish_non_exhaustive()
    }
}

/// The longest time between two polls that counts as turning.
const AWAY: Nanos = Nanos::from_millis(100);

pub(super) fn wide(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl OfiPort<'_> {
    pub(super) fn domain(&self) -> &Rc<Domain> {
        self.bound.completions.domain()
    }

    /// Where it is, for others. Of type MSG: where it listens.
    ///
    /// # Errors
    /// What `fi_getname(3)` says.
    pub fn address(&self) -> Result<OfiAddress, OfiError> {
        let bytes = match &self.passive {
            Some(passive) => passive.name()?,
            None => self.with_active(Active::name).unwrap_or(Ok(Vec::new()))?,
        };
        Ok(OfiAddress::new(self.offer.info().addr_format, bytes))
    }

    /// The provider that it got, as `fi_info` names it.
    #[must_use]
    pub fn provider_name(&self) -> String {
        self.offer.provider()
    }

    /// What the provider asks for; the port does it.
    #[must_use]
    pub const fn modes(&self) -> OfiModes {
        self.modes
    }

    /// The address that all senders have together who are not in the address table. Nothing can be sent to it.
    #[must_use]
    pub const fn stranger(&self) -> Addr {
        Addr::new(self.info.limits.peers_max, Generation::FIRST)
    }

    /// Whether a message may be posted to that peer, as far as this end knows. Of type RDM the library connects with the first message.
    ///
    /// # Errors
    /// As [`Provider::post_send`]; what is not up yet is no error.
    pub fn reach(&self, peer: Addr) -> Result<bool, PostError> {
        match self.peers.find(peer)?.state.standing().may_be_sent_to() {
            Err(PostError::Retry(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// What the library said of the next operation that has failed, the oldest first. Only the last 16 are kept.
    pub fn poll_failure(&self) -> Option<OfiFailure> {
        self.failures.pop()
    }

    /// What it has counted.
    #[must_use]
    pub const fn counters(&self) -> OfiCounters {
        self.counters.get()
    }

    /// Events that wait to be polled.
    pub(crate) const fn events_waiting(&self) -> u32 {
        self.events.len()
    }

    /// Whether its provider has descriptors to sleep on.
    pub(crate) fn can_wait(&self) -> bool {
        can_wait(&self.offer.provider())
    }

    /// The descriptors that can be read from when something has come, for `epoll(7)` and the like. To be slept on only after
    /// [`OfiPort::may_wait`] has said yes. They are the port's, and are good as long as it is.
    ///
    /// # Errors
    /// What `fi_control(FI_GETWAIT)` says; that there are none where [`OfiConfig::waits`](super::OfiConfig::waits) is not set.
    pub fn descriptors(&self) -> Result<Vec<RawFd>, OfiError> {
        let mut all = vec![self.bound.completions.descriptor()?];
        if let Some(events) = &self.bound.events {
            all.push(events.descriptor()?);
        }
        Ok(all)
    }

    /// Whether a thread may sleep on the descriptors: nothing has come that it would not be woken for (`fi_trywait(3)`). Where not, the
    /// port is to be polled first.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        let events = self.bound.events.as_deref();
        self.ended.is_empty() && self.domain().fabric().may_wait(&self.bound.completions, events)
    }

    /// It is `now`. Who was stopped, or whose machine was, has not waited for anybody meanwhile.
    #[inline(always)]
    fn pass(&self, now: Instant) {
        let before = self.now.replace(now);
        if before != Instant::ORIGIN {
            let gap = now.saturating_since(before).min(AWAY);
            self.turned.set(self.turned.get().saturating_add(gap));
        }
    }

    /// Does something with the endpoint, if there is one.
    #[inline(always)]
    pub(super) fn with_active<R>(&self, act: impl FnOnce(&Active) -> R) -> Option<R> {
        // Nothing that is done with it closes it.
        self.active.try_borrow().ok()?.as_ref().map(act)
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut OfiCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Where a name is, in the format of this endpoint.
    pub(super) fn find(&self, name: &Name) -> Result<OfiAddress, Misuse> {
        let address = self.names.find(name).ok_or(Misuse::UnknownAddress)?;
        let fits = address.format() == self.offer.info().addr_format;
        if fits { Ok(address) } else { Err(Misuse::UnknownAddress) }
    }

    /// What the library wants to be told of memory.
    #[inline]
    pub(super) fn descriptor_of(&self, range: &Sge) -> Result<Descriptor, Misuse> {
        if self.modes.local { self.known(range) } else { Ok(Descriptor::NONE) }
    }

    /// The library's number for whose messages a receive takes.
    pub(super) fn number_of(&self, from: Source) -> Result<(u64, Option<Addr>), PostError> {
        let Source::Only(peer) = from else { return Ok((NOBODY, None)) };
        let row = self.peers.find(peer)?;
        match row.state.standing() {
            Standing::Vacant | Standing::Past => Err(Misuse::StaleAddress.into()),
            Standing::Gone | Standing::Corrupt | Standing::Refused => Err(Fatal::PeerGone.into()),
            Standing::Known | Standing::Up | Standing::Connecting
                if !self.info.caps.has(Caps::DIRECTED_RECV) =>
            {
                Err(Misuse::Unsupported.into())
            }
            Standing::Known | Standing::Up | Standing::Connecting => {
                Ok((row.number.get(), Some(peer)))
            }
        }
    }

    /// Which tags a receive takes, in the provider's bits: tag, and the bits that do not count.
    pub(super) const fn tag_of(&self, select: Select) -> Result<Option<(u64, u64)>, Misuse> {
        let Select::Tagged { tag, ignore } = select else { return Ok(None) };
        let carried = tag & !ignore & !self.tag_bits == 0 && (ignore == 0 || !self.misses_masks);
        if !self.info.caps.has(Caps::TAGGED) || !carried {
            return Err(Misuse::Unsupported);
        }
        Ok(Some((tag & self.tag_bits, ignore & self.tag_bits)))
    }

    /// Hands a receive to the endpoint. Returns whether there is one.
    pub(super) fn receive(&self, operation: &Operation, space: usize) -> Result<bool, PostError> {
        let What::Receive(tag) = operation.what else { return Ok(true) };
        let from = operation.peer.and_then(|peer| self.peers.find(peer).ok());
        let number = from.map_or(NOBODY, |row| row.number.get());
        let descriptor = self.descriptor_of(&operation.range)?;
        let posted = if self.tail.is_some() {
            let mut both = self.with_tail(Ranges::from_iter([(operation.range, descriptor)]))?;
            self.with_active(|active| active.receive_parts((number, tag), &mut both, space))
        } else {
            self.with_active(|active| {
                active.receive((number, tag), (&operation.range, descriptor), space)
            })
        };
        match posted {
            Some(Ok(())) => Ok(true),
            Some(Err(code)) => Err(self.refused(code, Retry::RqFull)),
            None => Ok(false),
        }
    }

    /// The ranges of a receive, and behind them that by which the port sees that there was more.
    pub(super) fn with_tail(&self, mut ranges: Ranges) -> Result<Ranges, Misuse> {
        if let Some(tail) = self.tail {
            let pushed = ranges.push((tail, self.descriptor_of(&tail)?));
            debug_assert!(pushed.is_ok(), "one place is kept for it: `parts_max`");
        }
        Ok(ranges)
    }

    pub(super) fn is_lost(&self) -> Result<(), PostError> {
        if self.lost.get().is_some() { Err(Fatal::QueueError.into()) } else { Ok(()) }
    }
}

impl Provider for OfiPort<'_> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        if self.info.endpoint_type == EndpointType::Msg {
            self.connect_one(name)
        } else {
            self.enter_peer(name)
        }
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        Ok(self.peers.find(addr)?.name.get())
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.leave(addr)
    }

    #[inline]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.is_lost()?;
        let row = self.peers.find(wr.to)?;
        row.state.standing().may_be_sent_to()?;
        self.check_send(wr)?;
        let sent = self.send(row, wr);
        self.sent(wr.to, row, sent)
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.is_lost()?;
        self.launch_parts(wr)
    }

    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        self.is_lost()?;
        self.launch_one_sided(wr)?;
        self.staged.set(self.staged.get() + 1);
        Ok(())
    }

    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.expose_range(wr)
    }

    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.withdraw_range(wr_id)
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.is_lost()?;
        let (_, peer) = self.number_of(wr.from)?;
        if wr.buffer != Use::Single {
            return Err(Misuse::Unsupported.into());
        }
        let tag = self.tag_of(wr.select)?;
        if self.receives.get() >= self.info.limits.recv_depth {
            return Err(Retry::RqFull.into());
        }
        let (wr_id, what, range) = (wr.wr_id, What::Receive(tag), wr.sge);
        let room = range.length();
        let operation = Operation { wr_id, what, peer, range, room, ends: None, held: false };
        let space = self.contexts.enter(operation).ok_or(Retry::NoSlot)?;
        match self.receive(&operation, space) {
            Ok(true) => {}
            Ok(false) => self.contexts.set(space, Operation { held: true, ..operation }),
            Err(refused) => {
                let _never_posted = self.contexts.end(space);
                return Err(refused);
            }
        }
        self.receives.set(self.receives.get() + 1);
        Ok(())
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.is_lost()?;
        self.receive_parts(wr)
    }

    fn ring_doorbell(&self) -> Published {
        Published { count: self.staged.take(), error: None }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.pass(now);
        self.take_in(out);
    }

    fn poll_event(&self) -> Option<Event> {
        self.next_event()
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.take_back(wr_id)
    }

    fn peek(&self, _from: Source, _select: Select) -> Option<Waiting> {
        None
    }
}
