//! Both queues of one ring, for one thread.

use core::cell::Cell;

use spinwire_layouts::uring::{Cqe, Sqe, enter, op, setup, sq_flags, sqe};
use spinwire_layouts::word::{join, to_usize, widen};

use super::memory::RingMemory;
use super::{Enter, EnterError, Paths};
use crate::error::{Fatal, Misuse, PostError, Retry};
use crate::raw::barrier;
use crate::raw::kernel_memory::KernelMemory;
use crate::raw::line::Line;
use crate::sync::Ordering;

/// Longest chain of linked entries.
pub const CHAIN_MAX: usize = 64;

/// `ECANCELED` of errno(3), as the kernel gives it for what followed a broken link.
const CANCELLED: i32 = -125;
/// `user_data` of entries of which nobody wants to hear. No [`WrId`](crate::id::WrId) is 0.
pub const UNHEARD: u64 = 0;

/// How often a thread of the kernel is waited for at the end of a ring, where completions that nobody takes end the wait at once.
const HAND_OVER_TRIES_MAX: u32 = 1 << 16;

const LINKED: u8 = sqe::IO_LINK | sqe::IO_HARDLINK;

/// How the kernel was asked to run the ring: the flags that a turn has to know of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingModes {
    /// A thread of the kernel takes entries by itself (`SQPOLL`).
    pub sq_poll: bool,
    /// Task work runs only where the ring is entered for events (`DEFER_TASKRUN`).
    pub defer_taskrun: bool,
}

impl RingModes {
    /// Those of `flags` of io_uring_setup(2).
    #[must_use]
    pub const fn of(flags: u32) -> Self {
        Self {
            sq_poll: flags & setup::SQPOLL != 0,
            defer_taskrun: flags & setup::DEFER_TASKRUN != 0,
        }
    }
}

/// What a call of [`Ring::submit`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Submitted {
    /// Whether the kernel was entered.
    pub entered: bool,
    /// Entries that the kernel has taken.
    pub taken: u32,
    /// Why it took none.
    pub error: Option<EnterError>,
}

/// What a ring has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingCounters {
    /// System calls.
    pub enters: u64,
    /// Entries that the kernel has taken.
    pub taken: u64,
    /// Completions that were harvested.
    pub harvested: u64,
    /// Calls that were answered by `EBUSY`, `EAGAIN` or `EINTR`.
    pub pushed_back: u64,
    /// Entries of chains that the kernel had not taken whole, which ended as `ECANCELED`.
    pub cut: u64,
    /// Times that completions had to wait in the kernel because the queue was full.
    pub overflows: u64,
}

/// One ring of io_uring. Belongs to one thread, which alone may enter it (`SINGLE_ISSUER`).
#[derive(Debug)]
pub struct Ring<'m, E> {
    memory: RingMemory<'m>,
    arena: KernelMemory<'m>,
    enter: E,
    modes: RingModes,
    paths: Paths,
    /// Where the next entry goes, and up to where the kernel was told.
    staged: Cell<u32>,
    published: Cell<u32>,
    /// Up to where the kernel was seen to have taken entries.
    taken: Cell<u32>,
    cq_head: Cell<u32>,
    /// Entries of both queues.
    sq_entries: u32,
    cq_entries: u32,
    /// Up to where the kernel's thread was told to look, when it was last woken.
    woken_for: Cell<Option<u32>>,
    /// What of a cut chain is still to be reported.
    cut: [Cell<u64>; CHAIN_MAX],
    cut_count: Cell<usize>,
    fatal: Cell<Option<i32>>,
    /// Services that were placed on it.
    services: Cell<u32>,
    counters: Cell<RingCounters>,
}

impl<'m, E: Enter> Ring<'m, E> {
    /// A ring that was just set up, or one that was used and left at rest. Whatever its submissions name lies in `arena`.
    pub fn new(memory: RingMemory<'m>, arena: KernelMemory<'m>, enter: E) -> Self {
        let tail = memory.sq_tail.load(Ordering::Relaxed);
        Self {
            modes: RingModes::of(memory.setup),
            paths: Paths::of_setup(memory.setup),
            staged: Cell::new(tail),
            published: Cell::new(tail),
            taken: Cell::new(memory.sq_head.load(Ordering::Acquire)),
            sq_entries: memory.sq_entries(),
            cq_entries: memory.cq_entries(),
            cq_head: Cell::new(memory.cq_head.load(Ordering::Relaxed)),
            woken_for: Cell::new(None),
            cut: [const { Cell::new(UNHEARD) }; CHAIN_MAX],
            cut_count: Cell::new(0),
            fatal: Cell::new(None),
            services: Cell::new(0),
            counters: Cell::new(RingCounters::default()),
            memory,
            arena,
            enter,
        }
    }

    /// How it was set up.
    #[must_use]
    pub const fn modes(&self) -> RingModes {
        self.modes
    }

    /// The ring, on which the host has seen to these ways besides those of the set-up.
    #[must_use]
    pub fn with_paths(self, paths: Paths) -> Self {
        Self { paths: self.paths.with(paths), ..self }
    }

    /// Which ways through the kernel it takes.
    #[must_use]
    pub const fn paths(&self) -> Paths {
        self.paths
    }

    /// By what it enters the kernel.
    #[must_use]
    pub const fn enter(&self) -> &E {
        &self.enter
    }

    /// The memory that its submissions may name.
    #[must_use]
    pub const fn arena(&self) -> &KernelMemory<'m> {
        &self.arena
    }

    /// What it has done so far.
    #[must_use]
    pub const fn counters(&self) -> RingCounters {
        self.counters.get()
    }

    /// Entries of the submission queue, and of the completion queue.
    #[must_use]
    pub const fn entries(&self) -> (u32, u32) {
        (self.sq_entries, self.cq_entries)
    }

    /// The errno(3) that made the ring unusable.
    #[must_use]
    pub const fn fatal(&self) -> Option<i32> {
        self.fatal.get()
    }

    /// Entries that can be pushed now.
    #[must_use]
    #[inline]
    pub fn room(&self) -> u32 {
        let used = self.staged.get().wrapping_sub(self.taken.get());
        let room = self.sq_entries.saturating_sub(used);
        if room == 0 { self.room_anew() } else { room }
    }

    #[inline(never)]
    fn room_anew(&self) -> u32 {
        self.see_taken();
        let used = self.staged.get().wrapping_sub(self.taken.get());
        self.sq_entries.saturating_sub(used)
    }

    /// Where the kernel is.
    fn see_taken(&self) -> u32 {
        // With the kernel: Acquire pairs with the Release store of the kernel, which has read the entries before.
        let head = self.memory.sq_head.load(Ordering::Acquire);
        // What cannot be is not believed: neither behind what it had taken nor ahead of what it was told.
        let behind = self.published.get().wrapping_sub(head);
        if behind <= self.published.get().wrapping_sub(self.taken.get()) {
            self.taken.set(head);
        }
        self.taken.get()
    }

    /// Stages entries, all or none. They are seen by nobody before [`submit`](Self::submit). Entries that are linked have to come in
    /// one call, the last of them without a link.
    ///
    /// Not for callers outside of this crate: an entry can have the kernel write anywhere. Those have
    /// [`push`](crate::raw::kernel_memory::push).
    ///
    /// # Errors
    /// `SqFull`; `TooLong` for more than [`CHAIN_MAX`] or than the queue has; `Fatal` where the ring is unusable.
    #[inline]
    pub(crate) fn push(&self, entries: &[Sqe]) -> Result<(), PostError> {
        let count = crate::table::count(entries.len());
        if self.room() < count {
            return Err(self.refusal(count));
        }
        if let [.., last] = entries
            && (last.flags & LINKED != 0 || entries.len() > CHAIN_MAX || self.fatal.get().is_some())
        {
            return Err(self.refusal(count));
        }
        let mut position = self.staged.get();
        for entry in entries {
            if let Some(place) = self.sqe(position) {
                write(place, entry);
            }
            position = position.wrapping_add(1);
        }
        self.staged.set(position);
        Ok(())
    }

    /// The place of the next entry, for one that is not linked: room for it is there before it is made.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    #[inline(always)]
    pub(crate) fn reserve(&self) -> Result<Reserved<'_, 'm>, PostError> {
        let place = self.sqe(self.staged.get());
        match place {
            Some(place) if self.room() > 0 && self.fatal.get().is_none() => {
                Ok(Reserved { staged: &self.staged, place })
            }
            _ => Err(self.refusal(1)),
        }
    }

    #[cold]
    fn refusal(&self, count: u32) -> PostError {
        if self.fatal.get().is_some() {
            Fatal::RingLost.into()
        } else if count > self.sq_entries || to_usize(widen(count)) > CHAIN_MAX {
            Misuse::TooLong.into()
        } else if self.room() < count {
            Retry::SqFull.into()
        } else {
            Misuse::OpenChain.into()
        }
    }

    #[inline(always)]
    fn sqe(&self, position: u32) -> Option<&'m Line> {
        let mask = self.memory.sqes.len().wrapping_sub(1);
        self.memory.sqes.get(to_usize(widen(position)) & mask)
    }

    /// Whether there is anything to harvest, or the kernel wants to be entered.
    #[must_use]
    #[inline(always)]
    pub fn has_news(&self) -> bool {
        self.memory.cq_tail.load(Ordering::Relaxed) != self.cq_head.get()
            || self.memory.sq_flags.load(Ordering::Relaxed)
                & (sq_flags::TASKRUN | sq_flags::CQ_OVERFLOW)
                != 0
            || self.cut_count.get() != 0
    }

    /// Whether entries are staged that the kernel has not taken.
    #[must_use]
    #[inline(always)]
    pub const fn has_staged(&self) -> bool {
        self.staged.get() != self.taken.get()
    }

    /// Publishes what was staged, and enters the kernel at most once: to have it taken, to run what is due, or to wake its thread.
    /// To be called once a turn, after the harvest.
    #[inline(always)]
    pub fn submit(&self) -> Submitted {
        let tail = self.staged.get();
        if tail != self.published.get() {
            // With the kernel: Release pairs with the Acquire load of the kernel: the entries are written.
            self.memory.sq_tail.store(tail, Ordering::Release);
            self.published.set(tail);
        }
        let flags = self.memory.sq_flags.load(Ordering::Relaxed);
        let due = flags & (sq_flags::TASKRUN | sq_flags::CQ_OVERFLOW) != 0;
        if self.modes.sq_poll {
            return self.wake(due);
        }
        let pending = tail.wrapping_sub(self.taken.get());
        // What was cut is reported before anything more can be.
        if (pending == 0 && !due) || self.cut_count.get() != 0 || self.fatal.get().is_some() {
            return Submitted::default();
        }
        self.submit_pending(tail, flags)
    }

    /// Enters the kernel, with what lies before `tail` and for what its flags say is due.
    #[inline(never)]
    fn submit_pending(&self, tail: u32, flags: u32) -> Submitted {
        let due = flags & (sq_flags::TASKRUN | sq_flags::CQ_OVERFLOW) != 0;
        let pending = tail.wrapping_sub(self.taken.get());
        if flags & sq_flags::CQ_OVERFLOW != 0 {
            self.count(|counters| counters.overflows = counters.overflows.wrapping_add(1));
        }
        let events = if due || self.modes.defer_taskrun { enter::GETEVENTS } else { 0 };
        let submitted = self.call(pending, events);
        if self.see_taken() != tail {
            self.cut_broken_chain();
        }
        submitted
    }

    /// As [`submit`](Self::submit), at the end: a thread of the kernel is waited for until it has taken everything, as it takes nothing any more
    /// of a ring that is closed.
    #[cold]
    pub(crate) fn hand_over(&self) {
        let _submitted = self.submit();
        if !self.modes.sq_poll || !self.has_staged() {
            return;
        }
        // It completes when all before it was begun; so there is something to wait for.
        let last = Sqe { opcode: op::NOP, user_data: UNHEARD, ..Sqe::ZERO };
        let min_complete = u32::from(self.push(&[last]).is_ok());
        for _ in 0..HAND_OVER_TRIES_MAX {
            let _woken = self.submit();
            if !self.has_staged() || self.fatal.get().is_some() {
                return;
            }
            let _looked_at_again = self.enter.enter(0, min_complete, enter::GETEVENTS);
        }
    }

    /// With a thread of the kernel: wakes it where it sleeps, once for what it has not seen.
    #[inline(never)]
    fn wake(&self, due: bool) -> Submitted {
        self.see_taken();
        // With the kernel: the full fence orders the tail before the look at the flag; the kernel's thread sets the flag, then
        // has a full fence, then looks at the tail (io_uring_setup(2), IORING_SQ_NEED_WAKEUP).
        barrier::store_before_load();
        let asleep = self.memory.sq_flags.load(Ordering::Relaxed) & sq_flags::NEED_WAKEUP != 0;
        let tail = self.published.get();
        let pending = tail.wrapping_sub(self.taken.get());
        // Who was woken after the tail was published looks at it, however long it takes to run, and has the flag set until then.
        let wakes = asleep && pending != 0 && self.woken_for.get() != Some(tail);
        let wake = if wakes { enter::SQ_WAKEUP } else { 0 };
        let events = if due { enter::GETEVENTS } else { 0 };
        if wake | events == 0 || self.fatal.get().is_some() {
            return Submitted::default();
        }
        let submitted = self.call(pending, wake | events);
        if wakes && submitted.error.is_none() {
            self.woken_for.set(Some(tail));
        }
        submitted
    }

    #[inline(always)]
    fn call(&self, pending: u32, flags: u32) -> Submitted {
        let answer = self.enter.enter(pending, 0, flags);
        self.count(|counters| counters.enters = counters.enters.wrapping_add(1));
        match answer {
            Ok(taken) => {
                self.count(|c| c.taken = c.taken.wrapping_add(u64::from(taken)));
                Submitted { entered: true, taken, error: None }
            }
            Err(error) => {
                match error {
                    EnterError::Fatal(errno) => self.fatal.set(Some(errno)),
                    EnterError::Busy | EnterError::Again | EnterError::Interrupted => {
                        self.count(|c| c.pushed_back = c.pushed_back.wrapping_add(1))
                    }
                }
                Submitted { entered: true, taken: 0, error: Some(error) }
            }
        }
    }

    /// The kernel has stopped before the end, as it does where it has no memory for a request. Where that is in the middle of a
    /// chain, what it has taken is a chain of its own by now: the rest must not run without it, and ends here.
    #[cold]
    fn cut_broken_chain(&self) {
        let head = self.taken.get();
        let before = self.sqe(head.wrapping_sub(1)).map_or(0, flags_of);
        let mut position = head;
        let mut linked = before & LINKED != 0;
        while linked && position != self.published.get() {
            let Some(place) = self.sqe(position) else { break };
            linked = flags_of(place) & LINKED != 0;
            self.keep_cut(user_data_of(place));
            let nothing = Sqe { opcode: op::NOP, user_data: UNHEARD, ..Sqe::ZERO };
            write(place, &nothing);
            position = position.wrapping_add(1);
        }
    }

    fn keep_cut(&self, user_data: u64) {
        let count = self.cut_count.get();
        if let Some(place) = self.cut.get(count) {
            place.set(user_data);
            self.cut_count.set(count.wrapping_add(1));
            self.count(|counters| counters.cut = counters.cut.wrapping_add(1));
        }
    }

    /// Hands out up to about `max` completions, in the order of the kernel. Returns how many. `each` may push.
    #[inline(always)]
    pub fn harvest(&self, max: u32, mut each: impl FnMut(Cqe)) -> u32 {
        if self.cut_count.get() != 0 {
            self.report_cut(&mut each);
        }
        let head = self.cq_head.get();
        // With the kernel: Acquire pairs with the Release store of the kernel: the completions are written.
        let tail = self.memory.cq_tail.load(Ordering::Acquire);
        let ready = tail.wrapping_sub(head).min(self.cq_entries);
        let count = ready.min(max);
        if count == 0 {
            return 0;
        }
        for index in 0..count {
            let cqe = self.cqe(head.wrapping_add(index));
            if cqe.user_data != UNHEARD {
                each(cqe);
            }
        }
        let next = head.wrapping_add(count);
        self.cq_head.set(next);
        // With the kernel: Release pairs with the Acquire load of the kernel: the completions are read.
        self.memory.cq_head.store(next, Ordering::Release);
        self.count(|c| c.harvested = c.harvested.wrapping_add(u64::from(count)));
        count
    }

    /// Completions that can be harvested.
    #[inline]
    pub(crate) fn ready(&self) -> u32 {
        let tail = self.memory.cq_tail.load(Ordering::Acquire);
        tail.wrapping_sub(self.cq_head.get()).min(self.cq_entries)
    }

    /// What a harvest would hand out, for a look. What was cut is not in it.
    pub(crate) fn unharvested(&self) -> impl Iterator<Item = Cqe> + '_ {
        (0..self.ready()).map(|index| self.cqe(self.cq_head.get().wrapping_add(index)))
    }

    /// As [`harvest`](Self::harvest), for a service that may not be alone on the ring: where there is another, it stops before the first
    /// completion that is not `own`, which stays where it is for that other.
    #[inline]
    pub(crate) fn harvest_own(
        &self,
        max: u32,
        own: impl Fn(u64) -> bool,
        each: impl FnMut(Cqe),
    ) -> u32 {
        let most = if self.services.get() > 1 { self.own_ones(max, own) } else { max };
        if most == 0 { 0 } else { self.harvest(most, each) }
    }

    /// How many completions, up to `max`, come before the first that is not `own`.
    #[cold]
    fn own_ones(&self, max: u32, own: impl Fn(u64) -> bool) -> u32 {
        let cut = self.cut.iter().take(self.cut_count.get()).map(Cell::get);
        if !cut.into_iter().all(&own) {
            return 0;
        }
        let head = self.cq_head.get();
        // With the kernel: Acquire pairs with the Release store of the kernel: the completions are written.
        let ready = self.memory.cq_tail.load(Ordering::Acquire).wrapping_sub(head);
        let most = ready.min(self.cq_entries).min(max);
        let mut count = 0_u32;
        while count < most {
            let user_data = self.cqe(head.wrapping_add(count)).user_data;
            if user_data != UNHEARD && !own(user_data) {
                break;
            }
            count = count.wrapping_add(1);
        }
        // What was cut is reported by the harvest, if there are no others either.
        if count == 0 && ready == 0 && self.cut_count.get() > 0 { 1 } else { count }
    }

    /// A service was placed on it, or is no more.
    pub(crate) fn joined(&self) {
        self.services.set(self.services.get().wrapping_add(1));
    }

    /// See [`joined`](Self::joined).
    pub(crate) fn left(&self) {
        self.services.set(self.services.get().saturating_sub(1));
    }

    #[cold]
    fn report_cut(&self, each: &mut impl FnMut(Cqe)) {
        let count = self.cut_count.replace(0);
        for place in self.cut.iter().take(count) {
            each(Cqe { user_data: place.replace(UNHEARD), res: CANCELLED, flags: 0 });
        }
    }

    #[inline(always)]
    fn cqe(&self, position: u32) -> Cqe {
        let place = position & self.cq_entries.wrapping_sub(1);
        let Some([low, high, res, flags]) = self.memory.cqes.get(to_usize(widen(place))) else {
            return Cqe { user_data: UNHEARD, res: 0, flags: 0 };
        };
        Cqe {
            user_data: join(low.load(Ordering::Relaxed), high.load(Ordering::Relaxed)),
            res: res.load(Ordering::Relaxed).cast_signed(),
            flags: flags.load(Ordering::Relaxed),
        }
    }

    /// Completions that the kernel lost, and entries that it refused to look at: 0 in a ring that is used as it should be.
    #[must_use]
    pub fn lost(&self) -> (u32, u32) {
        let overflow = self.memory.cq_overflow.load(Ordering::Relaxed);
        (overflow, self.memory.sq_dropped.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn count(&self, change: impl FnOnce(&mut RingCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

/// The place of the next entry of a submission queue. Dropped, it is as if it had not been asked for.
pub(crate) struct Reserved<'r, 'm> {
    staged: &'r Cell<u32>,
    place: &'m Line,
}

impl Reserved<'_, '_> {
    /// Stages the entry.
    #[inline(always)]
    pub(crate) fn stage(self, entry: &Sqe) {
        debug_assert!(entry.flags & LINKED == 0, "a link would go on in what comes next");
        write(self.place, entry);
        self.staged.set(self.staged.get().wrapping_add(1));
    }
}

/// Writes an entry word by word, each made in a register: read back from where its fields were stored one by one it would wait for all of those
/// stores.
#[inline(always)]
fn write(place: &Line, entry: &Sqe) {
    let [a, b] = entry.ioprio.to_le_bytes();
    let first = u32::from_le_bytes([entry.opcode, entry.flags, a, b]);
    let ([a, b], [c, d]) = (entry.buf_index.to_le_bytes(), entry.personality.to_le_bytes());
    let buffer = u32::from_le_bytes([a, b, c, d]);
    let words = [
        join(first, entry.fd.cast_unsigned()),
        entry.off,
        entry.addr,
        join(entry.len, entry.op_flags),
        entry.user_data,
        join(buffer, entry.file_index),
        entry.addr3,
        entry.reserved,
    ];
    for (place, word) in place.words().iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
}

fn flags_of(place: &Line) -> u8 {
    let [first, ..] = place.words();
    let [_opcode, flags, ..] = first.load(Ordering::Relaxed).to_le_bytes();
    flags
}

fn user_data_of(place: &Line) -> u64 {
    let [_, _, _, _, user_data, ..] = place.words();
    user_data.load(Ordering::Relaxed)
}
