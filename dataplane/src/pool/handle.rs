//! A handle on a pool: one thread's way to take, share and hand over buffers.
//!
//! What it keeps in private memory is told in [`tally`](super::tally).
//!
//! Invariants: (1) the count of a slot is `WRITING` while there is a guard for writing, else the number of guards for reading,
//! with those that a message under way stands for; (2) while it is not 0 the bit of this handle stands in the slot word,
//! unless the handle was taken for dead; (3) no second guard beside one for writing is ever made, whatever the slot word says.

use core::fmt;

use spinwire_layouts::shm::pool::stay;
use spinwire_layouts::shm::{AccessMode, BufferId, SlotSplit, StorageType};
use spinwire_layouts::word::{to_usize, widen};

use super::error::PoolError;
use super::free_map::Try;
use super::guard::{AnyGuard, Exclusive, Guard, Shared};
use super::host::{NoHost, PoolHost, Slept};
use super::segment::{DETACHED_BY, KIND, LEFT, META_LINES, PoolSegment, SIZE, TAKEN, load, store};
use super::slot::{Left, Slot};
use super::tally::{ClassTable, Place, Tally, WRITING};
use crate::error::{Fatal, Retry};
use crate::raw::line::{self, LINE_BYTES, Line};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lease::{self, ProcessLease};
use crate::sync::{AtomicU64, Ordering};
use crate::time::Instant;

/// A handle on a pool, for one thread. Its guards borrow it.
///
/// It stands on a lease, of which there is one a handle; leaving is up to whoever has the lease
/// ([`mark_dead`](crate::shm::lease::mark_dead), then [`PoolSegment::reclaim`]).
pub struct Pool<'m, H: PoolHost = NoHost> {
    segment: &'m PoolSegment<'m>,
    lease: ProcessLease,
    lease_word: &'m AtomicU64,
    /// What time it is, roughly: see [`PoolSegment::tick`].
    clock: &'m AtomicU64,
    bit: u64,
    split: SlotSplit,
    classes: &'m [ClassTable<'m>],
    tallies: &'m [Tally],
    host: &'m H,
}

impl<H: PoolHost> fmt::Debug for Pool<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", self.segment.name())
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl PoolSegment<'_> {
    /// Bytes that a handle on this pool takes in an arena, alignment included.
    #[must_use]
    pub fn handle_bytes(&self) -> usize {
        let classes = self.geometry().classes().len();
        let counts =
            to_usize(widen(self.geometry().slot_count())).saturating_mul(size_of::<Tally>());
        size_of::<PoolSegment<'_>>()
            .saturating_add(classes.saturating_mul(size_of::<ClassTable<'_>>()))
            .saturating_add(counts)
            .saturating_add(192)
    }
}

impl<'m, H: PoolHost> Pool<'m, H> {
    /// Opens a handle on `lease`, which is this handle's alone. Its tables are placed in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small: see [`PoolSegment::handle_bytes`].
    pub fn open(
        segment: &PoolSegment<'m>,
        lease: ProcessLease,
        bump: &Bump<'m>,
        host: &'m H,
    ) -> Result<Self, Exhausted> {
        let segment: &'m PoolSegment<'m> = bump.value(segment.clone())?;
        let processes = segment.geometry().process_count().max(1);
        let mut parts = segment.classes();
        let classes = bump.slice_with(segment.geometry().classes().len(), |_| {
            ClassTable::new(parts.next().as_ref(), (lease.slot(), processes))
        })?;
        let slots = to_usize(widen(segment.geometry().slot_count()));
        let tallies = bump.slice_with(slots, |_| Tally::nothing())?;
        // A lease of another segment has no word here: such a handle is fenced from the start.
        let lease_word = match lease::lease_word(segment, lease.slot()) {
            Some(word) => word,
            None => bump.value(AtomicU64::new(0))?,
        };
        let clock = match segment.clock_word() {
            Some(word) => word,
            None => bump.value(AtomicU64::new(0))?,
        };
        let split = segment.split();
        let bit = split.holder(lease.slot());
        Ok(Self { segment, lease, lease_word, clock, bit, split, classes, tallies, host })
    }

    /// The pool that it is on.
    #[must_use]
    pub const fn segment(&self) -> &PoolSegment<'m> {
        self.segment
    }

    /// The lease that it stands on.
    #[must_use]
    pub const fn lease(&self) -> &ProcessLease {
        &self.lease
    }

    /// A buffer of its own for the caller, of at least `size` bytes, whose length is `size`. What its last user left in it is
    /// still there.
    ///
    /// It comes of the smallest class that is large enough, of no other.
    ///
    /// # Errors
    /// `Retry(PoolFull)` where all of that class are in use, `TooLarge` where there is no such class, `NotMapped`, `Fatal`.
    #[inline(always)]
    pub fn acquire(&self, size: usize) -> Result<Guard<'_, Exclusive, H>, PoolError> {
        let class = self.class_for(size)?;
        self.acquire_in(class, size)
    }

    /// As [`acquire`](Self::acquire), but waits until a buffer comes free or `until` has come; `None` is for ever.
    ///
    /// Not for a thread that turns planes: it sleeps.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire); `Retry(PoolFull)` where the time is over.
    pub fn acquire_until(
        &self,
        size: usize,
        until: Option<Instant>,
    ) -> Result<Guard<'_, Exclusive, H>, PoolError> {
        let class = self.class_for(size)?;
        let taken = self.acquire_in(class, size);
        if !matches!(taken, Err(PoolError::Retry(Retry::PoolFull))) {
            return taken;
        }
        while let Some((word, seen)) = class.map.arm() {
            let taken = self.acquire_in(class, size);
            if !matches!(taken, Err(PoolError::Retry(Retry::PoolFull))) {
                return taken;
            }
            if self.host.sleep(word, seen, until) == Slept::TimedOut {
                break;
            }
        }
        Err(PoolError::Retry(Retry::PoolFull))
    }

    /// A guard for reading a buffer that somebody published or detached.
    ///
    /// # Errors
    /// `Busy` while somebody writes it, `Stale` where it was released, `Foreign` where the id is of no buffer of this pool.
    #[inline(always)]
    pub fn get(&self, id: BufferId) -> Result<Guard<'_, Shared, H>, PoolError> {
        self.read_with(id, Slot::share)
    }

    /// Asks for the lines that a guard for reading and its reader will want first: the slot word, to be written, and the start
    /// of the buffer. All at once, where each would wait for the one before.
    #[inline]
    pub(crate) fn expect(&self, id: BufferId) {
        if let Ok(place) = self.locate(id)
            && place.tally.count.get() == 0
            && let Some(payload) = self.payload(place.class, id.slot())
        {
            line::prefetch_for_write(place.hot());
            line::prefetch(payload, 0);
        }
    }

    /// The only guard of a buffer, for writing. The buffer must be one that nobody holds: its references are all detached.
    ///
    /// # Errors
    /// `Busy` while anybody holds it, this handle included; else as [`get`](Self::get).
    pub fn get_mut(&self, id: BufferId) -> Result<Guard<'_, Exclusive, H>, PoolError> {
        self.write_with(id, Slot::own)
    }

    /// As [`get`](Self::get), in place of a detached reference: what one side [detached](Guard::detach), the other adopts.
    ///
    /// # Errors
    /// As [`get`](Self::get); `NoReference` where none is detached.
    #[inline]
    pub fn adopt(&self, id: BufferId) -> Result<Guard<'_, Shared, H>, PoolError> {
        let place = self.locate(id)?;
        if place.tally.count.get() == 0 {
            return self.read_with(id, Slot::adopt);
        }
        // Its bit is there already: the detached reference turns into one more guard of this handle.
        let guard = self.get(id)?;
        let _never_the_last = self.slot_of(place.meta).release(id.generation())?;
        Ok(guard)
    }

    /// As [`get_mut`](Self::get_mut), in place of a detached reference.
    ///
    /// # Errors
    /// As [`get_mut`](Self::get_mut); `NoReference` where none is detached.
    #[inline]
    pub fn adopt_mut(&self, id: BufferId) -> Result<Guard<'_, Exclusive, H>, PoolError> {
        self.write_with(id, Slot::adopt_own)
    }

    /// [`get`](Self::get) or [`get_mut`](Self::get_mut), where only the running program knows which.
    ///
    /// # Errors
    /// Theirs.
    pub fn get_as(&self, id: BufferId, mode: AccessMode) -> Result<AnyGuard<'_, H>, PoolError> {
        match mode {
            AccessMode::ReadOnly => self.get(id).map(AnyGuard::Shared),
            AccessMode::ReadWrite => self.get_mut(id).map(AnyGuard::Exclusive),
        }
    }

    /// One detached reference more. Returns how many references there are then.
    ///
    /// # Errors
    /// `Stale`, `Foreign`; `TooManyReferences` where there are 31 detached ones.
    pub fn add_ref(&self, id: BufferId) -> Result<u32, PoolError> {
        let place = self.locate(id)?;
        self.check_lease()?;
        let (slot, generation) = (self.slot_of(place.meta), id.generation());
        // Who left it is written down while this handle holds the buffer, or by then it could be another use of the slot. A buffer
        // that another writes cannot be held; there the writer and the new reference would both have to go in between.
        let holding = match place.tally.count.get() {
            0 => match slot.share(generation, self.bit) {
                Ok(()) => self.bit,
                Err(PoolError::Busy) => {
                    slot.detach(generation, 0)?;
                    self.sign(&place);
                    return self.ref_count(id);
                }
                Err(refused) => return Err(refused),
            },
            _ => 0,
        };
        let before = [DETACHED_BY, LEFT].map(|at| (at, load(place.hot(), at)));
        self.sign(&place);
        if let Err(refused) = slot.detach(generation, holding) {
            for (at, was) in before {
                store(place.hot(), at, was);
            }
            if let Left::Free(word) = slot.let_go(generation, holding) {
                self.came_free(&place, id.slot(), word);
            }
            return Err(refused);
        }
        self.ref_count(id)
    }

    /// One detached reference less; the last reference frees the buffer. Returns how many there are then. References of guards
    /// end with their guards only.
    ///
    /// # Errors
    /// `Stale`, `Foreign`; `NoReference` where none is detached.
    pub fn release(&self, id: BufferId) -> Result<u32, PoolError> {
        let place = self.locate(id)?;
        match self.slot_of(place.meta).release(id.generation())? {
            Left::Free(word) => {
                self.came_free(&place, id.slot(), word);
                Ok(0)
            }
            Left::InUse => Ok(self.ref_count(id).unwrap_or(0)),
        }
    }

    /// How many references there are: one for each handle that has guards, and the detached ones.
    ///
    /// # Errors
    /// `Stale`, `Foreign`.
    pub fn ref_count(&self, id: BufferId) -> Result<u32, PoolError> {
        let place = self.locate(id)?;
        let word = self.split.unpack(self.slot_of(place.meta).word.load(Ordering::Relaxed));
        if word.generation != id.generation() || word.is_free() {
            return Err(PoolError::Stale);
        }
        Ok(word.references())
    }

    /// Takes a buffer of `size` bytes for every place in `ids`, and leaves it with one detached reference. All or nothing.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire); what was taken is released, and `ids` are all none.
    pub fn preallocate(&self, size: usize, ids: &mut [BufferId]) -> Result<(), PoolError> {
        ids.fill(BufferId::NONE);
        let mut made = Ok(());
        for id in ids.iter_mut() {
            match self.acquire(size).and_then(|guard| guard.detach().map_err(|kept| kept.error)) {
                Ok(detached) => *id = detached,
                Err(error) => {
                    made = Err(error);
                    break;
                }
            }
        }
        if made.is_err() {
            for id in ids.iter_mut().take_while(|id| **id != BufferId::NONE) {
                let _gone_anyway = self.release(*id);
                *id = BufferId::NONE;
            }
        }
        made
    }

    #[inline]
    fn class_for(&self, size: usize) -> Result<&ClassTable<'_>, PoolError> {
        let wanted = u64::try_from(size).unwrap_or(u64::MAX);
        let class = self.classes.iter().find(|class| class.slot_bytes >= wanted);
        class.ok_or_else(|| self.too_large(wanted))
    }

    #[cold]
    fn too_large(&self, wanted: u64) -> PoolError {
        let most = self.classes.last().map_or(0, |class| class.slot_bytes);
        PoolError::TooLarge { wanted, most }
    }

    /// A buffer of the class, where one is free.
    // Inlined wherever it is called, like all that is on the way of `acquire`: a guard that goes from one function to another
    // through memory costs more than to take and to let go of it. What is called in vain or seldom gives back words.
    #[inline(always)]
    fn acquire_in<'p>(
        &'p self,
        class: &'p ClassTable<'p>,
        size: usize,
    ) -> Result<Guard<'p, Exclusive, H>, PoolError> {
        self.check_lease()?;
        // No clock is read. Before the slot is taken, since behind a locked instruction a load is waited for.
        let now = self.clock.load(Ordering::Relaxed);
        let id = match self.take_recent(class) {
            BufferId::NONE => self.search(class),
            id => id,
        };
        // By its number none would be the first slot.
        let place = self.place(class, id.slot()).filter(|_| id != BufferId::NONE);
        let Some(place) = place else { return Err(PoolError::Retry(Retry::PoolFull)) };
        let Some(payload) = self.payload(class, id.slot()) else {
            return Err(self.not_mapped(&place, id));
        };
        let length = u64::try_from(size).unwrap_or(0);
        store(place.hot(), SIZE, length);
        store(place.hot(), KIND, 0);
        store(place.hot(), DETACHED_BY, 0);
        store(place.hot(), TAKEN, now);
        place.tally.storage.set(StorageType::Cpu.code());
        place.tally.count.set(WRITING);
        Ok(Guard::new(self, place, id, length, payload))
    }

    #[cold]
    fn not_mapped(&self, place: &Place<'_>, id: BufferId) -> PoolError {
        let bits = self.bit | SlotSplit::WRITER;
        if let Left::Free(_) = self.slot_of(place.meta).let_go(id.generation(), bits) {
            // Not remembered: the next one to be tried is another.
            let index = id.slot().wrapping_sub(place.class.first_slot);
            place.class.map.came_free(index, self.host);
        }
        PoolError::NotMapped { slot: id.slot() }
    }

    /// The slot of the class that this handle freed last, claimed, if nobody has taken it since; else none.
    #[inline(always)]
    fn take_recent(&self, class: &ClassTable<'_>) -> BufferId {
        let recent = class.recall().and_then(|(slot, word)| {
            let place = self.place(class, slot).filter(|place| place.tally.count.get() == 0)?;
            let generation = self.slot_of(place.meta).claim_from(word, self.bit)?;
            Some(self.segment.id(slot, generation))
        });
        recent.unwrap_or(BufferId::NONE)
    }

    /// A slot of the class, claimed: one of those that this handle freed, or one that may be free; else none.
    #[cold]
    #[inline(never)]
    fn search(&self, class: &ClassTable<'_>) -> BufferId {
        while class.recent_count.get() > 0 {
            let id = self.take_recent(class);
            if id != BufferId::NONE {
                return id;
            }
        }
        let found = class.map.search(class.start.get(), self.host, |index| {
            self.attempt(class, class.first_slot.wrapping_add(index))
        });
        let Some(id) = found else { return BufferId::NONE };
        class.start.set(id.slot().wrapping_sub(class.first_slot).wrapping_add(1));
        id
    }

    fn attempt(&self, class: &ClassTable<'_>, slot: u32) -> Try<BufferId> {
        let Some(place) = self.place(class, slot).filter(|place| place.tally.count.get() == 0)
        else {
            return Try::Pass;
        };
        match self.slot_of(place.meta).claim(self.bit) {
            Some(generation) => Try::Got(self.segment.id(slot, generation)),
            None => Try::InUse,
        }
    }

    #[inline]
    fn place<'p>(&'p self, class: &'p ClassTable<'p>, slot: u32) -> Option<Place<'p>> {
        let meta = self.segment.meta(slot)?;
        let tally = self.tallies.get(to_usize(widen(slot)))?;
        Some(Place { class, meta, tally })
    }

    #[inline]
    fn locate(&self, id: BufferId) -> Result<Place<'_>, PoolError> {
        if id.tag() != self.segment.tag() {
            return Err(PoolError::Foreign);
        }
        let slot = id.slot();
        let inside = |class: &&ClassTable<'_>| {
            slot.checked_sub(class.first_slot).is_some_and(|index| index < class.slot_count)
        };
        let class = self.classes.iter().find(inside);
        class.and_then(|class| self.place(class, slot)).ok_or(PoolError::Foreign)
    }

    #[inline(always)]
    fn read_with<'p>(
        &'p self,
        id: BufferId,
        enter: impl FnOnce(Slot<'p>, u64, u64) -> Result<(), PoolError>,
    ) -> Result<Guard<'p, Shared, H>, PoolError> {
        let place = self.locate(id)?;
        let (slot, generation) = (self.slot_of(place.meta), id.generation());
        self.worth_mapping(&place, id)?;
        let payload = self.payload(place.class, id.slot());
        let payload = payload.ok_or(PoolError::NotMapped { slot: id.slot() })?;
        let count = place.tally.count.get();
        match count {
            0 => {
                self.check_lease()?;
                enter(slot, generation, self.bit)?;
                let length = load(place.hot(), SIZE).min(place.class.slot_bytes);
                place.tally.generation.set(generation);
                place.tally.length.set(length);
                place.look_up_storage();
            }
            WRITING if slot.is_held(generation, self.bit) => return Err(PoolError::Busy),
            // While there is a guard, the bit of this handle stands for that use of the slot and no other.
            _ if count == WRITING
                || place.tally.generation.get() != generation
                || !self.has_lease() =>
            {
                return Err(PoolError::Stale);
            }
            _ => {}
        }
        if count >= WRITING.wrapping_sub(1) {
            return Err(PoolError::TooManyReferences);
        }
        place.tally.count.set(count.wrapping_add(1));
        let length = place.tally.length.get();
        Ok(Guard::new(self, place, id, length, payload))
    }

    fn write_with<'p>(
        &'p self,
        id: BufferId,
        enter: impl FnOnce(Slot<'p>, u64, u64) -> Result<(), PoolError>,
    ) -> Result<Guard<'p, Exclusive, H>, PoolError> {
        let place = self.locate(id)?;
        let (slot, generation) = (self.slot_of(place.meta), id.generation());
        self.worth_mapping(&place, id)?;
        let payload = self.payload(place.class, id.slot());
        let payload = payload.ok_or(PoolError::NotMapped { slot: id.slot() })?;
        if place.tally.count.get() != 0 {
            let held = slot.is_held(generation, self.bit);
            return Err(if held { PoolError::Busy } else { PoolError::Stale });
        }
        self.check_lease()?;
        enter(slot, generation, self.bit)?;
        place.look_up_storage();
        place.tally.count.set(WRITING);
        Ok(Guard::read(self, place, id, payload))
    }

    /// Refuses an old id before the host looks for a segment of its slot: there may be none any more, or none yet.
    #[inline]
    fn worth_mapping(&self, place: &Place<'_>, id: BufferId) -> Result<(), PoolError> {
        let slot = self.slot_of(place.meta);
        let is_large = place.class.arena.is_empty();
        if is_large && (slot.is_free_now() || !slot.is_held(id.generation(), 0)) {
            return Err(PoolError::Stale);
        }
        Ok(())
    }

    #[inline]
    fn payload<'p>(&'p self, class: &'p ClassTable<'p>, slot: u32) -> Option<&'p [Line]> {
        let lines = to_usize(class.slot_bytes) / LINE_BYTES;
        if class.arena.is_empty() {
            return self.host.large(slot, class.slot_bytes)?.get(..lines);
        }
        let index = to_usize(widen(slot.wrapping_sub(class.first_slot)));
        class.arena.get(index.wrapping_mul(lines)..)?.get(..lines)
    }

    #[inline]
    pub(super) const fn slot_of<'p>(&self, meta: &'p [Line; META_LINES]) -> Slot<'p> {
        let [hot, ..] = meta;
        let [word, ..] = hot.words();
        Slot { word, split: self.split }
    }

    #[inline]
    pub(super) fn came_free(&self, place: &Place<'_>, slot: u32, word: u64) {
        let index = slot.wrapping_sub(place.class.first_slot);
        place.class.map.came_free(index, self.host);
        place.class.remember(slot, word);
    }

    /// A guard goes: one of several in private, the last one in the slot word.
    #[inline(always)]
    pub(super) fn let_go(&self, place: &Place<'_>, id: BufferId, mode: AccessMode) {
        let count = place.tally.count.get();
        if count != WRITING && count > 1 {
            place.tally.count.set(count.wrapping_sub(1));
            return;
        }
        place.tally.count.set(0);
        if !self.has_lease() {
            return;
        }
        let (slot, bits) = (self.slot_of(place.meta), self.bits(mode));
        let left = match mode {
            AccessMode::ReadWrite => slot.let_go_alone(id.generation(), bits),
            AccessMode::ReadOnly => slot.let_go(id.generation(), bits),
        };
        if let Left::Free(word) = left {
            self.came_free(place, id.slot(), word);
        }
    }

    /// Lets go of a reference that [`Guard::keep`] kept.
    pub(crate) fn let_go_of_kept(&self, id: BufferId) {
        if let Ok(place) = self.locate(id) {
            self.let_go(&place, id, AccessMode::ReadOnly);
        }
    }

    /// The bits that a guard stands for in the slot word.
    pub(super) const fn bits(&self, mode: AccessMode) -> u64 {
        match mode {
            AccessMode::ReadOnly => self.bit,
            AccessMode::ReadWrite => self.bit | SlotSplit::WRITER,
        }
    }

    /// Writes down that a reference is left behind by this handle, now.
    #[inline]
    pub(super) fn sign(&self, place: &Place<'_>) {
        store(place.hot(), DETACHED_BY, stay(self.lease.word(), self.lease.slot()));
        store(place.hot(), LEFT, self.clock.load(Ordering::Relaxed));
    }

    /// Whether this handle's lease stands. A handle that was taken for dead has nothing to let go of: its bit may be another's.
    #[inline]
    pub(super) fn has_lease(&self) -> bool {
        self.lease_word.load(Ordering::Relaxed) == self.lease.word()
    }

    #[inline]
    pub(super) fn check_lease(&self) -> Result<(), PoolError> {
        if self.has_lease() { Ok(()) } else { Err(PoolError::Fatal(Fatal::Fenced)) }
    }
}
