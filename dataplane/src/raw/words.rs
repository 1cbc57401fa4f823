//! Memory that the kernel maps too, as a bounded slice of 32-bit atomics: the rings of io_uring count in such words.
//!
//! Invariants: a slice never reaches past its mapping, which stays mapped for `'s`; nobody looks at the same bytes through
//! atomics of another width.

use core::ptr::NonNull;

use crate::sync::AtomicU32;

#[cfg(not(loom))]
const _: () = assert!(size_of::<AtomicU32>() == 4 && align_of::<AtomicU32>() == 4);

/// Views `bytes` of mapped memory at `base` as words of 32 bits. A rest of less than a word is left out.
///
/// Returns `None` where `base` is not aligned to a word.
///
/// # Safety
/// For all of `'s`: `base..base+bytes` stays mapped for reading and writing, and everybody in this process who touches it does so
/// through atomics of 32 bits. The kernel is foreign code that Rust's memory model does not cover.
#[must_use]
pub unsafe fn words_from_raw<'s>(base: NonNull<u8>, bytes: usize) -> Option<&'s [AtomicU32]> {
    let base = base.cast::<AtomicU32>();
    if !base.is_aligned() {
        return None;
    }
    let words = NonNull::slice_from_raw_parts(base, bytes / 4);
    // SAFETY: aligned (just checked), mapped and touched by such atomics only (the caller's promise), and every bit pattern is a
    // valid word.
    Some(unsafe { words.as_ref() })
}
