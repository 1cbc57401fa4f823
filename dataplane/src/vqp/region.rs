//! Keys by table: memory that a request may name, with a key for each device.
//!
//! ```text
//!   region   range                 device 0   device 1   device 2
//!     0      base .. + length        key        key         -        a request over a path on device 2 is refused
//!     1      ..
//! ```
//!
//! There is one table for local memory, whose keys are the device's ([`QueuePair::Key`](crate::verbs::QueuePair::Key)), and one for
//! the peer's, whose keys are numbers that the peer has told. A remote key belongs to the device at the *other* end; the table
//! has it under the number of the device at this end, because that is what a path knows.
//!
//! Invariants: a name carries a generation, so what was removed is refused; a range is checked before a device sees it.

use core::cell::Cell;

use super::refusal::CallError;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Full, Key, Slab, wide};

/// Devices in a table: the bits of a word.
pub const DEVICES_MAX: u32 = 64;

/// The name of a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RegionId(Key);

/// A region, as a request looks for it.
#[repr(align(32))]
struct Row {
    base: Cell<u64>,
    length: Cell<u64>,
    /// Devices that have a key.
    devices: Cell<u64>,
    /// The generation of its name; 0, which no name has, where there is none.
    generation: Cell<u32>,
}

impl Row {
    const fn vacant() -> Self {
        let [base, length, devices] = [const { Cell::new(0) }; 3];
        Self { base, length, devices, generation: Cell::new(0) }
    }
}

/// The keys of one device, by region.
pub(super) type Column<'m, K> = &'m [Cell<Option<K>>];

/// Regions with their keys. One thread.
pub struct Regions<'m, K: Copy> {
    names: Slab<'m, ()>,
    rows: &'m [Row],
    /// Device by device, as many as rows for each.
    keys: Column<'m, K>,
}

impl<K: Copy> core::fmt::Debug for Regions<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Regions").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<'m, K: Copy> Regions<'m, K> {
    /// Places a table of `capacity` regions on `devices` devices, at most [`DEVICES_MAX`].
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32, devices: u32) -> Result<Self, Exhausted> {
        let devices = devices.clamp(1, DEVICES_MAX);
        let too_large = Exhausted { wanted_bytes: usize::MAX, free_bytes: bump.free_bytes() };
        let count = wide(capacity).checked_mul(wide(devices)).ok_or(too_large)?;
        let keys = bump.slice_with(count, |_| Cell::new(None))?;
        let rows = bump.slice_with(wide(capacity), |_| Row::vacant())?;
        Ok(Self { names: Slab::place(bump, capacity)?, rows, keys })
    }

    /// Names `length` bytes from `base`, with the keys of the devices in their order; `None`, or a list that is too short, for
    /// a device that is not let in.
    ///
    /// # Errors
    /// The table is full.
    pub fn register(
        &self,
        base: u64,
        length: u64,
        keys: &[Option<K>],
    ) -> Result<RegionId, Full<()>> {
        let name = self.names.insert(())?;
        let row = self.rows.get(wide(name.slot())).ok_or(Full(()))?;
        let mut devices = 0;
        for device in 0..DEVICES_MAX {
            let Some(cell) = self.column(device).get(wide(name.slot())) else { break };
            let key = keys.get(wide(device)).copied().flatten();
            devices |= u64::from(key.is_some()).wrapping_shl(device);
            cell.set(key);
        }
        row.base.set(base);
        row.length.set(length.min(u64::MAX.wrapping_sub(base)));
        row.devices.set(devices);
        row.generation.set(name.generation().as_raw());
        Ok(RegionId(name))
    }

    /// Takes a name back. Requests that are not on their way yet and name it fail with [`Cause::NoKey`](super::Cause::NoKey);
    /// of those on their way the devices know the key, so take it from them only after they have completed.
    ///
    /// # Errors
    /// It names nothing.
    pub fn remove(&self, id: RegionId) -> Result<(), CallError> {
        self.names.remove(id.0).map_err(|_gone| CallError::UnknownRegion)?;
        if let Some(row) = self.find(id) {
            row.generation.set(0);
        }
        Ok(())
    }

    /// The keys of a device: none where it is not in the table.
    pub(super) fn column(&self, device: u32) -> Column<'m, K> {
        let begin = wide(device).checked_mul(self.rows.len());
        let rest = begin.and_then(|begin| self.keys.get(begin..)).unwrap_or_default();
        rest.get(..self.rows.len()).unwrap_or_default()
    }

    /// The row of a region.
    #[inline(always)]
    fn find(&self, id: RegionId) -> Option<&'m Row> {
        let row = self.rows.get(wide(id.0.slot()))?;
        (row.generation.get() == id.0.generation().as_raw()).then_some(row)
    }

    /// Where `length` bytes from `offset` of a region lie, if every device of the set `devices` has a key for them.
    #[inline(always)]
    pub(super) fn resolve(
        &self,
        id: RegionId,
        (offset, length): (u64, u64),
        devices: u64,
    ) -> Result<u64, CallError> {
        let row = self.find(id).ok_or(CallError::UnknownRegion)?;
        let end = offset.checked_add(length).ok_or(CallError::OutsideRegion)?;
        if end > row.length.get() {
            return Err(CallError::OutsideRegion);
        }
        let missing = devices & !row.devices.get();
        if missing != 0 {
            return Err(CallError::NoKey { device: missing.trailing_zeros() });
        }
        // `register` has cut the length so that the sum is a number.
        Ok(row.base.get().wrapping_add(offset))
    }

    /// Where `length` bytes from `offset` of a region lie, and its key among those of one device; nothing where it has none, or they are
    /// outside.
    #[inline(always)]
    pub(super) fn locate(
        &self,
        id: RegionId,
        (offset, length): (u64, u64),
        keys: Column<'m, K>,
    ) -> Option<(u64, K)> {
        let row = self.find(id)?;
        let end = offset.checked_add(length)?;
        if end > row.length.get() {
            return None;
        }
        let key = keys.get(wide(id.0.slot()))?.get()?;
        // `register` has cut the length so that the sum is a number.
        Some((row.base.get().wrapping_add(offset), key))
    }

    /// The key of a region among those of one device.
    #[inline(always)]
    pub(super) fn key(&self, id: RegionId, keys: Column<'m, K>) -> Option<K> {
        self.find(id)?;
        keys.get(wide(id.0.slot()))?.get()
    }
}
