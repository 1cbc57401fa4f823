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
use super::entry::{Body, Cqe, Done, Plain, decode, load};
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
    ring: Ring<'m>,
    pub(super) ci: Cell<u32>,
    /// What a poll does: one byte says whether there is one already, and whether entries have to be taken apart.
    pub(super) turn: Cell<Next>,
    record: &'m [AtomicU32; 2],
    register: Option<&'m AtomicU64>,
    cqn: u32,
    arm_sn: Cell<u32>,
    pub(super) compression: Compression,
    pub(super) session: Session,
    counts: Cell<CqCounts>,
    pub(super) bus: B,
}

/// What the next poll does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// It takes entries of 64 bytes as they are.
    Plain,
    /// It takes entries of 128 bytes as they are.
    Wide,
    /// It takes entries apart first.
    Compressed,
    /// Nothing: it is within another one.
    Nothing,
}

/// Where the entries lie.
#[derive(Clone, Copy)]
pub(super) struct Ring<'m> {
    lines: &'m [Line],
    /// 1 in a queue of 128-byte entries.
    shift: u32,
}

/// Where completions go: closures, but such as are always compiled into the poll.
pub(super) trait Sink {
    /// One that is well.
    fn take_plain(&mut self, plain: Plain<'_>);

    /// Any other.
    fn take(&mut self, cqe: Cqe<'_>);
}

struct Closure<F>(F);

impl<F: FnMut(Cqe<'_>)> Sink for Closure<F> {
    #[inline(always)]
    fn take_plain(&mut self, plain: Plain<'_>) {
        (self.0)(plain.cqe());
    }

    #[inline(always)]
    fn take(&mut self, cqe: Cqe<'_>) {
        (self.0)(cqe);
    }
}

/// Ends a poll, on every way out.
pub(super) struct Turn<'a>(pub(super) &'a Cell<Next>, pub(super) Next);

impl Drop for Turn<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(self.1);
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
        let shift = u32::from(memory.entry_bytes == EntryBytes::B128);
        let queue = Self {
            ring: Ring { lines: memory.lines, shift },
            ci: Cell::new(0),
            turn: Cell::new(match (compression, shift) {
                (Compression::Off, 0) => Next::Plain,
                (Compression::Off, _) => Next::Wide,
                (Compression::Basic(_) | Compression::Enhanced(_), _) => Next::Compressed,
            }),
            record: memory.record,
            register: memory.register,
            cqn: memory.cqn & CI_MASK,
            arm_sn: Cell::new(0),
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
        self.ring.entries()
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

    fn count(&self, change: impl FnOnce(CqCounts) -> CqCounts) {
        self.counts.set(change(self.counts.get()));
    }

    /// A completion named nothing that is under way.
    #[cold]
    pub(crate) fn count_stale(&self) {
        self.count(|counts| CqCounts { stale: counts.stale.wrapping_add(1), ..counts });
    }

    /// A completion named a queue pair that nobody has added.
    #[cold]
    pub(crate) fn count_unknown(&self) {
        let more = |counts: CqCounts| counts.unknown_queue.wrapping_add(1);
        self.count(|counts| CqCounts { unknown_queue: more(counts), ..counts });
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
        let next = self.turn.replace(Next::Nothing);
        if next != Next::Plain {
            return self.poll_otherwise(next, budget, sink);
        }
        let _turn = Turn(&self.turn, next);
        // What is known of the ring makes the code shorter.
        self.poll_plain(Ring { shift: 0, ..self.ring }, budget, sink)
    }

    /// A poll within another one, or of a queue of another kind.
    #[inline(never)]
    fn poll_otherwise(&self, next: Next, budget: u32, sink: &mut impl Sink) -> u32 {
        if next == Next::Nothing {
            return 0;
        }
        let _turn = Turn(&self.turn, next);
        if next == Next::Compressed {
            self.poll_compressed(budget, sink)
        } else {
            self.poll_plain(self.ring, budget, sink)
        }
    }

    #[inline(always)]
    fn poll_plain(&self, ring: Ring<'m>, budget: u32, sink: &mut impl Sink) -> u32 {
        let first = self.ci.get();
        let mut at = first;
        loop {
            let limit = budget.wrapping_sub(at.wrapping_sub(first)).min(RUN_MAX);
            let run = ring.ready(at, limit);
            if run == 0 {
                break;
            }
            self.bus.from_device();
            let after = at.wrapping_add(run);
            while at != after {
                let Some(line) = ring.slot(at) else {
                    break;
                };
                let this = at;
                at = at.wrapping_add(1);
                self.ci.set(at);
                if let Some(plain) = Plain::new(load(line, 7), line) {
                    sink.take_plain(plain);
                } else {
                    self.hand_rare(this, line, sink);
                }
            }
            // The last look has found one that is not ours, or the budget is spent.
            if run < RUN_MAX {
                break;
            }
        }
        let done = at.wrapping_sub(first);
        if done > 0 {
            self.publish();
        }
        done
    }

    fn poll_compressed(&self, budget: u32, sink: &mut impl Sink) -> u32 {
        let mut done = 0_u32;
        while done < budget {
            let Some(cqe) = self.next_compressed() else {
                break;
            };
            self.hand(cqe, sink);
            done = done.wrapping_add(1);
        }
        if done > 0 {
            self.publish();
        }
        done
    }

    /// What is not plain: errors, inline data, nonsense.
    #[cold]
    #[inline(never)]
    fn hand_rare(&self, at: u32, line: &Line, sink: &mut impl Sink) {
        let (tail, before) = (load(line, 7), self.ring.before(at));
        self.hand(decode(Done { tail, body: Body::Entry(line), before }), sink);
    }

    #[inline]
    fn hand(&self, cqe: Cqe<'_>, sink: &mut impl Sink) {
        match cqe {
            Cqe::Sent(_) | Cqe::Received(_) => {}
            Cqe::Failed(_) => {
                self.count(|counts| CqCounts { failed: counts.failed.wrapping_add(1), ..counts });
            }
            Cqe::Odd(_) => {
                self.count(|counts| CqCounts { odd: counts.odd.wrapping_add(1), ..counts });
            }
        }
        sink.take(cqe);
    }

    #[inline(always)]
    pub(super) const fn ring(&self) -> Ring<'m> {
        self.ring
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

impl<'m> Ring<'m> {
    /// How many entries from index `first` on are ours, up to `limit`.
    #[inline(always)]
    pub(super) fn ready(self, first: u32, limit: u32) -> u32 {
        let mut run = 0_u32;
        while run < limit {
            let at = first.wrapping_add(run);
            let Some(line) = self.slot(at) else {
                break;
            };
            if !self.is_owned(Tail::op_own_of(load(line, 7)), at) {
                break;
            }
            run = run.wrapping_add(1);
        }
        run
    }

    /// A power of two.
    #[inline(always)]
    pub(super) const fn entries(self) -> u32 {
        low(from_usize(self.lines.len())).wrapping_shr(self.shift)
    }

    /// Whether the device has written the entry of index `at` in this lap.
    #[inline(always)]
    pub(super) const fn is_owned(self, op_own: u8, at: u32) -> bool {
        const { assert!(OWNER == 1) };
        let lap = if at & self.entries() == 0 { 0 } else { OWNER };
        // With the owner bit above the rest, 0 where it is as it should be, it is one comparison.
        (op_own ^ lap).rotate_right(1) < cqe_op::INVALID << 3
    }

    /// The lap in which index `at` lies, of which eight bits count.
    pub(super) const fn lap(self, at: u32) -> u8 {
        let [lap, ..] = at.wrapping_shr(self.entries().trailing_zeros()).to_le_bytes();
        lap
    }

    /// The entry of index `at`: its upper 64 bytes.
    #[inline(always)]
    pub(super) fn slot(self, at: u32) -> Option<&'m Line> {
        self.lines.get(self.line_index(at))
    }

    #[inline(always)]
    const fn line_index(self, at: u32) -> usize {
        let index = at & self.entries().wrapping_sub(1);
        to_usize(widen(index.wrapping_shl(self.shift) | self.shift))
    }

    /// The lower 64 bytes of the entry of index `at`, in a queue of 128-byte entries.
    #[cold]
    pub(super) fn before(self, at: u32) -> Option<&'m Line> {
        let index = self.line_index(at).checked_sub(1)?;
        if self.shift == 0 { None } else { self.lines.get(index) }
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
