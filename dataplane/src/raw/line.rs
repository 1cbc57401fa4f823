//! Foreign memory: a bounded slice of cache lines, each of eight atomic words.
//!
//! ```text
//!   &'s [Line]     | w0 w1 w2 w3 w4 w5 w6 w7 | w0 .. w7 | ...      one Line = 64 bytes = 8 words
//! ```
//!
//! Memory that a peer can write at any moment is never seen as plain data in this crate. It is a `&[Line]`, every word
//! of it an atomic, so that a scribbling peer can change values but can neither cause undefined behaviour nor move a
//! bound. The tests (loom, fuzzing, hostile peers) run the same code over ordinary vectors of lines.
//!
//! Long copies go through [`copy_in`] and [`copy_out`]. On x86-64 they are a loop in assembly, opaque to the compiler:
//! it can assume nothing about bytes that change under way, and whatever was there is simply what is copied. Elsewhere
//! and under loom they are loops of relaxed word accesses.
//!
//! Invariants: a slice of lines never reaches past its mapping, which stays mapped for `'s`; a copy checks its range
//! against the slice before it touches memory.

use core::ptr::NonNull;

use crate::sync::{AtomicU64, Ordering};

/// Bytes in a line.
pub const LINE_BYTES: usize = 64;
/// Words in a line.
pub const LINE_WORDS: usize = 8;
/// Bytes in a word.
pub const WORD_BYTES: usize = 8;

/// One cache line of shared memory.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Line {
    words: [AtomicU64; LINE_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == LINE_BYTES && align_of::<Line>() == LINE_BYTES);

impl Default for Line {
    fn default() -> Self {
        Self::zeroed()
    }
}

impl Line {
    /// A line of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// The eight words.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> &[AtomicU64; LINE_WORDS] {
        &self.words
    }
}

/// Views `bytes` of mapped memory at `base` as lines. A rest of less than a line is left out.
///
/// Returns `None` where `base` is not aligned to a line.
///
/// # Safety
/// For all of `'s`: `base..base+bytes` stays mapped for reading and writing, and everybody who touches it, in this
/// process or another, does so through atomics, or is foreign code that Rust's memory model does not cover.
#[must_use]
pub unsafe fn lines_from_raw<'s>(base: NonNull<u8>, bytes: usize) -> Option<&'s [Line]> {
    let base = base.cast::<Line>();
    if !base.is_aligned() {
        return None;
    }
    let lines = NonNull::slice_from_raw_parts(base, bytes / LINE_BYTES);
    // SAFETY: aligned (just checked), mapped and touched by atomics only (the caller's promise), and every bit pattern
    // is a valid Line.
    Some(unsafe { lines.as_ref() })
}

/// The word `index` words into `lines`.
#[must_use]
#[inline]
pub fn word(lines: &[Line], index: usize) -> Option<&AtomicU64> {
    lines.get(index / LINE_WORDS)?.words.get(index % LINE_WORDS)
}

/// Copies `from` to `at` bytes into `to`. `at` is a multiple of 8; the rest of the last word is zeroed.
///
/// Returns whether it fitted; if not, nothing was written.
#[must_use]
#[inline]
pub fn copy_in(to: &[Line], at: usize, from: &[u8]) -> bool {
    if !fits(to, at, from.len()) {
        return false;
    }
    let (words, rest) = from.as_chunks::<WORD_BYTES>();
    let whole = words.len().wrapping_mul(WORD_BYTES);
    if let Some((head, _)) = from.split_at_checked(whole)
        && whole > 0
    {
        bulk::copy_in(to, at, head);
    }
    if !rest.is_empty() {
        let at = at.wrapping_add(whole) / WORD_BYTES;
        if let Some(word) = word(to, at) {
            word.store(partial_word(rest), Ordering::Relaxed);
        }
    }
    true
}

/// Copies `to.len()` bytes from `at` bytes into `from`. `at` is a multiple of 8.
///
/// Returns whether the range lies in `from`; if not, `to` is untouched.
#[must_use]
#[inline]
pub fn copy_out(from: &[Line], at: usize, to: &mut [u8]) -> bool {
    if !fits(from, at, to.len()) {
        return false;
    }
    let whole = to.len() & !(WORD_BYTES - 1);
    if let Some((head, rest)) = to.split_at_mut_checked(whole) {
        if whole > 0 {
            bulk::copy_out(from, at, head);
        }
        if !rest.is_empty()
            && let Some(word) = word(from, at.wrapping_add(whole) / WORD_BYTES)
        {
            store_partial(word.load(Ordering::Relaxed), rest);
        }
    }
    true
}

/// Hands the bytes of `parts`, one behind the other, to `put`, with the position of the first of each call: always a multiple of 8. What fills words
/// of its own is handed on from where it lies; only where one part ends and the next begins within a word are bytes held back until that is full.
pub fn pour(parts: impl Iterator<Item = impl AsRef<[u8]>>, mut put: impl FnMut(usize, &[u8])) {
    let mut at = 0_usize;
    let (mut word, mut held) = ([0; WORD_BYTES], 0_usize);
    for part in parts {
        let mut rest = part.as_ref();
        if held > 0 {
            let room = word.get_mut(held..).unwrap_or_default();
            let (here, behind) = rest.split_at_checked(room.len()).unwrap_or((rest, &[]));
            for (to, from) in room.iter_mut().zip(here) {
                *to = *from;
            }
            held = held.wrapping_add(here.len());
            if held < WORD_BYTES {
                continue;
            }
            put(at, &word);
            at = at.wrapping_add(WORD_BYTES);
            rest = behind;
        }
        let whole = rest.len() & !(WORD_BYTES - 1);
        let (words, over) = rest.split_at_checked(whole).unwrap_or((rest, &[]));
        put(at, words);
        at = at.wrapping_add(whole);
        held = over.len();
        word = partial_word(over).to_le_bytes();
    }
    put(at, word.get(..held).unwrap_or_default());
}

/// Copies from byte `at` on, wherever that is, where `copy` can from whole words on only. Returns whether it could.
pub fn copy_from(at: usize, to: &mut [u8], mut copy: impl FnMut(usize, &mut [u8]) -> bool) -> bool {
    let within = at & (WORD_BYTES - 1);
    let start = at.wrapping_sub(within);
    if within == 0 {
        return copy(start, to);
    }
    let mut word = [0; WORD_BYTES];
    if !copy(start, &mut word) {
        return false;
    }
    let tail = word.get(within..).unwrap_or_default();
    let (here, behind) = match to.split_at_mut_checked(tail.len()) {
        Some(split) => split,
        None => (to, &mut [][..]),
    };
    for (to, from) in here.iter_mut().zip(tail) {
        *to = *from;
    }
    behind.is_empty() || copy(start.wrapping_add(WORD_BYTES), behind)
}

#[inline(always)]
fn fits(lines: &[Line], at: usize, length: usize) -> bool {
    let room = lines.len().saturating_mul(LINE_BYTES);
    at.is_multiple_of(WORD_BYTES) && at.checked_add(length).is_some_and(|end| end <= room)
}

/// Up to eight bytes as the low bytes of a word; the others are zero.
#[must_use]
#[inline(always)]
pub fn partial_word(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD_BYTES];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

/// The low bytes of `word` into up to eight bytes.
#[inline(always)]
pub fn store_partial(word: u64, bytes: &mut [u8]) {
    for (to, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
        *to = from;
    }
}

/// Asks for the line to be brought near, where the CPU knows how.
#[inline(always)]
pub fn prefetch(lines: &[Line], index: usize) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    if let Some(line) = lines.get(index) {
        let at = core::ptr::from_ref(line).cast::<i8>();
        // SAFETY: a prefetch of a mapped line; it reads nothing architecturally and never faults.
        unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = (lines, index);
}

/// Asks for the line to be brought near for writing, where the CPU knows how: a store that follows does not wait for the
/// copies of others to be given up.
#[inline(always)]
pub fn prefetch_for_write(line: &Line) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    {
        let at = core::ptr::from_ref(line);
        // SAFETY: a prefetch of a mapped line; it changes nothing and never faults. PREFETCHW is a no-op on a CPU without it
        // (AMD APM volume 3, PREFETCHlevel; Intel SDM volume 2, PREFETCHW).
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = line;
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod bulk {
    //! Sixteen bytes a step, in SSE2, which every x86-64 has. The caller has checked the range.

    use super::{LINE_BYTES, Line, WORD_BYTES};
    use core::arch::asm;

    /// From this many bytes on the string instruction is faster.
    const LONG_BYTES: usize = 1024;

    #[inline(always)]
    pub(super) fn copy_in(to: &[Line], at: usize, from: &[u8]) {
        // `cast_mut` gives away nothing: every byte of a Line may be written through a shared reference.
        let to = to.as_ptr().cast::<u8>().cast_mut().wrapping_add(at);
        // SAFETY: the caller checked that at..at+from.len() lies in `to`, whose words are atomics and may be written by
        // anybody at any time; `from` is ours; from.len() is a multiple of 8.
        unsafe { copy_words(from.as_ptr(), to, from.len()) };
    }

    #[inline(always)]
    pub(super) fn copy_out(from: &[Line], at: usize, to: &mut [u8]) {
        let from = from.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: the caller checked that at..at+to.len() lies in `from`; `to` is ours; to.len() is a multiple of 8.
        unsafe { copy_words(from, to.as_mut_ptr(), to.len()) };
    }

    /// # Safety
    /// `from` is readable and `to` writable for `bytes`, a multiple of 8; they do not overlap.
    #[inline(always)]
    unsafe fn copy_words(mut from: *const u8, mut to: *mut u8, mut bytes: usize) {
        if bytes >= LONG_BYTES {
            // SAFETY: copies exactly `bytes` bytes upwards; the direction flag is clear by the ABI; the three registers are
            // declared.
            unsafe {
                asm!(
                    "rep movsb",
                    inout("rsi") from => _,
                    inout("rdi") to => _,
                    inout("rcx") bytes => _,
                    options(nostack, preserves_flags),
                );
            }
            return;
        }
        if bytes >= LINE_BYTES {
            // SAFETY: reads and writes exactly the first bytes / 64 * 64 bytes of either range, and leaves the pointers
            // behind them; xmm0-3, the counters and the flags are declared.
            unsafe {
                asm!(
                    "2:",
                    "movdqu xmm0, [{from}]",
                    "movdqu xmm1, [{from} + 16]",
                    "movdqu xmm2, [{from} + 32]",
                    "movdqu xmm3, [{from} + 48]",
                    "movdqu [{to}], xmm0",
                    "movdqu [{to} + 16], xmm1",
                    "movdqu [{to} + 32], xmm2",
                    "movdqu [{to} + 48], xmm3",
                    "add {from}, 64",
                    "add {to}, 64",
                    "sub {bytes}, 64",
                    "cmp {bytes}, 64",
                    "jae 2b",
                    from = inout(reg) from,
                    to = inout(reg) to,
                    bytes = inout(reg) bytes,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    options(nostack),
                );
            }
        }
        while bytes >= WORD_BYTES {
            // SAFETY: at least 8 bytes are left in both ranges; the scratch register and nothing else changes.
            unsafe {
                asm!(
                    "mov {word}, [{from}]",
                    "mov [{to}], {word}",
                    from = in(reg) from,
                    to = in(reg) to,
                    word = out(reg) _,
                    options(nostack, preserves_flags),
                );
            }
            from = from.wrapping_add(WORD_BYTES);
            to = to.wrapping_add(WORD_BYTES);
            bytes = bytes.wrapping_sub(WORD_BYTES);
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
mod bulk {
    //! Word by word, relaxed. The caller has checked the range.

    use super::{Line, Ordering, WORD_BYTES, word};

    pub(super) fn copy_in(to: &[Line], at: usize, from: &[u8]) {
        for (i, chunk) in from.as_chunks::<WORD_BYTES>().0.iter().enumerate() {
            if let Some(word) = word(to, (at / WORD_BYTES).wrapping_add(i)) {
                word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
            }
        }
    }

    pub(super) fn copy_out(from: &[Line], at: usize, to: &mut [u8]) {
        for (i, chunk) in to.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
            if let Some(word) = word(from, (at / WORD_BYTES).wrapping_add(i)) {
                *chunk = word.load(Ordering::Relaxed).to_le_bytes();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn copies_of_every_length_and_offset_come_back_and_spill_nothing() {
        let bytes: Vec<u8> = (0..=255).cycle().skip(1).take(512).collect();
        for at in (0..64).step_by(8) {
            for length in 0..300 {
                let lines: Vec<Line> = (0..6).map(|_| Line::zeroed()).collect();
                assert!(copy_in(&lines, at, &bytes[..length]));
                let mut all = [0xEE; 384];
                assert!(copy_out(&lines, 0, &mut all));
                assert_eq!(&all[at..at + length], &bytes[..length]);
                assert!(all[..at].iter().chain(&all[at + length..]).all(|&b| b == 0));
                let mut out = std::vec![0xEE; length + 1];
                assert!(copy_out(&lines, at, &mut out[..length]));
                assert_eq!(&out[..length], &bytes[..length]);
                assert_eq!(out[length], 0xEE, "at {at} length {length}");
            }
        }
    }

    #[test]
    fn a_range_outside_is_refused_untouched() {
        let lines = [Line::zeroed(), Line::zeroed()];
        let mut out = [7; 64];
        assert!(!copy_out(&lines, 72, &mut out), "past the end");
        assert!(!copy_out(&lines, usize::MAX - 7, &mut out), "overflow");
        assert!(!copy_out(&lines, 4, &mut out), "not a whole word");
        assert_eq!(out, [7; 64]);
        assert!(!copy_in(&lines, 128, &[1]));
        assert!(word(&lines, 16).is_none());
    }
}
