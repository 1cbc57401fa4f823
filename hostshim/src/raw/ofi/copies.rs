//! Slots for copies of what is injected and is too long for the library to copy it.

use core::cell::RefCell;
use core::fmt;
use core::ptr::NonNull;

use spinwire_dataplane::raw::loan::Sge;

/// Slots of equal size. Each is nobody's, or an operation's.
pub(crate) struct Copies {
    memory: NonNull<u8>,
    bytes: usize,
    each: usize,
    /// Slots that are nobody's.
    free: RefCell<Vec<u32>>,
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("each", &self.each).finish_non_exhaustive()
    }
}

impl Copies {
    /// `count` slots of `each` bytes.
    pub(crate) fn new(count: u32, each: usize) -> Self {
        let slots = usize::try_from(count).unwrap_or(0);
        let all: Box<[u8]> = vec![0; slots.saturating_mul(each)].into_boxed_slice();
        let bytes = all.len();
        let memory = NonNull::from(Box::leak(all)).cast();
        Self { memory, bytes, each, free: RefCell::new((0..count).rev().collect()) }
    }

    /// All of their memory.
    pub(crate) const fn range(&self) -> (NonNull<u8>, usize) {
        (self.memory, self.bytes)
    }

    /// Copies bytes into a slot. `None` where all are taken, or the bytes are too many.
    pub(crate) fn take(&self, bytes: &[u8]) -> Option<(u32, Sge)> {
        let (slot, start, range) = self.lend(bytes.len())?;
        // SAFETY: the slot is nobody's, and as long as that.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Some((slot, range))
    }

    /// A whole slot that is never given back, for bytes that nobody reads. `None` where all are taken.
    pub(crate) fn take_whole(&self) -> Option<Sge> {
        self.lend(self.each).map(|(_never_given_back, _start, range)| range)
    }

    /// The first bytes of a slot that was nobody's: its number, and where they are.
    fn lend(&self, bytes: usize) -> Option<(u32, NonNull<u8>, Sge)> {
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= self.each)?;
        let slot = self.free.borrow_mut().pop()?;
        let offset = usize::try_from(slot).ok()?.saturating_mul(self.each);
        // SAFETY: a slot of the memory.
        let start = unsafe { self.memory.add(offset) };
        // SAFETY: mapped until this is dropped, which is after the endpoint; nobody else touches the slot before it is given back.
        Some((slot, start, unsafe { Sge::from_raw(start, length) }))
    }

    /// The operation of that slot is over.
    pub(crate) fn give_back(&self, slot: u32) {
        let mut free = self.free.borrow_mut();
        debug_assert!(!free.contains(&slot), "given back once");
        // There is room for all of them: nothing is allocated.
        free.push(slot);
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        let all = NonNull::slice_from_raw_parts(self.memory, self.bytes);
        // SAFETY: leaked by `new`, with this length.
        drop(unsafe { Box::from_raw(all.as_ptr()) });
    }
}
