//! Credit of one connection: one book for each direction.
//!
//! ```text
//!   sender: Outgoing                 receiver: Incoming
//!   | allowed - open |  open  |      | ..  | held | due |
//!                       ^               |  release()  ^  | take_due()
//!                       |               +-------------+  |
//!                       +---- give_back(grant) <---------+         open = under way + held + due + grants under way
//! ```
//!
//! Both books count messages and bytes apart, and a grant has both. Every sum is checked against what was allowed: a
//! peer that gives back more than it has, or sends more than it may, is found out by the book of this end alone.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{from_usize, high, join, low};

use super::fault::FrameFault;
use super::hello::Limits;
use crate::error::{Misuse, PostError, Retry};

/// Messages, and the bytes in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// Messages.
    pub messages: u32,
    /// Bytes.
    pub bytes: u32,
}

impl Grant {
    /// Nothing.
    pub const NONE: Self = Self { messages: 0, bytes: 0 };

    /// As it travels.
    #[must_use]
    #[inline]
    pub const fn pack(self) -> u64 {
        join(self.messages, self.bytes)
    }

    /// As it came.
    #[must_use]
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        Self { messages: low(word), bytes: high(word) }
    }

    fn plus(self, other: Self) -> Option<Self> {
        let messages = self.messages.checked_add(other.messages)?;
        Some(Self { messages, bytes: self.bytes.checked_add(other.bytes)? })
    }

    fn minus(self, other: Self) -> Option<Self> {
        let messages = self.messages.checked_sub(other.messages)?;
        Some(Self { messages, bytes: self.bytes.checked_sub(other.bytes)? })
    }

    /// Whether both parts are at most those of `other`.
    const fn fits_in(self, other: Self) -> bool {
        self.messages <= other.messages && self.bytes <= other.bytes
    }
}

/// A release of something that is not held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NotHeld;

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not held: no message of that length waits for its release")
    }
}

impl core::error::Error for NotHeld {}

/// The receiver's book.
#[derive(Debug)]
pub struct Incoming {
    limits: Limits,
    /// Messages that the other end makes use of.
    used: Cell<u32>,
    /// Came, and not released.
    held: Cell<Grant>,
    /// Released, and not given back.
    due: Cell<Grant>,
}

impl Incoming {
    /// A book in which nothing has come yet. The limits have been checked.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: Cell::new(limits.credit_messages),
            held: Cell::new(Grant::NONE),
            due: Cell::new(Grant::NONE),
        }
    }

    /// As new.
    pub fn reset(&self) {
        self.used.set(self.limits.credit_messages);
        self.held.set(Grant::NONE);
        self.due.set(Grant::NONE);
    }

    /// What a peer allows, as far as this end makes use of it: not more messages than it takes itself. Each of them may come back as
    /// a frame of credit of its own, and whoever keeps the frames of a connection for later has to know how many there can be.
    #[must_use]
    pub fn evened(&self, of_peer: Limits) -> Limits {
        let credit_messages = of_peer.credit_messages.min(self.limits.credit_messages);
        // It does the same, and waits for credit when it has used that up.
        self.used.set(credit_messages);
        Limits { credit_messages, ..of_peer }
    }

    const fn allowed(&self) -> Grant {
        Grant { messages: self.limits.credit_messages, bytes: self.limits.credit_bytes }
    }

    /// The header of a message of `length` bytes came.
    ///
    /// # Errors
    /// `Overrun`: the sender had no credit for it.
    #[inline]
    pub fn arrive(&self, length: u32) -> Result<(), FrameFault> {
        let held = self.held.get().plus(Grant { messages: 1, bytes: length });
        let open = held.and_then(|held| held.plus(self.due.get()));
        match (held, open) {
            (Some(held), Some(open)) if open.fits_in(self.allowed()) => {
                self.held.set(held);
                Ok(())
            }
            _ => Err(FrameFault::Overrun),
        }
    }

    /// A message of `length` bytes is done with.
    ///
    /// # Errors
    /// [`NotHeld`]; nothing changed.
    #[inline]
    pub fn release(&self, length: u32) -> Result<(), NotHeld> {
        let one = Grant { messages: 1, bytes: length };
        let held = self.held.get().minus(one).ok_or(NotHeld)?;
        let due = self.due.get().plus(one).ok_or(NotHeld)?;
        self.held.set(held);
        self.due.set(due);
        Ok(())
    }

    /// Whether what is due has to go back now: it is a quarter of what is allowed and made use of, or while it is due the sender may lack the
    /// bytes for the longest message.
    #[must_use]
    #[inline]
    pub const fn is_due(&self) -> bool {
        let due = self.due.get();
        if due.messages == 0 {
            return false;
        }
        let rest = self.limits.credit_bytes.saturating_sub(due.bytes);
        due.messages >= self.used.get().div_ceil(4)
            || due.bytes >= self.limits.credit_bytes.div_ceil(4)
            || rest < self.limits.message_bytes_max
    }

    /// All that is due; it is the sender's from now on.
    #[inline]
    pub const fn take_due(&self) -> Grant {
        self.due.replace(Grant::NONE)
    }
}

/// The sender's book.
#[derive(Debug)]
pub struct Outgoing {
    /// What the peer allows; nothing before its hello.
    limits: Cell<Option<Limits>>,
    /// Sent, and not given back.
    open: Cell<Grant>,
    /// Times that some was given back.
    returns: Cell<u32>,
}

impl Outgoing {
    /// A book of a peer that has not said what it allows.
    #[must_use]
    pub const fn closed() -> Self {
        Self { limits: Cell::new(None), open: Cell::new(Grant::NONE), returns: Cell::new(0) }
    }

    /// As [`Outgoing::closed`].
    pub fn close(&self) {
        self.limits.set(None);
        self.open.set(Grant::NONE);
    }

    /// The peer allows that much.
    pub fn open(&self, limits: Option<Limits>) {
        self.limits.set(limits);
    }

    /// Whether the peer has said what it allows.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.limits.get().is_some()
    }

    /// Whether all that was sent was given back.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.open.get().messages == 0
    }

    /// How many times the peer has given something back. Comes round.
    #[must_use]
    pub const fn returns(&self) -> u32 {
        self.returns.get()
    }

    /// Whether a message of `length` bytes may be sent now.
    ///
    /// # Errors
    /// `NotConnected` before the peer's hello, `TooLong` for the peer, `NoCredit` until it gives some back.
    #[inline]
    pub fn allows(&self, length: usize) -> Result<(), PostError> {
        self.with(length).map(|_| ())
    }

    /// Spends the credit of a message.
    ///
    /// # Errors
    /// As [`Outgoing::allows`]; nothing was consumed.
    #[inline]
    pub fn spend(&self, length: usize) -> Result<(), PostError> {
        self.open.set(self.with(length)?);
        Ok(())
    }

    /// What will be open with a message of `length` bytes more.
    #[inline]
    fn with(&self, length: usize) -> Result<Grant, PostError> {
        let limits = self.limits.get().ok_or(Retry::NotConnected)?;
        if from_usize(length) > u64::from(limits.message_bytes_max) {
            return Err(Misuse::TooLong.into());
        }
        let one = Grant { messages: 1, bytes: low(from_usize(length)) };
        let allowed = Grant { messages: limits.credit_messages, bytes: limits.credit_bytes };
        match self.open.get().plus(one) {
            Some(open) if open.fits_in(allowed) => Ok(open),
            _ => Err(Retry::NoCredit.into()),
        }
    }

    /// The peer gives `grant` back.
    ///
    /// # Errors
    /// `Credit`: it was not sent that much.
    #[inline]
    pub fn give_back(&self, grant: Grant) -> Result<(), FrameFault> {
        self.open.set(self.open.get().minus(grant).ok_or(FrameFault::Credit)?);
        let some = u32::from(grant != Grant::NONE);
        self.returns.set(self.returns.get().wrapping_add(some));
        Ok(())
    }
}
