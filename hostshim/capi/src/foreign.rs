//! The caller's pointers, and the count of forks.
//!
//! What C promises, by the comments in the header: a pointer that a function takes is null, or points to as many values of
//! that type as the function says, readable, and writable where it is no pointer to `const`, until the function returns; a
//! string ends with a zero. Null, and pointers that are not aligned for their type, are errors here; others cannot be told.

use core::ffi::{CStr, c_char};
use core::ptr::NonNull;

use spinwire_dataplane::raw::payload::PlainAccess;
use spinwire_dataplane::sync::{AtomicU64, Ordering};

use crate::status::{Status, Trouble};

/// What the caller wants an answer written to.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Errors
    /// `SW_ARGUMENT`: null or misaligned.
    pub(crate) fn new(name: &'static str, to: *mut T) -> Result<Self, Trouble> {
        checked(name, to).map(Self)
    }

    pub(crate) const fn write(self, value: T) {
        // SAFETY: not null and aligned (`new`); writable, by what C promises.
        unsafe { self.0.write(value) }
    }
}

fn checked<T>(name: &'static str, pointer: *mut T) -> Result<NonNull<T>, Trouble> {
    let Some(some) = NonNull::new(pointer) else {
        return Err(Trouble::argument(name, "it is null; remedy: pass the address of a variable"));
    };
    if some.is_aligned() {
        return Ok(some);
    }
    Err(Trouble::argument(
        name,
        "it is not aligned as its type asks for; remedy: pass a variable of that type",
    ))
}

/// A copy of what the caller's pointer points to.
pub(crate) fn read<T: Copy>(name: &'static str, from: *const T) -> Result<T, Trouble> {
    let from = checked(name, from.cast_mut())?;
    // SAFETY: not null and aligned; readable and a value of T, by what C promises (T has no invalid bit patterns here:
    // the structures of `types` are numbers).
    Ok(unsafe { from.read() })
}

/// As many values as the caller says. None may be at null.
pub(crate) fn read_all<T: Copy>(
    name: &'static str,
    from: *const T,
    count: usize,
    most: usize,
) -> Result<Vec<T>, Trouble> {
    if count > most {
        return Err(Trouble::argument(name, "there are more of them than a pool can have"));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let from = checked(name, from.cast_mut())?;
    let values = NonNull::slice_from_raw_parts(from, count);
    // SAFETY: aligned, and so many values are readable, by what C promises.
    Ok(unsafe { values.as_ref() }.to_vec())
}

/// Writes as many of `values` as there is room for.
pub(crate) fn write_all<T: Copy>(
    name: &'static str,
    to: *mut T,
    room: usize,
    values: &[T],
) -> Result<(), Trouble> {
    if room == 0 {
        return Ok(());
    }
    let to = checked(name, to)?;
    let count = values.len().min(room);
    // SAFETY: aligned, `room` values are writable there, by what C promises, and `values` are the library's own.
    unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), to.as_ptr(), count) };
    Ok(())
}

/// A name.
pub(crate) fn text(name: &'static str, from: *const c_char) -> Result<String, Trouble> {
    let from = checked(name, from.cast_mut())?;
    // SAFETY: it ends with a zero and is readable up to there, by what C promises; it is copied before this function returns.
    let text = unsafe { CStr::from_ptr(from.as_ptr()) };
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Trouble::argument(name, "it is not UTF-8")),
    }
}

/// How often this process is the child of a fork(2) since the library was first used.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A number that changes where fork(2) makes another process of this one.
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Has every later fork(2) of this process counted.
pub(crate) fn watch_forks() -> Result<(), Trouble> {
    static WATCHED: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    let answer = WATCHED.get_or_init(|| {
        // SAFETY: the handler lives as long as the library, which is not unloaded while its threads run, and does what is
        // allowed after a fork: one store.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) }
    });
    if *answer == 0 {
        return Ok(());
    }
    Err(Trouble::told(Status::SW_SYSTEM, format!("pthread_atfork: error {answer}")))
}

/// The promise that stands in the header at sw_pool_open().
pub(crate) const fn plain_access() -> PlainAccess {
    // SAFETY: C promises it for the other processes and for its own threads; within the library all bytes are reached by
    // guards, each handle has a lease of its own, and only the kernel's word marks a process dead.
    unsafe { PlainAccess::promise() }
}
