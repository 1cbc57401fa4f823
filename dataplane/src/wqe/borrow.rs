//! The borrow flag: one builder a queue at a time.
//!
//! It is a byte that says what may be built: connected WQEs, datagrams, receives; and nothing, while a builder may exist. So one look
//! tells both whether somebody builds and whether the queue is of the right kind. It is set back by a guard's destructor: on a
//! return, on `?`, and when the caller's code unwinds. A `RefCell` does the same with a count, a panic and a second word; this is
//! refused with a value.

use core::cell::Cell;

use crate::error::{Misuse, PostError, Retry};

/// What may be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Builds {
    /// Nothing: somebody builds.
    Nothing,
    /// WQEs of a connected queue pair.
    Connected,
    /// Datagrams.
    Datagrams,
    /// Receive WQEs.
    Receives,
}

/// What may be built on this queue now.
#[derive(Debug)]
pub struct BorrowFlag(Cell<Builds>);

impl BorrowFlag {
    /// Nobody builds. `kind` is what the queue is for.
    #[must_use]
    pub const fn new(kind: Builds) -> Self {
        Self(Cell::new(kind))
    }

    /// Takes the flag to build `kind`, until the guard is dropped.
    ///
    /// # Errors
    /// [`Retry::WouldBlock`] where somebody has it, [`Misuse::Unsupported`] where the queue is for something else.
    #[inline(always)]
    pub fn try_borrow(&self, kind: Builds) -> Result<BorrowGuard<'_>, PostError> {
        if self.0.get() != kind {
            return Err(self.refusal());
        }
        self.0.set(Builds::Nothing);
        Ok(BorrowGuard { flag: &self.0, kind })
    }

    /// Takes the flag, whatever the queue is for.
    ///
    /// # Errors
    /// [`Retry::WouldBlock`] where somebody has it.
    #[inline(always)]
    pub const fn try_borrow_any(&self) -> Result<BorrowGuard<'_>, Retry> {
        let kind = self.0.replace(Builds::Nothing);
        if matches!(kind, Builds::Nothing) {
            return Err(Retry::WouldBlock);
        }
        Ok(BorrowGuard { flag: &self.0, kind })
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self) -> PostError {
        match self.0.get() {
            Builds::Nothing => Retry::WouldBlock.into(),
            Builds::Connected | Builds::Datagrams | Builds::Receives => Misuse::Unsupported.into(),
        }
    }

    /// Whether somebody has it.
    #[must_use]
    #[inline(always)]
    pub fn is_borrowed(&self) -> bool {
        self.0.get() == Builds::Nothing
    }
}

/// The right to build. Gives the flag back when it is dropped.
#[derive(Debug)]
#[must_use = "the flag falls when this is dropped"]
pub struct BorrowGuard<'a> {
    flag: &'a Cell<Builds>,
    kind: Builds,
}

impl BorrowGuard<'_> {
    /// Whether `kind` may be built.
    ///
    /// # Errors
    /// [`Misuse::Unsupported`] where the queue is for something else.
    #[inline(always)]
    pub fn check(&self, kind: Builds) -> Result<(), Misuse> {
        if self.kind == kind { Ok(()) } else { Err(Misuse::Unsupported) }
    }
}

impl Drop for BorrowGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.flag.set(self.kind);
    }
}
