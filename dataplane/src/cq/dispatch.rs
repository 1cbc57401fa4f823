//! From a completion to what was posted.
//!
//! ```text
//!   Sent      counter ──> complete_send      ──> Event::Sent { entry, unsignaled }
//!   Received  counter ──> complete_receive   ──> Event::Received { entry }
//!   Failure   counter ──> fail_send          ──> Event::SendFailed { wqe, earlier, failure }      signaled or not
//!                         fail_receive       ──> Event::ReceiveFailed { entry, failure }
//! ```

use core::fmt;
use core::ops::Deref;

use super::entry::{Cqe, Failure, Odd, Plain, Received, Sent, Side, Well};
use super::queue::{Cq, CqCounts, Sink};
use super::table::{QueueTable, TableError};
use crate::raw::mmio::Bus;
use crate::tracker::{Completed, Earlier, Failed, FailedBy, Ordered, Posted, Stale};

/// A queue pair, as a completion queue sees it.
pub trait Queues {
    /// What is posted with a signaled send.
    type Send: Copy;
    /// What is posted with a receive.
    type Receive: Copy;

    /// Its number, 24 bits.
    fn qpn(&self) -> u32;

    /// A send work request is done: see [`Ordered::complete`].
    ///
    /// # Errors
    /// Nothing like that is under way.
    fn complete_send(&self, wqe_counter: u16) -> Result<Completed<Self::Send>, Stale>;

    /// A send work request has failed: see [`Ordered::fail`].
    ///
    /// # Errors
    /// Nothing like that is under way.
    fn fail_send(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<Self::Send>, Stale>;

    /// A receive is done.
    ///
    /// # Errors
    /// Nothing like that is under way.
    fn complete_receive(&self, wqe_counter: u16) -> Result<Self::Receive, Stale>;

    /// A receive has failed.
    ///
    /// # Errors
    /// Nothing like that is under way.
    fn fail_receive(&self, wqe_counter: u16) -> Result<Self::Receive, Stale>;
}

/// What a completion means to a queue pair.
#[derive(Clone, Copy, Debug)]
pub enum Event<'q, S, R> {
    /// A signaled send is done, and so are the unsignaled ones before it.
    Sent {
        /// What was posted with it.
        entry: S,
        /// How many unsignaled ones were before it.
        unsignaled: u16,
        /// The completion.
        cqe: Sent<'q>,
    },
    /// A receive is done.
    Received {
        /// What was posted with it.
        entry: R,
        /// The completion.
        cqe: Received<'q>,
    },
    /// A send has failed, or was flushed. Everything before it has ended, too.
    SendFailed {
        /// Which one; an unsignaled one has no entry.
        wqe: Posted<S>,
        /// What became of the unsignaled ones before it.
        earlier: Earlier,
        /// Why.
        failure: Failure,
    },
    /// A receive has failed, or was flushed.
    ReceiveFailed {
        /// What was posted with it.
        entry: R,
        /// Why.
        failure: Failure,
    },
    /// A completion of a known queue pair that ends nothing. Nothing was changed.
    Stale {
        /// Number of the queue pair.
        qpn: u32,
        /// Of which of its queues.
        side: Side,
        /// What the completion names.
        wqe_counter: u16,
        /// Why it ends nothing.
        why: Stale,
        /// Set where it came with an error: flush the queue pair, it is done.
        failure: Option<Failure>,
    },
    /// A completion of a queue pair that nobody has added, or not any more.
    UnknownQueue {
        /// Its number.
        qpn: u32,
        /// Of which of its queues.
        side: Side,
        /// What the completion names.
        wqe_counter: u16,
        /// Set where it came with an error.
        failure: Option<Failure>,
    },
    /// A completion that makes no sense.
    Odd(Odd),
}

/// The event of any completion of this queue pair.
#[cold]
fn resolve<'q, Q: Queues + ?Sized>(queues: &Q, cqe: &Cqe<'q>) -> Event<'q, Q::Send, Q::Receive> {
    match *cqe {
        Cqe::Sent(sent) => match queues.complete_send(sent.wqe_counter()) {
            Ok(Completed { entry, unsignaled, .. }) => Event::Sent { entry, unsignaled, cqe: sent },
            Err(why) => stale(cqe, why),
        },
        Cqe::Received(received) => match queues.complete_receive(received.wqe_counter()) {
            Ok(entry) => Event::Received { entry, cqe: received },
            Err(why) => stale(cqe, why),
        },
        Cqe::Failed(failure) => failed(queues, failure),
        Cqe::Odd(odd) => Event::Odd(odd),
    }
}

#[cold]
#[inline(never)]
fn failed<Q: Queues + ?Sized>(queues: &Q, failure: Failure) -> Event<'static, Q::Send, Q::Receive> {
    let event = match failure.side {
        Side::Send => queues
            .fail_send(failure.wqe_counter, failure.failed_by())
            .map(|Failed { wqe, earlier, .. }| Event::SendFailed { wqe, earlier, failure }),
        Side::Receive => queues
            .fail_receive(failure.wqe_counter)
            .map(|entry| Event::ReceiveFailed { entry, failure }),
    };
    event.unwrap_or_else(|why| stale(&Cqe::Failed(failure), why))
}

/// Side, counter and error of a completion; `None` of an odd one.
const fn parts(cqe: &Cqe<'_>) -> Option<(Side, u16, Option<Failure>)> {
    match cqe {
        Cqe::Sent(cqe) => Some((Side::Send, cqe.wqe_counter(), None)),
        Cqe::Received(cqe) => Some((Side::Receive, cqe.wqe_counter(), None)),
        Cqe::Failed(failure) => Some((failure.side, failure.wqe_counter, Some(*failure))),
        Cqe::Odd(_) => None,
    }
}

#[cold]
#[inline(never)]
const fn stale<S, R>(cqe: &Cqe<'_>, why: Stale) -> Event<'static, S, R> {
    match (parts(cqe), cqe) {
        (Some((side, wqe_counter, failure)), _) => {
            Event::Stale { qpn: qpn_of(cqe), side, wqe_counter, why, failure }
        }
        (None, _) => unknown(cqe),
    }
}

const fn qpn_of(cqe: &Cqe<'_>) -> u32 {
    match cqe {
        Cqe::Sent(cqe) => cqe.qpn(),
        Cqe::Received(cqe) => cqe.qpn(),
        Cqe::Failed(failure) => failure.qpn,
        Cqe::Odd(odd) => odd.qpn,
    }
}

#[cold]
#[inline(never)]
const fn unknown<S, R>(cqe: &Cqe<'_>) -> Event<'static, S, R> {
    match (parts(cqe), cqe) {
        (Some((side, wqe_counter, failure)), _) => {
            Event::UnknownQueue { qpn: qpn_of(cqe), side, wqe_counter, failure }
        }
        (None, Cqe::Odd(odd)) => Event::Odd(*odd),
        (None, _) => Event::Odd(Odd { op_own: 0, qpn: qpn_of(cqe), wqe_counter: 0 }),
    }
}

/// A completion queue for queue pairs of one type, with one closure for all of them, which is compiled into the poll.
pub struct MonoCq<'m, B, H> {
    cq: Cq<'m, B>,
    queues: QueueTable<'m, H>,
}

impl<'m, B: Bus, H: Deref<Target: Queues>> MonoCq<'m, B, H> {
    /// Of a queue, and a table for the queue pairs that complete into it.
    #[must_use]
    pub const fn new(cq: Cq<'m, B>, queues: QueueTable<'m, H>) -> Self {
        Self { cq, queues }
    }

    /// The queue.
    #[must_use]
    pub const fn cq(&self) -> &Cq<'m, B> {
        &self.cq
    }

    /// What was seen and should not be.
    #[must_use]
    pub const fn counts(&self) -> CqCounts {
        self.cq.counts()
    }

    /// Adds a queue pair.
    ///
    /// # Errors
    /// Hands it back with the reason.
    pub fn add(&self, queue: H) -> Result<(), (TableError, H)> {
        self.queues.insert(queue.qpn(), queue)
    }

    /// Takes the queue pair of that number out. What still completes for it is then of an unknown queue.
    pub fn remove(&self, qpn: u32) -> Option<H> {
        self.queues.remove(qpn)
    }

    /// Hands the events of up to `budget` completions to `each`. Says how many there were.
    #[inline(always)]
    pub fn poll(
        &self,
        budget: u32,
        each: impl FnMut(Event<'_, <H::Target as Queues>::Send, <H::Target as Queues>::Receive>),
    ) -> u32 {
        self.cq.poll_into(budget, &mut Resolver { of: self, each })
    }
}

/// Makes events of completions: those that are well here, the others out of the way.
struct Resolver<'a, 'm, B, H, F> {
    of: &'a MonoCq<'m, B, H>,
    each: F,
}

impl<B, H, F> Sink for Resolver<'_, '_, B, H, F>
where
    B: Bus,
    H: Deref<Target: Queues>,
    F: FnMut(Event<'_, <H::Target as Queues>::Send, <H::Target as Queues>::Receive>),
{
    #[inline(always)]
    fn take_plain(&mut self, plain: Plain<'_>) {
        let (queues, counter) = (&self.of.queues, plain.wqe_counter());
        match plain.well() {
            Well::Sent(cqe) => {
                let ended = queues.with(plain.qpn(), |queue| queue.complete_send(counter));
                if let Some(Ok(Completed { entry, unsignaled, .. })) = ended {
                    return (self.each)(Event::Sent { entry, unsignaled, cqe });
                }
            }
            Well::Received(cqe) => {
                let ended = queues.with(plain.qpn(), |queue| queue.complete_receive(counter));
                if let Some(Ok(entry)) = ended {
                    return (self.each)(Event::Received { entry, cqe });
                }
            }
        }
        self.take(plain.cqe());
    }

    /// What has failed or was refused. A refusal has changed nothing, so asking again gives the reason.
    #[cold]
    #[inline(never)]
    fn take(&mut self, cqe: Cqe<'_>) {
        let event = self.of.queues.with(qpn_of(&cqe), |queue| resolve(queue, &cqe));
        let event = event.unwrap_or_else(|| unknown(&cqe));
        match event {
            Event::Stale { .. } => self.of.cq.count_stale(),
            Event::UnknownQueue { .. } => self.of.cq.count_unknown(),
            Event::Sent { .. }
            | Event::Received { .. }
            | Event::SendFailed { .. }
            | Event::ReceiveFailed { .. }
            | Event::Odd(_) => {}
        }
        (self.each)(event);
    }
}

/// Whether a completion ended something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handled {
    /// It did.
    Ended,
    /// Nothing like that is under way.
    Stale,
}

/// A queue pair with what is to be done with its completions, whatever their types are.
pub trait Target {
    /// Number of the queue pair.
    fn qpn(&self) -> u32;

    /// Deals with a completion of it.
    fn complete(&self, cqe: &Cqe<'_>) -> Handled;

    /// Deals with one that is well. By default as with any other.
    fn complete_plain(&self, plain: Plain<'_>) -> Handled {
        self.complete(&plain.cqe())
    }
}

/// A queue pair and its handler.
pub struct Routed<Q, F> {
    queues: Q,
    handler: F,
}

impl<Q, F> Routed<Q, F>
where
    Q: Deref<Target: Queues>,
    F: Fn(Event<'_, <Q::Target as Queues>::Send, <Q::Target as Queues>::Receive>),
{
    /// Sends the events of `queues` to `handler`.
    pub const fn new(queues: Q, handler: F) -> Self {
        Self { queues, handler }
    }

    /// The queue pair.
    pub const fn queues(&self) -> &Q {
        &self.queues
    }
}

impl<Q, F> Target for Routed<Q, F>
where
    Q: Deref<Target: Queues>,
    F: Fn(Event<'_, <Q::Target as Queues>::Send, <Q::Target as Queues>::Receive>),
{
    fn qpn(&self) -> u32 {
        self.queues.qpn()
    }

    /// What has failed or was refused. A refusal has changed nothing, so asking again gives the reason.
    #[cold]
    #[inline(never)]
    fn complete(&self, cqe: &Cqe<'_>) -> Handled {
        let event = resolve(&*self.queues, cqe);
        let stale = matches!(event, Event::Stale { .. });
        (self.handler)(event);
        if stale { Handled::Stale } else { Handled::Ended }
    }

    #[inline]
    fn complete_plain(&self, plain: Plain<'_>) -> Handled {
        let counter = plain.wqe_counter();
        match plain.well() {
            Well::Sent(cqe) => {
                if let Ok(Completed { entry, unsignaled, .. }) = self.queues.complete_send(counter)
                {
                    (self.handler)(Event::Sent { entry, unsignaled, cqe });
                    return Handled::Ended;
                }
            }
            Well::Received(cqe) => {
                if let Ok(entry) = self.queues.complete_receive(counter) {
                    (self.handler)(Event::Received { entry, cqe });
                    return Handled::Ended;
                }
            }
        }
        self.complete(&plain.cqe())
    }
}

impl<Q, F> fmt::Debug for Routed<Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").finish_non_exhaustive()
    }
}

/// A completion queue for queue pairs of any types, each with a handler of its own. `H` leads to a [`Target`]: `&dyn Target`, or
/// an `Rc` of one.
pub struct GeneralCq<'m, B, H> {
    cq: Cq<'m, B>,
    targets: QueueTable<'m, H>,
}

impl<'m, B: Bus, H: Deref<Target: Target>> GeneralCq<'m, B, H> {
    /// Of a queue, and a table for the queue pairs that complete into it.
    #[must_use]
    pub const fn new(cq: Cq<'m, B>, targets: QueueTable<'m, H>) -> Self {
        Self { cq, targets }
    }

    /// The queue.
    #[must_use]
    pub const fn cq(&self) -> &Cq<'m, B> {
        &self.cq
    }

    /// What was seen and should not be.
    #[must_use]
    pub const fn counts(&self) -> CqCounts {
        self.cq.counts()
    }

    /// Adds a queue pair with its handler.
    ///
    /// # Errors
    /// Hands it back with the reason.
    pub fn add(&self, target: H) -> Result<(), (TableError, H)> {
        self.targets.insert(target.qpn(), target)
    }

    /// Takes the queue pair of that number out. What still completes for it is then of an unknown queue.
    pub fn remove(&self, qpn: u32) -> Option<H> {
        self.targets.remove(qpn)
    }

    /// Hands up to `budget` completions to the handlers of their queue pairs, and what has none to `stray`, which sees only
    /// [`Event::UnknownQueue`] and [`Event::Odd`]. Says how many there were.
    #[inline]
    pub fn poll(&self, budget: u32, stray: impl FnMut(Event<'_, (), ()>)) -> u32 {
        self.cq.poll_into(budget, &mut Router { of: self, stray })
    }
}

/// Hands completions to whom they belong.
struct Router<'a, 'm, B, H, F> {
    of: &'a GeneralCq<'m, B, H>,
    stray: F,
}

impl<B, H, F> Sink for Router<'_, '_, B, H, F>
where
    B: Bus,
    H: Deref<Target: Target>,
    F: FnMut(Event<'_, (), ()>),
{
    #[inline(always)]
    fn take_plain(&mut self, plain: Plain<'_>) {
        let handled = self.of.targets.with(plain.qpn(), |target| target.complete_plain(plain));
        if handled != Some(Handled::Ended) {
            self.take_rest(plain.cqe(), handled);
        }
    }

    #[cold]
    #[inline(never)]
    fn take(&mut self, cqe: Cqe<'_>) {
        let handled = match cqe {
            Cqe::Odd(_) => None,
            Cqe::Sent(_) | Cqe::Received(_) | Cqe::Failed(_) => {
                self.of.targets.with(qpn_of(&cqe), |target| target.complete(&cqe))
            }
        };
        if handled != Some(Handled::Ended) {
            self.take_rest(cqe, handled);
        }
    }
}

impl<B, H, F> Router<'_, '_, B, H, F>
where
    B: Bus,
    H: Deref<Target: Target>,
    F: FnMut(Event<'_, (), ()>),
{
    #[cold]
    #[inline(never)]
    fn take_rest(&mut self, cqe: Cqe<'_>, handled: Option<Handled>) {
        let cq = &self.of.cq;
        if handled == Some(Handled::Stale) {
            return cq.count_stale();
        }
        if !matches!(cqe, Cqe::Odd(_)) {
            cq.count_unknown();
        }
        (self.stray)(unknown(&cqe));
    }
}

/// The two trackers of a queue pair, and nothing else of it.
#[derive(Debug)]
pub struct Tracked<'m, S: Copy, R: Copy> {
    /// Number of the queue pair.
    pub qpn: u32,
    /// Of the send queue.
    pub send: Ordered<'m, S>,
    /// Of the receive queue, whose work requests are one row each.
    pub receive: Ordered<'m, R>,
}

impl<S: Copy, R: Copy> Queues for Tracked<'_, S, R> {
    type Send = S;
    type Receive = R;

    #[inline(always)]
    fn qpn(&self) -> u32 {
        self.qpn
    }

    #[inline(always)]
    fn complete_send(&self, wqe_counter: u16) -> Result<Completed<S>, Stale> {
        self.send.complete(wqe_counter)
    }

    fn fail_send(&self, wqe_counter: u16, by: FailedBy) -> Result<Failed<S>, Stale> {
        self.send.fail(wqe_counter, by)
    }

    #[inline(always)]
    fn complete_receive(&self, wqe_counter: u16) -> Result<R, Stale> {
        self.receive.complete(wqe_counter).map(|completed| completed.entry)
    }

    fn fail_receive(&self, wqe_counter: u16) -> Result<R, Stale> {
        match self.receive.fail(wqe_counter, FailedBy::Itself)?.wqe {
            Posted::Signaled(entry) => Ok(entry),
            Posted::Unsignaled | Posted::Fill => Err(Stale::Unsignaled),
        }
    }
}

macro_rules! opaque_debug {
    ($($name:ident)+) => {$(
        impl<B, H> fmt::Debug for $name<'_, B, H> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("cq", &self.cq).finish_non_exhaustive()
            }
        }
    )+};
}

opaque_debug!(MonoCq GeneralCq);
