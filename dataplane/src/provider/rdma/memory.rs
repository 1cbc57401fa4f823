//! Registered memory: the slots that messages are sent from and received into, and the arena of loans.
//!
//! ```text
//!   slots   link 0: receive, receive .. | send, send ..   link 1: ..      lines: whatever the device does to them is what a peer could do
//!   loans   the arena of the endpoint's buffers                           named to the device only while they are posted
//! ```

use core::fmt;

use spinwire_layouts::word::{from_usize, to_usize, widen};

use crate::raw::line::{self, LINE_BYTES, Line};
use crate::raw::region::Loans;
use crate::verbs::{QueuePair, Segment};

/// What a port has registered with its device.
pub struct Memory<'m, Q: QueuePair, C> {
    /// The slots: the port's alone. [`RdmaConfig::memory_bytes`](super::RdmaConfig::memory_bytes) says how many bytes.
    pub lines: &'m [Line],
    /// Where they begin, as the device addresses them.
    pub address: u64,
    /// The key that lets the device into them.
    pub key: Q::Key,
    /// Buffers that may be sent uncopied, and be the local side of one-sided operations.
    pub loans: Option<Loans<Q, C>>,
}

impl<Q: QueuePair, C> Clone for Memory<'_, Q, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: QueuePair, C> Copy for Memory<'_, Q, C> {}

impl<Q: QueuePair, C> fmt::Debug for Memory<'_, Q, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'m, K> {
    lines: &'m [Line],
    address: u64,
    key: K,
    slot_bytes: u32,
}

impl<'m, K: Copy> Slots<'m, K> {
    /// Slots in `memory`, or `None` where it is too small for so many.
    pub(super) fn new<Q: QueuePair<Key = K>, C>(
        memory: &Memory<'m, Q, C>,
        slot_bytes: u32,
        count: u32,
    ) -> Option<Self> {
        let wanted = widen(slot_bytes).checked_mul(widen(count))?;
        let has = from_usize(memory.lines.len()).saturating_mul(from_usize(LINE_BYTES));
        let Memory { lines, address, key, .. } = *memory;
        (wanted <= has && address.checked_add(wanted).is_some()).then_some(Self {
            lines,
            address,
            key,
            slot_bytes,
        })
    }

    const fn offset(&self, slot: u32) -> u64 {
        widen(slot).wrapping_mul(widen(self.slot_bytes))
    }

    /// The first `length` bytes of a slot, as the device is told them.
    #[inline]
    pub(super) const fn segment(&self, slot: u32, length: u32) -> Segment<K> {
        let address = self.address.wrapping_add(self.offset(slot));
        Segment { address, length, key: self.key }
    }

    /// The whole slot.
    #[inline]
    pub(super) const fn whole(&self, slot: u32) -> Segment<K> {
        self.segment(slot, self.slot_bytes)
    }

    /// Writes into a slot, from `at` on, a multiple of 8.
    #[inline]
    pub(super) fn write(&self, slot: u32, at: usize, bytes: &[u8]) {
        let start = to_usize(self.offset(slot)).saturating_add(at);
        let fits = line::copy_in(self.lines, start, bytes);
        debug_assert!(fits, "the memory holds all slots");
    }

    /// Reads from a slot, from `at` on, a multiple of 8.
    #[inline]
    pub(super) fn read(&self, slot: u32, at: usize, bytes: &mut [u8]) {
        let start = to_usize(self.offset(slot)).saturating_add(at);
        let fits = line::copy_out(self.lines, start, bytes);
        debug_assert!(fits, "the memory holds all slots");
    }

    /// Reads from a slot, from `at` on, wherever that is.
    pub(super) fn read_from(&self, slot: u32, at: usize, bytes: &mut [u8]) {
        let start = to_usize(self.offset(slot)).saturating_add(at);
        let fits = line::copy_from(start, bytes, |at, to| line::copy_out(self.lines, at, to));
        debug_assert!(fits, "the memory holds all slots");
    }
}

/// So many bytes as a number of 32 bits; too many are as many as there can be.
#[inline]
pub(super) fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
