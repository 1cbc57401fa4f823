//! Provided buffers: a group from which the kernel picks one when bytes have come.
//!
//! ```text
//!   loans   lend -> ring entry  | address, length, number |   the kernel's
//!           CQE with the number -> loan, filled               the caller's
//!           dropped -> lent again at the next turn
//! ```
//!
//! The kernel takes entries in the order of the ring. One completion can fill several, one behind the other (a *bundle*); then it names the
//! first, and the order of the ring says the rest.
//!
//! The tail lies in the last 16 bits of the first entry. It is added to, so that the length in the same word stays what the kernel
//! has made of it (io_uring_register(2), IORING_REGISTER_PBUF_RING).
//!
//! Some kernels shorten entries: for a bundle, Linux 6.10 and later (not its latest releases) looks at what has come already and cuts the
//! buffer to that, also where it takes none in the end (`io_uring/kbuf.c`, `io_ring_buffers_peek`). A later bundle goes on in
//! the buffer behind the shortened one. So what the entry says counts, not what was written there.
//!
//! *How many the kernel has at once.* Of streams few, because it takes them in turn and each should be warm when it comes round. They become twice as many
//! when they were too few for what came, as with many connections and short messages, of which each fills a line or two of its buffer. Where
//! each was filled, more of them would not help: they would be cold, and what did not fit is received a turn later.
//!
//! Invariants: (1) a buffer is in the ring, or with the caller, or in the pool; (2) what the kernel names is given out only if it
//! is in the ring, at the place where the kernel has to have found it.

use core::cell::Cell;
use core::fmt;

use spinwire_layouts::word::{join, low, to_usize, widen};

use super::audit::claim;
use crate::raw::kernel_memory::{KernelMemory, address_in, address_of};
use crate::raw::line::{Line, word};
use crate::raw::loan::{Loan, LoanPool, Posted};
use crate::raw::place::Exhausted;
use crate::sync::{AtomicU64, Ordering};
use crate::table::NIL;

/// Most buffers of a group (the kernel takes up to 32768).
pub const BUFFERS_MAX: u32 = 1 << 15;

/// Buffers that the kernel has to begin with, where it is to have few, and never fewer after.
const FEW: u32 = 32;
/// Bytes that all buffers which the kernel has may be filled with, before they are made no more: about what the second cache of a core holds.
const WARM_BYTES: u64 = 1 << 20;

/// A group of provided buffers, all of one size.
pub struct ProvidedBuffers<'m> {
    pool: &'m LoanPool<'m>,
    /// Two words for each entry: address; length 32, number 16, and in the first entry the tail.
    lines: &'m [Line],
    /// Power of two, less one.
    mask: u32,
    /// By number.
    berths: &'m [Berth<'m>],
    /// By place in the ring: the number.
    order: &'m [Cell<u32>],
    tail: Cell<u32>,
    given: Cell<u32>,
    wanted: Cell<u32>,
    least: Cell<u32>,
    /// There are to be more since the last refill already.
    raised: Cell<bool>,
    /// Bytes that a buffer came back with, on average of late.
    fill: Cell<u32>,
    group: u16,
}

/// What is known of a buffer.
struct Berth<'m> {
    /// The buffer, while it is in the ring.
    posted: Cell<Option<Posted<'m>>>,
    /// And its place there.
    place: Cell<u32>,
}

impl fmt::Debug for ProvidedBuffers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvidedBuffers")
            .field("group", &self.group)
            .field("given", &self.given)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// What the kernel has filled, as far as it was not handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Filled {
    /// Place in the ring; `NIL` where what the kernel names is not there.
    place: u32,
    /// Bytes.
    pub(super) left: u32,
}

impl<'m> ProvidedBuffers<'m> {
    /// A group of `count` buffers (rounded up to a power of two, at most [`BUFFERS_MAX`]) of `bytes` each.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn place(
        arena: &KernelMemory<'m>,
        group: u16,
        (count, bytes): (u32, usize),
    ) -> Result<Self, Exhausted> {
        let count = count.clamp(1, BUFFERS_MAX).next_power_of_two();
        let length = to_usize(widen(count));
        let bump = arena.bump();
        Ok(Self {
            pool: LoanPool::place(bump, count, bytes)?,
            lines: arena.page_lines(length.div_ceil(4))?,
            mask: count.wrapping_sub(1),
            berths: bump
                .slice_with(length, |_| Berth { posted: Cell::new(None), place: Cell::new(0) })?,
            order: bump.slice_with(length, |_| Cell::new(0))?,
            tail: Cell::new(0),
            given: Cell::new(0),
            wanted: Cell::new(count),
            least: Cell::new(count),
            raised: Cell::new(false),
            fill: Cell::new(0),
            group,
        })
    }

    /// The number of the group.
    #[must_use]
    pub const fn group(&self) -> u16 {
        self.group
    }

    /// Where its ring lies and how many entries it has: what the host registers.
    #[must_use]
    pub fn registration(&self) -> (u64, u32) {
        (self.lines.first().map_or(0, address_in), self.mask.wrapping_add(1))
    }

    /// Bytes of each buffer.
    #[must_use]
    pub const fn buffer_bytes(&self) -> u32 {
        self.pool.slot_bytes()
    }

    /// Buffers that the kernel has.
    #[must_use]
    #[inline]
    pub const fn given(&self) -> u32 {
        self.given.get()
    }

    /// Gives the kernel as many as it is to have at once, or all that are free. Returns how many.
    #[inline]
    pub fn refill(&self) -> u32 {
        self.refill_below(self.wanted.get())
    }

    /// The same, where more than an eighth of them is missing: each time has its price, and there is something to do that is waited for.
    #[inline(always)]
    pub(super) fn refill_if_few(&self) {
        let wanted = self.wanted.get();
        let _given = self.refill_below(wanted.wrapping_sub(wanted / 8));
    }

    /// The same, where it has fewer than `least`.
    #[inline(always)]
    fn refill_below(&self, least: u32) -> u32 {
        self.raised.set(false);
        let enough = self.given.get() >= least;
        if enough || self.pool.free_count() == 0 { 0 } else { self.refill_some() }
    }

    /// Has the kernel have few at once, unless more are needed and stay warm; else it has all. What comes back is given out again first.
    pub(super) fn want_few(&self) {
        self.least.set(self.wanted.get().min(FEW));
        self.wanted.set(self.least.get());
    }

    /// They were too few: twice as many from the next refill on, if they stay warm.
    pub(super) fn want_more(&self) {
        let more = self.wanted.get().saturating_mul(2).min(self.mask.saturating_add(1));
        if !self.raised.replace(true) && self.is_warm(more) {
            self.wanted.set(more);
        }
    }

    /// Whether so many do not hold more than a cache, as they were filled of late.
    const fn is_warm(&self, count: u32) -> bool {
        widen(count).saturating_mul(widen(self.fill.get())) <= WARM_BYTES
    }

    /// How many the kernel is to have.
    pub(super) const fn wanted(&self) -> u32 {
        self.wanted.get()
    }

    #[inline(never)]
    fn refill_some(&self) -> u32 {
        let wanted = self.wanted.get();
        if wanted > self.least.get() && !self.is_warm(wanted / 2) {
            self.wanted.set(wanted / 2);
        }
        let mut count = 0_u32;
        while self.given.get() < self.wanted.get()
            && let Some(loan) = self.pool.lend()
        {
            self.give(loan);
            count = count.wrapping_add(1);
        }
        self.publish(count);
        count
    }

    #[inline(always)]
    fn give(&self, loan: Loan<'m>) {
        let number = loan.slot();
        let place = self.tail.get() & self.mask;
        let (start, length) = loan.range();
        let posted = loan.post();
        let Some([address, rest]) = self.entry(place) else { return };
        address.store(address_of(start), Ordering::Relaxed);
        let tail = rest.load(Ordering::Relaxed) & TAIL;
        rest.store(join(length, number & 0xffff) | tail, Ordering::Relaxed);
        if let (Some(order), Some(berth)) =
            (self.order.get(to_usize(widen(place))), self.berths.get(to_usize(widen(number))))
        {
            order.set(number);
            berth.place.set(place);
            berth.posted.set(Some(posted));
        }
        self.tail.set(self.tail.get().wrapping_add(1));
        self.given.set(self.given.get().wrapping_add(1));
    }

    fn publish(&self, more: u32) {
        let Some(rest) = word(self.lines, 1) else { return };
        // With the kernel: Release pairs with the Acquire load of the tail: the entries are written. Of the sum, what exceeds
        // the 16 bits of the tail is lost, as it should be.
        rest.fetch_add(widen(more) << 48, Ordering::Release);
    }

    /// The two words of an entry of the ring.
    #[inline(always)]
    fn entry(&self, place: u32) -> Option<&'m [AtomicU64; 2]> {
        let place = to_usize(widen(place));
        self.lines.get(place / 4)?.words().as_chunks::<2>().0.get(place % 4)
    }

    /// What a completion has filled that names buffer `number`.
    #[inline(always)]
    pub(crate) fn filled(&self, number: u32, bytes: u32) -> Filled {
        let place = self.berths.get(to_usize(widen(number))).map_or(NIL, |b| b.place.get());
        let there = self.order.get(to_usize(widen(place))).map(Cell::get);
        Filled { place: if there == Some(number) { place } else { NIL }, left: bytes }
    }

    /// The next of the buffers that were filled; `None` where the kernel names one that it does not have. Of a completion without
    /// bytes it is one that is empty.
    #[inline(always)]
    pub(crate) fn take(&self, filled: &mut Filled) -> Option<Loan<'m>> {
        let number = to_usize(widen(self.order.get(to_usize(widen(filled.place)))?.get()));
        let berth = self.berths.get(number)?;
        if berth.place.get() != filled.place {
            return None;
        }
        let posted = berth.posted.take()?;
        self.given.set(self.given.get().wrapping_sub(1));
        let [_, rest] = self.entry(filled.place)?;
        let length = low(rest.load(Ordering::Relaxed)).min(self.pool.slot_bytes());
        let bytes = filled.left.min(length);
        filled.left = filled.left.wrapping_sub(bytes);
        let fill = self.fill.get();
        self.fill.set(fill.wrapping_sub(fill / 8).wrapping_add(bytes / 8));
        filled.place = filled.place.wrapping_add(1) & self.mask;
        Some(posted.complete_to(Some(bytes)))
    }
}

impl ProvidedBuffers<'_> {
    /// Looks for what contradicts the invariants.
    pub(super) fn audit(&self) -> Result<(), (&'static str, u32)> {
        let mut given = 0_u32;
        for (berth, number) in self.berths.iter().zip(0_u32..) {
            let posted = berth.posted.take();
            let here = posted.is_some();
            berth.posted.set(posted);
            if here {
                given = given.wrapping_add(1);
                let found = self.order.get(to_usize(widen(berth.place.get()))).map(Cell::get);
                claim(found == Some(number), "a buffer of the ring is at its place", number)?;
            }
        }
        claim(given == self.given.get(), "buffers of the ring are counted", given)?;
        let free = u32::try_from(self.pool.free_count()).unwrap_or(u32::MAX);
        claim(given.saturating_add(free) <= self.mask.wrapping_add(1), "buffers are one each", free)
    }
}

/// Where the tail lies in the second word of the first entry.
const TAIL: u64 = 0xffff << 48;
