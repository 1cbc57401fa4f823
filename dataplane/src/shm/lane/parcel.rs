//! Parcels: messages that stand for a buffer of a pool.
//!
//! ```text
//!   sender                                                     receiver
//!     stage_parcel -> number n, bit n of `sent` flipped
//!       cell: flag PARCEL, id, pool, n          ------------>  take_parcel: bit n of `held` set
//!                                                                settle(n): bit n of `held` cleared,
//!     is_settled(n): `sent` and `settled` agree <------------    bit n of `settled` flipped
//! ```
//!
//! A lane carries up to 64 parcels that are not settled, in any order of settlement. The sender's `sent` is private, and
//! `settled` has one writer, so there is nothing to repair: where either end is gone, the lane is, and with it all numbers.
//!
//! Invariants: (1) a number is under way exactly where the two words differ in its bit; (2) what a receiver writes into
//! `settled` can end or hold up parcels to itself, and nothing else; (3) a number that comes twice without having been
//! settled is `Corrupt`.

use spinwire_layouts::pod::Pod;
use spinwire_layouts::shm::lane::PARCELS_MAX;
use spinwire_layouts::shm::{BufferId, ParcelBody};
use spinwire_layouts::word::widen;

use super::{Arrival, Envelope, LaneRx, LaneTx};
use crate::error::{Fatal, PostError, Retry};
use crate::sync::Ordering;
use spinwire_layouts::wire::message::flags;

/// What a parcel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The buffer.
    pub buffer: BufferId,
    /// What tells its pool from most others: 24 bits.
    pub pool: u32,
    /// Its number among those under way in its lane.
    pub number: u8,
}

/// Bits of [`Descriptor::pool`].
const POOL_MASK: u32 = 0x00ff_ffff;

impl Descriptor {
    fn body(self) -> ParcelBody {
        let number = u32::from(self.number);
        ParcelBody { buffer: self.buffer.as_raw(), pool: self.pool & POOL_MASK, number }
    }

    /// What a peer wrote, if it can be right.
    fn checked(body: &ParcelBody) -> Option<Self> {
        let number = u8::try_from(body.number).ok().filter(|_| body.number < PARCELS_MAX)?;
        let buffer = BufferId::from_raw(body.buffer);
        (body.pool <= POOL_MASK).then_some(Self { buffer, pool: body.pool, number })
    }

    /// Pool and number in one word of 32 bits.
    #[must_use]
    pub const fn pool_and_number(self) -> u32 {
        self.pool << 8 | u32::from_le_bytes([self.number, 0, 0, 0])
    }

    /// From the id of the buffer and [`Descriptor::pool_and_number`].
    #[must_use]
    pub const fn from_words(buffer: u64, pool_and_number: u32) -> Self {
        let [number, ..] = pool_and_number.to_le_bytes();
        Self { buffer: BufferId::from_raw(buffer), pool: pool_and_number >> 8, number }
    }
}

const fn bit(number: u8) -> u64 {
    1_u64.wrapping_shl(u32::from_le_bytes([number, 0, 0, 0]))
}

impl LaneTx<'_> {
    /// Numbers that are under way.
    fn parcels_under_way(&self) -> u64 {
        // SYNC(settle): Acquire pairs with the Release in LaneRx::settle. What the receiver did to get a reference of its own is done.
        let settled = self.memory.get().settled().load(Ordering::Acquire);
        settled ^ self.parcels_sent.get()
    }

    /// A number that is not under way, and was seen not to be. Looks at what the receiver says only where there is none.
    fn free_number(&self) -> Option<u8> {
        if self.parcels_out.get() == u64::MAX {
            self.parcels_out.set(self.parcels_under_way());
        }
        let free = !self.parcels_out.get();
        u8::try_from(free.trailing_zeros())
            .ok()
            .filter(|number| widen(PARCELS_MAX) > u64::from(*number))
    }

    /// Stages a parcel, as [`LaneTx::stage`] stages a message. Returns its number. It is not visible before the next publish.
    ///
    /// # Errors
    /// As [`LaneTx::stage`]; `NoCredit` also where 64 parcels are under way.
    pub fn stage_parcel(
        &self,
        (buffer, pool): (BufferId, u32),
        envelope: Envelope,
    ) -> Result<u8, PostError> {
        let number = self.free_number().ok_or(Retry::NoCredit)?;
        let body = Descriptor { buffer, pool, number }.body();
        self.stage_as(body.as_bytes(), envelope, flags::PARCEL)?;
        self.parcels_sent.set(self.parcels_sent.get() ^ bit(number));
        self.parcels_out.set(self.parcels_out.get() | bit(number));
        Ok(number)
    }

    /// Whether the receiver has done with a parcel.
    #[must_use]
    pub fn is_settled(&self, number: u8) -> bool {
        let settled = self.parcels_under_way() & bit(number) == 0;
        if settled {
            self.parcels_out.set(self.parcels_out.get() & !bit(number));
        }
        settled
    }
}

impl LaneRx<'_> {
    /// What the parcel at the front says.
    ///
    /// # Errors
    /// `Corrupt` where no correct sender writes that.
    pub fn read_parcel(&self, arrival: &Arrival<'_>) -> Result<Descriptor, Fatal> {
        let mut bytes = [0; size_of::<ParcelBody>()];
        if arrival.length != bytes.len() {
            return Err(Fatal::Corrupt);
        }
        self.copy_out(arrival, &mut bytes);
        let body = ParcelBody::from_bytes(&bytes).ok_or(Fatal::Corrupt)?;
        let descriptor = Descriptor::checked(&body).ok_or(Fatal::Corrupt)?;
        if self.parcels_held.get() & bit(descriptor.number) != 0 {
            return Err(Fatal::Corrupt);
        }
        Ok(descriptor)
    }

    /// Takes the parcel at the front out of the lane. Its number is this end's until it is settled.
    pub fn take_parcel(&self, arrival: &Arrival<'_>, descriptor: &Descriptor) {
        self.parcels_held.set(self.parcels_held.get() | bit(descriptor.number));
        self.advance(arrival);
    }

    /// Has done with the parcels of these numbers, a bit each. Those that it does not hold are left out.
    pub fn settle(&self, numbers: u64) {
        let numbers = numbers & self.parcels_held.get();
        if numbers == 0 {
            return;
        }
        self.parcels_held.set(self.parcels_held.get() & !numbers);
        let settled = self.parcels_settled.get() ^ numbers;
        self.parcels_settled.set(settled);
        // SYNC(settle): Release pairs with the Acquire in LaneTx::parcels_under_way.
        self.memory.get().settled().store(settled, Ordering::Release);
    }
}
