//! Handles: words that are looked up.
//!
//! ```text
//!   bit  63       48 47       28 27         0
//!       +-----------+-----------+------------+
//!       | thread 16 |  slot 20  | serial 28  |     0 is no handle
//!       +-----------+-----------+------------+
//! ```
//!
//! Invariants: a slot's serial rises with every use, and 0 is left out, so a handle that was given back is told from the one
//! that has its slot now, for 2^28 - 1 uses; a thread's number is not 0, and returns after 65,535 other threads.

const SERIAL_BITS: u32 = 28;
const SLOT_BITS: u32 = 20;
const SERIAL_MAX: u64 = (1 << SERIAL_BITS) - 1;
const SLOT_MAX: u64 = (1 << SLOT_BITS) - 1;

/// Why a word is no handle of this table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    /// Zero, or what no thread ever had.
    Never,
    /// It was given back.
    Gone,
    /// It belongs to another thread.
    Thread,
    /// It belongs to the process of which this one is a fork.
    Parent,
}

/// Things of one thread that C holds by handle.
#[derive(Debug)]
pub(crate) struct Table<T> {
    thread: u16,
    /// The number of this thread before it was forked off; 0 for none.
    parent: u16,
    rows: Vec<(u64, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Table<T> {
    pub(crate) const fn new(thread: u16, parent: u16) -> Self {
        Self { thread, parent, rows: Vec::new(), free: Vec::new() }
    }

    pub(crate) const fn thread(&self) -> u16 {
        self.thread
    }

    /// So that the next that many need no memory.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.rows.reserve(more);
        self.free.reserve(self.rows.capacity());
    }

    /// A handle for `value`; `None` where there are a million already.
    pub(crate) fn insert(&mut self, value: T) -> Option<u64> {
        let slot = self.free.pop().unwrap_or(self.rows.len());
        let position = u64::try_from(slot).ok().filter(|slot| *slot <= SLOT_MAX)?;
        if slot == self.rows.len() {
            self.rows.push((0, None));
        }
        let (serial, place) = self.rows.get_mut(slot)?;
        *serial = if *serial == SERIAL_MAX { 1 } else { *serial + 1 };
        *place = Some(value);
        let thread = u64::from(self.thread);
        Some(thread << (SLOT_BITS + SERIAL_BITS) | position << SERIAL_BITS | *serial)
    }

    pub(crate) fn get(&self, handle: u64) -> Result<&T, Wrong> {
        let slot = self.slot(handle)?;
        match self.rows.get(slot) {
            Some((serial, Some(value))) if *serial == handle & SERIAL_MAX => Ok(value),
            _ => Err(Wrong::Gone),
        }
    }

    pub(crate) fn get_mut(&mut self, handle: u64) -> Result<&mut T, Wrong> {
        let slot = self.slot(handle)?;
        match self.rows.get_mut(slot) {
            Some((serial, Some(value))) if *serial == handle & SERIAL_MAX => Ok(value),
            _ => Err(Wrong::Gone),
        }
    }

    /// Takes it out: the handle is none from now on.
    pub(crate) fn remove(&mut self, handle: u64) -> Result<T, Wrong> {
        let slot = self.slot(handle)?;
        self.get(handle)?;
        let taken = self.rows.get_mut(slot).and_then(|(_, place)| place.take());
        self.free.push(slot);
        taken.ok_or(Wrong::Gone)
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.rows.drain(..).filter_map(|(_, value)| value)
    }

    /// The row that a handle of this thread names. It may have another serial, or be none.
    fn slot(&self, handle: u64) -> Result<usize, Wrong> {
        let thread = handle >> (SLOT_BITS + SERIAL_BITS);
        if thread == 0 || handle & SERIAL_MAX == 0 {
            return Err(Wrong::Never);
        }
        if thread != u64::from(self.thread) {
            let parent = thread == u64::from(self.parent);
            return Err(if parent { Wrong::Parent } else { Wrong::Thread });
        }
        let slot = usize::try_from(handle >> SERIAL_BITS & SLOT_MAX).unwrap_or(usize::MAX);
        if slot < self.rows.len() { Ok(slot) } else { Err(Wrong::Never) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_ends_with_its_use() {
        let mut table = Table::new(3, 2);
        let first = table.insert('a').unwrap();
        assert_eq!(first, 3 << 48 | 1);
        assert_eq!(table.get(first), Ok(&'a'));
        assert_eq!(table.remove(first), Ok('a'));
        assert_eq!(table.remove(first), Err(Wrong::Gone));
        let second = table.insert('b').unwrap();
        assert_eq!(second, 3 << 48 | 2, "the same slot");
        assert_eq!(table.get(first), Err(Wrong::Gone));
        assert_eq!(table.get_mut(second), Ok(&mut 'b'));
        let third = table.insert('c').unwrap();
        assert_eq!(third, 3 << 48 | 1 << 28 | 1);
        assert_eq!(table.drain().collect::<String>(), "bc");
        assert_eq!(table.get(third), Err(Wrong::Never));
    }

    #[test]
    fn other_words_are_no_handles() {
        let mut table = Table::new(3, 2);
        let real = table.insert(()).unwrap();
        for word in [0, 1, real & !SERIAL_MAX, 3 << 48 | 9 << 28 | 1, 0xffff_ffff] {
            assert_eq!(table.get(word), Err(Wrong::Never), "{word:#x}");
        }
        assert_eq!(table.get(real - (1 << 48)), Err(Wrong::Parent));
        for word in [u64::MAX, real ^ 1 << 50, 0x7ffe_1234_5678_9ab0] {
            assert_eq!(table.get(word), Err(Wrong::Thread), "{word:#x}");
        }
    }

    #[test]
    fn serials_come_round_without_zero() {
        let mut table = Table::new(1, 0);
        let handle = table.insert(()).unwrap();
        table.remove(handle).unwrap();
        table.rows.first_mut().unwrap().0 = SERIAL_MAX;
        assert_eq!(table.insert(()).unwrap() & SERIAL_MAX, 1);
    }
}
