//! Messages of several parts: sent out of several buffers, received into several.
//!
//! The first buffer is posted like any other, and comes back as the loan of the completion. The others wait beside it, under the same id,
//! and are put back together with it by [`Endpoint::take_parts`]: so completions of all other messages know nothing of this.
//!
//! Invariant: a set of further buffers is in the table from the post until it is taken, which is not before the operation has completed.

use heapless::Vec;

use super::Endpoint;
use super::posted::Place;
use crate::error::{Misuse, PostError, Refused, Retry};
use crate::id::{OpTag, WrId};
use crate::msg::matching::RANGES_MAX;
use crate::msg::{Completion, Kind, RecvFrom, SendTo};
use crate::provider::{Caps, Provider, RecvPartsWr, SendPartsWr, Sge};
use crate::raw::loan::{Loan, Posted};
use crate::table::Key;
use spinwire_layouts::word::{from_usize, low};

/// Buffers of one message at most.
pub const PARTS_MAX: usize = RANGES_MAX;

/// The buffers of one message, in their order, [`PARTS_MAX`] at most.
#[derive(Debug, Default)]
pub struct Parts<'m>(Vec<Loan<'m>, PARTS_MAX>);

impl<'m> Parts<'m> {
    /// These buffers. What is more than [`PARTS_MAX`] goes back to its pool.
    #[must_use]
    pub fn of(loans: impl IntoIterator<Item = Loan<'m>>) -> Self {
        Self(all_of(loans.into_iter()))
    }

    /// Bytes that count, of all of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).fold(0, usize::saturating_add)
    }

    /// Whether no byte counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffers.
    pub fn iter(&self) -> impl Iterator<Item = &Loan<'m>> {
        self.0.iter()
    }

    /// The buffers one by one.
    pub fn into_loans(self) -> impl Iterator<Item = Loan<'m>> {
        self.0.into_iter()
    }
}

/// The first [`PARTS_MAX`] of them; more are dropped.
fn all_of<T>(items: impl Iterator<Item = T>) -> Vec<T, PARTS_MAX> {
    let mut all = Vec::new();
    for item in items {
        if all.push(item).is_err() {
            break;
        }
    }
    all
}

/// All buffers of an operation but the first, while the provider has them.
pub(super) struct Further<'m> {
    id: WrId,
    is_send: bool,
    posted: Vec<Posted<'m>, PARTS_MAX>,
}

impl<'m, P: Provider> Endpoint<'m, P> {
    /// Sends the filled parts of several buffers as one message, and leaves `parts` empty. The first comes back with the completion; give
    /// that to [`take_parts`](Endpoint::take_parts), which has the others.
    ///
    /// # Errors
    /// `parts` are as they were: `Unsupported` without [`Caps::GATHER`], or where there are more of them than
    /// [`sge_max`](crate::provider::Limits::sge_max); `BadRange` where there are none.
    pub fn post_sendv(
        &self,
        to: SendTo,
        parts: &mut Parts<'m>,
        context: u64,
    ) -> Result<WrId, PostError> {
        let length = parts.len();
        let SendTo { peer, tag, immediate } = to;
        let place = self.post_parts(OpTag::Send, parts, context, |provider, wr_id, parts| {
            provider.post_send_parts(&SendPartsWr { wr_id, to: peer, parts, tag, immediate })
        })?;
        place.keep_tag(tag);
        self.count_sent(length);
        Ok(place.id)
    }

    /// Posts several buffers to receive one message, which fills one after the other, and leaves `parts` empty. The first comes back with
    /// the completion, whose [`length`](Completion::length) is that of the whole message; give that to
    /// [`take_parts`](Endpoint::take_parts), which has the others.
    ///
    /// # Errors
    /// `parts` are as they were: `Unsupported` without [`Caps::SCATTER`], or where there are more of them than
    /// [`sge_max`](crate::provider::Limits::sge_max); `BadRange` where there are none.
    pub fn post_recvv(
        &self,
        RecvFrom { from, select }: RecvFrom,
        parts: &mut Parts<'m>,
        context: u64,
    ) -> Result<WrId, PostError> {
        let place = self.post_parts(OpTag::Recv, parts, context, |provider, wr_id, parts| {
            provider.post_recv_parts(&RecvPartsWr { wr_id, parts, from, select })
        })?;
        Ok(place.id)
    }

    fn post_parts(
        &self,
        op: OpTag,
        parts: &mut Parts<'m>,
        context: u64,
        hand_over: impl FnOnce(&P, WrId, &[Sge]) -> Result<(), PostError>,
    ) -> Result<Place<'m>, PostError> {
        let is_send = op == OpTag::Send;
        let info = self.provider.info();
        let needed = if is_send { Caps::GATHER } else { Caps::SCATTER };
        if parts.0.is_empty() {
            return Err(Misuse::BadRange.into());
        }
        if !info.caps.has(needed) || low(from_usize(parts.0.len())) > info.limits.sge_max {
            return Err(Misuse::Unsupported.into());
        }
        if self.further.0.is_full() {
            return Err(self.refused(Retry::NoSlot.into()));
        }
        let mut loans = core::mem::take(&mut parts.0).into_iter();
        let Some(first) = loans.next() else { return Err(Misuse::BadRange.into()) };
        let posted = all_of(loans.map(Loan::post));
        let range = |posted: &Posted<'m>| if is_send { posted.filled() } else { posted.whole() };
        let outcome = self.post_at(op, first, context, |provider, wr_id, first| {
            let all = core::iter::once(first).chain(&posted).map(range);
            hand_over(provider, wr_id, &all_of(all))
        });
        match outcome {
            Ok(place) => {
                let kept = self.further.0.insert(Further { id: place.id, is_send, posted });
                debug_assert!(kept.is_ok(), "room was checked");
                Ok(place)
            }
            Err(Refused { error, item }) => {
                let further = posted.into_iter().map(|posted| posted.complete(None));
                *parts = Parts::of(core::iter::once(item).chain(further));
                Err(error)
            }
        }
    }

    /// Gives the buffers back to their pools that nobody has taken of messages of several parts which are over, because their completions were dropped. What
    /// the caller has a completion of still he takes before: it is given back, too. Returns how many messages they were of.
    pub fn drop_parts(&self) -> usize {
        let is_over = |key: &Key| {
            self.further.0.with(*key, |further| !self.is_posted(further.id)).unwrap_or(false)
        };
        let give_back = |key: Key| {
            let Further { posted, .. } = self.further.0.remove(key).ok()?;
            posted.into_iter().for_each(|posted| drop(posted.complete(None)));
            Some(())
        };
        self.further.0.keys().filter(is_over).filter_map(give_back).count()
    }

    /// All buffers of a message of several parts, in their order, each as long as its part of the message; those of a send as they were.
    /// `None` where the completion is of no such message, does not hold its loan any more, or they were taken. Until they are taken they
    /// count among the [`FURTHER_MAX`](super::FURTHER_MAX) that may be posted, also those of a completion that was dropped:
    /// [`drop_parts`](Endpoint::drop_parts) gives them back.
    pub fn take_parts(&self, completion: &mut Completion<'m>) -> Option<Parts<'m>> {
        // What the provider has it keeps, whatever somebody's completion is called: those of two endpoints may have the same id.
        if self.is_posted(completion.id) {
            return None;
        }
        let meant = |key: &Key| {
            self.further.0.with(*key, |further| further.id == completion.id).unwrap_or(false)
        };
        let key = self.further.0.keys().find(meant)?;
        let first = completion.loan.take()?;
        let Further { is_send, posted, .. } = self.further.0.remove(key).ok()?;
        let delivered = if completion.kind == Kind::Received { completion.length } else { 0 };
        let mut rest = delivered.saturating_sub(first.len());
        let further = posted.into_iter().map(|posted| {
            let here = rest.min(posted.whole().length());
            rest = rest.wrapping_sub(here);
            posted.complete(if is_send { None } else { Some(here) })
        });
        Some(Parts::of(core::iter::once(first).chain(further)))
    }
}
