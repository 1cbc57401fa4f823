//! What may be read from raw bytes and written as raw bytes, and the macro that defines such
//! structures.
//!
//! This is the only file of the crate with unsafe code. Everything rests on two facts about a
//! [`Pod`] type:
//!
//! 1. **any bytes are a valid value**: no `bool`, no enum, no reference, no niche;
//! 2. **no padding**: every byte of a value is initialised, so that it may be shown to others.
//!
//! [`layout!`](crate::layout) proves both while compiling: every field must be [`Field`], which
//! implies [`Pod`], and the fields must follow each other without a gap up to the stated size.
#![expect(unsafe_code, reason = "the one file that turns bytes into values and back")]

use crate::describe::Endian;
use crate::endian::{Be16, Be32, Be64, Le16, Le32, Le64};
use core::mem::MaybeUninit;
use static_assertions::assert_not_impl_any;

/// Types that are nothing but their bytes: any bytes are a valid value, and a value has no byte of
/// padding.
///
/// # Safety
/// An implementor promises that (1) every pattern of `size_of::<Self>()` bytes is a valid value of
/// the type, (2) every byte of every value is initialised, (3) the type has no interior mutability.
pub unsafe trait Pod: Copy + 'static {
    /// The value whose bytes are all zero.
    const ZERO: Self = {
        // SAFETY: by (1) of the contract of `Pod` all-zero bytes are a valid value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    };

    /// A copy of the value that `bytes` hold, which need not be aligned; `None` where the length is
    /// not the size of the type.
    #[inline]
    #[must_use]
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the slice is `size_of::<Self>()` readable bytes (checked above); an unaligned
        // read asks for no alignment; by (1) of the contract of `Pod` whatever the bytes are, they
        // are a valid value, and `Self: Copy` makes it ours.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The bytes of the value, in the order in which they lie in memory.
    #[inline]
    #[must_use]
    fn as_bytes(&self) -> &[u8] {
        let start = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: `start` points at `size_of::<Self>()` bytes borrowed for the life of the result;
        // by (2) of the contract of `Pod` all of them are initialised, and by (3) nobody changes
        // them during the borrow.
        unsafe { core::slice::from_raw_parts(start, size_of::<Self>()) }
    }
}

// Not every pattern of bytes is a `bool` or a `char`; a pointer means nothing elsewhere, a `usize`
// not the same everywhere; floats stay out of layouts by rule. An implementation by mistake would
// not compile.
assert_not_impl_any!(bool: Pod);
assert_not_impl_any!(char: Pod);
assert_not_impl_any!(usize: Pod);
assert_not_impl_any!(isize: Pod);
assert_not_impl_any!(f64: Pod);
assert_not_impl_any!(&'static u8: Pod);
assert_not_impl_any!(*const u8: Pod);
assert_not_impl_any!(Option<u8>: Pod);

/// Types that may be a field of a structure that [`layout!`](crate::layout) defines, with what the
/// description says of them.
pub trait Field: Pod {
    /// Name of the element: `u64` for a `u64` and for a `[u64; 8]`.
    const ELEMENT: &'static str;
    /// Number of elements: 1, or the length of the array.
    const COUNT: usize;
    /// Whether the type is written as an array.
    const IS_ARRAY: bool;
    /// In which order the bytes of an element lie.
    const ENDIAN: Endian;
    /// Hash of the element where it is itself a structure, else 0.
    const HASH: u64;
}

macro_rules! plain {
    ($($ty:ident $endian:ident;)*) => {$(
        // SAFETY: an integer, or an integer in a transparent structure: any bytes are valid, no
        // padding, no interior mutability.
        unsafe impl Pod for $ty {}

        impl Field for $ty {
            const ELEMENT: &'static str = stringify!($ty);
            const COUNT: usize = 1;
            const IS_ARRAY: bool = false;
            const ENDIAN: Endian = Endian::$endian;
            const HASH: u64 = 0;
        }
    )*};
}

plain! {
    u8 Bytes; i8 Bytes;
    u16 Native; u32 Native; u64 Native;
    i16 Native; i32 Native; i64 Native;
    Be16 Big; Be32 Big; Be64 Big;
    Le16 Little; Le32 Little; Le64 Little;
}

/// Types whose values may be seen in place in a buffer: all [`Pod`] types, and floats, which stay out of layouts.
///
/// # Safety
/// An implementor promises that (1) every pattern of `size_of::<Self>()` bytes is a valid value of the type, (2) every byte
/// of every value is initialised, (3) the type has no interior mutability.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: the promises of `Pod` are the same.
unsafe impl<T: Pod> Plain for T {}

macro_rules! plain_only {
    ($($ty:ident),*) => {$(
        // SAFETY: every pattern of bits is a number or a NaN, there is no padding and no interior mutability.
        unsafe impl Plain for $ty {}
    )*};
}

plain_only!(f32, f64, F16Bits, Bf16Bits);

/// The bits of an IEEE 754 binary16, which Rust has no stable type for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct F16Bits(pub u16);

/// The bits of a bfloat16: the upper half of a binary32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Bf16Bits(pub u16);

// SAFETY: an array is its elements one after the other, without padding between them, so it keeps
// all three promises of `T`.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

impl<T: Field, const N: usize> Field for [T; N] {
    const ELEMENT: &'static str = T::ELEMENT;
    const COUNT: usize = match T::COUNT.checked_mul(N) {
        Some(count) => count,
        None => usize::MAX,
    };
    const IS_ARRAY: bool = true;
    const ENDIAN: Endian = T::ENDIAN;
    const HASH: u64 = T::HASH;
}

/// Defines a structure that others see, once: its fields, where they lie, and what they mean.
///
/// ```
/// spinwire_layouts::layout! {
///     /// A point that two processes share.
///     pub struct Point, size 16, align 8 {
///         /// Metres east.
///         pub east: u64 @ 0,
///         /// Metres north, and what it is made of.
///         pub north: u32 @ 8,
///         /// Zero.
///         pub reserved: [u8; 4] @ 12,
///     }
/// }
/// assert_eq!(Point::LAYOUT.fields.len(), 3);
/// assert_eq!(Point::ZERO.north, 0);
/// ```
///
/// The structure is `repr(C, align(..))` and gets `Clone, Copy, Debug, PartialEq, Eq`, [`Pod`],
/// [`Field`], the all-zero value `ZERO` and its description `LAYOUT`. These are checked while
/// compiling: the size, the alignment, the offset of every field, that no byte is padding, and that
/// every field may hold any bytes.
///
/// A wrong offset does not compile:
///
/// ```compile_fail
/// spinwire_layouts::layout! {
///     /// The second field really lies at 8.
///     pub struct Wrong, size 16, align 8 {
///         /// First.
///         pub first: u64 @ 0,
///         /// Second.
///         pub second: u64 @ 4,
///     }
/// }
/// ```
///
/// Nor does padding, even if it is counted in the size:
///
/// ```compile_fail
/// spinwire_layouts::layout! {
///     /// Four bytes at the end belong to nobody.
///     pub struct Padded, size 16, align 8 {
///         /// First.
///         pub first: u64 @ 0,
///         /// Second.
///         pub second: u32 @ 8,
///     }
/// }
/// ```
///
/// Who alone writes a field while others read may be said; two such writers in one cache line do not
/// compile, since each write of the one takes the line from the other:
///
/// ```compile_fail
/// spinwire_layouts::layout! {
///     /// Both ends of a queue in one line.
///     pub struct Ends, size 16, align 8 {
///         /// Written by who puts in.
///         pub tail: u64 @ 0 by producer,
///         /// Written by who takes out.
///         pub head: u64 @ 8 by consumer,
///     }
/// }
/// ```
///
/// Nor does a field for which some bytes are no value:
///
/// ```compile_fail
/// spinwire_layouts::layout! {
///     /// A peer could write a 2.
///     pub struct Flag, size 1, align 1 {
///         /// Only 0 and 1 are valid.
///         pub flag: bool @ 0,
///     }
/// }
/// ```
#[macro_export]
macro_rules! layout {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident, size $size:literal, align $align:literal {
            $(
                $(#[doc = $field_doc:literal])+
                pub $field:ident: $ty:tt @ $offset:literal $(by $writer:ident)?
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C, align($align))]
        pub struct $name {
            $(
                $(#[doc = $field_doc])+
                pub $field: $ty,
            )+
        }

        impl $name {
            /// The value whose bytes are all zero.
            pub const ZERO: Self = <Self as $crate::pod::Pod>::ZERO;

            /// The layout as data: names, offsets, sizes, and a hash of them.
            pub const LAYOUT: $crate::describe::StructLayout = {
                const FIELDS: &[$crate::describe::FieldLayout] = &[$(
                    $crate::describe::FieldLayout::new::<$ty>(
                        ::core::stringify!($field),
                        ::core::mem::offset_of!($name, $field),
                        ::core::concat!($($field_doc, "\n"),+).trim_ascii(),
                    )$(.written_by(::core::stringify!($writer)))?
                ),+];
                $crate::describe::StructLayout::new(
                    ::core::stringify!($name),
                    ::core::mem::size_of::<$name>(),
                    ::core::mem::align_of::<$name>(),
                    ::core::concat!($($doc, "\n"),+).trim_ascii(),
                    FIELDS,
                )
                .at(::core::file!(), ::core::line!())
            };
        }

        const _: () = {
            ::core::assert!(::core::mem::size_of::<$name>() == $size, "size differs");
            ::core::assert!(::core::mem::align_of::<$name>() == $align, "alignment differs");
            $(::core::assert!(
                ::core::mem::offset_of!($name, $field) == $offset,
                ::core::concat!("offset differs: ", ::core::stringify!($field)),
            );)+
            ::core::assert!($name::LAYOUT.is_dense(), "padding, or fields out of order");
            ::core::assert!(!$name::LAYOUT.has_rivals(), "two writers in one cache line");
        };

        #[allow(unsafe_code, reason = "the proof obligations are asserted above")]
        // SAFETY: `LAYOUT` exists only if every field is `Field`, hence `Pod`: any bytes are valid
        // and no field has interior mutability. `is_dense` was asserted above: the fields fill the
        // structure without padding.
        unsafe impl $crate::pod::Pod for $name {}

        impl $crate::pod::Field for $name {
            const ELEMENT: &'static str = ::core::stringify!($name);
            const COUNT: usize = 1;
            const IS_ARRAY: bool = false;
            const ENDIAN: $crate::describe::Endian = $crate::describe::Endian::Nested;
            const HASH: u64 = $name::LAYOUT.hash;
        }
    };
}

#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "the macro emits more than the tests use")]
mod tests {
    use super::*;

    layout! {
        /// Two numbers.
        pub struct Inner, size 8, align 4 {
            /// First.
            pub first: u32 @ 0,
            /// Second.
            pub second: Be32 @ 4,
        }
    }

    layout! {
        /// A structure with every kind of field.
        ///
        /// And a second paragraph.
        pub struct Outer, size 128, align 64 {
            /// A word.
            pub word: u64 @ 0,
            /// Structures.
            pub inner: [Inner; 3] @ 8,
            /// Rows
            /// of words.
            pub rows: [[u64; 2]; 3] @ 32,
            /// More than 32 bytes.
            pub bytes: [u8; 48] @ 80,
        }
    }

    #[test]
    fn bytes_become_values_and_values_bytes() {
        let value = Inner { first: 0x0403_0201, second: Be32::new(0x0506_0708) };
        assert_eq!(value.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Inner::from_bytes(value.as_bytes()), Some(value));
    }

    #[test]
    fn a_wrong_length_is_refused() {
        assert_eq!(u32::from_bytes(&[]), None);
        assert_eq!(u32::from_bytes(&[1, 2, 3]), None);
        assert_eq!(u32::from_bytes(&[1, 2, 3, 4, 5]), None);
        assert_eq!(u32::from_bytes(&[1, 2, 3, 4]), Some(0x0403_0201));
    }

    #[test]
    fn alignment_of_the_bytes_does_not_matter() {
        let bytes = [0xff; 140];
        for start in 0..8 {
            let copy = Outer::from_bytes(&bytes[start..start + 128]).unwrap();
            assert_eq!(copy.word, u64::MAX);
            assert_eq!(copy.as_bytes(), &bytes[..128]);
        }
    }

    #[test]
    fn zero_is_all_zero() {
        assert_eq!(Outer::ZERO.as_bytes(), [0; 128]);
        assert_eq!(<[u64; 4]>::ZERO, [0; 4]);
    }

    #[test]
    fn the_description_says_what_was_written() {
        let layout = &Outer::LAYOUT;
        assert_eq!((layout.name, layout.size, layout.align), ("Outer", 128, 64));
        assert_eq!(layout.doc, "A structure with every kind of field.\n\n And a second paragraph.");
        let seen: std::vec::Vec<_> = layout
            .fields
            .iter()
            .map(|f| (f.name, std::format!("{}", f.type_name()), f.offset, f.size, f.endian))
            .collect();
        assert_eq!(
            seen,
            [
                ("word", "u64".into(), 0, 8, Endian::Native),
                ("inner", "[Inner; 3]".into(), 8, 24, Endian::Nested),
                ("rows", "[u64; 6]".into(), 32, 48, Endian::Native),
                ("bytes", "[u8; 48]".into(), 80, 48, Endian::Bytes),
            ]
        );
        assert_eq!(layout.field("rows").unwrap().doc, "Rows\n of words.");
        assert!(layout.field("none").is_none());
    }
}
