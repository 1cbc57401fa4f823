//! What becomes of what was staged: it succeeds, is lost, is taken back; and requests that are over.

use core::cell::Cell;

use spinwire_layouts::word::low;

use super::{Fate, Row};
use crate::error::{Fatal, PostError};
use crate::table::wide;
use crate::verbs::QueuePair;
use crate::vqp::config::Replay;
use crate::vqp::flight::{InFlight, Kind};
use crate::vqp::path::Path;
use crate::vqp::qp::{Mode, State, VirtualQp, bit};
use crate::vqp::refusal::Cause;
use crate::vqp::request::{Done, Signal};

impl<P: QueuePair> VirtualQp<'_, P> {
    /// A fragment has succeeded.
    #[inline(always)]
    pub(in crate::vqp) fn finish(&self, entry: &Cell<InFlight>) {
        let Some(row) = self.send.row(entry.get().row) else { return };
        row.outstanding.set(row.outstanding.get().wrapping_sub(1));
    }

    /// The same, where there are several paths. On one there is nothing but data, and nobody asks over which devices it went.
    #[inline(always)]
    pub(in crate::vqp) fn finish_on(&self, path: &Path<'_, P>, entry: &InFlight) {
        if self.mode == Mode::Single {
            return;
        }
        let Some(row) = self.send.row(entry.row) else { return };
        if entry.kind == Kind::Data {
            if self.mode == Mode::Spray {
                row.devices.set(row.devices.get() | bit(path.device));
            }
            if let Some(window) = self.send.window.as_ref().filter(|_| row.op.get().notifies()) {
                window.acknowledge(entry.number);
            }
        } else if entry.kind == Kind::Flush {
            row.flushes.set(row.flushes.get().wrapping_sub(1));
        }
    }

    /// A fragment has failed: another path carries it, or its request fails.
    pub(in crate::vqp) fn lose(&self, entry: &InFlight, cause: Cause, fate: Fate) {
        let Some(row) = self.send.row(entry.row) else { return };
        let is_replayed = match fate {
            Fate::Unposted => true,
            Fate::Executed { is_silent } => {
                !is_silent
                    && self.config.replay == Replay::Idempotent
                    && matches!(entry.kind, Kind::Data | Kind::Flush)
                    && row.op.get().is_idempotent()
                    // On one path the notification comes with the last fragment, and the peer has no number to know it by.
                    && !(self.mode == Mode::Single && row.op.get().notifies())
            }
        };
        let is_wanted = row.cause.get().is_none()
            && !self.is_cut_off(entry.row, row)
            && self.state.get() == State::Open
            && self.is_any_up(self.carriers(entry, row));
        if is_replayed && is_wanted && self.send.lost.push(*entry).is_ok() {
            return;
        }
        let is_cut_off = self.is_cut_off(entry.row, row);
        self.give_up(entry, row, if is_cut_off { Cause::SequenceLost } else { cause });
    }

    pub(super) fn give_up(&self, entry: &InFlight, row: &Row, cause: Cause) {
        row.fail(cause);
        row.release(entry.kind);
        if entry.kind == Kind::Data && row.op.get().notifies() {
            self.break_behind(entry.row, row, 1);
        }
    }

    /// Where part of a numbered request was sent and the rest will not be, the peer waits for it for ever: nothing behind it
    /// can be delivered any more.
    pub(super) fn break_behind(&self, position: u32, row: &Row, sent: u64) {
        if self.send.window.is_none() || !row.op.get().notifies() || sent == 0 {
            return;
        }
        let is_earlier = |broken: u32| {
            position.wrapping_sub(self.send.head.get()) < broken.wrapping_sub(self.send.head.get())
        };
        // Rows behind it that are not cut yet fail when it is their turn.
        if self.send.broken_at.get().is_none_or(is_earlier) {
            self.send.broken_at.set(Some(position));
        }
    }

    /// Whether the peer will never come to that request, because it waits for a number before it.
    #[inline]
    pub(super) fn is_cut_off(&self, position: u32, row: &Row) -> bool {
        self.send.broken_at.get().is_some_and(|broken| is_behind(position, broken))
            && row.op.get().notifies()
    }

    /// Why no more can be sent although paths are up.
    pub(in crate::vqp) fn broken(&self) -> Option<Cause> {
        self.send.broken_at.get().map(|_| Cause::SequenceLost).or_else(|| self.recv.broken.get())
    }

    /// Tells the device of the sends that were staged on a path; those that it does not take are not on their way.
    #[inline]
    pub(in crate::vqp) fn ring_sends(&self, at: u32) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let staged = path.sends.staged();
        if staged == 0 {
            return;
        }
        let published = path.qp.ring_doorbell();
        path.sends.tell();
        if published.count < u64::from(staged) {
            self.take_back(at, staged.wrapping_sub(low(published.count)), published.error);
        }
    }

    #[cold]
    pub(super) fn take_back(&self, at: u32, missing: u32, error: Option<Fatal>) {
        let Some(path) = self.paths.get(wide(at)) else { return };
        let error = error.map(PostError::Fatal);
        if let Some(error) = error {
            self.fail_path(at, Cause::Refused(error));
        }
        // The cause of those that no path is to carry any more.
        let cause = path.cause.get().filter(|_| !path.is_up()).unwrap_or(Cause::Closed);
        let older = self.send.lost.len();
        let first = path.sends.len().saturating_sub(missing);
        for skip in first..path.sends.len() {
            if let Some(entry) = path.sends.peek(skip) {
                self.lose(&entry, cause, Fate::Unposted);
            }
        }
        path.sends.take_back(missing);
        // Those that were lost before are younger.
        self.send.lost.rotate(older);
        self.roomy.set(self.roomy.get() | bit(at));
    }

    /// Requests that are wholly staged, and notified where that is to be done.
    #[inline]
    pub(super) fn limit(&self) -> u32 {
        if self.mode == Mode::Spray { self.send.decided.get() } else { self.send.cursor.get() }
    }

    #[inline]
    pub(in crate::vqp) fn send_wants_turn(&self) -> bool {
        let side = &self.send;
        if side.tail.get() != self.limit() || !side.lost.is_empty() {
            return true;
        }
        let head = side.head.get();
        head != side.tail.get() && side.row(head).is_some_and(|row| row.outstanding.get() == 0)
    }

    /// Whether a request is wholly staged, and notified where that is to be done, and no sequence is broken.
    #[inline(never)]
    fn is_decided(&self, position: u32) -> bool {
        position != self.limit() && self.send.broken_at.get().is_none()
    }

    /// The oldest request, if it has succeeded, and that is to be said.
    #[inline(always)]
    pub(in crate::vqp) fn take_done(&self) -> Option<(u64, Done)> {
        let side = &self.send;
        let position = side.head.get();
        let row = side.row(position)?;
        // On one path there is no sequence that could be broken.
        let is_decided = if self.mode == Mode::Single {
            position != side.cursor.get()
        } else {
            self.is_decided(position)
        };
        let is_plain = is_decided
            && row.outstanding.get() == 0
            && row.cause.get().is_none()
            && row.signal.get() == Signal::Always;
        if !is_plain {
            return None;
        }
        side.head.set(position.wrapping_add(1));
        Some((row.context.get(), Done { bytes: row.length.get(), immediate: None }))
    }

    /// The oldest request, if it is over.
    #[inline(always)]
    pub(in crate::vqp) fn take_send(&self) -> Option<(u64, Result<Done, Cause>)> {
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
