//! The head word of a message, and the header of a message on a byte stream.
//!
//! ```text
//!  bit  63   56 55            32 31                        0
//!      +-------+----------------+---------------------------+
//!      | flags | length 24      | sequence 32               |     head word
//!      +-------+----------------+---------------------------+
//!        8       bytes            counts messages, wraps
//!
//!  byte 0        8        16       24       32
//!      +--------+--------+--------+--------+---------------------------+
//!      | head   | tag    | imm    | credit | length bytes of payload   |     on a byte stream
//!      +--------+--------+--------+--------+---------------------------+
//! ```
//!
//! On a byte stream every frame begins with such a header, frames of control too: those have the flag
//! [`flags::CONTROL`], a [`ControlKind`] in place of the tag, and no payload. The sequence counts frames
//! of both kinds, from 0 for the first one behind the [`Hello`](super::Hello). Credit is what the
//! sender of the frame gives back since its last one, for the other direction: messages and bytes
//! that it has received and done with.
//!
//! The same head word opens a cell of a shared-memory lane, in the byte order of the machine.
//! There, and only there, it doubles as the signal that the cell is written: [`flags::VALID`] is
//! set in every head, so memory that was never written is not a message, and the sequence tells
//! this round of the ring from the one before.

use crate::describe::{HASH_START, hash_word};
use crate::endian::Le64;
use crate::word;

/// Bits of the sequence number of a head word: bits 0 to 31.
pub const SEQUENCE_BITS: u32 = 32;

/// Bits of the length in a head word: bits 32 to 55.
pub const LENGTH_BITS: u32 = 24;

/// Bytes of the longest message: 2^24 - 1.
pub const MESSAGE_LENGTH_MAX: usize = 0x00ff_ffff;

/// Flags of a message: bits 56 to 63 of its head word.
pub mod flags {
    /// Set in every head word that was ever written, so that an all-zero word is never a message.
    pub const VALID: u8 = 1;
    /// The message has a tag.
    pub const TAGGED: u8 = 2;
    /// The message has 64 bits of immediate data.
    pub const IMMEDIATE: u8 = 4;
    /// The message is for the endpoint itself, not for its user.
    pub const CONTROL: u8 = 8;
    /// In a lane: what does not fit into the cell starts on a line of the spill of its own, not in
    /// the line in which the message before it ends. Nowhere else.
    pub const OWN_LINE: u8 = 16;
    /// In a lane: the message is a buffer of a pool, and its bytes are a
    /// [`ParcelBody`](crate::shm::ParcelBody). Nowhere else.
    pub const PARCEL: u8 = 32;
    /// All flags that are defined. Any other bit in a head word is corruption.
    pub const KNOWN: u8 = VALID | TAGGED | IMMEDIATE | CONTROL | OWN_LINE | PARCEL;
}

/// A head word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the message on its lane or connection, modulo 2^32.
    pub sequence: u32,
    /// Bytes of the message, without immediate data: 0 to [`MESSAGE_LENGTH_MAX`].
    pub length: usize,
    /// Bits of [`flags`].
    pub flags: u8,
}

impl Head {
    /// The head word of a message. Bits of `length` above the 24th are dropped: the caller has
    /// checked it against [`MESSAGE_LENGTH_MAX`].
    #[inline]
    #[must_use]
    pub const fn pack(sequence: u32, length: usize, flags: u8) -> u64 {
        let length = word::from_usize(length & MESSAGE_LENGTH_MAX) << SEQUENCE_BITS;
        word::widen(sequence) | length | u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, flags])
    }

    /// The parts of `word`. Every word has some: whether it is a message is said by
    /// [`Head::is_message`].
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let [.., flags] = word.to_le_bytes();
        let length = word::to_usize(word >> SEQUENCE_BITS) & MESSAGE_LENGTH_MAX;
        Self { sequence: word::low(word), length, flags }
    }

    /// Whether this can be the head of a message at all: [`flags::VALID`] is set, and no flag that
    /// is not defined.
    #[inline]
    #[must_use]
    pub const fn is_message(self) -> bool {
        self.flags & (flags::VALID | !flags::KNOWN) == flags::VALID
    }

    /// Whether `word` is the head of message number `sequence`: both of its own tests in one comparison.
    #[inline]
    #[must_use]
    pub const fn is_head_of(word: u64, sequence: u32) -> bool {
        const LOOKED_AT: u64 = Head::pack(u32::MAX, 0, flags::VALID | !flags::KNOWN);
        word & LOOKED_AT == Self::pack(sequence, 0, flags::VALID)
    }
}

codes! {
    /// What a frame of control says. The number lies where other messages have their tag.
    pub enum ControlKind: u8 {
        /// Nothing but its credit. Without any it is a sign of life.
        Credit = 1 "credit",
        /// Its sender sends no message any more. Credit may still follow.
        Goodbye = 2 "goodbye",
    }
}

layout! {
    /// What goes before the payload of a message on a byte stream.
    pub struct MessageHeader, size 32, align 8 {
        /// Sequence, length and flags: see [`Head`].
        pub head: Le64 @ 0,
        /// Tag of the message; zero without the flag TAGGED. With the flag CONTROL a [`ControlKind`].
        pub tag: Le64 @ 8,
        /// Immediate data; zero without the flag IMMEDIATE.
        pub imm: Le64 @ 16,
        /// What is given back since the last frame: messages in the low half, bytes in the high.
        pub credit: Le64 @ 24,
    }
}

/// Bytes of the header of a frame.
pub const HEADER_BYTES: usize = size_of::<MessageHeader>();

/// Hash of the flags and of the places in the head word, for the hash over all layouts.
pub(crate) const fn head_hash() -> u64 {
    let all = [
        flags::VALID,
        flags::TAGGED,
        flags::IMMEDIATE,
        flags::CONTROL,
        flags::OWN_LINE,
        flags::KNOWN,
        flags::PARCEL,
        0,
    ];
    let hash = hash_word(HASH_START, u64::from_le_bytes(all));
    let hash = hash_word(hash, word::widen(SEQUENCE_BITS));
    hash_word(hash, word::widen(LENGTH_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    #[test]
    fn the_head_of_a_message_is_told_by_number_and_flags_whatever_its_length() {
        for sequence in [0, 1, 0x8000_0000, u32::MAX] {
            for length in [0, 1, MESSAGE_LENGTH_MAX] {
                for flags in 0..=255 {
                    let word = Head::pack(sequence, length, flags);
                    let is_message = Head::unpack(word).is_message();
                    assert_eq!(Head::is_head_of(word, sequence), is_message, "flags {flags:#x}");
                    assert!(!Head::is_head_of(word, sequence.wrapping_add(1)));
                }
            }
        }
    }

    #[test]
    fn heads_come_back() {
        for sequence in [0, 1, 0x8000_0000, u32::MAX] {
            for length in [0, 1, 48, 0x80_0000, MESSAGE_LENGTH_MAX] {
                for flags in 0..=255 {
                    let head = Head { sequence, length, flags };
                    assert_eq!(Head::unpack(Head::pack(sequence, length, flags)), head);
                }
            }
        }
    }

    #[test]
    fn the_word_has_the_documented_bits() {
        let word = Head::pack(0x1122_3344, 0x55_6677, flags::VALID | flags::CONTROL);
        assert_eq!(word, 0x0955_6677_1122_3344);
        assert_eq!(SEQUENCE_BITS + LENGTH_BITS + 8, 64);
    }

    #[test]
    fn a_length_too_wide_does_not_touch_its_neighbours() {
        assert_eq!(Head::pack(0, usize::MAX, 0), 0x00ff_ffff_0000_0000);
        assert_eq!(Head::pack(0, MESSAGE_LENGTH_MAX + 1, 0), 0);
    }

    #[test]
    fn only_valid_and_known_flags_make_a_message() {
        assert!(!Head::unpack(0).is_message());
        for flags in 0..=255 {
            let head = Head { sequence: 0, length: 0, flags };
            assert_eq!(head.is_message(), flags < 64 && flags % 2 == 1, "{flags}");
        }
    }

    #[test]
    fn every_flag_is_a_bit_of_its_own() {
        let single = [
            flags::VALID,
            flags::TAGGED,
            flags::IMMEDIATE,
            flags::CONTROL,
            flags::OWN_LINE,
            flags::PARCEL,
        ];
        assert!(single.iter().all(|flag| flag.count_ones() == 1));
        assert_eq!(single.iter().sum::<u8>(), flags::KNOWN);
    }

    #[test]
    fn the_header_lies_little_end_first() {
        let header = MessageHeader {
            head: Le64::new(Head::pack(1, 2, flags::VALID)),
            tag: Le64::new(3),
            imm: Le64::new(0x0807_0605_0403_0201),
            credit: Le64::new(word::join(5, 0x0102_0304)),
        };
        let head_and_tag = [1, 0, 0, 0, 2, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0];
        let imm_and_credit = [1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 0, 0, 4, 3, 2, 1];
        assert_eq!(header.as_bytes(), [head_and_tag, imm_and_credit].concat());
        assert_eq!(header.as_bytes().len(), HEADER_BYTES);
    }
}
