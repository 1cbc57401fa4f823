//! Leases: the right of a live process to own things in a segment.
//!
//! ```text
//!            join (CAS)             filled in (CAS)       found dead, or leaves (CAS)
//!    Free ---------------> Claiming -----------> Live ---------------------> Dead --- reclaimed (CAS) ---> Free
//! ```
//!
//! A claim raises the generation and carries the pid in the same word, so that a process that dies while it joins is found
//! out like any other. A slot is free again only after everything that its process held was taken back, so whatever
//! names a process slot names this process for as long as it is not free.

use core::mem::offset_of;

use spinwire_layouts::shm::{Lease, LeaseState, ProcessEntry};
use spinwire_layouts::word::next_generation;

use crate::error::Retry;
use crate::raw::line::{LINE_BYTES, Line, word};
use crate::sync::{AtomicU64, Ordering};

/// A process slot that this process holds: its right to register endpoints and open lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessLease {
    slot: u16,
    word: u64,
}

impl ProcessLease {
    /// Which slot of the process table.
    #[must_use]
    pub const fn slot(&self) -> u16 {
        self.slot
    }

    /// The lease word, which names this stay of this process.
    #[must_use]
    pub const fn word(&self) -> u64 {
        self.word
    }
}

/// What a process entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessRow {
    /// Which slot of the process table.
    pub slot: u16,
    /// The lease: state, generation, pid.
    pub lease: Lease,
    /// Start time of the process, in clock ticks since boot; 0 while it is joining.
    pub start_time: u64,
    /// When it joined, in nanoseconds since 1970 UTC.
    pub joined_unix_ns: u64,
    /// Its command, padded with zeros. Foreign bytes: check before use.
    pub command: [u8; 64],
}

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    /// Process id.
    pub pid: u32,
    /// Start time, in clock ticks since boot.
    pub start_time: u64,
    /// Now, in nanoseconds since 1970 UTC.
    pub joined_unix_ns: u64,
    /// Command, padded with zeros.
    pub command: [u8; 64],
}

const LEASE: usize = offset_of!(ProcessEntry, lease) / 8;
const START_TIME: usize = offset_of!(ProcessEntry, start_time) / 8;
const JOINED: usize = offset_of!(ProcessEntry, joined_unix_ns) / 8;
const RINGS: usize = offset_of!(ProcessEntry, rings) / 8;
const COMMAND: usize = offset_of!(ProcessEntry, command) / 8;

/// The process table of a segment.
#[derive(Clone, Copy, Debug)]
pub struct ProcessTable<'s> {
    entries: &'s [[Line; ENTRY_LINES]],
}

const ENTRY_LINES: usize = size_of::<ProcessEntry>() / LINE_BYTES;

impl<'s> ProcessTable<'s> {
    /// The table in `lines`, which it fills.
    pub(crate) const fn new(lines: &'s [Line]) -> Self {
        Self { entries: lines.as_chunks().0 }
    }

    /// Slots that it has.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    fn entry(&self, slot: u16) -> Option<&'s [Line; ENTRY_LINES]> {
        self.entries.get(usize::from(slot))
    }
}

/// Whatever processes hold leases in: a domain's [`Segment`](super::Segment), or a
/// [`PoolSegment`](crate::pool::PoolSegment).
pub trait Members<'s> {
    /// Its process table.
    fn process_table(&self) -> ProcessTable<'s>;
}

pub(crate) fn lease_word<'s>(members: &impl Members<'s>, slot: u16) -> Option<&'s AtomicU64> {
    word(members.process_table().entry(slot)?, LEASE)
}

/// Takes a process slot.
///
/// # Errors
/// `AddressesFull` where all slots are taken: reclaim the dead first, or make the segment with a higher
/// `process_count`.
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub fn join<'s>(members: &impl Members<'s>, joiner: &Joiner) -> Result<ProcessLease, Retry> {
    let table = members.process_table();
    for slot in 0..table.count() {
        let Some(lines) = table.entry(slot) else { break };
        let Some(lease) = word(lines, LEASE) else { break };
        let found = lease.load(Ordering::Acquire);
        let Some(Lease { state: LeaseState::Free, generation, .. }) = Lease::unpack(found) else {
            continue;
        };
        let generation = next_generation(generation);
        let claim = Lease { state: LeaseState::Claiming, generation, subject: joiner.pid }.pack();
        if lease.compare_exchange(found, claim, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        write_words(lines, START_TIME, &[joiner.start_time, joiner.joined_unix_ns]);
        write_field(lines, COMMAND, &joiner.command);
        let live = Lease { state: LeaseState::Live, generation, subject: joiner.pid }.pack();
        // SYNC(lease): Release pairs with the Acquire in rows. A failure means that somebody scribbled over the word.
        if lease.compare_exchange(claim, live, Ordering::Release, Ordering::Relaxed).is_ok() {
            return Ok(ProcessLease { slot, word: live });
        }
    }
    Err(Retry::AddressesFull)
}

/// The processes in the segment, dead ones that were not taken back yet included.
pub fn rows<'s, M: Members<'s>>(members: &M) -> impl Iterator<Item = ProcessRow> + use<'s, M> {
    let table = members.process_table();
    (0..table.count()).filter_map(move |slot| {
        let lines = table.entry(slot)?;
        // SYNC(lease): Acquire pairs with the Release in join.
        let lease = Lease::unpack(word(lines, LEASE)?.load(Ordering::Acquire))?;
        if lease.state == LeaseState::Free {
            return None;
        }
        let claiming = lease.state == LeaseState::Claiming;
        let read = |at| word(lines, at).map_or(0, |w| w.load(Ordering::Relaxed));
        Some(ProcessRow {
            slot,
            lease,
            // While it joins, the words are those of the process before.
            start_time: if claiming { 0 } else { read(START_TIME) },
            joined_unix_ns: if claiming { 0 } else { read(JOINED) },
            command: if claiming { [0; 64] } else { read_field(lines, COMMAND) },
        })
    })
}

/// Marks a process dead that was found to be, or that leaves. Returns whether it is dead now; `false` means that the slot is
/// no longer that process's.
///
/// The next step is [`reclaim`](super::reclaim::reclaim), or [`PoolSegment::reclaim`](crate::pool::PoolSegment::reclaim).
#[must_use]
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub fn mark_dead<'s>(members: &impl Members<'s>, slot: u16, lease: Lease) -> bool {
    let dead = Lease { state: LeaseState::Dead, ..lease };
    lease_word(members, slot).is_some_and(|word| {
        lease.state == LeaseState::Dead && word.load(Ordering::Acquire) == lease.pack()
            || word
                .compare_exchange(lease.pack(), dead.pack(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    })
}

/// Whether a lease still stands: the process has neither left nor been marked dead.
#[must_use]
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub fn is_held<'s>(members: &impl Members<'s>, lease: &ProcessLease) -> bool {
    lease_word(members, lease.slot).is_some_and(|word| word.load(Ordering::Relaxed) == lease.word)
}

/// Lets all others rely on it that this process rings: it maps the segment with a [`Waker`](super::bell::Waker), and takes part
/// in the barriers of those who go to sleep (membarrier(2), registered for the expedited global one).
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub fn vow_to_ring<'s>(members: &impl Members<'s>, lease: &ProcessLease) {
    let table = members.process_table();
    let entry = table.entry(lease.slot);
    if let Some(rings) = entry.and_then(|lines| word(lines, RINGS)) {
        // SYNC(vow): Release pairs with the Acquire in everybody_rings.
        rings.store(lease.word, Ordering::Release);
    }
}

/// Whether every process of the segment rings. Who goes to sleep where one does not has to wake up by itself soon.
#[must_use]
#[expect(single_use_lifetimes, reason = "an anonymous one is unstable in `impl Trait`")]
pub fn everybody_rings<'s>(members: &impl Members<'s>) -> bool {
    members.process_table().entries.iter().all(|lines| {
        let read = |at| word(lines, at).map_or(0, |w| w.load(Ordering::Acquire));
        let lease = read(LEASE);
        // SYNC(vow): Acquire pairs with the Release in vow_to_ring. It names the stay, so the vow of an earlier one is none.
        let live = matches!(Lease::unpack(lease), Some(Lease { state: LeaseState::Live, .. }));
        !live || read(RINGS) == lease
    })
}

pub(super) fn write_words(lines: &[Line], at: usize, values: &[u64]) {
    for (i, value) in values.iter().enumerate() {
        if let Some(word) = word(lines, at.wrapping_add(i)) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}

pub(super) fn write_field(lines: &[Line], at: usize, field: &[u8; 64]) {
    for (i, bytes) in field.as_chunks::<8>().0.iter().enumerate() {
        write_words(lines, at.wrapping_add(i), &[u64::from_le_bytes(*bytes)]);
    }
}

pub(super) fn read_field(lines: &[Line], at: usize) -> [u8; 64] {
    let mut field = [0; 64];
    for (i, to) in field.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        if let Some(word) = word(lines, at.wrapping_add(i)) {
            *to = word.load(Ordering::Relaxed).to_le_bytes();
        }
    }
    field
}
