//! How long to wait.

use core::time::Duration;
use std::sync::Arc;

use spinwire_dataplane::sync::{AtomicU64, Ordering};
use spinwire_dataplane::time::Instant;

use super::WaitError;

/// Ends waits from another thread. Its clones are the same token; once cancelled it stays so.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicU64>);

impl CancelToken {
    /// A token that was not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all waits with this token, now and later. A thread that sleeps hears of it when it wakes.
    pub fn cancel(&self) {
        // SYNC(desk-cancel): Release pairs with the Acquire in is_cancelled: who sees it sees what was done before.
        self.0.store(1, Ordering::Release);
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // SYNC(desk-cancel): Acquire pairs with the Release in cancel.
        self.0.load(Ordering::Acquire) != 0
    }
}

/// How long to wait for an operation.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Wait<'c> {
    limit: Option<Duration>,
    token: Option<&'c CancelToken>,
}

impl Wait<'static> {
    /// One look, without waiting.
    pub const ONCE: Self = Self { limit: Some(Duration::ZERO), token: None };
    /// As long as it takes.
    pub const FOREVER: Self = Self { limit: None, token: None };

    /// So long, by the clock of the desk. Zero: one look.
    pub const fn within(limit: Duration) -> Self {
        Self { limit: Some(limit), token: None }
    }
}

impl<'c> Wait<'c> {
    /// The same, ended by this token as well.
    pub const fn unless<'d>(self, token: &'d CancelToken) -> Wait<'d>
    where
        'c: 'd,
    {
        Wait { limit: self.limit, token: Some(token) }
    }

    pub(super) const fn from(self, now: Instant) -> Until<'c> {
        let Self { limit, token } = self;
        Until { began: now, limit, token }
    }
}

/// When a wait is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until<'c> {
    began: Instant,
    limit: Option<Duration>,
    token: Option<&'c CancelToken>,
}

impl Until<'_> {
    /// Why it is over; `None` while it is not.
    pub(super) fn is_over(&self, now: Instant) -> Option<WaitError> {
        if self.token.is_some_and(CancelToken::is_cancelled) {
            return Some(WaitError::Cancelled);
        }
        let waited = Duration::from_nanos(now.saturating_since(self.began).as_nanos());
        self.limit.is_some_and(|limit| waited >= limit).then_some(WaitError::Timeout)
    }
}
