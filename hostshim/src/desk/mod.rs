//! A desk: one operation at a time, for programs that wait for it; and futures, for those that have an executor.
//!
//! ```text
//!   desk.send(to, bytes, wait)      a loan, a post, turns until its completion is there
//!   desk.recv(from, into, wait)         |
//!                                       v
//!   drive()   turn, poll --------> whose is it?
//!                                    waited for ....... to who waits (and wakes its task)
//!                                    given up ......... its buffer goes back to the pool; counted; a message becomes a letter
//!                                    anybody else's ... a letter, for the plane's own loop: next_letter()
//! ```
//!
//! For set-up, tools and services that have time: it allocates, and each wait turns the endpoint until it is over. A plane that
//! counts nanoseconds polls its endpoint itself.
//!
//! *Borrowed slices* are staged through loans of the desk's pool: nothing but the desk ever writes into the caller's memory, and it
//! does so before its call returns. On a timeout the operation is taken back; one that cannot be taken back keeps its loan until it
//! completes, long after the caller has gone on. What it brings then is not lost: it is a letter.
//!
//! *Others' completions* are never consumed. Whatever a wait finds that is not its own is kept, in order, with a copy of its bytes where
//! they lie in a buffer that goes on (a multi-receive).
//!
//! *How it waits* is the caller's: after each turn that found nothing [`Desk::resting`] is called, which may spin, yield, climb an
//! [`IdleLadder`](spinwire_dataplane::poll::IdleLadder), turn other endpoints of the thread, or sleep on a
//! descriptor ([`News`](crate::open::News), from [`Opened::news`](crate::open::Opened::news)). A wait of no time looks once.
//!
//! *Several desks at an endpoint* share one book of who waits for what: whichever of them finds a completion, it goes to its waiter. [`Desk::open`] opens
//! the first, [`Desk::another`] the others; a second book for the same endpoint is refused, because what one of them found would be lost to the
//! other. A loop that polls the endpoint itself, beside a desk that somebody waits at, would take what is waited for: it takes
//! [letters](Desk::next_letter) instead.
//!
//! Invariants: (1) an operation that was given up is known until its completion has come; (2) a completion goes to one place, once.

mod book;
mod error;
#[cfg(feature = "async")]
mod operation;
mod wait;

use core::cell::Cell;
use core::fmt;
use std::rc::Rc;

use spinwire_dataplane::error::{Misuse, PostError, Refused, Retry};
use spinwire_dataplane::id::{Addr, WrId};
use spinwire_dataplane::msg::{Completion, Count, Counted, Endpoint, Kind, RecvFrom, SendTo};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::provider::{Provider, Status};
use spinwire_dataplane::raw::loan::{Loan, LoanPool};
use spinwire_dataplane::time::Instant;

use book::{Book, Stand};
pub use error::{HasDesk, WaitError};
#[cfg(feature = "async")]
pub use operation::Operation;
use wait::Until;
pub use wait::{CancelToken, Wait};

/// Turns within which a receive that was taken back comes back. Providers report it with the next poll; the fault wrapper may hold it.
const LAST_TURNS: u32 = 64;

/// A message that came for a [`Desk::recv`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes of it, all of them in the caller's slice.
    pub length: usize,
    /// Its tag.
    pub tag: Option<u64>,
    /// Its immediate data.
    pub immediate: Option<u64>,
    /// Its sender, where the provider tells. An address of 0 is as good as any other.
    pub source: Option<Addr>,
}

/// A completion that nobody waits for at a desk.
#[derive(Debug)]
pub struct Letter<'m> {
    /// The completion.
    pub completion: Completion<'m>,
    copy: Option<Vec<u8>>,
}

impl Letter<'_> {
    /// The message, or the run of messages: a copy where its buffer went on.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.copy.as_deref().or_else(|| self.completion.bytes())
    }
}

/// What has happened at the desks of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeskCounts {
    /// Waits that ended with their completion.
    pub met: u64,
    /// Operations that were given up and could not be taken back.
    pub given_up: u64,
    /// Of these, the ones whose completion has come since.
    pub late: u64,
    /// Completions that were nobody's here, and became letters.
    pub letters: u64,
}

/// A desk at an endpoint. Belongs to its thread.
pub struct Desk<'e, 'm, P> {
    endpoint: &'e Endpoint<'m, P>,
    buffers: &'m LoanPool<'m>,
    now: Rc<dyn Fn() -> Instant + 'e>,
    rest: Rc<dyn Fn(Outcome) + 'e>,
    book: Rc<Book<'e, 'm>>,
}

impl<P> fmt::Debug for Desk<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("counts", &self.book.counts()).finish_non_exhaustive()
    }
}

impl<'e, 'm, P: Provider> Desk<'e, 'm, P> {
    /// A desk at `endpoint`, with buffers of a pool for what is borrowed, and the clock of the plane. It spins while it waits, and yields the
    /// CPU now and then.
    ///
    /// # Errors
    /// [`HasDesk`] where a desk is open there that knows nothing of this one.
    pub fn open(
        endpoint: &'e Endpoint<'m, P>,
        buffers: &'m LoanPool<'m>,
        now: impl Fn() -> Instant + 'e,
    ) -> Result<Self, HasDesk> {
        let idle = Cell::new(0_u32);
        Ok(Self {
            endpoint,
            buffers,
            now: Rc::new(now),
            rest: Rc::new(move |outcome| {
                idle.set(if outcome.is_busy() { 0 } else { idle.get().wrapping_add(1) });
                if idle.get() % 64 == 63 {
                    std::thread::yield_now()
                } else {
                    core::hint::spin_loop()
                }
            }),
            book: Book::of(endpoint).ok_or(HasDesk)?,
        })
    }

    /// Another desk at the same endpoint, with the same buffers, clock and rest: for another part of the program. Each gets what it waits for, whichever
    /// finds it. Letters and counts are those of all.
    #[must_use]
    pub fn another(&self) -> Self {
        let Self { endpoint, buffers, now, rest, book } = self;
        let (now, rest, book) = (Rc::clone(now), Rc::clone(rest), Rc::clone(book));
        Self { endpoint, buffers, now, rest, book }
    }

    /// The same, resting in its own way after each turn that has not brought what is waited for.
    #[must_use]
    pub fn resting(self, rest: impl Fn(Outcome) + 'e) -> Self {
        Self { rest: Rc::new(rest), ..self }
    }

    /// The endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &'e Endpoint<'m, P> {
        self.endpoint
    }

    /// Sends `bytes`, and waits until the provider is done with them: what that means of their arrival is what a completion of the provider
    /// means. The slice is the caller's at return, whatever comes of it.
    ///
    /// # Errors
    /// [`WaitError`]. After `Timeout` and `Cancelled` the message may still arrive: sends cannot be taken back.
    pub fn send(&self, to: SendTo, bytes: &[u8], wait: Wait<'_>) -> Result<(), WaitError> {
        let too_long = WaitError::Refused(Misuse::TooLong.into());
        let fill = |loan: &mut Loan<'m>| loan.fill(bytes).map_err(|_too_small| too_long);
        let post = |loan| self.endpoint.post_send(to, loan, 0);
        let until = self.until(wait);
        let id = self.post(fill, post, until)?;
        let completion = self.meet(id, until)?;
        completion.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Waits for a message, and copies it to the beginning of `into`.
    ///
    /// # Errors
    /// [`WaitError`]. After `Timeout` and `Cancelled` no message was taken; one that comes later goes to another receive. Where the provider
    /// cannot take the receive back, the message that comes for it later is a [letter](Desk::next_letter).
    pub fn recv(
        &self,
        from: RecvFrom,
        into: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<Received, WaitError> {
        let too_long = WaitError::Refused(Misuse::TooLong.into());
        let fits = |loan: &mut Loan<'m>| {
            if loan.capacity() < into.len() { Err(too_long) } else { Ok(()) }
        };
        let post = |loan| self.endpoint.post_recv(from, loan, 0);
        let until = self.until(wait);
        let id = self.post(fits, post, until)?;
        let completion = self.meet(id, until)?;
        if completion.kind == Kind::Parcel {
            self.book.keep(completion, None);
            return Err(WaitError::Parcel);
        }
        if completion.kind != Kind::Received {
            let failure = completion.failure().ok_or(WaitError::UnknownContext)?;
            return Err(failure.into());
        }
        let bytes = completion.bytes().unwrap_or_default();
        let delivered = bytes.len().min(into.len());
        if let (Some(place), Some(bytes)) = (into.get_mut(..delivered), bytes.get(..delivered)) {
            place.copy_from_slice(bytes);
        }
        if completion.status == Status::Truncated || delivered < bytes.len() {
            return Err(WaitError::Truncated { delivered });
        }
        let Completion { tag, immediate, source, .. } = completion;
        Ok(Received { length: delivered, tag, immediate, source })
    }

    /// Waits for the completion of an operation that was posted at the endpoint itself, by its id. It may have been found by another wait
    /// already. After a timeout the operation goes on, and can be waited for again.
    ///
    /// # Errors
    /// `NoCompletion` where the time is over, `Cancelled`; `UnknownContext` where no such operation is posted or waits among the letters, or
    /// where another wait or future waits for it already.
    pub fn wait(&self, id: WrId, wait: Wait<'_>) -> Result<Completion<'m>, WaitError> {
        if let Some(completion) = self.book.letter_of(id) {
            return Ok(completion);
        }
        if !self.may_be_awaited(id) {
            return Err(WaitError::UnknownContext);
        }
        self.book.await_from_now(id);
        let until = self.until(wait);
        loop {
            let is_over = until.is_over((self.now)());
            let outcome = self.drive();
            if let Some(completion) = self.book.take_here(id) {
                return Ok(completion);
            }
            if let Some(why) = is_over {
                self.book.stands.borrow_mut().remove(&id.as_raw());
                return Err(if why == WaitError::Timeout { WaitError::NoCompletion } else { why });
            }
            (self.rest)(outcome);
        }
    }

    /// Waits until so many operations have ended, well or not.
    ///
    /// # Errors
    /// `Timeout`, `Cancelled`.
    pub fn wait_for_count(
        &self,
        what: Counted,
        ended: u64,
        wait: Wait<'_>,
    ) -> Result<Count, WaitError> {
        let until = self.until(wait);
        loop {
            let is_over = until.is_over((self.now)());
            let outcome = self.drive();
            let count = self.endpoint.count(what);
            if count.done.saturating_add(count.errors) >= ended {
                return Ok(count);
            }
            if let Some(why) = is_over {
                return Err(why);
            }
            (self.rest)(outcome);
        }
    }

    /// The oldest completion that nobody has waited for at any desk of the endpoint: what the plane's own loop works on. It turns nothing.
    #[must_use]
    pub fn next_letter(&self) -> Option<Letter<'m>> {
        self.book.next_letter()
    }

    /// What has happened at the desks of the endpoint.
    #[must_use]
    pub fn counts(&self) -> DeskCounts {
        self.book.counts()
    }

    /// One turn: whatever has completed goes to who waits for it, or becomes a letter. What a loop with futures calls.
    pub fn drive(&self) -> Outcome {
        let outcome = self.endpoint.turn((self.now)(), Budget::DEFAULT);
        while let Some(completion) = self.endpoint.poll() {
            self.book.sort(self.endpoint, completion);
        }
        outcome
    }

    /// Whether an operation is under way for which nobody waits.
    fn may_be_awaited(&self, id: WrId) -> bool {
        self.endpoint.is_posted(id) && !self.book.is_awaited(id)
    }

    fn until<'c>(&self, wait: Wait<'c>) -> Until<'c> {
        wait.from((self.now)())
    }

    /// Lends a buffer and posts it, trying again for as long as that may take.
    fn post(
        &self,
        prepare: impl Fn(&mut Loan<'m>) -> Result<(), WaitError>,
        post: impl Fn(Loan<'m>) -> Result<WrId, Refused<Loan<'m>>>,
        until: Until<'_>,
    ) -> Result<WrId, WaitError> {
        let mut held = None;
        loop {
            let is_over = until.is_over((self.now)());
            if is_over == Some(WaitError::Cancelled) {
                // What nobody wants any more is not begun.
                return Err(WaitError::Cancelled);
            }
            let refusal = match held.take().or_else(|| self.buffers.lend()) {
                Some(mut loan) => {
                    prepare(&mut loan)?;
                    match post(loan) {
                        Ok(id) => {
                            self.book.await_from_now(id);
                            return Ok(id);
                        }
                        Err(Refused { error: error @ PostError::Retry(_), item }) => {
                            held = Some(item);
                            WaitError::Refused(error)
                        }
                        Err(Refused { error, .. }) => return Err(error.into()),
                    }
                }
                None => WaitError::Refused(Retry::PoolFull.into()),
            };
            let outcome = self.drive();
            if let Some(why) = is_over {
                // What was in the way tells more than that the time is over.
                return Err(if why == WaitError::Timeout { refusal } else { why });
            }
            (self.rest)(outcome);
        }
    }

    /// Waits for an operation of the desk's own. The last look is one after the time is over: what was there by then came in time.
    fn meet(&self, id: WrId, until: Until<'_>) -> Result<Completion<'m>, WaitError> {
        loop {
            let is_over = until.is_over((self.now)());
            let outcome = self.drive();
            if let Some(completion) = self.book.take_here(id) {
                return Ok(completion);
            }
            if let Some(why) = is_over {
                return self.give_up(id).ok_or(why);
            }
            (self.rest)(outcome);
        }
    }

    /// Takes an operation back. Where it was done meanwhile that was in time, and its completion is the answer; where it cannot be taken
    /// back it is known until it completes.
    fn give_up(&self, id: WrId) -> Option<Completion<'m>> {
        let taken_back = self.endpoint.cancel(id).is_ok();
        for _ in 0..if taken_back { LAST_TURNS } else { 1 } {
            // What it finds is sorted.
            let _outcome = self.drive();
            if let Some(completion) = self.book.take_here(id) {
                return (completion.status != Status::Cancelled).then_some(completion);
            }
        }
        self.book.stands.borrow_mut().insert(id.as_raw(), Stand::GivenUp);
        self.book.count(|counts| counts.given_up += 1);
        None
    }
}
