//! Atomics that ask before each write whether it happens: for tests in which a process stops there. Compiled under `--cfg spinwire_steps` only.
//!
//! Invariant: what is not asked for is not written. So there is no `Deref` to `core`'s atomic, and a method that nobody has needed is missing.

use core::sync::atomic::AtomicU64 as Plain;
pub use core::sync::atomic::{AtomicU32, Ordering, fence};

use crate::raw::step::spinwire_step;

/// `core`'s atomic, with a question before each write.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct AtomicU64(Plain);

macro_rules! asked {
    ($($name:ident)+) => {$(
        pub fn $name(&self, value: u64, order: Ordering) -> u64 {
            if spinwire_step() { self.0.$name(value, order) } else { self.0.load(Ordering::Acquire) }
        }
    )+};
}

#[expect(missing_docs, clippy::must_use_candidate, reason = "each is core's of that name")]
impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self(Plain::new(value))
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        if spinwire_step() {
            self.0.store(value, order);
        }
    }

    asked!(swap fetch_add fetch_sub fetch_or fetch_and);

    /// # Errors
    /// The value that was there, which may be `current` where the process is dead.
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

    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }
}
