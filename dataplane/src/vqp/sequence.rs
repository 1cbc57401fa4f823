//! The sequence that DQPLB puts into the immediate of every fragment, and the two windows that bound it.
//!
//! ```text
//!   immediate   31     30 .. 24     23 .. 0
//!              last     zero        sequence        one number a fragment, counted over all messages of a direction
//!
//!   sender      base ......... next            next - base <= window: so far back may the oldest one lie that is not
//!               |x|x| |x| | |x|                acknowledged
//!   receiver    expected ............ + slots  what came out of order waits in its slot
//! ```
//!
//! Why no number is taken for another that looks the same after the wrap. Let W be the sender's window, C the receives that are
//! posted at the peer over all paths. The receiver posts no more of them while W fragments wait in its window, so at most W + C
//! wait there, and at most C have arrived and were not looked at. Everything before the oldest fragment that is not
//! acknowledged has arrived: that is at most W + 2C from the expected one. The youngest one sent is less than W behind that. So
//! all that can arrive lies within 2(W + C) from the expected one, which is how many slots there are, and twice as many are fewer
//! than there are numbers (`PlanError` where they are not). What is older can be told from what is newer.
//!
//! Invariants: a number is consumed only by a fragment that was staged; every slot outside of the window is 0.

use core::cell::Cell;
use core::fmt;

use crate::raw::place::{Bump, Exhausted};
use crate::table::wide;

/// Marks the last fragment of a message.
const LAST: u32 = 1 << 31;
const NUMBER_MASK: u32 = 0x00ff_ffff;
/// Bytes of a fragment at most, for the slots of the receive window.
pub(super) const FRAGMENT_MAX: u32 = LAST.wrapping_sub(2);

/// How sequence numbers follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SequenceCodec {
    /// Modulo 2^24: all numbers that 24 bits have.
    Clean,
    /// Modulo 2^24 - 1: the number 0xFFFFFF never appears, and bits 24 to 30 are not looked at. For peers that count so.
    Compatible,
}

impl SequenceCodec {
    /// How many numbers there are.
    #[inline]
    #[must_use]
    pub const fn modulus(self) -> u32 {
        match self {
            Self::Clean => 1 << 24,
            Self::Compatible => NUMBER_MASK,
        }
    }

    /// The number that follows.
    #[inline]
    #[must_use]
    pub const fn next(self, number: u32) -> u32 {
        let next = number.wrapping_add(1);
        if next >= self.modulus() { 0 } else { next }
    }

    /// How many steps lead from `from` to `to`; both are below the modulus.
    #[inline]
    #[must_use]
    pub const fn distance(self, from: u32, to: u32) -> u32 {
        if to >= from {
            to.wrapping_sub(from)
        } else {
            self.modulus().wrapping_sub(from).wrapping_add(to)
        }
    }

    /// The immediate of a fragment.
    #[inline]
    #[must_use]
    pub const fn encode(self, number: u32, is_last: bool) -> u32 {
        (number & NUMBER_MASK) | if is_last { LAST } else { 0 }
    }

    /// Number and whether it is the last, out of an immediate.
    ///
    /// # Errors
    /// No fragment of this codec has such an immediate.
    #[inline]
    pub const fn decode(self, immediate: u32) -> Result<(u32, bool), SequenceFault> {
        let number = immediate & NUMBER_MASK;
        let is_clean = matches!(self, Self::Clean);
        if number >= self.modulus() || (is_clean && immediate & !(LAST | NUMBER_MASK) != 0) {
            return Err(SequenceFault::Malformed);
        }
        Ok((number, immediate & LAST != 0))
    }
}

/// What is wrong with a sequence number of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SequenceFault {
    /// It came before. Harmless: it is dropped.
    Duplicate,
    /// It is further ahead than the peer may be.
    Beyond,
    /// No fragment has such an immediate.
    Malformed,
    /// A fragment without an immediate.
    Missing,
}

impl fmt::Display for SequenceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "a number that came before",
            Self::Beyond => "a number beyond the window: give both ends the same window",
            Self::Malformed => "no sequence number: give both ends the same codec",
            Self::Missing => "no immediate: give both ends the same scheme",
        })
    }
}

/// The sender's window: which numbers are on their way.
#[derive(Debug)]
pub struct SendWindow<'m> {
    codec: SequenceCodec,
    /// Whether the number in that place was acknowledged. A power of two of them.
    acked: &'m [Cell<bool>],
    base: Cell<u32>,
    next: Cell<u32>,
    /// How many there are from `base` to `next`, and the place of `base`.
    span: Cell<u32>,
    place: Cell<u32>,
}

impl<'m> SendWindow<'m> {
    /// Places a window of `window` numbers, a power of two. The first number is `first`.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(
        bump: &Bump<'m>,
        codec: SequenceCodec,
        window: u32,
        first: u32,
    ) -> Result<Self, Exhausted> {
        let acked = bump.slice_with(wide(window), |_| Cell::new(false))?;
        let (base, next) = (Cell::new(first), Cell::new(first));
        Ok(Self { codec, acked, base, next, span: Cell::new(0), place: Cell::new(0) })
    }

    /// The number of the next fragment; `None` where the oldest one that is not acknowledged lies too far back.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<u32> {
        (wide(self.span.get()) < self.acked.len()).then_some(self.next.get())
    }

    /// That number was staged: the following one is next.
    #[inline]
    pub fn consume(&self) {
        self.next.set(self.codec.next(self.next.get()));
        self.span.set(self.span.get().wrapping_add(1));
    }

    /// `number` has arrived. Numbers that are not on their way are not looked at.
    #[inline]
    pub fn acknowledge(&self, number: u32) {
        let distance = self.codec.distance(self.base.get(), number);
        if distance >= self.span.get() {
            return;
        }
        if let Some(acked) = self.at(distance) {
            acked.set(true);
        }
        // Bounded by the window; each step gives back a number that was consumed.
        while self.span.get() > 0 {
            match self.at(0) {
                Some(acked) if acked.get() => acked.set(false),
                _ => break,
            }
            self.base.set(self.codec.next(self.base.get()));
            self.place.set(self.place.get().wrapping_add(1));
            self.span.set(self.span.get().wrapping_sub(1));
        }
    }

    /// How many numbers lie between the oldest one that is not acknowledged and the next.
    #[inline]
    #[must_use]
    pub const fn span(&self) -> u32 {
        self.span.get()
    }

    fn at(&self, distance: u32) -> Option<&Cell<bool>> {
        let place = wide(self.place.get().wrapping_add(distance));
        self.acked.get(place & self.acked.len().wrapping_sub(1))
    }
}

/// A fragment that is next in the receiver's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InOrder {
    /// Its bytes.
    pub bytes: u32,
    /// Whether it is the last of its message.
    pub is_last: bool,
}

/// The receiver's window: what came out of order.
#[derive(Debug)]
pub struct ReceiveWindow<'m> {
    codec: SequenceCodec,
    /// 0 where nothing came, else bytes + 1 and bit 31 for the last. A power of two of them.
    slots: &'m [Cell<u32>],
    expected: Cell<u32>,
    place: Cell<u32>,
    waiting: Cell<u32>,
}

impl<'m> ReceiveWindow<'m> {
    /// Places a window of `slots` numbers, a power of two. The first number expected is `first`.
    ///
    /// # Errors
    /// The arena has too little room left.
    pub fn place(
        bump: &Bump<'m>,
        codec: SequenceCodec,
        slots: u32,
        first: u32,
    ) -> Result<Self, Exhausted> {
        let slots = bump.slice_with(wide(slots), |_| Cell::new(0))?;
        let (expected, place) = (Cell::new(first), Cell::new(0));
        Ok(Self { codec, slots, expected, place, waiting: Cell::new(0) })
    }

    /// A fragment with `immediate` has come, with so many bytes (below 2^31 - 1).
    ///
    /// # Errors
    /// It was not taken in.
    #[inline]
    pub fn accept(&self, immediate: u32, bytes: u32) -> Result<(), SequenceFault> {
        let (number, is_last) = self.codec.decode(immediate)?;
        let ahead = self.codec.distance(self.expected.get(), number);
        let Some(slot) = self.at(ahead) else {
            let behind = self.codec.distance(number, self.expected.get());
            let is_old = wide(behind) <= self.slots.len();
            return Err(if is_old { SequenceFault::Duplicate } else { SequenceFault::Beyond });
        };
        if slot.get() != 0 {
            return Err(SequenceFault::Duplicate);
        }
        let bytes = bytes.min(FRAGMENT_MAX).wrapping_add(1);
        slot.set(bytes | if is_last { LAST } else { 0 });
        self.waiting.set(self.waiting.get().wrapping_add(1));
        Ok(())
    }

    /// The fragment that is next, if it has come.
    #[inline]
    #[must_use]
    pub fn front(&self) -> Option<InOrder> {
        let held = self.at(0)?.get();
        let bytes = (held & !LAST).checked_sub(1)?;
        Some(InOrder { bytes, is_last: held & LAST != 0 })
    }

    /// Goes on behind the fragment that is next, if it has come.
    #[inline]
    pub fn advance(&self) {
        if let Some(slot) = self.at(0).filter(|slot| slot.get() != 0) {
            slot.set(0);
            self.expected.set(self.codec.next(self.expected.get()));
            self.place.set(self.place.get().wrapping_add(1));
            self.waiting.set(self.waiting.get().wrapping_sub(1));
        }
    }

    /// How many fragments have come and are not behind the front.
    #[inline]
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.waiting.get()
    }

    /// The number that is expected next.
    #[inline]
    #[must_use]
    pub const fn expected(&self) -> u32 {
        self.expected.get()
    }

    fn at(&self, ahead: u32) -> Option<&Cell<u32>> {
        if wide(ahead) >= self.slots.len() {
            return None;
        }
        let place = wide(self.place.get().wrapping_add(ahead));
        self.slots.get(place & self.slots.len().wrapping_sub(1))
    }
}
