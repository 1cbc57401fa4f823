//! The pump: cuts requests into fragments, finds new paths for lost ones, and notifies the peer of what has arrived.

use spinwire_layouts::word::{low, widen};

use super::{Row, Staging, Step};
use crate::table::NIL;
use crate::verbs::QueuePair;
use crate::vqp::config::{Scheme, Spread, Visibility};
use crate::vqp::flight::{InFlight, Kind};
use crate::vqp::path::Path;
use crate::vqp::qp::{Mode, State, VirtualQp, bit, lowest};
use crate::vqp::refusal::Cause;
use crate::vqp::request::Op;
use crate::vqp::sequence::SendWindow;

impl<P: QueuePair> VirtualQp<'_, P> {
    /// Stages what there is room for, `steps` steps at most. Says how many it took.
    #[inline]
    pub(in crate::vqp) fn pump(&self, steps: u32) -> u32 {
        // Notifications first: fragments that always find room must not starve them.
        let told = self.notify(steps);
        told.wrapping_add(self.pump_posted(steps.wrapping_sub(told)))
    }

    /// The same, with fragments first.
    #[inline]
    pub(super) fn pump_posted(&self, steps: u32) -> u32 {
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
        left = left.wrapping_sub(self.notify(left));
        steps.wrapping_sub(left)
    }

    /// Notifies the peer of what has arrived, except while a notification may wait among what is lost: they keep their order.
    #[inline]
    fn notify(&self, steps: u32) -> u32 {
        let mut left = steps;
        if self.mode == Mode::Spray && self.send.lost.is_empty() {
            while left > 0 && self.decide() == Step::Moved {
                left = left.wrapping_sub(1);
            }
        }
        steps.wrapping_sub(left)
    }

    /// The oldest lost fragment goes on another path, or is given up with its request.
    #[cold]
    pub(super) fn carry_lost(&self) -> Step {
        let Some(entry) = self.send.lost.front() else { return Step::Blocked };
        let Some(row) = self.send.row(entry.row) else { return Step::Blocked };
        let is_closing = self.state.get() == State::Closing;
        let cut_off = self.is_cut_off(entry.row, row).then_some(Cause::SequenceLost);
        let staging = match row.cause.get().or(cut_off) {
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
    pub(super) fn carriers(&self, entry: &InFlight, row: &Row) -> u64 {
        match entry.kind {
            Kind::Notify => self.notify_path(),
            Kind::Flush => self.paths_on(entry.number),
            // A send in rotation has had its turn, and a receive waits for it there.
            Kind::Data if self.pinned().is_none() && row.op.get().is_send() => bit(entry.number),
            Kind::Data | Kind::Receive | Kind::Credit => self.may_carry(row.op.get()),
        }
    }

    /// The next fragment of the oldest request that is not wholly cut.
    #[inline]
    pub(super) fn cut(&self) -> Step {
        let side = &self.send;
        let position = side.cursor.get();
        let Some(row) = side.row(position) else { return Step::Blocked };
        let op = row.op.get();
        let (offset, length) = (row.offset.get(), row.length.get());
        let is_bare = length == 0 && self.mode == Mode::Spray && op.notifies();
        if self.state.get() == State::Closing {
            row.fail(Cause::Closed);
        } else if self.is_cut_off(position, row) {
            row.fail(Cause::SequenceLost);
        } else if let Some(cause) = self.is_untold(op) {
            row.fail(cause);
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
        let turn = self.turn_of(op);
        let number = match window.map(SendWindow::peek) {
            None => turn.unwrap_or(0),
            Some(Some(number)) => number,
            Some(None) => return Step::Blocked,
        };
        let entry =
            InFlight { offset, length: part, number, ..InFlight::new(Kind::Data, position) };
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
                // What could not be sent because of its memory has no turn: its receive is that of the next one.
                if self.is_any_up(allowed) {
                    return Step::Moved;
                }
            }
        }
        if turn.is_some() {
            self.next_turn();
        }
        Step::Moved
    }

    /// In rotation, the path whose turn a send is.
    #[inline]
    pub(super) fn turn_of(&self, op: Op) -> Option<u32> {
        (op.is_send() && self.config.spread == Spread::Rotation).then(|| self.send.turn.get())
    }

    pub(super) fn next_turn(&self) {
        let next = self.send.turn.get().wrapping_add(1);
        self.send.turn.set(if next >= self.data.count_ones() { 0 } else { next });
        self.has_rotated.set(true);
    }

    /// Why the peer could not be notified of an operation, where it would have to be.
    #[inline]
    pub(super) fn is_untold(&self, op: Op) -> Option<Cause> {
        if self.mode != Mode::Spray || !op.notifies() {
            return None;
        }
        let notify = self.notify_path();
        (!self.is_any_up(notify)).then(|| self.cause_of(notify))
    }

    /// Notifies the peer of the oldest write that it has not heard of, once all its data is there, and only then.
    pub(super) fn decide(&self) -> Step {
        let side = &self.send;
        let is_read_back = matches!(self.config.scheme, Scheme::Spray(Visibility::FlushingRead(_)));
        if is_read_back && self.read_back() == Step::Moved {
            return Step::Moved;
        }
        let position = side.decided.get();
        if position == side.cursor.get() {
            return Step::Blocked;
        }
        let Some(row) = side.row(position) else { return Step::Blocked };
        let next = position.wrapping_add(1);
        let is_unread = is_read_back && side.read_back.get() == position;
        if row.cause.get().is_some() || !row.op.get().notifies() {
            if is_unread {
                side.read_back.set(next);
            }
            side.decided.set(next);
            return Step::Moved;
        }
        if is_unread || row.outstanding.get() != 0 {
            return Step::Blocked;
        }
        match self.stage(&InFlight::new(Kind::Notify, position), row, self.notify_path()) {
            Staging::Staged => {
                row.hold(Kind::Notify);
                side.decided.set(next);
            }
            Staging::Again => {}
            Staging::Blocked => return Step::Blocked,
            Staging::Dead(cause) => row.fail(cause),
        }
        Step::Moved
    }

    /// Reads a byte back over each device that has brought data of the oldest write that was not read back, once all of that has
    /// completed; but not over the device of the notification.
    #[cold]
    fn read_back(&self) -> Step {
        let side = &self.send;
        let position = side.read_back.get();
        if position == side.cursor.get() {
            return Step::Blocked;
        }
        let Some(row) = side.row(position) else { return Step::Blocked };
        let next = position.wrapping_add(1);
        if row.cause.get().is_some() || !row.op.get().notifies() {
            side.read_back.set(next);
            return Step::Moved;
        }
        if row.outstanding.get() != row.flushes.get() {
            return Step::Blocked;
        }
        let notify_device = self.paths.last().map_or(0, |path| bit(path.device));
        let Some(device) = lowest(row.devices.get() & !notify_device) else {
            side.read_back.set(next);
            return Step::Moved;
        };
        let entry = InFlight { number: device, ..InFlight::new(Kind::Flush, position) };
        match self.stage(&entry, row, self.paths_on(device)) {
            Staging::Staged => {
                row.hold(Kind::Flush);
                row.devices.set(row.devices.get() & !bit(device));
            }
            Staging::Again => {}
            Staging::Blocked => return Step::Blocked,
            Staging::Dead(cause) => row.fail(cause),
        }
        Step::Moved
    }

    pub(super) const fn notify_path(&self) -> u64 {
        !self.data & bit(self.path_count().wrapping_sub(1))
    }

    /// Data paths on a device.
    pub(super) fn paths_on(&self, device: u32) -> u64 {
        let on = |(at, path): (u32, &Path<'_, P>)| if path.device == device { bit(at) } else { 0 };
        self.data & (0..NIL).zip(self.paths).map(on).fold(0, |set, one| set | one)
    }
}
