//! Log-linear histograms: latencies and sizes, to one part in sixteen, in fixed memory.
//!
//! The arithmetic of the buckets is in [`spinwire_layouts::shm::stats`], where writer and readers share it. Here are
//! the private side, into which a plane records (a few instructions, no branch on the value), and the copy that a
//! reader works on. Invariants of the private side: `count` is the sum of all buckets (modulo 2^64); every bucket that
//! changed since the last publication lies in `changed`.

use core::cell::Cell;

use spinwire_layouts::shm::stats::{BUCKET_COUNT, VALUE_MAX, bucket_high, bucket_of};

pub use spinwire_layouts::shm::stats::HistogramId;

use crate::raw::place::{Bump, Exhausted};

/// No bucket changed: an empty range that any bucket widens.
const UNCHANGED: (usize, usize) = (BUCKET_COUNT, 0);

/// A histogram that one thread records into.
pub struct Histogram<'m> {
    buckets: &'m [Cell<u64>],
    count: Cell<u64>,
    sum: Cell<u64>,
    min: Cell<u64>,
    max: Cell<u64>,
    overflow: Cell<u64>,
    /// First and last bucket that changed.
    changed: Cell<(usize, usize)>,
}

impl<'m> Histogram<'m> {
    /// How many buckets a histogram has.
    pub const BUCKETS: usize = BUCKET_COUNT;

    /// Takes over `storage`, which is zeroed. Where it is shorter than [`Histogram::BUCKETS`], values beyond it count
    /// in the sums only.
    #[must_use]
    pub fn new(storage: &'m mut [Cell<u64>]) -> Self {
        storage.fill_with(Cell::default);
        Self {
            buckets: storage,
            count: Cell::new(0),
            sum: Cell::new(0),
            min: Cell::new(u64::MAX),
            max: Cell::new(0),
            overflow: Cell::new(0),
            changed: Cell::new(UNCHANGED),
        }
    }

    /// Places an empty histogram: 4.7 KB.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>) -> Result<Self, Exhausted> {
        Ok(Self::new(bump.slice_with(BUCKET_COUNT, |_| Cell::new(0))?))
    }

    /// Counts `value`. Values above 2^40 - 1 count in the last bucket, and as overflow.
    #[inline]
    pub fn record(&self, value: u64) {
        let index = bucket_of(value);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.set(bucket.get().wrapping_add(1));
        }
        let (first, last) = self.changed.get();
        self.changed.set((first.min(index), last.max(index)));
        self.count.set(self.count.get().wrapping_add(1));
        self.sum.set(self.sum.get().wrapping_add(value));
        self.min.set(self.min.get().min(value));
        self.max.set(self.max.get().max(value));
        self.overflow.set(self.overflow.get().wrapping_add(u64::from(value > VALUE_MAX)));
    }

    /// How many values were recorded.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count.get()
    }

    /// Copies all of it, for a look from within the plane's own thread.
    pub fn copy_to(&self, snapshot: &mut HistogramSnapshot) {
        snapshot.count = self.count.get();
        snapshot.sum = self.sum.get();
        snapshot.min = self.min.get();
        snapshot.max = self.max.get();
        snapshot.overflow = self.overflow.get();
        for (to, from) in snapshot.buckets.iter_mut().zip(self.buckets) {
            *to = from.get();
        }
    }

    /// The totals as the stats page has them: count, sum, min, max, overflow.
    pub(super) const fn totals(&self) -> [u64; 5] {
        [self.count.get(), self.sum.get(), self.min.get(), self.max.get(), self.overflow.get()]
    }

    /// Whether anything was recorded since the last [`take_changed`](Histogram::take_changed).
    #[inline]
    pub(super) const fn has_changed(&self) -> bool {
        let (first, last) = self.changed.get();
        first <= last
    }

    /// The buckets that changed since the last call, and some between them, with their values.
    pub(super) fn take_changed(&self) -> impl Iterator<Item = (usize, u64)> + use<'_, 'm> {
        let (first, last) = self.changed.replace(UNCHANGED);
        let buckets = self.buckets;
        (first..last.wrapping_add(1))
            .filter_map(move |index| buckets.get(index).map(|cell| (index, cell.get())))
    }
}

impl core::fmt::Debug for Histogram<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count.get()).finish_non_exhaustive()
    }
}

/// A copy of a histogram, to compute with. 4.8 KB, so it is not `Clone`: keep one and refill it.
#[derive(Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Values recorded.
    pub count: u64,
    /// Their sum, modulo 2^64.
    pub sum: u64,
    /// The least of them; `u64::MAX` where there are none.
    pub min: u64,
    /// The greatest of them; 0 where there are none.
    pub max: u64,
    /// How many of them were above 2^40 - 1.
    pub overflow: u64,
    /// How many fell into each bucket.
    pub buckets: [u64; BUCKET_COUNT],
}

impl HistogramSnapshot {
    /// Nothing recorded.
    #[expect(clippy::large_stack_arrays, reason = "a constant: its user decides where it lies")]
    pub const EMPTY: Self =
        Self { count: 0, sum: 0, min: u64::MAX, max: 0, overflow: 0, buckets: [0; BUCKET_COUNT] };

    /// The mean value, rounded down; `None` where there are none.
    #[must_use]
    pub const fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }

    /// The value that `parts_per_million` of all values do not exceed: 500,000 for the median, 999,000 for p99.9. It is
    /// the upper end of its bucket (at most one part in sixteen too high), and never above the greatest value seen.
    /// `None` where there are no values.
    #[must_use]
    pub fn value_at(&self, parts_per_million: u32) -> Option<u64> {
        const MILLION: u128 = 1_000_000;
        let total: u128 = self.buckets.iter().map(|&bucket| u128::from(bucket)).sum();
        let parts = total.saturating_mul(u128::from(parts_per_million).min(MILLION));
        let rank = parts.div_ceil(MILLION).max(1);
        let mut below = 0u128;
        let index = self.buckets.iter().position(|&bucket| {
            below = below.saturating_add(u128::from(bucket));
            below >= rank
        })?;
        // The last bucket holds all that is too great for the others; its upper end is the maximum.
        let high = if index == BUCKET_COUNT - 1 { u64::MAX } else { bucket_high(index) };
        Some(high.min(self.max))
    }

    /// Becomes a copy of `other`.
    pub const fn copy_from(&mut self, other: &Self) {
        self.count = other.count;
        self.sum = other.sum;
        self.min = other.min;
        self.max = other.max;
        self.overflow = other.overflow;
        self.buckets.copy_from_slice(&other.buckets);
    }

    /// Takes away what `earlier`, a copy of the same histogram, held: what was recorded between the two. `min` and
    /// `max` stay those of the whole time.
    pub fn subtract(&mut self, earlier: &Self) {
        self.count = self.count.wrapping_sub(earlier.count);
        self.sum = self.sum.wrapping_sub(earlier.sum);
        self.overflow = self.overflow.wrapping_sub(earlier.overflow);
        for (now, before) in self.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*before);
        }
    }
}
