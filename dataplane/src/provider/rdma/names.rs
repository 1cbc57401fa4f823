//! What the work requests of a connection are called: its number, and their own in its queue.
//!
//! ```text
//!   | operation 8 | number of the connection, from 1: 24 | number of the request 32 |
//! ```

use spinwire_layouts::word::{high, widen};

use super::link::Link;
use crate::id::{Generation, OpTag, WrId};
use crate::verbs::QueuePair;

/// The connection of a work request that is called so, if it is one of a connection.
#[inline(always)]
pub(super) const fn link_of(id: WrId) -> u32 {
    (high(id.as_raw()) & 0x00ff_ffff).wrapping_sub(1)
}

impl<Q: QueuePair> Link<'_, Q> {
    /// From now on its requests are called as those of connection `at`.
    pub(super) fn name_requests(&self, at: u32) {
        let of_link = Generation::from_raw(at.wrapping_add(1)).unwrap_or(Generation::FIRST);
        let first = |op| WrId::new(op, of_link, 0).as_raw();
        self.ids.set((first(OpTag::Send), first(OpTag::Recv)));
    }

    /// What its send of that number is called.
    #[inline(always)]
    pub(super) const fn send_id(&self, number: u32) -> WrId {
        WrId::from_raw(self.ids.get().0 | widen(number))
    }

    /// What its receive of that number is called.
    #[inline(always)]
    pub(super) const fn receive_id(&self, number: u32) -> WrId {
        WrId::from_raw(self.ids.get().1 | widen(number))
    }

    /// Whether that is the receive that completes next, if any does.
    #[inline(always)]
    pub(super) const fn is_next_receive(&self, id: WrId) -> bool {
        id.as_raw() == self.receive_id(self.oldest_receive.get()).as_raw()
    }
}
