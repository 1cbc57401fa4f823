//! The header of a piece: what each send begins with that does not go on with a message.
//!
//! ```text
//!   | head: sequence 32, length 24, flags 8 | tag 64 | immediate 64 | credit: receives for messages 32, for control 32 | bytes ..
//! ```
//!
//! It is the header that a frame has on a byte stream ([`layouts::wire`](spinwire_layouts::wire)), with one other meaning: credit counts
//! receives, those for messages in its low half and those for control in its high one.
//!
//! A message without tag and immediate that is one piece has none of that in front. What has to be said besides goes in the 32 bits that
//! devices carry beside a send, and its length is that of the piece:
//!
//! ```text
//!   | low bits of sequence 8 | 0 4 | credit: receives for control 4 | for messages 16 |
//! ```
//!
//! Invariant: nothing of a header is believed before all of it was checked.

use spinwire_layouts::endian::Le64;
use spinwire_layouts::pod::Pod;
use spinwire_layouts::wire::message::flags;
use spinwire_layouts::wire::{ControlKind, Head, MessageHeader};
use spinwire_layouts::word::{from_usize, high, join, low};

pub use spinwire_layouts::wire::message::HEADER_BYTES;

use crate::provider::tcp::frame::FrameFault;
use crate::shm::lane::Envelope;

/// Flags that a piece may have.
const KNOWN: u8 = flags::VALID | flags::TAGGED | flags::IMMEDIATE | flags::CONTROL;

/// Where the fields of a brief are, and how large they can be.
const BRIEF_SEQUENCE_SHIFT: u32 = 24;
const BRIEF_CONTROL_SHIFT: u32 = 16;
const BRIEF_CONTROL: u32 = 0xf;
/// Most receives for messages that can be given back beside a message: who has more of them says it in headers.
pub const BRIEF_MESSAGES_MAX: u32 = 0xffff;

/// What a piece says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// A message of so many bytes begins.
    Message {
        /// All of its bytes.
        length: u32,
        /// Tag and immediate data.
        envelope: Envelope,
    },
    /// Nothing but its credit.
    Credit,
    /// The last: no message follows.
    Goodbye,
}

/// Receives that the sender of a piece has posted again since its last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// Those for messages.
    pub messages: u32,
    /// Those for control.
    pub control: u32,
}

/// The bytes of a header.
#[must_use]
#[inline]
pub fn write(sequence: u32, content: Content, grant: Grant) -> [u8; HEADER_BYTES] {
    let credit = Le64::new(join(grant.messages, grant.control));
    let header = match content {
        Content::Message { length, envelope } => {
            let tagged = if envelope.tag.is_some() { flags::TAGGED } else { 0 };
            let immediate = if envelope.immediate.is_some() { flags::IMMEDIATE } else { 0 };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            MessageHeader {
                head: Le64::new(Head::pack(sequence, length, flags::VALID | tagged | immediate)),
                tag: Le64::new(envelope.tag.unwrap_or(0)),
                imm: Le64::new(envelope.immediate.unwrap_or(0)),
                credit,
            }
        }
        Content::Credit => control(sequence, ControlKind::Credit, credit),
        Content::Goodbye => control(sequence, ControlKind::Goodbye, credit),
    };
    // The length is that of the type, so there is such a chunk.
    header.as_bytes().first_chunk().copied().unwrap_or([0; HEADER_BYTES])
}

/// What goes beside a message without a header. Of the credit at most [`BRIEF_MESSAGES_MAX`] receives for messages and 15 for control are
/// said.
#[must_use]
#[inline]
pub const fn write_brief(sequence: u32, Grant { messages, control }: Grant) -> u32 {
    debug_assert!(messages <= BRIEF_MESSAGES_MAX && control <= BRIEF_CONTROL, "it is said whole");
    let control = (control & BRIEF_CONTROL) << BRIEF_CONTROL_SHIFT;
    sequence << BRIEF_SEQUENCE_SHIFT | control | messages & BRIEF_MESSAGES_MAX
}

/// What is said beside a message without a header, that has to be the one of that number.
///
/// # Errors
/// [`FrameFault::Sequence`], or [`FrameFault::Immediate`] where a bit is set that nobody sets.
#[inline]
pub const fn read_brief(beside: u32, sequence: u32) -> Result<Grant, FrameFault> {
    if (beside >> BRIEF_SEQUENCE_SHIFT) != sequence & 0xff {
        return Err(FrameFault::Sequence);
    }
    let control = (beside & 0x00ff_ffff) >> BRIEF_CONTROL_SHIFT;
    if control > BRIEF_CONTROL {
        return Err(FrameFault::Immediate);
    }
    Ok(Grant { messages: beside & BRIEF_MESSAGES_MAX, control })
}

fn control(sequence: u32, kind: ControlKind, credit: Le64) -> MessageHeader {
    MessageHeader {
        head: Le64::new(Head::pack(sequence, 0, flags::VALID | flags::CONTROL)),
        tag: Le64::new(u64::from(kind.code())),
        imm: Le64::new(0),
        credit,
    }
}

/// What a header says, that has to be the one of that number.
///
/// # Errors
/// The first field that is not as it has to be.
#[inline]
pub fn read(bytes: &[u8; HEADER_BYTES], sequence: u32) -> Result<(Content, Grant), FrameFault> {
    let header = MessageHeader::from_bytes(bytes).ok_or(FrameFault::Length)?;
    let head = Head::unpack(header.head.get());
    if head.flags & flags::VALID == 0 || head.flags & !KNOWN != 0 {
        return Err(FrameFault::Flags);
    }
    if head.sequence != sequence {
        return Err(FrameFault::Sequence);
    }
    let (tag, immediate) = (header.tag.get(), header.imm.get());
    let credit = header.credit.get();
    let grant = Grant { messages: low(credit), control: high(credit) };
    let has = |flag: u8| head.flags & flag != 0;
    if !has(flags::IMMEDIATE) && immediate != 0 {
        return Err(FrameFault::Immediate);
    }
    if has(flags::CONTROL) {
        if has(flags::TAGGED) || has(flags::IMMEDIATE) {
            return Err(FrameFault::Flags);
        }
        if head.length != 0 {
            return Err(FrameFault::Length);
        }
        let kind = u8::try_from(tag).ok().and_then(ControlKind::from_code);
        return match kind.ok_or(FrameFault::Control)? {
            ControlKind::Credit => Ok((Content::Credit, grant)),
            ControlKind::Goodbye => Ok((Content::Goodbye, grant)),
        };
    }
    if !has(flags::TAGGED) && tag != 0 {
        return Err(FrameFault::Tag);
    }
    let envelope = Envelope {
        tag: has(flags::TAGGED).then_some(tag),
        immediate: has(flags::IMMEDIATE).then_some(immediate),
    };
    Ok((Content::Message { length: low(from_usize(head.length)), envelope }, grant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        let grant = Grant { messages: 7, control: 3 };
        for (tag, immediate) in [(None, None), (Some(0), None), (None, Some(9)), (Some(5), Some(0))]
        {
            let envelope = Envelope { tag, immediate };
            let content = Content::Message { length: 0x00ff_ffff, envelope };
            assert_eq!(read(&write(4, content, grant), 4), Ok((content, grant)));
        }
        for content in [Content::Credit, Content::Goodbye] {
            assert_eq!(read(&write(u32::MAX, content, grant), u32::MAX), Ok((content, grant)));
        }
    }

    #[test]
    fn what_is_said_beside_comes_back() {
        for sequence in [0, 4, 255, 256, u32::MAX] {
            for grant in [(0, 0), (7, 3), (0xffff, 15)] {
                let grant = Grant { messages: grant.0, control: grant.1 };
                let beside = write_brief(sequence, grant);
                assert_eq!(read_brief(beside, sequence), Ok(grant));
                let next = sequence.wrapping_add(1);
                assert_eq!(read_brief(beside, next), Err(FrameFault::Sequence));
                for bit in 20..24 {
                    assert_eq!(read_brief(beside | 1 << bit, sequence), Err(FrameFault::Immediate));
                }
            }
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let plain = Content::Message { length: 1, envelope: Envelope::default() };
        let wrong = |content: Content, at: usize, byte: u8| {
            let mut bytes = write(4, content, Grant::default());
            bytes[at] = byte;
            read(&bytes, 4).unwrap_err()
        };
        assert_eq!(wrong(plain, 0, 5), FrameFault::Sequence);
        assert_eq!(wrong(plain, 7, 0), FrameFault::Flags);
        assert_eq!(wrong(plain, 7, 1 | flags::PARCEL), FrameFault::Flags);
        assert_eq!(wrong(plain, 7, 1 | flags::OWN_LINE), FrameFault::Flags);
        assert_eq!(wrong(plain, 8, 1), FrameFault::Tag);
        assert_eq!(wrong(plain, 16, 1), FrameFault::Immediate);
        assert_eq!(wrong(Content::Credit, 4, 1), FrameFault::Length);
        assert_eq!(wrong(Content::Credit, 8, 99), FrameFault::Control);
        assert_eq!(
            wrong(Content::Credit, 7, 1 | flags::CONTROL | flags::TAGGED),
            FrameFault::Flags
        );
        assert_eq!(wrong(Content::Goodbye, 16, 1), FrameFault::Immediate);
    }
}
