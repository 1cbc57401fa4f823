//! A message that is a datagram: its header out, and what came in.
//!
//! Nothing is promised about a datagram, so nothing that is wrong with one ends anything: it is counted and dropped, and the next
//! one may be well. One that was cut short on its way into a buffer is delivered as far as it goes, and says how long it
//! was.

use core::fmt;

use spinwire_layouts::abi::{WIRE_HASH, WIRE_VERSION};
use spinwire_layouts::endian::{Le16, Le64};
use spinwire_layouts::pod::Pod;
use spinwire_layouts::wire::DatagramHeader;
use spinwire_layouts::wire::datagram::{
    DATAGRAM_HEADER_BYTES, DATAGRAM_LENGTH_MAX, DATAGRAM_MAGIC, hash_mark,
};
use spinwire_layouts::wire::message::flags;
use spinwire_layouts::word::{from_usize, to_usize};

use crate::error::Misuse;
use crate::shm::lane::Envelope;

/// Why a packet is not a message. It is to be dropped and counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DatagramFault {
    /// It is shorter than a header.
    Short,
    /// It does not begin as a message does.
    Magic,
    /// It is of another version.
    Version,
    /// Its sender has another idea of what messages look like.
    Hash,
    /// It has flags that no datagram has, or not those that all have.
    Flags,
    /// It has more bytes than it says, or says more than a datagram holds.
    Length,
    /// It is untagged and has a tag.
    Tag,
    /// It has no immediate data and has some.
    Immediate,
    /// Who has sent it is not told: over RDMA, by a device that writes no route in front of it.
    Route,
}

impl fmt::Display for DatagramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "short: the packet is shorter than a header",
            Self::Magic => "magic: no message of this protocol; something else sends to this port",
            Self::Version => "version: the sender speaks another one; bring both to the same build",
            Self::Hash => {
                "hash: the sender has other layouts of messages; bring both to the same build"
            }
            Self::Flags => "flags: the packet has flags that no datagram has",
            Self::Length => "length: the packet is longer than it says",
            Self::Tag => "tag: an untagged message has a tag",
            Self::Immediate => "imm: a message without immediate data has some",
            Self::Route => "route: the device does not tell who has sent it",
        })
    }
}

impl core::error::Error for DatagramFault {}

/// A message that came as a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'b> {
    /// Bytes that the message had when it was sent.
    pub length: usize,
    /// Its tag and immediate data.
    pub envelope: Envelope,
    /// What is here of it.
    pub bytes: &'b [u8],
}

impl<'b> Datagram<'b> {
    /// Whether some of it was lost because the buffer was too short.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.bytes.len() < self.length
    }

    /// The message in `packet`, which may have been cut short on its way into the buffer.
    ///
    /// # Errors
    /// [`DatagramFault`] says which field is not as it has to be.
    #[inline]
    pub fn from_wire(packet: &'b [u8]) -> Result<Self, DatagramFault> {
        let (header, bytes) =
            packet.split_first_chunk::<DATAGRAM_HEADER_BYTES>().ok_or(DatagramFault::Short)?;
        let header = DatagramHeader::from_bytes(header).ok_or(DatagramFault::Short)?;
        if header.magic.get() != DATAGRAM_MAGIC {
            return Err(DatagramFault::Magic);
        }
        if header.version != version() {
            return Err(DatagramFault::Version);
        }
        if header.hash.get() != hash_mark(WIRE_HASH) {
            return Err(DatagramFault::Hash);
        }
        if header.flags & (flags::VALID | !FLAGS) != flags::VALID {
            return Err(DatagramFault::Flags);
        }
        let length = to_usize(u64::from(header.length.get()));
        if length > DATAGRAM_LENGTH_MAX || bytes.len() > length {
            return Err(DatagramFault::Length);
        }
        let (tag, immediate) = (header.tag.get(), header.imm.get());
        let is_tagged = header.flags & flags::TAGGED != 0;
        let is_immediate = header.flags & flags::IMMEDIATE != 0;
        if !is_tagged && tag != 0 {
            return Err(DatagramFault::Tag);
        }
        if !is_immediate && immediate != 0 {
            return Err(DatagramFault::Immediate);
        }
        let envelope = Envelope {
            tag: is_tagged.then_some(tag),
            immediate: is_immediate.then_some(immediate),
        };
        Ok(Self { length, envelope, bytes })
    }
}

/// Flags that a datagram may have.
const FLAGS: u8 = flags::VALID | flags::TAGGED | flags::IMMEDIATE;

const fn version() -> u8 {
    let [low, ..] = WIRE_VERSION.to_le_bytes();
    low
}

/// The header of a message of `length` bytes, which follow it in the same packet.
///
/// # Errors
/// `TooLong` where no packet holds it.
#[inline]
pub fn header(length: usize, envelope: Envelope) -> Result<[u8; DATAGRAM_HEADER_BYTES], Misuse> {
    let stated = u16::try_from(from_usize(length)).ok();
    let stated = stated.filter(|_| length <= DATAGRAM_LENGTH_MAX).ok_or(Misuse::TooLong)?;
    let tagged = if envelope.tag.is_some() { flags::TAGGED } else { 0 };
    let immediate = if envelope.immediate.is_some() { flags::IMMEDIATE } else { 0 };
    let header = DatagramHeader {
        magic: Le16::new(DATAGRAM_MAGIC),
        version: version(),
        flags: flags::VALID | tagged | immediate,
        length: Le16::new(stated),
        hash: Le16::new(hash_mark(WIRE_HASH)),
        tag: Le64::new(envelope.tag.unwrap_or(0)),
        imm: Le64::new(envelope.immediate.unwrap_or(0)),
    };
    // The length is that of the type, so there is such a chunk.
    Ok(header.as_bytes().first_chunk().copied().unwrap_or([0; DATAGRAM_HEADER_BYTES]))
}
