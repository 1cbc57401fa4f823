//! Messages into pieces, and credit.
//!
//! ```text
//!   short, or not of the arena     copy -> slot, slot ..         one send each; what fits into a work request goes within it
//!   long, of the arena of loans    header -> slot, and the buffer itself      gathered by the device; done when it says so
//! ```
//!
//! A message that is one piece, and has neither tag nor immediate, has no header: its credit goes beside it.

use super::link::{Aim, CONTROL_RECEIVES, Done, Link, Stage};
use super::memory::short;
use super::piece::{self, Content, HEADER_BYTES};
use super::port::RdmaPort;
use crate::error::{Misuse, PostError, Retry};
use crate::id::Addr;
use crate::provider::connect::Connects;
use crate::provider::peers::Standing;
use crate::provider::{Payload, SendWr, Status};
use crate::raw::region::Registrar;
use crate::shm::lane::Envelope;
use crate::table::wide;
use crate::verbs::{CompletionQueue, QueuePair, Segment, Verb};

/// Bytes of a header, as a length of a segment.
const HEADER: u32 = {
    assert!(HEADER_BYTES == 32, "a length is told to devices in 32 bits");
    32
};

/// Looks for which credit waits for a message that takes it along.
const PATIENCE_LOOKS: u32 = 16;

/// Pieces of a message.
#[inline]
pub(super) const fn pieces(length: u32, piece_bytes: u32) -> u32 {
    let beyond = length.saturating_sub(piece_bytes.saturating_sub(HEADER));
    let more = if beyond == 0 {
        0
    } else {
        beyond.div_ceil(if piece_bytes == 0 { 1 } else { piece_bytes })
    };
    more.saturating_add(1)
}

impl<'m, Q: QueuePair, C: CompletionQueue, X: Registrar> RdmaPort<'m, Q, C, X> {
    /// Stages a message on a link that is up. Nothing is consumed where it does not go whole.
    #[inline]
    pub(super) fn stage(
        &self,
        to: (u32, &'m Link<'m, Q>),
        wr: &SendWr<'_>,
        bytes: &[u8],
    ) -> Result<(), PostError> {
        let length = short(bytes.len());
        let is_bare = wr.tag.is_none() && wr.immediate.is_none();
        if is_bare && to.1.goes_brief(length) {
            self.stage_brief(to, &wr.payload, (bytes, length))
        } else {
            self.stage_message(to, wr, length)
        }
    }

    /// Stages a copy of a message that goes without a header, to a peer that is connected, as most are. Whether it was such a one, and was taken:
    /// else nothing has happened, and the long way says why. A function of its own, as the other two of a lone message are: inlined into
    /// the loop that calls them they were slower where it was measured (`benches/README.md`).
    #[inline(never)]
    pub(super) fn inject_brief(&self, to: Addr, bytes: &[u8]) -> bool {
        let Ok(row) = self.peers.find(to) else { return false };
        let at = row.link.get();
        let Some(link) = self.link(at) else { return false };
        let length = short(bytes.len());
        row.state.standing() == Standing::Up
            && link.goes_brief(length)
            && link.accepts(1).is_ok()
            && self.copy_brief((at, link), (bytes, length)).is_ok()
    }

    /// Stages a message that goes without a header.
    fn stage_brief(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        payload: &Payload<'_>,
        (bytes, length): (&[u8], u32),
    ) -> Result<(), PostError> {
        link.accepts(1)?;
        if let Some((segment, done)) = self.uncopied(payload, length) {
            if let Err(refused) = link.stage_brief(link.next_send(), segment, done) {
                return self.refused((at, link), refused, (true, done));
            }
            self.brief_is_staged(at, link);
            self.goes_uncopied();
            return Ok(());
        }
        if let Err(refused) = self.copy_brief((at, link), (bytes, length)) {
            return self.refused((at, link), refused, (true, Done::Nobody));
        }
        if let Payload::Posted { wr_id, .. } = payload {
            self.finish_send(*wr_id, Status::Success, 0);
        }
        Ok(())
    }

    /// Copies a message that goes without a header into the slot of the next send, and stages that. There is room for it.
    #[inline(always)]
    fn copy_brief(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        (bytes, length): (&[u8], u32),
    ) -> Result<(), PostError> {
        // Before the copy: behind it nothing is known of what is in memory.
        let number = link.next_send();
        let slot = link.slot_of(number);
        let segment = self.slots.segment(slot, length);
        self.slots.write(slot, 0, bytes);
        link.stage_brief(number, segment, Done::Nobody)?;
        self.brief_is_staged(at, link);
        Ok(())
    }

    /// A message without a header was staged.
    #[inline(always)]
    fn brief_is_staged(&self, at: u32, link: &Link<'m, Q>) {
        self.spend(link);
        link.credit.set(link.credit.get().wrapping_sub(1));
        self.soil(at, link);
    }

    /// Stages a message with a header.
    #[inline(never)]
    fn stage_message(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        wr: &SendWr<'_>,
        length: u32,
    ) -> Result<(), PostError> {
        self.admit(link, length)?;
        let content = Content::Message {
            length,
            envelope: Envelope { tag: wr.tag, immediate: wr.immediate },
        };
        if let Some((segment, done)) = self.uncopied(&wr.payload, length) {
            self.send_pieces((at, link), content, (&[], Some(segment)), done)?;
            self.goes_uncopied();
            return Ok(());
        }
        let bytes = wr.payload.bytes();
        self.send_pieces((at, link), content, (bytes, None), Done::Nobody)?;
        if let Payload::Posted { wr_id, .. } = wr.payload {
            self.finish_send(wr_id, Status::Success, 0);
        }
        Ok(())
    }

    /// Where a message of so many bytes lies, if it is sent from there.
    #[inline]
    fn uncopied(&self, payload: &Payload<'_>, length: u32) -> Option<(Segment<Q::Key>, Done)> {
        let Payload::Posted { wr_id, sge } = payload else { return None };
        if length < self.config.uncopied_bytes_min {
            return None;
        }
        let (address, length, key) = self.loans?.posted(sge)?;
        Some((Segment { address, length, key }, Done::Sender(*wr_id)))
    }

    fn goes_uncopied(&self) {
        self.under_way.set(self.under_way.get().saturating_add(1));
        self.count(|c| c.uncopied = c.uncopied.wrapping_add(1));
    }

    /// Whether a message of so many bytes would be taken now: its pieces, for all of which there is room.
    #[inline]
    pub(super) fn admit(&self, link: &Link<'m, Q>, length: u32) -> Result<u32, PostError> {
        let pieces = pieces(length, link.piece_bytes.get());
        if length > link.longest.get() || pieces > link.pieces_max() {
            return Err(Misuse::TooLong.into());
        }
        link.accepts(pieces)?;
        Ok(pieces)
    }

    /// All pieces of a message, copied from `bytes` or gathered from `whole`. There is room for them.
    #[inline]
    fn send_pieces(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        content: Content,
        (mut bytes, whole): (&[u8], Option<Segment<Q::Key>>),
        done: Done,
    ) -> Result<(), PostError> {
        let piece = link.piece_bytes.get();
        let mut rest = whole;
        let (mut length, mut room) = (HEADER, piece.saturating_sub(HEADER));
        let mut at_start = Some(content);
        loop {
            let slot = link.next_slot();
            let mut start = 0;
            if let Some(content) = at_start {
                let grant = link.grant();
                self.slots.write(slot, 0, &piece::write(link.sequence_out.get(), content, grant));
                start = HEADER_BYTES;
            }
            let own;
            let both;
            let segments: &[Segment<Q::Key>] = if let Some(segment) = rest {
                let here = segment.length.min(room);
                let body = Segment { length: here, ..segment };
                let address = segment.address.wrapping_add(u64::from(here));
                let left = segment.length.saturating_sub(here);
                rest = Some(Segment { address, length: left, ..segment });
                if at_start.is_some() {
                    both = [self.slots.segment(slot, HEADER), body];
                    &both
                } else {
                    own = [body];
                    &own
                }
            } else {
                let here = bytes.len().min(wide(room));
                let (copied, left) = bytes.split_at_checked(here).unwrap_or_default();
                self.slots.write(slot, start, copied);
                length = length.saturating_add(short(here));
                bytes = left;
                own = [self.slots.segment(slot, length)];
                &own
            };
            let is_last = bytes.is_empty() && rest.is_none_or(|segment| segment.length == 0);
            let told = if is_last { done } else { Done::Nobody };
            if let Err(refused) =
                link.stage_send((Verb::Send, Aim::Connected), segments, (told, is_last))
            {
                return self.refused((at, link), refused, (at_start.is_some(), done));
            }
            if at_start.take().is_some() {
                self.spend(link);
            }
            link.credit.set(link.credit.get().saturating_sub(1));
            if is_last {
                self.soil(at, link);
                return Ok(());
            }
            (length, room) = (0, piece);
        }
    }

    /// The queue pair does not take a piece. Where a part of the message was staged, the connection cannot go on. The device may gather
    /// what is staged from the buffer until the queue pair is destroyed: such a send counts as posted, and fails with the connection.
    #[cold]
    pub(super) fn refused(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        refused: PostError,
        (is_first, done): (bool, Done),
    ) -> Result<(), PostError> {
        match refused {
            PostError::Retry(_) if is_first => return Err(refused),
            PostError::Retry(_) | PostError::Fatal(_) | PostError::Misuse(_) => {}
        }
        self.fail(at, link, crate::error::Fatal::QueueError);
        if is_first || done == Done::Nobody {
            return Err(crate::error::Fatal::QueueError.into());
        }
        link.end_with_newest(done);
        self.soil(at, link);
        Ok(())
    }

    /// A header was staged: its number is used, and the other end is told of what was due.
    #[inline]
    pub(super) fn spend(&self, link: &Link<'m, Q>) {
        link.sequence_out.set(link.sequence_out.get().wrapping_add(1));
        link.due.set((0, 0));
        link.was_due.set(false);
    }

    /// A link has something for the next doorbell.
    #[inline]
    pub(super) fn soil(&self, at: u32, link: &Link<'m, Q>) {
        if !link.is_dirty.replace(true) {
            let pushed = self.dirty.push(at);
            debug_assert!(pushed.is_ok(), "there is a place for every link");
        }
    }

    /// Stages a piece of control. One receive for control is kept for the goodbye.
    pub(super) fn say(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        content: Content,
    ) -> Result<(), PostError> {
        let is_goodbye = content == Content::Goodbye;
        // Nor is it where receives for control are given back: else two ends with one left each would wait for each other.
        let kept = if is_goodbye || link.due.get().1 > 0 { 0 } else { 1 };
        let header = piece::write(link.sequence_out.get(), content, link.grant());
        self.say_bytes((at, link), &header, (kept, is_goodbye))?;
        self.spend(link);
        Ok(())
    }

    pub(super) fn say_bytes(
        &self,
        (at, link): (u32, &'m Link<'m, Q>),
        bytes: &[u8],
        (kept, is_known): (u32, bool),
    ) -> Result<(), PostError> {
        if let Some(fatal) = link.failed.get() {
            return Err(fatal.into());
        }
        // Behind a goodbye nothing comes, so that it may take a receive for messages.
        let may = link.control_credit.get() > kept || is_known && link.credit.get() > 0;
        if !may || link.sends.is_full() {
            return Err(Retry::NoCredit.into());
        }
        let slot = link.next_slot();
        self.slots.write(slot, 0, bytes);
        let segments = [self.slots.segment(slot, short(bytes.len()))];
        let done = if is_known { Done::Known } else { Done::Nobody };
        link.stage_send((Verb::Send, Aim::Connected), &segments, (done, false))?;
        link.control_credit.set(link.control_credit.get().saturating_sub(1));
        self.soil(at, link);
        Ok(())
    }

    /// What follows when messages have gone, where there is anything: receives that were released, and credit.
    #[inline(always)]
    fn look_after(&self, at: u32, link: &'m Link<'m, Q>) -> u32 {
        // Not one after the other: all of it is rare.
        let has_any = link.is_much_released() | link.is_much_due() | link.failed.get().is_some();
        if has_any { self.do_what_follows(at, link) } else { 0 }
    }

    #[cold]
    #[inline(never)]
    fn do_what_follows(&self, at: u32, link: &'m Link<'m, Q>) -> u32 {
        let mut lost = 0;
        if link.is_much_released() || link.is_much_due() {
            self.give_credit(at, link);
            lost = link.publish();
        }
        if link.failed.get().is_some() {
            self.fail(at, link, crate::error::Fatal::QueueError);
        }
        lost
    }

    /// Tells the other end what is due, where that is much: with its next message if that comes soon, for who answers what has come takes
    /// it along.
    pub(super) fn give_credit(&self, at: u32, link: &'m Link<'m, Q>) {
        if link.stage.get() != Stage::Up {
            return;
        }
        link.publish_receives(&self.slots);
        if link.failed.get().is_some() {
            self.fail(at, link, crate::error::Fatal::QueueError);
            return;
        }
        if !link.is_much_due() {
            return;
        }
        if !link.was_due.replace(true) {
            self.patience.set(PATIENCE_LOOKS);
        }
        let is_awaited = self.patience.get() > 0 && !link.is_most_due();
        if !is_awaited && self.say((at, link), Content::Credit).is_err() {
            self.soil(at, link);
        }
    }

    /// No message has taken along what was due for so many looks: it goes alone.
    #[cold]
    pub(super) fn credit_is_late(&self) {
        let owed = |link: &Link<'m, Q>| link.was_due.get() && link.stage.get() == Stage::Up;
        for (at, link) in self.all_links().filter(|(_, link)| owed(link)) {
            self.soil(at, link);
        }
    }

    /// Hands everything that is staged to the device. Returns how many messages were not taken.
    #[inline(never)]
    pub(super) fn publish(&self) -> u32 {
        match self.dirty.pop_lone() {
            Some(at) => self.publish_on(at),
            None => self.publish_all(),
        }
    }

    #[inline(never)]
    fn publish_all(&self) -> u32 {
        (0..self.dirty.len()).fold(0, |lost, _| match self.dirty.pop() {
            Some(at) => lost.saturating_add(self.publish_on(at)),
            None => lost,
        })
    }

    /// The same for one link, which was taken from the dirty ones.
    #[inline(always)]
    fn publish_on(&self, at: u32) -> u32 {
        let Some(link) = self.link(at) else { return 0 };
        link.is_dirty.set(false);
        // Who waits for what was sent does not wait for receives to be posted.
        let lost = link.publish();
        lost.saturating_add(self.look_after(at, link))
    }
}

const _: () =
    assert!(CONTROL_RECEIVES >= 4, "hello, goodbye, and credit that is under way in turn");
