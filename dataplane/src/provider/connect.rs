//! Peers that are known by name and reached over connections: how they come and go, whatever the connections are.
//!
//! ```text
//!              connect (RDM)                first send, reach
//!   Vacant ----------------------> Known ---------------------> Connecting
//!    ^  |      connect (MSG)                                      |    |
//!    |  '---------------------------------------------------------'    | its hello, or taken from it
//!    |         somebody has connected                                  v
//!    |  '-----------------------------------------------------------> Up
//!    |                                                                 | goodbye, end, failure, nonsense
//!    |<--- event taken ---- Gone, Refused, Corrupt <-------------------'
//!    |                              | event taken, and messages of it wait where they have come
//!    '---- all taken, or given up  Past
//! ```
//!
//! Two that connect at once keep one connection:
//!
//! ```text
//!   lower name                                     higher name
//!     connects, says hello   ------- 1 ----->       its own is under way: answers, and gives up its own
//!     holds it               <------ 2 ------       connects, says hello
//!     hello: 1 is up         <------ 1 ------
//!     end of 2               <------ 2 ------
//! ```
//!
//! Whoever opened a connection says hello at once. Whoever accepted it reads that first, decides, and answers with a hello of its own or gives it
//! up: so a hello that answers is the acceptance, and nobody sends a message before it.
//!
//! *Whoever says a name need not be who has it.* Where a connection to the peer of that name is up, a newcomer gets its place at once if he is that very
//! endpoint, which the [token](super::secret) in his hello proves, and said it later than the hello of that connection: then that one has another end no more. Anybody else may be that peer, begun anew, or a stranger:
//! the end of the connection that is up is asked for a sign of life, and keeps its place unless that shows that nobody is there. So a stranger ends nothing.
//!
//! A port is [`Connects`]: it says how its connections are opened, spoken on and given up, and has the rest from here.

use core::cell::Cell;

use heapless::VecView;
use spinwire_layouts::wire::hello::HELLO_BYTES;

use super::peers::{PeerState, Peers, Standing};
use super::queues::Queues;
use super::secret::Secret;
use super::tcp::frame::Greeting;
use super::{Cqe, EndpointType, Event, Select, Source, Waiting};
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Addr, Name};
use crate::table::NIL;
use crate::time::{Instant, Nanos};

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) state: PeerState,
    pub(super) name: Cell<Option<Name>>,
    /// The connection to send by.
    pub(super) link: Cell<u32>,
}

impl Row {
    pub(super) const fn vacant() -> Self {
        Self { state: PeerState::vacant(), name: Cell::new(None), link: Cell::new(NIL) }
    }
}

impl AsRef<PeerState> for Row {
    fn as_ref(&self) -> &PeerState {
        &self.state
    }
}

/// What becomes of a connection that somebody has opened.
enum Answer<'m> {
    /// It is that of this row; whether the row is new.
    Take(u32, &'m Row, bool),
    /// That is not known yet.
    Hold,
    /// It is not taken.
    Refuse,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Met {
    /// A connection came up.
    Connected,
    /// One was not taken.
    Refused,
    /// The other end did not greet, answer or let go in time.
    Expired,
}

/// A connection.
pub(super) trait Linked {
    /// Whose it is.
    fn peer(&self) -> &Cell<Option<Addr>>;

    /// Until when it is awaited; `None` until the next look at the clock.
    fn deadline(&self) -> &Cell<Option<Instant>>;

    /// Whether the end of the connection that its peer has already was asked for a sign of life.
    fn doubted(&self) -> &Cell<bool>;

    /// Who the other end says that it is.
    fn greeting(&self) -> Option<Greeting>;

    /// Messages go both ways.
    fn is_up(&self) -> bool;

    /// From now on they do.
    fn set_up(&self);

    /// This end has opened it, and has no answer yet.
    fn is_opening(&self) -> bool;

    /// The other end has opened it, and it is not decided whether it is taken.
    fn is_held(&self) -> bool;

    /// Whether something has come by it that is to be delivered.
    fn has_rest(&self) -> bool;

    /// Whether some of that was not looked at.
    fn is_unread(&self) -> bool;
}

/// A port whose peers are reached over connections.
pub(super) trait Connects<'m> {
    /// What it has of each connection.
    type Link: Linked + 'm;

    /// Its address table.
    fn rows(&self) -> Peers<'m, Row>;

    /// Its receives and events.
    fn books(&self) -> &Queues<'m>;

    /// Who it is itself.
    fn own(&self) -> &Greeting;

    /// What its tokens are made of.
    fn secret(&self) -> &Secret;

    /// How many hellos it has said.
    fn hellos(&self) -> &Cell<u64>;

    /// What it says to the peer of that name.
    fn hello_to(&self, peer: &Name) -> [u8; HELLO_BYTES] {
        let number = self.hellos().replace(self.hellos().get().wrapping_add(1));
        self.own().for_peer((self.secret(), number), peer).to_wire()
    }

    /// What it is.
    fn endpoint_type(&self) -> EndpointType;

    /// There may be connections or rows that are to become something else.
    fn unsettle(&self);

    /// When it was turned last, and how long others may take to greet.
    fn time(&self) -> (Instant, Nanos);

    /// Counts.
    fn tally(&self, what: Met);

    /// A connection.
    fn link(&self, at: u32) -> Option<&'m Self::Link>;

    /// All of them.
    fn all_links(&self) -> impl Iterator<Item = (u32, &'m Self::Link)>;

    /// Whether it is known where that name is found.
    fn has_route(&self, name: &Name) -> bool;

    /// Opens a connection to the peer of a row, and writes into the row which it is.
    fn open_link(&self, slot: u32, row: &Row) -> Result<(), PostError>;

    /// Nothing more comes by a connection that was up; what has come stays.
    fn finish(&self, at: u32, link: &'m Self::Link);

    /// Gives up a connection that is not up.
    fn abandon(&self, at: u32, link: &'m Self::Link);

    /// This end gives a connection up. What it has sent arrives; what has come is dropped.
    fn leave(&self, at: u32, link: &'m Self::Link);

    /// Does not take a connection that somebody has opened, and says so.
    fn refuse(&self, at: u32, link: &'m Self::Link);

    /// Says who this is on a connection that is taken. Whether that goes; if not, it was seen to.
    fn greet(&self, at: u32, link: &'m Self::Link) -> bool;

    /// Asks the other end of a connection that is up whether it lives. Whether that goes.
    fn ask_for_life(&self, at: u32, link: &'m Self::Link) -> bool;

    /// Whether there may be somebody: it has answered, or its end would have been noticed otherwise.
    fn is_alive(&self, link: &'m Self::Link) -> bool;

    /// Of all messages that wait, the oldest that such a receive would take.
    fn peek_all(&self, from: Source, select: Select) -> Option<Waiting>;

    /// The connections of a peer.
    fn links_of(&self, addr: Addr) -> impl Iterator<Item = (u32, &'m Self::Link)> {
        self.all_links().filter(move |(_, link)| link.peer().get() == Some(addr))
    }

    /// Whether something of a peer waits where it has come.
    fn has_rest(&self, addr: Addr) -> bool {
        self.links_of(addr).any(|(_, link)| link.has_rest())
    }

    /// The row of a peer that is not lost. One that is, and has come back since, gets a new row.
    fn row_of(&self, name: &Name) -> Option<(u32, &'m Row)> {
        self.rows()
            .in_use()
            .find(|(_, row)| !row.state.is_lost() && row.name.get().as_ref() == Some(name))
    }

    /// A new row.
    fn enter(&self, name: &Name) -> Result<(u32, &'m Row), PostError> {
        if self.endpoint_type() == EndpointType::Msg && self.rows().has_peer() {
            return Err(Misuse::WrongPeer.into());
        }
        let (slot, row) = self.rows().vacant()?;
        row.name.set(Some(*name));
        row.state.set_standing(Standing::Known);
        row.link.set(NIL);
        Ok((slot, row))
    }

    /// The address of whoever has that name; of type MSG a connection is opened.
    fn connect_to(&self, name: &Name) -> Result<Addr, PostError> {
        if let Some((slot, row)) = self.row_of(name) {
            return Ok(row.state.addr(slot));
        }
        if !self.has_route(name) {
            return Err(Misuse::UnknownAddress.into());
        }
        let (slot, row) = self.enter(name)?;
        if self.endpoint_type() == EndpointType::Msg
            && let Err(refused) = self.open_link(slot, row)
        {
            self.vacate(slot, row);
            return Err(refused);
        }
        Ok(row.state.addr(slot))
    }

    /// What stands in the way of a send: a connection is opened where there is none. Else the one to send by.
    #[inline(always)]
    fn make_ready(&self, slot: u32, row: &'m Row) -> Result<(u32, &'m Self::Link), PostError> {
        let at = row.link.get();
        if row.state.standing() == Standing::Up
            && let Some(link) = self.link(at)
        {
            return Ok((at, link));
        }
        Err(self.not_ready(slot, row))
    }

    /// Why a peer cannot be sent to just now.
    #[cold]
    fn not_ready(&self, slot: u32, row: &Row) -> PostError {
        if row.state.standing() == Standing::Known
            && let Err(refused) = self.open_link(slot, row)
        {
            return refused;
        }
        // One that was opened just now, or is up and has no connection yet, is not connected.
        row.state.standing().may_be_sent_to().err().unwrap_or(Retry::NotConnected.into())
    }

    /// Nothing more is sent to a peer, and nothing more comes from it: who comes back gets a new row.
    fn lose(&self, addr: Addr, standing: Standing) {
        self.lose_for(addr, standing, 0);
    }

    /// The same, with the number that the transport gives for the reason.
    fn lose_for(&self, addr: Addr, standing: Standing, code: u32) {
        let Ok(row) = self.rows().find(addr) else { return };
        if row.state.is_lost() {
            return;
        }
        row.state.lose_for(standing, code);
        row.link.set(NIL);
        self.unsettle();
        for (at, link) in self.links_of(addr) {
            if link.is_up() {
                self.finish(at, link);
            } else if link.is_opening() {
                self.abandon(at, link);
            }
        }
    }

    /// Makes the row free for another peer; its address is stale from now on. Whatever is left of it is given up.
    fn vacate(&self, slot: u32, row: &Row) {
        for (at, link) in self.links_of(row.state.addr(slot)) {
            self.leave(at, link);
        }
        row.state.vacate();
        row.name.set(None);
        row.link.set(NIL);
    }

    /// Whether the end of somebody is told after some more looks.
    fn is_end_due(&self) -> bool {
        self.rows().in_use().any(|(_, row)| row.state.is_about_to_end())
    }

    /// Looks after those that were lost. Returns whether some of them have to be looked at again.
    fn bury_all(&self, out: &mut VecView<Cqe>) -> bool {
        let mut again = false;
        for (slot, row) in self.rows().in_use().filter(|(_, row)| row.state.is_lost()) {
            let addr = row.state.addr(slot);
            again |= !row.state.has_ended();
            let whose = self.endpoint_type().bereft_of(addr);
            let is_left = self.has_rest(addr);
            if !self.books().report_end((addr, &row.state), is_left, whose, out) {
                continue;
            }
            if !is_left && row.state.standing() == Standing::Past {
                self.vacate(slot, row);
            }
        }
        let unread = |slot, row: &Row| self.may_be_unread(row.state.addr(slot));
        again | self.books().fail_late(self.rows(), unread, out)
    }

    /// An event was taken note of. A peer's end is the last that is heard of its address.
    fn note(&self, event: Event) {
        let (Event::PeerGone(addr) | Event::PeerCorrupt(addr) | Event::Refused(addr)) = event
        else {
            return;
        };
        let Ok(row) = self.rows().find(addr) else { return };
        if self.has_rest(addr) {
            row.state.set_standing(Standing::Past);
        } else {
            self.vacate(addr.slot(), row);
        }
        // Somebody may have waited for the row.
        self.unsettle();
    }

    /// Whether a receive may be posted that waits for one alone who is gone: a message of it waits.
    fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let waits = self.peek_all(Source::Only(addr), select).is_some()
            || self.rows().find(addr).is_ok() && self.may_be_unread(addr);
        self.books().ask_the_gone(self.rows(), addr, waits)?;
        self.unsettle();
        Ok(())
    }

    /// Whether there may be messages of a lost peer that were not looked at: behind one that was taken since.
    fn may_be_unread(&self, addr: Addr) -> bool {
        self.links_of(addr).any(|(_, link)| link.is_unread())
    }

    /// The other end has to do something within the time for it. That begins with the next look at the clock: the last may be long ago.
    fn expect(&self, link: &Self::Link) {
        link.deadline().set(None);
        self.unsettle();
    }

    /// Whether the time of the other end is over.
    fn is_late(&self, link: &Self::Link) -> bool {
        let (now, patience) = self.time();
        let deadline = link.deadline().get().unwrap_or(now.saturating_add(patience));
        link.deadline().set(Some(deadline));
        deadline <= now
    }

    /// The other end of a connection that this end has opened takes it.
    fn answered(&self, link: &'m Self::Link, greeting: &Greeting) {
        let Some(addr) = link.peer().get() else { return };
        let Ok(row) = self.rows().find(addr) else { return };
        if row.name.get() != Some(greeting.name) || greeting.kind != self.own().kind {
            // Somebody else is there.
            return self.lose(addr, Standing::Refused);
        }
        link.set_up();
        self.rise(addr, row, self.endpoint_type() == EndpointType::Msg);
    }

    /// A connection is up.
    fn rise(&self, addr: Addr, row: &Row, tell: bool) {
        row.state.set_standing(Standing::Up);
        self.unsettle();
        self.tally(Met::Connected);
        if tell {
            // There was room when the connection was begun; who takes no note of events for so long misses it.
            let _told = self.books().tell(Event::Connected(addr));
        }
    }

    /// Decides about a connection that somebody has opened, as far as that can be.
    fn settle_held(&self, at: u32, link: &'m Self::Link) {
        let Some(greeting) = link.greeting() else { return };
        match answer(self, link, &greeting) {
            Answer::Take(slot, row, is_new) => self.welcome((at, link), (slot, row), is_new),
            Answer::Hold => self.unsettle(),
            Answer::Refuse => {
                self.tally(Met::Refused);
                self.refuse(at, link);
            }
        }
    }

    /// Takes a connection.
    fn welcome(
        &self,
        (at, link): (u32, &'m Self::Link),
        (slot, row): (u32, &'m Row),
        is_new: bool,
    ) {
        if !self.greet(at, link) {
            if is_new {
                self.vacate(slot, row);
            }
            return;
        }
        link.set_up();
        link.peer().set(Some(row.state.addr(slot)));
        if row.name.get() == Some(self.own().name) {
            // The other end of a connection of this port with itself.
            return;
        }
        let before = row.link.replace(at);
        if let Some(own) = self.link(before) {
            self.abandon(before, own);
        }
        let connects = self.endpoint_type() == EndpointType::Msg;
        self.rise(row.state.addr(slot), row, is_new || connects);
    }

    /// The other end takes too long.
    #[cold]
    fn expire(&self, at: u32, link: &'m Self::Link) {
        self.tally(Met::Expired);
        if !link.is_held() {
            return match link.peer().get() {
                Some(addr) => self.lose(addr, Standing::Gone),
                None => self.abandon(at, link),
            };
        }
        let row = link.greeting().and_then(|greeting| self.row_of(&greeting.name));
        let Some((slot, row)) = row.filter(|(_, row)| row.state.standing() == Standing::Up) else {
            return self.abandon(at, link);
        };
        let lives = self.link(row.link.get()).is_some_and(|link| self.is_alive(link));
        if lives {
            // Somebody else with that name, as far as can be told: whoever has it is there.
            self.tally(Met::Refused);
            return self.refuse(at, link);
        }
        // It has begun anew, and the network keeps quiet about the end of the old connection.
        self.lose(row.state.addr(slot), Standing::Gone);
        self.expect(link);
    }
}

fn answer<'m, P: Connects<'m> + ?Sized>(
    port: &P,
    link: &'m P::Link,
    greeting: &Greeting,
) -> Answer<'m> {
    if greeting.kind != port.own().kind {
        return Answer::Refuse;
    }
    let (name, own) = (greeting.name, port.own().name);
    let Some((slot, row)) = port.row_of(&name) else { return newcomer(port, &name) };
    match row.state.standing() {
        Standing::Known => Answer::Take(slot, row, false),
        Standing::Connecting if name == own => Answer::Take(slot, row, false),
        Standing::Connecting if own.as_field() < name.as_field() => Answer::Hold,
        Standing::Connecting => Answer::Take(slot, row, false),
        Standing::Up => match port.link(row.link.get()).and_then(Linked::greeting) {
            Some(before) if greeting.is_again(&before) => {
                port.lose(row.state.addr(slot), Standing::Gone);
                turn_away(port, &before);
                newcomer(port, &name)
            }
            Some(_) | None => {
                doubt(port, row, link);
                Answer::Hold
            }
        },
        Standing::Vacant
        | Standing::Gone
        | Standing::Refused
        | Standing::Corrupt
        | Standing::Past => Answer::Refuse,
    }
}

/// Somebody has connected whose connection is up: he has given this one or that one up, and does not live where that one
/// leads if he has begun anew. A sign of life says which.
fn doubt<'m, P: Connects<'m> + ?Sized>(port: &P, row: &Row, held: &P::Link) {
    let at = row.link.get();
    let Some(link) = port.link(at).filter(|_| !held.doubted().get()) else { return };
    if port.ask_for_life(at, link) {
        held.doubted().set(true);
    }
}

/// Does not take those who wait with the name of one who has come himself.
fn turn_away<'m, P: Connects<'m> + ?Sized>(port: &P, himself: &Greeting) {
    for (at, link) in port.all_links().filter(|(_, link)| link.is_held()) {
        let other = link.greeting().filter(|greeting| greeting.name == himself.name);
        if other.is_some_and(|greeting| !greeting.is_by_same(himself)) {
            port.tally(Met::Refused);
            port.refuse(at, link);
        }
    }
}

fn newcomer<'m, P: Connects<'m> + ?Sized>(port: &P, name: &Name) -> Answer<'m> {
    let connects = port.endpoint_type() == EndpointType::Msg;
    if connects && port.rows().has_peer() {
        // A port whose peer has gone is free for another as soon as that was taken note of.
        let all_lost = port.rows().in_use().all(|(_, row)| row.state.is_lost());
        return if all_lost { Answer::Hold } else { Answer::Refuse };
    }
    if port.books().room_for_events() < 2 {
        return Answer::Hold;
    }
    match port.enter(name) {
        Ok((slot, row)) => Answer::Take(slot, row, true),
        Err(_full) => Answer::Refuse,
    }
}
