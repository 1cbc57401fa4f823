//! A kernel at the level of bytes: it reads submissions out of the memory of a ring, and writes completions into it, as io_uring
//! does, in whatever order a test wants.
//!
//! ```text
//!   Ring (the code under test)                FakeKernel
//!     sqes, tail  ---- enter(to_submit) --->  taken(): chains as the kernel would link them
//!     cqes, tail  <--- complete(..)  -------  at once; or with the next enter, where task work is deferred
//!                                             into a backlog, where the queue is full
//! ```

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

use spinwire_dataplane::error::PostError;
use spinwire_dataplane::raw::kernel_memory::{self, KernelMemory};
use spinwire_dataplane::raw::line::{self, Line};
use spinwire_dataplane::raw::place::Bump;
use spinwire_dataplane::sync::{AtomicU32, Ordering};
use spinwire_dataplane::uring::{BadRing, Enter, EnterError, Ring, RingMemory};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::uring::{
    CqOffsets, Cqe, Params, SqOffsets, Sqe, enter, setup, sq_flags, sqe,
};

/// What kind of kernel.
#[derive(Clone, Copy, Debug)]
pub struct FakeConfig {
    /// Entries of the submission queue: a power of two.
    pub sq_entries: u32,
    /// Entries of the completion queue: a power of two.
    pub cq_entries: u32,
    /// Flags of io_uring_setup(2).
    pub flags: u32,
    /// What all counters begin with, so that they wrap soon.
    pub start: u32,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            sq_entries: 8,
            cq_entries: 16,
            flags: setup::NO_SQARRAY,
            start: 0u32.wrapping_sub(5),
        }
    }
}

const SQ_HEAD: u32 = 0;
const SQ_TAIL: u32 = 4;
const CQ_HEAD: u32 = 8;
const CQ_TAIL: u32 = 12;
const SQ_FLAGS: u32 = 16;
const SQ_DROPPED: u32 = 20;
const CQ_OVERFLOW: u32 = 24;
const CQES: u32 = 64;

/// The kernel's side of one ring.
#[derive(Debug)]
pub struct FakeKernel {
    rings: Vec<AtomicU32>,
    sqes: Vec<Line>,
    params: Params,
    taken: RefCell<VecDeque<Vec<Sqe>>>,
    deferred: RefCell<VecDeque<Cqe>>,
    backlog: RefCell<VecDeque<Cqe>>,
    answers: RefCell<VecDeque<EnterError>>,
    take_max: Cell<u32>,
    enters: Cell<u64>,
    wakes: Cell<u32>,
}

impl FakeKernel {
    /// A ring of that kind.
    #[must_use]
    pub fn new(config: FakeConfig) -> Self {
        let cq_bytes = config.cq_entries * 16;
        let array = CQES + cq_bytes;
        let words = (array + config.sq_entries * 4) / 4;
        let zero = Params::ZERO;
        let params = Params {
            sq_entries: config.sq_entries,
            cq_entries: config.cq_entries,
            flags: config.flags,
            sq_off: SqOffsets {
                head: SQ_HEAD,
                tail: SQ_TAIL,
                flags: SQ_FLAGS,
                dropped: SQ_DROPPED,
                array,
                ..zero.sq_off
            },
            cq_off: CqOffsets {
                head: CQ_HEAD,
                tail: CQ_TAIL,
                overflow: CQ_OVERFLOW,
                cqes: CQES,
                ..zero.cq_off
            },
            ..zero
        };
        let kernel = Self {
            rings: (0..words).map(|_| AtomicU32::new(0)).collect(),
            sqes: (0..config.sq_entries).map(|_| Line::zeroed()).collect(),
            params,
            taken: RefCell::default(),
            deferred: RefCell::default(),
            backlog: RefCell::default(),
            answers: RefCell::default(),
            take_max: Cell::new(u32::MAX),
            enters: Cell::new(0),
            wakes: Cell::new(0),
        };
        for offset in [SQ_HEAD, SQ_TAIL, CQ_HEAD, CQ_TAIL] {
            kernel.word(offset).store(config.start, Ordering::Relaxed);
        }
        kernel
    }

    /// What the kernel says of the ring.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// All words of the rings, for a test that scribbles.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        &self.rings
    }

    /// The ring as a program sees it.
    ///
    /// # Errors
    /// [`BadRing`].
    pub fn memory(&self) -> Result<RingMemory<'_>, BadRing> {
        RingMemory::new(&self.rings, &self.sqes, &self.params)
    }

    /// Memory for its submissions, for as long as this kernel lives: it touches none after that.
    #[must_use]
    #[expect(unsafe_code, reason = "a fake of the kernel is told where memory is")]
    pub fn arena<'m>(&'m self, block: &'m mut [MaybeUninit<u8>]) -> KernelMemory<'m> {
        // SAFETY: this kernel touches memory only while it is called, which is within 'm, for which the block is borrowed.
        unsafe { KernelMemory::promise(Bump::new(block)) }
    }

    /// Stages entries in its ring.
    ///
    /// # Errors
    /// Those of the ring.
    #[expect(unsafe_code, reason = "a fake of the kernel does nothing by itself")]
    pub fn push(ring: &Ring<'_, &Self>, entries: &[Sqe]) -> Result<(), PostError> {
        // SAFETY: this kernel touches what an entry names only where a test has it do so.
        unsafe { kernel_memory::push(ring, entries) }
    }

    /// System calls so far.
    #[must_use]
    pub const fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// The next enters fail so, one after the other.
    pub fn answer_with(&self, errors: &[EnterError]) {
        self.answers.borrow_mut().extend(errors);
    }

    /// The next enter takes no more than that, as one that finds no memory for requests.
    pub fn take_at_most(&self, entries: u32) {
        self.take_max.set(entries);
    }

    /// The next chain that was taken; an entry without a link is a chain of one.
    #[must_use]
    pub fn taken(&self) -> Option<Vec<Sqe>> {
        self.taken.borrow_mut().pop_front()
    }

    /// A request completes.
    pub fn complete(&self, user_data: u64, res: i32, flags: u32) {
        let cqe = Cqe { user_data, res, flags };
        if self.params.flags & setup::DEFER_TASKRUN != 0 {
            self.deferred.borrow_mut().push_back(cqe);
            if self.params.flags & setup::TASKRUN_FLAG != 0 {
                self.word(SQ_FLAGS).fetch_or(sq_flags::TASKRUN, Ordering::Relaxed);
            }
        } else {
            self.post(cqe);
        }
    }

    /// Completions that wait in the kernel.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.deferred.borrow().len() + self.backlog.borrow().len()
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        &self.rings[usize::try_from(offset / 4).unwrap()]
    }

    fn post(&self, cqe: Cqe) {
        if !self.backlog.borrow().is_empty() || !self.write(&cqe) {
            self.backlog.borrow_mut().push_back(cqe);
            self.word(SQ_FLAGS).fetch_or(sq_flags::CQ_OVERFLOW, Ordering::Relaxed);
        }
    }

    fn write(&self, cqe: &Cqe) -> bool {
        let tail = self.word(CQ_TAIL).load(Ordering::Relaxed);
        let head = self.word(CQ_HEAD).load(Ordering::Acquire);
        if tail.wrapping_sub(head) >= self.params.cq_entries {
            return false;
        }
        let at = CQES + (tail & (self.params.cq_entries - 1)) * 16;
        for (index, bytes) in (0_u32..).zip(cqe.as_bytes().as_chunks::<4>().0) {
            self.word(at + index * 4).store(u32::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        self.word(CQ_TAIL).store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    fn run_task_work(&self) {
        self.word(SQ_FLAGS).fetch_and(!sq_flags::TASKRUN, Ordering::Relaxed);
        let due: Vec<Cqe> = self.deferred.borrow_mut().drain(..).collect();
        for cqe in due {
            self.post(cqe);
        }
    }

    fn flush_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(cqe) = backlog.front() {
            if !self.write(cqe) {
                return;
            }
            backlog.pop_front();
        }
        self.word(SQ_FLAGS).fetch_and(!sq_flags::CQ_OVERFLOW, Ordering::Relaxed);
    }

    /// The entry that the ring holds at that position, by way of the array of indices where there is one.
    fn sqe_at(&self, position: u32) -> Sqe {
        let mut index = position & (self.params.sq_entries - 1);
        if self.params.flags & setup::NO_SQARRAY == 0 {
            index = self.word(self.params.sq_off.array + index * 4).load(Ordering::Relaxed);
        }
        let mut bytes = [0; 64];
        let place = &self.sqes[usize::try_from(index).unwrap()];
        assert!(line::copy_out(core::slice::from_ref(place), 0, &mut bytes));
        Sqe::from_bytes(&bytes).unwrap()
    }
}

impl Enter for FakeKernel {
    fn enter(&self, to_submit: u32, _min_complete: u32, flags: u32) -> Result<u32, EnterError> {
        self.enters.set(self.enters.get() + 1);
        if let Some(error) = self.answers.borrow_mut().pop_front() {
            return Err(error);
        }
        let has_thread = self.params.flags & setup::SQPOLL != 0;
        // Whoever enters for a thread has nothing taken, and is told that all was.
        let count = if has_thread { to_submit } else { self.take(to_submit) };
        if flags & enter::SQ_WAKEUP != 0 {
            self.wakes.set(self.wakes.get() + 1);
        }
        if flags & enter::GETEVENTS != 0 {
            self.run_task_work();
            self.flush_backlog();
        }
        Ok(count)
    }
}

impl FakeKernel {
    /// Takes up to so many entries.
    fn take(&self, most: u32) -> u32 {
        let tail = self.word(SQ_TAIL).load(Ordering::Acquire);
        let mut head = self.word(SQ_HEAD).load(Ordering::Relaxed);
        let count = tail.wrapping_sub(head).min(most).min(self.take_max.replace(u32::MAX));
        let mut chain = Vec::new();
        for _ in 0..count {
            let entry = self.sqe_at(head);
            head = head.wrapping_add(1);
            chain.push(entry);
            if entry.flags & (sqe::IO_LINK | sqe::IO_HARDLINK) == 0 {
                self.taken.borrow_mut().push_back(core::mem::take(&mut chain));
            }
        }
        if !chain.is_empty() {
            // As the kernel does: what it has of a chain when it stops is a chain.
            self.taken.borrow_mut().push_back(chain);
        }
        self.word(SQ_HEAD).store(head, Ordering::Release);
        count
    }

    /// The thread that takes entries (`SQPOLL`) finds nothing, and sleeps.
    pub fn thread_sleeps(&self) {
        self.word(SQ_FLAGS).fetch_or(sq_flags::NEED_WAKEUP, Ordering::Relaxed);
    }

    /// It runs, if it is awake or was woken: takes what it finds. Says how often it was woken.
    pub fn thread_runs(&self) -> u32 {
        let asleep = self.word(SQ_FLAGS).load(Ordering::Relaxed) & sq_flags::NEED_WAKEUP != 0;
        let woken = self.wakes.replace(0);
        if !asleep || woken > 0 {
            self.word(SQ_FLAGS).fetch_and(!sq_flags::NEED_WAKEUP, Ordering::Relaxed);
            self.take(u32::MAX);
        }
        woken
    }
}
