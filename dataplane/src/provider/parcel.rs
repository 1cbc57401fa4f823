//! Buffers of a pool as messages: what is asked for, and how a completion says so.

use spinwire_layouts::shm::BufferId;
use spinwire_layouts::word::{high, join, low};

use super::{Cqe, Status};
use crate::id::Addr;
use crate::shm::lane::Descriptor;

/// A request to send a buffer of a pool.
#[derive(Clone, Copy, Debug)]
pub struct ParcelWr {
    /// To whom.
    pub to: Addr,
    /// The buffer.
    pub buffer: BufferId,
    /// What tells its pool from most others, in 24 bits.
    pub pool: u32,
    /// The tag; `None` for an untagged message.
    pub tag: Option<u64>,
    /// Immediate data.
    pub immediate: Option<u64>,
}

impl Cqe {
    /// The same as the arrival of a parcel, whose descriptor takes the place of `offset`, `length` and `count`.
    #[must_use]
    pub const fn with_parcel(self, descriptor: Descriptor) -> Self {
        let buffer = descriptor.buffer.as_raw();
        Self {
            status: Status::Parcel,
            offset: low(buffer),
            length: high(buffer),
            count: descriptor.pool_and_number(),
            ..self
        }
    }

    /// What the parcel says, where the status is `Parcel`.
    #[must_use]
    pub const fn parcel(&self) -> Option<Descriptor> {
        if !matches!(self.status, Status::Parcel) {
            return None;
        }
        Some(Descriptor::from_words(join(self.offset, self.length), self.count))
    }
}
