//! Reclaim: taking back from the dead what they held.
//!
//! ```text
//!   1. lanes that it sent on      let go of its end
//!   2. lanes that it received on  let go of its end
//!   3. endpoints                  out of the directory
//!   4. the epoch                  raised: everybody looks
//!   5. the process slot           free
//! ```
//!
//! Any number of survivors may do this at the same time, stop anywhere, and begin again. Each step is one compare-and-swap
//! from a word that was read *before* the process slot was seen to be dead still: the slot is freed last, so such a word
//! can only be about the dead process, never about a successor in the same slot; and if the word has changed since, the
//! swap fails.

use spinwire_layouts::shm::{LaneWord, Lease, LeaseState};

use super::lane_table::{OtherEnd, Side, after_leaving, state_word};
use super::segment::Segment;
use super::{directory, lease};
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
    for lane in 0..segment.geometry().lane_count {
        if let Some(state) = state_word(segment, lane) {
            leave_lane(state, slot, Side::Sender, still_dead);
            leave_lane(state, slot, Side::Receiver, still_dead);
        }
    }
    for endpoint in 0..segment.geometry().endpoint_count {
        if let Some(state) = directory::lease_word(segment, endpoint) {
            free_endpoint(state, slot, still_dead);
        }
    }
    segment.raise_epoch();
    let free = Lease { state: LeaseState::Free, generation, subject: 0 }.pack();
    process.compare_exchange(dead, free, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn leave_lane(state: &AtomicU64, slot: u16, side: Side, still_dead: impl Fn() -> bool) {
    let found = state.load(Ordering::Acquire);
    let Some(word) = LaneWord::unpack(found) else { return };
    let process = match side {
        Side::Sender => word.sender_process,
        Side::Receiver => word.receiver_process,
    };
    if process != slot || !still_dead() {
        return;
    }
    // A lane that its sender was still opening when the receiver died stays the sender's to close.
    if let Some(next) = after_leaving(word.state, side, OtherEnd::Present) {
        let next = LaneWord { state: next, ..word }.pack();
        // A failure means that the other end, or another survivor, was faster.
        let _lost_to_another =
            state.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed);
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
