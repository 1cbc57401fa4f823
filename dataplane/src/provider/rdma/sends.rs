//! The sends of a connection: staged in the order of a list, handed to the device by one doorbell, and taken off the list as they complete. Of those
//! that nobody waits for only some are signaled.

use super::link::{Aim, CONTROL_RECEIVES, Done, Link, Sent};
use super::piece;
use crate::error::{Fatal, PostError, Retry};
use crate::provider::Published;
use crate::verbs::{QueuePair, Segment, SendFlags, SendRequest, Verb, WcStatus};

impl<Q: QueuePair> Link<'_, Q> {
    /// Whether so many work requests of messages would be taken now.
    #[inline]
    pub(super) fn accepts(&self, pieces: u32) -> Result<(), PostError> {
        if let Some(fatal) = self.failed.get() {
            return Err(fatal.into());
        }
        if pieces > self.credit.get() {
            return Err(Retry::NoCredit.into());
        }
        self.has_room(pieces)
    }

    /// Whether there is room for so many sends besides what control may need.
    #[inline]
    pub(super) const fn has_room(&self, requests: u32) -> Result<(), PostError> {
        // There are at least four times as many places as control may need.
        let room =
            self.depths.sends.wrapping_sub(self.sends.len()).saturating_sub(CONTROL_RECEIVES);
        if requests > room {
            return Err(PostError::Retry(Retry::SqFull));
        }
        Ok(())
    }

    /// The slot of the next send.
    #[inline]
    pub(super) const fn next_slot(&self) -> u32 {
        self.slot_of(self.next_send())
    }

    /// The number of the next send.
    #[inline(always)]
    pub(super) const fn next_send(&self) -> u32 {
        self.oldest_send.get().wrapping_add(self.sends.len())
    }

    /// The slot of the send of that number.
    #[inline(always)]
    pub(super) const fn slot_of(&self, number: u32) -> u32 {
        let place = number & self.depths.sends.wrapping_sub(1);
        self.first_slot.wrapping_add(self.depths.receives).wrapping_add(place)
    }

    /// The number of the next send, and that of the oldest.
    pub(super) const fn numbers(&self) -> (u32, u32) {
        (self.next_send(), self.oldest_send.get())
    }

    /// Whether a message of so many bytes, without tag and immediate, needs no header.
    #[inline]
    pub(super) const fn goes_brief(&self, length: u32) -> bool {
        length.wrapping_sub(1) < self.brief_bytes.get()
    }

    /// Stages a message that needs no header, as the send of that number, which is the next. There is room for it.
    #[inline(always)]
    pub(super) fn stage_brief(
        &self,
        number: u32,
        segment: Segment<Q::Key>,
        done: Done,
    ) -> Result<(), PostError> {
        let beside = piece::write_brief(self.sequence_out.get(), self.grant());
        let what = (Verb::SendImm(beside), Aim::Connected);
        self.stage_as(number, what, &[segment], (done, true))
    }

    /// Of as many as there is room for, four are signaled at least, so that room comes back.
    #[inline]
    fn is_to_be_signaled(&self, done: Done) -> bool {
        let many = self.unsignaled.get().wrapping_add(1) >= self.depths.sends / 4;
        many || done != Done::Nobody
    }

    #[inline]
    fn is_staged(&self, sent: Sent) {
        let pushed = self.sends.push(sent);
        debug_assert!(pushed.is_ok(), "room was checked");
        let unsignaled = self.unsignaled.get().wrapping_add(1);
        self.unsignaled.set(if sent.is_signaled { 0 } else { unsignaled });
        self.staged.set(self.staged.get().wrapping_add(1));
    }

    /// Stages a work request. There is room for it.
    #[inline(always)]
    pub(super) fn stage_send(
        &self,
        what: (Verb, Aim),
        segments: &[Segment<Q::Key>],
        done: (Done, bool),
    ) -> Result<(), PostError> {
        self.stage_as(self.next_send(), what, segments, done)
    }

    /// Stages a work request as the send of that number, which is the next.
    #[inline(always)]
    fn stage_as(
        &self,
        number: u32,
        (verb, aim): (Verb, Aim),
        segments: &[Segment<Q::Key>],
        (done, is_last): (Done, bool),
    ) -> Result<(), PostError> {
        let is_signaled = self.is_to_be_signaled(done);
        let flags = SendFlags { unsignaled: !is_signaled, ..SendFlags::default() };
        let plain = SendRequest::new(self.send_id(number), verb, segments).with(flags);
        let request = match aim {
            Aim::Connected => plain,
            Aim::Memory(place) => plain.at(place),
            Aim::Datagram(to) => plain.to(to),
        };
        self.hand_over(&request)?;
        self.is_staged(Sent { done, is_signaled, is_last });
        Ok(())
    }

    /// Hands what is staged to the device. Returns how many messages it has not taken: then the connection is done.
    #[inline(always)]
    pub(super) fn publish(&self) -> u32 {
        let staged = self.staged.replace(0);
        if staged == 0 {
            return 0;
        }
        let published = self.with_pair(QueuePair::ring_doorbell).unwrap_or_default();
        if published.count >= u64::from(staged) && published.error.is_none() {
            return 0;
        }
        self.not_published(staged, published)
    }

    #[cold]
    fn not_published(&self, staged: u32, published: Published) -> u32 {
        let count = u32::try_from(published.count).unwrap_or(u32::MAX).min(staged);
        self.fail(Fatal::QueueError);
        let left = staged.saturating_sub(count);
        let first = self.sends.len().saturating_sub(left);
        let lost = (first..self.sends.len()).filter_map(|skip| self.sends.peek(skip));
        lost.fold(0, |lost, sent| lost.saturating_add(u32::from(sent.is_last)))
    }

    /// A completion of a send, which has failed with that status if it has. `over` is told of each that it ends. Whether it was one that
    /// may come.
    pub(super) fn sent(
        &self,
        number: u32,
        failure: Option<WcStatus>,
        mut over: impl FnMut(Sent, Option<WcStatus>),
    ) -> bool {
        let skipped = number.wrapping_sub(self.oldest_send.get());
        if skipped >= self.sends.len().saturating_sub(self.staged.get()) {
            return false;
        }
        let left_out = (0..skipped).filter_map(|skip| self.sends.peek(skip));
        if left_out.clone().any(|sent| sent.is_signaled) {
            return false;
        }
        for _ in 0..skipped {
            if let Some(sent) = self.pop_sent() {
                over(sent, None);
            }
        }
        if let Some(sent) = self.pop_sent() {
            over(sent, failure);
        }
        true
    }

    /// Somebody is told when the newest send is over, which was to be told to nobody: nothing comes behind it.
    #[cold]
    pub(super) fn end_with_newest(&self, done: Done) {
        for left in (0..self.sends.len()).rev() {
            let Some(sent) = self.sends.pop() else { return };
            let sent = if left == 0 { Sent { done, is_last: true, ..sent } } else { sent };
            let pushed = self.sends.push(sent);
            debug_assert!(pushed.is_ok(), "one was taken out");
        }
    }

    /// Whether the device may use memory of others for it.
    pub(super) fn has_loans(&self) -> bool {
        let mut all = (0..self.sends.len()).filter_map(|skip| self.sends.peek(skip));
        all.any(|sent| matches!(sent.done, Done::Sender(_) | Done::Initiator(..)))
    }

    pub(super) fn pop_sent(&self) -> Option<Sent> {
        let sent = self.sends.pop()?;
        self.oldest_send.set(self.oldest_send.get().wrapping_add(1));
        Some(sent)
    }

    /// Most receives of the other end that a message may need: however few of them are due and not said to be, there will be credit for it.
    #[inline]
    pub(super) const fn pieces_max(&self) -> u32 {
        let peer = self.peer_slots.get();
        let sure = peer.saturating_sub(peer.div_ceil(4)).saturating_add(1);
        let own = self.depths.sends.saturating_sub(self.depths.sends / 4);
        let own = own.saturating_sub(CONTROL_RECEIVES);
        if sure < own { sure } else { own }
    }
}
