//! The queues of a port: receives that are posted, completions that wait for a poll, events; and in which order the end of a peer is told.
//!
//! ```text
//!   post_recv --> matcher --.                                     .--> posted receive: Found::Receive, copy, land
//!   cancel -----> ended     |      a message that has come -------+--> Found::Nobody: stash, or it stays where it is
//!                   |       '----- find_receive                   '--> Found::NoRoom: it stays where it is
//!                   v
//!   poll_cq <-- sends that are done, then ended; and what has come: by turns which is first
//! ```
//!
//! Every port owns one [`Queues`], and asks it; there is nothing here that a transport could want otherwise. What a send is, and when it
//! is done, only the port knows: it hands in the completions of its sends as it is asked for them.
//!
//! *The end of a peer.* What it had published is delivered first; then the receives that wait for it alone fail; then its end is
//! an event; then the port lets go of it ([`Queues::report_end`]). That waits for [`PATIENCE_LOOKS`] looks at what is left, and no longer:
//! a message that nobody has asked for by then waits where it is. Receives that are posted for the gone meanwhile fail where it turns out
//! that another receive got the message ([`Queues::fail_late`]).
//!
//! Invariants: (1) for every posted receive there is a place in `ended`, so that all of them can be cancelled before a poll; (2) a
//! posted receive for somebody whose end was reported exists only while the port [`is_late`](Queues::is_late).

use core::cell::Cell;

use heapless::VecView;

use super::peers::{PeerState, Peers, Standing};
use super::{CancelError, Cqe, Event, RecvPartsWr, RecvWr, Source, Status};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, WrId};
use crate::msg::matching::{Claim, Incoming, Landing, Matcher, MatchingConfig, Verdict, Withdrawn};
use crate::raw::place::{Bump, Exhausted};
use crate::shm::lane::Descriptor;
use crate::table::{NIL, Ring};

/// So many looks the report of an end waits for receives that take what is left. In shared memory a look comes every other turn, so
/// even one who naps for 100 us after each turn hears of it after less than 30 ms.
pub const PATIENCE_LOOKS: u32 = 128;

/// Who takes a message that has come.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// This receive: copy it there, then [`Queues::land`].
    Receive(Landing),
    /// Nobody has asked for it: [`Matcher::stash`], or it stays where it is.
    Nobody,
    /// There is no room for a completion.
    NoRoom,
}

/// The queues of a port. Belongs to the port's thread.
#[derive(Debug)]
pub struct Queues<'m> {
    matcher: Matcher<'m>,
    /// Completions of receives that ended without a message.
    ended: Ring<'m, Cqe>,
    events: Ring<'m, Event>,
    /// There may be posted receives that wait for somebody alone whose end was reported.
    late: Cell<bool>,
    /// Sends that were staged since the last doorbell.
    staged: Cell<u64>,
    polls: Cell<u32>,
}

impl<'m> Queues<'m> {
    /// Places them in `bump`, with room for `events` events.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(
        bump: &Bump<'m>,
        matching: &MatchingConfig,
        events: u32,
    ) -> Result<Self, Exhausted> {
        let nobody = Event::PeerGone(Addr::new(NIL, Generation::FIRST));
        let filler = Cqe::without_message(WrId::from_raw(0), Status::Cancelled);
        Ok(Self {
            matcher: Matcher::place(bump, matching)?,
            ended: Ring::place(bump, matching.recv_depth, filler)?,
            events: Ring::place(bump, events, nobody)?,
            late: Cell::new(false),
            staged: Cell::new(0),
            polls: Cell::new(0),
        })
    }

    /// Posted receives and unexpected messages.
    #[must_use]
    #[inline(always)]
    pub const fn matcher(&self) -> &Matcher<'m> {
        &self.matcher
    }

    /// Posts a receive. Whether one may wait for its source is the port's to say, before.
    ///
    /// # Errors
    /// `RqFull`, or `CqFull` where cancelled ones were not polled yet; nothing was consumed.
    #[inline(always)]
    pub fn post(&self, wr: &RecvWr) -> Result<(), PostError> {
        self.keep_place_to_end()?;
        Ok(self.matcher.post(wr)?)
    }

    /// Posts a receive into several ranges. Whether one may wait for its source, and has so many, is the port's to say, before.
    ///
    /// # Errors
    /// As [`Queues::post`]; `RqFull` also where [as many of this kind](Matcher::post_parts) are posted as there can be.
    pub fn post_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.keep_place_to_end()?;
        self.matcher.post_parts(wr)
    }

    /// Whether there is a place among those that have ended for one receive more.
    #[inline(always)]
    fn keep_place_to_end(&self) -> Result<(), Retry> {
        let is_full =
            || self.ended.len().saturating_add(self.matcher.posted_len()) >= self.ended.capacity();
        if !self.ended.is_empty() && is_full() { Err(Retry::CqFull) } else { Ok(()) }
    }

    /// Takes back a posted receive.
    ///
    /// # Errors
    /// `NotPosted`.
    pub fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        let withdrawn = self.matcher.cancel(wr_id)?;
        self.end_cancelled(withdrawn);
        Ok(())
    }

    /// Takes back the receives that wait for a peer alone who was taken out of the table: they would wait for ever.
    pub fn end_hopeless(&self, peer: Addr) {
        while let Some(withdrawn) = self.matcher.take_hopeless(peer) {
            self.end_cancelled(withdrawn);
        }
    }

    fn end_cancelled(&self, withdrawn: Withdrawn) {
        let pushed = self.ended.push(withdrawn.ended(Status::Cancelled, 0));
        debug_assert!(pushed.is_ok(), "a place was kept for every posted receive");
    }

    /// A send was staged.
    #[inline(always)]
    pub fn count_staged(&self) {
        self.staged.set(self.staged.get().wrapping_add(1));
    }

    /// How many sends were staged since the last doorbell.
    #[must_use]
    #[inline(always)]
    pub const fn staged(&self) -> u64 {
        self.staged.get()
    }

    /// The same, for a doorbell: from now on none.
    #[inline(always)]
    pub const fn take_staged(&self) -> u64 {
        self.staged.replace(0)
    }

    /// Whether all receives that have ended without a message were polled.
    #[must_use]
    #[inline(always)]
    pub const fn none_ended(&self) -> bool {
        self.ended.is_empty()
    }

    /// A poll begins: whether completions of sends go before what has come, which takes turns.
    #[inline(always)]
    pub fn sends_go_first(&self) -> bool {
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        polls.is_multiple_of(2)
    }

    /// One poll: completions of `sends` and of receives that have ended, and what `take_in` takes in. Who comes first takes turns, so
    /// that a flood of sends does not keep out what has come, or the other way round.
    #[inline(always)]
    pub fn poll(
        &self,
        sends: impl FnMut() -> Option<Cqe>,
        take_in: impl FnOnce(&mut VecView<Cqe>),
        out: &mut VecView<Cqe>,
    ) {
        if self.sends_go_first() {
            self.finish(sends, out);
            take_in(out);
        } else {
            take_in(out);
            self.finish(sends, out);
        }
    }

    /// Completions that need nothing from outside: of `sends`, until there are none; then of receives that have ended.
    #[inline(always)]
    pub fn finish(&self, mut sends: impl FnMut() -> Option<Cqe>, out: &mut VecView<Cqe>) {
        while !out.is_full() {
            let Some(cqe) = sends() else { break };
            push(out, cqe);
        }
        while !out.is_full() {
            let Some(cqe) = self.ended.pop() else { break };
            push(out, cqe);
        }
    }

    /// Who takes a message. Buffers that have to be given back first have completed then.
    #[inline(always)]
    pub fn find_receive(&self, message: &Incoming, out: &mut VecView<Cqe>) -> Found {
        while !out.is_full() {
            match self.matcher.judge(message) {
                Verdict::Deliver(landing) => return Found::Receive(landing),
                Verdict::Unasked => return Found::Nobody,
                Verdict::GivenBack(cqe) => push(out, cqe),
            }
        }
        Found::NoRoom
    }

    /// Completes the receive that a message was copied into. There is room in `out`: nothing was put there since
    /// [`Queues::find_receive`] has looked.
    #[inline(always)]
    pub fn land(&self, landing: &Landing, message: &Incoming, out: &mut VecView<Cqe>) {
        push(out, self.matcher.land(landing, message));
    }

    /// [`Queues::land`] for a message that came piece by piece.
    pub fn land_claimed(&self, claim: &Claim, message: &Incoming, out: &mut VecView<Cqe>) {
        push(out, self.matcher.land_claimed(claim, message));
    }

    /// [`Queues::land`] for a parcel, which was looked for with a length of 0.
    pub fn land_parcel(
        &self,
        landing: &Landing,
        message: &Incoming,
        descriptor: Descriptor,
        out: &mut VecView<Cqe>,
    ) {
        push(out, self.matcher.land_parcel(landing, message, descriptor));
    }

    /// Puts an event among those that wait. Returns whether there was room.
    #[must_use]
    pub fn tell(&self, event: Event) -> bool {
        self.events.push(event).is_ok()
    }

    /// For how many more events there is room.
    #[must_use]
    pub const fn room_for_events(&self) -> u32 {
        self.events.free()
    }

    /// Events that wait to be had.
    #[must_use]
    pub const fn events_waiting(&self) -> u32 {
        self.events.len()
    }

    /// The next event. Whose end it says is to be let go of: the port's row becomes vacant, or [`Standing::Past`].
    pub fn next_event(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Sees to it that the end of a lost peer is told: to the receives of `whose` that wait for it (all, where they are anybody's), then as
    /// an event. `is_left` says whether something of it is left in its transport that nobody has asked for. Returns whether it is told
    /// now; else this is to be called again at the next look.
    pub fn report_end(
        &self,
        (addr, peer): (Addr, &PeerState),
        is_left: bool,
        whose: Source,
        out: &mut VecView<Cqe>,
    ) -> bool {
        if peer.has_ended() {
            return true;
        }
        let looks = peer.looks.get();
        if looks < PATIENCE_LOOKS && (is_left || self.matcher.holds_of(addr)) {
            peer.looks.set(looks.wrapping_add(1));
            return false;
        }
        let (status, event) = peer.standing().end_of(addr);
        while !out.is_full() {
            let hopeless = match whose {
                Source::Any => self.matcher.take_any(),
                Source::Only(peer) => self.matcher.take_hopeless(peer),
            };
            let Some(withdrawn) = hopeless else {
                let is_told = self.tell(event);
                peer.set_reported(is_told);
                if !is_told {
                    // No more looks make room: whoever takes events does.
                    peer.looks.set(PATIENCE_LOOKS.wrapping_add(1));
                }
                return is_told;
            };
            push(out, withdrawn.ended(status, peer.code()));
        }
        false
    }

    /// Whether a receive may be posted that waits for one alone who is gone: where a message of it `waits`, or was not looked at.
    ///
    /// # Errors
    /// `PeerGone`; `StaleAddress` where that was taken note of.
    pub fn ask_the_gone<R: AsRef<PeerState>>(
        &self,
        peers: Peers<'_, R>,
        addr: Addr,
        waits: bool,
    ) -> Result<(), PostError> {
        if waits {
            self.late.set(true);
            return Ok(());
        }
        match peers.find(addr)?.as_ref().standing() {
            Standing::Past => Err(Misuse::StaleAddress.into()),
            Standing::Vacant
            | Standing::Connecting
            | Standing::Known
            | Standing::Up
            | Standing::Gone
            | Standing::Corrupt
            | Standing::Refused => Err(Fatal::PeerGone.into()),
        }
    }

    /// Whether there may be posted receives that wait for somebody alone whose end was reported: [`Queues::fail_late`].
    #[must_use]
    #[inline(always)]
    pub const fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Fails the receives that wait for somebody alone of whom nothing more is to be had. `is_unread` is asked of the rows of those
    /// whose end was told: whether something of theirs was not looked at yet. Returns whether there may be more.
    pub fn fail_late<R: AsRef<PeerState>>(
        &self,
        peers: Peers<'_, R>,
        is_unread: impl Fn(u32, &R) -> bool,
        out: &mut VecView<Cqe>,
    ) -> bool {
        let unread = |slot: u32, row: &R| row.as_ref().has_ended() && is_unread(slot, row);
        let is_over = |addr: Addr| match peers.find(addr) {
            Ok(row) => row.as_ref().has_ended() && !unread(addr.slot(), row),
            Err(_stale) => true,
        };
        while self.late.get() && !out.is_full() {
            let Some(withdrawn) = self.matcher.take_directed(is_over) else {
                self.late.set(peers.in_use().any(|(slot, row)| unread(slot, row)));
                break;
            };
            let of = match withdrawn.from {
                Source::Only(addr) => peers.find(addr).ok(),
                Source::Any => None,
            };
            let code = of.map_or(0, |row| row.as_ref().code());
            push(out, withdrawn.ended(Status::PeerGone, code));
        }
        self.late.get()
    }
}

#[inline(always)]
fn push(out: &mut VecView<Cqe>, cqe: Cqe) {
    let pushed = out.push(cqe);
    debug_assert!(pushed.is_ok(), "room was checked");
}
