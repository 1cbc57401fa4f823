//! The shared-memory provider: an endpoint in a segment, and its lanes to other endpoints.
//!
//! ```text
//!   post_send --> LaneTx of the peer --(one store per batch)--> LaneRx of the peer's row --> matching --> completion
//!                     |                                             ^
//!                     '-- lane is cold? set its bit in the ---------'
//!                         receiver's news line
//! ```
//!
//! *Hot and cold lanes.* The receiver looks at its hot lanes every turn. A lane in which nothing comes is made cold: it is
//! *armed*, and from then on its sender sets a bit in the receiver's news line with each batch. The receiver loads that line
//! once a turn, so idle peers cost nothing however many there are; a few lanes stay hot even if idle, so that a
//! handful of peers never pays for the detour.
//!
//! There is no fence between the sender's store of a batch and its look at the armed word, for that would cost each batch
//! tens of cycles. So the sender can miss that the lane was armed in that very moment. The receiver therefore sweeps its
//! cold lanes, one with every harvest, and harvests at least every 16 turns: a missed bit delays a message by a bounded number of turns and never loses it.
//!
//! *Warm cells.* A cell that its receiver waits for is in two caches, and the first store into it has to take the other copy
//! away, which takes as long as the message itself. A peer whose messages are answered is held to be waiting for the next
//! answer: for some microseconds after each of its messages every look at its lane also asks for the cell of that answer
//! for this CPU alone, so that the taking away has mostly happened when the answer is written. Only while few lanes are
//! hot; a stream in one direction never does it.
//!
//! *Sleep.* Who parks arms all its lanes and its bell first, so that only senders who take the detour anyway look whether
//! there is somebody to wake: see [`shm::bell`](crate::shm::bell).
//!
//! *Peers that go.* One load a turn tells whether anybody left or died. Then the rows are looked at; what a lost peer had
//! published is delivered first, then its receives fail, then [`Event::PeerGone`] is reported, then its lanes are let go of.
//! What nobody has asked for does not hold that up, and is not lost: see `remains`.
//!
//! A send completes when its bytes are in the lane: the buffer is free again. That the peer has taken them is not said.
//!
//! *No one-sided operations.* Loans lie in private memory, which no peer maps, and that is what makes it safe to read one as plain bytes as soon as it is
//! one's own. A peer could be let in by two ways, and neither will do. If the loans lay in a segment, whoever maps that could write to all
//! of it at any time: a key or a range would be a request, for there is no device that checks them, and a withdrawn key would keep nobody
//! out. If the owner copied in its turns, it would be a message with an answer, which is what the endpoint does not do unasked
//! ([`one_sided`](crate::provider::one_sided)). For memory of several processes there are [pools](crate::pool), whose buffers have states that each
//! side checks; they go uncopied as parcels.

mod parcels;
mod peer;
mod receive;
mod remains;
mod wake;

use core::cell::Cell;
use core::fmt;

use heapless::VecView;
use spinwire_layouts::shm::{EndpointId, EndpointKind};

use self::peer::Peer;
use self::wake::Bells;
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name, WrId};
use crate::msg::matching::{Matcher, MatchingConfig};
use crate::provider::peers::{Peers, Standing};
use crate::provider::queues::Queues;
use crate::provider::{
    CancelError, Caps, Cqe, EndpointType, Event, Info, LatencyClass, Limits, ParcelWr, Payload,
    Provider, Published, RecvPartsWr, RecvWr, Select, SendPartsWr, SendWr, Sge, Sight, Source,
    Waiting,
};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::{Envelope, LaneMemory, ReceiverState};
use crate::shm::{ProcessLease, RegisterError, Segment, directory};
use crate::sync::AtomicU64;
use crate::table::{BitSet, NIL, Ring, wide};
use crate::time::Instant;

/// How much an endpoint in shared memory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShmConfig {
    /// Rows of the address table.
    pub peers_max: u32,
    /// Sends whose completions may be outstanding; rounded up to a power of two.
    pub send_depth: u32,
    /// Receives and unexpected messages.
    pub matching: MatchingConfig,
}

impl Default for ShmConfig {
    /// 64 peers, 256 sends, 1024 receives, 256 unexpected messages of up to 1 KiB.
    fn default() -> Self {
        Self {
            peers_max: 64,
            send_depth: 256,
            matching: MatchingConfig {
                recv_depth: 1024,
                unexpected_depth: 256,
                unexpected_bytes_max: 1024,
            },
        }
    }
}

/// Why an endpoint in shared memory was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShmOpenError {
    /// The segment did not take it.
    Register(RegisterError),
    /// The arena is too small for its tables.
    Arena(Exhausted),
    /// Shared memory has no endpoints of that type.
    Unsupported(EndpointType),
}

impl fmt::Display for ShmOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(e) => e.fmt(f),
            Self::Arena(e) => e.fmt(f),
            Self::Unsupported(t) => {
                write!(f, "endpoint_type: shared memory has no {t}; use msg or rdm")
            }
        }
    }
}

impl core::error::Error for ShmOpenError {}

impl From<RegisterError> for ShmOpenError {
    fn from(value: RegisterError) -> Self {
        Self::Register(value)
    }
}

impl From<Exhausted> for ShmOpenError {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

/// An endpoint in a segment. Belongs to one thread.
pub struct ShmPort<'s, 'm> {
    segment: Segment<'s>,
    lease: ProcessLease,
    me: EndpointId,
    info: Info,
    news: &'s [AtomicU64; 8],
    /// Words of `news` that stand for lanes of this segment.
    news_words: Cell<usize>,
    /// What the ends of a lane that is not open name.
    closed: LaneMemory<'s>,
    queues: Queues<'m>,
    peers: Peers<'m, Peer<'s>>,
    /// Row of the peer that sends on a lane.
    row_of_lane: &'m [Cell<u32>],
    /// Sends whose bytes are in their lane and whose completions were not yet polled.
    done: Ring<'m, WrId>,
    /// The first peer with staged messages: itself and not its row, because publishing waits for this.
    dirty_first: Cell<Option<&'m Peer<'s>>>,
    /// The other rows with staged messages.
    dirty: Ring<'m, u32>,
    /// Rows whose lane is looked at every turn, in the first `hot_count` places.
    hot: &'m [Cell<u32>],
    hot_count: Cell<u32>,
    /// Where among the hot the next turn starts.
    hot_next: Cell<u32>,
    /// Rows whose lane is open and not looked at every turn.
    cold: BitSet<'m>,
    sweep_next: Cell<u32>,
    turns: Cell<u32>,
    epoch: Cell<u64>,
    /// The one peer of a MSG endpoint.
    only_peer: Cell<u32>,
    /// Connections that are not answered yet.
    connecting: Cell<u32>,
    fenced: Cell<bool>,
    dropped_news: Cell<u64>,
    /// Something other than a message in a hot lane waits for the next harvest.
    restless: Cell<bool>,
    /// The hot lane in which something was seen: the peer itself too, because taking it waits for this.
    ready: Cell<Option<(u32, &'m Peer<'s>)>>,
    /// What was seen there last is a parcel, and nobody has asked for it yet.
    parcel_is_next: Cell<bool>,
    /// Messages handed out since everything was looked at.
    since_harvest: Cell<u32>,
    /// The next message is one that only a harvest can deal with.
    see_all: Cell<bool>,
    bells: Bells,
}

impl fmt::Debug for ShmPort<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmPort")
            .field("me", &self.me)
            .field("info", &self.info)
            .field("hot_count", &self.hot_count)
            .finish_non_exhaustive()
    }
}

impl ShmConfig {
    /// What an endpoint will say of itself in a segment whose lanes carry messages of up to `message_bytes_max` bytes.
    #[must_use]
    pub const fn info(&self, endpoint_type: EndpointType, message_bytes_max: usize) -> Info {
        let send_depth = self.send_depth.next_power_of_two();
        let limits = Limits::copied(message_bytes_max, self.peers_max, send_depth, &self.matching);
        let caps = Caps::MATCHED.with(Caps::PARCEL).with(Caps::PARTS).with(Caps::DESCRIPTOR);
        let limits = limits.with_parts();
        Info::of_type("shm", endpoint_type, caps, limits).with_latency(LatencyClass::Memory)
    }
}

/// What the directory calls an endpoint of that type; shared memory has no datagrams.
const fn kind_of(endpoint_type: EndpointType) -> Option<EndpointKind> {
    match endpoint_type {
        EndpointType::Msg => Some(EndpointKind::Msg),
        EndpointType::Rdm => Some(EndpointKind::Rdm),
        EndpointType::Dgram => None,
    }
}

impl<'s, 'm> ShmPort<'s, 'm> {
    /// Registers an endpoint under `name` and places its tables in `bump`. The lease must outlive it.
    ///
    /// # Errors
    /// [`ShmOpenError`]; then nothing is left in the segment.
    pub fn open(
        segment: Segment<'s>,
        lease: ProcessLease,
        bump: &Bump<'m>,
        (name, endpoint_type): (&Name, EndpointType),
        config: &ShmConfig,
    ) -> Result<Self, ShmOpenError> {
        let kind = kind_of(endpoint_type).ok_or(ShmOpenError::Unsupported(endpoint_type))?;
        let lane_count = segment.geometry().lane_count;
        let closed = segment
            .lane_memory(0)
            .map(|memory| LaneMemory::closed(memory.credit))
            .ok_or(RegisterError::DirectoryFull)?;
        let peers = Peers::place(bump, config.peers_max, || Peer::vacant(closed))?;
        let row_of_lane: &'m [Cell<u32>] = bump.slice_with(wide(lane_count), |_| Cell::new(NIL))?;
        let hot: &'m [Cell<u32>] = bump.slice_with(wide(config.peers_max), |_| Cell::new(NIL))?;
        let cold = BitSet::place(bump, config.peers_max)?;
        let queues = Queues::place(bump, &config.matching, config.peers_max.saturating_mul(2))?;
        let ring = |n: u32| n.max(2);
        let done = Ring::place(bump, ring(config.send_depth), WrId::from_raw(0))?;
        let dirty = Ring::place(bump, ring(config.peers_max), NIL)?;
        let info = config.info(endpoint_type, segment.geometry().message_bytes_max());
        let epoch = Cell::new(segment.liveness_epoch());
        // Last, so that an endpoint that others see is one that works.
        let me = directory::register(&segment, &lease, name, kind)?;
        let news = directory::news(&segment, me.slot).ok_or(RegisterError::DirectoryFull)?;
        Ok(Self {
            segment,
            lease,
            me,
            info,
            news,
            news_words: Cell::new(wide(lane_count.div_ceil(64))),
            closed,
            queues,
            peers,
            row_of_lane,
            done,
            dirty_first: Cell::new(None),
            dirty,
            hot,
            hot_count: Cell::new(0),
            hot_next: Cell::new(0),
            cold,
            sweep_next: Cell::new(0),
            turns: Cell::new(0),
            epoch,
            only_peer: Cell::new(NIL),
            connecting: Cell::new(0),
            fenced: Cell::new(false),
            dropped_news: Cell::new(0),
            restless: Cell::new(true),
            ready: Cell::new(None),
            parcel_is_next: Cell::new(false),
            since_harvest: Cell::new(0),
            see_all: Cell::new(false),
            bells: Bells::default(),
        })
    }

    /// Who this endpoint is in the segment.
    #[must_use]
    pub const fn id(&self) -> EndpointId {
        self.me
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

    /// Bits in the news line that meant no lane of this endpoint.
    #[must_use]
    pub const fn dropped_news(&self) -> u64 {
        self.dropped_news.get()
    }

    /// How many lanes are looked at every turn.
    #[must_use]
    pub const fn hot_count(&self) -> u32 {
        self.hot_count.get()
    }

    /// Stages a message for a peer whose lane is open.
    #[inline(always)]
    fn stage(&self, peer: &'m Peer<'s>, row: u32, wr: &SendWr<'_>) -> Result<(), PostError> {
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        if let Err(refused) = peer.tx.stage(wr.payload.bytes(), envelope) {
            return Err(self.lane_refused(peer, row, refused));
        }
        self.has_staged(peer, row);
        Ok(())
    }

    /// Stages a message of several ranges.
    fn stage_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let (peer, row) = (self.peer_to_send_to(wr.to)?, wr.to.slot());
        let length = wr.checked_length(&self.info.limits)?;
        if self.done.is_full() {
            return Err(Retry::CqFull.into());
        }
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let parts = wr.parts.iter().map(Sge::bytes);
        if let Err(refused) = peer.tx.stage_parts(length, parts, envelope) {
            return Err(self.lane_refused(peer, row, refused));
        }
        self.has_staged(peer, row);
        self.completes(wr.wr_id);
        Ok(())
    }

    /// A posted send is over: its bytes are in the lane. There is room for its completion.
    #[inline(always)]
    fn completes(&self, wr_id: WrId) {
        let pushed = self.done.push(wr_id);
        debug_assert!(pushed.is_ok(), "room was checked");
        self.restless.set(true);
    }

    /// Whether a receive may wait for messages of that source.
    #[inline(always)]
    fn may_wait_for(&self, from: Source, select: Select) -> Result<(), PostError> {
        if let Source::Only(addr) = from {
            match self.peers.find(addr) {
                Ok(peer) if !peer.state.is_lost() => {}
                _ => self.ask_the_gone(addr, select)?,
            }
        }
        Ok(())
    }

    /// A message was staged for a peer.
    #[inline(always)]
    fn has_staged(&self, peer: &'m Peer<'s>, row: u32) {
        if !peer.dirty.replace(true) {
            if self.dirty_first.get().is_none() {
                self.dirty_first.set(Some(peer));
            } else {
                let pushed = self.dirty.push(row);
                debug_assert!(pushed.is_ok(), "a row is dirty once, and the ring has room for all");
            }
        }
        self.queues.count_staged();
    }

    /// A lane took no message. One whose credit is nonsense is the lane of a peer that cannot be trusted any further.
    #[cold]
    fn lane_refused(&self, peer: &Peer<'s>, row: u32, refused: PostError) -> PostError {
        if refused == PostError::Fatal(Fatal::Corrupt) {
            self.cut_off(row, peer);
        }
        self.lacks_room();
        refused
    }

    /// Publishes what is staged for a peer, and tells it where it does not look by itself.
    #[inline(always)]
    fn publish_to(&self, peer: &Peer<'s>) {
        peer.dirty.set(false);
        peer.tx.publish();
        if peer.tx.is_armed()
            && let Some((lane, _)) = peer.tx_lane.get()
        {
            let woken = crate::shm::lane_table::announce(&self.segment, peer.remote_slot(), lane);
            self.bells.count(woken);
        }
    }

    /// The peer at an address, with a lane to it.
    #[inline(always)]
    fn peer_to_send_to(&self, addr: Addr) -> Result<&'m Peer<'s>, PostError> {
        match self.peers.at(addr.slot()) {
            Some(peer)
                if peer.state.standing() == Standing::Up
                    && peer.state.generation() == addr.generation() =>
            {
                Ok(peer)
            }
            _ => self.make_ready(addr),
        }
    }

    /// What stands in the way of a send to a peer that is not plainly up: opens the lane where that is all.
    #[cold]
    fn make_ready(&self, addr: Addr) -> Result<&'m Peer<'s>, PostError> {
        let peer = self.peers.find(addr)?;
        if self.fenced.get() {
            return Err(Fatal::Fenced.into());
        }
        peer.state.standing().may_be_sent_to()?;
        if peer.state.standing() == Standing::Known {
            self.open_lane_to(peer)?;
            peer.state.set_standing(Standing::Up);
        }
        Ok(peer)
    }
}

impl Provider for ShmPort<'_, '_> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.connect_to(name)
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        Ok(self.name_of_peer(self.peers.find(addr)?))
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        let peer = self.peers.find(addr)?;
        self.stop_connecting(peer);
        self.let_go(addr.slot(), peer);
        self.vacate(addr.slot(), peer);
        self.queues.end_hopeless(addr);
        self.restless.set(true);
        // The other end looks whether it is meant.
        self.segment.raise_epoch();
        Ok(())
    }

    #[inline(always)]
    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let peer = self.peer_to_send_to(wr.to)?;
        if wr.payload.bytes().len() > self.info.limits.message_bytes_max {
            return Err(Misuse::TooLong.into());
        }
        match wr.payload {
            Payload::Inject(_) => self.stage(peer, wr.to.slot(), wr),
            Payload::Posted { wr_id, .. } => {
                if self.done.is_full() {
                    return Err(Retry::CqFull.into());
                }
                self.stage(peer, wr.to.slot(), wr)?;
                self.completes(wr_id);
                Ok(())
            }
        }
    }

    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        self.stage_parts(wr)
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        wr.check(&self.info.limits)?;
        self.may_wait_for(wr.from, wr.select)?;
        self.queues.post_parts(wr)
    }

    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        self.stage_parcel(wr)
    }

    fn is_settled(&self, to: Addr, number: u8) -> bool {
        self.has_settled(to, number)
    }

    fn settle(&self, source: Addr, numbers: u64) {
        self.settle_parcels(source, numbers);
    }

    #[inline(always)]
    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.may_wait_for(wr.from, wr.select)?;
        // A message that waits in its lane for this is looked for by the next harvest.
        self.queues.post(wr)
    }

    #[inline(always)]
    fn ring_doorbell(&self) -> Published {
        let Some(first) = self.dirty_first.get() else {
            return Published { count: 0, error: None };
        };
        self.dirty_first.set(None);
        self.publish_to(first);
        while let Some(row) = self.dirty.pop() {
            if let Some(peer) = self.peers.at(row) {
                self.publish_to(peer);
            }
        }
        Published { count: self.queues.take_staged(), error: None }
    }

    #[inline(always)]
    fn poll_cq(&self, _now: Instant, out: &mut VecView<Cqe>) {
        self.harvest(out);
    }

    #[inline(always)]
    fn look(&self) -> Sight {
        self.glance()
    }

    #[inline(always)]
    fn take_ready(&self) -> Option<Cqe> {
        self.take_one()
    }

    #[inline(always)]
    fn take_ready_parcel(&self) -> Option<Cqe> {
        if self.parcel_is_next.get() { self.take_one_parcel() } else { None }
    }

    /// At once while the end of somebody is told after some more looks; else nothing here goes by the clock.
    fn poll_at(&self) -> Option<Instant> {
        let is_due = |(_, peer): (u32, &Peer<'_>)| peer.state.is_about_to_end();
        (self.restless.get() && self.peers.in_use().any(is_due)).then_some(Instant::ORIGIN)
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.queues.next_event()?;
        // A peer's end is the last that is heard of its address.
        if let Event::PeerGone(addr) | Event::PeerCorrupt(addr) | Event::Refused(addr) = event
            && let Ok(peer) = self.peers.find(addr)
        {
            self.part_with(addr.slot(), peer);
        }
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.queues.cancel(wr_id)?;
        self.restless.set(true);
        Ok(())
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select).or_else(|| self.peek_in_lanes(from, select))
    }
}

impl Drop for ShmPort<'_, '_> {
    fn drop(&mut self) {
        // What a fenced endpoint had may be others' by now.
        if directory::is_gone(&self.segment, self.me) {
            return;
        }
        self.ring_doorbell();
        for (row, peer) in self.peers.in_use() {
            self.let_go(row, peer);
        }
        directory::unregister(&self.segment, self.me);
    }
}

/// What the receiver of a lane said about it, as a standing.
const fn standing_of(state: ReceiverState) -> Standing {
    match state {
        ReceiverState::Unseen => Standing::Connecting,
        ReceiverState::Accepted => Standing::Up,
        ReceiverState::Refused => Standing::Refused,
        ReceiverState::Left => Standing::Gone,
    }
}
