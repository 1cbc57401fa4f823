//! What the table refuses: CQEs that fit nothing, calls that cannot be right, and a size that it cannot have.

use core::fmt;

use super::entry::{CHAINS_MAX, ENTRIES_MAX};
use crate::error::{Misuse, PostError, Retry};
use crate::raw::place::Exhausted;

/// A CQE that fits nothing. It was counted and changed nothing; above all, no memory comes back by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChainFault {
    /// Its `user_data` is not that of a chain, or names a slot or a generation that was never given out.
    Unknown,
    /// Its chain has ended; another one may live in the slot.
    Stale,
    /// Its chain lives, but has no such entry.
    NoEntry,
    /// The operation has its result already.
    Duplicate,
    /// A notification before the CQE of its operation, which the kernel does not post.
    EarlyNotification,
    /// A notification that the result of its operation did not announce (no `F_MORE`). The kernel posts such ones, for
    /// zero-copy sends that never ran: cancelled behind a broken link, or refused as they were submitted.
    Unannounced,
    /// A second notification of one operation: the count of those to come would go below zero.
    Underflow,
    /// A notification that announces another CQE, and so is not the last.
    Endless,
}

impl ChainFault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Stale,
        Self::NoEntry,
        Self::Duplicate,
        Self::EarlyNotification,
        Self::Unannounced,
        Self::Underflow,
        Self::Endless,
    ];

    /// Whether a correct kernel sends such CQEs now and then: late ones, and notifications of what never ran. They are to be passed
    /// over. All others say that somebody is wrong about a chain.
    #[must_use]
    pub const fn is_expected(self) -> bool {
        matches!(self, Self::Stale | Self::Unannounced)
    }

    /// Its place in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Stale => 1,
            Self::NoEntry => 2,
            Self::Duplicate => 3,
            Self::EarlyNotification => 4,
            Self::Unannounced => 5,
            Self::Underflow => 6,
            Self::Endless => 7,
        }
    }
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown completion: no chain was ever submitted under that user_data",
            Self::Stale => "stale completion: its chain has ended",
            Self::NoEntry => "completion of an entry that its chain does not have",
            Self::Duplicate => {
                "a second completion of one operation: submit no multishot in a chain"
            }
            Self::EarlyNotification => "a notification before the completion of its operation",
            Self::Unannounced => "a notification that was not announced: of a send that never ran",
            Self::Underflow => "a second notification of one operation",
            Self::Endless => "a notification that announces another one",
        })
    }
}

impl core::error::Error for ChainFault {}

/// A call that was refused. It was counted and changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChainError {
    /// Every slot has a chain. The one that helps itself: take chains that are complete, and try again.
    Full,
    /// The slot that was asked for has a chain.
    Occupied,
    /// There is no such slot.
    NoSlot,
    /// A chain has one entry at least.
    NoEntries,
    /// More entries than the table was placed for.
    TooManyEntries,
    /// An entry asks for more bytes than its result could report, 2^31 - 1.
    TooManyBytes,
    /// No chain was ever given this id.
    Unknown,
    /// The chain has ended; another one may live in its slot.
    Stale,
    /// The chain is not complete: the kernel may hold memory of it.
    Pending,
    /// The chain has no such entry.
    NoEntry,
}

impl ChainError {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Full,
        Self::Occupied,
        Self::NoSlot,
        Self::NoEntries,
        Self::TooManyEntries,
        Self::TooManyBytes,
        Self::Unknown,
        Self::Stale,
        Self::Pending,
        Self::NoEntry,
    ];

    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retry(self) -> bool {
        matches!(self, Self::Full | Self::Occupied | Self::Pending)
    }

    /// Its place in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Full => 0,
            Self::Occupied => 1,
            Self::NoSlot => 2,
            Self::NoEntries => 3,
            Self::TooManyEntries => 4,
            Self::TooManyBytes => 5,
            Self::Unknown => 6,
            Self::Stale => 7,
            Self::Pending => 8,
            Self::NoEntry => 9,
        }
    }
}

impl From<ChainError> for PostError {
    /// What a post that starts a chain answers: a retry where there is no slot, else misuse.
    fn from(value: ChainError) -> Self {
        match value {
            ChainError::Full | ChainError::Occupied | ChainError::Pending => {
                Self::Retry(Retry::NoSlot)
            }
            ChainError::TooManyBytes | ChainError::TooManyEntries => Self::Misuse(Misuse::TooLong),
            ChainError::NoSlot
            | ChainError::NoEntries
            | ChainError::Unknown
            | ChainError::Stale
            | ChainError::NoEntry => Self::Misuse(Misuse::Unsupported),
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "chain table full: take chains that are complete, or place it with more",
            Self::Occupied => "slot occupied: its chain has not been taken",
            Self::NoSlot => "no such slot: it is beyond the chains that the table was placed for",
            Self::NoEntries => "a chain without entries: there is nothing to submit",
            Self::TooManyEntries => {
                "too many entries: split the chain, or place the table with more entries_max"
            }
            Self::TooManyBytes => {
                "entry too long: at most 2147483647 bytes, as its result is an i32"
            }
            Self::Unknown => "unknown chain: use an id with the table that issued it",
            Self::Stale => "stale chain: it was taken or abandoned before",
            Self::Pending => "chain not complete: the kernel may hold its memory; wait, or abandon",
            Self::NoEntry => "no such entry in this chain",
        })
    }
}

impl core::error::Error for ChainError {}

/// Why a table was not placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The arena has too little room left.
    Exhausted(Exhausted),
    /// `chains` is over [`CHAINS_MAX`].
    Chains(u32),
    /// `entries_max` is 0 or over [`ENTRIES_MAX`].
    EntriesMax(u16),
}

impl From<Exhausted> for PlaceError {
    fn from(value: Exhausted) -> Self {
        Self::Exhausted(value)
    }
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted(why) => why.fmt(f),
            Self::Chains(chains) => {
                write!(f, "chains: {chains} is over {CHAINS_MAX}; ask for fewer")
            }
            Self::EntriesMax(entries) => {
                write!(f, "entries_max: {entries} is not within 1 to {ENTRIES_MAX}; change it")
            }
        }
    }
}

impl core::error::Error for PlaceError {}
