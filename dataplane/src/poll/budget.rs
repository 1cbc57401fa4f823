//! How much one turn may do.

/// The bounds of one turn, in items. A turn that had more to do says [`Busy`](super::Outcome::Busy), and goes on in the
/// next one; so one turn is never longer than these numbers make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Completions harvested from each source.
    pub completions: u32,
    /// Steps of the timer wheel.
    pub timers: u32,
    /// Work requests built for each queue.
    pub posts: u32,
}

impl Budget {
    /// Enough to keep up with a full ring of small messages, and little enough that a turn stays below some
    /// microseconds.
    pub const DEFAULT: Self = Self { completions: 64, timers: 16, posts: 64 };
    /// One of each: the shortest turn that makes progress.
    pub const MIN: Self = Self { completions: 1, timers: 1, posts: 1 };

    /// This budget with other bounds on completions.
    #[must_use]
    pub const fn with_completions(self, completions: u32) -> Self {
        Self { completions, ..self }
    }

    /// This budget with other bounds on timer steps.
    #[must_use]
    pub const fn with_timers(self, timers: u32) -> Self {
        Self { timers, ..self }
    }

    /// This budget with other bounds on posts.
    #[must_use]
    pub const fn with_posts(self, posts: u32) -> Self {
        Self { posts, ..self }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::DEFAULT
    }
}
