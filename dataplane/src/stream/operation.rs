//! Time limits of single operations, and operations that are taken back.
//!
//! ```text
//!   waits in the queue            -------------------------------------------------> NotSent, nothing of it has gone
//!   with the kernel  -- marked, ASYNC_CANCEL, again every 10 ms --> its last completion
//!                                                                     |-- all of it went: Sent, it was too late
//!                                                                     |-- nothing:  NotSent; what is not marked is sent again
//!                                                                     '-- a part:   torn, the connection ends
//! ```
//!
//! A stream has an order, so what is behind a piece that was taken back moves up. Of a piece that has gone in part this is no way out:
//! whoever reads would take the next for the rest of it.
//!
//! A receive has no memory that the caller has to have back: buffers are the kernel's to pick. All the same it is really stopped when
//! its time is up, so that nothing comes after that was said.
//!
//! Invariants: (1) a loan comes back only when the kernel has said its last word of it; (2) who is told `TimedOut` or `Cancelled`
//! can be sure that no byte of it has left; (3) `Row::soonest` is not later than any limit of what the row has to send.

use spinwire_layouts::uring::{Sqe, op};
use spinwire_layouts::word::{to_usize, widen};

use super::row::{Phase, Row, flag, want};
use super::segment::{Report, Segment};
use super::service::{Flight, LIST, Stage, Streams};
use super::{CloseReason, ConnId, Undone};
use crate::chain::ChainId;
use crate::error::{Misuse, PostError};
use crate::table::NIL;
use crate::time::{Instant, Nanos};
use crate::uring::Enter;
use crate::uring::ring::UNHEARD;

/// How long after an operation was to be cancelled that is asked for again, if it is still there.
const CANCEL_AGAIN: Nanos = Nanos::from_millis(10);

impl<'m, E: Enter> Streams<'m, E> {
    /// Takes back what was handed in by [`send`](Self::send) with that number, as far as it can be: [`StreamEvent::NotSent`] with
    /// [`Undone::Cancelled`] where nothing of it has gone, [`StreamEvent::Sent`] where it was too late. Where a part of it has gone
    /// the connection ends ([`CloseReason::Torn`]).
    ///
    /// # Errors
    /// `StaleOperation` where nothing of that number waits or is being sent; `UnknownAddress` or `StaleAddress`.
    ///
    /// [`StreamEvent::NotSent`]: super::StreamEvent::NotSent
    /// [`StreamEvent::Sent`]: super::StreamEvent::Sent
    pub fn cancel_send(&self, conn: ConnId, context: u64) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        let meant = |segment: &Segment<'m>| matches!(segment.report.get(), Report::Owner { context: of } if of == context);
        if self.take_back((conn, row), meant, Undone::Cancelled) {
            self.watch(row, conn);
            Ok(())
        } else {
            Err(Misuse::StaleOperation)
        }
    }

    /// The next bytes of a connection, or the end of its stream, are to come by `until`. If not, its receive is stopped and
    /// [`StreamEvent::ReceiveTimedOut`](super::StreamEvent::ReceiveTimedOut) says so; nothing is received then before
    /// [`resume`](Self::resume) or the next call of this. Each call has the one before forgotten, and has a connection that was
    /// paused received from again; `Instant::NEVER` for any time.
    ///
    /// # Errors
    /// `UnknownAddress` or `StaleAddress`.
    pub fn receive_until(&self, conn: ConnId, until: Instant) -> Result<(), Misuse> {
        let row = self.row(conn)?;
        if !matches!(row.phase.get(), Phase::Connecting | Phase::Open) {
            return Ok(());
        }
        row.late.set(false);
        row.awaited.set(true);
        row.expects.set(if row.has(flag::PEER_CLOSED) { Instant::NEVER } else { until });
        if row.has(flag::PAUSED) {
            self.resume(conn)?;
        }
        self.watch(row, conn);
        Ok(())
    }

    /// The time of some operations of a row may be up.
    pub(super) fn expire_operations(&self, (id, row): (ConnId, &'m Row), now: Instant) {
        if row.expects.get() <= now {
            self.receive_is_late(id.slot(), row);
        }
        if row.soonest.get() <= now {
            self.take_back((id, row), |segment| segment.until.get() <= now, Undone::TimedOut);
        }
    }

    /// Nothing has come in time: the receive is stopped, and that is told when the kernel has nothing of it any more.
    fn receive_is_late(&self, slot: u32, row: &Row) {
        row.late.set(true);
        row.set(flag::PAUSED);
        if row.has(flag::ARMED) && row.phase.get() == Phase::Open {
            // Asked for again, as it may not have been found.
            row.clear(flag::STOPPING);
            row.awaited.set(true);
            row.expects.set(self.now.get().saturating_add(CANCEL_AGAIN));
            self.want(slot, want::PAUSE);
        } else {
            row.expects.set(Instant::NEVER);
            let _noted_already = self.noted.push_back(LIST, slot);
        }
    }

    /// A completion of a receive whose time is up and that is being stopped. What came meanwhile came in time.
    #[cold]
    pub(super) fn heard_late(&self, slot: u32, row: &Row, res: i32) {
        if res >= 0 {
            row.late.set(false);
            row.clear(flag::PAUSED);
            if !row.has(flag::CROWDED) {
                row.wants.set(row.wants.get() & !want::PAUSE);
            }
            return;
        }
        row.expects.set(Instant::NEVER);
        let _noted_already = self.noted.push_back(LIST, slot);
    }

    fn active_flight(&self, row: &Row) -> Option<(ChainId, &'m Flight)> {
        let chain = row.active.get()?;
        self.flights.get(to_usize(widen(chain.slot()))).map(|flight| (chain, flight))
    }

    fn list_from(&self, first: u32) -> impl Iterator<Item = &'m Segment<'m>> {
        core::iter::successors(self.segments.at(first), |s| self.segments.at(s.next.get()))
    }

    /// Takes back what `meant` says, of what waits and of what the kernel has. Whether there was any such.
    fn take_back(
        &self,
        (id, row): (ConnId, &'m Row),
        meant: impl Fn(&Segment<'m>) -> bool,
        why: Undone,
    ) -> bool {
        let mut found = false;
        let mut mark = |segment: &Segment<'m>| {
            let is_meant = meant(segment);
            if is_meant && segment.undone.get().is_none() {
                segment.undone.set(Some(why));
            }
            found |= is_meant;
            segment.undone.get().is_some()
        };
        for segment in self.list_from(row.first.get()) {
            mark(segment);
        }
        let flight = self.active_flight(row);
        let mut marked = false;
        if let Some((_, flight)) = flight {
            for segment in self.list_from(flight.segments.first.get()) {
                marked |= mark(segment);
            }
        }
        let torn = self.drop_marked(row, (&row.first, &row.last));
        if let Some((chain, flight)) = flight.filter(|_| marked) {
            if flight.stage.get() == Stage::Flying {
                self.want(id.slot(), want::WITHDRAW);
            } else {
                self.settle_stranded((id, row), chain, flight);
            }
        }
        if torn {
            self.end(id.slot(), row, CloseReason::Torn);
            return true;
        }
        self.see_soonest(row);
        self.eased(id, row);
        found
    }

    /// When the next limit of what a row has to send is over.
    pub(super) fn see_soonest(&self, row: &Row) {
        let waiting = self.list_from(row.first.get()).map(|segment| segment.until.get());
        let again = self.now.get().saturating_add(CANCEL_AGAIN);
        let active = self.active_flight(row).map_or(NIL, |(_, flight)| flight.segments.first.get());
        let flying = self.list_from(active).map(|segment| match segment.undone.get() {
            Some(_) => again,
            None => segment.until.get(),
        });
        row.soonest.set(waiting.chain(flying).min().unwrap_or(Instant::NEVER));
    }

    /// Reports what is marked in a list, of which the kernel has nothing. Whether one of them has gone in part, and stays.
    pub(super) fn drop_marked(
        &self,
        row: &Row,
        list: (&core::cell::Cell<u32>, &core::cell::Cell<u32>),
    ) -> bool {
        let mut at = list.0.replace(NIL);
        list.1.set(NIL);
        let mut torn = false;
        while let Some(segment) = self.segments.at(at) {
            let (index, is_marked) = (at, segment.undone.get().is_some());
            at = segment.next.get();
            if is_marked && segment.from.get() == 0 {
                row.queued.set(row.queued.get().saturating_sub(widen(segment.bytes())));
                self.segments.finish(index, false);
            } else {
                torn |= is_marked;
                self.segments.push_back(list, index);
            }
        }
        torn
    }

    /// All operations of a chain have ended, not all well, and the network has some of its memory still. What is marked and never
    /// began comes back now; where a part of it has gone, the connection ends.
    #[cold]
    pub(super) fn settle_stranded(
        &self,
        (id, row): (ConnId, &'m Row),
        chain: ChainId,
        flight: &Flight,
    ) {
        let result = |entry| self.chains.result(chain, entry).ok().flatten().unwrap_or(0);
        if flight.gathered.get() {
            let mut sent = result(0).max(0).cast_unsigned();
            for segment in self.list_from(flight.segments.first.get()) {
                if sent < segment.bytes() {
                    if sent > 0 && segment.undone.get().is_some() {
                        self.end(id.slot(), row, CloseReason::Torn);
                    }
                    return;
                }
                sent = sent.wrapping_sub(segment.bytes());
            }
            return;
        }
        let Ok(outstanding) = self.chains.outstanding(chain) else { return };
        let list = (&flight.segments.first, &flight.segments.last);
        let mut at = list.0.replace(NIL);
        list.1.set(NIL);
        let (mut broken, mut torn) = (false, false);
        while let Some(segment) = self.segments.at(at) {
            // Those before it may have come back already.
            let entry = segment.entry.get();
            let (index, sent) = (at, result(entry));
            at = segment.next.get();
            broken |= sent != segment.bytes().cast_signed();
            let is_marked = broken && segment.undone.get().is_some();
            torn |= is_marked && (sent > 0 || segment.from.get() > 0);
            if is_marked
                && sent <= 0
                && segment.from.get() == 0
                && !outstanding.held().contains(entry)
            {
                row.queued.set(row.queued.get().saturating_sub(widen(segment.bytes())));
                self.segments.finish(index, false);
            } else {
                self.segments.push_back(list, index);
            }
        }
        if torn {
            self.end(id.slot(), row, CloseReason::Torn);
        }
    }

    /// Asks the kernel to cancel what it does of the chain of a row: the operation that runs, which takes those behind it along.
    pub(super) fn withdraw(&self, row: &Row) -> Result<(), PostError> {
        let flying = self.active_flight(row).filter(|(_, f)| f.stage.get() == Stage::Flying);
        let outstanding = flying.and_then(|(chain, _)| self.chains.outstanding(chain).ok());
        if let Some(name) = outstanding.and_then(|outstanding| outstanding.user_data().next()) {
            self.ring.push(&[Sqe {
                opcode: op::ASYNC_CANCEL,
                fd: -1,
                addr: name.as_raw(),
                user_data: UNHEARD,
                ..Sqe::ZERO
            }])?;
        }
        row.wants.set(row.wants.get() & !want::WITHDRAW);
        Ok(())
    }
}
