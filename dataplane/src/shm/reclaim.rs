//! Reclaim: taking back from the dead what they held.
//!
//! ```text
//!   1. endpoints                  out of the directory
//!   2. lanes that it sent on      let go of its end
//!   3. lanes that it received on  let go of its end
//!   4. the epoch                  raised: everybody looks
//!   5. the process slot           free
//! ```
//!
//! A lane whose other endpoint is out of the directory is freed, for nobody else will: its other end may have died while the
//! lane was being opened, or may never have met it. Hence the endpoints first: of two ends that are taken back at the same
//! time, one finds the other gone, or the lane as the other has left it.
//!
//! Any number of survivors may do this at the same time, stop anywhere, and begin again. Each step is one compare-and-swap
//! from a word that was read *before* the process slot was seen to be dead still: the slot is freed last, so such a word
//! can only be about the dead process, never about a successor in the same slot; and if the word has changed since, the
//! swap fails, and is tried again from what is there now.

use spinwire_layouts::shm::{LaneState, LaneWord, Lease, LeaseState};

use super::lane_table::{ATTEMPTS_MAX, Side, after_leaving, announce_again, other_end, state_word};
use super::segment::Segment;
use super::{directory, lease};
use crate::raw::barrier::store_before_load;
use crate::sync::{AtomicU64, Ordering};

/// Takes back everything that the process in `slot` held, if it is marked dead. Returns whether the slot is free now because
/// of this call.
///
/// Mark it first: [`lease::mark_dead`].
#[must_use]
pub fn reclaim(segment: &Segment<'_>, slot: u16) -> bool {
    let Some(process) = lease::lease_word(segment, slot) else { return false };
    let dead = process.load(Ordering::Acquire);
    let Some(Lease { state: LeaseState::Dead, generation, .. }) = Lease::unpack(dead) else {
        return false;
    };
    let still_dead = || process.load(Ordering::Acquire) == dead;
    for endpoint in 0..segment.geometry().endpoint_count {
        if let Some(state) = directory::lease_word(segment, endpoint) {
            free_endpoint(state, slot, still_dead);
        }
    }
    // Of two survivors that take back the two ends of a lane, at least one must see what the other has done.
    store_before_load();
    for lane in 0..segment.geometry().lane_count {
        leave_lane(segment, lane, (slot, Side::Sender), still_dead);
        leave_lane(segment, lane, (slot, Side::Receiver), still_dead);
    }
    segment.raise_epoch();
    let free = Lease { state: LeaseState::Free, generation, subject: 0 }.pack();
    process.compare_exchange(dead, free, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn leave_lane(
    segment: &Segment<'_>,
    lane: u32,
    (slot, side): (u16, Side),
    still_dead: impl Fn() -> bool,
) {
    let Some(state) = state_word(segment, lane) else { return };
    for _attempt in 0..ATTEMPTS_MAX {
        let found = state.load(Ordering::Acquire);
        let Some(word) = LaneWord::unpack(found) else { return };
        let process = match side {
            Side::Sender => word.sender_process,
            Side::Receiver => word.receiver_process,
        };
        if process != slot || !still_dead() {
            return;
        }
        if (word.state, side) == (LaneState::Open, Side::Sender) {
            // It may have died before it had told the receiver of the lane, who would never meet it then, nor let go of it.
            // First this, then the state: whoever begins again finds the lane as it was, or the receiver told.
            announce_again(segment, lane);
        }
        // A lane that its sender was still opening when the receiver died stays the sender's to close.
        let other = other_end(segment, lane, side);
        let Some(next) = after_leaving(word.state, side, other) else { return };
        let next = LaneWord { state: next, ..word }.pack();
        // A failure means that the other end, or another survivor, was faster: what has it left?
        if state.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

fn free_endpoint(state: &AtomicU64, slot: u16, still_dead: impl Fn() -> bool) {
    let found = state.load(Ordering::Acquire);
    let Some(lease) = Lease::unpack(found) else { return };
    if lease.state == LeaseState::Free || lease.subject != u32::from(slot) || !still_dead() {
        return;
    }
    let free = Lease { state: LeaseState::Free, subject: 0, ..lease }.pack();
    let _lost_to_another = state.compare_exchange(found, free, Ordering::AcqRel, Ordering::Relaxed);
}
