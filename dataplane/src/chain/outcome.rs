//! What the table answers: progress by CQE, and what became of a chain in the end.

use super::entry::{ChainId, EntrySet};
use crate::id::WrId;

/// What one CQE meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Of which chain it was.
    pub chain: ChainId,
    /// Of which entry.
    pub entry: u16,
    /// The owner's number of the chain, as [`ChainTable::start`](super::ChainTable::start) was given it.
    pub context: u64,
    /// `Some` where this was the last CQE of the entry: its memory is the owner's again. The number is the entry's
    /// own ([`Entry::context`](super::Entry::context)).
    pub returned: Option<u64>,
    /// Where the chain stands now.
    pub event: ChainEvent,
}

/// Where a chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainEvent {
    /// Operations are under way.
    Pending,
    /// Every operation has its result; notifications of zero-copy sends are still to come. Said with every CQE from then on.
    AllOpsComplete,
    /// The last CQE of the last entry. Said once. The chain stays, for its results to be looked at, until it is
    /// [taken](super::ChainTable::take).
    Complete {
        /// Bytes that its entries moved, also where it broke.
        bytes: u64,
        /// Whether every entry is whole, and if not, which broke the chain and why.
        ///
        /// # Errors
        /// The cause.
        result: Result<(), Cause>,
    },
}

/// What broke a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cause {
    /// The entry with which it began.
    pub entry: u16,
    /// What happened to it.
    pub why: Why,
}

impl Cause {
    /// The number of the error, where there was one.
    #[must_use]
    pub const fn errno(&self) -> Option<i32> {
        match self.why {
            Why::Errno(errno) => Some(errno),
            Why::Short { .. } | Why::Overrun { .. } => None,
        }
    }
}

/// What happened to an entry that is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// It failed with this error (positive, as in `errno`).
    Errno(i32),
    /// It moved fewer bytes than it should.
    Short {
        /// So many.
        bytes: u32,
    },
    /// The kernel says that it moved more than was asked for: the entry was not described as it was submitted.
    Overrun {
        /// So many.
        bytes: u32,
    },
}

impl core::fmt::Display for Cause {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.why {
            Why::Errno(errno) => write!(f, "entry {} failed with errno {errno}", self.entry),
            Why::Short { bytes } => write!(f, "entry {} was short: {bytes} bytes", self.entry),
            Why::Overrun { bytes } => write!(
                f,
                "entry {} moved {bytes} bytes, more than the chain was started with: say what is submitted",
                self.entry
            ),
        }
    }
}

impl core::error::Error for Cause {}

/// What of a chain has not been done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remains {
    /// Nothing: every entry is whole.
    Nothing,
    /// All that lies before this byte was done, and nothing behind it. Submit from here.
    From {
        /// The first entry that is not whole.
        entry: u16,
        /// Bytes of it that were moved.
        byte: u32,
    },
    /// As before, but entries behind it did something all the same: links that a short result does not break, or hard links. In a
    /// stream these bytes are out of place, and the connection is lost. Of writes with positions of their own, those need not be
    /// repeated.
    Hole {
        /// The first entry that is not whole.
        entry: u16,
        /// Bytes of it that were moved.
        byte: u32,
        /// Later entries that moved bytes, or that ran and expected none.
        beyond: EntrySet,
    },
    /// The kernel reports more than was asked for, so nothing can be said.
    Unknown,
}

/// A chain that has ended, taken out of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainOutcome {
    /// The owner's number of the chain.
    pub context: u64,
    /// How many entries it had.
    pub entries: u16,
    /// Bytes that its entries moved.
    pub bytes: u64,
    /// Whether every entry is whole, and if not, which broke the chain and why.
    ///
    /// # Errors
    /// The cause.
    pub result: Result<(), Cause>,
    /// From where to go on.
    pub remains: Remains,
    /// Whether [`cancel`](super::ChainTable::cancel) was called while operations were under way.
    pub was_cancelled: bool,
}

/// What the kernel has not said yet about a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outstanding {
    /// Which chain.
    pub chain: ChainId,
    /// Entries whose operation is under way: what a request to cancel can hit.
    pub operations: EntrySet,
    /// Entries whose notification is to come. Nothing hurries it: the network has the pages.
    pub notifications: EntrySet,
}

impl Outstanding {
    /// The entries whose memory the kernel may read or write.
    #[must_use]
    pub const fn held(&self) -> EntrySet {
        self.operations.union(self.notifications)
    }

    /// The `user_data` of each operation under way, in the order of the chain: what `IORING_OP_ASYNC_CANCEL` looks for. Only the
    /// entry that runs is found; the cancelled one takes those behind it along, and they are reported not found or
    /// running (`ENOENT`, `EALREADY`).
    pub fn user_data(&self) -> impl Iterator<Item = WrId> + use<> {
        let chain = self.chain;
        self.operations.iter().filter_map(move |entry| chain.user_data(entry))
    }
}

/// A chain that was ended by force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abandoned {
    /// The owner's number of the chain.
    pub context: u64,
    /// Bytes that are known to have been moved; operations under way may have moved more.
    pub bytes: u64,
    /// What the kernel had not said. The memory of [`Outstanding::held`] is not the owner's.
    pub outstanding: Outstanding,
}

/// What a table has seen since it was placed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ChainCounts {
    /// Chains started.
    pub started: u64,
    /// Chains whose last CQE came.
    pub completed: u64,
    /// Chains ended by force, without their last CQE.
    pub abandoned: u64,
    /// Notifications that said that the bytes were copied after all.
    pub copied: u64,
    /// Chains that completed with a result of more bytes than were asked for.
    pub overruns: u64,
}
