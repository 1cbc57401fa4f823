//! Keys and values in memory of fixed size: nothing is allocated once the store is made.
//!
//! ```text
//!   entries   | hash | block | lengths | ..   16 bytes each, open addressing: the next free place from the hash on
//!   arena     [ key value ... ][ key value ]  blocks of 64 bytes << class; a list of free blocks for each class
//! ```
//!
//! A removed entry leaves no mark: those behind it that had to go further than their own place move up. A value that is
//! replaced by one that needs the same class stays in its block.
//!
//! The hash is keyed by a seed, so that a client that does not know it cannot choose keys that all fall on one place.

use core::fmt;

/// Bytes of the smallest block.
const UNIT_BYTES: usize = 64;

/// Sizes of blocks: 64 bytes to 2 MiB.
const CLASS_COUNT: usize = 16;

/// Ends a list of free blocks.
const NO_BLOCK: u32 = u32::MAX;

/// Longest key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 0xffff;

/// How much a store holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Keys. Room is made for a third more, rounded up to a power of two.
    pub(crate) keys: usize,
    /// Bytes of keys and values; each pair takes 64 bytes or a power of two above that.
    pub(crate) bytes: usize,
}

/// The store has no room left for a key, or for its value. What was there before still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store is full: delete keys, or start it with more memory")
    }
}

impl core::error::Error for Full {}

/// A place of the table. `hash` is 0 where it is free.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    hash: u32,
    /// Where its block starts, in units.
    block: u32,
    value_length: u32,
    key_length: u16,
    class: u8,
}

const _: () = assert!(size_of::<Entry>() == 16, "four entries a cache line");

/// A map from keys to values.
pub(crate) struct Store {
    entries: Box<[Entry]>,
    arena: Box<[u8]>,
    free: [u32; CLASS_COUNT],
    /// The first unit that was never used.
    fresh: usize,
    count: usize,
    count_max: usize,
    seed: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} of {} keys)", self.count, self.count_max)
    }
}

impl Store {
    /// An empty store. This is the only place that allocates.
    pub(crate) fn new(capacity: Capacity, seed: u64) -> Self {
        let places = capacity.keys.saturating_add(capacity.keys / 3).max(4).next_power_of_two();
        // Both are at most 2^32 of something: places are found by a hash of 32 bits, blocks by a number of 32.
        let places = places.min(1 << 31);
        let units = capacity.bytes.div_ceil(UNIT_BYTES).min(1 << 31);
        Self {
            entries: vec![Entry::default(); places].into_boxed_slice(),
            arena: vec![0; units.saturating_mul(UNIT_BYTES)].into_boxed_slice(),
            free: [NO_BLOCK; CLASS_COUNT],
            fresh: 0,
            count: 0,
            count_max: capacity.keys.min(places.wrapping_sub(places / 4)),
            seed,
        }
    }

    /// Number of keys.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// How far all keys together lie from their own places: a measure of the hash.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> usize {
        let mask = self.mask();
        let places = self.entries.iter().enumerate().filter(|(_, entry)| entry.hash != 0);
        places.map(|(place, entry)| place.wrapping_sub(length(entry.hash)) & mask).sum()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.fill(Entry::default());
        self.free = [NO_BLOCK; CLASS_COUNT];
        (self.fresh, self.count) = (0, 0);
    }

    /// The value of `key`.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, entry) = self.find(key, self.hash(key)).ok()?;
        let start = offset(entry.block).wrapping_add(usize::from(entry.key_length));
        self.arena.get(start..start.wrapping_add(length(entry.value_length)))
    }

    /// Whether there is such a key.
    #[inline]
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.find(key, self.hash(key)).is_ok()
    }

    /// Stores `value`, and says whether the key is new.
    ///
    /// # Errors
    /// [`Full`]; what was there is there still.
    #[inline]
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Full> {
        let hash = self.hash(key);
        match self.find(key, hash) {
            Ok((place, entry)) => self.replace(place, entry, key, value).map(|()| false),
            Err(place) => self.insert(place, hash, key, value).map(|()| true),
        }
    }

    /// Removes `key`, and says whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Ok((place, entry)) = self.find(key, self.hash(key)) else {
            return false;
        };
        self.give_back(entry.block, entry.class);
        self.close_gap(place);
        self.count = self.count.wrapping_sub(1);
        true
    }

    /// Where `key` is, or the free place where it would go.
    #[inline]
    fn find(&self, key: &[u8], hash: u32) -> Result<(usize, Entry), usize> {
        let mask = self.mask();
        let mut place = length(hash) & mask;
        // A quarter of all places is free, so this ends.
        loop {
            let Some(entry) = self.entries.get(place) else {
                return Err(place);
            };
            if entry.hash == 0 {
                return Err(place);
            }
            if entry.hash == hash && usize::from(entry.key_length) == key.len() {
                let start = offset(entry.block);
                if self.arena.get(start..start.wrapping_add(key.len())) == Some(key) {
                    return Ok((place, *entry));
                }
            }
            place = place.wrapping_add(1) & mask;
        }
    }

    fn replace(
        &mut self,
        place: usize,
        entry: Entry,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Full> {
        let class = class_of(key.len(), value.len()).ok_or(Full)?;
        let (mut block, mut has) = (entry.block, entry.class);
        let moves = class != has;
        if moves {
            (block, has) = self.take(class).ok_or(Full)?;
        }
        let value_length = u32::try_from(value.len()).ok().ok_or(Full)?;
        self.write(block, key.len(), value);
        if moves {
            self.write(block, 0, key);
            self.give_back(entry.block, entry.class);
        }
        if let Some(to) = self.entries.get_mut(place) {
            *to = Entry { block, class: has, value_length, ..entry };
        }
        Ok(())
    }

    fn insert(&mut self, place: usize, hash: u32, key: &[u8], value: &[u8]) -> Result<(), Full> {
        if self.count >= self.count_max {
            return Err(Full);
        }
        let key_length = u16::try_from(key.len()).ok().ok_or(Full)?;
        let value_length = u32::try_from(value.len()).ok().ok_or(Full)?;
        let class = class_of(key.len(), value.len()).ok_or(Full)?;
        let (block, class) = self.take(class).ok_or(Full)?;
        self.write(block, 0, key);
        self.write(block, key.len(), value);
        if let Some(to) = self.entries.get_mut(place) {
            *to = Entry { hash, block, value_length, key_length, class };
        }
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// Frees `gap`, and moves up those behind it that would otherwise not be found any more.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.mask();
        let mut place = gap;
        loop {
            place = place.wrapping_add(1) & mask;
            let Some(entry) = self.entries.get(place).copied().filter(|entry| entry.hash != 0)
            else {
                break;
            };
            let home = length(entry.hash) & mask;
            // How far it is from its home, and how far the gap is from it: may it move there?
            let is_behind = place.wrapping_sub(home) & mask >= place.wrapping_sub(gap) & mask;
            if is_behind && let Some(to) = self.entries.get_mut(gap) {
                *to = entry;
                gap = place;
            }
        }
        if let Some(to) = self.entries.get_mut(gap) {
            *to = Entry::default();
        }
    }

    /// A block of that class, else a longer one that is free; and the class that it is of.
    fn take(&mut self, class: u8) -> Option<(u32, u8)> {
        if let Some(block) = self.take_free(class) {
            return Some((block, class));
        }
        let end = self.fresh.checked_add(1 << class)?;
        if end.checked_mul(UNIT_BYTES)? <= self.arena.len() {
            let block = u32::try_from(self.fresh).ok()?;
            self.fresh = end;
            return Some((block, class));
        }
        let longer = class.wrapping_add(1)..u8::try_from(CLASS_COUNT).ok()?;
        longer.into_iter().find_map(|class| Some((self.take_free(class)?, class)))
    }

    fn take_free(&mut self, class: u8) -> Option<u32> {
        let head = self.free.get_mut(usize::from(class))?;
        let block = *head;
        if block == NO_BLOCK {
            return None;
        }
        // A free block begins with the number of the next.
        let next = self.arena.get(offset(block)..)?.first_chunk()?;
        *head = u32::from_le_bytes(*next);
        Some(block)
    }

    fn give_back(&mut self, block: u32, class: u8) {
        let link = self.arena.get_mut(offset(block)..).and_then(|from| from.first_chunk_mut());
        if let (Some(link), Some(head)) = (link, self.free.get_mut(usize::from(class))) {
            *link = head.to_le_bytes();
            *head = block;
        }
    }

    #[inline]
    fn write(&mut self, block: u32, at: usize, bytes: &[u8]) {
        let start = offset(block).wrapping_add(at);
        if let Some(to) = self.arena.get_mut(start..start.wrapping_add(bytes.len())) {
            to.copy_from_slice(bytes);
        }
    }

    #[inline]
    const fn mask(&self) -> usize {
        self.entries.len().wrapping_sub(1)
    }

    /// Never 0, which is a free place. Multiplications to 128 bits, folded, as in wyhash (Wang Yi).
    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        let fold = |word: u64| {
            let (low, high) = word.carrying_mul(ODD, 0);
            low ^ high
        };
        let mut hash = self.seed ^ u64::try_from(key.len()).unwrap_or(0);
        let (words, rest) = key.as_chunks::<8>();
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word)) ^ self.seed;
        }
        let tail = rest.iter().rev().fold(0, |tail, byte| (tail << 8) | u64::from(*byte));
        hash = fold(fold(hash ^ tail) ^ self.seed);
        let [a, b, c, d, ..] = hash.to_le_bytes();
        u32::from_le_bytes([a, b, c, d]).max(1)
    }
}

/// Bytes before a block.
#[inline]
fn offset(block: u32) -> usize {
    length(block).wrapping_mul(UNIT_BYTES)
}

#[inline]
fn length(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The smallest class that holds both.
#[inline]
fn class_of(key: usize, value: usize) -> Option<u8> {
    let units = key.checked_add(value)?.div_ceil(UNIT_BYTES).max(1).checked_next_power_of_two()?;
    let class = u8::try_from(units.trailing_zeros()).ok()?;
    (usize::from(class) < CLASS_COUNT && key <= KEY_BYTES_MAX).then_some(class)
}
