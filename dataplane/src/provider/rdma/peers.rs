//! The rows of a port's address table: how peers come and go.
//!
//! ```text
//!              connect (RDM)                first send, reach
//!   Vacant ----------------------> Known ---------------------> Connecting      the host is asked for a connection
//!    ^  |      connect (MSG)                                      |    |
//!    |  '---------------------------------------------------------'    | its hello, or taken from it
//!    |         somebody has connected                                  v
//!    |  '-----------------------------------------------------------> Up
//!    |                                                                 | goodbye, failure, loss, nonsense
//!    |<--- event taken ---- Gone, Refused, Corrupt <-------------------'
//!    |                              | event taken, and messages of it wait in their slots
//!    '---- all taken, or given up  Past
//! ```

use core::cell::Cell;

use heapless::VecView;

use super::link::{Link, Stage};
use super::port::RdmaPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::{Addr, Name};
use crate::provider::peers::{PeerState, Standing};
use crate::provider::{Cqe, EndpointType, Event, Select, Source, Waiting};
use crate::raw::region::Registrar;
use crate::table::NIL;
use crate::verbs::{CompletionQueue, QueuePair};

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) state: PeerState,
    pub(super) name: Cell<Option<Name>>,
    /// The link to send by.
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

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// The row of a peer that is not lost. One that is, and has come back since, gets a new row.
    pub(super) fn row_of(&self, name: &Name) -> Option<(u32, &'m Row)> {
        self.peers
            .in_use()
            .find(|(_, row)| !row.state.is_lost() && row.name.get().as_ref() == Some(name))
    }

    /// A new row.
    pub(super) fn enter(&self, name: &Name) -> Result<(u32, &'m Row), PostError> {
        if self.info.endpoint_type == EndpointType::Msg && self.peers.has_peer() {
            return Err(Misuse::WrongPeer.into());
        }
        let (slot, row) = self.peers.vacant()?;
        row.name.set(Some(*name));
        row.state.set_standing(Standing::Known);
        row.link.set(NIL);
        Ok((slot, row))
    }

    pub(super) fn connect_to(&self, name: &Name) -> Result<Addr, PostError> {
        if let Some((slot, row)) = self.row_of(name) {
            return Ok(row.state.addr(slot));
        }
        if !self.has_route(name) {
            return Err(Misuse::UnknownAddress.into());
        }
        let (slot, row) = self.enter(name)?;
        if self.info.endpoint_type == EndpointType::Msg
            && let Err(refused) = self.ask_for_link(slot, row)
        {
            self.vacate(slot, row);
            return Err(refused);
        }
        Ok(row.state.addr(slot))
    }

    /// Asks the host for a connection to the peer of a row.
    fn ask_for_link(&self, slot: u32, row: &Row) -> Result<(), PostError> {
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

    /// What stands in the way of a send: asks for a connection where there is none. Else the link to send by.
    #[inline]
    pub(super) fn make_ready(
        &self,
        slot: u32,
        row: &'m Row,
    ) -> Result<(u32, &'m Link<'m, Q>), PostError> {
        let at = row.link.get();
        if row.state.standing() == Standing::Up
            && let Some(link) = self.link(at)
        {
            return Ok((at, link));
        }
        Err(self.not_ready(slot, row))
    }

    #[cold]
    fn not_ready(&self, slot: u32, row: &Row) -> PostError {
        if row.state.standing() == Standing::Known
            && let Err(refused) = self.ask_for_link(slot, row)
        {
            return refused;
        }
        // One that was asked for just now, or is up and has no link yet, is not connected.
        row.state.standing().may_be_sent_to().err().unwrap_or(Retry::NotConnected.into())
    }

    /// Nothing more is sent to a peer, and nothing more comes from it: who comes back gets a new row.
    pub(super) fn lose(&self, addr: Addr, standing: Standing) {
        let Ok(row) = self.peers.find(addr) else { return };
        if row.state.is_lost() {
            return;
        }
        row.state.lose(standing);
        row.link.set(NIL);
        self.unsettled.set(true);
        for (at, link) in self.links_of(addr) {
            match link.stage.get() {
                Stage::Up => self.finish(at, link),
                Stage::Asked | Stage::Offered => self.leave(at, link),
                Stage::Free
                | Stage::Accepted
                | Stage::Held
                | Stage::Over
                | Stage::Leaving
                | Stage::Closing => {}
            }
        }
    }

    /// Makes the row free for another peer; its address is stale from now on. Whatever is left of it is given up.
    pub(super) fn vacate(&self, slot: u32, row: &Row) {
        for (at, link) in self.links_of(row.state.addr(slot)) {
            self.leave(at, link);
        }
        row.state.vacate();
        row.name.set(None);
        row.link.set(NIL);
    }

    fn has_rest(&self, addr: Addr) -> bool {
        self.links_of(addr).any(|(_, link)| !link.arrived.is_empty())
    }

    /// Looks after those that were lost. Returns whether some of them have to be looked at again.
    pub(super) fn bury_all(&self, out: &mut VecView<Cqe>) -> bool {
        let mut again = false;
        for (slot, row) in self.peers.in_use().filter(|(_, row)| row.state.is_lost()) {
            let addr = row.state.addr(slot);
            again |= !row.state.has_ended();
            let whose = self.info.endpoint_type.bereft_of(addr);
            let is_left = self.has_rest(addr);
            if !self.queues.report_end((addr, &row.state), is_left, whose, out) {
                continue;
            }
            if !is_left && row.state.standing() == Standing::Past {
                self.vacate(slot, row);
            }
        }
        let unread = |slot, row: &Row| self.may_be_unread(row.state.addr(slot));
        again | self.queues.fail_late(self.peers, unread, out)
    }

    /// An event was taken note of. A peer's end is the last that is heard of its address.
    pub(super) fn note(&self, event: Event) {
        let (Event::PeerGone(addr) | Event::PeerCorrupt(addr) | Event::Refused(addr)) = event
        else {
            return;
        };
        let Ok(row) = self.peers.find(addr) else { return };
        if self.has_rest(addr) {
            row.state.set_standing(Standing::Past);
        } else {
            self.vacate(addr.slot(), row);
        }
        // Somebody may have waited for the row.
        self.unsettled.set(true);
    }

    /// Whether a receive may be posted that waits for one alone who is gone: a message of it waits.
    pub(super) fn ask_the_gone(&self, addr: Addr, select: Select) -> Result<(), PostError> {
        let waits = self.peek_all(Source::Only(addr), select).is_some()
            || self.peers.find(addr).is_ok() && self.may_be_unread(addr);
        self.queues.ask_the_gone(self.peers, addr, waits)?;
        self.unsettled.set(true);
        Ok(())
    }

    /// Whether there may be messages of a lost peer that were not looked at: behind one that was taken since.
    fn may_be_unread(&self, addr: Addr) -> bool {
        self.links_of(addr).any(|(_, link)| !link.arrived.is_empty() && !link.is_stalled.get())
    }

    /// Of all messages that wait, the oldest that such a receive would take.
    pub(super) fn peek_all(&self, from: Source, select: Select) -> Option<Waiting> {
        self.queues.matcher().peek(from, select).or_else(|| self.peek_in_slots(from, select))
    }
}
