//! A case: something to measure, and the proof that it did what it should.
//!
//! Invariants: a case does the same work in every call of [`Case::run`] of as many rounds; what it returns is checked
//! against an independent calculation every time, so that no case is fast because it does nothing.

use core::fmt;

/// A case that is not yet built.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// `part/what/size`.
    pub name: &'static str,
    /// Operations (messages, copies, turns) in a round.
    pub ops_per_round: u32,
    /// Whether it does work of ours, whose instructions are limited, or only stands beside it for comparison.
    pub role: Role,
    /// The set-up.
    pub build: fn() -> Case,
}

/// What a case is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Code of ours.
    Ours,
    /// Somebody else's, for comparison.
    Yardstick,
}

impl Entry {
    /// A case of ours with one operation a round.
    #[must_use]
    pub const fn new(name: &'static str, build: fn() -> Case) -> Self {
        Self { name, ops_per_round: 1, role: Role::Ours, build }
    }

    /// With so many operations a round.
    #[must_use]
    pub const fn ops(self, ops_per_round: u32) -> Self {
        Self { ops_per_round, ..self }
    }

    /// For comparison only.
    #[must_use]
    pub const fn yardstick(self) -> Self {
        Self { role: Role::Yardstick, ..self }
    }
}

/// A case, ready to run.
pub struct Case {
    rounds: Box<dyn FnMut(u64) -> u64>,
    expected: Box<dyn Fn(u64) -> u64>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").finish_non_exhaustive()
    }
}

impl Case {
    /// `rounds(n)` does the work of n rounds and returns a hash of what came out; `expected(n)` is what that must be.
    pub fn new(
        rounds: impl FnMut(u64) -> u64 + 'static,
        expected: impl Fn(u64) -> u64 + 'static,
    ) -> Self {
        Self { rounds: Box::new(rounds), expected: Box::new(expected) }
    }

    /// Does `rounds` rounds. Returns the hash, not yet checked.
    #[inline(never)]
    pub fn run(&mut self, rounds: u64) -> u64 {
        (self.rounds)(rounds)
    }

    /// Stops the bench where `hash` is not what `rounds` rounds must give.
    ///
    /// # Panics
    /// Then.
    pub fn check(&self, rounds: u64, hash: u64) {
        let expected = (self.expected)(rounds);
        assert_eq!(hash, expected, "the result of {rounds} rounds is wrong: {hash:#018x}");
    }
}

/// One step of the hash: depends on every value and on their order.
#[must_use]
#[inline(always)]
pub const fn fold(hash: u64, value: u64) -> u64 {
    hash.rotate_left(7) ^ value
}

/// The hash of 0, 1, 2, .. below `count`.
#[must_use]
pub fn fold_below(count: u64) -> u64 {
    (0..count).fold(0, fold)
}
