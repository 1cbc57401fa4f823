//! The heap under this program: every call into it is counted for the thread that makes it, by Rust and by the libraries of C alike.
//!
//! The names are those of the C library, which gives its own (`__libc_malloc` ..) for who takes them; the libraries that this program is linked
//! with find these first.
#![allow(unsafe_code, reason = "the C library's own names")]

use core::cell::Cell;
use core::ffi::c_void;

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(at: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(at: *mut c_void);
}

thread_local! {
    /// Calls of this thread. Without a destructor and with a constant value: to look at it takes no memory.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Calls into the heap by this thread so far.
pub(crate) fn calls() -> u64 {
    CALLS.get()
}

fn count() {
    CALLS.set(CALLS.get() + 1);
}

/// malloc(3)
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: any size will do.
    unsafe { __libc_malloc(size) }
}

/// calloc(3)
#[unsafe(no_mangle)]
extern "C" fn calloc(count_of: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(count_of, size) }
}

/// realloc(3)
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(at: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's promise.
    unsafe { __libc_realloc(at, size) }
}

/// posix_memalign(3)
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(to: *mut *mut c_void, align: usize, size: usize) -> i32 {
    count();
    // SAFETY: the caller's promise.
    let found = unsafe { __libc_memalign(align, size) };
    if found.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(found) };
    0
}

/// aligned_alloc(3)
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: any numbers will do.
    unsafe { __libc_memalign(align, size) }
}

/// free(3)
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(at: *mut c_void) {
    count();
    // SAFETY: the caller's promise.
    unsafe { __libc_free(at) }
}
