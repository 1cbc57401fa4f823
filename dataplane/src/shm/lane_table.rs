//! The lane table: who sends to whom.
//!
//! ```text
//!           claim               header written             sender leaves                 receiver leaves
//!   Free ----------> Claiming ----------------> Open ---------------------> SenderLeft ------------------> Free
//!                                                 |     receiver leaves                     sender leaves
//!                                                 '-----------------------> ReceiverLeft ----------------> Free
//! ```
//!
//! Every arrow is one compare-and-swap on the state word, which holds the generation and both process slots. Whoever is the
//! last to let go frees the lane.

use core::mem::offset_of;

use spinwire_layouts::shm::{EndpointId, LaneHeader, LaneState, LaneWord};
use spinwire_layouts::word::{join, next_generation};

use super::bell;
use super::directory::{self, EndpointRef};
use super::lane::LaneMemory;
use super::segment::Segment;
use crate::error::Retry;
use crate::raw::barrier::store_before_load;
use crate::raw::line::word;
use crate::sync::{AtomicU64, Ordering};

const STATE: usize = offset_of!(LaneHeader, state) / 8;
const SENDER: usize = offset_of!(LaneHeader, sender) / 8;
const RECEIVER: usize = offset_of!(LaneHeader, receiver) / 8;
const ANSWERS: usize = offset_of!(LaneHeader, answers) / 8;

/// A compare-and-swap that lost this often is up against a scribbler, not a peer.
pub(super) const ATTEMPTS_MAX: usize = 8;

/// One end of a lane of the table: which, and which use of it.
#[derive(Clone, Copy, Debug)]
pub struct LaneEnd<'s> {
    /// Index in the lane table.
    pub lane: u32,
    /// Which use of the lane.
    pub generation: u32,
    /// Its memory.
    pub memory: LaneMemory<'s>,
}

impl LaneEnd<'_> {
    /// The word that names this use of this lane.
    #[must_use]
    pub const fn word(&self) -> u64 {
        join(self.lane, self.generation)
    }
}

/// Which end of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one that writes messages.
    Sender,
    /// The one that reads them.
    Receiver,
}

/// Whether the other end is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtherEnd {
    /// It may be, and will let go by itself.
    Present,
    /// It is known to be gone and will do nothing any more.
    Gone,
}

pub(super) fn state_word<'s>(segment: &Segment<'s>, lane: u32) -> Option<&'s AtomicU64> {
    word(segment.lane(lane)?, STATE)
}

/// Opens a lane from one endpoint to another, and tells the receiver to look at it. `answers` names the lane of the receiver
/// that it goes with, see [`answered`].
///
/// # Errors
/// `NoLane` where all lanes are in use.
pub fn open<'s>(
    segment: &Segment<'s>,
    sender: EndpointId,
    sender_process: u16,
    receiver: &EndpointRef,
    answers: u64,
) -> Result<LaneEnd<'s>, Retry> {
    for lane in 0..segment.geometry().lane_count {
        let (Some(lines), Some(memory)) = (segment.lane(lane), segment.lane_memory(lane)) else {
            break;
        };
        let Some(state) = word(lines, STATE) else { break };
        let found = state.load(Ordering::Acquire);
        let Some(LaneWord { state: LaneState::Free, generation, .. }) = LaneWord::unpack(found)
        else {
            continue;
        };
        let generation = next_generation(generation);
        let receiver_process = receiver.process;
        let claim =
            LaneWord { state: LaneState::Claiming, generation, sender_process, receiver_process };
        if state.compare_exchange(found, claim.pack(), Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            continue;
        }
        memory.reset();
        let header = [(SENDER, sender.pack()), (RECEIVER, receiver.id.pack()), (ANSWERS, answers)];
        for (at, value) in header {
            if let Some(word) = word(lines, at) {
                word.store(value, Ordering::Relaxed);
            }
        }
        let open = LaneWord { state: LaneState::Open, ..claim };
        // SYNC(open): Release pairs with the Acquire in inbound.
        if state
            .compare_exchange(claim.pack(), open.pack(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
        {
            // Who looks from now on whether the receiver is gone sees that it is, or the receiver sees this lane as it goes.
            store_before_load();
            announce(segment, receiver.id.slot, lane);
            return Ok(LaneEnd { lane, generation, memory });
        }
    }
    Err(Retry::NoLane)
}

/// Sets the bit that makes the owner of an endpoint look at a lane, and wakes it if it sleeps. Returns whether it did.
#[inline]
#[allow(clippy::must_use_candidate, reason = "the bit is the point; the answer is for counters")]
pub fn announce(segment: &Segment<'_>, receiver_slot: u32, lane: u32) -> bool {
    if let Some(news) = directory::news(segment, receiver_slot)
        && let Some(word) = usize::try_from(lane / 64).ok().and_then(|at| news.get(at))
    {
        // SYNC(news): Release pairs with the Acquire of the swap by which the owner takes its news.
        word.fetch_or(1_u64.wrapping_shl(lane % 64), Ordering::Release);
    }
    bell::ring(segment, receiver_slot)
}

/// [`announce`], to the receiver that the lane itself names: for those who take it back from its sender.
pub(super) fn announce_again(segment: &Segment<'_>, lane: u32) {
    let id = segment
        .lane(lane)
        .and_then(|lines| word(lines, RECEIVER))
        .and_then(|word| EndpointId::unpack(word.load(Ordering::Relaxed)));
    if let Some(id) = id {
        announce(segment, id.slot, lane);
    }
}

/// The receiving end of `lane`, if it is open and leads to `receiver`; and the sender.
#[must_use]
pub fn inbound<'s>(
    segment: &Segment<'s>,
    lane: u32,
    receiver: EndpointId,
) -> Option<(LaneEnd<'s>, EndpointId)> {
    let lines = segment.lane(lane)?;
    let state = word(lines, STATE)?;
    // SYNC(open): Acquire pairs with the Release in open.
    let found = LaneWord::unpack(state.load(Ordering::Acquire))?;
    if !matches!(found.state, LaneState::Open | LaneState::SenderLeft) {
        return None;
    }
    if word(lines, RECEIVER)?.load(Ordering::Relaxed) != receiver.pack() {
        return None;
    }
    let sender = EndpointId::unpack(word(lines, SENDER)?.load(Ordering::Relaxed))?;
    let memory = segment.lane_memory(lane)?;
    Some((LaneEnd { lane, generation: found.generation, memory }, sender))
}

/// The lane from its receiver that a lane goes with, as a [word](LaneEnd::word); 0 where its sender knows of none. Where both
/// lanes make one connection, this tells a lane of a connection that is over from the beginning of a new one.
///
/// Two that connect to each other at once begin with a lane each that answers none. Whoever meets the other's lane says so by
/// [`answer`] and looks again whether it is still open; whoever gives its own up reads this word only afterwards. So where
/// a lane is taken for an answer by one end and was given up by the other, at least one of them sees it.
#[must_use]
pub fn answered(segment: &Segment<'_>, lane: u32) -> u64 {
    // SYNC(answer): pairs with the same fence in answer. What was let go of before is seen to be, or the answer is seen here.
    store_before_load();
    segment
        .lane(lane)
        .and_then(|lines| word(lines, ANSWERS))
        .map_or(0, |word| word.load(Ordering::Relaxed))
}

/// The sender of `lane` says which lane of the receiver it goes with. Ask afterwards whether that one is still open.
pub fn answer(segment: &Segment<'_>, lane: u32, answers: u64) {
    if let Some(word) = segment.lane(lane).and_then(|lines| word(lines, ANSWERS)) {
        word.store(answers, Ordering::Relaxed);
    }
    // SYNC(answer): pairs with the same fence in answered.
    store_before_load();
}

/// What the state word of a lane says, for tools.
#[must_use]
pub fn state_of(segment: &Segment<'_>, lane: u32) -> Option<LaneWord> {
    LaneWord::unpack(state_word(segment, lane)?.load(Ordering::Relaxed))
}

/// Whether the sender of that use of a lane has let go of it, or died. What it published can still be read.
#[must_use]
pub fn sender_has_left(segment: &Segment<'_>, lane: u32, generation: u32) -> bool {
    // SYNC(left): Acquire pairs with the AcqRel in leave: what was published before can be seen.
    state_word(segment, lane)
        .and_then(|state| LaneWord::unpack(state.load(Ordering::Acquire)))
        .is_some_and(|word| word.generation == generation && word.state == LaneState::SenderLeft)
}

/// Lets go of one end of a lane. Whoever lets go last frees it; where the other end is gone for good, that is this one.
pub fn leave(segment: &Segment<'_>, lane: u32, generation: u32, side: Side, other: OtherEnd) {
    let Some(state) = state_word(segment, lane) else { return };
    for _attempt in 0..ATTEMPTS_MAX {
        let found = state.load(Ordering::Acquire);
        let Some(word) = LaneWord::unpack(found) else { return };
        if word.generation != generation {
            return;
        }
        let Some(next) = after_leaving(word.state, side, other) else { return };
        let next = LaneWord { state: next, ..word }.pack();
        // SYNC(left): AcqRel pairs with the Acquire in sender_has_left.
        if state.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

/// Lets go of the receiving end of all lanes to an endpoint that is out of the directory: of those that it never met.
pub(super) fn disown(segment: &Segment<'_>, receiver: EndpointId) {
    for lane in 0..segment.geometry().lane_count {
        if let Some((end, _sender)) = inbound(segment, lane, receiver) {
            let other = other_end(segment, lane, Side::Receiver);
            leave(segment, lane, end.generation, Side::Receiver, other);
        }
    }
}

/// Whether the endpoint at the other end of an open lane is still in the directory. One that is not has let go of all lanes
/// that it knew of.
pub(super) fn other_end(segment: &Segment<'_>, lane: u32, side: Side) -> OtherEnd {
    let at = match side {
        Side::Sender => RECEIVER,
        Side::Receiver => SENDER,
    };
    let id = segment
        .lane(lane)
        .and_then(|lines| word(lines, at))
        .and_then(|word| EndpointId::unpack(word.load(Ordering::Relaxed)));
    match id {
        Some(id) if !directory::is_gone(segment, id) => OtherEnd::Present,
        _ => OtherEnd::Gone,
    }
}

/// The state of a lane after `side` let go; `None` where it has nothing to let go of.
pub(super) const fn after_leaving(
    state: LaneState,
    side: Side,
    other: OtherEnd,
) -> Option<LaneState> {
    match (state, side, other) {
        (LaneState::Free, ..)
        | (LaneState::SenderLeft, Side::Sender, OtherEnd::Present)
        | (LaneState::ReceiverLeft, Side::Receiver, OtherEnd::Present)
        | (LaneState::Claiming, Side::Receiver, _) => None,
        (LaneState::Open, Side::Sender, OtherEnd::Present) => Some(LaneState::SenderLeft),
        (LaneState::Open, Side::Receiver, OtherEnd::Present) => Some(LaneState::ReceiverLeft),
        (LaneState::Claiming, Side::Sender, _)
        | (LaneState::SenderLeft, Side::Receiver, _)
        | (LaneState::ReceiverLeft, Side::Sender, _)
        | (_, _, OtherEnd::Gone) => Some(LaneState::Free),
    }
}
