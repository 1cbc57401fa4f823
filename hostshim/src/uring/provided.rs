//! Rings of provided buffers in memory of their own, apart from any service: for who fills them by hand.

use spinwire_dataplane::raw::line::Line;
use spinwire_layouts::uring::{self as layout, BufReg, buffer_ring};

use super::error::explain;
use super::{Feature, PROVIDED_MAX, Uring, UringError, address};
use crate::raw::uring::{BufferRingMemory, Registration};

impl Uring {
    /// A ring of provided buffers for the group `group`, empty, with `entries` places: a power of two. `use_up` says whether a
    /// buffer is used up piece by piece.
    ///
    /// # Errors
    /// [`UringError::Without`] where there are no such rings, [`UringError::Size`], else what the kernel says: EEXIST where
    /// the group has one.
    pub fn provide_buffers(
        &self,
        group: u16,
        entries: u32,
        use_up: UseUp,
    ) -> Result<ProvidedRing<'_>, UringError> {
        let needs = match use_up {
            UseUp::Whole => Feature::BufferRings,
            UseUp::Pieces => Feature::IncrementalBuffers,
        };
        if !self.features.has(needs) {
            return Err(UringError::Without(needs));
        }
        if !entries.is_power_of_two() || entries > PROVIDED_MAX {
            return Err(UringError::Size {
                field: "entries",
                asked: entries,
                least: 1,
                most: PROVIDED_MAX,
            });
        }
        let bytes = usize::try_from(entries).unwrap_or(0) * size_of::<layout::Buf>();
        let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
        let memory = BufferRingMemory::new(bytes).map_err(|e| explain("mmap", e, needed))?;
        let ring_addr = address(memory.as_ptr().as_ptr().cast_const());
        let flags = if use_up == UseUp::Pieces { buffer_ring::INC } else { 0 };
        let about = BufReg { ring_addr, ring_entries: entries, bgid: group, flags, ..BufReg::ZERO };
        self.register(Registration::BufferRing(&about), needed)?;
        Ok(ProvidedRing { of: self, memory, group, entries })
    }
}

/// How a provided buffer is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UseUp {
    /// Whole, by one completion.
    Whole,
    /// Piece by piece, by several: [`Feature::IncrementalBuffers`].
    Pieces,
}

/// A ring of provided buffers. The kernel lets go of it on drop.
#[derive(Debug)]
pub struct ProvidedRing<'u> {
    of: &'u Uring,
    memory: BufferRingMemory,
    group: u16,
    entries: u32,
}

impl ProvidedRing<'_> {
    /// The places: four [`layout::Buf`] in a line. The upper 16 bits of the second word are the tail, and the kernel may write
    /// addresses and lengths of a ring whose buffers are used up piece by piece.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        self.memory.lines()
    }

    /// The number of the group.
    #[must_use]
    pub const fn group(&self) -> u16 {
        self.group
    }

    /// Places.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.entries
    }
}

impl Drop for ProvidedRing<'_> {
    fn drop(&mut self) {
        let about = BufReg { bgid: self.group, ..BufReg::ZERO };
        // Fails only for a group that is not registered. The kernel has pinned the pages, so the memory may go.
        let _gone = self.of.register(Registration::NoBufferRing(&about), 0);
    }
}
