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

#[derive(Clone, Copy, Debug)]
struct Range {
    base: u64,
    length: u64,
    /// Devices that have a key.
    devices: u64,
}

/// Regions with their keys. One thread.
pub struct Regions<'m, K: Copy> {
    ranges: Slab<'m, Range>,
    keys: &'m [Cell<Option<K>>],
    devices: u32,
}

impl<K: Copy> core::fmt::Debug for Regions<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Regions").field("ranges", &self.ranges).finish_non_exhaustive()
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
        Ok(Self { ranges: Slab::place(bump, capacity)?, keys, devices })
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
        let mut devices = 0;
        for (device, key) in (0..self.devices).zip(keys) {
            devices |= u64::from(key.is_some()).wrapping_shl(device);
        }
        let length = length.min(u64::MAX.wrapping_sub(base));
        let range = Range { base, length, devices };
        let key = self.ranges.insert(range).map_err(|_full| Full(()))?;
        for device in 0..self.devices {
            if let Some(cell) = self.cell(key.slot(), device) {
                cell.set(keys.get(wide(device)).copied().flatten());
            }
        }
        Ok(RegionId(key))
    }

    /// Takes a name back. Requests that are not on their way yet and name it fail with [`Cause::NoKey`](super::Cause::NoKey);
    /// of those on their way the devices know the key, so take it from them only after they have completed.
    ///
    /// # Errors
    /// It names nothing.
    pub fn remove(&self, id: RegionId) -> Result<(), CallError> {
        self.ranges.remove(id.0).map(|_| ()).map_err(|_gone| CallError::UnknownRegion)
    }

    /// Where `length` bytes from `offset` of a region lie, if every device of the set `devices` has a key for them.
    #[inline(always)]
    pub(super) fn resolve(
        &self,
        id: RegionId,
        (offset, length): (u64, u64),
        devices: u64,
    ) -> Result<u64, CallError> {
        let range = self.ranges.get(id.0).map_err(|_gone| CallError::UnknownRegion)?;
        let end = offset.checked_add(length).ok_or(CallError::OutsideRegion)?;
        if end > range.length {
            return Err(CallError::OutsideRegion);
        }
        let missing = devices & !range.devices;
        if missing != 0 {
            return Err(CallError::NoKey { device: missing.trailing_zeros() });
        }
        // `register` has cut the length so that the sum is a number.
        Ok(range.base.wrapping_add(offset))
    }

    /// Where `length` bytes from `offset` of a region lie, and its key for `device`; nothing where it has none, or they are outside.
    #[inline(always)]
    pub(super) fn locate(
        &self,
        id: RegionId,
        (offset, length): (u64, u64),
        device: u32,
    ) -> Option<(u64, K)> {
        let range = self.ranges.get(id.0).ok()?;
        let end = offset.checked_add(length)?;
        if end > range.length {
            return None;
        }
        let key = self.cell(id.0.slot(), device)?.get()?;
        // `register` has cut the length so that the sum is a number.
        Some((range.base.wrapping_add(offset), key))
    }

    /// The key of a region for a device.
    #[inline(always)]
    pub(super) fn key(&self, id: RegionId, device: u32) -> Option<K> {
        self.ranges.check(id.0).ok()?;
        self.cell(id.0.slot(), device)?.get()
    }

    #[inline]
    fn cell(&self, slot: u32, device: u32) -> Option<&Cell<Option<K>>> {
        if device >= self.devices {
            return None;
        }
        self.keys.get(wide(slot).wrapping_mul(wide(self.devices)).wrapping_add(wide(device)))
    }
}
