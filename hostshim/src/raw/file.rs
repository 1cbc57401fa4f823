//! Direct I/O: what a file wants for it, and switching it off.

use core::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;

/// What direct I/O on a file wants, as statx(2) says it: `None` where the kernel or the file system does not say; alignments of 0 where the
/// file cannot have it.
pub(crate) fn dio_alignment(file: BorrowedFd<'_>) -> Result<Option<(u32, u32)>, Errno> {
    let mut about = MaybeUninit::<libc::statx>::zeroed();
    let empty = c"";
    // SAFETY: `empty` is a terminated string, `about` has room for a statx; both outlive the call.
    let answer = unsafe {
        libc::statx(
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            about.as_mut_ptr(),
        )
    };
    if answer < 0 {
        return Err(Errno::last());
    }
    // SAFETY: a statx is numbers, all of them valid as zero; the kernel has written over them.
    let about = unsafe { about.assume_init() };
    let said = about.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(said.then_some((about.stx_dio_offset_align, about.stx_dio_mem_align)))
}

/// Switches direct I/O of an open file off.
pub(crate) fn leave_direct(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(Errno::last());
    }
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Makes reads of `file` return at once where there is nothing to be read.
#[cfg(feature = "verbs")]
pub(crate) fn set_nonblocking(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(Errno::last());
    }
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}
