//! How long a part of a measurement may take, whatever becomes of the rate that it was planned by.
//!
//! ```text
//!   sender     message 0 1 2 .. n-1   time is up: order Enough { n }    waits for the answer
//!   receiver   takes them                          goes on until it has n, answers
//! ```
//!
//! What was sent counts, and the time that it took: a stream that ends early tells how fast it was as well as a whole one.

use core::cell::Cell;
use core::time::Duration;
use std::time::Instant;

/// Asks between two looks at the clock. A sender asks once a batch.
const ASKS: u32 = 16;

/// After so many times the seconds that were asked for, no further round begins.
const ROUNDS_SLACK: f64 = 1.25;

/// A moment after which no more is begun.
#[derive(Debug)]
pub(crate) struct Limit {
    until: Option<Instant>,
    asks: Cell<u32>,
}

impl Limit {
    /// There is none.
    pub(crate) const fn none() -> Self {
        Self { until: None, asks: Cell::new(0) }
    }

    /// So many seconds from now; none where there are none, or more than a clock can tell.
    pub(crate) fn after(seconds: Option<f64>) -> Self {
        let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self { until: span.and_then(|span| Instant::now().checked_add(span)), ..Self::none() }
    }

    /// For rounds that were planned to take so many seconds.
    pub(crate) fn of_rounds(seconds: Option<f64>) -> Self {
        Self::after(seconds.map(|seconds| seconds * ROUNDS_SLACK))
    }

    /// Whether a stream of `count` goes on of which `done` were sent: one is, however late it is.
    #[inline(always)]
    pub(crate) fn goes_on(&self, done: u64, count: u64) -> bool {
        if done >= count {
            return false;
        }
        let asks = self.asks.get().wrapping_add(1);
        self.asks.set(asks);
        !asks.is_multiple_of(ASKS) || done == 0 || !self.is_over()
    }

    /// Whether it has passed.
    #[cold]
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_with_its_messages_or_its_time_and_sends_one_at_least() {
        let asked = |limit: &Limit, done| (0..ASKS).all(|_| limit.goes_on(done, 5));
        let over = Limit::after(Some(0.0));
        assert!(over.is_over() && asked(&over, 0) && !asked(&over, 1));
        for open in [Limit::none(), Limit::after(None), Limit::after(Some(3600.0))] {
            assert!(!open.is_over() && asked(&open, 4) && !asked(&open, 5));
        }
        assert!(!Limit::after(Some(f64::MAX)).is_over(), "no clock goes so far");
    }
}
