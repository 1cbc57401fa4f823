//! A set of descriptors that is one descriptor: epoll(7). It is read from by whoever watches it; what is in it is level-triggered.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::syscall::{self, Readable, own};
use crate::error::Errno;

/// Descriptors, any of which makes this one readable. What is closed leaves the set by itself.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Epoll {
    /// An empty set, close-on-exec.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: takes a number.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// From now on the set can be read from while `fd` can. One that is in it already stays.
    pub(crate) fn add(&self, fd: RawFd) -> Result<(), Errno> {
        match self.control(libc::EPOLL_CTL_ADD, fd) {
            Err(e) if e.number() == libc::EEXIST => Ok(()),
            other => other,
        }
    }

    /// Takes `fd` out of the set. One that is not in it stays out.
    #[cfg(feature = "libfabric")]
    pub(crate) fn remove(&self, fd: RawFd) -> Result<(), Errno> {
        match self.control(libc::EPOLL_CTL_DEL, fd) {
            Err(e) if e.number() == libc::ENOENT => Ok(()),
            other => other,
        }
    }

    /// Whether any of them can be read from now.
    pub(crate) fn is_ready(&self) -> Result<bool, Errno> {
        let mut watched = [Readable::new(self.as_fd())];
        syscall::poll(&mut watched, 0).map(|count| count > 0)
    }

    fn control(&self, operation: i32, fd: RawFd) -> Result<(), Errno> {
        let events = u32::try_from(libc::EPOLLIN).unwrap_or(0);
        let mut event = libc::epoll_event { events, u64: 0 };
        // SAFETY: the event outlives the call, and is only read; a number that is no descriptor is refused.
        let answer = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if answer < 0 { Err(Errno::last()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_set_is_ready_while_one_of_it_is() {
        let set = Epoll::new().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let fd = reader.as_raw_fd();
        set.add(fd).unwrap();
        set.add(fd).unwrap();
        assert!(!set.is_ready().unwrap());
        writer.write_all(b"x").unwrap();
        assert!(set.is_ready().unwrap());
        reader.read_exact(&mut [0]).unwrap();
        assert!(!set.is_ready().unwrap());
        assert_eq!(set.add(i32::MAX).unwrap_err().number(), libc::EBADF);
    }

    #[cfg(feature = "libfabric")]
    #[test]
    fn what_was_taken_out_of_a_set_is_not_heard() {
        let set = Epoll::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        set.add(reader.as_raw_fd()).unwrap();
        assert!(set.is_ready().unwrap());
        set.remove(reader.as_raw_fd()).unwrap();
        set.remove(reader.as_raw_fd()).unwrap();
        assert!(!set.is_ready().unwrap());
    }
}
