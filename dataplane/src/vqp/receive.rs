//! Receives: requests in posting order, and the order of what comes out of order.
//!
//! ```text
//!   rows       reported | done or posted .. | not claimed (DQPLB) |
//!                       ^ head              ^ claimed             ^ tail
//!   DQPLB      credits (receives of no bytes) on every path  -->  ReceiveWindow  -->  a last fragment in order claims a row
//! ```
//!
//! In DQPLB a message that is complete but has no row stays at the front of the window. While more fragments wait there than the
//! peer's window is wide, credits are not posted anew: the peer's device waits (receiver not ready), nothing is lost and nothing
//! aborts.
//!
//! Receives that a doorbell has left behind are posted again, in their place: nothing else is posted before them.
//!
//! Invariant: `head <= claimed <= tail` (wrapping). Outside of DQPLB a row is claimed as it is posted.

use core::cell::Cell;

use heapless::Vec;
use spinwire_layouts::word::low;

use super::config::{Spread, VqpConfig};
use super::flight::{InFlight, Kind};
use super::path::{Path, count};
use super::qp::{Mode, State, VirtualQp, bit};
use super::refusal::{CallError, Cause, Refusal};
use super::request::{Done, RecvKind, RecvWr, Sge};
use super::send::LocalRange;
use super::sequence::{ReceiveWindow, SequenceFault};
use crate::error::{PostError, Retry};
use crate::provider::Published;
use crate::raw::place::{Bump, Exhausted};
use crate::table::{NIL, Ring, wide};
use crate::verbs::{QueuePair, Received, RecvRequest, Segment};

const SEGMENTS_MAX: usize = 4;

struct Row {
    context: Cell<u64>,
    sge_count: Cell<u32>,
    outcome: Cell<Option<Result<Done, Cause>>>,
}

pub(super) struct RecvSide<'m> {
    rows: &'m [Row],
    sges: &'m [Cell<LocalRange>],
    /// What a doorbell has left behind; `number` is its path.
    lost: Ring<'m, InFlight>,
    head: Cell<u32>,
    claimed: Cell<u32>,
    tail: Cell<u32>,
    window: Option<ReceiveWindow<'m>>,
    /// Bytes of the message at the front so far.
    bytes: Cell<u64>,
    /// Why nothing can be received any more.
    pub(super) broken: Cell<Option<Cause>>,
    /// Paths that are owed credits.
    owing: Cell<u64>,
    /// Whose turn a receive is.
    turn: Cell<u32>,
}

impl<'m> RecvSide<'m> {
    pub(super) fn place(
        bump: &Bump<'m>,
        config: &VqpConfig,
        (paths, slots, mode): (usize, u32, Mode),
    ) -> Result<Self, Exhausted> {
        let count = wide(config.recvs.next_power_of_two());
        let rows = bump.slice_with(count, |_| Row {
            context: Cell::new(0),
            sge_count: Cell::new(0),
            outcome: Cell::new(None),
        })?;
        let total = count.saturating_mul(SEGMENTS_MAX);
        let sges = bump.slice_with(total, |_| Cell::new(LocalRange::EMPTY))?;
        let posted = crate::table::count(paths).saturating_mul(config.recv_depth).min(config.recvs);
        let lost = Ring::place(bump, posted, InFlight::new(Kind::Receive, 0))?;
        let window = match mode {
            Mode::Sequence(codec) => {
                Some(ReceiveWindow::place(bump, codec, slots, config.first_sequence)?)
            }
            Mode::Single | Mode::Spray => None,
        };
        Ok(Self {
            rows,
            sges,
            lost,
            head: Cell::new(0),
            claimed: Cell::new(0),
            tail: Cell::new(0),
            window,
            bytes: Cell::new(0),
            broken: Cell::new(None),
            owing: Cell::new(u64::MAX),
            turn: Cell::new(0),
        })
    }

    #[inline]
    pub(super) const fn len(&self) -> u32 {
        self.tail.get().wrapping_sub(self.head.get())
    }

    /// Whether no receive was posted that could be over.
    #[inline(always)]
    pub(super) const fn is_quiet(&self) -> bool {
        self.head.get() == self.claimed.get()
    }

    /// A path is owed credits.
    #[inline]
    pub(super) fn owe(&self, path: u32) {
        self.owing.set(self.owing.get() | bit(path));
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

    #[inline]
    fn finish(&self, position: u32, outcome: Result<Done, Cause>) {
        if let Some(row) = self.row(position).filter(|row| row.outcome.get().is_none()) {
            row.outcome.set(Some(outcome));
        }
    }
}

impl<'m, P: QueuePair> VirtualQp<'m, P> {
    /// Posts a receive. It is reported once, in posting order.
    ///
    /// # Errors
    /// Nothing was taken over.
    pub fn post_recv(&self, wr: &RecvWr<'_>) -> Result<(), Refusal> {
        if self.state.get() != State::Open {
            return Err(self.not_open());
        }
        let side = &self.recv;
        if side.len() >= self.config.recvs {
            return Err(Retry::RqFull.into());
        }
        if !side.lost.is_empty() {
            self.carry_lost_recvs();
            if !side.lost.is_empty() {
                return Err(Retry::RqFull.into());
            }
        }
        if wr.kind == RecvKind::Notification && !wr.sges.is_empty() {
            return Err(CallError::UnwantedSegments.into());
        }
        let position = side.tail.get();
        match (self.mode, wr.kind) {
            (Mode::Sequence(_), RecvKind::Buffer) => return Err(CallError::NotCarried.into()),
            (Mode::Sequence(_), RecvKind::Notification) => {
                self.append(position, wr.context);
                self.deliver();
                // What has arrived is handed out in any case.
                if side.claimed.get() == position.wrapping_add(1) {
                    return Ok(());
                }
                let is_up = self.is_any_up(self.data);
                let broken = side.broken.get();
                if let Some(cause) = broken.or_else(|| (!is_up).then(|| self.first_cause())) {
                    side.tail.set(position);
                    return Err(Refusal::Down(cause));
                }
            }
            (Mode::Spray, RecvKind::Notification) => {
                let at = self.path_count().wrapping_sub(1);
                self.post_recv_on(at, wr, position)?;
                self.append_claimed(position, wr.context);
            }
            (Mode::Single, _) | (Mode::Spray, RecvKind::Buffer) => {
                let at = self.pinned().unwrap_or_else(|| side.turn.get());
                match self.post_recv_on(at, wr, position) {
                    // In rotation a path that is down has its turn, too: the peer's send that falls to it fails as well.
                    Err(Refusal::Down(cause)) if self.is_turn_taken() => {
                        self.append_claimed(position, wr.context);
                        side.finish(position, Err(cause));
                    }
                    posted => {
                        posted?;
                        self.append_claimed(position, wr.context);
                    }
                }
                if self.config.spread == Spread::Rotation {
                    let next = side.turn.get().wrapping_add(1);
                    side.turn.set(if next >= self.data.count_ones() { 0 } else { next });
                    self.has_rotated.set(true);
                }
            }
        }
        Ok(())
    }

    /// Turns begin with the first path.
    pub(super) fn begin_turns(&self) {
        self.recv.turn.set(0);
        self.send.begin_turns();
        self.has_rotated.set(false);
    }

    fn is_turn_taken(&self) -> bool {
        self.config.spread == Spread::Rotation && self.is_any_up(self.data)
    }

    fn append(&self, position: u32, context: u64) {
        if let Some(row) = self.recv.row(position) {
            row.context.set(context);
            row.outcome.set(None);
        }
        self.recv.tail.set(position.wrapping_add(1));
    }

    fn append_claimed(&self, position: u32, context: u64) {
        self.append(position, context);
        self.recv.claimed.set(position.wrapping_add(1));
    }

    fn post_recv_on(&self, at: u32, wr: &RecvWr<'_>, position: u32) -> Result<(), Refusal> {
        if wr.sges.len() > wide(self.config.sge_max) {
            return Err(CallError::TooManySegments.into());
        }
        let path = self.paths.get(wide(at)).ok_or(CallError::UnknownPath)?;
        let mut segments = Vec::<_, SEGMENTS_MAX>::new();
        let mut room = 0_u32;
        for sge in wr.sges {
            let segment = self.recv_segment(sge, path)?;
            // To a device a segment of no bytes may mean the most that there is.
            if segment.length == 0 {
                continue;
            }
            room = room.saturating_add(segment.length);
            if let Some(cell) = self.recv.sge(position, crate::table::count(segments.len())) {
                let (address, length) = (segment.address, sge.length);
                cell.set(LocalRange { address, length, region: Some(sge.region) });
            }
            segments.push(segment).map_err(|_full| CallError::TooManySegments)?;
        }
        if let Some(row) = self.recv.row(position) {
            row.sge_count.set(crate::table::count(segments.len()));
        }
        if !path.is_up() {
            return Err(Refusal::Down(path.cause.get().unwrap_or_else(|| self.first_cause())));
        }
        if !path.recvs.has_room() {
            return Err(Retry::RqFull.into());
        }
        // The bytes of a write of which the peer notifies are not in a buffer.
        let length = if wr.kind == RecvKind::Notification { u32::MAX } else { room };
        let entry = InFlight { length, number: at, ..InFlight::new(Kind::Receive, position) };
        self.stage_recv(at, entry, &segments)
    }

    fn recv_segment(&self, sge: &Sge, path: &Path<'m, P>) -> Result<Segment<P::Key>, CallError> {
        let device = path.device;
        let address = self.local.resolve(sge.region, (sge.offset, sge.length), bit(device))?;
        let key = self.local.key(sge.region, path.local_keys).ok_or(CallError::NoKey { device })?;
        let length = u32::try_from(sge.length).map_err(|_long| CallError::TooLong)?;
        Ok(Segment { address, length, key })
    }

    fn stage_recv(
        &self,
        at: u32,
        entry: InFlight,
        segments: &[Segment<P::Key>],
    ) -> Result<(), Refusal> {
        let path = self.paths.get(wide(at)).ok_or(CallError::UnknownPath)?;
        let wr_id = path.recvs.next();
        match path.qp.post_recv(&RecvRequest { wr_id, segments }) {
            Ok(()) => {
                path.recvs.push(wr_id, entry);
                self.dirty.set(self.dirty.get() | bit(at));
                Ok(())
            }
            Err(PostError::Retry(retry)) => Err(Refusal::Retry(retry)),
            Err(PostError::Misuse(misuse)) => Err(CallError::Device(misuse).into()),
            Err(error @ PostError::Fatal(_)) => {
                let cause = Cause::Refused(error);
                self.fail_path(at, cause);
                Err(Refusal::Down(cause))
            }
        }
    }

    /// A receive on path `at` has succeeded.
    #[inline(always)]
    pub(super) fn arrive(&self, at: u32, entry: &InFlight, received: Received) {
        if entry.kind != Kind::Credit {
            let bytes = received.bytes;
            let done = Done { bytes: u64::from(bytes), immediate: received.immediate };
            let is_overlong = bytes > entry.length;
            let outcome = if is_overlong { Err(Cause::Overlong { bytes }) } else { Ok(done) };
            self.recv.finish(entry.row, outcome);
            return;
        }
        let (Some(path), Some(window)) = (self.paths.get(wide(at)), &self.recv.window) else {
            return;
        };
        path.owed.set(path.owed.get().wrapping_add(1));
        self.recv.owe(at);
        if self.recv.broken.get().is_some() {
            return;
        }
        let accepted = match received.immediate {
            Some(immediate) => window.accept(immediate, received.bytes),
            None => Err(SequenceFault::Missing),
        };
        match accepted {
            Ok(()) => self.deliver(),
            // A fragment that was replayed may come twice. What has no number is no part of the sequence.
            Err(SequenceFault::Duplicate | SequenceFault::Missing) => count(&path.stale, 1),
            Err(fault @ (SequenceFault::Beyond | SequenceFault::Malformed)) => {
                count(&path.errors, 1);
                let cause = Cause::Sequence(fault);
                self.recv.broken.set(Some(cause));
                self.fail_unclaimed(cause);
            }
        }
    }

    /// Hands complete messages to rows, in order, as far as there are rows.
    fn deliver(&self) {
        let side = &self.recv;
        let Some(window) = &side.window else { return };
        // Bounded by the slots of the window: each step empties one.
        while let Some(next) = window.front() {
            let is_claimable = side.claimed.get() != side.tail.get();
            if next.is_last && !is_claimable {
                break;
            }
            window.advance();
            let bytes = side.bytes.get().wrapping_add(u64::from(next.bytes));
            side.bytes.set(bytes);
            if next.is_last {
                side.bytes.set(0);
                side.finish(side.claimed.get(), Ok(Done { bytes, immediate: None }));
                side.claimed.set(side.claimed.get().wrapping_add(1));
            }
        }
    }

    /// A receive on a path has failed. The immediate that may lie in its completion means nothing.
    pub(super) fn lose_recv(&self, entry: &InFlight, cause: Cause) {
        if entry.kind == Kind::Receive {
            self.recv.finish(entry.row, Err(cause));
        }
    }

    /// No path is left that could bring what these rows wait for.
    pub(super) fn fail_unclaimed(&self, cause: Cause) {
        let side = &self.recv;
        while side.claimed.get() != side.tail.get() {
            side.finish(side.claimed.get(), Err(cause));
            side.claimed.set(side.claimed.get().wrapping_add(1));
        }
    }

    /// Posts the credits that are owed, while not too many fragments wait for their predecessors or for rows.
    #[inline]
    pub(super) fn replenish(&self) {
        if !self.recv.lost.is_empty() {
            self.carry_lost_recvs();
        }
        if self.wants_credits() {
            self.post_credits();
        }
    }

    #[inline]
    const fn wants_credits(&self) -> bool {
        let Some(window) = &self.recv.window else { return false };
        let owing = self.recv.owing.get();
        owing != 0 && self.is_any_up(owing) && window.waiting() < self.config.window
    }

    fn post_credits(&self) {
        let mut owing = 0;
        for (at, path) in (0..NIL).zip(self.paths) {
            // Bounded by the depth of the path.
            while path.owed.get() > 0 && path.is_up() && path.recvs.has_room() {
                match self.stage_recv(at, InFlight::new(Kind::Credit, 0), &[]) {
                    Ok(()) => {}
                    // Nothing is asked of it but what every device must take.
                    Err(Refusal::Misuse(CallError::Device(misuse))) => {
                        self.fail_path(at, Cause::Refused(misuse.into()));
                        break;
                    }
                    Err(_) => break,
                }
                path.owed.set(path.owed.get().wrapping_sub(1));
            }
            if path.owed.get() > 0 {
                owing |= bit(at);
            }
        }
        self.recv.owing.set(owing);
    }

    /// Tells the device of the receives that were staged on a path.
    #[inline]
    pub(super) fn ring_recvs(&self, at: u32) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let staged = path.recvs.staged();
        if staged == 0 {
            return;
        }
        let published = path.qp.ring_recv_doorbell();
        path.recvs.tell();
        if published.count < u64::from(staged) {
            self.take_back_recvs(at, staged, published);
        }
    }

    #[cold]
    fn take_back_recvs(&self, at: u32, staged: u32, published: Published) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let error = published.error.map(PostError::Fatal);
        if let Some(error) = error {
            self.fail_path(at, Cause::Refused(error));
        }
        let is_wanted = path.is_up() && self.state.get() == State::Open;
        let cause = path.cause.get().filter(|_| !path.is_up()).unwrap_or(Cause::Closed);
        let older = self.recv.lost.len();
        let missing = u64::from(staged).saturating_sub(published.count);
        let first = u64::from(path.recvs.len()).saturating_sub(missing);
        for skip in low(first)..path.recvs.len() {
            let Some(entry) = path.recvs.peek(skip) else { break };
            if entry.kind == Kind::Credit {
                path.owed.set(path.owed.get().wrapping_add(1));
                self.recv.owe(at);
            } else if !is_wanted || self.recv.lost.push(entry).is_err() {
                self.lose_recv(&entry, cause);
            }
        }
        path.recvs.take_back(low(missing));
        // Those that were left behind before are younger.
        self.recv.lost.rotate(older);
    }

    /// Posts again what a doorbell has left behind.
    #[cold]
    fn carry_lost_recvs(&self) {
        // Bounded by the receives of the caller: each step takes one.
        while let Some(entry) = self.recv.lost.front() {
            let outcome = match self.repost(&entry) {
                Err(Refusal::Retry(_)) => return,
                Err(Refusal::Down(cause)) => Err(cause),
                Err(Refusal::Misuse(CallError::Device(misuse))) => {
                    Err(Cause::Refused(misuse.into()))
                }
                Err(Refusal::Misuse(_)) => {
                    let path = self.paths.get(wide(entry.number));
                    Err(Cause::NoKey { device: path.map_or(0, |path| path.device) })
                }
                Ok(()) => Ok(()),
            };
            let _carried = self.recv.lost.pop();
            if let Err(cause) = outcome {
                self.lose_recv(&entry, cause);
            }
        }
    }

    fn repost(&self, entry: &InFlight) -> Result<(), Refusal> {
        let at = entry.number;
        let path = self.paths.get(wide(at)).ok_or(CallError::UnknownPath)?;
        if !path.is_up() || self.state.get() != State::Open {
            return Err(Refusal::Down(path.cause.get().unwrap_or(Cause::Closed)));
        }
        let mut segments = Vec::<_, SEGMENTS_MAX>::new();
        let count = self.recv.row(entry.row).map_or(0, |row| row.sge_count.get());
        for index in 0..count {
            let Some(range) = self.recv.sge(entry.row, index).map(Cell::get) else { break };
            let device = path.device;
            let key = range.region.and_then(|region| self.local.key(region, path.local_keys));
            let key = key.ok_or(CallError::NoKey { device })?;
            let segment = Segment { address: range.address, length: low(range.length), key };
            segments.push(segment).map_err(|_full| CallError::TooManySegments)?;
        }
        self.stage_recv(at, *entry, &segments)
    }

    #[inline]
    pub(super) fn recv_wants_turn(&self) -> bool {
        let side = &self.recv;
        if !side.lost.is_empty() || self.wants_credits() {
            return true;
        }
        let head = side.head.get();
        head != side.claimed.get() && side.row(head).is_some_and(|row| row.outcome.get().is_some())
    }

    /// The oldest receive, if it is over.
    #[inline(always)]
    pub(super) fn take_recv(&self) -> Option<(u64, Result<Done, Cause>)> {
        let side = &self.recv;
        if side.is_quiet() {
            return None;
        }
        let row = side.row(side.head.get())?;
        let outcome = row.outcome.get()?;
        side.head.set(side.head.get().wrapping_add(1));
        Some((row.context.get(), outcome))
    }
}
