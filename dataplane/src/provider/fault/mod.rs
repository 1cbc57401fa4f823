//! The fault provider: a wrapper under which everything goes wrong that may go wrong, by seed.
//!
//! ```text
//!   post_send --> refuse?  --yes--> Retry(Injected), nothing consumed
//!                   | no
//!                 fail?    --yes--> completes with Status::Injected, never sent     (posted sends)
//!                 drop?    --yes--> completes as if sent                            (unreliable types)
//!                 hold?    --yes--> kept for some polls, then passed on ----.
//!                   | no                                                    v
//!                   '--------------------------------------------------> inner provider (twice: unreliable types)
//! ```
//!
//! Nothing that it does breaks what its [`Info`] promises: a reliable provider stays reliable, one that keeps the order of a
//! peer keeps it, and each posted send completes once. So whatever fails above it would fail one day above the bare
//! provider too.
//!
//! *Held sends.* A posted buffer is the provider's until its completion, so it is simply kept; injected bytes are copied
//! into a fixed pool. A delayed send holds up what follows it to the same peer. A reordered one lets that pass where the
//! provider promises no order, and otherwise lets only the sends to other peers pass. A held send that the inner provider
//! refuses for good in the end completes with `PeerGone`; if it was injected it is gone with its peer, and counted.
//!
//! The same seed and the same calls give the same faults.

mod hold;

use core::cell::Cell;

use heapless::VecView;

use self::hold::{Holding, Place};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::id::{Addr, Generation, Name, WrId};
use crate::provider::{
    CancelError, Caps, Cqe, Event, ExposeWr, Info, OneSidedWr, Order, ParcelWr, Payload, Provider,
    Published, RecvPartsWr, RecvWr, Reliability, RemoteRegion, Select, SendPartsWr, SendWr, Source,
    Status, Waiting,
};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{Ring, wide};

use crate::time::Instant;

/// What goes wrong, and how often: rates in cases per million calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultConfig {
    /// Where the random numbers start.
    pub seed: u64,
    /// Sends, receives and connects that are refused with `Retry(Injected)`.
    pub refuse_ppm: u32,
    /// Posted sends that complete with `Status::Injected`, unsent.
    pub fail_ppm: u32,
    /// Sends that are held for a while.
    pub delay_ppm: u32,
    /// Sends that are held until others have passed them.
    pub reorder_ppm: u32,
    /// Sends that get lost. Unreliable types only; no effect on others.
    pub drop_ppm: u32,
    /// Sends that arrive twice. Unreliable types only; no effect on others.
    pub duplicate_ppm: u32,
    /// Longest delay, in polls.
    pub delay_polls_max: u32,
    /// Sends that can be held at once.
    pub held_max: u32,
    /// Longest injected message that can be held, in bytes.
    pub held_bytes_max: usize,
}

impl Default for FaultConfig {
    /// Nothing goes wrong. What is asked for is held for up to 8 polls, up to 32 sends at once, copies of up to 1 KiB.
    fn default() -> Self {
        Self {
            seed: 0,
            refuse_ppm: 0,
            fail_ppm: 0,
            delay_ppm: 0,
            reorder_ppm: 0,
            drop_ppm: 0,
            duplicate_ppm: 0,
            delay_polls_max: 8,
            held_max: 32,
            held_bytes_max: 1024,
        }
    }
}

/// What went wrong so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    /// Calls refused with `Retry(Injected)`.
    pub refused: u64,
    /// Posted sends that completed with `Status::Injected`.
    pub failed: u64,
    /// Sends that were held.
    pub held: u64,
    /// Sends that were held and passed on since.
    pub released: u64,
    /// Messages that got lost though they were accepted.
    pub dropped: u64,
    /// Messages that were sent twice.
    pub duplicated: u64,
    /// Held sends that the inner provider refused for good: their peer was gone, or disconnected.
    pub orphaned: u64,
}

/// What becomes of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Refuse,
    Fail,
    Drop,
    Hold { place: Place, polls: u64 },
    Pass,
    PassTwice,
}

/// A provider around another one, with faults. See the [module](self).
#[derive(Debug)]
pub struct Fault<'m, P: Provider> {
    inner: P,
    config: FaultConfig,
    random: Cell<u64>,
    counts: Cell<FaultCounts>,
    held: Holding<'m>,
    /// Completions of sends that the inner provider never saw. Every held send has a place kept in it.
    ended: Ring<'m, Cqe>,
    /// Addresses that the inner provider has taken a send for, by row: only those are accepted on its behalf.
    trusted: &'m [Cell<Option<Generation>>],
    staged: Cell<u64>,
    polls: Cell<u64>,
    now: Cell<Instant>,
    error: Cell<Option<Fatal>>,
}

impl<'m, P: Provider> Fault<'m, P> {
    /// Wraps `inner`, with tables placed in `bump`.
    ///
    /// # Errors
    /// [`Exhausted`] where the arena is too small.
    pub fn place(inner: P, bump: &Bump<'m>, config: &FaultConfig) -> Result<Self, Exhausted> {
        let held_max = config.held_max;
        let filler = Cqe::without_message(WrId::from_raw(0), Status::Injected);
        let peers_max = wide(inner.info().limits.peers_max);
        Ok(Self {
            config: *config,
            random: Cell::new(config.seed),
            counts: Cell::default(),
            held: Holding::place(bump, held_max, config.held_bytes_max)?,
            ended: Ring::place(bump, held_max.saturating_mul(2).max(2), filler)?,
            trusted: bump.slice_with(peers_max, |_| Cell::new(None))?,
            staged: Cell::new(0),
            polls: Cell::new(0),
            now: Cell::new(Instant::ORIGIN),
            error: Cell::new(None),
            inner,
        })
    }

    /// The provider inside.
    #[must_use]
    pub const fn inner(&self) -> &P {
        &self.inner
    }

    /// What went wrong so far.
    #[must_use]
    pub const fn counts(&self) -> FaultCounts {
        self.counts.get()
    }

    /// Sends that are held now.
    #[must_use]
    pub const fn held_len(&self) -> u32 {
        self.held.len()
    }

    fn count(&self, change: impl FnOnce(&mut FaultCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// The next random number: splitmix64.
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn roll(&self, ppm: u32) -> bool {
        self.random() % 1_000_000 < u64::from(ppm)
    }

    /// Always rolls the same dice, so that what follows does not depend on what they show.
    fn fate(&self, payload: &Payload<'_>) -> Fate {
        let info = self.inner.info();
        let [refuse, fail, drop, delay, reorder, duplicate] = [
            self.config.refuse_ppm,
            self.config.fail_ppm,
            self.config.drop_ppm,
            self.config.delay_ppm,
            self.config.reorder_ppm,
            self.config.duplicate_ppm,
        ]
        .map(|ppm| self.roll(ppm));
        let polls = self.random().checked_rem(u64::from(self.config.delay_polls_max)).unwrap_or(0);
        let polls = polls.saturating_add(1);
        let posted = matches!(payload, Payload::Posted { .. });
        let unreliable = info.reliability == Reliability::Unreliable;
        if refuse {
            Fate::Refuse
        } else if fail && posted {
            Fate::Fail
        } else if drop && unreliable {
            Fate::Drop
        } else if reorder && info.order == Order::None {
            Fate::Hold { place: Place::Lost, polls }
        } else if delay || reorder {
            Fate::Hold { place: Place::Kept, polls }
        } else if duplicate && unreliable {
            Fate::PassTwice
        } else {
            Fate::Pass
        }
    }

    fn is_trusted(&self, addr: Addr) -> bool {
        self.trusted.get(wide(addr.slot())).is_some_and(|row| row.get() == Some(addr.generation()))
    }

    fn trust(&self, addr: Addr, generation: Option<Generation>) {
        if let Some(row) = self.trusted.get(wide(addr.slot())) {
            row.set(generation);
        }
    }

    /// Whether a completion of our own can be put in without taking the place kept for a held send.
    const fn has_room_to_end(&self) -> bool {
        self.ended.free() > self.held.len()
    }

    fn end(&self, wr_id: WrId, status: Status) {
        let pushed = self.ended.push(Cqe::without_message(wr_id, status));
        debug_assert!(pushed.is_ok(), "there was room");
    }

    /// Passes a send on to the inner provider.
    fn pass(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let passed = self.inner.post_send(wr);
        match passed {
            Ok(()) => self.trust(wr.to, Some(wr.to.generation())),
            Err(PostError::Fatal(_) | PostError::Misuse(_)) if self.is_trusted(wr.to) => {
                self.trust(wr.to, None);
            }
            Err(_) => {}
        }
        passed
    }

    /// Holds a send, where there is room for it.
    fn hold(&self, wr: &SendWr<'_>, place: Place, polls: u64) -> bool {
        let due = self.polls.get().saturating_add(polls);
        let held = self.has_room_to_end() && self.held.hold(wr, place, due);
        if held {
            self.count(|counts| counts.held = counts.held.wrapping_add(1));
        }
        held
    }

    /// Passes on the held sends that are due, or, of a peer in a hurry, all. Returns how many.
    fn release(&self, hurry: impl Fn(Addr) -> bool) -> u64 {
        let mut released = 0_u64;
        for slot in self.held.slots() {
            let ready = self.held.get(slot).is_some_and(|(to, due)| {
                (due <= self.polls.get() || hurry(to)) && !self.held.is_behind(slot, to)
            });
            if !ready {
                continue;
            }
            match self.held.with_wr(slot, |wr| self.pass(wr)) {
                None | Some(Err(PostError::Retry(_))) => {}
                Some(Ok(())) => {
                    released = released.saturating_add(1);
                    self.held.forget(slot);
                }
                Some(Err(PostError::Fatal(_) | PostError::Misuse(_))) => self.orphan(slot),
            }
        }
        self.count(|counts| counts.released = counts.released.wrapping_add(released));
        released
    }

    /// A held send that will never be sent.
    fn orphan(&self, slot: u32) {
        self.count(|counts| counts.orphaned = counts.orphaned.wrapping_add(1));
        if let Some(wr_id) = self.held.forget(slot) {
            self.end(wr_id, Status::PeerGone);
        }
    }

    /// Nothing can be sent to that peer from now on: sends what can be of what is held, ends the rest.
    fn give_up(&self, addr: Addr) {
        if self.release(|to| to == addr) > 0 {
            self.ring_inner();
        }
        for slot in self.held.slots() {
            if self.held.get(slot).is_some_and(|(to, _)| to == addr) {
                self.orphan(slot);
            }
        }
        // The row may be another peer's by now.
        if self.is_trusted(addr) {
            self.trust(addr, None);
        }
    }

    fn ring_inner(&self) {
        if let Some(error) = self.inner.ring_doorbell().error {
            self.error.set(Some(error));
        }
    }

    fn refuse(&self) -> PostError {
        self.count(|counts| counts.refused = counts.refused.wrapping_add(1));
        Retry::Injected.into()
    }

    /// What becomes of a send to a peer that is known to take sends.
    fn befall(&self, wr: &SendWr<'_>, fate: Fate) -> Result<(), PostError> {
        let held_up = self.held.holds_up(wr.to);
        match (fate, wr.payload) {
            (Fate::Refuse, _) => return Err(self.refuse()),
            (Fate::Fail, Payload::Posted { wr_id, .. }) if self.has_room_to_end() => {
                self.end(wr_id, Status::Injected);
                self.count(|counts| counts.failed = counts.failed.wrapping_add(1));
            }
            (Fate::Drop, Payload::Posted { wr_id, .. }) if self.has_room_to_end() => {
                self.end(wr_id, Status::Success);
                self.count(|counts| counts.dropped = counts.dropped.wrapping_add(1));
            }
            (Fate::Drop, Payload::Inject(_)) => {
                self.count(|counts| counts.dropped = counts.dropped.wrapping_add(1));
            }
            (Fate::Hold { place, polls }, _) if self.hold(wr, place, polls) => {}
            _ if held_up => {
                if !self.hold(wr, Place::Kept, 0) {
                    return Err(self.refuse());
                }
            }
            _ => {
                self.pass(wr)?;
                if fate == Fate::PassTwice {
                    self.repeat(wr);
                }
            }
        }
        Ok(())
    }

    /// Sends the same again, where there is room for it.
    fn repeat(&self, wr: &SendWr<'_>) {
        let bytes = wr.payload.bytes();
        let again = SendWr { payload: Payload::Inject(bytes), ..*wr };
        if bytes.len() <= self.inner.info().limits.inject_bytes_max
            && self.inner.post_send(&again).is_ok()
        {
            self.count(|counts| counts.duplicated = counts.duplicated.wrapping_add(1));
        }
    }

    fn finish_own(&self, out: &mut VecView<Cqe>) {
        while !out.is_full() {
            let Some(cqe) = self.ended.pop() else { return };
            let pushed = out.push(cqe);
            debug_assert!(pushed.is_ok(), "room was checked");
        }
    }
}

impl<P: Provider> Provider for Fault<'_, P> {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn connect(&self, name: &Name) -> Result<Addr, PostError> {
        if self.roll(self.config.refuse_ppm) {
            return Err(self.refuse());
        }
        self.inner.connect(name)
    }

    fn name_of(&self, addr: Addr) -> Result<Option<Name>, Misuse> {
        self.inner.name_of(addr)
    }

    fn disconnect(&self, addr: Addr) -> Result<(), Misuse> {
        self.give_up(addr);
        self.inner.disconnect(addr)
    }

    fn post_send(&self, wr: &SendWr<'_>) -> Result<(), PostError> {
        let fate = self.fate(&wr.payload);
        let too_long = wr.payload.bytes().len() > self.inner.info().limits.message_bytes_max;
        if too_long || !self.is_trusted(wr.to) {
            // What is wrong with it is the inner provider's to say.
            self.pass(wr)?;
        } else {
            self.befall(wr, fate)?;
        }
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }

    /// Parcels are refused now and then, and never lost or held; so that none overtakes a message that is, they are refused
    /// while anything for that peer is held.
    fn post_parcel(&self, wr: &ParcelWr) -> Result<u8, PostError> {
        let can = self.inner.info().caps.has(Caps::PARCEL);
        if can && (self.roll(self.config.refuse_ppm) || self.held.holds_up(wr.to)) {
            return Err(self.refuse());
        }
        let number = self.inner.post_parcel(wr)?;
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(number)
    }

    fn is_settled(&self, to: Addr, number: u8) -> bool {
        self.inner.is_settled(to, number)
    }

    fn settle(&self, source: Addr, numbers: u64) {
        self.inner.settle(source, numbers);
    }

    /// Like parcels, sends of several ranges are refused now and then, and never lost or held, nor overtake what is.
    fn post_send_parts(&self, wr: &SendPartsWr<'_>) -> Result<(), PostError> {
        let can = self.inner.info().caps.has(Caps::GATHER);
        if can && (self.roll(self.config.refuse_ppm) || self.held.holds_up(wr.to)) {
            return Err(self.refuse());
        }
        self.inner.post_send_parts(wr)?;
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }

    fn post_recv_parts(&self, wr: &RecvPartsWr<'_>) -> Result<(), PostError> {
        self.inner.post_recv_parts(wr)
    }

    /// One-sided operations are refused now and then, and never lost or held.
    fn post_one_sided(&self, wr: &OneSidedWr) -> Result<(), PostError> {
        let needed = if wr.op.is_atomic() { Caps::ATOMIC } else { Caps::RMA };
        if self.inner.info().caps.has(needed) && self.roll(self.config.refuse_ppm) {
            return Err(self.refuse());
        }
        self.inner.post_one_sided(wr)?;
        self.staged.set(self.staged.get().wrapping_add(1));
        Ok(())
    }

    fn expose(&self, wr: &ExposeWr) -> Result<RemoteRegion, PostError> {
        self.inner.expose(wr)
    }

    fn withdraw(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.inner.withdraw(wr_id)
    }

    fn post_recv(&self, wr: &RecvWr) -> Result<(), PostError> {
        if self.roll(self.config.refuse_ppm) {
            return Err(self.refuse());
        }
        self.inner.post_recv(wr)
    }

    fn ring_doorbell(&self) -> Published {
        self.ring_inner();
        Published { count: self.staged.replace(0), error: self.error.take() }
    }

    fn poll_cq(&self, now: Instant, out: &mut VecView<Cqe>) {
        self.now.set(now);
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if self.release(|_| false) > 0 {
            self.ring_inner();
        }
        if polls.is_multiple_of(2) {
            self.finish_own(out);
            self.inner.poll_cq(now, out);
        } else {
            self.inner.poll_cq(now, out);
            self.finish_own(out);
        }
    }

    fn poll_event(&self) -> Option<Event> {
        let event = self.inner.poll_event()?;
        if let Event::PeerGone(addr) | Event::PeerCorrupt(addr) | Event::Refused(addr) = event {
            self.give_up(addr);
        }
        Some(event)
    }

    fn cancel(&self, wr_id: WrId) -> Result<(), CancelError> {
        self.inner.cancel(wr_id)
    }

    fn peek(&self, from: Source, select: Select) -> Option<Waiting> {
        self.inner.peek(from, select)
    }

    fn lingers(&self) -> bool {
        self.inner.lingers()
    }

    /// While something is held it has to be polled on.
    fn poll_at(&self) -> Option<Instant> {
        if self.held.is_empty() { self.inner.poll_at() } else { Some(self.now.get()) }
    }
}

impl<P: Provider> Drop for Fault<'_, P> {
    /// What is held goes out, as far as there is room.
    fn drop(&mut self) {
        self.release(|_| true);
        self.ring_inner();
    }
}
