//! One chain of entries, from when it is put together to when its last entry was reported.
//!
//! ```text
//!   Free --chain--> Building --submit--> Waiting --launch--> Running --last completion--> Ended --reported--> Free
//!                       | dropped            ^ short, interrupted, cut |                    ^
//!                       v                    '-------------------------'     cancelled -----'
//!                      Free
//! ```
//!
//! ```text
//!   entries   [ reported | ready to be reported | with the kernel, or to be submitted ]
//!              0 ..       reported ..            ready ..                         count
//! ```

use core::cell::Cell;

use super::{EntryError, EntryKind, OpId};
use crate::chain::ChainId;
use crate::id::Generation;
use crate::raw::loan::Posted;
use crate::table::{Key, NIL};

/// Where an op stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Free,
    Building,
    /// To be submitted.
    Waiting,
    /// The kernel has it.
    Running,
    /// Every entry has its result.
    Ended,
    /// As `Ended`, but the kernel may have its buffers for ever.
    Lost,
}

#[derive(Debug)]
pub(super) struct Op {
    pub(super) generation: Cell<Generation>,
    pub(super) phase: Cell<Phase>,
    pub(super) count: Cell<u16>,
    pub(super) reported: Cell<u16>,
    pub(super) ready: Cell<u16>,
    /// The entry that is the first of what the kernel has.
    pub(super) base: Cell<u16>,
    pub(super) chain: Cell<Option<ChainId>>,
    /// Submissions in a row that moved nothing.
    pub(super) idle_tries: Cell<u32>,
    pub(super) cancelled: Cell<bool>,
}

impl Op {
    pub(super) const fn free() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            phase: Cell::new(Phase::Free),
            count: Cell::new(0),
            reported: Cell::new(0),
            ready: Cell::new(0),
            base: Cell::new(0),
            chain: Cell::new(None),
            idle_tries: Cell::new(0),
            cancelled: Cell::new(false),
        }
    }

    pub(super) const fn id(&self, slot: u32) -> OpId {
        OpId(Key::new(slot, self.generation.get()))
    }

    pub(super) fn begin(&self) {
        self.phase.set(Phase::Building);
        for place in [&self.count, &self.reported, &self.ready, &self.base] {
            place.set(0);
        }
        self.chain.set(None);
        self.idle_tries.set(0);
        self.cancelled.set(false);
    }
}

/// One entry.
pub(super) struct Part<'m> {
    pub(super) kind: Cell<EntryKind>,
    pub(super) posted: Cell<Option<Posted<'m>>>,
    /// Row of its file.
    pub(super) file: Cell<u32>,
    pub(super) address: Cell<u64>,
    pub(super) offset: Cell<u64>,
    pub(super) length: Cell<u32>,
    /// Bytes that were moved, from the first on.
    pub(super) done: Cell<u32>,
    /// From which byte on it was last submitted.
    pub(super) from: Cell<u32>,
    /// What the kernel said of that.
    pub(super) answer: Cell<Option<i32>>,
    pub(super) context: Cell<u64>,
    pub(super) result: Cell<Result<(), EntryError>>,
}

impl core::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Part")
            .field("kind", &self.kind)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Part<'_> {
    pub(super) const fn free() -> Self {
        Self {
            kind: Cell::new(EntryKind::Sync),
            posted: Cell::new(None),
            file: Cell::new(NIL),
            address: Cell::new(0),
            offset: Cell::new(0),
            length: Cell::new(0),
            done: Cell::new(0),
            from: Cell::new(0),
            answer: Cell::new(None),
            context: Cell::new(0),
            result: Cell::new(Ok(())),
        }
    }

    /// Bytes that its submission asks for.
    pub(super) const fn wanted(&self) -> u32 {
        self.length.get().saturating_sub(self.from.get())
    }

    /// Whether the kernel has answered that all of it is done.
    pub(super) fn is_whole(&self) -> bool {
        match (self.kind.get(), self.answer.get()) {
            (_, None) => false,
            (EntryKind::Sync, Some(answer)) => answer >= 0,
            (EntryKind::Read | EntryKind::Write, Some(answer)) => {
                u32::try_from(answer) == Ok(self.wanted())
            }
        }
    }
}
