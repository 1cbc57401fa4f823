//! The interest list of a reactor, as a runtime has one: epoll(7).

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Watches one descriptor, for reading.
#[derive(Debug)]
pub struct Reactor(OwnedFd);

const TOKEN: u64 = 7;

impl Reactor {
    /// Told for as long as the descriptor can be read from.
    #[must_use]
    pub fn level(watched: &impl AsFd) -> Self {
        Self::watching(watched, libc::EPOLLIN)
    }

    /// Told once each time that it becomes readable, as tokio has it.
    #[must_use]
    pub fn edge(watched: &impl AsFd) -> Self {
        Self::watching(watched, libc::EPOLLIN | libc::EPOLLET)
    }

    #[expect(unsafe_code, reason = "epoll(7)")]
    fn watching(watched: &impl AsFd, events: i32) -> Self {
        // SAFETY: no memory is handed over; the descriptor that comes back is nobody else's.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(epoll >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, and owned by nobody yet.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let fd = watched.as_fd().as_raw_fd();
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: TOKEN };
        // SAFETY: two descriptors that are open, and an event that lives during the call.
        let added =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0, "{}", std::io::Error::last_os_error());
        Self(epoll)
    }

    /// Waits for so long, rounded up to milliseconds. Whether the descriptor became readable, or the wait was interrupted: work of the kernel for a ring of
    /// this thread does that.
    #[must_use]
    #[expect(unsafe_code, reason = "epoll(7)")]
    pub fn wait(&self, most: Duration) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let millis = i32::try_from(most.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        // SAFETY: room for one event, which lives during the call.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, millis) };
        if count < 0 {
            let e = std::io::Error::last_os_error();
            assert_eq!(e.kind(), std::io::ErrorKind::Interrupted, "{e}");
        }
        count == 1 && { event.u64 } == TOKEN || count < 0
    }
}
