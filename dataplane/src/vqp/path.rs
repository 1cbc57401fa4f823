//! A path: one physical queue pair of a virtual one, with what is on its way on it and how it fares.
//!
//! ```text
//!            nothing completed for long         an error, a refused post, silence, taken out
//!   +----+ ----------------------------> +---------+ ----> +----------+    all flushed, or     +------+
//!   | Ok | <---------------------------- | Suspect |       | Draining | --- flushed by time -> | Down |
//!   +----+       something completed     +---------+   +-> +----------+                        +------+
//!      ^  \____________________________________________/         ^                                |
//!      |              something completed            +-----------+   VirtualQp::readmit           |
//!      +-------------------------------------------- | Recovered | <------------------------------+
//!                                                    +-----------+
//! ```
//!
//! New work goes to paths that are Ok or Recovered, and to suspect ones only where there are no others.
//!
//! Of sends alone is seen that nothing completes: a receive may wait for ever. A path of DQPLB that is down for want of an answer, or
//! because the caller has taken it out, keeps its receives: the peer may not know yet, and what it still writes there has
//! its number.

use core::cell::Cell;
use core::fmt;

use super::flight::Flight;
use super::qp::bit;
use super::refusal::Cause;
use super::region::{Column, Regions};
use crate::poll::PathHealth;
use crate::time::Instant;
use crate::verbs::QueuePair;

/// How a path fares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Health {
    /// In use.
    Ok = 1,
    /// Something is on its way and nothing was completed for long.
    Suspect = 2,
    /// No longer in use; what is on its way is being flushed.
    Draining = 3,
    /// No longer in use, and nothing is on its way.
    Down = 4,
    /// In use again, and nothing was completed yet.
    Recovered = 5,
}

impl Health {
    /// As the stats page says it.
    pub(super) const fn shown(self) -> PathHealth {
        match self {
            Self::Ok => PathHealth::Ok,
            Self::Suspect => PathHealth::Suspect,
            Self::Draining => PathHealth::Draining,
            Self::Down => PathHealth::Down,
            Self::Recovered => PathHealth::Recovered,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Recovered => "recovered",
        })
    }
}

/// What is known of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathFigures {
    /// Number of its device.
    pub device: u32,
    /// Number of its queue pair there.
    pub qp_num: u32,
    /// How it fares.
    pub health: Health,
    /// Why it went down last; kept until it does so again.
    pub cause: Option<Cause>,
    /// Sends on their way.
    pub sends_in_flight: u32,
    /// Receives posted.
    pub recvs_in_flight: u32,
    /// Fragments, sends, reads, atomics and notifications completed without error.
    pub fragments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Completions with errors.
    pub errors: u64,
    /// Completions that were nobody's: late, repeated or out of order.
    pub stale: u64,
}

pub(super) struct Path<'m, P: QueuePair> {
    pub qp: P,
    pub qp_num: u32,
    pub device: u32,
    /// The set of this one alone.
    pub bit: u64,
    /// What its device calls each region: of this end, and of the peer.
    pub local_keys: Column<'m, P::Key>,
    pub remote_keys: Column<'m, u32>,
    pub sends: Flight<'m>,
    pub recvs: Flight<'m>,
    pub health: Cell<Health>,
    /// It is well, and the only one: of what succeeds there nobody has to know more than that.
    pub is_plain: Cell<bool>,
    pub cause: Cell<Option<Cause>>,
    /// Whether it is down without a word of the device, which may thus still execute what it has.
    pub is_silent: Cell<bool>,
    /// Receives of no bytes that are to be posted.
    pub owed: Cell<u32>,
    /// By the clock of the virtual queue pair: when a send was last seen to be completed, or nothing to be on its way; while draining,
    /// since when. And how many had been completed then.
    pub since: Cell<Instant>,
    pub seen: Cell<u64>,
    pub fragments: Cell<u64>,
    pub bytes: Cell<u64>,
    pub errors: Cell<u64>,
    pub stale: Cell<u64>,
}

impl<'m, P: QueuePair> Path<'m, P> {
    pub(super) fn new(
        (at, qp, device): (u32, P, u32),
        (sends, recvs): (Flight<'m>, Flight<'m>),
        (local, remote): (&Regions<'m, P::Key>, &Regions<'m, u32>),
    ) -> Self {
        let zero = || Cell::new(0);
        Self {
            qp_num: qp.qp_num(),
            qp,
            device,
            bit: bit(at),
            local_keys: local.column(device),
            remote_keys: remote.column(device),
            sends,
            recvs,
            health: Cell::new(Health::Ok),
            is_plain: Cell::new(false),
            cause: Cell::new(None),
            is_silent: Cell::new(false),
            owed: Cell::new(0),
            since: Cell::new(Instant::ORIGIN),
            seen: zero(),
            fragments: zero(),
            bytes: zero(),
            errors: zero(),
            stale: zero(),
        }
    }

    /// Whether new work may go there.
    #[inline]
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.health.get(), Health::Ok | Health::Recovered | Health::Suspect)
    }

    /// Sends that were completed, in whichever way.
    #[inline]
    pub(super) const fn completed(&self) -> u64 {
        self.fragments.get().wrapping_add(self.errors.get())
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.recvs.is_empty()
    }

    pub(super) const fn figures(&self) -> PathFigures {
        PathFigures {
            device: self.device,
            qp_num: self.qp_num,
            health: self.health.get(),
            cause: self.cause.get(),
            sends_in_flight: self.sends.len(),
            recvs_in_flight: self.recvs.len(),
            fragments: self.fragments.get(),
            bytes: self.bytes.get(),
            errors: self.errors.get(),
            stale: self.stale.get(),
        }
    }
}

/// Counts one more.
#[inline]
pub(super) fn count(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get().wrapping_add(amount));
}
