//! The one door to atomics.
//!
//! Everything in this crate that touches memory which another thread, process or device may touch at the same time
//! takes its atomics from here. A loom build (`RUSTFLAGS="--cfg loom"`) swaps in loom's model of them, so that the very
//! code that ships is the code that is checked. A build with `--cfg spinwire_steps` swaps in atomics that a test can stop
//! before any store, which is where it then kills the process; one with `--cfg spinwire_asked` asks a test of the same thread before each, which
//! lets others act there, or has the process dead from there on.
//!
//! Ordering notes: a Release and the Acquire that it pairs with carry the same `SYNC(tag)` comment.

#[cfg(spinwire_steps)]
pub mod steps;

#[cfg(not(any(loom, spinwire_steps, spinwire_asked)))]
mod door {
    pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[cfg(all(spinwire_steps, not(loom)))]
use steps as door;

#[cfg(loom)]
mod door {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[cfg(all(spinwire_asked, not(any(loom, spinwire_steps))))]
mod door {
    use core::ops::Deref;
    use core::sync::atomic;
    pub use core::sync::atomic::{AtomicU32, Ordering, fence};

    use crate::raw::step::spinwire_step;

    /// An atomic word that asks before each write.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU64(atomic::AtomicU64);

    impl Deref for AtomicU64 {
        type Target = atomic::AtomicU64;

        fn deref(&self) -> &atomic::AtomicU64 {
            &self.0
        }
    }

    macro_rules! asked {
        ($($name:ident)+) => {$(
            /// As in `core`, or nothing where the process is dead.
            pub fn $name(&self, value: u64, order: Ordering) -> u64 {
                if spinwire_step() {
                    self.0.$name(value, order)
                } else {
                    self.0.load(Ordering::Acquire)
                }
            }
        )+};
    }

    impl AtomicU64 {
        /// As in `core`.
        #[must_use]
        pub const fn new(value: u64) -> Self {
            Self(atomic::AtomicU64::new(value))
        }

        /// As in `core`, or nothing where the process is dead.
        pub fn store(&self, value: u64, order: Ordering) {
            if spinwire_step() {
                self.0.store(value, order);
            }
        }

        asked!(swap fetch_add fetch_sub fetch_or fetch_and);

        /// As in `core`; fails where the process is dead.
        ///
        /// # Errors
        /// The value that was there.
        pub fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            if spinwire_step() {
                self.0.compare_exchange(current, new, success, failure)
            } else {
                Err(self.0.load(Ordering::Acquire))
            }
        }
    }
}

pub use door::{AtomicU32, AtomicU64, Ordering, fence};

/// Loom knows none: see [`raw::barrier`](crate::raw::barrier).
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::compiler_fence;
