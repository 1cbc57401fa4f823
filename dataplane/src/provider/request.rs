//! What a provider is asked to do: sends and receives.

use super::{Limits, Sge};
use crate::error::Misuse;
use crate::id::{Addr, WrId};
use spinwire_layouts::word::{from_usize, low};

/// What a send sends.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// These bytes, copied before the call returns. No completion.
    Inject(&'a [u8]),
    /// This range, which is the provider's until the completion with this id.
    Posted {
        /// The id of the completion.
        wr_id: WrId,
        /// The range.
        sge: Sge,
    },
}

impl Payload<'_> {
    /// The bytes.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(&self) -> &[u8] {
        match self {
            Self::Inject(bytes) => bytes,
            Self::Posted { sge, .. } => sge.bytes(),
        }
    }
}

/// A send request.
#[derive(Clone, Copy, Debug)]
pub struct SendWr<'a> {
    /// To whom.
    pub to: Addr,
    /// What.
    pub payload: Payload<'a>,
    /// The tag; `None` for an untagged message.
    pub tag: Option<u64>,
    /// Immediate data.
    pub immediate: Option<u64>,
}

/// A request to send several ranges as one message, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct SendPartsWr<'a> {
    /// The id of the completion.
    pub wr_id: WrId,
    /// To whom.
    pub to: Addr,
    /// The ranges, at most `sge_max`: the provider's until the completion. The slice itself is the caller's again at return.
    pub parts: &'a [Sge],
    /// The tag; `None` for an untagged message.
    pub tag: Option<u64>,
    /// Immediate data.
    pub immediate: Option<u64>,
}

impl SendPartsWr<'_> {
    /// Bytes of the message; `None` where there are more than an address can count.
    #[must_use]
    pub fn length(&self) -> Option<usize> {
        self.parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.length()))
    }

    /// Bytes of the message, where a port of such limits sends it.
    ///
    /// # Errors
    /// `BadRange` without a range, `Unsupported` with too many, `TooLong`.
    pub fn checked_length(&self, limits: &Limits) -> Result<usize, Misuse> {
        check_count(self.parts, limits)?;
        let length = self.length().filter(|&bytes| bytes <= limits.message_bytes_max);
        length.ok_or(Misuse::TooLong)
    }

    /// Copies the message into `to`, which has as many bytes as it.
    pub fn copy_to(&self, to: &mut [u8]) {
        copy_ranges(to, self.parts);
    }
}

/// Whose messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Anybody's.
    Any,
    /// This peer's only.
    Only(Addr),
}

impl Source {
    /// Whether a message of `sender` is meant.
    #[must_use]
    #[inline(always)]
    pub fn takes(self, sender: Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Only(addr) => addr == sender,
        }
    }
}

/// Which messages a receive takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Select {
    /// Untagged ones.
    Untagged,
    /// Tagged ones with this tag, except in the bits of `ignore`.
    Tagged {
        /// The tag.
        tag: u64,
        /// Bits that do not count.
        ignore: u64,
    },
}

impl Select {
    /// Whether a message with this tag, or without one, is meant.
    #[must_use]
    #[inline(always)]
    pub const fn takes(self, message: Option<u64>) -> bool {
        match (self, message) {
            (Self::Untagged, None) => true,
            (Self::Tagged { tag, ignore }, Some(message)) => (tag ^ message) & !ignore == 0,
            _ => false,
        }
    }
}

/// How a receive uses its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    /// For one message.
    Single,
    /// For one message after the other, back to back in steps of 8 bytes, until fewer than `room_bytes_min` are free
    /// (`FI_MULTI_RECV` of `fi_msg(3)`). A completion a message.
    Multi {
        /// With fewer free bytes than this the buffer is given back.
        room_bytes_min: u32,
    },
    /// Like `Multi`, but a run of messages of one sender with the same length and tag, without immediate data, may be
    /// reported as one completion with their count. It ends where `Multi` gives the buffer back.
    Runs {
        /// With fewer free bytes than this the buffer is given back.
        room_bytes_min: u32,
    },
}

/// A receive request.
#[derive(Clone, Copy, Debug)]
pub struct RecvWr {
    /// The id of its completions.
    pub wr_id: WrId,
    /// Where to.
    pub sge: Sge,
    /// Whose messages.
    pub from: Source,
    /// Which messages.
    pub select: Select,
    /// For how many.
    pub buffer: Use,
}

/// A request to receive one message into several ranges, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct RecvPartsWr<'a> {
    /// The id of its completion.
    pub wr_id: WrId,
    /// Where to: at most `sge_max` ranges. The slice itself is the caller's again at return.
    pub parts: &'a [Sge],
    /// Whose messages.
    pub from: Source,
    /// Which messages.
    pub select: Select,
}

impl RecvPartsWr<'_> {
    /// Whether a port of such limits has so many ranges for a message.
    ///
    /// # Errors
    /// `BadRange` without a range, `Unsupported` with too many.
    pub const fn check(&self, limits: &Limits) -> Result<(), Misuse> {
        check_count(self.parts, limits)
    }
}

const fn check_count(parts: &[Sge], limits: &Limits) -> Result<(), Misuse> {
    if parts.is_empty() {
        return Err(Misuse::BadRange);
    }
    if low(from_usize(parts.len())) > limits.sge_max { Err(Misuse::Unsupported) } else { Ok(()) }
}

/// Copies as many bytes as both have. Whoever calls it has made sure that these are all; it cannot panic where he has not.
#[inline]
pub(super) fn copy_bytes(to: &mut [u8], from: &[u8]) {
    debug_assert_eq!(to.len(), from.len(), "a whole range");
    let length = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..length), from.get(..length)) {
        to.copy_from_slice(from);
    }
}

/// Copies the bytes of `parts` into `to`, which has as many, one behind the other.
pub(super) fn copy_ranges(to: &mut [u8], parts: &[Sge]) {
    let mut rest = to;
    for part in parts {
        let Some((here, after)) = rest.split_at_mut_checked(part.length()) else { return };
        copy_bytes(here, part.bytes());
        rest = after;
    }
}
