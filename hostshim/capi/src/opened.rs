//! An open pool: three things of which each borrows the next, in one value.
//!
//! ```text
//!   guards (at the desk)  -->  handle  -->  memory (its tables)
//!                                      -->  pool, which other threads may share
//! ```
//!
//! Rust has no lifetime for "as long as my neighbour", so the borrows say `'static`, and these hold instead: (1) the fields are
//! dropped in the order in which they are declared, borrowers first; (2) an [`Opened`] is dropped by the desk only, after the
//! last guard of it ([`desk`](crate::desk), invariant 1); (3) each of them lies in a box or an `Arc` and does not move.

use core::ptr::NonNull;
use std::sync::Arc;

use spinwire_hostshim::mem::Mapping;
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolHandle};

use crate::status::Trouble;

/// A pool that a thread has open.
#[derive(Debug)]
pub(crate) struct Opened {
    handle: Lender<PoolHandle<'static>>,
    _memory: Lender<Mapping>,
    pool: Arc<BufferPool>,
}

impl Opened {
    pub(crate) fn new(pool: Arc<BufferPool>) -> Result<Self, Trouble> {
        // SAFETY: the pool stays where it is while there is an `Arc` of it, and this one is dropped after the handle, which alone
        // keeps the reference (invariants 1 and 3).
        let lent: &'static BufferPool = unsafe { &*Arc::as_ptr(&pool) };
        let mut memory = Lender::new(Plane::memory(lent.handle_bytes())?);
        // SAFETY: lent once; dropped after the handle, whose tables lie in it (invariant 1).
        let bump = Plane::arena(unsafe { memory.lend_mut() });
        let handle = Lender::new(lent.handle(&bump)?);
        Ok(Self { handle, _memory: memory, pool })
    }

    /// The handle. What is made with it is gone before this is dropped: see the invariants.
    pub(crate) const fn handle(&self) -> &'static PoolHandle<'static> {
        // SAFETY: guards are kept at the desk, which ends them first (invariant 2).
        unsafe { self.handle.lend() }
    }

    pub(crate) fn pool(&self) -> &BufferPool {
        &self.pool
    }
}

/// A value at an address of its own, which is lent for as long as this stays.
#[derive(Debug)]
struct Lender<T>(NonNull<T>);

impl<T: 'static> Lender<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// # Safety
    /// Nothing that was made with the reference is there any more when this is dropped.
    const unsafe fn lend(&self) -> &'static T {
        // SAFETY: the value stays where it is until this is dropped, and then nobody has the reference (the caller's promise).
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    /// As [`lend`](Self::lend); and it is called once, and `lend` never.
    const unsafe fn lend_mut(&mut self) -> &'static mut T {
        // SAFETY: as in `lend`; the only reference there ever is.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Lender<T> {
    fn drop(&mut self) {
        // SAFETY: it came of a box in `new`, nobody refers to it (the promise of `lend`), and it is taken back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
