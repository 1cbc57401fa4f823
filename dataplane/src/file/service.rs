//! The tables of files and operations, and what callers call.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{to_usize, widen};

use super::op::{Op, Part, Phase};
use super::sequence::{FileChain, index_of};
use super::{
    ENTRIES_MAX, EntryError, EntryKind, FileCompletion, FileConfig, FileCounters, FileId, FileRef,
    FileShape, OpId,
};
use crate::chain::{ChainConfig, ChainTable};
use crate::error::{Misuse, PostError, Refused, Retry};
use crate::id::{Generation, OpTag, WrId};
use crate::poll::{Budget, Outcome, Poll};
use crate::raw::loan::{Loan, LoanPool};
use crate::raw::place::Exhausted;
use crate::table::{Fifos, Key, wide};
use crate::time::Instant;
use crate::uring::{Enter, Ring};

/// Why a service could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The arena of the ring is too small.
    Arena(Exhausted),
    /// The table of chains.
    Chains(crate::chain::PlaceError),
    /// No chain can have so many entries.
    EntriesMax {
        /// [`FileConfig::entries_max`].
        asked: u16,
        /// By [`ENTRIES_MAX`] and the entries of the ring.
        most: u16,
    },
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(e) => e.fmt(f),
            Self::Chains(e) => e.fmt(f),
            Self::EntriesMax { asked, most } => {
                write!(f, "entries_max: {asked} is not within 1 to {most}; change it")
            }
        }
    }
}

impl core::error::Error for PlaceError {}

impl From<Exhausted> for PlaceError {
    fn from(value: Exhausted) -> Self {
        Self::Arena(value)
    }
}

/// The one list of each [`Fifos`] here.
pub(super) const LIST: u32 = 0;

/// One file.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) generation: Cell<Generation>,
    pub(super) file: Cell<Option<FileRef>>,
    pub(super) shape: Cell<FileShape>,
    /// Entries that name it.
    pub(super) entries: Cell<u32>,
    /// Nothing new may name it.
    pub(super) removed: Cell<bool>,
}

/// Files of one ring, for one thread. See the [module](super).
#[derive(Debug)]
pub struct Files<'m, E: Enter> {
    ring: &'m Ring<'m, E>,
    pub(super) config: FileConfig,
    rows: &'m [Row],
    free_rows: Fifos<'m>,
    ops: &'m [Op],
    free_ops: Fifos<'m>,
    /// Ops to be submitted or cancelled.
    pub(super) wanting: Fifos<'m>,
    /// Ops with entries to be reported.
    pub(super) noted: Fifos<'m>,
    parts: &'m [Part<'m>],
    /// Power of two of entries of each op.
    shift: u32,
    pub(super) chains: ChainTable<'m>,
    buffers: &'m LoanPool<'m>,
    pub(super) lost: Cell<bool>,
    pub(super) counters: Cell<FileCounters>,
}

impl FileConfig {
    /// Bytes that a service of this kind takes in the arena of its ring, with some to spare for alignment.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let entries = usize::from(self.entries_max.next_power_of_two());
        let per_op = size_of::<Op>()
            .saturating_add(entries.saturating_mul(size_of::<Part<'_>>().saturating_add(16)))
            .saturating_add(128 + 4 * 16);
        let per_buffer = self.buffers.1.max(1).next_multiple_of(4096).saturating_add(16);
        [
            wide(self.files).saturating_mul(size_of::<Row>().saturating_add(16)),
            wide(self.operations).saturating_mul(per_op),
            wide(self.buffers.0).saturating_mul(per_buffer),
            16 << 10,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

impl<'m, E: Enter> Files<'m, E> {
    /// Places a service in the arena of `ring`.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn place(ring: &'m Ring<'m, E>, config: &FileConfig) -> Result<Self, PlaceError> {
        let bump = ring.arena().bump();
        let most = u16::try_from(ring.entries().0).unwrap_or(u16::MAX).min(ENTRIES_MAX);
        let entries_max = config.entries_max;
        if entries_max == 0 || entries_max > most {
            return Err(PlaceError::EntriesMax { asked: entries_max, most });
        }
        let shift = entries_max.next_power_of_two().trailing_zeros();
        let list = |count| -> Result<Fifos<'m>, Exhausted> {
            let list = Fifos::place(bump, count, 1)?;
            for slot in 0..count {
                let _empty_before = list.push_back(LIST, slot);
            }
            Ok(list)
        };
        let operations = config.operations;
        let config_of_chains = ChainConfig { chains: operations, entries_max };
        Ok(Self {
            ring,
            config: *config,
            rows: bump.slice_with(wide(config.files), |_| Row {
                generation: Cell::new(Generation::FIRST),
                file: Cell::new(None),
                shape: Cell::new(FileShape::BUFFERED),
                entries: Cell::new(0),
                removed: Cell::new(false),
            })?,
            free_rows: list(config.files)?,
            ops: bump.slice_with(wide(operations), |_| Op::free())?,
            free_ops: list(operations)?,
            wanting: Fifos::place(bump, operations, 1)?,
            noted: Fifos::place(bump, operations, 1)?,
            parts: bump.slice_with(wide(operations).wrapping_shl(shift), |_| Part::free())?,
            shift,
            chains: ChainTable::place(bump, config_of_chains).map_err(PlaceError::Chains)?,
            buffers: LoanPool::place_pages(bump, config.buffers.0, config.buffers.1)?,
            lost: Cell::new(false),
            counters: {
                // The last: nothing can fail any more.
                ring.joined();
                Cell::new(FileCounters::default())
            },
        })
    }

    /// The ring below.
    #[must_use]
    pub const fn ring(&self) -> &'m Ring<'m, E> {
        self.ring
    }

    /// What it was placed for.
    #[must_use]
    pub const fn config(&self) -> &FileConfig {
        &self.config
    }

    /// What it has seen and done.
    #[must_use]
    pub const fn counters(&self) -> FileCounters {
        self.counters.get()
    }

    /// A buffer to fill and write, or to read into, at the start of a page; `None` where all are out.
    #[must_use]
    pub fn lend(&self) -> Option<Loan<'m>> {
        self.buffers.lend()
    }

    /// Chains and single operations that are not over, or whose last entry was not polled.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.config.operations.saturating_sub(self.free_ops.len(LIST))
    }

    /// Takes in a file.
    ///
    /// # Errors
    /// `NoSlot` where there is no row; `Unsupported` for an alignment that is no power of two.
    pub fn add(&self, file: FileRef, shape: FileShape) -> Result<FileId, PostError> {
        if !shape.offset_align.is_power_of_two() || !shape.memory_align.is_power_of_two() {
            return Err(Misuse::Unsupported.into());
        }
        let slot = self.free_rows.pop_front(LIST).ok_or(Retry::NoSlot)?;
        let row = self.row_at(slot).ok_or(Retry::NoSlot)?;
        row.file.set(Some(file));
        row.shape.set(shape);
        row.entries.set(0);
        row.removed.set(false);
        Ok(FileId(Key::new(slot, row.generation.get())))
    }

    /// Forgets a file. What was submitted for it goes on: its descriptor stays open until the last completion of it was polled.
    ///
    /// # Errors
    /// `UnknownFile`.
    pub fn remove(&self, file: FileId) -> Result<(), Misuse> {
        let row = self.row(file)?;
        row.removed.set(true);
        row.generation.set(row.generation.get().next());
        if row.entries.get() == 0 {
            self.free_row(file.slot(), row);
        }
        Ok(())
    }

    fn free_row(&self, slot: u32, row: &Row) {
        row.file.set(None);
        let _in_no_list = self.free_rows.push_front(LIST, slot);
    }

    /// Writes what `loan` holds at byte `offset` of `file`: a chain of one.
    ///
    /// # Errors
    /// The loan comes back: `NoSlot` where too much is under way, else as [`FileChain::write`].
    pub fn write(
        &self,
        file: FileId,
        offset: u64,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<OpId, Refused<Loan<'m>>> {
        let mut chain = match self.chain() {
            Ok(chain) => chain,
            Err(error) => return Err(Refused::new(error, loan)),
        };
        chain.write(file, offset, loan, context)?;
        Ok(self.submitted(chain))
    }

    /// Reads `length` bytes from byte `offset` of `file` into `loan`.
    ///
    /// # Errors
    /// The loan comes back: `NoSlot` where too much is under way, else as [`FileChain::read`].
    pub fn read(
        &self,
        file: FileId,
        (offset, length): (u64, usize),
        loan: Loan<'m>,
        context: u64,
    ) -> Result<OpId, Refused<Loan<'m>>> {
        let mut chain = match self.chain() {
            Ok(chain) => chain,
            Err(error) => return Err(Refused::new(error, loan)),
        };
        chain.read(file, (offset, length), loan, context)?;
        Ok(self.submitted(chain))
    }

    /// Brings the data of `file` to the disk, as far as it was written by writes whose completion has come.
    ///
    /// # Errors
    /// `NoSlot` where too much is under way; `UnknownFile`.
    pub fn sync(&self, file: FileId, context: u64) -> Result<OpId, PostError> {
        let mut chain = self.chain()?;
        chain.sync(file, context)?;
        chain.submit()
    }

    /// A chain of one, which is never refused.
    fn submitted(&self, chain: FileChain<'_, 'm, E>) -> OpId {
        chain.submit().unwrap_or(OpId(Key::new(self.config.operations, Generation::FIRST)))
    }

    /// Begins a chain.
    ///
    /// # Errors
    /// `NoSlot` where too much is under way.
    pub fn chain(&self) -> Result<FileChain<'_, 'm, E>, PostError> {
        let slot = self.free_ops.pop_front(LIST).ok_or(Retry::NoSlot)?;
        let op = self.op_at(slot).ok_or(Retry::NoSlot)?;
        op.begin();
        Ok(FileChain::new(self, slot))
    }

    /// Ends a chain as soon as may be: what was not submitted is not; what the kernel has it is asked to cancel, which it does where the disk
    /// has not begun. The completions say what was done. Nothing comes back before the kernel has let go of it.
    ///
    /// # Errors
    /// `StaleOperation` where it is over.
    pub fn cancel(&self, id: OpId) -> Result<(), Misuse> {
        let op = self.op_at(id.slot()).ok_or(Misuse::StaleOperation)?;
        let live = matches!(op.phase.get(), Phase::Waiting | Phase::Running | Phase::Ended);
        if op.generation.get() != id.0.generation() || !live {
            return Err(Misuse::StaleOperation);
        }
        match op.phase.get() {
            Phase::Waiting => {
                let _in_the_list = self.wanting.unlink(id.slot());
                self.finish((id.slot(), op), (op.ready.get(), EntryError::Cancelled));
            }
            Phase::Running => {
                op.cancelled.set(true);
                let _listed_already = self.wanting.push_back(LIST, id.slot());
            }
            Phase::Free | Phase::Building | Phase::Ended | Phase::Lost => {}
        }
        Ok(())
    }

    /// Takes in a completion of the ring, if it is one of files; says whether it was.
    #[inline]
    pub fn take_in(&self, cqe: &spinwire_layouts::uring::Cqe) -> bool {
        self.arrived(cqe)
    }

    /// Stages up to `most` chains that wait, as far as the ring has room. The caller submits.
    #[inline]
    pub fn stage(&self, most: u32) {
        if self.ring.fatal().is_some() {
            self.lose();
        }
        self.drive(most);
    }

    /// Hands in everything that waits, with one call of the kernel. [`turn`](Poll::turn) does it too; this is for who wants it to leave
    /// before the next.
    pub fn flush(&self) {
        self.stage(u32::MAX);
        let _counted_by_the_ring = self.ring.submit();
    }

    /// Whether there is something to report, or to submit.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.noted.is_empty(LIST) || !self.wanting.is_empty(LIST)
    }

    /// What became of the next entry, if any has its result.
    #[inline]
    pub fn poll(&self) -> Option<FileCompletion<'m>> {
        let slot = self.noted.front(LIST)?;
        self.report(slot)
    }

    fn report(&self, slot: u32) -> Option<FileCompletion<'m>> {
        let op = self.op_at(slot)?;
        let entry = op.reported.get();
        let part = self.part(slot, entry)?;
        let row = self.row_at(part.file.get())?;
        op.reported.set(entry.wrapping_add(1));
        let last = op.reported.get() >= op.count.get();
        if op.reported.get() >= op.ready.get() {
            let _in_front = self.noted.unlink(slot);
        }
        let filled = match part.kind.get() {
            EntryKind::Read => Some(to_usize(widen(part.done.get()))),
            EntryKind::Write | EntryKind::Sync => None,
        };
        let lost = op.phase.get() == Phase::Lost;
        let posted = if lost { None } else { part.posted.take() };
        let completion = FileCompletion {
            op: op.id(slot),
            entry,
            last,
            kind: part.kind.get(),
            file: FileId(Key::new(part.file.get(), row.generation.get())),
            context: part.context.get(),
            bytes: part.done.get(),
            result: part.result.get(),
            loan: posted.map(|posted| posted.complete(filled)),
        };
        self.let_go(part);
        if last && !lost {
            self.free_op(slot, op);
        }
        Some(completion)
    }

    /// An entry does not name its file any more.
    fn let_go(&self, part: &Part<'m>) {
        let slot = part.file.get();
        let Some(row) = self.row_at(slot) else { return };
        row.entries.set(row.entries.get().saturating_sub(1));
        if row.removed.get() && row.entries.get() == 0 {
            self.free_row(slot, row);
        }
    }

    fn free_op(&self, slot: u32, op: &Op) {
        op.phase.set(Phase::Free);
        op.generation.set(op.generation.get().next());
        let _in_no_list = self.free_ops.push_front(LIST, slot);
    }

    /// A chain that is not to be.
    pub(super) fn discard(&self, slot: u32) {
        let Some(op) = self.op_at(slot).filter(|op| op.phase.get() == Phase::Building) else {
            return;
        };
        for part in self.parts_of(slot, op) {
            drop(part.posted.take().map(|posted| posted.complete(None)));
            self.let_go(part);
        }
        self.free_op(slot, op);
    }

    pub(super) fn enqueue(&self, slot: u32, op: &Op) {
        op.phase.set(Phase::Waiting);
        let _not_listed = self.wanting.push_back(LIST, slot);
    }

    pub(super) fn op_at(&self, slot: u32) -> Option<&'m Op> {
        self.ops.get(wide(slot))
    }

    pub(super) fn row_at(&self, slot: u32) -> Option<&'m Row> {
        self.rows.get(wide(slot))
    }

    pub(super) fn row(&self, file: FileId) -> Result<&'m Row, Misuse> {
        match self.row_at(file.slot()) {
            Some(row)
                if row.generation.get() == file.0.generation() && row.file.get().is_some() =>
            {
                Ok(row)
            }
            _ => Err(Misuse::UnknownFile),
        }
    }

    /// Entry `entry` of an op; `None` beyond the longest chain.
    pub(super) fn part(&self, slot: u32, entry: u16) -> Option<&'m Part<'m>> {
        if entry >= self.config.entries_max {
            return None;
        }
        self.parts.get(index_of(slot, entry, self.shift))
    }

    /// The entries of an op.
    pub(super) fn parts_of(&self, slot: u32, op: &Op) -> &'m [Part<'m>] {
        let first = index_of(slot, 0, self.shift);
        let parts = self.parts.get(first..).unwrap_or_default();
        parts.get(..usize::from(op.count.get())).unwrap_or_default()
    }

    #[inline]
    pub(super) fn count(&self, change: impl FnOnce(&mut FileCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl<E: Enter> Poll for Files<'_, E> {
    /// Takes completions in, which [`Files::poll`] reports, and submits what waits with at most one call of the kernel. What is of streams on
    /// the same ring is left, and what came behind it: see [`StreamsAndFiles`](crate::services::StreamsAndFiles).
    fn turn(&self, _now: Instant, budget: Budget) -> Outcome {
        let harvested = self.ring.harvest_own(budget.completions, not_of_streams, |cqe| {
            if !self.arrived(&cqe) {
                self.count(|c| c.stale = c.stale.wrapping_add(1));
            }
        });
        self.stage(budget.posts);
        let submitted = self.ring.submit();
        let busy = harvested != 0 || submitted.entered || !self.noted.is_empty(LIST);
        if busy { Outcome::Busy } else { Outcome::Idle }
    }

    fn poll_at(&self) -> Option<Instant> {
        None
    }
}

impl<E: Enter> Drop for Files<'_, E> {
    /// What is still to come of it is nobody's.
    fn drop(&mut self) {
        self.ring.left();
    }
}

/// Whether a completion is for files to take, or for nobody.
const fn not_of_streams(user_data: u64) -> bool {
    let parts = WrId::from_raw(user_data).parts();
    !matches!(
        parts,
        Some((
            OpTag::Chain
                | OpTag::Accept
                | OpTag::Connect
                | OpTag::Receive
                | OpTag::Shutdown
                | OpTag::Disconnect
                | OpTag::Close,
            ..,
        ))
    )
}
