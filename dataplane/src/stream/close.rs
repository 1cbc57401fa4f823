//! How connections end: shut, closed, aborted, or because something failed.

use spinwire_layouts::uring::{Cqe, Sqe, op};

use super::drive::close_of;
use super::row::{Phase, Row, flag, want};
use super::service::{PARTING, Streams};
use super::turn::not_of_files;
use super::{CloseReason, ConnId};
use crate::error::Misuse;
use crate::id::{OpTag, WrId};
use crate::time::Nanos;
use crate::uring::Enter;
use crate::uring::ring::UNHEARD;

impl<'m, E: Enter> Streams<'m, E> {
    /// Sends no more after what was handed in: the other end sees the end of the stream. It may still send.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn shutdown(&self, conn: ConnId) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        if matches!(row.phase.get(), Phase::Open | Phase::Connecting) {
            self.write_no_more(conn.slot(), row);
            self.want(conn.slot(), want::SHUTDOWN);
        }
        Ok(())
    }

    /// Closes a connection when what was handed in is sent, or a listener. [`StreamEvent::Closed`](super::StreamEvent::Closed) says when it is over. Until then bytes
    /// may still come; they need not be looked at.
    ///
    /// A socket that is closed with bytes in it that nobody has received makes the network reset the connection (RFC 1122, 4.2.2.13), and
    /// a reset may overtake the last bytes on their way: the other end would not get them. So the connection lingers: it
    /// is shut, what still comes is received and dropped, and it is closed when the other end has closed, too, but after
    /// [`StreamConfig::linger_timeout`](super::StreamConfig::linger_timeout) or
    /// [`linger_bytes`](super::StreamConfig::linger_bytes) at the latest. Until then it has its row; where a listener lacks one, 10 ms at the
    /// latest, the oldest first. An end that
    /// cannot wait is an [`abort`](Self::abort).
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn close(&self, conn: ConnId) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        match row.phase.get() {
            Phase::Open if !row.is_sent() || row.lingering.get() > 0 => self.drain(conn, row),
            Phase::Open => self.part(conn, row),
            Phase::Connecting if !row.is_sent() => {
                self.write_no_more(conn.slot(), row);
                row.set(flag::LAST);
            }
            Phase::Listening | Phase::Connecting => {
                self.end(conn.slot(), row, CloseReason::Closed);
            }
            Phase::Draining | Phase::Parting | Phase::Closing | Phase::Ended | Phase::Free => {}
        }
        Ok(())
    }

    /// Nobody will write to it any more, so that nobody is told that there is room.
    fn write_no_more(&self, slot: u32, row: &Row) {
        let _not_refused = self.refused.unlink(slot);
        row.clear(flag::REFUSED | flag::WRITABLE);
    }

    /// Sends what waits, and no more.
    pub(super) fn drain(&self, conn: ConnId, row: &'m Row) {
        row.phase.set(Phase::Draining);
        row.set(flag::PAUSED);
        self.write_no_more(conn.slot(), row);
        self.want(conn.slot(), want::PAUSE | want::SEND | want::SHUTDOWN);
        row.went.set(self.now.get());
        self.watch(row, conn);
    }

    /// All is sent: closes it, when the other end has closed, too, or was waited for long enough.
    pub(super) fn part(&self, conn: ConnId, row: &'m Row) {
        let lingers = self.config.linger_timeout != Nanos::ZERO;
        if !lingers || row.has(flag::PEER_CLOSED | flag::MUTE) {
            self.end(conn.slot(), row, CloseReason::Closed);
            return;
        }
        row.phase.set(Phase::Parting);
        self.write_no_more(conn.slot(), row);
        let _in_no_list = self.refused.push_back(PARTING, conn.slot());
        row.clear(flag::PAUSED | flag::CROWDED);
        row.wants.set(row.wants.get() & !want::PAUSE);
        row.patience.set(self.config.linger_bytes);
        row.went.set(self.now.get());
        self.want(conn.slot(), want::SHUTDOWN | want::RECEIVE);
        self.watch(row, conn);
    }

    /// Bytes have come that are dropped.
    pub(super) fn drop_bytes(&self, slot: u32, row: &'m Row, bytes: u32) {
        match row.patience.get().checked_sub(bytes) {
            Some(left) => row.patience.set(left),
            None => self.end(slot, row, CloseReason::Closed),
        }
    }

    /// Ends a connection at once. What was handed in and not sent comes back by [`StreamEvent::NotSent`](super::StreamEvent::NotSent).
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn abort(&self, conn: ConnId) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        self.end(conn.slot(), row, CloseReason::Aborted);
        Ok(())
    }

    /// A row is about to come free.
    pub(super) fn begin_end(&self, slot: u32) {
        self.ending.set(self.ending.get().wrapping_add(1));
        let _does_not_linger = self.refused.unlink(slot);
    }

    /// Why a connection ends whose last events are being told; `None` while it goes on, and of one that is over.
    pub fn cause(&self, conn: ConnId) -> Option<CloseReason> {
        self.row(conn).ok()?.cause.get()
    }

    /// Cancels whatever the kernel has of a connection; it is closed when that is over. The first cause stands.
    pub(super) fn end(&self, slot: u32, row: &'m Row, reason: CloseReason) {
        if row.cause.get().is_none() {
            row.cause.set(Some(reason));
        }
        if matches!(row.phase.get(), Phase::Closing | Phase::Ended | Phase::Free) {
            return;
        }
        row.phase.set(Phase::Closing);
        self.begin_end(slot);
        while let Some(index) = self.segments.pop_front((&row.first, &row.last)) {
            self.finish(index, false);
        }
        row.queued.set(0);
        row.late.set(false);
        self.no_longer_owed(slot);
        let _not_parked = self.parked.unlink(slot);
        self.line.leave(slot);
        self.write_no_more(slot, row);
        row.wants.set(0);
        if row.under_way.get() > 0 {
            self.want(slot, want::CANCEL);
            self.cancel_later(row, row.id(slot));
        }
        self.want(slot, want::CLOSE);
    }
}

impl<E: Enter> Streams<'_, E> {
    /// Stages an entry whose end nobody waits for.
    fn say_last(&self, entry: Sqe) {
        let entry = Sqe { user_data: UNHEARD, ..entry };
        if self.ring.push(&[entry]).is_err() {
            let _submitted = self.ring.submit();
            // Where the kernel takes nothing any more, the process has its descriptors until its end.
            let _kept = self.ring.push(&[entry]);
        }
    }

    /// Closes the descriptors of connections that were accepted and that no event has told of.
    fn close_unheard(&self) {
        let close = |cqe: Cqe| {
            let tag = WrId::from_raw(cqe.user_data).parts().map(|(tag, ..)| tag);
            if tag == Some(OpTag::Accept) && cqe.res >= 0 {
                self.say_last(close_of(cqe.res, false));
            }
        };
        while let Some(fd) = self.take_orphan() {
            self.say_last(close_of(fd.cast_signed(), false));
        }
        self.take_batch(close);
        let _counted_by_the_ring = self.ring.harvest_own(u32::MAX, not_of_files, close);
    }
}

impl<E: Enter> Drop for Streams<'_, E> {
    /// Closes the descriptors of all connections, those that nobody has heard of yet among them. Those in the table of files of the ring go
    /// with it.
    fn drop(&mut self) {
        let descriptors = !self.config.features.direct_files;
        for (slot, row) in (0..self.config.conns).zip(self.rows) {
            if descriptors && row.phase.get() == Phase::Listening && row.has(flag::ARMED) {
                let addr = Self::name(OpTag::Accept, slot, row);
                self.say_last(Sqe { opcode: op::ASYNC_CANCEL, fd: -1, addr, ..Sqe::ZERO });
            }
            let owned = !row.has(flag::DIRECT | flag::BORROWED);
            let submitted = row.phase.get() == Phase::Closing && row.wants.get() & want::CLOSE == 0;
            let is_over = matches!(row.phase.get(), Phase::Free | Phase::Ended);
            if owned && !submitted && !is_over {
                self.say_last(close_of(row.fd.get(), false));
            }
        }
        if descriptors {
            self.close_unheard();
            self.ring.hand_over();
            // With what was handed over the kernel may have taken in some more.
            self.close_unheard();
        }
        self.ring.hand_over();
        self.ring.left();
    }
}
