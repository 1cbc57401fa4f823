//! The parts of a WQE, and how they are laid out.
//!
//! The parts of one WQE are nested values, `Then<Then<Nothing, Raddr>, Inline>`: their number and, where no list or inline data is among
//! them, their length are known to the compiler, which leaves nothing of the nesting but the stores.

use core::fmt::Debug;

use spinwire_layouts::endian::{Be32, Be64};
use spinwire_layouts::mlx5::{
    AtomicSeg, DataSeg, InlineSeg, KlmSeg, MaskedCs32Seg, MaskedFa32Seg, MaskedOperandSeg,
    MkeyContextSeg, RaddrSeg, UmrCtrlSeg, words,
};
use spinwire_layouts::word::{from_usize, join, low};

use super::address::Av;
use super::ring::Sink;
use crate::raw::region::LocalSge;

mod sealed {
    #[expect(unnameable_types, reason = "it is what seals the others")]
    pub trait Sealed {}
}

/// A part of a WQE, or several.
pub trait Part: sealed::Sealed + Copy + Debug {
    /// Whether the bytes of a message are in it.
    const IS_INLINE: bool = false;

    /// How long it is, in units of 16 bytes; saturates.
    fn units(&self) -> u32;

    /// Puts its words.
    fn put(&self, to: &mut impl Sink);
}

/// No part.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl sealed::Sealed for Nothing {}

impl Part for Nothing {
    #[inline(always)]
    fn units(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn put(&self, _to: &mut impl Sink) {}
}

/// A part behind others.
#[derive(Clone, Copy, Debug)]
pub struct Then<A, B>(pub(super) A, pub(super) B);

impl<A, B> sealed::Sealed for Then<A, B> {}

impl<A: Part, B: Part> Part for Then<A, B> {
    const IS_INLINE: bool = A::IS_INLINE || B::IS_INLINE;

    #[inline(always)]
    fn units(&self) -> u32 {
        self.0.units().saturating_add(self.1.units())
    }

    #[inline(always)]
    fn put(&self, to: &mut impl Sink) {
        self.0.put(to);
        self.1.put(to);
    }
}

macro_rules! whole {
    ($($name:ident $words:literal;)+) => {$(
        impl sealed::Sealed for $name {}

        impl Part for $name {
            #[inline(always)]
            fn units(&self) -> u32 {
                $words / 2
            }

            #[inline(always)]
            fn put(&self, to: &mut impl Sink) {
                for word in words::<_, $words>(self) {
                    to.put(word);
                }
            }
        }
    )+};
}

whole! {
    RaddrSeg 2;
    DataSeg 2;
    AtomicSeg 2;
    MaskedOperandSeg 2;
    MaskedCs32Seg 2;
    MaskedFa32Seg 2;
    UmrCtrlSeg 6;
    MkeyContextSeg 8;
}

impl sealed::Sealed for Av {}

impl Part for Av {
    #[inline(always)]
    fn units(&self) -> u32 {
        3
    }

    #[inline(always)]
    fn put(&self, to: &mut impl Sink) {
        for word in words::<_, 6>(self.segment()) {
            to.put(word);
        }
    }
}

/// The segment of a range.
#[inline(always)]
pub(super) const fn data(sge: LocalSge) -> DataSeg {
    DataSeg::new(sge.addr(), sge.length(), sge.lkey())
}

/// The operands, or the masks, of a masked operation on 8 bytes.
#[inline(always)]
pub(super) const fn operands(swap_add: u64, compare: u64) -> MaskedOperandSeg {
    MaskedOperandSeg { swap_add: Be64::new(swap_add), compare: Be64::new(compare) }
}

/// Ranges of a list.
#[derive(Clone, Copy, Debug)]
pub struct List<'d>(pub(super) &'d [LocalSge]);

impl sealed::Sealed for List<'_> {}

impl Part for List<'_> {
    #[inline]
    fn units(&self) -> u32 {
        crate::table::count(self.0.len())
    }

    #[inline]
    fn put(&self, to: &mut impl Sink) {
        for sge in self.0 {
            data(*sge).put(to);
        }
    }
}

/// Memory that becomes part of a key: a list of ranges, filled up with zeros to a multiple of 64 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'d>(pub(super) &'d [LocalSge]);

impl Entries<'_> {
    /// All their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().fold(0_u64, |sum, sge| sum.saturating_add(u64::from(sge.length())))
    }
}

impl sealed::Sealed for Entries<'_> {}

impl Part for Entries<'_> {
    #[inline]
    fn units(&self) -> u32 {
        crate::table::count(self.0.len()).checked_next_multiple_of(4).unwrap_or(u32::MAX)
    }

    #[inline]
    fn put(&self, to: &mut impl Sink) {
        for sge in self.0 {
            let entry = KlmSeg {
                byte_count: Be32::new(sge.length()),
                mkey: Be32::new(sge.lkey()),
                address: Be64::new(sge.addr()),
            };
            for word in words::<_, 2>(&entry) {
                to.put(word);
            }
        }
        let fill = self.units().wrapping_sub(crate::table::count(self.0.len()));
        for _unit in 0..fill {
            to.put(0);
            to.put(0);
        }
    }
}

/// The bytes themselves, behind their length. No bytes are no segment.
#[derive(Clone, Copy, Debug)]
pub struct Inline<'d>(pub(super) &'d [u8]);

/// Bytes of the length in front of inline data.
const HEAD_BYTES: u32 = 4;
/// Bytes that are too many for any WQE.
const TOO_LONG: usize = 1 << 16;

impl sealed::Sealed for Inline<'_> {}

impl Part for Inline<'_> {
    const IS_INLINE: bool = true;

    #[inline(always)]
    fn units(&self) -> u32 {
        let length = self.length();
        if length == 0 { 0 } else { length.wrapping_add(HEAD_BYTES).div_ceil(16) }
    }

    #[inline(always)]
    fn put(&self, to: &mut impl Sink) {
        let length = self.length();
        if length == 0 {
            return;
        }
        let head = u32::from_le_bytes(bytes_of(InlineSeg::new(length)));
        let (first, rest) = match self.0.split_first_chunk::<4>() {
            Some((first, rest)) => (*first, rest),
            None => (short(self.0), <&[u8]>::default()),
        };
        to.put(join(head, u32::from_le_bytes(first)));
        let (chunks, tail) = rest.as_chunks::<8>();
        for chunk in chunks {
            to.put(u64::from_le_bytes(*chunk));
        }
        if !tail.is_empty() {
            to.put(self.last_word(tail));
        }
        // The length and the bytes are an even number of words, of which the last may be nothing but zeros.
        if !length.wrapping_add(HEAD_BYTES).div_ceil(8).is_multiple_of(2) {
            to.put(0);
        }
    }
}

impl Inline<'_> {
    /// More bytes than any WQE holds are as many as no WQE holds.
    #[inline(always)]
    fn length(&self) -> u32 {
        low(from_usize(self.0.len().min(TOO_LONG)))
    }

    /// The last bytes, fewer than eight, and zeros behind them.
    #[inline(always)]
    const fn last_word(&self, tail: &[u8]) -> u64 {
        let Some(last) = self.0.last_chunk::<8>() else {
            return last(tail);
        };
        // Those before them go out below.
        let before = 8_u32.wrapping_sub(crate::table::count(tail.len())).wrapping_mul(8);
        u64::from_le_bytes(*last).wrapping_shr(before)
    }
}

#[inline(always)]
const fn bytes_of(head: InlineSeg) -> [u8; 4] {
    let [word] = [head.byte_count.get()];
    word.to_be_bytes()
}

/// Fewer than four bytes, and zeros behind them.
#[inline(always)]
const fn short(bytes: &[u8]) -> [u8; 4] {
    match *bytes {
        [a, b, c, ..] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        [] => [0; 4],
    }
}

/// Fewer than eight bytes, and zeros behind them.
#[inline(always)]
const fn last(bytes: &[u8]) -> u64 {
    match bytes.split_first_chunk::<4>() {
        Some((low, high)) => join(u32::from_le_bytes(*low), u32::from_le_bytes(short(high))),
        None => join(u32::from_le_bytes(short(bytes)), 0),
    }
}
