//! What the threads of a process share: each pool is mapped and watched once, whoever opens it how often.
//!
//! ```text
//!   thread a   sw_pool_open("frames")  -->  Opened { handle, memory, pool } --.
//!   thread b   sw_pool_open("frames")  -->  Opened { handle, memory, pool } --+--> Arc<BufferPool>    mapping, watcher
//!                                                                    POOLS ---'    (weak)
//! ```
//!
//! Invariants: (1) a pool is shared only while its name stands for it, so who opens a name gets what has the name now; (2) in the
//! child of a fork the parent's pools are not shared, and the lock is not waited for: another thread may have held it, and there is
//! no such thread in the child.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use spinwire_hostshim::mem::SegmentDir;
use spinwire_hostshim::pool::{BufferPool, PoolOpenError};

use crate::foreign;

/// A pool that some thread has open.
#[derive(Debug)]
struct Known {
    forks: u64,
    pool: Weak<BufferPool>,
}

static POOLS: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// The pool of that name: the one that another thread has open, or else what `open` gives.
pub(crate) fn share(
    name: &str,
    open: impl FnOnce() -> Result<BufferPool, PoolOpenError>,
) -> Result<Arc<BufferPool>, PoolOpenError> {
    // Held while it is opened: who comes second waits and finds it.
    let known = pools();
    let found = known.as_ref().and_then(|known| known.iter().find_map(|known| known.named(name)));
    match found {
        Some(pool) => Ok(pool),
        None => open().map(|pool| remember(known, pool)),
    }
}

/// Lets other threads share a pool that was just made.
pub(crate) fn made(pool: BufferPool) -> Arc<BufferPool> {
    remember(pools(), pool)
}

fn remember(known: Option<MutexGuard<'_, Vec<Known>>>, pool: BufferPool) -> Arc<BufferPool> {
    let pool = Arc::new(pool.with_plain_access(foreign::plain_access()));
    if let Some(mut known) = known {
        known.retain(|known| known.pool.strong_count() > 0);
        known.push(Known { forks: foreign::forks(), pool: Arc::downgrade(&pool) });
    }
    pool
}

fn pools() -> Option<MutexGuard<'static, Vec<Known>>> {
    if foreign::forks() == 0 {
        return Some(POOLS.lock().unwrap_or_else(PoisonError::into_inner));
    }
    match POOLS.try_lock() {
        Ok(known) => Some(known),
        Err(TryLockError::Poisoned(known)) => Some(known.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Known {
    fn named(&self, name: &str) -> Option<Arc<BufferPool>> {
        if self.forks != foreign::forks() {
            return None;
        }
        let pool = self.pool.upgrade()?;
        let mapping = pool.mapping();
        let same = mapping.name() == name && *mapping.directory() == SegmentDir::from_env();
        (same && mapping.is_named()).then_some(pool)
    }
}
