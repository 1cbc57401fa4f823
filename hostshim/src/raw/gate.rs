//! The allocator that counts: [`crate::alloc_gate`] says what for.

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

use crate::alloc_gate::{CountingAlloc, Event, note};

// SAFETY: every call is handed to `System` unchanged, which fulfils the contract; `note` before it neither allocates nor
// unwinds (it counts in a const-initialised thread-local, or ends the process).
unsafe impl GlobalAlloc for CountingAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(Event::Allocation(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(Event::Allocation(layout.size()));
        // SAFETY: as above, for `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(Event::Allocation(size));
        // SAFETY: as above; `block` came from `System`, because this allocator takes every block from there.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(Event::Release);
        // SAFETY: as above, for `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Writes `message` to standard error without a lock or a buffer and ends the process by SIGABRT.
pub(crate) fn abort_with(message: &'static [u8]) -> ! {
    // SAFETY: the pointer and length are those of a live slice. A short write loses text only.
    let _written =
        unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    std::process::abort()
}
