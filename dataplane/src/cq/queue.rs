//! The queue itself: which entries are ours, and what the device is told.
//!
//! ```text
//!            ci                      free-running; in the doorbell record its low 24 bits
//!             v
//!   lap 1  | 1 | 1 | 0 0 0 0 |       owner bit: (ci >> log2 entries) & 1 where the device has written it in this lap
//!            ours   not yet
//! ```
//!
//! One poll looks ahead for as many entries as are ours, passes one barrier, decodes them, and at last stores the doorbell
//! record once.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::endian::Be32;
use spinwire_layouts::mlx5::cqe::{
    CI_MASK, OP_OWN_FRESH, OWNER, RECORD_ARM, RECORD_CI, SIGNATURE_FRESH, Tail,
};
use spinwire_layouts::mlx5::{cq_db, cqe_op};
use spinwire_layouts::word::{from_usize, join, low, to_usize, widen};

use super::compressed::{Compression, Session};
use super::entry::{Body, Cqe, Done, decode, load, plain};
use super::{CqError, ENTRIES_MAX};
use crate::raw::barrier;
use crate::raw::line::Line;
use crate::raw::mmio::Bus;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Most entries that share a barrier.
const RUN_MAX: u32 = 16;

/// Bytes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryBytes {
    /// 64: inline data of up to 32 bytes.
    B64,
    /// 128: inline data of up to 64 bytes.
    B128,
}

/// What the host has opened of a completion queue.
#[derive(Clone, Copy, Debug)]
pub struct CqMemory<'m> {
    /// The entries.
    pub lines: &'m [Line],
    /// How large each is.
    pub entry_bytes: EntryBytes,
    /// The doorbell record: index, and wish for an event.
    pub record: &'m [AtomicU32; 2],
    /// The register for a wish for an event, [`cq_db::REGISTER`] bytes into the UAR page. `None` where nobody will wish for one.
    pub register: Option<&'m AtomicU64>,
    /// Number of the queue, 24 bits.
    pub cqn: u32,
}

/// For what an event is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// The next completion.
    Any,
    /// The next one that is solicited, or has failed.
    Solicited,
}

/// What was seen and should not be. They only go up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CqCounts {
    /// Completions with an error, flushes included.
    pub failed: u64,
    /// [`Odd`](super::Odd) ones.
    pub odd: u64,
    /// Completions of queue pairs that nobody has added.
    pub unknown_queue: u64,
    /// Completions of nothing that is under way.
    pub stale: u64,
}

/// A completion queue. One thread polls it.
pub struct Cq<'m, B> {
    pub(super) lines: &'m [Line],
    /// One less than the number of entries.
    mask: u32,
    log2: u32,
    /// 1 in a queue of 128-byte entries.
    shift: u32,
    pub(super) ci: Cell<u32>,
    record: &'m [AtomicU32; 2],
    register: Option<&'m AtomicU64>,
    cqn: u32,
    arm_sn: Cell<u32>,
    pub(super) polling: Cell<bool>,
    pub(super) compression: Compression,
    pub(super) session: Session,
    counts: Cell<CqCounts>,
    pub(super) bus: B,
}

/// Where completions go: a closure, but one that is always compiled into the poll.
pub(super) trait Sink {
    fn take(&mut self, cqe: Cqe<'_>);
}

struct Closure<F>(F);

impl<F: FnMut(Cqe<'_>)> Sink for Closure<F> {
    #[inline(always)]
    fn take(&mut self, cqe: Cqe<'_>) {
        (self.0)(cqe);
    }
}

/// Ends a poll, on every way out.
pub(super) struct Turn<'a>(pub(super) &'a Cell<bool>);

impl Drop for Turn<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<'m, B: Bus> Cq<'m, B> {
    /// Takes over what the host has opened, before the first queue pair completes into it: all entries are set to invalid, as
    /// entries of zeros would look like completions.
    ///
    /// # Errors
    /// The number of entries cannot be, or the form of compression does not go with their size.
    pub fn new(memory: CqMemory<'m>, compression: Compression, bus: B) -> Result<Self, CqError> {
        let lines = memory.lines.len();
        let (entries, rest) = match memory.entry_bytes {
            EntryBytes::B64 => (lines, 0),
            EntryBytes::B128 => (lines / 2, lines & 1),
        };
        if !entries.is_power_of_two() || rest > 0 || from_usize(entries) > widen(ENTRIES_MAX) {
            return Err(CqError::Entries { entries });
        }
        if compression != Compression::Off && memory.entry_bytes != EntryBytes::B64 {
            return Err(CqError::CompressedWide);
        }
        let fresh = Tail {
            wqe_opcode: 0,
            qpn: 0,
            wqe_counter: 0,
            signature: SIGNATURE_FRESH,
            op_own: OP_OWN_FRESH,
        };
        for line in memory.lines {
            let [.., last] = line.words();
            last.store(fresh.pack(), Ordering::Relaxed);
        }
        let entries = low(from_usize(entries));
        let queue = Self {
            lines: memory.lines,
            mask: entries.wrapping_sub(1),
            log2: entries.trailing_zeros(),
            shift: u32::from(memory.entry_bytes == EntryBytes::B128),
            ci: Cell::new(0),
            record: memory.record,
            register: memory.register,
            cqn: memory.cqn & CI_MASK,
            arm_sn: Cell::new(0),
            polling: Cell::new(false),
            compression,
            session: Session::default(),
            counts: Cell::new(CqCounts::default()),
            bus,
        };
        queue.publish();
        Ok(queue)
    }

    /// Entries of the queue. More completions than these must never be outstanding, or the device overruns it.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// Number of the queue.
    #[must_use]
    pub const fn cqn(&self) -> u32 {
        self.cqn
    }

    /// How many entries have been taken, free-running.
    #[must_use]
    pub const fn ci(&self) -> u32 {
        self.ci.get()
    }

    /// What was seen and should not be.
    #[must_use]
    pub const fn counts(&self) -> CqCounts {
        self.counts.get()
    }

    #[cold]
    pub(super) fn count(&self, change: impl FnOnce(&mut CqCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Hands up to `budget` completions to `each`, in order, then frees their entries. Says how many there were.
    ///
    /// Does nothing within `each`.
    #[inline(always)]
    pub fn poll(&self, budget: u32, each: impl FnMut(Cqe<'_>)) -> u32 {
        self.poll_into(budget, &mut Closure(each))
    }

    #[inline(always)]
    pub(super) fn poll_into(&self, budget: u32, sink: &mut impl Sink) -> u32 {
        if self.polling.replace(true) {
            return 0;
        }
        let _turn = Turn(&self.polling);
        let done = if self.compression == Compression::Off {
            self.poll_plain(budget, sink)
        } else {
            self.poll_compressed(budget, sink)
        };
        if done > 0 {
            self.publish();
        }
        done
    }

    #[inline(always)]
    fn poll_plain(&self, budget: u32, sink: &mut impl Sink) -> u32 {
        let mut done = 0_u32;
        while done < budget {
            let run = self.ready(budget.wrapping_sub(done).min(RUN_MAX));
            if run == 0 {
                break;
            }
            self.bus.from_device();
            for _ in 0..run {
                let ci = self.ci.get();
                self.ci.set(ci.wrapping_add(1));
                let Some(line) = self.slot(ci) else {
                    break;
                };
                let done = Done { tail: tail(line), body: Body::Entry(line), before: None };
                if let Some(plain) = plain(done) {
                    sink.take(plain);
                } else {
                    self.hand_rare(Done { before: self.before(ci), ..done }, sink);
                }
            }
            done = done.wrapping_add(run);
        }
        done
    }

    #[inline(never)]
    fn poll_compressed(&self, budget: u32, sink: &mut impl Sink) -> u32 {
        let mut done = 0_u32;
        while done < budget {
            let Some(cqe) = self.next_compressed() else {
                break;
            };
            self.hand(cqe, sink);
            done = done.wrapping_add(1);
        }
        done
    }

    /// What is not plain: errors, inline data, nonsense.
    #[cold]
    #[inline(never)]
    fn hand_rare(&self, done: Done<'_>, sink: &mut impl Sink) {
        self.hand(decode(done), sink);
    }

    #[inline]
    fn hand(&self, cqe: Cqe<'_>, sink: &mut impl Sink) {
        match cqe {
            Cqe::Sent(_) | Cqe::Received(_) => {}
            Cqe::Failed(_) => self.count(|counts| counts.failed = counts.failed.wrapping_add(1)),
            Cqe::Odd(_) => self.count(|counts| counts.odd = counts.odd.wrapping_add(1)),
        }
        sink.take(cqe);
    }

    /// How many entries from `ci` on are ours, up to `limit`.
    #[inline(always)]
    pub(super) fn ready(&self, limit: u32) -> u32 {
        let ci = self.ci.get();
        let mut run = 0_u32;
        while run < limit {
            let at = ci.wrapping_add(run);
            let Some(line) = self.slot(at) else {
                break;
            };
            let op_own = Tail::op_own_of(load(line, 7));
            if !self.is_owned(op_own, at) {
                break;
            }
            run = run.wrapping_add(1);
        }
        run
    }

    /// Whether the device has written the entry of index `at` in this lap.
    #[inline(always)]
    pub(super) const fn is_owned(&self, op_own: u8, at: u32) -> bool {
        op_own & OWNER == self.lap(at) & OWNER && op_own >> 4 != cqe_op::INVALID
    }

    /// The lap in which index `at` lies, of which eight bits count.
    #[inline(always)]
    pub(super) const fn lap(&self, at: u32) -> u8 {
        let [lap, ..] = at.wrapping_shr(self.log2).to_le_bytes();
        lap
    }

    /// The entry of index `at`: its upper 64 bytes.
    #[inline(always)]
    pub(super) fn slot(&self, at: u32) -> Option<&'m Line> {
        self.lines.get(self.line_index(at))
    }

    #[inline(always)]
    const fn line_index(&self, at: u32) -> usize {
        to_usize(widen((at & self.mask).wrapping_shl(self.shift) | self.shift))
    }

    /// The lower 64 bytes of the entry of index `at`, in a queue of 128-byte entries.
    #[cold]
    pub(super) fn before(&self, at: u32) -> Option<&'m Line> {
        let index = self.line_index(at).checked_sub(1)?;
        if self.shift == 0 { None } else { self.lines.get(index) }
    }

    #[inline(always)]
    pub(super) fn wait_for_device(&self) {
        self.bus.from_device();
    }

    /// Tells the device which entries are free.
    #[inline(always)]
    pub(super) fn publish(&self) {
        barrier::loads_before_stores();
        if let Some(slot) = self.record.get(RECORD_CI) {
            self.bus.store_record(slot, Be32::new(self.ci.get() & CI_MASK));
        }
    }

    /// Asks for an event (an interrupt, for who sleeps) with the next completion that is not yet taken. Poll once more afterwards:
    /// what came in between gives no event.
    ///
    /// Returns whether there is a register to ask through.
    pub fn arm(&self, what: Notify) -> bool {
        let (Some(register), Some(slot)) = (self.register, self.record.get(RECORD_ARM)) else {
            return false;
        };
        let command = match what {
            Notify::Any => cq_db::REQ_NOT,
            Notify::Solicited => cq_db::REQ_NOT_SOL,
        };
        let wish = (self.arm_sn.get() & 3) << 28 | command | self.ci.get() & CI_MASK;
        self.bus.store_record(slot, Be32::new(wish));
        self.bus.wc_start();
        self.bus.write_register(register, join(self.cqn, wish).swap_bytes());
        self.bus.flush();
        true
    }

    /// An event of this queue has come: the next wish is another one.
    pub fn note_event(&self) {
        self.arm_sn.set(self.arm_sn.get().wrapping_add(1));
    }
}

#[inline(always)]
pub(super) fn tail(line: &Line) -> Tail {
    Tail::unpack(load(line, 7))
}

impl<B> fmt::Debug for Cq<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cq")
            .field("cqn", &self.cqn)
            .field("ci", &self.ci.get())
            .field("counts", &self.counts.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::mmio::Device;

    #[test]
    fn the_record_counts_in_24_bits_and_the_laps_go_on() {
        let lines: [Line; 4] = core::array::from_fn(|_| Line::zeroed());
        let record = [AtomicU32::new(0), AtomicU32::new(0)];
        let memory = CqMemory {
            lines: &lines,
            entry_bytes: EntryBytes::B64,
            record: &record,
            register: None,
            cqn: 1,
        };
        for first in [0x00ff_fffd, u32::MAX - 2] {
            let cq = Cq::new(memory, Compression::Off, Device).unwrap();
            cq.ci.set(first);
            for step in 0..6_u32 {
                let at = first.wrapping_add(step);
                let op_own = u8::try_from(at >> 2 & 1).unwrap();
                let tail = Tail {
                    wqe_opcode: 0,
                    qpn: 5,
                    wqe_counter: 0,
                    signature: 0,
                    op_own: op_own ^ 1,
                };
                let [.., last] = lines[usize::try_from(at & 3).unwrap()].words();
                last.store(tail.pack(), Ordering::Relaxed);
                assert_eq!(cq.poll(1, |_| ()), 0, "not yet ours");
                last.store(Tail { op_own, ..tail }.pack(), Ordering::Relaxed);
                assert_eq!(cq.poll(9, |cqe| assert!(matches!(cqe, Cqe::Sent(_)))), 1);
                let told = u32::from_be(record[RECORD_CI].load(Ordering::Relaxed));
                assert_eq!(told, at.wrapping_add(1) & 0x00ff_ffff);
            }
        }
    }
}
