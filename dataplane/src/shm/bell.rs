//! Bells: how an endpoint whose owner sleeps hears of what is published to it.
//!
//! ```text
//!   sleeper                                        whoever publishes to it
//!     bell = ARMED, every lane armed                 publish: head word of the lane
//!     barrier on all CPUs (membarrier)               (nothing: the compiler keeps the order)
//!     look at every lane, the news, the epoch        lane armed?          no: done, nobody sleeps
//!     sleep while bell == ARMED                        bit in the news line
//!                                                      bell == ARMED?     no: done
//!                                                        bell = 0, wake
//! ```
//!
//! Either the sleeper's look finds what was published, or the publisher finds the lane and the bell armed. On the path of a
//! publisher to somebody awake there is no fence, no load and no branch that was not there before: the mark that it looks
//! at is that of cold lanes. The price is the sleeper's, who interrupts every CPU that runs a process of a domain, once
//! each time that it goes to sleep.
//!
//! Invariants: a bell is a hint. One that a peer scribbled over, or that nobody rings because the ringer was killed between
//! publishing and ringing, costs the owner time until its own limit ends the sleep; one that is armed for nothing costs a
//! publisher a system call. Who has no [`Waker`] leaves bells alone, so that somebody else can still ring them.

use core::fmt;
use core::mem::offset_of;

use spinwire_layouts::shm::{BELL_ARMED, EndpointEntry};

use super::segment::Segment;
use crate::raw::barrier::store_before_load_of_bell;
use crate::raw::line::word;
use crate::sync::{AtomicU64, Ordering};

const BELL: usize = offset_of!(EndpointEntry, bell) / 8;

/// How a thread that sleeps on a word of shared memory is woken: a system call, which the host hands in.
#[derive(Clone, Copy)]
pub struct Waker(fn(&AtomicU64));

impl Waker {
    /// Wakes by `wake`, which gets the bell after it was set to awake. It must return soon and not panic.
    #[must_use]
    pub const fn new(wake: fn(&AtomicU64)) -> Self {
        Self(wake)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// The bell of the endpoint in `slot`.
#[must_use]
pub fn bell<'s>(segment: &Segment<'s>, slot: u32) -> Option<&'s AtomicU64> {
    word(segment.endpoint(slot)?, BELL)
}

/// Wakes the owner of the endpoint in `slot` if it sleeps: to be called after something was published that it has to see.
/// Returns whether there was somebody to wake. A load while nobody sleeps.
#[inline]
#[allow(clippy::must_use_candidate, reason = "ringing is the point; the answer is for counters")]
pub fn ring(segment: &Segment<'_>, slot: u32) -> bool {
    store_before_load_of_bell();
    bell(segment, slot)
        .is_some_and(|bell| bell.load(Ordering::Relaxed) == BELL_ARMED && wake(segment, bell))
}

/// Wakes every owner that sleeps: something was published that concerns all.
pub(super) fn ring_all(segment: &Segment<'_>) {
    if segment.waker().is_some() {
        for slot in 0..segment.geometry().endpoint_count {
            ring(segment, slot);
        }
    }
}

#[cold]
#[inline(never)]
fn wake(segment: &Segment<'_>, bell: &AtomicU64) -> bool {
    let Some(Waker(wake)) = segment.waker() else { return false };
    // Of several that saw the mark, one takes it and makes the call.
    // SYNC(rung): Release pairs with the Acquire of the sleeper that finds its bell taken.
    let taken = bell.swap(0, Ordering::Release) == BELL_ARMED;
    if taken {
        wake(bell);
    }
    taken
}
