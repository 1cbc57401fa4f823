//! The first bytes of either direction of a byte stream: who speaks, which protocol, and how much it takes.
//!
//! ```text
//!  byte 0       8         12         16      24                                64        128
//!      +--------+---------+----------+-------+---------------------------------+----------+
//!      | magic  | version | reserved | hash  | limits, kind, token, number ..  | name     |
//!      +--------+---------+----------+-------+---------------------------------+----------+
//!       the same in every hello of a build    differs from endpoint to endpoint
//! ```
//!
//! What is the same in every hello of one build comes first, so that whoever listens can hang up on
//! a stranger by its first byte that differs, without waiting for all 128.

use crate::endian::{Le32, Le64};

/// First word of a hello: the bytes `SW-HELLO`.
pub const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"SW-HELLO");

layout! {
    /// What each end of a byte stream sends first.
    pub struct Hello, size 128, align 8 {
        /// [`HELLO_MAGIC`].
        pub magic: Le64 @ 0,
        /// [`WIRE_VERSION`](crate::abi::WIRE_VERSION) of the sender.
        pub version: Le32 @ 8,
        /// Zero.
        pub reserved: Le32 @ 12,
        /// [`WIRE_HASH`](crate::abi::WIRE_HASH) of the sender.
        pub wire_hash: Le64 @ 16,
        /// Bytes of the longest message that the sender of this hello takes: at most
        /// [`MESSAGE_LENGTH_MAX`](super::MESSAGE_LENGTH_MAX).
        pub message_bytes_max: Le32 @ 24,
        /// Messages that may be on their way to the sender of this hello: at least 1.
        pub credit_messages: Le32 @ 28,
        /// Bytes of messages, headers apart, that may be on their way to it: at least
        /// `message_bytes_max`.
        pub credit_bytes: Le32 @ 32,
        /// [`EndpointKind`](crate::shm::EndpointKind) of the sender.
        pub kind: Le32 @ 36,
        /// By what the reader knows that it is the same endpoint which said hello before: a secret between the two, the same in each hello of one
        /// to the other, and another when the endpoint is opened anew. 0: none.
        pub token: Le64 @ 40,
        /// How many hellos that endpoint has said before this one, to anybody.
        pub number: Le64 @ 48,
        /// Zero.
        pub reserved_end: [u8; 8] @ 56,
        /// Name of the endpoint that sends this, filled up with zeros.
        pub name: [u8; 64] @ 64,
    }
}

/// Bytes of a hello.
pub const HELLO_BYTES: usize = size_of::<Hello>();

/// Bytes at the start of a hello that are the same in every hello of one build.
pub const HELLO_PREFIX_BYTES: usize = core::mem::offset_of!(Hello, message_bytes_max);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    #[test]
    fn the_first_word_reads_as_text() {
        assert_eq!(&HELLO_MAGIC.to_le_bytes(), b"SW-HELLO");
        let hello = Hello { magic: Le64::new(HELLO_MAGIC), ..Hello::ZERO };
        assert!(hello.as_bytes().starts_with(b"SW-HELLO"));
        assert_eq!((hello.as_bytes().len(), HELLO_PREFIX_BYTES), (HELLO_BYTES, 24));
    }
}
