//! Numbers of the kernel and of devices: opcodes and flags as constants, and as data.
//!
//! A list in the source is at once a module of constants, for the code, and a slice of [`Number`]s
//! with the names of the C header, for whoever compares or prints them.

/// One constant of an interface that is defined in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Its name in C.
    pub name: &'static str,
    /// Its value; widened without a sign.
    pub value: u64,
}

/// Widens a number of the type that the constant has; named as the types, for the macro.
pub(crate) mod widen {
    pub(crate) const fn u8(value: u8) -> u64 {
        u64::from_le_bytes([value, 0, 0, 0, 0, 0, 0, 0])
    }

    pub(crate) const fn u16(value: u16) -> u64 {
        let [low, high] = value.to_le_bytes();
        u64::from_le_bytes([low, high, 0, 0, 0, 0, 0, 0])
    }

    pub(crate) const fn u32(value: u32) -> u64 {
        crate::word::widen(value)
    }

    pub(crate) const fn u64(value: u64) -> u64 {
        value
    }
}

/// The name of a constant in C: the prefix of its list and its own name, or another one where it is
/// given.
macro_rules! name_in_c {
    ($prefix:literal $name:ident) => {
        concat!($prefix, stringify!($name))
    };
    ($prefix:literal $name:ident $whole:literal) => {
        $whole
    };
}

/// Defines modules of constants, each with `LIST`, the same constants as [`Number`]s.
macro_rules! numbers {
    ($(
        $(#[doc = $doc:literal])+
        pub mod $module:ident: $int:ident $prefix:literal {
            $( $(#[doc = $number_doc:literal])+ $name:ident = $value:expr $(, $whole:literal)?; )+
        }
    )+) => {$(
        $(#[doc = $doc])+
        pub mod $module {
            $( $(#[doc = $number_doc])+ pub const $name: $int = $value; )+

            /// All of them, with their names in C.
            pub const LIST: &[$crate::uring::Number] = &[$(
                $crate::numbers::Number {
                    name: name_in_c!($prefix $name $($whole)?),
                    value: $crate::numbers::widen::$int($name),
                },
            )+];
        }
    )+};
}
