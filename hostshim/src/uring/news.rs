//! A descriptor that tells when a ring has something to turn for.

use core::time::Duration;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use spinwire_dataplane::poll::Poll;
use spinwire_dataplane::time::Instant;

use super::error::explain;
use super::{Uring, UringError};
use crate::error::{Errno, OsError};
use crate::raw::syscall::{self, Readable};
use crate::raw::uring::Registration;

/// An eventfd that the kernel writes to when a ring has completions, or work that its next turn is to fetch. For `epoll(7)`, for the reactor of a
/// runtime, or for [`News::sleep`]. (The descriptor of the ring itself does not tell: with `DEFER_TASKRUN` nobody who polls it is woken by
/// work that waits for the ring's thread.)
///
/// Whoever watches it turns until there is nothing to do and the source wants no turn ([`Poll::poll_at`]), and clears it *before* those turns:
/// what comes between the last of them and the sleep leaves it readable.
#[derive(Debug)]
pub struct News(File);

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For runtimes that ask for it, as tokio's `AsyncFd` does. Reads of it do not block.
impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl News {
    /// Takes note of what was told so far. Whether anything was.
    #[must_use = "where nothing was told, nothing has come"]
    pub fn clear(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }

    /// Sleeps until there is something to turn for, or the source wants its next turn, at most for `most`; less than a millisecond is no
    /// sleep. Whether it was told something.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sleep(&self, source: &impl Poll, now: Instant, most: Duration) -> Result<bool, OsError> {
        let until = |at: Instant| Duration::from_nanos(at.saturating_since(now).as_nanos());
        let pause = source.poll_at().map_or(most, |at| until(at).min(most));
        let millis = i32::try_from(pause.as_millis()).unwrap_or(i32::MAX);
        let mut watched = [Readable::new(self.as_fd())];
        let told = |e: Errno| OsError::new("poll", e);
        syscall::poll(&mut watched, millis).map_err(told)?;
        Ok(watched.iter().any(|fd| fd.is_ready()) && self.clear())
    }
}

impl Uring {
    /// A descriptor that tells when the ring has something to turn for. It costs the kernel a little with each completion. One a ring.
    ///
    /// # Errors
    /// What the kernel says: EBUSY where there is one already.
    pub fn news(&self) -> Result<News, UringError> {
        let fd = syscall::eventfd().map_err(|e| explain("eventfd", e, 0))?;
        self.register(Registration::EventFd(&fd.as_raw_fd()), 0)?;
        Ok(News(File::from(fd)))
    }
}
