//! Lanes: one-way rings from one endpoint to another, with one writer and one reader.
//!
//! ```text
//!  LaneHeader   line 0   state, sender, receiver, owners     changes hands by CAS on `state`
//!               line 1   credit, armed, receiver_state,      written by the receiver only
//!                        settled
//!               line 2   answers                             written by the sender only
//!               line 3   reserved
//!
//!  ring         cell 0   cell 1   cell 2   ...               lane_cell_count lines, written by the sender only
//!               spill bytes                                  the rest of messages that do not fit their cell
//!
//!  LaneCell     | head 8 | tag 8 | payload 48 |              one cache line
//! ```
//!
//! A message takes one cell. What does not fit into the payload of the cell lies in the spill ring,
//! at a place that both sides work out for themselves. The head word carries the sequence number in
//! the same line as the payload, so a reader that polls the next cell sees news and payload by one
//! transfer of a line; a batch is published by one Release store, of the head of its first cell.
//! See [`message`](crate::wire::message) for the bits of the head.

use crate::word::TagWord;

/// Bytes of a message that travel in its cell.
pub const CELL_INLINE_BYTES: usize = 48;

/// Bytes of the payload of a cell that immediate data take, where there are any. They come first.
pub const CELL_IMMEDIATE_BYTES: usize = 8;

codes! {
    /// State of a lane.
    pub enum LaneState: u8 {
        /// Nobody's: may be claimed.
        Free = 0 "free",
        /// Claimed by a sender; the rest of line 0 is being written.
        Claiming = 1 "claiming",
        /// In use.
        Open = 2 "open",
        /// The sender has left or died; the receiver may still drain the lane, and then frees it.
        SenderLeft = 3 "sender-left",
        /// The receiver has left or died; the sender frees the lane.
        ReceiverLeft = 4 "receiver-left",
    }
}

/// The state word of a lane, taken apart: state in bits 0 to 7, generation in bits 8 to 31, slot of the sender's process in
/// bits 32 to 47, slot of the receiver's process in bits 48 to 63.
///
/// The claim writes both process slots in the same word, so that whoever cleans up after a dead process sees at once, and by
/// one compare-and-swap, which lanes it had a hand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneWord {
    /// State.
    pub state: LaneState,
    /// How often the lane was claimed, modulo 2^24 and never 0 while claimed.
    pub generation: u32,
    /// Slot of the sender's process in the process table.
    pub sender_process: u16,
    /// Slot of the receiver's process in the process table.
    pub receiver_process: u16,
}

impl LaneWord {
    /// The word. Bits 24 to 31 of the generation are dropped.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [a, b] = self.sender_process.to_le_bytes();
        let [c, d] = self.receiver_process.to_le_bytes();
        TagWord {
            tag: self.state.code(),
            generation: self.generation,
            subject: u32::from_le_bytes([a, b, c, d]),
        }
        .pack()
    }

    /// The parts of `word`, or `None` where the state is not in the list: somebody scribbled over it.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        let TagWord { tag, generation, subject } = TagWord::unpack(word);
        let [a, b, c, d] = subject.to_le_bytes();
        match LaneState::from_code(tag) {
            Some(state) => Some(Self {
                state,
                generation,
                sender_process: u16::from_le_bytes([a, b]),
                receiver_process: u16::from_le_bytes([c, d]),
            }),
            None => None,
        }
    }
}

layout! {
    /// One lane: who sends to whom, and how far the receiver is.
    pub struct LaneHeader, size 256, align 64 {
        /// [`LaneWord`].
        pub state: u64 @ 0,
        /// [`EndpointId`](super::EndpointId) of the sender.
        pub sender: u64 @ 8,
        /// [`EndpointId`](super::EndpointId) of the receiver.
        pub receiver: u64 @ 16,
        /// Lease word of the process of the sender.
        pub sender_owner: u64 @ 24,
        /// Lease word of the process of the receiver.
        pub receiver_owner: u64 @ 32,
        /// Zero.
        pub reserved0: [u64; 3] @ 40,

        /// Cells that the receiver has given back, counted from the opening of the lane. Written
        /// now and then, not for each cell.
        pub credit_cells: u64 @ 64 by receiver,
        /// Spill bytes that the receiver has given back, counted from the opening of the lane.
        pub credit_spill_bytes: u64 @ 72 by receiver,
        /// Not 0 while the receiver wants a bit in its `news`, or a wake-up, for the next message.
        pub armed: u64 @ 80,
        /// What the receiver made of the lane: not seen yet, accepted, refused.
        pub receiver_state: u64 @ 88,
        /// Parcels that the receiver has done with: it flips the bit of a parcel's number.
        pub settled: u64 @ 96 by receiver,
        /// Zero.
        pub reserved1: [u64; 3] @ 104,

        /// Where both lanes between two endpoints make one connection: the lane from the receiver that this one goes with,
        /// its index in bits 0 to 31 and its generation in bits 32 to 63. Zero where the sender knows of none.
        pub answers: u64 @ 128 by sender,
        /// Zero.
        pub reserved2: [u64; 7] @ 136,

        /// Zero.
        pub reserved3: [u64; 8] @ 192,
    }
}

layout! {
    /// One cell of the ring of a lane: one cache line, one message or its beginning.
    pub struct LaneCell, size 64, align 64 {
        /// Sequence, length and flags: see [`Head`](crate::wire::message::Head). Stored with
        /// Release, and last.
        pub head: u64 @ 0 by sender,
        /// Tag of the message, where the flag TAGGED is set.
        pub tag: u64 @ 8 by sender,
        /// The message, or its first bytes. Where the flag IMMEDIATE is set, the first 8 bytes are
        /// the immediate data.
        pub payload: [u8; 48] @ 16 by sender,
    }
}

layout! {
    /// The bytes of a message with the flag PARCEL: a buffer of a pool, which its sender holds until the receiver has settled
    /// the number.
    pub struct ParcelBody, size 16, align 8 {
        /// [`BufferId`](super::BufferId) of the buffer.
        pub buffer: u64 @ 0,
        /// What tells its pool from most others, in 24 bits.
        pub pool: u32 @ 8,
        /// Number of the parcel among those under way in this lane: 0 to 63.
        pub number: u32 @ 12,
    }
}

/// Parcels that may be under way in a lane: each has a bit in [`LaneHeader::settled`].
pub const PARCELS_MAX: u32 = 64;

const _: () = assert!(size_of::<LaneCell>() == crate::word::LINE_BYTES);
const _: () =
    assert!(core::mem::offset_of!(LaneCell, payload) + CELL_INLINE_BYTES == size_of::<LaneCell>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_words_come_back() {
        for state in LaneState::ALL.iter().copied() {
            for generation in [0, 1, 0xff_ffff] {
                for (sender_process, receiver_process) in [(0, 0), (7, 65_535), (65_535, 1)] {
                    let word = LaneWord { state, generation, sender_process, receiver_process };
                    assert_eq!(LaneWord::unpack(word.pack()), Some(word));
                }
            }
        }
        let word = LaneWord {
            state: LaneState::Open,
            generation: 3,
            sender_process: 4,
            receiver_process: 5,
        };
        assert_eq!(word.pack(), 0x0005_0004_0000_0302);
    }

    #[test]
    fn scribbled_lane_words_are_refused() {
        assert_eq!(LaneWord::unpack(5), None);
        assert_eq!(LaneWord::unpack(u64::MAX), None);
    }

    #[test]
    fn what_different_sides_write_lies_in_different_lines() {
        let line = |name: &str| LaneHeader::LAYOUT.field(name).unwrap().offset / 64;
        for receiver in ["credit_cells", "credit_spill_bytes", "armed", "receiver_state", "settled"]
        {
            for other in ["state", "receiver_owner", "answers"] {
                assert_ne!(line(receiver), line(other), "{receiver} {other}");
            }
        }
        assert_ne!(line("state"), line("answers"));
    }
}
