//! Mending by somebody who is no member: what a person asks for at the command line.
//!
//! [`reclaim`](PoolSegment::reclaim) follows a death. These need none: missing bits and sleepers can be seen to at any time, and
//! a buffer that only detached references keep may be freed by whoever knows that nobody will come for it.

use spinwire_layouts::shm::{BufferId, SlotSplit};
use spinwire_layouts::word::to_usize;

use super::host::PoolHost;
use super::reclaim::BufferRow;
use super::segment::{DETACHED_BY, PoolSegment, SIZE, load};
use super::tensor::{Description, read_description};
use crate::sync::Ordering;

impl PoolSegment<'_> {
    /// Sets the bit of every free slot that has none, and wakes all who wait: steps 2 and 3 of a reclaim, which harm nobody at any
    /// time. Returns how many there were. A live process may be about to set one itself.
    pub fn mend(&self, host: &impl PoolHost) -> u32 {
        let mut found = 0_u32;
        for class in self.classes() {
            for index in 0..class.spec.slot_count {
                let slot = self.slot(class.first_slot.wrapping_add(index));
                let is_free = slot.is_some_and(|slot| slot.is_free_now());
                if is_free && !class.map.is_marked(index) && class.map.mark(index) {
                    found = found.wrapping_add(1);
                }
            }
            class.map.wake(host);
        }
        found
    }

    /// Frees a buffer that nobody holds, with all its detached references: their ids turn stale. Only as it was when `row` was
    /// read; `false` where it has changed since, or somebody holds it.
    pub fn free_detached(&self, row: &BufferRow, host: &impl PoolHost) -> bool {
        let number = row.id.slot();
        let (Some(slot), Some([hot, ..])) = (self.slot(number), self.meta(number)) else {
            return false;
        };
        let found = slot.split.pack(row.word);
        let is_detached = found & (slot.split.holders() | SlotSplit::WRITER) == 0
            && found & SlotSplit::DETACHED != 0
            && load(hot, DETACHED_BY) == row.detached_by;
        if row.id == BufferId::NONE || !is_detached {
            return false;
        }
        let next = SlotSplit::repaired(found & !SlotSplit::DETACHED);
        // SYNC(slot): a step like any other; a failure means that somebody has come for it.
        let swap = slot.word.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed);
        if swap.is_err() {
            return false;
        }
        for class in self.classes() {
            let index = number.checked_sub(class.first_slot);
            if let Some(index) = index.filter(|index| *index < class.spec.slot_count) {
                class.map.came_free(index, host);
            }
        }
        true
    }

    /// What the writer of a buffer said is in it, seen without taking it: `None` where nothing was said, what was said cannot be,
    /// or the buffer is being written or has changed since `row` was read.
    #[must_use]
    pub fn description_of(&self, row: &BufferRow) -> Option<Description> {
        let meta = self.meta(row.id.slot()).filter(|_| row.id != BufferId::NONE)?;
        let unchanged = || {
            let word = self.slot(row.id.slot())?.word.load(Ordering::Acquire);
            let now = self.split().unpack(word);
            let same = now.generation == row.word.generation && !now.writer && !now.is_free();
            same.then_some(())
        };
        unchanged()?;
        let [hot, ..] = meta;
        let length = load(hot, SIZE).min(row.slot_bytes);
        let found = read_description(meta, row.id, to_usize(length)).ok()?;
        unchanged()?;
        Some(found)
    }
}
