//! Numbers packed in one 64-bit word.
//!
//! Everything that two sides share is read and written as whole 64-bit words, so that a load or a
//! store is one atomic access and a compare-and-swap covers all the parts at once. Two packings
//! serve for everything:
//!
//! ```text
//!  bit  63            32 31             8 7      0
//!      +----------------+----------------+--------+
//!      | subject 32     | generation 24  | tag 8  |   TagWord: leases, lane states, operation ids
//!      +----------------+----------------+--------+
//!      | high 32        | low 32                  |   join / low / high: endpoint ids, pairs of counts
//!      +----------------+-------------------------+
//! ```
//!
//! The functions are `const` and take no `as`: they go through byte arrays, which an optimising
//! build turns into plain moves.

/// Bytes of one word.
pub const WORD_BYTES: usize = 8;

/// Bytes of one cache line. Source: the line size of every x86-64, and of the AArch64 server parts
/// that are supported.
pub const LINE_BYTES: usize = 64;

/// Words of one cache line.
pub const LINE_WORDS: usize = 8;

/// Greatest generation: 24 bits, all ones.
pub const GENERATION_MAX: u32 = 0x00ff_ffff;

/// `value` as a 64-bit number. Like `u64::from`, but `const`.
#[inline]
#[must_use]
pub const fn widen(value: u32) -> u64 {
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, 0, 0, 0, 0])
}

/// The low 32 bits of `word`.
#[inline]
#[must_use]
pub const fn low(word: u64) -> u32 {
    let [a, b, c, d, _, _, _, _] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high 32 bits of `word`.
#[inline]
#[must_use]
pub const fn high(word: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The word whose low half is `low` and whose high half is `high`.
#[inline]
#[must_use]
pub const fn join(low: u32, high: u32) -> u64 {
    widen(low) | (widen(high) << 32)
}

/// `value` as a length or an index. Lossless, because the crate is built for 64-bit targets only.
#[inline]
#[must_use]
pub const fn to_usize(value: u64) -> usize {
    usize::from_le_bytes(value.to_le_bytes())
}

/// `value` as a 64-bit number. Lossless, because the crate is built for 64-bit targets only.
#[inline]
#[must_use]
pub const fn from_usize(value: usize) -> u64 {
    u64::from_le_bytes(value.to_le_bytes())
}

/// Which cache line of a structure, aligned to lines, holds the byte at `offset`.
#[inline]
#[must_use]
pub const fn line_of(offset: usize) -> usize {
    offset >> 6
}

/// Which word of its cache line, 0 to 7, holds the byte at `offset`.
#[inline]
#[must_use]
pub const fn word_of(offset: usize) -> usize {
    (offset >> 3) & 7
}

/// A tag, a generation and a subject in one word: tag in bits 0 to 7, generation in bits 8 to 31,
/// subject in bits 32 to 63.
///
/// The subject is the process, slot or index that the word is about. A generation is counted modulo
/// 2^24: [`TagWord::pack`] drops higher bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagWord {
    /// State or operation, 8 bits.
    pub tag: u8,
    /// How often the subject was reused, 24 bits: 0 to [`GENERATION_MAX`].
    pub generation: u32,
    /// Process id, slot or index, 32 bits.
    pub subject: u32,
}

impl TagWord {
    /// The word. Bits 24 to 31 of the generation are dropped.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [a, b, c, _] = self.generation.to_le_bytes();
        join(u32::from_le_bytes([self.tag, a, b, c]), self.subject)
    }

    /// The parts of `word`. Every word has some: whether the tag is a known one is for the caller
    /// to check.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let [tag, a, b, c] = low(word).to_le_bytes();
        Self { tag, generation: u32::from_le_bytes([a, b, c, 0]), subject: high(word) }
    }
}

/// The generation that follows `generation`: counts modulo 2^24 and leaves out 0, so that an
/// all-zero word names nothing.
#[inline]
#[must_use]
pub const fn next_generation(generation: u32) -> u32 {
    let next = generation.wrapping_add(1) & GENERATION_MAX;
    if next == 0 { 1 } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [u32; 8] =
        [0, 1, 0x80, 0xff, 0x1234_5678, 0x00ff_ffff, 0x8000_0000, 0xffff_ffff];

    #[test]
    fn halves_come_back() {
        for a in SAMPLES {
            assert_eq!(widen(a), u64::from(a));
            for b in SAMPLES {
                let word = join(a, b);
                assert_eq!(word, u64::from(a) | (u64::from(b) << 32));
                assert_eq!((low(word), high(word)), (a, b));
            }
        }
        assert_eq!(to_usize(from_usize(usize::MAX)), usize::MAX);
    }

    #[test]
    fn tag_words_lie_where_the_drawing_says() {
        let word = TagWord { tag: 0xab, generation: 0x12_3456, subject: 0xdead_beef }.pack();
        assert_eq!(word, 0xdead_beef_1234_56ab);
        for tag in [0, 1, 3, 255] {
            for generation in SAMPLES.map(|g| g & GENERATION_MAX) {
                for subject in SAMPLES {
                    let parts = TagWord { tag, generation, subject };
                    assert_eq!(TagWord::unpack(parts.pack()), parts);
                }
            }
        }
    }

    #[test]
    fn a_generation_too_wide_does_not_touch_its_neighbours() {
        let word = TagWord { tag: 0, generation: 0xff00_0001, subject: 0 }.pack();
        assert_eq!(word, 0x100);
    }

    #[test]
    fn generations_wrap_past_zero() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(1), 2);
        assert_eq!(next_generation(GENERATION_MAX), 1);
        assert_eq!(next_generation(u32::MAX), 1);
    }

    #[test]
    fn offsets_fall_into_lines_and_words() {
        assert_eq!((line_of(0), word_of(0)), (0, 0));
        assert_eq!((line_of(63), word_of(63)), (0, 7));
        assert_eq!((line_of(64), word_of(64)), (1, 0));
        assert_eq!((line_of(200), word_of(200)), (3, 1));
    }
}
