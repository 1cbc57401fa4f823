//! The rows of a port's address table: how peers come and go.
//!
//! ```text
//!              connect (RDM, DGRAM), link from it          first send
//!   Vacant ------------------------------------> Known -------------> Up
//!      |       connect (MSG)                             accepted     ^ |
//!      '---------------------> Connecting ----------------------------' |  it left
//!      ^                          | refused                             v
//!      '---- event taken ------ Refused, Gone <-------------------------'
//! ```

use core::cell::Cell;

use super::hub::{Hub, Leave, PortId};
use super::link::LinkState;
use super::port::Port;
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, Name};
use crate::provider::{EndpointType, Event};
use crate::table::wide;

/// How a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Standing {
    /// Nobody is in this row.
    Vacant,
    /// A link to it was opened and is not yet accepted (MSG only).
    Connecting,
    /// It is known; there is no link to it yet.
    Known,
    /// There is a link to it.
    Up,
    /// It left, was killed, or cut this port off.
    Gone,
    /// It did not take the connection.
    Refused,
}

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) generation: Cell<Generation>,
    pub(super) standing: Cell<Standing>,
    pub(super) remote: Cell<PortId>,
    /// Whether the link to it is this row's.
    pub(super) sends: Cell<bool>,
    /// Whether the link from it is this row's.
    pub(super) receives: Cell<bool>,
    /// Whether its end was put among the events.
    pub(super) reported: Cell<bool>,
}

impl Row {
    pub(super) const fn vacant() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            standing: Cell::new(Standing::Vacant),
            remote: Cell::new(PortId { slot: 0, generation: Generation::FIRST }),
            sends: Cell::new(false),
            receives: Cell::new(false),
            reported: Cell::new(false),
        }
    }

    pub(super) const fn addr(&self, slot: u32) -> Addr {
        Addr::new(slot, self.generation.get())
    }

    pub(super) const fn is_lost(&self) -> bool {
        matches!(self.standing.get(), Standing::Gone | Standing::Refused)
    }

    pub(super) fn lose(&self, standing: Standing) {
        self.standing.set(standing);
        self.reported.set(false);
    }

    fn is_free(&self) -> bool {
        self.standing.get() == Standing::Vacant
    }
}

impl<'m> Port<'_, 'm> {
    pub(super) fn in_use(&self) -> impl Iterator<Item = (u32, &'m Row)> + use<'m> {
        (0..u32::MAX).zip(self.rows).filter(|(_, row)| !row.is_free())
    }

    /// The row of an address that is good.
    pub(super) fn row(&self, addr: Addr) -> Result<&'m Row, Misuse> {
        let row = self.rows.get(wide(addr.slot())).ok_or(Misuse::UnknownAddress)?;
        if row.generation.get() == addr.generation() && !row.is_free() {
            Ok(row)
        } else {
            Err(Misuse::StaleAddress)
        }
    }

    /// The row of a peer that is not lost. One that is, and has come back since, gets a new row.
    fn row_of(&self, remote: PortId) -> Option<(u32, &'m Row)> {
        self.in_use().find(|(_, row)| row.remote.get() == remote && !row.is_lost())
    }

    fn enter(&self, remote: PortId) -> Result<(u32, &'m Row), PostError> {
        if let Some(found) = self.row_of(remote) {
            return Ok(found);
        }
        if self.info.endpoint_type == EndpointType::Msg && self.in_use().next().is_some() {
            return Err(Misuse::WrongPeer.into());
        }
        let (slot, row) = (0..u32::MAX)
            .zip(self.rows)
            .find(|(_, row)| row.is_free())
            .ok_or(Retry::AddressesFull)?;
        row.remote.set(remote);
        row.standing.set(Standing::Known);
        row.sends.set(false);
        row.receives.set(false);
        Ok((slot, row))
    }

    pub(super) fn connect_to(&self, name: &Name) -> Result<Addr, PostError> {
        if !self.hub.is_live(self.me) {
            return Err(Fatal::Fenced.into());
        }
        let (remote, endpoint_type) = self.hub.find(name).ok_or(Misuse::UnknownAddress)?;
        if endpoint_type != self.info.endpoint_type {
            return Err(Misuse::Unsupported.into());
        }
        let known = self.row_of(remote).is_some();
        let (slot, row) = self.enter(remote)?;
        if endpoint_type == EndpointType::Msg && row.standing.get() == Standing::Known {
            if let Err(refused) = self.open_link(row) {
                if !known {
                    self.vacate(row);
                }
                return Err(refused);
            }
            // The other end may have opened its link to here already; then the two are connected.
            let up = row.receives.get();
            row.standing.set(if up { Standing::Up } else { Standing::Connecting });
        }
        Ok(row.addr(slot))
    }

    fn open_link(&self, row: &Row) -> Result<(), PostError> {
        self.hub.open(self.me, row.remote.get())?;
        row.sends.set(true);
        Ok(())
    }

    /// What stands in the way of a send: opens the link where that is all.
    pub(super) fn make_ready(&self, row: &Row) -> Result<(), PostError> {
        if !self.hub.is_live(self.me) {
            return Err(Fatal::Fenced.into());
        }
        match row.standing.get() {
            Standing::Vacant => Err(Misuse::StaleAddress.into()),
            Standing::Connecting => Err(Retry::NotConnected.into()),
            Standing::Gone => Err(Fatal::PeerGone.into()),
            Standing::Refused => Err(Fatal::Refused.into()),
            Standing::Known => {
                self.open_link(row)?;
                row.standing.set(Standing::Up);
                Ok(())
            }
            Standing::Up => match self.link_to(row) {
                Some(LinkState::Unseen | LinkState::Accepted) => Ok(()),
                Some(LinkState::Refused) => Err(Fatal::Refused.into()),
                _ => Err(Fatal::PeerGone.into()),
            },
        }
    }

    fn link_to(&self, row: &Row) -> Option<LinkState> {
        Some(self.hub.link(self.me.slot, row.remote.get().slot)?.state.get())
    }

    /// Links that nobody has looked at yet: whose they are, and whether they are taken.
    pub(super) fn meet(&self) {
        for from in self.hub.slots() {
            let Some(link) = self.hub.link(from, self.me.slot) else {
                continue;
            };
            let sender = Hub::sender_of(link, from);
            let state = link.state.get();
            // One that is left already was opened, filled and left before this port looked.
            let left = state == LinkState::SenderLeft && !self.receives_from(sender);
            if link.receiver.get() != self.me.generation || !left && state != LinkState::Unseen {
                continue;
            }
            match self.row_for(sender, left) {
                Some(row) => row.receives.set(true),
                None => self.hub.refuse(from, self.me.slot),
            }
            if link.state.get() == LinkState::Unseen {
                link.state.set(LinkState::Accepted);
            }
        }
    }

    /// The row that a link belongs to; `None` where it is not to be taken.
    fn row_for(&self, sender: PortId, left: bool) -> Option<&'m Row> {
        if left {
            // It belongs to the old times, if there were any.
            let awaited = |row: &Row| !row.is_lost() || !row.reported.get();
            let old = self
                .in_use()
                .find(|(_, row)| row.remote.get() == sender && !row.receives.get() && awaited(row));
            if let Some((_, row)) = old {
                return Some(row);
            }
        }
        // One that has let go of a link before it opened this one: what is left of the old times stays in the old row.
        if let Some((_, row)) = self.row_of(sender) {
            self.look_at_links(row);
        }
        let known = self.row_of(sender).is_some();
        let (slot, row) = self.enter(sender).ok()?;
        if !known && self.events.push(Event::Connected(row.addr(slot))).is_err() {
            self.vacate(row);
            return None;
        }
        Some(row)
    }

    fn receives_from(&self, sender: PortId) -> bool {
        self.in_use().any(|(_, row)| row.remote.get() == sender && row.receives.get())
    }

    /// What has become of a peer since the last look.
    pub(super) fn look_at(&self, slot: u32, row: &Row) {
        if row.is_lost() {
            return;
        }
        self.look_at_links(row);
        let to = self.link_of(row);
        // Both ends connected to each other at once: taking the other's link is the answer.
        let answered = to == Some(LinkState::Accepted) || row.receives.get();
        if !row.is_lost() && !self.hub.is_live(row.remote.get()) {
            self.lose(row, Standing::Gone);
        } else if row.standing.get() == Standing::Connecting
            && answered
            // Where there is no room for the event, the next look says it.
            && self.events.push(Event::Connected(row.addr(slot))).is_ok()
        {
            row.standing.set(Standing::Up);
        }
    }

    /// Whether the peer has let go of one of the links, or did not take one.
    fn look_at_links(&self, row: &Row) {
        match self.link_of(row) {
            Some(LinkState::Refused) => self.lose(row, Standing::Refused),
            Some(LinkState::ReceiverLeft) => self.lose(row, Standing::Gone),
            _ if self.has_left(row) => self.lose(row, Standing::Gone),
            _ => {}
        }
    }

    /// The state of the link to a peer, where there is one.
    fn link_of(&self, row: &Row) -> Option<LinkState> {
        if row.sends.get() { self.link_to(row) } else { None }
    }

    fn lose(&self, row: &Row, standing: Standing) {
        row.lose(standing);
        if row.sends.replace(false) {
            // Nothing more is sent on this row: who comes back gets a new one.
            self.hub.leave_as_sender(self.me.slot, row.remote.get().slot, Leave::Closed);
        }
    }

    fn has_left(&self, row: &Row) -> bool {
        let from = self.hub.link(row.remote.get().slot, self.me.slot);
        row.receives.get() && from.is_some_and(|link| link.state.get() == LinkState::SenderLeft)
    }

    /// Lets go of both links of a row.
    pub(super) fn let_go(&self, row: &Row) {
        let other = row.remote.get().slot;
        if row.sends.replace(false) {
            self.hub.leave_as_sender(self.me.slot, other, Leave::Closed);
        }
        if row.receives.replace(false) {
            self.hub.leave_as_receiver(other, self.me.slot);
        }
    }

    /// Makes the row free for another peer; its address is stale from now on.
    pub(super) fn vacate(&self, row: &Row) {
        row.generation.set(row.generation.get().next());
        row.standing.set(Standing::Vacant);
    }

    /// This port was killed: its links are others' by now. It never touches them again.
    pub(super) fn fence(&self) {
        for (_, row) in self.in_use().filter(|(_, row)| !row.is_lost() || row.receives.get()) {
            row.sends.set(false);
            row.receives.set(false);
            row.lose(Standing::Gone);
        }
    }
}
