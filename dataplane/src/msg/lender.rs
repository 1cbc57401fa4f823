//! Sending buffers of a pool, uncopied: who holds a buffer that is under way.
//!
//! ```text
//!   sender                                   lane                     receiver
//!     guard --send--> row: buffer, peer, n   | id, pool, n | ------->  completion with a parcel
//!             the sender's bit stays                                   take: its own bit in the slot word, or drop
//!     collect: the bit goes  <------------------- settled n --------   flush
//! ```
//!
//! *A buffer under way is held by its sender*, by the same bit in the slot word as its guards, and counted with them in private
//! memory. It is let go of when the receiver says that it has a bit of its own or wants none, or when the lane is gone. So a
//! reference is at every moment that of one process which is known by a lease, and what the dead held is taken back by the
//! two reclaims that there are, each for itself:
//!
//! | who is killed | its bits of the pool | the buffers under way |
//! |---|---|---|
//! | receiver, before it took | has none | its sender hears that the peer is gone, and collects |
//! | receiver, between taking and settling | reclaim | the same |
//! | sender, before or after publishing | reclaim | the parcel is `Stale` |
//! | sender, after the receiver took | reclaim | the receiver's bit stands |
//!
//! Nothing is written twice, no lane is walked, no count is moved by anybody but its owner: no reference can be given back twice.
//! The price: a buffer that was sent and not yet taken goes with its sender; and who sends has to turn for its buffers to come
//! back. Who leaves in good order waits until [`Lender::under_way`] is 0.
//!
//! Invariant: each row in use stands for one guard in the handle's private count.

use core::cell::Cell;

use spinwire_layouts::shm::BufferId;
use spinwire_layouts::shm::lane::PARCELS_MAX;
use spinwire_layouts::word::{to_usize, widen};

use super::{Endpoint, SendTo};
use crate::error::{Refused, Retry};
use crate::id::Addr;
use crate::pool::{Guard, Mode, Pool, PoolHost};
use crate::provider::{ParcelWr, Provider};
use crate::raw::place::{Bump, Exhausted};

/// A buffer under way.
#[derive(Clone, Copy, Debug)]
struct Row {
    buffer: BufferId,
    to: Addr,
    number: u8,
}

/// Sends buffers of one pool over one endpoint, and holds them while they are under way.
///
/// Dropping it lets go of all of them, taken or not.
#[derive(Debug)]
pub struct Lender<'p, 'm, H: PoolHost> {
    pool: &'p Pool<'p, H>,
    /// Rows in use, packed at the front.
    rows: &'m [Cell<Option<Row>>],
    count: Cell<usize>,
}

impl<'p, 'm, H: PoolHost> Lender<'p, 'm, H> {
    /// One for up to `under_way_max` buffers at once. A lane carries up to 64.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(
        pool: &'p Pool<'p, H>,
        bump: &Bump<'m>,
        under_way_max: u32,
    ) -> Result<Self, Exhausted> {
        let rows = bump.slice_with(to_usize(widen(under_way_max)), |_| Cell::new(None))?;
        Ok(Self { pool, rows, count: Cell::new(0) })
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &'p Pool<'p, H> {
        self.pool
    }

    /// Buffers that receivers have not settled, as of the last [`collect`](Self::collect).
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.count.get()
    }

    /// Lets go of the buffers whose receivers have settled them, or are gone. Returns how many. `endpoint` is the one by which
    /// they were sent.
    ///
    /// It looks at a line that the receivers write, so not with every message: `send_loan` does it when no row is free. Call it
    /// when there is time, or when the pool is empty.
    pub fn collect<P: Provider>(&self, endpoint: &Endpoint<'_, P>) -> usize {
        let before = self.count.get();
        let mut at = 0;
        while let Some(Some(row)) = self.rows.get(at).map(Cell::get) {
            if endpoint.provider().is_settled(row.to, row.number) {
                self.take_out(at);
                self.pool.let_go_of_kept(row.buffer);
            } else {
                at = at.wrapping_add(1);
            }
        }
        before.wrapping_sub(self.count.get())
    }

    /// The last row moves to `at`.
    fn take_out(&self, at: usize) {
        let last = self.count.get().wrapping_sub(1);
        self.count.set(last);
        let moved = self.rows.get(last).and_then(Cell::take);
        if let Some(place) = self.rows.get(at).filter(|_| at != last) {
            place.set(moved);
        }
    }

    fn send<M: Mode, P: Provider>(
        &self,
        endpoint: &Endpoint<'_, P>,
        to: SendTo,
        guard: Guard<'p, M, H>,
    ) -> Result<(), Refused<Guard<'p, M, H>>> {
        // Before any number can be used again whose row is still here.
        if self.count.get() >= self.rows.len().min(to_usize(widen(PARCELS_MAX))) {
            self.collect(endpoint);
        }
        let SendTo { peer, tag, immediate } = to;
        let Some(row) = self.rows.get(self.count.get()) else {
            return Err(Refused::new(Retry::NoSlot, guard));
        };
        if let Err(fenced) = guard.check(self.pool) {
            return Err(Refused::new(fenced, guard));
        }
        let buffer = guard.id();
        let wr = ParcelWr { to: peer, buffer, pool: self.pool.segment().key(), tag, immediate };
        match endpoint.provider().post_parcel(&wr) {
            Ok(number) => {
                // Not published before the next doorbell or post, so nobody finds it being written.
                guard.keep();
                row.set(Some(Row { buffer, to: peer, number }));
                self.count.set(self.count.get().wrapping_add(1));
                Ok(())
            }
            Err(refused) => Err(Refused::new(refused, guard)),
        }
    }
}

impl<H: PoolHost> Drop for Lender<'_, '_, H> {
    fn drop(&mut self) {
        for row in self.rows.iter().filter_map(Cell::take) {
            self.pool.let_go_of_kept(row.buffer);
        }
    }
}

impl<P: Provider> Endpoint<'_, P> {
    /// Sends the buffer of a guard, uncopied: the receiver takes a guard of its own out of the completion. Goes out with the next
    /// turn or [`flush`](Self::flush). An exclusive guard is published by it.
    ///
    /// The same `lender` is to be used with the same endpoint; it holds the buffer until the receiver has settled it.
    ///
    /// # Errors
    /// The guard comes back with the reason: `Unsupported` where the provider has no
    /// [`Caps::PARCEL`](crate::provider::Caps::PARCEL), `NoSlot` where the lender has no row free, `NoCredit` where 64 are
    /// under way to that peer or its lane is full; else as [`post_send`](Self::post_send).
    pub fn send_loan<'p, M: Mode, H: PoolHost>(
        &self,
        lender: &Lender<'p, '_, H>,
        to: SendTo,
        guard: Guard<'p, M, H>,
    ) -> Result<(), Refused<Guard<'p, M, H>>> {
        match lender.send(self, to, guard) {
            Ok(()) => {
                self.count_sent(0);
                Ok(())
            }
            Err(Refused { error, item }) => Err(Refused::new(self.refused(error), item)),
        }
    }
}
