//! Round trips that follow one another, timed.
//!
//! ```text
//!   send   wait ..   lap   send   record, look at what came, post its buffer again   wait ..   lap   send ..
//!                     |---------------------- a round trip -----------------------------------|
//! ```
//!
//! One reading of the clock ends a trip and begins the next one, which is sent at once: what else is to be done waits until that one is
//! under way, as a service would have it. So nothing is left out of what is timed.

use hdrhistogram::Histogram;
use spinwire_hostshim::clock::TscClock;

/// A clock at the laps of which round trips end.
pub(crate) struct Laps<'s> {
    clock: &'s TscClock,
    into: &'s mut Histogram<u64>,
    began: u64,
    since: u64,
    ticks: u64,
}

impl<'s> Laps<'s> {
    /// The first trip begins now.
    pub(crate) fn begin(clock: &'s TscClock, into: &'s mut Histogram<u64>) -> Self {
        let now = clock.ticks();
        Self { clock, into, began: now, since: now, ticks: 0 }
    }

    /// A trip is over: what was awaited has been seen.
    #[inline(always)]
    pub(crate) fn lap(&mut self) {
        let now = self.clock.ticks_after_loads();
        self.ticks = now.saturating_sub(self.since);
        self.since = now;
    }

    /// Records the trip that ended last.
    #[inline(always)]
    pub(crate) fn record(&mut self) {
        self.into.saturating_record(self.clock.ticks_to_ns(self.ticks).max(1));
    }

    /// Nanoseconds from the beginning to the last lap.
    pub(crate) fn ns(&self) -> u64 {
        self.clock.ticks_to_ns(self.since.saturating_sub(self.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_lies_between_two_trips() {
        let clock = TscClock::kernel();
        let mut into = Histogram::new_with_bounds(1, 60_000_000_000, 5).expect("bounds are good");
        let mut laps = Laps::begin(&clock, &mut into);
        let mut all = 0;
        for lap in 1..=100 {
            for _ in 0..lap {
                core::hint::black_box(clock.ticks());
            }
            laps.lap();
            laps.record();
            all += laps.ticks;
        }
        assert_eq!(laps.ns(), all);
        assert_eq!(into.len(), 100);
        assert!(into.max() <= all && into.min() >= 1);
    }
}
