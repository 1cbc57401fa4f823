//! What a port says of its connections to whoever [looks after peers](super::super::connect).

use core::cell::Cell;

use super::link::{Link, Stage};
use super::port::RdmaPort;
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Name};
use crate::provider::connect::{Connects, Linked, Met, Row};
use crate::provider::peers::{Peers, Standing};
use crate::provider::queues::Queues;
use crate::provider::secret::Secret;
use crate::provider::tcp::frame::Greeting;
use crate::provider::{EndpointType, Select, Source, Waiting};
use crate::raw::region::Registrar;
use crate::table::wide;
use crate::time::{Instant, Nanos};
use crate::verbs::{CompletionQueue, QueuePair};

impl<Q: QueuePair> Linked for Link<'_, Q> {
    #[inline]
    fn peer(&self) -> &Cell<Option<Addr>> {
        &self.peer
    }

    fn deadline(&self) -> &Cell<Option<Instant>> {
        &self.deadline
    }

    fn doubted(&self) -> &Cell<bool> {
        &self.doubted
    }

    fn greeting(&self) -> Option<Greeting> {
        self.greeting.get()
    }

    fn is_up(&self) -> bool {
        self.stage.get() == Stage::Up
    }

    fn set_up(&self) {
        self.stage.set(Stage::Up);
    }

    fn is_opening(&self) -> bool {
        matches!(self.stage.get(), Stage::Asked | Stage::Offered)
    }

    fn is_held(&self) -> bool {
        self.stage.get() == Stage::Held
    }

    fn has_rest(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn is_unread(&self) -> bool {
        self.has_rest() && !self.is_stalled.get()
    }
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> Connects<'m> for RdmaPort<'m, Q, C, X> {
    type Link = Link<'m, Q>;

    #[inline]
    fn rows(&self) -> Peers<'m, Row> {
        self.peers
    }

    fn books(&self) -> &Queues<'m> {
        &self.queues
    }

    fn own(&self) -> &Greeting {
        &self.greeting
    }

    fn secret(&self) -> &Secret {
        &self.config.secret
    }

    fn hellos(&self) -> &Cell<u64> {
        &self.hellos
    }

    fn endpoint_type(&self) -> EndpointType {
        self.info.endpoint_type
    }

    fn unsettle(&self) {
        self.unsettled.set(true);
    }

    fn time(&self) -> (Instant, Nanos) {
        (self.now.get(), self.config.greeting_timeout)
    }

    fn tally(&self, what: Met) {
        self.count(|c| {
            let count = match what {
                Met::Connected => &mut c.connected,
                Met::Refused => &mut c.refused,
                Met::Expired => &mut c.expired,
            };
            *count = count.wrapping_add(1);
        });
    }

    #[inline]
    fn link(&self, at: u32) -> Option<&'m Link<'m, Q>> {
        self.links.get(wide(at))?.as_ref()
    }

    fn all_links(&self) -> impl Iterator<Item = (u32, &'m Link<'m, Q>)> {
        (0..u32::MAX).zip(self.links.iter().flatten())
    }

    fn has_route(&self, name: &Name) -> bool {
        self.routes.iter().any(|place| place.get().as_ref() == Some(name))
    }

    /// Asks the host for it.
    fn open_link(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        let name = row.name.get().filter(|name| self.has_route(name));
        let _name = name.ok_or(Misuse::UnknownAddress)?;
        if self.queues.room_for_events() < 2 {
            return Err(Retry::CqFull.into());
        }
        let (at, link) = self.free_link().ok_or(Retry::AddressesFull)?;
        self.begin(link, Stage::Asked);
        link.peer.set(Some(row.state.addr(slot)));
        row.link.set(at);
        row.state.set_standing(Standing::Connecting);
        self.asks.set(true);
        Ok(())
    }

    fn finish(&self, at: u32, link: &'m Link<'m, Q>) {
        link.stage.set(Stage::Over);
        self.make_readable(at, link);
        self.asks.set(true);
        self.unsettled.set(true);
    }

    fn abandon(&self, at: u32, link: &'m Link<'m, Q>) {
        self.leave(at, link);
    }

    fn leave(&self, at: u32, link: &'m Link<'m, Q>) {
        if matches!(link.stage.get(), Stage::Up | Stage::Offered) {
            self.part(at, link);
        } else {
            self.close(at, link);
        }
    }

    fn refuse(&self, at: u32, link: &'m Link<'m, Q>) {
        self.part(at, link);
    }

    fn greet(&self, at: u32, link: &'m Link<'m, Q>) -> bool {
        let to = link.greeting.get().map(|greeting| self.hello_to(&greeting.name));
        let is_said =
            to.is_some_and(|hello| self.say_bytes((at, link), &hello, (1, false)).is_ok());
        if !is_said {
            self.fail(at, link, Fatal::QueueError);
        }
        is_said
    }

    fn ask_for_life(&self, at: u32, link: &'m Link<'m, Q>) -> bool {
        let is_asked = link.probe().is_ok();
        if is_asked {
            self.soil(at, link);
        }
        is_asked
    }

    fn is_alive(&self, link: &'m Link<'m, Q>) -> bool {
        link.has_answered()
    }

    fn peek_all(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select).or_else(|| self.peek_in_slots(from, select))
    }
}
