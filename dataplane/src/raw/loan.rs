//! Loans: buffers that are owned by exactly one holder at a time.
//!
//! ```text
//!   LoanPool::lend -> Loan (yours: read, write) -> post_* -> Sge (the provider's) -> completion -> Loan (yours again)
//!                      drop: back to the pool
//! ```
//!
//! Posted memory is owned: a safe post takes the [`Loan`] away and the completion gives it back, so nothing that a
//! device or a provider writes can ever land in memory that its owner is reading.
//!
//! A loan is one word, the place of its buffer in the pool: it is moved from hand to hand with every message.
//!
//! Invariants: (1) a buffer is either in the list of the free once, or held by one `Loan`; (2) `length <= capacity` of every buffer;
//! (3) the memory of the buffers is initialised from the start and outlives the pool.

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::line::{self, Line};
use super::place::{Bump, Exhausted};

/// A pool of equal buffers in private memory. Single-threaded.
pub struct LoanPool<'m> {
    slot_bytes: u32,
    slots: &'m [Slot<'m>],
    free: &'m Free<'m>,
}

/// The buffers that nobody holds: a stack, so that a quiet service keeps to the same few warm ones.
struct Free<'m> {
    numbers: &'m [Cell<u32>],
    count: Cell<usize>,
}

/// What is known of a buffer.
struct Slot<'m> {
    address: NonNull<u8>,
    /// Bytes that count, while a loan holds it.
    length: Cell<u32>,
    capacity: u32,
    number: u32,
    free: &'m Free<'m>,
}

impl fmt::Debug for LoanPool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoanPool")
            .field("slot_bytes", &self.slot_bytes)
            .field("slots", &self.slots.len())
            .field("free", &self.free.count)
            .finish_non_exhaustive()
    }
}

impl<'m> LoanPool<'m> {
    /// Places a pool of `slots` buffers of `slot_bytes` (rounded up to whole cache lines, at most 2 GiB) in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(bump: &Bump<'m>, slots: u32, slot_bytes: usize) -> Result<&'m Self, Exhausted> {
        Self::place_at(bump, (slots, slot_bytes), line::LINE_BYTES)
    }

    /// As [`place`](Self::place), with buffers of whole pages of 4 KiB that begin at one: for devices that want that.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place_pages(
        bump: &Bump<'m>,
        slots: u32,
        slot_bytes: usize,
    ) -> Result<&'m Self, Exhausted> {
        Self::place_at(bump, (slots, slot_bytes), 4096)
    }

    /// Places a pool of buffers that begin at multiples of `align`, itself a multiple of a cache line, and have whole ones.
    fn place_at(
        bump: &Bump<'m>,
        (slots, slot_bytes): (u32, usize),
        align: usize,
    ) -> Result<&'m Self, Exhausted> {
        let too_large = Exhausted { wanted_bytes: usize::MAX, free_bytes: bump.free_bytes() };
        let bytes = slot_bytes.max(1).checked_next_multiple_of(align).ok_or(too_large)?;
        let slot_bytes = u32::try_from(bytes).ok().filter(|&b| b <= 1 << 31).ok_or(too_large)?;
        let count = usize::try_from(slots).map_err(|_wide| too_large)?;
        let total = bytes.checked_mul(count).ok_or(too_large)?;
        #[derive(Clone, Copy)]
        #[repr(C, align(64))]
        struct Block([u8; line::LINE_BYTES]);
        let blocks = total.saturating_add(align).div_euclid(line::LINE_BYTES).saturating_sub(1);
        let memory = bump.slice_with(blocks, |_| Block([0; line::LINE_BYTES]))?;
        let is_start = |block: &Block| core::ptr::from_ref(block).addr().is_multiple_of(align);
        let first = memory.iter().position(is_start).unwrap_or(0);
        let memory = memory.get_mut(first..).unwrap_or_default();
        let base = NonNull::from_mut(memory).cast::<u8>();
        // Slot 0 is on top of the stack.
        let mut next = slots;
        let numbers = bump.slice_with(count, |_| {
            next = next.wrapping_sub(1);
            Cell::new(next)
        })?;
        let free: &'m Free<'m> = bump.value(Free { numbers, count: Cell::new(count) })?;
        let slots = bump.slice_with(count, |at| Slot {
            // SAFETY: at < count, so the offset lies inside of the block that was just taken, whose size in bytes fitted a usize.
            address: unsafe { base.add(at.wrapping_mul(bytes)) },
            length: Cell::new(0),
            capacity: slot_bytes,
            number: u32::try_from(at).unwrap_or(u32::MAX),
            free,
        })?;
        Ok(bump.value(Self { slot_bytes, slots, free })?)
    }

    /// Bytes in each buffer.
    #[must_use]
    pub const fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// Buffers that nobody holds.
    #[must_use]
    pub const fn free_count(&self) -> usize {
        self.free.count.get()
    }

    /// A buffer of its own for the caller, of length 0, or `None` where all are out. What an earlier holder left in it
    /// is still there.
    #[must_use]
    #[inline]
    pub fn lend(&'m self) -> Option<Loan<'m>> {
        let top = self.free.count.get().checked_sub(1)?;
        let number = self.free.numbers.get(top)?.get();
        let slot = self.slots.get(usize::try_from(number).ok()?)?;
        self.free.count.set(top);
        slot.length.set(0);
        Some(Loan { slot })
    }
}

impl Free<'_> {
    /// Nobody holds that buffer any more.
    #[inline]
    fn take_back(&self, number: u32) {
        let count = self.count.get();
        if let Some(place) = self.numbers.get(count) {
            place.set(number);
            self.count.set(count.wrapping_add(1));
        } else {
            debug_assert!(false, "invariant 1: more slots came back than there are");
        }
    }
}

/// A buffer that its holder alone can touch. It is read as the bytes that were filled in (`len`), written through
/// [`Loan::fill`] or [`Loan::room`] and [`Loan::set_len`]. Dropping it gives it back to its pool.
pub struct Loan<'m> {
    slot: &'m Slot<'m>,
}

/// More bytes than the buffer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoanTooSmall {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes that there are.
    pub capacity: usize,
}

impl fmt::Display for LoanTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loan too small: {} bytes wanted, {} there", self.wanted, self.capacity)
    }
}

impl core::error::Error for LoanTooSmall {}

impl<'m> Loan<'m> {
    /// Bytes that the buffer can hold.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        usize::try_from(self.slot.capacity).unwrap_or(0)
    }

    /// The whole buffer, to write into; say with [`Loan::set_len`] how much of it counts.
    #[must_use]
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        let whole = NonNull::slice_from_raw_parts(self.slot.address, self.capacity());
        // SAFETY: the slot belongs to this loan alone (invariant 1), is initialised and mapped (invariant 3).
        unsafe { &mut *whole.as_ptr() }
    }

    /// Sets how many bytes count.
    ///
    /// # Errors
    /// [`LoanTooSmall`] where the buffer has fewer; the length stays as it was.
    #[inline]
    pub fn set_len(&mut self, length: usize) -> Result<(), LoanTooSmall> {
        let refused = LoanTooSmall { wanted: length, capacity: self.capacity() };
        match u32::try_from(length) {
            Ok(length) if length <= self.slot.capacity => {
                self.slot.length.set(length);
                Ok(())
            }
            _ => Err(refused),
        }
    }

    /// Replaces the content by `bytes`.
    ///
    /// # Errors
    /// [`LoanTooSmall`] where they do not fit; the content stays as it was.
    #[inline]
    pub fn fill(&mut self, bytes: &[u8]) -> Result<(), LoanTooSmall> {
        let refused = LoanTooSmall { wanted: bytes.len(), capacity: self.capacity() };
        self.room().get_mut(..bytes.len()).ok_or(refused)?.copy_from_slice(bytes);
        self.set_len(bytes.len())
    }

    /// Where its memory begins, and the bytes that it can hold.
    #[inline]
    pub(crate) const fn range(&self) -> (NonNull<u8>, u32) {
        (self.slot.address, self.slot.capacity)
    }

    /// Its number in its pool.
    #[inline]
    pub(crate) const fn slot(&self) -> u32 {
        self.slot.number
    }

    /// Gives up the buffer to a provider until the operation that it was posted for has completed.
    pub(crate) const fn post(self) -> Posted<'m> {
        Posted { loan: self }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        let length = usize::try_from(self.slot.length.get()).unwrap_or(0);
        let filled = NonNull::slice_from_raw_parts(self.slot.address, length);
        // SAFETY: as in `room`; length <= capacity (invariant 2).
        unsafe { filled.as_ref() }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = usize::try_from(self.slot.length.get()).unwrap_or(0);
        self.room().get_mut(..length).unwrap_or_default()
    }
}

impl Drop for Loan<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slot.free.take_back(self.slot.number);
    }
}

impl fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("slot", &self.slot.number)
            .field("len", &self.slot.length)
            .field("capacity", &self.slot.capacity)
            .finish_non_exhaustive()
    }
}

/// A loan in the hands of a provider. Its bytes cannot be reached by the holder, except those that a completed part of a
/// multi-receive has filled for good.
#[derive(Debug)]
pub(crate) struct Posted<'m> {
    loan: Loan<'m>,
}

impl<'m> Posted<'m> {
    /// The bytes that count, for a send.
    pub(crate) const fn filled(&self) -> Sge {
        Sge { address: self.loan.slot.address, length: self.loan.slot.length.get() }
    }

    /// The whole buffer, for a receive.
    pub(crate) const fn whole(&self) -> Sge {
        self.loan.slot.whole()
    }

    /// The first `length` bytes of the buffer, or `None` where it has fewer.
    pub(crate) fn first(&self, length: usize) -> Option<Sge> {
        let length = u32::try_from(length).ok()?;
        let fits = length <= self.loan.slot.capacity;
        fits.then_some(Sge { address: self.loan.slot.address, length })
    }

    /// The whole buffer as lines, which others may write meanwhile.
    pub(crate) fn lines(&self) -> &[Line] {
        // Under loom a line is not what it is in memory.
        let real = size_of::<Line>() == line::LINE_BYTES;
        let count = if real { self.loan.capacity().div_euclid(line::LINE_BYTES) } else { 0 };
        let lines = NonNull::slice_from_raw_parts(self.loan.slot.address.cast::<Line>(), count);
        // SAFETY: the slot belongs to this loan alone (invariant 1), is initialised and mapped (invariant 3), begins at a line and
        // has whole ones (`place_at`), and any bytes are a line; whoever else touches it does so while no slice of its bytes exists.
        unsafe { lines.as_ref() }
    }

    /// Takes the loan back. The caller has seen the completion of the operation, and says how many bytes count now (more
    /// than there are: all of them); `None` leaves that as it was.
    #[inline(always)]
    pub(crate) fn complete(self, filled: Option<usize>) -> Loan<'m> {
        self.complete_to(filled.map(|filled| u32::try_from(filled).unwrap_or(u32::MAX)))
    }

    /// The same, of a number as completions have it.
    #[inline(always)]
    pub(crate) fn complete_to(self, filled: Option<u32>) -> Loan<'m> {
        let slot = self.loan.slot;
        if let Some(filled) = filled {
            slot.length.set(filled.min(slot.capacity));
        }
        self.loan
    }
}

/// A place where a posted loan lies until its operation is over. It is seen there without being taken out.
pub(crate) struct Berth<'m>(Cell<Option<&'m Slot<'m>>>);

impl<'m> Berth<'m> {
    /// With nothing in it.
    pub(crate) const fn vacant() -> Self {
        Self(Cell::new(None))
    }

    /// Puts a loan there. It is vacant; what was in it would stay out of its pool for good.
    #[inline(always)]
    pub(crate) fn put(&self, posted: Posted<'m>) {
        let loan = ManuallyDrop::new(posted.loan);
        let before = self.0.replace(Some(loan.slot));
        debug_assert!(before.is_none(), "one loan at a time");
    }

    /// Takes out what is there.
    #[inline(always)]
    pub(crate) const fn take(&self) -> Option<Posted<'m>> {
        match self.0.replace(None) {
            None => None,
            Some(slot) => Some(Posted { loan: Loan { slot } }),
        }
    }

    /// The whole buffer of what is there.
    #[inline(always)]
    pub(crate) const fn whole(&self) -> Option<Sge> {
        match self.0.get() {
            None => None,
            Some(slot) => Some(slot.whole()),
        }
    }
}

impl Slot<'_> {
    /// The whole buffer.
    #[inline(always)]
    const fn whole(&self) -> Sge {
        Sge { address: self.address, length: self.capacity }
    }
}

/// Where a posted operation reads or writes: an address range that belongs to the provider until it reports the
/// completion.
#[derive(Clone, Copy, Debug)]
pub struct Sge {
    address: NonNull<u8>,
    length: u32,
}

impl Sge {
    /// A range of raw memory.
    ///
    /// # Safety
    /// `address..address+length` is readable and writable, initialised, and touched by nobody but the provider that this
    /// is posted to, until that provider has reported the completion or was dropped.
    #[must_use]
    pub const unsafe fn from_raw(address: NonNull<u8>, length: u32) -> Self {
        Self { address, length }
    }

    /// Bytes in the range.
    #[must_use]
    #[inline]
    pub fn length(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0)
    }

    /// Where it begins.
    #[inline]
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.address
    }

    /// The bytes to send. For providers, between the post and the completion.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> &[u8] {
        let whole = NonNull::slice_from_raw_parts(
            self.address,
            #[expect(clippy::as_conversions, reason = "u32 fits usize on 32 and 64 bit; const")]
            {
                self.length as usize
            },
        );
        // SAFETY: the range is the provider's to read until the completion (the promise of `from_raw`, or the loan that
        // the context table holds).
        unsafe { whole.as_ref() }
    }

    /// The part `from..from+length` that a completed message has filled, or `None` where it is not inside. The provider
    /// does not write it again before the buffer is posted anew.
    #[must_use]
    #[inline]
    pub(crate) fn completed_part(&self, from: usize, length: usize) -> Option<&[u8]> {
        let end = from.checked_add(length)?;
        if end > self.length() {
            return None;
        }
        // SAFETY: from <= end <= length of the range.
        let start = unsafe { self.address.add(from) };
        let part = NonNull::slice_from_raw_parts(start, length);
        // SAFETY: inside of the range; nobody writes this part while the slice lives: the provider is done with it, and
        // the endpoint does not give the buffer back meanwhile.
        Some(unsafe { part.as_ref() })
    }

    /// The part `from..from+length` to receive into, or `None` where it is not inside. For providers, between the post
    /// and the completion; parts that were given to the holder are not asked for again.
    #[must_use]
    #[inline]
    pub fn part(&mut self, from: usize, length: usize) -> Option<&mut [u8]> {
        let end = from.checked_add(length)?;
        if end > self.length() {
            return None;
        }
        // SAFETY: from <= end <= length of the range.
        let start = unsafe { self.address.add(from) };
        let part = NonNull::slice_from_raw_parts(start, length);
        // SAFETY: the part is inside of the range, which is the provider's to write until the completion; a holder reads
        // completed parts only, and this one is not completed.
        Some(unsafe { &mut *part.as_ptr() })
    }
}
