//! What a peer leaves behind, and in which order its end is told.
//!
//! ```text
//!   what was asked for      receives that wait          PeerGone,            what nobody had asked for
//!   is delivered       -->  for it alone fail   -->     PeerCorrupt,   -->   waits: in the unexpected queue,
//!                                                       Refused              or in its lane
//! ```
//!
//! *An end does not wait for ever.* Whoever posts receives turn by turn gets everything before the report: that waits for
//! [`PATIENCE_LOOKS`](crate::provider::queues::PATIENCE_LOOKS) looks at what is left in which nothing moved in the lane, and no longer. A message that nobody has asked
//! for by then is not lost. In the unexpected queue it stays there. In its lane it stays there too: the row becomes
//! [`Standing::Past`] and keeps the lane until that is empty; receives take out of it as before, in order, and the source is
//! the old address. Nothing can be sent to that address any more. Whoever wants none of it disconnects the address.
//!
//! *Receives for the gone.* A receive that waits for a gone peer alone is accepted if a message waits that it would take: in
//! the queue, or as the next one of a stalled lane; and if the next message of its lane was not looked at yet. Where it turns
//! out that another receive gets the message, or that it is another one, the receive fails with `PeerGone`.
//!
//! Invariants: a row that is `Past` is hot, has a lane, and its end was reported; a posted receive for somebody
//! whose end was reported exists only while `late` is set.

use heapless::VecView;

use super::ShmPort;
use super::peer::Peer;
use crate::error::PostError;
use crate::id::Addr;
use crate::provider::peers::Standing;
use crate::provider::{Cqe, EndpointType, Select, Source, Waiting};
use crate::shm::lane::{Content, Envelope};

impl<'s> ShmPort<'s, '_> {
    /// The lane of a lost peer is empty, or stalled: fail what waits for it, report it; let go, where it is empty.
    #[cold]
    pub(super) fn bury(&self, row: u32, peer: &Peer<'s>, out: &mut VecView<Cqe>) {
        if peer.rx_lane.get().is_none() {
            // A lane that it opened before it left may have been announced since the last look.
            self.take_news();
            if peer.rx_lane.get().is_some() {
                return;
            }
        }
        let addr = peer.state.addr(row);
        // A MSG endpoint gets nothing more from anybody, unless it has another peer by now.
        let all = self.info.endpoint_type == EndpointType::Msg && self.only_peer.get() == row;
        let whose = if all { Source::Any } else { Source::Only(addr) };
        let stalled = peer.is_stalled();
        if !self.queues.report_end((addr, &peer.state), stalled, whose, out) {
            self.restless.set(true);
            return;
        }
        if stalled {
            return;
        }
        self.let_go(row, peer);
        if peer.state.standing() == Standing::Past {
            self.vacate(row, peer);
        }
    }

    /// The end of a peer was taken note of. Its row is free, unless there is something in its lane.
    #[cold]
    pub(super) fn part_with(&self, row: u32, peer: &Peer<'s>) {
        if !peer.state.has_ended() {
            // What it left was nonsense, and that is still to be told.
            return;
        }
        if peer.rx_lane.get().is_none() {
            self.vacate(row, peer);
        } else {
            peer.state.set_standing(Standing::Past);
            self.make_room(row);
        }
    }

    /// Whether a receive may be posted that waits for one alone who is gone.
    #[cold]
    pub(super) fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let from = Source::Only(addr);
        let waits = self.queues.matcher().peek(from, select).is_some()
            || self.peek_in_lanes(from, select).is_some()
            || self.peers.find(addr).is_ok_and(|peer| {
                !peer.is_stalled() && matches!(peer.rx.peek(), Ok(Some(_unread)))
            });
        self.queues.ask_the_gone(self.peers, addr, waits)?;
        self.restless.set(true);
        Ok(())
    }

    /// Of the messages that have to stay in their lanes, one that such a receive would take.
    #[cold]
    pub(super) fn peek_in_lanes(&self, from: Source, select: Select) -> Option<Waiting> {
        self.peers.iter().filter(|(_, peer)| peer.is_stalled()).find_map(|(row, peer)| {
            let source = peer.state.addr(row);
            let front = peer.rx.peek().ok()??;
            let Envelope { tag, immediate } = front.envelope;
            let meant = from.takes(source) && select.takes(tag);
            let length = match front.content {
                Content::Bytes => front.length,
                Content::Parcel => 0,
            };
            meant.then_some(Waiting { source, length, tag, immediate })
        })
    }

    /// Fails the receives that wait for somebody alone of whom nothing more is to be had.
    #[cold]
    pub(super) fn fail_late(&self, out: &mut VecView<Cqe>) {
        // Where a lane of the gone is not looked through, its receives may get something yet.
        let unread = |_row, peer: &Peer<'s>| peer.rx_lane.get().is_some() && !peer.is_stalled();
        if self.queues.fail_late(self.peers, unread, out) {
            self.restless.set(true);
        }
    }
}
