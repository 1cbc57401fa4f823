//! Signs of life: whether there is anybody at the other end of a connection on which nothing comes.
//!
//! The device of the other end is asked, by a write of nothing. It answers as long as the queue pair is there, whether its program turns or not, and
//! goes with the process and with the machine.

use super::link::{Aim, Done, Link};
use super::port::RdmaPort;
use crate::error::{Fatal, PostError};
use crate::raw::region::Registrar;
use crate::time::{Instant, Nanos};
use crate::verbs::{CompletionQueue, QueuePair, RemotePlace, Verb};

impl<Q: QueuePair> Link<'_, Q> {
    /// Asks the device of the other end for an answer, by a write of nothing: that takes no receive and no credit, and no program need turn for
    /// it. Where there is no room for it, the oldest send will do. Whether something was staged.
    pub(super) fn probe(&self) -> Result<bool, PostError> {
        if let Some(fatal) = self.failed.get() {
            return Err(fatal.into());
        }
        let number = self.oldest_send.get();
        if self.has_room(1).is_err() {
            self.probe.set(Some(number));
            return Ok(false);
        }
        let number = number.wrapping_add(self.sends.len());
        let nowhere = Aim::Memory(RemotePlace { address: 0, key: 0 });
        self.stage_send((Verb::Write, nowhere), &[], (Done::Known, false))?;
        self.probe.set(Some(number));
        Ok(true)
    }

    /// Whether the device of the other end has answered whatever it was asked.
    pub(super) fn has_answered(&self) -> bool {
        let is_over = |number: u32| number.wrapping_sub(self.oldest_send.get()) >= 1 << 31;
        self.failed.get().is_none() && self.probe.get().is_none_or(is_over)
    }

    /// Since when nothing has come.
    pub(super) fn silent_since(&self, now: Instant) -> Instant {
        let count = self.oldest_receive.get();
        match self.watched.get() {
            Some((since, before)) if before == count => since,
            Some(_) | None => {
                self.watched.set(Some((now, count)));
                now
            }
        }
    }

    /// From now on it is watched anew.
    pub(super) fn watch_from(&self, now: Instant) {
        self.watched.set(Some((now, self.oldest_receive.get())));
    }
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// Asks the other end of a connection on which nothing comes for a sign of life, and gives it up where none is given.
    pub(super) fn watch(&self, at: u32, link: &'m Link<'m, Q>) {
        let limit = self.config.keepalive;
        if limit == Nanos::MAX || link.failed.get().is_some() {
            return;
        }
        let now = self.now.get();
        let mut until = link.silent_since(now).saturating_add(limit);
        if until <= now && link.has_answered() {
            if link.probe().is_ok() {
                self.soil(at, link);
                if self.queues.staged() == 0 {
                    let _none = self.publish();
                }
            }
            link.watch_from(now);
            until = now.saturating_add(limit);
        } else if until <= now && self.is_drained.get() {
            self.count(|c| c.expired = c.expired.wrapping_add(1));
            return self.fail(at, link, Fatal::PeerGone);
        }
        self.watch_at.set(self.watch_at.get().min(until));
    }
}
