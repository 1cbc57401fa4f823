//! How long nothing has come, counted by who waits for it.
//!
//! Time in which this process did not run counts little: it may have been stopped, and the other end with it. Whoever is let go on looks at the clock
//! before the other end could say anything, and must not hold it for gone.

use core::cell::Cell;
use core::time::Duration;
use std::time::Instant;

/// The most that counts of the time between two looks. Who runs looks far more often.
pub(super) const MOMENT: Duration = Duration::from_millis(200);

/// A wait, as far as this process was there to wait.
#[derive(Debug)]
pub(super) struct Silence {
    looked: Cell<Option<Instant>>,
    lasts: Cell<Duration>,
    is_broken: Cell<bool>,
}

impl Silence {
    pub(super) const fn new() -> Self {
        let (looked, lasts) = (Cell::new(None), Cell::new(Duration::ZERO));
        Self { looked, lasts, is_broken: Cell::new(false) }
    }

    /// Something has come.
    #[inline(always)]
    pub(super) fn broken(&self) {
        self.is_broken.set(true);
    }

    /// How long it has lasted `now`; zero where something has come since the last look.
    #[cold]
    pub(super) fn at(&self, now: Instant) -> Duration {
        let before = self.looked.replace(Some(now)).unwrap_or(now);
        let passed = now.saturating_duration_since(before).min(MOMENT);
        let lasts = if self.is_broken.replace(false) {
            Duration::ZERO
        } else {
            self.lasts.get().saturating_add(passed)
        };
        self.lasts.set(lasts);
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_is_not_waited_for() {
        let (silence, mut now) = (Silence::new(), Instant::now());
        let mut after = |span| {
            now += span;
            silence.at(now)
        };
        assert_eq!(after(MOMENT * 50), Duration::ZERO, "it begins with the first look");
        assert_eq!(after(MOMENT / 2), MOMENT / 2);
        assert_eq!(after(MOMENT * 1000), MOMENT / 2 + MOMENT, "this process was stopped");
        silence.broken();
        assert_eq!(after(MOMENT), Duration::ZERO, "something has come");
        assert_eq!((0..10).map(|_| after(MOMENT)).last(), Some(MOMENT * 10));
    }
}
