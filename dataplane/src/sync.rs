//! The one door to atomics.
//!
//! Everything in this crate that touches memory which another thread, process or device may touch at the same time
//! takes its atomics from here. A loom build (`RUSTFLAGS="--cfg loom"`) swaps in loom's model of them, so that the very
//! code that ships is the code that is checked. A build with `--cfg spinwire_steps` swaps in atomics that ask a test before each write, which
//! kills the process there, lets others act, or has it dead from there on.
//!
//! Ordering notes: a Release and the Acquire that it pairs with carry the same `SYNC(tag)` comment.

#[cfg(all(spinwire_steps, not(loom)))]
mod steps;

#[cfg(not(any(loom, spinwire_steps)))]
mod door {
    pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[cfg(all(spinwire_steps, not(loom)))]
use steps as door;

#[cfg(loom)]
mod door {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

pub use door::{AtomicU32, AtomicU64, Ordering, fence};

/// Loom knows none: see [`raw::barrier`](crate::raw::barrier).
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::compiler_fence;
