//! The rows of a port's address table: how peers come and go.
//!
//! ```text
//!              connect (RDM, DGRAM), link from it          first send
//!   Vacant ------------------------------------> Known -------------> Up
//!      |       connect (MSG)                             accepted     ^ |
//!      '---------------------> Connecting ----------------------------' |  it left
//!      ^                          | refused                             v
//!      |<--- event taken ------ Refused, Gone <-------------------------'
//!      |                              | event taken, its link is not empty
//!      '---- link empty, or given up Past
//! ```

use core::cell::Cell;

use super::hub::{Hub, Leave, PortId};
use super::link::{Link, LinkState};
use super::port::Port;
use crate::error::{Fatal, Misuse, PostError};
use crate::id::{Addr, Generation, Name};
use crate::provider::peers::{PeerState, Standing};
use crate::provider::{EndpointType, Event};

/// A row of the address table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) state: PeerState,
    pub(super) remote: Cell<PortId>,
    /// Whether the link to it is this row's.
    pub(super) sends: Cell<bool>,
    /// Which use of the link to it is or was this row's; 0 for none.
    offered: Cell<u32>,
    /// Whether the link from it is this row's.
    pub(super) receives: Cell<bool>,
    /// Whether the next message of the link from it has to stay there until somebody asks for it.
    pub(super) stalled: Cell<bool>,
}

impl Row {
    pub(super) const fn vacant() -> Self {
        Self {
            state: PeerState::vacant(),
            remote: Cell::new(PortId { slot: 0, generation: Generation::FIRST }),
            sends: Cell::new(false),
            offered: Cell::new(0),
            receives: Cell::new(false),
            stalled: Cell::new(false),
        }
    }
}

impl AsRef<PeerState> for Row {
    fn as_ref(&self) -> &PeerState {
        &self.state
    }
}

impl<'m> Port<'_, 'm> {
    /// The row of a peer that is not lost. One that is, and has come back since, gets a new row.
    fn row_of(&self, remote: PortId) -> Option<(u32, &'m Row)> {
        self.peers.in_use().find(|(_, row)| row.remote.get() == remote && !row.state.is_lost())
    }

    fn enter(&self, remote: PortId) -> Result<(u32, &'m Row), PostError> {
        if let Some(found) = self.row_of(remote) {
            return Ok(found);
        }
        if self.info.endpoint_type == EndpointType::Msg && self.peers.has_peer() {
            return Err(Misuse::WrongPeer.into());
        }
        let (slot, row) = self.peers.vacant()?;
        row.remote.set(remote);
        row.state.set_standing(Standing::Known);
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
        if endpoint_type == EndpointType::Msg && row.state.standing() == Standing::Known {
            if let Err(refused) = self.open_link(row) {
                if !known {
                    self.vacate(row);
                }
                return Err(refused);
            }
            // The other end may have opened its link to here already; then the two are connected.
            let up = row.receives.get();
            row.state.set_standing(if up { Standing::Up } else { Standing::Connecting });
        }
        Ok(row.state.addr(slot))
    }

    fn open_link(&self, row: &Row) -> Result<(), PostError> {
        let connects = self.info.endpoint_type == EndpointType::Msg;
        let back = self.hub.link(row.remote.get().slot, self.me.slot);
        let answers = match back {
            Some(link) if connects && row.receives.get() => link.uses.get(),
            _ => 0,
        };
        row.offered.set(self.hub.open(self.me, row.remote.get(), answers)?);
        row.sends.set(true);
        Ok(())
    }

    /// What stands in the way of a send: opens the link where that is all.
    pub(super) fn make_ready(&self, row: &Row) -> Result<(), PostError> {
        if !self.hub.is_live(self.me) {
            return Err(Fatal::Fenced.into());
        }
        row.state.standing().may_be_sent_to()?;
        if row.state.standing() == Standing::Known {
            self.open_link(row)?;
            row.state.set_standing(Standing::Up);
            return Ok(());
        }
        match self.link_to(row) {
            Some(LinkState::Unseen | LinkState::Accepted) => Ok(()),
            Some(LinkState::Refused) => Err(Fatal::Refused.into()),
            _ => Err(Fatal::PeerGone.into()),
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
            let row = match self.info.endpoint_type {
                EndpointType::Msg => self.row_for_connection(sender, link, left),
                EndpointType::Rdm | EndpointType::Dgram => self.row_for(sender, left),
            };
            match row {
                Ok(row) => row.receives.set(true),
                // It is met again.
                Err(LinkState::Unseen) => continue,
                Err(end) => self.hub.close_receiving((from, self.me.slot), end),
            }
            if link.state.get() == LinkState::Unseen {
                link.state.set(LinkState::Accepted);
            }
        }
    }

    /// Rows of that peer that the link from it may belong to, lost ones included.
    fn awaiting(&self, sender: PortId) -> impl Iterator<Item = &'m Row> + use<'m> {
        let awaits = move |row: &Row| {
            row.remote.get() == sender && !row.receives.get() && !row.state.has_ended()
        };
        self.peers.in_use().map(|(_, row)| row).filter(move |row| awaits(row))
    }

    /// The row that a link of a connection belongs to, or how it is left. A link that answers one belongs to that connection
    /// or to none; one that answers none begins a connection, or meets the one that this port has begun.
    fn row_for_connection(
        &self,
        sender: PortId,
        link: &Link,
        left: bool,
    ) -> Result<&'m Row, LinkState> {
        let answers = link.answers.get();
        if answers != 0 {
            let row = self.awaiting(sender).find(|row| row.offered.get() == answers);
            return row.ok_or(LinkState::ReceiverLeft);
        }
        if left {
            // It was given up before anybody met it, and carries nothing.
            return Err(LinkState::ReceiverLeft);
        }
        if let Some(row) = self.awaiting(sender).find(|row| !row.state.is_lost())
            && let Some(LinkState::Unseen | LinkState::Accepted) = self.link_of(row)
            && let Some(own) = self.hub.link(self.me.slot, sender.slot)
        {
            own.answers.set(link.uses.get());
            return Ok(row);
        }
        self.row_for_newcomer(sender)
    }

    /// The row that a link belongs to, or how it is left.
    fn row_for(&self, sender: PortId, left: bool) -> Result<&'m Row, LinkState> {
        // One that is left already belongs to the old times, if there were any.
        match self.awaiting(sender).next() {
            Some(old) if left => Ok(old),
            _ => self.row_for_newcomer(sender),
        }
    }

    /// The row of one whose link belongs to nothing that was before; a new one where it has none.
    fn row_for_newcomer(&self, sender: PortId) -> Result<&'m Row, LinkState> {
        // One that has let go of a link before it opened this one: what is left of the old times stays in the old row.
        if let Some((_, row)) = self.row_of(sender) {
            self.look_at_links(row);
        }
        let known = self.row_of(sender).is_some();
        let (slot, row) = self.enter(sender).map_err(|_full| self.answer_to_another())?;
        if !known && !self.queues.tell(Event::Connected(row.state.addr(slot))) {
            self.vacate(row);
            return Err(LinkState::Refused);
        }
        Ok(row)
    }

    /// What is answered to one for whom there is no row. A MSG port whose peer has gone is free for another as soon as that was
    /// taken note of; until then whoever connects waits.
    fn answer_to_another(&self) -> LinkState {
        let connects = self.info.endpoint_type == EndpointType::Msg;
        if connects && self.peers.in_use().all(|(_, row)| row.state.is_lost()) {
            LinkState::Unseen
        } else {
            LinkState::Refused
        }
    }

    fn receives_from(&self, sender: PortId) -> bool {
        self.peers.in_use().any(|(_, row)| row.remote.get() == sender && row.receives.get())
    }

    /// What has become of a peer since the last look.
    pub(super) fn look_at(&self, slot: u32, row: &Row) {
        if row.state.is_lost() {
            return;
        }
        self.look_at_links(row);
        let to = self.link_of(row);
        // Both ends connected to each other at once: taking the other's link is the answer.
        let answered = to == Some(LinkState::Accepted) || row.receives.get();
        if !row.state.is_lost() && !self.hub.is_live(row.remote.get()) {
            self.lose(row, Standing::Gone);
        } else if row.state.standing() == Standing::Connecting
            && answered
            // Where there is no room for the event, the next look says it.
            && self.queues.tell(Event::Connected(row.state.addr(slot)))
        {
            row.state.set_standing(Standing::Up);
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
        row.state.lose(standing);
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
        row.stalled.set(false);
        if row.receives.replace(false) {
            self.hub.leave_as_receiver(other, self.me.slot);
        }
    }

    /// Makes the row free for another peer; its address is stale from now on.
    pub(super) fn vacate(&self, row: &Row) {
        row.offered.set(0);
        row.state.vacate();
    }

    /// This port was killed: its links are others' by now. It never touches them again.
    pub(super) fn fence(&self) {
        for (_, row) in self.peers.in_use() {
            row.sends.set(false);
            row.receives.set(false);
            row.stalled.set(false);
            if !row.state.is_lost() {
                row.state.lose(Standing::Gone);
            }
        }
    }
}
