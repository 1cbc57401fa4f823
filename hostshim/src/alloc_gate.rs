//! A gate before the heap: proof that a thread, once sealed, allocates nothing.
//!
//! A test or a tool makes [`CountingAlloc`] its global allocator, sets everything up, calls [`seal`] on the polling
//! thread, and turns. From then on every call of that thread into the heap is counted, or ends the process at once with a
//! fixed message and a core whose back trace names the culprit.
//!
//! ```
//! use spinwire_hostshim::alloc_gate::{self, CountingAlloc, OnUse};
//!
//! #[global_allocator]
//! static HEAP: CountingAlloc = CountingAlloc::new();
//!
//! let sealed = alloc_gate::seal(OnUse::Count);
//! let culprit = vec![1, 2, 3];
//! let counts = sealed.open();
//! assert_eq!(counts.allocations, 1);
//! assert_eq!(counts.bytes, 12);
//! assert_eq!(alloc_gate::is_installed(), true);
//! # drop(culprit);
//! ```
//!
//! Invariants: the state is per thread and const-initialised, so that looking at it allocates nothing itself; other
//! threads of the process are free to use the heap. A thread that panics may allocate, so that its message comes out.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::raw::gate::abort_with;

const MESSAGE_ALLOCATION: &[u8] = b"spinwire: a sealed thread allocated heap memory; \
run it in a debugger, the back trace of this abort names the call\n";
const MESSAGE_RELEASE: &[u8] = b"spinwire: a sealed thread released heap memory; \
run it in a debugger, the back trace of this abort names the call\n";

/// The system's allocator with a gate in front. Costs one thread-local look per call.
#[derive(Debug, Default, Clone, Copy)]
pub struct CountingAlloc(());

impl CountingAlloc {
    /// For `#[global_allocator] static`.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

/// What happens when a sealed thread uses the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUse {
    /// It is counted and goes on.
    Count,
    /// The process ends by SIGABRT with a message on standard error.
    Abort,
}

/// How often a thread used the heap while it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls of alloc, `alloc_zeroed` and realloc.
    pub allocations: u64,
    /// Calls of dealloc.
    pub releases: u64,
    /// Bytes asked for by those allocations.
    pub bytes: u64,
}

impl Counts {
    /// No use of the heap at all?
    #[must_use]
    pub const fn is_clean(self) -> bool {
        self.allocations == 0 && self.releases == 0
    }
}

pub(crate) enum Event {
    Allocation(usize),
    Release,
}

#[derive(Clone, Copy)]
struct Gate {
    rule: Option<OnUse>,
    counts: Counts,
    /// Calls into the heap by this thread, sealed or not: what tells that the gate is installed.
    seen: u64,
}

thread_local! {
    static GATE: Cell<Gate> = const {
        Cell::new(Gate { rule: None, counts: Counts { allocations: 0, releases: 0, bytes: 0 }, seen: 0 })
    };
}

/// Called by the allocator before every call.
#[inline]
pub(crate) fn note(event: Event) {
    // The value needs no destructor, so the thread-local is there for the thread's whole life and `try_with` cannot fail.
    let state = GATE.try_with(|cell| {
        let mut gate = cell.get();
        gate.seen = gate.seen.wrapping_add(1);
        if gate.rule.is_some() {
            match event {
                Event::Allocation(bytes) => {
                    gate.counts.allocations = gate.counts.allocations.wrapping_add(1);
                    gate.counts.bytes =
                        gate.counts.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                }
                Event::Release => gate.counts.releases = gate.counts.releases.wrapping_add(1),
            }
        }
        cell.set(gate);
        gate.rule
    });
    if let Ok(Some(OnUse::Abort)) = state
        && !std::thread::panicking()
    {
        abort_with(match event {
            Event::Allocation(_) => MESSAGE_ALLOCATION,
            Event::Release => MESSAGE_RELEASE,
        });
    }
}

/// A thread is sealed while this lives. Not `Send`: it belongs to the thread that it seals.
#[derive(Debug)]
#[must_use = "the thread is unsealed as soon as this is dropped"]
pub struct Sealed {
    thread: PhantomData<*const ()>,
}

/// Seals the calling thread and sets its counts to zero. Sealing again replaces the rule and the counts.
pub fn seal(rule: OnUse) -> Sealed {
    GATE.with(|cell| cell.set(Gate { rule: Some(rule), counts: Counts::default(), ..cell.get() }));
    Sealed { thread: PhantomData }
}

impl Sealed {
    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        GATE.with(|cell| cell.get().counts)
    }

    /// Unseals the thread and gives the counts.
    #[must_use]
    pub fn open(self) -> Counts {
        self.counts()
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        GATE.with(|cell| cell.set(Gate { rule: None, ..cell.get() }));
    }
}

/// Is [`CountingAlloc`] this process's allocator? A test that relies on the gate asks, because a gate that nobody
/// installed counts nothing and would pass everything.
#[must_use]
pub fn is_installed() -> bool {
    let before = GATE.with(|cell| cell.get().seen);
    drop(core::hint::black_box(Box::new(0_u8)));
    GATE.with(|cell| cell.get().seen) != before
}
