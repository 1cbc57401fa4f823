//! Posting: sends and receives.

use super::posted::Place;
use super::{Endpoint, add};
use crate::error::{PostError, Refused, Retry};
use crate::id::{OpTag, WrId};
use crate::msg::totals::Tally;
use crate::msg::{RecvFrom, SendTo};
use crate::provider::{CancelError, Payload, Provider, RecvWr, SendWr, Use};
use crate::raw::loan::{Loan, Posted};

impl<'m, P: Provider> Endpoint<'m, P> {
    /// Sends a copy of `bytes`; the slice is the caller's again at return, and there is no completion. Goes out with the
    /// next [`turn`](crate::poll::Poll::turn) or [`Endpoint::flush`].
    ///
    /// # Errors
    /// [`PostError`]; nothing was consumed.
    #[inline(always)]
    pub fn inject(&self, to: SendTo, bytes: &[u8]) -> Result<(), PostError> {
        let SendTo { peer, tag, immediate } = to;
        let wr = SendWr { to: peer, payload: Payload::Inject(bytes), tag, immediate };
        // Before, and taken back where it was refused: so the length need not be kept until then, for which there is no register.
        self.count_sent(bytes.len());
        self.provider.post_send(&wr).map_err(|refused| self.not_injected(refused, bytes.len()))
    }

    /// A message was counted, and not taken.
    #[cold]
    fn not_injected(&self, refused: PostError, length: usize) -> PostError {
        let Tally { messages_sent, bytes_sent, .. } = &self.totals;
        messages_sent.set(messages_sent.get().wrapping_sub(1));
        bytes_sent.set(bytes_sent.get().wrapping_sub(widen_length(length)));
        self.refused(refused)
    }

    /// Sends the filled part of `loan`. The loan comes back with the completion, beside `context`.
    ///
    /// # Errors
    /// The loan comes back with the reason.
    pub fn post_send(
        &self,
        to: SendTo,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        let length = loan.len();
        let SendTo { peer, tag, immediate } = to;
        let place = self.post_at(OpTag::Send, loan, context, |provider, wr_id, posted| {
            let payload = Payload::Posted { wr_id, sge: posted.filled() };
            provider.post_send(&SendWr { to: peer, payload, tag, immediate })
        })?;
        place.keep_tag(tag);
        self.count_sent(length);
        Ok(place.id)
    }

    /// Posts `loan` to receive one message.
    ///
    /// # Errors
    /// The loan comes back with the reason.
    #[inline]
    pub fn post_recv(
        &self,
        from: RecvFrom,
        loan: Loan<'m>,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_recv_for(from, loan, context, Use::Single)
    }

    /// Posts `loan` to receive one message after the other, until fewer than `room_bytes_min` are free in it. Each message
    /// is a [`Completion`](crate::msg::Completion) of its own; the last one brings the loan back. Look at the others with [`Endpoint::read`].
    ///
    /// # Errors
    /// The loan comes back with the reason.
    #[inline]
    pub fn post_multi_recv(
        &self,
        from: RecvFrom,
        loan: Loan<'m>,
        room_bytes_min: u32,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_recv_for(from, loan, context, Use::Multi { room_bytes_min })
    }

    /// Like [`Endpoint::post_multi_recv`], for streams: a run of messages of one sender with the same length and tag may
    /// come as one completion with their count. Look at them with [`Endpoint::read`] and [`Completion::messages`](crate::msg::Completion::messages).
    ///
    /// # Errors
    /// The loan comes back with the reason.
    #[inline]
    pub fn post_run_recv(
        &self,
        from: RecvFrom,
        loan: Loan<'m>,
        room_bytes_min: u32,
        context: u64,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_recv_for(from, loan, context, Use::Runs { room_bytes_min })
    }

    #[inline(always)]
    fn post_recv_for(
        &self,
        RecvFrom { from, select }: RecvFrom,
        loan: Loan<'m>,
        context: u64,
        buffer: Use,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post(OpTag::Recv, loan, context, |provider, wr_id, posted| {
            provider.post_recv(&RecvWr { wr_id, sge: posted.whole(), from, select, buffer })
        })
    }

    #[inline(always)]
    pub(super) fn post(
        &self,
        op: OpTag,
        loan: Loan<'m>,
        context: u64,
        hand_over: impl FnOnce(&P, WrId, &Posted<'m>) -> Result<(), PostError>,
    ) -> Result<WrId, Refused<Loan<'m>>> {
        self.post_at(op, loan, context, hand_over).map(|place| place.id)
    }

    /// [`post`](Self::post), and where it is kept.
    #[inline(always)]
    pub(super) fn post_at(
        &self,
        op: OpTag,
        loan: Loan<'m>,
        context: u64,
        hand_over: impl FnOnce(&P, WrId, &Posted<'m>) -> Result<(), PostError>,
    ) -> Result<Place<'m>, Refused<Loan<'m>>> {
        let Some(place) = self.posted.next_place(op, context) else {
            return Err(Refused::new(self.refused(Retry::NoSlot.into()), loan));
        };
        let wr_id = place.id;
        let posted = loan.post();
        if let Err(refused) = hand_over(&self.provider, wr_id, &posted) {
            return Err(Refused::new(self.refused(refused), posted.complete(None)));
        }
        self.posted.take_place(place, posted);
        Ok(place)
    }

    /// Takes back a posted receive. Its loan comes back with a completion of status `Cancelled`.
    ///
    /// # Errors
    /// [`CancelError`] where it has completed already, or cannot be taken back.
    pub fn cancel(&self, id: WrId) -> Result<(), CancelError> {
        self.provider.cancel(id)
    }

    #[cold]
    pub(in crate::msg) fn refused(&self, error: PostError) -> PostError {
        if let PostError::Retry(_) = error {
            add(&self.totals.retries, 1);
        }
        error
    }

    #[inline(always)]
    pub(in crate::msg) fn count_sent(&self, length: usize) {
        add(&self.totals.messages_sent, 1);
        add(&self.totals.bytes_sent, widen_length(length));
    }
}

/// A length as it is counted.
#[inline(always)]
fn widen_length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(0)
}
