//! Connections of queue pairs: how they come to a greeting, and how they end.

use super::link::{Link, Stage};
use super::piece::BRIEF_MESSAGES_MAX;
use super::piece::Content;
use super::port::RdmaPort;
use super::{PAIR_SLOTS_MIN, SLOT_BYTES_MIN};
use crate::error::Fatal;
use crate::id::Addr;
use crate::provider::connect::Connects;
use crate::provider::peers::Standing;
use crate::provider::tcp::frame::{FrameFault, Greeting, LimitsError};
use crate::raw::region::Registrar;
use crate::time::Instant;
use crate::verbs::{CompletionQueue, QueuePair};

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    pub(super) fn free_link(&self) -> Option<(u32, &'m Link<'m, Q>)> {
        self.all_links().find(|(_, link)| link.stage.get() == Stage::Free)
    }

    pub(super) fn begin(&self, link: &Link<'m, Q>, stage: Stage) {
        link.begin(stage);
        self.expect(link);
    }

    /// The other end has said who it is.
    pub(super) fn greeted(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        greeting: Greeting,
    ) -> Result<(), FrameFault> {
        let limits = greeting.limits;
        let slots = limits.credit_messages;
        let slot_bytes = limits.credit_bytes.checked_div(slots).unwrap_or(0);
        if slots < PAIR_SLOTS_MIN {
            return Err(FrameFault::Limits(LimitsError::CreditMessages));
        }
        if slot_bytes < SLOT_BYTES_MIN || !slot_bytes.is_multiple_of(64) {
            return Err(FrameFault::Limits(LimitsError::CreditBytes));
        }
        link.greeting.set(Some(greeting));
        link.longest.set(limits.message_bytes_max);
        let piece_bytes = slot_bytes.min(self.config.slot_bytes);
        link.piece_bytes.set(piece_bytes);
        // What this end gives back has to fit beside a message.
        let is_sayable = self.config.slots <= BRIEF_MESSAGES_MAX;
        let longest = if is_sayable { limits.message_bytes_max } else { 0 };
        link.brief_bytes.set(longest.min(piece_bytes));
        link.peer_slots.set(slots);
        link.credit.set(slots);
        if link.stage.get() == Stage::Offered {
            self.answered(link, &greeting);
        } else {
            link.stage.set(Stage::Held);
            self.settle_held(at, link);
        }
        Ok(())
    }

    /// The other end of a connection that this end has opened does not take it.
    pub(super) fn not_taken(&self, at: u32, link: &'m Link<'m, Q>) {
        match link.peer.get() {
            Some(addr) => self.lose(addr, Standing::Refused),
            None => self.close(at, link),
        }
    }

    /// Something has failed, or the other end says that it is over: what has come before is heard first.
    pub(super) fn fail(&self, _at: u32, link: &Link<'m, Q>, fatal: Fatal) {
        link.fail(fatal);
        self.unsettled.set(true);
    }

    /// The other end sends no more.
    pub(super) fn end(&self, at: u32, link: &'m Link<'m, Q>, fatal: Fatal) {
        self.fail(at, link, fatal);
        self.conclude(at, link);
    }

    /// Nothing more comes by a link that has failed.
    fn conclude(&self, at: u32, link: &'m Link<'m, Q>) {
        let code = link.error.get();
        match link.stage.get() {
            Stage::Up => {
                let peer = link.peer.get();
                self.finish(at, link);
                // The other end of a connection of this port with itself is not what the row stands for.
                let is_way =
                    |addr: &Addr| self.peers.find(*addr).is_ok_and(|row| row.link.get() == at);
                if let Some(addr) = peer.filter(is_way) {
                    self.lose_for(addr, Standing::Gone, code);
                }
            }
            Stage::Asked | Stage::Offered => match link.peer.get() {
                Some(addr) => self.lose_for(addr, Standing::Gone, code),
                None => self.close(at, link),
            },
            Stage::Accepted | Stage::Held | Stage::Leaving => self.close(at, link),
            Stage::Over | Stage::Closing | Stage::Free => {}
        }
    }

    /// What came by a link is nonsense.
    #[cold]
    pub(super) fn cut(&self, at: u32, link: &'m Link<'m, Q>, fault: FrameFault) {
        self.last_fault.set(Some(fault));
        self.count(|c| c.corrupt = c.corrupt.wrapping_add(1));
        let peer = link.peer.get();
        let is_of_another_build = matches!(fault, FrameFault::Version { .. } | FrameFault::Hash);
        if !(is_of_another_build && self.tell_build(at, link)) {
            self.close(at, link);
        }
        if let Some(addr) = peer {
            self.lose(addr, Standing::Corrupt);
        }
    }

    /// Says hello to one of another build, and waits until that was taken, so that it can say what differs, too. Whether it was said.
    fn tell_build(&self, at: u32, link: &'m Link<'m, Q>) -> bool {
        let is_asked = link.stage.get() == Stage::Accepted;
        let hello = self.greeting.to_wire();
        let is_said = is_asked && self.say_bytes((at, link), &hello, (0, true)).is_ok();
        if is_said {
            link.stage.set(Stage::Leaving);
            self.expect(link);
        }
        is_said
    }

    /// Gives a link up: what has come is dropped, and the host is asked to destroy the queue pair.
    pub(super) fn close(&self, _at: u32, link: &'m Link<'m, Q>) {
        link.arrived.clear();
        link.is_stalled.set(false);
        link.peer.set(None);
        if link.is_bare() {
            link.stage.set(Stage::Free);
        } else {
            link.stage.set(Stage::Closing);
            self.asks.set(true);
        }
        self.unsettled.set(true);
    }

    /// Says goodbye, and waits until that was taken.
    pub(super) fn part(&self, at: u32, link: &'m Link<'m, Q>) {
        if self.say((at, link), Content::Goodbye).is_err() {
            return self.close(at, link);
        }
        link.arrived.clear();
        link.is_stalled.set(false);
        link.peer.set(None);
        link.stage.set(Stage::Leaving);
        self.expect(link);
    }

    /// Looks after the links that wait for something. Returns whether there are any.
    pub(super) fn settle_links(&self) -> bool {
        let mut again = false;
        self.watch_at.set(Instant::NEVER);
        for (at, link) in self.all_links() {
            let stage = link.stage.get();
            if stage == Stage::Free {
                continue;
            }
            if link.failed.get().is_some() {
                if self.is_drained.get() {
                    self.conclude(at, link);
                } else {
                    again = true;
                }
            }
            match link.stage.get() {
                Stage::Over if link.arrived.is_empty() && link.is_bare() => self.close(at, link),
                Stage::Leaving if link.sends.is_empty() => self.close(at, link),
                Stage::Held => self.settle_held(at, link),
                Stage::Up => self.watch(at, link),
                Stage::Free
                | Stage::Asked
                | Stage::Offered
                | Stage::Accepted
                | Stage::Over
                | Stage::Leaving
                | Stage::Closing => {}
            }
            if link.is_awaited() {
                again = true;
                if self.is_late(link) {
                    self.expire(at, link);
                }
            }
        }
        again
    }
}
