//! The one system call of a turn.

use core::marker::PhantomData;
use std::os::fd::AsRawFd;

use spinwire_dataplane::uring::{Enter, EnterError};
use spinwire_layouts::uring::enter;

use super::Uring;
use crate::error::Errno;
use crate::raw::uring;

/// How to enter a ring, for the data plane: by its index where it is registered, else by its descriptor. Like the ring it
/// stays with the thread that opened it.
#[derive(Clone, Copy, Debug)]
pub struct RingEntry<'u> {
    ring: i32,
    flags: u32,
    of: PhantomData<&'u Uring>,
}

impl<'u> RingEntry<'u> {
    pub(super) fn new(of: &'u Uring) -> Self {
        let registered = of.index.and_then(|index| i32::try_from(index).ok());
        match registered {
            Some(ring) => Self { ring, flags: enter::REGISTERED_RING, of: PhantomData },
            None => Self { ring: of.fd.as_raw_fd(), flags: 0, of: PhantomData },
        }
    }
}

impl Enter for RingEntry<'_> {
    #[inline]
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        uring::enter(self.ring, to_submit, min_complete, flags | self.flags).map_err(meaning)
    }
}

/// What an answer of io_uring_enter(2) means to who turns the ring.
const fn meaning(errno: Errno) -> EnterError {
    match errno.number() {
        libc::EBUSY => EnterError::Busy,
        libc::EAGAIN => EnterError::Again,
        libc::EINTR => EnterError::Interrupted,
        other => EnterError::Fatal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let of = |number| meaning(Errno::new(number));
        assert_eq!(of(libc::EBUSY), EnterError::Busy);
        assert_eq!(of(libc::EAGAIN), EnterError::Again);
        assert_eq!(of(libc::EINTR), EnterError::Interrupted);
        assert_eq!(of(libc::EBADF), EnterError::Fatal(libc::EBADF));
        assert_eq!(of(libc::EEXIST), EnterError::Fatal(libc::EEXIST));
    }
}
