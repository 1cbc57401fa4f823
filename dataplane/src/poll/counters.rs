//! Named counters of one plane: private cells, an addition each.

use core::cell::Cell;

use spinwire_layouts::shm::stats::COUNTER_SLOT_COUNT;

pub use spinwire_layouts::shm::stats::Counter;

/// What a plane has counted since it was built. Counts wrap after 2^64.
///
/// ```
/// use spinwire_dataplane::poll::{Counter, Counters};
///
/// let counters = Counters::new();
/// counters.increment(Counter::MessagesSent);
/// counters.add(Counter::BytesSent, 32);
/// assert_eq!(counters.get(Counter::BytesSent), 32);
/// ```
#[derive(Debug)]
pub struct Counters {
    values: [Cell<u64>; COUNTER_SLOT_COUNT],
}

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: [const { Cell::new(0) }; COUNTER_SLOT_COUNT] }
    }

    /// Counts `amount` more.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        if let Some(value) = self.values.get(counter.index()) {
            value.set(value.get().wrapping_add(amount));
        }
    }

    /// Counts one more.
    #[inline]
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Takes over a total that was counted elsewhere.
    #[inline]
    pub fn set(&self, counter: Counter, total: u64) {
        if let Some(cell) = self.values.get(counter.index()) {
            cell.set(total);
        }
    }

    /// What was counted.
    #[inline]
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values.get(counter.index()).map_or(0, Cell::get)
    }

    /// All counters with their values, in the order of the stats page.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + use<'_> {
        Counter::ALL.iter().map(|&counter| (counter, self.get(counter)))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
