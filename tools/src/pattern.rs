//! What streamed messages hold, so that one that is lost, repeated, torn or changed is found out.
//!
//! ```text
//!   short (up to 256 bytes)   every word is the message's number, mixed with its place
//!   long                      a fixed pattern, with the number in the first and last word and in one word of a line
//!                             that moves with the number; every 64th message is compared in full, of the others these
//!                             words and the line around the moving one
//! ```

const WORD: usize = 8;
/// Up to here every byte of every message depends on its number.
const SHORT_BYTES: usize = 256;
/// One in so many long messages is compared in full.
pub(crate) const FULL_EVERY: u64 = 64;
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// The word at that place of a long message, where it is no stamped one.
pub(crate) fn fixed(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(0).wrapping_add(1).wrapping_mul(MIX)
}

/// Places of the stamped words of a long message of `words` words.
pub(crate) fn stamps(words: usize, number: u64) -> [usize; 3] {
    let moving = number.wrapping_mul(8) % u64::try_from(words).unwrap_or(1).max(1);
    [0, usize::try_from(moving).unwrap_or(0), words.saturating_sub(1)]
}

/// The last word of message `number`, of so many bytes, a multiple of 8.
pub(crate) const fn last_word(size: usize, number: u64) -> u64 {
    if size > SHORT_BYTES {
        return number;
    }
    let mut value = number.wrapping_mul(MIX);
    let mut left = size / WORD;
    while left > 1 {
        value = value.wrapping_add(1);
        left -= 1;
    }
    value
}

/// The number of the message that a buffer holds, if it holds one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps(Option<u64>);

impl Stamps {
    /// Makes all of a buffer the fixed pattern.
    pub(crate) fn fill(bytes: &mut [u8]) -> Self {
        for (at, word) in bytes.chunks_mut(WORD).enumerate() {
            for (to, from) in word.iter_mut().zip(fixed(at).to_le_bytes()) {
                *to = from;
            }
        }
        Self(None)
    }

    /// Makes it message `number`.
    #[inline(always)]
    pub(crate) fn stamp(&mut self, bytes: &mut [u8], number: u64) {
        if bytes.len() <= SHORT_BYTES {
            let (words, rest) = bytes.as_chunks_mut::<WORD>();
            let mut value = number.wrapping_mul(MIX);
            for word in words {
                *word = value.to_le_bytes();
                value = value.wrapping_add(1);
            }
            for (to, from) in rest.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            return;
        }
        let words = bytes.as_chunks_mut::<WORD>().0;
        if let Some(before) = self.0.replace(number) {
            for at in stamps(words.len(), before) {
                if let Some(word) = words.get_mut(at) {
                    *word = fixed(at).to_le_bytes();
                }
            }
        }
        for at in stamps(words.len(), number) {
            if let Some(word) = words.get_mut(at) {
                *word = number.to_le_bytes();
            }
        }
    }
}

/// The sender's side: one buffer, changed from message to message.
#[derive(Debug)]
pub(crate) struct Stamper {
    bytes: Vec<u8>,
    stamps: Stamps,
}

impl Stamper {
    pub(crate) fn new(size: usize) -> Self {
        let mut bytes = vec![0; size];
        let stamps = Stamps::fill(&mut bytes);
        Self { bytes, stamps }
    }

    /// The bytes of message `number`.
    #[inline(always)]
    pub(crate) fn message(&mut self, number: u64) -> &[u8] {
        self.stamps.stamp(&mut self.bytes, number);
        &self.bytes
    }
}

/// The receiver's side.
#[derive(Debug)]
pub(crate) struct Checker {
    size: usize,
}

impl Checker {
    pub(crate) const fn new(size: usize) -> Self {
        Self { size }
    }

    /// Whether `bytes` are those of message `number`.
    #[inline(always)]
    pub(crate) fn is_good(&self, bytes: &[u8], number: u64) -> bool {
        if bytes.len() != self.size {
            return false;
        }
        if self.size <= SHORT_BYTES {
            let (words, rest) = bytes.as_chunks::<WORD>();
            let mut value = number.wrapping_mul(MIX);
            let mut wrong = 0;
            for word in words {
                wrong |= u64::from_le_bytes(*word) ^ value;
                value = value.wrapping_add(1);
            }
            return wrong == 0 && rest.iter().zip(value.to_le_bytes()).all(|(a, b)| *a == b);
        }
        is_good_long(bytes, number)
    }
}

fn is_good_long(bytes: &[u8], number: u64) -> bool {
    let (words, rest) = bytes.as_chunks::<WORD>();
    let stamps = stamps(words.len(), number);
    let expected = |at: usize| if stamps.contains(&at) { number } else { fixed(at) };
    let good = |at: usize| words.get(at).is_some_and(|w| u64::from_le_bytes(*w) == expected(at));
    if number.is_multiple_of(FULL_EVERY) {
        let tail = fixed(words.len()).to_le_bytes();
        return (0..words.len()).all(good) && rest.iter().zip(tail).all(|(a, b)| *a == b);
    }
    let [first, moving, last] = stamps;
    good(first) && good(last) && (moving..words.len().min(moving.saturating_add(8))).all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_messages_pass_and_changed_ones_do_not() {
        for size in [1, 7, 8, 9, 32, 64, 255, 256, 257, 300, 4096] {
            let mut stamper = Stamper::new(size);
            let checker = Checker::new(size);
            for number in 0..200 {
                let bytes = stamper.message(number).to_vec();
                assert!(checker.is_good(&bytes, number), "size {size} number {number}");
                let last = bytes.last_chunk().map(|word| u64::from_le_bytes(*word));
                assert!(size % 8 > 0 || last == Some(last_word(size, number)));
                assert!(size < 8 || !checker.is_good(&bytes, number + 1), "another number");
                assert!(!checker.is_good(&bytes[1..], number), "cut");
            }
            // Every byte counts in short messages, and in those long ones that are compared in full.
            for number in [0, 64] {
                let bytes = stamper.message(number).to_vec();
                for at in 0..size {
                    let mut changed = bytes.clone();
                    changed[at] ^= 0x10;
                    assert!(!checker.is_good(&changed, number), "size {size} byte {at}");
                }
            }
        }
    }
}
