//! What a program keeps of its operations, by the number that it posts them with.
//!
//! ```text
//!   let id = contexts.register(request)?;        endpoint.post_send(to, loan, id.as_raw())
//!   contexts.resolve(completion.context, |request| ..)      as often as messages come
//!   contexts.release(completion.context)                    once, with the last completion
//! ```
//!
//! An endpoint has a table of its own for what *it* keeps, so that a late or forged completion matches nothing
//! ([`Event::StaleCompletion`](crate::provider::Event::StaleCompletion)). This one is for the caller's half. A number that was released is
//! expired from then on, whoever has its row by now; one that was never given out is unknown. Both are answers, and both are counted:
//! no completion is skipped in silence.
//!
//! Invariant: a number is given out once (in 2^24 - 1 uses of its row), and released once.

use core::cell::Cell;
use core::fmt;

use crate::id::{OpTag, WrId};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Full, Key, Slab, SlabError};

/// A number of a [`Contexts`] table: what an operation is posted with. Never 0, so that 0 is free for operations without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContextId(u64);

impl ContextId {
    /// The number, for `context` of a post.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

/// Why a number names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ContextError {
    /// It was released before.
    Expired,
    /// It was never given out by this table.
    Unknown,
    /// It is being looked at, further up the stack.
    Busy,
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "context expired: it was released before",
            Self::Unknown => "unknown context: this table has never given it out",
            Self::Busy => "context busy: it is being looked at",
        })
    }
}

impl core::error::Error for ContextError {}

/// What was asked of a table in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextCounts {
    /// Numbers that had expired.
    pub expired: u64,
    /// Numbers that were never given out.
    pub unknown: u64,
}

/// Values of a program, by number. Belongs to one thread.
pub struct Contexts<'m, T> {
    table: Slab<'m, T>,
    counts: Cell<ContextCounts>,
}

impl<T> fmt::Debug for Contexts<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts")
            .field("len", &self.table.len())
            .field("counts", &self.counts.get())
            .finish_non_exhaustive()
    }
}

impl<'m, T> Contexts<'m, T> {
    /// A table of up to `capacity` values, placed in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        Ok(Self { table: Slab::place(bump, capacity)?, counts: Cell::default() })
    }

    /// Keeps `value`, and says under which number.
    ///
    /// # Errors
    /// The value comes back where the table is full.
    pub fn register(&self, value: T) -> Result<ContextId, Full<T>> {
        let key = self.table.insert(value)?;
        Ok(ContextId(WrId::new(OpTag::Send, key.generation(), key.slot()).as_raw()))
    }

    /// Shows the value of a number.
    ///
    /// # Errors
    /// [`ContextError`], counted.
    pub fn resolve<R>(
        &self,
        context: u64,
        look: impl FnOnce(&mut T) -> R,
    ) -> Result<R, ContextError> {
        self.counted(Self::key(context).and_then(|key| self.table.with(key, look)))
    }

    /// Gives the value of a number back. The number has expired from now on.
    ///
    /// # Errors
    /// [`ContextError`], counted: `Expired` for the second of two releases.
    pub fn release(&self, context: u64) -> Result<T, ContextError> {
        self.counted(Self::key(context).and_then(|key| self.table.remove(key)))
    }

    const fn key(context: u64) -> Result<Key, SlabError> {
        match WrId::from_raw(context).parts() {
            Some((OpTag::Send, generation, slot)) => Ok(Key::new(slot, generation)),
            _ => Err(SlabError::Unknown),
        }
    }

    fn counted<R>(&self, found: Result<R, SlabError>) -> Result<R, ContextError> {
        found.map_err(|error| {
            let mut counts = self.counts.get();
            let error = match error {
                SlabError::Stale => {
                    counts.expired = counts.expired.wrapping_add(1);
                    ContextError::Expired
                }
                SlabError::Unknown | SlabError::Vacant => {
                    counts.unknown = counts.unknown.wrapping_add(1);
                    ContextError::Unknown
                }
                SlabError::Busy => ContextError::Busy,
            };
            self.counts.set(counts);
            error
        })
    }

    /// What was asked in vain so far.
    #[must_use]
    pub const fn counts(&self) -> ContextCounts {
        self.counts.get()
    }

    /// Values that are kept.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::mem::MaybeUninit;

    #[test]
    fn a_number_is_resolved_until_it_is_released_and_expired_ever_after() {
        let mut block = [MaybeUninit::<u8>::uninit(); 1024];
        let contexts = Contexts::place(&Bump::new(&mut block), 2).unwrap();
        let [a, b] = ["a", "b"].map(|value| contexts.register(value).unwrap().as_raw());
        assert_eq!(contexts.register("c").unwrap_err(), Full("c"));
        assert_eq!(contexts.resolve(a, |value| core::mem::replace(value, "A")), Ok("a"));
        assert_eq!(contexts.release(a), Ok("A"));
        assert_eq!(contexts.release(a), Err(ContextError::Expired));
        assert_eq!(contexts.resolve(a, |_| ()), Err(ContextError::Expired));
        let c = contexts.register("c").unwrap().as_raw();
        assert_ne!(c, a, "its row, and another number");
        assert_eq!(contexts.release(a), Err(ContextError::Expired));
        assert_eq!((contexts.release(c), contexts.release(b)), (Ok("c"), Ok("b")));
        assert_eq!(contexts.counts(), ContextCounts { expired: 3, unknown: 0 });
        assert!(contexts.is_empty());
    }

    #[test]
    fn a_number_that_was_never_given_out_is_unknown() {
        let mut block = [MaybeUninit::<u8>::uninit(); 1024];
        let contexts = Contexts::place(&Bump::new(&mut block), 2).unwrap();
        let a = contexts.register(1).unwrap().as_raw();
        let forged = [0, 7, u64::MAX, a + 1, a + 5, a + (1 << 56), a & 0xFFFF_FFFF];
        for number in forged {
            assert_eq!(contexts.resolve(number, |_| ()), Err(ContextError::Unknown), "{number:#x}");
        }
        let busy = contexts.resolve(a, |_| contexts.release(a));
        assert_eq!(busy, Ok(Err(ContextError::Busy)));
        assert_eq!(contexts.counts().unknown, 7);
        assert_eq!(contexts.release(a), Ok(1));
    }
}
