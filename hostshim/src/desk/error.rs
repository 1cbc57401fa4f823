//! Why a wait brought nothing, and why there is no desk.

use core::fmt;

use spinwire_dataplane::error::{Fatal, Misuse, PostError};
use spinwire_dataplane::msg::Failure;
use spinwire_dataplane::provider::Status;

/// Why a wait brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// The time is over. The operation was taken back, or is the desk's until it completes.
    Timeout,
    /// The token was cancelled. The operation was taken back, or is the desk's until it completes.
    Cancelled,
    /// The time is over, and the operation goes on: it can be waited for again.
    NoCompletion,
    /// No such operation is posted: its completion was had, or there never was one.
    UnknownContext,
    /// The provider lacks that capability.
    Unsupported,
    /// The peer is gone.
    PeerGone,
    /// The message was longer than the slice. So many bytes are in it; the rest is gone.
    Truncated {
        /// Bytes in the slice.
        delivered: usize,
    },
    /// The message was a buffer of a pool. It is among the letters.
    Parcel,
    /// It was not posted. With `Retry`: until the time was over something was used up.
    Refused(PostError),
    /// It was done, and failed.
    Failed(Failure),
}

impl From<PostError> for WaitError {
    fn from(error: PostError) -> Self {
        if error == Misuse::Unsupported.into() {
            Self::Unsupported
        } else if error == Fatal::PeerGone.into() {
            Self::PeerGone
        } else {
            Self::Refused(error)
        }
    }
}

impl From<Failure> for WaitError {
    fn from(failure: Failure) -> Self {
        if failure.status == Status::PeerGone { Self::PeerGone } else { Self::Failed(failure) }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout: it did not complete in time"),
            Self::Cancelled => f.write_str("cancelled by its token"),
            Self::NoCompletion => f.write_str("no completion yet: wait again"),
            Self::UnknownContext => f.write_str(
                "unknown context: nothing of that id is posted; its completion was had, or there never was one",
            ),
            Self::Unsupported => f.write_str("unsupported: see Endpoint::info for what there is"),
            Self::PeerGone => f.write_str("peer gone: its process ended or it closed the endpoint"),
            Self::Truncated { delivered } => {
                write!(f, "truncated: the message was longer than the {delivered} bytes that it was given")
            }
            Self::Parcel => f.write_str("the message is a buffer of a pool: take it from the letters"),
            Self::Refused(error) => error.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl core::error::Error for WaitError {}

/// A desk is open at that endpoint, and knows nothing of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HasDesk;

impl fmt::Display for HasDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a desk is open at this endpoint, and would miss what another one finds; remedy: open the other one by Desk::another of the first",
        )
    }
}

impl core::error::Error for HasDesk {}
