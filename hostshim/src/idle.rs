//! The lower rungs of the idle ladder: yielding the CPU, and sleeping until somebody rings.
//!
//! ```text
//!   sleeper                                publisher
//!     arm:  bell = ARMED                     publish a message
//!           fence                            fence
//!     look at every source once more         ring: bell == ARMED?  ->  bell = AWAKE, futex wake
//!     park: futex wait while bell == ARMED
//! ```
//!
//! Either the last look finds the message or the publisher sees the mark, because each side has a sequentially consistent
//! fence between its store and its load; so no wake-up is lost. The bell is one word, in shared memory where the publisher
//! is another process: a futex needs no descriptor that would have to be passed on.
//!
//! Invariants: nobody sleeps longer than [`HostRester::park_max`] at a time, so that a peer that died, or never rings, or
//! scribbles over the bell costs time and nothing else; a bell that says anything but ARMED lets nobody sleep.

use core::time::Duration;

use spinwire_dataplane::poll::Rester;
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::Instant;

use crate::clock::TscClock;
use crate::raw::futex;

const AWAKE: u64 = 0;
const ARMED: u64 = 1;
/// Longest sleep of one that can be woken: a fraction of the time within which a dead peer is to be noticed.
const PARK_MAX: Duration = Duration::from_millis(10);
/// Longest sleep of one that nobody can wake.
const NAP_MAX: Duration = Duration::from_micros(100);

/// The word by which a sleeper is woken. Any number of publishers may ring it; one thread sleeps on it.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'s> {
    word: &'s AtomicU64,
}

impl<'s> Bell<'s> {
    /// A bell on `word`, which is zero at first and belongs to the bell alone.
    #[must_use]
    pub const fn new(word: &'s AtomicU64) -> Self {
        Self { word }
    }

    /// Wakes the sleeper if it asked for that: to be called after publishing. True if there was somebody to wake. Costs a
    /// fence and a load while nobody sleeps, and a system call when somebody does.
    #[inline]
    #[allow(
        clippy::must_use_candidate,
        reason = "ringing is the point; the answer is for counters"
    )]
    pub fn ring(&self) -> bool {
        futex::fenced_load(self.word) == ARMED && self.wake()
    }

    #[cold]
    fn wake(&self) -> bool {
        // Of several that saw the mark, one takes it and makes the call.
        let taken = self.word.swap(AWAKE, Ordering::Relaxed) == ARMED;
        if taken {
            futex::wake(self.word);
        }
        taken
    }

    fn arm(&self) {
        futex::fenced_store(self.word, ARMED);
    }

    fn disarm(&self) {
        self.word.store(AWAKE, Ordering::Relaxed);
    }
}

/// Yields and parks for one thread.
#[derive(Debug)]
pub struct HostRester<'a> {
    clock: &'a TscClock,
    bell: Option<Bell<'a>>,
    park_max: Duration,
}

impl<'a> HostRester<'a> {
    /// For a thread that peers wake by `bell`. Sleeps 10 ms at a time at most.
    #[must_use]
    pub const fn with_bell(clock: &'a TscClock, bell: Bell<'a>) -> Self {
        Self { clock, bell: Some(bell), park_max: PARK_MAX }
    }

    /// For a thread that nobody wakes: a park is a nap of 100 us at most, and that is how late news may be noticed.
    #[must_use]
    pub const fn without_bell(clock: &'a TscClock) -> Self {
        Self { clock, bell: None, park_max: NAP_MAX }
    }

    /// The same with another longest sleep.
    #[must_use]
    pub const fn with_park_max(mut self, park_max: Duration) -> Self {
        self.park_max = park_max;
        self
    }

    /// The longest sleep.
    #[must_use]
    pub const fn park_max(&self) -> Duration {
        self.park_max
    }

    /// How long to sleep; none where the deadline is past.
    fn span(&self, until: Option<Instant>) -> Option<Duration> {
        let left = until.map_or(Duration::MAX, |until| {
            Duration::from_nanos(until.saturating_since(self.clock.now()).as_nanos())
        });
        Some(left.min(self.park_max)).filter(|span| !span.is_zero())
    }
}

impl Rester for HostRester<'_> {
    fn yield_now(&self) {
        std::thread::yield_now();
    }

    fn arm(&self) {
        if let Some(bell) = self.bell {
            bell.arm();
        }
    }

    fn disarm(&self) {
        if let Some(bell) = self.bell {
            bell.disarm();
        }
    }

    fn park(&self, until: Option<Instant>) {
        match (self.span(until), self.bell) {
            (Some(span), Some(bell)) => futex::wait(bell.word, ARMED, span),
            (Some(span), None) => std::thread::sleep(span),
            (None, _) => {}
        }
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinwire_dataplane::time::Nanos;
    use std::time::Instant as Wall;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_ring_between_arm_and_park_is_not_lost() {
        let word = AtomicU64::new(0);
        let clock = TscClock::kernel();
        let rester = HostRester::with_bell(&clock, Bell::new(&word)).with_park_max(LONG);
        let began = Wall::now();
        rester.arm();
        assert!(Bell::new(&word).ring());
        assert!(!Bell::new(&word).ring(), "one ring is enough");
        rester.park(None);
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn nobody_rings_for_the_waking() {
        let word = AtomicU64::new(0);
        let bell = Bell::new(&word);
        assert!(!bell.ring());
        let clock = TscClock::kernel();
        let rester = HostRester::with_bell(&clock, bell);
        rester.arm();
        rester.disarm();
        assert!(!bell.ring());
    }

    #[test]
    fn a_scribbled_bell_lets_nobody_sleep() {
        let clock = TscClock::kernel();
        let began = Wall::now();
        for scribble in [0, 2, u64::MAX, 1 << 32] {
            let word = AtomicU64::new(0);
            let rester = HostRester::with_bell(&clock, Bell::new(&word)).with_park_max(LONG);
            rester.arm();
            word.store(scribble, Ordering::Relaxed);
            rester.park(None);
            assert_eq!(word.load(Ordering::Relaxed), AWAKE);
        }
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn deadlines_end_a_sleep() {
        let clock = TscClock::kernel();
        let word = AtomicU64::new(0);
        for rester in [
            HostRester::with_bell(&clock, Bell::new(&word)).with_park_max(LONG),
            HostRester::without_bell(&clock).with_park_max(LONG),
        ] {
            let began = Wall::now();
            rester.arm();
            rester.park(Some(Instant::ORIGIN));
            let until = clock.now().saturating_add(Nanos::from_millis(5));
            rester.arm();
            rester.park(Some(until));
            assert!(clock.now() >= until, "slept to the end");
            assert!(began.elapsed() < LONG);
            assert_eq!(rester.span(None), Some(LONG));
            assert_eq!(rester.span(Some(Instant::ORIGIN)), None);
        }
    }

    /// Hands a token to and fro between two threads that park whenever it is not their turn. A lost wake-up would cost
    /// a minute a time.
    #[test]
    fn ping_pong_by_bells() {
        const ROUNDS: u64 = 2_000;
        let (turn, bells) = (AtomicU64::new(0), [AtomicU64::new(0), AtomicU64::new(0)]);
        let began = Wall::now();
        std::thread::scope(|scope| {
            for me in [0, 1] {
                let (turn, bells) = (&turn, &bells);
                scope.spawn(move || {
                    let clock = TscClock::kernel();
                    let mine = Bell::new(&bells[me]);
                    let other = Bell::new(&bells[1 - me]);
                    let rester = HostRester::with_bell(&clock, mine).with_park_max(LONG);
                    let parity = u64::try_from(me).unwrap();
                    let my_turn = || turn.load(Ordering::Acquire) % 2 == parity;
                    while turn.load(Ordering::Acquire) < ROUNDS {
                        if !my_turn() {
                            rester.arm();
                            if my_turn() {
                                rester.disarm();
                            } else {
                                rester.park(None);
                                continue;
                            }
                        }
                        turn.fetch_add(1, Ordering::Release);
                        other.ring();
                    }
                    other.ring();
                });
            }
        });
        assert!(began.elapsed() < LONG, "a wake-up was lost");
    }
}
