//! The table of chains: which slot has one, and which CQE is whose.
//!
//! ```text
//!   free   [ .. | 5 | 2 ]                     slots without a chain, the one that was used last on top
//!   chains [ c0 | c1 | c2 | .. ]              a line each
//!   rows   [ c0: e0 e1 .. | c1: e0 e1 .. ]    a run of 2^shift entries each
//! ```
//!
//! Invariants:
//! 1. A slot without a chain is on the stack of free ones, once. One with a chain may be, where [`ChainTable::start_at`] has named it: who takes
//!    from the top passes it over, and whoever ends the chain does not put it there again. Its generation moves on when the chain is taken or abandoned, so that
//!    from then on every CQE and every id of it is refused. After 2^24 - 1 chains in the *same* slot a generation comes round.
//! 2. A row is found only by an entry whose bit is in its chain's sets, so never that of a neighbour.

use core::cell::Cell;

use spinwire_layouts::uring::cqe::{MORE, NOTIF};
use spinwire_layouts::uring::notification::ZC_COPIED;
use spinwire_layouts::word::{high, low};

use super::entry::{
    BYTES_MAX, CHAINS_MAX, ChainId, ENTRIES_MAX, ENTRY_BITS, ENTRY_MASK, Entry, EntrySet, NO_BYTES,
    bit, narrow,
};
use super::outcome::{Abandoned, ChainCounts, ChainEvent, ChainOutcome, Outstanding, Progress};
use super::refusal::{ChainError, ChainFault, PlaceError};
use super::state::{CANCELLED, Chain, LIVE, OVERRUN, Row};
use crate::raw::place::Bump;
use crate::table::{count, wide};

/// How large a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainConfig {
    /// Chains under way at once, at most [`CHAINS_MAX`].
    pub chains: u32,
    /// Entries in the longest of them, 1 to [`ENTRIES_MAX`]. Each chain has room for the next power of two, 16 bytes each.
    pub entries_max: u16,
}

impl Default for ChainConfig {
    /// 1,024 chains of 16 entries.
    fn default() -> Self {
        Self { chains: 1024, entries_max: 16 }
    }
}

/// The chains of one ring.
///
/// ```
/// use core::mem::MaybeUninit;
/// use spinwire_dataplane::chain::{ChainConfig, ChainEvent, ChainTable, Entry, Remains};
/// use spinwire_dataplane::raw::place::Bump;
///
/// let mut block = [MaybeUninit::uninit(); 4096];
/// let bump = Bump::new(&mut block);
/// let table = ChainTable::place(&bump, ChainConfig { chains: 4, entries_max: 2 })?;
///
/// // Two linked sends of buffers 70 and 71 on connection 9.
/// let chain = table.start(9, &[Entry::bytes(4096, 70), Entry::bytes(100, 71)])?;
/// let name = |entry| chain.user_data(entry).map_or(0, |id| id.as_raw());
/// # const F_MORE: u32 = 2;
/// # const F_NOTIF: u32 = 8;
/// # const ECANCELED: i32 = 125;
///
/// // The first was sent without a copy and fell short, so the second was cancelled. That CQE happens to come first.
/// let second = table.on_cqe(name(1), -ECANCELED, 0)?;
/// assert_eq!((second.returned, second.event), (Some(71), ChainEvent::Pending));
/// let first = table.on_cqe(name(0), 1000, F_MORE)?;
/// assert_eq!((first.returned, first.event), (None, ChainEvent::AllOpsComplete));
/// let last = table.on_cqe(name(0), 0, F_NOTIF)?;
/// assert_eq!((last.context, last.returned), (9, Some(70)));
/// assert!(matches!(last.event, ChainEvent::Complete { bytes: 1000, result: Err(cause) } if cause.entry == 0));
///
/// let outcome = table.take(chain)?;
/// assert_eq!(outcome.remains, Remains::From { entry: 0, byte: 1000 });
/// assert!(table.on_cqe(name(0), 0, F_NOTIF).is_err(), "it has ended: stale");
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct ChainTable<'m> {
    chains: &'m [Chain],
    rows: &'m [Row],
    free: &'m [Cell<u32>],
    /// Slots on that stack, and slots with a chain.
    free_top: Cell<u32>,
    live: Cell<u32>,
    shift: u32,
    entries_max: u16,
    started: Cell<u64>,
    completed: Cell<u64>,
    abandoned: Cell<u64>,
    copied: Cell<u64>,
    overruns: Cell<u64>,
    faults: [Cell<u64>; ChainFault::ALL.len()],
    refusals: [Cell<u64>; ChainError::ALL.len()],
}

impl<'m> ChainTable<'m> {
    /// Places a table. A chain takes 68 bytes, and 16 for each entry that it may have.
    ///
    /// # Errors
    /// A size that a table cannot have, or too little room left in the arena.
    pub fn place(bump: &Bump<'m>, config: ChainConfig) -> Result<Self, PlaceError> {
        let ChainConfig { chains, entries_max } = config;
        if chains > CHAINS_MAX {
            return Err(PlaceError::Chains(chains));
        }
        if entries_max == 0 || entries_max > ENTRIES_MAX {
            return Err(PlaceError::EntriesMax(entries_max));
        }
        let shift = entries_max.next_power_of_two().trailing_zeros();
        let rows = wide(chains).wrapping_shl(shift);
        // Slot 0 is on top.
        let mut next = chains;
        let free = bump.slice_with(wide(chains), |_| {
            next = next.wrapping_sub(1);
            Cell::new(next)
        })?;
        Ok(Self {
            chains: bump.slice_with(wide(chains), |_| Chain::vacant())?,
            rows: bump.slice_with(rows, |_| Row::vacant())?,
            free,
            free_top: Cell::new(chains),
            live: Cell::new(0),
            shift,
            entries_max,
            started: Cell::new(0),
            completed: Cell::new(0),
            abandoned: Cell::new(0),
            copied: Cell::new(0),
            overruns: Cell::new(0),
            faults: [const { Cell::new(0) }; ChainFault::ALL.len()],
            refusals: [const { Cell::new(0) }; ChainError::ALL.len()],
        })
    }

    /// Begins a chain in any free slot. From now on the memory of its entries is the kernel's. `context` is the owner's number
    /// for the whole of it: that of a connection or a file, say.
    ///
    /// Its submissions are made with [`ChainId::user_data`]. Where the ring refuses them after all, all of them,
    /// [`abandon`](ChainTable::abandon) takes the chain back.
    ///
    /// # Errors
    /// [`ChainError::Full`]; no entries, too many, or one that is too long. Nothing was consumed.
    #[inline(always)]
    pub fn start(&self, context: u64, entries: &[Entry]) -> Result<ChainId, ChainError> {
        let count = self.admit(entries)?;
        let free = self.take_free().ok_or_else(|| self.refuse(ChainError::Full))?;
        Ok(self.begin(free, context, (count, entries)))
    }

    /// The slot without a chain that was used last.
    #[inline(always)]
    fn take_free(&self) -> Option<(u32, &'m Chain)> {
        loop {
            let top = self.free_top.get().checked_sub(1)?;
            let slot = self.free.get(wide(top))?.get();
            let chain = self.chains.get(wide(slot))?;
            self.free_top.set(top);
            chain.listed.set(false);
            if !chain.is_live() {
                return Some((slot, chain));
            }
        }
    }

    /// As [`start`](ChainTable::start), in the slot that the caller names: for an owner that has a slot for each connection.
    ///
    /// # Errors
    /// [`ChainError::Occupied`] where that slot has a chain, which goes on as if nobody had called; the others as for `start`.
    pub fn start_at(
        &self,
        slot: u32,
        context: u64,
        entries: &[Entry],
    ) -> Result<ChainId, ChainError> {
        let count = self.admit(entries)?;
        let chain = self.chains.get(wide(slot)).ok_or_else(|| self.refuse(ChainError::NoSlot))?;
        if chain.is_live() {
            return Err(self.refuse(ChainError::Occupied));
        }
        Ok(self.begin((slot, chain), context, (count, entries)))
    }

    /// Checks the entries of a chain to be; returns how many there are.
    #[inline(always)]
    fn admit(&self, entries: &[Entry]) -> Result<u16, ChainError> {
        let count = match u16::try_from(entries.len()) {
            Ok(0) => return Err(self.refuse(ChainError::NoEntries)),
            Ok(count) if count <= self.entries_max => count,
            _ => return Err(self.refuse(ChainError::TooManyEntries)),
        };
        if entries.iter().any(|e| e.wanted > BYTES_MAX && e.wanted != NO_BYTES) {
            return Err(self.refuse(ChainError::TooManyBytes));
        }
        Ok(count)
    }

    #[inline(always)]
    fn begin(
        &self,
        (slot, chain): (u32, &Chain),
        context: u64,
        (count, entries): (u16, &[Entry]),
    ) -> ChainId {
        if let [only] = entries {
            // As nearly always.
            if let Some(row) = self.rows.get(wide(slot).wrapping_shl(self.shift)) {
                row.fill(only);
            }
        } else {
            for (row, entry) in self.rows_of(slot).iter().zip(entries) {
                row.fill(entry);
            }
        }
        let generation = chain.begin(context, count);
        self.live.set(self.live.get().wrapping_add(1));
        one_more(&self.started);
        ChainId::new(slot, generation)
    }

    /// Takes in one CQE: its `user_data`, `res` and `flags`, as the kernel wrote them.
    ///
    /// # Errors
    /// A CQE that fits nothing. It was counted and changed nothing. Some are [to be expected](ChainFault::is_expected); after any
    /// other, the owner of the chain that it named ([`ChainId::of`]), where that lives, may want to close its connection.
    #[inline]
    pub fn on_cqe(&self, user_data: u64, res: i32, flags: u32) -> Result<Progress, ChainFault> {
        let place = low(user_data);
        let slot = place >> ENTRY_BITS;
        let chain = match self.chains.get(wide(slot)) {
            Some(chain) if chain.state.get() == high(user_data) && chain.is_live() => chain,
            other => return Err(self.fault(foreign(user_data, other))),
        };
        let entry = narrow(place & ENTRY_MASK);
        let bit = bit(entry);
        let is_notice = flags & NOTIF != 0;
        let is_last = flags & MORE == 0;
        let due = if is_notice { &chain.notices_due } else { &chain.ops_due };
        let rows = self.rows_of(slot);
        let row = match rows.get(usize::from(entry)) {
            Some(row) if due.get() & bit != 0 && (is_last || !is_notice) => row,
            _ => return Err(self.fault(chain.fault(entry, is_notice))),
        };
        due.set(due.get() & !bit);
        if is_notice {
            self.copied.set(
                self.copied.get().wrapping_add(u64::from(res.cast_unsigned() & ZC_COPIED != 0)),
            );
        } else {
            chain.operation(bit, row, res);
            if !is_last {
                chain.announce(bit);
            }
        }
        let event = chain.event(rows);
        if matches!(event, ChainEvent::Complete { .. }) {
            self.complete(chain);
        }
        Ok(Progress {
            chain: ChainId::new(slot, chain.generation()),
            entry,
            context: chain.context.get(),
            returned: is_last.then(|| row.context.get()),
            event,
        })
    }

    /// As [`on_cqe`](Self::on_cqe) and [`take`](Self::take) in one, of the CQE as most are: the only one of a chain of one entry, which has moved
    /// all its bytes. Returns the slot of the chain, which is free now, and the owner's number of it. `None` of any other CQE:
    /// then nothing was taken in, and `on_cqe` says what it is.
    #[inline(always)]
    pub fn take_whole(&self, user_data: u64, res: i32, flags: u32) -> Option<(u32, u64)> {
        let place = low(user_data);
        let slot = place >> ENTRY_BITS;
        let chain = self.chains.get(wide(slot))?;
        let is_here = chain.state.get() == high(user_data) && chain.is_live();
        let is_only = place & ENTRY_MASK == 0 && flags & (MORE | NOTIF) == 0;
        let row = self.rows.get(wide(slot).wrapping_shl(self.shift))?;
        if !is_here || !is_only || !chain.is_lone() || !row.is_whole(res) {
            return None;
        }
        one_more(&self.completed);
        self.release(slot, chain);
        Some((slot, chain.context.get()))
    }

    #[inline]
    fn complete(&self, chain: &Chain) {
        one_more(&self.completed);
        if chain.marks.get() & OVERRUN != 0 {
            one_more(&self.overruns);
        }
    }

    /// Takes out a chain that is complete. Its id is refused from now on.
    ///
    /// # Errors
    /// [`ChainError::Pending`] where CQEs are still to come; the id names no chain.
    #[inline]
    pub fn take(&self, id: ChainId) -> Result<ChainOutcome, ChainError> {
        let chain = self.chain_of(id)?;
        if !chain.is_complete() {
            return Err(self.refuse(ChainError::Pending));
        }
        let rows = self.rows_of(id.slot());
        let outcome = ChainOutcome {
            context: chain.context.get(),
            entries: chain.count.get(),
            bytes: chain.bytes.get(),
            result: chain.result(rows),
            remains: chain.remains(rows),
            was_cancelled: chain.marks.get() & CANCELLED != 0,
        };
        self.release(id.slot(), chain);
        Ok(outcome)
    }

    /// Notes that the owner wants this chain to end, and says what to tell the kernel. Nothing comes back early: each entry still
    /// has its CQEs, the chain its [`Complete`](super::ChainEvent::Complete), with what was moved until then and from where it
    /// could go on. It may be called again, to see what is left.
    ///
    /// # Errors
    /// The id names no chain.
    pub fn cancel(&self, id: ChainId) -> Result<Outstanding, ChainError> {
        let chain = self.chain_of(id)?;
        if chain.ops_due.get() != 0 {
            chain.mark(CANCELLED);
        }
        Ok(outstanding(id, chain))
    }

    /// What the kernel has not said yet about a chain.
    ///
    /// # Errors
    /// The id names no chain.
    pub fn outstanding(&self, id: ChainId) -> Result<Outstanding, ChainError> {
        Ok(outstanding(id, self.chain_of(id)?))
    }

    /// Ends a chain by force: after its ring was closed, when no CQE will ever come, or before any of it was submitted.
    /// `held` is called with the index and the number of each entry whose memory was not given back. CQEs
    /// that come all the same are stale.
    ///
    /// The owner must not use that memory again for something else: a ring that was closed ends its operations in its own
    /// time, and the network sends from pages of a zero-copy send until the peer has them.
    ///
    /// # Errors
    /// The id names no chain; `held` was not called.
    pub fn abandon(
        &self,
        id: ChainId,
        mut held: impl FnMut(u16, u64),
    ) -> Result<Abandoned, ChainError> {
        let chain = self.chain_of(id)?;
        let abandoned = Abandoned {
            context: chain.context.get(),
            bytes: chain.bytes.get(),
            outstanding: outstanding(id, chain),
        };
        let entries = abandoned.outstanding.held();
        let rows = self.rows_of(id.slot());
        // Each time anew: `held` may end this chain by another call, and begin one in its slot.
        let is_here = || chain.state.get() == id.generation().as_raw() | LIVE;
        for (entry, row) in entries.iter().filter_map(|at| Some((at, rows.get(usize::from(at))?))) {
            if is_here() {
                held(entry, row.context.get());
            }
        }
        if is_here() {
            if !entries.is_empty() {
                one_more(&self.abandoned);
            }
            self.release(id.slot(), chain);
        }
        Ok(abandoned)
    }

    /// The result of one operation as the kernel gave it; `None` while it is under way.
    ///
    /// # Errors
    /// The id names no chain, or `entry` none of its entries.
    pub fn result(&self, id: ChainId, entry: u16) -> Result<Option<i32>, ChainError> {
        let (chain, row) = self.row_of(id, entry)?;
        Ok((chain.ops_due.get() & bit(entry) == 0).then(|| row.res()))
    }

    /// The owner's number of one entry.
    ///
    /// # Errors
    /// The id names no chain, or `entry` none of its entries.
    pub fn entry_context(&self, id: ChainId, entry: u16) -> Result<u64, ChainError> {
        Ok(self.row_of(id, entry)?.1.context.get())
    }

    /// The owner's number of a chain.
    ///
    /// # Errors
    /// The id names no chain.
    pub fn context(&self, id: ChainId) -> Result<u64, ChainError> {
        Ok(self.chain_of(id)?.context.get())
    }

    /// The chains that have not been taken, by rising slot number, so that all can be [abandoned](ChainTable::abandon) when
    /// the ring goes. Chains may begin and end meanwhile. A step takes time linear in the free slots that it passes.
    pub fn live(&self) -> impl Iterator<Item = ChainId> + use<'_, 'm> {
        (0..self.capacity())
            .zip(self.chains)
            .filter(|(_, chain)| chain.is_live())
            .map(|(slot, chain)| ChainId::new(slot, chain.generation()))
    }

    /// How many chains have not been taken.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.live.get()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`start`](ChainTable::start) would be refused for want of a slot.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// How many chains there is room for.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        count(self.chains.len())
    }

    /// How many entries a chain may have.
    #[must_use]
    pub const fn entries_max(&self) -> u16 {
        self.entries_max
    }

    /// What was seen so far.
    #[must_use]
    pub const fn counts(&self) -> ChainCounts {
        ChainCounts {
            started: self.started.get(),
            completed: self.completed.get(),
            abandoned: self.abandoned.get(),
            copied: self.copied.get(),
            overruns: self.overruns.get(),
        }
    }

    /// How many CQEs of that kind came.
    #[must_use]
    pub fn fault_count(&self, fault: ChainFault) -> u64 {
        self.faults.get(fault.index()).map_or(0, Cell::get)
    }

    /// How many calls were refused so.
    #[must_use]
    pub fn refusal_count(&self, error: ChainError) -> u64 {
        self.refusals.get(error.index()).map_or(0, Cell::get)
    }

    /// The rows of a slot.
    #[inline(always)]
    fn rows_of(&self, slot: u32) -> &'m [Row] {
        let first = wide(slot).wrapping_shl(self.shift);
        let end = first.wrapping_add(1_usize.wrapping_shl(self.shift));
        self.rows.get(first..end).unwrap_or_default()
    }

    #[inline(always)]
    fn chain_of(&self, id: ChainId) -> Result<&'m Chain, ChainError> {
        match self.chains.get(wide(id.slot())) {
            Some(chain) if chain.state.get() == id.generation().as_raw() | LIVE => Ok(chain),
            other => Err(self.refuse(missing(id, other))),
        }
    }

    fn row_of(&self, id: ChainId, entry: u16) -> Result<(&'m Chain, &'m Row), ChainError> {
        let chain = self.chain_of(id)?;
        match self.rows_of(id.slot()).get(usize::from(entry)) {
            Some(row) if entry < chain.count.get() => Ok((chain, row)),
            _ => Err(self.refuse(ChainError::NoEntry)),
        }
    }

    /// Ends the chain in a slot.
    #[inline(always)]
    fn release(&self, slot: u32, chain: &Chain) {
        chain.state.set(chain.generation().next().as_raw());
        self.live.set(self.live.get().wrapping_sub(1));
        let top = self.free_top.get();
        if !chain.listed.get()
            && let Some(place) = self.free.get(wide(top))
        {
            chain.listed.set(true);
            place.set(slot);
            self.free_top.set(top.wrapping_add(1));
        }
    }

    #[cold]
    fn fault(&self, fault: ChainFault) -> ChainFault {
        if let Some(count) = self.faults.get(fault.index()) {
            one_more(count);
        }
        fault
    }

    #[cold]
    fn refuse(&self, error: ChainError) -> ChainError {
        if let Some(count) = self.refusals.get(error.index()) {
            one_more(count);
        }
        error
    }
}

impl core::fmt::Debug for ChainTable<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ChainTable")
            .field("live", &self.len())
            .field("capacity", &self.capacity())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[inline(always)]
fn one_more(count: &Cell<u64>) {
    count.set(count.get().wrapping_add(1));
}

const fn outstanding(id: ChainId, chain: &Chain) -> Outstanding {
    Outstanding {
        chain: id,
        operations: EntrySet::from_bits(chain.ops_due.get()),
        notifications: EntrySet::from_bits(chain.notices_due.get()),
    }
}

/// Why an id names no chain, of the chain in its slot.
#[cold]
const fn missing(id: ChainId, chain: Option<&Chain>) -> ChainError {
    match chain {
        Some(chain) if chain.state.get() != id.generation().as_raw() => ChainError::Stale,
        _ => ChainError::Unknown,
    }
}

/// What is wrong with a `user_data` that does not name a chain that lives, but the slot of `chain`.
#[cold]
const fn foreign(user_data: u64, chain: Option<&Chain>) -> ChainFault {
    match (ChainId::of(user_data), chain) {
        (Some((id, _)), Some(chain)) if chain.state.get() != id.generation().as_raw() => {
            ChainFault::Stale
        }
        _ => ChainFault::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    #[test]
    fn generations_come_round_after_all_others_and_never_name_nothing() {
        let mut block = [MaybeUninit::uninit(); 512];
        let config = ChainConfig { chains: 1, entries_max: 1 };
        let table = ChainTable::place(&Bump::new(&mut block), config).unwrap();
        let one = [Entry::plain(0)];
        let first = table.start(0, &one).unwrap();
        let name = first.user_data(0).unwrap().as_raw();
        table.abandon(first, |_, _| ()).unwrap();
        table.chains[0].state.set((1 << 24) - 2);
        for expected in [(1 << 24) - 2, (1 << 24) - 1, 1, 2] {
            let id = table.start(0, &one).unwrap();
            assert_eq!(id.generation().as_raw(), expected);
            // The same name, 2^24 - 1 chains later.
            assert_eq!(table.on_cqe(name, 0, 0).is_ok(), expected == 1, "{expected}");
            table.abandon(id, |_, _| ()).unwrap();
        }
    }

    #[test]
    fn a_name_of_generation_zero_finds_nothing() {
        let mut block = [MaybeUninit::uninit(); 512];
        let config = ChainConfig { chains: 1, entries_max: 1 };
        let table = ChainTable::place(&Bump::new(&mut block), config).unwrap();
        assert_eq!(table.on_cqe(3 << 56, 0, 0), Err(ChainFault::Unknown));
        table.start(0, &[Entry::plain(0)]).unwrap();
        assert_eq!(table.on_cqe(3 << 56, 0, 0), Err(ChainFault::Unknown));
        assert_eq!(table.fault_count(ChainFault::Unknown), 2);
    }
}
