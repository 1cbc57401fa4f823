//! Sends that are held for a while, in the order in which they were posted.
//!
//! Invariant: a held send is in the table and in the queue, or in neither.

use crate::id::{Addr, WrId};
use crate::provider::{Payload, SendWr, Sge};
use crate::raw::loan::{Loan, LoanPool};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Fifos, Slab};

/// Whether what follows to the same peer may pass a held send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It may not.
    Kept,
    /// It may.
    Lost,
}

#[derive(Debug)]
enum Body<'m> {
    /// Injected: a copy.
    Copy(Loan<'m>),
    /// Posted: the provider's until the completion.
    Posted { wr_id: WrId, sge: Sge },
}

#[derive(Debug)]
struct Held<'m> {
    to: Addr,
    body: Body<'m>,
    tag: Option<u64>,
    immediate: Option<u64>,
    place: Place,
    /// The poll from which on it may go.
    due: u64,
}

/// The one list.
const HELD: u32 = 0;

/// The held sends of one endpoint.
#[derive(Debug)]
pub(super) struct Holding<'m> {
    held: Slab<'m, Held<'m>>,
    queue: Fifos<'m>,
    copies: &'m LoanPool<'m>,
}

impl<'m> Holding<'m> {
    pub(super) fn place(
        bump: &Bump<'m>,
        held_max: u32,
        held_bytes_max: usize,
    ) -> Result<Self, Exhausted> {
        Ok(Self {
            held: Slab::place(bump, held_max)?,
            queue: Fifos::place(bump, held_max, 1)?,
            copies: LoanPool::place(bump, held_max, held_bytes_max)?,
        })
    }

    pub(super) const fn len(&self) -> u32 {
        self.held.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The slots of all that is held, oldest first. The one that was yielded last may be forgotten meanwhile.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<'_, 'm> {
        self.queue.iter(HELD, u32::MAX)
    }

    /// Holds a send. Returns whether there was room for it.
    pub(super) fn hold(&self, wr: &SendWr<'_>, place: Place, due: u64) -> bool {
        if self.held.is_full() {
            return false;
        }
        let body = match wr.payload {
            Payload::Posted { wr_id, sge } => Body::Posted { wr_id, sge },
            Payload::Inject(bytes) => {
                let Some(mut copy) = self.copies.lend() else {
                    return false;
                };
                if copy.fill(bytes).is_err() {
                    return false;
                }
                Body::Copy(copy)
            }
        };
        let SendWr { to, tag, immediate, .. } = *wr;
        let entry = Held { to, body, tag, immediate, place, due };
        let Ok(key) = self.held.insert(entry) else {
            return false;
        };
        let linked = self.queue.push_back(HELD, key.slot());
        debug_assert!(linked.is_ok(), "a new slot is on no list");
        true
    }

    fn with<R>(&self, slot: u32, look: impl FnOnce(&Held<'m>) -> R) -> Option<R> {
        self.held.with(self.held.key_at(slot)?, |held| look(held)).ok()
    }

    /// To whom, and from which poll on it may go.
    pub(super) fn get(&self, slot: u32) -> Option<(Addr, u64)> {
        self.with(slot, |held| (held.to, held.due))
    }

    /// Lets `send` have the send as it was posted.
    pub(super) fn with_wr<R>(&self, slot: u32, send: impl FnOnce(&SendWr<'_>) -> R) -> Option<R> {
        self.with(slot, |held| {
            let payload = match &held.body {
                Body::Copy(bytes) => Payload::Inject(bytes),
                Body::Posted { wr_id, sge } => Payload::Posted { wr_id: *wr_id, sge: *sge },
            };
            send(&SendWr { to: held.to, payload, tag: held.tag, immediate: held.immediate })
        })
    }

    /// Whether a send to that peer has to wait for one that is held.
    pub(super) fn holds_up(&self, to: Addr) -> bool {
        self.slots().any(|slot| self.keeps_place(slot, to))
    }

    /// Whether the one in `slot`, which is for that peer, has to wait for an earlier one.
    pub(super) fn is_behind(&self, slot: u32, to: Addr) -> bool {
        self.with(slot, |held| held.place) == Some(Place::Kept)
            && self
                .slots()
                .take_while(|&earlier| earlier != slot)
                .any(|earlier| self.keeps_place(earlier, to))
    }

    fn keeps_place(&self, slot: u32, to: Addr) -> bool {
        self.with(slot, |held| held.to == to && held.place == Place::Kept).unwrap_or(false)
    }

    /// Takes out the one in `slot`. Returns the id of its completion, where it was posted with one.
    pub(super) fn forget(&self, slot: u32) -> Option<WrId> {
        let unlinked = self.queue.unlink(slot);
        debug_assert!(unlinked.is_ok(), "held and queued go together");
        match self.held.remove(self.held.key_at(slot)?).ok()?.body {
            Body::Posted { wr_id, .. } => Some(wr_id),
            Body::Copy(_) => None,
        }
    }
}
