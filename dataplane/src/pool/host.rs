//! What a pool needs of the host: sleep and wake for who waits, and mappings of buffers that have a segment of their own.
//!
//! ```text
//!   who waits                          who frees a slot
//!     seen = released                    slot word: free
//!     armed = seen, and 1                barrier
//!     barrier                            armed?  -> released + 1, wake all, armed = 0 if it is still the same
//!     search once more
//!     sleep while released == seen
//! ```
//!
//! Of the one who waits and the one who frees, one sees what the other did: the search finds the slot, or `armed` is seen and
//! `released` differs from what the sleeper expects. Nobody sleeps in steps, and nobody makes a system call on
//! release unless somebody waits.

use core::fmt;

use crate::raw::line::Line;
use crate::sync::AtomicU64;
use crate::time::Instant;

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slept {
    /// Woken, or the word had another value already, or for no reason: look again.
    Woken,
    /// The time is over.
    TimedOut,
}

/// The host of a pool. Nothing of it is called while buffers are to be had and mapped.
pub trait PoolHost: fmt::Debug {
    /// Sleeps while the low 32 bits of `word` are `expected`, until somebody wakes the word or `until` has come: futex(2),
    /// `FUTEX_WAIT` without the private flag. With `until` in the past it returns at once, and says so.
    fn sleep(&self, word: &AtomicU64, expected: u32, until: Option<Instant>) -> Slept;

    /// Wakes all who sleep on `word`: `FUTEX_WAKE`.
    fn wake(&self, word: &AtomicU64);

    /// The bytes of a slot that has a segment of its own, at least `bytes` of them: made where it is not there yet and somebody
    /// has the slot to write, mapped where this process has not mapped it yet, and kept. `None` where that fails; the host
    /// knows why.
    fn large(&self, slot: u32, bytes: u64) -> Option<&[Line]> {
        let _ = (slot, bytes);
        None
    }
}

/// Never sleeps, wakes nobody and maps nothing: for pools on which nobody waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl PoolHost for NoHost {
    fn sleep(&self, _word: &AtomicU64, _expected: u32, _until: Option<Instant>) -> Slept {
        Slept::TimedOut
    }

    fn wake(&self, _word: &AtomicU64) {}
}
