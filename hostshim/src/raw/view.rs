//! Mappings as the data plane wants to see them: shared ones as lines of atomics, private ones as a block to build in.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use spinwire_dataplane::raw::line::{Line, lines_from_raw};

use crate::mem::{Mapping, SharedMapping, Staged};

/// A shared mapping as lines.
pub(crate) fn shared_lines(mapping: &SharedMapping) -> &[Line] {
    // SAFETY: the mapping is readable and writable for `len` bytes and stays so while it is borrowed; this process
    // touches it by this view only, and what other processes do is outside of Rust's model.
    unsafe { lines_from_raw(mapping.as_ptr(), mapping.len()) }.unwrap_or_default()
}

/// A mapping that nobody else can see yet, as lines.
pub(crate) fn staged_lines(staged: &Staged) -> &[Line] {
    // SAFETY: as in `shared_lines`.
    unsafe { lines_from_raw(staged.as_ptr(), staged.len()) }.unwrap_or_default()
}

/// A private mapping as a block to build tables in. The exclusive borrow makes the block the borrower's alone.
#[expect(
    clippy::needless_pass_by_ref_mut,
    reason = "the exclusive borrow is what makes the block the borrower's alone"
)]
pub(crate) fn block(mapping: &mut Mapping) -> &mut [MaybeUninit<u8>] {
    let block = NonNull::slice_from_raw_parts(mapping.as_ptr().cast(), mapping.len());
    // SAFETY: private memory of that length, mapped while the mapping lives, borrowed exclusively; MaybeUninit asks for no
    // particular content.
    unsafe { &mut *block.as_ptr() }
}
