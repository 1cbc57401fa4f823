//! The slot word: who has a buffer. Every change of hands is one compare-and-swap on it.
//!
//! ```text
//!             claim                         publish
//!   free ---------------> writer(p) -----------------------> shared(p, ..) <--- share(q) --.
//!    ^   generation + 1     |   |  let go, nothing detached      |    |  '----------------'
//!    |<---------------------'   |                                |    |
//!    |                          | detach           let go, detach |    | let go, the last
//!    |                          v                                v    |
//!    |<------ release ------- detached(n) <-----------------------    |
//!    |        the last one     |    ^                                 |
//!    |<------------------------|----|---------------------------------'
//!    |               own, adopt_own |          share, adopt
//!    '--- reclaim: the bit of the dead; a writer's buffer altogether
//! ```
//!
//! The generation is raised when the slot is taken, so that letting go needs no compare: one atomic AND takes the bits of
//! the holder away, and whoever leaves the word with no bits of use has freed the slot.
//!
//! Invariants: (1) a word with the writer bit has exactly one holder; (2) a word without bits of use is free, and only
//! `claim` leads away from there; (3) an id is good for as long as its generation stands in a word that is in use.

use spinwire_layouts::shm::SlotSplit;

use super::error::PoolError;
use crate::error::Fatal;
use crate::sync::{AtomicU64, Ordering};

/// Each failed attempt means that somebody else got ahead; a scribbler could make it so for ever.
pub(super) const ATTEMPTS_MAX: u32 = 1 << 12;

/// Whether a step has left the slot free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Left {
    /// The word as it was left.
    Free(u64),
    InUse,
}

/// The word of one slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'s> {
    pub(super) word: &'s AtomicU64,
    pub(super) split: SlotSplit,
}

impl Slot<'_> {
    const fn generation_of(self, word: u64) -> u64 {
        word.wrapping_shr(self.split.generation_shift())
    }

    const fn is_free(self, word: u64) -> bool {
        word & self.split.in_use() == 0
    }

    const fn left(self, word: u64) -> Left {
        if self.is_free(word) { Left::Free(word) } else { Left::InUse }
    }

    pub(super) fn is_free_now(self) -> bool {
        self.is_free(self.word.load(Ordering::Acquire))
    }

    /// Takes the slot if it is free, as its only writer. Returns the new generation.
    pub(super) fn claim(self, bit: u64) -> Option<u64> {
        let found = self.word.load(Ordering::Relaxed);
        if self.is_free(found) { self.claim_from(found, bit) } else { None }
    }

    /// As [`claim`](Self::claim), if it is still as it was when it was `found` free: where that is known, the line need not
    /// come to be read first and to be written then.
    #[inline]
    pub(super) fn claim_from(self, found: u64, bit: u64) -> Option<u64> {
        let generation = self.split.next_generation(self.generation_of(found));
        let next = generation.wrapping_shl(self.split.generation_shift()) | bit | SlotSplit::WRITER;
        // SYNC(slot): Acquire pairs with the Release of the step that freed it.
        self.word
            .compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|_free| generation)
    }

    /// One step on a slot that is in use in that generation. `step` makes the next word of the one that it is shown.
    #[inline]
    fn step(
        self,
        generation: u64,
        step: impl Fn(u64) -> Result<u64, PoolError>,
    ) -> Result<u64, PoolError> {
        let mut found = self.word.load(Ordering::Relaxed);
        for _attempt in 0..ATTEMPTS_MAX {
            if self.generation_of(found) != generation || self.is_free(found) {
                return Err(PoolError::Stale);
            }
            let next = step(found)?;
            // SYNC(slot): every step is a Release of what its process did with the buffer, and an Acquire of what others did.
            match self.word.compare_exchange(found, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(next),
                Err(now) => found = now,
            }
        }
        Err(PoolError::Busy)
    }

    /// Becomes one of those who read.
    #[inline]
    pub(super) fn share(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let step = |word| Self::unwritten(word).map(|word| word | bit);
        self.step(generation, step).map(|_| ())
    }

    /// Becomes the only writer of a buffer that nobody holds.
    pub(super) fn own(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let step = |word| self.unheld(word).map(|word| word | bit | SlotSplit::WRITER);
        self.step(generation, step).map(|_| ())
    }

    /// As [`share`](Self::share), in place of a detached reference.
    #[inline]
    pub(super) fn adopt(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let step =
            |word| Self::unwritten(word).and_then(Self::one_detached_less).map(|word| word | bit);
        self.step(generation, step).map(|_| ())
    }

    /// As [`own`](Self::own), in place of a detached reference.
    pub(super) fn adopt_own(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let step = |word| {
            let word = self.unheld(word).and_then(Self::one_detached_less)?;
            Ok(word | bit | SlotSplit::WRITER)
        };
        self.step(generation, step).map(|_| ())
    }

    /// The writer becomes one who reads.
    pub(super) fn publish(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let held = bit | SlotSplit::WRITER;
        let step = |word| Self::held(word, held).map(|word| word & !SlotSplit::WRITER);
        self.step(generation, step).map(|_| ())
    }

    /// The last one who reads becomes the writer.
    pub(super) fn upgrade(self, generation: u64, bit: u64) -> Result<(), PoolError> {
        let step = |word| {
            let alone = Self::held(word, bit)? & self.split.in_use() == bit;
            if alone { Ok(word | SlotSplit::WRITER) } else { Err(PoolError::Busy) }
        };
        self.step(generation, step).map(|_| ())
    }

    /// One detached reference more; the bits of `leaving` go, and were there.
    #[inline]
    pub(super) fn detach(self, generation: u64, leaving: u64) -> Result<(), PoolError> {
        let step = |word| {
            let word = Self::held(word, leaving)?;
            if word & SlotSplit::DETACHED == SlotSplit::DETACHED {
                return Err(PoolError::TooManyReferences);
            }
            Ok((word & !leaving).wrapping_add(SlotSplit::DETACHED_ONE))
        };
        self.step(generation, step).map(|_| ())
    }

    /// One detached reference less.
    #[inline]
    pub(super) fn release(self, generation: u64) -> Result<Left, PoolError> {
        self.step(generation, Self::one_detached_less).map(|word| self.left(word))
    }

    /// The writer says how many references there are beside its own.
    pub(super) fn preset(self, generation: u64, bit: u64, detached: u32) -> Result<(), PoolError> {
        let detached = u64::from(detached)
            .checked_mul(SlotSplit::DETACHED_ONE)
            .filter(|bits| bits & !SlotSplit::DETACHED == 0)
            .ok_or(PoolError::TooManyReferences)?;
        let held = bit | SlotSplit::WRITER;
        let step = |word| Self::held(word, held).map(|word| word & !SlotSplit::DETACHED | detached);
        self.step(generation, step).map(|_| ())
    }

    /// Lets go of a writer's bits. As a rule there is nothing else in the word: then one swap does it, without a look.
    #[inline]
    pub(super) fn let_go_alone(self, generation: u64, bits: u64) -> Left {
        let free = generation.wrapping_shl(self.split.generation_shift());
        // SYNC(slot): Release of what this process did with the buffer.
        match self.word.compare_exchange(free | bits, free, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Left::Free(free),
            Err(_) => self.let_go(generation, bits),
        }
    }

    /// Lets go of a guard's bits. One step, never refused: where the word is not this guard's any more, there is nothing to
    /// let go of.
    #[inline]
    pub(super) fn let_go(self, generation: u64, bits: u64) -> Left {
        let found = self.word.load(Ordering::Relaxed);
        if self.generation_of(found) != generation || found & bits != bits {
            return Left::InUse;
        }
        // SYNC(slot): Release of what this process did with the buffer.
        let before = self.word.fetch_and(!bits, Ordering::AcqRel);
        self.left(before & !bits)
    }

    /// Whether the word still names this use of the slot and has those bits.
    #[inline]
    pub(super) fn is_held(self, generation: u64, bits: u64) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        self.generation_of(word) == generation && word & bits == bits
    }

    const fn unwritten(word: u64) -> Result<u64, PoolError> {
        if word & SlotSplit::WRITER == 0 { Ok(word) } else { Err(PoolError::Busy) }
    }

    const fn unheld(self, word: u64) -> Result<u64, PoolError> {
        if word & (self.split.holders() | SlotSplit::WRITER) == 0 {
            Ok(word)
        } else {
            Err(PoolError::Busy)
        }
    }

    const fn one_detached_less(word: u64) -> Result<u64, PoolError> {
        if word & SlotSplit::DETACHED == 0 {
            Err(PoolError::NoReference)
        } else {
            Ok(word.wrapping_sub(SlotSplit::DETACHED_ONE))
        }
    }

    /// Bits that this process has put there are there, as long as nobody took it for dead.
    const fn held(word: u64, bits: u64) -> Result<u64, PoolError> {
        if word & bits == bits { Ok(word) } else { Err(PoolError::Fatal(Fatal::Fenced)) }
    }
}
