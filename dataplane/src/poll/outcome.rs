//! What a turn found.

use core::ops::{BitOr, BitOrAssign};

/// Whether a turn did anything. Joined with `|`: busy where any part was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Outcome {
    /// Nothing was there to do: a chain of such turns leads down the idle ladder.
    Idle,
    /// Something was done, or is left over for the next turn.
    Busy,
}

impl Outcome {
    /// Busy where `done` items were handled.
    pub const fn from_count(done: u32) -> Self {
        if done == 0 { Self::Idle } else { Self::Busy }
    }

    /// Whether anything was done.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::Busy)
    }
}

impl BitOr for Outcome {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        match (self, other) {
            (Self::Idle, Self::Idle) => Self::Idle,
            _ => Self::Busy,
        }
    }
}

impl BitOrAssign for Outcome {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}
