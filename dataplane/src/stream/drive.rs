//! Wants into submissions: the one place where they are made.
//!
//! What there is no room for stays wanted, and its row at the front of the list.

use spinwire_layouts::uring::{FILE_INDEX_ALLOC, Sqe, accept, cancel, op, recvsend, sqe};
use spinwire_layouts::word::{from_usize, to_usize, widen};

use super::row::{PARTS_MAX, Phase, Row, RowAddress, flag, want};
use super::segment::Segment;
use super::service::{LIST, Streams};
use super::write::SEND_MAX;
use super::{CloseReason, ConnId};
use crate::chain::{ChainId, Entry};
use crate::error::PostError;
use crate::id::OpTag;
use crate::raw::kernel_memory::address_in;
use crate::table::NIL;
use crate::uring::Enter;
use crate::uring::ring::UNHEARD;

/// Flags of send(2): the whole of it, and no signal.
const SEND_FLAGS: u32 = 0x100 | 0x4000;
/// `SOCK_CLOEXEC` of accept4(2).
const CLOSE_ON_EXEC: u32 = 0o2_000_000;
/// `SHUT_WR` of shutdown(2).
const SHUT_WRITE: u32 = 1;

impl<'m, E: Enter> Streams<'m, E> {
    /// Submits what is wanted by up to `most` rows.
    #[inline(always)]
    pub(super) fn drive(&self, most: u32) {
        if !self.wanting.is_empty() || self.has_orphans() || self.brings_many.get() {
            self.drive_some(most);
        }
    }

    #[inline(never)]
    fn drive_some(&self, most: u32) {
        if self.has_orphans() {
            self.close_orphans();
        }
        if self.brings_many.get() && !self.may_accept_many() {
            self.bring_no_more();
        }
        for _ in 0..most.min(self.config.conns) {
            let Some(slot) = self.wanting.front() else { return };
            let Some(row) = self.row_at(slot) else { return };
            if self.drive_row(slot, row).is_err() {
                return;
            }
            let _in_front = self.wanting.pop();
            row.listed.set(false);
        }
    }

    /// As many have come as there are rows for beside those who may wait: from here on guests are let in one by one.
    #[cold]
    fn bring_no_more(&self) {
        self.brings_many.set(false);
        for (slot, row) in (0..self.config.conns).zip(self.rows) {
            if row.phase.get() == Phase::Listening && row.has(flag::ARMED) {
                self.want(slot, want::PAUSE);
            }
        }
    }

    #[inline(never)]
    fn close_orphans(&self) {
        while let Some(fd) = self.take_orphan() {
            let direct = self.config.features.direct_files;
            let close = close_of(fd.cast_signed(), direct);
            if self.ring.push(&[Sqe { user_data: UNHEARD, ..close }]).is_err() {
                self.put_orphan_back();
                return;
            }
        }
    }

    #[inline(always)]
    fn drive_row(&self, slot: u32, row: &'m Row) -> Result<(), PostError> {
        let wants = row.wants.get();
        // As nearly always.
        if wants == want::SEND {
            return self.send_waiting(slot, row);
        }
        self.drive_all_of_row((slot, row), wants)
    }

    #[inline(never)]
    fn drive_all_of_row(&self, (slot, row): (u32, &'m Row), wants: u16) -> Result<(), PostError> {
        if wants & (want::CANCEL | want::PAUSE) != 0 {
            self.stop(slot, row)?;
        }
        if wants & want::WITHDRAW != 0 {
            self.withdraw(row)?;
        }
        if wants & want::RECEIVE != 0 {
            self.receive(slot, row)?;
        }
        if wants & want::SEND != 0 {
            self.send_waiting(slot, row)?;
        }
        if wants & (want::ACCEPT | want::CONNECT) != 0 {
            self.begin_row(slot, row)?;
        }
        if wants & (want::SHUTDOWN | want::CLOSE) != 0 {
            self.finish_row(slot, row)?;
        }
        Ok(())
    }

    fn granted(row: &Row, wants: u16) {
        row.wants.set(row.wants.get() & !wants);
    }

    /// A submission on the descriptor of a row.
    pub(super) const fn on(row: &Row, opcode: u8) -> Sqe {
        let flags = if row.has(flag::DIRECT) { sqe::FIXED_FILE } else { 0 };
        Sqe { opcode, flags, fd: row.fd.get(), ..Sqe::ZERO }
    }

    fn stop(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        let wants = row.wants.get();
        let listens = row.has(flag::BORROWED);
        if wants & want::CANCEL != 0 && !listens {
            let fixed = if row.has(flag::DIRECT) { cancel::FD_FIXED } else { 0 };
            self.ring.push(&[Sqe {
                opcode: op::ASYNC_CANCEL,
                fd: row.fd.get(),
                op_flags: cancel::FD | cancel::ALL | fixed,
                user_data: UNHEARD,
                ..Sqe::ZERO
            }])?;
            Self::granted(row, want::CANCEL | want::PAUSE);
            return Ok(());
        }
        // Of a listener, whose descriptor others may use too, the one operation is cancelled by its name.
        let again = wants & want::CANCEL != 0;
        let connects = row.phase.get() == Phase::Connecting;
        if row.has(flag::ARMED) && !connects && (again || !row.has(flag::STOPPING)) {
            let op = if listens { OpTag::Accept } else { OpTag::Receive };
            self.ring.push(&[Sqe {
                opcode: op::ASYNC_CANCEL,
                fd: -1,
                addr: Self::name(op, slot, row),
                user_data: UNHEARD,
                ..Sqe::ZERO
            }])?;
            row.set(flag::STOPPING);
        }
        Self::granted(row, want::CANCEL | want::PAUSE);
        Ok(())
    }

    fn receive(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        if !row.may_receive() {
            Self::granted(row, want::RECEIVE);
            return Ok(());
        }
        if self.buffers.given() == 0 {
            self.park(slot, row);
            Self::granted(row, want::RECEIVE);
            return Ok(());
        }
        let features = self.config.features;
        // Who is asked when he was heard is waited for once, unless he sends more than one receive takes.
        let repeats = self.config.ask_max == 0 || row.long.get();
        let again = features.recv_multishot && repeats && !row.has(flag::ONE_SHOT);
        let mut ioprio = 0;
        if again {
            ioprio |= recvsend::RECV_MULTISHOT;
        }
        if features.bundles {
            ioprio |= recvsend::BUNDLE;
        }
        let entry = Self::on(row, op::RECV);
        self.ring.push(&[Sqe {
            flags: entry.flags | sqe::BUFFER_SELECT,
            ioprio,
            // Without bundles a receive that is not repeated says how much; 0 is as much as the buffer holds.
            buf_index: self.buffers.group(),
            user_data: Self::name(OpTag::Receive, slot, row),
            ..entry
        }])?;
        self.count(|c| c.waits = c.waits.wrapping_add(1));
        row.set(flag::ARMED);
        row.begin();
        Self::granted(row, want::RECEIVE);
        Ok(())
    }

    /// Waits for buffers.
    pub(super) fn park(&self, slot: u32, row: &Row) {
        row.set(flag::PARKED);
        let _parked_already = self.parked.push_back(LIST, slot);
    }

    /// Receives again for rows that were parked: for one each and once where buffers are few, for good when a quarter of those is there that
    /// the kernel is to have. At most two for each buffer: where all have bytes each takes one, and the others are parked again.
    #[inline(always)]
    pub(super) fn unpark(&self) {
        if !self.parked.is_empty(LIST) {
            self.unpark_some();
        }
    }

    #[inline(never)]
    fn unpark_some(&self) {
        let given = self.buffers.given();
        if given == 0 {
            return;
        }
        let plenty = given >= (self.buffers.wanted() / 4).max(1);
        for _ in 0..if plenty { given.saturating_mul(2) } else { given } {
            let Some(slot) = self.parked.pop_front(LIST) else { return };
            let Some(row) = self.row_at(slot) else { return };
            row.clear(flag::PARKED | flag::ONE_SHOT);
            if !plenty {
                row.set(flag::ONE_SHOT);
            }
            self.want(slot, want::RECEIVE);
        }
    }

    fn begin_row(&self, slot: u32, row: &Row) -> Result<(), PostError> {
        match row.phase.get() {
            Phase::Listening if !row.has(flag::ARMED | flag::PAUSED) => {
                if self.is_full() {
                    // Wanted again when a row comes free.
                    self.starved.set(true);
                } else {
                    let features = self.config.features;
                    let direct = features.direct_files;
                    let many = self.may_accept_many();
                    self.ring.push(&[Sqe {
                        ioprio: if many { accept::MULTISHOT } else { 0 },
                        op_flags: if direct { 0 } else { CLOSE_ON_EXEC },
                        file_index: if direct { FILE_INDEX_ALLOC } else { 0 },
                        user_data: Self::name(OpTag::Accept, slot, row),
                        ..Self::on(row, op::ACCEPT)
                    }])?;
                    self.brings_many.set(self.brings_many.get() || many);
                    row.set(flag::ARMED);
                    row.begin();
                }
            }
            Phase::Connecting if !row.has(flag::ARMED) => {
                self.ring.push(&[self.connect_to(slot, row)])?;
                row.set(flag::ARMED);
                row.begin();
            }
            Phase::Free
            | Phase::Listening
            | Phase::Connecting
            | Phase::Open
            | Phase::Draining
            | Phase::Parting
            | Phase::Closing
            | Phase::Ended => {}
        }
        Self::granted(row, want::ACCEPT | want::CONNECT);
        Ok(())
    }

    fn connect_to(&self, slot: u32, row: &Row) -> Sqe {
        Sqe {
            addr: address_in(&row.address),
            off: widen(row.address.get().length()),
            user_data: Self::name(OpTag::Connect, slot, row),
            ..Self::on(row, op::CONNECT)
        }
    }

    fn finish_row(&self, slot: u32, row: &'m Row) -> Result<(), PostError> {
        let idle = row.is_sent();
        let wants = row.wants.get();
        let open = matches!(row.phase.get(), Phase::Open | Phase::Draining | Phase::Parting);
        if wants & want::SHUTDOWN != 0 && idle && open {
            if !row.has(flag::SHUT) {
                self.ring.push(&[Sqe {
                    len: SHUT_WRITE,
                    user_data: Self::name(OpTag::Shutdown, slot, row),
                    ..Self::on(row, op::SHUTDOWN)
                }])?;
                row.set(flag::SHUT);
                row.begin();
            }
            Self::granted(row, want::SHUTDOWN);
        }
        if wants & want::CLOSE == 0 || row.under_way.get() > 0 {
            return Ok(());
        }
        if row.lingering.get() > 0 {
            // The network has pages that were sent uncopied. It lets go of them when the connection is reset.
            if !row.has(flag::RESET) {
                row.address.set(RowAddress::NONE);
                let reset = self.connect_to(slot, row);
                let name = Self::name(OpTag::Disconnect, slot, row);
                self.ring.push(&[Sqe { user_data: name, ..reset }])?;
                row.set(flag::RESET);
                row.begin();
            }
            return Ok(());
        }
        if row.has(flag::BORROWED) {
            self.over(slot, row);
        } else {
            let close = close_of(row.fd.get(), row.has(flag::DIRECT));
            let name = Self::name(OpTag::Close, slot, row);
            self.ring.push(&[Sqe { user_data: name, ..close }])?;
            row.begin();
        }
        Self::granted(row, want::CLOSE);
        Ok(())
    }

    /// The kernel has nothing of the row any more.
    pub(super) fn over(&self, slot: u32, row: &Row) {
        if row.phase.get() != Phase::Closing {
            self.begin_end(slot);
        }
        row.phase.set(Phase::Ended);
        let _not_parked = self.parked.unlink(slot);
        self.line.leave(slot);
        let _not_refused = self.refused.unlink(slot);
        if let Some(timer) = row.timer.take() {
            let _fired_before = self.timers.cancel(timer);
        }
        let _noted_already = self.noted.push_back(LIST, slot);
    }

    /// What waits to be sent, as far as it fits into one submission. Returns how many pieces and bytes that is.
    fn waiting(&self, row: &Row, parts: &mut [(u64, u32)]) -> (usize, u32) {
        let (mut count, mut bytes) = (0_usize, 0_u32);
        let mut index = row.first.get();
        while let (Some(segment), Some(part)) = (self.segments.at(index), parts.get_mut(count)) {
            let sum = bytes.saturating_add(segment.bytes());
            if sum > SEND_MAX {
                break;
            }
            bytes = sum;
            let start = segment.address.get().wrapping_add(widen(segment.from.get()));
            *part = (start, segment.bytes());
            count = count.wrapping_add(1);
            index = segment.next.get();
        }
        (count, bytes)
    }

    /// Submits what waits: as one send, one message of many parts, or a chain.
    #[inline(always)]
    fn send_waiting(&self, slot: u32, row: &'m Row) -> Result<(), PostError> {
        let open = matches!(row.phase.get(), Phase::Open | Phase::Draining);
        if row.active.get().is_some() || row.first.get() == NIL || !open {
            Self::granted(row, want::SEND);
            return Ok(());
        }
        if row.first.get() == row.last.get()
            && let Some(only) = self.segments.at(row.first.get())
        {
            return if self.is_large(row, only.bytes()) {
                self.send_uncopied((slot, row), only)
            } else {
                self.send_only((slot, row), only)
            };
        }
        self.send_many(slot, row)
    }

    /// The same of several pieces.
    #[inline(never)]
    fn send_many(&self, slot: u32, row: &'m Row) -> Result<(), PostError> {
        let large = |bytes: u32| self.is_large(row, bytes);
        let mut parts = [(0_u64, 0_u32); PARTS_MAX];
        let (mut count, bytes) = self.waiting(row, &mut parts);
        let uncopied = parts.iter().take(count).any(|(_, bytes)| large(*bytes));
        let gathered = count > 1 && (!uncopied || self.gathers_uncopied());
        if !gathered {
            // A chain that is longer than the queue would wait for room for ever.
            count = count.min(to_usize(widen(self.ring.entries().0)));
        }
        let parts = parts.get(..count).unwrap_or(&[]);
        let id = row.id(slot);
        if gathered {
            let entry = [Entry::bytes(bytes, 0)];
            let opcode = if uncopied { op::SENDMSG_ZC } else { op::SENDMSG };
            return self.launch::<1>(id, row, (&entry, true, uncopied), |chain, out| {
                if uncopied {
                    self.count(|c| c.zero_copy = c.zero_copy.wrapping_add(from_usize(count)));
                }
                row.gather(parts);
                let name = chain.user_data(0).map_or(UNHEARD, |name| name.as_raw());
                let Some(place) = out.first_mut() else { return };
                *place = Sqe {
                    addr: address_in(&row.header),
                    len: 1,
                    op_flags: SEND_FLAGS,
                    user_data: name,
                    ..Self::on(row, opcode)
                };
            });
        }
        let build = |chain: ChainId, out: &mut [Sqe]| {
            for (at, (place, part)) in (0..u16::MAX).zip(out.iter_mut().zip(parts)) {
                let (addr, len) = *part;
                let entry =
                    if large(len) { self.uncopied(row, *part) } else { Self::on(row, op::SEND) };
                let last = usize::from(at).wrapping_add(1) == count;
                let link = if last { 0 } else { sqe::IO_LINK };
                let name = chain.user_data(at).map_or(UNHEARD, |name| name.as_raw());
                *place = Sqe {
                    flags: entry.flags | link,
                    addr,
                    len,
                    op_flags: SEND_FLAGS,
                    user_data: name,
                    ..entry
                };
            }
        };
        let mut entries = [Entry::plain(0); PARTS_MAX];
        for (entry, (_, bytes)) in entries.iter_mut().zip(parts) {
            *entry = Entry::bytes(*bytes, 0);
        }
        let entries = entries.get(..count).unwrap_or(&[]);
        self.launch::<PARTS_MAX>(id, row, (entries, false, uncopied), build)
    }

    /// Whether so many bytes go uncopied.
    #[inline(always)]
    const fn is_large(&self, row: &Row, bytes: u32) -> bool {
        let least = self.config.zero_copy_min;
        least != 0
            && bytes >= least
            && self.config.features.send_zero_copy
            && !row.has(flag::COPIED)
    }

    /// Submits the one piece that waits, as nearly always.
    #[inline(always)]
    fn send_only(&self, (slot, row): (u32, &'m Row), only: &Segment<'m>) -> Result<(), PostError> {
        let len = only.bytes();
        let reserved = self.ring.reserve()?;
        // There are as many chains as segments, and one of them waits here.
        let Ok(chain) = self.chains.start(widen(slot), &[Entry::bytes(len, 0)]) else {
            debug_assert!(false, "a segment waits, so that a chain is free");
            return Err(crate::error::Retry::NoSlot.into());
        };
        reserved.stage(&Sqe {
            addr: only.address.get().wrapping_add(widen(only.from.get())),
            len,
            op_flags: SEND_FLAGS,
            user_data: chain.user_data(0).map_or(UNHEARD, |name| name.as_raw()),
            ..Self::on(row, op::SEND)
        });
        if let Some(flight) = self.flights.get(to_usize(widen(chain.slot()))) {
            flight.begin(row.id(slot), (false, false));
            only.entry.set(0);
            let index = row.first.replace(NIL);
            row.last.set(NIL);
            flight.segments.first.set(index);
            flight.segments.last.set(index);
        }
        row.active.set(Some(chain));
        row.begin();
        Self::granted(row, want::SEND);
        Ok(())
    }

    /// The same of one that goes uncopied.
    #[inline(never)]
    fn send_uncopied(
        &self,
        (slot, row): (u32, &'m Row),
        only: &Segment<'m>,
    ) -> Result<(), PostError> {
        let len = only.bytes();
        let addr = only.address.get().wrapping_add(widen(only.from.get()));
        let build = |chain: ChainId, out: &mut [Sqe]| {
            let Some(place) = out.first_mut() else { return };
            let entry = self.uncopied(row, (addr, len));
            let user_data = chain.user_data(0).map_or(UNHEARD, |name| name.as_raw());
            *place = Sqe { addr, len, op_flags: SEND_FLAGS, user_data, ..entry };
        };
        let entry = [Entry::bytes(len, 0)];
        self.launch::<1>(row.id(slot), row, (&entry, false, true), build)
    }

    /// Whether many parts go uncopied as one message. Not where the arena is registered: the parts of a message would be pinned and counted as
    /// locked memory each time, which entries of a chain that name a registered buffer are not.
    pub(super) const fn gathers_uncopied(&self) -> bool {
        let features = &self.config.features;
        features.sendmsg_zero_copy && !features.fixed_buffers
    }

    /// A send without a copy, out of the registered arena where it is that.
    fn uncopied(&self, row: &Row, (addr, len): (u64, u32)) -> Sqe {
        self.count(|c| c.zero_copy = c.zero_copy.wrapping_add(1));
        let entry = Self::on(row, op::SEND_ZC);
        let registered = self.config.features.fixed_buffers;
        match self.ring.arena().fixed_index(addr, len).filter(|_| registered) {
            Some(buf_index) => Sqe { ioprio: recvsend::FIXED_BUF, buf_index, ..entry },
            None => entry,
        }
    }

    /// Begins a chain of up to `N` entries and submits it.
    fn launch<const N: usize>(
        &self,
        id: ConnId,
        row: &'m Row,
        (entries, gathered, uncopied): (&[Entry], bool, bool),
        build: impl FnOnce(ChainId, &mut [Sqe]),
    ) -> Result<(), PostError> {
        let count = entries.len();
        if to_usize(widen(self.ring.room())) < count {
            return Err(crate::error::Retry::SqFull.into());
        }
        // There are as many chains as segments, and one of them waits here.
        let Ok(chain) = self.chains.start(widen(id.slot()), entries) else {
            debug_assert!(false, "a segment waits, so that a chain is free");
            return Err(crate::error::Retry::NoSlot.into());
        };
        let mut out = [Sqe::ZERO; N];
        let out = out.get_mut(..count).unwrap_or_default();
        build(chain, out);
        if let Err(refused) = self.ring.push(out) {
            let _nothing_was_submitted = self.chains.abandon(chain, |_, _| {});
            return Err(refused);
        }
        if let Some(flight) = self.flights.get(to_usize(widen(chain.slot()))) {
            flight.begin(id, (gathered, uncopied));
            let parts = if gathered { Self::parts_of_vector(row) } else { count };
            for (entry, _) in (0..u16::MAX).zip(0..parts) {
                if let Some(index) = self.segments.pop_front((&row.first, &row.last)) {
                    if let Some(segment) = self.segments.at(index) {
                        segment.entry.set(entry);
                    }
                    let list = (&flight.segments.first, &flight.segments.last);
                    self.segments.push_back(list, index);
                }
            }
        }
        row.active.set(Some(chain));
        row.begin();
        // What did not fit goes when this has landed.
        Self::granted(row, want::SEND);
        Ok(())
    }

    const fn parts_of_vector(row: &Row) -> usize {
        let [_, _, _, length, ..] = &row.header;
        to_usize(length.get())
    }

    /// Ends everything: the ring is lost. What the kernel has of it never comes back.
    #[cold]
    pub(super) fn lose(&self) {
        for (slot, row) in (0..self.config.conns).zip(self.rows) {
            if !matches!(row.phase.get(), Phase::Free | Phase::Ended) {
                self.end(slot, row, CloseReason::RingLost);
                row.wants.set(0);
                self.over(slot, row);
            }
        }
    }
}

pub(super) const fn close_of(fd: i32, direct: bool) -> Sqe {
    if direct {
        // A place of the table is given as one more than its number.
        Sqe { opcode: op::CLOSE, file_index: fd.cast_unsigned().wrapping_add(1), ..Sqe::ZERO }
    } else {
        Sqe { opcode: op::CLOSE, fd, ..Sqe::ZERO }
    }
}
