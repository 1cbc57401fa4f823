//! What the library says is over, and what follows from it.
//!
//! ```text
//!   fi_cq_readfrom --> space --> operation --> completion of the caller
//!        |               '--> none, or of a life that is over: Event::StaleCompletion, counted; never skipped
//!        '-- FI_EAVAIL --> fi_cq_readerr --> status, OfiFailure; of type RDM the end of the peer
//! ```

use heapless::VecView;
use spinwire_dataplane::error::{Misuse, PostError, Retry};
use spinwire_dataplane::id::{Addr, Name, WrId};
use spinwire_dataplane::provider::peers::Standing;
use spinwire_dataplane::provider::{Buffer, CancelError, Cqe, EndpointType, Event, Status};
use spinwire_layouts::word::{from_usize, low};
use spinwire_ofi_sys as sys;

use super::contexts::{Operation, What};
use super::error::OfiFailure;
use super::port::{OfiPort, Row};
use crate::raw::ofi::{BATCH, Entry, Failure, NOBODY, Seen};

/// The context of what has none: of what the library has injected.
const NO_SPACE: usize = 0;
/// Reads of the queue in one poll.
const READS_MAX: u32 = 8;
/// Of so many polls one looks for events about connections that are up.
const POLLS_PER_LOOK: u32 = 32;

impl OfiPort<'_> {
    /// One poll: completions into `out` until it is full or there are none. The library makes progress by it.
    pub(super) fn take_in(&self, out: &mut VecView<Cqe>) {
        if self.passive.is_some() {
            self.hear_now_and_then();
        }
        self.hand_out(out);
        for _ in 0..READS_MAX {
            let room = out.capacity() - out.len();
            if room == 0 {
                return;
            }
            let more = self.read(room, |cqe| {
                let pushed = out.push(cqe);
                debug_assert!(pushed.is_ok(), "no more was read than there is room for");
            });
            if !more {
                break;
            }
        }
        self.hand_out(out);
    }

    /// Looks for events about connections: at each poll until there is one.
    fn hear_now_and_then(&self) {
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if !self.is_up() || polls.is_multiple_of(POLLS_PER_LOOK) {
            self.hear();
        }
    }

    fn is_up(&self) -> bool {
        let row = self.peer.get().and_then(|peer| self.peers.find(peer).ok());
        row.is_some_and(|row| row.state.standing() == Standing::Up)
    }

    #[inline(always)]
    fn hand_out(&self, out: &mut VecView<Cqe>) {
        if !self.ended.is_empty() {
            self.hand_out_own(out);
        }
    }

    fn hand_out_own(&self, out: &mut VecView<Cqe>) {
        while !out.is_full() {
            let Some(cqe) = self.ended.pop() else { return };
            let pushed = out.push(cqe);
            debug_assert!(pushed.is_ok(), "room was checked");
        }
    }

    /// Reads the queue once. Returns whether there may be more.
    #[inline(always)]
    fn read(&self, room: usize, mut give: impl FnMut(Cqe)) -> bool {
        let seen = self.bound.completions.read(room, |entry| {
            if let Some(cqe) = self.over(&entry) {
                give(cqe);
            }
        });
        match seen {
            Seen::Nothing => false,
            Seen::Some(count) => count == BATCH.min(room),
            Seen::Failure => {
                let failure = self.bound.completions.read_failure();
                if let Some(cqe) = failure.and_then(|failure| self.failed(&failure)) {
                    give(cqe);
                }
                failure.is_some()
            }
            Seen::Lost(code) => {
                self.lost.set(Some(code));
                false
            }
        }
    }

    /// Reads all that the queue has, for the port's `poll_cq` later: the endpoint that it is of is closed.
    pub(super) fn read_all(&self) {
        let rows = self.ended.capacity();
        for _ in 0..rows {
            let more = self.read(1, |cqe| self.end_with(cqe));
            if !more {
                return;
            }
        }
    }

    pub(super) fn end_with(&self, cqe: Cqe) {
        let pushed = self.ended.push(cqe);
        debug_assert!(pushed.is_ok(), "a place was kept for every operation");
    }

    /// Finds the operation of a space, which is over.
    #[inline(always)]
    fn operation(&self, space: usize) -> Option<Operation> {
        let number = self.bound.spaces.number_of(space);
        let operation = match number.map(|number| self.contexts.end(number)) {
            Some(Ok(operation)) => operation,
            Some(Err(past)) => return self.stale(past),
            None => return self.stale(WrId::from_raw(from_usize(space))),
        };
        match operation.what {
            What::Send => self.sends.set(self.sends.get().saturating_sub(1)),
            What::OneSided { operands, .. } => self.one_sided_ended(operands),
            What::Copy { .. } => self.copy_ended(&operation),
            What::Receive(_) => self.receives.set(self.receives.get().saturating_sub(1)),
        }
        Some(operation)
    }

    fn copy_ended(&self, operation: &Operation) {
        let What::Copy { slot, mark } = operation.what else { return };
        self.copies.give_back(slot);
        if mark && let Some(row) = operation.peer.and_then(|peer| self.peers.find(peer).ok()) {
            row.marks.set(row.marks.get().saturating_sub(1));
        }
    }

    #[cold]
    fn stale(&self, whose: WrId) -> Option<Operation> {
        self.count(|c| c.stale = c.stale.wrapping_add(1));
        // Where the ring is full the count has to do.
        let _told = self.events.push(Event::StaleCompletion(whose)).is_ok();
        None
    }

    /// An operation has ended as it should.
    #[inline(always)]
    fn over(&self, entry: &Entry) -> Option<Cqe> {
        let operation = self.operation(entry.space)?;
        match operation.what {
            What::Copy { .. } => None,
            What::Send => Some(Cqe::without_message(operation.wr_id, Status::Success)),
            What::OneSided { bytes, .. } => {
                let done = Cqe::without_message(operation.wr_id, Status::Success);
                Some(Cqe { length: bytes, ..done })
            }
            What::Receive(_) => {
                if operation.ends == Some(Status::PeerGone) {
                    self.hopeless_ended(&operation);
                }
                Some(self.received(&operation, entry, false))
            }
        }
    }

    fn received(&self, operation: &Operation, entry: &Entry, cut: bool) -> Cqe {
        let room = operation.room;
        let length = entry.length.min(room);
        let status = if cut || entry.length > room { Status::Truncated } else { Status::Success };
        Cqe {
            wr_id: operation.wr_id,
            status,
            buffer: Buffer::Returned,
            offset: 0,
            length: low(from_usize(length)),
            count: 1,
            tag: matches!(operation.what, What::Receive(Some(_))).then_some(entry.tag),
            immediate: entry.data,
            source: Some(self.source(operation, entry.source)),
        }
    }

    /// Who has sent what a receive took.
    #[inline(always)]
    fn source(&self, operation: &Operation, number: u64) -> Addr {
        if let Some(peer) = self.peer.get().or(operation.peer) {
            return peer;
        }
        if number == NOBODY {
            return self.stranger();
        }
        let near = usize::try_from(number).ok().and_then(|at| self.by_number.get(at));
        let slot = match near {
            Some(row) => row.get(),
            None => self
                .peers
                .in_use()
                .find(|(_, row)| row.number.get() == number)
                .map(|(slot, _)| slot),
        };
        slot.and_then(|slot| Some(self.peers.at(slot)?.state.addr(slot)))
            .unwrap_or_else(|| self.stranger())
    }

    /// An operation has failed, or was taken back.
    #[cold]
    fn failed(&self, failure: &Failure) -> Option<Cqe> {
        if failure.entry.space == NO_SPACE {
            // What was injected is told of where it has failed, and nowhere else.
            self.note(OfiFailure::NONE.wr_id, failure);
            return None;
        }
        let operation = self.operation(failure.entry.space)?;
        let taken_back = failure.code == libc::ECANCELED;
        if !taken_back || operation.ends.is_none() {
            self.note(operation.wr_id, failure);
        }
        let ended = |status, code| Some(operation.ended(status, code));
        match operation.what {
            What::Receive(_) if u32::try_from(failure.code) == Ok(sys::FI_ETRUNC) => {
                Some(self.received(&operation, &failure.entry, true))
            }
            What::Receive(_) => {
                // What nobody has asked back was given up with its connection.
                let status = operation.ends.unwrap_or(Status::PeerGone);
                let its = operation.peer.and_then(|peer| self.peers.find(peer).ok());
                let why = its.map_or(0, |row| row.state.code());
                if status == Status::PeerGone {
                    self.hopeless_ended(&operation);
                }
                match (taken_back, status) {
                    (true, Status::Cancelled) => ended(status, 0),
                    (true, _) => ended(status, why),
                    (false, _) => ended(Status::PeerGone, failure.number()),
                }
            }
            What::OneSided { .. }
                if !is_about_the_peer(failure.code) || failure.code == libc::EIO =>
            {
                ended(Status::RemoteAccess, failure.number())
            }
            What::Send | What::Copy { .. } | What::OneSided { .. } => {
                if self.info.endpoint_type == EndpointType::Rdm
                    && is_about_the_peer(failure.code)
                    && let Some(peer) = operation.peer
                {
                    self.lose(peer, Standing::Gone, failure.number());
                }
                match operation.what {
                    What::Copy { .. } => None,
                    What::Send | What::OneSided { .. } | What::Receive(_) => {
                        ended(Status::PeerGone, failure.number())
                    }
                }
            }
        }
    }

    /// Counts and keeps what the library said of a failure.
    fn note(&self, whose: WrId, failure: &Failure) {
        self.count(|c| c.failed = c.failed.wrapping_add(1));
        if self.failures.is_full() {
            let _oldest = self.failures.pop();
        }
        let kept = self.failures.push(OfiFailure::new(whose, failure));
        debug_assert!(kept.is_ok(), "there is room");
    }

    /// A peer is lost, for the reason of that number (0 for none). Of type MSG the connection is closed; receives that wait for the peer alone end.
    #[cold]
    pub(super) fn lose(&self, peer: Addr, standing: Standing, code: u32) {
        let Ok(row) = self.peers.find(peer) else { return };
        if row.state.is_lost() {
            return;
        }
        row.state.lose_for(standing, code);
        if self.passive.is_some() {
            let (status, _) = standing.end_of(peer);
            self.close(|_| Some((status, code)));
            while let Some((space, _)) = self.contexts.first(|_| true) {
                self.end_without(space, status, code);
            }
            self.tell_end(peer, row);
            return;
        }
        let hopeless = |operation: &Operation| {
            matches!(operation.what, What::Receive(_)) && operation.peer == Some(peer)
        };
        for (space, operation) in self.contexts.all().filter(|(_, of)| hopeless(of)) {
            let ends = Some(Status::PeerGone);
            self.contexts.set(space, Operation { ends, ..operation });
            if operation.ends.is_none() {
                let asked = self.with_active(|active| active.cancel(space));
                debug_assert!(asked.is_some(), "an endpoint of this type is open");
            }
            row.hopeless.set(row.hopeless.get() + 1);
        }
        if row.hopeless.get() == 0 {
            self.tell_end(peer, row);
        }
    }

    /// A receive that waited for a lost peer alone has ended. The end of the peer is told after the last.
    fn hopeless_ended(&self, operation: &Operation) {
        let Some(peer) = operation.peer else { return };
        let Ok(row) = self.peers.find(peer) else { return };
        let left = row.hopeless.get().saturating_sub(1);
        row.hopeless.set(left);
        if left == 0 {
            self.tell_end(peer, row);
        }
    }

    fn tell_end(&self, peer: Addr, row: &Row) {
        let (_, event) = row.state.standing().end_of(peer);
        let told = self.events.push(event);
        debug_assert!(told.is_ok(), "there is room for the end of every peer");
    }

    /// The next event. Whose end it says has no row any more.
    pub(super) fn next_event(&self) -> Option<Event> {
        if !self.ended.is_empty() {
            // First the completions that came before it.
            return None;
        }
        let event = self.events.pop()?;
        if let Event::PeerGone(peer) | Event::PeerCorrupt(peer) | Event::Refused(peer) = event
            && let Ok(row) = self.peers.find(peer)
        {
            self.vacate(peer, row);
        }
        Some(event)
    }

    /// Enters a peer into the address table.
    pub(super) fn enter_peer(&self, name: &Name) -> Result<Addr, PostError> {
        let known = self.peers.in_use().find(|(_, row)| row.name.get() == Some(*name));
        if let Some((slot, row)) = known {
            if row.state.is_lost() {
                // Its end waits to be taken note of.
                return Err(Retry::AddressesFull.into());
            }
            return Ok(row.state.addr(slot));
        }
        let address = self.find(name)?;
        let (slot, row) = self.peers.vacant()?;
        let vector = self.bound.addresses.as_ref().ok_or(Misuse::Unsupported)?;
        let number = vector.insert(address.bytes()).map_err(|_refused| Misuse::UnknownAddress)?;
        row.number.set(number);
        row.name.set(Some(*name));
        row.fresh();
        row.state.set_standing(Standing::Known);
        if let Some(near) = usize::try_from(number).ok().and_then(|at| self.by_number.get(at)) {
            near.set(Some(slot));
        }
        Ok(row.state.addr(slot))
    }

    /// Takes a peer out of the address table. Receives that wait for it alone are taken back.
    pub(super) fn leave(&self, peer: Addr) -> Result<(), Misuse> {
        let row = self.peers.find(peer)?;
        if self.passive.is_some() {
            self.close(|operation| {
                let hopeless = operation.peer == Some(peer);
                let is_receive = matches!(operation.what, What::Receive(_));
                match (is_receive, hopeless) {
                    (false, _) => Some((Status::PeerGone, 0)),
                    (true, true) => Some((Status::Cancelled, 0)),
                    (true, false) => None,
                }
            });
        } else {
            let hopeless = |operation: &Operation| {
                matches!(operation.what, What::Receive(_))
                    && operation.peer == Some(peer)
                    && operation.ends.is_none()
            };
            for (space, operation) in self.contexts.all().filter(|(_, of)| hopeless(of)) {
                self.contexts.set(space, Operation { ends: Some(Status::Cancelled), ..operation });
                let _answer = self.with_active(|active| active.cancel(space));
            }
        }
        self.vacate(peer, row);
        Ok(())
    }

    fn vacate(&self, peer: Addr, row: &Row) {
        if let Some(vector) = &self.bound.addresses {
            let number = row.number.replace(NOBODY);
            if let Some(near) = usize::try_from(number).ok().and_then(|at| self.by_number.get(at)) {
                near.set(None);
            }
            let removed = vector.remove(number);
            debug_assert!(removed.is_ok(), "it was inserted: {removed:?}");
        }
        if self.peer.get() == Some(peer) {
            self.peer.set(None);
        }
        row.name.set(None);
        row.state.vacate();
    }

    /// Takes back a posted receive.
    pub(super) fn take_back(&self, wr_id: WrId) -> Result<(), CancelError> {
        let is_it = |operation: &Operation| {
            operation.wr_id == wr_id && !matches!(operation.what, What::Copy { .. })
        };
        let found = self.contexts.all().find(|(_, operation)| is_it(operation));
        let (space, operation) = found.ok_or(CancelError::NotPosted)?;
        if !matches!(operation.what, What::Receive(_)) {
            return Err(CancelError::Unsupported);
        }
        if operation.ends.is_some() {
            return Err(CancelError::NotPosted);
        }
        if operation.held {
            let _ended = self.operation_at(space);
            self.end_with(operation.ended(Status::Cancelled, 0));
            return Ok(());
        }
        match self.with_active(|active| active.cancel(space)) {
            Some(Ok(())) => {
                let ends = Some(Status::Cancelled);
                self.contexts.set(space, Operation { ends, ..operation });
                Ok(())
            }
            Some(Err(libc::ENOSYS | libc::EOPNOTSUPP)) => Err(CancelError::Unsupported),
            Some(Err(_)) | None => Err(CancelError::NotPosted),
        }
    }

    /// The operation at a number of the table, which is over without the library.
    pub(super) fn operation_at(&self, space: usize) -> Option<Operation> {
        let operation = self.contexts.end(space).ok()?;
        match operation.what {
            What::Send => self.sends.set(self.sends.get().saturating_sub(1)),
            What::OneSided { operands, .. } => self.one_sided_ended(operands),
            What::Copy { .. } => self.copy_ended(&operation),
            What::Receive(_) => self.receives.set(self.receives.get().saturating_sub(1)),
        }
        Some(operation)
    }

    /// Ends without the library what it will not tell of any more.
    pub(super) fn end_without(&self, space: usize, status: Status, code: u32) {
        if let Some(operation) = self.operation_at(space)
            && !matches!(operation.what, What::Copy { .. })
        {
            self.end_with(operation.ended(status, code));
        }
    }
}

/// Whether a failure says that the peer is not to be reached, and not that this one operation was wrong.
const fn is_about_the_peer(code: i32) -> bool {
    matches!(
        code,
        libc::EIO
            | libc::EPIPE
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ENOTCONN
            | libc::ESHUTDOWN
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::ETIMEDOUT
            | libc::ENODEV
    )
}
