//! A section of shared memory that one writer changes at once, and any reader can copy without disturbing it.
//!
//! ```text
//!   word 0: sequence   even 4        odd 5             even 6
//!   words 1 ..         settled       being written     settled
//! ```
//!
//! The writer never waits for a reader. A reader copies the words between two looks at the sequence, and takes the copy
//! only if both saw the same even number. Every word is an atomic, so that a copy that is thrown away was at least no
//! data race. (Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.)
//!
//! No fences are needed, because every store of a word is a Release and every load of one an Acquire, plain moves on
//! x86-64:
//! 1. A reader that sees a word of a *later* writing has synchronised with its store, which follows the odd sequence:
//!    so its second look at the sequence sees that odd number or a greater one, and differs from the first.
//! 2. A reader whose first look sees an even number has synchronised with the end of that writing: it sees none of the
//!    words that were replaced then.
//!
//! Readers trust nothing that they copy: it is whatever the writer, or anybody else who maps the page, put there.

use crate::raw::line::{LINE_WORDS, Line, word};
use crate::raw::pause::pause;
use crate::sync::Ordering;

/// Why no settled copy was to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReadError {
    /// A writing was under way at each attempt: the writer is slow, stopped, or died in it.
    Busy,
    /// A writing began during the last attempt: try again.
    Torn,
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Busy => "busy: a writing is under way; try again, or read it unsettled if the writer is dead",
            Self::Torn => "torn: it was written during the copy; try again",
        })
    }
}

impl core::error::Error for ReadError {}

/// Lines under one sequence, which is their word 0.
#[derive(Clone, Copy, Debug)]
pub struct Section<'s> {
    first: &'s Line,
    lines: &'s [Line],
}

impl<'s> Section<'s> {
    /// The section that `lines` make; `None` where there are none.
    #[inline]
    #[must_use]
    pub fn new(lines: &'s [Line]) -> Option<Self> {
        Some(Self { first: lines.first()?, lines })
    }

    /// Lets `fill` write words; readers see all of them or none. For the one writer of the section only: writers that
    /// overlap give readers mixed copies.
    #[inline]
    pub fn write<R>(&self, fill: impl FnOnce(&SectionWriter<'s>) -> R) -> R {
        let [sequence, ..] = self.first.words();
        // Odd, whatever was left here: a writer before this one may have died between the two stores.
        let odd = sequence.load(Ordering::Relaxed) | 1;
        sequence.store(odd, Ordering::Relaxed);
        let result = fill(&SectionWriter { lines: self.lines });
        // SYNC(stats_settled): pairs with the first look in `read`.
        sequence.store(odd.wrapping_add(1), Ordering::Release);
        result
    }

    /// Lets `copy` read words, at most `attempts` times, until it saw them settled. What an earlier attempt copied is to be
    /// overwritten by the next.
    ///
    /// # Errors
    /// No attempt succeeded; what was copied is to be thrown away.
    #[inline]
    pub fn read(
        &self,
        attempts: u32,
        mut copy: impl FnMut(&SectionReader<'s>),
    ) -> Result<(), ReadError> {
        let [sequence, ..] = self.first.words();
        let mut refused = ReadError::Busy;
        for _ in 0..attempts {
            // SYNC(stats_settled): pairs with the end of `write`.
            let before = sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                copy(&SectionReader { lines: self.lines });
                // Not before the copy: its loads are Acquires.
                if sequence.load(Ordering::Relaxed) == before {
                    return Ok(());
                }
                refused = ReadError::Torn;
            } else {
                refused = ReadError::Busy;
            }
            pause();
        }
        Err(refused)
    }

    /// Lets `copy` read words that may be half written: the last words of a writer that died. Says whether they were
    /// settled.
    pub fn read_unsettled(&self, copy: impl FnOnce(&SectionReader<'s>)) -> bool {
        let [sequence, ..] = self.first.words();
        // SYNC(stats_settled): pairs with the end of `write`.
        let before = sequence.load(Ordering::Acquire);
        copy(&SectionReader { lines: self.lines });
        before & 1 == 0 && sequence.load(Ordering::Relaxed) == before
    }
}

/// The writing side of a section, while it is open.
#[derive(Debug)]
pub struct SectionWriter<'s> {
    lines: &'s [Line],
}

impl SectionWriter<'_> {
    /// Writes word `index` of the section, counted from its start. Word 0 is the sequence and is left alone, like
    /// words beyond the end.
    #[inline]
    pub fn set(&self, index: usize, value: u64) {
        debug_assert!(index > 0, "word 0 is the sequence");
        if index > 0
            && let Some(word) = word(self.lines, index)
        {
            // SYNC(stats_word): pairs with `SectionReader::get`.
            word.store(value, Ordering::Release);
        }
    }

    /// Writes zero into every word.
    pub fn clear(&self) {
        for index in 1..self.lines.len().saturating_mul(LINE_WORDS) {
            self.set(index, 0);
        }
    }
}

/// The reading side of a section, during one attempt.
#[derive(Debug)]
pub struct SectionReader<'s> {
    lines: &'s [Line],
}

impl SectionReader<'_> {
    /// Word `index` of the section, counted from its start; 0 beyond the end.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        // SYNC(stats_word): pairs with `SectionWriter::set`.
        word(self.lines, index).map_or(0, |word| word.load(Ordering::Acquire))
    }
}
