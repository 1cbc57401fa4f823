//! Identities that survive a round trip through foreign hands.
//!
//! ```text
//!  WrId      63        56 55                 32 31                          0
//!           +------------+---------------------+-----------------------------+
//!           |   op tag   |     generation      |            slot             |
//!           +------------+---------------------+-----------------------------+
//! ```
//!
//! The same word serves as `wr_id` of a work request and as `user_data` of a submission. A slot that is reused has
//! another [`Generation`], so that a late completion is seen to be late and is never taken for its successor's.

use core::fmt;
use core::num::{NonZeroU32, NonZeroU64};

pub use spinwire_layouts::shm::NameError;
use spinwire_layouts::shm::{NAME_BYTES, pack_name, unpack_name};
use spinwire_layouts::word::{high, join, low};

/// How often a slot was reused: 24 bits, never zero, so that an all-zero word names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Generation(NonZeroU32);

/// Bits in a generation.
pub const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl Generation {
    /// The generation of a slot that was never used before.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The generation held in the low 24 bits of `raw`, or `None` for zero.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw & GENERATION_MASK) {
            None => None,
            Some(some) => Some(Self(some)),
        }
    }

    /// The 24-bit number.
    #[must_use]
    #[inline(always)]
    pub const fn as_raw(self) -> u32 {
        self.0.get()
    }

    /// The generation of the next use of the slot; after 2^24 - 1 comes 1.
    #[must_use]
    pub const fn next(self) -> Self {
        match Self::from_raw(self.as_raw().wrapping_add(1)) {
            None => Self::FIRST,
            Some(next) => next,
        }
    }
}

/// What kind of operation a [`WrId`] stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum OpTag {
    /// A send, tagged or not.
    Send = 1,
    /// A receive, tagged or not.
    Recv = 2,
    /// An entry of a chain of linked submissions ([`chain`](crate::chain)).
    Chain = 3,
    /// Accepting connections on a listener.
    Accept = 4,
    /// Connecting a stream.
    Connect = 5,
    /// Receiving from a stream.
    Receive = 6,
    /// Shutting one direction of a stream.
    Shutdown = 7,
    /// Resetting a stream.
    Disconnect = 8,
    /// Closing a descriptor.
    Close = 9,
    /// An entry of a chain of reads, writes and syncs ([`file`](crate::file)).
    File = 10,
    /// Something on the send queue of a path of a virtual queue pair ([`vqp`](crate::vqp)).
    VirtualSend = 11,
    /// Something on the receive queue of such a path.
    VirtualRecv = 12,
    /// A write to memory of a peer.
    Write = 13,
    /// A read from memory of a peer.
    Read = 14,
    /// An atomic operation on memory of a peer.
    Atomic = 15,
    /// Memory that peers are let into.
    Expose = 16,
}

impl OpTag {
    const fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Send),
            2 => Some(Self::Recv),
            3 => Some(Self::Chain),
            4 => Some(Self::Accept),
            5 => Some(Self::Connect),
            6 => Some(Self::Receive),
            7 => Some(Self::Shutdown),
            8 => Some(Self::Disconnect),
            9 => Some(Self::Close),
            10 => Some(Self::File),
            11 => Some(Self::VirtualSend),
            12 => Some(Self::VirtualRecv),
            13 => Some(Self::Write),
            14 => Some(Self::Read),
            15 => Some(Self::Atomic),
            16 => Some(Self::Expose),
            _ => None,
        }
    }

    pub(crate) const fn as_raw(self) -> u64 {
        match self {
            Self::Send => 1,
            Self::Recv => 2,
            Self::Chain => 3,
            Self::Accept => 4,
            Self::Connect => 5,
            Self::Receive => 6,
            Self::Shutdown => 7,
            Self::Disconnect => 8,
            Self::Close => 9,
            Self::File => 10,
            Self::VirtualSend => 11,
            Self::VirtualRecv => 12,
            Self::Write => 13,
            Self::Read => 14,
            Self::Atomic => 15,
            Self::Expose => 16,
        }
    }
}

/// The identity of a posted operation: operation tag 8 | generation 24 | slot 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct WrId(u64);

impl WrId {
    /// Packs the three parts.
    #[must_use]
    #[inline]
    #[expect(clippy::as_conversions, reason = "u32 to u64 widens; `From` is not const")]
    pub const fn new(op: OpTag, generation: Generation, slot: u32) -> Self {
        Self((op.as_raw() << 56) | ((generation.as_raw() as u64) << 32) | slot as u64)
    }

    /// The word as a device carries it.
    #[must_use]
    #[inline]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Takes back a word that a device carried. Any word is accepted here; [`WrId::parts`] tells whether it means
    /// anything.
    #[must_use]
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The parts, or `None` where the word could not have come from [`WrId::new`].
    #[must_use]
    #[inline]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the fields are cut out of the word by shift and mask, which is what is meant"
    )]
    pub const fn parts(self) -> Option<(OpTag, Generation, u32)> {
        let generation = Generation::from_raw((self.0 >> 32) as u32);
        match (OpTag::from_raw(self.0 >> 56), generation) {
            (Some(op), Some(generation)) => Some((op, generation, self.0 as u32)),
            _ => None,
        }
    }
}

impl fmt::Debug for WrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Some((op, generation, slot)) => {
                write!(f, "WrId({op:?} slot {slot} generation {})", generation.as_raw())
            }
            None => write!(f, "WrId({:#018x})", self.0),
        }
    }
}

/// A peer, as this endpoint's address table knows it: slot and generation. Address 0 is as good as any other.
///
/// One word, generation 32 | slot 32, so that an address (or none) is compared, stored and loaded whole: a load that spans
/// two younger stores waits until both have left the store buffer, behind every line that other CPUs still hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addr(NonZeroU64);

impl Addr {
    /// The address in `slot` of its `generation`.
    #[must_use]
    #[inline(always)]
    pub const fn new(slot: u32, generation: Generation) -> Self {
        match NonZeroU64::new(join(slot, generation.as_raw())) {
            Some(word) => Self(word),
            // A generation is never zero.
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Which row of the address table.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        low(self.0.get())
    }

    /// Which use of that row.
    #[must_use]
    #[inline(always)]
    pub const fn generation(self) -> Generation {
        match Generation::from_raw(high(self.0.get())) {
            Some(generation) => generation,
            None => Generation::FIRST,
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr({self})")
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot(), self.generation().as_raw())
    }
}

/// The name of an endpoint or segment: 1 to 63 bytes of `[A-Za-z0-9._-]`, not starting with a dot.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    field: [u8; NAME_BYTES],
}

impl Name {
    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with it and where.
    pub fn new(text: &str) -> Result<Self, NameError> {
        Ok(Self { field: pack_name(text)? })
    }

    /// A name out of a 64-byte field that was copied from shared memory.
    ///
    /// # Errors
    /// [`NameError`] where the field holds no valid name.
    pub fn from_field(field: &[u8; NAME_BYTES]) -> Result<Self, NameError> {
        unpack_name(field)?;
        Ok(Self { field: *field })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        unpack_name(&self.field).unwrap_or_default()
    }

    /// The text padded with zero bytes to the width of a shared field.
    #[must_use]
    pub const fn as_field(&self) -> &[u8; NAME_BYTES] {
        &self.field
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_parts_that_it_was_packed_from() {
        let all = [
            (OpTag::Send, 1_u64),
            (OpTag::Recv, 2),
            (OpTag::Chain, 3),
            (OpTag::Accept, 4),
            (OpTag::Connect, 5),
            (OpTag::Receive, 6),
            (OpTag::Shutdown, 7),
            (OpTag::Disconnect, 8),
            (OpTag::Close, 9),
            (OpTag::File, 10),
            (OpTag::VirtualSend, 11),
            (OpTag::VirtualRecv, 12),
            (OpTag::Write, 13),
            (OpTag::Read, 14),
            (OpTag::Atomic, 15),
            (OpTag::Expose, 16),
        ];
        for (op, tag) in all {
            for raw in [1, 2, 0x12_3456, 0xff_ffff] {
                let generation = Generation::from_raw(raw).unwrap();
                for slot in [0, 1, 0x8000_0000, u32::MAX] {
                    let word = WrId::new(op, generation, slot);
                    assert_eq!(word.as_raw(), tag << 56 | u64::from(raw) << 32 | u64::from(slot));
                    assert_eq!(WrId::from_raw(word.as_raw()).parts(), Some((op, generation, slot)));
                }
            }
        }
    }

    #[test]
    fn a_word_of_no_known_operation_or_of_generation_zero_means_nothing() {
        for tag in (0..=255_u64).filter(|tag| !(1..=16).contains(tag)) {
            assert_eq!(WrId::from_raw(tag << 56 | 1 << 32).parts(), None, "tag {tag}");
        }
        for tag in 1..=16_u64 {
            assert_eq!(WrId::from_raw(tag << 56 | 0xffff_ffff).parts(), None);
        }
    }
}
