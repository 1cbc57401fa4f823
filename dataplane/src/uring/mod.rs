//! The rings of io_uring, filled and harvested in mapped memory.
//!
//! ```text
//!    push(&[sqe, ..])   into free entries, all or none                    nobody sees them
//!    submit()           tail: one Release store; at most one Enter   ---> the kernel takes them, chains whole
//!    harvest(max, f)    tail: one Acquire load; head: one store      <--- completions
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | [`memory`] | what the host has mapped, checked against what the kernel says of it |
//! | [`ring`] | both queues of one ring, for one thread |
//! | `paths` | which ways through the kernel are taken, with names |
//!
//! The kernel runs completions of a ring with deferred task work only when it is entered with `GETEVENTS`; it says so by
//! `TASKRUN` in the word of flags. So an idle turn is two loads of words that nobody writes, and a busy turn is one
//! system call, which submits what was staged and runs what is due (io_uring_enter(2), io_uring_setup(2)).
//!
//! Invariants: (1) entries between the head that the kernel has moved and the tail that was published are the kernel's; (2) a
//! chain is pushed whole, is published by one store with what was staged with it, and is entered whole; where the kernel
//! stops in the middle of one all the same, the rest of it ends as `ECANCELED` and is never run by itself; (3) nothing that the kernel writes
//! is an index before it was masked.

pub mod memory;
mod paths;
pub mod ring;

pub use memory::{BadRing, RingMemory};
pub use paths::Paths;
pub use ring::{Ring, RingCounters, RingModes, Submitted};

use core::fmt;

/// The one system call of a ring (io_uring_enter(2)). The host implements it; tests have a kernel of their own.
pub trait Enter {
    /// Submits up to `to_submit` entries, waits for `min_complete` completions where `flags` has `GETEVENTS`. Returns how many
    /// entries were taken.
    ///
    /// # Errors
    /// [`EnterError`]; nothing was taken.
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError>;
}

impl<E: Enter + ?Sized> Enter for &E {
    #[inline]
    fn enter(&self, to_submit: u32, min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        (**self).enter(to_submit, min_complete, flags)
    }
}

/// Why the kernel took nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EnterError {
    /// `EBUSY`: completions wait for room. Harvest, and try again.
    Busy,
    /// `EAGAIN`: no memory for a request at the moment. Try again.
    Again,
    /// `EINTR`: a signal came first. Try again.
    Interrupted,
    /// The ring is unusable; the number of errno(3).
    Fatal(i32),
}

impl EnterError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_retry(self) -> bool {
        !matches!(self, Self::Fatal(_))
    }
}

impl fmt::Display for EnterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("busy: completions wait for room; harvest and retry"),
            Self::Again => f.write_str("no memory for a request at the moment; retry"),
            Self::Interrupted => f.write_str("interrupted by a signal; retry"),
            Self::Fatal(errno) => write!(f, "the ring is unusable (errno {errno}); open another"),
        }
    }
}

impl core::error::Error for EnterError {}
