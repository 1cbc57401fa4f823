//! The header of a message that is a datagram of its own.
//!
//! ```text
//!  byte 0      2         3       4        6      8       16      24
//!      +-------+---------+-------+--------+------+-------+-------+-------------------------+
//!      | magic | version | flags | length | hash | tag   | imm   | length bytes of payload |
//!      +-------+---------+-------+--------+------+-------+-------+-------------------------+
//! ```
//!
//! A datagram stands for itself: no hello comes before it, it has no sequence, and nobody answers.
//! The length is said again, so that a datagram that was cut short on its way into a buffer is seen
//! to be, and its true length is known.

use crate::endian::{Le16, Le64};
use crate::word;

/// First two bytes of a datagram: `SW`.
pub const DATAGRAM_MAGIC: u16 = u16::from_le_bytes(*b"SW");

/// Bytes of the longest message in a datagram: those that UDP over IPv4 carries (RFC 768, RFC 791:
/// 65,535 without headers of 20 and 8 bytes), without the header here.
pub const DATAGRAM_LENGTH_MAX: usize = 65_535 - 20 - 8 - DATAGRAM_HEADER_BYTES;

/// Bytes of the header of a datagram.
pub const DATAGRAM_HEADER_BYTES: usize = size_of::<DatagramHeader>();

layout! {
    /// What goes before the payload of a message that is a datagram.
    pub struct DatagramHeader, size 24, align 8 {
        /// [`DATAGRAM_MAGIC`].
        pub magic: Le16 @ 0,
        /// Low byte of the [`WIRE_VERSION`](crate::abi::WIRE_VERSION) of the sender.
        pub version: u8 @ 2,
        /// Bits of [`flags`](super::message::flags): VALID, TAGGED, IMMEDIATE, no others.
        pub flags: u8 @ 3,
        /// Bytes of the message: at most [`DATAGRAM_LENGTH_MAX`].
        pub length: Le16 @ 4,
        /// [`hash_mark`] of the sender's [`WIRE_HASH`](crate::abi::WIRE_HASH).
        pub hash: Le16 @ 6,
        /// Tag of the message; zero without the flag TAGGED.
        pub tag: Le64 @ 8,
        /// Immediate data; zero without the flag IMMEDIATE.
        pub imm: Le64 @ 16,
    }
}

/// The four 16-bit parts of a hash, folded into one.
#[inline]
#[must_use]
pub const fn hash_mark(hash: u64) -> u16 {
    let folded = word::low(hash) ^ word::high(hash);
    let [a, b, c, d] = folded.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    #[test]
    fn the_header_lies_little_end_first() {
        let header = DatagramHeader {
            magic: Le16::new(DATAGRAM_MAGIC),
            version: 7,
            flags: 3,
            length: Le16::new(0x0102),
            hash: Le16::new(0x0304),
            tag: Le64::new(9),
            imm: Le64::new(0x0807_0605_0403_0201),
        };
        let first = [b'S', b'W', 7, 3, 2, 1, 4, 3, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(header.as_bytes(), [&first[..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat());
        assert_eq!(DATAGRAM_LENGTH_MAX, 65_483);
    }

    #[test]
    fn every_part_of_a_hash_is_in_its_mark() {
        assert_eq!(hash_mark(0), 0);
        for shift in 0..64 {
            assert_eq!(hash_mark(1 << shift), 1 << (shift % 16));
        }
        assert_eq!(hash_mark(0x1000_0200_0030_0004), 0x1234);
    }
}
