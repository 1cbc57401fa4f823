//! The lower rungs of the idle ladder: yielding the CPU, and sleeping until somebody rings.
//!
//! ```text
//!   HostRester     arm:   every source: bell = ARMED, lanes armed
//!                         membarrier: every thread of the domain's processes that runs passes a full barrier
//!                         every source: look over what no turn looks at
//!                  .. one round of turns ..
//!                  park:  futex wait while every bell == ARMED, within a limit
//! ```
//!
//! A source is an endpoint: its bell lies in its entry of the segment, and whoever publishes to it rings
//! ([`shm::bell`](spinwire_dataplane::shm::bell)). Or it is a [`Bell`] of one's own, for what else a thread waits for: there the
//! ringer pays for a fence, and the sleeper for nothing.
//!
//! The futex is one word, in shared memory where the publisher is another process: it needs no descriptor that would have
//! to be passed on. One thread sleeps on up to 32 bells at once (`futex_waitv`, Linux 5.16).
//!
//! *What it costs others.* The barrier interrupts each CPU on which a process of any domain runs at that moment, for about a
//! microsecond, once each time that a thread arms: not for each park of a thread that nobody has rung since.
//!
//! *What is not rung for.* Credit: an endpoint that has refused a message for lack of it sleeps 100 us at most, and then the message is to be tried
//! again, for its peer does not ring when it has caught up. And time: give the next deadline as `until`.
//!
//! Invariants: nobody sleeps longer than [`HostRester::park_max`] at a time, so that a peer that died between publishing and
//! ringing, or scribbles over the bell, costs time and nothing else; a bell that says anything but ARMED lets nobody sleep;
//! where a process of the segment does not ring, or the kernel has no barrier, nobody sleeps longer than 100 us.

use core::cell::Cell;
use core::fmt;
use core::time::Duration;

use spinwire_dataplane::poll::{Armed, Rester, WakeSource};
use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::Instant;
use spinwire_layouts::shm::BELL_ARMED as ARMED;

use crate::clock::TscClock;
use crate::raw::{futex, syscall};

const AWAKE: u64 = 0;
/// Longest sleep of one that can be woken: a fraction of the time within which a dead peer is to be noticed.
const PARK_MAX: Duration = Duration::from_millis(10);
/// Longest sleep of one that nobody can wake, or not everybody.
pub(crate) const NAP_MAX: Duration = Duration::from_micros(100);

/// A word by which a sleeper is woken, apart from any endpoint. Any number of threads may ring it; one sleeps on it.
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
        // SYNC(rung): Release pairs with the Acquire in HostRester::park.
        let taken = self.word.swap(AWAKE, Ordering::Release) == ARMED;
        if taken {
            futex::wake(self.word);
        }
        taken
    }
}

impl WakeSource for Bell<'_> {
    fn arm(&self) -> Armed {
        if self.word.load(Ordering::Relaxed) != ARMED {
            futex::fenced_store(self.word, ARMED);
        }
        // Those who ring have a fence of their own: there is no need for another.
        Armed { is_new: false, is_heard: true }
    }

    fn look_over(&self) {}

    fn disarm(&self) {
        self.word.store(AWAKE, Ordering::Relaxed);
    }

    fn bell(&self) -> Option<&AtomicU64> {
        Some(self.word)
    }
}

/// How the parks of a thread have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parks {
    /// Parks in all.
    pub parks: u64,
    /// Those that ended because somebody rang, before or in them; the others ended by their limit, or a signal.
    pub rung: u64,
    /// Of those that were rung, the ones after which the next turn found nothing.
    pub spurious: u64,
    /// Of all, the ones that were naps, because not everybody rings.
    pub naps: u64,
}

/// Yields and parks for one thread.
pub struct HostRester<'a> {
    clock: &'a TscClock,
    sources: &'a [&'a dyn WakeSource],
    park_max: Duration,
    /// Whether all that were armed had a barrier since.
    is_ordered: Cell<bool>,
    /// Whether whatever is published to any source rings.
    is_heard: Cell<bool>,
    /// Whether the last park was ended by a ring, and no turn has found anything since.
    was_rung: Cell<bool>,
    parks: Cell<Parks>,
}

impl fmt::Debug for HostRester<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostRester")
            .field("sources", &self.sources.len())
            .field("park_max", &self.park_max)
            .field("parks", &self.parks)
            .finish_non_exhaustive()
    }
}

impl<'a> HostRester<'a> {
    /// For a thread that polls `sources` and nothing else that anybody publishes to. Sleeps 10 ms at a time at most.
    #[must_use]
    pub const fn new(clock: &'a TscClock, sources: &'a [&'a dyn WakeSource]) -> Self {
        Self {
            clock,
            sources,
            park_max: PARK_MAX,
            is_ordered: Cell::new(true),
            is_heard: Cell::new(false),
            was_rung: Cell::new(false),
            parks: Cell::new(Parks { parks: 0, rung: 0, spurious: 0, naps: 0 }),
        }
    }

    /// For a thread that nobody wakes: a park is a nap of 100 us at most, and that is how late news may be noticed.
    #[must_use]
    pub const fn without_bell(clock: &'a TscClock) -> Self {
        Self::new(clock, &[]).with_park_max(NAP_MAX)
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

    /// How the parks so far have ended.
    #[must_use]
    pub const fn parks(&self) -> Parks {
        self.parks.get()
    }

    /// How long to sleep; none where the deadline is past.
    fn span(&self, until: Option<Instant>) -> Option<Duration> {
        let left = until.map_or(Duration::MAX, |until| {
            Duration::from_nanos(until.saturating_since(self.clock.now()).as_nanos())
        });
        Some(left.min(self.park_max)).filter(|span| !span.is_zero())
    }

    fn count(&self, change: impl FnOnce(&mut Parks)) {
        let mut parks = self.parks.get();
        change(&mut parks);
        self.parks.set(parks);
    }

    /// Sleeps for `span` at most, until somebody rings. Returns whether somebody did.
    fn sleep(&self, span: Duration) -> bool {
        // Stands where there is no bell.
        let never = AtomicU64::new(0);
        let mut words = [&never; futex::WORDS_MAX];
        let mut count = 0;
        let mut is_heard = self.is_heard.get() && self.is_ordered.get();
        for source in self.sources {
            match (source.bell(), words.get_mut(count)) {
                (Some(bell), Some(word)) => {
                    *word = bell;
                    count += 1;
                }
                (None, _) | (_, None) => is_heard = false,
            }
        }
        let bells = words.get(..count).unwrap_or_default();
        let span = if is_heard || bells.is_empty() && self.sources.is_empty() {
            span
        } else {
            self.count(|parks| parks.naps += 1);
            span.min(NAP_MAX)
        };
        if bells.is_empty() {
            std::thread::sleep(span);
        } else if !futex::wait_any(bells, ARMED, span) {
            std::thread::sleep(span.min(NAP_MAX));
        }
        // SYNC(rung): Acquire pairs with the Release of whoever took the bell.
        bells.iter().any(|bell| bell.load(Ordering::Acquire) != ARMED)
    }
}

impl Rester for HostRester<'_> {
    fn yield_now(&self) {
        std::thread::yield_now();
    }

    fn arm(&self) {
        if self.was_rung.replace(false) {
            self.count(|parks| parks.spurious += 1);
        }
        let (mut is_new, mut is_heard) = (false, true);
        for source in self.sources {
            let armed = source.arm();
            is_new |= armed.is_new;
            is_heard &= armed.is_heard;
        }
        self.is_heard.set(is_heard);
        if is_new {
            // SYNC(bell): between `WakeSource::arm` and `WakeSource::look_over`; pairs with `store_before_load_of_bell`.
            self.is_ordered.set(syscall::barrier_on_all_cpus().is_ok());
            for source in self.sources {
                source.look_over();
            }
        }
    }

    fn disarm(&self) {
        self.was_rung.set(false);
        for source in self.sources {
            source.disarm();
        }
    }

    fn park(&self, until: Option<Instant>) {
        self.count(|parks| parks.parks += 1);
        if let Some(span) = self.span(until) {
            let rung = self.sleep(span);
            self.was_rung.set(rung);
            self.count(|parks| parks.rung += u64::from(rung));
        }
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
        let bell = Bell::new(&word);
        let sources: [&dyn WakeSource; 1] = [&bell];
        let rester = HostRester::new(&clock, &sources).with_park_max(LONG);
        let began = Wall::now();
        rester.arm();
        assert!(Bell::new(&word).ring());
        assert!(!Bell::new(&word).ring(), "one ring is enough");
        rester.park(None);
        assert!(began.elapsed() < LONG);
        assert_eq!(rester.parks(), Parks { parks: 1, rung: 1, spurious: 0, naps: 0 });
        // Rung for nothing: the turn after it was idle, and so the thread arms again.
        rester.arm();
        assert_eq!(rester.parks().spurious, 1);
    }

    #[test]
    fn nobody_rings_for_the_waking() {
        let word = AtomicU64::new(0);
        let bell = Bell::new(&word);
        assert!(!bell.ring());
        let clock = TscClock::kernel();
        let sources: [&dyn WakeSource; 1] = [&bell];
        let rester = HostRester::new(&clock, &sources);
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
            let (bell, quiet) = (Bell::new(&word), AtomicU64::new(0));
            let other = Bell::new(&quiet);
            let both: [&dyn WakeSource; 3] = [&bell, &other, &bell];
            for sources in [&both[..1], &both[..2], &both[1..]] {
                let rester = HostRester::new(&clock, sources).with_park_max(LONG);
                rester.arm();
                word.store(scribble, Ordering::Relaxed);
                rester.park(None);
                rester.disarm();
                assert_eq!(word.load(Ordering::Relaxed), AWAKE);
            }
        }
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn deadlines_end_a_sleep() {
        let clock = TscClock::kernel();
        let words = [const { AtomicU64::new(0) }; 2];
        let bells = [Bell::new(&words[0]), Bell::new(&words[1])];
        let [one, other] = &bells;
        for rester in [
            HostRester::new(&clock, &[one]).with_park_max(LONG),
            HostRester::new(&clock, &[one, other]).with_park_max(LONG),
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
            assert_eq!(rester.parks(), Parks { parks: 2, rung: 0, spurious: 0, naps: 0 });
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
                    let unused = AtomicU64::new(0);
                    let idle = Bell::new(&unused);
                    // One sleeps on one bell, the other on two.
                    let sources: [&dyn WakeSource; 2] = [&mine, &idle];
                    let rester = HostRester::new(&clock, &sources[..=me]).with_park_max(LONG);
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
