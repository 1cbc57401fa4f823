//! The blocks of a ring, and how the words of a WQE get into them.
//!
//! ```text
//!   Run    | words in order | from one block to a later one: never past the end
//!   Wrap   | words in order | end -> | first block, ..          only where the queue was made for it
//! ```
//!
//! Invariant: neither writes a block outside of the run that it was made for, whatever the number of words.

use crate::raw::line::{LINE_WORDS, Line};
use crate::sync::Ordering;

/// What becomes of a WQE for which there are too few blocks before the end of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Straddle {
    /// A NOP fills the blocks up to the end, and it begins at the first: it always lies in one piece, and BlueFlame can take it.
    #[default]
    Fill,
    /// It goes on at the first block, inline data and all, as it does with rdma-core: no block is lost.
    Wrap,
}

/// Takes words one after the other.
pub trait Sink {
    /// Stores the next word, which is in the order of memory.
    fn put(&mut self, word: u64);
}

/// Blocks in one piece.
#[derive(Debug)]
pub struct Run<'r> {
    lines: &'r [Line],
    next: usize,
}

impl<'r> Run<'r> {
    /// From the first word of `lines` on.
    #[inline(always)]
    pub(super) const fn new(lines: &'r [Line]) -> Self {
        Self { lines, next: 0 }
    }

    /// From another word on.
    #[inline(always)]
    pub(super) const fn from_word(lines: &'r [Line], next: usize) -> Self {
        Self { lines, next }
    }
}

impl Sink for Run<'_> {
    #[inline(always)]
    fn put(&mut self, word: u64) {
        store(self.lines, self.next, word);
        self.next = self.next.wrapping_add(1);
    }
}

/// Blocks that go on at the start of the ring.
#[derive(Debug)]
pub struct Wrap<'r> {
    before: &'r [Line],
    after: &'r [Line],
    next: usize,
}

impl<'r> Wrap<'r> {
    pub(super) const fn new(before: &'r [Line], after: &'r [Line]) -> Self {
        Self { before, after, next: 0 }
    }
}

impl Sink for Wrap<'_> {
    fn put(&mut self, word: u64) {
        let first = self.before.len().wrapping_mul(LINE_WORDS);
        match self.next.checked_sub(first) {
            None => store(self.before, self.next, word),
            Some(next) => store(self.after, next, word),
        }
        self.next = self.next.wrapping_add(1);
    }
}

#[inline(always)]
fn store(lines: &[Line], index: usize, word: u64) {
    let line = lines.get(index / LINE_WORDS);
    debug_assert!(line.is_some(), "more words than blocks");
    if let Some(place) = line.and_then(|line| line.words().get(index % LINE_WORDS)) {
        place.store(word, Ordering::Relaxed);
    }
}
