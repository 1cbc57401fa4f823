//! A fixed set of small numbers: which lanes have news, which slots wait for credit.
//!
//! One bit a member, 64 to a word; a search looks at a word at a time, so that 64 idle members cost one load.
//! Invariant: the bits beyond the capacity are 0, and `count` is the number of bits that are 1.

use core::cell::Cell;

use super::wide;
use crate::raw::place::{Bump, Exhausted};

/// A number beyond the capacity of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl core::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("number beyond the capacity of the set: place it with a larger capacity")
    }
}

impl core::error::Error for OutOfRange {}

/// A set of numbers below a fixed capacity.
///
/// ```
/// use core::cell::Cell;
/// use spinwire_dataplane::table::BitSet;
///
/// let mut words = [const { Cell::new(0) }; 2];
/// let set = BitSet::new(&mut words, 100);
/// set.insert(3)?;
/// set.insert(70)?;
/// assert_eq!(set.next_from(4), Some(70)); // round robin: go on after the one that was served,
/// assert_eq!(set.next_from(71), Some(3)); // and wrap
/// # Ok::<(), spinwire_dataplane::table::OutOfRange>(())
/// ```
#[derive(Debug)]
pub struct BitSet<'m> {
    words: &'m [Cell<u64>],
    capacity: u32,
    count: Cell<u32>,
}

impl<'m> BitSet<'m> {
    /// How many words a set of `capacity` numbers takes.
    #[must_use]
    pub const fn words_for(capacity: u32) -> u32 {
        capacity.div_ceil(64)
    }

    /// Takes over `storage` for the numbers below `capacity`, or below 64 times its length where that is less. The
    /// set is empty.
    #[must_use]
    pub fn new(storage: &'m mut [Cell<u64>], capacity: u32) -> Self {
        storage.fill_with(Cell::default);
        let room = u32::try_from(storage.len().saturating_mul(64)).unwrap_or(u32::MAX);
        Self { words: storage, capacity: capacity.min(room), count: Cell::new(0) }
    }

    /// Places an empty set for the numbers below `capacity`.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(bump: &Bump<'m>, capacity: u32) -> Result<Self, Exhausted> {
        let words = bump.slice_with(wide(Self::words_for(capacity)), |_| Cell::new(0))?;
        Ok(Self { words, capacity, count: Cell::new(0) })
    }

    /// Adds `number`; says whether it was new.
    ///
    /// # Errors
    /// `number` is not below the capacity.
    #[inline]
    pub fn insert(&self, number: u32) -> Result<bool, OutOfRange> {
        let word = self.word(number)?;
        let old = word.replace(word.get() | mask(number));
        let new = old & mask(number) == 0;
        self.count.set(self.count.get().wrapping_add(u32::from(new)));
        Ok(new)
    }

    /// Takes `number` out; says whether it was there.
    ///
    /// # Errors
    /// `number` is not below the capacity.
    #[inline]
    pub fn remove(&self, number: u32) -> Result<bool, OutOfRange> {
        let word = self.word(number)?;
        let old = word.replace(word.get() & !mask(number));
        let was = old & mask(number) != 0;
        self.count.set(self.count.get().wrapping_sub(u32::from(was)));
        Ok(was)
    }

    /// Adds the numbers `64 * index ..` whose bits are set in `bits`, as a peer's bitmap tells them; says how many
    /// of the bits lie beyond the capacity, and were dropped.
    #[inline]
    pub fn merge_word(&self, index: u32, bits: u64) -> u32 {
        let known = bits & self.valid_bits(index);
        if let Some(word) = self.words.get(wide(index)) {
            let old = word.replace(word.get() | known);
            let added = (known & !old).count_ones();
            self.count.set(self.count.get().wrapping_add(added));
        }
        (bits & !known).count_ones()
    }

    /// Whether `number` is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.word(number).is_ok_and(|word| word.get() & mask(number) != 0)
    }

    /// The smallest member.
    #[inline]
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.first_at_least(0)
    }

    /// The smallest member that is not below `start`; where there is none, the smallest of all. Serve it, then ask
    /// again with the number after it: every member gets its turn.
    #[inline]
    #[must_use]
    pub fn next_from(&self, start: u32) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.first_at_least(start).or_else(|| self.first_at_least(0))
    }

    /// The smallest member that is not below `start`. Takes time linear in the words passed.
    #[inline]
    #[must_use]
    pub fn first_at_least(&self, start: u32) -> Option<u32> {
        let mut index = start / 64;
        let mut unseen = u64::MAX.wrapping_shl(start % 64);
        loop {
            let bits = self.words.get(wide(index))?.get() & unseen;
            if bits != 0 {
                return Some(index.wrapping_mul(64).wrapping_add(bits.trailing_zeros()));
            }
            unseen = u64::MAX;
            index = index.wrapping_add(1);
        }
    }

    /// The smallest number that is not a member: a free place. Takes time linear in the words passed.
    #[inline]
    #[must_use]
    pub fn first_absent(&self) -> Option<u32> {
        (0..Self::words_for(self.capacity)).find_map(|index| {
            let absent = !self.words.get(wide(index))?.get() & self.valid_bits(index);
            let number = index.wrapping_mul(64).wrapping_add(absent.trailing_zeros());
            (absent != 0).then_some(number)
        })
    }

    /// All members, rising. Members may be added and removed meanwhile.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'_, 'm> {
        let mut start = Some(0);
        core::iter::from_fn(move || {
            let number = self.first_at_least(start?)?;
            start = number.checked_add(1);
            Some(number)
        })
    }

    /// Takes all members out.
    pub fn clear(&self) {
        for word in self.words {
            word.set(0);
        }
        self.count.set(0);
    }

    /// How many members there are.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count.get()
    }

    /// Whether there are no members.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// The bound below which all members lie.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    #[inline]
    fn word(&self, number: u32) -> Result<&Cell<u64>, OutOfRange> {
        if number >= self.capacity {
            return Err(OutOfRange);
        }
        self.words.get(wide(number / 64)).ok_or(OutOfRange)
    }

    /// The bits of word `index` that stand for numbers below the capacity.
    #[inline]
    const fn valid_bits(&self, index: u32) -> u64 {
        match self.capacity.saturating_sub(index.saturating_mul(64)) {
            left @ 0..64 => !u64::MAX.wrapping_shl(left),
            _ => u64::MAX,
        }
    }
}

/// The bit of `number` in its word.
#[inline]
const fn mask(number: u32) -> u64 {
    1u64.wrapping_shl(number % 64)
}
