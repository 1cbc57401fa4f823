//! One-sided operations: reads, writes and atomics on memory that a peer has exposed.
//!
//! ```text
//!   owner       expose(loan, access) -> RemoteRegion { address, key, bytes, access }     plain data
//!                                            |  by a message, or however two programs agree
//!   initiator   region.place(offset, length) -> RemotePlace { address, key }
//!               post_write | post_read | post_fetch_add | post_compare_swap  --> completion with the loan
//! ```
//!
//! The owner hears of none of it. What a provider promises that has [`Caps::RMA`](super::Caps::RMA) or
//! [`Caps::ATOMIC`](super::Caps::ATOMIC):
//!
//! 1. An operation is done as a whole or not at all where range, rights and key are wrong: it ends with
//!    [`Status::RemoteAccess`](super::Status::RemoteAccess), and the memory is untouched. What else fails may have been done in part.
//! 2. What a completed write has written is there before the payload of a message that is posted to the same peer afterwards. Other
//!    order there is none: not between reads and writes that are under way at once, and not against messages posted before.
//! 3. Atomics are atomic against each other through one endpoint of the owner. Against the owner's own stores, and through other
//!    devices, they are what the device says.
//! 4. A key that was withdrawn lets nobody in any more.
//!
//! Devices have them, and the loopback hub. [`shm`](super::shm), [`tcp`](super::tcp) and [`udp`](super::udp) refuse them: there the owner would have to
//! take part, in its turns, and a message in disguise is none of these. Memory that processes share beside the messages is a [pool](crate::pool).

use super::Sge;
use crate::error::Misuse;
use crate::id::{Addr, WrId};
use spinwire_layouts::word::from_usize;

/// What others may do with exposed memory: a set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read it.
    pub const READ: Self = Self(1);
    /// Write to it.
    pub const WRITE: Self = Self(2);
    /// Do atomic operations on it.
    pub const ATOMIC: Self = Self(4);
    /// All of that.
    pub const ALL: Self = Self(7);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `wanted` are in this set.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The set as a number, for whoever sends it.
    #[must_use]
    pub const fn as_raw(self) -> u8 {
        self.0
    }

    /// The set of that number; `None` where it has a right that is unknown here.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        if raw & !Self::ALL.0 == 0 { Some(Self(raw)) } else { None }
    }
}

impl core::fmt::Debug for Access {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let named = [(Self::READ, "read"), (Self::WRITE, "write"), (Self::ATOMIC, "atomic")];
        f.debug_set()
            .entries(named.iter().filter(|(right, _)| self.has(*right)).map(|n| n.1))
            .finish()
    }
}

/// A place in the memory of a peer. Plain data; the peer's provider checks it, whatever it says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RemotePlace {
    /// Where it begins, as the peer's provider counts.
    pub address: u64,
    /// What lets one into it.
    pub key: u64,
}

/// Memory that a peer has exposed. Plain data, to be sent to whoever is to use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RemoteRegion {
    /// Where it begins, as its owner's provider counts: of some that is 0, of others an address of the owner.
    pub address: u64,
    /// What lets one into it. A 64-bit word, as `fi_mr_key(3)` has it; of verbs devices the low half is the `rkey`.
    pub key: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What may be done with it.
    pub access: Access,
}

impl RemoteRegion {
    /// Bytes of one that is sent.
    pub const WIRE_BYTES: usize = 32;

    /// The place of `length` bytes from `offset` on.
    ///
    /// # Errors
    /// `BadRange` where they are not inside. (The owner's provider checks again.)
    pub fn place(&self, offset: u64, length: usize) -> Result<RemotePlace, Misuse> {
        let end = offset.checked_add(from_usize(length)).ok_or(Misuse::BadRange)?;
        let address = self.address.checked_add(offset).ok_or(Misuse::BadRange)?;
        if end > self.bytes {
            return Err(Misuse::BadRange);
        }
        Ok(RemotePlace { address, key: self.key })
    }

    /// The region as bytes: address, key, bytes, access, each a 64-bit little-endian word.
    #[must_use]
    pub fn to_wire(&self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [0; Self::WIRE_BYTES];
        let words = [self.address, self.key, self.bytes, u64::from(self.access.as_raw())];
        for (place, word) in wire.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        wire
    }

    /// A region out of bytes. Nothing that they say is believed before the owner's provider has checked it.
    ///
    /// # Errors
    /// `BadRange` where they are not as many as [`RemoteRegion::WIRE_BYTES`], or name a right that is unknown here.
    pub fn from_wire(wire: &[u8]) -> Result<Self, Misuse> {
        let (&[address, key, bytes, access], []) = wire.as_chunks::<8>() else {
            return Err(Misuse::BadRange);
        };
        let [address, key, bytes, access] = [address, key, bytes, access].map(u64::from_le_bytes);
        let access = u8::try_from(access).ok().and_then(Access::from_raw);
        Ok(Self { address, key, bytes, access: access.ok_or(Misuse::BadRange)? })
    }
}

/// What to do with memory of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OneSided {
    /// Write the local range there.
    Write,
    /// Read from there into the local range.
    Read,
    /// Add to the 8 bytes there, a little-endian number, wrapping; what they were before goes to the local range.
    FetchAdd(u64),
    /// Replace the 8 bytes there if they are as expected; what they were before goes to the local range.
    CompareSwap {
        /// What must be there.
        expected: u64,
        /// What is put there.
        swap: u64,
    },
}

/// Bytes that an atomic operation is about. They begin at a multiple of as many.
pub const ATOMIC_BYTES: usize = 8;

impl OneSided {
    /// The right that it takes.
    #[must_use]
    pub const fn access(self) -> Access {
        match self {
            Self::Write => Access::WRITE,
            Self::Read => Access::READ,
            Self::FetchAdd(_) | Self::CompareSwap { .. } => Access::ATOMIC,
        }
    }

    /// Whether it is an atomic operation.
    #[must_use]
    pub const fn is_atomic(self) -> bool {
        matches!(self, Self::FetchAdd(_) | Self::CompareSwap { .. })
    }

    /// Of an atomic operation: what is there afterwards, where `before` was there.
    #[must_use]
    pub const fn applied_to(self, before: u64) -> u64 {
        match self {
            Self::FetchAdd(more) => before.wrapping_add(more),
            Self::CompareSwap { expected, swap } if before == expected => swap,
            Self::CompareSwap { .. } | Self::Write | Self::Read => before,
        }
    }
}

/// A one-sided request. Of an atomic operation the local range has [`ATOMIC_BYTES`].
#[derive(Clone, Copy, Debug)]
pub struct OneSidedWr {
    /// The id of the completion: a [`Cqe::without_message`](super::Cqe::without_message), with the number of bytes done as its length.
    pub wr_id: WrId,
    /// Whose memory.
    pub to: Addr,
    /// What to do.
    pub op: OneSided,
    /// Local memory, the provider's until the completion.
    pub local: Sge,
    /// Where there.
    pub remote: RemotePlace,
}

/// A request to let others into local memory.
#[derive(Clone, Copy, Debug)]
pub struct ExposeWr {
    /// What names it for [`Provider::withdraw`](super::Provider::withdraw).
    pub wr_id: WrId,
    /// The memory, the provider's until it is withdrawn.
    pub sge: Sge,
    /// What others may do with it.
    pub access: Access,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_comes_back_from_its_bytes_and_wrong_ones_are_refused() {
        let access = Access::READ.with(Access::ATOMIC);
        let region = RemoteRegion { address: u64::MAX - 9, key: 0x1_0000_0002, bytes: 8, access };
        let wire = region.to_wire();
        assert_eq!(RemoteRegion::from_wire(&wire), Ok(region));
        assert_eq!(RemoteRegion::from_wire(&wire[..31]), Err(Misuse::BadRange));
        assert_eq!(RemoteRegion::from_wire(&[0; 40]), Err(Misuse::BadRange));
        let mut unknown = wire;
        unknown[24] = 8;
        assert_eq!(RemoteRegion::from_wire(&unknown), Err(Misuse::BadRange));
        unknown[24..].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(RemoteRegion::from_wire(&unknown), Err(Misuse::BadRange));
    }

    #[test]
    fn a_place_is_inside_of_its_region() {
        let region = RemoteRegion { address: 1000, key: 5, bytes: 64, access: Access::ALL };
        assert_eq!(region.place(0, 64), Ok(RemotePlace { address: 1000, key: 5 }));
        assert_eq!(region.place(64, 0), Ok(RemotePlace { address: 1064, key: 5 }));
        for (offset, length) in [(0, 65), (64, 1), (u64::MAX, 1), (1, usize::MAX)] {
            assert_eq!(region.place(offset, length), Err(Misuse::BadRange));
        }
        let high = RemoteRegion { address: u64::MAX, ..region };
        assert_eq!(high.place(1, 1), Err(Misuse::BadRange));
    }

    #[test]
    fn atomics_say_what_is_there_afterwards() {
        assert_eq!(OneSided::FetchAdd(3).applied_to(u64::MAX), 2);
        assert_eq!(OneSided::CompareSwap { expected: 7, swap: 1 }.applied_to(7), 1);
        assert_eq!(OneSided::CompareSwap { expected: 7, swap: 1 }.applied_to(8), 8);
    }
}
