//! What a chain is made of, and what it is called: entries, sets of them, ids.
//!
//! Invariants: an index of an entry is below [`ENTRIES_MAX`], so that it is a bit of one word and the low part of a
//! `user_data`; the slot of a chain is below [`CHAINS_MAX`], so that both fit into the 32 bits of a [`WrId`]'s slot.

use spinwire_layouts::word::low;

use crate::id::{Generation, OpTag, WrId};

/// Entries in the longest chain.
pub const ENTRIES_MAX: u16 = 64;
/// Chains in the largest table.
pub const CHAINS_MAX: u32 = 1 << (32 - ENTRY_BITS);

/// Bits of a slot number that say which entry.
pub(super) const ENTRY_BITS: u32 = 6;
pub(super) const ENTRY_MASK: u32 = (1 << ENTRY_BITS) - 1;

const _: () = assert!(1 << ENTRY_BITS == ENTRIES_MAX, "every entry has a bit and a number");

/// The number in `wanted` of an entry that expects no bytes. No result can say so many: it is an `i32`.
pub(super) const NO_BYTES: u32 = u32::MAX;
/// The most bytes that an entry can ask for, as many as its result can report.
pub(super) const BYTES_MAX: u32 = i32::MAX.cast_unsigned();

/// One linked submission, as far as the table has to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub(super) context: u64,
    pub(super) wanted: u32,
}

impl Entry {
    /// An operation that is whole when it has moved `wanted` bytes (at most 2^31 - 1): a send, a write, a read. With fewer it
    /// is short, and breaks the chain.
    ///
    /// `context` is the owner's own number for this entry, handed back with its memory: that of a buffer, say.
    #[must_use]
    pub const fn bytes(wanted: u32, context: u64) -> Self {
        // `start` refuses what is too much; this only keeps it from being taken for "none".
        let wanted = if wanted == NO_BYTES { NO_BYTES - 1 } else { wanted };
        Self { context, wanted }
    }

    /// An operation that is whole with any result that is not negative: fsync, shutdown. Its result adds nothing to the
    /// bytes of the chain; [`ChainTable::result`](super::ChainTable::result) has it.
    #[must_use]
    pub const fn plain(context: u64) -> Self {
        Self { context, wanted: NO_BYTES }
    }

    /// The bytes that it should move, or `None` for a plain one.
    #[must_use]
    pub const fn wanted(&self) -> Option<u32> {
        if self.wanted == NO_BYTES { None } else { Some(self.wanted) }
    }

    /// The owner's own number.
    #[must_use]
    pub const fn context(&self) -> u64 {
        self.context
    }
}

/// Some of the entries of a chain, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntrySet(u64);

impl EntrySet {
    /// No entry.
    pub const EMPTY: Self = Self(0);

    /// A set of one bit for each entry, entry 0 the lowest.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The same, back.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `entry` is in it.
    #[must_use]
    pub const fn contains(self, entry: u16) -> bool {
        entry < ENTRIES_MAX && self.0 & bit(entry) != 0
    }

    /// How many entries.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The entries of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The entries in the order of the chain.
    #[must_use]
    pub const fn iter(self) -> Entries {
        Entries(self.0)
    }
}

impl IntoIterator for EntrySet {
    type Item = u16;
    type IntoIter = Entries;

    fn into_iter(self) -> Entries {
        self.iter()
    }
}

impl core::fmt::Debug for EntrySet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The indices in an [`EntrySet`], rising.
#[derive(Clone, Debug)]
pub struct Entries(u64);

impl Iterator for Entries {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let found = first(self.0)?;
        self.0 &= self.0.wrapping_sub(1);
        Some(found)
    }
}

/// The bit of an entry.
#[inline(always)]
pub(super) const fn bit(entry: u16) -> u64 {
    1_u64.wrapping_shl(widen(entry))
}

/// The lowest entry with a bit in `bits`.
#[inline]
pub(super) const fn first(bits: u64) -> Option<u16> {
    if bits == 0 { None } else { Some(narrow(bits.trailing_zeros())) }
}

/// An index as a wider number.
#[inline(always)]
pub(super) const fn widen(entry: u16) -> u32 {
    let [a, b] = entry.to_le_bytes();
    u32::from_le_bytes([a, b, 0, 0])
}

/// The low 16 bits.
#[inline(always)]
pub(super) const fn narrow(number: u32) -> u16 {
    let [a, b, _, _] = number.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The name of one chain: slot and generation. It outlives its chain, and is refused then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ChainId {
    slot: u32,
    generation: Generation,
}

impl ChainId {
    pub(super) const fn new(slot: u32, generation: Generation) -> Self {
        Self { slot, generation }
    }

    /// The `user_data` of an entry, to be put into its submission; `None` where no chain has such an entry.
    #[inline]
    #[must_use]
    pub const fn user_data(self, entry: u16) -> Option<WrId> {
        if entry >= ENTRIES_MAX {
            return None;
        }
        let slot = (self.slot << ENTRY_BITS) | widen(entry);
        Some(WrId::new(OpTag::Chain, self.generation, slot))
    }

    /// The chain and the entry that `user_data` names, or `None` where it is of another kind of operation. Whether that
    /// chain lives is the table's to say.
    #[inline]
    #[must_use]
    pub const fn of(user_data: u64) -> Option<(Self, u16)> {
        match WrId::from_raw(user_data).parts() {
            Some((OpTag::Chain, generation, _)) => {
                let place = low(user_data);
                Some((Self::new(place >> ENTRY_BITS, generation), narrow(place & ENTRY_MASK)))
            }
            _ => None,
        }
    }

    /// Which slot of the table, below its capacity.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> Generation {
        self.generation
    }
}
