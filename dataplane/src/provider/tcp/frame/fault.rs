//! What a peer can do wrong on a stream, by the field that shows it.

use core::fmt;

use spinwire_layouts::abi::WIRE_VERSION;

use crate::error::Fatal;

/// Which of the limits of an endpoint cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum LimitsError {
    /// `message_bytes_max` is more than a head can say.
    MessageBytesMax,
    /// `credit_messages` is zero.
    CreditMessages,
    /// `credit_bytes` is less than `message_bytes_max`, so that the longest message could never be sent.
    CreditBytes,
}

/// The peer wrote what no correct peer writes. It ends this connection and no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrameFault {
    /// The stream does not begin as a hello does: it is something else that called.
    Magic,
    /// It speaks another version.
    Version {
        /// Which. Ours is [`WIRE_VERSION`].
        theirs: u32,
    },
    /// It has another idea of what frames look like.
    Hash,
    /// A field that has to be zero is not.
    Reserved,
    /// Its name is no name.
    Name,
    /// Its endpoint is of no known kind.
    Kind,
    /// Its limits cannot be.
    Limits(LimitsError),
    /// A frame has flags that no frame has, or not those that all have.
    Flags,
    /// A frame is not the one that was to come next.
    Sequence,
    /// A message is longer than this end said that it takes, or a frame of control has a body.
    Length,
    /// An untagged message has a tag.
    Tag,
    /// A message or frame of control without immediate data has some.
    Immediate,
    /// A frame of control of no known kind.
    Control,
    /// A message, or another goodbye, behind a goodbye.
    AfterGoodbye,
    /// It gives back more than it was sent.
    Credit,
    /// It sends more than it was allowed to.
    Overrun,
}

const _: () =
    assert!(size_of::<Result<(), FrameFault>>() <= 8, "a fault is returned in a register");

impl FrameFault {
    /// What it means for the connection.
    #[must_use]
    pub const fn fatal(self) -> Fatal {
        Fatal::Corrupt
    }
}

impl From<FrameFault> for Fatal {
    fn from(value: FrameFault) -> Self {
        value.fatal()
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MessageBytesMax => "message_bytes_max: a frame holds at most 16777215 bytes",
            Self::CreditMessages => "credit_messages: allow at least 1",
            Self::CreditBytes => "credit_bytes: allow at least message_bytes_max",
        })
    }
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version { theirs } => {
                return write!(
                    f,
                    "version: ours {WIRE_VERSION}, theirs {theirs}; remedy: run the same version at both ends"
                );
            }
            Self::Magic => "magic: no hello of this protocol; something else speaks on this port",
            Self::Hash => {
                "hash: the peer has other layouts of frames; remedy: run the same version at both ends"
            }
            Self::Reserved => "reserved: a field of the hello that has to be zero is not",
            Self::Name => "name: the endpoint in the hello has no valid name",
            Self::Kind => "kind: the endpoint in the hello is of no known kind",
            Self::Limits(error) => return error.fmt(f),
            Self::Flags => "flags: a frame has flags that no frame has",
            Self::Sequence => "sequence: a frame is not the one that was to come next",
            Self::Length => "length: a frame is longer than this end takes",
            Self::Tag => "tag: an untagged message has a tag",
            Self::Immediate => "imm: a frame without immediate data has some",
            Self::Control => "control: a frame of control of no known kind",
            Self::AfterGoodbye => "goodbye: a message came after it",
            Self::Credit => "credit: the peer gives back more than it was sent",
            Self::Overrun => "credit: the peer sends more than it was allowed to",
        })
    }
}

impl core::error::Error for LimitsError {}
impl core::error::Error for FrameFault {}
