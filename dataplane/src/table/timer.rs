//! Deadlines: a hierarchical timing wheel, after Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP
//! 1987), scheme 7, with a bitmap a level so that empty slots cost nothing.
//!
//! ```text
//!   elapsed = 5 (in ticks)                                              deadline, in ticks
//!   level 0   [ 0 .. 4 | 5 | 6 | 7* | .. | 63 ]      a slot = 1 tick        7
//!   level 1   [ 0 | 1 | 2* | .. | 63 ]               a slot = 64 ticks      130 = 2 * 64 + 2
//!   level 2   [ 0 | 1* | .. | 63 ]                   a slot = 4096 ticks    5000
//!   ..                                               11 levels: every u64 has its slot
//! ```
//!
//! The level of a deadline is the highest group of six bits in which it differs from `elapsed`; its slot is that group
//! of its own bits. So all of level 0 is due before anything on level 1, and so on: the next slot is found by two
//! `trailing_zeros`. When `elapsed` enters a slot of a higher level, its entries move down, one a step.
//!
//! Invariants:
//! 1. An entry in list `64 * level + slot` has the deadline bits said above, and is later than `elapsed`; unless the
//!    list is `entered`, whose entries still wait to be moved down (or, on level 0, to be handed out).
//! 2. Entries in list `DUE` had been due when they were inserted or moved. They count as due at `elapsed`.
//! 3. A bit in `occupied` says that the list has entries; a bit in `levels`, that the word in `occupied` is not 0.
//! 4. `soonest` of an occupied list is not later than any deadline in it.
//! 5. No list starts before `wake`, and nothing is due or entered before it: an expiry that ends sooner is one
//!    comparison.
//!
//! A timer never fires early: deadlines are rounded up to a tick, `now` is rounded down.

use core::cell::Cell;

use spinwire_layouts::word::{low, widen};

use super::{Fifos, Full, Head, Key, Link, NIL, Slab, SlabError, Slot, wide};
use crate::raw::place::{Bump, Exhausted};
use crate::time::{Instant, Nanos};

/// 6 bits a level: 11 levels hold 64 bits of ticks.
const LEVELS: u32 = 11;
const SLOT_BITS: u32 = 6;
const SLOTS: u32 = 1 << SLOT_BITS;
/// The list of what is due already.
const DUE: u32 = LEVELS * SLOTS;

/// What the wheel keeps of one timer.
#[derive(Clone, Copy, Debug)]
pub struct TimerEntry<T> {
    tick: u64,
    payload: T,
}

/// The memory of a wheel, for callers who place it by hand.
#[derive(Debug)]
pub struct TimerStorage<'m, T> {
    /// One slot a timer: the capacity.
    pub entries: &'m mut [Slot<TimerEntry<T>>],
    /// At least as many links as `entries`.
    pub links: &'m mut [Link],
    /// [`TimerStorage::LISTS`] heads.
    pub heads: &'m mut [Head],
    /// [`TimerStorage::LISTS`] words.
    pub soonest: &'m mut [Cell<u64>],
}

impl<T> TimerStorage<'_, T> {
    /// How many lists a wheel has.
    pub const LISTS: u32 = DUE + 1;
}

/// A wheel of timers, each with a payload that comes back when its deadline is reached.
///
/// ```
/// use core::mem::MaybeUninit;
/// use spinwire_dataplane::raw::place::Bump;
/// use spinwire_dataplane::table::Timers;
/// use spinwire_dataplane::time::{Instant, Nanos};
///
/// let mut block = vec![MaybeUninit::uninit(); 64 << 10];
/// let timers = Timers::place(&Bump::new(&mut block), 16, Nanos::new(1024)).unwrap();
/// let retry = timers.insert(Instant::from_nanos(5_000_000), "retry").unwrap();
/// let probe = timers.insert(Instant::from_nanos(9_000), "probe").unwrap();
/// assert_eq!(timers.cancel(retry), Ok("retry"));
/// let fired: Vec<_> = timers.expire(Instant::from_nanos(10_000), 8).map(|due| due.payload).collect();
/// assert_eq!(fired, ["probe"]);
/// assert!(timers.cancel(probe).is_err()); // it has fired
/// ```
pub struct Timers<'m, T: Copy> {
    entries: Slab<'m, TimerEntry<T>>,
    order: Fifos<'m>,
    soonest: &'m [Cell<u64>],
    occupied: [Cell<u64>; wide(LEVELS)],
    levels: Cell<u32>,
    elapsed: Cell<u64>,
    entered: Cell<u32>,
    wake: Cell<u64>,
    tick_shift: u32,
}

/// A timer whose deadline was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due<T> {
    /// The name it had; stale from now on.
    pub key: Key,
    /// Its deadline, rounded up to a tick (and for one that was due already when it was inserted, to the wheel's time).
    pub deadline: Instant,
    /// What was inserted with it.
    pub payload: T,
}

/// What one step of an expiry did.
enum Step<T> {
    Fired(Due<T>),
    Moved,
    Nothing,
}

impl<'m, T: Copy> Timers<'m, T> {
    /// Takes over `storage` for timers of a resolution of `tick`, rounded down to a power of two nanoseconds. The wheel
    /// stands at the origin of time, and holds nothing. Its capacity is the shorter of `entries` and `links`; 0 where
    /// there are too few `heads` or `soonest`.
    #[must_use]
    pub fn new(storage: TimerStorage<'m, T>, tick: Nanos) -> Self {
        let TimerStorage { entries, links, heads, soonest } = storage;
        let lists = heads.len().min(soonest.len());
        let capacity = if lists < wide(TimerStorage::<T>::LISTS) { 0 } else { links.len() };
        let capacity = capacity.min(entries.len());
        let entries = entries.get_mut(..capacity).unwrap_or_default();
        Self::over(Slab::new(entries), Fifos::new(links, heads), soonest, tick)
    }

    /// Places a wheel of `capacity` timers of a resolution of `tick`, rounded down to a power of two nanoseconds. Beside
    /// the timers it takes about 14 KiB for its lists, of which only those in use are ever touched.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32, tick: Nanos) -> Result<Self, Exhausted> {
        let entries = Slab::place(bump, capacity)?;
        let order = Fifos::place(bump, capacity, TimerStorage::<T>::LISTS)?;
        let soonest = bump.slice_with(wide(TimerStorage::<T>::LISTS), |_| Cell::new(0))?;
        Ok(Self::over(entries, order, soonest, tick))
    }

    fn over(
        entries: Slab<'m, TimerEntry<T>>,
        order: Fifos<'m>,
        soonest: &'m [Cell<u64>],
        tick: Nanos,
    ) -> Self {
        Self {
            entries,
            order,
            soonest,
            occupied: [const { Cell::new(0) }; wide(LEVELS)],
            levels: Cell::new(0),
            elapsed: Cell::new(0),
            entered: Cell::new(NIL),
            wake: Cell::new(u64::MAX),
            tick_shift: tick.as_nanos().checked_ilog2().unwrap_or(0),
        }
    }

    /// Starts a timer. One whose deadline has passed fires at the next [`expire`](Timers::expire).
    ///
    /// # Errors
    /// Hands `payload` back where there are as many timers as the wheel can hold.
    #[inline]
    pub fn insert(&self, deadline: Instant, payload: T) -> Result<Key, Full<T>> {
        let tick = self.tick_of(deadline);
        let entry = TimerEntry { tick, payload };
        let key = self.entries.insert(entry).map_err(|Full(entry)| Full(entry.payload))?;
        self.link(key.slot(), tick);
        Ok(key)
    }

    /// Stops a timer and gives its payload back.
    ///
    /// # Errors
    /// The key names no running timer: it fired, or was cancelled before.
    #[inline]
    pub fn cancel(&self, key: Key) -> Result<T, SlabError> {
        let entry = self.entries.remove(key)?;
        self.unlink(key.slot());
        Ok(entry.payload)
    }

    /// Moves a running timer to another deadline, earlier or later; its key stays.
    ///
    /// # Errors
    /// The key names no running timer.
    #[inline]
    pub fn reset(&self, key: Key, deadline: Instant) -> Result<(), SlabError> {
        let entry = self.entries.get(key)?;
        let tick = self.tick_of(deadline);
        self.entries.set(key, TimerEntry { tick, ..entry })?;
        self.unlink(key.slot());
        self.link(key.slot(), tick);
        Ok(())
    }

    /// Advances the wheel to `now` (one before the wheel's own time counts as that) and hands out what is due, by rising
    /// deadline in ticks; within a tick in no stated order.
    ///
    /// `budget` bounds the steps that the iterator takes in all. A step fires a timer, or moves one down a level, so that
    /// a timer takes at most 11 steps in its life. What the budget leaves over is found by the next call; then
    /// [`next_deadline`](Timers::next_deadline) is not later than `now`.
    #[inline]
    pub fn expire(&self, now: Instant, budget: u32) -> Expire<'_, 'm, T> {
        let now = unshift(now.as_nanos(), self.tick_shift).max(self.elapsed.get());
        Expire { timers: self, now, budget }
    }

    /// Whether [`expire`](Timers::expire) would do anything at `now`: fire what is due, or move what comes nearer.
    #[inline(always)]
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        unshift(now.as_nanos(), self.tick_shift).max(self.elapsed.get()) >= self.wake.get()
    }

    /// When to call [`expire`](Timers::expire) again: at this instant or before it there is nothing to fire, save
    /// that it may be too early by what was cancelled meanwhile. `None` where no timer runs.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.order.is_empty(DUE) {
            return Some(self.instant_of(self.elapsed.get()));
        }
        let next = self.next_list().map(|list| self.soonest_in(list));
        let entered = self.entered.get();
        let entered = (entered != NIL).then(|| self.soonest_in(entered));
        let tick = match (next, entered) {
            (Some(a), Some(b)) => a.min(b),
            (one, other) => one.or(other)?,
        };
        Some(self.instant_of(tick))
    }

    /// How many timers run.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Whether no timer runs.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many timers may run at once.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    /// The resolution: how much later than its deadline a timer may fire in a loop that polls all the time.
    #[inline]
    #[must_use]
    pub const fn tick(&self) -> Nanos {
        Nanos::new(1u64.wrapping_shl(self.tick_shift))
    }

    /// One step towards `now`, in ticks.
    #[inline]
    fn step(&self, now: u64) -> Step<T> {
        if now < self.wake.get() {
            self.advance(now);
            return Step::Nothing;
        }
        self.work(now)
    }

    /// First what is due, then what the wheel has entered, then the next slot.
    fn work(&self, now: u64) -> Step<T> {
        if let Some(slot) = self.order.pop_front(DUE) {
            return self.fire(slot);
        }
        if self.entered.get() == NIL && !self.enter_next(now) {
            return Step::Nothing;
        }
        let list = self.entered.get();
        let Some(slot) = self.order.pop_front(list) else {
            return Step::Nothing;
        };
        self.close_if_empty(list);
        if list < SLOTS {
            return self.fire(slot);
        }
        if let Some(entry) = self.entries.key_at(slot).and_then(|key| self.entries.get(key).ok()) {
            self.link(slot, entry.tick);
        }
        Step::Moved
    }

    fn fire(&self, slot: u32) -> Step<T> {
        let Some(key) = self.entries.key_at(slot) else {
            return Step::Nothing;
        };
        let Ok(entry) = self.entries.remove(key) else {
            return Step::Nothing;
        };
        let deadline = self.instant_of(self.elapsed.get());
        Step::Fired(Due { key, deadline, payload: entry.payload })
    }

    /// Moves the wheel's time on to the next occupied slot, or to `now` where that comes first. Says whether a slot was
    /// entered.
    fn enter_next(&self, now: u64) -> bool {
        let next = self.next_list().map(|list| (list, self.start_of(list)));
        if let Some((list, start)) = next.filter(|&(_, start)| start <= now) {
            self.elapsed.set(start);
            self.entered.set(list);
            return true;
        }
        self.wake.set(next.map_or(u64::MAX, |(_, start)| start));
        self.advance(now);
        false
    }

    /// Moves the wheel's time on to `now`, where no list starts in between: so every entry keeps its level and slot
    /// (invariant 1).
    #[inline]
    fn advance(&self, now: u64) {
        self.elapsed.set(self.elapsed.get().max(now));
    }

    /// The occupied list that starts first: the first slot of the lowest level.
    fn next_list(&self) -> Option<u32> {
        let level = self.levels.get().trailing_zeros();
        let slot = self.occupied.get(wide(level))?.get().trailing_zeros();
        Some(level.wrapping_mul(SLOTS).wrapping_add(slot))
    }

    /// The first tick of a list: the bits of `elapsed` above its level, its slot, zeros below.
    const fn start_of(&self, list: u32) -> u64 {
        let shift = (list / SLOTS).wrapping_mul(SLOT_BITS);
        let above = match u64::MAX.checked_shl(shift.wrapping_add(SLOT_BITS)) {
            Some(mask) => self.elapsed.get() & mask,
            None => 0,
        };
        above | widen(list % SLOTS).wrapping_shl(shift)
    }

    /// Puts an entry, on no list so far, where its deadline belongs as seen from `elapsed`.
    #[inline]
    fn link(&self, slot: u32, tick: u64) {
        let elapsed = self.elapsed.get();
        let highest = (tick ^ elapsed).checked_ilog2().filter(|_| tick > elapsed);
        let (list, start) = match highest.map(|bit| bit / SLOT_BITS) {
            Some(level) => {
                let list = self.open(tick, level);
                (list, self.start_of(list))
            }
            None => (DUE, elapsed),
        };
        self.wake.set(self.wake.get().min(start));
        let linked = self.order.push_back(list, slot);
        debug_assert!(linked.is_ok(), "`open` names lists that exist, and every entry has a link");
    }

    /// The list of `tick` on `level`, marked as occupied.
    #[inline]
    fn open(&self, tick: u64, level: u32) -> u32 {
        let place = slot_on(tick, level);
        let list = level.wrapping_mul(SLOTS).wrapping_add(place);
        let bit = 1u64.wrapping_shl(place);
        if let (Some(occupied), Some(soonest)) =
            (self.occupied.get(wide(level)), self.soonest.get(wide(list)))
        {
            let others = if occupied.get() & bit == 0 { u64::MAX } else { soonest.get() };
            soonest.set(others.min(tick));
            occupied.set(occupied.get() | bit);
            self.levels.set(self.levels.get() | 1u32.wrapping_shl(level));
        }
        list
    }

    fn unlink(&self, slot: u32) {
        if let Ok(list) = self.order.unlink(slot) {
            self.close_if_empty(list);
        }
    }

    /// Takes a list that ran empty out of the bitmaps.
    fn close_if_empty(&self, list: u32) {
        if !self.order.is_empty(list) {
            return;
        }
        if self.entered.get() == list {
            self.entered.set(NIL);
        }
        let level = list / SLOTS;
        let Some(occupied) = self.occupied.get(wide(level)) else {
            return;
        };
        occupied.set(occupied.get() & !1u64.wrapping_shl(list % SLOTS));
        if occupied.get() == 0 {
            self.levels.set(self.levels.get() & !1u32.wrapping_shl(level));
        }
    }

    fn soonest_in(&self, list: u32) -> u64 {
        self.soonest.get(wide(list)).map_or(0, Cell::get)
    }

    /// A deadline in ticks, rounded up.
    #[inline]
    const fn tick_of(&self, deadline: Instant) -> u64 {
        let ns = deadline.as_nanos();
        let tick = unshift(ns, self.tick_shift);
        if ns == tick.wrapping_shl(self.tick_shift) { tick } else { tick.wrapping_add(1) }
    }

    const fn instant_of(&self, tick: u64) -> Instant {
        Instant::from_nanos(tick.saturating_mul(self.tick().as_nanos()))
    }
}

impl<T: Copy> core::fmt::Debug for Timers<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Timers")
            .field("len", &self.len())
            .field("elapsed_ticks", &self.elapsed.get())
            .field("tick", &self.tick())
            .finish_non_exhaustive()
    }
}

/// The timers that are due, as [`Timers::expire`] hands them out.
#[derive(Debug)]
#[must_use = "timers fire as the iterator is driven"]
pub struct Expire<'t, 'm, T: Copy> {
    timers: &'t Timers<'m, T>,
    now: u64,
    budget: u32,
}

impl<T: Copy> Iterator for Expire<'_, '_, T> {
    type Item = Due<T>;

    fn next(&mut self) -> Option<Due<T>> {
        loop {
            self.budget = self.budget.checked_sub(1)?;
            match self.timers.step(self.now) {
                Step::Fired(due) => return Some(due),
                Step::Moved => {}
                Step::Nothing => return None,
            }
        }
    }
}

/// `ns` in units of `2^shift`, rounded down.
#[inline]
const fn unshift(ns: u64, shift: u32) -> u64 {
    ns.wrapping_shr(shift)
}

/// Which slot of `level` a tick belongs to.
#[inline]
const fn slot_on(tick: u64, level: u32) -> u32 {
    low(tick.wrapping_shr(level.wrapping_mul(SLOT_BITS))) & (SLOTS - 1)
}
