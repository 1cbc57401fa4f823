//! Parcels: buffers of a pool as messages. Who holds them meanwhile is told in [`msg::lender`](crate::msg::lender).

use heapless::VecView;

use super::ShmPort;
use super::peer::Peer;
use crate::error::{Fatal, PostError};
use crate::id::Addr;
use crate::msg::matching::{Incoming, Verdict};
use crate::provider::queues::Found;
use crate::provider::{Cqe, ParcelWr};
use crate::shm::lane::{Arrival, Content, Descriptor, Envelope};

/// What became of a parcel at the front of its lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It was taken out.
    Yes,
    /// It has to wait there.
    Waits,
    /// It was nonsense, and its sender was cut off.
    CutOff,
}

impl<'s> ShmPort<'s, '_> {
    /// Stages a parcel. Like [`stage`](Self::stage), and not visible before the doorbell or another post.
    pub(super) fn stage_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        let peer = self.peer_to_send_to(wr.to)?;
        let row = wr.to.slot();
        let envelope = Envelope { tag: wr.tag, immediate: wr.immediate };
        let number = peer
            .tx
            .stage_parcel((wr.buffer, wr.pool), envelope)
            .map_err(|refused| self.lane_refused(peer, row, refused))?;
        self.has_staged(peer, row);
        Ok(number)
    }

    /// Whether a parcel is over. Without the lane it was in, it is: nobody will take it out of there, or will say so.
    pub(super) fn has_settled(&self, to: Addr, number: u8) -> bool {
        match self.peers.find(to) {
            Ok(peer) => peer.tx_lane.get().is_none() || peer.tx.is_settled(number),
            Err(_stale) => true,
        }
    }

    pub(super) fn settle_parcels(&self, source: Addr, numbers: u64) {
        // A lane that was let go of may be another's.
        if let Ok(peer) = self.peers.find(source)
            && peer.rx_lane.get().is_some()
        {
            peer.rx.settle(numbers);
        }
    }

    /// Deals with a parcel at the front of a lane.
    #[inline(never)]
    pub(super) fn admit_parcel(
        &self,
        row: u32,
        peer: &Peer<'s>,
        out: &mut VecView<Cqe>,
    ) -> Admitted {
        let Ok((arrival, descriptor)) = front(peer) else {
            self.cut_off(row, peer);
            return Admitted::CutOff;
        };
        let message =
            Incoming { source: peer.state.addr(row), envelope: arrival.envelope, length: 0 };
        let kept = match self.queues.find_receive(&message, out) {
            Found::Receive(landing) => {
                peer.rx.take_parcel(&arrival, &descriptor);
                self.queues.land_parcel(&landing, &message, descriptor, out);
                return Admitted::Yes;
            }
            Found::Nobody => self.queues.matcher().stash_parcel(&message, descriptor),
            Found::NoRoom => return Admitted::Waits,
        };
        if kept {
            peer.rx.take_parcel(&arrival, &descriptor);
            return Admitted::Yes;
        }
        peer.stalled_at.set(Some(peer.rx.position()));
        Admitted::Waits
    }

    /// [`take_one`](Self::take_one) has found a parcel. Where it has found one before, and nobody has asked for that, the harvest is next.
    #[cold]
    pub(super) fn leave_parcel(&self) {
        if self.parcel_is_next.replace(true) {
            self.parcel_is_next.set(false);
            self.see_all_next();
        }
    }

    /// [`take_one`](Self::take_one) for a parcel, which was seen there.
    #[inline(never)]
    pub(super) fn take_one_parcel(&self) -> Option<Cqe> {
        self.parcel_is_next.set(false);
        let (row, peer) = self.ready.get()?;
        let Ok((arrival, descriptor)) = front(peer) else {
            // Nonsense, which the harvest finds too.
            self.see_all_next();
            return None;
        };
        let message =
            Incoming { source: peer.state.addr(row), envelope: arrival.envelope, length: 0 };
        let Verdict::Deliver(landing) = self.queues.matcher().judge_only(&message) else {
            self.see_all_next();
            return None;
        };
        peer.rx.take_parcel(&arrival, &descriptor);
        self.took_one(peer);
        Some(self.queues.matcher().land_parcel(&landing, &message, descriptor))
    }
}

/// The parcel at the front of a lane, once more and in full: whoever only asks whether it is one keeps the rest in registers.
fn front<'s>(peer: &Peer<'s>) -> Result<(Arrival<'s>, Descriptor), Fatal> {
    let arrival = peer.rx.peek()?.filter(|arrival| arrival.content == Content::Parcel);
    let arrival = arrival.ok_or(Fatal::Corrupt)?;
    Ok((arrival, peer.rx.read_parcel(&arrival)?))
}
