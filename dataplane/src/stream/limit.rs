//! Timeouts. A connection has one timer, which is not moved with every byte: when it fires, the row says whether it is time.
//!
//! A request to cancel finds what waits in the kernel at that moment, and nothing that begins later: the next of a chain, say,
//! whose predecessor has just ended. So one that ends is cancelled again after a while for as long as the kernel has operations of it.

use super::row::{Phase, Row, flag, want};
use super::service::{LIST, PARTING, Streams};
use super::{CloseReason, ConnId};
use crate::time::{Instant, Nanos};
use crate::uring::Enter;

/// How long a listener waits after there were no descriptors for a connection.
const ACCEPT_AGAIN: Nanos = Nanos::from_millis(10);

/// How long a connection that ends waits for its operations before they are cancelled again.
const CANCEL_AGAIN: Nanos = Nanos::from_millis(10);

/// How long a connection may linger while a listener has no row for the next.
const HURRIED: Nanos = Nanos::from_millis(10);

/// How often it is looked for who holds buffers while others lack them.
const LOOK_FOR_HOARDS: Nanos = Nanos::from_millis(10);

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// The end of the connection.
    End(CloseReason),
    /// The time of an operation is up.
    Operation,
}

impl<E: Enter> Streams<'_, E> {
    /// The first turn: what began before it began now.
    #[cold]
    pub(super) fn begin(&self, now: Instant) {
        for row in self.rows {
            row.came.set(now);
            row.went.set(now);
        }
    }

    /// A listener lacks a row: the connection that has lingered for longest does so no longer, unless one comes free already.
    #[inline(always)]
    pub(super) fn hurry(&self) {
        if self.starved.get() {
            self.hurry_one();
        }
    }

    #[inline(never)]
    fn hurry_one(&self) {
        let for_ever = self.config.linger_timeout == Nanos::MAX;
        if self.ending.get() > 0 || for_ever {
            return;
        }
        if let Some(slot) = self.refused.front(PARTING)
            && let Some(row) = self.row_at(slot)
        {
            self.watch(row, row.id(slot));
        }
    }

    /// Whether buffers have all gone that others want, and those who hold some have a limit of time for that.
    #[inline]
    fn lacks_buffers(&self) -> bool {
        let none_to_receive = self.buffers.given() == 0 && !self.parked.is_empty(LIST);
        self.config.hoard_timeout != Nanos::MAX && (none_to_receive || self.none_to_send.get())
    }

    /// Ends those that have taken nothing for too long while others lack buffers.
    #[inline]
    pub(super) fn end_hoards(&self) {
        if self.lacks_buffers() && self.hoards_at.get() <= self.now.get() {
            self.end_hoards_now();
        }
    }

    #[cold]
    fn end_hoards_now(&self) {
        let now = self.now.get();
        self.hoards_at.set(now.saturating_add(LOOK_FOR_HOARDS));
        // Those who hold some themselves are not kept out by others.
        let lacks = |row: &Row| row.has(flag::PARKED) && row.queued.get() == 0;
        if !self.none_to_send.replace(false) && !self.rows.iter().any(lacks) {
            return;
        }
        for (slot, row) in (0..self.config.conns).zip(self.rows) {
            let until = row.went.get().saturating_add(self.config.hoard_timeout);
            let holds = matches!(row.phase.get(), Phase::Open | Phase::Draining);
            if holds && row.queued.get() > 0 && until <= now {
                self.end(slot, row, CloseReason::SendTimeout);
            }
        }
    }

    /// When to look for them next.
    pub(super) fn hoards_until(&self) -> Option<Instant> {
        self.lacks_buffers().then(|| self.hoards_at.get())
    }

    /// When a row is due, and why.
    fn due(&self, row: &Row) -> Option<(Instant, Due)> {
        let end = self.end_due(row).map(|(when, why)| (when, Due::End(why)));
        let until = match row.phase.get() {
            Phase::Open => row.soonest.get().min(row.expects.get()),
            Phase::Connecting | Phase::Draining => row.soonest.get(),
            Phase::Free | Phase::Listening | Phase::Parting | Phase::Closing | Phase::Ended => {
                Instant::NEVER
            }
        };
        if until == Instant::NEVER || end.is_some_and(|(when, _)| when <= until) {
            end
        } else {
            Some((until, Due::Operation))
        }
    }

    /// When a row is to end, and why.
    fn end_due(&self, row: &Row) -> Option<(Instant, CloseReason)> {
        let after = |since: Instant, limit: Nanos, why| {
            (limit != Nanos::MAX).then(|| (since.saturating_add(limit), why))
        };
        let (came, went) = (row.came.get(), row.went.get());
        let send = || after(went, self.config.send_timeout, CloseReason::SendTimeout);
        match row.phase.get() {
            Phase::Connecting => {
                after(came, self.config.connect_timeout, CloseReason::ConnectTimeout)
            }
            Phase::Open => {
                let idle =
                    after(came.max(went), self.config.idle_timeout, CloseReason::IdleTimeout);
                let stuck = if row.queued.get() > 0 { send() } else { None };
                match (idle, stuck) {
                    (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
                    (one, other) => one.or(other),
                }
            }
            Phase::Draining => send(),
            Phase::Parting => {
                let linger = self.config.linger_timeout;
                let hurries = self.starved.get() && linger != Nanos::MAX;
                let limit = if hurries { linger.min(HURRIED) } else { linger };
                after(went, limit, CloseReason::Closed)
            }
            Phase::Free | Phase::Listening | Phase::Closing | Phase::Ended => None,
        }
    }

    /// Starts the timer of a row, or moves it to the sooner.
    pub(super) fn watch(&self, row: &Row, id: ConnId) {
        let phase = row.phase.get();
        if matches!(phase, Phase::Listening | Phase::Free | Phase::Closing | Phase::Ended) {
            // Whoever ends has its timer for what is to be cancelled again.
            return;
        }
        let limits =
            [self.config.connect_timeout, self.config.idle_timeout, self.config.send_timeout];
        // What is queued later has a limit of its own: it is looked at no later than that.
        let within = limits.into_iter().min().unwrap_or(Nanos::MAX);
        let looks = within != Nanos::MAX && phase != Phase::Parting;
        let look = looks.then(|| self.now.get().saturating_add(within));
        let due = self.due(row).map(|(when, _)| when);
        if let Some(when) = look.into_iter().chain(due).min() {
            self.set_timer(row, id, when);
        }
    }

    fn set_timer(&self, row: &Row, id: ConnId, when: Instant) {
        let running = row.timer.get();
        if running.is_some_and(|timer| self.timers.reset(timer, when).is_ok()) {
            return;
        }
        // There is a timer for every row.
        row.timer.set(self.timers.insert(when, id).ok());
    }

    /// The listener tries again after a while.
    pub(super) fn accept_later(&self, row: &Row, id: ConnId) {
        self.set_timer(row, id, self.now.get().saturating_add(ACCEPT_AGAIN));
    }

    /// What the kernel has of a row that ends is cancelled again after a while.
    pub(super) fn cancel_later(&self, row: &Row, id: ConnId) {
        self.set_timer(row, id, self.now.get().saturating_add(CANCEL_AGAIN));
    }

    pub(super) fn expire(&self, now: Instant, budget: u32) {
        for due in self.timers.expire(now, budget) {
            let id = due.payload;
            let Ok(row) = self.row(id) else { continue };
            row.timer.set(None);
            match row.phase.get() {
                Phase::Listening if row.has(flag::ARMED) => {}
                Phase::Listening => self.want(id.slot(), want::ACCEPT),
                // Not once it is being closed: the descriptor may be somebody else's already.
                Phase::Closing if row.under_way.get() > 0 && row.wants.get() & want::CLOSE != 0 => {
                    self.want(id.slot(), want::CANCEL);
                    self.cancel_later(row, id);
                }
                Phase::Free | Phase::Closing | Phase::Ended => {}
                Phase::Connecting | Phase::Open | Phase::Draining | Phase::Parting => {
                    match self.due(row) {
                        Some((when, Due::End(reason))) if when <= now => {
                            self.end(id.slot(), row, reason);
                        }
                        Some((when, Due::Operation)) if when <= now => {
                            self.expire_operations((id, row), now);
                            self.watch(row, id);
                        }
                        _ => self.watch(row, id),
                    }
                }
            }
        }
    }
}
