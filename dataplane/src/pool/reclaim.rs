//! Taking back from the dead what they held of a pool.
//!
//! ```text
//!   1. slot words      a buffer that it wrote is freed, whatever references it has: nobody knows what is in it
//!                      a buffer that it read loses its bit; the last reference frees it
//!                      detached references that it left go too, where the pool is made so
//!   2. free bits       set for every slot that is free: it may have died between a slot word and its bit
//!   3. sleepers        woken: it may have died between a release and the wake-up
//!   4. the epoch       raised
//!   5. the lease       free
//! ```
//!
//! Any number of survivors may do this at the same time, stop anywhere, and begin again. Steps 2 to 4 harm nobody at any time.
//! Each step on a slot word is one compare-and-swap from a word that was read before the lease was seen to be dead still. A
//! successor in the same slot of the process table has the same bit, and could bring back the very word that a slow
//! survivor has read: so each such step raises the count of repairs in the word, and the slow one's swap fails.

use spinwire_layouts::shm::pool::stay;
use spinwire_layouts::shm::{BufferId, Lease, LeaseState, Orphans, SlotSplit, SlotWord};

use super::error::PoolError;
use super::host::PoolHost;
use super::segment::{DETACHED_BY, LEFT, PoolSegment, SIZE, TAKEN, load};
use super::slot::{ATTEMPTS_MAX, Left, Slot};
use crate::shm::lease;
use crate::sync::{AtomicU64, Ordering};

/// What a call of [`PoolSegment::reclaim`] did. Of several survivors each counts its own steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reclaimed {
    /// Slot words from which something was taken.
    pub held: u32,
    /// Buffers that are free because of that.
    pub freed: u32,
    /// Free slots that nobody could have found.
    pub found: u32,
    /// 1 where the lease is free because of this call, else 0.
    pub leases: u32,
}

/// What a slot of the pool says, for tools and checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferRow {
    /// The id of its present use, or of its last one; none where it was never used.
    pub id: BufferId,
    /// Bytes that it can hold.
    pub slot_bytes: u64,
    /// Bytes in use.
    pub size: u64,
    /// Who has it.
    pub word: SlotWord,
    /// Who last left a reference behind: see [`stay`]; 0 for nobody.
    pub detached_by: u64,
    /// When this use began, in nanoseconds since 1970 UTC, as exact as [`TICK_NS`](super::TICK_NS); 0 where nobody kept the
    /// pool's clock. Nobody checks what stands there.
    pub taken_unix_ns: u64,
    /// When somebody last left a reference behind, where any is detached; else 0.
    pub left_unix_ns: u64,
    /// Whether its free bit is set.
    pub is_marked: bool,
}

/// The slots of one class, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassStats {
    /// Bytes of each.
    pub slot_bytes: u64,
    /// How many there are.
    pub slots: u32,
    /// Nobody has them.
    pub free: u32,
    /// Somebody writes them.
    pub written: u32,
    /// Somebody reads them.
    pub shared: u32,
    /// All references are detached.
    pub detached: u32,
    /// References altogether.
    pub references: u64,
    /// Bytes in use, of those that are not free.
    pub used_bytes: u64,
}

impl PoolSegment<'_> {
    /// Takes back everything that the process in slot `process` of the process table held, if it is marked dead
    /// ([`mark_dead`](crate::shm::lease::mark_dead)); `None` where it is not.
    pub fn reclaim(&self, process: u16, host: &impl PoolHost) -> Option<Reclaimed> {
        let word = lease::lease_word(self, process)?;
        let dead = word.load(Ordering::Acquire);
        let lease = Lease::unpack(dead).filter(|lease| lease.state == LeaseState::Dead)?;
        let corpse = Corpse {
            lease_word: word,
            dead,
            stay: stay(dead, process),
            bit: self.split().holder(process),
            orphans: self.geometry().orphan_rule(),
        };
        let mut done = Reclaimed::default();
        for class in self.classes() {
            for index in 0..class.spec.slot_count {
                let number = class.first_slot.wrapping_add(index);
                let (Some(slot), Some([hot, ..])) = (self.slot(number), self.meta(number)) else {
                    continue;
                };
                let left = corpse.take_back(slot, || load(hot, DETACHED_BY));
                let freed = matches!(left, Some(Left::Free(_)));
                done.held = done.held.wrapping_add(u32::from(left.is_some()));
                done.freed = done.freed.wrapping_add(u32::from(freed));
                if slot.is_free_now() && class.map.mark(index) && !freed {
                    done.found = done.found.wrapping_add(1);
                }
            }
            class.map.wake(host);
        }
        self.raise_epoch();
        let free = Lease { state: LeaseState::Free, subject: 0, ..lease }.pack();
        let swapped = word.compare_exchange(dead, free, Ordering::AcqRel, Ordering::Relaxed);
        done.leases = u32::from(swapped.is_ok());
        Some(done)
    }

    /// Every slot, as it is at the moment: each row by itself, not all at one instant.
    pub fn rows(&self) -> impl Iterator<Item = BufferRow> {
        self.classes().flat_map(move |class| {
            (0..class.spec.slot_count).filter_map(move |index| {
                let number = class.first_slot.wrapping_add(index);
                let [hot, ..] = self.meta(number)?;
                let word = self.split().unpack(load(hot, 0));
                let id = match word.generation {
                    0 => BufferId::NONE,
                    generation => self.id(number, generation),
                };
                Some(BufferRow {
                    id,
                    slot_bytes: class.spec.slot_bytes,
                    size: load(hot, SIZE).min(class.spec.slot_bytes),
                    word,
                    detached_by: load(hot, DETACHED_BY),
                    taken_unix_ns: load(hot, TAKEN),
                    left_unix_ns: if word.detached > 0 { load(hot, LEFT) } else { 0 },
                    is_marked: class.map.is_marked(index),
                })
            })
        })
    }

    /// The slots of each class, counted: a walk over all of them.
    pub fn stats(&self) -> impl Iterator<Item = ClassStats> {
        self.classes().map(move |class| {
            let first = ClassStats { slot_bytes: class.spec.slot_bytes, ..ClassStats::default() };
            (0..class.spec.slot_count).fold(first, |mut stats, index| {
                let Some([hot, ..]) = self.meta(class.first_slot.wrapping_add(index)) else {
                    return stats;
                };
                let word = self.split().unpack(load(hot, 0));
                let of_kind = if word.is_free() {
                    &mut stats.free
                } else if word.writer {
                    &mut stats.written
                } else if word.holders != 0 {
                    &mut stats.shared
                } else {
                    &mut stats.detached
                };
                *of_kind = of_kind.wrapping_add(1);
                stats.slots = stats.slots.wrapping_add(1);
                if !word.is_free() {
                    stats.references = stats.references.wrapping_add(u64::from(word.references()));
                    let size = load(hot, SIZE).min(class.spec.slot_bytes);
                    stats.used_bytes = stats.used_bytes.wrapping_add(size);
                }
                stats
            })
        })
    }

    /// Releases a detached reference, for somebody who is no member: a repair of what the dead left in their lanes. Returns
    /// how many references there are then.
    ///
    /// # Errors
    /// As [`Pool::release`](super::Pool::release).
    pub fn release(&self, id: BufferId, host: &impl PoolHost) -> Result<u32, PoolError> {
        let number = id.slot();
        let inside = |first: u32, count: u32| number.checked_sub(first).filter(|i| *i < count);
        let place = self.classes().find_map(|class| {
            inside(class.first_slot, class.spec.slot_count).map(|index| (class, index))
        });
        let (class, index) = place.filter(|_| id.tag() == self.tag()).ok_or(PoolError::Foreign)?;
        let slot = self.slot(number).ok_or(PoolError::Foreign)?;
        match slot.release(id.generation())? {
            Left::Free(_) => {
                class.map.came_free(index, host);
                Ok(0)
            }
            Left::InUse => Ok(self.split().unpack(slot.word.load(Ordering::Relaxed)).references()),
        }
    }
}

/// A dead process.
struct Corpse<'s> {
    lease_word: &'s AtomicU64,
    dead: u64,
    /// What says that a reference was left behind by it.
    stay: u64,
    bit: u64,
    orphans: Orphans,
}

impl Corpse<'_> {
    /// What is left of the word of a slot without the dead; `None` where it had nothing there.
    fn without(&self, slot: Slot<'_>, found: u64, detached_by: u64) -> Option<u64> {
        let in_use = slot.split.in_use();
        if found & in_use == 0 {
            return None;
        }
        let holds = found & self.bit != 0;
        let orphaned = self.orphans == Orphans::Release
            && found & SlotSplit::DETACHED != 0
            && detached_by == self.stay;
        let next = match (holds, found & SlotSplit::WRITER != 0) {
            (true, true) => found & !in_use,
            (true, false) if orphaned => found & !self.bit & !SlotSplit::DETACHED,
            (true, false) => found & !self.bit,
            (false, _) if orphaned => found & !SlotSplit::DETACHED,
            (false, _) => return None,
        };
        Some(SlotSplit::repaired(next))
    }

    /// Takes back a slot. `None` where there was nothing to take.
    fn take_back(&self, slot: Slot<'_>, detached_by: impl Fn() -> u64) -> Option<Left> {
        for _attempt in 0..ATTEMPTS_MAX {
            let found = slot.word.load(Ordering::Acquire);
            let next = self.without(slot, found, detached_by())?;
            if self.lease_word.load(Ordering::Acquire) != self.dead {
                return None;
            }
            // SYNC(slot): a step like any other; a failure means that somebody else was faster.
            let swap = slot.word.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed);
            if swap.is_ok() {
                let free = next & slot.split.in_use() == 0;
                return Some(if free { Left::Free(next) } else { Left::InUse });
            }
        }
        None
    }
}
