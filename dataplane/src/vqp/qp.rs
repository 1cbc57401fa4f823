//! The virtual queue pair: its paths, which of them are in use, and what a completion or the time means for them.
//!
//! Sends are in [`send`](super::send), receives in [`receive`](super::receive).

use core::cell::Cell;
use core::fmt;

use super::config::{PlanError, Scheme, Spread, Visibility, VqpConfig, prove};
use super::flight::Flight;
use super::path::{Health, Path, PathFigures, count};
use super::receive::RecvSide;
use super::refusal::{CallError, Cause, Refusal};
use super::region::Regions;
use super::request::{Completion, Direction, Done};
use super::send::SendSide;
use super::sequence::SequenceCodec;
use crate::id::{Generation, OpTag, WrId};
use crate::raw::place::Bump;
use crate::table::{NIL, wide};
use crate::time::Instant;
use crate::verbs::{QueuePair, Wc};

/// How messages travel, with the scheme and the number of paths taken together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// One data path: fragments in order, the immediate with the last.
    Single,
    /// Data on all paths, a notification when it is there.
    Spray,
    /// A sequence number with each fragment.
    Sequence(SequenceCodec),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Detached,
    Open,
    Closing,
}

/// What a virtual queue pair is made of.
#[derive(Debug)]
pub struct Setup<'a, 'm, P: QueuePair> {
    /// The queue pairs that carry data, each with the number of its device, connected to the peer's in the same order.
    /// Devices that take turns spread a message best.
    pub paths: &'a [(P, u32)],
    /// SPRAY over several: the one for notifications, best on the device of the first.
    pub notify: Option<(P, u32)>,
    /// Local memory.
    pub local: &'m Regions<'m, P::Key>,
    /// The peer's.
    pub remote: &'m Regions<'m, u32>,
}

/// What is not over yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remains {
    /// Send requests that were not reported.
    pub sends: u32,
    /// Receive requests that were not reported.
    pub recvs: u32,
    /// Work requests that devices have.
    pub in_flight: u32,
}

/// Several queue pairs that act as one. Placed once and never moved; one thread.
pub struct VirtualQp<'m, P: QueuePair> {
    pub(super) config: VqpConfig,
    pub(super) mode: Mode,
    pub(super) paths: &'m [Path<'m, P>],
    /// Of the paths the ones that carry data, and all their devices.
    pub(super) data: u64,
    pub(super) devices: u64,
    pub(super) local: &'m Regions<'m, P::Key>,
    pub(super) remote: &'m Regions<'m, u32>,
    /// Sets of paths: in use without doubt, in use for want of others, with room for a send.
    pub(super) up: Cell<u64>,
    pub(super) suspect: Cell<u64>,
    pub(super) roomy: Cell<u64>,
    /// Paths whose doorbell is to be rung.
    pub(super) dirty: Cell<u64>,
    /// The path to begin with.
    pub(super) turn: Cell<u32>,
    /// In rotation, whether a send or a receive has had a turn.
    pub(super) has_rotated: Cell<bool>,
    pub(super) state: Cell<State>,
    slot: Cell<u32>,
    /// The last look at the times of paths, and the clock that they are told by: it stands still while nobody polls.
    pub(super) looked: Cell<Instant>,
    pub(super) clock: Cell<Instant>,
    /// The first cause since all paths were up.
    pub(super) cause: Cell<Option<Cause>>,
    pub(super) send: SendSide<'m>,
    pub(super) recv: RecvSide<'m>,
    takes_recv_first: Cell<bool>,
}

impl<P: QueuePair> fmt::Debug for VirtualQp<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualQp")
            .field("mode", &self.mode)
            .field("remains", &self.remains())
            .finish_non_exhaustive()
    }
}

impl<'m, P: QueuePair + Clone> VirtualQp<'m, P> {
    /// Places a virtual queue pair over `setup.paths`. [`VirtualCq::attach`](super::VirtualCq::attach) puts it to work.
    ///
    /// # Errors
    /// The sizes do not fit together; the answer names the relation that does not hold.
    pub fn place(
        bump: &Bump<'m>,
        setup: &Setup<'_, 'm, P>,
        config: &VqpConfig,
    ) -> Result<&'m Self, PlanError> {
        let data = crate::table::count(setup.paths.len());
        let all = || setup.paths.iter().chain(&setup.notify);
        let limits = all().map(|(qp, device)| (qp.limits(), *device));
        let proof = prove(config, limits, (data, setup.notify.is_some()))?;
        let devices = all().fold(0, |set, (_, device)| set | bit(*device));
        let Some(first) = setup.paths.first() else {
            return Err(PlanError::Paths { paths: 0 });
        };
        let total = all().count();
        let is_alone = data == 1;
        let mode = match config.scheme {
            _ if is_alone => Mode::Single,
            Scheme::Spray(_) => Mode::Spray,
            Scheme::Dqplb(codec) => Mode::Sequence(codec),
        };
        if let (Mode::Spray, Scheme::Spray(Visibility::FlushingRead(scratch))) =
            (mode, config.scheme)
        {
            let there = setup.local.resolve(scratch, (0, 8), devices);
            there.map_err(|_refused| PlanError::ScratchRegion)?;
        }
        let mut sends = Flight::place_many(bump, total, config.send_depth)?;
        let mut recvs = Flight::place_many(bump, total, config.recv_depth)?;
        let paths = bump.slice_with(total, |index| {
            let (qp, device) = setup.paths.get(index).or(setup.notify.as_ref()).unwrap_or(first);
            let at = crate::table::count(index);
            let tables = (setup.local, setup.remote);
            Path::new((at, qp.clone(), *device), (sends(), recvs()), tables)
        })?;
        let all_paths = low_bits(data.saturating_add(u32::from(setup.notify.is_some())));
        let vqp = Self {
            config: *config,
            mode,
            paths,
            data: low_bits(data),
            devices,
            local: setup.local,
            remote: setup.remote,
            up: Cell::new(all_paths),
            suspect: Cell::new(0),
            roomy: Cell::new(all_paths),
            dirty: Cell::new(0),
            turn: Cell::new(0),
            has_rotated: Cell::new(false),
            state: Cell::new(State::Detached),
            slot: Cell::new(0),
            looked: Cell::new(Instant::ORIGIN),
            clock: Cell::new(Instant::ORIGIN),
            cause: Cell::new(None),
            send: SendSide::place(bump, config, (total, mode))?,
            recv: RecvSide::place(bump, config, (total, proof.slots, mode))?,
            takes_recv_first: Cell::new(false),
        };
        Ok(bump.value(vqp)?)
    }
}

/// What the virtual completion queue does with it.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// Opens it under number `slot` of a virtual completion queue. `serial` differs from one such opening to the next.
    pub(super) fn open(&self, slot: u32, serial: u32) {
        // The golden ratio scatters the generations of those who use the same queue pair one after the other.
        let start = serial.wrapping_mul(0x9E_3779).max(1);
        let start = Generation::from_raw(start).unwrap_or(Generation::FIRST);
        self.slot.set(slot);
        for (at, path) in (0..NIL).zip(self.paths) {
            self.set_health(at, path.health.get());
            path.sends.begin_at(self.wr_id(OpTag::VirtualSend, at, start));
            path.recvs.begin_at(self.wr_id(OpTag::VirtualRecv, at, start));
        }
        self.state.set(State::Open);
        if matches!(self.mode, Mode::Sequence(_)) {
            for path in self.paths {
                path.owed.set(self.config.recv_depth);
            }
            self.replenish();
        }
    }

    /// Takes in a completion for `path`, if it is that of its oldest send. Says whether it was.
    #[inline(always)]
    pub(super) fn on_send_wc(&self, (at, path): (u32, &Path<'_, P>), wc: &Wc) -> bool {
        let Some(entry) = path.sends.front(wc.wr_id()) else { return false };
        path.sends.retire();
        if let Err((status, vendor)) = wc.outcome() {
            let cause = Cause::Device { status, vendor };
            self.fail((at, path), &entry.get(), cause, Direction::Send);
        } else {
            self.roomy.set(self.roomy.get() | path.bit);
            count(&path.fragments, 1);
            count(&path.bytes, u64::from(entry.get().length));
            self.finish(entry);
            if path.is_plain.get() {
                return true;
            }
            self.finish_on(path, &entry.get());
        }
        if path.health.get() != Health::Ok {
            self.look_at(at, path, Direction::Send);
        }
        true
    }

    /// The same for a receive.
    #[inline]
    pub(super) fn on_recv_wc(&self, (at, path): (u32, &Path<'_, P>), wc: &Wc) -> bool {
        let Some(entry) = path.recvs.front(wc.wr_id()).map(Cell::get) else { return false };
        path.recvs.retire();
        match wc.outcome() {
            Ok(received) => self.arrive(at, &entry, received),
            Err((status, vendor)) => {
                let cause = Cause::Device { status, vendor };
                self.fail((at, path), &entry, cause, Direction::Recv);
            }
        }
        if path.health.get() != Health::Ok {
            self.look_at(at, path, Direction::Recv);
        }
        true
    }

    /// A completion that is not the front's: one that came before, or one whose predecessors the device has left out.
    #[cold]
    pub(super) fn on_stray_wc(
        &self,
        (at, path): (u32, &Path<'_, P>),
        direction: Direction,
        wc: &Wc,
    ) {
        count(&path.stale, 1);
        let flight = match direction {
            Direction::Send => &path.sends,
            Direction::Recv => &path.recvs,
        };
        if flight.is_behind_front(wc.wr_id()) {
            self.fail_path(at, Cause::Disorder);
        }
    }

    /// Stages what there is room for, posts receives, notifies, rings doorbells: `posts` steps at most. Says how many it took.
    #[inline]
    pub(super) fn progress(&self, posts: u32) -> u32 {
        let taken = self.pump(posts);
        self.replenish();
        self.ring_doorbell();
        taken
    }

    /// Whether a turn would do something for it although no completion has come.
    #[inline]
    pub(super) fn wants_turn(&self) -> bool {
        self.dirty.get() != 0 || self.send_wants_turn() || self.recv_wants_turn()
    }

    /// The oldest request, if it is a send that is over without anything to be said of it, and no receive is before it.
    #[inline(always)]
    pub(super) fn take_plain(&self) -> Option<(u64, Done)> {
        if self.recv.is_quiet() { self.take_done() } else { None }
    }

    /// The next finished request, if there is one.
    #[inline(always)]
    pub(super) fn take(&self) -> Option<Completion> {
        let recv_first = self.takes_recv_first.get();
        let (first, second) = if recv_first {
            (Direction::Recv, Direction::Send)
        } else {
            (Direction::Send, Direction::Recv)
        };
        if let Some(taken) = self.take_from(first) {
            self.takes_recv_first.set(!recv_first);
            return Some(taken);
        }
        self.take_from(second)
    }

    #[inline(always)]
    fn take_from(&self, direction: Direction) -> Option<Completion> {
        let (context, outcome) = match direction {
            Direction::Send => self.take_send()?,
            Direction::Recv => self.take_recv()?,
        };
        Some(Completion { vqp: self.slot.get(), direction, context, outcome })
    }
}

/// Names.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// The name that a work request of a path goes by.
    #[inline]
    pub(super) const fn wr_id(&self, tag: OpTag, at: u32, generation: Generation) -> WrId {
        WrId::new(tag, generation, self.slot.get().wrapping_shl(PATH_BITS) | at)
    }

    /// The one path of sends and atomics, where they have one.
    pub(super) const fn pinned(&self) -> Option<u32> {
        match self.config.spread {
            Spread::Pinned(path) => Some(path),
            Spread::Rotation => None,
        }
    }
}

/// For the caller.
impl<P: QueuePair> VirtualQp<'_, P> {
    /// Tells the devices of everything that was staged. A turn does it too.
    #[inline]
    pub fn ring_doorbell(&self) {
        // Ringing may fail a path, which dirties no other.
        while let Some(at) = lowest(self.dirty.get()) {
            self.dirty.set(self.dirty.get() & !bit(at));
            self.ring_sends(at);
            self.ring_recvs(at);
        }
    }

    /// Takes a path out of use, for maintenance: nothing new is posted there, and what is on its way is waited for. The peer may go
    /// on writing there until it has taken the path out as well; in DQPLB nothing of that is lost.
    ///
    /// # Errors
    /// There is no such path.
    pub fn exclude(&self, path: u32) -> Result<(), Refusal> {
        let found = self.paths.get(wide(path)).ok_or(CallError::UnknownPath)?;
        self.fail_path(path, Cause::Closed);
        if found.health.get() == Health::Draining && found.is_empty() {
            self.set_down(path);
        }
        Ok(())
    }

    /// Takes a path into use again after its queue pair was reset and connected anew, at both ends. Before the reset, put the queue
    /// pair into the error state and turn until [`path`](Self::path) says that no receive is in flight: what had
    /// arrived is taken in so. What is left of its receives is forgotten.
    ///
    /// # Errors
    /// The path is not down; something is posted in rotation; or a part of the sequence was lost, which no path can mend.
    pub fn readmit(&self, path: u32) -> Result<(), Refusal> {
        let found = self.paths.get(wide(path)).ok_or(CallError::UnknownPath)?;
        if let Some(cause) = self.broken() {
            return Err(Refusal::Down(cause));
        }
        if found.health.get() != Health::Down {
            return Err(CallError::NotDown.into());
        }
        if self.state.get() != State::Open {
            return Err(CallError::Closing.into());
        }
        if self.has_rotated.get() {
            if self.send.len() > 0 || self.recv.len() > 0 {
                return Err(CallError::NotIdle.into());
            }
            self.begin_turns();
        }
        while let Some(entry) = found.recvs.pop() {
            self.lose_recv(&entry, Cause::Closed);
        }
        found.is_silent.set(false);
        found.since.set(self.clock.get());
        self.roomy.set(self.roomy.get() | bit(path));
        self.set_health(path, Health::Recovered);
        if matches!(self.mode, Mode::Sequence(_)) {
            found.owed.set(self.config.recv_depth);
            self.recv.owe(path);
            self.replenish();
        }
        Ok(())
    }

    /// Ends it: what no device has yet fails with [`Cause::Closed`], what is on its way is waited for, or taken for flushed
    /// after `VqpConfig::flush_after`. Put the queue pairs into the error state for receives to be flushed at once.
    /// Everything is reported as ever; then [`VirtualCq::detach`](super::VirtualCq::detach) lets go of it.
    pub fn close(&self) {
        self.state.set(State::Closing);
        for (at, path) in (0..NIL).zip(self.paths) {
            let _known = self.exclude(at);
            // Receives that a path has kept are let go of in time.
            if path.health.get() == Health::Down && !path.is_empty() {
                path.since.set(self.clock.get());
                self.set_health(at, Health::Draining);
            }
        }
        let _steps = self.pump(u32::MAX);
    }

    /// What is not over yet; nothing of it, and it can be detached.
    #[must_use]
    pub fn remains(&self) -> Remains {
        let in_flight = self.paths.iter().fold(0_u32, |sum, path| {
            sum.wrapping_add(path.sends.len()).wrapping_add(path.recvs.len())
        });
        Remains { sends: self.send.len(), recvs: self.recv.len(), in_flight }
    }

    /// Why it can do nothing more, if so: all its paths are gone, or the peer waits for what was lost.
    #[must_use]
    pub fn failure(&self) -> Option<Cause> {
        self.broken().or_else(|| (!self.is_any_up(self.data)).then(|| self.first_cause()))
    }

    /// How many paths there are; the one for notifications is the last.
    #[must_use]
    pub const fn path_count(&self) -> u32 {
        crate::table::count(self.paths.len())
    }

    /// What is known of a path.
    #[must_use]
    pub fn path(&self, path: u32) -> Option<PathFigures> {
        self.paths.get(wide(path)).map(Path::figures)
    }

    /// The number that the virtual completion queue gave it.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        self.slot.get()
    }
}

/// Bits of a work request's slot that say which path; the others say which virtual queue pair.
pub(super) const PATH_BITS: u32 = 6;

/// The set of one.
#[inline]
pub(super) const fn bit(number: u32) -> u64 {
    1_u64.wrapping_shl(number)
}

/// The set of all below `count`.
const fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { bit(count).wrapping_sub(1) }
}

/// The least of a set.
#[inline]
pub(super) const fn lowest(set: u64) -> Option<u32> {
    if set == 0 { None } else { Some(set.trailing_zeros()) }
}
