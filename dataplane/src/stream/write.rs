//! What callers hand in to be sent.

use spinwire_layouts::word::{from_usize, low, to_usize, widen};

use super::ConnId;
#[cfg(doc)]
use super::StreamEvent;
use super::row::{Phase, Row, flag, want};
use super::segment::{Report, Segment};
use super::service::{LIST, Streams};
use crate::error::{Fatal, Misuse, PostError, Refused, Retry};
use crate::raw::kernel_memory::address_of;
use crate::raw::loan::Loan;
use crate::table::{count, wide};
use crate::time::Instant;
use crate::uring::Enter;

/// The most that one operation sends (`MAX_RW_COUNT` of the kernel, for pages of 4 KiB).
pub(super) const SEND_MAX: u32 = 0x7fff_f000;

impl<'m, E: Enter> Streams<'m, E> {
    /// A buffer to fill and [`send`](Self::send); `None` where all are out.
    #[must_use]
    pub fn lend(&self) -> Option<Loan<'m>> {
        let loan = self.copies.lend();
        if loan.is_none() {
            self.none_to_send.set(true);
        }
        loan
    }

    /// Sends a copy of `bytes`, all or none. Goes out with the next turn or [`flush`](Self::flush), together with whatever else waits
    /// for that connection.
    ///
    /// # Errors
    /// `NoSlot` where there are too few buffers or segments, or fewer would be left to others than it has
    /// ([`StreamConfig::fair_sends`](super::StreamConfig::fair_sends)), `NoSendRoom` where too much waits for this connection already: then
    /// [`StreamEvent::Writable`] says when to try again. `TooLong` for more than can ever wait. Else as [`send`](Self::send).
    pub fn write(&self, conn: ConnId, bytes: &[u8]) -> Result<(), PostError> {
        if self.config.fair_sends {
            let row = self.writable(conn, bytes.len())?;
            self.leaves_enough(conn, row, self.pieces(row, bytes.len()))?;
        }
        self.write_accepted(conn, bytes)
    }

    /// Sends a copy of bytes that [`accepts`](Self::accepts) has said yes to, whole or in parts: whether it leaves enough to others is not
    /// asked again.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_accepted(&self, conn: ConnId, bytes: &[u8]) -> Result<(), PostError> {
        let row = self.writable(conn, bytes.len())?;
        self.copy_in(conn, row, bytes)
    }

    /// Copies bytes into buffers that wait to be sent.
    pub(super) fn copy_in(&self, conn: ConnId, row: &Row, bytes: &[u8]) -> Result<(), PostError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let room = self.room_in_last(row);
        let (first, rest) = bytes.split_at_checked(room.min(bytes.len())).unwrap_or((bytes, &[]));
        let each = to_usize(widen(self.copies.slot_bytes())).max(1);
        let pieces = rest.len().div_ceil(each);
        if self.copies.free_count() < pieces || wide(self.segments.free_count()) < pieces {
            let all = self.config.segments.min(self.copies_max());
            if pieces > wide(all) {
                return Err(Misuse::TooLong.into());
            }
            let needs = count(bytes.len().div_ceil(each)).min(all);
            return Err(self.refuse_for_now(conn, row, (needs, needs)));
        }
        if !first.is_empty() {
            self.append_to_last(row, first);
        }
        for piece in rest.chunks(each) {
            if let Some(mut loan) = self.copies.lend() {
                let _fits = loan.fill(piece);
                let _there_is_one = self.queue(conn, row, (loan, Report::Nothing));
                self.takes_copy(row);
            }
        }
        let length = from_usize(bytes.len());
        self.queued_more(row, length);
        self.want(conn.slot(), want::SEND);
        self.no_longer_owed(conn.slot());
        Ok(())
    }

    /// Sends the bytes of a loan. [`StreamEvent::Sent`] gives it back with `context` when the kernel has done with it,
    /// [`StreamEvent::NotSent`] where the connection ends before. It has to come from the arena of the ring: of
    /// [`lend`](Self::lend), or of [`StreamEvent::Received`].
    ///
    /// # Errors
    /// The loan comes back with the reason: `NoSlot`, `NoSendRoom`; `Unsupported` for memory of another arena; `StaleAddress` or
    /// `UnknownAddress`; `PeerGone` where the connection is being closed.
    pub fn send(
        &self,
        conn: ConnId,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<(), Refused<Loan<'m>>> {
        self.hand_in(conn, loan, Report::Owner { context }).map(drop)
    }

    /// Sends the bytes of a loan, which are to be with the network by `until`. If they are not, the kernel is asked to cancel what it does of
    /// them, and when it has, [`StreamEvent::NotSent`] gives the loan back ([`Undone::TimedOut`](super::Undone::TimedOut)); the connection
    /// goes on. Where a part of them has gone the connection ends ([`CloseReason::Torn`](super::CloseReason::Torn)), as what would
    /// follow could not be told from the rest.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_until(
        &self,
        conn: ConnId,
        (loan, context): (Loan<'m>, u64),
        until: Instant,
    ) -> Result<(), Refused<Loan<'m>>> {
        let (row, queued) = self.hand_in(conn, loan, Report::Owner { context })?;
        if until < row.soonest.get() {
            row.soonest.set(until);
            self.watch(row, conn);
        }
        if let Some(segment) = queued {
            segment.until.set(until);
        }
        Ok(())
    }

    /// Sends the bytes of a loan, of which nobody hears any more: when the kernel has done with it, or the connection ends before, it goes
    /// back to its pool. For who has nothing to do then.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_unsignaled(&self, conn: ConnId, loan: Loan<'m>) -> Result<(), Refused<Loan<'m>>> {
        self.hand_in(conn, loan, Report::Unsignaled).map(drop)
    }

    /// Queues a loan, and sees to it that it is sent.
    #[inline(always)]
    fn hand_in(
        &self,
        conn: ConnId,
        loan: Loan<'m>,
        report: Report,
    ) -> Result<(&'m Row, Option<&'m Segment<'m>>), Refused<Loan<'m>>> {
        let row = match self.writable(conn, loan.len()) {
            Ok(row) => row,
            Err(error) => return Err(Refused::new(error, loan)),
        };
        if !self.ring.arena().covers(&loan) {
            return Err(Refused::new(Misuse::Unsupported, loan));
        }
        if self.segments.free_count() == 0 {
            return Err(Refused::new(self.refuse_for_now(conn, row, (1, 0)), loan));
        }
        let length = from_usize(loan.len());
        let queued = self.queue(conn, row, (loan, report));
        self.queued_more(row, length);
        self.want_of(conn.slot(), row, want::SEND);
        Ok((row, queued))
    }

    /// The row of a connection that something may be sent to.
    #[inline(always)]
    pub(super) fn takes_more(&self, conn: ConnId) -> Result<&'m Row, PostError> {
        let row = self.row(conn)?;
        let open = matches!(row.phase.get(), Phase::Open | Phase::Connecting);
        if !open
            || row.has(flag::SHUT | flag::LAST | flag::MUTE)
            || row.wants.get() & want::SHUTDOWN != 0
        {
            return Err(Fatal::PeerGone.into());
        }
        Ok(row)
    }

    /// The row of a connection that takes so many bytes more.
    #[inline(always)]
    pub(super) fn writable(&self, conn: ConnId, bytes: usize) -> Result<&'m Row, PostError> {
        let row = self.takes_more(conn)?;
        let most = widen(self.config.queue_max);
        let length = from_usize(bytes);
        if length > most.min(widen(SEND_MAX)) {
            return Err(Misuse::TooLong.into());
        }
        if row.queued.get().saturating_add(length) > most {
            // Told when less of its own is queued.
            row.set(flag::REFUSED);
            return Err(Retry::NoSendRoom.into());
        }
        Ok(row)
    }

    /// How many more buffers a copy of so many bytes takes.
    pub(super) fn pieces(&self, row: &Row, bytes: usize) -> usize {
        let each = to_usize(widen(self.copies.slot_bytes())).max(1);
        bytes.saturating_sub(self.room_in_last(row)).div_ceil(each)
    }

    /// The segment is over.
    pub(super) fn finish(&self, index: u32, sent: bool) {
        if let Some(segment) = self.segments.at(index) {
            self.finish_segment((index, segment), sent);
        }
    }

    /// The same of one that was looked up.
    #[inline(always)]
    pub(super) fn finish_segment(&self, (index, segment): (u32, &'m Segment<'m>), sent: bool) {
        // Whatever was meant with it: it was sent, or its connection has ended.
        segment.undone.set(None);
        if segment.report.get() == Report::Nothing
            && let Some(row) = segment.conn.get().and_then(|conn| self.row(conn).ok())
        {
            self.gives_copies(row, 1);
        }
        self.segments.finish_segment((index, segment), sent);
    }

    /// Too few segments and buffers for now: told when there are so many.
    #[cold]
    pub(super) fn refuse_for_now(&self, conn: ConnId, row: &Row, needs: (u32, u32)) -> PostError {
        row.needs.set(needs);
        self.none_to_send.set(true);
        let _listed_already = self.refused.push_back(LIST, conn.slot());
        Retry::NoSlot.into()
    }

    /// Tells those who were refused what others had that there is enough of it now.
    #[inline]
    pub(super) fn relieve(&self) {
        if !self.refused.is_empty(LIST) {
            self.relieve_some();
        }
    }

    #[cold]
    fn relieve_some(&self) {
        for _ in 0..self.refused.len(LIST) {
            let Some(slot) = self.refused.pop_front(LIST) else { return };
            let Some(row) = self.row_at(slot) else { return };
            let (segments, copies) = (row.needs.get().0, wide(self.needed(slot, row)));
            if self.segments.free_count() < segments || self.copies.free_count() < copies {
                let _goes_round = self.refused.push_back(LIST, slot);
            } else {
                self.tell_writable(slot, row);
            }
        }
    }

    pub(super) fn tell_writable(&self, slot: u32, row: &Row) {
        row.set(flag::WRITABLE);
        let _noted_already = self.noted.push_back(LIST, slot);
    }

    /// Free bytes of the last copy that waits for this connection and that the kernel does not have.
    pub(super) fn room_in_last(&self, row: &Row) -> usize {
        let Some(last) = self.segments.at(row.last.get()) else { return 0 };
        if last.report.get() != Report::Nothing {
            return 0;
        }
        to_usize(widen(self.copies.slot_bytes().saturating_sub(last.to.get())))
    }

    fn append_to_last(&self, row: &Row, bytes: &[u8]) {
        let Some(last) = self.segments.at(row.last.get()) else { return };
        let Some(mut loan) = last.loan.take() else { return };
        let from = to_usize(widen(last.to.get()));
        let to = from.saturating_add(bytes.len());
        if let Some(room) = loan.room().get_mut(from..to) {
            room.copy_from_slice(bytes);
            let _fits = loan.set_len(to);
            last.to.set(low(from_usize(to)));
        }
        last.loan.set(Some(loan));
    }

    /// There is a segment.
    #[inline(always)]
    pub(super) fn queue(
        &self,
        conn: ConnId,
        row: &Row,
        (loan, report): (Loan<'m>, Report),
    ) -> Option<&'m Segment<'m>> {
        let (index, segment) = self.segments.take_free()?;
        segment.to.set(low(from_usize(loan.len())));
        segment.address.set(address_of(loan.range().0));
        segment.report.set(report);
        segment.conn.set(Some(conn));
        segment.loan.set(Some(loan));
        self.segments.push_back((&row.first, &row.last), index);
        Some(segment)
    }

    #[inline(always)]
    pub(super) fn queued_more(&self, row: &Row, bytes: u64) {
        if row.queued.get() == 0 {
            row.went.set(self.now.get());
        }
        row.queued.set(row.queued.get().saturating_add(bytes));
        if row.queued.get() >= widen(self.config.queue_high) && !row.has(flag::CROWDED) {
            self.crowd(row);
        }
    }

    #[cold]
    fn crowd(&self, row: &Row) {
        row.set(flag::CROWDED);
        row.wants.set(row.wants.get() | want::PAUSE);
    }
}
