//! What the device says: completions, each looked up in the list of the queue that it belongs to.
//!
//! Of a completion its status is looked at before anything else. What was done is known from the list, never from the completion.

use spinwire_layouts::wire::hello::HELLO_BYTES;

use super::link::{CONTROL_RECEIVES, Done, Link, Piece, Sent, Stage};
use super::memory::short;
use super::names::link_of;
use super::out::pieces;
use super::piece::{self, Content, Grant, HEADER_BYTES};
use super::port::RdmaPort;
use crate::error::Fatal;
use crate::id::{OpTag, WrId};
use crate::provider::Status;
use crate::provider::connect::Connects;
use crate::provider::tcp::frame::{FrameFault, Greeting};
use crate::raw::region::Registrar;
use crate::shm::lane::Envelope;
use crate::table::wide;
use crate::verbs::{CompletionQueue, POLL_EACH_MAX, QueuePair, Received, Wc, WcStatus};

/// After so many polls that brought nothing the completion queue is asked whether it is broken.
const EMPTY_POLLS: u32 = 64;
/// Batches of one poll.
const BATCHES: u32 = 8;

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// Takes what the device has completed.
    #[inline(always)]
    pub(super) fn hear(&self) {
        let patience = self.patience.get();
        if patience > 0 {
            self.patience.set(patience.wrapping_sub(1));
            if patience == 1 {
                self.credit_is_late();
            }
        }
        let (mut batches, mut in_vain) = (0_u32, 0_u32);
        loop {
            let count = self.cq.poll_each(|wc| self.take(wc));
            if count == 0 {
                in_vain = in_vain.wrapping_add(1);
                if in_vain < self.config.polls {
                    continue;
                }
                self.is_drained.set(true);
                return self.heard_nothing();
            }
            if count < POLL_EACH_MAX {
                self.is_drained.set(true);
                return;
            }
            batches = batches.wrapping_add(1);
            if batches == BATCHES {
                self.is_drained.set(false);
                return;
            }
        }
    }

    /// The device had nothing: now and then that is because its completion queue is broken.
    #[inline]
    fn heard_nothing(&self) {
        let polls = self.empty_polls.get().wrapping_add(1);
        self.empty_polls.set(polls);
        if polls.is_multiple_of(EMPTY_POLLS)
            && let Some(fatal) = self.cq.take_error()
        {
            self.break_off(fatal);
        }
    }

    /// Completions are lost: every connection is done.
    #[cold]
    fn break_off(&self, fatal: Fatal) {
        self.broken.set(Some(fatal));
        for (at, link) in self.all_links().filter(|(_, link)| link.stage.get() != Stage::Free) {
            self.fail(at, link, fatal);
        }
    }

    /// What is nearly always the receive that comes next on its connection: one comparison tells.
    #[inline(always)]
    fn take(&self, wc: &Wc) {
        let (id, at) = (wc.wr_id(), link_of(wc.wr_id()));
        match self.link(at) {
            Some(link) if link.is_next_receive(id) && link.is_of(wc.qp_num()) => {
                self.take_received((at, link), wc.outcome());
            }
            Some(_) | None => self.take_other(id, wc.qp_num(), wc.outcome().err()),
        }
    }

    /// A completion of anything else.
    #[inline(never)]
    fn take_other(&self, id: WrId, qp_num: u32, failure: Option<(WcStatus, u32)>) {
        let at = link_of(id);
        let link = self.link(at).filter(|link| link.is_of(qp_num));
        let (Some(link), Some((op, _, number))) = (link, id.parts()) else { return self.stray() };
        if link.is_of_another(op, number) {
            self.stray();
        } else if op == OpTag::Send {
            self.take_sent((at, link), number, failure);
        } else if op == OpTag::Recv {
            self.out_of_order(at, link);
        } else {
            self.stray();
        }
    }

    /// A completion that cannot come now.
    #[cold]
    fn out_of_order(&self, at: u32, link: &'m Link<'m, Q>) {
        self.stray();
        self.fail(at, link, Fatal::QueueError);
    }

    /// A completion of nothing that is known.
    #[cold]
    fn stray(&self) {
        self.count(|c| c.strays = c.strays.wrapping_add(1));
    }

    fn take_sent(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        number: u32,
        failure: Option<(WcStatus, u32)>,
    ) {
        if failure.is_some() {
            self.last_error.set(failure);
        }
        let failure = failure.map(|(status, _)| status).inspect(|status| note_error(link, *status));
        let over = |sent: Sent, failure| self.over_with(link, sent, failure);
        if !link.sent(number, failure, over) {
            self.out_of_order(at, link);
        } else if failure.is_some() {
            self.fail(at, link, Fatal::PeerGone);
        }
    }

    /// A send of a link is over: it was done, or has failed like that.
    pub(super) fn over_with(&self, link: &Link<'m, Q>, sent: Sent, failure: Option<WcStatus>) {
        let (wr_id, bytes) = match sent.done {
            Done::Nobody | Done::Known => return,
            Done::Sender(wr_id) => (wr_id, 0),
            Done::Initiator(wr_id, bytes) => (wr_id, bytes),
        };
        self.under_way.set(self.under_way.get().saturating_sub(1));
        let (status, number) = match (failure, sent.done) {
            (None, _) => (Status::Success, bytes),
            (
                Some(error @ (WcStatus::REMOTE_ACCESS | WcStatus::REMOTE_INVALID_REQUEST)),
                Done::Initiator(..),
            ) => (Status::RemoteAccess, u32::from(error.as_raw())),
            (Some(error), _) => (Status::PeerGone, reason(link, error)),
        };
        self.finish_send(wr_id, status, number);
    }

    #[inline(always)]
    fn take_received(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        outcome: Result<Received, (WcStatus, u32)>,
    ) {
        let Some(slot) = link.received() else { return self.out_of_order(at, link) };
        match outcome {
            Err(error) => {
                self.last_error.set(Some(error));
                note_error(link, error.0);
                self.fail(at, link, Fatal::PeerGone);
            }
            Ok(Received { bytes, immediate: Some(beside), is_written: false, .. }) => {
                if let Err(fault) = self.arrive_brief((at, link), slot, bytes, beside) {
                    self.cut(at, link, fault);
                }
            }
            Ok(received) => self.take_piece((at, link), slot, received),
        }
    }

    /// A receive that is no message without a header is over.
    #[inline(never)]
    fn take_piece(&self, (at, link): (u32, &'m Link<'m, Q>), slot: u32, received: Received) {
        // One that has come with a write has brought no piece at all.
        let arrived = match received.immediate {
            Some(_) => Err(FrameFault::Immediate),
            None => self.arrive((at, link), slot, received.bytes),
        };
        if let Err(fault) = arrived {
            self.cut(at, link, fault);
        }
    }

    /// A piece has come.
    fn arrive(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        slot: u32,
        bytes: u32,
    ) -> Result<(), FrameFault> {
        match link.stage.get() {
            Stage::Up => {}
            Stage::Offered | Stage::Accepted => return self.hello((at, link), slot, bytes),
            Stage::Held => {
                // It was not answered, so that it can have nothing else to say.
                self.goodbye(slot, bytes, FrameFault::Overrun)?;
                self.close(at, link);
                return Ok(());
            }
            Stage::Free | Stage::Asked | Stage::Over | Stage::Leaving | Stage::Closing => {
                return Ok(());
            }
        }
        if link.body_left.get() > 0 {
            return self.go_on((at, link), slot, bytes);
        }
        if wide(bytes) < HEADER_BYTES {
            return Err(FrameFault::Length);
        }
        let mut header = [0; HEADER_BYTES];
        self.slots.read(slot, 0, &mut header);
        let (content, grant) = piece::read(&header, link.sequence_in.get())?;
        take_credit(link, grant)?;
        let body = bytes.saturating_sub(short(HEADER_BYTES));
        match content {
            Content::Message { length, envelope } => {
                if length > self.config.message_bytes_max {
                    return Err(FrameFault::Length);
                }
                let room = link.piece_bytes.get().saturating_sub(short(HEADER_BYTES));
                if body != length.min(room) {
                    return Err(FrameFault::Length);
                }
                link.body_left.set(length.saturating_sub(body));
                let pieces = pieces(length, link.piece_bytes.get());
                let start = short(HEADER_BYTES);
                self.keep((at, link), Piece { slot, start, pieces, length, envelope })
            }
            Content::Credit | Content::Goodbye if body != 0 => Err(FrameFault::Length),
            Content::Credit => {
                self.release((at, link), slot, true);
                Ok(())
            }
            Content::Goodbye => {
                self.end(at, link, Fatal::PeerGone);
                Ok(())
            }
        }
    }

    /// A message without a header has come.
    #[inline(always)]
    fn arrive_brief(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        slot: u32,
        length: u32,
        beside: u32,
    ) -> Result<(), FrameFault> {
        let stage = link.stage.get();
        if stage != Stage::Up {
            let is_early = matches!(stage, Stage::Offered | Stage::Accepted | Stage::Held);
            return if is_early { Err(FrameFault::Immediate) } else { Ok(()) };
        }
        if link.body_left.get() > 0 {
            return Err(FrameFault::Immediate);
        }
        if length == 0 || length > self.config.message_bytes_max || length > link.piece_bytes.get()
        {
            return Err(FrameFault::Length);
        }
        take_credit(link, piece::read_brief(beside, link.sequence_in.get())?)?;
        let envelope = Envelope::default();
        self.keep((at, link), Piece { slot, start: 0, pieces: 1, length, envelope })
    }

    /// More of a message.
    fn go_on(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        slot: u32,
        bytes: u32,
    ) -> Result<(), FrameFault> {
        let left = link.body_left.get();
        if bytes != left.min(link.piece_bytes.get()) {
            return Err(FrameFault::Length);
        }
        link.body_left.set(left.saturating_sub(bytes));
        self.keep(
            (at, link),
            Piece { slot, start: 0, pieces: 0, length: 0, envelope: Envelope::default() },
        )
    }

    #[inline(always)]
    fn keep(&self, (at, link): (u32, &'m Link<'m, Q>), piece: Piece) -> Result<(), FrameFault> {
        if !link.arrived.is_empty() && link.arrived.len() >= self.config.slots {
            // It has used receives that are for control.
            return Err(FrameFault::Overrun);
        }
        let kept = link.arrived.push(piece);
        debug_assert!(kept.is_ok(), "there are as many places as receives");
        if link.body_left.get() == 0 {
            self.make_readable(at, link);
        }
        Ok(())
    }

    /// A link has something to read.
    #[inline(always)]
    pub(super) fn make_readable(&self, at: u32, link: &Link<'m, Q>) {
        if !link.is_ready.replace(true) {
            let pushed = self.ready.push(at);
            debug_assert!(pushed.is_ok(), "there is a place for every link");
        }
    }

    /// The receive of a piece is done with.
    #[inline(always)]
    pub(super) fn release(&self, (at, link): (u32, &'m Link<'m, Q>), slot: u32, is_control: bool) {
        link.release(slot, is_control);
        if link.is_much_released() || link.failed.get().is_some() {
            self.soil(at, link);
        }
    }

    /// A goodbye before a hello of this direction, which is not counted. Anything else is that fault.
    fn goodbye(&self, slot: u32, bytes: u32, else_fault: FrameFault) -> Result<(), FrameFault> {
        if wide(bytes) != HEADER_BYTES {
            return Err(else_fault);
        }
        let mut header = [0; HEADER_BYTES];
        self.slots.read(slot, 0, &mut header);
        match piece::read(&header, 0)? {
            (Content::Goodbye, _) => Ok(()),
            (Content::Message { .. } | Content::Credit, _) => Err(else_fault),
        }
    }

    fn hello(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        slot: u32,
        bytes: u32,
    ) -> Result<(), FrameFault> {
        if link.stage.get() == Stage::Offered && wide(bytes) == HEADER_BYTES {
            self.goodbye(slot, bytes, FrameFault::Magic)?;
            self.not_taken(at, link);
            return Ok(());
        }
        if wide(bytes) != HELLO_BYTES {
            return Err(FrameFault::Magic);
        }
        let mut hello = [0; HELLO_BYTES];
        self.slots.read(slot, 0, &mut hello);
        let greeting = Greeting::from_wire(&hello)?;
        self.greeted((at, link), greeting)?;
        self.release((at, link), slot, true);
        Ok(())
    }
}

/// A piece of the next number has come, and what its sender has posted again is credit of this end.
#[inline(always)]
fn take_credit<Q: QueuePair>(link: &Link<'_, Q>, grant: Grant) -> Result<(), FrameFault> {
    link.sequence_in.set(link.sequence_in.get().wrapping_add(1));
    if grant == Grant::default() {
        return Ok(());
    }
    let credit = link.credit.get().checked_add(grant.messages);
    let credit = credit.filter(|credit| *credit <= link.peer_slots.get());
    let control = link.control_credit.get().checked_add(grant.control);
    let control = control.filter(|control| *control <= CONTROL_RECEIVES);
    link.credit.set(credit.ok_or(FrameFault::Credit)?);
    link.control_credit.set(control.ok_or(FrameFault::Credit)?);
    Ok(())
}

/// Why something has failed that ends with that status: what was flushed was so for the sake of the first.
#[cold]
fn reason<Q>(link: &Link<'_, Q>, status: WcStatus) -> u32 {
    let first = link.error.get();
    if status == WcStatus::FLUSHED && first != 0 { first } else { u32::from(status.as_raw()) }
}

/// A work completion has failed with that status. The first stands: those after it are flushed for its sake.
#[cold]
fn note_error<Q>(link: &Link<'_, Q>, status: WcStatus) {
    if link.error.get() == 0 {
        link.error.set(u32::from(status.as_raw()));
    }
}
