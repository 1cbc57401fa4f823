//! One link: the messages that are under way from one port to one other.
//!
//! ```text
//!              opened by the sender            taken, or not
//!   Free --------------------------> Unseen ------------------> Accepted          both ends are there
//!    ^                                 | \__ not ___               | |
//!    |                                 v            \              | |
//!    |<-- sender looks ------------ Refused          \             | |
//!    |<-- sender looks ------------ ReceiverLeft <----'- receiver leaves
//!    '<-- receiver has drained it - SenderLeft <---- sender leaves --'
//! ```
//!
//! Invariants: only the first `visible` messages of its queue are the receiver's to see; a link that the receiver has left
//! or refused holds none.

use core::cell::Cell;

use crate::id::Generation;

/// How a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum LinkState {
    /// Nobody's.
    Free,
    /// The receiver has not looked yet.
    Unseen,
    /// The receiver took it.
    Accepted,
    /// The receiver does not take it.
    Refused,
    /// The sender is gone; what it published is still to be taken.
    SenderLeft,
    /// The receiver is gone.
    ReceiverLeft,
}

/// A link, by place of sender and receiver in the hub.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: Cell<LinkState>,
    /// Which port in the sender's place opened it.
    pub(super) sender: Cell<Generation>,
    /// Which port in the receiver's place it leads to.
    pub(super) receiver: Cell<Generation>,
    /// Which use of it this is.
    pub(super) uses: Cell<u32>,
    /// Of a connection: which use of the link the other way round this one goes with; 0 where its sender knows of none.
    pub(super) answers: Cell<u32>,
    /// How many of its messages are published.
    pub(super) visible: Cell<u32>,
}

impl Link {
    pub(super) const fn free() -> Self {
        Self {
            state: Cell::new(LinkState::Free),
            sender: Cell::new(Generation::FIRST),
            receiver: Cell::new(Generation::FIRST),
            uses: Cell::new(0),
            answers: Cell::new(0),
            visible: Cell::new(0),
        }
    }

    /// Whether the sender may put messages into it.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state.get(), LinkState::Unseen | LinkState::Accepted)
    }
}
