//! The endpoint: messages with owned buffers, contexts and generations, over any provider.
//!
//! ```text
//!   post_send(to, loan, context) --> context table --> provider           the loan is the provider's
//!                                        |                |
//!   poll() <-- Completion{context, loan} +<-- completion -+               the loan is yours again
//! ```
//!
//! Every post takes a row of the context table and names it by slot and generation. A completion that names a row which was
//! given up since is stale: it is counted and reported as [`Event::StaleCompletion`], and matches nothing.
//!
//! Invariants: (1) a loan is in the context table from the successful post to the completion that gives it back; (2) a row is
//! freed exactly once, by that completion; (3) while a reader looks at a part of a posted buffer, the buffer is not given
//! back.

mod one_sided;
mod parcels;
mod parts;
mod post;
mod posted;
mod reading;

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;

use heapless::VecView;

pub use self::one_sided::Exposed;
use self::one_sided::filled_without_message;
use self::parts::Further;
pub use self::parts::{PARTS_MAX, Parts};
use self::posted::Table;
use self::reading::{Polled, Unfinished};
use super::parcel::{Desk, Parcel};
use super::totals::{Count, Counted, Tally, Totals, add};
use super::{Completion, Kind, RecvFrom};
use crate::error::{Misuse, PostError};
use crate::id::{Addr, Name, OpTag, WrId};
use crate::poll::{Armed, Budget, Outcome, Poll, WakeSource};
use crate::provider::{Buffer, Caps, Cqe, Event, Info, Provider, Sight, Status, Waiting};

use crate::raw::loan::Loan;
use crate::raw::place::{Bump, Exhausted};
use crate::sync::AtomicU64;
use crate::table::{Ring, Slab};
use crate::time::Instant;
use spinwire_layouts::word::{from_usize, low, to_usize, widen};

/// Completions taken from the provider at once.
pub const BATCH_MAX: usize = 64;
/// Messages of several parts that may be posted, or whose parts were not taken back yet, at once.
pub const FURTHER_MAX: u32 = 16;
/// Stale completions that are kept for [`Endpoint::poll_event`]; more are counted only.
const STALE_KEPT: u32 = 16;
/// The operation tag of sends, in place.
const SEND_TAG: u64 = OpTag::Send.as_raw();

/// How much an endpoint holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointConfig {
    /// Operations that may be posted at once, sends and receives together.
    pub contexts_max: u32,
}

impl Default for EndpointConfig {
    /// 1280: 256 sends and 1024 receives.
    fn default() -> Self {
        Self { contexts_max: 1280 }
    }
}

/// What the provider holds. It goes back to the pools with the endpoint, unless something uses it even then.
struct Held<'m, T>(Slab<'m, T>);

impl<T> Held<'_, T> {
    /// Never gives back what it has.
    fn forget(&self) {
        for key in self.0.keys() {
            let _kept = self.0.remove(key).map(ManuallyDrop::new);
        }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        for key in self.0.keys() {
            drop(self.0.remove(key));
        }
    }
}

/// An endpoint of which somebody takes all completions, until this is dropped: [`Endpoint::claim`]. One that is forgotten is never given back, whatever the
/// endpoint is moved to, and says nothing of any other endpoint.
#[derive(Debug)]
pub struct Claimed<'e>(&'e Cell<bool>);

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// An endpoint over the provider `P`. Belongs to one thread.
pub struct Endpoint<'m, P> {
    /// Dropped before the loans that it was posted: until then they are its own.
    provider: P,
    /// Whether something may use them even afterwards.
    lingers: fn(&P) -> bool,
    posted: Table<'m>,
    /// Completions of the last harvest; out of the cell only while the provider fills it.
    batch: Cell<Option<&'m mut VecView<Cqe>>>,
    /// How many there are.
    harvested: Cell<usize>,
    /// How many of them the caller has had.
    taken: Cell<usize>,
    /// Up to where he may have them in this turn.
    batch_end: Cell<usize>,
    /// How many messages will have been received when the budget of this turn allows no more straight from the provider. None are now, while the
    /// caller has not had those of the batch, or somebody reads.
    direct_until: Cell<u64>,
    /// How many it will allow then.
    direct_then: Cell<u32>,
    /// Who looks at parts of posted buffers now, further up the stack.
    readers: Cell<u32>,
    stale: Ring<'m, WrId>,
    /// The buffers but the first of messages of several parts.
    further: Held<'m, Further<'m>>,
    /// Where parcels are given up.
    desk: Desk<'m>,
    totals: Tally,
    /// Somebody takes all completions, for others too.
    is_claimed: Cell<bool>,
}

impl<P> Drop for Endpoint<'_, P> {
    fn drop(&mut self) {
        if (self.lingers)(&self.provider) {
            self.posted.forget();
            self.further.forget();
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for Endpoint<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("provider", &self.provider)
            .field("posted", &self.posted.len())
            .finish_non_exhaustive()
    }
}

impl<'m, P: Provider> Endpoint<'m, P> {
    /// An endpoint over `provider`, its tables placed in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn new(provider: P, bump: &Bump<'m>, config: &EndpointConfig) -> Result<Self, Exhausted> {
        let contexts = config.contexts_max;
        let info = provider.info();
        let senders = if info.caps.has(Caps::PARCEL) { info.limits.peers_max } else { 0 };
        let of_parts = info.caps.has(Caps::GATHER) || info.caps.has(Caps::SCATTER);
        let further = if of_parts { contexts.min(FURTHER_MAX) } else { 0 };
        let batch: &'m mut VecView<Cqe> =
            bump.value(heapless::Vec::<Cqe, BATCH_MAX>::new())?.as_mut_view();
        Ok(Self {
            provider,
            lingers: P::lingers,
            posted: Table::place(bump, contexts)?,
            batch: Cell::new(Some(batch)),
            harvested: Cell::new(0),
            taken: Cell::new(0),
            batch_end: Cell::new(0),
            direct_until: Cell::new(0),
            direct_then: Cell::new(0),
            readers: Cell::new(0),
            stale: Ring::place(bump, STALE_KEPT, WrId::from_raw(0))?,
            further: Held(Slab::place(bump, further)?),
            desk: Desk::place(bump, senders)?,
            totals: Tally::default(),
            is_claimed: Cell::new(false),
        })
    }

    /// The provider below.
    #[must_use]
    pub const fn provider(&self) -> &P {
        &self.provider
    }

    /// What this endpoint is and can do.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.provider.info()
    }

    /// The address of the peer of that name; see [`Provider::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        self.provider.connect(name)
    }

    /// The name of the peer at an address; see [`Provider::name_of`].
    ///
    /// # Errors
    /// As there.
    pub fn name_of(&self, peer: Addr) -> Result<Option<Name>, Misuse> {
        self.provider.name_of(peer)
    }

    /// Takes a peer out of the address table.
    ///
    /// # Errors
    /// As [`Provider::disconnect`].
    pub fn disconnect(&self, peer: Addr) -> Result<(), PostError> {
        Ok(self.provider.disconnect(peer)?)
    }

    /// The oldest message that waits for a receive and would be taken by this one. It is left where it is. To claim it (`FI_CLAIM`), post a
    /// receive for its source and its tag: of that sender it is the first that such a receive takes, whatever comes meanwhile.
    #[must_use]
    pub fn peek(&self, RecvFrom { from, select }: RecvFrom) -> Option<Waiting> {
        self.provider.peek(from, select)
    }

    /// Takes as many completions from the provider as there is room for.
    #[inline(never)]
    fn harvest(&self, now: Instant) -> Outcome {
        let Some(batch) = self.batch.take() else { return Outcome::Idle };
        batch.clear();
        self.taken.set(0);
        self.batch_end.set(0);
        self.provider.poll_cq(now, batch);
        self.harvested.set(batch.len());
        self.batch.set(Some(batch));
        if self.harvested.get() > 0 { Outcome::Busy } else { Outcome::Idle }
    }

    /// Publishes what was posted, without waiting for the next turn.
    #[inline(always)]
    pub fn flush(&self) {
        let published = self.provider.ring_doorbell();
        if published.count > 0 {
            add(&self.totals.batches_published, 1);
        }
        // Last: an answer is not to wait until this CPU has the line that this is written into.
        if self.desk.has_some() {
            self.desk.clear(|source, numbers| self.provider.settle(source, numbers));
        }
    }

    /// The next completion, if any: of the last harvest, or of a message that the last turn saw. At most as many a turn as
    /// its budget allows.
    #[inline(always)]
    pub fn poll(&self) -> Option<Completion<'m>> {
        match self.poll_any() {
            Polled::One(completion) => Some(completion),
            Polled::Nothing => None,
        }
    }

    /// [`poll`](Self::poll), with an answer of its own: see [`Polled`].
    #[inline(always)]
    fn poll_any(&self) -> Polled<'m> {
        // Each way to its own end, so that what is known of a completion on the one is not asked again, and what only the other needs is not
        // kept.
        while !self.may_go_direct() {
            if self.taken.get() >= self.batch_end.get() {
                if self.readers.get() > 0 {
                    return Polled::apart(self.poll_while_reading());
                }
                if self.direct_then.get() == 0 {
                    return Polled::Nothing;
                }
                self.go_direct(self.direct_then.replace(0));
                break;
            }
            // Out of its cell for as long as the first of it is looked at, which nothing of that asks for.
            let Some(batch) = self.batch.take() else { return Polled::Nothing };
            let first = batch.get(self.taken.replace(self.taken.get().wrapping_add(1)));
            let concluded = match first {
                Some(cqe) if cqe.status != Status::Success => {
                    let cqe = *cqe;
                    self.batch.set(Some(batch));
                    match self.poll_other(&cqe) {
                        Ok(found) => return Polled::apart(found),
                        Err(_stale) => continue,
                    }
                }
                Some(cqe) => self.conclude(cqe).map_err(|why| (why, cqe.wr_id)),
                None => Err((Unfinished::BeingRead, WrId::from_raw(0))),
            };
            self.batch.set(Some(batch));
            match concluded {
                Ok(completion) => return Polled::One(completion),
                Err((Unfinished::Stale, wr_id)) => self.note_stale(wr_id, true),
                Err((Unfinished::BeingRead, _)) => {
                    self.taken.set(self.taken.get().wrapping_sub(1));
                    return Polled::Nothing;
                }
            }
        }
        loop {
            let Some(cqe) = self.provider.take_ready() else {
                let Some(cqe) = self.provider.take_ready_parcel() else { return Polled::Nothing };
                return Polled::apart(self.poll_parcel(&cqe, false));
            };
            debug_assert_eq!(self.readers.get(), 0, "a reader has taken the budget of this way");
            match self.conclude_unread(&cqe) {
                // Counted, which is all that the budget asks for.
                Ok(completion) => return Polled::One(completion),
                Err(_stale) => self.note_stale(cqe.wr_id, false),
            }
        }
    }

    /// From now on the caller may have so many completions, straight from the provider where nobody reads and none of the batch is left.
    #[inline(always)]
    fn allow(&self, completions: u32) {
        if self.readers.get() == 0 && self.taken.get() >= self.harvested.get() {
            self.direct_then.set(0);
            self.go_direct(completions);
        } else {
            self.allow_of_batch(completions);
        }
    }

    /// So many, from the next one on, are straight from the provider.
    #[inline(always)]
    fn go_direct(&self, completions: u32) {
        let received = self.totals.messages_received.get();
        self.direct_until.set(received.wrapping_add(widen(completions)));
    }

    /// Whether the next completion is one straight from the provider.
    #[inline(always)]
    const fn may_go_direct(&self) -> bool {
        self.totals.messages_received.get() < self.direct_until.get()
    }

    /// [`allow`](Self::allow) where some of the batch are left, which come first, or somebody reads.
    #[inline]
    fn allow_of_batch(&self, completions: u32) {
        let taken = self.taken.get();
        let left = self.harvested.get().saturating_sub(taken);
        let of_batch = left.min(to_usize(widen(completions)));
        self.batch_end.set(taken.wrapping_add(of_batch));
        self.direct_until.set(0);
        self.direct_then.set(completions.saturating_sub(low(from_usize(of_batch))));
    }

    /// Makes the caller's completion of the provider's. Frees the row where the operation is over.
    #[inline(always)]
    fn conclude(&self, cqe: &Cqe) -> Result<Completion<'m>, Unfinished> {
        if self.readers.get() > 0 && self.may_be_read(cqe) {
            return Err(Unfinished::BeingRead);
        }
        self.conclude_unread(cqe)
    }

    /// Whether a completion would give back a buffer that somebody may be looking at.
    #[cold]
    fn may_be_read(&self, cqe: &Cqe) -> bool {
        let row = self.posted.find(cqe.wr_id);
        cqe.buffer == Buffer::Returned && row.is_some_and(|row| row.reported() > 0)
    }

    /// [`conclude`](Self::conclude) where nobody looks at a part of a posted buffer.
    #[inline(always)]
    fn conclude_unread(&self, cqe: &Cqe) -> Result<Completion<'m>, Unfinished> {
        // Either looks for the row itself, so that what a provider knows of the buffer is known here, too, where it is inlined.
        let find = || self.posted.find(cqe.wr_id).ok_or(Unfinished::Stale);
        let (kind, context, loan) = match cqe.buffer {
            Buffer::Returned => {
                let row = find()?;
                let posted = self.posted.end(row).ok_or(Unfinished::Stale)?;
                let (kind, filled) = self.count_ended(cqe);
                (kind, row.context.get(), Some(posted.complete_to(filled)))
            }
            Buffer::StillPosted => {
                let row = find()?;
                row.whole().ok_or(Unfinished::Stale)?;
                let (kind, filled) = self.count_ended(cqe);
                if kind == Kind::Received {
                    row.report(filled.unwrap_or(0));
                }
                (kind, row.context.get(), None)
            }
        };
        Ok(completion_of(cqe, (kind, context), (loan, None)))
    }

    /// Counts a completion of a live operation. Returns what it is about, and how many bytes of its buffer count now; `None` where that stays.
    #[inline(always)]
    fn count_ended(&self, cqe: &Cqe) -> (Kind, Option<u32>) {
        if cqe.source.is_some() {
            if cqe.count == 1 {
                add(&self.totals.messages_received, 1);
                add(&self.totals.bytes_received, u64::from(cqe.length));
            } else {
                self.count_run(cqe.count, cqe.length);
            }
            return (Kind::Received, Some(end_of(cqe)));
        }
        if cqe.wr_id.as_raw() >> 56 == SEND_TAG {
            add(&self.totals.sends_ended, 1);
            if cqe.status != Status::Success {
                add(&self.totals.sends_failed, 1);
            }
            return (Kind::Sent, None);
        }
        (self.kind_without_message(cqe), filled_without_message(cqe))
    }

    /// Counts the messages of a run.
    #[inline]
    fn count_run(&self, count: u32, length: u32) {
        let count = u64::from(count);
        add(&self.totals.messages_received, count);
        add(&self.totals.bytes_received, u64::from(length).wrapping_mul(count));
    }

    #[cold]
    fn note_stale(&self, wr_id: WrId, is_batched: bool) {
        add(&self.totals.stale_ids, 1);
        // Where the ring is full the count has to do.
        let _kept = self.stale.push(wr_id).is_ok();
        // It was nothing that the caller has had.
        if is_batched && self.batch_end.get() < self.harvested.get() {
            self.batch_end.set(self.batch_end.get().wrapping_add(1));
        }
    }

    /// Shows the message of a completion to `look`, wherever it lies: in the loan that came with it, or in the buffer of a
    /// multi-receive that goes on. `None` where there is none, or the buffer has been given back since. Of a buffer that is posted nothing is
    /// shown but what this endpoint has reported of it, whatever the completion says.
    #[inline(always)]
    pub fn read<R>(&self, completion: &Completion<'m>, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if let Some(bytes) = completion.bytes() {
            return Some(look(bytes));
        }
        let row = self.posted.find(completion.id)?;
        let sge = row.whole()?;
        let extent = completion.extent();
        if u32::try_from(completion.offset.checked_add(extent)?).ok()? > row.reported() {
            return None;
        }
        let _reader = self.reader();
        Some(look(sge.completed_part(completion.offset, extent)?))
    }

    /// The next event, if any: peers that came and went, completions that named nothing.
    #[inline]
    pub fn poll_event(&self) -> Option<Event> {
        match self.stale.pop() {
            Some(wr_id) => Some(Event::StaleCompletion(wr_id)),
            None => self.provider.poll_event(),
        }
    }

    /// Whether an operation of that id is posted, and its completion was not had.
    #[must_use]
    pub fn is_posted(&self, id: WrId) -> bool {
        self.posted.find(id).is_some_and(|row| row.whole().is_some())
    }

    /// Operations that are posted. Takes as long as there can be many: a look at each row of the table.
    #[must_use]
    pub fn posted_count(&self) -> u32 {
        self.posted.len()
    }

    /// How much of that has ended since the endpoint was made, well and otherwise: a counter of `fi_cntr(3)`, read like a variable.
    #[must_use]
    pub const fn count(&self, what: Counted) -> Count {
        self.totals.count(what)
    }

    /// For whoever takes all completions and hands each to who waits for it: there can be one such. `None` where there is one. It binds nobody who does not ask.
    #[must_use]
    pub const fn claim(&self) -> Option<Claimed<'_>> {
        if self.is_claimed.replace(true) { None } else { Some(Claimed(&self.is_claimed)) }
    }

    /// Totals since the endpoint was made.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals.snapshot()
    }
}

/// Bytes from the beginning of the buffer to the end of the last message of a completion. Where that is nonsense, it is no more than a
/// number: nobody is shown bytes that the buffer has not.
#[inline(always)]
const fn end_of(cqe: &Cqe) -> u32 {
    let end = cqe.offset.wrapping_add(cqe.length);
    if cqe.count > 1 { end.wrapping_add(before_last(cqe)) } else { end }
}

/// Bytes from the start of the first message of a run to that of the last.
#[inline(always)]
const fn before_last(cqe: &Cqe) -> u32 {
    let stride = cqe.length.wrapping_add(7) & !7;
    cqe.count.wrapping_sub(1).wrapping_mul(stride)
}

/// The caller's completion of the provider's: with what the endpoint knows of it, and what comes back.
#[inline(always)]
fn completion_of<'m>(
    cqe: &Cqe,
    (kind, context): (Kind, u64),
    (loan, parcel): (Option<Loan<'m>>, Option<Parcel<'m>>),
) -> Completion<'m> {
    Completion {
        id: cqe.wr_id,
        context,
        kind,
        status: cqe.status,
        length: to_usize(widen(cqe.length)),
        offset: to_usize(widen(cqe.offset)),
        count: cqe.count,
        tag: cqe.tag,
        immediate: cqe.immediate,
        source: cqe.source,
        loan,
        parcel,
    }
}

impl<P: WakeSource> WakeSource for Endpoint<'_, P> {
    fn arm(&self) -> Armed {
        self.provider.arm()
    }

    fn look_over(&self) {
        self.provider.look_over();
    }

    fn disarm(&self) {
        self.provider.disarm();
    }

    fn bell(&self) -> Option<&AtomicU64> {
        self.provider.bell()
    }
}

impl<P: Provider> Poll for Endpoint<'_, P> {
    /// Looks for completions if the last ones were all taken, and publishes what was posted.
    #[inline(always)]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        let outcome = if self.taken.get() < self.harvested.get() {
            Outcome::Busy
        } else {
            match self.provider.look() {
                Sight::Nothing => Outcome::Idle,
                Sight::Ready => Outcome::Busy,
                Sight::Work => self.harvest(now),
            }
        };
        if outcome.is_busy() {
            self.allow(budget.completions);
        } else {
            // There is nothing, neither by a batch nor straight.
            self.direct_until.set(0);
            self.direct_then.set(0);
        }
        self.flush();
        match outcome {
            Outcome::Busy => add(&self.totals.turns_busy, 1),
            Outcome::Idle => add(&self.totals.turns_idle, 1),
        }
        outcome
    }

    fn poll_at(&self) -> Option<Instant> {
        self.provider.poll_at()
    }
}
