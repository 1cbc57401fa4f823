//! What a pinned thread calls over and over.
//!
//! ```text
//!   loop { now = clock();  outcome = service.turn(now, budget);  ladder.rest(outcome, service.poll_at(), ..) }
//!                                    |
//!                 Rotation over (endpoint a, endpoint b, timers): each turn begins one further
//! ```
//!
//! A tuple or slice of sources gives each of them the whole budget in each turn, always in the same order: nobody
//! starves, but the first is always first. [`Rotation`] moves the start on by one a turn, and can bound how many
//! sources a turn visits at all.

use core::cell::Cell;

use super::{Budget, Outcome};
use crate::time::Instant;

/// Something that is driven by turns.
pub trait Poll {
    /// Does what there is to do at `now`, within `budget`. Bounded, never blocks; `now` does not run backwards from turn
    /// to turn.
    fn turn(&self, now: Instant, budget: Budget) -> Outcome;

    /// When the next turn is due even if nothing arrives until then; `None` where only an arrival can make work.
    #[must_use]
    fn poll_at(&self) -> Option<Instant>;
}

impl<P: Poll + ?Sized> Poll for &P {
    #[inline]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        (**self).turn(now, budget)
    }

    #[inline]
    fn poll_at(&self) -> Option<Instant> {
        (**self).poll_at()
    }
}

impl<P: Poll> Poll for [P] {
    #[inline]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        self.iter().fold(Outcome::Idle, |outcome, source| outcome | source.turn(now, budget))
    }

    #[inline]
    fn poll_at(&self) -> Option<Instant> {
        self.iter().filter_map(P::poll_at).min()
    }
}

impl<P: Poll, const N: usize> Poll for [P; N] {
    #[inline]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        self.as_slice().turn(now, budget)
    }

    #[inline]
    fn poll_at(&self) -> Option<Instant> {
        self.as_slice().poll_at()
    }
}

/// Sources that can be driven one at a time, by their place: slices, arrays and tuples of [`Poll`]s.
pub trait Sources: Poll {
    /// How many there are.
    #[must_use]
    fn count(&self) -> usize;

    /// The turn of the source in place `at`; idle where there is none.
    fn turn_at(&self, at: usize, now: Instant, budget: Budget) -> Outcome;
}

impl<S: Sources + ?Sized> Sources for &S {
    #[inline]
    fn count(&self) -> usize {
        (**self).count()
    }

    #[inline]
    fn turn_at(&self, at: usize, now: Instant, budget: Budget) -> Outcome {
        (**self).turn_at(at, now, budget)
    }
}

impl<P: Poll> Sources for [P] {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn turn_at(&self, at: usize, now: Instant, budget: Budget) -> Outcome {
        self.get(at).map_or(Outcome::Idle, |source| source.turn(now, budget))
    }
}

impl<P: Poll, const N: usize> Sources for [P; N] {
    #[inline]
    fn count(&self) -> usize {
        N
    }

    #[inline]
    fn turn_at(&self, at: usize, now: Instant, budget: Budget) -> Outcome {
        self.as_slice().turn_at(at, now, budget)
    }
}

/// The earlier of two deadlines, where there are any.
#[inline]
fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

macro_rules! tuple {
    ($count:literal: $($place:tt $source:ident),+) => {
        impl<$($source: Poll),+> Poll for ($($source,)+) {
            #[inline]
            fn turn(&self, now: Instant, budget: Budget) -> Outcome {
                Outcome::Idle $(| self.$place.turn(now, budget))+
            }

            #[inline]
            fn poll_at(&self) -> Option<Instant> {
                let soonest = None;
                $(let soonest = sooner(soonest, self.$place.poll_at());)+
                soonest
            }
        }

        impl<$($source: Poll),+> Sources for ($($source,)+) {
            #[inline]
            fn count(&self) -> usize {
                $count
            }

            #[inline]
            fn turn_at(&self, at: usize, now: Instant, budget: Budget) -> Outcome {
                match at {
                    $($place => self.$place.turn(now, budget),)+
                    _ => Outcome::Idle,
                }
            }
        }
    };
}

tuple!(1: 0 A);
tuple!(2: 0 A, 1 B);
tuple!(3: 0 A, 1 B, 2 C);
tuple!(4: 0 A, 1 B, 2 C, 3 D);
tuple!(5: 0 A, 1 B, 2 C, 3 D, 4 E);
tuple!(6: 0 A, 1 B, 2 C, 3 D, 4 E, 5 F);
tuple!(7: 0 A, 1 B, 2 C, 3 D, 4 E, 5 F, 6 G);
tuple!(8: 0 A, 1 B, 2 C, 3 D, 4 E, 5 F, 6 G, 7 H);

/// Sources that take turns at being first.
#[derive(Debug)]
pub struct Rotation<S> {
    sources: S,
    start: Cell<usize>,
    per_turn: usize,
}

impl<S: Sources> Rotation<S> {
    /// All of `sources` in each turn, beginning one further each time.
    #[must_use]
    pub const fn new(sources: S) -> Self {
        Self { sources, start: Cell::new(0), per_turn: usize::MAX }
    }

    /// At most `per_turn` of `sources` in each turn (at least one), going on where the last turn ended: each is
    /// visited within [`round_turns`](Rotation::round_turns) turns. A turn that leaves some out may say idle while they
    /// have work: tell the idle ladder ([`IdleLadder::with_round_turns`](super::IdleLadder::with_round_turns)).
    #[must_use]
    pub const fn at_most(sources: S, per_turn: usize) -> Self {
        let per_turn = if per_turn == 0 { 1 } else { per_turn };
        Self { sources, start: Cell::new(0), per_turn }
    }

    /// How many turns it takes to visit all sources: at least one.
    #[must_use]
    pub fn round_turns(&self) -> u32 {
        let turns = self.sources.count().div_ceil(self.per_turn).max(1);
        u32::try_from(turns).unwrap_or(u32::MAX)
    }

    /// What is driven.
    pub const fn sources(&self) -> &S {
        &self.sources
    }
}

impl<S: Sources> Poll for Rotation<S> {
    #[inline]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        let count = self.sources.count();
        let step = |at: usize| {
            if at.wrapping_add(1) < count { at.wrapping_add(1) } else { 0 }
        };
        let first = self.start.get();
        let mut at = first;
        let mut outcome = Outcome::Idle;
        for _ in 0..self.per_turn.min(count) {
            outcome |= self.sources.turn_at(at, now, budget);
            at = step(at);
        }
        self.start.set(if at == first { step(at) } else { at });
        outcome
    }

    #[inline]
    fn poll_at(&self) -> Option<Instant> {
        self.sources.poll_at()
    }
}
