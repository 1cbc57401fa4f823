//! Who may have how many of the buffers that writes copy into ([`StreamConfig::fair_sends`](super::StreamConfig::fair_sends)).
//!
//! ```text
//!   | kept: one for a first short message of each | what is shared                                        |
//!                                                 | the first: a half | then a third each | a quarter each |
//! ```
//!
//! Whoever has none may have what the longest message takes, which is half of what is shared: so one other end that takes nothing never
//! stops it. Whoever has some gets no more than he leaves. Of those that want many at once and were refused one is *owed* them: what
//! comes back is not given to those that have some already, a few at a time, so that it would never be enough. For ten milliseconds,
//! and not again before as many have passed: where other ends hold what it waits for, the others are not to wait with it.
//!
//! The short frames that a port has to say itself, credit above all, have buffers of their own: what waits for them is the other end.

use super::{ConnId, StreamConfig};
use spinwire_layouts::word::from_usize;

use super::row::{Row, flag, want};
use super::segment::Report;
use super::service::{LIST, Streams};
use crate::error::{Misuse, PostError, Retry};
use crate::table::count;
use crate::time::{Instant, Nanos};
use crate::uring::Enter;

/// How long buffers are kept for who waits for many.
const OWED_FOR: Nanos = Nanos::from_millis(10);

/// Frames of a port for which there are buffers, for each connection: what it may have to say to who takes nothing.
const FRAMES: u32 = 4;
/// Bytes of the longest.
pub(super) const FRAME_BYTES: usize = 32;

impl StreamConfig {
    /// How many buffers there are for frames of a port.
    pub(super) const fn frames(&self) -> u32 {
        if self.fair_sends { self.conns.saturating_mul(FRAMES) } else { 0 }
    }
}

/// Buffers that come back are kept for that row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    slot: u32,
    pieces: u32,
    until: Instant,
}

impl<E: Enter> Streams<'_, E> {
    /// Buffers that are kept so that each connection can have one, whatever the others have: those of who has some are not.
    fn reserve(&self) -> u32 {
        if self.config.fair_sends {
            self.config.conns.min(self.config.send_buffers.0 / 2)
        } else {
            0
        }
    }

    /// Of those, what is left when that connection has some.
    fn kept(&self, row: &Row) -> u32 {
        let more = u32::from(row.copies.get() == 0);
        self.reserve().saturating_sub(self.holders.get().saturating_add(more))
    }

    /// How many buffers have to be free for what was refused to a connection.
    pub(super) fn needed(&self, slot: u32, row: &Row) -> u32 {
        let others = if self.config.fair_sends {
            self.kept(row).saturating_add(self.owed_to_others(slot))
        } else {
            0
        };
        row.needs.get().1.saturating_add(others)
    }

    /// A connection has one buffer more.
    pub(super) fn takes_copy(&self, row: &Row) {
        let has = row.copies.get();
        row.copies.set(has.wrapping_add(1));
        self.holders.set(self.holders.get().wrapping_add(u32::from(has == 0)));
    }

    /// A connection has so many buffers less.
    pub(super) fn gives_copies(&self, row: &Row, count: u32) {
        let has = row.copies.get();
        row.copies.set(has.saturating_sub(count));
        let has_none_now = has != 0 && has <= count;
        self.holders.set(self.holders.get().saturating_sub(u32::from(has_none_now)));
    }

    /// The most buffers for copies that one write can have.
    pub(super) fn copies_max(&self) -> u32 {
        let shared = self.config.send_buffers.0.saturating_sub(self.reserve());
        if self.config.fair_sends { (shared / 2).max(1) } else { shared.max(1) }
    }

    /// Whether a connection may have so many buffers more: one in any case, a first message if it finds room, and after that not more
    /// than it leaves to others. So those whose other ends take nothing have a half of them, a third each, a quarter each, and never all.
    #[inline]
    pub(super) fn leaves_enough(
        &self,
        conn: ConnId,
        row: &Row,
        pieces: usize,
    ) -> Result<(), PostError> {
        if !self.config.fair_sends || pieces == 0 {
            return Ok(());
        }
        let (pieces, has) = (count(pieces), row.copies.get());
        if pieces > self.copies_max().min(self.config.segments) {
            return Err(Misuse::TooLong.into());
        }
        let own = if has == 0 { 0 } else { has.saturating_add(pieces) };
        let is_first = has == 0 && pieces == 1;
        let leaves = |left: u32| {
            let others = own.max(self.owed_to_others(conn.slot()));
            is_first || left >= self.kept(row).saturating_add(others)
        };
        if count(self.copies.free_count()).checked_sub(pieces).is_some_and(leaves) {
            return Ok(());
        }
        Err(self.leaves_too_few(conn, row, pieces))
    }

    #[cold]
    fn leaves_too_few(&self, conn: ConnId, row: &Row, pieces: u32) -> PostError {
        if row.copies.get() == 0 {
            self.owe(conn.slot(), pieces);
            return self.refuse_for_now(conn, row, (pieces, pieces));
        }
        // Told when it has sent some of it.
        row.set(flag::REFUSED);
        Retry::NoSlot.into()
    }

    /// Sends a copy of a short frame that a port has to say itself. What others have, or what waits for that connection, does not hold it up.
    /// Whether it was made and taken: where there is no room for it, it is not asked for.
    pub fn write_control(
        &self,
        conn: ConnId,
        frame: impl FnOnce() -> Option<[u8; FRAME_BYTES]>,
    ) -> bool {
        let Ok(row) = self.takes_more(conn) else { return false };
        if self.room_in_last(row) >= FRAME_BYTES || self.accepts(conn, FRAME_BYTES, 0).is_ok() {
            return frame().is_some_and(|frame| self.copy_in(conn, row, &frame).is_ok());
        }
        if self.segments.free_count() == 0 {
            return false;
        }
        let Some(mut loan) = self.frames.lend() else { return false };
        let Some(frame) = frame() else { return false };
        let _fits = loan.fill(&frame);
        let _there_is_one = self.queue(conn, row, (loan, Report::Unsignaled));
        self.queued_more(row, from_usize(FRAME_BYTES));
        self.want(conn.slot(), want::SEND);
        true
    }

    fn owe(&self, slot: u32, pieces: u32) {
        let now = self.now.get();
        let again = |owed: Owed| owed.until.saturating_add(OWED_FOR) <= now;
        if self.owed.get().is_none_or(again) {
            self.owed.set(Some(Owed { slot, pieces, until: now.saturating_add(OWED_FOR) }));
        }
    }

    /// When buffers that are kept for one are anybody's, while others wait for some.
    pub(super) fn owed_until(&self) -> Option<Instant> {
        let until = self.owed.get()?.until;
        (until > self.now.get() && !self.refused.is_empty(LIST)).then_some(until)
    }

    fn owed_to_others(&self, slot: u32) -> u32 {
        match self.owed.get() {
            Some(owed) if owed.slot != slot && owed.until > self.now.get() => owed.pieces,
            _ => 0,
        }
    }

    /// It has what it waited for, or wants it no more.
    #[inline]
    pub(super) fn no_longer_owed(&self, slot: u32) {
        if self.owed.get().is_some_and(|owed| owed.slot == slot) {
            self.owed.set(None);
        }
    }
}
