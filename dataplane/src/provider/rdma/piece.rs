//! The header of a piece: what each send begins with that does not go on with a message.
//!
//! ```text
//!   | head: sequence 32, length 24, flags 8 | tag 64 | immediate 64 | credit: receives for messages 32, for control 32 | bytes ..
//! ```
//!
//! It is the header that a frame has on a byte stream ([`layouts::wire`](spinwire_layouts::wire)), with one other meaning: credit counts
//! receives, those for messages in its low half and those for control in its high one.
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
