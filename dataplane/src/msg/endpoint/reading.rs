//! Looks at parts of posted buffers, and completions that come meanwhile.
//!
//! While anybody looks, further up the stack, no buffer is given back in which something was reported: whoever looks at a part looks at one of
//! those. Nearly always nobody does. So that this need not be asked of every completion, a look takes what is left of the budget away from
//! the way on which it is not asked, and [`Endpoint::poll_while_reading`] goes that way instead.
//!
//! Invariant: while there are readers, `direct_until` allows nothing.

use core::cell::Cell;

use super::posted::Row;
use super::{Endpoint, completion_of};
use crate::id::OpTag;
use crate::msg::{Completion, Kind, Parcel};
use crate::provider::{Cqe, Provider, Status};
use crate::raw::loan::Loan;
use spinwire_layouts::word::low;

/// Why a provider's completion is not the caller's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// It named no live operation.
    Stale,
    /// Later: its buffer may be being read, or the caller holds as many parcels as there can be.
    BeingRead,
}

/// A completion that took a way of its own, in pieces: a function that is not inlined leaves it in memory, and all others are to stay in registers
/// where it joins them.
pub(super) struct Apart<'m> {
    pub(super) cqe: Cqe,
    pub(super) kind: Kind,
    pub(super) context: u64,
    pub(super) loan: Option<Loan<'m>>,
    pub(super) parcel: Option<Parcel<'m>>,
}

impl<'m> Apart<'m> {
    #[inline(always)]
    pub(super) fn whole(self) -> Completion<'m> {
        completion_of(&self.cqe, (self.kind, self.context), (self.loan, self.parcel))
    }
}

/// What a poll has found, with a tag of its own.
///
/// An `Option<Completion>` has none: there the tag of the message says also whether there is a completion. The compiler then joins the ways that end with
/// one to those that end without, and asks once, behind them all. For that it carries what the last completion was through each way without one, around
/// the loops of the caller: three registers that nobody reads, with eight instructions more for each message. From this it tells them apart at their ends.
#[repr(u8)]
pub(super) enum Polled<'m> {
    /// No completion that is the caller's now.
    Nothing,
    /// This one.
    One(Completion<'m>),
}

impl<'m> Polled<'m> {
    /// The same of one that took a way of its own. (As a `match`: `map_or` is not seen through, and everything goes by memory.)
    #[inline(always)]
    pub(super) fn apart(found: Option<Apart<'m>>) -> Self {
        match found {
            Some(apart) => Self::One(apart.whole()),
            None => Self::Nothing,
        }
    }
}

/// Keeps buffers from being given back for as long as somebody looks at a part of one.
pub(super) struct Reader<'r>(&'r Cell<u32>);

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl<'m, P: Provider> Endpoint<'m, P> {
    /// Somebody looks, until this is dropped.
    #[inline(always)]
    pub(super) fn reader(&self) -> Reader<'_> {
        if self.may_go_direct() {
            self.direct_then.set(self.left_directly());
            self.direct_until.set(0);
        }
        self.readers.set(self.readers.get().saturating_add(1));
        Reader(&self.readers)
    }

    /// [`Endpoint::poll`] while somebody looks, where nothing is left of the batch that he may have.
    #[cold]
    #[inline(never)]
    pub(super) fn poll_while_reading(&self) -> Option<Apart<'m>> {
        while self.direct_then.get() > 0 && self.taken.get() >= self.harvested.get() {
            let Some(cqe) = self.provider.take_ready() else {
                let cqe = self.provider.take_ready_parcel()?;
                return self.poll_parcel(&cqe, false);
            };
            match self.conclude(&cqe) {
                Ok(Completion { kind, context, loan, parcel, .. }) => {
                    self.direct_then.set(self.direct_then.get().saturating_sub(1));
                    return Some(Apart { cqe, kind, context, loan, parcel });
                }
                Err(Unfinished::Stale) => self.note_stale(cqe.wr_id, false),
                Err(Unfinished::BeingRead) => {
                    self.keep_for_later(&cqe);
                    return None;
                }
            }
        }
        None
    }

    /// [`Endpoint::poll`] for what did not end as asked, or is a parcel, and was taken from the batch. `None` where it is not the caller's, or is later.
    ///
    /// # Errors
    /// `Stale`, which was noted: there may be others.
    #[cold]
    #[inline(never)]
    pub(super) fn poll_other(&self, cqe: &Cqe) -> Result<Option<Apart<'m>>, Unfinished> {
        if cqe.status == Status::Parcel {
            return Ok(self.poll_parcel(cqe, true));
        }
        match self.conclude_other(cqe) {
            Ok(apart) => Ok(Some(apart)),
            Err(Unfinished::Stale) => {
                self.note_stale(cqe.wr_id, true);
                Err(Unfinished::Stale)
            }
            Err(Unfinished::BeingRead) => {
                self.taken.set(self.taken.get().wrapping_sub(1));
                Ok(None)
            }
        }
    }

    /// [`conclude`](Endpoint::conclude) for what did not end as asked. No provider keeps the tag of a send: it is in the row.
    fn conclude_other(&self, cqe: &Cqe) -> Result<Apart<'m>, Unfinished> {
        let is_send = matches!(cqe.wr_id.parts(), Some((OpTag::Send, ..)));
        let row = if is_send { self.posted.find(cqe.wr_id) } else { None };
        let tag = row.map_or(cqe.tag, Row::tag);
        let Completion { kind, context, loan, parcel, .. } = self.conclude(cqe)?;
        Ok(Apart { cqe: Cqe { tag, ..*cqe }, kind, context, loan, parcel })
    }

    /// How many more completions the budget of this turn allows straight from the provider, now or when nobody reads any more.
    const fn left_directly(&self) -> u32 {
        let until = self.direct_until.get();
        let now = low(until.saturating_sub(self.totals.messages_received.get()));
        now.saturating_add(self.direct_then.get())
    }

    /// A completion that was taken straight from the provider is the only one of a batch now.
    #[cold]
    pub(super) fn keep_for_later(&self, cqe: &Cqe) {
        if let Some(batch) = self.batch.take() {
            batch.clear();
            let kept = batch.push(*cqe);
            debug_assert!(kept.is_ok(), "an empty batch has room");
            self.taken.set(0);
            self.harvested.set(batch.len());
            self.batch.set(Some(batch));
            self.allow(self.left_directly());
        }
    }
}
