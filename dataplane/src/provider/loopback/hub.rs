//! The hub: who is there, and the messages under way.

use core::cell::Cell;

use super::link::{Link, LinkState};
use super::one_sided::Requests;
use super::{HubConfig, PortOpenError};
use crate::error::{Fatal, PostError, Retry};
use crate::id::{Generation, Name};
use crate::provider::EndpointType;
use crate::raw::loan::{Loan, LoanPool};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Envelope;
use crate::table::{Fifos, Key, Slab, wide};

/// One stay of one port: its place in the hub, and which use of the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PortId {
    pub(super) slot: u32,
    pub(super) generation: Generation,
}

/// A place for a port.
#[derive(Debug)]
struct Entry {
    generation: Cell<Generation>,
    /// Name and type of the port that is there.
    port: Cell<Option<(Name, EndpointType)>>,
}

/// A message under way.
#[derive(Debug)]
struct Message<'m> {
    envelope: Envelope,
    body: Loan<'m>,
}

/// Whether what was staged goes out with its sender, or is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// The port closed in good order.
    Closed,
    /// It was killed.
    Killed,
}

/// Where ports find each other. Belongs to one thread.
#[derive(Debug)]
pub struct Hub<'m> {
    config: HubConfig,
    entries: &'m [Entry],
    /// The link from port `a` to port `b` is number `a * ports_max + b`, and so is its list in `queues`.
    links: &'m [Link],
    queues: Fifos<'m>,
    messages: Slab<'m, Message<'m>>,
    bodies: &'m LoanPool<'m>,
    pub(super) requests: Requests<'m>,
}

impl<'m> Hub<'m> {
    /// Places an empty hub in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(bump: &Bump<'m>, config: &HubConfig) -> Result<Self, Exhausted> {
        let ports = config.ports_max;
        let too_large = Exhausted { wanted_bytes: usize::MAX, free_bytes: bump.free_bytes() };
        let pairs = ports.checked_mul(ports).ok_or(too_large)?;
        Ok(Self {
            config: *config,
            entries: bump.slice_with(wide(ports), |_| Entry {
                generation: Cell::new(Generation::FIRST),
                port: Cell::new(None),
            })?,
            links: bump.slice_with(wide(pairs), |_| Link::free())?,
            queues: Fifos::place(bump, config.messages_max, pairs)?,
            messages: Slab::place(bump, config.messages_max)?,
            bodies: LoanPool::place(bump, config.messages_max, config.message_bytes_max)?,
            requests: Requests::place(bump, config.messages_max, ports)?,
        })
    }

    /// Ends the port of that name as a killed process would end: what it published arrives, what it only staged does
    /// not, and whoever holds it finds that it was fenced off. Returns whether there was one. For tests.
    pub fn kill(&self, name: &Name) -> bool {
        match self.find(name) {
            Some((id, _)) => {
                self.leave(id, Leave::Killed);
                true
            }
            None => false,
        }
    }

    /// How much it holds.
    #[must_use]
    pub const fn config(&self) -> &HubConfig {
        &self.config
    }

    /// Messages under way, staged ones included.
    #[must_use]
    pub const fn messages_len(&self) -> u32 {
        self.messages.len()
    }

    /// One-sided operations under way, staged and answered ones included.
    #[must_use]
    pub const fn requests_len(&self) -> u32 {
        self.requests.len()
    }

    /// A body for the bytes of a one-sided operation.
    pub(super) fn lend(&self) -> Option<Loan<'m>> {
        self.bodies.lend()
    }

    /// The places of all ports.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.config.ports_max
    }

    pub(super) fn register(
        &self,
        name: &Name,
        endpoint_type: EndpointType,
    ) -> Result<PortId, PortOpenError> {
        if self.find(name).is_some() {
            return Err(PortOpenError::NameTaken);
        }
        let (slot, entry) = (0..u32::MAX)
            .zip(self.entries)
            .find(|(_, entry)| entry.port.get().is_none())
            .ok_or(PortOpenError::HubFull)?;
        entry.port.set(Some((*name, endpoint_type)));
        Ok(PortId { slot, generation: entry.generation.get() })
    }

    pub(super) fn find(&self, name: &Name) -> Option<(PortId, EndpointType)> {
        (0..u32::MAX).zip(self.entries).find_map(|(slot, entry)| {
            let (taken, endpoint_type) = entry.port.get()?;
            let id = PortId { slot, generation: entry.generation.get() };
            (taken == *name).then_some((id, endpoint_type))
        })
    }

    pub(super) fn is_live(&self, id: PortId) -> bool {
        self.entries.get(wide(id.slot)).is_some_and(|entry| {
            entry.port.get().is_some() && entry.generation.get() == id.generation
        })
    }

    /// The name of a port that is there.
    pub(super) fn name_of(&self, id: PortId) -> Option<Name> {
        let entry = self.entries.get(wide(id.slot))?;
        entry.port.get().filter(|_| entry.generation.get() == id.generation).map(|(name, _)| name)
    }

    /// Who is in that place, or was there last.
    pub(super) const fn sender_of(link: &Link, slot: u32) -> PortId {
        PortId { slot, generation: link.sender.get() }
    }

    /// Takes a port out, and lets go of both ends of all its links.
    pub(super) fn leave(&self, id: PortId, how: Leave) {
        if !self.is_live(id) {
            return;
        }
        for other in self.slots() {
            self.leave_as_sender(id.slot, other, how);
            self.leave_as_receiver(other, id.slot);
        }
        if let Some(entry) = self.entries.get(wide(id.slot)) {
            entry.port.set(None);
            entry.generation.set(id.generation.next());
        }
        self.requests.leave(id, how, |owner| self.is_live(owner));
    }

    const fn number(&self, from: u32, to: u32) -> u32 {
        from.wrapping_mul(self.config.ports_max).wrapping_add(to)
    }

    pub(super) fn link(&self, from: u32, to: u32) -> Option<&'m Link> {
        self.links.get(wide(self.number(from, to)))
    }

    /// Opens the link from one port to another, as the answer to that use of the link the other way round. Returns which use
    /// of it this is.
    pub(super) fn open(&self, from: PortId, to: PortId, answers: u32) -> Result<u32, PostError> {
        if !self.is_live(to) {
            return Err(Fatal::PeerGone.into());
        }
        let link = self.link(from.slot, to.slot).ok_or(Retry::NoLane)?;
        if link.state.get() != LinkState::Free {
            return Err(Retry::NoLane.into());
        }
        link.sender.set(from.generation);
        link.receiver.set(to.generation);
        link.visible.set(0);
        link.answers.set(answers);
        let uses = link.uses.get().wrapping_add(1).max(1);
        link.uses.set(uses);
        link.state.set(LinkState::Unseen);
        Ok(uses)
    }

    /// Puts a copy of a message of `length` bytes into an open link, behind the others. It is not visible yet.
    pub(super) fn stage(
        &self,
        (from, to): (u32, u32),
        (length, copy): (usize, impl FnOnce(&mut [u8])),
        envelope: Envelope,
    ) -> Result<(), PostError> {
        let list = self.number(from, to);
        if self.queues.len(list) >= self.config.link_depth {
            return Err(Retry::NoCredit.into());
        }
        let mut body = self.bodies.lend().ok_or(Retry::NoSpill)?;
        body.set_len(length).map_err(|_too_small| crate::error::Misuse::TooLong)?;
        copy(&mut body);
        let key =
            self.messages.insert(Message { envelope, body }).map_err(|_full| Retry::NoSpill)?;
        let linked = self.queues.push_back(list, key.slot());
        debug_assert!(linked.is_ok(), "a new slot is on no list");
        Ok(())
    }

    /// Shows the receiver what was staged in a link. Returns how many messages that were.
    pub(super) fn publish(&self, from: u32, to: u32) -> u32 {
        let Some(link) = self.link(from, to).filter(|link| link.is_open()) else {
            return 0;
        };
        let all = self.queues.len(self.number(from, to));
        all.wrapping_sub(link.visible.replace(all))
    }

    /// The first visible message of a link: its envelope and length.
    pub(super) fn front(&self, from: u32, to: u32) -> Option<(Envelope, usize)> {
        let key = self.front_key(from, to)?;
        self.messages.with(key, |message| (message.envelope, message.body.len())).ok()
    }

    fn front_key(&self, from: u32, to: u32) -> Option<Key> {
        if self.link(from, to)?.visible.get() == 0 {
            return None;
        }
        self.messages.key_at(self.queues.front(self.number(from, to))?)
    }

    /// Copies bytes of the first message of a link, from byte `at` of it on, as many as `to_bytes` has.
    pub(super) fn copy_front(&self, (from, to): (u32, u32), at: usize, to_bytes: &mut [u8]) {
        let Some(key) = self.front_key(from, to) else {
            return;
        };
        let copied = self.messages.with(key, |message| {
            let part = message.body.get(at..).and_then(|rest| rest.get(..to_bytes.len()));
            if let Some(part) = part {
                to_bytes.copy_from_slice(part);
            }
        });
        debug_assert!(copied.is_ok(), "a queued message is in the table");
    }

    /// Takes the first message out of a link.
    pub(super) fn drop_front(&self, from: u32, to: u32) {
        if let Some(link) = self.link(from, to)
            && self.discard_one(self.number(from, to))
        {
            link.visible.set(link.visible.get().saturating_sub(1));
        }
    }

    fn discard_one(&self, list: u32) -> bool {
        let Some(slot) = self.queues.pop_front(list) else {
            return false;
        };
        if let Some(key) = self.messages.key_at(slot) {
            let removed = self.messages.remove(key);
            debug_assert!(removed.is_ok(), "a queued message is in the table");
        }
        true
    }

    fn clear(&self, from: u32, to: u32) {
        while self.discard_one(self.number(from, to)) {}
        if let Some(link) = self.link(from, to) {
            link.visible.set(0);
        }
    }

    /// The sender lets go of its link.
    pub(super) fn leave_as_sender(&self, from: u32, to: u32, how: Leave) {
        let Some(link) = self.link(from, to) else {
            return;
        };
        match link.state.get() {
            LinkState::Free | LinkState::SenderLeft => {}
            LinkState::Unseen | LinkState::Accepted => {
                match how {
                    Leave::Closed => {
                        self.publish(from, to);
                    }
                    Leave::Killed => self.forget_staged(from, to),
                }
                link.state.set(LinkState::SenderLeft);
            }
            LinkState::Refused | LinkState::ReceiverLeft => link.state.set(LinkState::Free),
        }
    }

    /// What was staged and not published is gone with its sender.
    fn forget_staged(&self, from: u32, to: u32) {
        let Some(link) = self.link(from, to) else {
            return;
        };
        let list = self.number(from, to);
        while self.queues.len(list) > link.visible.get() {
            let Some(slot) = self.queues.iter(list, u32::MAX).last() else {
                return;
            };
            let unlinked = self.queues.unlink(slot);
            let removed = self.messages.key_at(slot).map(|key| self.messages.remove(key));
            debug_assert!(unlinked.is_ok() && removed.is_some(), "queued messages are in both");
        }
    }

    /// The receiver lets go of a link to it. What is in it is gone.
    pub(super) fn leave_as_receiver(&self, from: u32, to: u32) {
        self.close_receiving((from, to), LinkState::ReceiverLeft);
    }

    /// The receiver lets go of a link to it, or does not take it.
    pub(super) fn close_receiving(&self, (from, to): (u32, u32), end: LinkState) {
        let Some(link) = self.link(from, to) else {
            return;
        };
        match link.state.get() {
            LinkState::Free | LinkState::Refused | LinkState::ReceiverLeft => {}
            LinkState::Unseen | LinkState::Accepted => {
                self.clear(from, to);
                link.state.set(end);
            }
            LinkState::SenderLeft => {
                self.clear(from, to);
                link.state.set(LinkState::Free);
            }
        }
    }
}
