//! What a thread does between two turns that found nothing.
//!
//! ```text
//!                idle turns in a row -->                                          a busy turn: back to spin
//!   spin        | pause        | wait            | yield             | arm, one more round, park
//!   0           | pause_after  | wait_after      | yield_after       | park_after
//! ```
//!
//! | rung | the thread | typical wake-up | measured | what it saves |
//! |---|---|---|---|---|
//! | spin | takes the next turn at once | 0 | 1 | nothing: the default, for a core of one's own |
//! | pause | one `pause` instruction | 10 to 50 ns | 1 | the core's resources, for an SMT sibling |
//! | wait | `umwait` or `mwaitx` on the line where news arrive, bounded | 100 ns to 1 us | not seen | power |
//! | yield | `sched_yield` | 1 us, or as long as others run | 1.4 | the CPU, for other threads |
//! | park | sleeps in the kernel until woken or the next deadline | 2 to 50 us | 3 to 4 | the CPU, altogether |
//! | park, unheard | the same where a peer does not ring: naps of at most 100 us | 50 us | 20 | the CPU, in pieces |
//!
//! The typical figures are orders of magnitude, from the descriptions of the instructions and common measurements of Linux;
//! `Rung::wake_latency` gives them as numbers. The measured ones are times to the answer of a service that was left alone
//! for a millisecond, in multiples of that of one that spins (0.9 us, unpinned, on a virtual machine with two CPUs of an
//! AMD EPYC that was not quite idle): `cargo run --release --example sleeper` repeats them. Measure your own machine
//! before you move off spin.
//!
//! Parking must not lose a wake-up. So it takes two steps: first [`Rester::arm`] tells the peers that they have to wake
//! this thread; only if one more look at every source still finds nothing does the thread park. A peer that publishes
//! before it sees the mark is found by that look; one that publishes after it wakes the sleeper. A look is one turn,
//! unless the plane visits only some of its sources in each ([`Rotation::at_most`](super::Rotation::at_most)). How the two
//! sides see each other without a fence on the publisher's is told in [`shm::bell`](crate::shm::bell).
//!
//! A thread must not rest while it holds something back that only it can move: what it posted after its last turn goes out
//! with a flush or a turn. A send that was refused for lack of credit is tried again after each rest, for nobody rings for credit:
//! an endpoint that has refused one since it was armed says that it is not heard, and the park is a nap.
//!
//! Invariant: a park follows an arm with one round of turns between them, all of them idle.

use core::cell::Cell;

use super::Outcome;
use crate::raw::pause::{CpuWait, Watch, pause};
use crate::time::{Instant, Nanos};

/// A way to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rung {
    /// Take the next turn at once.
    Spin,
    /// One pause instruction.
    Pause,
    /// Wait for a write to a line, if the CPU can; else a pause.
    Wait,
    /// Give the CPU to another thread that wants it.
    Yield,
    /// Sleep in the kernel.
    Park,
}

impl Rung {
    /// How much later news may be noticed, typically, on an otherwise idle CPU. Context, not a promise.
    #[must_use]
    pub const fn wake_latency(self) -> Nanos {
        match self {
            Self::Spin => Nanos::ZERO,
            Self::Pause => Nanos::new(50),
            Self::Wait => Nanos::from_micros(1),
            Self::Yield => Nanos::from_micros(2),
            Self::Park => Nanos::from_micros(50),
        }
    }

    /// Lower-case name, for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Pause => "pause",
            Self::Wait => "wait",
            Self::Yield => "yield",
            Self::Park => "park",
        }
    }
}

/// What was done between two turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// The thread rested on that rung.
    On(Rung),
    /// Peers were asked to wake this thread: if the next round is idle too, it parks.
    Arm,
}

/// After how many idle turns in a row each rung begins; [`Thresholds::NEVER`] leaves one out. Of those that have begun,
/// the lowest on the ladder, the one nearest to park, is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Idle turns before the first pause.
    pub pause_after: u32,
    /// Idle turns before the first wait for a line.
    pub wait_after: u32,
    /// Idle turns before the first yield.
    pub yield_after: u32,
    /// Idle turns before the first park.
    pub park_after: u32,
}

impl Thresholds {
    /// A rung that is left out.
    pub const NEVER: u32 = u32::MAX;

    /// Spin for ever: the default, for a thread that owns its core.
    pub const SPIN: Self = Self {
        pause_after: Self::NEVER,
        wait_after: Self::NEVER,
        yield_after: Self::NEVER,
        park_after: Self::NEVER,
    };

    /// Spin for some microseconds, then pause, for a core whose SMT sibling has work.
    pub const PAUSE: Self = Self { pause_after: 64, ..Self::SPIN };

    /// Down all rungs, for a CPU that is shared: from a fraction of a millisecond without news on, the thread sleeps.
    pub const SHARED: Self =
        Self { pause_after: 64, wait_after: 512, yield_after: 1024, park_after: 8192 };

    /// These thresholds as they must be on a machine with `cpus` CPUs to run on: on one, whoever spins keeps its peer
    /// from answering, so that every idle turn yields.
    #[must_use]
    pub const fn on_cpus(self, cpus: u32) -> Self {
        if cpus > 1 { self } else { Self { yield_after: 0, ..self } }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::SPIN
    }
}

/// The rests that need a system call: the host does them.
pub trait Rester {
    /// Lets another thread run: `sched_yield`.
    fn yield_now(&self);

    /// Marks, where peers look after they have published, that this thread is about to park and must be woken. What is
    /// marked already stays so. The mark must be ordered before the loads of the next turn, and what peers published
    /// without seeing it must be visible to them: see [`WakeSource`](super::WakeSource).
    fn arm(&self) {}

    /// Takes the mark back: a turn since [`arm`](Rester::arm) found something.
    fn disarm(&self) {}

    /// Sleeps until a peer wakes this thread or `until` has come; at once, where a peer has done so since
    /// [`arm`](Rester::arm) or `until` is past. May return early. The mark may stand on return; there is an `arm` before
    /// the next park, or a `disarm`.
    fn park(&self, until: Option<Instant>);
}

/// Counts idle turns, and rests accordingly.
#[derive(Debug)]
pub struct IdleLadder {
    thresholds: Thresholds,
    cpu_wait: CpuWait,
    wait_ticks: u32,
    round_turns: u32,
    idle_turns: Cell<u32>,
    /// Idle turns since peers were asked to wake this thread.
    armed: Cell<Option<u32>>,
    /// Whether the mark may stand: peers were asked, and no turn has found anything since.
    marked: Cell<bool>,
}

impl IdleLadder {
    /// The bound of one wait for a line, in ticks of the time-stamp counter: some microseconds, so that a deadline is
    /// not missed by more.
    pub const WAIT_TICKS: u32 = 10_000;

    /// A ladder at its top. `cpus` is how many CPUs the thread and its peers may run on: on a single one, every idle
    /// turn yields, whatever the thresholds say.
    #[must_use]
    pub const fn new(thresholds: Thresholds, cpu_wait: CpuWait, cpus: u32) -> Self {
        Self {
            thresholds: thresholds.on_cpus(cpus),
            cpu_wait,
            wait_ticks: Self::WAIT_TICKS,
            round_turns: 1,
            idle_turns: Cell::new(0),
            armed: Cell::new(None),
            marked: Cell::new(false),
        }
    }

    /// This ladder with another bound on one wait for a line, in ticks of the time-stamp counter.
    #[must_use]
    pub const fn with_wait_ticks(mut self, ticks: u32) -> Self {
        self.wait_ticks = ticks;
        self
    }

    /// This ladder for a plane that looks at every source once in `turns` turns, not in each:
    /// [`Rotation::round_turns`](super::Rotation::round_turns). So many idle turns lie between arm and park.
    #[must_use]
    pub const fn with_round_turns(mut self, turns: u32) -> Self {
        self.round_turns = turns;
        self
    }

    #[inline]
    fn decide(&self, outcome: Outcome) -> Rest {
        if outcome.is_busy() {
            self.idle_turns.set(0);
            return Rest::On(Rung::Spin);
        }
        let idle = self.idle_turns.get().saturating_add(1);
        self.idle_turns.set(idle);
        let Thresholds { pause_after, wait_after, yield_after, park_after } = self.thresholds;
        if begun(idle, park_after) {
            let Some(looked) = self.armed.get().map(|turns| turns.saturating_add(1)) else {
                return Rest::Arm;
            };
            self.armed.set(Some(looked));
            return Rest::On(if looked < self.round_turns { Rung::Spin } else { Rung::Park });
        }
        Rest::On(if begun(idle, yield_after) {
            Rung::Yield
        } else if begun(idle, wait_after) {
            Rung::Wait
        } else if begun(idle, pause_after) {
            Rung::Pause
        } else {
            Rung::Spin
        })
    }

    /// Rests after a turn with this outcome, and says how.
    ///
    /// `watch` is the word where news arrive, with the value that the turn acted on; without one, a wait is a pause.
    /// `until` is the plane's next deadline.
    #[inline]
    pub fn rest(
        &self,
        outcome: Outcome,
        until: Option<Instant>,
        watch: Option<Watch<'_>>,
        rester: &impl Rester,
    ) -> Rest {
        let rest = self.decide(outcome);
        if outcome.is_busy() {
            self.armed.set(None);
            if self.marked.replace(false) {
                rester.disarm();
            }
        }
        match rest {
            Rest::On(Rung::Spin) => {}
            Rest::On(Rung::Pause) => pause(),
            Rest::On(Rung::Wait) => match watch {
                Some(watch) => self.cpu_wait.wait(watch, self.wait_ticks),
                None => pause(),
            },
            Rest::On(Rung::Yield) => rester.yield_now(),
            Rest::On(Rung::Park) => {
                self.armed.set(None);
                rester.park(until);
            }
            Rest::Arm => {
                self.armed.set(Some(0));
                self.marked.set(true);
                rester.arm();
            }
        }
        rest
    }

    /// How many turns in a row were idle.
    #[inline]
    #[must_use]
    pub const fn idle_turns(&self) -> u32 {
        self.idle_turns.get()
    }

    /// The thresholds in use.
    #[must_use]
    pub const fn thresholds(&self) -> Thresholds {
        self.thresholds
    }
}

impl Default for IdleLadder {
    /// Spins.
    fn default() -> Self {
        Self::new(Thresholds::SPIN, CpuWait::NONE, 2)
    }
}

/// Whether a rung has begun at the `idle`-th idle turn in a row.
#[inline]
const fn begun(idle: u32, after: u32) -> bool {
    after != Thresholds::NEVER && idle > after
}
