//! Sources that can wake the thread that polls them.
//!
//! ```text
//!   arm        every source: peers are to ring from now on
//!   barrier    by the host, where a source was armed anew: what was published by somebody who missed the mark can be seen
//!   look over  every source: where nobody looks in each turn
//!   turn       ..still nothing..
//!   sleep      until a bell is rung
//!   disarm     with the first turn that finds something
//! ```

use crate::sync::AtomicU64;

/// What arming a source came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// Whether the marks were set by this call. Then a barrier has to come before the next look; else they have stood since
    /// there was one.
    pub is_new: bool,
    /// Whether everybody who publishes to this source rings. Else a sleep has to be short.
    pub is_heard: bool,
}

/// A source that can wake the thread that polls it.
pub trait WakeSource {
    /// Has everybody who publishes to this source ring from now on. What is already armed stays so.
    fn arm(&self) -> Armed;

    /// Looks, once, at those parts of the source that a turn does not look at, after the barrier that comes after
    /// [`arm`](Self::arm). The next turn finds what this has seen.
    fn look_over(&self);

    /// Has nobody ring any more.
    fn disarm(&self);

    /// The word to sleep on, as a futex in its low half, while it is [`BELL_ARMED`](spinwire_layouts::shm::BELL_ARMED);
    /// `None` where there is none (any more). It is foreign memory: its value is a hint.
    fn bell(&self) -> Option<&AtomicU64>;
}
