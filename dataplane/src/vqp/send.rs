//! Sends: requests in posting order, cut into fragments, put together again.
//!
//! ```text
//!   rows      reported | waits for its fragments .. | data there, not notified | being cut .. | not begun |
//!                      ^ head                       ^ decided                  ^ cursor                   ^ tail
//!   lost      fragments of a failed path that another one is to carry; they go first
//! ```
//!
//! Invariants:
//! 1. `head <= decided <= cursor <= tail` (wrapping), and requests are reported in that order.
//! 2. A fragment that was staged is on the flight list of one path, or in `lost`, and is counted in `outstanding` of its request: so
//!    a request that is cut and has none outstanding is over, whatever has become of the rest.
//! 3. There are no more entries in `lost` than places on all flight lists, because nothing new is cut while there are any.
//! 4. The first cause of a request stays.

use core::cell::Cell;

use heapless::Vec;
use spinwire_layouts::word::{low, widen};

use super::config::{Scheme, Spread, Visibility, VqpConfig};
use super::flight::{InFlight, Kind};
use super::path::Path;
use super::qp::{Mode, State, VirtualQp, bit, lowest};
use super::refusal::{CallError, Cause, Refusal};
use super::region::RegionId;
use super::request::{Done, Op, SGE_MAX, SendWr, Sge, Signal};
use super::sequence::SendWindow;
use crate::error::{PostError, Retry};
use crate::id::OpTag;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Ring, wide};
use crate::verbs::{QueuePair, RemotePlace, Segment, SendRequest, Verb};

const SEGMENTS_MAX: usize = 4;
const _: () = assert!(wide(SGE_MAX) == SEGMENTS_MAX);

/// A range of local memory, as it was resolved when the request was posted.
#[derive(Clone, Copy)]
pub(super) struct LocalRange {
    address: u64,
    length: u64,
    region: Option<RegionId>,
}

/// A request.
struct Row {
    context: Cell<u64>,
    op: Cell<Op>,
    signal: Cell<Signal>,
    length: Cell<u64>,
    /// The byte that the next fragment begins with.
    offset: Cell<u64>,
    remote_address: Cell<u64>,
    remote: Cell<Option<RegionId>>,
    sge_count: Cell<u32>,
    /// Fragments, reads and notifications that are staged, on their way, or in `lost`.
    outstanding: Cell<u32>,
    /// Of them the bytes that are read back.
    flushes: Cell<u32>,
    /// Devices over which data has arrived and was not read back.
    devices: Cell<u64>,
    cause: Cell<Option<Cause>>,
}

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
        }
    }

    fn fail(&self, cause: Cause) {
        if self.cause.get().is_none() {
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
    sges: &'m [Cell<LocalRange>],
    head: Cell<u32>,
    decided: Cell<u32>,
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
        let empty = LocalRange { address: 0, length: 0, region: None };
        let window = match mode {
            Mode::Sequence(codec) => {
                Some(SendWindow::place(bump, codec, config.window, config.first_sequence)?)
            }
            Mode::Single | Mode::Spray => None,
        };
        let in_flight = crate::table::count(paths).saturating_mul(config.send_depth);
        Ok(Self {
            rows: bump.slice_with(count, |_| Row::vacant())?,
            sges: bump.slice_with(count.saturating_mul(SEGMENTS_MAX), |_| Cell::new(empty))?,
            head: Cell::new(0),
            decided: Cell::new(0),
            cursor: Cell::new(0),
            tail: Cell::new(0),
            lost: Ring::place(bump, in_flight, InFlight::new(Kind::Data, 0))?,
            window,
            broken_at: Cell::new(None),
            turn: Cell::new(0),
        })
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
        let row = wide(position) & self.rows.len().wrapping_sub(1);
        self.sges.get(row.wrapping_mul(SEGMENTS_MAX).wrapping_add(wide(index)))
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
        let position = side.tail.get();
        let (length, remote_address) = self.resolve(wr, position)?;
        let Some(row) = side.row(position) else {
            return Err(Retry::SqFull.into());
        };
        row.context.set(wr.context);
        row.op.set(wr.op);
        row.signal.set(wr.signal);
        row.length.set(length);
        row.offset.set(0);
        row.remote_address.set(remote_address);
        row.remote.set(wr.remote.map(|remote| remote.region));
        row.sge_count.set(crate::table::count(wr.sges.len()));
        row.outstanding.set(0);
        row.flushes.set(0);
        row.devices.set(0);
        row.cause.set(None);
        side.tail.set(position.wrapping_add(1));
        self.pump(self.config.post_burst);
        Ok(())
    }

    #[cold]
    pub(super) fn not_open(&self) -> Refusal {
        let is_closing = self.state.get() == State::Closing;
        if is_closing { CallError::Closing } else { CallError::NotAttached }.into()
    }

    /// Checks shape, ranges and keys; writes the local ranges to their row. Gives the length and the remote address.
    #[inline]
    fn resolve(&self, wr: &SendWr<'_>, position: u32) -> Result<(u64, u64), CallError> {
        self.check_carried(wr.op)?;
        if wr.sges.len() > wide(self.config.sge_max) {
            return Err(CallError::TooManySegments);
        }
        let mut length = 0_u64;
        for (index, sge) in (0_u32..).zip(wr.sges) {
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

    #[inline]
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

    /// The part of a request behind `offset`, `length` bytes long, as segments for `device`.
    #[inline]
    fn segments(
        &self,
        entry: &InFlight,
        row: &Row,
        device: u32,
    ) -> Result<Vec<Segment<P::Key>, SEGMENTS_MAX>, Cause> {
        let no_key = Cause::NoKey { device };
        let mut segments = Vec::new();
        let (mut skip, mut left) = (entry.offset, entry.length);
        for index in 0..row.sge_count.get() {
            if left == 0 {
                break;
            }
            let Some(range) = self.send.sge(entry.row, index).map(Cell::get) else { break };
            if skip >= range.length {
                skip = skip.wrapping_sub(range.length);
                continue;
            }
            let here = range.length.wrapping_sub(skip);
            let length = if here >= widen(left) { left } else { low(here) };
            let region = range.region.ok_or(no_key)?;
            let key = self.local.key(region, device).ok_or(no_key)?;
            let address = range.address.wrapping_add(skip);
            // There are no more than SEGMENTS_MAX segments of a request.
            let _fits = segments.push(Segment { address, length, key });
            left = left.wrapping_sub(length);
            skip = 0;
        }
        Ok(segments)
    }

    #[inline]
    fn verb(&self, entry: &InFlight, row: &Row) -> Verb {
        let op = row.op.get();
        let immediate = if let Op::WriteImm(immediate) = op { immediate } else { 0 };
        match (entry.kind, op) {
            (Kind::Flush, _) | (_, Op::Read) => Verb::Read,
            (Kind::Notify, _) => Verb::WriteImm(immediate),
            (_, Op::Send) => Verb::Send,
            (_, Op::SendImm(immediate)) => Verb::SendImm(immediate),
            (_, Op::FetchAdd(amount)) => Verb::FetchAdd(amount),
            (_, Op::CompareSwap { expected, swap }) => Verb::CompareSwap { expected, swap },
            (_, Op::Write | Op::WriteImm(_) | Op::WriteNotify) => {
                let end = entry.offset.wrapping_add(u64::from(entry.length));
                let is_last = end == row.length.get();
                match self.mode {
                    Mode::Single if is_last && op.notifies() => Verb::WriteImm(immediate),
                    Mode::Single | Mode::Spray => Verb::Write,
                    Mode::Sequence(codec) => Verb::WriteImm(codec.encode(entry.number, is_last)),
                }
            }
        }
    }

    /// Stages `entry` on one of the paths `allowed`.
    #[inline]
    fn stage(&self, entry: &InFlight, row: &Row, allowed: u64) -> Staging {
        let Some(at) = self.pick(allowed) else {
            let is_up = self.is_any_up(allowed);
            return if is_up { Staging::Blocked } else { Staging::Dead(self.cause_of(allowed)) };
        };
        let Some(path) = self.paths.get(wide(at)) else { return Staging::Blocked };
        let segments = match entry.kind {
            Kind::Flush => self.scratch(path.device),
            Kind::Data | Kind::Notify | Kind::Receive | Kind::Credit => {
                self.segments(entry, row, path.device)
            }
        };
        let segments = match segments {
            Ok(segments) => segments,
            Err(cause) => return Staging::Dead(cause),
        };
        let remote = match row.remote.get() {
            None => None,
            Some(region) => {
                let Some(key) = self.remote.key(region, path.device) else {
                    return Staging::Dead(Cause::NoKey { device: path.device });
                };
                let address = row.remote_address.get().wrapping_add(entry.offset);
                Some(RemotePlace { address, key })
            }
        };
        let wr_id = self.wr_id(OpTag::VirtualSend, at, path.sends.next());
        let verb = self.verb(entry, row);
        let request = SendRequest::new(wr_id, verb, &segments);
        let request = remote.map_or(request, |place| request.at(place));
        match path.qp.post_send(&request) {
            Ok(()) => {
                if path.sends.is_empty() {
                    path.since.set(self.now.get());
                }
                path.sends.push(*entry);
                path.staged.set(path.staged.get().wrapping_add(1));
                self.dirty.set(self.dirty.get() | bit(at));
                if !path.sends.has_room() {
                    self.roomy.set(self.roomy.get() & !bit(at));
                }
                Staging::Staged
            }
            Err(PostError::Retry(_)) => {
                // The device has less room than it said. A completion there shows that it has some again; where none is on
                // its way the next turn tries.
                if path.sends.is_empty() {
                    return Staging::Blocked;
                }
                self.roomy.set(self.roomy.get() & !bit(at));
                Staging::Again
            }
            Err(error @ (PostError::Fatal(_) | PostError::Misuse(_))) => {
                self.fail_path(at, Cause::Refused(error));
                Staging::Again
            }
        }
    }

    /// Why none of those paths is up.
    fn cause_of(&self, allowed: u64) -> Cause {
        let first = lowest(allowed).filter(|_| allowed.count_ones() == 1);
        let path = first.and_then(|at| self.paths.get(wide(at)));
        path.and_then(|path| path.cause.get()).unwrap_or_else(|| self.first_cause())
    }

    /// Where the byte goes that is read back.
    fn scratch(&self, device: u32) -> Result<Vec<Segment<P::Key>, SEGMENTS_MAX>, Cause> {
        let no_key = Cause::NoKey { device };
        let Scheme::Spray(Visibility::FlushingRead(region)) = self.config.scheme else {
            return Err(no_key);
        };
        let address = self.local.resolve(region, (0, 8), bit(device)).map_err(|_gone| no_key)?;
        let key = self.local.key(region, device).ok_or(no_key)?;
        let mut segments = Vec::new();
        let _fits = segments.push(Segment { address, length: 1, key });
        Ok(segments)
    }
}

/// The pump.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// Stages what there is room for, `steps` steps at most. Says whether it ran out of steps.
    #[inline]
    pub(super) fn pump(&self, steps: u32) -> bool {
        let mut left = steps;
        while left > 0 {
            let step = if !self.send.lost.is_empty() {
                self.carry_lost()
            } else if self.send.cursor.get() != self.send.tail.get() {
                self.cut()
            } else {
                break;
            };
            if step == Step::Blocked {
                break;
            }
            left = left.wrapping_sub(1);
        }
        if self.mode == Mode::Spray {
            while left > 0 && self.decide() == Step::Moved {
                left = left.wrapping_sub(1);
            }
        }
        left == 0
    }

    /// The oldest lost fragment goes on another path, or is given up with its request.
    #[cold]
    fn carry_lost(&self) -> Step {
        let Some(entry) = self.send.lost.front() else { return Step::Blocked };
        let Some(row) = self.send.row(entry.row) else { return Step::Blocked };
        let is_closing = self.state.get() == State::Closing;
        let staging = match row.cause.get().or_else(|| self.broken()) {
            Some(cause) => Staging::Dead(cause),
            None if is_closing => Staging::Dead(Cause::Closed),
            None => self.stage(&entry, row, self.carriers(&entry, row)),
        };
        match staging {
            Staging::Staged => {
                let _staged = self.send.lost.pop();
            }
            Staging::Blocked => return Step::Blocked,
            Staging::Again => {}
            Staging::Dead(cause) => {
                let _given_up = self.send.lost.pop();
                self.give_up(&entry, row, cause);
            }
        }
        Step::Moved
    }

    /// The paths on which an entry may be tried again.
    fn carriers(&self, entry: &InFlight, row: &Row) -> u64 {
        match entry.kind {
            Kind::Notify => self.notify_path(),
            Kind::Flush => self.paths_on(entry.number),
            // A send in rotation has had its turn.
            Kind::Data if self.pinned().is_none() && row.op.get().is_send() => 0,
            Kind::Data | Kind::Receive | Kind::Credit => self.may_carry(row.op.get()),
        }
    }

    /// The next fragment of the oldest request that is not wholly cut.
    #[inline]
    fn cut(&self) -> Step {
        let side = &self.send;
        let position = side.cursor.get();
        let Some(row) = side.row(position) else { return Step::Blocked };
        let op = row.op.get();
        let (offset, length) = (row.offset.get(), row.length.get());
        let is_bare = length == 0 && self.mode == Mode::Spray && op.notifies();
        if self.state.get() == State::Closing {
            row.fail(Cause::Closed);
        }
        if row.cause.get().is_some() || is_bare {
            side.cursor.set(position.wrapping_add(1));
            self.break_behind(position, row, offset);
            return Step::Moved;
        }
        let left = length.wrapping_sub(offset);
        let most = self.config.max_message;
        let part = if left > widen(most) { most } else { low(left) };
        let is_numbered = op.notifies();
        let window = side.window.as_ref().filter(|_| is_numbered);
        let number = match window.map(SendWindow::peek) {
            None => 0,
            Some(Some(number)) => number,
            Some(None) => return Step::Blocked,
        };
        let entry =
            InFlight { offset, length: part, number, ..InFlight::new(Kind::Data, position) };
        let turn = self.turn_of(op);
        let allowed = turn.map_or_else(|| self.may_carry(op), bit);
        match self.stage(&entry, row, allowed) {
            Staging::Staged => {
                row.hold(Kind::Data);
                row.offset.set(offset.wrapping_add(u64::from(part)));
                if let Some(window) = window {
                    window.consume();
                }
                if part == low(left) && u64::from(part) == left {
                    side.cursor.set(position.wrapping_add(1));
                }
            }
            Staging::Again => return Step::Moved,
            Staging::Blocked => return Step::Blocked,
            Staging::Dead(cause) => {
                row.fail(cause);
                side.cursor.set(position.wrapping_add(1));
                self.break_behind(position, row, offset);
            }
        }
        if turn.is_some() {
            self.next_turn();
        }
        Step::Moved
    }

    /// In rotation, the path whose turn a send is.
    #[inline]
    fn turn_of(&self, op: Op) -> Option<u32> {
        (op.is_send() && self.config.spread == Spread::Rotation).then(|| self.send.turn.get())
    }

    fn next_turn(&self) {
        let next = self.send.turn.get().wrapping_add(1);
        self.send.turn.set(if next >= self.data.count_ones() { 0 } else { next });
    }

    /// Notifies the peer of the oldest write that it has not heard of, once all its data is there, and only then.
    fn decide(&self) -> Step {
        let side = &self.send;
        let position = side.decided.get();
        if position == side.cursor.get() {
            return Step::Blocked;
        }
        let Some(row) = side.row(position) else { return Step::Blocked };
        if row.cause.get().is_some() || !row.op.get().notifies() {
            side.decided.set(position.wrapping_add(1));
            return Step::Moved;
        }
        let notify = self.notify_path();
        let notify_device = self.paths.last().map_or(0, |path| bit(path.device));
        let (kind, number, allowed) = match lowest(row.devices.get() & !notify_device) {
            Some(device) if row.outstanding.get() == row.flushes.get() => {
                (Kind::Flush, device, self.paths_on(device))
            }
            None if row.outstanding.get() == 0 => (Kind::Notify, 0, notify),
            _ => return Step::Blocked,
        };
        let entry = InFlight { number, ..InFlight::new(kind, position) };
        match self.stage(&entry, row, allowed) {
            Staging::Staged => {
                row.hold(kind);
                if kind == Kind::Notify {
                    side.decided.set(position.wrapping_add(1));
                } else {
                    row.devices.set(row.devices.get() & !bit(number));
                }
                Step::Moved
            }
            Staging::Again => Step::Moved,
            Staging::Blocked => Step::Blocked,
            Staging::Dead(cause) => {
                row.fail(cause);
                Step::Moved
            }
        }
    }

    const fn notify_path(&self) -> u64 {
        !self.data & bit(self.path_count().wrapping_sub(1))
    }

    /// Data paths on a device.
    fn paths_on(&self, device: u32) -> u64 {
        let on = |(at, path): (u32, &Path<'_, P>)| if path.device == device { bit(at) } else { 0 };
        self.data & (0_u32..).zip(self.paths).map(on).fold(0, |set, one| set | one)
    }
}

/// What becomes of what was staged.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// A fragment has succeeded.
    #[inline]
    pub(super) fn finish(&self, path: &Path<'_, P>, entry: &InFlight) {
        let Some(row) = self.send.row(entry.row) else { return };
        row.release(entry.kind);
        if entry.kind == Kind::Data {
            row.devices.set(row.devices.get() | bit(path.device));
            if let Some(window) = self.send.window.as_ref().filter(|_| row.op.get().notifies()) {
                window.acknowledge(entry.number);
            }
        }
    }

    /// A fragment has failed: another path carries it, or its request fails.
    pub(super) fn lose(&self, entry: &InFlight, cause: Cause, fate: Fate) {
        let Some(row) = self.send.row(entry.row) else { return };
        let is_replayed = match fate {
            Fate::Unposted => true,
            Fate::Executed { is_silent } => {
                !is_silent
                    && self.config.replay == super::config::Replay::Idempotent
                    && matches!(entry.kind, Kind::Data | Kind::Flush)
                    && row.op.get().is_idempotent()
                    // On one path the notification comes with the last fragment, and the peer has no number to know it by.
                    && !(self.mode == Mode::Single && row.op.get().notifies())
            }
        };
        let is_wanted = row.cause.get().is_none()
            && self.broken().is_none()
            && self.state.get() == State::Open
            && self.is_any_up(self.carriers(entry, row));
        if is_replayed && is_wanted && self.send.lost.push(*entry).is_ok() {
            return;
        }
        self.give_up(entry, row, cause);
    }

    fn give_up(&self, entry: &InFlight, row: &Row, cause: Cause) {
        row.fail(cause);
        row.release(entry.kind);
        if entry.kind == Kind::Data && row.op.get().notifies() {
            self.break_behind(entry.row, row, 1);
        }
    }

    /// Where part of a numbered request was sent and the rest will not be, the peer waits for it for ever: nothing behind it
    /// can be delivered any more.
    fn break_behind(&self, position: u32, row: &Row, sent: u64) {
        if self.send.window.is_none() || !row.op.get().notifies() || sent == 0 {
            return;
        }
        let is_earlier = |broken: u32| {
            position.wrapping_sub(self.send.head.get()) < broken.wrapping_sub(self.send.head.get())
        };
        if self.send.broken_at.get().is_none_or(is_earlier) {
            self.send.broken_at.set(Some(position));
        }
        // Rows behind it that are not cut yet.
        let mut at = self.send.cursor.get();
        while at != self.send.tail.get() {
            if let Some(row) = self.send.row(at) {
                row.fail(Cause::SequenceLost);
            }
            at = at.wrapping_add(1);
        }
    }

    /// Why no more can be sent although paths are up.
    pub(super) fn broken(&self) -> Option<Cause> {
        self.send.broken_at.get().map(|_| Cause::SequenceLost).or_else(|| self.recv.broken.get())
    }

    /// Tells the device of the sends that were staged on a path; those that it does not take are not on their way.
    #[inline]
    pub(super) fn ring_sends(&self, at: u32) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let staged = path.staged.get();
        if staged == 0 {
            return;
        }
        let published = path.qp.ring_doorbell();
        path.staged.set(0);
        if published.count < u64::from(staged) {
            self.take_back(at, staged.wrapping_sub(low(published.count)), published.error);
        }
    }

    #[cold]
    fn take_back(&self, at: u32, missing: u32, error: Option<crate::error::Fatal>) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let error = error.map(PostError::Fatal);
        if let Some(error) = error {
            self.fail_path(at, Cause::Refused(error));
        }
        let cause = error.map_or(Cause::Silent, Cause::Refused);
        let first = path.sends.len().saturating_sub(missing);
        for skip in first..path.sends.len() {
            if let Some(entry) = path.sends.peek(skip) {
                self.lose(&entry, cause, Fate::Unposted);
            }
        }
        path.sends.take_back(missing);
        self.roomy.set(self.roomy.get() | bit(at));
    }

    /// Requests that are wholly staged, and notified where that is to be done.
    #[inline]
    fn limit(&self) -> u32 {
        if self.mode == Mode::Spray { self.send.decided.get() } else { self.send.cursor.get() }
    }

    #[inline]
    pub(super) fn send_wants_turn(&self) -> bool {
        let side = &self.send;
        if side.tail.get() != self.limit() || !side.lost.is_empty() {
            return true;
        }
        let head = side.head.get();
        head != side.tail.get() && side.row(head).is_some_and(|row| row.outstanding.get() == 0)
    }

    /// The oldest request, if it is over.
    #[inline]
    pub(super) fn take_send(&self) -> Option<(u64, Result<Done, Cause>)> {
        let side = &self.send;
        let limit = self.limit();
        // Bounded by the rows: each step reports or forgets one.
        while side.head.get() != limit {
            let position = side.head.get();
            let row = side.row(position)?;
            if row.outstanding.get() > 0 {
                return None;
            }
            if side.broken_at.get().is_some_and(|broken| is_behind(position, broken)) {
                // What comes behind the break is behind it for good.
                side.broken_at.set(Some(position));
                if row.op.get().notifies() {
                    row.fail(Cause::SequenceLost);
                }
            }
            side.head.set(position.wrapping_add(1));
            let outcome = match row.cause.get() {
                Some(cause) => Err(cause),
                None if row.signal.get() == Signal::OnError => continue,
                None => Ok(Done { bytes: row.length.get(), immediate: None }),
            };
            return Some((row.context.get(), outcome));
        }
        None
    }
}

/// Whether `position` is `mark` or comes after it.
const fn is_behind(position: u32, mark: u32) -> bool {
    position.wrapping_sub(mark) < 1 << 31
}
