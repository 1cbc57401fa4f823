//! What a handle keeps in private memory: of each slot how many guards it has, so that the shared word needs one bit for all
//! of them; of each class the last few slots that it freed, which are near and most likely still free, each with the word
//! that it left, which is then still there.

use core::cell::Cell;

use spinwire_layouts::shm::pool::KindWord;
use spinwire_layouts::word::widen;

use super::free_map::FreeMap;
use super::segment::{ClassPart, KIND, META_LINES, load};
use crate::raw::line::Line;

/// The count of a slot: a guard for writing.
pub(super) const WRITING: u32 = u32::MAX;
/// Slots of a class that a handle remembers.
const RECENT: usize = 8;

/// A class, as a handle sees it.
pub(super) struct ClassTable<'m> {
    pub(super) slot_bytes: u64,
    pub(super) first_slot: u32,
    pub(super) slot_count: u32,
    pub(super) map: FreeMap<'m>,
    /// Empty where the slots have segments of their own.
    pub(super) arena: &'m [Line],
    recent: [Recent; RECENT],
    pub(super) recent_count: Cell<usize>,
    /// Where the next search begins.
    pub(super) start: Cell<u32>,
}

/// A slot that this handle freed, and the word that it left there.
struct Recent {
    slot: Cell<u32>,
    word: Cell<u64>,
}

impl<'m> ClassTable<'m> {
    /// Handles begin to search at different places, so that they do not meet at once: this is handle `index` of `handles`.
    pub(super) fn new(part: Option<&ClassPart<'m>>, (index, handles): (u16, u32)) -> Self {
        let slot_count = part.map_or(0, |part| part.spec.slot_count);
        let start = widen(slot_count).wrapping_mul(u64::from(index));
        let start = start.checked_div(widen(handles)).unwrap_or(0);
        Self {
            slot_bytes: part.map_or(0, |part| part.spec.slot_bytes),
            first_slot: part.map_or(0, |part| part.first_slot),
            slot_count,
            map: part.map_or(FreeMap::new(&[], 0), |part| part.map),
            arena: part.map_or(&[], |part| part.arena),
            recent: [const { Recent { slot: Cell::new(0), word: Cell::new(0) } }; RECENT],
            recent_count: Cell::new(0),
            start: Cell::new(u32::try_from(start).unwrap_or(0)),
        }
    }
}

impl ClassTable<'_> {
    #[inline]
    pub(super) fn remember(&self, slot: u32, word: u64) {
        let count = self.recent_count.get();
        if let Some(place) = self.recent.get(count) {
            place.slot.set(slot);
            place.word.set(word);
            self.recent_count.set(count.wrapping_add(1));
        }
    }

    #[inline]
    pub(super) fn recall(&self) -> Option<(u32, u64)> {
        let count = self.recent_count.get().checked_sub(1)?;
        self.recent_count.set(count);
        self.recent.get(count).map(|recent| (recent.slot.get(), recent.word.get()))
    }
}

/// What a handle holds of a slot.
#[derive(Debug)]
pub(super) struct Tally {
    /// Guards, or [`WRITING`].
    pub(super) count: Cell<u32>,
    /// Code of the [`StorageType`](spinwire_layouts::shm::StorageType), as long as there is a guard. Read once, as is all that
    /// guards are asked for at every access: the line of the slot may be far away.
    pub(super) storage: Cell<u8>,
    /// Which use of the slot, and how many bytes are in use, as long as there is a guard for reading: a second one need not
    /// look at the slot.
    pub(super) generation: Cell<u64>,
    pub(super) length: Cell<u64>,
}

impl Tally {
    pub(super) const fn nothing() -> Self {
        Self {
            count: Cell::new(0),
            storage: Cell::new(0),
            generation: Cell::new(0),
            length: Cell::new(0),
        }
    }
}

/// One slot, as a handle sees it.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) class: &'p ClassTable<'p>,
    pub(super) meta: &'p [Line; META_LINES],
    pub(super) tally: &'p Tally,
}

impl<'p> Place<'p> {
    #[inline]
    pub(super) const fn hot(&self) -> &'p Line {
        let [hot, ..] = self.meta;
        hot
    }

    /// Where what is in it is said to lie is looked up, for guards to come.
    #[inline]
    pub(super) fn look_up_storage(&self) {
        self.tally.storage.set(KindWord::unpack(load(self.hot(), KIND)).storage);
    }
}
