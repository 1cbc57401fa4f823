//! Address tables: what every row of one has, whatever it is a peer of, and how its peer stands.
//!
//! ```text
//!              connect (RDM), or it was heard             first send
//!   Vacant ------------------------------------> Known ----------------> Connecting, or Up at once
//!    ^  |      connect (MSG)                                                |
//!    |  '------------------------------------> Connecting --- answered ---> Up
//!    |                                             | refused                | left, died, wrote nonsense
//!    |                                             v                        v
//!    |<--- event taken ---------------------- Refused, Gone, Corrupt: what it had published is delivered, its end reported
//!    |                                             | event taken, and something of it waits in its transport
//!    '---- all of it taken, or given up --------- Past
//! ```
//!
//! A port has a type of rows of its own, in which a [`PeerState`] is one field (`AsRef`); the rest is what its transport needs to
//! know of a peer. [`Peers`] is the table. When the end of a peer is told is decided by [`queues`](super::queues).
//!
//! Invariant: an address names a row only while the row has its generation and somebody is in it.

use core::cell::Cell;

use super::queues::PATIENCE_LOOKS;
use super::{Event, Status};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{NIL, wide};

/// How a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Standing {
    /// Nobody is in this row.
    Vacant,
    /// A way to it was opened and is not yet accepted.
    Connecting,
    /// It is known; there is no way to it yet.
    Known,
    /// There is a way to it.
    Up,
    /// It left, died, or cut this end off.
    Gone,
    /// It wrote nonsense.
    Corrupt,
    /// It did not take the connection.
    Refused,
    /// Its end was reported and taken note of; what it left can still be received.
    Past,
}

impl Standing {
    /// Whether nothing more is sent to it, and nothing new comes from it.
    #[must_use]
    #[inline(always)]
    pub const fn is_lost(self) -> bool {
        match self {
            Self::Gone | Self::Corrupt | Self::Refused | Self::Past => true,
            Self::Vacant | Self::Connecting | Self::Known | Self::Up => false,
        }
    }

    /// Whether it may be sent to, as far as that is known without a look at its transport. The way to one that is `Known` is yet to
    /// be opened.
    ///
    /// # Errors
    /// Why not.
    pub const fn may_be_sent_to(self) -> Result<(), PostError> {
        match self {
            Self::Known | Self::Up => Ok(()),
            Self::Connecting => Err(PostError::Retry(Retry::NotConnected)),
            Self::Vacant | Self::Past => Err(PostError::Misuse(Misuse::StaleAddress)),
            Self::Gone => Err(PostError::Fatal(Fatal::PeerGone)),
            Self::Corrupt => Err(PostError::Fatal(Fatal::Corrupt)),
            Self::Refused => Err(PostError::Fatal(Fatal::Refused)),
        }
    }

    /// How the receives that wait for such a peer alone end, and what is reported of it.
    #[must_use]
    pub const fn end_of(self, addr: Addr) -> (Status, Event) {
        match self {
            Self::Corrupt => (Status::Corrupt, Event::PeerCorrupt(addr)),
            Self::Refused => (Status::PeerGone, Event::Refused(addr)),
            Self::Vacant | Self::Connecting | Self::Known | Self::Up | Self::Gone | Self::Past => {
                (Status::PeerGone, Event::PeerGone(addr))
            }
        }
    }
}

/// What a row of an address table has in every port.
#[derive(Debug)]
pub struct PeerState {
    generation: Cell<Generation>,
    standing: Cell<Standing>,
    /// Whether its end was put among the events.
    reported: Cell<bool>,
    /// Looks in a row that found nothing. Of a lost peer: looks at what is left of it.
    pub looks: Cell<u32>,
    /// Of a lost peer: the number that its transport gave for the reason; 0 where it gave none.
    code: Cell<u32>,
}

impl PeerState {
    /// Nobody.
    #[must_use]
    pub const fn vacant() -> Self {
        Self {
            generation: Cell::new(Generation::FIRST),
            standing: Cell::new(Standing::Vacant),
            reported: Cell::new(false),
            looks: Cell::new(0),
            code: Cell::new(0),
        }
    }

    /// Whose turn it is to be in the row.
    #[must_use]
    #[inline(always)]
    pub const fn generation(&self) -> Generation {
        self.generation.get()
    }

    /// How the peer stands.
    #[must_use]
    #[inline(always)]
    pub const fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// From now on it stands so. For one that is lost: [`PeerState::lose`].
    #[inline(always)]
    pub fn set_standing(&self, standing: Standing) {
        self.standing.set(standing);
    }

    /// Its address, where this is the state of row `slot`.
    #[must_use]
    #[inline(always)]
    pub const fn addr(&self, slot: u32) -> Addr {
        Addr::new(slot, self.generation.get())
    }

    /// Whether nobody is in the row.
    #[must_use]
    #[inline(always)]
    pub const fn is_vacant(&self) -> bool {
        matches!(self.standing.get(), Standing::Vacant)
    }

    /// Whether nothing more is sent to it, and nothing new comes from it.
    #[must_use]
    #[inline(always)]
    pub const fn is_lost(&self) -> bool {
        self.standing.get().is_lost()
    }

    /// Whether its end was put among the events. What is left of it is in its transport.
    #[must_use]
    #[inline(always)]
    pub const fn has_ended(&self) -> bool {
        self.is_lost() && self.reported.get()
    }

    /// Whether its end is told after some more looks: until then nobody may sleep who waits for that.
    #[must_use]
    pub const fn is_about_to_end(&self) -> bool {
        let looks = self.looks.get();
        self.is_lost() && !self.reported.get() && 0 < looks && looks <= PATIENCE_LOOKS
    }

    /// It is lost, and that is to be told.
    pub fn lose(&self, standing: Standing) {
        self.lose_for(standing, 0);
    }

    /// The same, with the number that its transport gives for the reason (an `errno`, a status of a work completion): its receives fail with that.
    pub fn lose_for(&self, standing: Standing, code: u32) {
        self.standing.set(standing);
        self.reported.set(false);
        self.looks.set(0);
        self.code.set(code);
    }

    /// Of a lost peer: the number that its transport gave for the reason; 0 where it gave none.
    #[must_use]
    pub const fn code(&self) -> u32 {
        self.code.get()
    }

    /// Its end is among the events now, or there was no room for it.
    pub(super) fn set_reported(&self, reported: bool) {
        self.reported.set(reported);
    }

    /// The row is free for another. The address of who was in it is stale from now on.
    pub fn vacate(&self) {
        self.generation.set(self.generation.get().next());
        self.standing.set(Standing::Vacant);
    }
}

/// An address table with rows of type `R`.
#[derive(Debug)]
pub struct Peers<'m, R> {
    rows: &'m [R],
}

impl<R> Clone for Peers<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Peers<'_, R> {}

impl<'m, R> Peers<'m, R> {
    /// Places a table of `count` rows.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(
        bump: &Bump<'m>,
        count: u32,
        mut vacant: impl FnMut() -> R,
    ) -> Result<Self, Exhausted> {
        Ok(Self { rows: bump.slice_with(wide(count), |_| vacant())? })
    }

    /// The row of that number, whoever is in it.
    #[must_use]
    #[inline(always)]
    pub fn at(self, slot: u32) -> Option<&'m R> {
        self.rows.get(wide(slot))
    }

    /// All rows, with their numbers.
    pub fn iter(self) -> impl Iterator<Item = (u32, &'m R)> + use<'m, R> {
        (0..NIL).zip(self.rows)
    }
}

impl<'m, R: AsRef<PeerState>> Peers<'m, R> {
    /// The row of an address that is good.
    ///
    /// # Errors
    /// `UnknownAddress`, or `StaleAddress` where somebody else is in the row by now, or nobody.
    #[inline(always)]
    pub fn find(self, addr: Addr) -> Result<&'m R, Misuse> {
        let row = self.at(addr.slot()).ok_or(Misuse::UnknownAddress)?;
        let state = row.as_ref();
        if state.generation() == addr.generation() && !state.is_vacant() {
            Ok(row)
        } else {
            Err(Misuse::StaleAddress)
        }
    }

    /// The rows somebody is in.
    pub fn in_use(self) -> impl Iterator<Item = (u32, &'m R)> + use<'m, R> {
        self.iter().filter(|(_, row)| !row.as_ref().is_vacant())
    }

    /// Whether there is anybody besides those of whom nothing more is heard.
    #[must_use]
    pub fn has_peer(self) -> bool {
        self.in_use().any(|(_, row)| row.as_ref().standing() != Standing::Past)
    }

    /// A row nobody is in.
    ///
    /// # Errors
    /// `AddressesFull`.
    pub fn vacant(self) -> Result<(u32, &'m R), Retry> {
        self.iter().find(|(_, row)| row.as_ref().is_vacant()).ok_or(Retry::AddressesFull)
    }
}
