//! The clock of the poll loop: the processor's time-stamp counter, calibrated once, read without a system call.
//!
//! ```text
//!   ns = base_ns + ((ticks - base_ticks) * mult >> 48)        one RDTSC, one multiplication, no float
//! ```
//!
//! The counter is used where it is invariant (CPUID 8000_0007h, EDX bit 8: one rate in every power state) and
//! the kernel, which watches it, still lists it among its clock sources; and where the kernel keeps time by it itself, as in guests whose
//! hypervisor hides that bit: one that stops or changes its rate is no clock source of Linux for long (`mark_tsc_unstable`). Otherwise the
//! clock falls back to `CLOCK_MONOTONIC` and says why. The rate is measured against `CLOCK_MONOTONIC_RAW`, which no NTP slews, and compared
//! with the rate that CPUID states, if it states one.
//!
//! Invariants: what [`TscClock::now_ns`] returns never decreases on one clock; a clock belongs to one thread (it is not
//! `Sync`; clone it for another).

use core::cell::Cell;
use core::fmt;
use core::time::Duration;
use std::fs;
use std::path::Path;
use std::time::Instant;

use spinwire_dataplane::time::Instant as Now;

use crate::raw::syscall::clock_ns;
use crate::raw::tsc;

/// Binary digits behind the point of [`Rate::mult`]. With 48 of them the rounding of a rate of 1 GHz or more is below
/// 4e-15, a nanosecond in three days, and the slowest accepted counter still fits.
const SHIFT: u32 = 48;
/// Slowest counter that is believed.
const HZ_MIN: u64 = 1_000_000;
/// Fastest counter that is believed.
const HZ_MAX: u64 = 100_000_000_000;
/// Readings of both clocks at either end of a calibration; the tightest one counts.
const READINGS: u32 = 32;
/// Beyond this difference (in billionths) between measured and stated rate, one of them is wrong.
const STATED_TOLERANCE_PPB: u64 = 1_000_000;
const BILLION: u64 = 1_000_000_000;

/// Why the time-stamp counter is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// This processor family has none that is known to be fit.
    Architecture,
    /// Its rate changes with the power state, for all that is known: the processor, or the hypervisor, does not say otherwise, and the kernel
    /// keeps time by something else.
    NotInvariant,
    /// The kernel does not list it as a clock source, or does not tell: it may have found the counters of two CPUs apart.
    KernelDistrusts,
    /// What was measured cannot be a counter: too slow, too fast, or standing still.
    Implausible,
    /// The caller asked for the kernel's clock.
    Asked,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Architecture => "no time-stamp counter is supported on this processor family",
            Self::NotInvariant => "the time-stamp counter changes its rate with the power state",
            Self::KernelDistrusts => {
                "the kernel does not list the time-stamp counter as a clock source"
            }
            Self::Implausible => "the time-stamp counter does not count plausibly",
            Self::Asked => "the kernel's clock was asked for",
        })
    }
}

/// What a clock reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockSource {
    /// The time-stamp counter: a few nanoseconds per reading.
    Tsc,
    /// `CLOCK_MONOTONIC` through the vDSO: tens of nanoseconds, or a system call where the kernel's own source is slow.
    Monotonic(Fallback),
}

impl fmt::Display for ClockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tsc => f.write_str("tsc"),
            Self::Monotonic(why) => write!(f, "clock_monotonic ({why})"),
        }
    }
}

/// A rate in ticks per second and its fixed-point inverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rate {
    hz: u64,
    /// Nanoseconds per tick, times 2^48.
    mult: u64,
}

impl Rate {
    /// None outside of the believed range; within it, `mult` fits and is not zero.
    fn new(hz: u64) -> Option<Self> {
        let scaled = (u128::from(BILLION) << SHIFT).checked_add(u128::from(hz / 2))?;
        let mult = u64::try_from(scaled.checked_div(u128::from(hz))?).ok()?;
        (HZ_MIN..=HZ_MAX).contains(&hz).then_some(Self { hz, mult })
    }

    /// Saturates after 584 years.
    #[inline(always)]
    fn ns(self, ticks: u64) -> u64 {
        let product = (u128::from(ticks) * u128::from(self.mult)) >> SHIFT;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

/// Both clocks read as close together as it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    ticks: u64,
    raw_ns: u64,
    /// The counter was read at some moment within this many ns before or after `raw_ns`.
    slack_ns: u64,
}

impl Reading {
    /// The tightest of several sandwiches `clock, counter, clock`.
    fn take() -> Self {
        let mut best = Self { ticks: 0, raw_ns: 0, slack_ns: u64::MAX };
        for _ in 0..READINGS {
            let before = clock_ns(libc::CLOCK_MONOTONIC_RAW);
            let ticks = tsc::ticks();
            let after = clock_ns(libc::CLOCK_MONOTONIC_RAW);
            let half = after.saturating_sub(before) / 2;
            if half < best.slack_ns {
                best = Self { ticks, raw_ns: before.saturating_add(half), slack_ns: half };
            }
        }
        best
    }
}

/// How far a clock was off when it was looked at: see [`TscClock::drift`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drift {
    /// This clock minus `CLOCK_MONOTONIC_RAW`, in ns.
    pub ns: i64,
    /// Nanoseconds since the calibration.
    pub over_ns: u64,
    /// How far off the look itself may be, in ns.
    pub slack_ns: u64,
}

/// A monotonic clock in nanoseconds. Read by one thread; clones share the calibration.
#[derive(Clone, Debug)]
pub struct TscClock {
    source: ClockSource,
    base_ticks: u64,
    base_ns: u64,
    base_slack_ns: u64,
    rate: Rate,
    last_ns: Cell<u64>,
    error_ppb: u64,
    stated_hz: Option<u64>,
}

impl TscClock {
    /// Calibrates over 50 ms, which gives an error of a few parts per million. Blocks for that long.
    #[must_use]
    pub fn calibrate() -> Self {
        Self::calibrate_for(Duration::from_millis(50))
    }

    /// Calibrates over `window`; the error falls as it grows.
    #[must_use]
    pub fn calibrate_for(window: Duration) -> Self {
        match fit(Path::new("/")) {
            Ok(facts) => Self::measured(window, facts),
            Err(why) => Self::fallback(why),
        }
    }

    /// The kernel's clock, even where the counter would do: for comparisons.
    #[must_use]
    pub const fn kernel() -> Self {
        Self::fallback(Fallback::Asked)
    }

    fn measured(window: Duration, facts: tsc::CounterFacts) -> Self {
        let start = Reading::take();
        let began = Instant::now();
        while let Some(left) = window.checked_sub(began.elapsed()) {
            std::thread::sleep(left);
        }
        Self::between(start, Reading::take(), facts.stated_hz)
    }

    /// The clock whose rate is that between two readings.
    fn between(start: Reading, end: Reading, stated_hz: Option<u64>) -> Self {
        let ns = end.raw_ns.saturating_sub(start.raw_ns);
        let ticks = end.ticks.saturating_sub(start.ticks);
        let hz = (u128::from(ticks) * u128::from(BILLION)).checked_div(u128::from(ns));
        let Some(rate) = hz.and_then(|hz| Rate::new(u64::try_from(hz).ok()?)) else {
            return Self::fallback(Fallback::Implausible);
        };
        let slack = u128::from(start.slack_ns.saturating_add(end.slack_ns).saturating_add(1));
        let error = (slack * u128::from(BILLION)).checked_div(u128::from(ns)).unwrap_or(u128::MAX);
        Self {
            source: ClockSource::Tsc,
            base_ticks: end.ticks,
            base_ns: end.raw_ns,
            base_slack_ns: end.slack_ns,
            rate,
            last_ns: Cell::new(end.raw_ns),
            error_ppb: u64::try_from(error).unwrap_or(u64::MAX),
            stated_hz,
        }
    }

    const fn fallback(why: Fallback) -> Self {
        Self {
            source: ClockSource::Monotonic(why),
            base_ticks: 0,
            base_ns: 0,
            base_slack_ns: 0,
            rate: Rate { hz: BILLION, mult: 1 << SHIFT },
            last_ns: Cell::new(0),
            error_ppb: 0,
            stated_hz: None,
        }
    }

    /// The raw counter: ticks of the time-stamp counter, or ns where the clock fell back. For spans that are turned into
    /// ns later, by [`TscClock::ticks_to_ns`].
    #[inline(always)]
    #[must_use]
    pub fn ticks(&self) -> u64 {
        match self.source {
            ClockSource::Tsc => tsc::ticks(),
            ClockSource::Monotonic(_) => clock_ns(libc::CLOCK_MONOTONIC),
        }
    }

    /// Like [`TscClock::ticks`], but not read before what was loaded earlier has arrived: for the end of a span. Without
    /// that the processor may read the counter while it still guesses that the awaited message has come.
    #[inline(always)]
    #[must_use]
    pub fn ticks_after_loads(&self) -> u64 {
        match self.source {
            ClockSource::Tsc => tsc::ticks_after_loads(),
            ClockSource::Monotonic(_) => clock_ns(libc::CLOCK_MONOTONIC),
        }
    }

    /// Turns a span of ticks into ns, rounded down.
    #[inline(always)]
    #[must_use]
    pub fn ticks_to_ns(&self, ticks: u64) -> u64 {
        self.rate.ns(ticks)
    }

    /// Nanoseconds since an origin that lies near the machine's start. Never less than the last answer of this clock.
    /// Clocks of the same source on one machine agree to within their errors; clocks of different sources do not.
    #[inline]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let ticks = self.ticks().saturating_sub(self.base_ticks);
        let ns = self.base_ns.saturating_add(self.rate.ns(ticks)).max(self.last_ns.get());
        self.last_ns.set(ns);
        ns
    }

    /// [`TscClock::now_ns`] in the type that a turn takes.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Now {
        Now::from_nanos(self.now_ns())
    }

    /// What is read.
    #[must_use]
    pub const fn source(&self) -> ClockSource {
        self.source
    }

    /// Ticks per second, as measured.
    #[must_use]
    pub const fn ticks_per_second(&self) -> u64 {
        self.rate.hz
    }

    /// Ticks per second as the processor or the hypervisor states it, if it does.
    #[must_use]
    pub const fn stated_ticks_per_second(&self) -> Option<u64> {
        self.stated_hz
    }

    /// Do the measured and the stated rate agree to a thousandth? None where no rate is stated.
    #[must_use]
    pub fn agrees_with_stated(&self) -> Option<bool> {
        let apart = u128::from(self.stated_hz?.abs_diff(self.rate.hz)) * u128::from(BILLION);
        Some(apart <= u128::from(STATED_TOLERANCE_PPB) * u128::from(self.rate.hz))
    }

    /// Bound of the rate's error in billionths, from how closely the two clocks could be read together. 1000 means that a
    /// measured millisecond may be a nanosecond off.
    #[must_use]
    pub const fn error_ppb(&self) -> u64 {
        self.error_ppb
    }

    /// Compares this clock with `CLOCK_MONOTONIC_RAW` now. Zero where the clock fell back. Makes system calls on machines
    /// whose kernel clock needs them, so not for a turn.
    #[must_use]
    pub fn drift(&self) -> Drift {
        if self.source != ClockSource::Tsc {
            return Drift { ns: 0, over_ns: 0, slack_ns: 0 };
        }
        let now = Reading::take();
        let over_ns = self.rate.ns(now.ticks.saturating_sub(self.base_ticks));
        let mine = i128::from(self.base_ns.saturating_add(over_ns));
        let ns = i64::try_from(mine - i128::from(now.raw_ns)).unwrap_or(i64::MAX);
        Drift { ns, over_ns, slack_ns: now.slack_ns }
    }

    /// The same clock with the rate measured anew, over all the time since its calibration: the longer ago, the better.
    /// Takes no time; what it shows may jump forward or stand still by the drift, and does not go back.
    #[must_use]
    pub fn recalibrated(&self) -> Self {
        if self.source != ClockSource::Tsc {
            return self.clone();
        }
        let start =
            Reading { ticks: self.base_ticks, raw_ns: self.base_ns, slack_ns: self.base_slack_ns };
        let end = Reading::take();
        let renewed = Self::between(start, end, self.stated_hz);
        if renewed.source != ClockSource::Tsc {
            return self.clone();
        }
        renewed.last_ns.set(self.last_ns.get().max(end.raw_ns));
        renewed
    }
}

/// May the counter be used? Root is `/`, or a made-up tree in a test.
fn fit(root: &Path) -> Result<tsc::CounterFacts, Fallback> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Fallback::Architecture);
    }
    let source = |file: &str| {
        let folder = root.join("sys/devices/system/clocksource/clocksource0");
        fs::read_to_string(folder.join(file)).unwrap_or_default()
    };
    let facts = tsc::facts();
    if source("current_clocksource").trim() == "tsc" {
        return Ok(facts);
    }
    if !facts.invariant {
        return Err(Fallback::NotInvariant);
    }
    let listed = source("available_clocksource").split_whitespace().any(|name| name == "tsc");
    if listed { Ok(facts) } else { Err(Fallback::KernelDistrusts) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::Tree;

    fn reading(ticks: u64, raw_ns: u64) -> Reading {
        Reading { ticks, raw_ns, slack_ns: 10 }
    }

    #[test]
    fn conversion_is_exact_at_any_rate_and_span() {
        for hz in [HZ_MIN, 25_000_000, BILLION, 2_593_904_123, 3_000_000_000, HZ_MAX] {
            let rate = Rate::new(hz).unwrap();
            for ticks in [0, 1, 7, 1000, hz - 1, hz, hz * 3600, u64::MAX / 2_000_000] {
                let exact = u128::from(ticks) * u128::from(BILLION) / u128::from(hz);
                let got = u128::from(rate.ns(ticks));
                // A nanosecond by rounding down, and one for every three hours by the rounding of the rate.
                let allowed = 1 + exact / 10_000_000_000_000;
                assert!(
                    got.abs_diff(exact) <= allowed,
                    "{hz} Hz, {ticks} ticks: {got} and not {exact}"
                );
            }
        }
    }

    #[test]
    fn rates_beyond_belief_are_refused() {
        assert_eq!(Rate::new(0), None);
        assert_eq!(Rate::new(HZ_MIN - 1), None);
        assert_eq!(Rate::new(HZ_MAX + 1), None);
        let stuck = TscClock::between(reading(5, 0), reading(5, 1000), None);
        assert_eq!(stuck.source(), ClockSource::Monotonic(Fallback::Implausible));
        let backwards = TscClock::between(reading(5, 1000), reading(9, 10), None);
        assert_eq!(backwards.source(), ClockSource::Monotonic(Fallback::Implausible));
    }

    #[test]
    fn the_rate_is_that_between_the_readings() {
        let c = TscClock::between(
            reading(1000, 5_000),
            reading(1000 + 3_000_000, 1_005_000),
            Some(3_001_000_000),
        );
        assert_eq!(c.ticks_per_second(), 3_000_000_000);
        assert!(BILLION.abs_diff(c.ticks_to_ns(3_000_000_000)) <= 1);
        assert_eq!(c.error_ppb(), 21 * 1000);
        assert_eq!(c.agrees_with_stated(), Some(true));
        let c = TscClock { stated_hz: Some(3_004_000_000), ..c };
        assert_eq!(c.agrees_with_stated(), Some(false));
    }

    #[test]
    fn saturates_at_the_end_of_time() {
        assert_eq!(Rate::new(HZ_MIN).unwrap().ns(u64::MAX), u64::MAX);
    }

    #[test]
    fn never_runs_backwards() {
        for clock in [TscClock::calibrate_for(Duration::from_millis(5)), TscClock::kernel()] {
            let mut last = clock.now_ns();
            for _ in 0..100_000 {
                let now = clock.now_ns();
                assert!(now >= last);
                last = now;
            }
        }
    }

    #[test]
    fn a_counter_that_stepped_back_holds_the_time() {
        let clock = TscClock::between(reading(0, 0), reading(3_000_000_000, BILLION), None);
        clock.last_ns.set(u64::MAX - 1);
        assert_eq!(clock.now_ns(), u64::MAX - 1);
    }

    #[test]
    fn keeps_up_with_the_kernel() {
        let clock = TscClock::calibrate();
        if clock.source() != ClockSource::Tsc {
            // The fallback is the kernel's clock itself.
            assert!(clock.now_ns().abs_diff(clock_ns(libc::CLOCK_MONOTONIC)) < BILLION);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
        let drift = clock.drift();
        // The promised error, the slack of the two looks, and rounding.
        let promised = drift.over_ns.saturating_mul(clock.error_ppb()) / BILLION;
        let allowed = promised + drift.slack_ns + clock.base_slack_ns + 2_000;
        assert!(drift.ns.unsigned_abs() <= allowed, "{drift:?}, {allowed} ns allowed: {clock:?}");
        let better = clock.recalibrated();
        assert!(better.now_ns() >= clock.last_ns.get());
        assert!(
            better.ticks_per_second().abs_diff(clock.ticks_per_second())
                < clock.ticks_per_second() / 1000
        );
    }

    #[test]
    fn the_kernel_has_the_last_word() {
        let tree = Tree::new();
        let known = tsc::facts().invariant;
        let expected = if cfg!(target_arch = "x86_64") {
            if known { Fallback::KernelDistrusts } else { Fallback::NotInvariant }
        } else {
            Fallback::Architecture
        };
        assert_eq!(fit(tree.root()), Err(expected), "nothing to read");
        let folder = "sys/devices/system/clocksource/clocksource0";
        let [available, current] =
            ["available", "current"].map(|which| format!("{folder}/{which}_clocksource"));
        tree.file(&available, "hpet acpi_pm \n");
        tree.file(&current, "hpet\n");
        assert_eq!(fit(tree.root()), Err(expected));
        tree.file(&available, "kvm-clock tsc \n");
        tree.file(&current, "kvm-clock\n");
        assert_eq!(fit(tree.root()).is_ok(), known);
        tree.file(&current, "tsc\n");
        assert_eq!(fit(tree.root()).is_ok(), cfg!(target_arch = "x86_64"), "it keeps time by it");
    }
}
