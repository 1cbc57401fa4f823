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
    /// Posted sends that have ended, failed ones too. (Injected ones never end.)
    pub sends_ended: u64,
    /// One-sided operations that have ended, failed ones too.
    pub one_sided_ended: u64,
    /// Of all these, and of receives, those that failed, cancelled ones included. A message that was cut short was received.
    pub errors: u64,
    /// Turns that found something to do.
    pub turns_busy: u64,
    /// Turns that did not.
    pub turns_idle: u64,
}

/// What a counter counts (`fi_cntr(3)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Counted {
    /// Posted sends.
    Sends,
    /// Messages received.
    Receives,
    /// Reads, writes and atomics on the memory of peers.
    OneSided,
}

/// What a counter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// What ended as asked.
    pub done: u64,
    /// What ended otherwise.
    pub errors: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    // Those of a send are no neighbours, and neither are those of a receive: two additions are cheaper than one of two lanes.
    pub(super) messages_sent: Cell<u64>,
    pub(super) messages_received: Cell<u64>,
    pub(super) bytes_sent: Cell<u64>,
    pub(super) bytes_received: Cell<u64>,
    pub(super) batches_published: Cell<u64>,
    pub(super) retries: Cell<u64>,
    pub(super) stale_ids: Cell<u64>,
    pub(super) sends_ended: Cell<u64>,
    pub(super) one_sided_ended: Cell<u64>,
    pub(super) sends_failed: Cell<u64>,
    pub(super) receives_failed: Cell<u64>,
    pub(super) one_sided_failed: Cell<u64>,
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
            sends_ended: self.sends_ended.get(),
            one_sided_ended: self.one_sided_ended.get(),
            errors: self
                .sends_failed
                .get()
                .wrapping_add(self.receives_failed.get())
                .wrapping_add(self.one_sided_failed.get()),
            turns_busy: self.turns_busy.get(),
            turns_idle: self.turns_idle.get(),
        }
    }
}

impl Tally {
    pub(super) const fn count(&self, what: Counted) -> Count {
        let (ended, errors) = match what {
            Counted::Sends => (self.sends_ended.get(), self.sends_failed.get()),
            Counted::OneSided => (self.one_sided_ended.get(), self.one_sided_failed.get()),
            // Those that end without a message are not among them.
            Counted::Receives => {
                let errors = self.receives_failed.get();
                return Count { done: self.messages_received.get(), errors };
            }
        };
        Count { done: ended.wrapping_sub(errors), errors }
    }
}

#[inline(always)]
pub(super) fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get().wrapping_add(more));
}
