//! The rows of the address table: a peer, the lane to it, the lane from it; and how rows come and go.
//!
//! ```text
//!              connect (RDM), inbound lane               first send
//!   Vacant ------------------------------------> Known -------------> Up
//!      |       connect (MSG)                             accepted     ^ |
//!      '---------------------> Connecting ----------------------------' |  lost, or found corrupt
//!      ^                          | refused                             v
//!      |<--- event taken ------ Refused, Gone, Corrupt <----------------'
//!      |                                   | event taken, its lane is not empty
//!      '---- lane empty, or given up --- Past
//! ```
//!
//! *Connections.* The two lanes of a MSG connection name each other ([`lane_table::answered`]). A lane that answers one is the
//! other half of that connection or of none: where the connection is over, it is not taken for a new one, and its sender
//! hears that the peer is gone. A lane that answers none begins a connection; where this end has begun one to
//! the same peer, the two are one. One that was given up before anybody met it carries nothing and is dropped.

use core::cell::Cell;

use spinwire_layouts::shm::{EndpointId, EndpointKind};
use spinwire_layouts::word::join;

use super::{NIL, ShmPort};
use crate::error::{Fatal, Misuse, PostError};
use crate::id::{Addr, Name};
use crate::provider::peers::{PeerState, Standing};
use crate::provider::{EndpointType, Event};
use crate::shm::bell;
use crate::shm::directory::{self, EndpointRef};
use crate::shm::lane::{LaneMemory, LaneRx, LaneTx, ReceiverState};
use crate::shm::lane_table::{self, LaneEnd, OtherEnd, Side};

/// For so many looks after a message is the next answer held to be due: some microseconds.
const WARM_LOOKS: u32 = 64;

/// A row of the address table.
pub(super) struct Peer<'s> {
    pub(super) state: PeerState,
    remote: Cell<EndpointId>,
    pub(super) tx: LaneTx<'s>,
    /// The lane to the peer and its generation.
    pub(super) tx_lane: Cell<Option<(u32, u32)>>,
    /// The word of the lane to the peer, also when that was let go of; 0 where there was none.
    offered: Cell<u64>,
    pub(super) rx: LaneRx<'s>,
    /// The lane from the peer and its generation.
    pub(super) rx_lane: Cell<Option<(u32, u32)>>,
    /// Whether it stands in the ring of rows with staged messages.
    pub(super) dirty: Cell<bool>,
    /// Whether its lane is looked at every turn.
    pub(super) is_hot: Cell<bool>,
    /// Where its lane was when the next message had to stay in it, because nobody asked for it.
    pub(super) stalled_at: Cell<Option<u64>>,
    /// How many messages it had been sent at the first look after its last one was taken.
    sent_before: Cell<u64>,
    /// Looks for which the next cell of the lane to it is still kept warm.
    warm_looks: Cell<u32>,
}

impl core::fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Peer")
            .field("remote", &self.remote.get())
            .field("standing", &self.state.standing())
            .finish_non_exhaustive()
    }
}

impl<'s> Peer<'s> {
    pub(super) fn vacant(closed: LaneMemory<'s>) -> Self {
        Self {
            state: PeerState::vacant(),
            remote: Cell::new(EndpointId { slot: NIL, generation: 0 }),
            tx: LaneTx::new(closed),
            tx_lane: Cell::new(None),
            offered: Cell::new(0),
            rx: LaneRx::new(closed, 0),
            rx_lane: Cell::new(None),
            dirty: Cell::new(false),
            is_hot: Cell::new(false),
            stalled_at: Cell::new(None),
            sent_before: Cell::new(0),
            warm_looks: Cell::new(0),
        }
    }

    /// A message of the peer was taken.
    #[inline(always)]
    pub(super) fn note_taken(&self) {
        self.state.looks.set(0);
        self.warm_looks.set(WARM_LOOKS);
    }

    /// With each look: takes the cell of the next answer back from the peer, which looks at it too. That is done where
    /// messages of the peer are answered, so that something was sent to it after each of the last two that were taken; and
    /// where it is `worth_it`.
    #[inline(always)]
    pub(super) fn keep_warm(&self, worth_it: bool) {
        let Some(left) = self.warm_looks.get().checked_sub(1) else { return };
        self.warm_looks.set(left);
        if left == WARM_LOOKS - 1 && !self.answers(worth_it) {
            self.warm_looks.set(0);
        } else {
            self.tx.warm();
        }
    }

    /// Whether something was sent to the peer since this was last asked, and whether to go by that.
    #[inline(always)]
    const fn answers(&self, worth_it: bool) -> bool {
        let sent = self.tx.position();
        self.sent_before.replace(sent) != sent && worth_it
    }

    #[inline(always)]
    pub(super) const fn remote_slot(&self) -> u32 {
        self.remote.get().slot
    }

    /// Whether more may be heard of it: it is there, or its end was not yet reported.
    const fn is_awaited(&self) -> bool {
        match self.state.standing() {
            Standing::Known | Standing::Up | Standing::Connecting => true,
            Standing::Gone | Standing::Refused => !self.state.has_ended(),
            Standing::Vacant | Standing::Corrupt | Standing::Past => false,
        }
    }

    /// Whether the next message of its lane has to stay there until somebody asks for it.
    pub(super) fn is_stalled(&self) -> bool {
        self.rx_lane.get().is_some() && self.stalled_at.get() == Some(self.rx.position())
    }
}

impl AsRef<PeerState> for Peer<'_> {
    fn as_ref(&self) -> &PeerState {
        &self.state
    }
}

impl<'s, 'm> ShmPort<'s, 'm> {
    /// The row of that peer. One that left, or did not take the connection, and has come back since gets a new row; one
    /// that was cut off does not.
    fn row_of(&self, remote: EndpointId) -> Option<(u32, &'m Peer<'s>)> {
        self.peers.iter().find(|(_, peer)| {
            let gone = matches!(
                peer.state.standing(),
                Standing::Vacant | Standing::Gone | Standing::Refused | Standing::Past
            );
            !gone && peer.remote.get() == remote
        })
    }

    /// The row of that peer, a new one where it has none.
    fn enter(&self, remote: EndpointId) -> Result<(u32, &'m Peer<'s>), PostError> {
        if let Some(found) = self.row_of(remote) {
            return Ok(found);
        }
        if self.info.endpoint_type == EndpointType::Msg && self.only_peer.get() != NIL {
            return Err(Misuse::WrongPeer.into());
        }
        let (row, peer) = self.peers.vacant()?;
        peer.remote.set(remote);
        peer.state.set_standing(Standing::Known);
        if self.info.endpoint_type == EndpointType::Msg {
            self.only_peer.set(row);
        }
        Ok((row, peer))
    }

    pub(super) fn connect_to(&self, name: &Name) -> Result<Addr, PostError> {
        if self.fenced.get() {
            return Err(Fatal::Fenced.into());
        }
        let kind = super::kind_of(self.info.endpoint_type).ok_or(Misuse::Unsupported)?;
        let found = directory::lookup(&self.segment, name).ok_or(Misuse::UnknownAddress)?;
        if found.kind != kind {
            return Err(Misuse::Unsupported.into());
        }
        let known = self.row_of(found.id).is_some();
        let (row, peer) = self.enter(found.id)?;
        if kind == EndpointKind::Msg && peer.state.standing() == Standing::Known {
            if let Err(refused) = self.open_lane(peer, &found) {
                if !known {
                    self.vacate(row, peer);
                }
                return Err(refused);
            }
            // The other end may have opened its own lane to here already; then the two are connected.
            if peer.rx_lane.get().is_some() {
                peer.state.set_standing(Standing::Up);
            } else {
                peer.state.set_standing(Standing::Connecting);
                self.connecting.set(self.connecting.get().wrapping_add(1));
                self.restless.set(true);
            }
        }
        Ok(peer.state.addr(row))
    }

    /// The name of a peer, as its entry in the directory says.
    pub(super) fn name_of_peer(&self, peer: &Peer<'s>) -> Option<Name> {
        let remote = peer.remote.get();
        let found = directory::endpoint_at(&self.segment, remote.slot);
        found.filter(|found| found.id == remote && !self.fenced.get()).map(|found| found.name)
    }

    pub(super) fn open_lane_to(&self, peer: &Peer<'s>) -> Result<(), PostError> {
        let remote = peer.remote.get();
        let found = directory::endpoint_at(&self.segment, remote.slot)
            .filter(|found| found.id == remote)
            .ok_or(Fatal::PeerGone)?;
        self.open_lane(peer, &found)
    }

    fn open_lane(&self, peer: &Peer<'s>, to: &EndpointRef) -> Result<(), PostError> {
        let answers = match (self.info.endpoint_type, peer.rx_lane.get()) {
            (EndpointType::Msg, Some((lane, generation))) => join(lane, generation),
            _ => 0,
        };
        let end = lane_table::open(&self.segment, self.me, self.lease.slot(), to, answers)?;
        peer.tx.open(end.memory);
        peer.tx_lane.set(Some((end.lane, end.generation)));
        peer.offered.set(end.word());
        Ok(())
    }

    /// Looks whether the connections that were begun are answered by now.
    #[cold]
    pub(super) fn look_at_connecting(&self) {
        for (row, peer) in
            self.peers.iter().filter(|(_, p)| p.state.standing() == Standing::Connecting)
        {
            let standing = super::standing_of(peer.tx.receiver_state());
            // Both ends connected to each other at once: taking the other's lane is the answer.
            let crossed = standing == Standing::Connecting && peer.rx_lane.get().is_some();
            let standing = if crossed { Standing::Up } else { standing };
            match standing {
                Standing::Up => {
                    if !self.queues.tell(Event::Connected(peer.state.addr(row))) {
                        continue;
                    }
                    peer.state.set_standing(Standing::Up);
                }
                Standing::Refused | Standing::Gone => {
                    self.lose(row, peer, standing);
                    continue;
                }
                Standing::Vacant
                | Standing::Connecting
                | Standing::Known
                | Standing::Corrupt
                | Standing::Past => continue,
            }
            self.connecting.set(self.connecting.get().saturating_sub(1));
        }
    }

    /// The peer is not waited for any longer, if it was.
    pub(super) fn stop_connecting(&self, peer: &Peer<'s>) {
        if peer.state.standing() == Standing::Connecting {
            self.connecting.set(self.connecting.get().saturating_sub(1));
        }
    }

    /// Whether the peer has let go of its lane to here.
    fn has_left(&self, peer: &Peer<'s>) -> bool {
        peer.rx_lane.get().is_some_and(|(lane, generation)| {
            lane_table::sender_has_left(&self.segment, lane, generation)
        })
    }

    /// How a peer stands that has let go of one of the lanes, or did not take one.
    fn parted(&self, peer: &Peer<'s>) -> Option<Standing> {
        let taken = match peer.tx_lane.get() {
            Some(_) => peer.tx.receiver_state(),
            None => ReceiverState::Unseen,
        };
        match taken {
            ReceiverState::Refused => Some(Standing::Refused),
            ReceiverState::Left => Some(Standing::Gone),
            ReceiverState::Unseen | ReceiverState::Accepted => {
                self.has_left(peer).then_some(Standing::Gone)
            }
        }
    }

    /// A lane that announced itself: whose it is, and whether it is taken.
    pub(super) fn meet(&self, lane: u32) {
        let Some((end, sender)) = lane_table::inbound(&self.segment, lane, self.me) else {
            self.dropped_news.set(self.dropped_news.get().wrapping_add(1));
            return;
        };
        let row = match self.info.endpoint_type {
            EndpointType::Msg => self.row_for_connection(&end, sender),
            EndpointType::Rdm | EndpointType::Dgram => self.row_for(&end, sender),
        };
        match row {
            Ok((row, peer)) => self.take_lane(&end, row, peer),
            // Not to be answered yet: it is met again.
            Err(ReceiverState::Unseen) => {
                lane_table::announce(&self.segment, self.me.slot, lane);
            }
            Err(answer) => self.refuse_lane(&end, answer),
        }
    }

    /// The row that a lane of a connection belongs to, or what is answered to its sender.
    fn row_for_connection(
        &self,
        end: &LaneEnd<'s>,
        sender: EndpointId,
    ) -> Result<(u32, &'m Peer<'s>), ReceiverState> {
        let has_left = || lane_table::sender_has_left(&self.segment, end.lane, end.generation);
        // In this order: who leaves has said before what its lane answers.
        let left = has_left();
        let answered = lane_table::answered(&self.segment, end.lane);
        if answered != 0 {
            let meant = |peer: &Peer<'s>| {
                peer.remote.get() == sender && peer.offered.get() == answered && peer.is_awaited()
            };
            let row =
                self.peers.iter().find(|(_, peer)| meant(peer) && peer.rx_lane.get().is_none());
            return row.ok_or(ReceiverState::Left);
        }
        if left {
            return Err(ReceiverState::Left);
        }
        if let Some((row, peer)) = self.row_of(sender)
            && let Some((own, _)) = peer.tx_lane.get()
            && peer.rx_lane.get().is_none()
            && self.parted(peer).is_none()
        {
            // Both ends have connected to each other at once.
            lane_table::answer(&self.segment, own, end.word());
            if has_left() {
                lane_table::answer(&self.segment, own, 0);
                return Err(ReceiverState::Left);
            }
            return Ok((row, peer));
        }
        self.row_for_newcomer(sender)
    }

    /// The row that a lane from that endpoint belongs to, or what is answered to its sender.
    fn row_for(
        &self,
        end: &LaneEnd<'s>,
        sender: EndpointId,
    ) -> Result<(u32, &'m Peer<'s>), ReceiverState> {
        if lane_table::sender_has_left(&self.segment, end.lane, end.generation) {
            // Filled and left before anybody looked: it belongs to the old times, if there were any.
            let old = self.peers.iter().find(|(_, peer)| {
                peer.remote.get() == sender && peer.rx_lane.get().is_none() && peer.is_awaited()
            });
            if let Some(old) = old {
                return Ok(old);
            }
        }
        self.row_for_newcomer(sender)
    }

    /// The row of one whose lane belongs to nothing that was before; a new one where it has none.
    fn row_for_newcomer(&self, sender: EndpointId) -> Result<(u32, &'m Peer<'s>), ReceiverState> {
        // The peer has let go of a lane before it opened this one: what is left of the old times stays in the old row.
        if let Some((row, peer)) = self.row_of(sender)
            && let Some(standing) = self.parted(peer)
        {
            self.lose(row, peer, standing);
        }
        let known = self.row_of(sender).is_some();
        let (row, peer) = self.enter(sender).map_err(|_full| self.answer_to_another())?;
        if peer.rx_lane.get().is_some() || peer.state.is_lost() {
            return Err(ReceiverState::Refused);
        }
        if !known && !self.queues.tell(Event::Connected(peer.state.addr(row))) {
            self.vacate(row, peer);
            return Err(ReceiverState::Refused);
        }
        Ok((row, peer))
    }

    /// What is answered to one for whom there is no row. A MSG endpoint whose peer has gone is free for another as soon as that
    /// was taken note of; until then whoever connects waits.
    fn answer_to_another(&self) -> ReceiverState {
        let only = self.peers.at(self.only_peer.get());
        if only.is_some_and(|peer| peer.state.is_lost()) {
            ReceiverState::Unseen
        } else {
            ReceiverState::Refused
        }
    }

    fn take_lane(&self, end: &LaneEnd<'s>, row: u32, peer: &Peer<'s>) {
        peer.rx.open(end.memory, self.info.limits.message_bytes_max);
        peer.rx.answer(ReceiverState::Accepted);
        bell::ring(&self.segment, peer.remote_slot());
        peer.rx_lane.set(Some((end.lane, end.generation)));
        peer.stalled_at.set(None);
        let lane = usize::try_from(end.lane).unwrap_or(usize::MAX);
        if let Some(row_of) = self.row_of_lane.get(lane) {
            row_of.set(row);
        }
        self.heat(row, peer);
        // It may have left or died since it opened the lane, before the last look at the epoch.
        let gone = self.has_left(peer) || directory::is_gone(&self.segment, peer.remote.get());
        if gone && !peer.state.is_lost() {
            self.lose(row, peer, Standing::Gone);
        }
    }

    fn refuse_lane(&self, end: &LaneEnd<'s>, answer: ReceiverState) {
        let LaneEnd { lane, generation, memory } = *end;
        LaneRx::new(memory, 0).answer(answer);
        lane_table::leave(&self.segment, lane, generation, Side::Receiver, OtherEnd::Present);
        // The sender looks whether it is meant.
        self.segment.raise_epoch();
    }

    /// Somebody left, died or let go of a lane: who?
    #[cold]
    pub(super) fn look_at_everybody(&self) {
        if directory::is_gone(&self.segment, self.me) {
            self.fence();
            return;
        }
        // News first: what a lost peer opened and published before it went is still delivered.
        self.take_news();
        for (row, peer) in self.peers.iter() {
            let there = matches!(
                peer.state.standing(),
                Standing::Known | Standing::Up | Standing::Connecting
            );
            if !there {
                continue;
            }
            if let Some(standing) = self.parted(peer) {
                self.lose(row, peer, standing);
            } else if directory::is_gone(&self.segment, peer.remote.get()) {
                self.lose(row, peer, Standing::Gone);
            }
        }
    }

    /// This endpoint was taken for dead: its lanes and its place in the directory may be others' by now. They are never
    /// touched again.
    fn fence(&self) {
        self.fenced.set(true);
        self.news_words.set(0);
        for (row, peer) in self.peers.iter() {
            if peer.state.standing() != Standing::Vacant {
                peer.tx_lane.set(None);
                peer.rx_lane.set(None);
                peer.tx.open(self.closed);
                peer.rx.open(self.closed, 0);
            }
            if peer.state.standing() != Standing::Vacant && !peer.state.has_ended() {
                self.lose(row, peer, Standing::Gone);
            }
        }
        self.restless.set(true);
    }

    /// The peer is lost. Its lane is looked at until it is empty; then its end is reported.
    pub(super) fn lose(&self, row: u32, peer: &Peer<'s>, standing: Standing) {
        self.stop_connecting(peer);
        peer.state.lose(standing);
        self.restless.set(true);
        self.heat(row, peer);
        // Nothing more is sent on this row: who comes back gets a new one, and must not find this lane open still.
        self.stop_sending(peer, self.other_end(peer));
    }

    fn other_end(&self, peer: &Peer<'s>) -> OtherEnd {
        if directory::is_gone(&self.segment, peer.remote.get()) {
            OtherEnd::Gone
        } else {
            OtherEnd::Present
        }
    }

    /// Lets go of the lane to a peer. What is staged in it goes out with that.
    fn stop_sending(&self, peer: &Peer<'s>, other: OtherEnd) {
        if let Some((lane, generation)) = peer.tx_lane.take() {
            peer.tx.publish();
            peer.tx.open(self.closed);
            lane_table::leave(&self.segment, lane, generation, Side::Sender, other);
            // The other end looks whether it is meant.
            self.segment.raise_epoch();
        }
    }

    /// Lets go of both lanes of a peer.
    pub(super) fn let_go(&self, row: u32, peer: &Peer<'s>) {
        let other = self.other_end(peer);
        self.stop_sending(peer, other);
        if let Some((lane, generation)) = peer.rx_lane.take() {
            if other == OtherEnd::Present {
                peer.rx.answer(ReceiverState::Left);
            }
            peer.rx.open(self.closed, 0);
            lane_table::leave(&self.segment, lane, generation, Side::Receiver, other);
            if let Some(row_of) = usize::try_from(lane).ok().and_then(|at| self.row_of_lane.get(at))
            {
                row_of.set(NIL);
            }
        }
        self.set_cold(row, false);
        self.cool(row, peer);
    }

    /// Makes the row free for another peer; its address is stale from now on.
    pub(super) fn vacate(&self, row: u32, peer: &Peer<'s>) {
        self.cool(row, peer);
        peer.offered.set(0);
        peer.state.vacate();
        self.make_room(row);
    }

    /// From now on a MSG endpoint may have another peer than that one.
    pub(super) fn make_room(&self, row: u32) {
        if self.only_peer.get() == row {
            self.only_peer.set(NIL);
        }
    }
}
