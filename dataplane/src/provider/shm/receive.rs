//! The receiving half: which lanes are looked at, and what becomes of what they hold.

use heapless::VecView;

use super::ShmPort;
use super::parcels::Admitted;
use super::peer::Peer;
use crate::msg::matching::{Incoming, Landing, Verdict};
use crate::provider::peers::Standing;
use crate::provider::queues::Found;
use crate::provider::{Cqe, Sight, Status};
use crate::shm::lane::{Arrival, Content};
use crate::sync::{AtomicU64, Ordering};
use crate::table::NIL;

/// So many lanes stay hot even if nothing comes in them.
const HOT_KEPT: u32 = 2;
/// A lane beyond those is made cold after so many looks in vain.
const IDLE_LOOKS_MAX: u32 = 256;
/// Every so many idle turns there is a harvest, and with each harvest one cold lane is looked at, in case that its news was
/// missed.
const SWEEP_EVERY: u32 = 16;
/// So many messages are handed out one by one before everything is looked at.
const READY_MAX: u32 = 32;
/// Messages taken from one lane before the next has its turn.
const LANE_QUOTA: u32 = 32;

/// How a look at a lane ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Something was taken out.
    Some,
    /// There is nothing in it.
    Empty,
    /// The next message has to wait: nobody asked for it and the unexpected queue is full; or there is no room for
    /// completions.
    Waits,
}

impl<'s, 'm> ShmPort<'s, 'm> {
    /// Is there anything to do? What an idle turn costs.
    ///
    /// Messages come first, because they are what is waited for; everything else is seen when there are none, and after
    /// [`READY_MAX`] of them at the latest. Where completions wait, after one.
    #[inline(always)]
    pub(super) fn glance(&self) -> Sight {
        let turns = self.turns.get().wrapping_add(1);
        self.turns.set(turns);
        let most = if self.restless.get() { 1 } else { READY_MAX };
        if self.queues.matcher().wants_many()
            || self.since_harvest.get() >= most && !self.nothing_else_is_due()
        {
            return Sight::Work;
        }
        let hot = usize::try_from(self.hot_count.get()).unwrap_or(0);
        for place in self.hot.iter().take(hot) {
            let row = place.get();
            let Some(peer) = self.peers.at(row) else {
                continue;
            };
            let has_news = peer.rx.may_have_news();
            peer.keep_warm(self.hot_count.get() <= HOT_KEPT);
            if has_news {
                self.ready.set(Some((row, peer)));
                return Sight::Ready;
            }
        }
        let work = self.restless.get() || self.has_due() || turns.is_multiple_of(SWEEP_EVERY);
        if work { Sight::Work } else { Sight::Nothing }
    }

    /// So many messages were handed out one by one that everything is to be looked at. Where all are of one lane that is done here, and where
    /// there is nothing else, they go on as before.
    #[inline(never)]
    fn nothing_else_is_due(&self) -> bool {
        let is_alone = self.hot_count.get() == 1 && !self.see_all.get();
        let is_quiet = !self.restless.get() && self.connecting.get() == 0 && !self.queues.is_late();
        if !is_alone || !is_quiet || self.queues.matcher().wants_many() || self.has_due() {
            return false;
        }
        self.since_harvest.set(0);
        self.sweep();
        self.hot_count.get() == 1
    }

    /// Whether somebody came or went, or says that there is something in a lane that is not looked at.
    #[inline(always)]
    fn has_due(&self) -> bool {
        self.segment.liveness_epoch() != self.epoch.get() || self.has_news()
    }

    #[inline(always)]
    fn has_news(&self) -> bool {
        let [first, rest @ ..] = self.news;
        let words = self.news_words.get();
        let is_set = |news: &AtomicU64| news.load(Ordering::Relaxed) != 0;
        is_set(first) || words > 1 && rest.iter().take(words.wrapping_sub(1)).any(is_set)
    }

    /// The next message of the lane in which one was seen, where it goes straight into a posted receive.
    #[inline(always)]
    pub(super) fn take_one(&self) -> Option<Cqe> {
        let (row, peer) = self.ready.get()?;
        let Ok(Some(arrival)) = peer.rx.peek() else {
            // Nothing (more), or nonsense, which the harvest finds too.
            self.ready.set(None);
            if peer.rx.may_have_news() {
                self.see_all_next();
            }
            return None;
        };
        if arrival.content == Content::Parcel {
            self.leave_parcel();
            return None;
        }
        let message = Incoming {
            source: peer.state.addr(row),
            envelope: arrival.envelope,
            length: arrival.length,
        };
        let Verdict::Deliver(mut landing) = self.queues.matcher().judge_only(&message) else {
            // Nobody asked for it, or a buffer has to be given back first, or it goes into several: the harvest is next, whatever else has
            // come.
            self.see_all_next();
            return None;
        };
        // Before it is copied, so that less has to be kept meanwhile.
        let cqe = self.queues.matcher().land(&landing, &message);
        if let Some(to) = landing.place() {
            peer.rx.copy_out(&arrival, to);
        }
        peer.rx.advance(&arrival);
        self.took_one(peer);
        Some(cqe)
    }

    /// Copies the message at the front of a lane to where it belongs.
    #[inline(always)]
    fn copy_out(&self, peer: &Peer<'s>, arrival: &Arrival<'s>, landing: &mut Landing) {
        match landing.place() {
            Some(to) => peer.rx.copy_out(arrival, to),
            // Copies, so that neither need lie in memory for the other messages.
            None => self.scatter(peer, *arrival, *landing),
        }
    }

    #[cold]
    #[inline(never)]
    fn scatter(&self, peer: &Peer<'s>, arrival: Arrival<'s>, landing: Landing) {
        let copy = |from, to: &mut [u8]| peer.rx.copy_out_part(&arrival, from, to);
        self.queues.matcher().scatter(&landing, (0, arrival.length), copy);
    }

    /// A message of that peer was handed out by itself.
    #[inline(always)]
    pub(super) fn took_one(&self, peer: &Peer<'s>) {
        peer.note_taken();
        self.since_harvest.set(self.since_harvest.get().wrapping_add(1));
    }

    /// The next look is at everything.
    #[inline(always)]
    pub(super) fn see_all_next(&self) {
        self.since_harvest.set(READY_MAX);
        self.see_all.set(true);
    }

    /// One look at everything, up to the room in `out`.
    #[inline(always)]
    pub(super) fn harvest(&self, out: &mut VecView<Cqe>) {
        let sends_first = self.queues.sends_go_first();
        self.since_harvest.set(0);
        self.see_all.set(false);
        self.parcel_is_next.set(false);
        self.restless.set(false);
        // Who comes first takes turns, so that a flood of sends does not keep out what has come, or the other way round.
        let local = !(self.done.is_empty() && self.queues.none_ended());
        if local && sends_first {
            self.finish_local(out);
        }
        self.take_in(out);
        if local && !sends_first {
            self.finish_local(out);
        }
        let more = !(self.done.is_empty() && self.queues.none_ended());
        if more || self.connecting.get() > 0 || out.is_full() {
            self.restless.set(true);
        }
    }

    /// What has come from the peers.
    #[inline(always)]
    fn take_in(&self, out: &mut VecView<Cqe>) {
        if !self.queues.matcher().settle(out) {
            return;
        }
        let epoch = self.segment.liveness_epoch();
        if epoch != self.epoch.get() {
            self.epoch.set(epoch);
            self.look_at_everybody();
        }
        if self.connecting.get() > 0 {
            self.look_at_connecting();
        }
        self.take_news();
        let hot = self.hot_count.get();
        let mut at = self.hot_next.get();
        for _ in 0..hot {
            if at >= self.hot_count.get() {
                at = 0;
            }
            // A lane that turns cold gives its place to the last one, which is then looked at next.
            if self.visit_hot(at, out) {
                at = at.wrapping_add(1);
            }
        }
        // The next turn starts with another lane, so that none is always served last.
        self.hot_next.set(self.hot_next.get().wrapping_add(1));
        if self.hot_next.get() >= self.hot_count.get() {
            self.hot_next.set(0);
        }
        self.sweep();
        if self.queues.is_late() {
            self.fail_late(out);
        }
    }

    /// Completions that need no lane.
    #[inline(never)]
    fn finish_local(&self, out: &mut VecView<Cqe>) {
        let sends = || Some(Cqe::without_message(self.done.pop()?, Status::Success));
        self.queues.finish(sends, out);
    }

    /// Lanes whose senders say that there is something in them.
    #[inline(always)]
    pub(super) fn take_news(&self) {
        for (word, news) in self.news.iter().take(self.news_words.get()).enumerate() {
            if news.load(Ordering::Relaxed) != 0 {
                // SYNC(news): Acquire pairs with the Release in lane_table::announce.
                self.hear(word, news.swap(0, Ordering::Acquire));
            }
        }
    }

    #[inline(never)]
    fn hear(&self, word: usize, mut bits: u64) {
        let base = u32::try_from(word).unwrap_or(0).wrapping_mul(64);
        while bits != 0 {
            let lane = base.wrapping_add(bits.trailing_zeros());
            bits &= bits.wrapping_sub(1);
            match self.row_for_lane(lane) {
                Some((row, peer)) => self.heat(row, peer),
                None => self.meet(lane),
            }
        }
    }

    fn row_for_lane(&self, lane: u32) -> Option<(u32, &'m Peer<'s>)> {
        let row = self.row_of_lane.get(usize::try_from(lane).ok()?)?.get();
        let peer = self.peers.at(row)?;
        Some((row, peer))
    }

    /// From now on the peer's lane is looked at every turn.
    pub(super) fn heat(&self, row: u32, peer: &Peer<'s>) {
        peer.state.looks.set(0);
        if peer.is_hot.replace(true) {
            return;
        }
        let count = self.hot_count.get();
        if let Some(place) = self.hot.get(usize::try_from(count).unwrap_or(usize::MAX)) {
            place.set(row);
            self.hot_count.set(count.wrapping_add(1));
        }
        self.set_cold(row, false);
        if peer.rx_lane.get().is_some() {
            peer.rx.arm(self.bells.is_armed());
        }
    }

    pub(super) fn set_cold(&self, row: u32, cold: bool) {
        let changed = if cold { self.cold.insert(row) } else { self.cold.remove(row) };
        debug_assert!(changed.is_ok(), "there is a bit for every row");
    }

    /// From now on it is looked at when its sender says so.
    pub(super) fn cool(&self, row: u32, peer: &Peer<'s>) {
        if !peer.is_hot.replace(false) {
            return;
        }
        let count = self.hot_count.get();
        let places = self.hot.get(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
        if let (Some(place), Some(last)) =
            (places.iter().find(|place| place.get() == row), places.last())
        {
            place.set(last.get());
            last.set(NIL);
            self.hot_count.set(count.wrapping_sub(1));
        }
        if peer.rx_lane.get().is_some() {
            self.set_cold(row, true);
            peer.rx.return_credit();
            peer.rx.arm(true);
        }
    }

    /// Looks at the hot lane in place `at`. Returns whether it is still there.
    #[inline(always)]
    fn visit_hot(&self, at: u32, out: &mut VecView<Cqe>) -> bool {
        let Some(place) = self.hot.get(usize::try_from(at).unwrap_or(usize::MAX)) else {
            return true;
        };
        let row = place.get();
        let Some(peer) = self.peers.at(row) else {
            return true;
        };
        match self.drain(row, peer, out) {
            Look::Some => peer.state.looks.set(0),
            Look::Waits => {
                self.restless.set(true);
                if peer.state.is_lost() && peer.is_stalled() {
                    self.bury(row, peer, out);
                }
            }
            Look::Empty => {
                if peer.state.is_lost() {
                    self.restless.set(true);
                    self.bury(row, peer, out);
                    return peer.is_hot.get();
                }
                let idle = peer.state.looks.get().wrapping_add(1);
                peer.state.looks.set(idle);
                if idle >= IDLE_LOOKS_MAX {
                    peer.state.looks.set(0);
                    if self.hot_count.get() > HOT_KEPT {
                        self.cool(row, peer);
                        return false;
                    }
                }
            }
        }
        true
    }

    /// One cold lane, in case that its news was missed.
    #[inline(always)]
    fn sweep(&self) {
        let Some(row) = self.cold.next_from(self.sweep_next.get()) else { return };
        self.sweep_next.set(row.wrapping_add(1));
        self.look_at_cold(row);
    }

    #[inline(always)]
    pub(super) fn look_at_cold(&self, row: u32) {
        if let Some(peer) = self.peers.at(row) {
            // Nothing there: stay cold. Something, or nonsense: the hot path deals with it.
            if !matches!(peer.rx.peek(), Ok(None)) {
                self.heat(row, peer);
            }
        }
    }

    /// Takes messages out of a lane.
    #[inline(always)]
    fn drain(&self, row: u32, peer: &Peer<'s>, out: &mut VecView<Cqe>) -> Look {
        let source = peer.state.addr(row);
        let mut look = Look::Empty;
        for _ in 0..LANE_QUOTA {
            let arrival = match peer.rx.peek() {
                Ok(Some(arrival)) => arrival,
                Ok(None) => return look,
                Err(_corrupt) => {
                    self.cut_off(row, peer);
                    return look;
                }
            };
            if arrival.content == Content::Parcel {
                match self.admit_parcel(row, peer, out) {
                    Admitted::Yes => look = Look::Some,
                    Admitted::Waits => return Look::Waits,
                    Admitted::CutOff => return look,
                }
                continue;
            }
            let message = Incoming { source, envelope: arrival.envelope, length: arrival.length };
            match self.queues.find_receive(&message, out) {
                Found::Receive(mut landing) => {
                    self.copy_out(peer, &arrival, &mut landing);
                    peer.rx.advance(&arrival);
                    let (more, start) = landing.more();
                    if more > 0 {
                        let stride = landing.stride();
                        let room = stride.wrapping_mul(more);
                        let to = landing.sge.part(start, room).unwrap_or_default();
                        let taken = peer.rx.take_run(&arrival, to, stride);
                        landing.add(taken);
                    }
                    self.queues.land(&landing, &message, out);
                }
                Found::Nobody => {
                    let matcher = self.queues.matcher();
                    if !matcher.stash(&message, |to| peer.rx.copy_out(&arrival, to)) {
                        peer.stalled_at.set(Some(peer.rx.position()));
                        return Look::Waits;
                    }
                    peer.rx.advance(&arrival);
                }
                Found::NoRoom => return Look::Waits,
            }
            look = Look::Some;
        }
        look
    }

    /// The peer wrote nonsense: nothing of its lane is looked at again.
    #[cold]
    pub(super) fn cut_off(&self, row: u32, peer: &Peer<'s>) {
        self.let_go(row, peer);
        self.segment.raise_epoch();
        self.lose(row, peer, Standing::Corrupt);
    }
}
