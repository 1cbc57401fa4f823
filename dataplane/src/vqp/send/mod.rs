//! Sends: requests in posting order, cut into fragments, put together again.
//!
//! ```text
//!   rows      reported | waits for its fragments .. | data there, not notified | being cut .. | not begun |
//!                      ^ head                       ^ decided                  ^ cursor                   ^ tail
//!   lost      fragments of a failed path that another one is to carry, and what a doorbell has left behind; they go first
//! ```
//!
//! Invariants:
//! 1. `head <= decided <= cursor <= tail` (wrapping), and requests are reported in that order. Where data is read back,
//!    `decided <= read_back <= cursor`: reads of one request are not waited for before those of the next.
//! 2. A fragment that was staged is on the flight list of one path, or in `lost`, and is counted in `outstanding` of its request: so
//!    a request that is cut and has none outstanding is over, whatever has become of the rest.
//! 3. There are no more entries in `lost` than places on all flight lists, because nothing new is cut while there are any.
//! 4. The first cause of a request stays, unless it is an echo.
//! 5. What is to go over one path (pinned sends, notifications) goes in posting order, whatever doorbells leave behind.

mod outcome;
mod pass;
mod pump;
mod stage;

use core::cell::Cell;

use super::config::{Spread, VqpConfig};
use super::flight::{InFlight, Kind};
use super::qp::{Mode, State, VirtualQp, bit};
use super::refusal::{CallError, Cause, Refusal};
use super::region::RegionId;
use super::request::{Op, SGE_MAX, SendWr, Sge, Signal};
use super::sequence::SendWindow;
use crate::error::Retry;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{NIL, Ring, wide};
use crate::verbs::QueuePair;

const SEGMENTS_MAX: usize = 4;
const _: () = assert!(wide(SGE_MAX) == SEGMENTS_MAX);
const FURTHER_MAX: usize = SEGMENTS_MAX - 1;

/// A range of local memory, as it was resolved when the request was posted.
#[derive(Clone, Copy)]
pub(super) struct LocalRange {
    pub(super) address: u64,
    pub(super) length: u64,
    pub(super) region: Option<RegionId>,
}

impl LocalRange {
    pub(super) const EMPTY: Self = Self { address: 0, length: 0, region: None };
}

/// A request, on two lines. What a completion looks at is on the first.
#[repr(C, align(64))]
struct Row {
    context: Cell<u64>,
    length: Cell<u64>,
    /// The byte that the next fragment begins with.
    offset: Cell<u64>,
    /// Fragments, reads and notifications that are staged, on their way, or in `lost`.
    outstanding: Cell<u32>,
    cause: Cell<Option<Cause>>,
    signal: Cell<Signal>,
    op: Cell<Op>,
    remote_address: Cell<u64>,
    remote: Cell<Option<RegionId>>,
    sge_count: Cell<u32>,
    /// Of those outstanding the bytes that are read back.
    flushes: Cell<u32>,
    /// Devices over which data has arrived and was not read back.
    devices: Cell<u64>,
    /// Its first range; what others there are is beside the rows.
    range: Cell<LocalRange>,
}

const _: () = assert!(size_of::<Row>() == 128);

impl Row {
    const fn vacant() -> Self {
        Self {
            context: Cell::new(0),
            op: Cell::new(Op::Send),
            signal: Cell::new(Signal::Always),
            length: Cell::new(0),
            offset: Cell::new(0),
            remote_address: Cell::new(0),
            remote: Cell::new(None),
            sge_count: Cell::new(0),
            outstanding: Cell::new(0),
            flushes: Cell::new(0),
            devices: Cell::new(0),
            cause: Cell::new(None),
            range: Cell::new(LocalRange::EMPTY),
        }
    }

    fn fail(&self, cause: Cause) {
        if self.cause.get().is_none_or(|first| first.is_flush() && !cause.is_flush()) {
            self.cause.set(Some(cause));
        }
    }

    #[inline]
    fn hold(&self, kind: Kind) {
        self.outstanding.set(self.outstanding.get().wrapping_add(1));
        if kind == Kind::Flush {
            self.flushes.set(self.flushes.get().wrapping_add(1));
        }
    }

    #[inline]
    fn release(&self, kind: Kind) {
        self.outstanding.set(self.outstanding.get().wrapping_sub(1));
        if kind == Kind::Flush {
            self.flushes.set(self.flushes.get().wrapping_sub(1));
        }
    }
}

/// What is known of a fragment that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The device never had it.
    Unposted,
    /// The device had it, and may have executed it; where it is silent it may do so yet.
    Executed { is_silent: bool },
}

/// What became of an attempt to stage.
enum Staging {
    Staged,
    /// No path that may carry it has room.
    Blocked,
    /// It can be tried again at once: another path is left.
    Again,
    /// It cannot be staged at all.
    Dead(Cause),
}

/// What became of one step of the pump.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Blocked,
}

pub(super) struct SendSide<'m> {
    rows: &'m [Row],
    /// All ranges of a request but the first.
    further: &'m [Cell<LocalRange>],
    head: Cell<u32>,
    decided: Cell<u32>,
    /// Behind the last request whose data was read back as far as that is to be done, where there is any such reading.
    read_back: Cell<u32>,
    cursor: Cell<u32>,
    tail: Cell<u32>,
    lost: Ring<'m, InFlight>,
    window: Option<SendWindow<'m>>,
    /// The request at which the sequence broke off.
    broken_at: Cell<Option<u32>>,
    /// Whose turn a send is.
    turn: Cell<u32>,
}

impl<'m> SendSide<'m> {
    pub(super) fn place(
        bump: &Bump<'m>,
        config: &VqpConfig,
        (paths, mode): (usize, Mode),
    ) -> Result<Self, Exhausted> {
        let count = wide(config.sends.next_power_of_two());
        let window = match mode {
            Mode::Sequence(codec) => {
                Some(SendWindow::place(bump, codec, config.window, config.first_sequence)?)
            }
            Mode::Single | Mode::Spray => None,
        };
        let in_flight = crate::table::count(paths).saturating_mul(config.send_depth);
        Ok(Self {
            rows: bump.slice_with(count, |_| Row::vacant())?,
            further: bump
                .slice_with(count.saturating_mul(FURTHER_MAX), |_| Cell::new(LocalRange::EMPTY))?,
            head: Cell::new(0),
            decided: Cell::new(0),
            read_back: Cell::new(0),
            cursor: Cell::new(0),
            tail: Cell::new(0),
            lost: Ring::place(bump, in_flight, InFlight::new(Kind::Data, 0))?,
            window,
            broken_at: Cell::new(None),
            turn: Cell::new(0),
        })
    }

    /// Turns begin with the first path.
    pub(super) fn begin_turns(&self) {
        self.turn.set(0);
    }

    #[inline]
    pub(super) const fn len(&self) -> u32 {
        self.tail.get().wrapping_sub(self.head.get())
    }

    #[inline]
    fn row(&self, position: u32) -> Option<&'m Row> {
        self.rows.get(wide(position) & self.rows.len().wrapping_sub(1))
    }

    #[inline]
    fn sge(&self, position: u32, index: u32) -> Option<&'m Cell<LocalRange>> {
        let Some(further) = index.checked_sub(1) else {
            return self.row(position).map(|row| &row.range);
        };
        let row = wide(position) & self.rows.len().wrapping_sub(1);
        self.further.get(row.wrapping_mul(FURTHER_MAX).wrapping_add(wide(further)))
    }
}

/// Posting.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// Takes a request over, and stages what there is room for. It is reported once, in posting order.
    ///
    /// # Errors
    /// Nothing was taken over.
    #[inline]
    pub fn post_send(&self, wr: &SendWr<'_>) -> Result<(), Refusal> {
        if self.mode == Mode::Single && self.pass(wr) { Ok(()) } else { self.post_rows(wr) }
    }

    /// The same, whatever it takes.
    fn post_rows(&self, wr: &SendWr<'_>) -> Result<(), Refusal> {
        if self.state.get() != State::Open {
            return Err(self.not_open());
        }
        let side = &self.send;
        if side.len() >= self.config.sends {
            return Err(Retry::SqFull.into());
        }
        let allowed = self.may_carry(wr.op);
        if side.broken_at.get().is_some() || !self.is_any_up(allowed) {
            return Err(Refusal::Down(self.broken().unwrap_or_else(|| self.cause_of(allowed))));
        }
        if let Some(cause) = self.is_untold(wr.op) {
            return Err(Refusal::Down(cause));
        }
        let position = side.tail.get();
        let (length, remote_address) = self.resolve(wr, position)?;
        let Some(row) = side.row(position) else {
            return Err(Retry::SqFull.into());
        };
        row.begin(wr, (length, remote_address));
        row.flushes.set(0);
        row.devices.set(0);
        side.tail.set(position.wrapping_add(1));
        self.pump_posted(self.config.post_burst);
        Ok(())
    }

    #[cold]
    pub(super) fn not_open(&self) -> Refusal {
        let is_closing = self.state.get() == State::Closing;
        if is_closing { CallError::Closing } else { CallError::NotAttached }.into()
    }

    /// Checks shape, ranges and keys; writes the local ranges to their row. Gives the length and the remote address.
    #[inline(always)]
    fn resolve(&self, wr: &SendWr<'_>, position: u32) -> Result<(u64, u64), CallError> {
        self.check_carried(wr.op)?;
        if wr.sges.len() > wide(self.config.sge_max) {
            return Err(CallError::TooManySegments);
        }
        let mut length = 0_u64;
        for (index, sge) in (0..NIL).zip(wr.sges) {
            length = length.checked_add(sge.length).ok_or(CallError::TooLong)?;
            let range = self.resolve_local(sge)?;
            if let Some(cell) = self.send.sge(position, index) {
                cell.set(range);
            }
        }
        if !wr.op.is_divisible() && length > u64::from(self.config.max_message) {
            return Err(CallError::TooLong);
        }
        let remote_address = match wr.remote {
            None if wr.op.is_send() => 0,
            None => return Err(CallError::NoRemote),
            Some(_) if wr.op.is_send() => return Err(CallError::UnwantedRemote),
            Some(place) => {
                self.remote.resolve(place.region, (place.offset, length), self.devices)?
            }
        };
        if wr.op.is_atomic()
            && (length != 8 || wr.sges.len() != 1 || remote_address.trailing_zeros() < 3)
        {
            return Err(CallError::AtomicShape);
        }
        Ok((length, remote_address))
    }

    #[inline(always)]
    pub(super) fn resolve_local(&self, sge: &Sge) -> Result<LocalRange, CallError> {
        let address = self.local.resolve(sge.region, (sge.offset, sge.length), self.devices)?;
        Ok(LocalRange { address, length: sge.length, region: Some(sge.region) })
    }

    /// What the peer could not be told of is not accepted, instead of letting it wait.
    #[inline]
    const fn check_carried(&self, op: Op) -> Result<(), CallError> {
        match (self.mode, op) {
            (Mode::Sequence(_), Op::WriteImm(_)) => Err(CallError::ImmediateNotCarried),
            (Mode::Sequence(_), Op::Write | Op::Send | Op::SendImm(_)) => {
                Err(CallError::NotCarried)
            }
            _ => Ok(()),
        }
    }

    /// The paths that may carry an operation of that kind.
    #[inline]
    const fn may_carry(&self, op: Op) -> u64 {
        match self.config.spread {
            Spread::Pinned(path) if !op.is_divisible() => bit(path),
            Spread::Pinned(_) | Spread::Rotation => self.data,
        }
    }
}
