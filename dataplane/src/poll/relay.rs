//! A second thread that waits at a bell for one that sleeps elsewhere: in `epoll(7)`, say, which knows no futex.
//!
//! ```text
//!   owner, each time that it goes to sleep           listener, a thread of the same process
//!     forget what the listener has told
//!     bell = ARMED, barrier, look over, turn            rests
//!     listen(): LISTENS, or it did already --------->   waits while bell == ARMED
//!     sleep until the listener tells                    bell != ARMED:  stop(): RESTS, and only then tell the owner
//! ```
//!
//! Whoever rings knows nothing of this: it takes the bell and wakes whoever waits at it.
//!
//! No wake-up is lost. An owner that finds the listener listening (it was slow to end, or nobody has rung since) trusts it, and every end of listening
//! tells the owner afterwards: the order of the two in [`Relay::stop`] and its caller is what makes that so. Telling is a system call
//! on a descriptor, forgetting another, and the kernel has the two one after the other. If the telling comes first, then `RESTS` was stored before it, and the
//! owner, who looks after forgetting, sees it and has the listener begin anew. If the forgetting comes first, what is told stays.
//!
//! Invariant: one owner, one listener. Both words are private memory; the bell is foreign, and is believed nothing but that somebody may have rung.

use crate::sync::{AtomicU32, Ordering};

/// The listener has nothing to do.
const RESTS: u32 = 0;
/// It waits at the bell, or is about to.
const LISTENS: u32 = 1;
/// It is to end.
const ENDS: u32 = 2;

/// What owner and listener say to each other.
#[derive(Debug)]
pub struct Relay(AtomicU32);

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

/// What the listener is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Rest until it is roused.
    Rest,
    /// Wait at the bell.
    Listen,
    /// End.
    End,
}

impl Relay {
    /// Of a listener that rests.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(RESTS))
    }

    /// Of a listener that rests.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(RESTS))
    }

    /// The owner is about to sleep: after it has forgotten what it was told, has armed its bell and found nothing. Returns whether the
    /// listener rests and has to be roused.
    #[must_use = "who rests has to be roused"]
    pub fn listen(&self) -> bool {
        // SYNC(relay): Acquire pairs with the Release in `stop`: what was told before that was forgotten too early is told anew.
        if self.0.load(Ordering::Acquire) == LISTENS {
            return false;
        }
        // SYNC(relay-listens): Release pairs with the Acquire in `duty`.
        self.0.compare_exchange(RESTS, LISTENS, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// What the listener is to do.
    #[must_use]
    pub fn duty(&self) -> Duty {
        // SYNC(relay-listens): Acquire pairs with the Release in `listen`, and with that in `end`.
        match self.0.load(Ordering::Acquire) {
            LISTENS => Duty::Listen,
            ENDS => Duty::End,
            _ => Duty::Rest,
        }
    }

    /// The listener has heard the bell, or that its owner is awake by itself. To be followed by telling the owner, and not preceded by it.
    /// `false`: it is to end.
    #[must_use = "who goes on tells the owner"]
    pub fn stop(&self) -> bool {
        // SYNC(relay): Release pairs with the Acquire in `listen`.
        self.0.compare_exchange(LISTENS, RESTS, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The listener is to end; it has to be roused.
    pub fn end(&self) {
        // SYNC(relay-listens): Release pairs with the Acquire in `duty`.
        self.0.store(ENDS, Ordering::Release);
    }
}
