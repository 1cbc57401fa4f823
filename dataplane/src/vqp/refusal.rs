//! What can go wrong with a virtual queue pair: why a call is refused, and why a request has failed.

use core::fmt;

use super::sequence::SequenceFault;
use crate::error::{Misuse, PostError, Retry};
use crate::verbs::WcStatus;

/// Why a request, a path or a whole virtual queue pair has failed. The first cause is the one that is kept.
// Aligned like the numbers that it stands beside in `Result<Done, Cause>`. With 4 bytes the compiler copies either of them in pieces
// that lie across the ones that were stored, and a processor waits at each for the store to reach its cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(align(8))]
pub enum Cause {
    /// The device completed it with an error.
    Device {
        /// Which.
        status: WcStatus,
        /// The device's own number.
        vendor: u32,
    },
    /// The device would not take it.
    Refused(PostError),
    /// The device did not say anything for too long. It may still touch the memory until its queue pair is reset.
    Silent,
    /// The device completed something that was not next on its queue: what came before it is not known.
    Disorder,
    /// The memory was taken back, or has no key for this device.
    NoKey {
        /// Number of the device.
        device: u32,
    },
    /// An earlier part of the sequence was lost, and the peer waits for it: nothing behind it can arrive.
    SequenceLost,
    /// What the peer wrote as sequence cannot be right.
    Sequence(SequenceFault),
    /// More bytes came than the receive has room for: the peer has written with an immediate where a send was expected, or the
    /// device is wrong. They are not in the buffer.
    Overlong {
        /// How many the device says.
        bytes: u32,
    },
    /// The virtual queue pair was closed, or the path taken out, before it was done.
    Closed,
}

impl Cause {
    /// Whether it is the echo of an earlier error on the same queue pair.
    #[must_use]
    pub const fn is_flush(self) -> bool {
        matches!(self, Self::Device { status: WcStatus::FLUSHED, .. })
    }

    /// Whether it says less than any other: an echo, or that the caller wanted it so.
    pub(super) const fn is_weak(self) -> bool {
        self.is_flush() || matches!(self, Self::Closed)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { status, vendor } => write!(f, "{status} (vendor {vendor:#x})"),
            Self::Refused(error) => write!(f, "the device refused it: {error}"),
            Self::Silent => {
                f.write_str("the device completed nothing for too long: reset its queue pair")
            }
            Self::Disorder => f.write_str("the device left out a completion: reset its queue pair"),
            Self::NoKey { device } => {
                write!(f, "the memory has no key for device {device}: register it there")
            }
            Self::SequenceLost => {
                f.write_str("an earlier part of the sequence was lost: connect anew")
            }
            Self::Sequence(fault) => write!(f, "the peer's sequence: {fault}"),
            Self::Overlong { bytes } => write!(
                f,
                "{bytes} bytes came, more than the receive has room for: the peer wrote where it should send"
            ),
            Self::Closed => f.write_str("closed before it was done"),
        }
    }
}

impl core::error::Error for Cause {}

/// The call cannot be right. Nothing was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallError {
    /// No virtual completion queue serves it yet.
    NotAttached,
    /// It is being closed.
    Closing,
    /// More segments than `VqpConfig::sge_max`.
    TooManySegments,
    /// The lengths of the segments add up to more than 2^64 - 1, or to more than one message may have.
    TooLong,
    /// One-sided operations need a remote place.
    NoRemote,
    /// A send has no remote place.
    UnwantedRemote,
    /// The region was removed, or is of another table.
    UnknownRegion,
    /// The range reaches beyond its region.
    OutsideRegion,
    /// The region has no key for a device that a path is on.
    NoKey {
        /// Number of the first such device.
        device: u32,
    },
    /// An atomic works on 8 bytes at a multiple of 8.
    AtomicShape,
    /// In this scheme the operation could not be told to the peer: the peer would wait for ever.
    NotCarried,
    /// In this scheme the immediate is the sequence; use `Op::WriteNotify`.
    ImmediateNotCarried,
    /// A notification brings no bytes, so its receive has no segments.
    UnwantedSegments,
    /// There is no such path.
    UnknownPath,
    /// The path is not down, so it cannot be taken in again.
    NotDown,
    /// In rotation a path is taken in again only while no send and no receive is posted: the turns begin anew.
    NotIdle,
    /// The device says that the request cannot be right.
    Device(Misuse),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAttached => "not attached: call VirtualCq::attach first",
            Self::Closing => "closing: open another",
            Self::TooManySegments => "too many segments: see VqpConfig::sge_max",
            Self::TooLong => {
                "too long: a send fits into one message (VqpConfig::max_message), a write or read into 2^64 - 1 bytes"
            }
            Self::NoRemote => "no remote place: writes, reads and atomics need one",
            Self::UnwantedRemote => "a remote place: sends have none",
            Self::UnknownRegion => "unknown region: it was removed, or is of another table",
            Self::OutsideRegion => "outside of its region: see Regions::register",
            Self::NoKey { device } => {
                return write!(f, "no key for device {device}: register the region with one");
            }
            Self::AtomicShape => {
                "atomic: one segment of 8 bytes, and a remote place at a multiple of 8"
            }
            Self::NotCarried => "not carried: DQPLB carries WriteNotify, Read and atomics only",
            Self::ImmediateNotCarried => {
                "immediate not carried: in DQPLB it is the sequence; use WriteNotify"
            }
            Self::UnwantedSegments => "segments: a notification brings no bytes",
            Self::UnknownPath => "unknown path: see VirtualQp::path_count",
            Self::NotDown => "not down: a path is taken in again when it is down",
            Self::NotIdle => {
                "not idle: in rotation a path is taken in again while nothing is posted, at both ends"
            }
            Self::Device(misuse) => return write!(f, "the device refused it: {misuse}"),
        })
    }
}

impl core::error::Error for CallError {}

/// Why a call was refused. Nothing was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// A resource is used up: turn, and try again.
    Retry(Retry),
    /// No path is left that could do it; the first cause.
    Down(Cause),
    /// The call cannot be right.
    Misuse(CallError),
}

impl From<Retry> for Refusal {
    fn from(value: Retry) -> Self {
        Self::Retry(value)
    }
}

impl From<CallError> for Refusal {
    fn from(value: CallError) -> Self {
        Self::Misuse(value)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(e) => e.fmt(f),
            Self::Down(e) => write!(f, "no path is left: {e}"),
            Self::Misuse(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Refusal {}
