//! Why a pool says no.

use core::fmt;

use spinwire_layouts::shm::{DType, StorageType};

use crate::error::{Fatal, Retry};

/// Why a call on a pool or on a buffer was refused. Nothing has changed then, except where a variant says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// A resource is used up for the moment: try again, or wait for a release.
    Retry(Retry),
    /// This handle is done: its lease was given to another process, or the pool was scribbled over.
    Fatal(Fatal),
    /// The buffer is in use in a way that excludes this one: somebody writes it, or, for who wants to write, somebody has it.
    Busy,
    /// The buffer that the id names was released; its slot is free or has another use now.
    Stale,
    /// The id names no buffer of this pool.
    Foreign,
    /// There is no reference that belongs to nobody: nothing to release or to adopt.
    NoReference,
    /// A buffer cannot have more references than that.
    TooManyReferences,
    /// No class has buffers of that size.
    TooLarge {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes of the largest.
        most: u64,
    },
    /// The buffer has a segment of its own, which the host could not map.
    NotMapped {
        /// Its slot.
        slot: u32,
    },
    /// The guard was taken for reading.
    ReadOnly,
    /// The guard was given up by `forget`.
    AlreadyForgotten,
    /// The bytes are stored elsewhere than where this call can reach them.
    TypeMismatch {
        /// Where they should be.
        expected: StorageType,
        /// Where they are.
        actual: StorageType,
    },
    /// The elements are of another type.
    ElementMismatch {
        /// What was asked for.
        expected: DType,
        /// What the description says.
        actual: DType,
    },
    /// The range does not lie in the buffer, or is no whole number of elements.
    OutOfRange {
        /// Where it ends, in bytes.
        end: u64,
        /// Where the buffer ends.
        length: u64,
    },
    /// The bytes do not lie as elements of that type must.
    Misaligned,
    /// Shape and strides do not lie in the buffer, overflow, or are of too many dimensions.
    BadShape,
    /// The writer left no description.
    NotDescribed,
    /// Plain slices were not allowed when this pool was opened: copy, or open it with
    /// [`PlainAccess`](crate::raw::payload::PlainAccess).
    NoPlainAccess,
}

impl From<Retry> for PoolError {
    fn from(value: Retry) -> Self {
        Self::Retry(value)
    }
}

impl From<Fatal> for PoolError {
    fn from(value: Fatal) -> Self {
        Self::Fatal(value)
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Retry(retry) => return retry.fmt(f),
            Self::Fatal(fatal) => return fatal.fmt(f),
            Self::TooLarge { wanted, most } => {
                return write!(
                    f,
                    "too large: {wanted} bytes wanted, the largest class has {most}; create the pool with a larger one"
                );
            }
            Self::NotMapped { slot } => {
                return write!(
                    f,
                    "not mapped: slot {slot} has a segment of its own, which could not be mapped"
                );
            }
            Self::TypeMismatch { expected, actual } => {
                return write!(f, "wrong storage: {expected} expected, the buffer is {actual}");
            }
            Self::ElementMismatch { expected, actual } => {
                return write!(f, "wrong elements: {expected} expected, the buffer has {actual}");
            }
            Self::OutOfRange { end, length } => {
                return write!(f, "out of range: up to byte {end} of a buffer of {length}");
            }
            Self::Busy => "busy: the buffer is in use; try again when its holders have released it",
            Self::Stale => "stale: the buffer was released; ask its owner for a new id",
            Self::Foreign => "foreign: the id names no buffer of this pool",
            Self::NoReference => "no reference: none is left that belongs to nobody",
            Self::TooManyReferences => "too many references: release some first",
            Self::ReadOnly => "read-only: take the buffer with get_mut or acquire to write it",
            Self::AlreadyForgotten => "already forgotten: take the buffer again by its id",
            Self::Misaligned => "misaligned: offset or length does not suit elements of that type",
            Self::BadShape => "bad shape: shape and strides do not lie in the buffer",
            Self::NotDescribed => "not described: the writer left no description",
            Self::NoPlainAccess => "no plain access: the pool was opened for copies only",
        };
        f.write_str(text)
    }
}

impl core::error::Error for PoolError {}
