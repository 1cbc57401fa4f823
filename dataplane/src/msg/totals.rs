//! What an endpoint counts.

use core::cell::Cell;

/// Totals since the endpoint was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Messages accepted by the provider.
    pub messages_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Messages given to the caller.
    pub messages_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Doorbells that published something.
    pub batches_published: u64,
    /// Posts refused with `Retry`.
    pub retries: u64,
    /// Completions that named no live operation.
    pub stale_ids: u64,
    /// Turns that found something to do.
    pub turns_busy: u64,
    /// Turns that did not.
    pub turns_idle: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) messages_sent: Cell<u64>,
    pub(super) bytes_sent: Cell<u64>,
    pub(super) messages_received: Cell<u64>,
    pub(super) bytes_received: Cell<u64>,
    pub(super) batches_published: Cell<u64>,
    pub(super) retries: Cell<u64>,
    pub(super) stale_ids: Cell<u64>,
    pub(super) turns_busy: Cell<u64>,
    pub(super) turns_idle: Cell<u64>,
}

impl Tally {
    pub(super) const fn snapshot(&self) -> Totals {
        Totals {
            messages_sent: self.messages_sent.get(),
            bytes_sent: self.bytes_sent.get(),
            messages_received: self.messages_received.get(),
            bytes_received: self.bytes_received.get(),
            batches_published: self.batches_published.get(),
            retries: self.retries.get(),
            stale_ids: self.stale_ids.get(),
            turns_busy: self.turns_busy.get(),
            turns_idle: self.turns_idle.get(),
        }
    }
}

#[inline(always)]
pub(super) fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get().wrapping_add(more));
}
