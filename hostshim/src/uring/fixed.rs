//! The arena of a ring as registered buffers: its pages are looked up and pinned once, and not for each operation.

use spinwire_dataplane::raw::kernel_memory::FIXED_BYTES;
use spinwire_layouts::uring::{IoVec, RsrcRegister};

use super::{Feature, Uring, UringError, address};
use crate::raw::uring::Registration;

impl Uring {
    /// Registers the arena as buffers 0, 1, .. of [`FIXED_BYTES`] each, and says how many there are; those that are registered already, where they are. The kernel pins all of it until the ring closes or
    /// [`Uring::forget_buffers`].
    ///
    /// # Errors
    /// [`UringError::Without`] where the ring has no such table, or no arena; [`UringError::MemlockTooLow`] where so much may not be
    /// pinned. Then memory is looked up by its address, which is only slower.
    pub fn register_arena(&self) -> Result<u32, UringError> {
        if self.fixed.get() > 0 {
            return Ok(self.fixed.get());
        }
        let Some(arena) = self.arena.as_ref().filter(|_| self.features.has(Feature::Buffers))
        else {
            return Err(UringError::Without(Feature::Buffers));
        };
        let base = address(arena.as_ptr().as_ptr().cast_const());
        let bytes = u64::try_from(arena.len()).unwrap_or(u64::MAX);
        let pieces: Vec<IoVec> = (0..bytes.div_ceil(FIXED_BYTES))
            .map(|piece| {
                let from = piece * FIXED_BYTES;
                IoVec { iov_base: base + from, iov_len: FIXED_BYTES.min(bytes - from) }
            })
            .collect();
        let nr = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let data = address(pieces.as_ptr().cast());
        let table = RsrcRegister { nr, data, ..RsrcRegister::ZERO };
        self.register(Registration::Buffers(&table), bytes)?;
        self.fixed.set(nr);
        Ok(nr)
    }
}
