//! Connections: how they begin and end, and who is at their other end.
//!
//! ```text
//!   lower name                                     higher name
//!     connects, says hello   ------- 1 ----->       its own is under way: answers, and gives up its own
//!     holds it               <------ 2 ------       connects, says hello
//!     hello: 1 is up         <------ 1 ------
//!     end of 2               <------ 2 ------
//! ```
//!
//! Whoever opened a connection says hello at once. Whoever accepted it reads that first, decides, and answers with a hello of its own, or
//! with a goodbye: so a hello that answers is the acceptance, and nobody sends a message before it.

use super::link::{Link, Stage};
use super::peers::Row;
use super::piece::Content;
use super::port::RdmaPort;
use super::{PAIR_SLOTS_MIN, SLOT_BYTES_MIN};
use crate::error::Fatal;
use crate::id::{Addr, Name};
use crate::provider::peers::Standing;
use crate::provider::tcp::frame::{FrameFault, Greeting, LimitsError};
use crate::provider::{EndpointType, Event};
use crate::raw::region::Registrar;
use crate::table::wide;
use crate::time::Instant;
use crate::verbs::{CompletionQueue, QueuePair};

/// What becomes of a connection that somebody has opened.
enum Answer<'m> {
    /// It is that of this row; whether the row is new.
    Take(u32, &'m Row, bool),
    /// That is not known yet.
    Hold,
    /// It is not taken.
    Refuse,
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    #[inline]
    pub(super) fn link(&self, at: u32) -> Option<&'m Link<'m, Q>> {
        self.links.get(wide(at))?.as_ref()
    }

    pub(super) fn all_links(
        &self,
    ) -> impl Iterator<Item = (u32, &'m Link<'m, Q>)> + use<'m, Q, C, X> {
        (0..u32::MAX).zip(self.links.iter().flatten())
    }

    pub(super) fn free_link(&self) -> Option<(u32, &'m Link<'m, Q>)> {
        self.all_links().find(|(_, link)| link.stage.get() == Stage::Free)
    }

    pub(super) fn links_of(
        &self,
        addr: Addr,
    ) -> impl Iterator<Item = (u32, &'m Link<'m, Q>)> + use<'m, Q, C, X> {
        self.all_links().filter(move |(_, link)| link.peer.get() == Some(addr))
    }

    pub(super) fn begin(&self, link: &Link<'m, Q>, stage: Stage) {
        link.begin(stage);
        self.expect(link);
    }

    /// The other end, or the host, has to do something within the time for it. That begins with the next look at the clock: the last
    /// may be long ago.
    pub(super) fn expect(&self, link: &Link<'m, Q>) {
        link.deadline.set(None);
        self.unsettled.set(true);
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
        link.piece_bytes.set(slot_bytes.min(self.config.slot_bytes));
        link.peer_slots.set(slots);
        link.credit.set(slots);
        if link.stage.get() == Stage::Offered {
            self.answered(at, link, &greeting);
        } else {
            link.stage.set(Stage::Held);
            self.settle_held(at, link);
        }
        Ok(())
    }

    /// The other end of a connection that this end has opened takes it.
    fn answered(&self, at: u32, link: &'m Link<'m, Q>, greeting: &Greeting) {
        let Some(addr) = link.peer.get() else { return };
        let Ok(row) = self.peers.find(addr) else { return };
        if row.name.get() != Some(greeting.name) || greeting.kind != self.greeting.kind {
            // Somebody else is there.
            return self.lose(addr, Standing::Refused);
        }
        link.stage.set(Stage::Up);
        row.link.set(at);
        self.rise(addr, row, self.info.endpoint_type == EndpointType::Msg);
    }

    /// The other end of a connection that this end has opened does not take it.
    pub(super) fn not_taken(&self, at: u32, link: &'m Link<'m, Q>) {
        match link.peer.get() {
            Some(addr) => self.lose(addr, Standing::Refused),
            None => self.close(at, link),
        }
    }

    /// A connection is up.
    fn rise(&self, addr: Addr, row: &Row, tell: bool) {
        row.state.set_standing(Standing::Up);
        self.unsettled.set(true);
        self.count(|c| c.connected = c.connected.wrapping_add(1));
        if tell {
            // There was room when the connection was begun; who takes no note of events for so long misses it.
            let _told = self.queues.tell(Event::Connected(addr));
        }
    }

    /// Decides about a connection that somebody has opened, as far as that can be.
    fn settle_held(&self, at: u32, link: &'m Link<'m, Q>) {
        let Some(greeting) = link.greeting.get() else { return };
        match self.answer(link, &greeting) {
            Answer::Take(slot, row, is_new) => self.welcome((at, link), (slot, row), is_new),
            Answer::Hold => self.unsettled.set(true),
            Answer::Refuse => {
                self.count(|c| c.refused = c.refused.wrapping_add(1));
                self.part(at, link);
            }
        }
    }

    fn answer(&self, link: &'m Link<'m, Q>, greeting: &Greeting) -> Answer<'m> {
        if greeting.kind != self.greeting.kind {
            return Answer::Refuse;
        }
        let name = greeting.name;
        let Some((slot, row)) = self.row_of(&name) else { return self.newcomer(&name) };
        match row.state.standing() {
            Standing::Known => Answer::Take(slot, row, false),
            Standing::Connecting if name == self.greeting.name => Answer::Take(slot, row, false),
            Standing::Connecting if is_lower(&self.greeting.name, &name) => Answer::Hold,
            Standing::Connecting => Answer::Take(slot, row, false),
            Standing::Up => {
                self.doubt(row, link);
                Answer::Hold
            }
            Standing::Vacant
            | Standing::Gone
            | Standing::Refused
            | Standing::Corrupt
            | Standing::Past => Answer::Refuse,
        }
    }

    /// Somebody has connected whose connection is up: he has given this one or that one up, and does not live where that one
    /// leads if he has begun anew. Whether its device answers says which.
    fn doubt(&self, row: &Row, held: &Link<'m, Q>) {
        let at = row.link.get();
        let Some(link) = self.link(at) else { return };
        if !held.doubted.get() && link.probe(at).is_ok() {
            self.soil(at, link);
            held.doubted.set(true);
        }
    }

    fn newcomer(&self, name: &Name) -> Answer<'m> {
        let connects = self.info.endpoint_type == EndpointType::Msg;
        if connects && self.peers.has_peer() {
            // A port whose peer has gone is free for another as soon as that was taken note of.
            let all_lost = self.peers.in_use().all(|(_, row)| row.state.is_lost());
            return if all_lost { Answer::Hold } else { Answer::Refuse };
        }
        if self.queues.room_for_events() < 2 {
            return Answer::Hold;
        }
        match self.enter(name) {
            Ok((slot, row)) => Answer::Take(slot, row, true),
            Err(_full) => Answer::Refuse,
        }
    }

    /// Takes a connection.
    fn welcome(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        (slot, row): (u32, &'m Row),
        is_new: bool,
    ) {
        if self.say_bytes((at, link), &self.greeting.to_wire(), (1, false)).is_err() {
            if is_new {
                self.vacate(slot, row);
            }
            self.fail(at, link, Fatal::QueueError);
            return;
        }
        link.stage.set(Stage::Up);
        link.peer.set(Some(row.state.addr(slot)));
        if row.name.get() == Some(self.greeting.name) {
            // The other end of a connection of this port with itself.
            return;
        }
        let before = row.link.replace(at);
        if let Some(own) = self.link(before) {
            self.leave(before, own);
        }
        let connects = self.info.endpoint_type == EndpointType::Msg;
        self.rise(row.state.addr(slot), row, is_new || connects);
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
        match link.stage.get() {
            Stage::Up => {
                let peer = link.peer.get();
                self.finish(at, link);
                // The other end of a connection of this port with itself is not what the row stands for.
                let is_way =
                    |addr: &Addr| self.peers.find(*addr).is_ok_and(|row| row.link.get() == at);
                if let Some(addr) = peer.filter(is_way) {
                    self.lose(addr, Standing::Gone);
                }
            }
            Stage::Asked | Stage::Offered => match link.peer.get() {
                Some(addr) => self.lose(addr, Standing::Gone),
                None => self.close(at, link),
            },
            Stage::Accepted | Stage::Held | Stage::Leaving => self.close(at, link),
            Stage::Over | Stage::Closing | Stage::Free => {}
        }
    }

    /// Nothing more comes by a link; what has come stays.
    pub(super) fn finish(&self, at: u32, link: &'m Link<'m, Q>) {
        link.stage.set(Stage::Over);
        self.make_readable(at, link);
        self.asks.set(true);
        self.unsettled.set(true);
    }

    /// What came by a link is nonsense.
    #[cold]
    pub(super) fn cut(&self, at: u32, link: &'m Link<'m, Q>, fault: FrameFault) {
        self.last_fault.set(Some(fault));
        self.count(|c| c.corrupt = c.corrupt.wrapping_add(1));
        let peer = link.peer.get();
        self.close(at, link);
        if let Some(addr) = peer {
            self.lose(addr, Standing::Corrupt);
        }
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

    /// This end gives a link up. What it has sent arrives; what has come is dropped.
    pub(super) fn leave(&self, at: u32, link: &'m Link<'m, Q>) {
        if matches!(link.stage.get(), Stage::Up | Stage::Offered) {
            self.part(at, link);
        } else {
            self.close(at, link);
        }
    }

    /// Says goodbye, and waits until that was taken.
    fn part(&self, at: u32, link: &'m Link<'m, Q>) {
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
                let now = self.now.get();
                let fresh = now.saturating_add(self.config.greeting_timeout);
                let deadline = link.deadline.get().unwrap_or(fresh);
                link.deadline.set(Some(deadline));
                if deadline <= now {
                    self.expire(at, link);
                }
            }
        }
        again
    }

    /// The other end takes too long.
    #[cold]
    fn expire(&self, at: u32, link: &'m Link<'m, Q>) {
        self.count(|c| c.expired = c.expired.wrapping_add(1));
        let (stage, peer) = (link.stage.get(), link.peer.get());
        if stage == Stage::Held
            && let Some(greeting) = link.greeting.get()
            && let Some((slot, row)) = self.row_of(&greeting.name)
            && row.state.standing() == Standing::Up
        {
            let lives = self.link(row.link.get()).is_some_and(Link::has_answered);
            if link.doubted.get() && lives {
                // Somebody else with that name: whoever has it is there.
                self.count(|c| c.refused = c.refused.wrapping_add(1));
                return self.part(at, link);
            }
            // It has begun anew, and the device keeps quiet about the end of the old connection.
            self.lose(row.state.addr(slot), Standing::Gone);
            self.expect(link);
            return;
        }
        match peer.filter(|_| stage != Stage::Held) {
            Some(addr) => self.lose(addr, Standing::Gone),
            None => self.close(at, link),
        }
    }
}

fn is_lower(a: &Name, b: &Name) -> bool {
    a.as_field() < b.as_field()
}
