//! The borrow flag: one builder a queue at a time.
//!
//! It is a byte, set while a builder may exist, and cleared by a guard's destructor: on a return, on `?`, and when the caller's
//! code unwinds. A `RefCell` does the same with a count, a panic and a second word; this is refused with a value.

use core::cell::Cell;

use crate::error::Retry;

/// Whether a builder of this queue exists.
#[derive(Debug, Default)]
pub struct BorrowFlag(Cell<bool>);

impl BorrowFlag {
    /// Nobody builds.
    #[must_use]
    pub const fn new() -> Self {
        Self(Cell::new(false))
    }

    /// Takes the flag, until the guard is dropped.
    ///
    /// # Errors
    /// [`Retry::WouldBlock`] where somebody has it.
    #[inline(always)]
    pub fn try_borrow(&self) -> Result<BorrowGuard<'_>, Retry> {
        if self.0.get() {
            return Err(Retry::WouldBlock);
        }
        self.0.set(true);
        Ok(BorrowGuard(&self.0))
    }

    /// Whether somebody has it.
    #[must_use]
    #[inline(always)]
    pub const fn is_borrowed(&self) -> bool {
        self.0.get()
    }
}

/// The right to build. Gives the flag back when it is dropped.
#[derive(Debug)]
#[must_use = "the flag falls when this is dropped"]
pub struct BorrowGuard<'a>(&'a Cell<bool>);

impl Drop for BorrowGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(false);
    }
}
