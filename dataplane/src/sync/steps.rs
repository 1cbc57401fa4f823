//! Atomics that can be stopped before any store: for the test that kills a process at each of them. Compiled under
//! `--cfg spinwire_steps` only.
//!
//! ```text
//!   stop_after(n):   store 1, store 2, .. store n | the thread that is about to do the next one turns on the spot for ever
//! ```
//!
//! Invariant: after the stop no word of this process's changes any more, whichever thread wanted to change it.

use core::sync::atomic::AtomicU64 as Plain;
pub use core::sync::atomic::{AtomicU32, Ordering, fence};

static LEFT: Plain = Plain::new(u64::MAX);
static STOPPED: Plain = Plain::new(0);

/// Lets this process store `stores` more words and then stop.
pub fn stop_after(stores: u64) {
    LEFT.store(stores, Ordering::SeqCst);
}

/// Has it stopped?
pub fn has_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst) != 0
}

/// How many stores are left.
pub fn left() -> u64 {
    LEFT.load(Ordering::SeqCst)
}

fn step() {
    let taken = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if taken.is_err() {
        STOPPED.store(1, Ordering::SeqCst);
        #[expect(clippy::infinite_loop, reason = "what it waits for is to be killed")]
        loop {
            core::hint::spin_loop();
        }
    }
}

/// `core`'s atomic, with a step before each store.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct AtomicU64(Plain);

#[expect(missing_docs, clippy::must_use_candidate, reason = "each is core's of that name")]
impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self(Plain::new(value))
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        step();
        self.0.store(value, order);
    }

    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        step();
        self.0.swap(value, order)
    }

    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        step();
        self.0.fetch_add(value, order)
    }

    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        step();
        self.0.fetch_or(value, order)
    }

    pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        step();
        self.0.fetch_and(value, order)
    }

    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        step();
        self.0.compare_exchange(current, new, success, failure)
    }

    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }
}
