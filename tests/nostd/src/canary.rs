//! A probe with one panic planted in it, so that the scan can be seen to find it, beside some that have none.
#![no_std]
#![allow(
    improper_ctypes_definitions,
    reason = "nobody calls these from C; they only have to stay in the library"
)]

mod completions;
mod panic;

/// The planted panic: an index that nobody checks, behind a call that is not inlined.
#[unsafe(no_mangle)]
pub extern "C" fn probe_canary(words: &[u64; 8], index: usize) -> u64 {
    unchecked(words, index)
}

#[inline(never)]
fn unchecked(words: &[u64; 8], index: usize) -> u64 {
    words[index]
}
