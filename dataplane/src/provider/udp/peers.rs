//! Who is where: routes by name, and the table of addresses, whose rows are found through lists by hash.

use core::cell::Cell;
use core::net::SocketAddr;

use spinwire_layouts::uring::SockAddr;

use super::Route;
use crate::error::{Misuse, Retry};
use crate::id::{Addr, Generation, Name};
use crate::raw::line::partial_word;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Fifos, wide};
use crate::time::Instant;

/// Names and where they are found, as the host has resolved them: one table for all ports of a thread.
#[derive(Debug)]
pub struct Routes<'m> {
    rows: &'m [Cell<Option<Route>>],
}

impl<'m> Routes<'m> {
    /// Places a table of `count` routes.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn place(bump: &Bump<'m>, count: u32) -> Result<Self, Exhausted> {
        Ok(Self { rows: bump.slice_with(wide(count), |_| Cell::new(None))? })
    }

    /// Adds a route, or changes that of the same name. Peers that are connected to already stay where they were.
    ///
    /// # Errors
    /// `AddressesFull`.
    pub fn add(&self, route: Route) -> Result<(), Retry> {
        let is_it = |row: &&Cell<Option<Route>>| row.get().is_some_and(|r| r.name == route.name);
        let is_free = |row: &&Cell<Option<Route>>| row.get().is_none();
        let place = self.rows.iter().find(is_it).or_else(|| self.rows.iter().find(is_free));
        place.ok_or(Retry::AddressesFull)?.set(Some(route));
        Ok(())
    }

    /// Takes a route out.
    ///
    /// # Errors
    /// `UnknownAddress` where there is none of that name.
    pub fn remove(&self, name: &Name) -> Result<(), Misuse> {
        let is_it = |row: &&Cell<Option<Route>>| row.get().is_some_and(|r| r.name == *name);
        let row = self.rows.iter().find(is_it).ok_or(Misuse::UnknownAddress)?;
        row.set(None);
        Ok(())
    }

    /// Where that name is found.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<SockAddr> {
        let found = self.rows.iter().find_map(|row| row.get().filter(|route| route.name == *name));
        found.map(|route| route.address)
    }

    /// A name that is found there.
    #[must_use]
    pub fn name_of(&self, address: SockAddr) -> Option<Name> {
        let is_there = |route: &Route| route.address.as_bytes() == address.as_bytes();
        self.rows.iter().find_map(|row| row.get().filter(is_there)).map(|route| route.name)
    }
}

/// Lists of [`Peers::order`]: rows that are free; rows of senders that were never connected to, the most silent in front.
const FREE: u32 = 0;
const LEARNED: u32 = 1;

/// Rows that are looked at to find one that can be given away.
const TRIES: u32 = 8;

#[derive(Debug)]
struct Row {
    generation: Cell<Generation>,
    address: Cell<Option<SocketAddr>>,
    heard: Cell<Instant>,
}

#[derive(Debug)]
pub(in crate::provider) struct Peers<'m> {
    rows: &'m [Row],
    /// A list for each hash.
    hashed: Fifos<'m>,
    order: Fifos<'m>,
}

impl<'m> Peers<'m> {
    pub(in crate::provider) fn place(bump: &Bump<'m>, count: u32) -> Result<Self, Exhausted> {
        let rows = bump.slice_with(wide(count), |_| Row {
            generation: Cell::new(Generation::FIRST),
            address: Cell::new(None),
            heard: Cell::new(Instant::ORIGIN),
        })?;
        let order = Fifos::place(bump, count, 2)?;
        for slot in 0..count {
            let _empty_before = order.push_back(FREE, slot);
        }
        let hashed = Fifos::place(bump, count, count.clamp(1, 1 << 20).next_power_of_two())?;
        Ok(Self { rows, hashed, order })
    }

    /// Who is in a row.
    pub(in crate::provider) fn address_in(&self, slot: u32) -> Option<SocketAddr> {
        self.rows.get(wide(slot))?.address.get()
    }

    /// The list of an address.
    fn list_of(&self, address: &SocketAddr) -> u32 {
        let form = SockAddr::new(*address);
        let mix = |hash: u64, bytes: &[u8]| {
            (hash ^ partial_word(bytes)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        };
        let hash = form.as_bytes().chunks(8).fold(0, mix);
        spinwire_layouts::word::high(hash) & self.hashed.lists().wrapping_sub(1)
    }

    fn find(&self, address: &SocketAddr) -> Option<(u32, &'m Row)> {
        let list = self.list_of(address);
        let is_it = |slot: &u32| self.row(*slot).is_some_and(|r| r.address.get() == Some(*address));
        let slot = self.hashed.iter(list, self.hashed.slots()).find(is_it)?;
        Some((slot, self.row(slot)?))
    }

    fn row(&self, slot: u32) -> Option<&'m Row> {
        self.rows.get(wide(slot))
    }

    /// Where a peer is.
    #[inline]
    pub(in crate::provider) fn address_of(&self, addr: Addr) -> Result<SocketAddr, Misuse> {
        let row = self.row(addr.slot()).ok_or(Misuse::UnknownAddress)?;
        match row.address.get() {
            Some(address) if row.generation.get() == addr.generation() => Ok(address),
            _ => Err(Misuse::StaleAddress),
        }
    }

    /// A row for an address that the caller wants to keep; `None` where there is none.
    pub(in crate::provider) fn keep(&self, address: SocketAddr) -> Option<Addr> {
        if let Some((slot, row)) = self.find(&address) {
            let _kept_before = self.order.unlink(slot);
            return Some(Addr::new(slot, row.generation.get()));
        }
        self.settle(self.order.pop_front(FREE)?, address)
    }

    fn settle(&self, slot: u32, address: SocketAddr) -> Option<Addr> {
        let row = self.row(slot)?;
        row.address.set(Some(address));
        let _in_no_list = self.hashed.push_back(self.list_of(&address), slot);
        Some(Addr::new(slot, row.generation.get()))
    }

    /// The row of a sender, or one for it: a free one, or that of another who is `old` enough. The second says whose it was.
    pub(in crate::provider) fn hear(
        &self,
        address: SocketAddr,
        now: Instant,
        old: impl Fn(Addr, Instant) -> bool,
    ) -> Option<(Addr, Option<Addr>)> {
        if let Some((slot, row)) = self.find(&address) {
            row.heard.set(now);
            if self.order.unlink(slot).is_ok() {
                let _in_no_list = self.order.push_back(LEARNED, slot);
            }
            return Some((Addr::new(slot, row.generation.get()), None));
        }
        let (slot, before) = match self.order.pop_front(FREE) {
            Some(slot) => (slot, None),
            None => {
                let is_old = |slot: &u32| {
                    self.row(*slot).is_some_and(|row| {
                        old(Addr::new(*slot, row.generation.get()), row.heard.get())
                    })
                };
                let slot = self.order.iter(LEARNED, TRIES).find(is_old)?;
                let before = Addr::new(slot, self.row(slot)?.generation.get());
                self.vacate(slot)?;
                self.order.pop_front(FREE)?;
                (slot, Some(before))
            }
        };
        let addr = self.settle(slot, address)?;
        self.row(slot)?.heard.set(now);
        let _in_no_list = self.order.push_back(LEARNED, slot);
        Some((addr, before))
    }

    /// The row goes in front of those that are free.
    fn vacate(&self, slot: u32) -> Option<()> {
        let row = self.row(slot)?;
        row.address.set(None);
        row.generation.set(row.generation.get().next());
        let _it_was_hashed = self.hashed.unlink(slot);
        let _kept = self.order.unlink(slot);
        self.order.push_front(FREE, slot).ok()
    }

    /// Takes a peer out.
    pub(in crate::provider) fn remove(&self, addr: Addr) -> Result<(), Misuse> {
        self.address_of(addr)?;
        self.vacate(addr.slot()).ok_or(Misuse::UnknownAddress)
    }

    /// Rows that have an address.
    pub(in crate::provider) fn len(&self) -> u32 {
        self.order.slots().saturating_sub(self.order.len(FREE))
    }
}
