//! Turns, and their halves: completions come in, what is wanted goes out.
//!
//! ```text
//!   turn = hear: time, completions ... stage: time limits, what is wanted ... submit, which is the ring's
//! ```
//!
//! Who shares the ring with others, or does something in between, calls the halves ([`services`](crate::services) does, and the provider over
//! TCP); whoever calls [`Ring::submit`](crate::uring::Ring::submit) is who enters the kernel.

use spinwire_layouts::uring::Cqe;
use spinwire_layouts::word::{from_usize, high, low};

use super::service::{BATCH, LIST, Streams};
use crate::id::{Generation, OpTag, WrId};
use crate::poll::{Budget, Outcome, Poll};
use crate::time::{Instant, Nanos};
use crate::uring::Enter;
use crate::uring::ring::UNHEARD;

/// The tag of a name, in its high half, and that of sends.
const TAG: u32 = 0xff << 24;
const SEND: u32 = high(WrId::new(OpTag::Chain, Generation::FIRST, 0).as_raw()) & TAG;

/// A thread that has not turned for so long was away.
const ABSENT: Nanos = Nanos::from_millis(100);
/// Turns in which it hears what came meanwhile, if there is so much.
const CATCH_UP: u32 = 64;

impl<E: Enter> Streams<'_, E> {
    /// It is `now`, for all that comes in from here on.
    #[inline]
    pub fn set_now(&self, now: Instant) {
        let before = self.now.replace(now);
        if now.saturating_since(before) > ABSENT {
            self.deaf.set(CATCH_UP);
        }
        if !self.began.replace(true) {
            self.begin(now);
        }
    }

    /// How many completions it can take in: none before [`Streams::poll`] has made events of all that it has.
    #[must_use]
    #[inline]
    pub const fn room_for_completions(&self) -> u32 {
        if self.batch_at.get() < self.batch_end.get() { 0 } else { low(from_usize(BATCH)) }
    }

    /// Takes a completion in, if it is one of streams, for [`Streams::poll`]; says whether it was. Of one
    /// [harvest](crate::uring::Ring::harvest), and only where there was [room](Streams::room_for_completions) before it, which is also the most that it
    /// may be asked for; what that adds of a cut chain has its place.
    #[inline]
    pub fn take_in(&self, cqe: &Cqe) -> bool {
        match WrId::from_raw(cqe.user_data).parts() {
            Some((
                OpTag::Chain
                | OpTag::Accept
                | OpTag::Connect
                | OpTag::Receive
                | OpTag::Shutdown
                | OpTag::Disconnect
                | OpTag::Close,
                ..,
            )) => {
                self.keep(*cqe);
                true
            }
            Some((
                OpTag::Send
                | OpTag::Recv
                | OpTag::File
                | OpTag::VirtualSend
                | OpTag::VirtualRecv
                | OpTag::Write
                | OpTag::Read
                | OpTag::Atomic
                | OpTag::Expose,
                ..,
            ))
            | None => false,
        }
    }

    /// Puts a completion to those that are to become events, unless it is of a send, as most are, of which nothing more has to be said.
    #[inline(always)]
    fn keep(&self, cqe: Cqe) {
        let is_send = high(cqe.user_data) & TAG == SEND;
        if is_send && self.sent_whole(cqe.user_data, cqe.res, cqe.flags) {
            return;
        }
        if self.batch_at.get() >= self.batch_end.get() {
            self.batch_at.set(0);
            self.batch_end.set(0);
        }
        let end = self.batch_end.get();
        if let Some(place) = self.batch.get(end) {
            place.set(cqe);
            self.batch_end.set(end.wrapping_add(1));
        }
    }

    /// Completions that have not become events.
    pub(super) fn unheard(&self) -> u32 {
        let taken = self.batch_end.get().saturating_sub(self.batch_at.get());
        low(from_usize(taken)).wrapping_add(self.ring.ready())
    }

    /// Those of them that bring a connection.
    #[cold]
    pub(super) fn unheard_guests(&self) -> u32 {
        let guest = |cqe: &Cqe| {
            let tag = WrId::from_raw(cqe.user_data).parts().map(|(tag, ..)| tag);
            u32::from(tag == Some(OpTag::Accept) && cqe.res >= 0)
        };
        let batch = self.batch.get(self.batch_at.get()..self.batch_end.get()).unwrap_or_default();
        let taken = batch.iter().map(|place| guest(&place.get()));
        taken.chain(self.ring.unharvested().map(|cqe| guest(&cqe))).fold(0, u32::wrapping_add)
    }

    /// Those that were taken in and have not become events, which they never will.
    pub(super) fn take_batch(&self, each: impl Fn(Cqe)) {
        while let Some(place) = self.batch.get(self.batch_at.get())
            && self.batch_at.get() < self.batch_end.get()
        {
            self.batch_at.set(self.batch_at.get().wrapping_add(1));
            let cqe = place.get();
            if cqe.user_data != UNHEARD {
                each(cqe);
            }
        }
    }

    /// Takes completions, where those that were taken before are all done with: all, unless another service is on the ring, too.
    pub(super) fn harvest(&self, most: u32) -> u32 {
        match self.room_for_completions() {
            0 => 0,
            room => self.ring.harvest_own(most.min(room), not_of_files, |cqe| self.keep(cqe)),
        }
    }

    /// Time passes, and completions come in. Returns how many. Of a ring that carries files, too, those before the first of a file: that
    /// one stays for [`StreamsAndFiles`](crate::services::StreamsAndFiles) or [`Files`](crate::file::Files).
    #[inline]
    pub fn hear(&self, now: Instant, budget: Budget) -> u32 {
        self.set_now(now);
        self.harvest(budget.completions)
    }

    /// Stages what connections want, as far as the ring has room, after a look at the time limits. The caller submits.
    pub fn stage(&self, budget: Budget) {
        if self.ring.fatal().is_some() {
            self.lose();
        }
        self.hurry();
        let heard_all = self.has_heard_all();
        if heard_all && self.timers.is_due(self.now.get()) {
            self.expire(self.now.get(), budget.timers);
        }
        if self.is_busy() {
            self.buffers.refill_if_few();
        } else {
            self.buffers.refill();
        }
        self.unpark();
        if heard_all {
            self.end_hoards();
        }
        self.relieve();
        self.drive(budget.posts);
    }

    /// Whether time limits may be judged. Not after the thread was away for long (stopped, or its machine was): what came meanwhile came in
    /// time, and is heard first.
    #[inline]
    fn has_heard_all(&self) -> bool {
        let turns = self.deaf.get();
        if turns > 0 {
            let more = self.ring.has_news() || self.room_for_completions() == 0;
            self.deaf.set(if more { turns.wrapping_sub(1) } else { 0 });
        }
        self.deaf.get() == 0
    }

    /// Whether what came while the thread was away was heard, as far as the last look at the time limits has seen: before that nobody is
    /// late.
    #[must_use]
    pub const fn has_caught_up(&self) -> bool {
        self.deaf.get() == 0
    }

    /// Stages everything that is wanted.
    #[inline]
    pub(crate) fn stage_all(&self) {
        self.buffers.refill_if_few();
        self.drive(u32::MAX);
    }

    /// Hands in everything that is wanted, with one call of the kernel. [`turn`](Poll::turn) does it too; this is for who has just
    /// written and wants it to leave before the next.
    #[inline]
    pub fn flush(&self) {
        self.stage_all();
        let _counted_by_the_ring = self.ring.submit();
    }

    /// Whether there is something to tell, or to submit.
    #[must_use]
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        self.batch_at.get() < self.batch_end.get()
            || !self.noted.is_empty(LIST)
            || !self.wanting.is_empty()
            || self.segments.has_ended()
    }
}

impl<E: Enter> Poll for Streams<'_, E> {
    /// Takes up to 64 completions, which [`Streams::poll`] turns into events, and submits what is wanted with at most one call of
    /// the kernel. Who has files on the same ring turns both by [`StreamsAndFiles`](crate::services::StreamsAndFiles): here what is of files
    /// is left, and what came behind it.
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        let heard = self.hear(now, budget);
        self.stage(budget);
        let submitted = self.ring.submit();
        let more = heard != 0 || submitted.entered || self.is_busy() || self.ring.has_news();
        if more { Outcome::Busy } else { Outcome::Idle }
    }

    fn poll_at(&self) -> Option<Instant> {
        let owed = self.owed_until().into_iter().chain(self.hoards_until());
        self.timers.next_deadline().into_iter().chain(owed).min()
    }
}

/// Whether a completion is for streams to take, or for nobody.
pub(super) const fn not_of_files(user_data: u64) -> bool {
    !matches!(WrId::from_raw(user_data).parts(), Some((OpTag::File, ..)))
}
