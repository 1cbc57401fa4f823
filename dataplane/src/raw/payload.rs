//! The bytes of a shared buffer, in the hands of one guard.
//!
//! A buffer of a pool lies in memory that other processes map. There are two ways to its bytes:
//!
//! - **Copies** ([`line::copy_in`], [`line::copy_out`]): always allowed. Whatever others do to the bytes meanwhile, some bytes
//!   are copied and nothing worse happens.
//! - **Plain slices**: only after somebody has promised, by [`PlainAccess::promise`], what makes them sound.
//!
//! What stands behind a slice. Within the protocol nobody writes while a guard for reading exists anywhere, and nobody else
//! touches the bytes while a guard for writing does: the slot word sees to that, between threads and between processes. A
//! process that maps the pool and does not keep to the protocol can still write, as it could through a debugger. Rust's
//! memory model does not speak of other processes; what is known is what the machine does: loads give some bytes. For a
//! [`Plain`] type any bytes are a value, so such a writer can spoil content. It could also make two reads of
//! one place differ, which code behind a `&[u8]` need not expect: who cannot trust the other processes copies instead.
//!
//! Invariants: (1) a `Payload` is made by a guard only, over the lines of its buffer; (2) the guard that may write is the only
//! one of its buffer in this process, by the count that its handle keeps in private memory, whatever the shared words
//! say; (3) the lines stay mapped for `'p`.

use core::ptr::NonNull;

use spinwire_layouts::pod::Plain;

use super::line::{self, LINE_BYTES, Line, partial_word, word};
use crate::sync::Ordering;

/// The promise that plain slices of a pool's buffers are sound: see [`PlainAccess::promise`].
#[derive(Clone, Copy, Debug)]
pub struct PlainAccess(());

impl PlainAccess {
    /// # Safety
    /// For every pool that this is given to, and for as long as it is mapped:
    /// 1. every process that maps the pool keeps to the protocol of the slot words, and writes no payload without a guard for
    ///    writing;
    /// 2. within this process nobody touches the lines of the arena, or of a large buffer, but through guards, and no lease
    ///    is opened twice;
    /// 3. no process is marked dead that lives.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

/// The bytes of one buffer.
#[derive(Debug)]
pub(crate) struct Payload<'p> {
    lines: &'p [Line],
}

impl<'p> Payload<'p> {
    #[inline]
    pub(crate) const fn new(lines: &'p [Line]) -> Self {
        Self { lines }
    }

    pub(crate) const fn lines(&self) -> &'p [Line] {
        self.lines
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.lines.len().saturating_mul(LINE_BYTES)
    }

    /// Copies out from `at` bytes, a multiple of 8.
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) -> bool {
        line::copy_out(self.lines, at, to)
    }

    /// The word at `at` bytes, a multiple of 8.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize) -> Option<u64> {
        let word = word(self.lines, at / line::WORD_BYTES)
            .filter(|_| at.is_multiple_of(line::WORD_BYTES))?;
        // Acquire: what a device or another process has written before it is seen afterwards. The other end of that is not in this program.
        Some(word.load(Ordering::Acquire))
    }

    /// Copies in to `at` bytes, a multiple of 8. What follows the bytes stays.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "only who may write gives it mutably")]
    pub(crate) fn copy_in(&mut self, at: usize, from: &[u8]) -> bool {
        let whole = from.len() & !7;
        let (head, tail) = from.split_at_checked(whole).unwrap_or((from, &[]));
        let Some(end) = at.checked_add(from.len()) else { return false };
        if end > self.capacity() || !line::copy_in(self.lines, at, head) {
            return false;
        }
        if !tail.is_empty()
            && let Some(word) = word(self.lines, at.wrapping_add(whole) / 8)
        {
            let kept =
                u64::MAX.wrapping_shl(u32::try_from(tail.len()).unwrap_or(0).wrapping_mul(8));
            let after = word.load(Ordering::Relaxed) & kept;
            word.store(after | partial_word(tail), Ordering::Relaxed);
        }
        true
    }

    /// Where `count` elements begin, if plain slices are allowed and they fit.
    fn start<T: Plain>(&self, access: Option<PlainAccess>, count: usize) -> Option<NonNull<[T]>> {
        access?;
        let bytes = count.checked_mul(size_of::<T>())?;
        let fits = bytes <= self.capacity() && align_of::<T>() <= align_of::<Line>();
        // Under loom a line is not what it is in memory.
        let real = size_of::<Line>() == LINE_BYTES;
        let base = NonNull::from_ref(self.lines).cast::<T>();
        (fits && real).then(|| NonNull::slice_from_raw_parts(base, count))
    }

    /// The first `count` elements, to read.
    #[inline]
    pub(crate) fn plain<T: Plain>(
        &self,
        access: Option<PlainAccess>,
        count: usize,
    ) -> Option<&[T]> {
        let slice = self.start::<T>(access, count)?;
        // SAFETY: inside of the lines and aligned (`start`); any bytes are a value of T (`Plain`); nobody writes them while
        // this guard is there (invariants 1 and 2, promises 1 and 2 of `PlainAccess`, without which `start` gives nothing).
        Some(unsafe { slice.as_ref() })
    }

    /// The first `count` elements, to write. For guards that may.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "the slice is the only way to the bytes")]
    #[inline]
    pub(crate) fn plain_mut<T: Plain>(
        &mut self,
        access: Option<PlainAccess>,
        count: usize,
    ) -> Option<&mut [T]> {
        let slice = self.start::<T>(access, count)?;
        // SAFETY: as in `plain`; the words are atomics, hence writable through a shared reference; this guard is the only
        // one (invariant 2), it is borrowed mutably, and nobody else touches the bytes (promises 1 and 2).
        Some(unsafe { &mut *slice.as_ptr() })
    }
}
