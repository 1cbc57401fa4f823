//! The rows of a port's address table: how peers come and go.
//!
//! ```text
//!              connect (RDM)                first send, reach
//!   Vacant ----------------------> Known ---------------------> Connecting
//!    ^  |      connect (MSG)                                      |    |
//!    |  '---------------------------------------------------------'    | its hello, or taken from it
//!    |         somebody has connected                                  v
//!    |  '-----------------------------------------------------------> Up
//!    |                                                                 | goodbye, end, reset, timeout, nonsense
//!    |<--- event taken ---- Gone, Refused, Corrupt <-------------------'
//!    |                              | event taken, and messages of it wait in its backlog
//!    '---- all taken, or given up  Past
//! ```

use core::cell::Cell;

use heapless::VecView;
use spinwire_layouts::uring::SockAddr;

use super::SpareSocket;
use super::link::{Link, Stage};
use super::port::TcpPort;
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, Name};
use crate::provider::{Cqe, EndpointType, Event, Select, Source, Status, Waiting};
use crate::table::{NIL, wide};
use crate::uring::Enter;

/// So many looks the report of an end waits for receives that take what is left.
const PATIENCE_LOOKS: u32 = 128;

/// How a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Nobody is in this row.
    Vacant,
    /// It is known where it is; there is no connection.
    Known,
    /// This end has opened a connection, and waits for the answer.
    Connecting,
    /// There is a connection.
    Up,
    /// It left or was lost.
    Gone,
    /// It did not take the connection.
    Refused,
    /// It wrote nonsense.
    Corrupt,
    /// Its end was reported and taken note of; what it left can still be received.
    Past,
}

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    generation: Cell<Generation>,
    pub(super) standing: Cell<Standing>,
    pub(super) name: Cell<Option<Name>>,
    /// The link to send by.
    pub(super) link: Cell<u32>,
    /// Whether its end was put among the events.
    reported: Cell<bool>,
    /// Looks at what is left of it since it was lost.
    looks: Cell<u32>,
}

impl Row {
    pub(super) const fn vacant() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            standing: Cell::new(Standing::Vacant),
            name: Cell::new(None),
            link: Cell::new(NIL),
            reported: Cell::new(false),
            looks: Cell::new(0),
        }
    }

    pub(super) const fn addr(&self, slot: u32) -> Addr {
        Addr::new(slot, self.generation.get())
    }

    const fn is_free(&self) -> bool {
        matches!(self.standing.get(), Standing::Vacant)
    }

    pub(super) const fn is_lost(&self) -> bool {
        matches!(
            self.standing.get(),
            Standing::Gone | Standing::Refused | Standing::Corrupt | Standing::Past
        )
    }

    const fn has_ended(&self) -> bool {
        self.is_lost() && self.reported.get()
    }
}

impl<'m, E: Enter> TcpPort<'m, E> {
    pub(super) fn in_use(&self) -> impl Iterator<Item = (u32, &'m Row)> + use<'m, E> {
        (0..u32::MAX).zip(self.rows).filter(|(_, row)| !row.is_free())
    }

    /// The row of an address that is good.
    #[inline]
    pub(super) fn row(&self, addr: Addr) -> Result<&'m Row, Misuse> {
        let row = self.rows.get(wide(addr.slot())).ok_or(Misuse::UnknownAddress)?;
        if row.generation.get() == addr.generation() && !row.is_free() {
            Ok(row)
        } else {
            Err(Misuse::StaleAddress)
        }
    }

    /// The row of a peer that is not lost. One that is, and has come back since, gets a new row.
    pub(super) fn row_of(&self, name: &Name) -> Option<(u32, &'m Row)> {
        self.in_use().find(|(_, row)| !row.is_lost() && row.name.get().as_ref() == Some(name))
    }

    /// Whether there is anybody besides those of whom nothing more is heard.
    pub(super) fn has_peer(&self) -> bool {
        self.in_use().any(|(_, row)| row.standing.get() != Standing::Past)
    }

    /// A new row.
    pub(super) fn enter(&self, name: &Name) -> Result<(u32, &'m Row), PostError> {
        if self.info.endpoint_type == EndpointType::Msg && self.has_peer() {
            return Err(Misuse::WrongPeer.into());
        }
        let (slot, row) = (0..u32::MAX)
            .zip(self.rows)
            .find(|(_, row)| row.is_free())
            .ok_or(Retry::AddressesFull)?;
        row.name.set(Some(*name));
        row.standing.set(Standing::Known);
        row.link.set(NIL);
        row.reported.set(false);
        row.looks.set(0);
        Ok((slot, row))
    }

    pub(super) fn connect_to(&self, name: &Name) -> Result<Addr, PostError> {
        if let Some((slot, row)) = self.row_of(name) {
            return Ok(row.addr(slot));
        }
        self.route(name).ok_or(Misuse::UnknownAddress)?;
        let (slot, row) = self.enter(name)?;
        if self.info.endpoint_type == EndpointType::Msg
            && let Err(refused) = self.open_link(slot, row)
        {
            self.vacate(slot, row);
            return Err(refused);
        }
        Ok(row.addr(slot))
    }

    fn route(&self, name: &Name) -> Option<SockAddr> {
        self.routes
            .iter()
            .find_map(|place| place.get().filter(|(of, _)| of == name))
            .map(|(_, to)| to)
    }

    /// Opens a connection to the peer of a row.
    fn open_link(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        let name = row.name.get().ok_or(Misuse::UnknownAddress)?;
        let to = self.route(&name).ok_or(Misuse::UnknownAddress)?;
        let is_v6 = to.is_v6();
        if self.events.free() < 2 {
            return Err(Retry::CqFull.into());
        }
        let (at, link) = self.free_link().ok_or(Retry::AddressesFull)?;
        let SpareSocket { fd, .. } = self.take_socket(is_v6).ok_or(Retry::NoSocket)?;
        let conn = match self.streams.connect(fd, &to) {
            Ok(conn) => conn,
            Err(refused) => {
                self.put_socket_back(SpareSocket { fd, is_v6 });
                return Err(refused);
            }
        };
        self.begin(at, link, conn, Stage::Opening);
        link.peer.set(Some(row.addr(slot)));
        row.link.set(at);
        row.standing.set(Standing::Connecting);
        // It goes out as soon as the connection is up.
        if let Err(refused) = self.streams.write(conn, &self.greeting.to_wire()) {
            self.abort(link);
            row.link.set(NIL);
            row.standing.set(Standing::Known);
            return Err(refused);
        }
        Ok(())
    }

    /// What stands in the way of a send: opens a connection where there is none. Else the link to send by.
    #[inline]
    pub(super) fn make_ready(&self, slot: u32, row: &'m Row) -> Result<&'m Link<'m>, PostError> {
        if row.standing.get() == Standing::Up
            && let Some(link) = self.link(row.link.get())
        {
            return Ok(link);
        }
        Err(self.not_ready(slot, row))
    }

    #[cold]
    fn not_ready(&self, slot: u32, row: &Row) -> PostError {
        match row.standing.get() {
            Standing::Vacant | Standing::Past => Misuse::StaleAddress.into(),
            Standing::Known => {
                self.open_link(slot, row).err().unwrap_or(Retry::NotConnected.into())
            }
            Standing::Connecting | Standing::Up => Retry::NotConnected.into(),
            Standing::Gone => Fatal::PeerGone.into(),
            Standing::Refused => Fatal::Refused.into(),
            Standing::Corrupt => Fatal::Corrupt.into(),
        }
    }

    /// Nothing more is sent to a peer, and nothing more comes from it: who comes back gets a new row.
    pub(super) fn lose(&self, addr: Addr, standing: Standing) {
        let Ok(row) = self.row(addr) else { return };
        if row.is_lost() {
            return;
        }
        row.standing.set(standing);
        row.reported.set(false);
        row.looks.set(0);
        row.link.set(NIL);
        self.unsettled.set(true);
        for (_, link) in self.links_of(addr) {
            match link.stage.get() {
                Stage::Up => self.finish(link),
                Stage::Opening | Stage::Offered => self.abort(link),
                Stage::Free | Stage::Accepted | Stage::Held | Stage::Over | Stage::Leaving => {}
            }
        }
    }

    /// Makes the row free for another peer; its address is stale from now on. Whatever is left of it is given up.
    pub(super) fn vacate(&self, slot: u32, row: &Row) {
        for (at, link) in self.links_of(row.addr(slot)) {
            self.leave(at, link);
        }
        row.generation.set(row.generation.get().next());
        row.standing.set(Standing::Vacant);
        row.name.set(None);
        row.link.set(NIL);
    }

    fn has_rest(&self, addr: Addr) -> bool {
        let of_current = self.with_current(|current| {
            self.link(current.link).is_some_and(|link| link.peer.get() == Some(addr))
        });
        of_current == Some(true) || self.links_of(addr).any(|(_, link)| link.has_rest())
    }

    /// Looks after those that were lost. Returns whether some of them have to be looked at again.
    pub(super) fn bury_all(&self, out: &mut VecView<Cqe>) -> bool {
        let mut again = false;
        for (slot, row) in self.in_use().filter(|(_, row)| row.is_lost()) {
            let addr = row.addr(slot);
            if !row.has_ended() {
                again = true;
                if self.is_patient(addr, row) || !self.report(addr, row, out) {
                    continue;
                }
            }
            if self.has_rest(addr) {
                continue;
            }
            if row.standing.get() == Standing::Past {
                self.vacate(slot, row);
            }
        }
        if self.late.get() {
            self.fail_late(out);
            again |= self.late.get();
        }
        again
    }

    /// Whether there is something left of a lost peer that a receive may still take before its end is reported.
    fn is_patient(&self, addr: Addr, row: &Row) -> bool {
        let looks = row.looks.get();
        row.looks.set(looks.saturating_add(1));
        let is_left = self.has_rest(addr) || self.matcher.holds_of(addr);
        is_left && looks < PATIENCE_LOOKS
    }

    /// Fails what waits for a lost peer, then puts its end among the events. Returns whether there was room for all of it.
    fn report(&self, addr: Addr, row: &Row, out: &mut VecView<Cqe>) -> bool {
        while !out.is_full() {
            let hopeless = match self.info.endpoint_type {
                EndpointType::Msg => self.matcher.take_any(),
                EndpointType::Rdm | EndpointType::Dgram => self.matcher.take_hopeless(addr),
            };
            let Some(wr_id) = hopeless else {
                let event = match row.standing.get() {
                    Standing::Refused => Event::Refused(addr),
                    Standing::Corrupt => Event::PeerCorrupt(addr),
                    Standing::Vacant
                    | Standing::Known
                    | Standing::Connecting
                    | Standing::Up
                    | Standing::Gone
                    | Standing::Past => Event::PeerGone(addr),
                };
                row.reported.set(self.events.push(event).is_ok());
                return row.reported.get();
            };
            let pushed = out.push(Cqe::without_message(wr_id, Status::PeerGone));
            debug_assert!(pushed.is_ok(), "room was checked");
        }
        false
    }

    /// An event was taken note of. A peer's end is the last that is heard of its address.
    pub(super) fn note(&self, event: Event) {
        let (Event::PeerGone(addr) | Event::PeerCorrupt(addr) | Event::Refused(addr)) = event
        else {
            return;
        };
        let Ok(row) = self.row(addr) else { return };
        if self.has_rest(addr) {
            row.standing.set(Standing::Past);
        } else {
            self.vacate(addr.slot(), row);
        }
        // Somebody may have waited for the row.
        self.unsettled.set(true);
    }

    /// Whether a receive may be posted that waits for one alone who is gone: a message of it waits.
    pub(super) fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let unread = self.row(addr).is_ok_and(|row| self.may_be_unread(addr, row));
        if self.peek_all(Source::Only(addr), select).is_none() && !unread {
            let past = self.row(addr)?.standing.get() == Standing::Past;
            let refused = PostError::from(Fatal::PeerGone);
            return Err(if past { Misuse::StaleAddress.into() } else { refused });
        }
        self.late.set(true);
        self.unsettled.set(true);
        Ok(())
    }

    /// Whether there may be messages of a lost peer that were not looked at: behind one that was taken since.
    fn may_be_unread(&self, addr: Addr, _row: &Row) -> bool {
        self.links_of(addr).any(|(_, link)| link.has_rest() && link.pending.get().is_none())
    }

    /// Of all messages that wait, the oldest that such a receive would take.
    pub(super) fn peek_all(&self, from: Source, select: Select) -> Option<Waiting> {
        self.matcher.peek(from, select).or_else(|| {
            self.links.iter().find_map(|link| {
                let (source, pending) = (link.peer.get()?, link.pending.get()?);
                let (tag, immediate) = (pending.envelope.tag, pending.envelope.immediate);
                let length = wide(pending.length);
                let meant = from.takes(source) && select.takes(tag);
                meant.then_some(Waiting { source, length, tag, immediate })
            })
        })
    }

    /// Fails the receives that wait for somebody alone of whom nothing more is to be had.
    fn fail_late(&self, out: &mut VecView<Cqe>) {
        let unread = |addr, row: &Row| row.has_ended() && self.may_be_unread(addr, row);
        let is_over = |addr: Addr| match self.row(addr) {
            Ok(row) => row.has_ended() && !unread(addr, row),
            Err(_stale) => true,
        };
        while !out.is_full() {
            let Some(wr_id) = self.matcher.take_directed(is_over) else {
                self.late.set(self.in_use().any(|(slot, row)| unread(row.addr(slot), row)));
                return;
            };
            let pushed = out.push(Cqe::without_message(wr_id, Status::PeerGone));
            debug_assert!(pushed.is_ok(), "room was checked");
        }
    }
}
