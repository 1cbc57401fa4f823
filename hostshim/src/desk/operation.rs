//! An operation as a future. It needs no runtime: whoever calls [`Desk::drive`] wakes it.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use spinwire_dataplane::error::Refused;
use spinwire_dataplane::id::WrId;
use spinwire_dataplane::msg::{Completion, RecvFrom, SendTo};
use spinwire_dataplane::provider::Provider;
use spinwire_dataplane::raw::loan::Loan;

use super::{Desk, Stand, WaitError};

/// An operation that is posted, to be awaited. Dropped before it is over it is taken back, or becomes the desk's until it completes.
#[must_use = "dropping it takes the operation back"]
pub struct Operation<'d, 'e, 'm, P: Provider> {
    desk: &'d Desk<'e, 'm, P>,
    id: WrId,
    has_begun: bool,
    is_over: bool,
}

impl<P: Provider> core::fmt::Debug for Operation<'_, '_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Operation").field("id", &self.id).field("is_over", &self.is_over).finish()
    }
}

impl<P: Provider> Operation<'_, '_, '_, P> {
    /// What it is called at the endpoint.
    #[must_use]
    pub const fn id(&self) -> WrId {
        self.id
    }
}

impl<'m, P: Provider> Future for Operation<'_, '_, 'm, P> {
    type Output = Completion<'m>;

    /// The completion. The buffer is in it. The first look drives the desk once: who drives it otherwise may be asleep, and knows nothing of what was
    /// posted since.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion<'m>> {
        let desk = self.desk;
        if let Some(completion) = desk.book.take_here(self.id) {
            self.is_over = true;
            return Poll::Ready(completion);
        }
        // Wakers are cloned, compared and dropped while nothing is borrowed: what they do is an executor's, and the last one of a task may drop
        // another operation of this desk with it.
        let newest = cx.waker().clone();
        let before = match desk.book.stands.borrow_mut().get_mut(&self.id.as_raw()) {
            Some(Stand::Awaited(waker)) => waker.replace(newest),
            Some(Stand::Here(_) | Stand::GivenUp) | None => None,
        };
        drop(before);
        if !core::mem::replace(&mut self.has_begun, true) {
            // If that brings it, the task is woken, and others come before it.
            let _outcome = desk.drive();
        }
        Poll::Pending
    }
}

impl<P: Provider> Drop for Operation<'_, '_, '_, P> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        match self.desk.book.take_here(self.id) {
            // It was done, and nobody has looked: what came is not lost.
            Some(completion) => self.desk.book.keep(completion, None),
            None => self.desk.abandon(self.id),
        }
    }
}

impl<'e, 'm, P: Provider> Desk<'e, 'm, P> {
    /// Posts the filled part of `loan`, to be awaited.
    ///
    /// # Errors
    /// The loan comes back with the reason. After `Retry` drive the desk, and try again.
    pub fn send_later(
        &self,
        to: SendTo,
        loan: Loan<'m>,
    ) -> Result<Operation<'_, 'e, 'm, P>, Refused<Loan<'m>>> {
        Ok(self.posted(self.endpoint.post_send(to, loan, 0)?))
    }

    /// Posts `loan` to receive one message, to be awaited.
    ///
    /// # Errors
    /// The loan comes back with the reason.
    pub fn recv_later(
        &self,
        from: RecvFrom,
        loan: Loan<'m>,
    ) -> Result<Operation<'_, 'e, 'm, P>, Refused<Loan<'m>>> {
        Ok(self.posted(self.endpoint.post_recv(from, loan, 0)?))
    }

    /// An operation that was posted at the endpoint itself, and that is not over, or is among the letters, to be awaited: a read,
    /// a write, a message of several parts.
    ///
    /// # Errors
    /// `UnknownContext` where there is none, or somebody waits for it already.
    pub fn operation(&self, id: WrId) -> Result<Operation<'_, 'e, 'm, P>, WaitError> {
        if let Some(completion) = self.book.letter_of(id) {
            self.book.stands.borrow_mut().insert(id.as_raw(), Stand::Here(completion));
            return Ok(Operation { desk: self, id, has_begun: false, is_over: false });
        }
        if self.may_be_awaited(id) { Ok(self.posted(id)) } else { Err(WaitError::UnknownContext) }
    }

    fn posted(&self, id: WrId) -> Operation<'_, 'e, 'm, P> {
        self.book.await_from_now(id);
        Operation { desk: self, id, has_begun: false, is_over: false }
    }

    /// Takes an operation back without waiting for that. A message that has come for it is a letter.
    fn abandon(&self, id: WrId) {
        let before = self.book.stands.borrow_mut().insert(id.as_raw(), Stand::GivenUp);
        drop(before);
        if self.endpoint.cancel(id).is_err() {
            self.book.count(|counts| counts.given_up += 1);
        }
    }
}
