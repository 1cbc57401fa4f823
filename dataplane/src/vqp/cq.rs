//! The virtual completion queue: polls the completion queues of the devices, and hands out what is over.
//!
//! ```text
//!   device 0: CQ ---\                       /--> virtual QP 0: paths, rows --\
//!   device 1: CQ ----+-- wr_id, qp_num ----+---> virtual QP 1                 +--> Completion, one by one
//!   device 2: CQ ---/    checked            \--> virtual QP 2               --/
//! ```
//!
//! A completion is found its path by the `wr_id` that this room has given, and is taken only where the device it came from and the
//! number of the queue pair are that path's: numbers of queue pairs of two devices may be the same. All else is counted.
//!
//! A turn is bounded: by the completions (rounded up to 16 for each device) and posts of its budget, which the virtual queue pairs
//! share, and by a fixed number of those that are looked at although nothing came for them, for something to do and for the
//! times of their paths. Looks at the times go round: a new round begins every 100 us, and takes as many turns as it needs.

use core::cell::Cell;
use core::fmt;

use heapless::VecView;
use spinwire_layouts::shm::stats::PATH_SLOT_COUNT;
use spinwire_layouts::word::low;

use super::config::PlanError;
use super::path::Path;
use super::qp::{PATH_BITS, Remains, State, VirtualQp, bit};
use super::request::{Completion, Direction};
use crate::id::{Generation, OpTag, WrId};
use crate::poll::{Budget, Outcome, PathStats, Poll, StatsWriter};
use crate::raw::place::{Bump, Exhausted};
use crate::table::{BitSet, NIL, wide};
use crate::time::{Instant, Nanos};
use crate::verbs::{CompletionQueue, POLL_EACH_MAX, QueuePair, Wc};

/// Where the tag is in a `wr_id`, and which are ours.
const TAG_SHIFT: u32 = 56;
const SEND_TAG: u64 = tag_of(OpTag::VirtualSend);
const RECV_TAG: u64 = tag_of(OpTag::VirtualRecv);
/// Completions that one virtual queue pair hands out before another has its turn.
const BURST: u32 = 16;
/// Virtual queue pairs that a turn looks at although nothing came for them.
const VISITS: u32 = 16;
/// Virtual queue pairs of one virtual completion queue at most.
const SLOTS_MAX: u32 = 1 << (32 - PATH_BITS);
/// How often the times of paths are looked at.
pub(super) const TICK: Nanos = Nanos::from_micros(100);

/// Completions that belonged to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strays {
    /// Their id, device or queue pair is of no path.
    pub unknown: u64,
    /// They were late, repeated, or out of order.
    pub stale: u64,
}

/// Where a completion belongs.
struct Way<'m, P: QueuePair> {
    /// The lower half of its id: virtual queue pair and path.
    slot: u32,
    at: u32,
    vqp: &'m VirtualQp<'m, P>,
    path: &'m Path<'m, P>,
}

impl<P: QueuePair> Clone for Way<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: QueuePair> Copy for Way<'_, P> {}

/// Completion queues of several devices that act as one. One thread.
pub struct VirtualCq<'m, P: QueuePair, C> {
    cqs: &'m [(C, u32)],
    slots: &'m [Cell<Option<&'m VirtualQp<'m, P>>>],
    /// Those with completions since they were last served, and those that may have something to hand out.
    touched: BitSet<'m>,
    ready: BitSet<'m>,
    first_cq: Cell<usize>,
    /// Who is next: to be served, to be looked at, to have its times looked at.
    served: Cell<u32>,
    visit: Cell<u32>,
    sweep: Cell<u32>,
    taking: Cell<u32>,
    /// The one that is being emptied, and how many it may hand out yet before another has its turn.
    current: Cell<Option<&'m VirtualQp<'m, P>>>,
    burst: Cell<u32>,
    tick: Cell<Instant>,
    serial: Cell<u32>,
    /// Those that are served.
    live: BitSet<'m>,
    strays: Cell<Strays>,
    /// The next row of the stats page, the path that is shown there, and when a round of rows begins.
    row: Cell<usize>,
    shown: Cell<(u32, u32)>,
    round: Cell<Instant>,
}

impl<P: QueuePair, C> fmt::Debug for VirtualCq<'_, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualCq")
            .field("cqs", &self.cqs.len())
            .field("attached", &self.live.count())
            .finish_non_exhaustive()
    }
}

impl<'m, P: QueuePair, C: CompletionQueue> VirtualCq<'m, P, C> {
    /// Places one over `cqs`, each with the number of its device, for `capacity` virtual queue pairs.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, cqs: &[(C, u32)], capacity: u32) -> Result<&'m Self, Exhausted>
    where
        C: Clone,
    {
        let too_large = Exhausted { wanted_bytes: usize::MAX, free_bytes: bump.free_bytes() };
        let first = cqs.first().ok_or(too_large)?;
        let capacity = capacity.clamp(1, SLOTS_MAX);
        let vcq = Self {
            cqs: bump.slice_with(cqs.len(), |at| cqs.get(at).unwrap_or(first).clone())?,
            slots: bump.slice_with(wide(capacity), |_| Cell::new(None))?,
            touched: BitSet::place(bump, capacity)?,
            ready: BitSet::place(bump, capacity)?,
            first_cq: Cell::new(0),
            served: Cell::new(0),
            visit: Cell::new(0),
            sweep: Cell::new(0),
            taking: Cell::new(0),
            current: Cell::new(None),
            burst: Cell::new(0),
            tick: Cell::new(Instant::ORIGIN),
            serial: Cell::new(0),
            live: BitSet::place(bump, capacity)?,
            strays: Cell::new(Strays::default()),
            row: Cell::new(0),
            shown: Cell::new((0, 0)),
            round: Cell::new(Instant::ORIGIN),
        };
        Ok(bump.value(vcq)?)
    }

    /// Serves `vqp` from now on, and gives it its number. In DQPLB its receives of no bytes are posted.
    ///
    /// # Errors
    /// A completion queue could overflow: then the relation of sizes that does not hold; or there is no room.
    pub fn attach(&self, vqp: &'m VirtualQp<'m, P>) -> Result<u32, PlanError> {
        if vqp.state.get() != State::Detached {
            return Err(PlanError::Attached);
        }
        let found = (0..NIL).zip(self.slots).find(|(_, slot)| slot.get().is_none());
        let (number, slot) = found.ok_or(PlanError::NoRoom)?;
        for path in vqp.paths {
            if !self.cqs.iter().any(|(_, device)| *device == path.device) {
                return Err(PlanError::NoCq { device: path.device });
            }
        }
        for (cq, device) in self.cqs {
            let others = self.slots.iter().filter_map(Cell::get);
            let wanted = others.chain([vqp]).fold(0_u64, |sum, vqp| {
                let depths = vqp.config.send_depth.saturating_add(vqp.config.recv_depth);
                let here = vqp.paths.iter().filter(|path| path.device == *device);
                here.fold(sum, |sum, _| sum.saturating_add(u64::from(depths)))
            });
            if wanted > u64::from(cq.depth()) {
                return Err(PlanError::CqTooSmall { device: *device, wanted, depth: cq.depth() });
            }
        }
        slot.set(Some(vqp));
        let _known = self.live.insert(number);
        self.serial.set(self.serial.get().wrapping_add(1));
        vqp.open(number, self.serial.get());
        vqp.ring_doorbell();
        Ok(number)
    }

    /// Lets go of a virtual queue pair that was closed and has nothing left; it stays closed.
    ///
    /// # Errors
    /// What is not over yet. Nothing was changed: turn and take until it is.
    pub fn detach(&self, vqp: &VirtualQp<'m, P>) -> Result<(), Remains> {
        let remains = vqp.remains();
        if vqp.state.get() != State::Closing || remains != Remains::default() {
            return Err(remains);
        }
        let slot = self.slots.get(wide(vqp.slot()));
        if let Some(slot) = slot.filter(|slot| slot.get().is_some_and(|it| core::ptr::eq(it, vqp)))
        {
            slot.set(None);
            self.current.set(None);
            let _known = self.live.remove(vqp.slot());
        }
        Ok(())
    }

    /// Takes up to `budget` completions of the devices in. Says how many there were.
    #[inline]
    fn harvest(&self, budget: u32) -> u32 {
        let count = self.cqs.len();
        let first = self.first_cq.get();
        let mut left = budget;
        for step in 0..count {
            let at = first.wrapping_add(step);
            let at = if at >= count { at.wrapping_sub(count) } else { at };
            let Some((cq, device)) = self.cqs.get(at) else { break };
            // What is left is shared out, so that no device waits for another.
            let rest = crate::table::count(count.wrapping_sub(step));
            let mut share = if rest > 1 { left.div_ceil(rest) } else { left };
            let mut last = None;
            while share > 0 {
                let seen = cq.poll_each(|wc| self.route(wc, *device, &mut last));
                let is_all = seen < POLL_EACH_MAX;
                let seen = crate::table::count(seen);
                left = left.saturating_sub(seen);
                share = if is_all { 0 } else { share.saturating_sub(seen) };
            }
            if left == 0 {
                break;
            }
        }
        let next = first.wrapping_add(1);
        self.first_cq.set(if next >= count { 0 } else { next });
        budget.wrapping_sub(left)
    }

    /// Takes in one completion. `last` is where the one before belonged.
    #[inline(always)]
    fn route(&self, wc: &Wc, device: u32, last: &mut Option<Way<'m, P>>) {
        let raw = wc.wr_id().as_raw();
        let slot = low(raw);
        let way = match last {
            Some(way) if way.slot == slot => *way,
            _ => {
                let Some(way) = self.way_to(slot, device, last.as_ref()) else {
                    return self.stray();
                };
                *last = Some(way);
                way
            }
        };
        let Way { at, vqp, path, .. } = way;
        if path.qp_num != wc.qp_num() {
            return self.stray();
        }
        // No receive is called as a send is.
        if !vqp.on_send_wc((at, path), wc) && !vqp.on_recv_wc((at, path), wc) {
            self.route_stray(&way, wc);
        }
    }

    /// What is neither the oldest send of its path nor the oldest receive.
    #[cold]
    fn route_stray(&self, way: &Way<'m, P>, wc: &Wc) {
        let direction = match wc.wr_id().as_raw().wrapping_shr(TAG_SHIFT) {
            SEND_TAG => Direction::Send,
            RECV_TAG => Direction::Recv,
            _ => return self.stray(),
        };
        way.vqp.on_stray_wc((way.at, way.path), direction, wc);
        let strays = self.strays.get();
        self.strays.set(Strays { stale: strays.stale.wrapping_add(1), ..strays });
    }

    /// Where completions of `device` with such a slot in their id belong.
    #[inline]
    fn way_to(&self, slot: u32, device: u32, last: Option<&Way<'m, P>>) -> Option<Way<'m, P>> {
        let number = slot.wrapping_shr(PATH_BITS);
        let at = slot & (1_u32.wrapping_shl(PATH_BITS).wrapping_sub(1));
        let vqp = match last {
            Some(way) if way.slot.wrapping_shr(PATH_BITS) == number => way.vqp,
            _ => {
                let vqp = self.get(number)?;
                // Numbers of slots are below the capacity of the set.
                let _known = self.touched.insert(number);
                vqp
            }
        };
        let path = vqp.paths.get(wide(at)).filter(|path| path.device == device)?;
        Some(Way { slot, at, vqp, path })
    }

    #[cold]
    fn stray(&self) {
        let strays = self.strays.get();
        self.strays.set(Strays { unknown: strays.unknown.wrapping_add(1), ..strays });
    }

    /// Lets all that were touched go on, with so many posts together. Who comes after the one that has used up the last of them is
    /// the first of the next turn. Says whether somebody has more to do.
    #[inline]
    fn serve(&self, posts: u32) -> bool {
        !self.touched.is_empty() && self.serve_touched(posts)
    }

    fn serve_touched(&self, mut posts: u32) -> bool {
        let mut is_more = false;
        let mut at = self.served.get();
        // As many as are touched now: who is touched again by serving waits for the next turn.
        for _ in 0..self.touched.count() {
            let Some(number) = self.touched.next_from(at) else { break };
            at = number.wrapping_add(1);
            let _known = self.touched.remove(number);
            let Some(vqp) = self.get(number) else { continue };
            let taken = vqp.progress(posts);
            if taken > 0 && taken == posts {
                self.served.set(at);
            }
            posts = posts.wrapping_sub(taken);
            let _known = self.ready.insert(number);
            if posts == 0 && vqp.wants_turn() {
                is_more = true;
                let _known = self.touched.insert(number);
            }
        }
        is_more
    }

    /// Touches those that have something to do although nothing came for them: of a few.
    #[inline]
    fn visit(&self) {
        for _ in 0..VISITS.min(self.live.count()) {
            let Some(number) = self.live.next_from(self.visit.get()) else { break };
            self.visit.set(number.wrapping_add(1));
            if self.get(number).is_some_and(VirtualQp::wants_turn) {
                let _known = self.touched.insert(number);
            }
        }
    }

    /// Looks at the times of a few.
    fn look_at_times(&self, now: Instant) {
        for _ in 0..VISITS {
            let Some(number) = self.live.first_at_least(self.sweep.get()) else {
                self.sweep.set(0);
                self.tick.set(now.saturating_add(TICK));
                break;
            };
            self.sweep.set(number.wrapping_add(1));
            if self.get(number).is_some_and(|vqp| vqp.on_time(now)) {
                let _known = self.touched.insert(number);
            }
        }
    }

    /// The next request that is over. In posting order of each direction of each virtual queue pair, these by turns.
    #[inline(always)]
    pub fn take(&self) -> Option<Completion> {
        if let Some(vqp) = self.current.get() {
            let burst = self.burst.get();
            if burst > 0
                && let Some((context, done)) = vqp.take_plain()
            {
                self.burst.set(burst.wrapping_sub(1));
                let (vqp, direction) = (vqp.slot(), Direction::Send);
                return Some(Completion { vqp, direction, context, outcome: Ok(done) });
            }
        }
        self.take_any()
    }

    /// The same, whatever it is.
    #[inline(never)]
    fn take_any(&self) -> Option<Completion> {
        if let Some(vqp) = self.current.get() {
            let burst = self.burst.get();
            if burst > 0
                && let Some(completion) = vqp.take()
            {
                self.burst.set(burst.wrapping_sub(1));
                return Some(completion);
            }
        }
        self.take_from_next()
    }

    fn take_from_next(&self) -> Option<Completion> {
        self.current.set(None);
        while let Some(number) = self.ready.next_from(self.taking.get()) {
            let vqp = self.slots.get(wide(number)).and_then(Cell::get);
            if let Some(vqp) = vqp
                && let Some(completion) = vqp.take()
            {
                self.taking.set(number.wrapping_add(1));
                self.current.set(Some(vqp));
                self.burst.set(BURST);
                return Some(completion);
            }
            let _known = self.ready.remove(number);
        }
        None
    }

    /// A turn with [`Budget::DEFAULT`], then takes what is over until there is no more, or `out` is full.
    pub fn poll_cq(&self, now: Instant, out: &mut VecView<Completion>) {
        let _busy_or_idle = self.turn(now, Budget::DEFAULT);
        while !out.is_full() {
            let Some(completion) = self.take() else { break };
            // There is room: it is not full.
            let _fits = out.push(completion);
        }
    }

    /// Shows the paths on the stats page of the plane, a row at a time, in rounds as often as that is brought up to date. Once
    /// a turn; paths beyond its last row are not shown.
    pub fn publish(&self, page: &StatsWriter<'_>, now: Instant) {
        if now < self.round.get() {
            return;
        }
        let row = self.row.get();
        let path = self.next_shown();
        page.publish_path(row, path.as_ref());
        self.row.set(row.wrapping_add(1));
        // The rows behind the last path are cleared in the same round: one that was shown may be gone.
        if row.wrapping_add(1) >= PATH_SLOT_COUNT {
            self.row.set(0);
            self.shown.set((0, 0));
            self.round.set(now.saturating_add(page.interval()));
        }
    }

    /// The figures of the next path in order of numbers.
    fn next_shown(&self) -> Option<PathStats> {
        let (number, path) = self.shown.get();
        let number = self.live.first_at_least(number)?;
        let path = if number == self.shown.get().0 { path } else { 0 };
        let vqp = self.get(number)?;
        let figures = vqp.path(path)?;
        let after = path.wrapping_add(1);
        let is_last = after >= vqp.path_count();
        self.shown.set(if is_last { (number.wrapping_add(1), 0) } else { (number, after) });
        Some(PathStats {
            vqp: number,
            path,
            device: figures.device,
            qp_num: figures.qp_num,
            health: figures.health.shown(),
            in_flight: figures.sends_in_flight,
            fragments: figures.fragments,
            bytes: figures.bytes,
            errors: figures.errors,
            stale: figures.stale,
        })
    }

    /// Completions that belonged to nobody.
    #[must_use]
    pub const fn strays(&self) -> Strays {
        self.strays.get()
    }

    /// Virtual queue pairs that are served.
    #[must_use]
    pub const fn attached(&self) -> u32 {
        self.live.count()
    }

    /// Devices whose completion queues are polled, as a set.
    #[must_use]
    pub fn devices(&self) -> u64 {
        self.cqs.iter().fold(0, |set, (_, device)| set | bit(*device))
    }

    /// The virtual queue pair of that number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&'m VirtualQp<'m, P>> {
        self.slots.get(wide(number))?.get()
    }
}

impl<P: QueuePair, C: CompletionQueue> Poll for VirtualCq<'_, P, C> {
    #[inline]
    fn turn(&self, now: Instant, budget: Budget) -> Outcome {
        let seen = self.harvest(budget.completions);
        self.visit();
        if now >= self.tick.get() {
            self.look_at_times(now);
        }
        let is_more = self.serve(budget.posts);
        if seen > 0 || is_more || !self.ready.is_empty() { Outcome::Busy } else { Outcome::Idle }
    }

    #[inline]
    fn poll_at(&self) -> Option<Instant> {
        (self.attached() > 0).then(|| self.tick.get())
    }
}

const fn tag_of(tag: OpTag) -> u64 {
    WrId::new(tag, Generation::FIRST, 0).as_raw().wrapping_shr(TAG_SHIFT)
}
