//! Completions into events.

use spinwire_layouts::uring::{Cqe, cqe};
use spinwire_layouts::word::{to_usize, widen};

use super::provided::Filled;
use super::row::{Phase, Row, flag, want};
use super::service::{Flight, Stage, Streams};
use super::{CloseReason, ConnId, StreamEvent};
use crate::chain::{Cause, ChainEvent, ChainId, ChainOutcome, Remains, Why};
use crate::id::{Generation, OpTag, WrId};
use crate::table::NIL;
use crate::time::Instant;
use crate::uring::Enter;

/// Numbers of errno(3) that say something about what to do next.
mod errno {
    pub(super) const EINTR: i32 = 4;
    pub(super) const EIO: i32 = 5;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const EPIPE: i32 = 32;
    pub(super) const EOPNOTSUPP: i32 = 95;
    pub(super) const ECONNRESET: i32 = 104;
    pub(super) const ENOBUFS: i32 = 105;
    pub(super) const ECANCELED: i32 = 125;
}

impl<'m, E: Enter> Streams<'m, E> {
    /// What a completion means.
    #[inline]
    pub(super) fn arrived(&self, cqe: Cqe) -> Option<StreamEvent<'m>> {
        // Those that are handed on are put together anew, so that the others stay in registers.
        let Cqe { user_data, res, flags } = cqe;
        let cqe = || Cqe { user_data, res, flags };
        match WrId::from_raw(user_data).parts() {
            Some((OpTag::Receive, generation, slot)) => {
                self.received((generation, slot), user_data, (res, flags))
            }
            Some((OpTag::Chain, ..)) => self.chain_moved(cqe()),
            Some((tag, generation, slot)) => self.changed(tag, (generation, slot), cqe()),
            None => self.stale(cqe()),
        }
    }

    /// A completion that belongs to nothing. Its buffer goes back all the same.
    #[cold]
    fn stale(&self, cqe: Cqe) -> Option<StreamEvent<'m>> {
        self.count(|c| c.stale = c.stale.wrapping_add(1));
        self.give_back(cqe);
        None
    }

    /// Buffers of a completion that nobody wants.
    #[cold]
    pub(crate) fn give_back(&self, cqe: Cqe) {
        if cqe.flags & cqe::BUFFER != 0 {
            let bytes = cqe.res.max(0).cast_unsigned();
            let mut filled = self.buffers.filled(cqe.flags >> cqe::BUFFER_SHIFT, bytes);
            while self.buffers.take(&mut filled).is_some() && filled.left > 0 {}
        }
    }

    #[inline(always)]
    fn received(
        &self,
        (generation, slot): (Generation, u32),
        user_data: u64,
        (res, flags): (i32, u32),
    ) -> Option<StreamEvent<'m>> {
        let cqe = || Cqe { user_data, res, flags };
        let Some((id, row)) = self.row_of(generation, slot) else { return self.stale(cqe()) };
        if row.late.get() {
            self.heard_late(slot, row, res);
        }
        if flags & cqe::MORE == 0 || row.has(flag::STOPPING) {
            self.receive_changed(slot, row, flags & cqe::MORE != 0);
        }
        if res > 0 && row.phase.get() == Phase::Open && flags & cqe::BUFFER != 0 {
            row.came.set(self.now.get());
            if row.awaited.replace(false) {
                row.expects.set(Instant::NEVER);
            }
            let bytes = res.cast_unsigned();
            self.count(|c| c.received_bytes = c.received_bytes.wrapping_add(widen(bytes)));
            let filled = self.buffers.filled(flags >> cqe::BUFFER_SHIFT, bytes);
            return self.hand_out(id, filled);
        }
        self.give_back(cqe());
        self.received_nothing((id, row), res)
    }

    /// A receive has ended, or goes on though it was to be stopped.
    #[inline(never)]
    fn receive_changed(&self, slot: u32, row: &Row, goes_on: bool) {
        if !goes_on {
            row.clear(flag::ARMED | flag::STOPPING | flag::ONE_SHOT);
            row.end();
            self.want(slot, again(row));
            return;
        }
        // It may not have been found when it was to be cancelled.
        row.clear(flag::STOPPING);
        if row.has(flag::PAUSED | flag::CROWDED) {
            self.want(slot, want::PAUSE);
        }
    }

    #[inline(never)]
    fn received_nothing(&self, (id, row): (ConnId, &'m Row), res: i32) -> Option<StreamEvent<'m>> {
        let slot = id.slot();
        let parts = row.phase.get() == Phase::Parting;
        if row.phase.get() != Phase::Open && !parts {
            return None;
        }
        match res {
            0 if parts => {
                row.set(flag::PEER_CLOSED);
                self.end(slot, row, CloseReason::Closed);
                None
            }
            res if parts && res > 0 => {
                self.drop_bytes(slot, row, res.cast_unsigned());
                None
            }
            0 => {
                row.set(flag::PEER_CLOSED);
                row.expects.set(Instant::NEVER);
                Some(StreamEvent::PeerClosed(id))
            }
            res if res == -errno::ENOBUFS => {
                self.count(|c| c.out_of_buffers = c.out_of_buffers.wrapping_add(1));
                self.buffers.want_more();
                row.wants.set(row.wants.get() & !want::RECEIVE);
                self.park(slot, row);
                None
            }
            res if res > 0 => {
                self.garbled(id);
                None
            }
            res if [-errno::ECANCELED, -errno::EINTR, -errno::EAGAIN].contains(&res) => None,
            res => {
                self.end(slot, row, CloseReason::Errno(res.wrapping_neg()));
                None
            }
        }
    }

    /// The next buffer of the completion that is being handed out.
    #[inline(never)]
    pub(super) fn rest_of_completion(&self) -> Option<StreamEvent<'m>> {
        let (conn, filled) = self.rest.take()?;
        self.hand_out(conn, filled)
    }

    /// The first of the buffers that a completion has filled; the others are its rest.
    #[inline(always)]
    fn hand_out(&self, conn: ConnId, mut filled: Filled) -> Option<StreamEvent<'m>> {
        let bytes = self.buffers.take(&mut filled);
        if filled.left > 0 && bytes.is_some() {
            self.rest.set(Some((conn, filled)));
        }
        match bytes {
            Some(bytes) => Some(StreamEvent::Received { conn, bytes }),
            None => {
                self.garbled(conn);
                None
            }
        }
    }

    /// The kernel says that bytes have come, and not where they are: what comes after them is not what the other end has sent.
    #[cold]
    fn garbled(&self, conn: ConnId) {
        self.count(|c| c.stale = c.stale.wrapping_add(1));
        if let Ok(row) = self.row(conn) {
            self.end(conn.slot(), row, CloseReason::Garbled);
        }
    }

    /// All that is neither bytes nor a chain.
    #[inline(never)]
    fn changed(
        &self,
        tag: OpTag,
        (generation, slot): (Generation, u32),
        cqe: Cqe,
    ) -> Option<StreamEvent<'m>> {
        let Some((id, row)) = self.row_of(generation, slot) else {
            if tag == OpTag::Accept && cqe.res >= 0 {
                self.keep_orphan(cqe.res.cast_unsigned());
            }
            return self.stale(cqe);
        };
        match tag {
            OpTag::Accept => self.accepted((id, row), cqe),
            OpTag::Connect => {
                row.clear(flag::ARMED | flag::STOPPING);
                row.end();
                self.want(slot, again(row));
                if row.phase.get() != Phase::Connecting {
                    return None;
                }
                if cqe.res < 0 {
                    self.end(slot, row, CloseReason::Errno(cqe.res.wrapping_neg()));
                    return None;
                }
                row.came.set(self.now.get());
                row.went.set(self.now.get());
                if row.has(flag::LAST) {
                    self.drain(id, row);
                    // All that waited may have been taken back meanwhile.
                    self.eased(id, row);
                    return None;
                }
                row.phase.set(Phase::Open);
                self.watch(row, id);
                self.want(slot, want::RECEIVE | want::SEND);
                Some(StreamEvent::Connected(id))
            }
            OpTag::Shutdown | OpTag::Disconnect => {
                // What it could not shut is over anyway; the receive hears why.
                row.end();
                self.want(slot, 0);
                None
            }
            OpTag::Close => {
                row.end();
                self.over(slot, row);
                None
            }
            OpTag::Send
            | OpTag::Recv
            | OpTag::Receive
            | OpTag::Chain
            | OpTag::File
            | OpTag::VirtualSend
            | OpTag::VirtualRecv
            | OpTag::Write
            | OpTag::Read
            | OpTag::Atomic
            | OpTag::Expose => self.stale(cqe),
        }
    }

    fn accepted(&self, (id, row): (ConnId, &'m Row), cqe: Cqe) -> Option<StreamEvent<'m>> {
        let slot = id.slot();
        if cqe.flags & cqe::MORE == 0 {
            row.clear(flag::ARMED);
            row.end();
            self.want(slot, again(row));
        } else if row.has(flag::STOPPING) && row.has(flag::PAUSED) {
            self.want(slot, want::PAUSE);
        }
        row.clear(flag::STOPPING);
        if cqe.res < 0 {
            return self.not_accepted((id, row), cqe.res.wrapping_neg());
        }
        let direct = if self.config.features.direct_files { flag::DIRECT } else { 0 };
        let listens = row.phase.get() == Phase::Listening;
        let conn = if listens { self.open(Phase::Open, cqe.res, direct).ok() } else { None };
        if listens && self.is_full() {
            self.starved.set(true);
        }
        if listens && (self.is_full() || (row.has(flag::ARMED) && !self.may_accept_many())) {
            // Of those that wait there may be more than there are rows.
            self.want(slot, want::PAUSE);
        }
        let Some(conn) = conn else {
            self.keep_orphan(cqe.res.cast_unsigned());
            return None;
        };
        self.want(conn.slot(), want::RECEIVE);
        self.count(|c| c.accepted = c.accepted.wrapping_add(1));
        Some(StreamEvent::Accepted { listener: id, conn })
    }

    #[cold]
    fn not_accepted(&self, (id, row): (ConnId, &'m Row), errno: i32) -> Option<StreamEvent<'m>> {
        if row.phase.get() != Phase::Listening || errno == errno::ECANCELED {
            return None;
        }
        let short = [errno::EMFILE, errno::ENFILE, errno::ENOBUFS, errno::ENOMEM].contains(&errno);
        if short {
            // Not at once: it would fail as often as there are turns.
            row.wants.set(row.wants.get() & !want::ACCEPT);
            self.accept_later(row, id);
        } else if is_of_listener(errno) {
            self.end(id.slot(), row, CloseReason::Errno(errno));
            return None;
        }
        Some(StreamEvent::AcceptFailed { listener: id, errno })
    }

    /// Takes in the completion of a send, if it is the only one and says that all was sent. Says whether it was; if not, nothing was done.
    #[inline(never)]
    pub(super) fn sent_whole(&self, user_data: u64, res: i32, flags: u32) -> bool {
        let Some((chain, _slot)) = self.chains.take_whole(user_data, res, flags) else {
            return false;
        };
        if let Some(flight) = self.flights.get(to_usize(widen(chain))) {
            let row = self.row_of_flight(flight);
            flight.conn.set(None);
            let sent = self.finish_all(flight, true);
            if let Some((id, row)) = row {
                row.end();
                self.leave((id, row), sent);
                self.eased(id, row);
            }
        }
        true
    }

    #[inline(never)]
    fn chain_moved(&self, cqe: Cqe) -> Option<StreamEvent<'m>> {
        // What fits no chain is counted by the table of chains.
        let progress = self.chains.on_cqe(cqe.user_data, cqe.res, cqe.flags).ok()?;
        let chain = progress.chain;
        let flight = self.flights.get(to_usize(widen(chain.slot())))?;
        match progress.event {
            ChainEvent::Pending => None,
            ChainEvent::AllOpsComplete => {
                // Said again with every notification.
                if flight.stage.get() == Stage::Flying {
                    self.land(chain, flight);
                }
                None
            }
            ChainEvent::Complete { .. } => {
                self.conclude(chain, flight);
                None
            }
        }
    }

    /// Whether every operation of a chain has done what it should.
    fn is_whole(&self, chain: ChainId, flight: &Flight) -> bool {
        let result = |entry| self.chains.result(chain, entry).ok().flatten();
        let mut index = flight.segments.first.get();
        let (mut entry, mut sum) = (0_u16, 0_u32);
        while let Some(segment) = self.segments.at(index) {
            sum = sum.wrapping_add(segment.bytes());
            if !flight.gathered.get() {
                if result(entry) != Some(segment.bytes().cast_signed()) {
                    return false;
                }
                entry = entry.wrapping_add(1);
            }
            index = segment.next.get();
        }
        !flight.gathered.get() || result(0) == Some(sum.cast_signed())
    }

    /// All operations of a chain have ended; notifications are to come. Where all is sent, the connection goes on without it.
    fn land(&self, chain: ChainId, flight: &Flight) {
        let whole = self.is_whole(chain, flight);
        flight.stage.set(if whole { Stage::Landed } else { Stage::Stranded });
        let Some((id, row)) = self.row_of_flight(flight) else { return };
        row.lingering.set(row.lingering.get().wrapping_add(1));
        row.end();
        if !whole {
            self.want(id.slot(), 0);
            self.settle_stranded((id, row), chain, flight);
            return;
        }
        let mut bytes = 0_u64;
        let mut index = flight.segments.first.get();
        while let Some(segment) = self.segments.at(index) {
            bytes = bytes.wrapping_add(widen(segment.bytes()));
            index = segment.next.get();
        }
        self.leave((id, row), bytes);
        self.eased(id, row);
    }

    #[inline(always)]
    fn row_of_flight(&self, flight: &Flight) -> Option<(ConnId, &'m Row)> {
        let id = flight.conn.get()?;
        self.row(id).ok().map(|row| (id, row))
    }

    /// The active chain of a row has left with so many bytes sent.
    #[inline(always)]
    fn leave(&self, (id, row): (ConnId, &'m Row), sent: u64) {
        row.active.set(None);
        if sent > 0 {
            row.went.set(self.now.get());
            row.queued.set(row.queued.get().saturating_sub(sent));
            self.count(|c| c.sent_bytes = c.sent_bytes.wrapping_add(sent));
        }
        self.want_of(id.slot(), row, if row.first.get() == NIL { 0 } else { want::SEND });
    }

    /// The last completion of a chain.
    fn conclude(&self, chain: ChainId, flight: &Flight) {
        let Ok(outcome) = self.chains.take(chain) else { return };
        let row = self.row_of_flight(flight);
        flight.conn.set(None);
        let Some((id, row)) = row else {
            self.finish_all(flight, outcome.result.is_ok());
            return;
        };
        let stage = flight.stage.get();
        if stage == Stage::Flying {
            row.end();
        } else {
            row.lingering.set(row.lingering.get().saturating_sub(1));
        }
        match outcome.result {
            Ok(()) => {
                let sent = self.finish_all(flight, true);
                if stage == Stage::Landed {
                    self.want(id.slot(), 0);
                } else {
                    self.leave((id, row), sent);
                }
            }
            Err(cause) => self.go_on((id, row), flight, (cause, &outcome)),
        }
        self.eased(id, row);
    }

    /// Finishes all segments of a chain. Returns their bytes.
    #[inline(always)]
    fn finish_all(&self, flight: &Flight, sent: bool) -> u64 {
        let mut bytes = 0_u64;
        let mut index = flight.segments.first.replace(NIL);
        flight.segments.last.set(NIL);
        while let Some(segment) = self.segments.at(index) {
            let next = segment.next.replace(NIL);
            bytes = bytes.wrapping_add(widen(segment.bytes()));
            self.finish_segment((index, segment), sent);
            index = next;
        }
        bytes
    }

    /// After a chain that broke: what is left of it is sent again, or the connection ends.
    fn go_on(
        &self,
        (id, row): (ConnId, &'m Row),
        flight: &Flight,
        (cause, outcome): (Cause, &ChainOutcome),
    ) {
        let sent = self.finish_sent(flight, outcome.remains);
        let open = matches!(row.phase.get(), Phase::Open | Phase::Draining);
        let exact = matches!(outcome.remains, Remains::From { .. });
        let copied = flight.uncopied.get() && is_of_zero_copy(cause);
        if copied {
            row.set(flag::COPIED);
        }
        let passes = open && exact && (copied || is_passing(cause));
        let list = (&flight.segments.first, &flight.segments.last);
        let torn = passes && self.drop_marked(row, list);
        let goes_on = passes && !torn;
        if goes_on {
            let rest = (flight.segments.first.replace(NIL), flight.segments.last.replace(NIL));
            self.segments.prepend((&row.first, &row.last), rest);
        }
        self.leave((id, row), sent);
        self.finish_all(flight, false);
        if torn {
            self.end(id.slot(), row, CloseReason::Torn);
        } else if open && !goes_on {
            let errno = cause.errno().unwrap_or(errno::EIO);
            self.not_taken(id.slot(), row, errno);
        }
    }

    /// The other end takes nothing any more. What it had sent before it went lies in the socket and is received first; the receive
    /// then says how the connection ended.
    fn not_taken(&self, slot: u32, row: &'m Row, errno: i32) {
        let is_gone = errno == errno::EPIPE || errno == errno::ECONNRESET;
        if !is_gone || row.phase.get() != Phase::Open || row.has(flag::PEER_CLOSED) {
            self.end(slot, row, CloseReason::Errno(errno));
            return;
        }
        row.set(flag::MUTE);
        while let Some(index) = self.segments.pop_front((&row.first, &row.last)) {
            self.finish(index, false);
        }
        row.queued.set(0);
        self.want(slot, want::RECEIVE);
    }

    /// Finishes the segments of a broken chain that were sent whole, and moves the start of the one that was not. Returns the bytes.
    fn finish_sent(&self, flight: &Flight, remains: Remains) -> u64 {
        let (Remains::From { entry, byte } | Remains::Hole { entry, byte, .. }) = remains else {
            return 0;
        };
        let list = (&flight.segments.first, &flight.segments.last);
        let mut sent = 0_u64;
        let (mut whole, mut part) = (entry, byte);
        while let Some(segment) = self.segments.at(list.0.get()) {
            let bytes = segment.bytes();
            let is_sent = if flight.gathered.get() { part >= bytes } else { whole > 0 };
            if !is_sent {
                segment.from.set(segment.from.get().saturating_add(part.min(bytes)));
                return sent.wrapping_add(widen(part.min(bytes)));
            }
            if flight.gathered.get() {
                part = part.wrapping_sub(bytes);
            }
            whole = whole.saturating_sub(1);
            sent = sent.wrapping_add(widen(bytes));
            if let Some(index) = self.segments.pop_front(list) {
                self.finish(index, true);
            }
        }
        sent
    }

    /// Less is queued than before: receives again, tells that there is room, and closes what was to be closed then.
    #[inline(always)]
    pub(super) fn eased(&self, id: ConnId, row: &'m Row) {
        if row.has(flag::CROWDED | flag::REFUSED) || row.phase.get() == Phase::Draining {
            self.eased_now(id, row);
        }
    }

    #[inline(never)]
    fn eased_now(&self, id: ConnId, row: &'m Row) {
        let slot = id.slot();
        let low = widen(self.config.queue_low);
        if row.has(flag::CROWDED) && row.queued.get() <= low {
            row.clear(flag::CROWDED);
            if !row.has(flag::PAUSED) {
                row.wants.set(row.wants.get() & !want::PAUSE);
            }
            self.want(slot, want::RECEIVE);
        }
        if row.has(flag::REFUSED) && row.queued.get() <= low {
            self.tell_writable(slot, row);
        }
        if row.phase.get() == Phase::Draining && row.is_sent() {
            if row.lingering.get() == 0 {
                self.part(id, row);
            } else {
                self.want(slot, want::SHUTDOWN);
            }
        }
    }
}

/// What a row wants when an operation of it has ended that goes on as a rule.
const fn again(row: &Row) -> u16 {
    match row.phase.get() {
        Phase::Listening if !row.has(flag::PAUSED) => want::ACCEPT,
        Phase::Open | Phase::Parting if row.may_receive() && !row.has(flag::PARKED) => {
            want::RECEIVE
        }
        Phase::Free
        | Phase::Listening
        | Phase::Connecting
        | Phase::Open
        | Phase::Draining
        | Phase::Parting
        | Phase::Closing
        | Phase::Ended => 0,
    }
}

/// Whether what broke a chain of sends passes.
const fn is_passing(cause: Cause) -> bool {
    match cause.why {
        Why::Short { .. } => true,
        // What is cancelled while the connection is open is the rest of a chain that the kernel had not taken whole.
        Why::Errno(number) => {
            matches!(number, errno::EINTR | errno::EAGAIN | errno::ENOMEM | errno::ECANCELED)
        }
        Why::Overrun { .. } => false,
    }
}

/// Whether what broke a chain cannot happen to a copy: the socket is of another kind, or too much memory is locked already.
const fn is_of_zero_copy(cause: Cause) -> bool {
    let number = cause.errno();
    matches!(number, Some(errno::EOPNOTSUPP | errno::ENOBUFS | errno::ENOMEM))
}

/// Whether an error of accept(2) is about the socket that listens, and not about one connection.
const fn is_of_listener(number: i32) -> bool {
    // EBADF, EFAULT, EINVAL, ENOTSOCK, EOPNOTSUPP.
    matches!(number, 9 | 14 | 22 | 88 | 95)
}
