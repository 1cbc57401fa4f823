//! Numbers of a fixed byte order, for memory that a device or another host reads.
//!
//! `Be32` is a `u32` whose bytes lie big end first, whatever the machine. The type has the size and
//! the alignment of the plain number, any bytes are a valid value, and the only ways in and out are
//! `new` and `get`, so that a swap cannot be forgotten or done twice.

macro_rules! ordered {
    ($($name:ident $int:ident $to:ident $from:ident $order:literal;)*) => {$(
        #[doc = concat!("A `", stringify!($int), "` stored ", $order, ".")]
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name($int);

        impl $name {
            #[doc = concat!("Stores `value` ", $order, ".")]
            #[inline]
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value.$to())
            }

            /// The value, in the byte order of this machine.
            #[inline]
            #[must_use]
            pub const fn get(self) -> $int {
                $int::$from(self.0)
            }
        }

        impl From<$int> for $name {
            #[inline]
            fn from(value: $int) -> Self {
                Self::new(value)
            }
        }

        impl From<$name> for $int {
            #[inline]
            fn from(value: $name) -> Self {
                value.get()
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Debug::fmt(&self.get(), f)
            }
        }

        const _: () = assert!(size_of::<$name>() == size_of::<$int>());
        const _: () = assert!(align_of::<$name>() == align_of::<$int>());
    )*};
}

ordered! {
    Be16 u16 to_be from_be "big end first";
    Be32 u32 to_be from_be "big end first";
    Be64 u64 to_be from_be "big end first";
    Le16 u16 to_le from_le "little end first";
    Le32 u32 to_le from_le "little end first";
    Le64 u64 to_le from_le "little end first";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    #[test]
    fn bytes_lie_in_the_named_order() {
        assert_eq!(Be16::new(0x0102).as_bytes(), [1, 2]);
        assert_eq!(Be32::new(0x0102_0304).as_bytes(), [1, 2, 3, 4]);
        assert_eq!(Be64::new(0x0102_0304_0506_0708).as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Le16::new(0x0102).as_bytes(), [2, 1]);
        assert_eq!(Le32::new(0x0102_0304).as_bytes(), [4, 3, 2, 1]);
        assert_eq!(Le64::new(0x0102_0304_0506_0708).as_bytes(), [8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn values_come_back() {
        for value in [0, 1, 0x8000_0000_0000_0001, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(Be64::new(value).get(), value);
            assert_eq!(u64::from(Le64::from(value)), value);
        }
        assert_eq!(std::format!("{:?}", Be16::new(258)), "258");
    }
}
