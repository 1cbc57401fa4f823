//! The cheapest clock there is: one counter reading a trip, turned into nanoseconds afterwards.

use std::thread;
use std::time::{Duration, Instant};

/// How long the counter is held against the system clock.
const CALIBRATION: Duration = Duration::from_millis(40);

/// A calibrated tick counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    ticks_per_ns: f64,
    step: u64,
}

impl Clock {
    /// Calibrates the counter; takes [`CALIBRATION`].
    pub(crate) fn calibrate() -> Self {
        let (started, first) = (Instant::now(), Self::ticks());
        thread::sleep(CALIBRATION);
        let ticks = Self::ticks().wrapping_sub(first);
        let ns = started.elapsed().as_nanos();
        Self { ticks_per_ns: ticks as f64 / ns as f64, step: Self::measure_step() }
    }

    /// The counter now. One instruction on `x86_64`; the kernel's clock elsewhere.
    #[inline]
    pub(crate) fn ticks() -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            #[expect(unsafe_code, reason = "the time-stamp counter has no safe reader in core")]
            // SAFETY: RDTSC exists on every x86_64 processor, and Linux leaves it open to user
            // code.
            unsafe {
                core::arch::x86_64::_rdtsc()
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            use std::sync::OnceLock;
            static START: OnceLock<Instant> = OnceLock::new();
            let elapsed = START.get_or_init(Instant::now).elapsed();
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
        }
    }

    /// Ticks as nanoseconds.
    pub(crate) fn ns(&self, ticks: f64) -> f64 {
        ticks / self.ticks_per_ns
    }

    /// The ticks in so many nanoseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length of time that is never negative, and far below the range"
    )]
    pub(crate) fn ticks_in(&self, ns: f64) -> u64 {
        (ns * self.ticks_per_ns) as u64
    }

    /// The step in which the counter advances, in ticks: two readings closer than this look the
    /// same.
    pub(crate) const fn step(&self) -> u64 {
        self.step
    }

    /// The median difference of readings back to back that differ: the step of a coarse counter,
    /// and the cost of a reading on a fine one, where it smooths a percentile by less than any
    /// machine's noise.
    fn measure_step() -> u64 {
        let mut gaps: Vec<u64> = Vec::with_capacity(4096);
        let mut last = Self::ticks();
        while gaps.len() < 4096 {
            let now = Self::ticks();
            if now != last {
                gaps.push(now.wrapping_sub(last));
            }
            last = now;
        }
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied().unwrap_or(1)
    }
}
