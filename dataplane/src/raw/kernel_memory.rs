//! Memory that the kernel reads and writes by itself for as long as a ring has operations under way: buffers, vectors,
//! addresses, rings of provided buffers.
//!
//! ```text
//!   the host    maps it, promises, and unmaps it after the kernel has let go of the last operation of the ring
//!   tables      are placed in it, and know by `covers` whether a buffer that they are handed lies in it
//! ```
//!
//! Invariant: what is named in a submission lies in the memory of the ring that it is submitted to.

use core::fmt;
use core::ptr::NonNull;

use spinwire_layouts::uring::Sqe;

use super::line::{LINE_BYTES, Line};
use super::loan::{Loan, Sge};
use super::place::{Bump, Exhausted};
use crate::error::PostError;
use crate::uring::{Enter, Ring};

/// An arena that the kernel may touch.
pub struct KernelMemory<'m> {
    bump: Bump<'m>,
    start: u64,
    end: u64,
}

impl fmt::Debug for KernelMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelMemory").field("bump", &self.bump).finish_non_exhaustive()
    }
}

/// Bytes of each piece in which the host registers an arena as buffers; the last may be shorter. The kernel takes no greater ones
/// (io_uring_register(2), IORING_REGISTER_BUFFERS).
pub const FIXED_BYTES: u64 = 1 << 30;

const PAGE_BYTES: u64 = 4096;
const PAGE_LINES: usize = 4096 / LINE_BYTES;

impl<'m> KernelMemory<'m> {
    /// The free part of an arena.
    ///
    /// # Safety
    /// The arena stays mapped, and its bytes are given to nobody else, until the ring that this is made for has no operation under
    /// way any more; even where the owner of either is forgotten.
    #[must_use]
    pub unsafe fn promise(bump: Bump<'m>) -> Self {
        let (start, bytes) = bump.free_range();
        let start = address_of(start);
        let end = start.saturating_add(u64::try_from(bytes).unwrap_or(0));
        Self { bump, start, end }
    }

    /// The arena, to place tables in.
    #[must_use]
    pub const fn bump(&self) -> &Bump<'m> {
        &self.bump
    }

    /// Whether a buffer lies in this memory.
    #[must_use]
    #[inline]
    pub fn covers(&self, loan: &Loan<'_>) -> bool {
        let (start, bytes) = loan.range();
        let start = address_of(start);
        self.start <= start && start.saturating_add(u64::from(bytes)) <= self.end
    }

    /// Whether posted memory lies in this memory.
    #[must_use]
    #[inline]
    pub fn covers_posted(&self, sge: &Sge) -> bool {
        let start = address_of(sge.start());
        let bytes = u64::try_from(sge.length()).unwrap_or(u64::MAX);
        self.start <= start && start.saturating_add(bytes) <= self.end
    }

    /// Whether so many bytes from an address on lie in this memory.
    #[must_use]
    #[inline]
    pub const fn covers_range(&self, address: u64, bytes: u64) -> bool {
        self.start <= address && address.saturating_add(bytes) <= self.end
    }

    /// In which of its pieces of [`FIXED_BYTES`] a buffer lies; `None` where it lies in more than one, or outside.
    #[must_use]
    #[inline]
    pub const fn fixed_index(&self, address: u64, bytes: u32) -> Option<u16> {
        let Some(first) = address.checked_sub(self.start) else { return None };
        let end = first.saturating_add(spinwire_layouts::word::widen(bytes));
        let (piece, last) = (first / FIXED_BYTES, end.saturating_sub(1) / FIXED_BYTES);
        if end > self.end.saturating_sub(self.start) || (end > first && piece != last) {
            return None;
        }
        let [a, b, rest @ ..] = piece.to_le_bytes();
        if matches!(rest, [0, 0, 0, 0, 0, 0]) { Some(u16::from_le_bytes([a, b])) } else { None }
    }

    /// Lines from the start of a page on, as rings of provided buffers have to be.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn page_lines(&self, count: usize) -> Result<&'m [Line], Exhausted> {
        let lines: &'m [Line] =
            self.bump.slice_with(count.saturating_add(PAGE_LINES), |_| Line::zeroed())?;
        let is_page = |line: &Line| address_in(line).is_multiple_of(PAGE_BYTES);
        let first = lines.iter().position(is_page).unwrap_or(0);
        Ok(lines.get(first..).and_then(|lines| lines.get(..count)).unwrap_or(&[]))
    }
}

/// Stages entries of the caller's own making, all or none: see [`Ring::submit`].
///
/// # Safety
/// Whatever the entries name (buffers, vectors, addresses, descriptors) is the kernel's to read and write until the last completion of
/// each, and stays mapped until the ring has nothing under way.
///
/// # Errors
/// `SqFull`; `TooLong` for more than [`CHAIN_MAX`](crate::uring::ring::CHAIN_MAX) or than the queue has; `OpenChain` where the last
/// one is linked; `RingLost`.
pub unsafe fn push<E: Enter>(ring: &Ring<'_, E>, entries: &[Sqe]) -> Result<(), PostError> {
    ring.push(entries)
}

/// The address as the kernel is told it.
#[must_use]
#[inline(always)]
pub fn address_of<T: ?Sized>(at: NonNull<T>) -> u64 {
    // What the kernel does with it is as if by a pointer that was made of this number.
    u64::try_from(at.as_ptr().expose_provenance()).unwrap_or(0)
}

/// The address of something that stays where it is for as long as the kernel has it.
#[must_use]
#[inline(always)]
pub fn address_in<T: ?Sized>(place: &T) -> u64 {
    address_of(NonNull::from_ref(place))
}
